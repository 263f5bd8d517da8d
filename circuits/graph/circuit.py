"""A circuit as a value: a set of edges over both stacks, with set algebra, text and JSON.

Source: Wang et al. 2023, "Interpretability in the Wild" (circuits as subgraphs); Conmy et al. 2023, "Towards Automated
Circuit Discovery" (edges between heads, MLPs, embeddings and the output).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, cast

import pandas as pd

from circuits.edges import EMBEDDINGS, INPUT, OUTPUTS, Edge, Node, as_edge, as_node, forward_order
from circuits.graph.edge_matrix import Graph
from interp import Head, Model
from interp.errors import InvalidInput
from interp.results.frame import Frame
from interp.results.result import Result


@dataclass(frozen=True, repr=False)
class Circuit(Result):
    """A set of edges; its parts are the ends of them.

    Two circuits are equal, and have one hash, when they have the same edges. `|`, `&`, `-`, `^`, `<=` and `in` are
    those of sets; the edges of `Circuit.full(model) - circuit` are what lies outside.

    Args:
        edges: edges, or their texts.
        digest: of the weights that it was found in, where that is known; circuits of different weights do not mix.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: an edge that cannot exist.
    """

    edges: frozenset[Edge]
    digest: str | None = field(default=None, compare=False)

    KIND = "circuit"
    VERSION = 2

    def __init__(self, edges: Iterable[object] = (), digest: str | None = None) -> None:
        if isinstance(edges, str | Edge) or not isinstance(cast(object, edges), Iterable):
            raise InvalidInput(f"edges={edges!r}: give several; a circuit's text is read by Circuit.parse.")
        object.__setattr__(self, "edges", frozenset(as_edge(edge) for edge in edges))
        object.__setattr__(self, "digest", digest)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a circuit: the inverse of `str`.

        Args:
            text: edges such as `encoder.self.0.2 -> decoder.cross.1.3:k`, one a line or between semicolons or commas.

        Returns:
            The circuit.

        Raises:
            UnknownHead, UnknownSite: a malformed address.
            InvalidInput: something that is no edge, or an edge that cannot exist.
        """
        return cls(part.strip() for part in re.split(r"[\n;,]", str(text)) if part.strip())

    @classmethod
    def full(cls, model: Model) -> Self:
        """Return all edges of a model: the model itself."""
        graph = Graph.of(model)
        return cls(graph.edges(graph.exists), model.digest)

    @classmethod
    def among(cls, model: Model, nodes: Iterable[object]) -> Self:
        """Return all edges between some parts, the embeddings and the output: a circuit given by its heads.

        Args:
            nodes: heads or MLPs, by value, by address or as scored.

        Returns:
            The circuit.

        Raises:
            UnknownHead, UnknownSite: a part that this model does not have.
            InvalidInput: not several parts.
        """
        graph = Graph.of(model)
        if isinstance(nodes, str) or not isinstance(cast(object, nodes), Iterable):
            raise InvalidInput(
                f"nodes={nodes!r}: give several parts, such as ['encoder.self.0.1', 'decoder.cross.1.2']."
            )
        chosen = {*(graph.node(node) for node in nodes), *EMBEDDINGS.values(), graph.output}
        columns = [node in chosen for node in graph.writers]
        rows = [node in chosen for node, _ in graph.readers]
        return cls(graph.edges(graph.exists & graph.outer(rows, columns)), model.digest)

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def __repr__(self) -> str:
        return f"Circuit({len(self)} edges, {len(self.heads)} heads, {len(self.mlps)} MLPs)"

    def __len__(self) -> int:
        return len(self.edges)

    def __iter__(self) -> Iterator[Edge]:
        """Iterate over the edges in the order of the forward pass."""
        return iter(sorted(self.edges))

    def __contains__(self, item: object) -> bool:
        """Tell whether the circuit has an edge or a part, by value or as text."""
        text = str(getattr(item, "edge", item))
        return as_edge(item) in self.edges if "->" in text else as_node(item) in self.nodes

    def __le__(self, other: "Circuit") -> bool:
        return self.edges <= other.edges if isinstance(cast(object, other), Circuit) else NotImplemented

    def __lt__(self, other: "Circuit") -> bool:
        return self.edges < other.edges if isinstance(cast(object, other), Circuit) else NotImplemented

    def __or__(self, other: "Circuit") -> "Circuit":
        return self._with(other, frozenset.union)

    def __and__(self, other: "Circuit") -> "Circuit":
        return self._with(other, frozenset.intersection)

    def __sub__(self, other: "Circuit") -> "Circuit":
        return self._with(other, frozenset.difference)

    def __xor__(self, other: "Circuit") -> "Circuit":
        return self._with(other, frozenset.symmetric_difference)

    def _with(self, other: Any, how: Callable[[frozenset[Edge], frozenset[Edge]], frozenset[Edge]]) -> "Circuit":
        if not isinstance(other, Circuit):
            return NotImplemented
        if None not in (self.digest, other.digest) and self.digest != other.digest:
            raise InvalidInput(
                f"circuits of different weights ({self.digest} and {other.digest}) do not mix: a circuit's text, read "
                "by Circuit.parse, belongs to no weights."
            )
        return Circuit(how(self.edges, other.edges), self.digest or other.digest)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in forward order."""
        nodes = {node for edge in self.edges for node in (edge.writer, edge.reader)}
        return tuple(sorted(nodes, key=forward_order))

    @property
    def heads(self) -> tuple[Head, ...]:
        """Its heads, in forward order."""
        return tuple(node for node in self.nodes if isinstance(node, Head))

    @property
    def mlps(self) -> tuple[Node, ...]:
        """Its MLPs, in forward order."""
        return tuple(node for node in self.nodes if not isinstance(node, Head) and node.name == "mlp_out")

    def connected(self) -> "Circuit":
        """Return the edges on a path from an embedding to the output: the others carry nothing."""
        reached = _reached(self.edges, set(EMBEDDINGS.values()), forwards=True)
        arriving = _reached(self.edges, set(OUTPUTS), forwards=False)
        return Circuit((e for e in self.edges if e.writer in reached and e.reader in arriving), self.digest)

    def to(self, model: Model) -> "Circuit":
        """Return the same edges as a circuit of another model, such as one trained from another seed.

        Raises:
            UnknownHead, UnknownSite: a part that this model does not have.
        """
        return check_circuit(model, Circuit(self.edges, model.digest))

    def problems(self, model: Model) -> tuple[str, ...]:
        """Return why parts of the circuit may not carry what they are meant to.

        Edges carry something if they lie on a path from an embedding to the output. A head reads queries, keys and
        values, and what no edge of the circuit brings comes from outside it, as `evaluate` and `discover` run circuits.
        That is as it should be where a head looks by position alone, and so needs no queries and keys. What is the same
        for every input is no problem.

        Args:
            model: whose circuit it is.

        Returns:
            One sentence for each problem, those of the whole circuit first, then part by part in forward order; none
            where all is well.

        Raises:
            UnknownHead, UnknownSite: a part that this model does not have.
            InvalidInput: a circuit of other weights.
        """
        check_circuit(model, self)
        graph = Graph.of(model)
        output = graph.output
        if not self.edges:
            return ("the circuit has no edges, so nothing in it carries anything.",)
        lacks = f"no edge leads to the {output.name}, so nothing in it reaches them."
        problems = [] if output in self.nodes else [lacks]
        if not set(self.nodes) & set(EMBEDDINGS.values()):
            problems.append("no edge comes from an embedding, so nothing of the input comes in.")
        reached = _reached(self.edges, set(EMBEDDINGS.values()), forwards=True)
        arriving = _reached(self.edges, set(OUTPUTS), forwards=False)
        fed: dict[Node, set[str]] = {node: set() for node in self.nodes}
        for edge in self.edges:
            fed[edge.reader].add(str(edge.kind))
        for node in self.nodes:
            if isinstance(node, Head) and model.is_constant(node.site("z")):
                pass
            elif node not in reached:
                problems.append(f"{node} has no path from an embedding: it writes what it writes outside the circuit.")
            elif isinstance(node, Head) and (
                missing := [
                    words
                    for kind, words in INPUT.items()
                    if kind not in fed[node] and f"{node.attention}.{kind.lower()}" not in graph.fixed
                ]
            ):
                inputs = " or ".join(missing)
                problems.append(f"{node} reads no {inputs} in the circuit: it takes them from outside.")
            if node not in arriving:
                problems.append(f"{node} has no path to the {output.name}: what it writes is lost.")
        return tuple(problems)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per edge, in forward order: `edge, writer, reader, kind`."""
        rows = [(str(edge), str(edge.writer), str(edge.reader), edge.kind) for edge in self]
        return Frame(rows, columns=["edge", "writer", "reader", "kind"])

    def _contents(self) -> dict[str, Any]:
        return {"edges": tuple(map(str, self)), "digest": self.digest}

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        digest = values["digest"]
        if not isinstance(digest, str | None):
            raise TypeError(f"digest is {digest!r}")
        return cls(values["edges"], digest)

    @classmethod
    def _of_old(cls, content: dict[str, Any]) -> dict[str, Any]:
        return content


