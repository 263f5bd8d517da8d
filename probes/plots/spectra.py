"""Figures of attention over a series, in time and by frequency.

Source: "Hunting for Induction Heads in Amazon's Chronos", parts 1 and 2, and the notebook of part 2.
"""

from collections.abc import Sequence
from html import escape
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp import Head
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.names import as_head, parse_kind
from interp.output.style import COLORS, expected, short, styled, unique
from interp.results.by_head import Heads
from interp.validate import whole
from probes.periodic.spectrum import AttentionSpectrum
from probes.plots.time_axis import cycles, query_words, time_axis, times

OFFERED = 8
"""How many heads of a model the menu has."""

SERIES, ATTENTION, PREDICTION = COLORS["current_token"], COLORS["token_to_right"], "#222222"
ABOVE = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"}
"""A legend over the panels."""


@checked
def attention_spectrum(
    spectra: AttentionSpectrum | Sequence[AttentionSpectrum], *, heads: Heads | Sequence[Heads | None] | None = None
) -> go.Figure:
    """Draw the published figure: a head's attention over a series in time, and both their magnitude spectra.

    Args:
        spectra: one or several, such as one a model.
        heads: to choose from, of every model, or a list of such lists, one a model; by default (None)
            the eight of each with the highest amplitude, strongest first.

    Returns:
        Two panels with the series on the left axes and the attention on the right ones, and a menu of
        models and heads if there are several. Spectra hold the constant part, by which their axes are
        not scaled; dotted lines are at the frequencies that the series was made of.

    Raises:
        InvalidInput: no spectra, no heads, one twice, or one that a model does not have.
        UnknownHead: a malformed address.
    """
    items = spectra if isinstance(spectra, list | tuple) else [spectra]
    results = [expected(item, AttentionSpectrum, "attention_spectrum") for item in items]
    if not results:
        raise InvalidInput("no spectra to draw: give what probes.attention_spectrum returns, one or several.")
    names = [escape(name) for name in unique([spectrum.name for spectrum in results])]
    figure = make_subplots(
        rows=2, specs=[[{"secondary_y": True}], [{"secondary_y": True}]], vertical_spacing=0.13
    )  # fmt: skip
    lists: Any = heads
    apart = isinstance(lists, list | tuple) and any(item is None or isinstance(item, list | tuple) for item in lists)
    if apart and len(lists) != len(results):
        raise InvalidInput(
            f"{len(lists)} lists of heads and {len(results)} spectra: give one list a model, or one for all."
        )
    views: list[tuple[str, int, Head]] = []
    owners: list[tuple[int, Head | None]] = []
    for at, (name, spectrum) in enumerate(zip(names, results, strict=True)):
        chosen = chosen_heads(spectrum, lists[at] if apart else lists)
        views += [(f"{name} · {head}", at, head) for head in chosen]
        for head in (None, *chosen):
            drawn = _series_traces(spectrum) if head is None else _attention_traces(spectrum, head)
            owners += [(at, head)] * len(drawn)
            for trace, row in drawn:
                figure.add_trace(trace, row=row, col=1, secondary_y=head is not None)
    shown = [[owner in ((at, None), (at, head)) for owner in owners] for _, at, head in views]
    for trace, visible in zip(cast(Any, figure.data), shown[0], strict=True):
        trace.visible = visible
    for axis, color in (("yaxis", SERIES), ("yaxis2", ATTENTION), ("yaxis3", SERIES), ("yaxis4", ATTENTION)):
        figure.layout[axis].update(title_font_color=color, tickfont_color=color, zeroline=False)
    figure.update_yaxes(tickmode="auto", nticks=6, showgrid=False, secondary_y=True)
    figure.update_xaxes(zeroline=False)
    # High enough for the menu of two models; a longer one scrolls.
    size: dict[str, Any] = {"width": 980, "height": 690 if len(views) <= OFFERED else 750}
    styled(figure, "", **size, legend=ABOVE, hovermode="x", margin_t=150 if len(views) > 1 else 118)
    changes = [_layout(name, results[at], head) for name, at, head in views]
    for key, value in changes[0].items():
        figure.layout[key] = value
    if len(views) > 1:
        buttons = [
            {"label": view[0], "method": "update", "args": [{"visible": visible}, change]}
            for view, visible, change in zip(views, shown, changes, strict=True)
        ]
        figure.update_layout(
            updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.015, "yanchor": "bottom"}]
        )
    return figure


