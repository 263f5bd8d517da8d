"""A circuit as a diagram: its parts on the two stacks, and its edges from writer to reader."""

from math import isnan
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go

from circuits.edges import EMBEDDINGS, INPUT, LOGITS, OUTPUTS, QUANTILES, Edge, Node
from circuits.graph.circuit import Circuit, check_circuit
from circuits.graph.edge_matrix import Graph
from circuits.graph.evaluation import CONTROLS, CircuitReport
from circuits.plots.hovering import node_words
from circuits.plots.stacks import (
    BOX,
    MLP,
    UNUSED,
    USED,
    WIRE,
    Plane,
    add_heads,
    is_mlp,
    name_rows,
    name_stacks,
)
from interp import Head, Model, Site
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.models.model import as_model
from interp.names import Stack, parse_kind
from interp.output.style import short, styled
from probes.induction.mosaic import THRESHOLD, Mosaic

FEEDS: dict[str, tuple[str, str]] = {
    **{kind: (f"feeds {INPUT[kind]}", color) for kind, color in WIRE.items()},
    "mlp_out": ("feeds an MLP", "#b3912c"),
    **{output.name: (f"feeds the {output.name}", "#6f6f6f") for output in OUTPUTS},
}
"""Name and colour of an edge, by the input of a head that it feeds, or by the part."""

OUTSIDE = {"resample": "the corrupt run", "mean": "the corrupt run's mean", "zero": "nothing"}


@checked
def circuit(
    circuit: Circuit,
    report: CircuitReport | None = None,
    *,
    model: Model | None = None,
    mosaic: Mosaic | None = None,
    summary: pd.DataFrame | None = None,
    threshold: float = THRESHOLD,
    title: str | None = None,
) -> go.Figure:
    """Draw a circuit on its stacks: layers upwards from the embeddings to the output, an encoder to the left.

    Args:
        circuit: what to draw.
        report: of this circuit, by `evaluate`: width is what an edge adds, dashed where that is negative, and hovering
            an edge gives the interval. Without it all edges are equally wide.
        model: whose layers and heads are all drawn.
        mosaic: colours the heads that are induction heads by what they attend to.
        summary: of `circuit_summary` or `head_summary`: what hovering a head says.
        threshold: from which score of the mosaic on.
        title: of the figure.

    Returns:
        The figure: colour is what an edge feeds. Heads and MLPs that the circuit leaves out are small; without a model,
        a report or a mosaic, which know the size, only up to the largest that occur; and an encoder where one has a
        part in it.

    Raises:
        UnknownHead, UnknownSite: a part that the model does not have.
        InvalidInput: something else than a circuit or what was made of it; a report of another circuit; a model, a
            mosaic or a summary of other weights.
    """
    size = _size(circuit, report, mosaic)
    plane = Plane(size if model is None else Graph.of(as_model(model)))
    if model is not None:
        check_circuit(model, circuit)
    _check(circuit, report, mosaic, summary, plane.graph)
    edges = _edges(circuit, report)
    parts = [*plane.graph.writers, plane.graph.output]
    words = {node: node_words(node, edges, mosaic, summary) for node in parts}
    used = set(circuit.nodes)
    figure = go.Figure()
    _boxes(figure, plane, words, used)
    _lines(figure, plane, edges, weighed=report is not None)
    _mlps(figure, plane, words, used)
    spots = {node: plane.spot(node) for node in parts if isinstance(node, Head)}
    ours, words = set(circuit.heads), {head: words[head] for head in spots}
    add_heads(figure, spots, words, ours, mosaic, threshold, named="heads of the circuit", large=ours)
    name_rows(figure, spots, plane.graph.heads, right=plane.right)
    above = 2.0 * plane.graph.encoder + 0.2 if plane.graph.encoder else None
    name_stacks(figure, plane.graph.heads, above, plane.spot(plane.graph.output)[1] + 0.75)
    across, up = plane.ranges
    figure.update_xaxes(visible=False, range=across)
    figure.update_yaxes(visible=False, range=up)
    name = str(report.provenance["model"]) if report is not None else model.name if model is not None else ""
    return styled(
        figure,
        title or ("Circuit" + (f" of {short(name)}" if name else "")),
        _subtitle(circuit, report, edges),
        width=plane.size[0],
        height=plane.size[1],
        legend={"orientation": "h", "y": -0.02, "x": 0, "itemsizing": "constant"},
        hovermode="closest",
    )


