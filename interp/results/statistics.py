"""Intervals, tests and false discovery: what can be said from few rows, few series or few controls.

* The mean of rows: Student's t interval, and beside it the t-test: the interval holds 0 exactly where p > 0.05. Both
  are right at any number of near-normal rows; with few rows that are skewed or have heavy tails they miss more often.
  The sign-flip test asks for symmetric rows only, and cannot come under 2 / 2^n.
* Accuracies: Wilson's interval. A change of accuracy on the same rows: Bonett & Price's.
* A ratio of two means over the same rows: Fieller's interval.
* A statistic over clusters (layers, models): the jackknife that leaves one cluster out, with Student's t.
* Controls: the rank of a value among draws. The band is all of them where they are fewer than 39.

Fewer than three rows, and rows that are all the same and not zero, say nothing of how much rows vary: NaN.
`docs/error_rates.md` holds how often each of these is wrong, by simulation.

Source: Student 1908; Wilson 1927; Fieller 1954; Tukey 1958 (jackknife); Fisher 1935 (sign flips); Benjamini & Hochberg
1995; Phipson & Smyth 2010 (p-values of draws are never zero); Bonett & Price 2012.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from scipy import stats

from interp.errors import InvalidInput
from interp.results.result import Floats

LEVEL = 0.95
"""Of all intervals."""

LEAST_ROWS = 3
"""With fewer rows there is no interval and no p-value."""

LEAST_DRAWS = 39
"""With fewer draws no band can hold a further one in 95 % of cases: the range of n draws holds (n - 1) / (n + 1)."""

FLIPS = 4095
"""Random sign flips where there are too many to try all."""

Test = Literal["t", "sign flips"]
"""`t` for near-normal rows, `sign flips` for rows that are symmetric about 0 when there is no effect."""


def _moments(rows: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return number, mean and its standard error over the rows that are not NaN, and whether all are zero, `[...]`."""
    rows = np.asarray(rows)
    eps = np.finfo(rows.dtype if rows.dtype.kind == "f" else np.float64).eps
    x = rows.astype(np.float64)
    known = ~np.isnan(x)
    n = known.sum(-1).astype(np.float64)
    size = np.abs(np.where(known, x, 0)).max(-1, initial=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, x, 0).sum(-1) / n
        away = np.where(known, x - mean[..., None], 0)
        error = np.sqrt((away**2).sum(-1) / (n - 1) / n)
        same = np.abs(away).max(-1, initial=0) <= 8 * eps * size
    error = np.where((n < LEAST_ROWS) | (same & (size > 0)), np.nan, error)
    return n, mean, error, np.asarray((size == 0) & (n >= LEAST_ROWS))


def interval(rows: Floats) -> tuple[Floats, Floats]:
    """Return Student's t interval of the mean over the last axis.

    Args:
        rows: `[..., row]`; rows that are NaN, such as padding, are left out, cell by cell.

    Returns:
        Low and high, `[...]`; NaN where there are fewer than three rows, or where all are the same and not zero.
    """
    n, mean, error, _ = _moments(rows)
    half = np.asarray(stats.t.ppf((1 + LEVEL) / 2, np.maximum(n - 1, 1))) * error
    return mean - half, mean + half


