"""The stacks as a plane that parts and edges are drawn on: layers upwards, an encoder to the left."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import atan2, degrees, hypot
from typing import cast

import numpy as np
import plotly.graph_objects as go

from circuits.edges import EMBEDDINGS, OUTPUTS, Composition, Edge, Node
from circuits.graph.edge_matrix import Graph
from interp import Head, Site
from interp.output.style import COLORS, label
from probes.induction.mosaic import Mosaic

WIRE: dict[Composition, str] = {"Q": "#5b8c5a", "K": "#b3312c", "V": "#3f4e8c"}
GAP = 3
"""Heads' widths between the two stacks."""

USED, UNUSED = "#333333", "#d9d9d9"
ATTENDED = ("current_token", "token_to_right")

BOX = 0.25
"""Half the height of the boxes of embeddings and of the output."""

DOT, MLP = 15, 25
"""Pixels across a head that edges join, and across an MLP."""

ASIDE = {"Q": -5, "K": 0, "V": 5}
"""Pixels from a head's middle at which edges arrive: queries from the left, keys below, values from the right."""

Spot = tuple[float, float]


def spot(head: Head, heads: int, encoder: bool = True) -> Spot:
    """Return the place of a head: a decoder layer has two rows, an encoder layer stands between them.

    Without an encoder the decoder stands where it would be, and its layers are as far apart.
    """
    if head.stack == "encoder":
        return float(head.head), 2.0 * head.layer + 0.5
    return float((heads + GAP) * encoder + head.head), 2.0 * head.layer + (head.kind == "cross")


def curve(x0: float, y0: float, x1: float, y1: float) -> tuple[list[float], list[float]]:
    """Draw a curve that leaves upwards and arrives from the side it comes from, so that wires stay apart."""
    t = np.linspace(0, 1, 41)
    bend = 0.55 if y1 > y0 else 1.1
    # Straight up, a wire would run through the heads between.
    aside = 0.45 if abs(x1 - x0) < 0.3 and abs(x0 - round(x0)) < 0.3 and y1 - y0 > 1.5 else 0.0
    (ax, ay), (bx, by) = (x0 + 0.15 * (x1 - x0) + aside, y0 + bend), (x1 - 0.25 * (x1 - x0) + aside, y1 - 0.45)
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    xs = sum(w * x for w, x in zip(weights, (x0, ax, bx, x1), strict=True))
    ys = sum(w * y for w, y in zip(weights, (y0, ay, by, y1), strict=True))
    return np.asarray(xs).tolist(), np.asarray(ys).tolist()


