"""The models that a process has open for a sweep: a few, opened once and run one at a time."""

from collections import OrderedDict
from threading import RLock

import torch

from interp.errors import WrongStore
from interp.models.model import Model
from interp.models.opening import load

ONE_AT_A_TIME = RLock()
"""Held while a configuration runs: nnsight is not thread safe, and Dask's workers run several threads."""

# Two, so that workers that finish one model while others begin the next do not open in turns; no more,
# because a worker lives as long as its pool and a large model fills a device.
AT_MOST = 2

_OPEN: OrderedDict[tuple[str, torch.dtype, str], Model] = OrderedDict()


def opened(name: str, dtype: torch.dtype, device: str, digest: str | None = None) -> Model:
    """Return a model of this process, opened if it is not open yet.

    Args:
        name: or directory.
        dtype: of its weights.
        device: where it runs.
        digest: of the weights that are meant; None takes whatever is there.

    Returns:
        The model.

    Raises:
        WrongStore: the weights under this name are others here.
    """
    with ONE_AT_A_TIME:
        at = (name, dtype, device)
        # Weights on disk may have changed since a worker of an earlier call opened them.
        if at in _OPEN and digest is not None and _OPEN[at].digest != digest:
            del _OPEN[at]
        if at not in _OPEN:
            while len(_OPEN) >= AT_MOST:
                _OPEN.popitem(last=False)
            _OPEN[at] = load(name, dtype=dtype, device=device)
        _OPEN.move_to_end(at)
        check(_OPEN[at], digest)
        return _OPEN[at]


def check(model: Model, digest: str | None) -> None:
    """Check that a model still has the weights it had when the sweep began.

    Raises:
        WrongStore: it has others.
    """
    if digest is not None and model.digest != digest:
        raise WrongStore(
            f"{model.name}: the sweep began with weights {digest}, and here it has {model.digest}. Every worker must "
            "see the same weights, and the function must leave them as they are."
        )


def close() -> None:
    """Let go of the models of this process."""
    with ONE_AT_A_TIME:
        _OPEN.clear()
