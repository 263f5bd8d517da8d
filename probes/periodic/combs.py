"""Combs: whether a magnitude spectrum is itself periodic, with which spacing, how strongly, and how likely by chance.

1. Subtract the constant part, and take the one-sided magnitude spectrum on a grid twice as fine (zero padding), so
   that lags do not wrap around the end of the context.
2. Take the spectrum's own spectrum (the second FFT of the sources), over lags in steps: a comb of spacing D shows at
   the multiples of 1/D, whatever the offset of its teeth.
3. For each spacing, compare the share of the energy at those lags with the share that even energy would have there.
   The best spacing is furthest from chance (Kullback-Leibler divergence): half the spacing has half the lags, twice
   the spacing dilutes them.
4. Count how often chance reaches the best score, with values whose order is broken: permuted over positions, as for
   exchangeable attention; and cut into blocks that are permuted, so that neighbours stay alike. Bumps of attention
   alone can look periodic to the first of the two.

Source: the second FFT is that of "Hunting for Induction Heads in Amazon's Chronos", part 2; the search for periods by
the share of energy on a comb of lags is the toolkit's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.errors import InvalidInput
from interp.results.result import Floats

LEAST_LAG = 4
"""The shortest lag, in steps: shorter ones only show how smooth a curve is."""

BLOCK = 10
"""The shortest block that is permuted as a whole, in steps, or a tenth of all steps; the longest is twice that."""

SHORTEST = 4 * LEAST_LAG
"""The shortest context, in steps, in which combs are looked for."""

_CHUNK = 1 << 22
"""Numbers of scores held at once."""


@dataclass(frozen=True, eq=False)
class Combs:
    """Combs to try on values of `steps` steps.

    `period` is 1 / spacing, in steps; `member` marks the lags of each, from 0 to steps - 1, `[comb, lag]`; `chance` is
    the share of the energy on these lags if all pairs of steps count alike.
    """

    period: Floats
    member: NDArray[np.float32]
    chance: Floats


@dataclass(frozen=True, eq=False)
class Best:
    """The best comb of each row, `[...]`: period in steps, share of the energy, strength, and score in nats.

    `strength` is the share beyond chance: 0 by chance, near 1 if the spectrum is periodic and nothing else. (The
    constant part, also a tooth, is missing: equal spikes 20 steps apart have 0.94, 6 apart 0.80.) Where no comb is
    beyond chance, as in constant values, it is 0 and the period is NaN.
    """

    period: Floats
    share: Floats
    strength: Floats
    score: Floats


def comb_lags(steps: int, period: float) -> NDArray[np.bool_]:
    """Mark the lags of 0 to steps - 1 that are multiples of a period, rounded both ways, `[lag]`."""
    multiples = np.arange(1, int(steps / period) + 1) * period
    lags = np.concatenate([np.floor(multiples + 1e-6), np.ceil(multiples - 1e-6)]).astype(int)
    member = np.zeros(steps, dtype=bool)
    member[lags[(lags >= LEAST_LAG) & (lags < steps)]] = True
    return member


def combs(steps: int, periods: Sequence[float] | Floats) -> Combs:
    """Return the combs of periods in steps."""
    member = np.array([comb_lags(steps, float(p)) for p in periods]).reshape(-1, steps)
    pairs = np.where(np.arange(steps) >= LEAST_LAG, steps - np.arange(steps), 0)
    return Combs(np.asarray(periods, dtype=np.float64), member.astype(np.float32), member @ pairs / pairs.sum())


@lru_cache(maxsize=8)
def candidates(steps: int) -> Combs:
    """Return all combs to try: periods from four steps to half of all, so dense that the last lag moves by one.

    Raises:
        InvalidInput: a context in which no period comes twice.
    """
    if steps < SHORTEST:
        raise InvalidInput(f"a context of {steps} steps is too short to look for combs: take {SHORTEST} or more.")
    count = max(int(np.log(steps / 2 / LEAST_LAG) * steps) + 1, 1)
    periods = LEAST_LAG * np.exp(np.arange(count) / steps)
    whole = np.arange(LEAST_LAG, steps // 2 + 1, dtype=np.float64)
    # Whole periods come last, so that they replace others with equal lags.
    unique = {comb_lags(steps, p).tobytes(): p for p in [*periods[periods <= steps / 2], *whole]}
    return combs(steps, sorted(unique.values()))


def lag_energy(values: Floats) -> Floats:
    """Return the energy of the magnitude spectrum's own spectrum by lag: `[..., step]` to `[..., lag]`, adding to 1.

    Lags go from 0 to steps - 1. The energy is 0 at lags under the least one, and for constant values.
    """
    steps = values.shape[-1]
    # The first value is subtracted before the mean, so that constant values are exactly zero at any level.
    centred = values - values[..., :1]
    centred -= centred.mean(-1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred, n=2 * steps, axis=-1))
    second = np.fft.irfft(spectrum, n=2 * steps, axis=-1)[..., :steps]
    energy = np.where(np.arange(steps) >= LEAST_LAG, second**2, 0.0)
    total = energy.sum(-1, keepdims=True)
    return np.divide(energy, total, out=np.zeros_like(energy), where=total > 0)


def comb_scores(energy: Floats, among: Combs) -> tuple[Floats, Floats]:
    """Return share and score of each comb, `[..., lag]` to two of `[..., comb]`; the score is 0 under chance."""
    share = np.clip((energy.astype(np.float32) @ among.member.T).astype(np.float64), 1e-12, 1 - 1e-6)
    score = share * np.log(share / among.chance) + (1 - share) * np.log((1 - share) / (1 - among.chance))
    return share, np.where(share > among.chance, score, 0.0)


def best_comb(energy: Floats, among: Combs) -> Best:
    """Return the comb of the highest score for each row of energies `[..., lag]`, its period fitted to the energy."""
    lead, flat = energy.shape[:-1], energy.reshape(-1, energy.shape[-1])
    lags = np.arange(flat.shape[1])
    best = np.empty((4, len(flat)))
    for rows in np.array_split(np.arange(len(flat)), max(1, -(-len(flat) * len(among.period) // _CHUNK))):
        share, score = comb_scores(flat[rows], among)
        at = score.argmax(1)
        best_cells = np.arange(len(rows)), at
        strength = (share[best_cells] - among.chance[at]) / (1 - among.chance[at])
        # Within what rounding leaves open the period is that of the energy: least squares over its lags.
        weight = flat[rows] * among.member[at]
        multiple = np.rint(lags / among.period[at][:, None])
        known = (weight * multiple**2).sum(1)
        fitted = np.divide((weight * multiple * lags).sum(1), known, out=among.period[at].copy(), where=known > 0)
        none = score[best_cells] <= 0
        best[:, rows] = (
            np.where(none, np.nan, fitted),
            share[best_cells],
            np.where(none, 0.0, strength),
            score[best_cells],
        )
    return Best(*(row.reshape(lead) for row in best))


def permutation_null(values: Floats, among: Combs, draws: int, seed: int) -> Floats:
    """Return the best comb's score of values `[..., step]` permuted over their steps, row by row: `[draw, ...]`."""
    rng = np.random.default_rng(seed)
    return np.stack([best_comb(lag_energy(rng.permuted(values, axis=-1)), among).score for _ in range(draws)])


