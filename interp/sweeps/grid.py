"""What is asked for: a grid of plain values, checked against the function before anything runs.

A configuration is one point of the grid, a dictionary from axis to value. Its key is a hash of its
canonical JSON, so that the same configuration has the same key in every process and every call.
"""

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

from interp.errors import InvalidInput, nearest
from interp.models.model import Model

MODEL = "model"
"""The axis whose values are opened: names and directories of models."""

Configuration = dict[str, Any]
Grid = Mapping[str, Iterable[Any]]


def plain(name: str, value: Any) -> Any:
    """Return a value as JSON holds it, with tuples for lists.

    Args:
        name: of the axis or parameter.
        value: None, bool, int, float or str, NumPy's scalars, or tuples, lists and arrays of these.

    Returns:
        The value in plain Python, hashable.

    Raises:
        InvalidInput: anything else, and numbers that are not finite.
    """
    if isinstance(value, np.ndarray | np.generic):
        return plain(name, value.tolist())
    if isinstance(value, tuple | list):
        return tuple(plain(name, item) for item in cast(Iterable[Any], value))
    if value is None or isinstance(value, bool):
        return value
    # An enumeration's member and the like would be another value on the way back.
    if isinstance(value, int | str):
        return int(value) if isinstance(value, int) else str.__str__(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise InvalidInput(
        f"{name}={value!r}: a {type(value).__name__} cannot be kept as JSON. Give None, True or False, finite "
        "numbers, text, or tuples of these, and make the rest inside the function."
    )


def axis_values(name: str, values: Any) -> tuple[Any, ...]:
    """Return the values of one axis, each once.

    Args:
        name: the axis' name.
        values: a range, list, tuple or array; the axis `model` may hold paths and open models.

    Returns:
        The values in plain Python; a model that is open stays as it is.

    Raises:
        InvalidInput: a single value, no value, one twice, or one that JSON cannot hold.
    """
    if isinstance(values, str | bytes | Mapping | set | frozenset | Model) or not isinstance(values, Iterable):
        raise InvalidInput(f"{name}={values!r} must be a list of values in an order, as [{values!r}].")
    values = tuple(_model(item) if name == MODEL else plain(name, item) for item in cast(Iterable[Any], values))
    if not values:
        raise InvalidInput(f"{name}: an axis without values leaves nothing to run. Give at least one.")
    seen: set[Any] = set()
    for value in map(model_name, values):
        # 1, 1.0 and True are one value to Python, and to nearly every function.
        if value in seen:
            raise InvalidInput(f"{name}={value!r} is given more than once. Give each value once.")
        seen.add(value)
    return values


def _model(item: Any) -> str | Model:
    if isinstance(item, Model):
        return item
    if isinstance(item, str | Path) and str(item):
        return str(item)
    raise InvalidInput(f"model={item!r}: give a model's name, its directory, or a model opened with interp.load.")


def model_name(value: Any) -> Any:
    """Return what a value is stored under: an open model's name, and any other value itself."""
    return value.name if isinstance(value, Model) else value


def checked(
    function: Callable[..., Any], grid: Grid, fixed: Mapping[str, Any] | None
) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]]:
    """Hold a grid and fixed parameters against the function that is to be run.

    Args:
        function: takes axes and fixed parameters by name.
        grid: values by axis.
        fixed: parameters that do not vary.

    Returns:
        The axes and the fixed parameters, in plain values.

    Raises:
        InvalidInput: an empty grid, names that the function does not take or still needs, a name
            in both, or values that cannot be kept.
    """
    if not callable(function):
        raise InvalidInput(f"function={function!r} cannot be called.")
    for name, settings in cast(Any, (("grid", grid), ("fixed", fixed or {}))):
        if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
            raise InvalidInput(f"{name}={settings!r} must be a dictionary from names to values.")
    if not grid:
        raise InvalidInput("the grid has no axis: give at least one, as {'seed': range(3)}.")
    axes = {name: axis_values(name, values) for name, values in grid.items()}
    constants = {name: plain(name, value) for name, value in (fixed or {}).items()}
    if both := [name for name in axes if name in constants]:
        raise InvalidInput(f"{', '.join(both)}: in the grid and in fixed. Give each parameter once.")
    if MODEL in constants:
        raise InvalidInput("model: fixed parameters are not opened. Give it as an axis: {'model': ['pico-t5'], ...}.")
    _check_names(function, {**axes, **constants})
    return axes, constants


def _check_names(function: Callable[..., Any], names: Iterable[str]) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return  # some builtins do not tell what they take
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    title = getattr(function, "__name__", type(function).__name__)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in names:
            if name not in named:
                raise InvalidInput(
                    f"{name}: {title} takes no such parameter; it takes {', '.join(named) or 'none by name'}."
                    f"{nearest(name, named)}"
                )
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if missing := [name for name in needed if name not in set(names) or name not in named]:
        raise InvalidInput(f"{title} needs {', '.join(missing)} by name: give it in the grid or in fixed.")


def configurations(axes: Mapping[str, Iterable[Any]]) -> list[Configuration]:
    """Return all points of a grid, the last axis fastest; open models by their names."""
    return [
        dict(zip(axes, map(model_name, point), strict=True))
        for point in product(*(tuple(values) for values in axes.values()))
    ]


def by_model(points: list[Configuration]) -> list[Configuration]:
    """Return the order to run in: the model outermost, the rest as it is."""
    first = {point.get(MODEL): i for i, point in reversed(list(enumerate(points)))}
    return sorted(points, key=lambda point: first[point.get(MODEL)])


def canonical(value: Any) -> str:
    """Return the one JSON text of a plain value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(point: Configuration) -> str:
    """Return a configuration's key: 24 hexadecimal digits, the same in every process."""
    return sha256(canonical(point).encode()).hexdigest()[:24]


def thaw(value: Any) -> Any:
    """Return what JSON gave back, with tuples for lists again."""
    return tuple(thaw(item) for item in cast(list[Any], value)) if isinstance(value, list) else value


def label(point: Configuration) -> str:
    """Describe a configuration in a few words, for progress bars and messages."""
    words = [
        _short(Path(str(value)).name) if axis == MODEL else f"{axis}={_short(value)}" for axis, value in point.items()
    ]
    first = [words[i] for i, axis in enumerate(point) if axis == MODEL]
    return " ".join(first + [word for word, axis in zip(words, point, strict=True) if axis != MODEL])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"
