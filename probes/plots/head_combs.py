"""Figures of combs: the spectrum of a spectrum, and the spacing of each head's peaks.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, and its notebook.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp import Head
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import SCALE, short, styled
from interp.results.by_head import ScoredHead
from interp.results.result import Floats
from probes.induction.mosaic import THRESHOLD, Mosaic
from probes.periodic.head_combs import HeadCombs
from probes.periodic.spectrum import AttentionSpectrum
from probes.plots.head_lines import Group, check_mosaics, coloured, head_groups, head_lines, legend_entries
from probes.plots.heatmaps import ticks
from probes.plots.spectra import ABOVE, ATTENTION, BESIDE, SERIES, chosen_heads, mark, upward
from probes.plots.time_axis import cycles
from probes.stimuli.time_series import positive

LEVEL = 0.05
"""False discovery rate at which a comb counts as one."""


@checked
def second_spectrum(
    spectrum: AttentionSpectrum,
    head: Head | ScoredHead | str | None = None,
    *,
    mosaic: Mosaic | None = None,
    threshold: float = THRESHOLD,
    spacings: Sequence[float] = (),
) -> go.Figure:
    """Draw the FFT of the one-sided magnitudes of attention and series: peaks at 1 / spacing of their combs.

    Args:
        spectrum: the attention.
        head: draw this head alone; all heads by default.
        mosaic: of the same model; its induction heads are drawn on top, in the colour of their kind.
        threshold: score from which a head is an induction head.
        spacings: in cycles a unit of time, at whose periods, 1 / spacing, lines are drawn.

    Returns:
        The figure, the series on the left axis and the attention on the right one, over periods. All heads share the
        right axis, from 0, and the constant part is left out; a single head's line holds it, and the axis is not scaled
        by it.

    Raises:
        InvalidInput: a head that the model does not have, a mosaic of another model, or a spacing whose period is not
            on the axis.
        UnknownHead: a malformed address.
    """
    unit, longest = spectrum.series.unit, float(spectrum.periods[-1])
    wanted = _spacings(spacings, spectrum)
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    groups: list[Group] = []
    if head is None:
        mosaics = [] if mosaic is None else [mosaic]
        check_mosaics([spectrum], mosaics)
        groups = head_groups(spectrum, mosaic, threshold)
        lines = head_lines(spectrum.periods[1:], spectrum.second_spectrum[..., 1:], groups, "magnitude")
        traces, scale = [*lines, *legend_entries(groups)], upward(spectrum.second_spectrum[..., 1:], 0)
        shown, note = f"all {spectrum.attention[..., 0].size} heads", coloured(groups, threshold)
    else:
        one = chosen_heads(spectrum, head)[0]
        values = spectrum.second_spectrum[one.layer, one.head]
        traces, scale = [_line("attention", spectrum.periods, values, ATTENTION)], upward(values[1:])
        shown, note = str(one), ""
    bins = slice(int(head is None), None)
    series = _line("series", spectrum.series_periods[bins], spectrum.second_series[bins], SERIES)
    figure.add_trace(series, secondary_y=False)
    for trace in traces:
        figure.add_trace(trace, secondary_y=True)
    figure.update_yaxes(tickmode="auto", nticks=6, zeroline=False)
    figure.update_yaxes(range=upward(spectrum.second_series[1:]), title="magnitude, series", secondary_y=False)
    figure.update_yaxes(range=scale, title="magnitude, attention", showgrid=False, secondary_y=True)
    figure.update_xaxes(title=f"period ({unit})", range=[0, longest], zeroline=False)
    layout: Any = figure.layout
    if head is None:
        # The series lies over many faint lines.
        layout.yaxis2.update(overlaying=None, domain=[0, 1], ticklabelstandoff=5)
        layout.yaxis.overlaying = "y2"
    else:
        for axis, color in ((layout.yaxis, SERIES), (layout.yaxis2, ATTENTION)):
            axis.update(title_font_color=color, tickfont_color=color)
    for place, spacing in enumerate(wanted):
        # At two heights, one after the other: neighbours' labels need not fit side by side.
        label = {"text": f"{spacing:g} {cycles(unit)}", "showarrow": False, "font": {"size": 11, "color": "#555"}}
        where = {"x": 1 / spacing, "xref": "x", "y": 1 - 0.06 * (place % 3), "yref": "paper", "xanchor": "left"}
        figure.add_annotation(**label, **where, xshift=2, yanchor="top", bgcolor="rgba(255,255,255,0.75)")
    return styled(
        figure,
        f"Spectrum of the spectrum: {escape(short(spectrum.name))} · {shown}",
        f"attention to {escape(spectrum.series.name)}; a comb of some spacing peaks at the period 1 / spacing{note}",
        width=1120 if head is None else 980,
        # A legend of many layers needs its place.
        height=max(470, 210 + 20 * len(groups)),
        legend=BESIDE if head is None else ABOVE,
        hovermode="closest" if head is None else "x",
        shapes=[mark(1 / s, "x", "y") for s in wanted],
    )


def _spacings(spacings: Sequence[float], spectrum: AttentionSpectrum) -> list[float]:
    """Return the spacings to mark, widest first.

    Raises:
        InvalidInput: one that is not positive, or whose period is not on the axis.
    """
    unit, longest = spectrum.series.unit, float(spectrum.periods[-1])
    wanted = sorted({positive("spacings", s) for s in np.atleast_1d(np.asarray(spacings))}, reverse=True)
    if far := [s for s in wanted if 1 / s > longest]:
        raise InvalidInput(
            f"spacings={far}: their periods are over {longest:g} {unit}, half of the context and the end of the axis. "
            f"Take {1 / longest:.3g} {cycles(unit)} or more."
        )
    return wanted


def _line(name: str, x: Floats, y: Floats, color: str) -> go.Scatter:
    return go.Scatter(x=x, y=y, name=name, mode="lines", line={"color": color, "width": 1.6})


@checked
def combs(head_combs: HeadCombs) -> go.Figure:
    """Draw the strength of the comb in each head's spectrum, with its spacing where it is beyond chance.

    Args:
        head_combs: what `AttentionSpectrum.comb` returned.

    Returns:
        Layers down and heads across; heads that are not beyond chance (q over 0.05) are grey.

    Raises:
        InvalidInput: something other than combs.
    """
    layers, heads = head_combs.strength.shape
    beyond = head_combs.q <= LEVEL
    names = np.array([[f"{head_combs.site}.{i}.{j}" for j in range(heads)] for i in range(layers)], dtype=object)
    unit = cycles(head_combs.unit)
    shared: dict[str, Any] = {
        "customdata": np.dstack(
            [names, *(v.astype(object) for v in (head_combs.spacing, head_combs.strength, head_combs.p, head_combs.q))]
        ),
        "hovertemplate": f"%{{customdata[0]}}<br>spacing %{{customdata[1]:.4g}} {unit}<br>strength "
        "%{customdata[2]:.3f}<br>p %{customdata[3]:.3g}, q %{customdata[4]:.3g}<extra></extra>",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }
    spacings = [[f"{s:.3g}" if b else "" for s, b in zip(*rows, strict=True)]
                for rows in zip(head_combs.spacing, beyond, strict=True)]  # fmt: skip
    figure = go.Figure(
        [
            go.Heatmap(
                z=np.where(beyond, np.nan, 0.0), colorscale=[[0, "#e3e3e3"], [1, "#e3e3e3"]], showscale=False, **shared
            ),
            go.Heatmap(
                z=np.where(beyond, head_combs.strength, np.nan),
                coloraxis="coloraxis",
                text=spacings,
                texttemplate="%{text}",
                textfont={"size": 11},
                **shared,
            ),
        ]
    )
    figure.update_xaxes(title="head", range=[-0.5, heads - 0.5], showgrid=False, zeroline=False, **ticks(heads))
    figure.update_yaxes(title="layer", range=[layers - 0.5, -0.5], showgrid=False, zeroline=False, **ticks(layers))
    model = escape(short(str(head_combs.provenance.get("model", "model"))))
    return styled(
        figure,
        f"Combs in the attention's spectra: {model}",
        f"{int(beyond.sum())} of {beyond.size} heads beyond chance (q ≤ {LEVEL:g}), the others grey; "
        f"in the cells: spacing in {unit}",
        coloraxis={
            "colorscale": SCALE,
            "cmin": 0,
            "cmax": 1,
            "colorbar": {"title": {"text": "strength", "side": "right"}},
        },
        width=max(700, 200 + 46 * heads),
        height=max(400, 215 + 34 * layers),
    )
