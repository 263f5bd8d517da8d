"""Figures of two open questions: why repetitions and sequence length change the number of induction heads."""

from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import COLORS, styled, unique
from interp.validate import whole
from probes.plots.induction_sweeps import ordered_colors
from probes.questions.length_effect import CONDITIONS, LengthEffect
from probes.questions.repetition_effect import RepetitionEffect

Table = Any
"""A pandas frame inside a calculation, where its own annotations lose what it is at every step."""

SUMS = {"last": COLORS["token_to_right"], "sum": COLORS["current_token"], "evenness": COLORS["eos"]}
OUTCOMES = {"last": "attention to the last occurrence", "sum": "attention to all occurrences", "heads": "heads"}
CONDITION_COLORS = dict(zip(CONDITIONS, ("#222222", "#1f6f8b", "#d1603d", "#8a7fa8"), strict=True))


@checked
def repetition_effect(result: RepetitionEffect, *, sequence_length: int | None = None) -> go.Figure:
    """Draw how induction heads share their attention among earlier occurrences, by repetitions.

    Args:
        result: what `probes.repetition_effect` returned.
        sequence_length: which of those it has; the longest by default.

    Returns:
        For each model two panels: attention by occurrence, counted from the last, a line for each number
        of repetitions R and 1/R dotted; under it last, sum and evenness against R. Bars are 95 %
        intervals over seeds.

    Raises:
        InvalidInput: a sequence length that the result does not have.
    """
    occurrences: Table = result.occurrences
    lengths = [int(n) for n in sorted(occurrences["sequence_length"].unique())]
    length = lengths[-1] if sequence_length is None else whole("sequence_length", sequence_length, 1)
    if length not in lengths:
        raise InvalidInput(f"sequence_length={length}: the result has {', '.join(map(str, lengths))}. Take one.")
    verdicts: Table = result.verdicts[result.verdicts["sequence_length"] == length].set_index("model")
    models = list(verdicts.index)
    columns = min(3, len(models))
    blocks = -(-len(models) // columns)
    titles = [""] * (2 * blocks * columns)
    counts = sorted(occurrences["repetitions"].unique())
    names = [escape(name) for name in unique(models)]
    for at, (model, name) in enumerate(zip(models, names, strict=True)):
        row = verdicts.loc[model]
        titles[2 * columns * (at // columns) + at % columns] = f"<b>{name}</b>: {row['verdict']}"
    figure = make_subplots(
        rows=2 * blocks, cols=columns, subplot_titles=titles, horizontal_spacing=0.08,
        vertical_spacing=78 / (2 * blocks * 320),
    )  # fmt: skip
    figure.update_annotations(font_size=13)
    measured: Table = result.sums[(result.sums["sequence_length"] == length) & (result.sums["group"] == "induction")]
    most = float(np.nanmax(measured[list(SUMS)].to_numpy(), initial=1.0))
    drawn: set[Any] = set()

    def once(key: Any) -> dict[str, Any]:
        new = key not in drawn
        drawn.add(key)
        return {"showlegend": new, "legendgroup": str(key)}

    for at, model in enumerate(models):
        row, column = 2 * (at // columns) + 1, at % columns + 1
        here: Table = occurrences[
            (occurrences["model"] == model)
            & (occurrences["sequence_length"] == length)
            & (occurrences["group"] == "induction")
        ]
        for count, color in zip(counts, ordered_colors(len(counts)), strict=True):
            part = here[here["repetitions"] == count]
            if part.empty:
                continue
            line = go.Scatter(
                x=part["occurrence"], y=part["attention"], error_y=_bars(part, "attention", "low", "high"),
                mode="lines+markers", name=str(count), line={"color": color, "width": 2}, marker={"size": 6},
                hovertemplate=f"{count} repetitions, occurrence %{{x}} from the last<br>attention %{{y:.3f}}"
                "<extra></extra>", **once(int(count)),
            )  # fmt: skip
            even = go.Scatter(
                x=[1, count], y=[1 / count] * 2, mode="lines", name="1/R", hoverinfo="skip", legendrank=2000,
                line={"color": color, "width": 1.2, "dash": "dot"}, **once("1/R"),
            )  # fmt: skip
            figure.add_trace(line, row=row, col=column)
            figure.add_trace(even, row=row, col=column)
        sums: Table = measured[measured["model"] == model]
        for name, color in SUMS.items() if len(sums) else ():
            figure.add_trace(
                go.Scatter(
                    x=sums["repetitions"], y=sums[name], error_y=_bars(sums, name, f"{name}_low", f"{name}_high"),
                    mode="lines+markers", name=name, line={"color": color, "width": 2}, marker={"size": 6},
                    legend="legend2", hovertemplate=f"{name} %{{y:.3f}}, %{{x}} repetitions<extra></extra>",
                    **once(name),
                ),
                row=row + 1, col=column,
            )  # fmt: skip
        # Intervals of few seeds leave [0, 1], where attention cannot.
        figure.update_yaxes(range=[0, 1.05], row=row, col=column)
        figure.update_yaxes(range=[0, 1.05 * most], row=row + 1, col=column)
        wide: dict[str, Any] = {"tickvals": counts, "range": [counts[0] - 0.4, counts[-1] + 0.4]}
        figure.update_xaxes(title="repetitions R", **wide, row=row + 1, col=column)
        along: dict[str, Any] = {"dtick": 1, "range": [0.6, counts[-1] + 0.4]}
        figure.update_xaxes(title="occurrence, from the last", **along, row=row, col=column)
    figure.update_xaxes(zeroline=False)
    for block in range(blocks):
        figure.update_yaxes(title="attention", row=2 * block + 1, col=1)
        figure.update_yaxes(title="last, sum, evenness", row=2 * block + 2, col=1)
    layout: Any = figure.layout
    second = layout[f"yaxis{columns + 1}"].domain[1]
    return styled(
        figure,
        "Attention of induction heads over repetitions",
        f"sequence length {length}; heads chosen on another seed at {counts[0]} repetitions by a score of at least "
        f"{result.threshold:g}",
        width=150 + max(560, 320 * columns),
        height=178 + 2 * blocks * 320,
        legend={"title": {"text": "repetitions R"}, "traceorder": "normal", "y": 1},
        legend2={"x": 1.02, "xanchor": "left", "y": second, "yanchor": "top"},
    )


@checked
def length_effect(result: LengthEffect) -> go.Figure:
    """Draw the effect of sequence length: as published, without collisions, with equal contexts.

    Args:
        result: what `probes.length_effect` returned.

    Returns:
        A row of panels for each model: the chosen heads' attention to the last occurrence, to all of
        them, and the number of heads, a line a condition; bars are 95 % intervals over seeds. Lines
        are a little apart along the axis, so that their bars can be told from each other.

    Raises:
        InvalidInput: another result.
    """
    scores: Table = result.scores
    verdicts: Table = result.verdicts.set_index(["model", "outcome"])
    models = list(scores["model"].unique())
    names = [escape(name) for name in unique(models)]
    titles: list[str] = []
    for model, name in zip(models, names, strict=True):
        for outcome in OUTCOMES:
            verdict = verdicts.loc[(model, outcome)] if (model, outcome) in verdicts.index else None
            said = "no heads were chosen" if verdict is None else _slope(verdict)
            titles.append(f"{f'<b>{name}</b>, ' if outcome == 'last' else ''}{outcome}<br>{said}")
    lengths = sorted(scores["sequence_length"].unique())
    panel = 300
    figure = make_subplots(
        rows=len(models), cols=3, subplot_titles=titles, horizontal_spacing=0.075,
        vertical_spacing=100 / (len(models) * panel) if len(models) > 1 else 0,
    )  # fmt: skip
    figure.update_annotations(font_size=13)
    for (model, outcome, condition), part in scores.groupby(["model", "outcome", "condition"], sort=False):
        row, column = models.index(model) + 1, list(OUTCOMES).index(outcome) + 1
        part = part.sort_values("sequence_length")
        aside = 1.02 ** (CONDITIONS.index(condition) - 1.5)
        line = go.Scatter(
            x=part["sequence_length"] * aside,
            y=part["value"],
            error_y=_bars(part, "value", "low", "high"),
            customdata=part[["sequence_length", "n_tokens", "low", "high"]],
            mode="lines+markers",
            name=condition,
            legendgroup=condition,
            showlegend=(row, column) == (1, 3),
            line={"color": CONDITION_COLORS[condition], "width": 2, "dash": "solid" if condition == "plain" else "dot"},
            marker={"size": 6},
            hovertemplate=f"{condition}, length %{{customdata[0]}}, %{{customdata[1]}} tokens<br>%{{y:.3f}} "
            "(%{customdata[2]:.3f} to %{customdata[3]:.3f})<extra></extra>",
        )
        figure.add_trace(line, row=row, col=column)
    edges = np.log10([lengths[0] / 1.1, lengths[-1] * 1.1])
    figure.update_xaxes(type="log", tickvals=lengths, range=list(edges), title="sequence length", zeroline=False)
    for row, model in enumerate(models, start=1):
        for column, outcome in enumerate(OUTCOMES, start=1):
            values = scores.loc[(scores["model"] == model) & (scores["outcome"] == outcome), "value"]
            top = max(4.0, 1.25 * float(values.max())) if outcome == "heads" and len(values) else 1.05
            figure.update_yaxes(range=[0, top], row=row, col=column)
    return styled(
        figure,
        "Induction heads by sequence length, and why",
        f"{result.repetitions} repetitions; slopes are per doubling of the length with 95 % intervals over seeds; "
        "dotted: controls",
        width=1110,
        height=195 + panel * len(models),
        legend={"title": {"text": "condition"}, "traceorder": "normal"},
    ).update_layout(margin_t=155)


def _slope(row: Table) -> str:
    interval = f"{row['low']:+.3f} to {row['high']:+.3f}" if np.isfinite(row["low"]) else "no interval"
    return f"{row['slope']:+.3f} ({interval}): {row['verdict']}"


def _bars(part: Table, middle: str, low: str, high: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": part[high] - part[middle],
        "arrayminus": part[middle] - part[low],
        "thickness": 1,
        "width": 3,
    }
