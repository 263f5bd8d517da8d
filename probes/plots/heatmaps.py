"""Cells of heads: a heatmap with layers down and heads across, its ticks, and rings around the strongest."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.output.style import label
from interp.results.by_head import HeadScores


def heatmap(scores: HeadScores, coloraxis: str) -> go.Heatmap:
    """Draw one cell per head, layers down and heads across; hovering names the head."""
    layers, heads = scores.values.shape
    names = [[str(scores.head(i, j)) for j in range(heads)] for i in range(layers)]
    error = np.full(scores.values.shape, np.nan) if scores.stderr is None else scores.stderr
    tail = "" if scores.stderr is None else " ± %{customdata[1]:.3f}"
    return go.Heatmap(
        z=scores.values,
        coloraxis=coloraxis,
        customdata=np.dstack([np.array(names, dtype=object), error.astype(object)]),
        hovertemplate=f"%{{customdata[0]}}<br>{label(scores.name)} %{{z:.3f}}{tail}<extra></extra>",
        xgap=1,
        ygap=1,
    )


def ticks(n: int) -> dict[str, Any]:
    """Return the ticks of an axis of layers or heads."""
    return {"tick0": 0, "dtick": 1 if n <= 12 else 2}


def strongest(scores: HeadScores, threshold: float, words: str = "no head reaches {0:g}; the strongest is ") -> str:
    """Say which head has the highest score, as a second line of a panel's title, where none reaches a threshold."""
    heads = [head for head in scores.heads() if np.isfinite(head.score)]
    if not heads or heads[0].score >= threshold:
        return ""
    note = f"{words.format(threshold)}{heads[0].address}, {heads[0].score:.2f}"
    return f'<br><span style="font-size: 12px; color: #666">{note}</span>'


def rings(scores: HeadScores, threshold: float) -> go.Scatter:
    """Draw rings around the heads whose score reaches a threshold."""
    cells = np.argwhere(scores.values >= threshold)
    return go.Scatter(
        x=cells[:, 1],
        y=cells[:, 0],
        mode="markers",
        marker={"symbol": "circle-open", "size": 11, "color": "white", "line": {"width": 2}},
        hoverinfo="skip",
        showlegend=False,
    )
