"""Figures of composition scores: heatmaps by pair of layers, and all pairs of kinds behind one menu."""

from typing import Any, cast

import numpy as np
import plotly.graph_objects as go

from circuits.edges import INPUT, Pair, check_pair
from circuits.weights.composition_scores import CompositionScores, Score
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import short, styled

UNITS = {"raw": "score", "excess": "over chance", "z": "z"}


def _names(site: str, layers: int, heads: int) -> list[str]:
    # Addresses as categories: a category that reads as a number would draw the ticks to itself.
    return [f"{site}.{layer}.{head}" for layer in range(layers) for head in range(heads)]


def _heatmap(scores: CompositionScores, wire: Pair, score: Score) -> go.Heatmap:
    table = scores.between(*wire, score=score)
    layers, heads, later, readers = table.shape
    hover = f"%{{y}} → %{{x}}:{wire[2].lower()}<br>{UNITS[score]} %{{z:.3f}}<extra></extra>"
    return go.Heatmap(
        # Single precision halves the pages of large models.
        z=table.reshape(layers * heads, later * readers).astype(np.float32),
        x=_names(wire[1], later, readers),
        y=_names(wire[0], layers, heads),
        coloraxis="coloraxis",
        hovertemplate=hover,
    )


def _axes(scores: CompositionScores, wire: Pair) -> dict[str, Any]:
    """Return the layout of ticks at the middle of each layer's heads, with lines between layers."""
    layers, heads, later, readers = scores.raw[wire].shape
    sides = {
        "xaxis": (later, readers, wire[1], "reads by its " + INPUT[wire[2]]),
        "yaxis": (layers, heads, wire[0], "writes"),
    }
    axes: dict[str, Any] = {}
    for name, (count, size, site, does) in sides.items():
        axes[name] = {
            "type": "category",
            # In a menu's arguments a title must be spelled out, or the browser drops it.
            "title": {"text": f"{site}, by layer: {does}"},
            "tickvals": [layer * size + (size - 1) / 2 for layer in range(count)],
            "ticktext": [str(layer) for layer in range(count)],
            "showgrid": False,
            "zeroline": False,
            "constrain": "domain",
        }
    axes["yaxis"] |= {"autorange": "reversed"}
    line = {"type": "line", "line": {"color": "#999", "width": 1}}
    axes["shapes"] = [
        line | {"x0": size * i - 0.5, "x1": size * i - 0.5, "yref": "paper", "y0": 0, "y1": 1}
        for i, size in ((i, readers) for i in range(1, later))
    ] + [
        line | {"y0": size * i - 0.5, "y1": size * i - 0.5, "xref": "paper", "x0": 0, "x1": 1}
        for i, size in ((i, heads) for i in range(1, layers))
    ]
    return axes


def _color(scores: CompositionScores, wires: list[Pair], score: Score) -> dict[str, Any]:
    tables = [scores.between(*wire, score=score) for wire in wires]
    largest = max(float(np.nanmax(np.abs(table), initial=0)) for table in tables) or 1.0
    if score == "raw":
        return {"colorscale": "Viridis", "cmin": 0, "cmax": largest}
    return {"colorscale": "RdBu", "cmin": -largest, "cmax": largest}


def _about(scores: CompositionScores) -> str:
    folded = "norms folded" if scores.provenance["stimulus"]["fold_norm"] else "norms not folded"
    return f"{short(scores.provenance['model'])}, {folded}; chance is {scores.baseline:.3f}"


@checked
def composition(
    scores: CompositionScores, writer: str, reader: str, kind: str, *, score: Score = "excess"
) -> go.Figure:
    """Draw composition scores between two kinds of heads: writers down, readers across, by layer.

    Args:
        scores: of `composition_scores`.
        writer: such as `encoder.self`.
        reader: such as `decoder.cross`.
        kind: `Q`, `K` or `V`.
        score: `excess` over the random baseline, `raw`, or `z`.

    Returns:
        The figure; hovering names the heads, and pairs in the wrong order are blank.

    Raises:
        UnknownSite: no such kind of head.
        InvalidInput: the two share no stream, the reader takes this input from another one, or the model has no such
            heads.
    """
    if not isinstance(cast(object, scores), CompositionScores):
        raise InvalidInput(f"scores= takes what composition_scores gave; found {type(scores).__name__}.")
    wire = check_pair(writer, reader, kind)
    return styled(
        go.Figure(_heatmap(scores, wire, score)),
        f"{wire[2]}-composition: {writer} → {reader}",
        _about(scores),
        coloraxis=_color(scores, [wire], score) | {"colorbar": {"title": UNITS[score]}},
        width=760,
        height=700,
        **_axes(scores, wire),
    )


@checked
def composition_explorer(scores: CompositionScores, *, score: Score = "z") -> go.Figure:
    """Draw all pairs of kinds behind one menu, on one scale: for pages.

    Args:
        scores: of `composition_scores`.
        score: `z`, by which edges are ranked, `excess` over the random baseline, or `raw`.

    Returns:
        The figure with a drop-down of the pairs that exist.
    """
    wires = list(scores.raw)
    # What induction is made of: the keys of cross heads, or of what heads there are.
    first = wires.index(max(wires, key=lambda wire: (wire[2] == "K", wire[1] == "decoder.cross")))
    figure = go.Figure(
        [_heatmap(scores, wire, score).update(visible=index == first) for index, wire in enumerate(wires)]
    )
    names = [f"{kind}: {writer} → {reader}" for writer, reader, kind in wires]
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [{"visible": [index == other for other in range(len(wires))]}, _axes(scores, wire)],
        }
        for index, (name, wire) in enumerate(zip(names, wires, strict=True))
    ]
    menu = {"buttons": buttons, "active": first, "x": 0, "xanchor": "left", "y": 1.015, "yanchor": "bottom"}
    return styled(
        figure,
        "Composition scores",
        _about(scores),
        coloraxis=_color(scores, wires, score) | {"colorbar": {"title": UNITS[score]}},
        width=860,
        height=840,
        updatemenus=[menu],
        **_axes(scores, wires[first]),
    ).update_layout(margin_t=165)
