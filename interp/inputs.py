"""Small checks of what users pass in."""

import operator
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
    if isinstance(value, bool) or number < least:
        raise InvalidInput(f"{name}={value!r} must be at least {least}.")
    return number
