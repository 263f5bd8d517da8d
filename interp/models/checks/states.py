"""What state a program may be in while experiments run; it is checked when they run, and left as it was.

Experiments run in eval mode, in the dtype of the weights, and what was compiled runs as it is written: compiled code
does not see hooks that came after it. Sources of what is refused: `docs/supported_states.md`.
"""

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import nn
from torch.utils import checkpoint

from interp.editing import scopes
from interp.errors import BrokenHook, InvalidInput, UnsupportedModel
from interp.models import hooks as attention
from interp.models.handle import Handle
from interp.models.tracing import is_traced

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=Handle)

_held: Counter[nn.Module] = Counter()
"""How many experiments hold a module, which was in training mode, in eval mode."""

_stances: list[Any] = []
"""How torch's compiler was told to let code run, which knows what it did before; and one more entry for each inside."""


@contextmanager
def evaluated(model: Handle) -> Generator[None]:
    """Run what is inside in eval mode; each module's own mode comes back afterwards.

    Several threads may be inside at once: modes come back when the last one leaves. Another thread that trains the
    very same module meanwhile would do so in eval mode: give the experiment a copy.

    Raises:
        InvalidInput: under autocast, or inside an nnsight trace of the model.
        UnsupportedModel: weights on the meta device.
        BrokenHook: another attention implementation was set after opening.
    """
    _check(model)
    with eager(), _in_eval_mode(model._modules.values()):
        yield


def in_eval_mode(module: nn.Module) -> AbstractContextManager[None]:
    """Run one module in eval mode, inside a trace too; modes come back as in `evaluated`."""
    return _in_eval_mode(module.modules())


@contextmanager
def _in_eval_mode(modules: Iterable[nn.Module]) -> Generator[None]:
    held: list[nn.Module] = []
    try:
        with scopes.lock:
            held += [part for part in modules if part.training or part in _held]
            _held.update(held)
            for part in held:
                part.training = False
        yield
    finally:
        _release(held)


def evaluating(run: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """Decorate what runs layers of a model, so that it does so in eval mode: see `evaluated`."""

    @wraps(run)
    def wrapped(model: M, *args: P.args, **kwargs: P.kwargs) -> R:
        with evaluated(model):
            return run(model, *args, **kwargs)

    return wrapped


def _release(modules: list[nn.Module]) -> None:
    if not modules:
        return
    with scopes.lock:
        for module in modules:
            _held[module] -= 1
            if not _held[module]:
                del _held[module]
                module.training = True


def _check(model: Handle) -> None:
    check_loaded(model)
    check_autocast(model.device.type)
    model.follow()
    check_attention(model)
    if is_traced(model.module):
        raise InvalidInput(
            f"{model.name} is being traced: an experiment inside a trace would be part of it. Run it before or after, "
            "or read sites through model.views and model.envoy."
        )


def check_loaded(model: Handle) -> None:
    """Check that there are weights to run with.

    Raises:
        UnsupportedModel: they are on the meta device.
    """
    if model.device.type == "meta":
        raise UnsupportedModel(f"{model.name}: its weights are on the meta device: load them first.")


def check_autocast(device: str) -> None:
    """Check that autocast does not round products.

    Raises:
        InvalidInput: autocast is on.
    """
    if torch.is_autocast_enabled(device):
        raise InvalidInput(
            f"torch.autocast is on for {device}: numbers would be rounded to {torch.get_autocast_dtype(device)}, and "
            "results would not say so. Leave it for this, or open the model in that dtype."
        )


def check_attention(model: Handle) -> None:
    """Check that scores and patterns go through the hook points.

    Raises:
        BrokenHook: another attention implementation was set after opening.
    """
    for stack, path in model.family.stacks.items():
        name = model.module.get_submodule(path).config._attn_implementation
        if name != attention.NAME:
            raise BrokenHook(
                f"{model.name}: the attention implementation of the {stack} was changed to {name!r}, which keeps "
                f"scores and patterns to itself: model.module.set_attn_implementation({attention.NAME!r}), or open it "
                "again."
            )


def check_not_checkpointed() -> None:
    """Check that a layer that is edited does not run inside a gradient checkpoint.

    Raises:
        InvalidInput: it does. Its second run, on the way back, may be when or where the edit is not in force.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == checkpoint.__file__:
            raise InvalidInput(
                "edits and gradient checkpointing do not go together: layers run again on the way back, when an edit "
                "may be another. Switch it off: model.module.gradient_checkpointing_disable()."
            )
        frame = frame.f_back


@contextmanager
def eager() -> Generator[None]:
    """Run what was compiled as it is written, in all threads, while anyone is inside."""
    counted = False
    try:
        with scopes.lock:
            if not _stances:
                _stances.append(torch.compiler.set_stance("force_eager"))
            counted = True
            _stances.append(None)
        yield
    finally:
        if counted:
            with scopes.lock:
                _stances.pop()
                if len(_stances) == 1:
                    _stances.pop().__exit__(None, None, None)