def block_null(values: Floats, among: Combs, draws: int, seed: int) -> Floats:
    """Return the best comb's score of values `[..., step]` whose blocks are permuted, row by row: `[draw, ...]`.

    Blocks of 10 to 20 steps (fewer in contexts under 100), of random lengths and places, keep bumps and smoothness, but
    no period.

    Source: blocks of random length, as the stationary bootstrap's (Politis & Romano 1994), each used once.
    """
    rng = np.random.default_rng(seed)
    return np.stack([best_comb(lag_energy(_in_blocks(values, rng)), among).score for _ in range(draws)])


def _in_blocks(values: Floats, rng: np.random.Generator) -> Floats:
    steps = values.shape[-1]
    flat = values.reshape(-1, steps)
    shortest = max(2, min(BLOCK, steps // 10))
    most = -(-steps // shortest)
    ends = rng.integers(shortest, 2 * shortest + 1, (len(flat), most)).cumsum(1)
    block = (np.arange(steps)[None, :, None] >= ends[:, None, :]).sum(-1)
    # Blocks are sorted by random keys; the steps of a block share one key and stay in order.
    keys = np.take_along_axis(rng.random((len(flat), most + 1)), block, axis=1)
    order = (keys.argsort(1, kind="stable") + rng.integers(steps, size=(len(flat), 1))) % steps
    return np.take_along_axis(flat, order, axis=1).reshape(values.shape)


def over_null(score: Floats, null: Floats) -> Floats:
    """Return how far scores lie over their nulls `[draw, ...]`, in the nulls' standard deviations.

    The fewer steps attention goes to, the better a comb fits it by chance: two steps always make a comb. So the scores
    of two attentions can be compared only relative to permutations of each.
    """
    spread = null.std(0)
    return np.divide(score - null.mean(0), spread, out=np.zeros_like(score), where=spread > 1e-12)


def p_values(real: Floats, null: Floats) -> Any:
    """Return the share of scores, the real one and those by chance `[draw, ...]`, that reach the real one.

    The smallest p is 1 / (1 + draws).
    """
    return (1 + (null >= real - 1e-9).sum(0)) / (1 + len(null))
