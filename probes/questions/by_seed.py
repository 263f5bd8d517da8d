"""What the questions share: the frame of an induction sweep, the heads chosen on it, and intervals over seeds."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from interp import InvalidInput
from interp.results.result import Floats
from interp.results.statistics import interval
from probes.induction.mosaic import THRESHOLD
from probes.induction.sweep_frame import axis_names, swept

Table = Any
"""A pandas frame or column inside a calculation, where its own annotations lose what it is at every step."""

AXES = ("model", "repetitions", "sequence_length", "seed")


def sweep_frame(sweep: Any, *needed: str) -> Table:
    """The tidy frame of an induction sweep over models, repetitions, lengths and seeds alone.

    Raises:
        InvalidInput: something else, columns that are missing, or further axes, which would be mixed.
    """
    frame: Table = swept(sweep, AXES)
    if missing := [name for name in needed if name not in frame]:
        raise InvalidInput(f"the sweep has no {', '.join(missing)}: give what probes.induction_sweep returns.")
    if further := [name for name in axis_names(frame) if name not in AXES and frame[name].nunique() > 1]:
        raise InvalidInput(f"the sweep varies {', '.join(further)} too: take one value of it, so that none are mixed.")
    return frame


def seeds_of(given: Iterable[Any]) -> tuple[Any, list[Any]]:
    """The seed that heads are chosen on, the first, and those that effects are measured on.

    Raises:
        InvalidInput: fewer than three seeds. One is to choose on and three are for an interval: of three seeds in all
            there are means, but nothing is decided.
    """
    seeds = list(dict.fromkeys(given))
    if len(seeds) < 3:
        raise InvalidInput(
            f"seeds {seeds}: three or more are needed, one to choose heads on and the others to measure. From four on "
            "there are intervals."
        )
    return seeds[0], seeds[1:]


def chosen_heads(frame: Table, threshold: float = THRESHOLD) -> set[str]:
    """The heads that reach the threshold anywhere in a frame."""
    return set(frame.loc[frame["either"] >= threshold, "head"])


def over_seeds(values: Any) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval over seeds: `(mean, low, high)`; no interval under three seeds.

    A seed in which the value does not exist leaves neither mean nor interval.
    """
    x: Floats = np.asarray(values, dtype=float)
    low, high = interval(x) if not np.isnan(x).any() else (np.nan, np.nan)
    return float(x.mean()), float(low), float(high)
