"""The strongest edges as a diagram: heads of the stacks there are by layer, and the wires between them."""

from collections.abc import Sequence
from math import isnan
from typing import cast

import plotly.graph_objects as go

from circuits.edges import INPUT, Composition, Edges, ScoredEdge, forward_order
from circuits.plots.stacks import GAP, WIRE, Spot, add_heads, curve, hover, name_rows, name_stacks, spot
from circuits.weights.composition_scores import CompositionScores
from circuits.weights.induction_candidates import InductionCandidate, InductionCandidates
from interp import Head
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.names import parse_kind
from interp.output.style import short, styled
from probes.induction.mosaic import THRESHOLD, Mosaic


@checked
def wiring(
    scores: CompositionScores,
    edges: Edges | InductionCandidates | Sequence[ScoredEdge | InductionCandidate] | None = None,
    *,
    mosaic: Mosaic | None = None,
    threshold: float = THRESHOLD,
    title: str | None = None,
) -> go.Figure:
    """Draw edges between heads on the stacks: layers upwards, the encoder, if there is one, to the left.

    Args:
        scores: of `composition_scores`: how many layers and heads there are.
        edges: which to draw, such as `scores.top(30)` or candidates; the 20 strongest by default.
        mosaic: colours the heads that are induction heads by what they attend to.
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
    layers = {reader: table.shape[2] for (_, reader, _), table in scores.raw.items()}
    heads = next(iter(scores.raw.values())).shape[1]
    known = [
        Head(*parse_kind(site), i, j) for site, count in layers.items() for i in range(count) for j in range(heads)
    ]
    encoded = "encoder.self" in layers
    spots = {head: spot(head, heads, encoded) for head in sorted(known, key=forward_order)}
    for scored in drawn:
        if missing := set(scored.edge.heads) - set(spots):
            raise InvalidInput(f"{scored.edge}: these scores are of a model without {min(missing)}.")
    largest = max((scored.excess for scored in drawn), default=0.0)
    figure = go.Figure()
    _wires(figure, spots, drawn, largest)
    wired = {head for scored in drawn for head in scored.edge.heads}
    words = {head: hover(head, mosaic) for head in spots}
    add_heads(figure, spots, words, wired, mosaic, threshold, named="heads on these wires")
    right = heads + (heads + GAP) * encoded
    name_rows(figure, spots, heads, right=right - 0.1)
    top = max(y for _, y in spots.values()) + 0.9
    name_stacks(figure, heads, top if encoded else None, top)
    # A decoder layer is two rows beside an encoder, and one alone.
    tall = 2 * max(layers["decoder.self"], (layers["encoder.self"] + 1) // 2) if encoded else layers["decoder.self"]
    figure.update_xaxes(visible=False, range=[-3 if encoded else -1, right + 2])
    figure.update_yaxes(visible=False, range=[-0.8, top + 0.4])
    how = "read upwards and to the right" if encoded else "read upwards"
    spread = f", z {min(e.z for e in drawn):.1f} to {max(e.z for e in drawn):.1f}" if drawn else ""
    return styled(
        figure,
        title or f"Wiring of {short(scores.provenance['model'])}",
        f"{len(drawn)} of {scores.n_pairs} pairs{spread}; {how}; thickest: {largest:+.3f} over chance "
        f"({scores.baseline:.3f})",
        width=max(900, 36 * right + 220),
        height=max(460, (58 if encoded else 80) * tall + 220),
        legend={"orientation": "h", "y": -0.02, "x": 0},
    )


def _scored(edges: object) -> tuple[ScoredEdge, ...]:
    listed = edges.candidates if isinstance(edges, InductionCandidates) else edges
    listed = listed.edges if isinstance(listed, Edges) else listed
    items: tuple[object, ...] = tuple(cast(Sequence[object], listed)) if isinstance(listed, Sequence) else (None,)
    unpacked = [item.edge if isinstance(item, InductionCandidate) else item for item in items]
    scored = tuple(item for item in unpacked if isinstance(item, ScoredEdge) and not isnan(item.excess))
    if len(scored) < len(unpacked):
        raise InvalidInput(
            "edges= takes scored edges, such as scores.top(20), candidates or [scores.edge(...)], none NaN."
        )
    return scored


def _wires(figure: go.Figure, spots: dict[Head, Spot], drawn: Sequence[ScoredEdge], largest: float) -> None:
    widest = largest if largest > 0 else 1.0
    seen: set[str] = set()
    for scored in reversed(drawn):
        writer, reader = scored.edge.heads
        xs, ys = curve(*spots[writer], *spots[reader])
        kind = cast(Composition, scored.edge.kind)
        text = f"{scored.edge}<br>excess {scored.excess:+.3f}, z {scored.z:.1f}"
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=ys,
                mode="lines",
                line={"color": WIRE[kind], "width": 1 + 5 * max(scored.excess, 0) / widest},
                opacity=0.65,
                name=f"feeds {INPUT[kind]}",
                legendgroup=kind,
                showlegend=kind not in seen,
                text=[text] * len(xs),
                hovertemplate="%{text}<extra></extra>",
            )
        )
        seen.add(kind)
