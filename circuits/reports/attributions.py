"""The attribution report: what `python -m circuits attribute` runs, prints and writes."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from interp.output.folder import Part, write_folder

from circuits import plots
from circuits.attribution.by_position import AttributionByPosition, attribution_by_position
from circuits.attribution.direct import DirectAttribution, direct_attribution
from circuits.attribution.logit_lens import LogitLens, logit_lens
from interp import Model
from probes import TimeSeries, repeated_random_tokens, series_batch
from probes.stimuli import datasets
from probes.stimuli.pairs import stacks_of, swapped_continuation
from probes.stimuli.repeated_tokens import RepeatedTokens

SHOWN = 12
"""How many of a table's rows are on the page; all are in the CSV."""


@dataclass(frozen=True, eq=False)
class AttributionReport:
    """Everything the page shows: of tokens, and with `value` of a real series; `other` and `shuffled` are controls."""

    batch: RepeatedTokens
    direct: DirectAttribution
    other: DirectAttribution
    past: AttributionByPosition
    lens: LogitLens
    series: TimeSeries
    direct_value: DirectAttribution
    past_value: AttributionByPosition
    shuffled: AttributionByPosition
    value_lens: LogitLens


def run_report(model: Model, *, batch_size: int = 100, seed: int = 0) -> AttributionReport:
    """What every part of the decoder and every past step adds, on repeated random tokens and on air passengers.

    Args:
        model: the model.
        batch_size: rows of tokens.
        seed: of the tokens, of the other token of each row, and of the shuffled series.

    Returns:
        The results.

    Raises:
        InvalidInput: no rows, a negative seed, or a model in float16.
        UnsupportedModel: weights that cannot be read, or a model without a tokenizer for series.
    """
    batch = repeated_random_tokens(model=model, batch_size=batch_size, unique=True, seed=seed)
    other = swapped_continuation(batch, seed=seed).against
    assert other is not None
    series = datasets.air_passengers()
    series = series.last(min(len(series), model.pipeline.model_context_length + 1))
    # The decoder gets the last value, as it gets the last token: the step after it is forecast.
    real, shuffled = (series_batch(model, s, num_decoder=1) for s in (series, _shuffled(series, seed)))
    return AttributionReport(
        batch=batch,
        direct=direct_attribution(model, batch, target=batch.continuation),
        other=direct_attribution(model, batch, target=other),
        past=attribution_by_position(model, batch, target=batch.continuation),
        lens=logit_lens(model, batch, target=batch.continuation),
        series=series,
        direct_value=direct_attribution(model, real),
        past_value=attribution_by_position(model, real),
        shuffled=attribution_by_position(model, shuffled),
        value_lens=logit_lens(model, real),
    )


def _shuffled(series: TimeSeries, seed: int) -> TimeSeries:
    """The series with its past in another order and its last value where it is."""
    past = series.first(len(series) - 1).shuffled(seed)
    return replace(past, values=np.append(past.values, series.values[-1]))


def figures(report: AttributionReport) -> dict[str, go.Figure]:
    """The report's figures by name."""
    return {
        "attribution": plots.attribution(report.direct),
        "past-attribution": plots.attribution_by_position(report.past),
        "logit-lens": plots.logit_lens(report.lens),
        "value-attribution": plots.attribution(report.direct_value),
        "past-value-attribution": plots.attribution_by_position(report.past_value),
        "value-lens": plots.logit_lens(report.value_lens),
    }


def tables(report: AttributionReport) -> dict[str, pd.DataFrame]:
    """The report's tables by name, the strongest first; lenses in forward order."""
    value = report.past_value.by_position().assign(shuffled=report.shuffled.by_position()["mean"])
    # EOS is no step.
    back = (len(report.series) - value["key"]).where(value["value"].notna())
    value.insert(1, "steps_back", back.astype("Int64"))
    past = report.past.by_position().drop(columns=["token", "value"])
    past.insert(1, "holds", _held(report.batch))
    return {
        "attribution": _strongest(report.direct.to_frame().assign(other_token=report.other.to_frame()["mean"])),
        "attribution_by_position": _strongest(past),
        "logit_lens": _by_point(report.lens),
        "value_attribution": _strongest(report.direct_value.to_frame()),
        "value_attribution_by_position": _strongest(value),
        "value_lens": _by_point(report.value_lens),
    }