def _series_traces(spectrum: AttentionSpectrum) -> list[tuple[go.Scatter, int]]:
    series, n = spectrum.series, spectrum.attention.shape[-1]
    line: dict[str, Any] = {"color": SERIES, "width": 1.6}
    traces = [(go.Scatter(x=times(series, range(n)), y=series.values[:n], name="series", mode="lines", line=line), 1)]
    if len(series) > n:
        # From the context's last step on, so that the line has no gap.
        steps = range(n - 1, len(series))
        rest: dict[str, Any] = {"line": line | {"dash": "dot"}, "opacity": 0.6, "name": "series, at the decoder"}
        traces.append((go.Scatter(x=times(series, steps), y=series.values[n - 1 :], mode="lines", **rest), 1))
    if np.isfinite(spectrum.prediction):
        point: dict[str, Any] = {"mode": "markers", "marker": {"color": PREDICTION, "symbol": "diamond", "size": 9}}
        x = times(series, [spectrum.next_step])
        traces.append((go.Scatter(x=x, y=[spectrum.prediction], name="prediction", **point), 1))
    hidden: dict[str, Any] = {"name": "series", "showlegend": False, "mode": "lines", "line": line}
    return [*traces, (go.Scatter(x=spectrum.frequencies, y=spectrum.series_spectrum, **hidden), 2)]


def _attention_traces(spectrum: AttentionSpectrum, head: Head) -> list[tuple[go.Scatter, int]]:
    n, at = spectrum.attention.shape[-1], (head.layer, head.head)
    shared: dict[str, Any] = {"name": "attention", "mode": "lines", "line": {"color": ATTENTION, "width": 1.6}}
    over_time = go.Scatter(x=times(spectrum.series, range(n)), y=spectrum.attention[at], **shared)
    return [
        (over_time, 1),
        (go.Scatter(x=spectrum.frequencies, y=spectrum.spectrum[at], showlegend=False, **shared), 2),
    ]


def _layout(name: str, spectrum: AttentionSpectrum, head: Head) -> dict[str, Any]:
    """Return what else changes with the model and head, by the paths that the page and plotly's layout both know."""
    series, at = spectrum.series, (head.layer, head.head)
    axes = {
        "xaxis": time_axis(series, spectrum.next_step),
        "yaxis": {"range": _around([*series.values, spectrum.prediction]), "title.text": "series"},
        "yaxis2": {"range": upward(spectrum.attention[at]), "title.text": "attention"},
        "xaxis2": {"range": [0, float(spectrum.frequencies[-1])], "title.text": f"frequency ({cycles(series.unit)})"},
        "yaxis3": {"range": upward(spectrum.series_spectrum[1:]), "title.text": "magnitude, series"},
        "yaxis4": {"range": upward(spectrum.spectrum[at][1:]), "title.text": "magnitude, attention"},
    }
    query = query_words(series, spectrum.query_step)
    known = [f for f in series.frequencies if f <= spectrum.frequencies[-1]]
    marks = f"; dotted: {', '.join(f'{f:g}' for f in known)} {cycles(series.unit)}" if known else ""
    none = "" if np.isfinite(spectrum.prediction) else "; predicts no value but a special token"
    return {
        "title.text": name,
        "title.subtitle.text": f"attention to {escape(series.name)} from {query}{marks}{none}",
        "shapes": [mark(f, "x2", "y3") for f in known],
        **{f"{axis}.{key}": value for axis, changed in axes.items() for key, value in changed.items()},
    }


