"""Figures of attention: patterns of heads, and attention against value difference and lag."""

from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import SCALE, short, styled
from interp.output.time_axis import axis_layout, time_words
from probes.attention import AttentionCurves, AttentionPatterns

Ticks = Literal["times", "values", "tokens"]
"""What stands along the axes of a pattern."""


def _axis(patterns: AttentionPatterns, name: Literal["query", "key"], ticks: Ticks) -> list[str]:
    """Return the tick texts of one axis: the time, value or id of each token, or the name of a special one."""
    tokens: tuple[int | None, ...] | None = getattr(patterns, f"{name}_tokens")
    values, times, special = (getattr(patterns, f"{name}_{what}") for what in ("values", "times", "names"))
    if tokens is None:
        patches: tuple[str, ...] | None = getattr(patterns, f"{name}_patches")
        return list(patches or map(str, range(patterns.values.shape[1 if name == "query" else 2])))
    if ticks == "tokens" or values is None:
        return ["padding" if token is None else str(token) for token in tokens]
    words = [f"{value:.2f}" for value in values] if ticks == "values" else time_words(times)
    return [
        ("padding" if token is None else special.get(token, str(token))) if np.isnan(value) else word
        for token, value, word in zip(tokens, values, words, strict=True)
    ]


def _ticks(patterns: AttentionPatterns, ticks: Ticks | None) -> tuple[Ticks, str]:
    """Return what stands along the axes, times where they are known, and in words."""
    times = patterns.key_times
    if ticks == "times" and times is None:
        raise InvalidInput("ticks='times': the batch knows no times. Make it of a series by probes.series_batch.")
    chosen: Ticks = ticks or ("values" if times is None else "times")
    if patterns.key_tokens is None:
        return chosen, "position" if patterns.key_patches is None else "first step of each patch"
    if chosen == "tokens" or patterns.key_values is None:
        return chosen, "token id"
    return chosen, "scaled value" if times is None or chosen == "values" else axis_layout(times.dropna())["title.text"]


@checked
def attention(patterns: AttentionPatterns, *, columns: int = 4, ticks: Ticks | None = None) -> go.Figure:
    """Draw attention patterns, one panel per head, queries down and keys across.

    Args:
        patterns: what `attention_patterns` read: one head, a layer, or any choice.
        columns: panels in a row.
        ticks: what stands along the axes: the times of the tokens, the values that they stand for, or their ids. By
            default times where the batch knows them, as those of `probes.series_batch` do, and values elsewhere.
            Positions where the pattern is a mean over rows that differ, ids where tokens are no values, the first step
            of each patch where they are patches.

    Returns:
        The figure.

    Raises:
        InvalidInput: times that are not known.
    """
    shown_ticks, along = _ticks(patterns, ticks)
    heads, n_queries, n_keys = patterns.values.shape
    columns = min(columns, heads)
    rows = -(-heads // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[head.title for head in patterns.heads],
        horizontal_spacing=0.09 / columns + 0.03,
        vertical_spacing=min(0.12, 0.5 / rows),
    )
    keys, queries = (_axis(patterns, name, shown_ticks) for name in ("key", "query"))
    for i, head in enumerate(patterns.heads):
        figure.add_trace(
            go.Heatmap(
                z=patterns.values[i],
                coloraxis="coloraxis",
                customdata=np.stack(np.meshgrid(keys, queries), axis=-1),
                hovertemplate=f"{head}<br>query %{{y}} (%{{customdata[1]}})<br>key %{{x}} (%{{customdata[0]}})"
                "<br>attention %{z:.3f}<extra></extra>",
            ),
            row=i // columns + 1,
            col=i % columns + 1,
        )
    shown: dict[str, Any] = {"tickfont": {"size": 10}, "showgrid": False, "zeroline": False}
    for update, labels, size in ((figure.update_xaxes, keys, n_keys), (figure.update_yaxes, queries, n_queries)):
        step = max(1, -(-size // 8))
        at = list(range(0, size, step))
        update(tickmode="array", tickvals=at, ticktext=[labels[k] for k in at], **shown)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="key", row=rows)
    figure.update_yaxes(title="query", col=1)
    for column in range(2, columns + 1):
        figure.update_yaxes(showticklabels=False, col=column)  # all panels have the first one's queries
    which = "mean over the batch" if patterns.row is None else f"row {patterns.row}"
    kind = f"{patterns.heads[0].stack}.{patterns.heads[0].kind}"
    tall = 95 + max(90, min(240, 22 * n_queries))
    return styled(
        figure,
        f"Attention patterns, {kind}",
        f"{short(str(patterns.provenance.get('model', '')))}, {which}; ticks: {along}",
        coloraxis={
            "colorscale": SCALE,
            "cmin": 0,
            "cmax": float(max(patterns.values.max(), 1e-9)),
            "colorbar": {"title": "attention"},
        },
        width=max(520, 170 + 270 * columns),
        height=150 + tall * rows,
    )


def _curves(curves: AttentionCurves, title: str, x_title: str) -> go.Figure:
    figure = go.Figure()
    for head, values in zip(curves.heads, curves.values, strict=True):
        figure.add_trace(
            go.Scatter(
                x=curves.x,
                y=values,
                mode="lines",
                name=str(head),
                hovertemplate=f"{head}<br>{curves.against} %{{x:.2f}}<br>attention %{{y:.4f}}<extra></extra>",
            )
        )
    figure.update_xaxes(title=x_title)
    figure.update_yaxes(title="mean attention", rangemode="tozero")
    name = short(str(curves.provenance.get("model", "")))
    return styled(figure, title, f"{name}, mean over pairs of query and key", width=820, height=440, showlegend=True)


@checked
def attention_by_value(curves: AttentionCurves) -> go.Figure:
    """Draw attention against the key's value minus the query's, one line per head."""
    return _curves(curves, "Attention against value difference", "value of the key minus value of the query (scaled)")


@checked
def attention_by_lag(curves: AttentionCurves) -> go.Figure:
    """Draw attention against the lag of the key, one line per head."""
    cross = curves.heads[0].kind == "cross"
    return _curves(
        curves, "Attention against lag", "steps before the end of the context" if cross else "query minus key, steps"
    )
