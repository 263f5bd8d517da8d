"""Functions that sweeps run in other processes: imported there, so this module imports little."""

import os
import resource
import signal
import time
from typing import Any

import numpy as np
import pandas as pd
import torch

import interp
import probes
from interp.sweeps import sweep


def cheap(a: int, b: str, scale: float = 1.0) -> list[dict[str, Any]]:
    return [{"row": i, "value": scale * a + i, "text": b * 2} for i in range(a + 1)]


def where(a: int) -> dict[str, int]:
    return {"pid": os.getpid()}


def third_fails(a: int) -> dict[str, int]:
    if a == 2 and not os.environ.get("SWEEP_MENDED"):
        raise ZeroDivisionError("by design")
    return {"x": a}


def sizes(model: interp.Model, a: int) -> dict[str, Any]:
    return {"digest": model.digest, "a2": 2 * a}


def ablated(model: interp.Model, head: str) -> dict[str, Any]:
    """How far an ablation moves the logits of a few tokens, in either family."""
    ids = torch.arange(2, 26).reshape(3, 8)
    batch = interp.Batch(ids if model.has_encoder else None, None, ids)
    clean = interp.capture(model, batch, "decoder.logits")["decoder.logits"]
    with interp.ablate(model, head):
        moved = interp.capture(model, batch, "decoder.logits")["decoder.logits"]
    return {"family": model.family.name, "change": float((moved - clean).abs().max())}


def opened_here(model: interp.Model, a: int) -> dict[str, Any]:
    return {"pid": os.getpid(), "handle": id(model)}


def other(a: int, b: str, scale: float = 1.0, more: int = 0) -> dict[str, int]:
    return {"x": 1}


def logged(a: int, b: str, log: str) -> list[dict[str, Any]]:
    with open(log, "a") as file:
        file.write(f"{a}{b}\n")
    return cheap(a, b)


def varied(a: int, b: Any) -> list[dict[str, Any]]:
    return [{"x": a / 3, **({"y": i} if a % 2 else {}), "z": repr(b)} for i in range(a)]


def note(log: str, a: int) -> None:
    """One line a run, which survives whatever happens to the process."""
    with open(log, "a") as file:
        file.write(f"{a} {os.getpid()}\n")


def bulky(a: int, log: str, rows: int = 3000) -> pd.DataFrame:
    note(log, a)
    return pd.DataFrame(np.random.default_rng(a).random((rows, 4)), columns=list("wxyz"))


def slow(a: int, log: str, seconds: float = 0.02) -> dict[str, int]:
    note(log, a)
    time.sleep(seconds)
    return {"square": a * a}


def hangs(a: int, log: str, until: str) -> dict[str, int]:
    note(log, a)
    while a == 0 and not os.path.exists(until):
        time.sleep(0.01)
    return {"square": a * a}


def dies(a: int, log: str, unless: str) -> dict[str, int]:
    note(log, a)
    if a == 5 and not os.path.exists(unless):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": a * a}


# What child processes run


def run(function: Any, grid: Any, options: dict[str, Any], error: str | None = None, limit: int = 0) -> None:
    """A sweep; a typed error goes to a file as text. `limit` is the largest file this process may write."""
    torch.set_num_threads(1)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        sweep(function, grid, progress=False, **options)
    except interp.InterpError as caught:
        with open(str(error), "w") as file:
            file.write(f"{type(caught).__name__}: {caught}")


def run_induction(options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    probes.induction_sweep("pico-t5", progress=False, **options)
