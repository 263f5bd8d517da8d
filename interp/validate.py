"""Small checks of what users pass in."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.masked import MaskedTensor

from interp.errors import InvalidInput


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number, NumPy's included, as a plain int.

    Args:
        name: what the user calls it.
        value: what was given.
        least: the smallest that makes sense.

    Returns:
        The number.

    Raises:
        InvalidInput: not a whole number, or too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidInput(f"{name}={value!r} must be a whole number.") from None
    # A boolean tensor has an index, unlike NumPy's.
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool") or number < least:
        raise InvalidInput(f"{name}={value!r} must be at least {least}.")
    return number


def number(name: str, value: Any) -> float:
    """Return a real number that is not NaN.

    Args:
        name: what the user calls it.
        value: what was given.

    Returns:
        The number.

    Raises:
        InvalidInput: something else.
    """
    try:
        real = float("nan") if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError):
        real = float("nan")
    if math.isnan(real):
        raise InvalidInput(f"{name}={value!r} must be a number.")
    return real


def positions(name: str, value: Any) -> tuple[int, ...] | None:
    """Return one or several whole numbers, negative ones too, each once; None stays None.

    Args:
        name: what the user calls them.
        given: a number, or a sequence, array or tensor of them.

    Returns:
        The numbers.

    Raises:
        InvalidInput: none, one twice, or something other than whole numbers.
    """
    if value is None:
        return None
    many = isinstance(value, Sequence) or getattr(value, "ndim", 0)
    chosen = tuple(whole(name, item, -(2**31)) for item in (list(value) if many else [value]))
    if not chosen or len(set(chosen)) < len(chosen):
        raise InvalidInput(f"{name}={value!r}: give at least one, and each once.")
    return chosen


def as_tensor(values: Any) -> Tensor:
    """Return anything array-like as a tensor; integers, unsigned ones too, as int64.

    Raises:
        TypeError, ValueError, RuntimeError: what is no array, a ragged list, or entries that are masked, whose mask a
            tensor would lose.
    """
    parts = values if isinstance(values, list | tuple) else [values]
    if any(isinstance(part, MaskedTensor) or np.ma.is_masked(part) for part in parts):
        raise TypeError("masked entries were found; give tokens' mask as attention_mask")
    if not isinstance(values, Tensor) and hasattr(values, "__array__"):
        array = np.asarray(values)
        # A copy in native byte order and without negative strides, which torch does not take.
        values = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    tensor = torch.as_tensor(values)
    if tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex():
        return tensor
    whole_numbers = tensor.long()
    if tensor.dtype == torch.uint64 and bool((whole_numbers < 0).any()):
        raise ValueError("an integer over 2**63 - 1 was found")
    return whole_numbers
