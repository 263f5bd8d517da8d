"""Arguments of Hugging Face's modules, by the names that the installed release of transformers gives them.

Releases up to 5.23 call the cache of keys and values `past_key_values`, from 5.24 on `cache`.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import nn

from interp.errors import BrokenHook, release

CACHE_NAMES = ("cache", "past_key_values")
"""What releases call the cache, the newest name first."""


@lru_cache(maxsize=64)
def _names(forward: Callable[..., Any]) -> tuple[str, ...]:
    # Reading a signature takes longer than a small layer.
    return tuple(inspect.signature(forward).parameters)[1:]


def names_of(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the arguments of a module's forward."""
    return _names(type(module).forward)


def cache_name(module: nn.Module) -> str:
    """Return the name under which a module takes its cache.

    Raises:
        BrokenHook: the module's forward takes it under no name that is known.
    """
    names = names_of(module)
    for name in CACHE_NAMES:
        if name in names:
            return name
    raise BrokenHook(
        f"{type(module).__name__} takes its cache under none of the names {', '.join(CACHE_NAMES)}: "
        f"{release('transformers')} is not supported. Install another release of it."
    )


def named(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, positional ones too, and the cache as `cache`."""
    by_name = dict(zip(names_of(module), args, strict=False)) | dict(kwargs)
    by_name["cache"] = next((by_name[name] for name in CACHE_NAMES if by_name.get(name) is not None), None)
    return by_name
