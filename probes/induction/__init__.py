"""Which heads look back: mosaics, scores of heads, losses by position, sweeps."""
