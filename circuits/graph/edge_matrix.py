"""All edges of a model as one matrix: readers by rows, writers by columns, both in forward order.

A port is a module through which readers of one kind read: the queries, keys or values of an attention layer's heads, an
MLP, or the logits. What a port can read is one stretch of writers: all those that its stream holds by then.

A decoder alone has no encoder layers: its graph has one stack, which starts at `decoder.0.resid_pre`, tokens and
positions embedded, and self-attention only.

What is the same for every input is on no edge. In a decoder of one position nothing depends on the queries and keys of
its own attention, and its first layers read the start token alone: no edges lead into these.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from circuits.edges import EMBEDDINGS, INPUT, LOGITS, OUTPUTS, Composition, Edge, Node, as_node, fixed_inputs
from interp import Head, Model, Site
from interp.errors import InvalidInput, UnknownHead, UnknownSite
from interp.models.model import as_model
from interp.names import KINDS, STACKS, AttentionLayer, Kind, Stack

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Port:
    """Readers of one module: their rows, the columns of what they can read, and the stream that holds it."""

    at: AttentionLayer | Site
    kind: Composition | None
    stream: Site
    rows: slice
    columns: slice


@dataclass(frozen=True)
class Graph:
    """The edges of a model of some size; `encoder` and `decoder` are numbers of layers, 0 where there is no encoder.

    `output` is what the model puts out, and `fixed` are the inputs of attention layers into which no edges lead, such
    as `decoder.cross.0.q`.
    """

    encoder: int
    decoder: int
    heads: int
    output: Site = LOGITS
    fixed: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model) -> "Graph":
        """Return the graph of a model; models of one size share it."""
        as_model(model)
        layers = model.n_layers
        return _graph(layers["encoder"], layers["decoder"], model.n_heads, model.output, fixed_inputs(model))

    def layers(self, stack: Stack) -> int:
        """Return the number of layers of a stack."""
        return self.encoder if stack == "encoder" else self.decoder

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks there are, in forward order."""
        return tuple(stack for stack in STACKS if self.layers(stack))

    @property
    def kinds(self) -> tuple[tuple[Stack, Kind], ...]:
        """The kinds of attention there are, in forward order: cross-attention needs an encoder to read."""
        return tuple((s, kind) for s, kind in KINDS if s in self.stacks and (kind == "self" or self.encoder))

    def _kinds(self, stack: Stack) -> tuple[Kind, ...]:
        return tuple(kind for s, kind in self.kinds if s == stack)

    @cached_property
    def writers(self) -> list[Node]:
        """Embeddings, heads and MLPs, in forward order, the encoder's first."""
        parts: list[Node] = []
        for stack in self.stacks:
            parts.append(EMBEDDINGS[stack])
            for layer in range(self.layers(stack)):
                for kind in self._kinds(stack):
                    parts += self._heads(AttentionLayer(stack, kind, layer))
                parts.append(Site(stack, None, layer, "mlp_out"))
        return parts

    @cached_property
    def columns(self) -> dict[Node, int]:
        """The column of each writer."""
        return {node: column for column, node in enumerate(self.writers)}

    @cached_property
    def encoder_columns(self) -> slice:
        """The encoder's writers."""
        return slice(0, self.columns[EMBEDDINGS["decoder"]])

    @cached_property
    def ports(self) -> list[Port]:
        """All ports, in forward order."""
        ports_so_far: list[Port] = []
        row = 0
        for stack in self.stacks:
            start = self.columns[EMBEDDINGS[stack]]
            end = start + 1
            for layer in range(self.layers(stack)):
                middles = iter(("resid_pre", "resid_mid", "resid_mid_cross"))
                for kind in self._kinds(stack):
                    stream, at = Site(stack, None, layer, next(middles)), AttentionLayer(stack, kind, layer)
                    for read in ("Q", "K", "V"):
                        across = kind == "cross" and read != "Q"
                        source = Site("encoder", None, self.encoder - 1, "resid_post") if across else stream
                        span = self.encoder_columns if across else slice(start, end)
                        ports_so_far.append(Port(at, read, source, slice(row, row + self.heads), span))
                        row += self.heads
                    end += self.heads
                mlp = Site(stack, None, layer, "mlp_out")
                ports_so_far.append(
                    Port(mlp, None, Site(stack, None, layer, next(middles)), _one(row), slice(start, end))
                )
                row, end = row + 1, end + 1
        last = Site("decoder", None, self.decoder - 1, "resid_post")
        ports_so_far.append(
            Port(self.output, None, last, _one(row), slice(self.encoder_columns.stop, len(self.writers)))
        )
        return ports_so_far

    @cached_property
    def readers(self) -> list[tuple[Node, Composition | None]]:
        """The part and the input of each row."""
        rows: list[tuple[Node, Composition | None]] = []
        for port in self.ports:
            parts = [port.at] if isinstance(port.at, Site) else self._heads(port.at)
            rows.extend((part, port.kind) for part in parts)
        return rows

    @cached_property
    def exists(self) -> Mask:
        """Which edges there are, `[reader, writer]`."""
        mask = np.zeros((len(self.readers), len(self.writers)), dtype=bool)
        for port in self.ports:
            mask[port.rows, port.columns] = not self.is_fixed(port)
        mask.setflags(write=False)
        return mask

    def is_fixed(self, port: Port) -> bool:
        """Tell whether no edges lead into a port, since it takes nothing of the input."""
        return port.kind is not None and f"{port.at}.{port.kind.lower()}" in self.fixed

    @cached_property
    def _rows(self) -> dict[tuple[Node, Composition | None], int]:
        return {reader: row for row, reader in enumerate(self.readers)}

    def _heads(self, at: AttentionLayer) -> list[Head]:
        return [Head(at.stack, at.kind, at.layer, head) for head in range(self.heads)]

    def node(self, node: object) -> Node:
        """Return a part of this model.

        Raises:
            UnknownHead, UnknownSite: this model does not have it.
        """
        chosen = as_node(node)
        if chosen in OUTPUTS and chosen != self.output:
            raise UnknownSite(f"{chosen}: the model puts out {self.output}.")
        if chosen not in self.columns and chosen != self.output:
            error = UnknownHead if isinstance(chosen, Head) else UnknownSite
            there = f"decoder layers 0-{self.decoder - 1} and heads 0-{self.heads - 1}"
            if not self.encoder and (chosen.stack == "encoder" or chosen.kind == "cross"):
                raise error(f"{chosen}: the model is a decoder alone, without encoder and cross-attention: {there}.")
            encoder = f"encoder layers 0-{self.encoder - 1}, " if self.encoder else ""
            raise error(f"{chosen}: the model has {encoder}{there}.")
        return chosen

    def cell(self, edge: Edge) -> tuple[int, int]:
        """Return the row and the column of an edge.

        Raises:
            UnknownHead, UnknownSite: this model does not have one of its parts.
            InvalidInput: an edge into what takes nothing of the input.
        """
        row, column = self._rows[self.node(edge.reader), edge.kind], self.columns[self.node(edge.writer)]
        if not self.exists[row, column]:
            assert edge.kind is not None
            raise InvalidInput(
                f"{edge}: the {INPUT[edge.kind]} of {edge.reader} take nothing of the input in this model: they are "
                "the same for every input, or make no difference. Leave the edge out."
            )
        return row, column

    def edge(self, row: int, column: int) -> Edge:
        """Return the edge of a cell."""
        reader, kind = self.readers[row]
        return Edge(self.writers[column], reader, kind)

    def edges(self, mask: Mask) -> list[Edge]:
        """Return the edges of a mask's cells."""
        return [self.edge(int(row), int(column)) for row, column in np.argwhere(mask)]

    def mask(self, edges: Iterable[Edge]) -> Mask:
        """Return the mask of edges, `[reader, writer]`."""
        cells, chosen = np.zeros_like(self.exists), list(edges)
        for edge in chosen:  # parts of another model first, which say more than edges that are none
            for part in (edge.writer, edge.reader):
                self.node(part)
        for edge in chosen:
            cells[self.cell(edge)] = True
        return cells

    @staticmethod
    def outer(rows: Sequence[bool], columns: Sequence[bool]) -> Mask:
        """Return the mask of cells whose reader and writer are both chosen."""
        return np.outer(np.array(rows, dtype=bool), np.array(columns, dtype=bool))


@lru_cache(maxsize=16)
def _graph(encoder: int, decoder: int, heads: int, output: Site, fixed: tuple[str, ...]) -> Graph:
    return Graph(encoder, decoder, heads, output, fixed)


def _one(row: int) -> slice:
    return slice(row, row + 1)
