"""Edges: one part of a model writes to the stream from which another takes its queries, keys, values or input."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args, overload

import pandas as pd

from interp import Head, Model, Site
from interp.errors import InvalidInput
from interp.names import STACKS, AttentionLayer, Stack, as_head, parse_address, parse_kind
from interp.results.frame import Frame
from interp.results.result import Result

Composition = Literal["Q", "K", "V"]
INPUT: dict[Composition, str] = {"Q": "queries", "K": "keys", "V": "values"}
"""What the inputs of a head are called."""

Order = Literal["later", "same or later", "any"]
Pair = tuple[str, str, Composition]
"""Kinds of the writer and the reader, and which of the reader's inputs."""

PAIRS: dict[tuple[str, str], tuple[tuple[Composition, ...], Order]] = {
    ("encoder.self", "encoder.self"): (("Q", "K", "V"), "later"),
    ("encoder.self", "decoder.cross"): (("K", "V"), "any"),
    ("decoder.self", "decoder.self"): (("Q", "K", "V"), "later"),
    ("decoder.self", "decoder.cross"): (("Q",), "same or later"),
    ("decoder.cross", "decoder.self"): (("Q", "K", "V"), "later"),
    ("decoder.cross", "decoder.cross"): (("Q",), "later"),
}
"""Which kind of head can write to what of which other kind, and to which layers."""

WIRES: list[Pair] = [(writer, reader, kind) for (writer, reader), (kinds, _) in PAIRS.items() for kind in kinds]
"""All pairs of kinds there are, with the reader's input."""


Node = Head | Site


EMBEDDINGS: dict[Stack, Site] = {stack: Site(stack, None, 0, "resid_pre") for stack in STACKS}


LOGITS, QUANTILES = (Site("decoder", None, None, name) for name in ("logits", "quantiles"))
OUTPUTS = (LOGITS, QUANTILES)
"""What a model puts out: one of these, as `model.output` says."""


_RANK = {"self": 0, "cross": 1, "mlp_out": 2}


def as_node(node: object) -> Node:
    """Return the part that a value, an address or anything with an `address` (such as a scored head) stands for.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: an address of something that neither writes to a residual stream nor is the output.
    """
    address = node if isinstance(node, Head | Site) else getattr(node, "address", None)
    address = parse_address(str(node).strip()) if address is None else address
    if isinstance(address, Head):
        return as_head(address)
    if isinstance(address, Site) and (address in (*EMBEDDINGS.values(), *OUTPUTS) or address.name == "mlp_out"):
        return address
    raise InvalidInput(
        f"{address} is no part that an edge can join: give a head ('decoder.cross.1.2'), an MLP ('decoder.1.mlp_out'), "
        "the embeddings ('encoder.0.resid_pre', 'decoder.0.resid_pre') or the output ('decoder.logits', or "
        "'decoder.quantiles')."
    )


def depth(node: Node) -> tuple[int, int, int]:
    """Return when a part runs: stack, layer and sublayer. Embeddings come before all layers, the output after."""
    stack = STACKS.index(node.stack)
    if node in OUTPUTS:
        return stack, 1_000_000, 0
    if node in EMBEDDINGS.values():
        return stack, -1, 0
    assert node.layer is not None
    return stack, node.layer, _RANK[node.kind if isinstance(node, Head) else node.name]


def forward_order(node: Node) -> tuple[int, ...]:
    """Return a key that sorts parts in the order of the forward pass, and heads of a layer by their number."""
    return (*depth(node), node.head if isinstance(node, Head) else 0)


def title(node: Node) -> str:
    """Name a part in words, for figures."""
    if isinstance(node, Head):
        return str(node)
    if node in OUTPUTS:
        return node.name
    if node in EMBEDDINGS.values():
        return f"{node.stack} embedding"
    return f"{node.stack} MLP {node.layer}"


def is_fixed(model: Model, at: AttentionLayer, kind: Composition) -> bool:
    """Tell whether an attention layer takes nothing of the input by its queries, keys or values.

    They are the same for every input, or queries and keys make no difference, as where a position looks at itself
    alone. Nothing that is written is on the way to the output through them.
    """
    unread = kind != "V" and model.is_constant(Site(at.stack, at.kind, at.layer, "pattern"))
    return unread or model.is_constant(Site(at.stack, at.kind, at.layer, kind.lower()))


