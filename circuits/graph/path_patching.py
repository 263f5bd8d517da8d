"""Edges patched one by one: what a metric does when one edge alone carries the corrupt run.

Source: Goldowsky-Dill et al. 2023, "Localizing Model Behavior with Path Patching"; Wang et al. 2023.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from circuits.ablation.head_effects import MEMORY
from circuits.edges import Edge, as_edge
from circuits.graph.circuit import Circuit, check_circuit
from circuits.graph.edge_matrix import Graph, Mask
from circuits.graph.node_outputs import Outside
from circuits.graph.subject import Subject
from circuits.measurement import warn_of_gap
from circuits.metrics import Metric
from interp import Batch, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import Test, interval, p_values, q_values


@dataclass(frozen=True, eq=False, repr=False)
class EdgeEffects(Result):
    """A metric with each edge alone patched `[edge, row]`, and its values on clean and corrupt `[row]`."""

    KIND = "edge-effects"

    edges: tuple[str, ...]
    values: Floats
    clean: Floats
    corrupt: Floats
    provenance: dict[str, Any]

    @property
    def effects(self) -> Floats:
        """Patched minus clean, `[edge, row]`, in the metric's unit."""
        return self.values - self.clean

    def by_edge(self) -> dict[Edge, float]:
        """Return the mean effect of each edge."""
        return {Edge.parse(text): float(value) for text, value in zip(self.edges, self.effects.mean(1), strict=True)}

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """Return one row per edge: `edge, writer, reader, kind, effect, low, high, share, p, q`, strongest first.

        `low` and `high` are Student's 95 % interval over rows, `share` the effect in parts of what the whole
        corruption does, `q` the p-value of no effect adjusted over the table (Benjamini-Hochberg).

        Args:
            test: of no effect: `t`, or `sign flips`.

        Raises:
            InvalidInput: another test.
        """
        effects = self.effects
        low, high = interval(effects)
        p = p_values(effects, test)
        edges = [Edge.parse(text) for text in self.edges]
        frame = Frame(
            {
                "edge": list(self.edges),
                "writer": [str(edge.writer) for edge in edges],
                "reader": [str(edge.reader) for edge in edges],
                "kind": [edge.kind for edge in edges],
                "effect": effects.mean(1),
                "low": low,
                "high": high,
                "share": effects.mean(1) / (self.corrupt.mean() - self.clean.mean()),
                "p": p,
                "q": q_values(p),
            }
        )
        return frame.sort_values("effect", key=lambda column: -np.abs(column), ignore_index=True)


@checked
def patch_edges(
    model: Model,
    clean: Batch,
    corrupt: Batch,
    metric: Metric,
    edges: Circuit | Edge | str | Iterable[Edge | str],
    *,
    outside: Outside = "resample",
    memory: int = MEMORY,
    progress: bool = True,
) -> EdgeEffects:
    """Patch paths: one edge at a time carries the corrupt run, and all else is what the model then computes.

    The receiver's queries, keys, values or input change by what that one sender would have written there, by no other
    path; the receiver and all that follows it recompute.

    Args:
        corrupt: where the patched edge's value comes from. Swap the two to see what restoring an edge brings.
        metric: from logits `[row, pos, token]` to `[row]`.
        edges: a circuit, or edges, by value or as text; `Circuit.full(model)` for all.
        outside: what a patched edge carries: `resample`, `mean` or `zero`, as in `evaluate`.
        memory: bytes that the variants of one run may take; at least one runs.

    Returns:
        The effects, in the order of the edges.

    Warns:
        UnclearGap: the metric on corrupt minus that on clean, which shares are parts of, may be 0.

    Raises:
        UnknownHead, UnknownSite: an edge of a part that this model does not have.
        InvalidInput: no edges, a circuit of another model, edges that cannot exist, edits in force; clean and corrupt
            of different shapes; or a metric that is not a number per row or does not move.

    Source: Goldowsky-Dill et al. 2023.
    """
    subject = Subject.of(model, clean, corrupt, metric, outside)
    items = list(edges) if isinstance(edges, Iterable) and not isinstance(edges, str) else [edges]
    chosen = [as_edge(edge) for edge in cast(list[object], items)]
    if isinstance(edges, Circuit):
        check_circuit(model, edges, "edges")
    if not chosen or len(set(chosen)) < len(chosen):
        raise InvalidInput(f"{len(chosen)} edges: give at least one, and each once.")
    cells = [subject.graph.cell(edge) for edge in chosen]
    off = np.zeros((len(cells), *subject.graph.exists.shape), dtype=bool)
    for variant, cell in enumerate(cells):
        off[variant][cell] = True
    values = subject.measure(off, memory=memory, progress=progress, what="patch edges")
    warn_of_gap(subject.corrupt_values - subject.clean_values, "the corrupt and the clean input")
    return EdgeEffects(
        tuple(map(str, chosen)), values, subject.clean_values, subject.corrupt_values, subject.source("patch_edges")
    )


def off_outside(graph: Graph, masks: Sequence[Mask]) -> Mask:
    """Return the edges that are cut outside each mask, `[variant, reader, writer]`."""
    return np.stack([graph.exists & ~mask for mask in masks])
