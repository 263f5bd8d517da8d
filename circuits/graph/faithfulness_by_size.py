"""How many edges it takes: faithfulness of the strongest edges by attribution, over their number.

The n strongest edges carry the clean run and all others the corrupt one, for n doubling up to the whole model; beside
them as many edges at random. Where the curve rises late, the behaviour is spread over many edges, and no small circuit
is all of it.

Source: Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery"; Hanna et al. 2024, "Have Faith
in Faithfulness" (faithfulness over the number of edges).
"""

from dataclasses import dataclass, field
from typing import Any, Self, cast

import numpy as np
import pandas as pd

from circuits.ablation.head_effects import MEMORY
from circuits.graph.circuit import check_circuit
from circuits.graph.edge_scores import EdgeScores
from circuits.graph.evaluation import normalised, normalised_interval
from circuits.graph.node_outputs import Outside
from circuits.graph.path_patching import off_outside
from circuits.graph.random_circuits import random_connected, random_edges
from circuits.graph.subject import Subject
from circuits.measurement import warn_of_gap
from circuits.metrics import Metric
from interp import Batch, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.validate import whole

SMALLEST = 10
"""Edges that the curve begins with, where the model has more."""


@dataclass(frozen=True, eq=False, repr=False)
class SizeCurve(Result):
    """A metric with only so many edges left: the strongest `[size, row]`, or as many random ones `[size, draw, row]`.

    `random` are any edges, `connected` such as all lie on a path from the input to the logits. `model` is with all
    edges, `empty` with none, both `[row]`.
    """

    KIND = "size-curve"

    sizes: tuple[int, ...]
    strongest: Floats
    random: Floats
    model: Floats
    empty: Floats
    provenance: dict[str, Any]
    connected: Floats = field(default_factory=lambda: np.empty((0, 0, 1)))

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        # Files of before there were connected controls hold none.
        return super()._of_contents({"connected": np.empty((len(values["sizes"]), 0, 1)), **values})

    @property
    def faithfulness(self) -> Floats:
        """F of the strongest edges, `[size]`: 1 for the model, 0 for the empty circuit."""
        return normalised(self.strongest, self.empty, self.model)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per size: `edges, faithfulness, low, high`; `random` and `connected` with `_low`, `_high`.

        `low` and `high` are Fieller's 95 % over rows, NaN where the model cannot be told from nothing; `random` and
        `connected` are means over draws of as many random edges, and their bounds the least and the largest draw.
        """
        bounds = np.array([normalised_interval(rows, self.empty, self.model) for rows in self.strongest])
        frame = Frame({"edges": self.sizes, "faithfulness": self.faithfulness})
        frame = frame.assign(low=bounds[:, 0], high=bounds[:, 1])
        for name, values in (("random", self.random), ("connected", self.connected)):
            ends = np.full((3, len(self.sizes)), np.nan)
            if values.shape[1]:
                drawn = normalised(values, self.empty, self.model)
                ends = np.stack([drawn.mean(1), drawn.min(1), drawn.max(1)])
            frame = frame.assign(**dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True)))
        return frame


@checked
def faithfulness_by_size(
    model: Model,
    scores: EdgeScores,
    clean: Batch,
    corrupt: Batch,
    metric: Metric,
    *,
    outside: Outside = "resample",
    draws: int = 5,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = True,
) -> SizeCurve:
    """Measure how much of the metric the strongest edges alone explain, for numbers of edges that double up to all.

    Args:
        scores: of `attribution_patching` of this model; of other inputs than these tells most.
        corrupt: what the other edges carry.
        metric: from logits `[row, pos, token]` to `[row]`.
        outside: as in `evaluate`.
        draws: random sets of edges of each size, and as many that are connected.
        seed: of them.

    Returns:
        The metric by size, row by row.

    Warns:
        UnclearGap: the metric on the model minus that on nothing has an interval that holds 0.

    Raises:
        InvalidInput: something else than scores, scores of another model; and as `patch_edges`.

    Source: Hanna et al. 2024.
    """
    whole("draws", draws, 0)
    whole("seed", seed, 0)
    if not isinstance(cast(object, scores), EdgeScores):
        raise InvalidInput(f"scores must be what attribution_patching gave; found {type(scores).__name__}.")
    check_circuit(model, scores.top(1), "scores")
    subject = Subject.of(model, clean, corrupt, metric, outside)
    graph, rng = subject.graph, np.random.default_rng(seed)
    total = int(graph.exists.sum())
    sizes = [min(SMALLEST, total)]
    while sizes[-1] < total:
        sizes.append(min(2 * sizes[-1], total))
    masks = [graph.exists, np.zeros_like(graph.exists)]
    masks += [graph.mask(scores.top(size).edges) for size in sizes]
    masks += [random_edges(graph, size, rng) for size in sizes for _ in range(draws)]
    masks += [random_connected(graph, size, rng) for size in sizes for _ in range(draws)]
    values = subject.measure(off_outside(graph, masks), memory=memory, progress=progress, what="edges by number")
    warn_of_gap(values[0] - values[1], "the model with all edges and with none")
    drawn = values[2 + len(sizes) :].reshape(2, len(sizes), draws, len(clean))
    return SizeCurve(
        sizes=tuple(sizes),
        strongest=values[2 : 2 + len(sizes)],
        random=drawn[0],
        model=values[0],
        empty=values[1],
        provenance=subject.source("faithfulness_by_size", draws=draws, seed=seed),
        connected=drawn[1],
    )
