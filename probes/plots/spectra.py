"""Figures of attention over a series, in time and by frequency.

Source: "Hunting for Induction Heads in Amazon's Chronos", parts 1 and 2, and the notebook of part 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp import Head
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.names import as_head, parse_kind
from interp.output.style import COLORS, short, styled, unique
from interp.results.by_head import Heads
from interp.validate import whole
from probes.induction.mosaic import THRESHOLD, Mosaic
from probes.periodic.spectrum import AttentionSpectrum
from probes.plots.head_lines import (
    Group,
    check_mosaics,
    coloured,
    head_groups,
    head_lines,
    legend_entries,
    mosaic_of,
)
from probes.plots.time_axis import cycles, step_words, time_axis, times

OFFERED = 8
"""How many heads of a model the menu has."""

SERIES, ATTENTION, PREDICTION = "#3d3d3d", COLORS["token_to_right"], "#111111"
ABOVE = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"}
"""A legend over the panels."""

BESIDE = {"x": 1.08, "xanchor": "left", "y": 1, "yanchor": "top", "tracegroupgap": 0}
"""A legend beside the panels, right of the attention's axis."""

Drawn = list[tuple[go.Scatter, int]]
"""Traces, each with the row of its panel."""


@dataclass(frozen=True, eq=False)
class View:
    """What a menu's entry shows: traces of a model's attention, and the layout that belongs to them."""

    name: str
    at: int
    traces: Drawn
    layout: dict[str, Any]


@checked
def attention_spectrum(
    spectra: AttentionSpectrum | Sequence[AttentionSpectrum],
    *,
    heads: Heads | Sequence[Heads | None] | None = None,
    mosaics: Mosaic | Sequence[Mosaic] = (),
    threshold: float = THRESHOLD,
) -> go.Figure:
    """Draw the published figure: attention over a series in time, and both their magnitude spectra, of all heads.

    Args:
        spectra: one or several, such as one a model.
        heads: draw one head at a time instead: these heads of every model, or a list of such lists, one a model, where
            None stands for the eight with the highest amplitude.
        mosaics: of these models; their induction heads are drawn on top, in the colour of their kind.
        threshold: score from which a head is an induction head.

    Returns:
        Two panels with the series on the left axes and the attention on the right ones, and a menu of models, or of
        models and heads, if there are several. All heads share one attention axis, from 0, and their colour is that of
        their layer without a mosaic; the constant part of their spectra is left out. A single head's spectrum holds it,
        and the axis is not scaled by it. Dotted lines are at the frequencies that the series was made of.

    Raises:
        InvalidInput: no spectra, no heads, one twice, or one that a model does not have; a mosaic of another model.
        UnknownHead: a malformed address.
    """
    results = [spectra] if isinstance(spectra, AttentionSpectrum) else list(spectra)
    if not results:
        raise InvalidInput("no spectra to draw: give what probes.attention_spectrum returns, one or several.")
    names = [escape(name) for name in unique([spectrum.name for spectrum in results])]
    if heads is None:
        views = _views_of_all(results, names, [mosaics] if isinstance(mosaics, Mosaic) else list(mosaics), threshold)
    else:
        views = _views_of_heads(results, names, heads)
    figure = make_subplots(
        rows=2, specs=[[{"secondary_y": True}], [{"secondary_y": True}]], vertical_spacing=0.13
    )  # fmt: skip
    owners: list[int | View] = []
    for at, spectrum in enumerate(results):
        mine: list[tuple[int | View, Drawn]] = [(at, _series_traces(spectrum, first_bin=int(heads is None)))]
        mine += [(view, view.traces) for view in views if view.at == at]
        for owner, drawn in mine:
            owners += [owner] * len(drawn)
            for trace, row in drawn:
                figure.add_trace(trace, row=row, col=1, secondary_y=isinstance(owner, View))
    shown = [[owner is view or owner == view.at for owner in owners] for view in views]
    for trace, visible in zip(cast(Any, figure.data), shown[0], strict=True):
        trace.visible = visible
    figure.update_yaxes(zeroline=False, tickmode="auto", nticks=6)
    figure.update_yaxes(showgrid=False, secondary_y=True)
    figure.update_xaxes(zeroline=False)
    # High enough for the menu of two models; a longer one scrolls.
    size: dict[str, Any] = {"width": 980, "height": 690 if len(views) <= OFFERED else 750}
    margin = 150 if len(views) > 1 else 118
    if heads is None:
        size = {"width": 1120, "height": 780}
        styled(figure, "", **size, legend=BESIDE, hovermode="closest", margin_t=margin)
        _set_apart(figure)
    else:
        for axis, color in (("yaxis", SERIES), ("yaxis2", ATTENTION), ("yaxis3", SERIES), ("yaxis4", ATTENTION)):
            figure.layout[axis].update(title_font_color=color, tickfont_color=color)
        styled(figure, "", **size, legend=ABOVE, hovermode="x", margin_t=margin)
    for key, value in views[0].layout.items():
        figure.layout[key] = value
    if len(views) > 1:
        buttons = [
            {"label": view.name, "method": "update", "args": [{"visible": visible}, view.layout]}
            for view, visible in zip(views, shown, strict=True)
        ]
        figure.update_layout(
            updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.015, "yanchor": "bottom"}]
        )
    return figure


