"""Figures of two questions asked with multisines: are induction heads at work on them, and which combs do they make."""

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.arguments import checked
from interp.output.style import COLORS, heads_of, label, short, styled
from interp.validate import whole
from probes.questions.agreement import Agreement
from probes.questions.comb_origin import HYPOTHESES, LEVEL, CombOrigin

Table = Any
"""A pandas frame inside a calculation, where its own annotations lose what it is at every step."""

HYPOTHESIS_COLORS = dict(zip(HYPOTHESES, ("#1f6f8b", "#d1603d", "#e0b04c"), strict=True))
CONTROL = "matching by value"

AXES = {
    "amplitude": "highest magnitude of the FFT",
    "comb": "strength of the comb",
    "second_amplitude": "highest magnitude of the FFT of the FFT",
}
"""What an axis of a score shows; attention elsewhere."""


@checked
def agreement(result: Agreement) -> go.Figure:
    """Score on repeated random tokens against each score on multisines, a point a head.

    Args:
        result: what `probes.agreement` returned.

    Returns:
        A panel for each score; titles hold Spearman's correlation over heads, within layers, and where the
        multisine's context was shuffled. Induction heads are coloured, hovering names the head.

    Raises:
        InvalidInput: another result.
    """
    scores: Table = result.to_frame().set_index("measure")
    heads: Table = result.heads()
    measures = list(result.multisine.scores)
    titles = [f"<b>{label(name)}</b><br>{_correlations(scores.loc[name])}" for name in measures]
    rows = -(-len(measures) // 2)
    figure = make_subplots(
        rows=rows, cols=2, subplot_titles=titles, horizontal_spacing=0.1, vertical_spacing=0.4 / rows,
        specs=[[{} if 2 * row + col < len(measures) else None for col in range(2)] for row in range(rows)],
    )  # fmt: skip
    figure.update_annotations(font_size=13)
    kinds = ((False, "other heads", COLORS["either"]), (True, "induction heads", COLORS["token_to_right"]))
    for at, measure in enumerate(measures):
        for chosen, name, color in kinds:
            part = heads[heads["induction"] == chosen]
            points = go.Scatter(
                x=part[measure],
                y=part["either"],
                text=part["head"],
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=at == 0,
                marker={"color": color, "size": 8, "opacity": 0.8, "line": {"color": "white", "width": 0.7}},
                hovertemplate=f"%{{text}}<br>{label(measure)} %{{x:.3f}}<br>either %{{y:.3f}}<extra></extra>",
            )
            figure.add_trace(points, row=at // 2 + 1, col=at % 2 + 1)
        what = AXES.get(measure, "attention")
        figure.update_xaxes(title=f"{label(measure)}: {what}", row=at // 2 + 1, col=at % 2 + 1)
    figure.add_hline(y=result.threshold, line_dash="dot", line_color="#888888", line_width=1)  # type: ignore[arg-type]
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(range=[-0.03, 1.03], zeroline=False)
    figure.update_yaxes(title="repeated random tokens: either", col=1)
    chosen = int(heads["induction"].sum())
    return styled(
        figure,
        f"Repeated random tokens and multisines: {escape(short(result.mosaic.name))}",
        f"{heads_of([result.mosaic.site])}; {chosen} of {len(heads)} are induction heads, at least "
        f"{result.threshold:g}; shuffled: the multisine's context",
        width=980,
        height=210 + 335 * rows,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1 + 50 / (335 * rows), "yanchor": "bottom"},
    ).update_layout(margin_t=150)


def _correlations(row: Table) -> str:
    within = f"{row['within_layers']:.2f} within layers (p {row['within_layers_p']:.2g})"
    return f"rho {row['rho']:.2f} (p {row['p']:.2g}), {within}, {row['shuffled_rho']:.2f} shuffled"


@checked
def comb_origin(result: CombOrigin, *, most: int = 48) -> go.Figure:
    """Draw which spacing wins in each head's spectra: gcd, smallest difference or smallest frequency.

    Args:
        result: what `probes.comb_origin` returned.
        most: of a larger model, how many heads are drawn, those of the strongest combs.

    Returns:
        A row a head, strongest comb first, and the control, matching by value, at the top: the share of
        draws with a comb that each hypothesis wins, and how many draws have one, with the verdict.
        Heads without a verdict are pale.

    Raises:
        InvalidInput: another result, or fewer heads than one.
    """
    frame: Table = result.to_frame()
    control = frame[frame["head"] == CONTROL]
    heads = frame[frame["head"] != CONTROL].sort_values("strength", ascending=False, kind="stable")
    shown = pd.concat([control, heads.head(whole("most", most, 1))])
    # An empty place sets the control apart.
    places = np.array([0.0, *(np.arange(1, len(shown)) + 0.7)])
    figure = make_subplots(
        cols=2, shared_yaxes=True, column_widths=[0.62, 0.38], horizontal_spacing=0.05,
        subplot_titles=["which spacing wins, share of draws with a comb", "draws with a comb, and verdict"],
    )  # fmt: skip
    pale = np.where((shown["verdict"] == "none").to_numpy(), 0.3, 1.0)
    about = shown[["head", "strength", "margin", "margin_low", "margin_high", "q", "over_control"]].to_numpy()
    for name, color in HYPOTHESIS_COLORS.items():
        bars = go.Bar(
            x=shown[name], y=places, orientation="h", name=name, customdata=about,
            marker={"color": color, "opacity": pale, "line": {"width": 0}},
            hovertemplate=f"%{{customdata[0]}}<br>{name} wins %{{x:.0%}}<br>strength %{{customdata[1]:.2f}}, over the "
            "control %{customdata[6]:.2f}<br>margin of the winner %{customdata[2]:.3f} "
            "(%{customdata[3]:.3f} to %{customdata[4]:.3f})<extra></extra>",
        )  # fmt: skip
        figure.add_trace(bars, row=1, col=1)
    words = [f" {share:.0%}  {said}" for share, said in zip(shown["detected"], shown["verdict"], strict=True)]
    colors = [HYPOTHESIS_COLORS.get(said, "#9a9a9a") for said in shown["verdict"]]
    detected = go.Scatter(
        x=shown["detected"], y=places, text=words, mode="markers+text", textposition="middle right", cliponaxis=False,
        textfont={"size": 11}, marker={"color": colors, "size": 8}, showlegend=False, customdata=about,
        hovertemplate="%{customdata[0]}<br>%{x:.0%} of the draws, q %{customdata[5]:.2g}<extra></extra>",
    )  # fmt: skip
    figure.add_trace(detected, row=1, col=2)
    line: dict[str, Any] = {"line_dash": "dot", "line_width": 1}
    figure.add_vline(x=0.5, line_color="#ffffff", **line, row=1, col=1)  # type: ignore[arg-type]
    figure.add_vline(x=LEVEL, line_color="#888888", **line, row=1, col=2)  # type: ignore[arg-type]
    named = [f"<b>{CONTROL}</b>", *shown["head"].iloc[1:]]
    figure.update_yaxes(range=[places[-1] + 0.7, -0.7], tickvals=places, ticktext=named, tickfont={"size": 11})
    figure.update_yaxes(showgrid=False, zeroline=False)
    shares: dict[str, Any] = {"tickvals": [0, 0.25, 0.5, 0.75, 1], "tickformat": ".0%", "zeroline": False}
    figure.update_xaxes(**shares, range=[0, 1], row=1, col=1)
    figure.update_xaxes(**shares, range=[-0.03, 1.75], row=1, col=2)
    spacings = "; ".join(
        f"of {', '.join(map(str, case))} Hz {', '.join(map(str, three))}"
        for case, three in zip(result.cases, result.spacings, strict=True)
    )
    left_out = len(heads) - (len(shown) - 1)
    panel = 20 * (len(shown) + 1)
    note = f"the {len(shown) - 1} strongest of {len(heads)} heads" if left_out else f"all {len(heads)} heads"
    return styled(
        figure,
        f"Origin of combs: {escape(short(str(result.provenance.get('model', 'model'))))}, {note}",
        f"{', '.join(HYPOTHESES)}: {spacings} Hz; pale: no verdict",
        barmode="stack",
        bargap=0.2,
        width=1060,
        height=225 + panel,
        legend={"orientation": "h", "x": 0, "y": 1 + 26 / panel, "yanchor": "bottom", "traceorder": "normal"},
    ).update_layout(margin_t=175, margin_b=50)
