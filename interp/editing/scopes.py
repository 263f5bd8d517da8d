"""Whose an edit is: it belongs to the thread and the task that entered it.

1. Entering makes a `Scope` and adds it to those of the context that is running (`contextvars`). Each thread has a
   context of its own; an asyncio task, and `asyncio.to_thread`, start with a copy of the one they were started in.
2. A module's hooks are run by every thread. Those that are put on through a scope act only where it was entered.
3. Leaving ends the scope everywhere, in whatever thread or order that happens.

So others see the model without the edit; what was started inside by asyncio sees it, until the context is left.
"""

import os
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import nn

lock = threading.RLock()
"""Held while hooks, modes of modules and wrappers of nnsight change: never while a model runs."""


def _renew() -> None:
    """Make a new lock in a forked process, which could never take one that another thread held."""
    global lock
    lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@dataclass(eq=False)
class Scope:
    """One context that was entered, for the modules under `root`; it is over when it is left."""

    root: nn.Module
    live: bool = True

    @property
    def here(self) -> bool:
        """Whether the thread and task that is running entered it, and nobody has left it."""
        return self.live and self in _ENTERED.get()

    def on_input(
        self, module: nn.Module, act: Callable[..., Any], hooks: ExitStack, *, with_kwargs: bool = False
    ) -> None:
        """Put a forward pre-hook on a module, which acts where this scope is entered."""
        with lock:
            handle = module.register_forward_pre_hook(Bound(self, act), with_kwargs=with_kwargs)
            hooks.callback(removed, handle)

    def on_output(
        self, module: nn.Module, act: Callable[..., Any], hooks: ExitStack, *, with_kwargs: bool = False
    ) -> None:
        """Put a forward hook on a module, which acts where this scope is entered."""
        with lock:
            handle = module.register_forward_hook(Bound(self, act), with_kwargs=with_kwargs)
            hooks.callback(removed, handle)


_ENTERED: ContextVar[tuple[Scope, ...]] = ContextVar("entered scopes", default=())


@dataclass(eq=False)
class Bound:
    """A hook that acts where its scope is entered, and nowhere in a copy of its module."""

    scope: Scope | None
    act: Callable[..., Any] | None

    def __call__(self, *args: Any) -> Any:
        # A thread that is about to call a hook which another one takes off gives it other arguments: it is not here.
        return self.act(*args) if self.act is not None and self.here else None

    @property
    def here(self) -> bool:
        """Whether it acts in the thread and task that is running."""
        return self.scope is not None and self.scope.here

    def __reduce__(self) -> tuple[type["Bound"], tuple[None, None]]:
        return Bound, (None, None)  # for copies and pickles alike

    def __deepcopy__(self, _: dict[int, Any]) -> "Bound":
        return Bound(None, None)


def removed(handle: Any) -> None:
    """Take a hook off its module."""
    with lock:
        handle.remove()


@contextmanager
def entered(root: nn.Module) -> Generator[Scope]:
    """Enter a scope, in this thread and task."""
    scope = Scope(root)
    try:
        _ENTERED.set((*_ENTERED.get(), scope))
        yield scope
    finally:
        scope.live = False
        _ENTERED.set(tuple(other for other in _ENTERED.get() if other.live))


@contextmanager
def outside(root: nn.Module) -> Generator[None]:
    """Leave all scopes of a model for a while, in this thread and task."""
    before = _ENTERED.get()
    _ENTERED.set(tuple(scope for scope in before if scope.root is not root))
    try:
        yield
    finally:
        _ENTERED.set(tuple(scope for scope in before if scope.live))
