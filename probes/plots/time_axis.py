"""The time axis of a series on a figure: real dates where they are known, and units in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.results.result import Floats
from probes.stimuli.time_series import TimeSeries


def cycles(unit: str) -> str:
    """Return the unit of frequency that belongs to a unit of time: Hz, or cycles per something."""
    return "Hz" if unit == "s" else f"cycles per {unit}"


def times(series: TimeSeries, steps: Sequence[int]) -> list[str] | Floats:
    """Return the times of steps, also after the series: dates such as 1949-01 where the first is known."""
    at = np.asarray(steps)
    first = _first_month(series)
    if first is None:
        return at * series.spacing
    return [str(month) for month in first + at * round(12 * series.spacing)]


def time_axis(series: TimeSeries, next_step: int) -> dict[str, Any]:
    """Return range, type and title of an axis that shows a series and the step that is predicted."""
    end = max(len(series) - 1, next_step)
    edge = max(1, round(0.012 * end))
    dated = _first_month(series) is not None
    title = "year" if dated else series.unit if series.unit == "step" else f"time ({series.unit})"
    return {
        "range": list(times(series, [-edge, end + edge])),
        "type": "date" if dated else "linear",
        "title.text": title,
    }


def _first_month(series: TimeSeries) -> Any:
    """Return the month of the first step; None if it is unknown, or the series was cut and its dates no longer fit."""
    months = 12 * series.spacing
    if series.unit != "year" or round(months) < 1 or abs(months - round(months)) > 1e-6:
        return None
    try:
        first, last = (np.datetime64(str(series.parameters[name]), "M") for name in ("first", "last"))
    except (KeyError, ValueError):
        return None
    return first if (last - first).astype(int) == (len(series) - 1) * round(months) else None
