"""Figures of forecasts with and without heads: fans, and changes against controls."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.ablation.forecast_effects import ForecastEffects
from circuits.plots.ablation import CONTROL, HEADS
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import short, styled
from interp.output.time_axis import axis_layout, axis_values
from interp.results.result import Floats
from interp.results.statistics import band_words
from interp.validate import whole

LINE = 76
"""Characters of members that a panel's title has room for."""

UNEDITED = "#1f6f8b"
TITLES = {
    "nll": "negative log-likelihood, nats a step",
    "crps": "CRPS of the bins",
    "mase": "MASE",
    "wql": "weighted quantile loss",
    "pinball": "pinball loss, scaled as MASE",
    "coverage": "share of steps inside the band",
    "crossing": "share of quantiles that cross",
    "distance": "distance to the unedited",
    "to_parroting": "distance to parroting",
    "parroting": "correlation with parroting",
}
"""What is drawn of those outcomes that there are."""


@checked
def forecast_fan(effects: ForecastEffects, series: int = 0, names: list[str] | None = None) -> go.Figure:
    """Forecast fans before and after, one panel an ablation.

    Args:
        effects: the result.
        series: which series.
        names: of the ablations (or controls) to show; all ablations by default.

    Returns:
        The median and the band between the lowest and the highest quantile, unedited and ablated, with the context and
        the truth, over the series' dates where it has them. All begin at the context's last known value, which belongs
        to the context alone.

    Raises:
        InvalidInput: no such series or variant.
    """
    if whole("series", series, 0) >= len(effects.truth):
        raise InvalidInput(f"series={series}: there are series 0-{len(effects.truth) - 1}.")
    shown = list(effects.controls) if names is None else names
    if unknown := [name for name in shown if name not in effects.names] or not shown:
        raise InvalidInput(f"no variants called {unknown}: there are {', '.join(effects.names)}.")
    context, truth, index = effects.contexts[series], effects.truth[series], effects.indexes[series]
    start, end = len(context), len(context) + len(truth)
    medians = effects.medians
    # A shorter series is padded on the left, and its own steps are the last ones.
    first = 0 if index is None else end - len(index)
    # The point at the context's end joins lines, over values that are missing there; hovering leaves it out.
    joint = int(np.flatnonzero(np.isfinite(context))[-1])
    ahead = _times(index, [joint, *range(start, end)], first)
    after = ["skip", *["all"] * len(truth)]
    figure = make_subplots(
        rows=len(shown), subplot_titles=[_title(effects, name) for name in shown], shared_xaxes=True,
        vertical_spacing=min(0.09, 0.3 / len(shown)),
    )  # fmt: skip
    what = _what(effects, shown)
    for row, name in enumerate(shown, start=1):
        # Of a few points plotly would draw markers too.
        past = go.Scatter(
            x=_times(index, range(first, start), first), y=context[first:], mode="lines", line_color="#333",
            name="context", legendgroup="context",
        )  # fmt: skip
        came = go.Scatter(
            x=ahead, y=[context[joint], *truth], mode="lines", line={"color": "#333", "dash": "dot"}, name="what came",
            legendgroup="truth", hoverinfo=after,
        )  # fmt: skip
        traces = [past, came]
        for variant, color, title in (("unedited", UNEDITED, "unedited"), (name, HEADS, what[0])):
            place = effects.names.index(variant)
            fan, median = effects.fans[place, series], medians[place, series]
            low, middle, high = ([context[joint], *level] for level in (fan[0], median, fan[-1]))
            traces.append(
                go.Scatter(
                    x=[*ahead, *ahead[::-1]], y=[*high, *low[::-1]], fill="toself", mode="lines", line_width=0,
                    fillcolor=_faint(color), hoverinfo="skip", showlegend=False,
                )
            )  # fmt: skip
            traces.append(
                go.Scatter(
                    x=ahead, y=middle, mode="lines", line={"color": color, "width": 2.3}, name=title,
                    legendgroup=title, hoverinfo=after,
                )
            )  # fmt: skip
        for trace in traces:
            if row > 1:
                trace.showlegend = False
            figure.add_trace(trace, row=row, col=1)
    shown_from = max(first, start - 4 * len(truth))
    axis: dict[str, Any] = {"title.text": "step"} if index is None else axis_layout(index)
    title = axis.pop("title.text")
    figure.update_xaxes(range=list(_times(index, [shown_from, end], first)), **axis)
    figure.update_xaxes(title=title, row=len(shown), col=1)
    name, panels = effects.series_names[series], 230 * len(shown)
    return styled(
        figure,
        f"Forecasts before and after, {f'series {series}' if name is None else escape(name)}",
        f"{short(str(effects.provenance.get('model')))}{what[1]}, {_how(effects)}; "
        f"bands: {100 * effects.levels[0]:g}-{100 * effects.levels[-1]:g} %",
        width=900,
        height=215 + panels,
        # Under the two lines that dates may take, and the axis' title.
        legend={"orientation": "h", "y": -66 / panels, "yanchor": "top", "x": 0},
    ).update_layout(margin_b=97)