def _size(circuit: Circuit, report: CircuitReport | None, mosaic: Mosaic | None) -> Graph:
    """Return how many layers and heads there are, as far as it is known."""
    seen = {(node.stack, node.kind) for node in circuit.nodes}
    seen |= set() if mosaic is None else {parse_kind(mosaic.site)}
    encoded = any("cross" in place or "encoder" in place for place in seen)
    layers: dict[Stack, int] = {"encoder": int(encoded), "decoder": 1}
    heads = 1
    for node in circuit.nodes:
        if node not in (*OUTPUTS, *EMBEDDINGS.values()):
            layers[node.stack] = max(layers[node.stack], cast(int, node.layer) + 1)
            heads = max(heads, node.head + 1 if isinstance(node, Head) else 1)
    if mosaic is not None:
        there, (stack, _) = mosaic.current_token.values.shape, parse_kind(mosaic.site)
        if layers[stack] > there[0] or heads > there[1]:
            raise InvalidInput(f"the mosaic is of {there[0]} layers of {there[1]} heads, and the circuit has others.")
        layers[stack], heads = there
    if report is not None:
        layers |= report.provenance.get("n_layers", {})
        heads = report.provenance.get("n_heads", heads)
    output = QUANTILES if QUANTILES in circuit.nodes else LOGITS
    if report is not None:
        output = Site.parse(report.provenance.get("output", str(output)))
    return Graph(layers["encoder"], layers["decoder"], heads, output)


def _check(
    circuit: Circuit, report: CircuitReport | None, mosaic: Mosaic | None, summary: pd.DataFrame | None, graph: Graph
) -> None:
    """Check that all inputs belong to one circuit and one model."""
    if report is not None and set(report.edges) != set(map(str, circuit)):
        raise InvalidInput(
            f"the report is of another circuit, of {len(report.edges)} edges, than this one of {len(circuit)}: give "
            "what circuits.evaluate made of it."
        )
    digests = {circuit.digest, *(x.provenance.get("digest") for x in (report, mosaic) if x is not None)} - {None}
    if len(digests) > 1:
        raise InvalidInput(
            f"circuit, report and mosaic are of different weights ({', '.join(sorted(map(str, digests)))})."
        )
    if summary is not None:
        if not isinstance(cast(object, summary), pd.DataFrame) or "head" not in summary:
            raise InvalidInput("summary= takes what circuits.circuit_summary or circuits.head_summary gave.")
        if missing := set(map(str, circuit.heads)) - set(summary["head"]):
            raise InvalidInput(f"the summary is of other heads: it has no row of {min(missing)}.")
    for node in circuit.nodes:
        graph.node(node)


def _edges(circuit: Circuit, report: CircuitReport | None) -> dict[Edge, tuple[float, str]]:
    """Return what each edge adds and the words for it, strongest first; 1 and no words without a report."""
    if report is None:
        return dict.fromkeys(circuit, (1.0, ""))
    rows = cast(list[dict[str, Any]], report.to_frame().to_dict("records"))
    rows.sort(key=lambda row: -abs(row["adds"]))
    return {
        Edge.parse(row["edge"]): (row["adds"], f"{row['adds']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})")
        for row in rows
    }


