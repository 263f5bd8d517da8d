"""Forecasts with and without heads in a report: of the examples, or of a series of the user's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits import plots
from circuits.ablation.forecast_effects import ForecastEffects, forecast_effects
from interp import Batch, Head, Model
from interp.errors import UnsupportedModel
from interp.inputs.dates import season
from interp.output.report import Section, as_text, file_name
from interp.zoo.benchmark import held_out
from probes import TimeSeries
from probes.stimuli.datasets import air_passengers

SEASON, HORIZON, ORIGINS = 12, 24, 5
"""The season of the examples, and the longest forecast, both in steps; and the most origins of one series."""


@dataclass(frozen=True)
class Forecast:
    """Series to forecast: the last `horizon` steps of each, with errors scaled by a season."""

    series: Sequence[Any]
    horizon: int
    season: int


def why_no_forecasts(model: Model) -> str:
    """Say why a model cannot forecast series; nothing where it can."""
    try:
        model.require("series")
    except UnsupportedModel as error:
        return f"No forecasts: {error}"
    return ""


def example_series(horizon: int = HORIZON) -> dict[str, Forecast]:
    """Return monthly air passengers at five origins, and the bundled synthetic series of season 12, up to a horizon."""
    passengers = air_passengers().to_series()
    origins = range(72, len(passengers) - HORIZON + 1, 12)
    values, period = held_out()
    start = values.shape[1] - HORIZON
    return {
        "air passengers": Forecast([passengers.iloc[: origin + horizon] for origin in origins], horizon, SEASON),
        "synthetic": Forecast(list(values[period == SEASON, : start + horizon]), horizon, SEASON),
    }


def origins_of(series: TimeSeries, longest: int) -> Forecast:
    """Return a series up to several ends, the last of which is its own: five at most, a season or a forecast apart.

    Args:
        longest: the longest forecast that the model makes, in steps. A quarter of the series is forecast at most.

    Returns:
        The series, with the season that its dates have, where the shortest context holds two of it.
    """
    values = series.to_series()
    horizon = max(1, min(HORIZON, longest, len(values) // 4))
    usual = season(series.index)
    steps = usual if 2 * usual <= len(values) - horizon else 1
    apart = min(steps, horizon) if steps > 1 else horizon
    shortest = horizon + max(2 * steps, horizon)
    ends = [len(values), *range(len(values) - apart, shortest - 1, -apart)][:ORIGINS]
    return Forecast([values.iloc[:end] for end in reversed(ends)], horizon, steps)


def forecasts(
    model: Model,
    ablations: Mapping[str, Sequence[Head]],
    series: TimeSeries | None,
    *,
    method: str,
    controls: int,
    exclude: Sequence[Head],
    seed: int,
    progress: bool,
) -> dict[str, ForecastEffects]:
    """Forecast the examples, or a series of the user's own, with and without some heads."""
    longest = model.chronos_config.prediction_length
    own = None if series is None else {series.name: origins_of(series, longest)}
    examples = own or example_series(min(HORIZON, longest))
    effects: dict[str, ForecastEffects] = {}
    for name, example in examples.items():
        past = [np.asarray(values)[: -example.horizon] for values in example.series]
        effects[name] = forecast_effects(
            model, example.series, ablations, prediction_length=example.horizon, season=example.season,
            method=method,  # type: ignore[arg-type]
            # The contexts alone, the decoder reading their last steps: nothing of what is scored.
            reference=_contexts(model, past, example.horizon) if method == "mean" else None,
            seed=seed, controls=controls, exclude=exclude, progress=progress,
        )  # fmt: skip
    return effects


def _contexts(model: Model, past: Sequence[Any], horizon: int) -> Batch:
    """Return contexts as a batch; of tokens with as many in the decoder as are forecast."""
    return Batch.from_series(model, past, num_decoder=horizon if model.reads_tokens else 0)


def forecast_sections(name: str, effects: ForecastEffects) -> list[Section]:
    """Return the sections on forecasts of one kind of series: their errors, the last one drawn, and the baselines."""
    tail = file_name(name).replace("-", "_")
    summary: Any = effects.summary()
    columns = ["outcome", "unedited", "ablated", "change", "low", "high", "control"]
    rows = effects.to_frame().pivot_table("value", "variant", "outcome", sort=False)
    unablated = [*effects.baselines, "unedited", *effects.controls]
    table: Any = effects.forecasts()
    last = len(effects.truth) - 1
    medians = table[(table["series"] == last) & (table["variant"] == "unedited")][["time", "truth"]]
    shown = ["unedited", *effects.controls]
    by_variant = {name: effects.medians[effects.names.index(name), last] for name in shown}
    medians = medians.reset_index(drop=True).assign(**by_variant)
    parts: Any = summary.groupby("ablation", sort=False)
    many = f"{len(effects.truth)} series" if len(effects.truth) > 1 else "one series, so without intervals"
    steps = effects.truth.shape[1]
    return [
        Section(
            f"forecast_effects_{tail}",
            f"Forecasts: {name}",
            f"Errors of forecasts of {steps} steps with heads ablated, on {many}. Scaled errors are in units of the "
            f"context's mean change over {effects.provenance['stimulus']['season']} steps.",
            figure=plots.forecast_effects(effects),
            table=summary,
            brief="\n\n".join(
                as_text(part[columns], f"{name}, {len(effects.truth)} series, without {ablation}")
                for ablation, part in parts
            ),
        ),
        Section(
            f"forecast_fan_{tail}",
            f"The last series: {name}",
            figure=plots.forecast_fan(effects, last),
            table=table,
            note="Medians of the forecasts, and what came.",
            shown=medians,
        ),
        Section(
            f"forecast_baselines_{tail}",
            f"Baselines and controls: {name}",
            table=rows.loc[unablated, ["mase", "wql"]].reset_index(),
        ),
    ]
