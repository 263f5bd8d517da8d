"""Is a circuit the one? Faithfulness, completeness and minimality, against random circuits of its size.

With m the mean of a metric, M the model, C the circuit, and everything outside a circuit carrying the corrupt run (or
its mean, or nothing), F(C) = (m(C) - m(none)) / (m(M) - m(none)): 1 for the model, 0 for the empty circuit. Where the
difference of the two cannot be told from 0, F means nothing; its intervals over rows, Fieller's, do not exist there.

* Faithfulness is F(C).
* Completeness is 1 - F(M - C), what the model loses without the circuit; and, on random parts K of the circuit, how far
  F(C - K) is from F(M - K): a complete circuit breaks as the model breaks.
* Minimality is F(C) - F(C - e) for each edge e: what it alone adds.

Source: Wang et al. 2023, "Interpretability in the Wild" (the three criteria); Hanna et al. 2024 (the normalisation).
"""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd

from circuits.ablation.head_effects import MEMORY
from circuits.edges import Edge, Node
from circuits.graph.circuit import Circuit, check_circuit
from circuits.graph.edge_matrix import Graph, Mask
from circuits.graph.node_outputs import Outside
from circuits.graph.path_patching import off_outside
from circuits.graph.random_circuits import random_connected, random_edges
from circuits.graph.subject import Subject
from circuits.measurement import warn_of_gap
from circuits.metrics import Metric
from interp import Batch, Head, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import LEAST_ROWS, band, band_words, interval, ratio_interval
from interp.validate import whole

GAP = "model minus nothing"
"""In the summary: what F is in parts of, in the metric's unit."""


CONTROLS = ("same wiring, other heads", "random edges", "random edges on paths")
"""The kinds of random circuits."""


