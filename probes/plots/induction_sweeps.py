"""Figures of sweeps: how many induction heads there are by repetitions and sequence length."""

from html import escape
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from interp.errors import InvalidInput
from interp.output.style import SCALE, heads_of, label, styled
from probes.induction.mosaic import KINDS, THRESHOLD
from probes.induction.sweep_frame import Framed, axis_labels, axis_names, axis_values, head_counts, sites, swept, text

Kind = Literal["current_token", "token_to_right", "either"]

PUBLISHED_AXES = ("model", "repetitions", "sequence_length")


def ordered_colors(n: int) -> list[str]:
    """Return n colours from dark to light, without the palest, which vanish on white."""
    return list[Any](sample_colorscale(SCALE, list(np.linspace(0, 0.88, n)) if n > 1 else [0.3]))


def sweep_lines(sweep: Framed | pd.DataFrame, *, threshold: float = THRESHOLD, kind: Kind = "either") -> go.Figure:
    """Draw the published plot: number of induction heads by repetitions, one line per sequence length.

    Args:
        sweep: of induction mosaics over repetitions and sequence lengths, or its frame.
        threshold: from which score on a head counts.
        kind: which heads: `current_token`, `token_to_right`, or `either`, each head once.

    Returns:
        One panel a model; lines are means over seeds, bars from the lowest seed to the highest.

    Raises:
        InvalidInput: columns that are missing, another axis that varies, or an unknown kind.
    """
    if kind not in get_args(Kind):
        raise InvalidInput(f"kind={kind!r}: there are {', '.join(get_args(Kind))}.")
    counts, seeds = _counts(sweep, threshold)
    models = axis_values(counts, "model")
    columns = min(3, len(models))
    rows = -(-len(models) // columns)
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=_titles(counts, models),
        horizontal_spacing=0.075, vertical_spacing=105 / (300 * rows) if rows > 1 else 0,
    )  # fmt: skip
    lengths = axis_values(counts, "sequence_length")
    repetitions = axis_values(counts, "repetitions")
    drawn: set[Any] = set()
    for place, model in enumerate(models):
        for length, color in zip(lengths, ordered_colors(len(lengths)), strict=True):
            part = counts[(counts["model"] == model) & (counts["sequence_length"] == length)]
            if part.empty:
                continue
            counted = part.groupby("repetitions")[kind].agg(["mean", "min", "max"]).reset_index()
            mean, low, high = (counted[name].to_numpy(dtype=float) for name in ("mean", "min", "max"))
            tail = f"<br>{seeds} seeds: %{{customdata[0]}} to %{{customdata[1]}}" if seeds > 1 else ""
            line = go.Scatter(
                x=counted["repetitions"],
                y=mean,
                customdata=np.column_stack([low, high]),
                mode="lines+markers",
                name=text(length),
                legendgroup=text(length),
                showlegend=length not in drawn,
                line={"color": color, "width": 2},
                marker={"size": 6},
                hovertemplate=f"length {text(length)}, %{{x}} repetitions<br>%{{y:.4g}} heads{tail}<extra></extra>",
            )
            if seeds > 1:
                line.error_y = {
                    "symmetric": False, "array": high - mean, "arrayminus": mean - low, "thickness": 1, "width": 3,
                }  # fmt: skip
            figure.add_trace(line, row=place // columns + 1, col=place % columns + 1)
            drawn.add(length)
    wide = [repetitions[0] - 0.4, repetitions[-1] + 0.4]
    figure.update_xaxes(title="repetitions", tickvals=repetitions, range=wide, zeroline=False)
    for place, model in enumerate(models):
        most = int(counts.loc[counts["model"] == model, kind].max())
        step = max(1, next(s * 10**p for p in range(9) for s in (1, 2, 5) if s * 10**p * 6 >= most))
        scale: dict[str, Any] = {"range": [-0.04 * max(most, 1), max(most, 1) * 1.08], "tick0": 0, "dtick": step}
        figure.update_yaxes(**scale, row=place // columns + 1, col=place % columns + 1)
    figure.update_yaxes(title="heads", col=1)
    tail = f"; mean over {seeds} seeds, bars from the lowest to the highest" if seeds > 1 else ""
    return styled(
        figure,
        f"Induction heads by repetitions{'' if kind == 'either' else f': {label(kind)}'}",
        f"{heads_of(sites(sweep))} with a score of at least {threshold:g}{tail}",
        width=150 + max(540, 330 * columns),
        height=178 + 300 * rows,
        legend={"title": {"text": "sequence<br>length"}, "traceorder": "normal"},
    )


def sweep_heatmap(sweep: Framed | pd.DataFrame, *, threshold: float = THRESHOLD) -> go.Figure:
    """Draw the number of induction heads by repetitions and length: current token, token to right, either.

    Args:
        sweep: of induction mosaics over repetitions and sequence lengths, or its frame.
        threshold: from which score on a head counts.

    Returns:
        One row of three panels a model, the number in each cell (its mean over seeds); blank
        where the sweep has no run. Colours go from none to the model's largest number.

    Raises:
        InvalidInput: columns that are missing, or another axis that varies.
    """
    counts, seeds = _counts(sweep, threshold)
    models = axis_values(counts, "model")
    kinds = (*KINDS, "either")
    repetitions, lengths = axis_values(counts, "repetitions"), axis_values(counts, "sequence_length")
    titles = [f"{model}<br>{label(kind)}" for model in _titles(counts, models) for kind in kinds]
    panel = max(190, 70 + 26 * len(lengths))
    figure = make_subplots(
        rows=len(models), cols=3, subplot_titles=titles,
        horizontal_spacing=0.06, vertical_spacing=0 if len(models) == 1 else 105 / (len(models) * (panel + 105)),
    )  # fmt: skip
    axes: dict[str, Any] = {}
    for row, model in enumerate(models, start=1):
        part = counts[counts["model"] == model]
        axis = f"coloraxis{row if row > 1 else ''}"
        means: Any = part.groupby(["sequence_length", "repetitions"])["either"].mean()
        axes[axis] = {"colorscale": SCALE, "cmin": 0, "cmax": max(1, means.max()), "showscale": False}
        for column, kind in enumerate(kinds, start=1):
            table = part.pivot_table(index="sequence_length", columns="repetitions", values=kind, aggfunc="mean")
            cells = go.Heatmap(
                x=repetitions,
                y=lengths,
                z=table.reindex(index=lengths, columns=repetitions).to_numpy(dtype=float),
                coloraxis=axis,
                xgap=1,
                ygap=1,
                texttemplate="%{z:.1f}" if seeds > 1 else "%{z:.0f}",
                hoverongaps=False,
                hovertemplate="length %{y}, %{x} repetitions<br>%{z:.4g} heads<extra></extra>",
            )
            figure.add_trace(cells, row=row, col=column)
    figure.update_xaxes(showgrid=False, zeroline=False, **_values(repetitions))
    figure.update_xaxes(title="repetitions", row=len(models))
    figure.update_yaxes(showgrid=False, zeroline=False, **_values(lengths))
    figure.update_yaxes(title="sequence length", col=1)
    return styled(
        figure,
        "Induction heads by repetitions and sequence length",
        f"{heads_of(sites(sweep))} with a score of at least {threshold:g}"
        f"{f', mean over {seeds} seeds' if seeds > 1 else ''}; colours from 0 to the model's largest number",
        width=max(860, 150 + 3 * (60 + 40 * len(repetitions))),
        height=215 + len(models) * panel + (len(models) - 1) * 105,
        **axes,
    ).update_layout(margin_t=155)


def _counts(sweep: Framed | pd.DataFrame, threshold: float) -> tuple[pd.DataFrame, int]:
    """Count heads by configuration, and seeds."""
    frame = swept(sweep, PUBLISHED_AXES)
    others = [name for name in axis_names(frame) if name not in (*PUBLISHED_AXES, "seed")]
    varied = [name for name in others if len(axis_values(frame, name)) > 1]
    if varied:
        raise InvalidInput(
            f"this sweep varies {', '.join(varied)} as well, over which nothing is averaged here: choose one value, "
            f"such as frame[frame[{varied[0]!r}] == {axis_values(frame, varied[0])[0]!r}]."
        )
    seeds = len(axis_values(frame, "seed")) if "seed" in axis_names(frame) else 1
    return head_counts(frame, threshold), seeds


def _titles(counts: pd.DataFrame, models: list[Any]) -> list[str]:
    sizes = [int(counts.loc[counts["model"] == model, "n_heads"].max()) for model in models]
    names = axis_labels("model", models)
    return [f"{escape(name)} ({size} heads)" for name, size in zip(names, sizes, strict=True)]


def _values(values: list[Any]) -> dict[str, Any]:
    """Return an axis with a tick at each value; numeric where they are evenly spaced, so that cells are of one size."""
    even = len(set(np.diff(np.array(values, dtype=float)).round(9))) <= 1
    return {"type": "linear", "tickvals": values} if even else {"type": "category"}
