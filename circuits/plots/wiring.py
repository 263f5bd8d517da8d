"""The strongest edges as a diagram: heads of both stacks by layer, and the wires between them."""

from collections.abc import Sequence
from math import isnan
from typing import cast

import numpy as np
import plotly.graph_objects as go

from circuits.candidates import InductionCandidate, InductionCandidates
from circuits.composition_scores import CompositionScores
from circuits.edges import Composition, Edges, ScoredEdge
from interp import Head, InvalidInput
from probes.mosaic import THRESHOLD, Mosaic
from probes.plots.style import COLORS, label, short, styled

WIRE: dict[Composition, str] = {"Q": "#5b8c5a", "K": "#b3312c", "V": "#3f4e8c"}
_INPUT: dict[Composition, str] = {"Q": "queries", "K": "keys", "V": "values"}
GAP = 3
"""Heads' widths between the two stacks."""


def wiring(
    scores: CompositionScores,
    edges: Edges | InductionCandidates | Sequence[ScoredEdge | InductionCandidate] | None = None,
    *,
    mosaic: Mosaic | None = None,
    threshold: float = THRESHOLD,
    title: str | None = None,
) -> go.Figure:
    """Edges between heads on the two stacks: layers upwards, the encoder to the left.

    Args:
        scores: of `composition_scores`: how many layers and heads there are.
        edges: which to draw, such as `scores.top(30)` or candidates; the 20 strongest by default.
        mosaic: colours the cross heads that are induction heads by what they attend to.
        threshold: from which score of the mosaic on.
        title: of the figure.

    Returns:
        The figure: width is the excess over chance, colour whether queries, keys or values are fed. Hovering a head
        or a wire says more.

    Raises:
        InvalidInput: edges that are not scored, or of heads that the scores do not hold; a mosaic of other weights.
    """
    if mosaic is not None and mosaic.provenance.get("digest") != scores.provenance["digest"]:
        raise InvalidInput("the mosaic and the composition scores are of different weights.")
    owner = edges.edges.digest if isinstance(edges, InductionCandidates) else getattr(edges, "digest", None)
    if owner not in (None, scores.provenance["digest"]):
        raise InvalidInput("the edges and the composition scores are of different weights.")
    drawn = scores.top(20).edges if edges is None else _scored(edges)
    encoder, heads = scores.raw["encoder.self", "encoder.self", "Q"].shape[:2]
    decoder = scores.raw["decoder.self", "decoder.self", "Q"].shape[0]
    known = [Head("encoder", "self", i, j) for i in range(encoder) for j in range(heads)]
    known += [Head("decoder", kind, i, j) for i in range(decoder) for kind in ("self", "cross") for j in range(heads)]
    spots = {head: _spot(head, heads) for head in known}
    for scored in drawn:
        if missing := set(scored.edge.heads) - set(spots):
            raise InvalidInput(f"{scored.edge}: these scores are of a model without {min(missing)}.")
    largest = max((scored.excess for scored in drawn), default=0.0)
    figure = go.Figure()
    _wires(figure, spots, drawn, largest)
    wired = {head for scored in drawn for head in scored.edge.heads}
    _heads(figure, spots, wired, {} if mosaic is None else {h.address: h.kind for h in mosaic.heads(threshold)}, mosaic)
    _labels(figure, spots, heads)
    spread = f", z {min(e.z for e in drawn):.1f} to {max(e.z for e in drawn):.1f}" if drawn else ""
    return styled(
        figure,
        title or f"Wiring of {short(scores.provenance['model'])}",
        f"{len(drawn)} of {scores.n_pairs} pairs{spread}; read upwards and to the right; thickest: {largest:+.3f} over "
        f"chance ({scores.baseline:.3f})",
        width=max(900, 36 * (2 * heads + GAP) + 220),
        height=max(460, 58 * 2 * max(decoder, (encoder + 1) // 2) + 220),
        legend={"orientation": "h", "y": -0.02, "x": 0},
    )


def _scored(edges: object) -> tuple[ScoredEdge, ...]:
    given = edges.candidates if isinstance(edges, InductionCandidates) else edges
    given = given.edges if isinstance(given, Edges) else given
    items: tuple[object, ...] = tuple(cast(Sequence[object], given)) if isinstance(given, Sequence) else (None,)
    found = [item.edge if isinstance(item, InductionCandidate) else item for item in items]
    scored = tuple(item for item in found if isinstance(item, ScoredEdge) and not isnan(item.excess))
    if len(scored) < len(found):
        raise InvalidInput(
            "edges= takes scored edges, such as scores.top(20), candidates or [scores.edge(...)], none NaN."
        )
    return scored


def _spot(head: Head, heads: int) -> tuple[float, float]:
    """The place of a head: a decoder layer has two rows, an encoder layer stands between them."""
    if head.stack == "encoder":
        return float(head.head), 2.0 * head.layer + 0.5
    return float(heads + GAP + head.head), 2.0 * head.layer + (head.kind == "cross")


def _curve(x0: float, y0: float, x1: float, y1: float) -> tuple[list[float], list[float]]:
    """A curve that leaves upwards and arrives from the side it comes from, so that wires stay apart."""
    t = np.linspace(0, 1, 25)
    bend = 0.55 if y1 > y0 else 1.1
    # Straight up, a wire would run through the heads between.
    aside = 0.45 if x0 == x1 and y1 - y0 > 1 else 0.0
    (ax, ay), (bx, by) = (x0 + 0.15 * (x1 - x0) + aside, y0 + bend), (x1 - 0.25 * (x1 - x0) + aside, y1 - 0.45)
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    xs = sum(w * x for w, x in zip(weights, (x0, ax, bx, x1), strict=True))
    ys = sum(w * y for w, y in zip(weights, (y0, ay, by, y1), strict=True))
    return np.asarray(xs).tolist(), np.asarray(ys).tolist()


def _wires(
    figure: go.Figure, spots: dict[Head, tuple[float, float]], drawn: Sequence[ScoredEdge], largest: float
) -> None:
    widest = largest if largest > 0 else 1.0
    seen: set[str] = set()
    for scored in reversed(drawn):
        writer, reader = scored.edge.heads
        xs, ys = _curve(*spots[writer], *spots[reader])
        kind = cast(Composition, scored.edge.kind)
        text = f"{scored.edge}<br>excess {scored.excess:+.3f}, z {scored.z:.1f}"
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=ys,
                mode="lines",
                line={"color": WIRE[kind], "width": 1 + 5 * max(scored.excess, 0) / widest},
                opacity=0.65,
                name=f"feeds {_INPUT[kind]}",
                legendgroup=kind,
                showlegend=kind not in seen,
                text=[text] * len(xs),
                hovertemplate="%{text}<extra></extra>",
            )
        )
        seen.add(kind)


