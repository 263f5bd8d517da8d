"""Figures of how circuits and estimates were tested: a circuit against its controls, estimates against patches."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go

from circuits.edges import Edge
from circuits.graph.edge_scores import EdgeScores
from circuits.graph.evaluation import CONTROLS, CircuitReport
from circuits.plots.circuit_graph import FEEDS, OUTSIDE
from interp import Site
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import short, styled
from interp.results.result import Floats

CIRCUIT, COMPLEMENT = "#b3312c", "#1f6f8b"
SHADES: dict[str, str] = dict(zip(CONTROLS, ("#7a7a7a", "#b0b0b0", "#8a7fa8"), strict=True))
PLACES: dict[str, float] = dict(zip(("circuit", "without", *CONTROLS), (-0.34, -0.17, 0.0, 0.17, 0.34), strict=True))
"""Where in a report's place each of its five columns stands."""


def circuit_report(reports: CircuitReport | Mapping[str, CircuitReport]) -> go.Figure:
    """Draw a metric on a circuit, on the model without it, and on random circuits, one group per report.

    Args:
        reports: of `evaluate`, or several by name, such as by what lies outside or by size.

    Returns:
        The figure: F is 1 on the model and 0 on nothing, dotted. Bars of the circuit and of its complement have 95 %
        intervals over rows (none where the model is not told from nothing); of the controls every one is a dot, with a
        line at their mean.

    Raises:
        InvalidInput: something else, or no report.
    """
    named = dict(reports) if isinstance(reports, Mapping) else {"": reports}
    if not named:
        raise InvalidInput("no reports to draw: give at least one.")
    by_name = {str(name): report for name, report in named.items()}
    if wrong := [report for report in by_name.values() if not isinstance(cast(object, report), CircuitReport)]:
        raise InvalidInput(f"{type(wrong[0]).__name__} is no CircuitReport: give what circuits.evaluate returns.")
    figure = go.Figure()
    for at, title, color in (("circuit", "circuit", CIRCUIT), ("without", "model without it", COMPLEMENT)):
        rows = [report.circuit if at == "circuit" else report.complement for report in by_name.values()]
        values = [float(report.normalised(row)) for report, row in zip(by_name.values(), rows, strict=True)]
        ends = [report.interval(row) for report, row in zip(by_name.values(), rows, strict=True)]
        figure.add_trace(
            go.Bar(
                x=[index + PLACES[at] for index in range(len(by_name))],
                y=values,
                width=0.15,
                name=title,
                marker_color=color,
                error_y={
                    "type": "data",
                    "array": [high - value for (_, high), value in zip(ends, values, strict=True)],
                    "arrayminus": [value - low for (low, _), value in zip(ends, values, strict=True)],
                    "thickness": 1.2,
                },
                customdata=[[name, low, high] for name, (low, high) in zip(by_name, ends, strict=True)],
                hovertemplate=f"%{{customdata[0]}} {title}<br>%{{y:.3f}} (%{{customdata[1]:.3f}} to "
                "%{customdata[2]:.3f})<extra></extra>",
            )
        )
    for name in CONTROLS:
        _strip(figure, name, list(by_name.values()))
    for height in (0, 1):
        figure.add_hline(y=height, line_dash="dot", line_color="#555", line_width=1)
    words = [f"{name}<br>{len(report.edges)} edges".removeprefix("<br>") for name, report in by_name.items()]
    figure.update_xaxes(tickvals=list(range(len(by_name))), ticktext=words, range=[-0.6, len(by_name) - 0.4])
    figure.update_yaxes(title="F: 1 the model, 0 nothing", zeroline=False)
    return styled(
        figure,
        "Is the circuit the one?",
        _about(list(by_name.values())),
        width=max(640, 170 * len(by_name) + 300),
        height=500,
        legend={"orientation": "h", "y": -0.18, "x": 0},
        bargap=0,
    )


