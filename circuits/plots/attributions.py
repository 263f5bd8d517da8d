"""Figures of direct attribution: a waterfall of parts, and past steps under the series."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from circuits.attribution.by_position import AttributionByPosition
from circuits.attribution.direct import BIASES, EMBEDDING, READOUT, DirectAttribution
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.masks import position_words
from interp.names import Head
from interp.output.style import COLORS, short, styled
from interp.output.time_axis import axis_layout, axis_values
from interp.results.by_head import Heads, row_mean
from interp.results.result import Floats
from interp.results.statistics import interval
from interp.validate import whole

UP, DOWN, SUM, REST = "#2f6ea5", "#b3312c", "#5b5b5b", "#b8b8b8"
HEAD_COLORS = ("#d1603d", "#1f6f8b", "#2f6f4f", "#8a7fa8", "#c9a227", "#7a3b2e", "#4f7cac", "#93a35e")
VISIBLE = 0.01
"""From which share of the largest part on a remainder is drawn: rounding is far below."""


@checked
def attribution(result: DirectAttribution, *, position: int = -1, row: int | None = None, named: int = 12) -> go.Figure:
    """Draw the waterfall: what the parts add in forward order, up to the number itself.

    Args:
        result: what `direct_attribution` or `direct_attribution` returns.
        position: of the decoder; from the end over a row's own tokens: the last that is no padding by default.
        row: one row of the batch; the mean over rows by default, with 95 % intervals of each part.
        named: how many of the largest parts have a bar of their own, the embedding and biases in addition; the rest
            share one.

    Returns:
        The figure. What edits in force put into the stream has a bar too, where there is any.

    Raises:
        InvalidInput: no such position or row, no parts to name, or another result.
    """
    values, numbers = result.at(position)
    place = position_words(~np.isnan(result.total), position)
    rows, totals, who = _rows(values, numbers, row)
    largest = np.argsort(-np.abs(rows.mean(-1)), kind="stable")[: whole("named", named, 1)]
    always = [i for i, part in enumerate(result.parts) if part in (EMBEDDING, BIASES, READOUT)]
    shown = sorted({*largest.tolist(), *always})
    rest = [i for i in range(len(rows)) if i not in shown]
    bars = [(result.parts[i] if i else "embedding", rows[i]) for i in shown]
    if rest:
        bars.append((f"{len(rest)} others", rows[rest].sum(0)))
    left = totals - rows.sum(0)
    if abs(left.mean()) > VISIBLE * float(np.abs(rows.mean(-1)).max()):
        bars.append(("edits, rounding", left))
    steps = np.array([values.mean() for _, values in bars])
    names = [name for name, _ in bars]
    figure = go.Figure(
        go.Waterfall(
            x=[*names, result.name],
            y=[*steps, 0.0],
            measure=["relative"] * len(bars) + ["total"],
            increasing_marker_color=UP,
            decreasing_marker_color=DOWN,
            totals_marker_color=SUM,
            connector={"line": {"color": "#999", "width": 1}},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    # The bar of the total is the model's own number, with its own interval.
    ends, spread = np.array([*np.cumsum(steps), totals.mean()]), np.stack([*(values for _, values in bars), totals])
    for trace in _whiskers([*names, result.name], ends, spread):
        figure.add_trace(trace)
    figure.add_hline(y=0, line_color="#999", line_width=1)
    figure.update_xaxes(tickangle=-50)
    figure.update_yaxes(title=f"{_unit(result)}, added up", zeroline=False)
    note = "" if len(totals) < 2 else "; whiskers: 95 % over rows"
    return styled(
        figure,
        f"What the parts of the decoder add to the {result.name}",
        f"{_asked(result)}, decoder position {place}, {who}, the final norm at its scale{note}",
        width=max(980, 130 + 56 * (len(bars) + 1)),
        height=560,
    ).update_layout(margin_b=140)


def _whiskers(x: list[str], ends: Floats, spread: Floats) -> list[go.Scatter]:
    """Draw intervals at the bars' ends, and each bar's number beyond its interval, in the bar's direction."""
    low, high = interval(spread)
    means = spread.mean(-1)
    up, down = np.nan_to_num(high - means), np.nan_to_num(means - low)
    bars = go.Scatter(
        x=x,
        y=ends,
        mode="markers",
        marker={"size": 1, "color": "#222"},
        error_y={"type": "data", "array": up, "arrayminus": down, "thickness": 1.2 * (len(spread[0]) > 1)},
        hoverinfo="skip",
        showlegend=False,
    )
    texts = [*(f"{mean:+.3g}" for mean in means[:-1]), f"{means[-1]:.3g}"]
    numbers = go.Scatter(
        x=x,
        y=np.where(means < 0, ends - down, ends + up),
        mode="markers+text",
        marker={"size": 5, "opacity": 0},  # keeps the text off the bar
        text=texts,
        textposition=["bottom center" if mean < 0 else "top center" for mean in means],
        textfont_size=11,
        cliponaxis=False,
        customdata=means,
        hovertemplate="%{x}<br>%{customdata:+.4g}<extra></extra>",
        showlegend=False,
    )
    return [bars, numbers]