def _set_apart(figure: go.Figure) -> None:
    """Draw the series above the many faint lines of attention over time, and its spectrum over theirs."""
    layout: Any = figure.layout
    layout.yaxis.update(domain=[0.86, 1], nticks=4)
    layout.yaxis2.update(domain=[0.5, 0.83], overlaying=None, showgrid=True)
    layout.xaxis.anchor = "y2"
    layout.yaxis4.update(domain=[0, 0.4], overlaying=None)
    layout.yaxis3.update(domain=[0, 0.4], overlaying="y4")
    for axis in (layout.xaxis, layout.xaxis2, layout.yaxis2, layout.yaxis4):
        axis.ticklabelstandoff = 5


def _views_of_all(
    results: Sequence[AttentionSpectrum], names: Sequence[str], mosaics: Sequence[Mosaic], threshold: float
) -> list[View]:
    """Return one view a model, of all its heads."""
    check_mosaics(results, mosaics)
    views: list[View] = []
    for at, (name, spectrum) in enumerate(zip(names, results, strict=True)):
        groups = head_groups(spectrum, mosaic_of(spectrum, mosaics), threshold)
        traces: Drawn = [(trace, 1) for trace in _over_time(spectrum, groups)]
        bins = spectrum.frequencies[1:], spectrum.spectrum[..., 1:]
        traces += [(trace, 2) for trace in head_lines(*bins, groups, "magnitude")]
        traces += [(trace, 1) for trace in legend_entries(groups)]
        layout = _layout(name, spectrum, upward(spectrum.attention, 0), upward(bins[1], 0))
        layout["title.text"] = f"{name} · all {spectrum.attention[..., 0].size} heads"
        layout["title.subtitle.text"] += coloured(groups, threshold)
        views.append(View(name, at, traces, layout))
    return views


def _views_of_heads(results: Sequence[AttentionSpectrum], names: Sequence[str], heads: Any) -> list[View]:
    """Return one view a model and head."""
    apart = isinstance(heads, list | tuple) and any(item is None or isinstance(item, list | tuple) for item in heads)
    if apart and len(heads) != len(results):
        raise InvalidInput(
            f"{len(heads)} lists of heads and {len(results)} spectra: give one list a model, or one for all."
        )
    views: list[View] = []
    for at, (name, spectrum) in enumerate(zip(names, results, strict=True)):
        for head in chosen_heads(spectrum, heads[at] if apart else heads):
            place, title = (head.layer, head.head), f"{name} · {head}"
            scales = upward(spectrum.attention[place]), upward(spectrum.spectrum[place][1:])
            layout = _layout(title, spectrum, *scales)
            views.append(View(title, at, _attention_traces(spectrum, head), layout))
    return views


def _series_traces(spectrum: AttentionSpectrum, first_bin: int = 0) -> Drawn:
    series, n = spectrum.series, len(spectrum.context)
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
    bins: dict[str, Any] = {"x": spectrum.series_frequencies[first_bin:], "y": spectrum.series_spectrum[first_bin:]}
    return [*traces, (go.Scatter(**bins, **hidden), 2)]


def _attention_traces(spectrum: AttentionSpectrum, head: Head) -> Drawn:
    at = (head.layer, head.head)
    shared: dict[str, Any] = {"name": "attention", "mode": "lines", "line": {"color": ATTENTION, "width": 1.6}}
    over_time = go.Scatter(x=times(spectrum.series, spectrum.steps), y=spectrum.attention[at], **shared)
    over_time.update(line_shape=_shape(spectrum))
    return [
        (over_time, 1),
        (go.Scatter(x=spectrum.frequencies, y=spectrum.spectrum[at], showlegend=False, **shared), 2),
    ]