def _what(effects: ForecastEffects, names: Sequence[str]) -> tuple[str, str]:
    """Name forecasts that are not unedited, and say how heads are ablated, where they are."""
    # An edit is written as a call, a head as its address.
    edits = ["(" in member for name in names for member in effects.sets[name]]
    return "edited" if any(edits) else "ablated", "" if all(edits) else f", {effects.provenance.get('method')} ablation"


def _how(effects: ForecastEffects) -> str:
    """Say in a few words what quantiles are of."""
    horizon = effects.provenance.get("horizon")
    if horizon is None:
        return f"{effects.provenance.get('num_samples')} samples with common random numbers"
    if effects.truth.shape[1] <= horizon:
        return "the model's own quantiles"
    return f"the model's own quantiles for {horizon} steps, then Chronos' heuristic"


def _times(index: pd.Index | None, steps: Sequence[int], first: int) -> list[str] | Floats:
    """Return where steps of a context stand on the axis; `first` is the step of the index' first entry."""
    if index is None:
        return np.asarray(steps, dtype=np.float64)
    return axis_values(index, [step - first for step in steps])


def _title(effects: ForecastEffects, name: str) -> str:
    """Name an ablation and as many of its members as fit into a line."""
    members = effects.sets[name]
    fit = next((n for n in range(4, 1, -1) if len(", ".join(members[:n])) <= LINE), 1)
    more = f" and {len(members) - fit} more" if len(members) > fit else ""
    return f"{name}: {', '.join(members[:fit])}{more}"


def _faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},.18)"


@checked
def forecast_effects(effects: ForecastEffects) -> go.Figure:
    """Draw what each ablation does to the forecasts, beside its controls, outcome by outcome.

    Args:
        effects: the result.

    Returns:
        Means over series of the unedited and the ablated forecasts and of the controls, with Student's
        95 % intervals of the ablation's change over series, and the range of the control sets (95 % of 39 or more). The
        dotted line is the share of steps that a band should hold.
    """
    frame = effects.summary()
    shown = [outcome for outcome in TITLES if outcome in effects.outcomes]
    if "nll" in shown:
        shown.remove("to_parroting")
    what = _what(effects, list(effects.controls))
    columns = len(shown) // 2
    figure = make_subplots(
        rows=2, cols=columns, subplot_titles=[TITLES[outcome] for outcome in shown], vertical_spacing=0.24
    )
    for index, outcome in enumerate(shown):
        rows = frame.loc[frame["outcome"] == outcome]
        base = rows["unedited"].to_numpy()
        bars = (
            ("unedited", base, None, None, UNEDITED),
            (what[0], rows["ablated"], base + rows["low"], base + rows["high"], HEADS),
            ("control heads", base + rows["control"], base + rows["control_low"], base + rows["control_high"], CONTROL),
        )
        for name, values, low, high, color in bars:
            error = None
            if low is not None and high is not None:
                error = {"type": "data", "array": high - values, "arrayminus": values - low, "thickness": 1.2}
            figure.add_trace(
                go.Bar(
                    x=rows["ablation"], y=values, name=name, marker_color=color, error_y=error, legendgroup=name,
                    showlegend=index == 0,
                ),
                row=index // columns + 1, col=index % columns + 1,
            )  # fmt: skip
    for outcome in {"coverage", "crossing"} & set(shown):
        place: dict[str, Any] = {"row": shown.index(outcome) // columns + 1, "col": shown.index(outcome) % columns + 1}
        figure.update_yaxes(tickformat=".1%", rangemode="nonnegative", **place)
        if outcome == "coverage":
            figure.update_yaxes(tickformat=".0%", range=[0, 1], **place)
            figure.add_hline(y=effects.levels[-1] - effects.levels[0], line_dash="dot", line_color="#555", **place)
    sets = band_words((len(names) for names in effects.controls.values()), "control sets")
    return styled(
        figure,
        "Do the heads cause the forecast?",
        f"{short(str(effects.provenance.get('model')))}{what[1]}, means over "
        f"{len(effects.truth)} series; bars: 95 % over series, and {sets}",
        barmode="group",
        width=360 * columns,
        height=680,
        legend={"orientation": "h", "y": -0.12, "x": 0},
    )
