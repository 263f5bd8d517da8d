"""The published procedure, written out, which scores are held to and the mosaic is timed against.

Source: "The Inductive Properties of Chronos", the notebook of "Hunting for Induction Heads".
"""

from typing import Any

import numpy as np
import torch

from probes.stimuli.repeated_tokens import RepeatedTokens


def published_attentions(module: Any, batch: RepeatedTokens) -> tuple[torch.Tensor, ...]:
    """One generated token with all attentions; the cross-attentions of its step, one tensor a layer."""
    with torch.no_grad():
        out = module.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            decoder_input_ids=batch.decoder_input_ids,
            max_new_tokens=1,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
            use_cache=False,
        )
    return out.cross_attentions[0]


def published_scores(module: Any, batch: RepeatedTokens, position: int) -> np.ndarray[Any, Any]:
    """The mean over rows of the attention from decoder position 1 to a position, `[layer, head]`."""
    layers = published_attentions(module, batch)
    return np.stack([layer[:, :, 1, position].float().mean(0).numpy() for layer in layers])
