"""The figure of how many edges it takes."""

import plotly.graph_objects as go

from circuits.graph.evaluation import CONTROLS, CircuitReport
from circuits.graph.faithfulness_by_size import SizeCurve
from circuits.plots.attributions import model_of
from circuits.plots.circuit_graph import OUTSIDE
from circuits.plots.evaluations import CIRCUIT, SHADES
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import label, styled


@checked
def faithfulness_by_size(curve: SizeCurve, report: CircuitReport | None = None) -> go.Figure:
    """Draw faithfulness over the number of edges, for the strongest edges and for random ones.

    Args:
        curve: what `circuits.faithfulness_by_size` gave.
        report: of a circuit on the same inputs, which is a point of its own: how much a circuit that was pruned brings
            for its size.

    Returns:
        The figure: bars are 95 % over rows, and of random edges, and of those on paths, the least and the largest draw.

    Raises:
        InvalidInput: another result, or a report of another model or with something else outside.
    """
    frame, about = curve.to_frame(), curve.provenance["stimulus"]
    figure = go.Figure()
    lines = {"the strongest edges by attribution": ("#2f6ea5", "faithfulness", "low", "high")}
    for title, name, drawn in ((CONTROLS[1], "random", curve.random), (CONTROLS[2], "connected", curve.connected)):
        if drawn.shape[1]:
            lines[title] = (SHADES[title], name, f"{name}_low", f"{name}_high")
    for name, (color, value, low, high) in lines.items():
        bars = {"array": frame[high] - frame[value], "arrayminus": frame[value] - frame[low], "thickness": 1.2}
        figure.add_trace(
            go.Scatter(
                x=frame["edges"],
                y=frame[value],
                error_y=bars,
                mode="lines+markers",
                line={"color": color, "width": 2},
                name=name,
                hovertemplate=f"%{{x}} edges, {name}<br>%{{y:.3f}}<extra></extra>",
            )
        )
    if report is not None:
        figure.add_trace(_circuit(report, curve))
    for height in (0, 1):
        figure.add_hline(y=height, line_dash="dot", line_color="#555", line_width=1)
    figure.update_xaxes(type="log", title="edges left", tickvals=frame["edges"], tickangle=0)
    figure.update_yaxes(title="F: 1 the model, 0 nothing", zeroline=False)
    return styled(
        figure,
        "How many edges it takes",
        f"{model_of(curve.provenance)}, {label(str(about['metric']))}; {len(curve.model)} rows; all other edges carry "
        f"{OUTSIDE[about['outside']]}",
        width=860,
        height=480,
        legend={"orientation": "h", "y": -0.18, "x": 0},
    )


def _circuit(report: CircuitReport, curve: SizeCurve) -> go.Scatter:
    same = [(result.provenance["digest"], result.provenance["stimulus"]["outside"]) for result in (report, curve)]
    if same[0] != same[1]:
        raise InvalidInput("curve and report are of different weights, or of different values outside the circuit.")
    low, high = report.interval(report.circuit)
    value = report.faithfulness
    return go.Scatter(
        x=[len(report.edges)],
        y=[value],
        error_y={"array": [high - value], "arrayminus": [value - low], "thickness": 1.2},
        mode="markers",
        marker={"color": CIRCUIT, "size": 12, "symbol": "diamond"},
        name="the circuit",
        hovertemplate=f"the circuit, {len(report.edges)} edges<br>%{{y:.3f}} ({low:.3f} to {high:.3f})<extra></extra>",
    )
