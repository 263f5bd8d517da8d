"""What a model is fed: batches, series, tokens, masks."""
