"""Patches as the encoder first reads them: random ones, or those of a batch, through the model's own embedding.

1. Random patches of independent values stand side by side in series, which the model standardises as any others.
2. Their values, and the mask that says that none is missing, go through `input_patch_embedding`.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import Batch, Model, capture
from interp.inputs.batch import ValueBatch
from interp.models.model import as_model
from interp.validate import whole

PATCHES = 200
"""How many random patches circuits are held against by default."""

IN_A_ROW = 8
"""How many of them stand in one series, which is standardised as a whole."""


@torch.no_grad()
def embedded_patches(model: Model, patches: int | Batch = PATCHES, seed: int = 0) -> Float[Tensor, "patch d_model"]:
    """Return the encoder's first residual stream at patches.

    Args:
        patches: how many random ones, two or more; or a batch of values, all of whose patches are taken.
        seed: of the random ones.

    Raises:
        InvalidInput: fewer than two patches.
        MissingCapability: a model that reads tokens.
    """
    patching = as_model(model).patching
    if isinstance(patches, Batch):
        model.check(patches)
        assert isinstance(patches, ValueBatch)
        shown = patches.attention_mask[:, : patches.n_patches].bool()
        whole("patches", int(shown.sum()), 2)
        return _embedded(model, patches)[:, : patches.n_patches][shown]
    count, together = whole("patches", patches, 2), min(IN_A_ROW, patching.context_length // patching.size)
    rng = np.random.default_rng(whole("seed", seed, 0))
    values = rng.standard_normal((-(-count // together), together * patching.size))
    return _embedded(model, ValueBatch(values, patching))[:, :together].flatten(0, 1)[:count]


def _embedded(model: Model, batch: Batch) -> Float[Tensor, "row pos d_model"]:
    return capture(model, batch, "encoder.0.resid_pre")["encoder.0.resid_pre"]
