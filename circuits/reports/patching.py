"""The patching report: what `python -m circuits patch` runs, prints and writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from interp.output.folder import Part, write_folder

from circuits import plots
from circuits.patched import PatchedHeads, PatchedPositions
from circuits.patching import patch_heads, patch_positions
from circuits.reports.pair_names import PAIRS, pair_of
from interp import Model
from interp.names import Site, Stack
from probes.stimuli.pairs import stacks_of

WIDTH = 1080
"""Of a figure that fits the page."""

SHOWN = 15
"""How many of a table's rows are on the page; all are in the CSV."""


@dataclass(frozen=True, eq=False)
class PatchingReport:
    """Everything the page shows; `restored` is denoising: the corrupt input run with one head of the clean one.

    `inputs` are of the heads that read the past; `encoder` is None where there is none.
    """

    pair: str
    outputs: PatchedHeads
    restored: PatchedHeads
    inputs: PatchedHeads
    encoder: PatchedPositions | None
    decoder: PatchedPositions


def run_report(
    model: Model, *, pair: str = "another_sequence", batch_size: int = 100, seed: int = 0, progress: bool = True
) -> PatchingReport:
    """Patch heads of all kinds one at a time, and the residual streams position by position.

    Args:
        model: the model.
        pair: how the corrupt input differs, one of `circuits.reports.pair_names.PAIRS`.
        batch_size: rows.
        seed: of the tokens and of the corruption.
        progress: whether to show progress bars.

    Returns:
        The results.

    Raises:
        InvalidInput: another pair, no rows, a negative seed, a model in float16; or a pair that this model answers
            alike, so that there is nothing to explain.
    """
    family = model.family
    (clean, corrupt), metric = pair_of(pair, batch_size=batch_size, seed=seed, model=model)
    z = [f"{stack}.{kind}.*.z" for stack, kind in family.kinds]
    inputs = [f"{'.'.join(family.context)}.*.{name}" for name in "qkv"]
    streams = {
        stack: patch_positions(model, clean, corrupt, metric, _stream(stack), progress=progress)
        for stack in stacks_of(clean)
    }
    return PatchingReport(
        pair=pair,
        outputs=patch_heads(model, clean, corrupt, metric, z, progress=progress),
        restored=patch_heads(model, corrupt, clean, metric, z, progress=progress),
        inputs=patch_heads(model, clean, corrupt, metric, inputs, progress=progress),
        encoder=streams.get("encoder"),
        decoder=streams["decoder"],
    )


def _stream(stack: Stack) -> list[str]:
    return [f"{stack}.0.resid_pre", f"{stack}.*.resid_post"]


def _positions(report: PatchingReport) -> dict[str, PatchedPositions]:
    """By stack that there is."""
    both = {"encoder": report.encoder, "decoder": report.decoder}
    return {stack: found for stack, found in both.items() if found is not None}


def figures(report: PatchingReport) -> dict[str, go.Figure]:
    """The report's figures by name."""
    return {
        "outputs": plots.patched_heads(report.outputs),
        "restored": _restored(plots.patched_heads(report.restored)),
        "inputs": plots.patched_heads(report.inputs),
    } | {f"{stack}-positions": _narrowed(plots.patched_positions(found)) for stack, found in _positions(report).items()}


def _restored(figure: go.Figure) -> go.Figure:
    """A figure of denoising in the pair's own words: what it ran on is the corrupt input."""
    title = figure.layout.title  # type: ignore[attr-defined]
    text = str(title.subtitle.text).replace("corrupt", "\0").replace("clean", "corrupt").replace("\0", "clean")
    return figure.update_layout(title={"text": "One head restored at a time", "subtitle": {"text": text}})


def _narrowed(figure: go.Figure) -> go.Figure:
    width: Any = figure.layout.width  # type: ignore[attr-defined]
    return figure.update_layout(width=min(width, WIDTH))


