"""Random circuits of a size, as controls: any edges, or edges that all lie on a path from the input to the logits.

Few random edges hardly ever reach the logits from an embedding, so that a random circuit does nothing by its wiring
alone. Connected ones are drawn path by path:

1. A random edge that is not yet in is made a path: backwards through random edges to an embedding or a part that is
   already in, forwards likewise to the logits.
2. Where no further path fits, or all parts are in, single edges between parts that are in fill up the number.
"""

import numpy as np
from numpy.typing import NDArray

from circuits.edges import EMBEDDINGS, OUTPUTS
from circuits.graph.edge_matrix import Graph, Mask

TRIES = 50
"""Paths in a row that do not fit, after which single edges fill up."""


def random_edges(graph: Graph, count: int, rng: np.random.Generator) -> Mask:
    """Draw so many edges, each with the same chance."""
    cells = np.argwhere(graph.exists)
    chosen = np.zeros_like(graph.exists)
    chosen[tuple(rng.permutation(cells)[:count].T)] = True
    return chosen


def random_connected(graph: Graph, count: int, rng: np.random.Generator) -> Mask:
    """Draw so many edges that all lie on a path from an embedding to the logits, or as many as there are of these."""
    best = _Draw(graph, rng)
    for _ in range(TRIES):
        # What is left over may be one edge, where none fits: then all over again.
        draw = _Draw(graph, rng)
        draw.fill(count)
        best = max(best, draw, key=lambda one: one.count)
        if draw.count == count or draw.inside.all():
            break
    return best.chosen


class _Draw:
    """The edges that are in, and the parts on their paths."""

    def __init__(self, graph: Graph, rng: np.random.Generator) -> None:
        self.graph, self.rng = graph, rng
        self.chosen = np.zeros_like(graph.exists)
        self.count = 0
        # The column of each row's part; the output writes nowhere.
        self.column = np.array([-1 if node in OUTPUTS else graph.columns[node] for node, _ in graph.readers])
        self.starts = np.isin(
            np.arange(len(graph.writers)), [graph.columns[e] for e in EMBEDDINGS.values() if e in graph.columns]
        )
        self.inside = self.starts.copy()

    def _reads_inside(self) -> NDArray[np.bool_]:
        """Tell, by row, whether its part is inside, or the logits; an embedding reads nothing."""
        return (self.column < 0) | self.inside[self.column]

    def fill(self, count: int) -> None:
        """Add paths, and then single edges, up to a number."""
        cells, missed = self.rng.permutation(np.argwhere(self.graph.exists)), 0
        for row, column in cells:
            if self.count >= count or self.inside.all() or (missed >= TRIES and len(self.free())):
                break
            path = self.path(int(row), int(column))
            if path is not None and self.count + len(path) <= count:
                self.add(path)
                missed = 0
            else:
                missed += 1
        while self.count < count and len(free := self.free()):
            self.add([(int(row), int(column)) for row, column in self.rng.permutation(free)[: count - self.count]])

    def path(self, row: int, column: int) -> list[tuple[int, int]] | None:
        """Return the new edges of a random path through an edge; None if there is no path, or nothing new on it."""
        steps_of_path, reads = [(row, column)], self._reads_inside()
        while not self.inside[column]:
            steps = np.argwhere(self.graph.exists & (self.column == column)[:, None])
            if not len(steps):
                return None
            above, column = (int(x) for x in steps[self.rng.integers(len(steps))])
            steps_of_path.append((above, column))
        while not reads[row]:
            readers = np.flatnonzero(self.graph.exists[:, self.column[row]])
            if not len(readers):
                return None
            before, row = int(self.column[row]), int(readers[self.rng.integers(len(readers))])
            steps_of_path.append((row, before))
        return [edge for edge in dict.fromkeys(steps_of_path) if not self.chosen[edge]] or None

    def add(self, edges: list[tuple[int, int]]) -> None:
        """Put edges in whose parts then all lie on a path."""
        for row, column in edges:
            self.chosen[row, column] = self.inside[column] = True
            if self.column[row] >= 0:
                self.inside[self.column[row]] = True
        self.count += len(edges)

    def free(self) -> NDArray[np.int64]:
        """Return the edges between parts that are inside, which are not inside themselves."""
        return np.argwhere(self.graph.exists & ~self.chosen & self._reads_inside()[:, None] & self.inside[None])
