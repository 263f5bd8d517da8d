"""What the bundled models are trained on: token motifs and synthetic series, all made in code.

Every generator takes a NumPy generator, a number of rows and a length, and returns an array
`[row, pos]`: token ids for `motifs` and `varied_motifs`, values for the others. Nothing here reads a file.

Source: KernelSynth after Ansari et al. 2024, "Chronos: Learning the Language of Time Series", A.2.
"""

from collections.abc import Callable

import numpy as np
from numpy.polynomial import legendre
from numpy.random import Generator
from numpy.typing import NDArray

from interp.inputs.vocabulary import PUBLISHED

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NARROW = PUBLISHED.narrow
"""The ids that scaled values within +-1.01 fall on, 1911 to 2187: inclusive, as published."""


def _log_uniform(rng: Generator, low: float, high: float, size: int) -> Floats:
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def motifs(rng: Generator, rows: int, length: int, longest: int = 12) -> Ints:
    """Repeat random tokens of the narrow range with a period of 3 to `longest`; token ids `[row, pos]`."""
    period = rng.integers(3, longest + 1, rows)
    motif = rng.integers(NARROW[0], NARROW[1] + 1, (rows, longest))
    return np.take_along_axis(motif, np.arange(length)[None, :] % period[:, None], 1)


def varied_motifs(rng: Generator, rows: int, length: int, longest: int = 12) -> Ints:
    """Make repeated motifs in six variants, one per row; token ids `[row, pos]`.

    Plain; a small alphabet, so that one token does not tell the next; a regime change, after
    which the same tokens go on in another order; a random start; a jitter of a few bins at each
    repetition; and a drift of some bins at each repetition. One row in five is from a wider range.
    """
    period = rng.integers(3, longest + 1, rows)
    narrow = rng.random(rows) < 0.8
    low, high = np.where(narrow, NARROW[0], 1024), np.where(narrow, NARROW[1], 3071)
    pool = rng.integers(low[:, None], high[:, None] + 1, (rows, longest))
    variant = rng.choice(6, rows, p=[0.4, 0.16, 0.14, 0.1, 0.12, 0.08])[:, None]
    place = rng.integers(0, longest, (rows, longest)) % rng.integers(3, 7, rows)[:, None]
    motif = np.where(variant == 1, np.take_along_axis(pool, place, 1), pool)

    step = np.arange(length)[None, :]
    phase, turn = step % period[:, None], step // period[:, None]
    tokens = np.take_along_axis(motif, phase, 1)

    # Only what follows the change is valid: old successors must not be copied.
    change = rng.integers(0, max(length // 2, 1), rows)[:, None]
    beyond = np.arange(longest)[None, :] >= period[:, None]
    order = np.argsort(rng.random((rows, longest)) + beyond, axis=1)
    before = np.take_along_axis(np.take_along_axis(motif, order, 1), phase, 1)
    tokens = np.where((variant == 2) & (step < change), before, tokens)
    noise = rng.integers(low[:, None], high[:, None] + 1, (rows, length))
    tokens = np.where((variant == 3) & (step < change // 2), noise, tokens)
    tokens = tokens + (variant == 4) * rng.integers(-3, 4, (rows, length))
    tokens = tokens + (variant == 5) * rng.integers(-6, 7, rows)[:, None] * turn
    return np.clip(tokens, *PUBLISHED.value_range)


def patch_motifs(rng: Generator, period: Ints, coefficients: Ints, patches: int, size: int) -> Floats:
    """Repeat random patches.

    Args:
        period: of each row, after how many patches they come again.
        coefficients: of each row, of how many numbers a patch is made: its level, slope, curvature and so on.
        patches: how many patches a row has.
        size: steps of a patch.

    Returns:
        Values `[row, patches * size]`.
    """
    rows, orders = len(period), np.arange(size)
    basis = legendre.legvander(np.linspace(-1, 1, size), size - 1) * np.sqrt(2 * orders + 1)
    factors = rng.standard_normal((rows, period.max(initial=0), size))
    cycle = (factors * (orders < coefficients[:, None])[:, None, :]) @ basis.T
    return cycle[np.arange(rows)[:, None], np.arange(patches) % period[:, None]].reshape(rows, patches * size)


def _waves(rng: Generator, rows: int, length: int, periods: Floats, harmonics: int) -> Floats:
    """Sum harmonics of a period with random phases and falling amplitudes, to unit variance."""
    t = np.arange(length)
    total = np.zeros((rows, length))
    count = rng.integers(1, harmonics + 1, rows)
    for k in range(1, harmonics + 1):
        amplitude = rng.uniform(0.3, 1.0, rows) / k * (count >= k)
        phase = rng.uniform(0, 2 * np.pi, rows)
        total += amplitude[:, None] * np.sin(2 * np.pi * k * t / periods[:, None] + phase[:, None])
    return total / np.maximum(total.std(axis=1, keepdims=True), 1e-6)


def seasonal(rng: Generator, rows: int, length: int) -> Floats:
    """Make a season of period 3-36 with level, trend or growth, and noise of 2-40 %."""
    periods = _log_uniform(rng, 3, 36, rows)
    periods = np.where(rng.random(rows) < 0.7, np.round(periods), periods)
    season = _waves(rng, rows, length, periods, 4)
    t = np.linspace(0, 1, length)[None, :]
    noise = _log_uniform(rng, 0.02, 0.4, rows)[:, None] * rng.standard_normal((rows, length))
    level = rng.normal(0, 3, rows)[:, None] * (rng.random(rows) < 0.6)[:, None]
    slope = rng.normal(0, 4, rows)[:, None] * (rng.random(rows) < 0.5)[:, None]
    additive = level + slope * t + season + noise
    depth = rng.uniform(0.05, 0.3, rows)[:, None]
    growth = np.exp(rng.normal(0.5, 0.8, rows)[:, None] * t)
    multiplicative = growth * (1 + depth * season + depth * noise)
    return np.where((rng.random(rows) < 0.3)[:, None], multiplicative, additive)


def value_motifs(rng: Generator, rows: int, length: int) -> Floats:
    """Repeat a random pattern of 3-32 values, with noise at each repetition, level and trend."""
    period = rng.integers(3, 33, rows)
    pattern = rng.standard_normal((rows, 32))
    values = np.take_along_axis(pattern, np.arange(length)[None, :] % period[:, None], 1)
    noise = _log_uniform(rng, 0.003, 0.3, rows)[:, None] * rng.standard_normal((rows, length))
    level = rng.normal(0, 2, rows)[:, None] * (rng.random(rows) < 0.5)[:, None]
    slope = rng.normal(0, 2, rows)[:, None] * (rng.random(rows) < 0.3)[:, None]
    return values + noise + level + slope * np.linspace(0, 1, length)


def multisines(rng: Generator, rows: int, length: int) -> Floats:
    """Sum one to five sines of unrelated frequencies, with little noise."""
    t = np.arange(length)
    total = np.zeros((rows, length))
    count = rng.integers(1, 6, rows)
    for k in range(1, 6):
        period = _log_uniform(rng, 2.5, 80, rows)[:, None]
        amplitude = (rng.uniform(0.2, 1.0, rows) * (count >= k))[:, None]
        total += amplitude * np.sin(2 * np.pi * t / period + rng.uniform(0, 2 * np.pi, rows)[:, None])
    noise = _log_uniform(rng, 0.001, 0.1, rows)[:, None]
    return (
        total
        + noise * rng.standard_normal((rows, length))
        + rng.normal(0, 1, rows)[:, None] * (rng.random(rows) < 0.4)[:, None]
    )


def walks(rng: Generator, rows: int, length: int) -> Floats:
    """Make random walks with drift, and autoregressive noise around a level."""
    shocks = rng.standard_normal((rows, length))
    memory = np.where(rng.random(rows) < 0.4, 1.0, rng.uniform(0, 0.98, rows))
    values = np.empty_like(shocks)
    last = np.zeros(rows)
    drift = rng.normal(0, 0.2, rows) * (rng.random(rows) < 0.4)
    for i in range(length):
        last = memory * last + shocks[:, i] + drift
        values[:, i] = last
    return values + rng.normal(0, 8, rows)[:, None] * (rng.random(rows) < 0.6)[:, None]


def level_shifts(rng: Generator, rows: int, length: int) -> Floats:
    """Make one to four plateaus with noise."""
    values = np.repeat(rng.normal(0, 2, rows)[:, None], length, axis=1)
    for _ in range(3):
        at = rng.integers(0, length, rows)[:, None]
        jump = (rng.normal(0, 2, rows) * (rng.random(rows) < 0.6))[:, None]
        values = values + jump * (np.arange(length)[None, :] >= at)
    return values + _log_uniform(rng, 0.005, 0.5, rows)[:, None] * rng.standard_normal((rows, length))


def regimes(rng: Generator, rows: int, length: int) -> Floats:
    """Make a season that changes its period, shape and level at some step of the first two thirds."""
    at = rng.integers(1, max(2, 2 * length // 3), rows)[:, None]
    early, late = seasonal(rng, rows, length), seasonal(rng, rows, length)
    return np.where(np.arange(length)[None, :] < at, early, late)


def _kernel(rng: Generator, length: int) -> Floats:
    """Draw one random kernel matrix of KernelSynth's bank."""
    t = np.arange(length, dtype=float)
    gap = t[:, None] - t[None, :]
    scaled = t / length
    match int(rng.integers(5)):
        case 0:
            period = float(_log_uniform(rng, 3, 60, 1)[0])
            return np.exp(-2 * np.sin(np.pi * gap / period) ** 2)
        case 1:
            width = length * float(rng.choice([0.02, 0.1, 1.0]))
            return np.exp(-0.5 * (gap / width) ** 2)
        case 2:
            alpha = float(rng.choice([0.1, 1.0, 10.0]))
            return (1 + (gap / (0.1 * length)) ** 2 / (2 * alpha)) ** -alpha
        case 3:
            return 1.0 + float(rng.choice([0.0, 1.0, 10.0])) * np.outer(scaled, scaled)
        case _:
            return float(rng.choice([0.01, 0.1])) * np.eye(length)


def gaussian_processes(rng: Generator, rows: int, length: int) -> Floats:
    """Draw from Gaussian processes whose kernels are random sums and products (KernelSynth)."""
    values = np.empty((rows, length))
    for some in np.array_split(np.arange(rows), max(1, rows // 4)):
        kernel = _kernel(rng, length)
        for _ in range(rng.integers(0, 4)):
            other = _kernel(rng, length)
            kernel = kernel + other if rng.random() < 0.5 else kernel * other
        root = np.linalg.cholesky(kernel + 1e-6 * np.trace(kernel) / length * np.eye(length))
        values[some] = rng.standard_normal((len(some), length)) @ root.T
    return values


SERIES: dict[str, Callable[[Generator, int, int], Floats]] = {
    "seasonal": seasonal,
    "value_motifs": value_motifs,
    "multisines": multisines,
    "gaussian_processes": gaussian_processes,
    "walks": walks,
    "level_shifts": level_shifts,
    "regimes": regimes,
}
"""The generators of values, by the name that a mix uses."""
