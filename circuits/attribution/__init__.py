"""What the parts of a model add to its outputs."""