def _reached(edges: Iterable[Edge], start: set[Node], *, forwards: bool) -> set[Node]:
    """Return the parts that paths from some parts reach, those included."""
    steps: dict[Node, list[Node]] = {}
    for edge in edges:
        one, other = (edge.writer, edge.reader) if forwards else (edge.reader, edge.writer)
        steps.setdefault(one, []).append(other)
    reached, new = set(start), list(start)
    while new:
        new = [node for one in new for node in steps.get(one, ()) if node not in reached]
        reached.update(new)
    return reached


def check_circuit(model: Model, circuit: Any, what: str = "circuit") -> Circuit:
    """Check that a value is a circuit of this model.

    Raises:
        InvalidInput: something else, a circuit of other weights, or an edge into what takes nothing of the input.
        UnknownHead, UnknownSite: an edge of a part that this model does not have.
    """
    graph = Graph.of(model)
    if not isinstance(circuit, Circuit):
        raise InvalidInput(f"{what} must be a Circuit; found {type(circuit).__name__}. See Circuit.parse.")
    if circuit.digest not in (None, model.digest):
        raise InvalidInput(
            f"{what} is of other weights ({circuit.digest:.12}) than {model.name} ({model.digest:.12}): find it in "
            "this model, or move it: circuit.to(model)."
        )
    graph.mask(circuit)
    return circuit
