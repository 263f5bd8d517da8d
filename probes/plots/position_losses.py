"""Figures of a random sequence given twice: the loss by position, and which heads look back to the earlier one.

Source: nnsight's tutorial on induction heads in GPT-2, which draws both.
"""

from collections.abc import Sequence
from html import escape
from math import log
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb
from plotly.subplots import make_subplots

from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import SCALE, heads_of, short, styled, unique
from probes.induction.induction_scores import InductionScores
from probes.induction.mosaic import THRESHOLD
from probes.induction.position_loss import PositionLoss
from probes.plots.heatmaps import heatmap, rings, ticks

LINES = ("#1f6f8b", "#d1603d", "#5b5b5b", "#8a7fa8", "#e0b04c")


@checked
def position_loss(losses: PositionLoss | Sequence[PositionLoss]) -> go.Figure:
    """Draw the loss of each next token by position, with a 95 % band over rows and a line at the half-way point.

    Args:
        losses: one or several, such as one on a sequence given twice and the control in which nothing repeats.

    Returns:
        The figure. Where all drew from one range of tokens, a dotted line is at the loss of a guess among them.

    Raises:
        InvalidInput: no losses, or another result.
    """
    results = [losses] if isinstance(losses, PositionLoss) else list(losses)
    if not results:
        raise InvalidInput("no losses to draw: give what probes.position_loss returns, one or several.")
    figure = go.Figure()
    for at, (name, result) in enumerate(zip(_names(results), results, strict=True)):
        color, (low, high) = LINES[at % len(LINES)], result.bounds
        positions = np.arange(len(result.mean))
        band: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
        figure.add_trace(go.Scatter(x=positions, y=low, legendgroup=name, **band))
        fill = f"rgba({','.join(map(str, hex_to_rgb(color)))},0.2)"
        figure.add_trace(go.Scatter(x=positions, y=high, legendgroup=name, fill="tonexty", fillcolor=fill, **band))
        figure.add_trace(
            go.Scatter(
                x=positions,
                y=result.mean,
                mode="lines",
                name=name,
                legendgroup=name,
                line={"color": color, "width": 2},
                customdata=np.column_stack([low, high]),
                hovertemplate=f"{name}<br>position %{{x}}: %{{y:.3f}} nats<br>%{{customdata[0]:.3f}} to "
                "%{customdata[1]:.3f}<extra></extra>",
            )
        )
    for split in sorted({result.split for result in results}):
        # Between the last token that nothing has followed yet and the first that something has.
        figure.add_vline(x=split - 0.5, line_dash="dash", line_color="#888", line_width=1)  # type: ignore[arg-type]
    ranges = {tuple(result.provenance.get("stimulus", {}).get("vocab_range", ())) for result in results}
    chance = next(iter(ranges)) if len(ranges) == 1 else ()
    if chance:
        level = log(chance[1] - chance[0] + 1)
        figure.add_hline(y=level, line_dash="dot", line_color="#888", line_width=1)  # type: ignore[arg-type]
    longest = max(len(result.mean) for result in results)
    top = max(float(np.nanmax([result.mean, result.bounds[1]])) for result in results)
    across = "position t, where token t + 1 is predicted"
    figure.update_xaxes(title=across, range=[-0.6, longest - 0.4], zeroline=False)
    figure.update_yaxes(title="cross-entropy, nats", range=[-0.04 * top, 1.04 * top], zeroline=False)
    tail = f"; dotted: a guess among {chance[1] - chance[0] + 1} tokens" if chance else ""
    return styled(
        figure,
        "Loss by position",
        f"mean and 95 % interval over rows; dashed: the half-way point{tail}",
        width=900,
        height=470,
        showlegend=True,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"},
    )


@checked
def induction_scores(scores: InductionScores, *, threshold: float = THRESHOLD) -> go.Figure:
    """Draw four panels of heads, layers down and heads across, on one scale from 0 to 1.

    Args:
        scores: what `probes.induction_scores` returned.
        threshold: heads at or over it are ringed.

    Returns:
        The figure: induction, the tutorial's diagonal, previous token and duplicate token; hovering names the head.

    Raises:
        InvalidInput: another result.
    """
    n = scores.sequence_length
    panels = {
        f"induction: {n - 1} back": scores.induction,
        f"the tutorial's diagonal: {n - 1} back": scores.induction_diagonal,
        "previous token: 1 back": scores.previous_token,
        f"duplicate token: {n} back": scores.duplicate_token,
    }
    layers, heads = scores.induction.values.shape
    each = max(150, 28 * layers)
    height = 215 + 2 * each + 90
    titles = [f"{name}, {len(panel.heads(threshold))} of {layers * heads} heads" for name, panel in panels.items()]
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, horizontal_spacing=0.1, vertical_spacing=95 / height)
    figure.update_annotations(font_size=14)
    for at, panel in enumerate(panels.values()):
        for trace in (heatmap(panel, "coloraxis"), rings(panel, threshold)):
            figure.add_trace(trace, row=at // 2 + 1, col=at % 2 + 1)
    figure.update_xaxes(range=[-0.5, heads - 0.5], showgrid=False, zeroline=False, **ticks(heads))
    figure.update_yaxes(range=[layers - 0.5, -0.5], showgrid=False, zeroline=False, **ticks(layers))
    figure.update_xaxes(title="head", row=2)
    figure.update_yaxes(title="layer", col=1)
    stimulus = scores.provenance.get("stimulus", {})
    return styled(
        figure,
        f"Induction scores of {escape(short(scores.name))}",
        f"{heads_of([scores.site])} on random tokens given {stimulus.get('repetitions')} times: length {n}, batch "
        f"{stimulus.get('batch_size')}, {scores.provenance.get('dtype')}; ringed: at least {threshold:g}",
        coloraxis={"colorscale": SCALE, "cmin": 0, "cmax": 1, "colorbar": {"title": "attention"}},
        width=1060,
        height=height,
    )


def _names(losses: list[PositionLoss]) -> list[str]:
    """Return a model's name, and the words that tell its control apart."""
    stimuli = [result.provenance.get("stimulus", {}) for result in losses]
    tails = [", nothing repeats" if stimulus.get("repetitions") == 1 else "" for stimulus in stimuli]
    alike = [[r.name for r, tail in zip(losses, tails, strict=True) if tail == one] for one in dict.fromkeys(tails)]
    names_of_tail = {one: iter(unique(names)) for one, names in zip(dict.fromkeys(tails), alike, strict=True)}
    return [escape(next(names_of_tail[tail])) + tail for tail in tails]