def fixed_inputs(model: Model) -> tuple[str, ...]:
    """Return all inputs of attention layers that take nothing of the input, such as `decoder.cross.0.q`."""
    return tuple(f"{at}.{kind.lower()}" for at in model.layers() for kind in INPUT if is_fixed(model, at, kind))


def check_pair(writer: str, reader: str, kind: str) -> Pair:
    """Return the pair of kinds of heads, if an encoder-decoder has such a wire.

    Args:
        writer: the kind of the head that writes, such as `encoder.self`.
        reader: the kind of the head that reads.
        kind: `Q`, `K` or `V`: which of its inputs.

    Returns:
        The three.

    Raises:
        UnknownSite: no such kind of head.
        InvalidInput: the two share no stream, or the reader takes this input from another one.
    """
    (write, _), (read, how) = parse_kind(writer), parse_kind(reader)
    kind = str(kind).upper()
    if kind not in get_args(Composition):
        raise InvalidInput(f"kind={kind!r}: heads compose by their queries 'Q', keys 'K' or values 'V'.")
    if (writer, reader) not in PAIRS:
        why = "the encoder runs before the decoder and never reads what it writes"
        if read == "decoder":
            why = "a decoder's self-attention reads the decoder's stream only, to which the encoder writes nothing"
        raise InvalidInput(f"{writer} -> {reader}: the two share no stream: {why}.{_there_are()}")
    kinds, _ = PAIRS[writer, reader]
    if kind not in kinds:
        side = "encoder's output" if write == "decoder" else "decoder's stream"
        what = "keys and values" if write == "decoder" else "queries"
        raise InvalidInput(
            f"{writer} -> {reader}, {kind}: {how}-attention takes its {what} from the {side}.{_there_are()}"
        )
    return writer, reader, kind


def _there_are() -> str:
    pairs = [f"{writer} -> {reader} ({', '.join(kinds)})" for (writer, reader), (kinds, _) in PAIRS.items()]
    return f" There are {'; '.join(pairs)}."