def _labels(figure: go.Figure, spots: dict[Head, tuple[float, float]], heads: int) -> None:
    rows = {float(y): f"{head.kind} {head.layer}" for head, (_, y) in spots.items() if head.stack == "decoder"}
    left = {float(y): f"{head.layer}" for head, (_, y) in spots.items() if head.stack == "encoder"}
    words = [(-0.9, y, f"layer {text}", "right") for y, text in left.items()]
    words += [(2 * heads + GAP - 0.1, y, text, "left") for y, text in rows.items()]
    for x, y, text, anchor in words:
        figure.add_annotation(x=x, y=y, text=text, showarrow=False, xanchor=anchor, font={"size": 12, "color": "#555"})
    top = max(y for _, y in spots.values()) + 0.9
    for x, text in (((heads - 1) / 2, "encoder"), (heads + GAP + (heads - 1) / 2, "decoder")):
        figure.add_annotation(x=x, y=top, text=f"<b>{text}</b>", showarrow=False)
    figure.update_xaxes(visible=False, range=[-3, 2 * heads + GAP + 2])
    figure.update_yaxes(visible=False, range=[-0.8, top + 0.4])


def _heads(
    figure: go.Figure,
    spots: dict[Head, tuple[float, float]],
    wired: set[Head],
    induction: dict[Head, str],
    mosaic: Mosaic | None,
) -> None:
    groups = {"other heads": [head for head in spots if head not in wired and head not in induction]}
    groups["heads on these wires"] = [head for head in spots if head in wired and head not in induction]
    for kind in ("current_token", "token_to_right"):
        groups[label(kind)] = [head for head, found in induction.items() if found == kind]
    colors = {"other heads": "#d9d9d9", "heads on these wires": "#333333"}
    colors |= {label(kind): COLORS[kind] for kind in ("current_token", "token_to_right")}
    for name, members in groups.items():
        if not members:
            continue
        shown = members if name != "other heads" else []
        figure.add_trace(
            go.Scatter(
                x=[spots[head][0] for head in members],
                y=[spots[head][1] for head in members],
                mode="markers+text",
                marker={
                    "size": [15 if head in shown else 8 for head in members],
                    "color": colors[name],
                    "opacity": 1,
                    "line": {"width": 0},
                },
                text=[str(head.head) if head in shown else "" for head in members],
                textfont={"size": 9, "color": "white"},
                name=name,
                customdata=[_hover(head, mosaic) for head in members],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )


def _hover(head: Head, mosaic: Mosaic | None) -> str:
    if mosaic is None or head.kind == "self":
        return str(head)
    return f"{head}<br>current {mosaic.current_token[head]:.2f}, right {mosaic.token_to_right[head]:.2f}"