def _strip(figure: go.Figure, name: str, reports: list[CircuitReport]) -> None:
    """Draw all controls of a kind as dots spread over their column, and their means as lines."""
    drawn: list[tuple[float, float]] = []
    means: list[tuple[float, float]] = []
    for index, report in enumerate(reports):
        values: Floats = report.normalised(report.controls()[name])
        middle = index + PLACES[name]
        # Spread by rank of drawing: where a dot stands in its column means nothing.
        aside = 0.06 * np.cos(2.4 * np.arange(len(values)))
        drawn += [(middle + float(d), float(value)) for d, value in zip(aside, values, strict=True)]
        if len(values):
            means.append((middle, float(values.mean())))
    if not drawn:
        return
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in drawn],
            y=[y for _, y in drawn],
            mode="markers",
            name=f"control: {name}",
            marker={"size": 6, "color": SHADES[name], "opacity": 0.75, "line": {"width": 0.5, "color": "white"}},
            hovertemplate=f"{name}<br>%{{y:.3f}}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in means],
            y=[y for _, y in means],
            mode="markers",
            marker={"symbol": "line-ew", "size": 22, "line": {"width": 2, "color": "#222"}},
            name=f"{name}: mean",
            showlegend=False,
            hovertemplate=f"{name}, mean<br>%{{y:.3f}}<extra></extra>",
        )
    )


def _about(reports: list[CircuitReport]) -> str:
    """Describe what all reports share."""
    models = {short(str(report.provenance["model"])) for report in reports}
    about = [report.provenance["stimulus"] for report in reports]
    metrics, outsides = ({str(stimulus[key]) for stimulus in about} for key in ("metric", "outside"))
    words = [*models] if len(models) == 1 else []
    words += [name.replace("_", " ") for name in metrics] if len(metrics) == 1 else []
    words += [f"outside the circuit: {OUTSIDE[next(iter(outsides))]}"] if len(outsides) == 1 else []
    return "<br>".join(["; ".join(words), "bars: 95 % over rows; a dot a random circuit"]).removeprefix("<br>")


@checked
def estimate_against_patch(scores: EdgeScores) -> go.Figure:
    """Draw attribution patching's estimate against the patch itself, one point per edge of the sample.

    Args:
        scores: of `attribution_patching`.

    Returns:
        The figure: on the dotted line an estimate is right; colour is what an edge feeds, bars are 95 % over rows.

    Raises:
        InvalidInput: something else.
    """
    edges = [Edge.parse(text) for text in scores.sampled]
    feeds = [edge.kind or cast(Site, edge.reader).name for edge in edges]
    graph, estimates = scores.graph, scores.estimated
    errors = None if scores.stderr is None else np.array([scores.stderr[graph.cell(edge)] for edge in edges])
    figure = go.Figure()
    ends = [
        float(np.concatenate([estimates, scores.measured]).min()),
        float(max(estimates.max(), scores.measured.max())),
    ]
    line: dict[str, Any] = {"color": "#888", "dash": "dot", "width": 1.5}
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=line, name="estimate is right", hoverinfo="skip"))
    for key, (name, color) in FEEDS.items():
        chosen = np.array([feed == key for feed in feeds], dtype=bool)
        if not chosen.any():
            continue
        bars = None if errors is None else {"type": "data", "array": 1.96 * errors[chosen], "thickness": 1, "width": 0}
        figure.add_trace(
            go.Scatter(
                x=estimates[chosen],
                y=scores.measured[chosen],
                error_x=bars,
                mode="markers",
                name=name,
                marker={"size": 9, "color": color, "opacity": 0.85, "line": {"width": 0.5, "color": "white"}},
                text=[str(edge) for edge, here in zip(edges, chosen, strict=True) if here],
                hovertemplate="%{text}<br>estimate %{x:.4f}<br>patched %{y:.4f}<extra></extra>",
            )
        )
    about = scores.provenance["stimulus"]
    steps = f"{about['integrated']} steps" if about["integrated"] else "gradient at the clean input"
    agreement = scores.agreement
    measure = str(about["metric"]).replace("_", " ")
    figure.update_xaxes(title="estimate: change in the metric", zeroline=True, zerolinecolor="#ddd")
    figure.update_yaxes(title="patched: change in the metric", zeroline=True, zerolinecolor="#ddd")
    return styled(
        figure,
        "Do the estimates hold?",
        f"{short(str(scores.provenance['model']))}, {measure}, {steps}; {len(edges)} edges patched<br>"
        f"Pearson {agreement['pearson']:.2f}, Spearman {agreement['spearman']:.2f}, slope {agreement['slope']:.2f}; "
        "bars: 95 % of an estimate over rows",
        width=760,
        height=640,
        legend={"orientation": "h", "y": -0.14, "x": 0},
    )