def _layout(name: str, spectrum: AttentionSpectrum, attention: list[float], magnitude: list[float]) -> dict[str, Any]:
    """Return what else changes with the model and head, by the paths that the page and plotly's layout both know."""
    series, top = spectrum.series, float(spectrum.series_frequencies[-1])
    if spectrum.patch > 1:
        # Beyond what the attention shows only as far as the series' own frequencies.
        top = min(top, max([2 * spectrum.nyquist, *(1.1 * f for f in series.frequencies)]))
    axes = {
        "xaxis": time_axis(series, spectrum.next_step),
        "yaxis": {"range": _around([*series.values, spectrum.prediction]), "title.text": "series"},
        "yaxis2": {"range": attention, "title.text": "attention"},
        "xaxis2": {
            "range": [0, top],
            "title.text": f"frequency ({cycles(series.unit)})",
        },
        "yaxis3": {"range": upward(spectrum.series_spectrum[1:]), "title.text": "magnitude, series"},
        "yaxis4": {"range": magnitude, "title.text": "magnitude, attention"},
    }
    query = query_words(spectrum)
    known = [f for f in series.frequencies if f <= top]
    marks = f"; dotted: {', '.join(f'{f:g}' for f in known)} {cycles(series.unit)}" if known else ""
    if spectrum.patch > 1:
        marks += f"; attention to {_extent(spectrum)} shows at most {spectrum.nyquist:.3g} {cycles(series.unit)}"
    none = "" if np.isfinite(spectrum.prediction) else "; predicts no value but a special token"
    return {
        "title.text": name,
        "title.subtitle.text": f"attention to {escape(series.name)} from {query}{marks}{none}",
        "shapes": [mark(f, "x2", "y3") for f in known],
        **{f"{axis}.{key}": value for axis, changed in axes.items() for key, value in changed.items()},
    }


@checked
def attention_over_series(
    spectrum: AttentionSpectrum,
    head: int | None = None,
    *,
    layers: Sequence[int] | None = None,
    mosaic: Mosaic | None = None,
    threshold: float = THRESHOLD,
) -> go.Figure:
    """Draw a series, and over it the attention that all heads of each layer pay to it.

    Args:
        spectrum: the attention.
        head: draw one head of each layer instead, the one of this index.
        layers: the layers to draw; all by default.
        mosaic: of the same model; its induction heads are drawn on top, in the colour of their kind.
        threshold: score from which a head is an induction head.

    Returns:
        One row a layer over one time axis, with the attention on right axes: one scale from 0 for all heads, or each
        row's own for a single head.

    Raises:
        InvalidInput: no such head or layer, a layer twice, or a mosaic of another model.
    """
    shown = _chosen_layers(spectrum, layers, head)
    check_mosaics([spectrum], [] if mosaic is None else [mosaic])
    groups = head_groups(spectrum, mosaic, threshold, shown) if head is None else []
    row_height = 120 if len(shown) <= 8 else 96
    figure = make_subplots(
        rows=len(shown),
        shared_xaxes=True,
        specs=[[{"secondary_y": True}]] * len(shown),
        subplot_titles=[f"{spectrum.site}.{layer}{'' if head is None else f'.{head}'}" for layer in shown],
        vertical_spacing=28 / (row_height * len(shown)) if len(shown) > 1 else 0,
    )
    figure.update_annotations(x=0, xanchor="left", font_size=12)
    before = [trace for trace, row in _series_traces(spectrum) if row == 1]
    common = upward(spectrum.attention[shown], 0)
    for row, layer in enumerate(shown, start=1):
        for trace in before:
            figure.add_trace(go.Scatter(trace).update(showlegend=row == 1), row=row, col=1)
        if head is None:
            own = [replace(group, heads=tuple(h for h in group.heads if h.layer == layer)) for group in groups]
            paid, scale = _over_time(spectrum, own), common
        else:
            one = Head(*parse_kind(spectrum.site), layer, head)
            paid = [_attention_traces(spectrum, one)[0][0].update(showlegend=row == 1)]
            scale = upward(spectrum.attention[layer, head])
        for trace in paid:
            figure.add_trace(trace, row=row, col=1, secondary_y=True)
        figure.update_yaxes(range=scale, row=row, col=1, secondary_y=True)
    # Without a mosaic a row's title says what its colour means.
    for trace in legend_entries(groups) if mosaic is not None else []:
        figure.add_trace(trace, row=1, col=1, secondary_y=True)
    for secondary, color in ((False, SERIES), (True, SERIES if head is None else ATTENTION)):
        ticks: dict[str, Any] = {"tickfont": {"color": color, "size": 11}, "nticks": 4, "zeroline": False}
        ticks["title"] = {"text": "attention" if secondary else "series", "font": {"color": color, "size": 11}}
        figure.update_yaxes(**ticks, tickmode="auto", showgrid=not secondary, secondary_y=secondary)
    figure.update_yaxes(range=_around([*spectrum.series.values, spectrum.prediction]), secondary_y=False)
    along = time_axis(spectrum.series, spectrum.next_step)
    figure.update_xaxes(range=along["range"], type=along["type"], zeroline=False)
    figure.update_xaxes(title=along["title.text"], row=len(shown))
    query = query_words(spectrum)
    which = "all heads" if head is None else f"head {head}"
    scale = "one scale of attention" if head is None else "each row has its own scale of attention"
    return styled(
        figure,
        f"Attention to {escape(spectrum.series.name)}: {escape(short(spectrum.name))}, {which} of each layer",
        f"from {query} over {_extent(spectrum)}; {scale}{coloured(groups, threshold) if groups else ''}",
        width=1120 if head is None else 980,
        height=max(178 + row_height * len(shown), 330),
        hovermode="closest" if head is None else "x",
        legend=BESIDE if head is None else ABOVE | {"y": 1 + 22 / (row_height * len(shown))},
    ).update_layout(margin_t=130)