@dataclass(frozen=True, eq=False, repr=False)
class CircuitReport(Result):
    """A metric on the model, on nothing, and on a circuit whole and in parts, `[row]` or `[variant, row]`.

    `without` is the circuit without each of its `edges`; `complement` the model without the circuit; `parts_circuit`
    and `parts_model` are both without the same random halves of the circuit; `same_shape` is the circuit with its heads
    exchanged for others of their layers, `random` as many edges of the model at random, and `connected` as many that
    all lie on a path from the input to the logits. Draws that are the circuit again are left out.
    """

    KIND = "circuit-report"

    edges: tuple[str, ...]
    model: Floats
    empty: Floats
    circuit: Floats
    complement: Floats
    without: Floats
    parts_circuit: Floats
    parts_model: Floats
    same_shape: Floats
    random: Floats
    provenance: dict[str, Any]
    connected: Floats = field(default_factory=lambda: np.empty((0, 1)))

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        # Files of before there were connected controls hold none.
        return super()._of_contents({"connected": np.empty((0, 1)), **values})

    def __repr__(self) -> str:
        low, high = self.interval(self.circuit)
        means = [f"{_mean(self.normalised(each)):.2f}" for each in (self.same_shape, self.random, self.connected)]
        note = "" if self.decided else "; model minus nothing is not told from 0"
        return (
            f"CircuitReport({len(self.edges)} edges: faithfulness {self.faithfulness:.2f} ({low:.2f} to {high:.2f}), "
            f"controls {', '.join(means[:2])} and {means[2]}, completeness {self.completeness:.2f}{note})"
        )

    @property
    def gap(self) -> tuple[float, float, float]:
        """m(M) - m(none), mean over rows in the metric's unit, with Student's 95 % interval; NaN under three rows."""
        low, high = interval(self.model - self.empty)
        return float((self.model - self.empty).mean()), float(low), float(high)

    @property
    def decided(self) -> bool:
        """Whether the interval of the gap leaves out 0: otherwise F and all that is made of it mean nothing."""
        _, low, high = self.gap
        return low > 0 or high < 0

    def normalised(self, values: Floats) -> Floats:
        """Return F of values `[..., row]`: 1 for the model, 0 for the empty circuit."""
        return normalised(values, self.empty, self.model)

    def interval(self, values: Floats) -> tuple[float, float]:
        """Return Fieller's 95 % interval of F over rows of values `[row]`; NaN under three rows or if not `decided`."""
        return normalised_interval(values, self.empty, self.model)

    @property
    def faithfulness(self) -> float:
        """F(C)."""
        return float(self.normalised(self.circuit))

    @property
    def completeness(self) -> float:
        """1 - F(M - C)."""
        return 1.0 - float(self.normalised(self.complement))

    @property
    def incompleteness(self) -> float:
        """The mean of |F(C - K) - F(M - K)| over random halves K of the circuit; NaN without any."""
        return _mean(np.abs(self.normalised(self.parts_circuit) - self.normalised(self.parts_model)))

    @property
    def minimality(self) -> Floats:
        """F(C) - F(C - e), by edge."""
        return self.faithfulness - self.normalised(self.without)

    def weights(self) -> dict[Edge, float]:
        """Return what each edge adds to the circuit, F(C) - F(C - e), by edge: the widths of its figure."""
        return {Edge.parse(text): float(value) for text, value in zip(self.edges, self.minimality, strict=True)}

    def to_frame(self) -> pd.DataFrame:
        """Return one row per edge, its addition with 95 % interval: `edge, writer, reader, kind, adds, low, high`."""
        edges = [Edge.parse(text) for text in self.edges]
        bounds = [self.interval(self.circuit - rows + self.empty) for rows in self.without]
        frame = Frame(
            {
                "edge": list(self.edges),
                "writer": [str(edge.writer) for edge in edges],
                "reader": [str(edge.reader) for edge in edges],
                "kind": [edge.kind for edge in edges],
                "adds": self.minimality,
                "low": [low for low, _ in bounds],
                "high": [high for _, high in bounds],
            }
        )
        return frame.sort_values("adds", ascending=False, ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """Return one row per number: `what, value, low, high, bounds`, where bounds says what low and high are.

        The last row, `model minus nothing`, is in the metric's unit, all others in parts of it. Where its interval
        holds 0, no F has one.
        """
        n = len(self.model)
        over_rows = f"95 % over {n} rows" if n >= LEAST_ROWS else f"none: {n} rows"
        of_parts = over_rows if self.decided or n < LEAST_ROWS else f"none: {GAP} is not told from 0"
        rows: list[tuple[str, float, float, float, str]] = []
        for name, values in (("model", self.model), ("circuit", self.circuit), ("model without it", self.complement)):
            rows.append((name, float(self.normalised(values)), *self.interval(values), of_parts))
        for name, values in self.controls().items():
            shares = self.normalised(values)
            low, high = band(shares)
            rows.append((name, _mean(shares), float(low), float(high), band_words([len(shares)], "circuits")))
        rows.append(("|F(C-K) - F(M-K)|", self.incompleteness, np.nan, np.nan, ""))
        least = self.minimality.min() if len(self.edges) else np.nan
        rows.append(("least that an edge adds", float(least), np.nan, np.nan, ""))
        rows.append((GAP, *self.gap, over_rows))
        return Frame(rows, columns=["what", "value", "low", "high", "bounds"])

    def controls(self) -> dict[str, Floats]:
        """Return the metric on the random circuits, `[draw, row]`, by kind."""
        return dict(zip(CONTROLS, (self.same_shape, self.random, self.connected), strict=True))


@checked
def evaluate(
    model: Model,
    circuit: Circuit,
    clean: Batch,
    corrupt: Batch,
    metric: Metric,
    *,
    outside: Outside = "resample",
    controls: int = 20,
    parts: int = 10,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = True,
) -> CircuitReport:
    """Hold a circuit against the model, against what is left without it, and against random circuits of its size.

    Args:
        circuit: best one that was found on other inputs.
        corrupt: what edges outside the circuit carry.
        metric: from logits `[row, pos, token]` to `[row]`.
        outside: `resample` (the corrupt run, row by row), `mean` (its mean over rows, by position) or `zero`, which
            takes the embedded positions of a GPT-2 too: a circuit that only finds its way by them is not faithful then.
        controls: random circuits of each kind: the same wiring with other heads of the same layers, as many edges
            drawn from all, and as many that are connected, each on a path from the input to the logits.
        parts: random halves of the circuit that are taken from it and from the model.
        seed: of controls and parts.

    Returns:
        The metric of all these, row by row, and the three criteria.

    Warns:
        UnclearGap: the metric on the model minus that on nothing has an interval that holds 0.

    Raises:
        InvalidInput: a circuit of another model, another `outside`; and as `patch_edges`.
        UnknownHead, UnknownSite: an edge of a part that this model does not have.

    Source: Wang et al. 2023; Hanna et al. 2024.
    """
    for name, value in (("controls", controls), ("parts", parts), ("seed", seed)):
        whole(name, value, 0)
    chosen = check_circuit(model, circuit)
    subject = Subject.of(model, clean, corrupt, metric, outside)
    graph, rng = subject.graph, np.random.default_rng(seed)
    mask = graph.mask(chosen.edges)
    cells = np.argwhere(mask)
    without = np.repeat(mask[None], len(cells), 0)
    without[np.arange(len(cells)), *cells.T] = False
    halves = [_half(mask, rng) for _ in range(parts if len(cells) > 1 else 0)]
    masks = {
        "model": [graph.exists],
        "empty": [np.zeros_like(mask)],
        "circuit": [mask],
        "complement": [graph.exists & ~mask],
        "without": list(without),
        "parts_circuit": [mask & ~half for half in halves],
        "parts_model": [graph.exists & ~half for half in halves],
        # The circuit itself, where all heads of its layers are in it, is no control.
        "same_shape": [one for one in (_exchanged(graph, mask, rng) for _ in range(controls)) if (one != mask).any()],
        "random": [random_edges(graph, int(mask.sum()), rng) for _ in range(controls)],
        "connected": [
            one
            for one in (random_connected(graph, int(mask.sum()), rng) for _ in range(controls))
            if (one != mask).any()
        ],
    }
    every = [one for several in masks.values() for one in several]
    values = subject.measure(off_outside(graph, every), memory=memory, progress=progress, what="evaluate a circuit")
    ends = np.cumsum([len(several) for several in masks.values()])
    by_name = dict(zip(masks, np.split(values, ends[:-1]), strict=True))
    for name in ("model", "empty", "circuit", "complement"):
        by_name[name] = by_name[name][0]
    if abs(by_name["model"].mean() - by_name["empty"].mean()) < 1e-6 * max(
        float(np.abs(by_name["model"]).mean()), 1e-6
    ):
        raise InvalidInput(
            f"the metric is the same on the model and with everything outside: outside={outside!r} explains nothing."
        )
    warn_of_gap(by_name["model"] - by_name["empty"], "the model with all edges and with none")
    return CircuitReport(
        edges=tuple(str(graph.edge(int(row), int(column))) for row, column in cells),
        **by_name,
        provenance=subject.source("evaluate", controls=controls, parts=parts, seed=seed),
    )


def normalised(values: Floats, empty: Floats, model: Floats) -> Floats:
    """Return F of values `[..., row]`: 1 for the model's, 0 for those of the empty circuit."""
    return (values.mean(-1) - empty.mean()) / (model.mean() - empty.mean())


def normalised_interval(values: Floats, empty: Floats, model: Floats) -> tuple[float, float]:
    """Return Fieller's 95 % interval of F over rows of values `[row]`; NaN if model and empty circuit may agree."""
    low, high = ratio_interval(values - empty, model - empty)
    return float(low), float(high)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _half(mask: Mask, rng: np.random.Generator) -> Mask:
    cells = np.argwhere(mask)
    chosen = np.zeros_like(mask)
    chosen[tuple(rng.permutation(cells)[: len(cells) // 2].T)] = True
    return chosen


def _exchanged(graph: Graph, mask: Mask, rng: np.random.Generator) -> Mask:
    """Return the same wiring with the heads of each attention layer permuted, and the layer of the last head kept."""
    used = {node for row, column in np.argwhere(mask) for node in (graph.readers[row][0], graph.writers[column])}
    other: dict[Node, Node] = {}
    layers: dict[tuple[str, str, int], list[Head]] = {}
    for node in graph.writers:
        if isinstance(node, Head):
            layers.setdefault((node.stack, node.kind, node.layer), []).append(node)
    for heads in layers.values():
        ours = [head for head in heads if head in used]
        free = [head for head in heads if head not in used]
        # Heads that are not in the circuit come first; where they do not suffice, its own change places.
        order = [free[i] for i in rng.permutation(len(free))] + [ours[i] for i in rng.permutation(len(ours))]
        other |= dict(zip([*ours, *free], order, strict=True))
    edges = (graph.edge(int(row), int(column)) for row, column in np.argwhere(mask))
    return graph.mask(Edge(other.get(e.writer, e.writer), other.get(e.reader, e.reader), e.kind) for e in edges)
