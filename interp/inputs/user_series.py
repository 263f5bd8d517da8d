"""Series as users have them: arrays, lists, masked arrays, tensors, and columns of pandas, polars, Arrow and xarray.

1. One series, or several in a list or a rectangle `[series, step]`; a table is refused, whose axes would be guessed.
2. Numbers only: dates, text and complex numbers are refused. What is masked, null or None is NaN.
3. A series that has an index is in order and evenly spaced (`interp.inputs.series_index`). Nothing is sorted or filled.
"""

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.masked import MaskedTensor

from interp.errors import InvalidInput
from interp.inputs.series_index import check_index, frequency

Series = Any
"""One series or several: numbers `[step]` or `[series, step]` in an array, a tensor or lists, a column of pandas,
polars, Arrow or xarray, or a list of one-dimensional ones of these, of different lengths."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UserSeries:
    """Series and what their containers say of them.

    Attributes:
        values: `[series, step]` in double precision; NaN where a value is missing, and on the left of shorter series.
        names: of each series; None where it has none.
        indexes: the index of each series' own steps, which are the last ones of its row; None where it has none.
    """

    values: Floats
    names: tuple[str | None, ...]
    indexes: tuple[pd.Index | None, ...]

    @property
    def tensor(self) -> Float[Tensor, "series step"]:
        """The values in the single precision that Chronos reads."""
        with np.errstate(over="ignore"):
            return torch.as_tensor(self.values.astype(np.float32))

    @property
    def frequencies(self) -> tuple[str | None, ...]:
        """Pandas' name of the frequency of each index; None where there is no index, or pandas has no name for it."""
        return tuple(None if index is None else frequency(index) for index in self.indexes)


@dataclass(frozen=True, eq=False)
class _Column:
    values: Floats
    name: str | None = None
    index: pd.Index | None = None


def read_series(series: Series) -> UserSeries:
    """Read one or several series.

    Args:
        series: as `Series` says. Booleans count as 0 and 1.

    Returns:
        The values, the names and the indexes.

    Raises:
        InvalidInput: no numbers, infinite or only missing ones, an empty series, a ragged nested list, a table, or an
            index that is not in order or not evenly spaced.
    """
    rows = _rows(series)
    columns = _rectangle(series) if rows is None else [_row(place, row) for place, row in enumerate(rows)]
    longest = max(len(column.values) for column in columns)
    values = np.full((len(columns), longest), np.nan)
    for padded, column in zip(values, columns, strict=True):
        padded[longest - len(column.values) :] = column.values
    series_read = UserSeries(values, tuple(c.name for c in columns), tuple(c.index for c in columns))
    if bool(series_read.tensor.isinf().any()):
        raise InvalidInput(
            "a series holds infinite values, or ones beyond float32's 3.4e38: make them NaN, or rescale."
        )
    if (empty := np.isnan(values).all(axis=1)).any():
        raise InvalidInput(f"series {np.flatnonzero(empty).tolist()[:6]} hold only NaN: nothing to look at.")
    values.setflags(write=False)
    return series_read


def as_series(series: Series) -> Float[Tensor, "series step"]:
    """Return one or several series as one float32 rectangle, padded with NaN on the left.

    Raises:
        InvalidInput: as `read_series`.
    """
    return read_series(series).tensor


def is_table(values: Any) -> bool:
    """Tell whether something has named columns: a frame of any library, a dictionary, records."""
    kind = type(values)
    if isinstance(values, Mapping) or hasattr(kind, "_fields"):
        return True
    if getattr(getattr(values, "dtype", None), "names", None):
        return True
    return hasattr(kind, "columns") or hasattr(kind, "__dataframe__")


def _rows(series: Any) -> list[Any] | None:
    """Return the series of a list of several; None for anything else."""
    if isinstance(series, Tensor) and series.is_nested:
        return list(series.unbind())
    objects = isinstance(series, np.ndarray) and series.dtype == object and series.ndim == 1
    if not objects and (not isinstance(series, Sequence) or isinstance(series, str | bytes | bytearray)):
        return None
    items: list[Any] = list(series)
    several = [item for item in items if _is_row(item)]
    if not several:
        return None
    lists = [item for item in several if isinstance(item, Sequence)]
    lengths = sorted({len(item) for item in lists})
    if len(several) < len(items) or (len(lengths) > 1 and not any(map(is_table, lists))):
        raise InvalidInput(
            f"a ragged nested list, with {'numbers beside rows' if len(several) < len(items) else 'rows'} of "
            f"{lengths[:6]} values: for series of different lengths pass a list of one-dimensional arrays."
        )
    if lengths == [1] and len(lists) == len(items):
        _not_a_column(len(items))
    return items


def _is_row(item: Any) -> bool:
    if isinstance(item, str | bytes | bytearray | np.generic) or getattr(item, "ndim", 1) == 0:
        return False
    return hasattr(item, "__len__") or hasattr(item, "__array__") or _is_arrow(item)


def _rectangle(series: Any) -> list[_Column]:
    column = _column(series)
    shape = column.values.shape
    if len(shape) not in (1, 2) or 0 in shape:
        raise InvalidInput(f"a series must be [step] or [series, step] and not empty; found {list(shape)}.")
    if len(shape) == 1:
        return [column]
    if shape[1] == 1:
        _not_a_column(shape[0])
    return [_Column(row) for row in column.values]