@dataclass(frozen=True)
class Edge:
    """One wire: `encoder.self.0.2 -> decoder.cross.1.3:k`, `decoder.1.mlp_out -> decoder.logits`.

    Parts are heads, MLPs, embeddings and the output (`decoder.logits` or `decoder.quantiles`), given by value, by
    address or as scored. Heads read by their queries `Q`, keys `K` or values `V`; the others have one input, and `kind`
    is None.
    """

    writer: Node
    reader: Node
    kind: Composition | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "writer", as_node(self.writer))
        object.__setattr__(self, "reader", as_node(self.reader))
        if self.kind is not None:
            object.__setattr__(self, "kind", str(self.kind).upper())
        elif isinstance(self.reader, Head):
            raise InvalidInput(f"{self}: say which input of the head it feeds: {_inputs(self.writer, self.reader)}.")
        if isinstance(self.writer, Head) and isinstance(self.reader, Head):
            pair = (f"{self.writer.stack}.{self.writer.kind}", f"{self.reader.stack}.{self.reader.kind}")
            writer, reader, _ = check_pair(*pair, str(self.kind))
            _, order = PAIRS[writer, reader]
            behind = self.reader.layer - self.writer.layer
            if (order == "later" and behind < 1) or (order == "same or later" and behind < 0):
                raise InvalidInput(f"{self}: the reader runs before the writer has written; its layer must be {order}.")
        else:
            self._check()

    def _check(self) -> None:
        writer, reader, kind = self.writer, self.reader, self.kind
        if writer in OUTPUTS or reader in EMBEDDINGS.values():
            raise InvalidInput(f"{self}: logits and quantiles write to no stream, and embeddings read none.")
        if isinstance(reader, Head) != (kind in get_args(Composition)):
            how = (
                f"by {_inputs(writer, reader)}" if isinstance(reader, Head) else "by nothing after it: it has one input"
            )
            raise InvalidInput(f"{self}: {reader} is read into {how}.")
        across = isinstance(reader, Head) and reader.kind == "cross" and kind in ("K", "V")
        if across != (writer.stack == "encoder") and reader.stack == "decoder":
            raise InvalidInput(
                f"{self}: what the encoder writes reaches the decoder by the keys and values of cross-attention only, "
                "which read nothing else."
            )
        if not depth(writer) < depth(reader):
            raise InvalidInput(f"{self}: the reader runs before the writer has written.")

    def __str__(self) -> str:
        return f"{self.writer} -> {self.reader}{f':{self.kind.lower()}' if self.kind else ''}"

    def __lt__(self, other: "Edge") -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        return forward_order(self.writer), forward_order(self.reader), "QKV".find(self.kind or "")

    @property
    def heads(self) -> tuple[Head, Head]:
        """The writer and the reader of an edge between heads.

        Raises:
            InvalidInput: one of them is no head.
        """
        if not isinstance(self.writer, Head) or not isinstance(self.reader, Head):
            raise InvalidInput(f"{self}: this is about two heads, and {self.writer} or {self.reader} is none.")
        return self.writer, self.reader

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of an edge: the inverse of `str`.

        Args:
            text: such as `encoder.self.0.2 -> decoder.cross.1.3:k` or `decoder.1.mlp_out -> decoder.logits`.

        Returns:
            The edge.

        Raises:
            UnknownHead, UnknownSite: an address that is malformed.
            InvalidInput: another form, or an edge that cannot exist.
        """
        writer, arrow, rest = str(text).partition("->")
        reader, colon, kind = rest.partition(":")
        if not arrow or (colon and kind.strip() not in tuple("qkvQKV")):
            raise InvalidInput(
                f"{text!r} is not an edge: 'encoder.self.0.2 -> decoder.cross.1.3:k', q, k or v where a head reads."
            )
        return cls(as_node(writer), as_node(reader), cast(Composition, kind.strip()) if colon else None)


def _inputs(writer: Node, reader: Head) -> str:
    """Say which inputs of a head a part can feed."""
    if reader.kind != "cross":
        return "':q', ':k' or ':v' at its end"
    return "':k' or ':v' at its end" if writer.stack == "encoder" else "':q' at its end"


@dataclass(frozen=True)
class ScoredEdge:
    """An edge with its composition score: raw, over the baseline, and in standard deviations of chance."""

    edge: Edge
    raw: float
    excess: float
    z: float

    def __str__(self) -> str:
        return f"{self.edge} (score {self.raw:.3f}, {self.excess:+.3f} over chance, z {self.z:.1f})"


def as_edge(edge: object) -> Edge:
    """Return the edge that a value, a text or anything with an `edge` (such as a scored edge) stands for.

    Raises:
        UnknownHead, InvalidInput: none of these, or an edge that cannot exist.
    """
    while not isinstance(edge, Edge) and hasattr(edge, "edge"):
        edge = edge.edge  # type: ignore[union-attr]
    return edge if isinstance(edge, Edge) else Edge.parse(str(edge))


@dataclass(frozen=True, repr=False)
class Edges(Result):
    """Scored edges, strongest first, and the digest of the weights that they are of, where it is known."""

    KIND = "edges"

    edges: tuple[ScoredEdge, ...]
    digest: str | None = None

    def _title(self) -> str:
        return {0: "no edges", 1: "1 edge"}.get(len(self.edges), f"{len(self.edges)} edges, strongest first")

    def _contents(self) -> dict[str, Any]:
        return {"edges": tuple((str(e.edge), e.raw, e.excess, e.z) for e in self.edges), "digest": self.digest}

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        edges = tuple(ScoredEdge(Edge.parse(text), *numbers) for text, *numbers in values["edges"])
        return cls(edges, values["digest"])

    def __iter__(self) -> Iterator[ScoredEdge]:
        return iter(self.edges)

    def __len__(self) -> int:
        return len(self.edges)

    @overload
    def __getitem__(self, index: int) -> ScoredEdge: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ScoredEdge, ...]: ...
    def __getitem__(self, index: int | slice) -> ScoredEdge | tuple[ScoredEdge, ...]:
        return self.edges[index]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per edge: `edge, writer, reader, kind, raw, excess, z`."""
        columns = ["edge", "writer", "reader", "kind", "raw", "excess", "z"]
        rows = [
            (str(e.edge), str(e.edge.writer), str(e.edge.reader), e.edge.kind, e.raw, e.excess, e.z) for e in self.edges
        ]
        return Frame(rows, columns=columns)