def _strongest(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("mean", key=lambda column: -column.abs(), kind="stable", ignore_index=True)


def _held(batch: RepeatedTokens) -> list[str]:
    """What stands at each past position, in words."""
    held = ["another token"] * batch.ids(stacks_of(batch)[0]).shape[1]
    for at in batch.occurrences:
        held[at : at + 2] = ["query's token", "continuation"]
    if not batch.has_encoder:
        held[-1] = "the query"
    elif batch.vocabulary is not None and batch.vocabulary.eos is not None:
        held[-1] = "EOS"
    return held


def _by_point(lens: LogitLens) -> pd.DataFrame:
    frame = lens.to_frame().pivot_table("mean", "point", "measure", sort=False)
    return frame.reset_index().rename_axis(columns=None)


_WORDS = {
    "attribution": (
        "What the parts of the decoder add to the continuation's logit",
        "Repeated random tokens, no token twice in a row's sequence. The decoder's last stream is the sum of what its "
        "parts write, so that the parts' shares sum to the logit. A share is not what taking the part away would "
        "change: later layers and the norm react to that.",
    ),
    "past-attribution": (
        "Which past steps it comes from",
        "{Attention}'s part of the logit, split by the {position} that a head reads. {Below} mixes "
        "positions: not all that is read at one comes from the token there.",
    ),
    "logit-lens": (
        "How the prediction forms",
        "What the decoder would predict if it ended after each of its sublayers. The last point is the model's output.",
    ),
    "value-attribution": (
        "A real series: what the parts add to the forecast's value",
        "Air passengers, the step after the last. The number is the expected value of the forecast less the mean of "
        "all bins, in units of the series' scale; one series, so there are no intervals.",
    ),
    "past-value-attribution": (
        "Which past steps the forecast comes from",
        "Steps a season, two and three before the one that is forecast stand out where the model goes by the season.",
    ),
    "value-lens": ("How the forecast forms", "The lens on air passengers, in units of the series' scale."),
}
"""Headings and words by name of the figure; its table follows."""

_COLUMNS = {
    "attribution": "The strongest parts. other_token: what the same part adds to another token of the row's sequence, "
    "drawn at random: a part that adds as much to it does not tell the two apart.",
    "attribution_by_position": "The strongest positions, all {kind} heads together; means over rows with 95 % "
    "intervals.",
    "logit_lens": "Means over rows. agrees: how often the likeliest token is already the model's own.",
    "value_attribution": "The strongest parts.",
    "value_attribution_by_position": "The strongest steps, counted back from the one that is forecast. shuffled: "
    "what the same position adds when the series before its last value is shuffled.",
    "value_lens": "",
}
"""Words by name of the table."""

_READ = {
    "cross": {"Attention": "Cross-attention", "position": "encoder position", "Below": "The encoder"},
    "self": {"Attention": "Self-attention", "position": "position", "Below": "Every layer below"},
}
"""Words for the attention that reads the past, by its kind."""


def write_report(out: str | Path, report: AttributionReport, drawn: dict[str, go.Figure]) -> list[Path]:
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
    kind = report.past.kind
    for (name, figure), (table, frame) in zip(drawn.items(), made.items(), strict=True):
        heading, text = (words.format(**_READ[kind]) for words in _WORDS[name])
        shown = frame if table.endswith("lens") else frame.head(SHOWN)
        shown = shown.drop(columns=["kind", "layer", "head"], errors="ignore").dropna(axis=1, how="all")
        shown = shown.rename(columns={"mean": "adds"})
        parts += [(heading, text, figure), (f"{heading}: the numbers", _COLUMNS[table].format(kind=kind), shown)]
    results = {
        "attribution": report.direct,
        "attribution_other_token": report.other,
        "attribution_by_position": report.past,
        "logit_lens": report.lens,
        "value_attribution": report.direct_value,
        "value_attribution_by_position": report.past_value,
        "past_value_attribution_shuffled": report.shuffled,
        "value_lens": report.value_lens,
    }
    title = f"Attribution in {report.direct.provenance['model']}"
    return write_folder(out, "attribution", title, parts, made, results)