@checked
def attention_over_series(spectrum: AttentionSpectrum, head: int | None = None) -> go.Figure:
    """Draw a series, and over it the attention that one head of each decoder layer pays to it.

    Args:
        spectrum: the attention.
        head: index of the head in every layer; by default that of the highest attention of all.

    Returns:
        One row a layer over one time axis, each row's attention on a right axis of its own.

    Raises:
        InvalidInput: no such head.
    """
    layers, heads, n = expected(spectrum, AttentionSpectrum, "attention_spectrum").attention.shape
    if head is None:
        head = int(np.unravel_index(spectrum.attention.argmax(), spectrum.attention.shape)[1])
    if whole("head", head, 0) >= heads:
        raise InvalidInput(f"head={head}: {spectrum.name} has heads 0-{heads - 1} in each layer.")
    row_height = 120 if layers <= 8 else 96
    figure = make_subplots(
        rows=layers,
        shared_xaxes=True,
        specs=[[{"secondary_y": True}]] * layers,
        subplot_titles=[f"{spectrum.site}.{layer}.{head}" for layer in range(layers)],
        vertical_spacing=28 / (row_height * layers) if layers > 1 else 0,
    )
    figure.update_annotations(x=0, xanchor="left", font_size=12)
    before = [trace for trace, row in _series_traces(spectrum) if row == 1]
    for layer in range(layers):
        one = Head(*parse_kind(spectrum.site), layer, head)
        for trace in before:
            figure.add_trace(go.Scatter(trace).update(showlegend=layer == 0), row=layer + 1, col=1)
        paid = _attention_traces(spectrum, one)[0][0].update(showlegend=layer == 0)
        figure.add_trace(paid, row=layer + 1, col=1, secondary_y=True)
        scale = upward(spectrum.attention[layer, head])
        figure.update_yaxes(range=scale, row=layer + 1, col=1, secondary_y=True)
    for secondary, color in ((False, SERIES), (True, ATTENTION)):
        shown: dict[str, Any] = {"tickfont": {"color": color, "size": 11}, "nticks": 4, "zeroline": False}
        figure.update_yaxes(**shown, tickmode="auto", showgrid=not secondary, secondary_y=secondary)
    figure.update_yaxes(range=_around([*spectrum.series.values, spectrum.prediction]), secondary_y=False)
    along = time_axis(spectrum.series, spectrum.next_step)
    figure.update_xaxes(range=along["range"], type=along["type"], zeroline=False)
    figure.update_xaxes(title=along["title.text"], row=layers)
    query = query_words(spectrum.series, spectrum.query_step)
    return styled(
        figure,
        f"Attention to {escape(spectrum.series.name)}: {escape(short(spectrum.name))}, head {head} of each layer",
        f"from {query} over {n} steps; each row has its own scale of attention",
        width=980,
        height=178 + row_height * layers,
        hovermode="x",
    ).update_layout(legend=ABOVE | {"y": 1 + 22 / (row_height * layers)}, margin_t=130)


def chosen_heads(spectrum: AttentionSpectrum, heads: Any) -> list[Head]:
    """Return the heads to draw, each checked against the model: by default those of the highest amplitude."""
    if heads is None:
        return [scored.address for scored in spectrum.amplitude.heads()[:OFFERED]]
    several = heads if isinstance(heads, list | tuple) else [heads]
    addresses = [as_head(head) for head in several]
    if not addresses or len(set(addresses)) < len(addresses):
        raise InvalidInput(f"heads={heads!r}: give at least one, and each once.")
    layers, count = spectrum.attention.shape[:2]
    for head in addresses:
        if f"{head.stack}.{head.kind}" != spectrum.site or head.layer >= layers or head.head >= count:
            raise InvalidInput(
                f"{head}: {spectrum.name} has {spectrum.site} layers 0-{layers - 1} of heads 0-{count - 1}. Choose "
                "among them."
            )
    return addresses


def upward(values: Any) -> list[float]:
    """Return a range from zero past the largest value, so that lines at either end are seen whole."""
    top = float(np.max(values, initial=0)) or 1.0
    return [-0.02 * top, 1.06 * top]


def _around(values: Any) -> list[float]:
    """Return a range a little wider than the values."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    edge = 0.06 * (high - low) or 1.0
    return [low - edge, high + edge]


def mark(x: float, xaxis: str, yaxis: str) -> dict[str, Any]:
    """Draw a dotted line over the height of a panel."""
    line = {"color": "#999999", "width": 1, "dash": "dot"}
    place = {"x0": x, "x1": x, "xref": xaxis, "y0": 0, "y1": 1, "yref": f"{yaxis} domain"}
    return {"type": "line", **place, "line": line, "layer": "below"}
