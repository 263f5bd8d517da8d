"""Small checks of what users pass in."""

import math
import operator
from collections.abc import Sequence
from typing import Any

from interp.errors import InvalidInput


def whole(name: str, value: Any, least: int) -> int:
    """A whole number, NumPy's included, as a plain int.

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
    """A real number that is not NaN.

    Args:
        name: what the user calls it.
        value: what was given.

    Returns:
        The number.

    Raises:
        InvalidInput: something else.
    """
    try:
        found = float("nan") if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if math.isnan(found):
        raise InvalidInput(f"{name}={value!r} must be a number.")
    return found


def positions(name: str, given: Any) -> tuple[int, ...] | None:
    """One or several whole numbers, negative ones too, each once; None stays None.

    Args:
        name: what the user calls them.
        given: a number, or a sequence, array or tensor of them.

    Returns:
        The numbers.

    Raises:
        InvalidInput: none, one twice, or something other than whole numbers.
    """
    if given is None:
        return None
    many = isinstance(given, Sequence) or getattr(given, "ndim", 0)
    found = tuple(whole(name, item, -(2**31)) for item in (list(given) if many else [given]))
    if not found or len(set(found)) < len(found):
        raise InvalidInput(f"{name}={given!r}: give at least one, and each once.")
    return found
