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
from interp.output.style import SCALE, expected, short, styled
from interp.results.by_head import ScoredHead
from probes.periodic.head_combs import HeadCombs
from probes.periodic.spectrum import AttentionSpectrum
from probes.plots.mosaics import ticks
from probes.plots.spectra import ABOVE, ATTENTION, SERIES, chosen_heads, mark, upward
from probes.plots.time_axis import cycles
from probes.stimuli.time_series import positive

LEVEL = 0.05
"""False discovery rate at which a comb counts as one."""


@checked
def second_spectrum(
    spectrum: AttentionSpectrum, head: Head | ScoredHead | str | None = None, *, spacings: Sequence[float] = ()
) -> go.Figure:
    """Draw the FFT of the one-sided magnitudes of attention and series: peaks at 1 / spacing of their combs.

    Args:
        spectrum: the attention.
        head: the head; by default the one with the highest amplitude.
        spacings: in cycles a unit of time, at whose periods, 1 / spacing, lines are drawn.

    Returns:
        The figure, the series on the left axis and the attention on the right one, over periods; the
        constant part is in the data, but does not scale the axes.

    Raises:
        InvalidInput: a head that the model does not have, or a spacing whose period is not on the axis.
        UnknownHead: a malformed address.
    """
    one = chosen_heads(expected(spectrum, AttentionSpectrum, "attention_spectrum"), head)[0]
    unit, longest = spectrum.series.unit, float(spectrum.periods[-1])
    wanted = sorted({positive("spacings", s) for s in np.atleast_1d(np.asarray(spacings))}, reverse=True)
    if far := [s for s in wanted if 1 / s > longest]:
        raise InvalidInput(
            f"spacings={far}: their periods are over {longest:g} {unit}, half of the context and the end of the axis. "
            f"Take {1 / longest:.3g} {cycles(unit)} or more."
        )
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    pairs = (
        ("series", spectrum.second_series, SERIES),
        ("attention", spectrum.second_spectrum[one.layer, one.head], ATTENTION),
    )
    for name, values, color in pairs:
        line = go.Scatter(x=spectrum.periods, y=values, name=name, mode="lines", line={"color": color, "width": 1.6})
        figure.add_trace(line, secondary_y=name == "attention")
        scale: dict[str, Any] = {
            "range": upward(values[1:]),
            "title": {"text": f"magnitude, {name}", "font": {"color": color}},
        }
        figure.update_yaxes(**scale, tickfont_color=color, zeroline=False, secondary_y=name == "attention")
    figure.update_yaxes(tickmode="auto", nticks=6, showgrid=False, secondary_y=True)
    figure.update_xaxes(title=f"period ({unit})", range=[0, longest], zeroline=False)
    for place, spacing in enumerate(wanted):
        # At two heights, one after the other: neighbours' labels need not fit side by side.
        label = {"text": f"{spacing:g} {cycles(unit)}", "showarrow": False, "font": {"size": 11, "color": "#555"}}
        where = {"x": 1 / spacing, "xref": "x", "y": 1 - 0.06 * (place % 3), "yref": "paper", "xanchor": "left"}
        figure.add_annotation(**label, **where, xshift=2, yanchor="top", bgcolor="rgba(255,255,255,0.75)")
    return styled(
        figure,
        f"Spectrum of the spectrum: {escape(short(spectrum.name))} · {one}",
        f"attention to {escape(spectrum.series.name)}; a comb of some spacing peaks at the period 1 / spacing",
        width=980,
        height=470,
        legend=ABOVE,
        hovermode="x",
        shapes=[mark(1 / s, "x", "y") for s in wanted],
    )


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
    expected(head_combs, HeadCombs, "AttentionSpectrum.comb")
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