def _chosen_layers(spectrum: AttentionSpectrum, layers: Sequence[int] | None, head: int | None) -> list[int]:
    """Return the layers to draw, checked against the model, as is the index of a head."""
    count, heads, _ = spectrum.attention.shape
    shown = list(range(count)) if layers is None else [whole("layers", layer, 0) for layer in layers]
    if not shown or len(set(shown)) < len(shown) or max(shown) >= count:
        raise InvalidInput(f"layers={shown}: {spectrum.name} has layers 0-{count - 1}. Give at least one, each once.")
    if head is not None and whole("head", head, 0) >= heads:
        raise InvalidInput(f"head={head}: {spectrum.name} has heads 0-{heads - 1} in each layer.")
    return shown


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


def upward(values: Any, below: float = 0.02) -> list[float]:
    """Return a range from zero past the largest value, beginning a little below, so that lines at 0 are seen whole."""
    top = float(np.max(values, initial=0)) or 1.0
    return [-below * top, 1.06 * top]


def _around(values: Any) -> list[float]:
    """Return a range a little wider than the values."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    edge = 0.06 * (high - low) or 1.0
    return [low - edge, high + edge]


def _over_time(spectrum: AttentionSpectrum, groups: Sequence[Group]) -> list[go.Scatter]:
    """Draw the attention of groups of heads over time, of patches one level each."""
    lines = head_lines(times(spectrum.series, spectrum.steps), spectrum.attention, groups, "attention")
    return [line.update(line_shape=_shape(spectrum)) for line in lines]


def _shape(spectrum: AttentionSpectrum) -> str:
    """Return how values of attention are joined: by lines or, of patches, as a level over the patch's steps."""
    return "linear" if spectrum.patch == 1 else "hvh"


def _extent(spectrum: AttentionSpectrum) -> str:
    """Say over how much of the series attention was measured."""
    if spectrum.patch == 1:
        return f"{len(spectrum.context)} steps"
    return f"{spectrum.attention.shape[-1]} patches of {spectrum.patch} steps"


def query_words(spectrum: AttentionSpectrum) -> str:
    """Name what looks back: a step, by its date where it is known, the start token, or a position of the encoder."""
    if spectrum.query != "decoder":
        return {"reg": "[REG]", "last_patch": "the last patch"}[spectrum.query]
    return step_words(spectrum.series, spectrum.query_step)


def mark(x: float, xaxis: str, yaxis: str) -> dict[str, Any]:
    """Draw a dotted line over the height of a panel."""
    line = {"color": "#999999", "width": 1, "dash": "dot"}
    place = {"x0": x, "x1": x, "xref": xaxis, "y0": 0, "y1": 1, "yref": f"{yaxis} domain"}
    return {"type": "line", **place, "line": line, "layer": "below"}
