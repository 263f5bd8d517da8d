"""Lines of all heads in one panel, faintly: one colour per layer or, where a mosaic tells them apart, per kind of head.

Hovering names a line's head. An entry of the legend shows and hides all lines of its colour.

Source: the figures of "Hunting for Induction Heads in Amazon's Chronos", part 2, which draw every head of every layer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from interp import Head
from interp.errors import InvalidInput
from interp.names import parse_kind
from interp.output.style import COLORS, label, short
from interp.results.result import Floats
from interp.validate import number
from probes.induction.mosaic import KINDS, Mosaic
from probes.periodic.spectrum import AttentionSpectrum

FAINT, ON_TOP = 0.3, 0.7
"""Opacity of lines: of all heads, and of induction heads."""

OTHERS = "#9a9a9a"


@dataclass(frozen=True)
class Group:
    """Heads of one colour, with their entry in the legend."""

    name: str
    color: str
    opacity: float
    heads: tuple[Head, ...]


def head_groups(
    spectrum: AttentionSpectrum, mosaic: Mosaic | None, threshold: float, among: Sequence[int] | None = None
) -> list[Group]:
    """Return the heads by layer or, with a mosaic, the others and then the induction heads by their stronger kind.

    Args:
        spectrum: whose heads they are.
        mosaic: of the same model.
        threshold: score from which a head is an induction head.
        among: layers; all by default.
    """
    stack, kind = parse_kind(spectrum.site)
    layers, count = spectrum.attention.shape[:2]
    chosen = range(layers) if among is None else among
    every = [[Head(stack, kind, layer, head) for head in range(count)] for layer in chosen]
    if mosaic is None:
        # Of the scale's light end lines are not seen on white.
        shades: Any = sample_colorscale("Viridis", list(np.linspace(0, 0.8, layers)))
        return [Group(f"layer {i}", shades[i], FAINT, tuple(heads)) for i, heads in zip(chosen, every, strict=True)]
    induction = mosaic.heads(number("threshold", threshold))
    kinds = {scored.address: scored.kind for scored in induction if scored.address.layer in chosen}
    others = tuple(head for heads in every for head in heads if head not in kinds)
    groups = [Group(f"other heads ({len(others)})", OTHERS, FAINT, others)]
    for name in KINDS:
        own = tuple(head for head, its in kinds.items() if its == name)
        groups.append(Group(f"{label(name)} ({len(own)})", COLORS[name], ON_TOP, own))
    return groups


def coloured(groups: Sequence[Group], threshold: float) -> str:
    """Say in a subtitle from which score on heads are induction heads; nothing where colours are layers."""
    return "" if groups[0].name.startswith("layer") else f"; induction heads: a score of at least {threshold:g}"


def mosaic_of(spectrum: AttentionSpectrum, mosaics: Iterable[Mosaic]) -> Mosaic | None:
    """Return the mosaic of the model that a spectrum is of; None if there is none."""
    return next((mosaic for mosaic in mosaics if _is_of(mosaic, spectrum)), None)


def check_mosaics(spectra: Sequence[AttentionSpectrum], mosaics: Sequence[Mosaic]) -> None:
    """Check that each mosaic is of a model that is drawn.

    Raises:
        InvalidInput: one is of another model, or of other weights.
    """
    for mosaic in mosaics:
        if not any(_is_of(mosaic, spectrum) for spectrum in spectra):
            raise InvalidInput(
                f"a mosaic of {mosaic.name}: the spectra are of {', '.join(s.name for s in spectra)}, or of other "
                "weights or another dtype. Take both of one model."
            )


def _is_of(mosaic: Mosaic, spectrum: AttentionSpectrum) -> bool:
    ours, theirs = mosaic.provenance.get("digest"), spectrum.provenance.get("digest")
    # Published mosaics know no weights, only a name.
    same = short(mosaic.name) == short(spectrum.name) if ours is None else ours == theirs
    return same and mosaic.site == spectrum.site and mosaic.either.values.shape == spectrum.attention.shape[:2]


def head_lines(x: Any, values: Floats, groups: Sequence[Group], what: str) -> list[go.Scatter]:
    """Return one line per head of the groups, the last on top, with values `[layer, head, x]`.

    Args:
        x: where the values stand.
        values: what is drawn.
        groups: which heads, in which colours.
        what: name of the values, for hovering.
    """
    return [
        go.Scatter(
            x=x,
            y=values[head.layer, head.head].astype(np.float32),  # half the size of a page
            mode="lines",
            name=str(head),
            legendgroup=group.name,
            showlegend=False,
            line={"color": group.color, "width": 1.2},
            opacity=group.opacity,
            hovertemplate=f"{head}<br>%{{x}}<br>{what} %{{y:.3g}}<extra></extra>",
        )
        for group in groups
        for head in group.heads
    ]


def legend_entries(groups: Sequence[Group]) -> list[go.Scatter]:
    """Return the legend's entries for groups of heads, as lines without points."""
    return [
        go.Scatter(
            x=[None],
            y=[None],
            mode="lines",
            name=group.name,
            legendgroup=group.name,
            line={"color": group.color, "width": 2},
            opacity=max(group.opacity, 0.7),
        )
        for group in groups
    ]