def p_values(rows: Floats, test: Test = "t", *, seed: int = 0) -> Floats:
    """Return two-sided p-values of a mean of zero over the last axis.

    The t-test takes rows for near-normal: with few skewed rows its small p-values come too often (of 24 heads without
    an effect, ten exponential rows each, some q is under 0.05 in four of ten tables; `docs/error_rates.md`). Flipping
    signs takes them for symmetric, and cannot come under 2 / 2^n with n rows, nor under 1 / 4096.

    Args:
        rows: `[..., row]`; rows that are NaN are left out, cell by cell.
        test: `t`, or `sign flips`: all of them up to 12 rows, and 4095 random ones from 13 on.
        seed: of the random flips.

    Returns:
        `[...]`: 1 where all rows are zero; NaN where there are fewer than three, or all are the same and not zero.

    Raises:
        InvalidInput: another test.
    """
    if test not in ("t", "sign flips"):
        raise InvalidInput(f"test={test!r}: there are 't' and 'sign flips'.")
    n, mean, error, zero = _moments(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        p: Any = 2 * stats.t.sf(np.abs(mean / error), n - 1)
    if test == "sign flips":
        p = np.where(np.isnan(error), np.nan, _flipped(np.nan_to_num(np.asarray(rows, dtype=np.float64)), seed))
    return np.where(zero, 1.0, p)


def _flipped(rows: Floats, seed: int) -> Floats:
    """Return the share of sign flips whose sum is as far from 0; a row of 0, or one left out, flips to itself."""
    count = rows.shape[-1]
    if exact := 2**count <= FLIPS + 1:
        signs = 1.0 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (FLIPS, count))
    flat = rows.reshape(int(np.prod(rows.shape[:-1])), count)
    shares = np.empty(len(flat))
    for part in np.array_split(np.arange(len(flat)), max(1, len(flat) * len(signs) // 2**22)):
        real = np.abs(flat[part].sum(1))
        rounding = 8 * np.finfo(float).eps * np.abs(flat[part]).sum(1)
        beyond = (np.abs(flat[part] @ signs.T) >= (real - rounding)[:, None]).sum(1)
        shares[part] = beyond / len(signs) if exact else (1 + beyond) / (1 + len(signs))
    return shares.reshape(rows.shape[:-1])


def q_values(p: Floats) -> Floats:
    """Return Benjamini-Hochberg adjusted p-values: of heads with q <= 0.05 at most 5 % are false, on average.

    That is as true as the p-values are: see `p_values` for few rows.
    """
    known = ~np.isnan(p)
    q = np.full(p.shape, np.nan)
    if known.any():
        q[known] = stats.false_discovery_control(p[known])
    return q


def proportion_interval(hits: Floats) -> tuple[Floats, Floats]:
    """Return Wilson's interval of a proportion over the last axis, such as an accuracy.

    Args:
        hits: `[..., row]` of 0 and 1; rows that are NaN are left out.

    Returns:
        Low and high, `[...]`; NaN where there are fewer than three rows.
    """
    hits = np.asarray(hits, dtype=np.float64)
    n = (~np.isnan(hits)).sum(-1).astype(np.float64)
    return wilson(np.nansum(hits, axis=-1), np.where(n < LEAST_ROWS, np.nan, n))


def wilson(hits: Any, n: Any) -> tuple[Floats, Floats]:
    """Return Wilson's interval of hits of n, which need not be whole: n is the effective number if rows are alike."""
    z2 = stats.norm.ppf((1 + LEVEL) / 2) ** 2
    hits, n = np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    middle = (hits + z2 / 2) / (n + z2)
    half = np.sqrt(z2) / (n + z2) * np.sqrt(np.maximum(hits * (n - hits) / n, 0) + z2 / 4)
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)


def proportion_change_interval(hits: Floats, clean: Floats) -> tuple[Floats, Floats]:
    """Return Bonett & Price's interval of a change of accuracy on the same rows; its width is never zero.

    Args:
        hits: `[..., row]` of 0 and 1.
        clean: `[row]`, the same rows before the change.

    Returns:
        Low and high of hits minus clean, `[...]`; NaN where there are fewer than three rows.
    """
    change = np.asarray(hits, dtype=np.float64) - clean
    n = (~np.isnan(change)).sum(-1).astype(np.float64)
    n = np.where(n < LEAST_ROWS, np.nan, n)
    # One more row of either kind of change.
    up, down = (((change == way).sum(-1) + 1) / (n + 2) for way in (1, -1))
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return np.maximum(up - down - half, -1), np.minimum(up - down + half, 1)


def ratio_interval(top: Floats, bottom: Floats) -> tuple[Floats, Floats]:
    """Return Fieller's interval of a ratio of two means over the same rows.

    Args:
        top: `[..., row]`.
        bottom: `[row]`.

    Returns:
        Low and high, `[...]`; NaN where there are fewer than three rows, and where `interval(bottom)` holds 0: then
        nothing bounds the ratio.
    """
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    n = len(bottom)
    if n < LEAST_ROWS:
        return np.full(top.shape[:-1], np.nan), np.full(top.shape[:-1], np.nan)
    a, b = top.mean(-1), bottom.mean()
    over, under = top - a[..., None], bottom - b
    t2 = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) ** 2 / (n - 1) / n
    A, B, C = b**2 - t2 * (under**2).sum(), a * b - t2 * over @ under, a**2 - t2 * (over**2).sum(-1)
    if not A > 0:
        return np.full(top.shape[:-1], np.nan), np.full(top.shape[:-1], np.nan)
    half = np.sqrt(np.maximum(B**2 - A * C, 0)) / A
    return B / A - half, B / A + half


