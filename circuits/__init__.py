"""How heads do it: weights, edits and paths. Nothing is public here yet."""
