"""Figures of ablations: curves with their control band, effects by head and layer, self-repair."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.ablation.curve import AblationCurve
from circuits.ablation.head_effects import HeadEffects
from circuits.ablation.layer_effects import LayerEffects
from circuits.ablation.self_repair import SelfRepair
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import COLORS, label, short, styled
from interp.results.statistics import band_words, rank_correlation
from probes import plots
from probes.induction.mosaic import THRESHOLD, Mosaic
from probes.plots.heatmaps import rings

HEADS, CONTROL = "#b3312c", "#7a7a7a"


def _change(provenance: dict[str, Any]) -> str:
    """Return the title of the axis of effects."""
    name, unit = str(provenance.get("metric", "log_prob")), str(provenance.get("unit", "nats"))
    name = "log-probability" if name == "log_prob" else label(name)
    return f"change in {name}, {unit}" if unit else f"change in {name}"


def _source(provenance: dict[str, object]) -> str:
    return f"{short(str(provenance.get('model')))}, {provenance.get('method')} ablation"


@checked
def ablation_curve(curve: AblationCurve) -> go.Figure:
    """Draw the ablation of the strongest k heads against random heads of the same layers.

    Args:
        curve: the result.

    Returns:
        Panels of the change in log-probability and of the accuracy of the continuation by k, and
        with forecasts of the change in MASE; bars are 95 % intervals over rows or series, the band
        is the range of the control sets, or from 39 sets on 95 % of them.
    """
    frame = curve.to_frame()
    change = _change(curve.provenance)
    shown = "log-probability of the continuation" if "log-prob" in change else change.removeprefix("change in ")
    panels = {
        shown: (frame.loc[frame["outcome"] == "effect"], change),
        "accuracy of the continuation": (frame.loc[frame["outcome"] == "accuracy"], "share of rows"),
    }
    if curve.forecasts is not None:
        errors = curve.forecasts.summary()
        errors = errors.loc[errors["outcome"] == "mase"]
        errors = errors.assign(value=errors["change"], count=[point.count for point in curve.points], clean=0.0)
        panels["forecasts"] = (errors, "change in MASE")
    figure = make_subplots(cols=len(panels), subplot_titles=list(panels), horizontal_spacing=0.1)
    for column, (rows, unit) in enumerate(panels.values(), start=1):
        known = rows.dropna(subset=["control"])
        band = go.Scatter(
            x=[*known["count"], *known["count"][::-1]],
            y=[*known["control_high"], *known["control_low"][::-1]],
            fill="toself",
            mode="lines",
            fillcolor="rgba(122,122,122,.22)",
            line_width=0,
            hoverinfo="skip",
            showlegend=False,
        )
        middle = go.Scatter(
            x=known["count"],
            y=known["control"],
            mode="lines+markers",
            name="random heads of the same layers",
            line={"color": CONTROL},
            legendgroup="control",
            showlegend=column == 1,
        )
        own = go.Scatter(
            x=rows["count"],
            y=rows["value"],
            mode="lines+markers",
            name="strongest heads",
            line={"color": HEADS, "width": 2.5},
            error_y={
                "type": "data",
                "array": rows["high"] - rows["value"],
                "arrayminus": rows["value"] - rows["low"],
                "thickness": 1.2,
            },
            customdata=rows["count"],
            legendgroup="own",
            showlegend=column == 1,
        )
        for trace in (band, middle, own):
            figure.add_trace(trace, row=1, col=column)
        figure.add_hline(y=float(rows["clean"].iloc[0]), line_dash="dot", line_color="#555", row=1, col=column)  # type: ignore[arg-type]
        figure.update_yaxes(title=unit, row=1, col=column)
    counts = [point.count for point in curve.points]
    figure.update_xaxes(title="heads ablated", tickvals=counts, rangemode="tozero")
    figure.update_yaxes(range=[-0.03, 1.05], col=2)
    missing = [str(point.count) for point in curve.points if not len(point.control_sets)]
    sets = band_words(len(point.control_sets) for point in curve.points)
    note = f"; no control could be drawn for {', '.join(missing)}" if missing else ""
    return styled(
        figure,
        "Do the induction heads matter?",
        f"{_source(curve.provenance)}, heads ranked by {label(str(curve.provenance.get('ranked_by')))}; dotted: "
        f"unedited; bars: 95 % over rows; band: {sets}{note}",
        width=430 * len(panels) + 80,
        height=440,
        legend={"orientation": "h", "y": -0.22, "x": 0},
    )


@checked
def head_effects(effects: HeadEffects, mosaic: Mosaic | None = None, *, threshold: float = THRESHOLD) -> go.Figure:
    """Draw the effect of each head alone, in the mosaic's layout; red where the head helps.

    Args:
        effects: the result.
        mosaic: whose heads at or over the threshold are ringed.
        threshold: of the rings.

    Returns:
        The figure.

    Raises:
        InvalidInput: a mosaic of other weights.
    """
    _check_same(effects, mosaic)
    figure = plots.head_scores(effects, title=f"Effect of ablating each head, {effects.site}")
    ringed = ""
    if mosaic is not None and effects.site == mosaic.either.site:
        figure.add_trace(rings(mosaic.either, threshold).update(marker_color="black"))
        ring_words = "ringed: induction heads" if mosaic.heads(threshold) else "no induction heads"
        ringed = f"; {ring_words}, at least {threshold:g}"
    largest = float(np.nanmax(np.abs(effects.values))) or 1.0
    return figure.update_layout(
        title_subtitle_text=f"{_source(effects.provenance)}{ringed}",
        coloraxis={"colorscale": "RdBu" if effects.sign < 0 else "RdBu_r", "cmin": -largest, "cmax": largest},
        coloraxis_colorbar_title=_change(effects.provenance).split(", ")[-1],
        width=700,
    )


def _check_same(effects: HeadEffects, mosaic: Mosaic | None) -> None:
    digests = {result.provenance.get("digest") for result in (effects, mosaic) if result is not None} - {None}
    if len(digests) > 1:
        raise InvalidInput(f"the effects and the mosaic are of different weights ({', '.join(map(str, digests))}).")


@checked
def score_against_effect(mosaic: Mosaic, effects: HeadEffects) -> go.Figure:
    """Draw mosaic score against effect, one point per head, with the correlation overall and within layers.

    Args:
        mosaic: the scores.
        effects: of the same heads.

    Returns:
        The figure.

    Raises:
        InvalidInput: effects of other heads than the mosaic's, or of other weights.
    """
    either = mosaic.either
    if (effects.site, effects.values.shape) != (either.site, either.values.shape):
        raise InvalidInput(
            f"the effects are of {effects.site} {list(effects.values.shape)}, the mosaic of {either.site} "
            f"{list(either.values.shape)}: give effects of the mosaic's heads."
        )
    _check_same(effects, mosaic)
    frame, scores = effects.to_frame(), mosaic.to_frame()
    right = scores["token_to_right"] > scores["current_token"]
    figure = go.Figure()
    for kind, chosen in (("current_token", ~right), ("token_to_right", right)):
        part = frame[chosen.to_numpy()]
        figure.add_trace(
            go.Scatter(
                x=scores["either"][chosen],
                y=part["score"],
                error_y={
                    "type": "data",
                    "array": part["high"] - part["score"],
                    "arrayminus": part["score"] - part["low"],
                    "thickness": 1,
                },
                mode="markers",
                cliponaxis=False,  # a score of 0 lies on the axis
                marker={"size": 9, "color": COLORS[kind], "line": {"width": 0.5, "color": "white"}},
                name=f"{label(kind)} is its larger score",
                text=part["head"],
                hovertemplate="%{text}<br>score %{x:.3f}<br>effect %{y:.3f}<extra></extra>",
            )
        )
    placed = frame.assign(x=scores["either"], helps=effects.helpful.values.ravel())
    for side in (placed["x"] < THRESHOLD, placed["x"] >= THRESHOLD):
        for row in placed.loc[side].sort_values("helps").tail(1).to_dict("records"):
            away = 75 if row["x"] < placed["x"].max() / 2 else -75
            figure.add_annotation(
                x=row["x"],
                y=row["score"],
                text=row["head"],
                ax=away,
                ay=-12,
                font_size=11,
                arrowwidth=0.7,
                bgcolor="rgba(255,255,255,.8)",
            )
    correlation = rank_correlation(mosaic.either.values, effects.values)
    figure.add_hline(y=0, line_color="#999", line_width=1)
    figure.add_vline(x=THRESHOLD, line_dash="dot", line_color="#888")
    figure.update_xaxes(title="mosaic score, the larger of the two", rangemode="tozero")
    figure.update_yaxes(title=_change(effects.provenance))
    return styled(
        figure,
        "Does the mosaic find the heads that matter?",
        f"{_source(effects.provenance)}; Spearman {correlation['overall']:.2f} "
        f"(p {correlation['overall_p']:.3f}), within layers {correlation['within_layers']:.2f} "
        f"(p {correlation['within_layers_p']:.3f}); bars: 95 % over rows",
        width=820,
        height=520,
        legend={"orientation": "h", "y": -0.16, "x": 0},
    )


@checked
def layer_effects(effects: LayerEffects) -> go.Figure:
    """Draw effects of whole layers as bars with intervals; beside each the change of the row's other tokens."""
    frame = effects.to_frame()
    stimulus = effects.provenance.get("stimulus", {}).get("name")
    others = "patches" if stimulus in ("values", "repeated_random_patches") else "tokens"
    figure = go.Figure()
    for name, low, high, title, color in (
        ("effect", "low", "high", "the continuation", HEADS),
        ("control", "control_low", "control_high", f"the row's other {others} (control)", CONTROL),
    ):
        figure.add_trace(
            go.Bar(
                x=frame["layer"],
                y=frame[name],
                name=title,
                marker_color=color,
                error_y={
                    "type": "data",
                    "array": frame[high] - frame[name],
                    "arrayminus": frame[name] - frame[low],
                    "thickness": 1,
                },
            )
        )
    figure.update_yaxes(title=_change(effects.provenance))
    figure.update_xaxes(tickangle=-45)
    return styled(
        figure,
        "Whole layers ablated",
        f"{_source(effects.provenance)}; bars: 95 % over rows",
        barmode="group",
        width=max(760, 46 * len(frame)),
        height=520,
        legend={"orientation": "h", "y": -0.42, "x": 0},
    )


