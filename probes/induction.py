"""The repeated-random-token probe: which cross-attention heads look back, and where to.

1. The encoder gets random tokens repeated, the decoder the start token and one token of them.
2. Each cross head's attention from that token is read, in one forward that stops before the
   unembedding.
3. Its mean over the batch, at the token's last earlier occurrence and one to the right, is the
   head's score; only the last position is unembedded, to see whether the continuation is predicted.

Source: "Hunting for Induction Heads in Amazon's Chronos", parts 1 and 2; Olsson et al. 2022.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp import Batch, InvalidInput, Model, capture
from interp.results import Floats, over_rows, provenance
from probes.mosaic import Mosaic
from probes.stimuli import RepeatedTokens, repeated_random_tokens

SITE = "decoder.cross"


def induction_mosaic(model: Model, batch: Batch | None = None, **stimulus: Any) -> Mosaic:
    """The scores of all cross-attention heads on repeated random tokens.

    Args:
        model: the model.
        batch: what `repeated_random_tokens` made; or
        stimulus: its parameters, such as `sequence_length=10, repetitions=2, seed=0`.

    Returns:
        The mosaic, with standard errors over the rows of the batch.

    Raises:
        InvalidInput: a batch that does not know its query and occurrences, or both a batch and
            parameters.

    Source: the published procedure; scores are read at the positions of the stimulus' formula.
    """
    if batch is not None and stimulus:
        raise InvalidInput(f"give a batch or its parameters ({', '.join(stimulus)}), not both.")
    tokens = repeated_random_tokens(**stimulus) if batch is None else batch
    if not isinstance(tokens, RepeatedTokens):
        raise InvalidInput(
            "this batch does not know where its tokens repeat: make it with probes.repeated_random_tokens(...)."
        )
    cache = capture(model, tokens, ["decoder.cross.*.pattern", "decoder.ln_final"])
    paid = torch.stack(
        [cache[f"{SITE}.{layer}.pattern"][:, :, tokens.query] for layer in range(model.n_layers["decoder"])]
    ).float()  # sums over occurrences are not to be rounded to bfloat16
    source = provenance(model, name="repeated_random_tokens", **tokens.parameters)

    last = tokens.occurrences[-1]
    earlier = list(reversed(tokens.occurrences))
    return Mosaic(
        current_token=over_rows("current_token", SITE, paid[..., last], source),
        token_to_right=over_rows("token_to_right", SITE, paid[..., last + 1], source),
        n_tokens=tokens.input_ids.shape[1],
        eos=over_rows("eos", SITE, paid[..., -1], source),
        occurrence_sum=over_rows("occurrence_sum", SITE, paid[..., earlier].sum(-1), source),
        current_by_occurrence=_mean(paid[..., earlier]),
        right_by_occurrence=_mean(paid[..., [position + 1 for position in earlier]]),
        bin_errors=_bin_errors(model, cache["decoder.ln_final"][:, tokens.query], tokens.continuation),
        provenance=source,
    )


def _mean(paid: Tensor) -> Floats:
    """The mean over the batch, which is axis 1 of `[layer, batch, head, ...]`."""
    return paid.cpu().double().mean(1).numpy()


@torch.no_grad()
def _bin_errors(model: Model, ln_final: Tensor, continuation: Tensor) -> Floats:
    # NumPy's argmax is several times faster than torch's over a vocabulary on a CPU.
    guess = model.unembed(ln_final).float().cpu().numpy().argmax(-1)
    return np.abs(guess - continuation.numpy()).astype(np.float64)
