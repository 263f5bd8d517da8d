"""How well a bundled model forecasts, beside naive and seasonal naive, as its card reports it.

Errors are utilsforecast's MASE; forecasts are medians: of the pipeline's own samples, or as a Chronos-Bolt puts it out.

Source: Hyndman & Koehler 2006, "Another look at measures of forecast accuracy" (MASE).
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from chronos import BaseChronosPipeline, ChronosBoltPipeline, ChronosPipeline
from numpy.random import default_rng
from numpy.typing import NDArray
from utilsforecast.losses import mase

from interp.output.progress import late_bars
from interp.results.files import write_text
from interp.results.frame import Frame

Floats = NDArray[np.float64]

Pipeline = ChronosPipeline | ChronosBoltPipeline
"""What is measured: medians of samples, or the median that a Chronos-Bolt puts out."""

HORIZON = 24


def held_out(seed: int = 1949) -> tuple[Floats, NDArray[np.int64]]:
    """Return the fixed test set: 200 noisy seasonal series, none of which any model was trained on.

    Args:
        seed: of the set; the card's figures are for the default.

    Returns:
        Values `[series, 96 + 24]` and the period of each series in steps.
    """
    rng = default_rng(seed)
    rows, length = 200, 96 + HORIZON
    t = np.arange(length)
    period = rng.integers(4, 25, rows)
    harmonics = rng.integers(1, 4, rows)
    season = np.zeros((rows, length))
    for k in range(1, 4):
        amplitude = rng.uniform(0.3, 1.0, rows) * (harmonics >= k)
        phase = rng.uniform(0, 2 * np.pi, rows)
        season += amplitude[:, None] * np.sin(2 * np.pi * k * t / period[:, None] + phase[:, None])
    spread = season.std(axis=1, keepdims=True)
    trend = (rng.random(rows) < 1 / 3)[:, None] * rng.normal(0, 2, rows)[:, None] * spread * t / length
    level = rng.normal(0, 2, rows)[:, None] * spread
    return season + trend + level + 0.1 * spread * rng.standard_normal((rows, length)), period


def air_passengers() -> Floats:
    """Return monthly airline passengers in thousands, 1949-1960, 144 values (Box & Jenkins, Series G)."""
    with (files("interp.zoo") / "data" / "air_passengers.csv").open() as file:
        return pd.read_csv(file)["passengers"].to_numpy(dtype=float)


def _medians(pipeline: Pipeline, contexts: list[Floats], horizon: int) -> list[Floats]:
    """Return the pipeline's median, or that of 20 samples, from a fixed seed and with the global one left alone."""
    if isinstance(pipeline, ChronosBoltPipeline):
        levels = list(pipeline.quantiles)
        quantiles = pipeline.predict(
            [torch.tensor(c, dtype=torch.float32) for c in contexts], prediction_length=horizon
        )
        return list(quantiles[:, levels.index(0.5)].double().numpy())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        samples = pipeline.predict([torch.tensor(c) for c in contexts], prediction_length=horizon)
    return list(np.median(samples.double().numpy(), axis=1))


def _mase(contexts: list[Floats], truths: list[Floats], forecasts: list[Floats], period: int) -> Floats:
    """Return MASE of each series, scaled by the seasonal differences of its own context."""

    def frame(series: list[Floats], starts: list[int], column: str) -> pd.DataFrame:
        parts = [
            Frame({"unique_id": i, "ds": np.arange(len(y)) + start, column: y})
            for i, (y, start) in enumerate(zip(series, starts, strict=True))
        ]
        return pd.concat(parts, ignore_index=True)

    ends = [len(c) for c in contexts]
    table = frame(truths, ends, "y").assign(forecast=frame(forecasts, ends, "forecast")["forecast"])
    past = frame(contexts, [0] * len(contexts), "y")
    return mase(table, models=["forecast"], seasonality=period, train_df=past)["forecast"].to_numpy()


def _compare(pipeline: Pipeline, contexts: list[Floats], truths: list[Floats], periods: list[int]) -> dict[str, Floats]:
    horizon = len(truths[0])
    forecasts = {
        "model": _medians(pipeline, contexts, horizon),
        "naive": [np.repeat(c[-1], horizon) for c in contexts],
        "seasonal_naive": [np.tile(c[-m:], horizon // m + 1)[:horizon] for c, m in zip(contexts, periods, strict=True)],
    }
    errors = {name: np.full(len(contexts), np.nan) for name in forecasts}
    for period in sorted(set(periods)):
        rows = [i for i, m in enumerate(periods) if m == period]
        for name, forecast in forecasts.items():
            errors[name][rows] = _mase(
                [contexts[i] for i in rows], [truths[i] for i in rows], [forecast[i] for i in rows], period
            )
    return errors


def held_out_errors(pipeline: Pipeline, rows: slice = slice(None)) -> dict[str, Floats]:
    """Measure the MASE of each held-out series.

    Args:
        pipeline: a Chronos pipeline of a T5, a causal model or a Chronos-Bolt.
        rows: which series; all 200 by default.

    Returns:
        Errors `[series]` of `model`, `naive` and `seasonal_naive`.
    """
    values, period = (array[rows] for array in held_out())
    return _compare(pipeline, list(values[:, :96]), list(values[:, 96:]), period.tolist())


def air_passenger_scores(pipeline: Pipeline) -> dict[str, dict[str, float]]:
    """Measure the mean MASE over rolling origins of air passengers, for horizons of 12 and 24 months.

    Args:
        pipeline: a Chronos pipeline of a T5, a causal model or a Chronos-Bolt.

    Returns:
        For `air_passengers_12` and `air_passengers_24`: the MASE of `model`, `naive` and `seasonal_naive`.
    """
    passengers, scores = air_passengers(), dict[str, dict[str, float]]()
    for horizon in (12, 24):
        origins = range(72, len(passengers) - horizon + 1, 12)
        errors = _compare(
            pipeline,
            [passengers[:origin] for origin in origins],
            [passengers[origin : origin + horizon] for origin in origins],
            [12] * len(origins),
        )
        scores[f"air_passengers_{horizon}"] = {name: float(e.mean()) for name, e in errors.items()}
    return scores


def record_forecasts(directory: Path) -> dict[str, Any]:
    """Measure a trained model's forecasts and put them into its `training.json`.

    Args:
        directory: what `train` wrote.

    Returns:
        The MASE of `model`, `naive` and `seasonal_naive` for `held_out` (median over series; the
        model's by series goes into the record as `held_out_errors`), and for `air_passengers_12` and
        `air_passengers_24` (mean over origins; horizon in months).
    """
    with late_bars():
        pipeline = BaseChronosPipeline.from_pretrained(str(directory), attn_implementation="eager")
    assert isinstance(pipeline, Pipeline)
    errors = held_out_errors(pipeline)
    scores = {"held_out": {name: float(np.median(e)) for name, e in errors.items()}, **air_passenger_scores(pipeline)}
    record = json.loads((directory / "training.json").read_text())
    record |= {"forecasts": scores, "held_out_errors": errors["model"].round(4).tolist()}
    write_text(directory / "training.json", json.dumps(record) + "\n")
    return scores
