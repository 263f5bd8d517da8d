"""The frame of a sweep of mosaics: one row a configuration and head, its axes before `head`."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, Protocol

import numpy as np
import pandas as pd

from interp.errors import InvalidInput
from interp.output.style import unique
from probes.induction.mosaic import KINDS


class Framed(Protocol):
    """Anything that gives its tidy frame, such as a sweep."""

    def to_frame(self) -> pd.DataFrame:
        """Return the tidy frame."""
        ...


def swept(sweep: Framed | pd.DataFrame, axes: Sequence[str] = ("model",)) -> pd.DataFrame:
    """Check the frame of a sweep of mosaics, and turn lists on its axes into tuples.

    Args:
        sweep: a sweep, or its frame.
        axes: the axes that the caller needs.

    Raises:
        InvalidInput: no rows, columns that are missing, or a head that a configuration has twice.
    """
    frame = sweep if isinstance(sweep, pd.DataFrame) else getattr(sweep, "to_frame", lambda: None)()
    if not isinstance(frame, pd.DataFrame):
        raise InvalidInput(
            f"{type(sweep).__name__} is no sweep: give the result of probes.induction_sweep, or its frame."
        )
    missing = [name for name in (*axes, "head", "layer", "index", *KINDS) if name not in frame]
    missing += [name for name in axes if name not in missing and name not in axis_names(frame)]
    if missing:
        raise InvalidInput(
            f"needed are the columns {', '.join(missing)}, axes before the column 'head'; found "
            f"{', '.join(map(str, frame.columns)) or 'none'}. Give a sweep of induction mosaics, or its frame."
        )
    if frame.empty:
        raise InvalidInput("the sweep holds no runs.")
    names = axis_names(frame)
    frame = frame.assign(**{name: frame[name].map(_hashable) for name in names if frame[name].dtype == object})
    twice = frame[frame.duplicated([*names, "head"])]
    if len(twice):
        first = ", ".join(f"{name} {text(twice.iloc[0][name])}" for name in [*names, "head"])
        raise InvalidInput(f"{len(twice)} rows are there twice, the first of {first}: give each configuration once.")
    return frame


def axis_names(frame: pd.DataFrame) -> list[str]:
    """Return the axes of a sweep's frame: its columns before `head`."""
    return [str(name) for name in frame.columns[: frame.columns.get_loc("head")]] if "head" in frame else []


def axis_values(frame: pd.DataFrame, axis: str) -> list[Any]:
    """Return the values of an axis that occur: numbers in order, others as they come."""
    values = list(frame[axis].drop_duplicates())
    numbers = all(isinstance(value, Real) for value in values)
    return sorted(values) if numbers else values  # type: ignore[type-var]


def axis_labels(axis: str, values: Sequence[Any]) -> list[str]:
    """Return the values of an axis as a figure writes them."""
    return unique([str(value) for value in values]) if axis == "model" else [text(value) for value in values]


def text(value: Any) -> str:
    """Write a value of an axis, NumPy's numbers as plain ones."""
    if isinstance(value, tuple):
        return ", ".join(text(part) for part in value)
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def sites(sweep: Framed | pd.DataFrame) -> list[str]:
    """Return the kinds of attention of a sweep's heads, such as `decoder.cross`, each once."""
    heads = swept(sweep)["head"].drop_duplicates()
    return list(dict.fromkeys(str(head).rsplit(".", 2)[0] for head in heads))


def head_counts(frame: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Count the heads of each configuration in a frame from `swept` that reach a threshold.

    Returns:
        One row a configuration: its axes, `current_token, token_to_right, either, n_heads`.
    """
    names = axis_names(frame)
    marks = frame[names].assign(**{kind: frame[kind] >= threshold for kind in KINDS})
    marks = marks.assign(either=marks[list(KINDS)].any(axis=1), n_heads=1)
    grouped: Any = marks.groupby(names, sort=False, dropna=False, as_index=False)
    return grouped.sum()


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | np.ndarray) else value
