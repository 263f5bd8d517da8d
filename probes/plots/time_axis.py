"""The time axis of a series on a figure: real dates where they are known, and units in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.output.time_axis import axis_layout, axis_values, time_words
from interp.results.result import Floats
from probes.stimuli.time_series import TimeSeries


def cycles(unit: str) -> str:
    """Return the unit of frequency that belongs to a unit of time: Hz, or cycles per something."""
    return "Hz" if unit == "s" else f"cycles per {unit}"


def times(series: TimeSeries, steps: Sequence[int]) -> list[str] | Floats:
    """Return the times of steps, also before and after the series: dates such as 1949-01-01 where they are known."""
    if series.index is None:
        return np.asarray(steps) * series.spacing
    return axis_values(series.index, steps)


def time_axis(series: TimeSeries, next_step: int) -> dict[str, Any]:
    """Return range, type, title and hover of an axis that shows a series and the step that is predicted."""
    end = max(len(series) - 1, next_step)
    edge = max(1, round(0.012 * end))
    if series.index is None:
        title = series.unit if series.unit == "step" else f"time ({series.unit})"
        layout = {"type": "linear", "title.text": title, "hoverformat": ""}
    else:
        layout = axis_layout(series.index)
    return {"range": list(times(series, [-edge, end + edge])), **layout}


def step_words(series: TimeSeries, step: int) -> str:
    """Name the step that looks back, by its date where it is known; -1 is the start token."""
    if step < 0:
        return "the start token"
    return f"step {step}" if series.index is None else time_words(series.index)[step]
