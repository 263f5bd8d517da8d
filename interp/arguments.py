"""Arguments of public functions that are things of this toolkit: a model, a batch, a result."""

import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import plotly.graph_objects as go

from interp.errors import InvalidInput
from interp.inputs.batch import Batch, ValueBatch
from interp.models.handle import Handle

P = ParamSpec("P")
R = TypeVar("R")

_OURS = ("interp", "probes", "circuits")
_PLAIN = {str: "string", Path: "path", np.random.Generator: "numpy Generator", go.Figure: "plotly Figure"}
"""Other classes whose arguments are checked, and what they are called."""

_SEVERAL = (Sequence, Iterable, list, tuple)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check on each call the arguments that are annotated as things of this toolkit, alone or several.

    Args:
        function: whose annotations are read; arguments that take anything else too are left to it.

    Returns:
        The function, which raises InvalidInput where one of them is something else.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            passed = signature.bind(*args, **kwargs).arguments
        except TypeError:  # of Python's own words, which name the function
            passed = {}
        for name, (ones, several, optional) in _kinds(function).items():
            if name in passed and not (passed[name] is None and optional):
                _check(name, passed[name], ones, several)
        return function(*args, **kwargs)

    return call


@cache
def _kinds(function: Callable[..., Any]) -> dict[str, tuple[tuple[type, ...], tuple[type, ...], bool]]:
    """Return by argument: of which classes it may be one, of which several, and whether it may be None."""
    kinds: dict[str, tuple[tuple[type, ...], tuple[type, ...], bool]] = {}
    for name, hint in get_type_hints(function).items():
        ones: list[type] = []
        several: list[type] = []
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        for member in (member for member in members if member is not types.NoneType):
            inner: Any = get_args(member)[:1] if get_origin(member) in _SEVERAL else ()
            (several if inner else ones).extend(_classes(inner[0] if inner else member))
            if not _classes(inner[0] if inner else member):
                break
        else:
            # What is named by a text, as heads and sites are, is taken in other forms too, which the function knows.
            if str in (*ones, *several) and Path not in ones:
                continue
            kinds[name] = (tuple(ones), tuple(several), types.NoneType in members)
    kinds.pop("return", None)
    return kinds


def _classes(hint: Any) -> tuple[type, ...]:
    """Return the classes of this toolkit that a hint consists of; none if there is anything else in it."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    known = [m for m in members if isinstance(m, type) and (m in _PLAIN or _is_ours(m))]
    return tuple(known) if len(known) == len(members) else ()


def _is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] in _OURS


def _check(name: str, value: Any, ones: tuple[type, ...], several: tuple[type, ...]) -> None:
    # A batch of another kind lacks something, and the function says what.
    if isinstance(value, ones) or (isinstance(value, Batch) and any(issubclass(kind, Batch) for kind in ones)):
        return
    if isinstance(value, Batch) and any(issubclass(kind, Batch) and not issubclass(kind, ValueBatch) for kind in ones):
        value.require_tokens()
    if several and _is_listed(value):
        # What is made while it is read is read once, by the function.
        items = cast(Sequence[Any], value) if isinstance(value, Sequence) else ()
        if wrong := [item for item in items if not isinstance(item, several)]:
            raise InvalidInput(f"{name} holds what it should not: {_is_no(wrong[0], several)}.")
        return
    if several and isinstance(value, several):
        raise InvalidInput(f"{name}: one {type(value).__name__} was given where several are taken: give a list.")
    many = ", one or several" if ones and several else ", several" if several else ""
    holds = isinstance(value, list | tuple) and any(isinstance(item, ones) for item in cast(Sequence[Any], value))
    raise InvalidInput(f"{name}: {_is_no(value, ones or several)}{many}.{' Take one of its items.' if holds else ''}")


def _is_listed(value: Any) -> bool:
    """Tell whether a value holds several things: no text, array, table or thing of this toolkit."""
    whole = isinstance(value, str | Mapping) or hasattr(value, "__array__") or _is_ours(type(value))
    return isinstance(value, Iterable) and not whole


def _is_no(value: Any, kinds: tuple[type, ...]) -> str:
    """Say that a value is of none of some kinds, and what is."""
    if any(issubclass(kind, Handle) for kind in kinds):
        how = f"open it: interp.load({value!r})" if isinstance(value, str) else "give what interp.load returns"
        return f"a model is needed and {type(value).__name__} was given: {how}"
    names = " or ".join(dict.fromkeys(_PLAIN.get(kind, kind.__name__) for kind in kinds))
    makers = " or ".join(dict.fromkeys(maker for kind in kinds if (maker := _makers().get(kind))))
    return f"{type(value).__name__} is no {names}{f': give what {makers} returns' if makers else ''}"


@cache
def _makers() -> dict[type, str]:
    """Return by class the first public function that returns it."""
    makers: dict[type, str] = {Batch: "probes.repeated_random_tokens or interp.Batch.from_series"}
    for package in map(import_module, ("interp", "probes", "circuits")):
        for name in package.__all__:
            function = getattr(package, name)
            if inspect.isfunction(function):
                returned = get_type_hints(function).get("return")
                for kind in get_args(returned) if get_origin(returned) in (Union, types.UnionType) else (returned,):
                    if isinstance(kind, type) and kind is not Batch:
                        makers.setdefault(kind, f"{package.__name__}.{name}")
    return makers
