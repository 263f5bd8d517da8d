"""Progress bars, which appear where something takes long: of loading, and of the toolkit's own runs."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm.auto import tqdm
from transformers.utils.logging import set_tqdm_hook

T = TypeVar("T")

DELAY = 2.0
"""Seconds after which a bar appears."""


def late_bar(items: Iterable[T] | None = None, *, progress: bool, leave: bool = False, **options: Any) -> "tqdm[T]":
    """Make a progress bar that appears after `DELAY`, and goes when it is full unless it is to be left.

    Args:
        options: of tqdm: `total`, `desc`, `unit`.
    """
    bars: Any = tqdm
    return bars(items, disable=not progress, delay=DELAY, leave=leave, **options)


@contextmanager
def late_bars() -> Generator[None]:
    """Show the bars of transformers only where they take longer than `DELAY`, while the context lasts."""
    before: Any = set_tqdm_hook(_late)
    try:
        yield
    finally:
        set_tqdm_hook(None if before is _late else before)


def _late(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return factory(*args, **{"delay": DELAY, **options})
