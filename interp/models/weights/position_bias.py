"""The bias that self-attention adds to its scores by distance, where an architecture has one.

Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning" (relative position buckets).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers.models.t5.modeling_t5 import T5Attention

from interp.arguments import checked
from interp.errors import InvalidInput, UnknownSite
from interp.models.handle import Handle
from interp.models.weights.parameters import looked_up
from interp.results.frame import Frame
from interp.validate import positions


@dataclass(frozen=True, eq=False, repr=False)
class PositionBias:
    """What self-attention adds to its scores by distance, the key's position minus the query's.

    `values` are `[head, distance]`, shared by all layers of the stack; distances beyond the model's largest share
    its last bucket.
    """

    site: str
    distances: NDArray[np.int64]
    values: NDArray[np.float64]

    def __repr__(self) -> str:
        low, high = int(self.distances.min()), int(self.distances.max())
        return f"PositionBias({self.site}, {len(self.values)} heads, distances {low} to {high})"

    @property
    def preferred(self) -> NDArray[np.int64]:
        """The distance of the largest bias by head; the nearest where several share it."""
        near = np.argsort(np.abs(self.distances), kind="stable")
        return self.distances[near][self.values[:, near].argmax(1)]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head and distance: `site, index, distance, bias`."""
        heads, count = self.values.shape
        return Frame(
            {
                "site": self.site,
                "index": np.repeat(np.arange(heads), count),
                "distance": np.tile(self.distances, heads),
                "bias": self.values.ravel(),
            }
        )


@checked
def position_bias(model: Handle, kind: str, distances: Sequence[int] | range | None = None) -> PositionBias:
    """Return the position bias of self-attention by head and distance.

    Args:
        kind: `encoder.self` or `decoder.self`.
        distances: the key's position minus the query's; by default as far as the model tells apart, in the
            decoder backwards only.

    Returns:
        The table.

    Raises:
        UnknownSite: a kind that has no position bias.
        InvalidInput: distances that are not whole numbers, or keys ahead of a decoder's query.
    """
    at = model.kind(kind)
    if at not in model.family.position_biases:
        known = ", ".join(".".join(pair) for pair in model.family.position_biases)
        where = f"it is in {known} only" if known else "positions are embedded there, as W_pos"
        raise UnknownSite(f"{kind} has no position bias in {model.family.name}: {where}.")
    attention = cast(T5Attention, model.module.get_submodule(model.family.position_biases[at]))
    furthest = attention.relative_attention_max_distance
    ahead = not attention.is_decoder
    wanted = positions("distances", range(-furthest, furthest + 1 if ahead else 1) if distances is None else distances)
    assert wanted is not None
    if not ahead and max(wanted) > 0:
        raise InvalidInput(f"distances to {max(wanted)}: a decoder's query sees no key ahead of it.")
    buckets = T5Attention._relative_position_bucket(
        torch.tensor(wanted), ahead, attention.relative_attention_num_buckets, furthest
    )
    path = f"{model.family.position_biases[at]}.relative_attention_bias"
    table = looked_up(model, path, attention.relative_attention_num_buckets).cpu()
    return PositionBias(kind, np.array(wanted), table[buckets].T.double().numpy())