@checked
def attribution_by_position(
    result: AttributionByPosition, *, heads: Heads | None = None, row: int | None = None
) -> go.Figure:
    """Draw what each past step adds through the heads that read it, under the values there.

    Args:
        result: what `attribution_by_position` or `attribution_by_position` returns.
        heads: which have a colour of their own; the five that move most by default. The rest share one.
        row: one row of the batch; the mean over rows by default.

    Returns:
        Two panels over past positions, or over their dates or times where the batch knows them: the scaled values, an
        example row's where rows differ; and signed bars, stacked by head, with their sum. The bars alone where a
        model's tokens are no values. Special tokens have no time: the subtitle says what they add.

    Raises:
        UnknownHead: a malformed address.
        InvalidInput: no such row, heads that are none of those that read the past, or another result.
    """
    chosen = _heads(result, heads)
    place = result.position if result.position >= 0 else f"{result.position} of each row's tokens"
    there = np.where(np.isnan(result.tokens), np.nan, 0.0).T
    together, totals, who = _rows(result.of().T + there, result.total, row)
    several = len(result.tokens) > 1 and row is None
    across = several and not np.array_equal(result.tokens, result.tokens[[0] * len(result.tokens)], equal_nan=True)
    example = 0 if row is None else row
    x, on_axis, axis = _axis(result)
    at = "position %{x}" if result.times is None else "%{x}"
    heights = [0.64] if result.token_values is None else [0.36, 0.64]
    below = len(heights)
    figure = make_subplots(rows=below, shared_xaxes=True, row_heights=heights, vertical_spacing=0.06)
    if result.token_values is not None:
        values = go.Scatter(
            x=x, y=result.token_values[example][on_axis], mode="lines+markers", marker_size=4,
            line={"color": COLORS["current_token"], "width": 1.6}, showlegend=False,
            hovertemplate=f"{at}<br>value %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(values, row=1, col=1)
        figure.update_yaxes(title="scaled value" + (f", row {example}" if across else ""), row=1, col=1)
    parts = _parts(result, chosen)
    for i, (name, of_rows) in enumerate(parts.items()):
        color = REST if name.startswith("all") else HEAD_COLORS[i % len(HEAD_COLORS)]
        height = row_mean(_rows(of_rows + there, result.total, row)[0])
        hover = f"{name}<br>{at}<br>%{{y:+.4f}}<extra></extra>"
        figure.add_trace(
            go.Bar(x=x, y=height[on_axis], name=name, marker_color=color, hovertemplate=hover), row=below, col=1
        )
    sums = go.Scatter(
        x=x,
        y=row_mean(together)[on_axis],
        mode="markers",
        name="sum",
        marker={"symbol": "line-ew", "size": 7, "line": {"width": 1.6, "color": "#222"}},
        hovertemplate=f"all {result.kind} heads<br>{at}<br>%{{y:+.4f}}<extra></extra>",
    )
    figure.add_trace(sums, row=below, col=1)
    figure.update_yaxes(title=f"adds to the {result.name}", zeroline=True, zerolinecolor="#999", row=below, col=1)
    title = axis.pop("title.text")
    figure.update_xaxes(zeroline=False, **axis)
    figure.update_xaxes(title=title, row=below, col=1)
    special = row_mean(together)[~on_axis]
    aside = f"; tokens without a time: {special.sum():+.3g}" if len(special) else ""
    return styled(
        figure,
        f"What the past adds to the {result.name}, through {result.kind}-attention",
        f"{_asked(result)}, decoder position {place}, {who}; all positions and {result.kind} heads: "
        f"{np.nansum(together, axis=0).mean():+.3g} of {totals.mean():.3g}{aside}",
        barmode="relative",
        bargap=0.1,
        width=1040,
        height=276 + 190 * below,
        # Under the two lines that dates may take, and the axis' title.
        legend={"orientation": "h", "y": -0.34 / below, "x": 0},
    ).update_layout(margin_b=116)


def _parts(result: AttributionByPosition, heads: list[Head]) -> dict[str, Floats]:
    """Return what positions add through each of some heads, and through all others together, `[key, row]`."""
    parts = {str(head): result.of(head).T for head in heads}
    if len(parts) < result.values.shape[0] * result.values.shape[1]:
        parts[f"all other {result.kind} heads"] = result.of().T - sum(parts.values())
    return parts


def _axis(result: AttributionByPosition) -> tuple[Any, NDArray[np.bool_], dict[str, Any]]:
    """Return where keys stand, which of them do, and the axis' layout: special tokens have no place among times."""
    if result.times is None:
        count, title = result.tokens.shape[1], "encoder position" if result.kind == "cross" else "position"
        layout: dict[str, Any] = {"title.text": title, "range": [-0.8, count - 0.2]}
        return np.arange(count), np.ones(count, dtype=bool), layout
    on_axis = np.asarray(result.times.notna())
    known = result.times[on_axis]
    ends = list(axis_values(known, [-1, len(known)]))
    return axis_values(known, range(len(known))), on_axis, axis_layout(known) | {"range": ends}


def _rows(values: Floats, totals: Floats, row: int | None) -> tuple[Floats, Floats, str]:
    """Return all rows of `[..., row]` or one of them, and the words for that."""
    known = np.flatnonzero(~np.isnan(totals))
    if row is None:
        if not len(known):
            raise InvalidInput("all rows are padding at this position: choose one at which a row has a token.")
        return values[..., known], totals[known], over(len(known))
    if whole("row", row, 0) >= len(totals):
        raise InvalidInput(f"row={row}: the result has rows 0-{len(totals) - 1}.")
    if row not in known:
        raise InvalidInput(f"row={row} is padding at this position: choose one at which it has a token.")
    return values[..., [row]], totals[[row]], f"row {row}"


def over(rows: int) -> str:
    """Say over how many rows a mean is."""
    return f"mean over {rows} rows" if rows > 1 else "one row"


def _heads(result: AttributionByPosition, heads: Heads | None) -> list[Head]:
    if heads is not None:
        return result.named(heads)
    moved = np.abs(row_mean(np.moveaxis(result.values, 2, -1))).sum(-1)
    order = np.argsort(-moved, axis=None, kind="stable")[: min(5, moved.size)]
    places = (np.unravel_index(place, moved.shape) for place in order)
    return [Head.parse(f"{result.site}.{layer}.{head}") for layer, head in places]


def _asked(result: DirectAttribution | AttributionByPosition) -> str:
    def token_words(ids: Floats) -> str:
        return f"token {int(ids.flat[0])}" if (ids == ids.flat[0]).all() else "each row's token"

    said = "" if result.target is None else f", {token_words(result.target)}"
    said += "" if result.against is None else f" against {token_words(result.against)}"
    return f"{model_of(result.provenance)}{said}"


def _unit(result: DirectAttribution) -> str:
    return result.name if result.unit in result.name else f"{result.name} ({result.unit})"


def model_of(provenance: dict[str, Any]) -> str:
    """Return the model's short name."""
    return short(str(provenance.get("model", "")))