def jackknife_interval(value: float, left_out: Floats) -> tuple[float, float]:
    """Return Student's t interval of a statistic over clusters that may be unlike each other.

    Args:
        value: the statistic of all clusters.
        left_out: the statistic without each cluster in turn, `[cluster]`.

    Returns:
        Low and high; NaN for fewer than three clusters, for a statistic that does not exist without one of them, and
        where it is the same without each.
    """
    n = len(left_out)
    away = left_out - left_out.mean() if n else left_out
    error = float(np.sqrt((n - 1) / n * (away**2).sum())) if n else 0.0
    if n < LEAST_ROWS or not error > 1e-12 * max(abs(value), 1e-300):
        return float("nan"), float("nan")
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return value - half, value + half


def rank_p(value: float, draws: Floats) -> float:
    """Return how often one of so many like values is as extreme: (1 + draws as extreme) / (1 + draws).

    As extreme is as far from the median of all, the value among them: on either side. It cannot come under
    1 / (1 + draws): 0.05 needs 19 draws.

    Args:
        value: such as the mean effect of the chosen heads.
        draws: the same of random sets, `[draw]`.

    Returns:
        The p-value that the value is one more such draw; NaN without draws.
    """
    draws = np.asarray(draws, dtype=np.float64)
    if not len(draws) or np.isnan(value) or np.isnan(draws).any():
        return float("nan")
    middle = np.median([value, *draws])
    away = abs(value - middle)
    return float((1 + (np.abs(draws - middle) >= away * (1 - 1e-12)).sum()) / (1 + len(draws)))


def band(draws: Floats) -> tuple[Floats, Floats]:
    """Return the values between which the draws lie: all of them under 39, else the middle 95 %.

    Args:
        draws: `[draw, ...]`, such as the mean effect of random sets.

    Returns:
        Low and high, `[...]`, two of the draws' own values; NaN without draws. A further draw of the same kind lies
        between them in (n - 1) / (n + 1) of cases for n under 39 draws, and in 95 % or a little more from there on.
    """
    draws = np.asarray(draws, dtype=np.float64)
    n = len(draws)
    if not n:
        return np.full(draws.shape[1:], np.nan), np.full(draws.shape[1:], np.nan)
    place = max(int((1 - LEVEL) / 2 * (n + 1) + 1e-9), 1)
    ordered = np.sort(draws, axis=0)
    return ordered[place - 1], ordered[n - place]


def band_words(draws: Iterable[int], what: str = "random sets") -> str:
    """Name a band of so many draws in a figure: a range under 39, 95 % from there on."""
    counts = sorted({n for n in draws if n})
    if not counts:
        return f"no {what}"
    some = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    one = what.removesuffix("s") if counts == [1] else what
    return f"{'95 %' if counts[0] >= LEAST_DRAWS else 'range'} of {some} {one}"


def rank_correlation(a: Floats, b: Floats, *, draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Return Spearman's correlation over heads, and within layers, with permutation p-values.

    Heads of a layer are alike, so that over all heads whole layers change places, and heads within them; within layers
    heads alone do.

    Args:
        a: `[layer, head]`.
        b: likewise.
        draws: permutations.
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
    correlations: dict[str, float] = {}
    for name, (x, y) in {"overall": (first, second), "within_layers": (within[0], within[1])}.items():
        real = _pearson(x.ravel(), y.ravel())
        null = np.array([_pearson(x.ravel(), shuffled(y, rng, layers=name == "overall").ravel()) for _ in range(draws)])
        correlations[name] = real
        beyond = (np.abs(null) >= abs(real) - 1e-12).sum()
        correlations[f"{name}_p"] = float("nan") if np.isnan(real) else float((1 + beyond) / (1 + draws))
    return correlations


def shuffled(table: Floats, rng: np.random.Generator, *, layers: bool = True) -> Floats:
    """Shuffle a table `[layer, head]`: heads within layers, and whole layers among themselves."""
    return rng.permuted(rng.permutation(table) if layers else table, axis=1)


def _pearson(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / size) if size else float("nan")
