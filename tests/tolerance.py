"""The one tolerance of the tests: what rounding explains, and no more.

A sum of n terms, each rounded to half an epsilon, is off by at most n * epsilon / 2 * S, where S is the magnitude of
what is summed, and in practice by about sqrt(n) * epsilon / 2 * S (Higham and Mary 2019, "A new approach to
probabilistic rounding error analysis"). Processors differ in the order of their sums and in fused operations, so
eight times that is allowed:

    tolerance(of=S, terms=n) = 4 * epsilon(dtype) * sqrt(n) * S

In float32 that is 5e-7 of S for one operation, 5e-6 for a layer of a tiny model and 1.1e-5 for all of it. Each test
says what it sums (`of`, by default the largest number that it expects) and how many terms follow on each other
(`terms`, by default 1: the same numbers, rounded a few times).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

LAYER = 100
"""Terms of one sublayer of a tiny model: about four products of 20 to 28 terms."""

FORWARD = 500
"""Terms of a forward pass of a tiny model: five layers."""

BUNDLED = 2000
"""Terms of a forward pass of a bundled model: eight sublayers of about four products of 64 terms."""

ROUTINE = 10_000
"""Terms of an eigenvalue or singular value routine on a matrix of a few dozen rows: about n^3."""


def tolerance(*, of: Any = 1.0, terms: int = 1, dtype: torch.dtype = torch.float32) -> Any:
    """Return how far rounding may take a sum of `terms` terms whose magnitudes add up to `of`."""
    return 4 * torch.finfo(dtype).eps * terms**0.5 * numbers(of)


def numbers(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return tensors, arrays, frames, lists, mappings (in the order of their keys) and numbers as float64."""
    if isinstance(values, torch.Tensor):
        values = torch.view_as_real(values) if values.is_complex() else values
        return values.detach().cpu().double().numpy()
    if isinstance(values, Mapping):
        return numbers([values[key] for key in sorted(values)])
    if isinstance(values, list | tuple):
        return np.array([numbers(value) for value in values], dtype=float)
    return np.asarray(values, dtype=float)


def computed_in(*values: Any) -> torch.dtype:
    """Return the coarsest floating dtype of the values; float32 where they are held in a finer one."""
    names = [str(value.dtype).removeprefix("torch.") for value in values if hasattr(value, "dtype")]
    return next((dtype for dtype in (torch.bfloat16, torch.float16) if str(dtype)[6:] in names), torch.float32)


def distance(actual: Any, expected: Any) -> tuple[Any, Any, Any]:
    """Return both as numbers and the differences; 0 where both are NaN, or the same infinity or mask."""
    left, right = numbers(actual), numbers(expected)
    assert left.shape == right.shape or () in (left.shape, right.shape), f"shapes {left.shape} and {right.shape}"
    left, right = np.broadcast_arrays(left, right)
    with np.errstate(invalid="ignore"):
        apart = np.where((left == right) | (np.isnan(left) & np.isnan(right)), 0.0, np.abs(left - right))
    return left, right, np.where(np.isnan(apart), np.inf, apart)


def magnitude(expected: Any) -> float:
    """Return the largest number that is expected, 0 and masked scores (infinite, or the lowest float) left out."""
    size = np.abs(expected)
    return float(size[size < 1e30].max(initial=0.0))


def close(
    actual: Any,
    expected: Any,
    why: str = "",
    *,
    of: Any = None,
    terms: int = 1,
    dtype: torch.dtype | None = None,
) -> None:
    """Assert that two computations differ by no more than rounding.

    actual, expected: tensors, arrays, frames' columns, lists, mappings or numbers, of one shape, or one of them a
      single number. NaN must be in the same places, and infinities the same.
    why: what holds where they are close, in words; shown where they are not.
    of: magnitude of what is summed: one number, or one per element (`of=abs(expected)` allows each its own). By
      default the largest number expected; where terms cancel, say what they were before.
    terms: how many terms follow on each other: `LAYER` and `FORWARD` for tiny models, `BUNDLED` for bundled ones.
    dtype: what was computed in, where that is not what the values are held in; by default the coarsest dtype of the
      two, and float32 for NumPy's doubles and Python's floats, which mostly hold what a float32 model gave.
    """
    left, right, apart = distance(actual, expected)
    if isinstance(actual, Mapping) or isinstance(expected, Mapping):
        assert sorted(actual) == sorted(expected), f"keys {sorted(actual)} and {sorted(expected)}"
    of = magnitude(right) if of is None else of
    dtype = dtype or computed_in(actual, expected)
    allowed = np.broadcast_to(tolerance(of=of, terms=terms, dtype=dtype), apart.shape)
    beyond = apart > allowed
    if beyond.any():
        worst = np.unravel_index(int(np.argmax(np.where(beyond, apart / np.maximum(allowed, 1e-300), 0))), apart.shape)
        at = ", ".join(map(str, worst))
        raise AssertionError(
            f"{why + ': ' if why else ''}{int(beyond.sum())} of {beyond.size} numbers differ by more than rounding. "
            f"At [{at}]: {left[worst]!r} where {right[worst]!r} is expected, {apart[worst]:.3g} apart; allowed are "
            f"{allowed[worst]:.3g} (sums of {terms} terms of {np.max(numbers(of)):.3g} in {dtype}). "
            f"The largest difference is {apart.max():.3g}."
        )


def not_close(
    actual: Any,
    expected: Any,
    why: str = "",
    *,
    of: Any = None,
    terms: int = 1,
    dtype: torch.dtype | None = None,
) -> None:
    """Assert that two computations differ somewhere by far more than rounding: a hundred times what `close` allows."""
    _, right, apart = distance(actual, expected)
    of = magnitude(right) if of is None else of
    allowed = 100 * tolerance(of=of, terms=terms, dtype=dtype or computed_in(actual, expected))
    assert (apart > allowed).any(), (
        f"{why + ': ' if why else ''}the largest difference is {apart.max():.3g}: rounding could make it "
        f"(a hundred times that is {np.max(allowed):.3g})"
    )