@checked
def self_repair(result: SelfRepair) -> go.Figure:
    """Draw total and direct effects of each head, and the effect of restoring it when all chosen are ablated."""
    frame = result.to_frame()
    names = [f"{head} (control)" if role == "control" else head for head, role in frame[["head", "role"]].to_numpy()]
    figure = go.Figure()
    for name, title, color in (
        ("total", "ablated alone: total", HEADS),
        ("direct", "ablated alone: direct part", "#e3a29b"),
        ("restored", "given back when all chosen are ablated", "#2f6f4f"),
    ):
        error = {"type": "data", "array": frame[f"{name}_high"] - frame[name]}
        error |= {"arrayminus": frame[name] - frame[f"{name}_low"], "thickness": 1}
        figure.add_trace(go.Bar(x=names, y=frame[name], name=title, marker_color=color, error_y=error))
    figure.update_yaxes(title=_change(result.provenance))
    figure.update_xaxes(tickangle=-45)
    return styled(
        figure,
        "Do other heads stand in?",
        f"{_source(result.provenance)}; all {len(result.heads)} chosen heads together: "
        f"{float(np.mean(result.all_ablated)):.2f}; bars: 95 % over rows",
        barmode="group",
        width=max(820, 70 * len(frame)),
        height=540,
        legend={"orientation": "h", "y": -0.5, "x": 0},
    )
