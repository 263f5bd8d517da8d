"""What opening a model checks by effect."""
