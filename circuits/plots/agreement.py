"""The figure of attribution patching held against patching."""

import numpy as np
import plotly.graph_objects as go

from circuits.graph.scores import EdgeScores
from circuits.plots.attribution import UP, model_of
from probes.plots.style import expected, label, styled


def edge_scores(scores: EdgeScores) -> go.Figure:
    """The edges that were patched as well: what patching did against its estimate, a point an edge.

    Args:
        scores: what `attribution_patching` gave.

    Returns:
        The figure: on the dashed line the two are the same.

    Raises:
        InvalidInput: another result.
    """
    scores = expected(scores, EdgeScores, "attribution_patching", "circuits")
    estimated, measured = scores.estimated, scores.measured
    ends = np.array([min(0.0, estimated.min(), measured.min()), max(0.0, estimated.max(), measured.max())])
    same = go.Scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": "#999", "dash": "dash", "width": 1},
        hoverinfo="skip",
    )
    points = go.Scatter(
        x=estimated,
        y=measured,
        mode="markers",
        marker={"size": 8, "color": UP, "opacity": 0.75},
        text=scores.sampled,
        hovertemplate="%{text}<br>estimated %{x:.3g}<br>patched %{y:.3g}<extra></extra>",
    )
    metric = label(str(scores.provenance["stimulus"]["metric"]))
    told = ", ".join(f"{name} {value:.2f}" for name, value in scores.agreement.items())
    figure = go.Figure([same, points])
    figure.update_xaxes(title=f"estimated change of the {metric}", zerolinecolor="#999")
    figure.update_yaxes(title="change when patched", zerolinecolor="#999")
    return styled(
        figure,
        "What patching an edge does, against its estimate",
        f"{model_of(scores.provenance)}, {len(scores.sampled)} of {scores.graph.exists.sum()} edges: {told}",
        showlegend=False,
        width=760,
        height=560,
    )
