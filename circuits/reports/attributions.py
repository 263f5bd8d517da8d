"""The attribution report: what `python -m circuits attribute` runs, prints and writes."""

from dataclasses import replace

import numpy as np
import pandas as pd

from circuits import plots
from circuits.attribution.by_position import attribution_by_position
from circuits.attribution.direct import direct_attribution
from circuits.attribution.logit_lens import LogitLens, logit_lens
from circuits.reports.attribution_tables import section, strongest
from circuits.reports.patch_attributions import attribute_patches
from interp import Model
from interp.output.report import Report, as_text
from probes import TimeSeries, repeated_random_tokens, series_batch
from probes.stimuli import datasets
from probes.stimuli.pairs import stacks_of, swapped_continuation
from probes.stimuli.repeated_tokens import RepeatedTokens

_READ = {
    "cross": {"Attention": "Cross-attention", "position": "encoder position", "Below": "The encoder"},
    "self": {"Attention": "Self-attention", "position": "position", "Below": "Every layer below"},
}
"""Words for the attention that reads the past, by its kind."""


def attribute(model: Model, *, batch_size: int = 100, coefficients: int | None = None, seed: int = 0) -> Report:
    """Split the prediction over the decoder's parts and over past steps, and show how it forms.

    It is done on repeated random tokens or patches and on the air passengers. Controls stand beside: another token of
    each row's sequence, or patches that do not repeat, and the series with its past shuffled.

    Args:
        model: the model to read.
        batch_size: Rows of repeated random tokens or patches.
        coefficients: Of how many numbers a random patch is made, such as 3: its level, slope and curvature. By default
            its values are independent.
        seed: Seed of the tokens and of the controls.

    Raises:
        InvalidInput: no rows, a negative seed, or a model in float16.
        UnsupportedModel: weights that cannot be read, or a model without a tokenizer for series.
        MissingCapability: coefficients for a model that reads tokens.
    """
    if not model.reads_tokens:
        return attribute_patches(model, batch_size=batch_size, coefficients=coefficients, seed=seed)
    if coefficients is not None:
        model.require("patches")
    batch = repeated_random_tokens(model=model, batch_size=batch_size, unique=True, seed=seed)
    other_token = swapped_continuation(batch, seed=seed).against
    assert other_token is not None
    series = datasets.air_passengers()
    series = series.last(min(len(series), model.pipeline.model_context_length + 1))
    # The decoder gets the last value, as it gets the last token: the step after it is forecast.
    real, mixed = (series_batch(model, s, num_decoder=1) for s in (series, shuffled_past(series, seed)))
    direct = direct_attribution(model, batch, target=batch.continuation)
    other = direct_attribution(model, batch, target=other_token)
    past = attribution_by_position(model, batch, target=batch.continuation)
    lens = logit_lens(model, batch, target=batch.continuation)
    value, value_past = direct_attribution(model, real), attribution_by_position(model, real)
    shuffled, value_lens = attribution_by_position(model, mixed), logit_lens(model, real)

    positions = past.by_position().drop(columns=["token", "value"])
    positions.insert(1, "holds", tokens_at(batch))
    steps = value_past.by_position().assign(shuffled=shuffled.by_position()["mean"])
    # EOS is no step.
    steps_back = (len(series) - steps["key"]).where(steps["value"].notna())
    steps.insert(1, "steps_back", steps_back.astype("Int64"))
    parts = strongest(direct.to_frame().assign(other_token=other.to_frame()["mean"]))
    positions, steps = strongest(positions), strongest(steps)
    read = _READ[past.kind]
    sections = [
        section(
            "attribution",
            "What the parts of the decoder add to the continuation's logit",
            "Repeated random tokens, no token twice in a row's sequence. The decoder's last stream is the sum of what "
            "its parts write, so the parts' shares sum to the logit. A share is not the change that taking the part "
            "away would make: later layers and the norm react to that.",
            plots.attribution(direct),
            parts,
            "The strongest parts. other_token: the part's share of the logit of another token of the row's sequence, "
            "drawn at random. A part that adds as much to it does not tell the two apart.",
            as_text(
                parts.drop(columns=["kind", "layer", "head"]).head(8),
                f"logit of the continuation, {len(batch)} rows",
            ),
        ),
        section(
            "attribution_by_position",
            "Which past steps the prediction comes from",
            f"{read['Attention']}'s part of the logit, split by the {read['position']} that a head reads. "
            f"{read['Below']} mixes positions: part of what is read at a position comes from tokens elsewhere.",
            plots.attribution_by_position(past),
            positions,
            f"The strongest positions, all {past.kind} heads together; means over rows with 95 % intervals.",
            as_text(positions.head(4), f"by {'encoder ' * model.has_encoder}position"),
        ),
        section(
            "logit_lens",
            "How the prediction forms",
            "The prediction of the decoder if it ended after each of its sublayers. The last point is the model's "
            "output.",
            plots.logit_lens(lens),
            _by_point(lens),
            "Means over rows. agrees: share of rows whose likeliest token is already the model's own.",
        ),
        section(
            "value_attribution",
            "A real series: what the parts add to the forecast's value",
            "Air passengers, the step after the last. The number is the expected value of the forecast less the mean "
            "of all bins, in units of the series' scale. There is one series, so there are no intervals.",
            plots.attribution(value),
            strongest(value.to_frame()),
            "The strongest parts.",
        ),
        section(
            "value_attribution_by_position",
            "Which past steps the forecast comes from",
            "Where the model goes by the season, the steps one, two and three seasons before the forecast stand out.",
            plots.attribution_by_position(value_past),
            steps,
            "The strongest steps, counted back from the step that is forecast. shuffled: what the same position adds "
            "when the series before its last value is shuffled.",
            as_text(steps.head(6), f"forecast of {series.name}, by step"),
        ),
        section(
            "value_lens",
            "How the forecast forms",
            "The lens on air passengers, in units of the series' scale.",
            plots.logit_lens(value_lens),
            _by_point(value_lens),
        ),
    ]
    results = {
        "attribution.json": direct,
        "attribution_other_token.json": other,
        "attribution_by_position.json": past,
        "logit_lens.json": lens,
        "value_attribution.json": value,
        "value_attribution_by_position.json": value_past,
        "past_value_attribution_shuffled.json": shuffled,
        "value_lens.json": value_lens,
    }
    return Report("attribution", f"Attribution in {direct.provenance['model']}", sections, results)


def shuffled_past(series: TimeSeries, seed: int) -> TimeSeries:
    """Shuffle the past of a series; its last value stays."""
    past = series.first(len(series) - 1).shuffled(seed)
    return replace(past, values=np.append(past.values, series.values[-1]), index=series.index)


def tokens_at(batch: RepeatedTokens) -> list[str]:
    """Say in words which token stands at each past position."""
    words = ["another token"] * batch.ids(stacks_of(batch)[0]).shape[1]
    for position in batch.occurrences:
        words[position : position + 2] = ["query's token", "continuation"]
    if not batch.has_encoder:
        words[-1] = "the query"
    elif batch.vocabulary is not None and batch.vocabulary.eos is not None:
        words[-1] = "EOS"
    return words


def _by_point(lens: LogitLens) -> pd.DataFrame:
    frame = lens.to_frame().pivot_table("mean", "point", "measure", sort=False)
    return frame.reset_index().rename_axis(columns=None)