def tables(report: PatchingReport) -> dict[str, pd.DataFrame]:
    """The report's tables by name, the largest shares first; positions in forward order."""
    outputs = report.outputs.to_frame().assign(restores=report.restored.share.ravel())
    return {
        "outputs": _strongest(outputs),
        "restored": _strongest(report.restored.to_frame()),
        "inputs": _strongest(report.inputs.to_frame()),
    } | {f"{stack}_positions": found.to_frame() for stack, found in _positions(report).items()}


def _strongest(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("share", key=lambda column: -column.abs(), kind="stable", ignore_index=True)


_WORDS = {
    "outputs": (
        "Which heads are needed: outputs taken from the corrupt input",
        "The model runs on the clean input, and one head's output (z) is what it is on the corrupt one. The share is "
        "the change in parts of what the whole corruption changes: 1 where this head alone does as much.",
    ),
    "restored": (
        "Which heads suffice: outputs given back",
        "The other way round: the model runs on the corrupt input, and one head's output is the clean one. A head "
        "that others stand in for is not needed and may suffice; one that needs others is needed and does not.",
    ),
    "inputs": (
        "What a {kind} head goes by: its queries, keys and values",
        "As the first, with the queries, keys or values of one {kind} head exchanged. Queries and keys say where it "
        "looks, values what it finds there.",
    ),
    "encoder-positions": (
        "Where the encoder carries it: one position of its stream",
        "The whole stream at one position and layer taken from the corrupt input. What is red in low layers and pale "
        "in high ones has been moved to other positions in between.",
    ),
    "decoder-positions": (
        "Where the decoder carries it: one position of its stream",
        "{likewise} After the last layer all of it is at the last position, whose logits are read: the share is 1.",
    ),
}
"""Headings and words by name of the figure; its table follows."""


def _words(report: PatchingReport, name: str) -> tuple[str, str]:
    """Heading and words of a figure, for this model."""
    alone = "The whole stream at one position and layer taken from the corrupt input."
    kind = Site.parse(report.inputs.sites[0]).kind
    heading, text = (
        words.format(kind=kind, likewise=alone if report.encoder is None else "Likewise.") for words in _WORDS[name]
    )
    return heading, f"{text} Here: {PAIRS[report.pair]}." if name == "outputs" else text


_NUMBERS = ["effect", "low", "high", "share", "stderr", "q"]
_COLUMNS = {
    "outputs": ["head", *_NUMBERS, "restores"],
    "restored": ["head", *_NUMBERS],
    "inputs": ["site", "head", *_NUMBERS],
    "encoder_positions": ["site", "position", *_NUMBERS],
    "decoder_positions": ["site", "position", *_NUMBERS],
}
"""What the page shows of a table."""


def write_report(out: str | Path, report: PatchingReport, drawn: dict[str, go.Figure]) -> list[Path]:
    """The page, the tables as CSV and the results as JSON.

    Args:
        out: a directory; it is made if it is not there.
        report: what `run_report` gave.
        drawn: its `figures`.

    Returns:
        The files written.
    """
    made = tables(report)
    parts: list[Part] = []
    for (name, figure), (table, frame) in zip(drawn.items(), made.items(), strict=True):
        heading, text = _words(report, name)
        shown: Any = _strongest(frame).head(SHOWN)[_COLUMNS[table]]
        parts += [(heading, text, figure), (f"{heading.split(':')[0]}: the numbers", _numbers(table), shown)]
    results = {
        "outputs": report.outputs,
        "restored": report.restored,
        "inputs": report.inputs,
    } | {f"{stack}_positions": found for stack, found in _positions(report).items()}
    title = f"Activation patching in {report.outputs.provenance['model']}: {report.pair.replace('_', ' ')}"
    return write_folder(out, "patching", title, parts, made, results)


def _numbers(name: str) -> str:
    words = (
        "The largest shares. effect: patched minus unpatched logit difference, with its 95 % interval over rows; "
        "stderr is the share's, q the p-value of no effect, adjusted over the full table."
    )
    return f"{words} restores: the share that this head gives back." if name == "outputs" else words
