"""Progress bars of loading, which appear where loading takes long."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from transformers.utils.logging import set_tqdm_hook

DELAY = 2.0
"""Seconds after which a bar of loading appears."""


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
