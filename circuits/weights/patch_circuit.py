"""What a head does to patches: does it look for the same patch, and does it write what it looks at?

1. N random patches are embedded as the model does it: x `[patch, d_model]`, divided by its deviation as norms do.
2. QK, matching: every patch is a query and every patch is a key. A query's own patch should score highest of all keys:
   (x W_Q + b_Q) (x W_K + b_K)^T, norms folded.
3. OV, copying: what the head writes of a patch, (x W_V + b_V) W_O, should be nearest to that patch's embedding, by the
   cosine, both less their means over patches.
4. By chance a patch comes first in 1 / N. Where patches are paired with others, at random, this is so up to N: the
   band of such pairings says what chance is here.

That is exact for the scores of the encoder's first layer, beside the position bias, and the direct path elsewhere: a
decoder's queries are no patches, and what cross heads write goes to a stream in which patches are not embedded.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (QK and OV through the embedding);
Olsson et al. 2022 (copying).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits.edges import is_fixed
from circuits.weights.embedded_patches import PATCHES, embedded_patches
from circuits.weights.token_circuit import biased, normed, token_factors
from interp import Batch, Head, Model
from interp.arguments import checked
from interp.models.model import as_model
from interp.results.by_head import provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import band, rank_p

PAIRINGS = 999
"""How many random pairings of patches are the control."""


@dataclass(frozen=True, eq=False, repr=False)
class PatchCircuit(Result):
    """What a head does to patches, between all pairs of them.

    Attributes:
        head: the head.
        scores: of the QK circuit, `[query, key]`; None where the head's query takes nothing of the input.
        cosines: of what the OV circuit writes with the embeddings, `[attended, patch]`; NaN where it writes nothing.
        provenance: the model, its weights' digest, the patches, versions.
    """

    KIND = "patch-circuit"
    LARGE = True

    head: Head
    scores: Floats | None
    cosines: Floats
    provenance: dict[str, Any]

    @property
    def maps(self) -> dict[str, Floats]:
        """Both maps by what is measured on them: `matching` (QK, if there is one) and `copying` (OV)."""
        return ({} if self.scores is None else {"matching": self.scores}) | {"copying": self.cosines}

    def summary(self) -> pd.DataFrame:
        """Return one row per circuit: how often the same patch comes first, and the same by chance.

        `first` is a share of patches, `chance` 1 / N; `control_low` and `control_high` the middle 95 % of random
        pairings, `p` its rank among them. `rank` is the mean rank of the same patch, from 1 to N, where chance is
        (N + 1) / 2; `z` is how far its cell lies above the other cells of its row, in their deviations, on average.
        """
        return Frame([{"circuit": name} | _summed(cells) for name, cells in self.maps.items()])

    def to_frame(self) -> pd.DataFrame:
        """Return one row per patch: `patch`, and the rank and z of the same patch by circuit."""
        columns: dict[str, Any] = {"patch": np.arange(len(self.cosines))}
        for name, cells in self.maps.items():
            columns |= {f"{name}_rank": _ranks(cells), f"{name}_z": _z(cells)}
        return Frame(columns)

    def _title(self) -> str:
        about = f"{self.head} of {self.provenance['model']}, {len(self.cosines)} patches"
        return f"PatchCircuit({about}{'; its query takes nothing of the input' if self.scores is None else ''})"

    def _shown(self) -> pd.DataFrame:
        return self.summary()


@checked
@torch.no_grad()
def patch_circuit(model: Model, head: Head | str, *, patches: int | Batch = PATCHES, seed: int = 0) -> PatchCircuit:
    """Measure whether a head matches patches by its QK circuit, and copies them by its OV circuit.

    Args:
        head: such as `encoder.self.1.3`.
        patches: how many random ones, each of independent values; or a batch of values, all of whose patches are
            taken, such as `Batch.from_series(model, series)`. They should differ: a patch is right with no other.
        seed: of random ones.

    Returns:
        Scores and cosines between all pairs of patches, with shares, ranks, z and chance. The QK map is exact for the
        encoder's layer 0 beside the position bias, and the direct path elsewhere.

    Raises:
        UnknownHead: the model has no such head.
        MissingCapability: a model that reads tokens: see `token_circuit`.
        InvalidInput: fewer than two patches.
        UnsupportedModel: weights that cannot be read.

    Source: Elhage et al. 2021; Olsson et al. 2022.
    """
    as_model(model).require("patches")
    weights = model.weights(head)
    at, x = weights.head, embedded_patches(model, patches, seed)
    scores = None
    if not is_fixed(model, at.attention, "Q"):
        scores = token_factors(model, at, "QK", weights.QK, x, True, biases=(weights.b_Q, weights.b_K)).full()
    written = biased(normed(model, x).to(weights.W_V) @ weights.W_V, weights.b_V) @ weights.W_O
    about = patches.description if isinstance(patches, Batch) else {"patches": len(x), "seed": seed}
    source = provenance(model, **about | {"name": "patch_circuit"})
    return PatchCircuit(at, None if scores is None else _numbers(scores), _cosines(written, x), source)


def _numbers(values: Tensor) -> Floats:
    return values.double().cpu().numpy()


def _cosines(written: Tensor, embedded: Tensor) -> Floats:
    """Return the cosines of what is written with the embeddings, both centred, `[attended, patch]`."""
    sides = [side.double() - side.double().mean(0) for side in (written, embedded)]
    read, out = (side / side.norm(dim=1, keepdim=True) for side in sides)
    return _numbers(read @ out.T)


def _ranks(cells: Floats) -> Floats:
    """Return the rank of each row's own cell, 1 if it is the largest; cells that are alike share their ranks."""
    own = cells.diagonal()[:, None]
    ranks = 0.5 + (cells > own).sum(1) + (cells == own).sum(1) / 2
    return np.where(np.isnan(cells).any(1), np.nan, ranks)


def _z(cells: Floats) -> Floats:
    """Return how far each row's own cell lies above the others of its row, in their deviations."""
    others = cells[~np.eye(len(cells), dtype=bool)].reshape(len(cells), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (cells.diagonal() - others.mean(1)) / others.std(1)


def _summed(cells: Floats) -> dict[str, Any]:
    n, ranks = len(cells), _ranks(cells)
    first = float(np.where(np.isnan(ranks), np.nan, ranks == 1).mean())
    # Where several are the largest, none comes first.
    best = np.where((cells == cells.max(1, keepdims=True)).sum(1) == 1, cells.argmax(1), -1)
    rng = np.random.default_rng(0)
    pairings = np.array([(best == rng.permutation(n)).mean() for _ in range(PAIRINGS)])
    low, high = band(pairings)
    return {
        "first": first,
        "chance": 1 / n,
        "control_low": float(low),
        "control_high": float(high),
        "p": rank_p(first, pairings),
        "rank": float(ranks.mean()),
        "chance_rank": (n + 1) / 2,
        "z": float(_z(cells).mean()),
    }
