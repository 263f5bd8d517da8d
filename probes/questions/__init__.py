"""The questions that the sources leave open, each a function with its controls and a verdict."""
