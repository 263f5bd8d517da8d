"""What the questions share: the frame of an induction sweep, the heads chosen on it, and intervals over seeds."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from interp import InvalidInput
from interp.results import Floats
from probes.mosaic import THRESHOLD


def sweep_frame(sweep: Any, *needed: str) -> pd.DataFrame:
    """The tidy frame of an induction sweep, given as a sweep or as its frame.

    Raises:
        InvalidInput: something else, or columns that are missing.
    """
    frame = sweep if isinstance(sweep, pd.DataFrame) else getattr(sweep, "to_frame", lambda: None)()
    if not isinstance(frame, pd.DataFrame):
        raise InvalidInput(
            f"{type(sweep).__name__} is no sweep: give what probes.induction_sweep returns, or its frame."
        )
    if missing := [name for name in needed if name not in frame]:
        raise InvalidInput(f"the sweep has no {', '.join(missing)}: give what probes.induction_sweep returns.")
    return frame


def seeds_of(frame: pd.DataFrame) -> tuple[Any, list[Any]]:
    """The seed that heads are chosen on, the first, and those that effects are measured on.

    Raises:
        InvalidInput: fewer than three seeds: one to choose on, two for an interval.
    """
    seeds = list(dict.fromkeys(frame["seed"]))
    if len(seeds) < 3:
        raise InvalidInput(
            f"the sweep has {len(seeds)} seed{'s' if len(seeds) != 1 else ''}: three are needed, one to choose heads on "
            "and two to measure with an interval."
        )
    return seeds[0], seeds[1:]


def chosen_heads(frame: pd.DataFrame, threshold: float = THRESHOLD) -> set[str]:
    """The heads that reach the threshold anywhere in a frame."""
    return set(frame.loc[frame["either"] >= threshold, "head"])


def over_seeds(values: Any) -> tuple[float, float, float]:
    """Mean and a 95 % interval over seeds, by the t distribution: `(mean, low, high)`."""
    x: Floats = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if len(x) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return mean, mean - half, mean + half
