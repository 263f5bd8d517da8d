"""Figures of induction mosaics in patches: where heads look from three queries, and how they score on the controls."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.output.style import COLORS, SCALE, short, styled
from interp.validate import number, whole
from probes.induction.mosaic import KINDS, Mosaic
from probes.induction.patch_mosaic import REPEATED, PatchMosaic
from probes.plots.heatmaps import heatmap, rings, strongest, ticks

KIND_NAMES = ("current patch", "patch to right")
"""The kinds of mosaics, as figures of patches write them."""

QUERY_NAMES = {"decoder": "decoder", "reg": "[REG]", "last_patch": "last patch"}
"""What looks, as figures write it."""

STIMULI = {
    REPEATED: ("repeated", COLORS["token_to_right"], "circle"),
    "unrepeated": ("nothing repeated", "#777777", "x"),
    "off_patch": ("period of no whole patch", "#777777", "diamond-open"),
    "shifted": ("other levels", "#2a7f9e", "triangle-up-open"),
    "shuffled": ("shuffled inside patches", "#2a7f9e", "square-open"),
}
"""The name, colour and symbol of each stimulus; in grey those in which nothing is found by patches."""


def stimulus_words(result: PatchMosaic) -> str:
    """Say in words which patches a mosaic was measured on."""
    stimulus = result.provenance.get("stimulus", {})
    numbers = stimulus.get("coefficients")
    kind = "independent values" if numbers is None else f"{numbers} coefficient{'s' if numbers != 1 else ''}"
    return (
        f"{stimulus.get('patches')} random patches of {kind}, {stimulus.get('repetitions')} repetitions and "
        f"{stimulus.get('extension')} more, batch {stimulus.get('batch_size')}"
    )


def patch_mosaic(result: PatchMosaic, threshold: float) -> go.Figure:
    """Draw the mosaic of a model that reads patches: a row a query, with both scores and that on unrepeated patches.

    Args:
        result: the mosaic.
        threshold: heads at or over it are ringed.
    """
    queries = result.mosaics[REPEATED]
    least = number("threshold", threshold)
    titles: list[str] = []
    for query, mosaic in queries.items():
        counts, control = mosaic.counts(least), result.mosaics["unrepeated"][query].counts(least).either
        first = f"{mosaic.site} from {QUERY_NAMES[query]}"
        current, right = (strongest(getattr(mosaic, kind), least, "the strongest is ") for kind in KINDS)
        titles += [f"{first}, {KIND_NAMES[0]}: {counts.current_token} of {counts.n_heads}{current}"]
        titles += [f"{KIND_NAMES[1]}: {counts.token_to_right}{right}", f"nothing repeated, either: {control}"]
    figure = make_subplots(
        rows=len(queries), cols=3, subplot_titles=titles, horizontal_spacing=0.06, vertical_spacing=0.4 / len(queries)
    )
    figure.update_annotations(font_size=12)
    for row, (query, mosaic) in enumerate(queries.items(), start=1):
        panels = [getattr(mosaic, kind) for kind in KINDS] + [result.mosaics["unrepeated"][query].either]
        for column, scores in enumerate(panels, start=1):
            figure.add_trace(heatmap(scores, "coloraxis"), row=row, col=column)
            figure.add_trace(rings(scores, least), row=row, col=column)
            layers, heads = scores.values.shape
            across: dict[str, Any] = {"range": [-0.5, heads - 0.5], "title": "head" if row == len(queries) else None}
            down: dict[str, Any] = {"range": [layers - 0.5, -0.5], "title": "layer" if column == 1 else None}
            figure.update_xaxes(**across, **ticks(heads), showgrid=False, zeroline=False, row=row, col=column)
            figure.update_yaxes(**down, **ticks(layers), showgrid=False, zeroline=False, row=row, col=column)
    layers = max(len(mosaic.current_token.values) for mosaic in queries.values())
    return styled(
        figure,
        f"Induction mosaic of {short(result.name)}",
        f"attention to the last patch's earlier occurrence, or to the patch after it: {stimulus_words(result)}; "
        f"ringed: at least {least:g}",
        coloraxis={"colorscale": SCALE, "cmin": 0, "cmax": 1, "colorbar": {"title": "attention"}},
        width=1120,
        height=162 + len(queries) * max(162, 72 + 26 * layers),
    ).update_layout(margin_t=137)


def controls(result: PatchMosaic, most: int = 8) -> go.Figure:
    """Draw the strongest heads of each query on repeated patches and on the controls, one row a head.

    Args:
        result: the mosaic.
        most: how many heads of each query.
    """
    queries = result.mosaics[REPEATED]
    figure = make_subplots(
        cols=len(queries),
        subplot_titles=[f"{mosaic.site} from {QUERY_NAMES[query]}" for query, mosaic in queries.items()],
        horizontal_spacing=0.5 / max(len(queries), 2),
    )
    for column, (query, mosaic) in enumerate(queries.items(), start=1):
        strongest = mosaic.either.heads()[: whole("most", most, 1)]
        names = [str(head.address) for head in strongest]
        for stimulus, (name, color, symbol) in STIMULI.items():
            scores = _same_kind(result.mosaics[stimulus][query], mosaic)
            figure.add_trace(
                go.Scatter(
                    x=[scores[head.address.layer, head.address.head] for head in strongest],
                    y=names,
                    mode="markers",
                    name=name,
                    legendgroup=stimulus,
                    showlegend=column == 1,
                    marker={"color": color, "symbol": symbol, "size": 9, "line": {"width": 1.6}},
                    hovertemplate=f"%{{y}}<br>{name}: %{{x:.3f}}<extra></extra>",
                ),
                row=1,
                col=column,
            )
    figure.update_annotations(font_size=13)
    figure.update_xaxes(range=[-0.03, 1.03], title="attention", zeroline=False)
    figure.update_yaxes(autorange="reversed")
    return styled(
        figure,
        f"Induction heads of {short(result.name)} and their controls",
        f"each head's stronger score; grey: nothing comes again patch by patch; {stimulus_words(result)}",
        width=1120,
        height=200 + 30 * most,
        legend={"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"},
    ).update_layout(margin_t=110, margin_b=100)


def _same_kind(mosaic: Mosaic, of: Mosaic) -> Any:
    """Return the scores of a mosaic, of each head in the kind in which it is stronger in another one."""
    current = of.current_token.values >= of.token_to_right.values
    return np.where(current, mosaic.current_token.values, mosaic.token_to_right.values)
