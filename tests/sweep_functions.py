"""Functions that sweeps run in other processes: imported there, so this module imports little."""

import os
from typing import Any

import interp


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
