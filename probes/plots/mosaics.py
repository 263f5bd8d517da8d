"""Figures of mosaics: scores by layer and head, counts by model, where induction heads sit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import COLORS, SCALE, heads_of, label, short, styled, unique
from interp.results.by_head import HeadScores
from probes.induction.mosaic import KINDS, THRESHOLD, Mosaic
from probes.induction.patch_mosaic import PatchMosaic
from probes.plots.heatmaps import heatmap, rings, strongest, ticks
from probes.plots.patch_mosaics import patch_mosaic


@checked
def mosaic(result: Mosaic | PatchMosaic, *, threshold: float = THRESHOLD) -> go.Figure:
    """Draw the induction mosaic: two panels, current token and token to right, on one scale from 0 to 1.

    Of a model that reads patches there is a row of panels for each query, and a third panel shows the scores where
    nothing repeats.

    Args:
        result: the mosaic.
        threshold: heads at or over it are ringed.

    Returns:
        The figure; hovering names the head.
    """
    if isinstance(result, PatchMosaic):
        return patch_mosaic(result, threshold)
    counts = result.counts(threshold)
    notes = [strongest(getattr(result, kind), threshold) for kind in KINDS]
    titles = [f"{label(kind)}: {getattr(counts, kind)} of {counts.n_heads} heads" for kind in KINDS]
    figure = make_subplots(
        cols=2, subplot_titles=[title + note for title, note in zip(titles, notes, strict=True)], horizontal_spacing=0.1
    )
    layers, heads = result.current_token.values.shape
    for column, kind in enumerate(KINDS, start=1):
        figure.add_trace(heatmap(getattr(result, kind), "coloraxis"), row=1, col=column)
        figure.add_trace(rings(getattr(result, kind), threshold), row=1, col=column)
    figure.update_xaxes(title="head", range=[-0.5, heads - 0.5], showgrid=False, zeroline=False, **ticks(heads))
    figure.update_yaxes(title="layer", range=[layers - 0.5, -0.5], showgrid=False, zeroline=False, **ticks(layers))
    stimulus = result.provenance.get("stimulus", {})
    subtitle = (
        f"attention of {heads_of([result.site])} on repeated random tokens: length "
        f"{stimulus.get('sequence_length')}, {stimulus.get('repetitions')} repetitions, batch "
        f"{stimulus.get('batch_size')}, {result.provenance.get('dtype')}; ringed: at least {threshold:g}"
    )
    return styled(
        figure,
        f"Induction mosaic of {short(result.name)}",
        subtitle,
        coloraxis={"colorscale": SCALE, "cmin": 0, "cmax": 1, "colorbar": {"title": "attention"}},
        width=1060,
        height=max(400, 215 + 34 * layers) + (30 if any(notes) else 0),
    ).update_layout(margin_t=148 if any(notes) else 118)


@checked
def head_scores(result: HeadScores, *, title: str | None = None) -> go.Figure:
    """Draw any head scores as a heatmap in the mosaic's layout; on 0 to 1 if they are attention."""
    layers, heads = result.values.shape
    axis: dict[str, Any] = {"colorscale": SCALE, "colorbar": {"title": result.unit}}
    if result.unit == "attention":
        axis |= {"cmin": 0, "cmax": 1}
    if np.nanmin(result.values) < 0:
        # Effects: white is nothing, both directions on one scale.
        largest = float(np.nanmax(np.abs(result.values)))
        axis |= {"colorscale": "RdBu", "cmin": -largest, "cmax": largest}
    figure = go.Figure(heatmap(result, "coloraxis"))
    figure.update_xaxes(title="head", showgrid=False, zeroline=False, **ticks(heads))
    figure.update_yaxes(title="layer", autorange="reversed", showgrid=False, zeroline=False, **ticks(layers))
    name = short(str(result.provenance.get("model", "")))
    return styled(
        figure,
        title or f"{label(result.name)}, {result.site}",
        name,
        coloraxis=axis,
        width=620,
        height=max(380, 215 + 34 * layers),
    )


