"""The attribution report on a model that reads patches, whose output is quantiles."""

from typing import Any

import pandas as pd

from circuits import plots
from circuits.attribution.by_position import attribution_by_position
from circuits.attribution.direct import direct_attribution
from circuits.metrics import towards
from circuits.reports.attribution_tables import section, strongest
from interp import Model
from interp.inputs.batch import ValueBatch
from interp.output.report import Report, as_text
from probes import repeated_random_patches
from probes.stimuli import datasets
from probes.stimuli.pairs import swapped_continuation

FIRST_ORDER = (
    "What the parts write is summed exactly up to the decoder's last norm. The readout after it is not linear: a part "
    "has its first-order share, and `readout` is what is left of the number."
)


def attribute_patches(model: Model, *, batch_size: int, coefficients: int | None, seed: int) -> Report:
    """Split the forecast of repeated patches, and of air passengers, over parts of the decoder and over patches.

    Args:
        model: one that reads patches.
        batch_size: rows of repeated random patches.
        coefficients: of how many numbers a patch is made.
        seed: of the patches.
    """
    batch = repeated_random_patches(model, batch_size=batch_size, coefficients=coefficients, seed=seed)
    pair = swapped_continuation(batch, seed=seed)
    metric = towards(pair.target, pair.against)
    unrepeated = batch.controls()["unrepeated"]
    direct, by_patch = (
        direct_attribution(model, batch, metric=metric),
        attribution_by_position(model, batch, metric=metric),
    )
    control = direct_attribution(model, unrepeated, metric=metric)
    control_patches = attribution_by_position(model, unrepeated, metric=metric)
    series = datasets.air_passengers()
    real, mixed = (ValueBatch(one.values, model.patching) for one in (series, series.shuffled(seed)))
    value, value_patches = direct_attribution(model, real), attribution_by_position(model, real)
    shuffled = attribution_by_position(model, mixed)

    parts = strongest(direct.to_frame().assign(unrepeated=control.to_frame()["mean"]))
    patches = by_patch.by_position().assign(unrepeated=control_patches.by_position()["mean"])
    patches = strongest(
        _held(patches, batch, ["last patch" if at == batch.last else "" for at in range(batch.n_patches)])
    )
    steps = value_patches.by_position().assign(shuffled=shuffled.by_position()["mean"])
    steps = strongest(_held(steps, real, _dates(series.to_series().index, real)))
    sections = [
        section(
            "attribution",
            "What the parts of the decoder add to the continuation",
            "Repeated random patches. The number is how far the median lies on the way from another patch of the row, "
            f"0, to the one that follows, 1. {FIRST_ORDER}",
            plots.attribution(direct),
            parts,
            "The strongest parts. unrepeated: the part's share where nothing repeats, so that the patch is not known.",
            as_text(parts.drop(columns=["kind", "layer", "head"]).head(8), f"the continuation, {len(batch)} rows"),
        ),
        section(
            "attribution_by_position",
            "Which patches the forecast comes from",
            "The part of cross-attention, split by the patch that a head reads. The encoder mixes positions: part of "
            "what is read at a patch comes from others.",
            plots.attribution_by_position(by_patch),
            patches,
            "The strongest positions, all cross heads together; means over rows with 95 % intervals.",
            as_text(patches.head(5), "by patch"),
        ),
        section(
            "value_attribution",
            "A real series: what the parts add to the forecast",
            f"Air passengers, all steps of one pass. The number is the median's mean. {FIRST_ORDER}",
            plots.attribution(value),
            strongest(value.to_frame()),
            "The strongest parts.",
        ),
        section(
            "value_attribution_by_position",
            "Which patches of a real series the forecast comes from",
            "The same by patch, with the series shuffled as control.",
            plots.attribution_by_position(value_patches),
            steps,
            "The strongest patches. shuffled: what the same patch adds when the series is shuffled.",
            as_text(steps.head(5), f"forecast of {series.name}, by patch"),
        ),
    ]
    results = {
        "attribution.json": direct,
        "attribution_unrepeated.json": control,
        "attribution_by_position.json": by_patch,
        "value_attribution.json": value,
        "value_attribution_by_position.json": value_patches,
        "value_attribution_shuffled.json": shuffled,
    }
    return Report("attribution", f"Attribution in {direct.provenance['model']}", sections, results)


def _held(table: pd.DataFrame, batch: ValueBatch, words: list[str]) -> pd.DataFrame:
    """Put beside each position what stands there; after the patches comes [REG]."""
    names = [*words, "[REG]"][: batch.length("encoder")]
    for position in getattr(batch, "occurrences", ()):
        names[position : position + 2] = ["the same patch", "what followed"]
    table = table.drop(columns=["token", "value"], errors="ignore")
    table.insert(1, "holds", [names[int(key)] for key in table["key"]])
    return table


def _dates(index: Any, batch: ValueBatch) -> list[str]:
    """Say which dates each patch holds, of a series whose first steps may have been cut off."""
    index = index[batch.dropped :]
    ends = [(batch.steps(patch)[0], batch.steps(patch)[-1]) for patch in range(batch.n_patches)]
    return [f"{index[first]:%Y-%m} to {index[last]:%Y-%m}" for first, last in ends]
