"""nnsight for several threads: each has a wrapper of its own, and a trace is seen by the thread that runs it alone.

nnsight keeps a trace's state on an interleaver, which all calls of the wrapped modules go through. Its `busy` says
whether they do; here it says so to the thread that traces, and others run the plain model meanwhile.
"""

import threading
from contextvars import copy_context
from functools import partial
from typing import Any, cast

from nnsight import NNsight
from nnsight.intervention.interleaver import Interleaver
from nnsight.intervention.source import STATE
from torch import nn

from interp.editing import scopes
from interp.models.module_tree import Tree, release


class OwnThread(Interleaver):
    """An interleaver that serves the thread whose trace it runs."""

    _busy: int | None = None
    thread: int | None = None

    @property
    def busy(self) -> bool:  # type: ignore[override]
        """Whether the thread that asks is the one that traces."""
        return self._busy == threading.get_ident()

    @busy.setter
    def busy(self, value: bool) -> None:
        self._busy = threading.get_ident() if value else None

    def __enter__(self) -> Interleaver:
        self.thread = threading.get_ident()
        for mediator in cast(list[Any], self.mediators):
            if mediator.worker is None:
                # The body of a trace runs in a greenlet, which begins without the context: edits would not be seen.
                mediator._run = partial(copy_context().run, mediator._run)
        return super().__enter__()


class Wrappers(threading.local):
    """A module's nnsight wrappers, one for each thread."""

    def __init__(self) -> None:
        self.wrapped: NNsight | None = None
        self.tree: Tree | None = None

    def of(self, module: nn.Module, tree: Tree) -> NNsight:
        """Return this thread's wrapper, made on first use and again when the modules are others."""
        if self.wrapped is None or self.tree is not tree:
            with scopes.lock:
                release(tree)
                self.wrapped, self.tree = NNsight(module, interleaver=OwnThread()), tree
                tree.wrapped(module)
        return self.wrapped


def is_traced(module: nn.Module) -> bool:
    """Tell whether a trace of a module is running now in this thread, by whichever wrapper."""
    state: Any = module.__dict__.get(STATE)
    running = [ref() for ref, *_ in state.routes] if state is not None else []
    mine = threading.get_ident()
    # A plain interleaver does not know its thread, and would serve this one too.
    return any(item is not None and item.interleaving and getattr(item, "thread", mine) == mine for item in running)