def _lines(figure: go.Figure, plane: Plane, edges: dict[Edge, tuple[float, str]], *, weighed: bool) -> None:
    largest = max((abs(adds) for adds, _ in edges.values()), default=0.0) or 1.0
    feeds = {edge: edge.kind or cast(Site, edge.reader).name for edge in edges}
    for name, color in (FEEDS[key] for key in FEEDS if key in feeds.values()):
        line = {"color": color, "width": 3}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=name, hoverinfo="skip"))
    # The strongest are drawn last, over the others.
    for edge, (adds, words) in reversed(edges.items()):
        share, color = abs(adds) / largest, FEEDS[feeds[edge]][1]
        width = 1 + 5 * share if weighed else 2
        curve = plane.line(edge)
        xs, ys, angle = plane.arrow(*curve, 7 + width)
        figure.add_trace(
            go.Scatter(
                # A gap, or a broad line would cover the arrow's tip.
                x=[*xs, None, curve[0][-1]],
                y=[*ys, None, curve[1][-1]],
                mode="lines+markers",
                line={"color": color, "width": width, "dash": "dash" if adds < 0 else "solid", "simplify": False},
                marker={
                    "symbol": "arrow",
                    "angle": angle,
                    "size": [*[0] * (len(xs) + 1), 8 + width],
                    "color": color,
                    "opacity": 1,
                    "line": {"width": 0},
                },
                opacity=0.45 + 0.45 * share if weighed else 0.7,
                showlegend=False,
                text=[f"{edge}<br>adds {words}" if words else str(edge)] * (len(xs) + 2),
                hovertemplate="%{text}<extra></extra>",
            )
        )


def _boxes(figure: go.Figure, plane: Plane, words: dict[Node, str], used: set[Node]) -> None:
    for node in (*(EMBEDDINGS[stack] for stack in plane.graph.stacks), plane.graph.output):
        x, y = plane.spot(node)
        color = USED if node in used else UNUSED
        figure.add_shape(
            type="rect",
            x0=x - plane.half,
            x1=x + plane.half,
            y0=y - BOX,
            y1=y + BOX,
            line={"color": color, "width": 1},
        )
        figure.add_trace(
            go.Scatter(
                x=[x],
                y=[y],
                mode="text",
                text=[node.name if node in OUTPUTS else "embedding"],
                textfont={"size": 11, "color": "#333" if node in used else "#999"},
                customdata=[words[node]],
                hovertemplate="%{customdata}<extra></extra>",
                showlegend=False,
            )
        )


def _mlps(figure: go.Figure, plane: Plane, words: dict[Node, str], used: set[Node]) -> None:
    spots = {node: plane.spot(node) for node in plane.graph.writers if is_mlp(node)}
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in spots.values()],
            y=[y for _, y in spots.values()],
            mode="markers+text",
            marker={
                "symbol": "square",
                "size": [MLP if node in used else 8 for node in spots],
                "color": [USED if node in used else UNUSED for node in spots],
                "opacity": 1,
            },
            text=["MLP" if node in used else "" for node in spots],
            textfont={"size": 9, "color": "white"},
            customdata=[words[node] for node in spots],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
        )
    )


def _subtitle(circuit: Circuit, report: CircuitReport | None, edges: dict[Edge, tuple[float, str]]) -> str:
    words = f"{len(circuit)} edges, {len(circuit.heads)} heads, {len(circuit.mlps)} MLPs"
    if report is None:
        return words
    low, high = report.interval(report.circuit)
    bounds = f"{low:.2f} to {high:.2f}" if report.decided else "model minus nothing is not told from 0"
    means = cast(dict[str, float], report.summary().set_index("what")["value"].to_dict())
    controls = [f"{name} {_two_places(means[name])}" for name in CONTROLS]
    largest = max((adds for adds, _ in edges.values()), default=0.0)
    return (
        f"{words}; faithfulness {report.faithfulness:.2f} ({bounds}); {', '.join(controls)}<br>"
        f"width: what an edge adds, at most {largest:.2f}; dashed: less than nothing; outside the circuit: "
        f"{OUTSIDE[report.provenance['stimulus']['outside']]}"
    )


def _two_places(value: float) -> str:
    """Format a number with two decimals, never as minus zero; NaN as a dash."""
    return "none" if isnan(value) else f"{round(value, 2) + 0.0:.2f}"
