"""What a model's weights are, by head, and layers run one by one."""
