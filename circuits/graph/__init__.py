"""Circuits as values: edges between parts of both stacks, scored, patched, found and tested."""
