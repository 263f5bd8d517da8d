"""Forecasts without a model: naive, seasonal naive, parroting.

Source: Zhang & Gilpin 2025, "Context parroting: A simple but tough-to-beat baseline for foundation
models in scientific machine learning"; Hyndman & Athanasopoulos, "Forecasting: Principles and
Practice" (naive methods).
"""

import numpy as np

from interp.errors import InvalidInput
from interp.results.result import Floats
from interp.validate import whole

WINDOW = 10
"""Number of last points that are matched in the history, by default."""


def naive(context: Floats, horizon: int) -> Floats:
    """Repeat the last known value, `[step]`."""
    return np.full(horizon, context[~np.isnan(context)][-1])


def seasonal_naive(context: Floats, horizon: int, season: int) -> Floats:
    """Repeat the values of the last season, `[step]`; a missing value is taken one season earlier.

    A step of the season is NaN where the context has no value at all.

    Raises:
        InvalidInput: a context shorter than its season.
    """
    if len(context) < whole("season", season, 1):
        raise InvalidInput(f"a context of {len(context)} steps is shorter than its season of {season}.")
    phases = np.array([_last(context[::-1][season - 1 - i :: season]) for i in range(season)])
    return np.tile(phases, horizon // season + 1)[:horizon]


def _last(backwards: Floats) -> float:
    known = backwards[~np.isnan(backwards)]
    return float(known[0]) if len(known) else np.nan


def parrot(context: Floats, horizon: int, window: int = WINDOW) -> Floats:
    """Copy what followed the best match of the last points in the history, `[step]`.

    Args:
        context: the series so far; windows with missing values are passed over.
        window: number of last points that are matched, by least squares. (The authors' released
            code drops the context's last point; here it is part of the match.)

    Returns:
        The forecast. Where the history ends before the horizon, the copied part starts again. NaN
        if no window can be matched.
    """
    whole("window", window, 1)
    last = context[-window:]
    if len(context) <= window or np.isnan(last).any():
        return np.full(horizon, np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(context[:-1], window)
    distance = ((windows - last) ** 2).sum(-1)
    if np.isnan(distance).all():
        return np.full(horizon, np.nan)
    start = int(np.nanargmin(distance)) + window
    followed = context[start:]
    copied = np.resize(followed, horizon)
    # A missing value in what followed is filled by the one before it.
    for step in np.flatnonzero(np.isnan(copied)):
        copied[step] = copied[step - 1] if step else last[-1]
    return copied
