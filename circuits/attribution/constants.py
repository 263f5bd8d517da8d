"""What the residual stream holds that no part wrote: the bias beside each attention layer's W_O, which its heads share.

It is the same on every input, and so on no edge. Whatever else a reader's edges carry, it stays.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (the stream as a sum of what was added).
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from interp import Model
from interp.models.weights.head_weights import projection_bias
from interp.names import AttentionLayer, Site

PASSED: dict[str, tuple[str, ...]] = {
    "resid_pre": (),
    "resid_mid": ("self",),
    "resid_mid_cross": ("self", "cross"),
    "resid_post": ("self", "cross"),
}
"""Which attention of its own layer a point of the stream has behind it."""


def constants(model: Model, streams: Iterable[Site]) -> dict[Site, Float[Tensor, " d_model"]]:
    """Sum what biases of attention have put into the residual stream up to some points of it.

    Args:
        streams: sites of the residual stream, such as `decoder.1.resid_mid`.

    Returns:
        By site, the sum of b_O of all attention layers before it, in the model's dtype; none where that is zero.

    Raises:
        UnsupportedModel, InvalidInput: weights that cannot be read.
    """
    added = {at: projection_bias(model, at, "O", fold_norm=False) for at in model.layers()}
    sums: dict[Site, Tensor] = {}
    for site in streams:
        before = [bias for at, bias in added.items() if _precedes(at, site)]
        total = torch.stack(before).sum(0) if before else None
        if total is not None and bool(total.any()):
            sums[site] = total
    return sums


def _precedes(at: AttentionLayer, site: Site) -> bool:
    assert site.layer is not None
    own = at.layer == site.layer and at.kind in PASSED[site.name]
    return at.stack == site.stack and (at.layer < site.layer or own)