def _each(mosaics: Sequence[Mosaic] | Mosaic) -> list[Mosaic]:
    listed = [mosaics] if isinstance(mosaics, Mosaic) else list(mosaics)
    if not listed:
        raise InvalidInput("no mosaics to draw: give at least one.")
    return listed


def _stimulus(results: Sequence[Mosaic]) -> str:
    """Say in words which repetitions and lengths the random tokens had, each once."""
    stimuli = [result.provenance.get("stimulus", {}) for result in results]

    def every(name: str) -> str:
        return ", ".join(str(value) for value in dict.fromkeys(stimulus.get(name, "?") for stimulus in stimuli))

    return f"{every('repetitions')} repetitions, length {every('sequence_length')}"


@checked
def head_counts(mosaics: Sequence[Mosaic] | Mosaic, *, threshold: float = THRESHOLD) -> go.Figure:
    """Draw the published counts of induction heads by model, current and right stacked.

    Args:
        mosaics: one a model.
        threshold: from which score on a head counts.

    Returns:
        Two panels of bars: numbers, and shares of all heads in percent. Over a bar stands the total, in which a head of
        both kinds counts twice, as published; hovering says how many heads that is, each counted once.
    """
    results = _each(mosaics)
    names = unique([m.name for m in results])
    counts = [m.counts(threshold) for m in results]
    figure = make_subplots(cols=2, subplot_titles=["number of heads", "share of all heads"])
    either = [f"{count.either} ({count.proportions['either']:.1%}) with each head counted once" for count in counts]
    for column in (1, 2):
        values = [
            c.proportions if column == 2 else {name: getattr(c, name) for name in (*KINDS, "total")} for c in counts
        ]
        totals = [value["total"] for value in values]
        top = max(totals) or (1 if column == 1 else 0.01)
        form = "{:.1%}".format if column == 2 else str
        for kind in KINDS:
            heights = [value[kind] for value in values]
            bars = go.Bar(
                x=names,
                y=heights,
                name=label(kind),
                legendgroup=kind,
                showlegend=column == 1,
                marker_color=COLORS[kind],
                # A lower bar has no place for its number, which hovering says.
                text=[form(height) if height > 0.06 * top else "" for height in heights],
                textposition="inside",
                insidetextanchor="middle",
                constraintext="none",
                textangle=0,
                customdata=[[form(height), note] for height, note in zip(heights, either, strict=True)],
                hovertemplate="%{x}<br>%{fullData.name}: %{customdata[0]}<br>in all %{customdata[1]}<extra></extra>",
            )
            figure.add_trace(bars, row=1, col=column)
        above = go.Scatter(
            x=names, y=totals, text=[f"<b>{form(total)}</b>" for total in totals], mode="text",
            textposition="top center", cliponaxis=False, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        figure.add_trace(above, row=1, col=column)
        figure.update_yaxes(range=[0, 1.12 * top], col=column)
    figure.update_yaxes(tickformat=".0%" if max(c.proportions["total"] for c in counts) > 0.05 else ".1%", col=2)
    both = sum(c.total - c.either for c in counts)
    return styled(
        figure,
        f"Induction heads by model: {_stimulus(results)}",
        f"{heads_of(m.site for m in results)} with a score of at least {threshold:g}"
        + (f"; {both} of both kinds count twice" if both else ""),
        barmode="stack",
        bargap=0.25 if len(results) > 1 else 0.65,
        width=max(820, 260 * len(results)),
        height=450,
        legend={"orientation": "h", "y": -0.14, "x": 0},
    )


@checked
def head_layers(mosaics: Sequence[Mosaic] | Mosaic, *, threshold: float = THRESHOLD) -> go.Figure:
    """Draw where induction heads sit: relative layers (layer + 1) / n_layers by kind, as halves of violins with points.

    Args:
        mosaics: one a model.
        threshold: from which score on a head counts.

    Returns:
        The figure: current heads on the left, right heads on the right, with lines at the means. Models without a head
        of a kind have no half there.
    """
    results = _each(mosaics)
    figure = go.Figure()
    names = unique([m.name for m in results])
    frames = [m.to_frame() for m in results]
    for kind, side, place in zip(KINDS, ("negative", "positive"), (-0.35, 0.35), strict=True):
        parts = [frame[frame[kind] >= threshold] for frame in frames]
        x = [name for name, part in zip(names, parts, strict=True) for _ in range(len(part))]
        figure.add_trace(
            go.Violin(
                x=x,
                y=[layer for part in parts for layer in part["relative_layer"]],
                text=[head for part in parts for head in part["head"]],
                name=label(kind),
                legendgroup=kind,
                scalegroup=kind,
                side=side,
                meanline={"visible": True, "width": 2},
                line={"color": COLORS[kind], "width": 1.2},
                points="all",
                pointpos=place,
                jitter=0.3,
                width=0.85,
                marker={"size": 6, "opacity": 0.75},
                spanmode="hard",
                hovertemplate="%{text}<br>relative layer %{y:.1%}<extra></extra>",
                hoveron="points",
            )
        )
    figure.update_yaxes(title="relative layer", range=[0, 1.05], tickformat=".0%")
    figure.update_xaxes(categoryorder="array", categoryarray=names, range=[-0.5, len(names) - 0.5])
    return styled(
        figure,
        f"Layers of the induction heads: {_stimulus(results)}",
        f"(layer + 1) / layers of the decoder, heads with a score of at least {threshold:g}; lines: means",
        violinmode="overlay",
        violingap=0,
        width=max(720, 240 * len(results)),
        height=450,
        legend={"orientation": "h", "y": -0.14, "x": 0},
    )


@checked
def attention_by_occurrence(result: Mosaic, *, threshold: float = THRESHOLD) -> go.Figure:
    """Draw attention by earlier occurrence, counted from the last, for each head over the threshold.

    Raises:
        InvalidInput: a published mosaic, which holds no attention by occurrence.
    """
    if result.current_by_occurrence is None or result.right_by_occurrence is None:
        raise InvalidInput(f"{result.name}: this mosaic holds no attention by occurrence.")
    sides = {"current_token": result.current_by_occurrence, "token_to_right": result.right_by_occurrence}
    figure = make_subplots(cols=2, subplot_titles=[label(kind) for kind in KINDS], shared_yaxes=True)
    repeats = result.current_by_occurrence.shape[-1]
    for column, (kind, values) in enumerate(sides.items(), start=1):
        heads = getattr(result, kind).heads(threshold)
        if not heads:
            blank = go.Scatter(
                x=[(1 + repeats) / 2], y=[0.75], mode="text", text=f"no head reaches {threshold:g}", showlegend=False
            )
            figure.add_trace(blank, row=1, col=column)
        for head in heads:
            figure.add_trace(
                go.Scatter(
                    x=np.arange(1, repeats + 1),
                    y=values[head.address.layer, head.address.head],
                    mode="lines+markers",
                    name=str(head.address),
                    line_color=COLORS[kind],
                    opacity=0.6,
                    showlegend=False,
                    hovertemplate=f"{head.address}<br>%{{y:.3f}}<extra></extra>",
                ),
                row=1,
                col=column,
            )
        figure.add_hline(y=1 / repeats, line_dash="dot", line_color="#888", row=1, col=column)  # type: ignore[arg-type]
    figure.update_xaxes(title="earlier occurrence, from the last", dtick=1, range=[0.7, repeats + 0.3])
    figure.update_yaxes(range=[0, 1.02])
    figure.update_yaxes(title="attention", col=1)
    return styled(
        figure,
        f"Attention by occurrence, {short(result.name)}",
        f"heads with a score of at least {threshold:g}; dotted: equal shares",
        width=900,
        height=420,
    )
