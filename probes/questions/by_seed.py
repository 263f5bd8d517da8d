"""Shared parts of the questions: the frame of an induction sweep, the heads chosen on it, and intervals over seeds."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from interp.errors import InvalidInput
from interp.results.result import Floats
from interp.results.statistics import interval
from probes.induction.mosaic import THRESHOLD
from probes.induction.sweep_frame import axis_names, swept

Table = Any
"""A pandas frame or column inside a calculation; pandas' own annotations do not follow it."""

AXES = ("model", "repetitions", "sequence_length", "seed")


def sweep_frame(sweep: Any, *needed: str) -> Table:
    """Return the tidy frame of an induction sweep over models, repetitions, lengths and seeds alone.

    Raises:
        InvalidInput: something else, columns that are missing, or further axes.
    """
    frame: Table = swept(sweep, AXES)
    if missing := [name for name in needed if name not in frame]:
        raise InvalidInput(f"the sweep has no {', '.join(missing)}: give the result of probes.induction_sweep.")
    if further := [name for name in axis_names(frame) if name not in AXES and frame[name].nunique() > 1]:
        raise InvalidInput(f"the sweep varies {', '.join(further)} too: take one value of it.")
    return frame


def seeds_of(values: Iterable[Any]) -> tuple[Any, list[Any]]:
    """Split seeds into the first, on which heads are chosen, and the others, on which effects are measured.

    Raises:
        InvalidInput: fewer than three seeds. An interval needs three to measure on: three seeds in all give means only.
    """
    seeds = list(dict.fromkeys(values))
    if len(seeds) < 3:
        raise InvalidInput(
            f"seeds {seeds}: three or more are needed, one to choose heads on and the others to measure. From four on "
            "there are intervals."
        )
    return seeds[0], seeds[1:]


def chosen_heads(frame: Table, threshold: float = THRESHOLD) -> set[str]:
    """Return the heads that reach the threshold anywhere in a frame."""
    return set(frame.loc[frame["either"] >= threshold, "head"])


def mean_with_interval(values: Any) -> tuple[float, float, float]:
    """Return mean and Student's 95 % interval over seeds or draws, `(mean, low, high)`; no interval under three.

    If one value is NaN, so are all three.
    """
    x: Floats = np.asarray(values, dtype=float)
    low, high = interval(x) if not np.isnan(x).any() else (np.nan, np.nan)
    return float(x.mean()), float(low), float(high)


def interval_columns(columns: Mapping[str, Any]) -> dict[str, float]:
    """Return mean and interval of each column over seeds or draws, as `name`, `name_low` and `name_high`."""
    return {
        f"{name}{end}": value
        for name, values in columns.items()
        for end, value in zip(("", "_low", "_high"), mean_with_interval(values), strict=True)
    }
