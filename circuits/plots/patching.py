"""Figures of activation patching: heads by layer, and sites by position."""

from typing import Any, Literal, get_args

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.patching import Patched, PatchedHeads, PatchedPositions, stack_of
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.vocabulary import PUBLISHED
from interp.names import Site
from interp.output.style import label, short, styled
from interp.results.by_head import row_mean
from interp.results.result import Floats
from probes.plots.heatmaps import ticks

Show = Literal["share", "effect"]

SMALL = 160
"""Up to how many cells are annotated with their number."""


@checked
def patched_heads(patched: PatchedHeads, *, show: Show = "share", denoising: bool = False) -> go.Figure:
    """Draw what patching each head alone does, layers down and heads across, one panel per kind and site.

    Args:
        patched: what `patch_heads` gave.
        show: the share of what the whole corruption does, or the effect in the metric's unit.
        denoising: whether the run was on the corrupt input, with heads of the clean one, so that `patched.clean` is
            of the corrupt input.

    Returns:
        The figure; red is towards the value of the other input, on one scale with white at nothing.

    Raises:
        InvalidInput: another result, or another thing to show.
    """
    _check(patched, PatchedHeads, show)
    sites = [Site.parse(name) for name in patched.sites]
    panels = list(dict.fromkeys((f"{site.stack}.{site.kind}", site.name) for site in sites))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    layers = max(site.layer or 0 for site in sites) + 1
    heads, tall = patched.values.shape[1], max(120, 34 * layers)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"{of} of {kind}" for kind, of in panels],
        horizontal_spacing=0.1,
        vertical_spacing=min(0.9 / rows, 85 / (tall * rows + 85 * (rows - 1))) if rows > 1 else 0,
    )
    shown, texts = _shown(patched, show), _texts(patched)
    for index, (kind, of) in enumerate(panels):
        values = np.full((layers, heads), np.nan)
        hover = np.full((layers, heads), "", dtype=object)
        for site, row, text in zip(sites, shown, texts, strict=True):
            if (f"{site.stack}.{site.kind}", site.name) == (kind, of):
                values[site.layer] = row
                hover[site.layer] = [f"{kind}.{site.layer}.{head}, {of}<br>{words}" for head, words in enumerate(text)]
        trace = _heatmap(values, hover, annotated=values.size <= SMALL)
        figure.add_trace(trace, row=index // columns + 1, col=index % columns + 1)
        if index + columns >= len(panels):
            figure.update_xaxes(title="head", row=index // columns + 1, col=index % columns + 1)
    figure.update_xaxes(range=[-0.5, heads - 0.5], showgrid=False, zeroline=False, **ticks(heads))
    figure.update_yaxes(range=[layers - 0.5, -0.5], showgrid=False, zeroline=False, **ticks(layers))
    figure.update_yaxes(title="layer", col=1)
    return styled(
        figure,
        f"One head {'restored' if denoising else 'patched'} at a time",
        _about(patched, ("corrupt", "clean") if denoising else ("clean", "corrupt")),
        coloraxis=_color(patched, show, shown),
        width=max(640, 190 + columns * max(330, 42 * heads)),
        height=200 + tall * rows + 85 * (rows - 1),
    )


@checked
def patched_positions(patched: PatchedPositions, *, show: Show = "share") -> go.Figure:
    """Draw what patching each site at each position does: sites down, positions across, a panel per stack.

    Args:
        patched: what `patch_positions` gave.
        show: the share of what the whole corruption does, or the effect in the metric's unit.

    Returns:
        The figure; red is towards the corrupt input's value, on one scale with white at nothing.
        Ticks are positions, with the token where all rows share it, or [REG]; bold where the inputs differ.

    Raises:
        InvalidInput: another result, or another thing to show.
    """
    _check(patched, PatchedPositions, show)
    stacks = list(dict.fromkeys(stack_of(site) for site in patched.sites))
    lengths = {stack: patched.tokens[stack].shape[-1] for stack in stacks}
    of = {stack: [i for i, site in enumerate(patched.sites) if stack_of(site) == stack] for stack in stacks}
    shown, texts = _shown(patched, show), _texts(patched)
    annotated = sum(len(of[stack]) * lengths[stack] for stack in stacks) <= SMALL
    cell = 44 if annotated else 24
    widths = [max(110, min(900, cell * lengths[stack])) for stack in stacks]
    # The names of the sites stand between the panels.
    gap = 8 * max(map(len, patched.sites)) + 30
    total = sum(widths) + gap * (len(stacks) - 1)
    figure = make_subplots(
        cols=len(stacks),
        column_widths=[width / sum(widths) for width in widths],
        subplot_titles=[f"{stack} positions" for stack in stacks],
        horizontal_spacing=gap / total if len(stacks) > 1 else 0,
    )
    for column, (stack, width) in enumerate(zip(stacks, widths, strict=True), start=1):
        names, length = [patched.sites[i] for i in of[stack]], lengths[stack]
        tokens, differs = _tokens(patched, stack), patched.differs(stack)
        special, things = _special(patched, stack), str(patched.provenance.get("positions", "tokens"))
        hover = np.array(
            [
                [
                    f"{patched.sites[i]}, position {at}<br>{_tokens_told(one, other, differ, things)}<br>{texts[i][at]}"
                    for at, (one, other, differ) in enumerate(zip(*tokens, differs, strict=True))
                ]
                for i in of[stack]
            ],
            dtype=object,
        )
        trace = _heatmap(shown[of[stack], :length], hover, annotated=annotated)
        # Gaps would hide cells that are hardly wider.
        figure.add_trace(trace.update(y=names, xgap=int(width >= 8 * length)), row=1, col=column)
        step = max(1, -(-length * (24 if tokens[0].count(None) > length / 2 else 40) // width))
        places = range(0, length, step)
        figure.update_xaxes(
            title="position",
            tickvals=list(places),
            ticktext=[_tick(at, tokens[0][at], differs[at], special) for at in places],
            tickangle=0,
            showgrid=False,
            zeroline=False,
            col=column,
        )
    # Addresses as categories: one that reads as a number would draw the ticks to itself.
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, zeroline=False)
    most = max(map(len, of.values()))
    return styled(
        figure,
        "One position patched at a time",
        f"{_about(patched)}; bold: the inputs differ",
        coloraxis=_color(patched, show, shown),
        width=max(740, 140 + gap + total),
        height=225 + max(120, 30 * most),
    ).update_layout(margin_l=gap)


def _check(patched: object, kind: type[Patched], show: object) -> None:
    if not isinstance(patched, kind):
        raise InvalidInput(f"{type(patched).__name__} is no {kind.__name__}: give what circuits.patch_... returns.")
    if show not in get_args(Show):
        raise InvalidInput(f"show={show!r}: there are {', '.join(get_args(Show))}.")


def _shown(patched: Patched, show: Show) -> Floats:
    return patched.share if show == "share" else row_mean(patched.effects)


def _texts(patched: Patched) -> list[list[str]]:
    """Say what is known of each cell, for hovering."""
    columns = patched.columns()
    many = len(patched.clean) > 1
    return [
        [
            f"share {c['share'][at]:.3f}" + (f" ± {c['stderr'][at]:.3f}" if many else "")
            + f"<br>effect {c['effect'][at]:.4g}"
            + (f" ({c['low'][at]:.4g} to {c['high'][at]:.4g})<br>q {c['q'][at]:.2g}" if many else "")
            for at in range(patched.values.shape[1])
        ]
        for c in ({name: values[i] for name, values in columns.items()} for i in range(len(patched.sites)))
    ]  # fmt: skip


def _heatmap(values: Floats, hover: Any, *, annotated: bool) -> go.Heatmap:
    return go.Heatmap(
        z=values,
        coloraxis="coloraxis",
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        # A number that rounds to nothing is left out: minus zero tells nothing.
        text=[[f"{v:.2f}" if abs(v) >= 0.005 else "" for v in row] for row in values] if annotated else None,
        texttemplate="%{text}" if annotated else None,
        textfont={"size": 11},
        xgap=1,
        ygap=1,
    )


def _color(patched: Patched, show: Show, shown: Floats) -> dict[str, Any]:
    """Return a colour axis, white at zero and red towards corrupt, of at least -0.1 to 0.1 so that noise stays pale."""
    least = 0.1 if show == "share" else 0.1 * abs(patched.gap)
    largest = float(np.nanmax(np.abs(shown), initial=least))
    towards = "RdBu_r" if show == "share" or patched.gap > 0 else "RdBu"
    title = "share" if show == "share" else label(patched.metric)
    return {"colorscale": towards, "cmin": -largest, "cmax": largest, "colorbar": {"title": title}}


def _about(patched: Patched, inputs: tuple[str, str] = ("clean", "corrupt")) -> str:
    """Name the metric on the input that runs and on the one that is patched in."""
    name = short(str(patched.provenance.get("model", "")))
    run, other = inputs
    return (
        f"{name}; {label(patched.metric)}: {patched.clean.mean():.3g} on {run}, {patched.corrupt.mean():.3g} "
        f"on {other}, {len(patched.clean)} row{'s' * (len(patched.clean) > 1)}; red: towards {other}"
    )


def _tokens(patched: PatchedPositions, stack: str) -> list[list[int | None]]:
    """Return the token at each position in clean and in corrupt, where all rows share it."""

    def shared(ids: Floats) -> int | None:
        known = ids[~np.isnan(ids)]
        same = known.size and (known == known[0]).all()
        # The number of a patch says nothing.
        return int(known[0]) if same and (of_tokens or known[0] < 0) else None

    of_tokens = patched.provenance.get("positions", "tokens") == "tokens"
    return [[shared(ids[:, at]) for at in range(ids.shape[1])] for ids in patched.tokens[stack]]


def _special(patched: PatchedPositions, stack: str) -> dict[str, str]:
    """Return the names of special tokens, by id."""
    if "special" in patched.provenance:
        return patched.provenance["special"].get(stack, {})
    # Results of 0.6 do not say; theirs were the published tokens, or words.
    names = PUBLISHED.names("encoder" if stack == "encoder" else "decoder") if "encoder" in patched.tokens else {}
    return {str(token): name for token, name in names.items()}


def _tokens_told(clean: int | None, corrupt: int | None, differs: float, things: str) -> str:
    if np.isnan(differs):
        return "padding in all rows"
    if clean is None or corrupt is None:
        return f"{things} differ in {differs:.0%} of rows"
    return f"token {clean} in both" if clean == corrupt else f"token {clean} in clean, {corrupt} in corrupt"


def _tick(at: int, token: int | None, differs: float, special: dict[str, str]) -> str:
    text = str(at) if token is None else f"{at}<br>{special.get(str(token), token)}"
    return f"<b>{text}</b>" if differs > 0 else text
