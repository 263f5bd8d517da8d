"""What is changed in a run, and undone."""
