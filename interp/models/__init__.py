"""What a model is: opened, named, read and checked."""
