"""The patching report: what `python -m circuits patch` runs, prints and writes."""

from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go

from circuits import plots
from circuits.patching import patch_heads, patch_positions
from circuits.reports.pair_names import check_pair_name, pair_of, pair_words
from interp import Model
from interp.names import Stack
from interp.output.report import Report, Section, as_text
from interp.output.style import label
from probes.stimuli.pairs import stacks_of

WIDTH = 1080
"""Width in pixels of a figure that fits the page."""

SHOWN = 15
"""How many rows of a table the page shows; the CSV holds all."""

_NUMBERS = ["effect", "low", "high", "share", "stderr", "q"]
_COLUMNS = (
    "The largest shares. effect: patched minus unpatched metric, with its 95 % interval over rows; stderr is "
    "the share's standard error; q is the p-value of no effect, adjusted over the full table."
)


def patch(
    model: Model,
    *,
    pair: Annotated[str, check_pair_name] = "another_sequence",
    batch_size: int = 100,
    coefficients: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Patch activations between a clean and a corrupt input: heads, what they read, and positions.

    Args:
        model: the model to run.
        pair: How the corrupt input differs: another_sequence, swapped_continuation, shuffled_occurrences or
            shifted_values.
        batch_size: Rows of repeated random tokens or patches.
        coefficients: Of how many numbers a random patch is made, such as 3: its level, slope and curvature. By default
            its values are independent.
        seed: Seed of the tokens and of the corruption.

    Raises:
        InvalidInput: another pair, no rows, a negative seed, a model in float16; or a pair that this model answers
            alike, so that there is nothing to explain.
        MissingCapability: coefficients for a model that reads tokens.
    """
    (clean, corrupt), metric = pair_of(pair, batch_size=batch_size, seed=seed, model=model, coefficients=coefficients)
    context, kind = ".".join(model.family.context), model.family.context[1]
    streams = {
        stack: patch_positions(model, clean, corrupt, metric, _stream(stack), progress=progress)
        for stack in stacks_of(clean)
    }
    z = [f"{stack}.{kind}.*.z" for stack, kind in model.family.kinds]
    outputs = patch_heads(model, clean, corrupt, metric, z, progress=progress)
    restored = patch_heads(model, corrupt, clean, metric, z, progress=progress)
    inputs = patch_heads(model, clean, corrupt, metric, [f"{context}.*.{name}" for name in "qkv"], progress=progress)

    needed: Any = _strongest(outputs.to_frame().assign(restores=restored.share.ravel()))
    read: Any = _strongest(inputs.to_frame())
    heading = (
        f"{label(outputs.metric)}: {outputs.clean.mean():.2f} on clean, {outputs.corrupt.mean():.2f} on corrupt, "
        f"{len(outputs.clean)} rows\noutputs of heads"
    )
    brief = as_text(needed[["head", "effect", "low", "high", "share", "q", "restores"]].head(8), heading)
    sections = [
        _section(
            "outputs",
            "Which heads are needed: outputs taken from the corrupt input",
            "The model runs on the clean input, and the output (z) of one head is taken from the corrupt input. The "
            "share is the change relative to the change that the whole corruption makes: 1 where this head alone does "
            f"as much. Here: {pair_words(pair, model)}.",
            plots.patched_heads(outputs),
            needed,
            ["head", *_NUMBERS, "restores"],
            f"{_COLUMNS} restores: the share that this head gives back.",
            brief,
        ),
        _section(
            "restored",
            "Which heads suffice: outputs given back",
            "The other way round: the model runs on the corrupt input, and the output of one head is taken from the "
            "clean input. A head that others can replace is not needed and may suffice; a head that needs others is "
            "needed and does not suffice.",
            plots.patched_heads(restored, denoising=True),
            _strongest(restored.to_frame()),
            ["head", *_NUMBERS],
        ),
        _section(
            "inputs",
            f"What a {kind} head goes by: its queries, keys and values",
            f"As the first, with the queries, keys or values of one {kind} head exchanged. Queries and keys say where "
            "the head looks, values what it reads there.",
            plots.patched_heads(inputs),
            read,
            ["site", "head", *_NUMBERS],
            brief=as_text(
                read[["site", "head", "effect", "low", "high", "share", "q"]].head(8), f"what {kind} heads read"
            ),
        ),
    ]
    whole_stream = "The whole stream at one position and layer is taken from the corrupt input."
    words = {
        "encoder": f"{whole_stream} What is red in low layers and pale in high ones has been moved to other positions "
        "in between.",
        "decoder": f"{whole_stream} After the last layer everything is at the last position, from which the output is "
        "read: the share is 1.",
    }
    for stack, positions in streams.items():
        figure = plots.patched_positions(positions)
        width: Any = figure.layout.width  # type: ignore[attr-defined]
        table = positions.to_frame()
        sections.append(
            _section(
                f"{stack}_positions",
                f"Where the {stack} carries it: one position of its stream",
                words[stack],
                figure.update_layout(width=min(width, WIDTH)),
                table,
                ["site", "position", *_NUMBERS],
            )
        )
    results = {"outputs.json": outputs, "restored.json": restored, "inputs.json": inputs} | {
        f"{stack}_positions.json": positions for stack, positions in streams.items()
    }
    title = f"Activation patching in {outputs.provenance['model']}: {pair.replace('_', ' ')}"
    return Report("patching", title, sections, results)


def _section(
    name: str,
    title: str,
    words: str,
    figure: go.Figure,
    table: pd.DataFrame,
    columns: list[str],
    note: str = _COLUMNS,
    brief: str = "",
) -> Section:
    """Make a section whose page shows some columns of the rows with the largest shares."""
    shown: Any = _strongest(table).head(SHOWN)[columns]
    return Section(name, title, words, figure=figure, table=table, note=note, shown=shown, brief=brief)


def _stream(stack: Stack) -> list[str]:
    return [f"{stack}.0.resid_pre", f"{stack}.*.resid_post"]


def _strongest(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("share", key=lambda column: -column.abs(), kind="stable", ignore_index=True)