def _row(place: int, row: Any) -> _Column:
    try:
        column = _column(row)
        if column.values.ndim != 1:
            raise InvalidInput(
                f"a list of series must hold one-dimensional arrays only; found {list(column.values.shape)}."
            )
        if not len(column.values):
            raise InvalidInput("an empty series: give each at least one value.")
        return column
    except InvalidInput as error:
        raise InvalidInput(f"series {place} of the list: {error}") from None


def _not_a_column(rows: int) -> None:
    if rows > 1:
        raise InvalidInput(
            f"a series must be [step] or [series, step]: [{rows}, 1] could be a column or {rows} series of one step. "
            "Pass the column as values[:, 0]; for series of one step, a list of arrays."
        )


def _column(values: Any) -> _Column:
    """Return one series, or a rectangle of several, as numbers, with its name and index if it has them."""
    xarray = type(values).__module__.partition(".")[0] == "xarray"
    # A one-dimensional DataArray of xarray, and the probes' TimeSeries.
    flat = getattr(values, "ndim", 1) == 1 and not (isinstance(values, pd.Index) or is_table(values))
    if flat and hasattr(type(values), "to_series"):
        values = values.to_series()
    if isinstance(values, pd.Series):
        check_index(values.index)
        return _Column(_of_pandas(values), None if values.name is None else str(values.name), values.index)
    if is_table(values):
        _refuse_table(values)
    index = getattr(values, "index", None)
    if xarray or not (index is None or callable(index)):
        _refuse(f"a {type(values).__name__} with labels of its own", "Pass a pandas series, or only the numbers")
    try:
        return _Column(_numbers(values), getattr(values, "name", None) or None if _is_arrow(values) else None)
    except InvalidInput:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError, OSError, pa.ArrowException) as error:
        raise InvalidInput(f"a series must be real numbers: {error!s:.200}") from None


def _numbers(values: Any) -> Floats:
    if isinstance(values, Tensor):
        return _of_torch(values)
    if isinstance(values, pd.Index | pd.api.extensions.ExtensionArray):
        return _of_pandas(pd.Series(values))
    if _is_arrow(values):
        return _of_arrow(values)
    if isinstance(values, str | bytes | bytearray):
        _refuse(f"text was found, {values!r:.40}", "Read it into numbers first")
    if isinstance(values, Sequence):
        plain = {type(value) for value in values} <= {int, float, bool}
        return np.array(values if plain else [_number(value) for value in values], dtype=np.float64)
    if not (hasattr(values, "__array__") or isinstance(values, numbers.Number)):
        _refuse(f"{type(values).__name__} was found", "Pass an array, or a list in the order of time")
    return _of_numpy(np.asanyarray(values))


def _of_numpy(array: NDArray[Any]) -> Floats:
    # Masked arrays, numpy's and others', are arrays with a mask, which is lost once they are plain ones.
    mask = getattr(array, "mask", None)
    array = np.asarray(array)
    hidden = None if mask is None else np.broadcast_to(np.asarray(mask, dtype=bool), array.shape)
    if array.dtype == object:
        shown = array if hidden is None else np.where(hidden, cast(Any, None), array)
        return np.array([_number(value) for value in shown.ravel()], dtype=np.float64).reshape(array.shape)
    if array.dtype.kind not in "fiub":
        _refuse_kind(array.dtype)
    with np.errstate(over="ignore"):
        floats = array.astype(np.float64)
    if hidden is not None:
        floats[hidden] = np.nan
    return floats


def _of_torch(tensor: Tensor) -> Floats:
    if tensor.layout != torch.strided:
        _refuse(f"a tensor of layout {tensor.layout}", "Make it dense, tensor.to_dense()")
    if tensor.is_complex():
        _refuse_kind(tensor.dtype)
    if isinstance(tensor, MaskedTensor):
        hidden = ~tensor.get_mask()
        tensor = tensor.get_data().to(torch.float64).masked_fill(hidden, torch.nan)
    return np.array(tensor.to(torch.float64).numpy(force=True))


def _of_pandas(column: pd.Series) -> Floats:
    if column.dtype == object:
        return _of_numpy(column.to_numpy())
    kind = getattr(column.dtype, "kind", "O")
    if not (pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype)) or kind == "c":
        _refuse_kind(column.dtype)
    return np.array(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _is_arrow(values: Any) -> bool:
    """Tell whether something has Arrow's interface, as columns of polars and pyarrow do."""
    return hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__")


def _of_arrow(values: Any) -> Floats:
    column = pa.chunked_array(values) if hasattr(values, "__arrow_c_stream__") else pa.array(values)
    if pa.types.is_struct(column.type):
        _refuse_table(values)
    known = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
    if not any(check(column.type) for check in known):
        _refuse_kind(column.type)
    return np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _number(value: Any) -> float:
    if value is None or value is pd.NA or value is np.ma.masked:
        return float("nan")
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, numbers.Real | Decimal | np.bool_):
        what = f"{type(cast(Any, value)).__name__} was found, {value!r:.60}"
        _refuse(what, "Pass numbers, and NaN or None where one is missing")
    return float(value)


def _refuse(what: str, do: str) -> NoReturn:
    raise InvalidInput(f"a series must be real numbers: {what}. {do}.")


def _refuse_kind(dtype: Any) -> NoReturn:
    _refuse(
        f"values of {dtype} were found", "Pass the column of numbers; dates belong into the index of a pandas series"
    )


def _refuse_table(table: Any) -> NoReturn:
    raise InvalidInput(
        f"a series must be one column: {type(table).__name__} was found, and in a data frame, dictionary or records "
        "columns, ids and times would be guessed. Pass one column, table['y'], or a list of them, one for each id."
    )
