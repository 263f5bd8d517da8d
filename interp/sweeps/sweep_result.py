"""What a sweep found: one table a configuration, together a tidy frame."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pandas as pd
import pyarrow as pa

from interp.errors import InvalidInput
from interp.results.frame import Frame
from interp.results.result import Result
from interp.sweeps.grid import Configuration, canonical, label


def table_of(returned: Any, point: Configuration) -> pa.Table:
    """Return what a function returned as a table that knows its configuration.

    Args:
        returned: a frame, a result (its table), a mapping (one row) or a list of mappings.
        point: the configuration that it is of.

    Returns:
        The table; the configuration and the names of the columns are in its metadata.

    Raises:
        InvalidInput: something else, columns that clash with axes, or values that a table cannot
            hold.
    """
    at = f"the function's result for {label(point)}"
    if isinstance(returned, pd.DataFrame):
        frame = returned
    elif isinstance(returned, Result):
        frame = returned.to_frame()
    elif isinstance(returned, Mapping):
        frame = Frame([dict(cast(Mapping[Any, Any], returned))])
    elif isinstance(returned, list) and all(isinstance(row, Mapping) for row in cast(list[Any], returned)):
        frame = Frame([dict(row) for row in cast(list[Any], returned)])
    else:
        raise InvalidInput(
            f"{at} is a {type(returned).__name__}: return a DataFrame, a result, a mapping, or a list of mappings."
        )
    names = list(cast(Sequence[Any], frame.columns))
    if odd := [name for name in names if not isinstance(name, str)]:
        raise InvalidInput(f"{at} has a column {odd[0]!r}: name columns by text.")
    if len(set(names)) < len(names):
        raise InvalidInput(f"{at} has a column twice among {', '.join(names)}: name each differently.")
    if clash := [name for name in names if name in point]:
        raise InvalidInput(f"{at} has a column {', '.join(clash)}, which is an axis: rename or drop it.")
    if not names and len(frame):
        raise InvalidInput(f"{at} has no columns: return at least one value, or an empty list for no row.")
    if any(name is not None for name in frame.index.names):
        raise InvalidInput(f"{at} has a named index, which would be lost: return it after reset_index().")
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{at} cannot be kept as a table: {error}") from None
    # The frame is made from the columns' own types; pandas' metadata of one table would speak for all.
    return table.replace_schema_metadata({"configuration": canonical(point), "columns": json.dumps(names)})


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """Results over a grid of configurations.

    Attributes:
        axes: the values by axis.
        fixed: the parameters that did not vary.
        provenance: the function and a hash of its source, versions, dtype, and the digests of the
            models' weights by name.
    """

    axes: dict[str, tuple[Any, ...]]
    fixed: dict[str, Any]
    provenance: dict[str, Any]
    _points: tuple[Configuration, ...] = field(default=())
    _tables: tuple[pa.Table, ...] = field(default=())

    def __len__(self) -> int:
        """Count the configurations that have results."""
        return len(self._points)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {len(values)}" for name, values in self.axes.items())
        rows = sum(table.num_rows for table in self._tables)
        return f"Sweep({len(self)} configurations, {rows} rows; {axes})"

    def to_frame(self) -> pd.DataFrame:
        """Return one tidy table: the axes first, then the function's columns, in the grid's order.

        Returns:
            The rows of all configurations, the last axis fastest. Models are named by text; a tuple
            is its text, as `(1911, 2187)`. A column that a configuration lacks is NaN there.
        """
        columns = merged([table.column_names for table in self._tables])
        lengths = [table.num_rows for table in self._tables]
        axes = {name: _column([point[name] for point in self._points], lengths) for name in self.axes}
        try:
            frame = pa.concat_tables(self._tables, promote_options="permissive").to_pandas() if self._tables else None
        except pa.ArrowException:
            # Numbers in one configuration and text in another: pandas keeps such columns as objects.
            frame = pd.concat([table.to_pandas() for table in self._tables], ignore_index=True)
        if frame is None:
            return Frame(axes)
        return pd.concat([Frame(axes), frame[columns]], axis=1)


def merged(names: Sequence[Sequence[str]]) -> list[str]:
    """Merge columns, each where the first table that has it puts it: after the one before it."""
    order: list[str] = []
    for columns in dict.fromkeys(tuple(columns) for columns in names):
        place = 0
        for name in columns:
            if name not in order:
                order.insert(place, name)
            place = order.index(name) + 1
    return order


def _column(values: list[Any], lengths: list[int]) -> pd.Series:
    kinds = {type(value) for value in values}
    shown = [str(value) if isinstance(value, tuple) else value for value in values]
    rows = [value for value, length in zip(shown, lengths, strict=True) for _ in range(length)]
    # None beside numbers is a value of its own here, not a missing number.
    return pd.Series(rows, dtype=object if len(kinds) > 1 and not kinds <= {int, float} else None)
