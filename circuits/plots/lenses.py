"""The figure of the logit lens."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.attribution.direct import EMBEDDING
from circuits.attribution.logit_lens import AFTER, LogitLens
from circuits.plots.attributions import model_of, over
from interp.arguments import checked
from interp.inputs.masks import at_position, position_words
from interp.names import Site
from interp.output.style import COLORS, styled

FLAT = 0.05
"""Powers of ten under which effective tokens do not differ."""


@checked
def logit_lens(result: LogitLens, *, position: int = -1) -> go.Figure:
    """Draw how the prediction forms: certainty, distance to the output and the target's log-probability by point.

    Args:
        result: what `logit_lens` returns.
        position: of the decoder; from the end over a row's own tokens: the last that is no padding by default.

    Returns:
        Panels over the points of the residual stream, means over rows with bands of 95 %; the expected value, if there
        is any, where no target was given.

    Raises:
        InvalidInput: no such position, or another result.
    """
    frame = result.to_frame(position)
    panels = {"effective_tokens": ("effective tokens: exp(entropy)", COLORS["current_token"])}
    panels["kl"] = ("KL to the output, nats", COLORS["eos"])
    if result.log_prob is not None:
        panels["log_prob"] = ("log-probability of the target, nats", COLORS["token_to_right"])
    elif result.expected_value is not None:
        panels["expected_value"] = ("expected value (scaled value)", COLORS["token_to_right"])
    x = [_point(point) for point in result.points]
    figure = make_subplots(rows=len(panels), shared_xaxes=True, subplot_titles=[t for t, _ in panels.values()],
                           vertical_spacing=0.09)  # fmt: skip
    for place, (name, (_, color)) in enumerate(panels.items(), start=1):
        of = frame.loc[frame["measure"] == name]
        if bool(of["low"].notna().all()):
            figure.add_trace(_band(x, of, color), row=place, col=1)
        line = go.Scatter(
            x=x,
            y=of["mean"],
            mode="lines+markers",
            line={"color": color, "width": 2},
            customdata=np.array(result.points),
            hovertemplate="%{customdata}<br>%{y:.3g}<extra></extra>",
            showlegend=False,
        )
        figure.add_trace(line, row=place, col=1)
    spread = frame.loc[frame["measure"] == "effective_tokens", ["mean", "low", "high"]].to_numpy()
    # An interval of few rows may reach below zero, which this axis does not show.
    least, most = np.log10([spread[spread > 0].min(), np.nanmax(spread)])
    # Powers of ten alone would leave a narrow axis without ticks, and rounding alone would fill one.
    figure.update_yaxes(type="log", dtick=1 if most - least > 1 else "D2", row=1, col=1)
    if most - least < FLAT:
        figure.update_yaxes(range=[least - FLAT, most + FLAT], row=1, col=1)
    figure.update_xaxes(tickangle=-40, type="category")
    figure.update_xaxes(title="the residual stream after", row=len(panels), col=1)
    shown = ~np.isnan(result.entropy[0])
    rows = int((~np.isnan(at_position(result.entropy[0], shown, position))).sum())
    return styled(
        figure,
        "The logit lens",
        f"{model_of(result.provenance)}, decoder position {position_words(shown, position)}, {over(rows)}: the final "
        f"norm and unembedding applied to the stream{'; bands: 95 % over rows' if rows > 1 else ''}",
        width=max(980, 160 + 40 * len(x)),
        height=190 + 190 * len(panels),
    ).update_layout(margin_b=110)


def _band(x: list[str], frame: pd.DataFrame, color: str) -> go.Scatter:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=[*x, *x[::-1]],
        y=[*frame["high"], *frame["low"][::-1]],
        fill="toself",
        mode="lines",
        line_width=0,
        fillcolor=f"rgba({red},{green},{blue},.22)",
        hoverinfo="skip",
        showlegend=False,
    )


def _point(name: str) -> str:
    site = Site.parse(name)
    return "embedding" if name == EMBEDDING else f"{site.layer} {AFTER[site.name]}"
