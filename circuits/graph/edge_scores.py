"""Scores of all edges of a model, and how far a sample of them was held against patching."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy import stats

from circuits.edges import LOGITS, Edge, Node, as_edge
from circuits.graph.circuit import Circuit
from circuits.graph.edge_matrix import Graph
from interp import Head, Site
from interp.errors import InvalidInput, UnknownSite
from interp.names import Stack, parse_kind
from interp.results.by_head import HeadScores
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.validate import whole


@dataclass(frozen=True, eq=False, repr=False)
class EdgeScores(Result):
    """What patching each edge would do, `[reader, writer]`, NaN where there is no edge; and what it did for a sample.

    `clean` and `corrupt` are the metric's means; an edge's score is an estimate of patched minus clean. `output` and
    `fixed` are those of the model's graph.
    """

    KIND = "edge-scores"

    layers: dict[Stack, int]
    n_heads: int
    values: Floats
    stderr: Floats | None
    sampled: tuple[str, ...]
    measured: Floats
    clean: float
    corrupt: float
    provenance: dict[str, Any]
    output: str = str(LOGITS)
    fixed: tuple[str, ...] = ()

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        # Files of before there were models of values do not name what a model puts out.
        return super()._of_contents({"output": str(LOGITS), "fixed": (), **values})

    def __repr__(self) -> str:
        agreement = ", ".join(f"{name} {value:.2f}" for name, value in self.agreement.items())
        edges = int((~np.isnan(self.values)).sum())
        return f"EdgeScores({edges} edges; against {len(self.sampled)} patched: {agreement})"

    @property
    def graph(self) -> Graph:
        """The rows and columns of `values`."""
        size = self.layers["encoder"], self.layers["decoder"], self.n_heads
        return Graph(*size, Site.parse(self.output), self.fixed)

    @property
    def estimated(self) -> Floats:
        """The estimates of the edges that were patched as well."""
        return np.array([self[text] for text in self.sampled])

    @property
    def agreement(self) -> dict[str, float]:
        """Of estimates with patches, on the sample: `pearson`, `spearman`, and the `slope` of patch on estimate."""
        one, other = self.estimated, self.measured
        spread = float(one @ one)
        varies = one.std() > 0 and other.std() > 0
        return {
            "pearson": float(np.corrcoef(one, other)[0, 1]) if varies else float("nan"),
            "spearman": float(np.corrcoef(stats.rankdata(one), stats.rankdata(other))[0, 1])
            if varies
            else float("nan"),
            "slope": float(one @ other) / spread if spread else float("nan"),
        }

    def __getitem__(self, edge: Edge | str) -> float:
        """Return the score of one edge, given by value or as text."""
        return float(self.values[self.graph.cell(as_edge(edge))])

    def by_edge(self) -> dict[Edge, float]:
        """Return the score of every edge."""
        graph = self.graph
        return {graph.edge(int(r), int(c)): float(self.values[r, c]) for r, c in np.argwhere(graph.exists)}

    def top(self, n: int) -> Circuit:
        """Return the n edges of the largest absolute scores, as a circuit.

        Raises:
            InvalidInput: more edges than there are, or none.
        """
        graph = self.graph
        if whole("n", n, 1) > graph.exists.sum():
            raise InvalidInput(f"n={n}: there are {graph.exists.sum()} edges.")
        cells = np.argwhere(graph.exists)
        order = np.argsort(-np.abs(self.values[tuple(cells.T)]), kind="stable")[:n]
        return Circuit((graph.edge(int(r), int(c)) for r, c in cells[order]), self.provenance["digest"])

    def by_writer(self) -> dict[Node, float]:
        """Estimate what patching each part's output would do: the sum over the edges that leave it."""
        return dict(zip(self.graph.writers, np.nansum(self.values, axis=0).tolist(), strict=True))

    def heads(self, kind: str) -> HeadScores:
        """Estimate what patching each head's output would do, as head scores.

        Args:
            kind: such as `decoder.cross`.

        Returns:
            Scores `[layer, head]`, in the metric's unit.

        Raises:
            UnknownSite: there is no such kind, or not in this model.
        """
        stack, what = parse_kind(kind)
        if (stack, what) not in self.graph.kinds:
            there = ", ".join(".".join(each) for each in self.graph.kinds)
            raise UnknownSite(f"{kind!r}: these are scores of a decoder alone, with {there}.")
        by_writer = self.by_writer()
        shape = (self.layers[stack], self.n_heads)
        values = [[by_writer[Head(stack, what, layer, head)] for head in range(shape[1])] for layer in range(shape[0])]
        unit = str(self.provenance["stimulus"]["metric"])
        return HeadScores("attribution", kind, np.array(values), unit=unit, provenance=self.provenance)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per edge: `edge, writer, reader, kind, score, stderr`, and `patched` for the sample."""
        patched = dict(zip(self.sampled, self.measured.tolist(), strict=True))
        cells = np.argwhere(self.graph.exists)
        cells = cells[np.argsort(-np.abs(self.values[tuple(cells.T)]), kind="stable")]
        edges = [self.graph.edge(int(row), int(column)) for row, column in cells]
        return Frame(
            {
                "edge": [str(edge) for edge in edges],
                "writer": [str(edge.writer) for edge in edges],
                "reader": [str(edge.reader) for edge in edges],
                "kind": [edge.kind for edge in edges],
                "score": self.values[tuple(cells.T)],
                "stderr": np.nan if self.stderr is None else self.stderr[tuple(cells.T)],
                "patched": [patched.get(str(edge), np.nan) for edge in edges],
            }
        )