def add_heads(
    figure: go.Figure,
    spots: dict[Head, Spot],
    words: dict[Head, str],
    used: set[Head],
    mosaic: Mosaic | None,
    threshold: float,
    *,
    named: str,
    large: set[Head] | None = None,
) -> None:
    """Add heads as dots: faint ones, used ones, and induction heads by what they attend to.

    Args:
        spots: all heads and their places.
        words: the hover text of each head.
        used: those that edges join.
        mosaic: which are induction heads.
        threshold: from which score of the mosaic on.
        named: what used heads are called in the legend.
        large: which are large and carry their number; used ones and induction heads by default.
    """
    induction = {} if mosaic is None else {head_kind.address: head_kind.kind for head_kind in mosaic.heads(threshold)}
    large = used | set(induction) if large is None else large
    plain = [head for head in spots if head not in induction]
    groups = [("other heads", UNUSED, [head for head in plain if head not in used])]
    groups += [(named, USED, [head for head in plain if head in used])]
    for kind in ATTENDED:
        groups.append((label(kind), COLORS[kind], [head for head, head_kind in induction.items() if head_kind == kind]))
    for name, color, members in groups:
        if members:
            figure.add_trace(
                go.Scatter(
                    x=[spots[head][0] for head in members],
                    y=[spots[head][1] for head in members],
                    mode="markers+text",
                    marker={
                        "size": [DOT if head in large else 8 for head in members],
                        "color": color,
                        "opacity": 1,
                        "line": {"width": 0},
                    },
                    text=[str(head.head) if head in large else "" for head in members],
                    textfont={"size": 9, "color": "white"},
                    name=name,
                    customdata=[words[head] for head in members],
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )


def hover(head: Head, mosaic: Mosaic | None) -> str:
    """Name a head's address, and its scores where a mosaic has them."""
    if mosaic is None or f"{head.stack}.{head.kind}" != mosaic.current_token.site:
        return str(head)
    return f"{head}<br>current {mosaic.current_token[head]:.2f}, right {mosaic.token_to_right[head]:.2f}"


def name_rows(figure: go.Figure, spots: Iterable[Head], heads: int, *, right: float) -> None:
    """Name layers beside their rows: the encoder's to the left, the decoder's at `right`."""
    rows = {spot(head, heads)[1]: f"{head.kind} {head.layer}" for head in spots if head.stack == "decoder"}
    left = {spot(head, heads)[1]: f"{head.layer}" for head in spots if head.stack == "encoder"}
    words = [(-0.9, y, f"layer {text}", "right") for y, text in left.items()]
    words += [(right, y, text, "left") for y, text in rows.items()]
    for x, y, text, anchor in words:
        figure.add_annotation(x=x, y=y, text=text, showarrow=False, xanchor=anchor, font={"size": 12, "color": "#555"})


def name_stacks(figure: go.Figure, heads: int, encoder: float | None, decoder: float) -> None:
    """Name the stacks above them, at these heights; None where there is no encoder."""
    both = [] if encoder is None else [(0, encoder, "encoder")]
    for x, y, text in (*both, ((heads + GAP) * len(both), decoder, "decoder")):
        figure.add_annotation(x=x + (heads - 1) / 2, y=y, text=f"<b>{text}</b>", showarrow=False)


def is_mlp(node: Node) -> bool:
    """Tell whether a part is an MLP."""
    return isinstance(node, Site) and node.name == "mlp_out"


@dataclass(frozen=True)
class Plane:
    """Where the parts of a whole model are, from embeddings to the output, on a figure of some size.

    An MLP ends its layer's row, a little above the heads, which it reads; embeddings and the output are boxes as wide
    as their stack, under and over all rows.
    """

    graph: Graph

    @property
    def first(self) -> int:
        """Where the decoder begins, to the right of an encoder."""
        return self.graph.heads + GAP if self.graph.encoder else 0

    @property
    def right(self) -> float:
        """Where the decoder's rows are named."""
        return self.first + self.graph.heads + 0.9

    @property
    def top(self) -> float:
        """The height of what is highest."""
        return max(self.spot(self.graph.output)[1], 2.0 * self.graph.encoder)

    @property
    def half(self) -> float:
        """Half the width of the boxes."""
        return (self.graph.heads - 1) / 2 + 0.45

    @property
    def ranges(self) -> tuple[Spot, Spot]:
        """Of the two axes; an encoder's rows are named to the left of it."""
        return (-3.0 if self.graph.encoder else -1.0, self.right + 2), (-1.8, self.top + 1.2)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        rows = 2 * max(self.graph.encoder, self.graph.decoder) + 2
        return max(900, 36 * (self.first + self.graph.heads) + 260), max(520, 66 * rows + 220)

    @property
    def pixels(self) -> Spot:
        """About how many there are in a step across and in a step up, less the margins."""
        (left, right), (bottom, top) = self.ranges
        return (self.size[0] - 110) / (right - left), (self.size[1] - 200) / (top - bottom)

    def spot(self, node: Node) -> Spot:
        """Return the place of a part."""
        if isinstance(node, Head):
            return spot(node, self.graph.heads, self.graph.encoder > 0)
        first = 0 if node.stack == "encoder" else self.first
        middle = first + (self.graph.heads - 1) / 2
        if node in OUTPUTS:
            return middle, 2.0 * self.graph.decoder + 0.4
        if node in EMBEDDINGS.values():
            return middle, -1.2
        # Above the last of the layer's rows of heads.
        above = 1.5 if (node.stack, "cross") in self.graph.kinds else 1.0
        return first + self.graph.heads + 0.1, 2.0 * cast(int, node.layer) + above

    def line(self, edge: Edge) -> tuple[list[float], list[float]]:
        """Draw the curve of an edge, from its writer up to the rim of its reader."""
        (x0, y0), (x1, y1) = self.spot(edge.writer), self.spot(edge.reader)
        x, y = x1, y1
        x1 += ASIDE.get(edge.kind or "", 0) / self.pixels[0]
        if edge.writer in EMBEDDINGS.values() and edge.reader in OUTPUTS:
            # Between two columns of heads.
            x0 = x1 = self.first + max(self.graph.heads // 2 - 0.5, -0.4)
        elif edge.writer in EMBEDDINGS.values():
            x0 = min(max(x1, x0 - self.half), x0 + self.half)
        elif edge.reader in OUTPUTS:
            x1 = min(max(x0, x1 - self.half), x1 + self.half)
        y0 += BOX if edge.writer in EMBEDDINGS.values() else 0
        if edge.reader in OUTPUTS:
            return curve(x0, y0, x1, y1 - BOX)
        xs, ys = curve(x0, y0, x1, y1)
        across, up = self.pixels
        if is_mlp(edge.reader):
            away = [max(abs(a - x) * across, abs(b - y) * up) - MLP / 2 for a, b in zip(xs, ys, strict=True)]
        else:
            away = [hypot((a - x) * across, (b - y) * up) - DOT / 2 for a, b in zip(xs, ys, strict=True)]
        inside = next(index for index, far in enumerate(away) if far < 0)
        return _until(xs, ys, inside, away[inside - 1] / (away[inside - 1] - away[inside]))

    def arrow(self, xs: list[float], ys: list[float], length: float) -> tuple[list[float], list[float], float]:
        """Return a line up to where the arrow at its end begins, and the arrow's degrees from upright, to the right.

        Args:
            xs: across.
            ys: up.
            length: of the arrow in pixels.
        """
        across, up = self.pixels
        far = [hypot((x - xs[-1]) * across, (y - ys[-1]) * up) - length for x, y in zip(xs, ys, strict=True)]
        last = max(index for index, away in enumerate(far) if away > 0)
        xs, ys, tip = *_until(xs, ys, last + 1, far[last] / (far[last] - far[last + 1])), (xs[-1], ys[-1])
        return xs, ys, degrees(atan2((tip[0] - xs[-1]) * across, (tip[1] - ys[-1]) * up))


def _until(xs: list[float], ys: list[float], index: int, share: float) -> tuple[list[float], list[float]]:
    """Cut a line at some share of the way from the point before `index` to that one."""
    x, y = (p[index - 1] + share * (p[index] - p[index - 1]) for p in (xs, ys))
    return [*xs[:index], x], [*ys[:index], y]
