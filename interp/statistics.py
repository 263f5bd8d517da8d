"""Intervals, tests and false discovery, by SciPy, over the rows of a stimulus.

Source: Efron 1979 (percentile bootstrap); Benjamini & Hochberg 1995.
"""

from typing import Any

import numpy as np
from scipy import stats

from interp.errors import InvalidInput
from interp.results import Floats

LEVEL = 0.95
"""Of all intervals."""


def interval(rows: Floats, *, seed: int = 0, level: float = LEVEL, resamples: int = 2000) -> tuple[Floats, Floats]:
    """A percentile bootstrap interval of the mean over the last axis.

    Args:
        rows: `[..., row]`; NaN rows are left out of nothing: they make the interval NaN.
        seed: of the resampling.
        level: of the interval.
        resamples: how many.

    Returns:
        Low and high, `[...]`; NaN where there are fewer than two rows.
    """
    if rows.shape[-1] < 2:
        return np.full(rows.shape[:-1], np.nan), np.full(rows.shape[:-1], np.nan)
    flat = rows.reshape(-1, rows.shape[-1])
    index = np.random.default_rng(seed).integers(0, flat.shape[1], (resamples, flat.shape[1]))
    weights = np.stack([np.bincount(draw, minlength=flat.shape[1]) for draw in index]) / flat.shape[1]
    tail = 50 * (1 - level)
    # One set of draws for all: means are then a product, and differences keep their pairing.
    low, high = np.percentile(flat @ weights.T, [tail, 100 - tail], axis=1)
    return low.reshape(rows.shape[:-1]), high.reshape(rows.shape[:-1])


def p_values(rows: Floats) -> Floats:
    """Two-sided p-values of a mean of zero over the last axis, by the t-test; 1 where all is zero, NaN stays NaN."""
    if rows.shape[-1] < 2:
        return np.full(rows.shape[:-1], np.nan)
    spread = rows.std(-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = rows.mean(-1) / (spread / np.sqrt(rows.shape[-1]))
    found: Any = 2 * stats.t.sf(np.abs(t), rows.shape[-1] - 1)
    return np.where((rows == 0).all(-1), 1.0, found)


def q_values(p: Floats) -> Floats:
    """Benjamini-Hochberg adjusted p-values: heads with q <= 0.05 hold 5 % false ones at most on average."""
    known = ~np.isnan(p)
    q = np.full(p.shape, np.nan)
    if known.any():
        q[known] = stats.false_discovery_control(p[known])
    return q


def rank_correlation(a: Floats, b: Floats, *, draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Spearman's correlation over heads, and within layers, with permutation p-values.

    Args:
        a: `[layer, head]`.
        b: likewise.
        draws: permutations of the heads; within their layers for the second.
        seed: of the permutations.

    Returns:
        `overall`, `within_layers`, and their p-values `overall_p`, `within_layers_p`; NaN where
        one of the two does not vary.

    Raises:
        InvalidInput: not two tables of one shape.
    """
    if np.ndim(a) != 2 or np.shape(a) != np.shape(b):
        raise InvalidInput(f"rank_correlation takes two tables [layer, head]; found {np.shape(a)} and {np.shape(b)}.")
    rng = np.random.default_rng(seed)
    first, second = (stats.rankdata(x).reshape(x.shape) for x in (a, b))
    within = [np.stack([stats.rankdata(row) for row in x]) for x in (a, b)]
    within = [x - x.mean(1, keepdims=True) for x in within]
    found: dict[str, float] = {}
    for name, (x, y) in {"overall": (first, second), "within_layers": (within[0], within[1])}.items():
        real = _pearson(x.ravel(), y.ravel())
        axis = None if name == "overall" else 1
        shuffled = [y.ravel()] * draws
        for i in range(draws):
            shuffled[i] = rng.permutation(y.ravel()) if axis is None else rng.permuted(y, axis=1).ravel()
        null = np.array([_pearson(x.ravel(), z) for z in shuffled])
        found[name] = real
        beyond = (np.abs(null) >= abs(real) - 1e-12).sum()
        found[f"{name}_p"] = float("nan") if np.isnan(real) else float((1 + beyond) / (1 + draws))
    return found


def _pearson(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / size) if size else float("nan")
