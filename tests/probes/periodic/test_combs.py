"""Combs: planted ones are found with their period, noise has none more often than it should."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probes.periodic import combs as comb
from tests.tolerance import FORWARD, LAYER, close, tolerance

STEPS = 300
AMONG = comb.candidates(STEPS)


def best(values: Any) -> comb.Best:
    return comb.best_comb(comb.lag_energy(np.asarray(values, dtype=float)), AMONG)


def teeth(period: float, width: float, offset: float = 3.3, steps: int = STEPS) -> Any:
    """Bumps one period apart."""
    away = (np.arange(steps) - offset + period / 2) % period - period / 2
    return np.exp(-(away**2) / (2 * width**2))


def spikes(period: float, seed: int = 0) -> Any:
    """One step of random height at each multiple of a period, and nothing else."""
    values = np.zeros(STEPS)
    at = np.rint(np.arange(2.0, STEPS - 1, period)).astype(int)
    values[at] = np.random.default_rng(seed).uniform(0.5, 1, len(at))
    return values


@pytest.mark.parametrize("period", [5, 7.3, 12, 301 / 15, 33.4, 50.1, 75.25])
def test_planted_combs_are_found_with_their_period(period: float) -> None:
    """Within 1 %: of bumps, of bumps under noise of a third of their height, and of sparse spikes."""
    noise = np.random.default_rng(1).standard_normal(STEPS) / 3
    bumps = best(teeth(period, 1.0))
    assert bumps.period == pytest.approx(period, rel=0.01)
    assert bumps.strength > 0.2
    noisy = best(teeth(period, 1.0) + noise)
    assert noisy.period == pytest.approx(period, rel=0.01)
    assert noisy.strength < bumps.strength
    sparse = best(spikes(period))
    assert sparse.period == pytest.approx(period, rel=0.01)
    assert sparse.strength > 0.7


@pytest.mark.parametrize(("period", "strength"), [(6, 0.8), (20, 0.94), (60, 0.98)])
def test_equal_spikes_and_nothing_else_have_nearly_strength_one(period: int, strength: float) -> None:
    found = best(np.arange(STEPS) % period == 3)
    close(found.period, period, terms=LAYER)
    assert found.strength == pytest.approx(strength, abs=0.005)


def test_odd_harmonics_have_a_comb_of_twice_the_spacing() -> None:
    """f(t + T/2) = -f(t): the lines are at 1, 3, 5, ... / T, which are 2/T apart."""
    t = np.arange(STEPS)
    odd = sum(np.sin(2 * np.pi * k * t / 40.13 + k) / k for k in (1, 3, 5, 7))
    assert best(odd).period == pytest.approx(40.13 / 2, rel=0.01)
    even = odd + 0.5 * np.sin(2 * np.pi * 2 * t / 40.13) + 0.5 * np.sin(2 * np.pi * 4 * t / 40.13)
    assert best(even).period == pytest.approx(40.13, rel=0.01)


@pytest.mark.parametrize("concentration", [1.0, 0.02])
def test_noise_has_combs_as_often_as_the_level_says(concentration: float) -> None:
    """240 rows of dense and of sparse noise; p is uniform over 1/40, 2/40, ..., 1."""
    values = np.random.default_rng(2).dirichlet(np.full(100, concentration), 240)
    among = comb.candidates(100)
    found = comb.best_comb(comb.lag_energy(values), among)
    p = comb.p_values(found.score, comb.permutation_null(values, among, 39, seed=3))
    low, high = stats.binom.interval(0.999, len(p), 0.05)
    assert low <= (p <= 0.05).sum() <= high
    counts = np.bincount(np.ceil(p * 4 - tolerance(of=4)).astype(int) - 1, minlength=4)
    assert stats.chisquare(counts).pvalue > 0.001
    # A comb that was not searched for has strength 0 on the average.
    asked = comb.best_comb(comb.lag_energy(values), comb.combs(100, [15.0]))
    share = comb.comb_scores(comb.lag_energy(values), comb.combs(100, [15.0]))[0][:, 0]
    assert share.mean() == pytest.approx(comb.combs(100, [15.0]).chance[0], abs=4 * share.std() / 240**0.5)
    assert (asked.strength >= 0).all()


def test_planted_combs_are_beyond_chance_and_one_p_is_never_zero() -> None:
    values = np.stack([spikes(20), teeth(33.4, 1.0)])
    found = best(values)
    null = comb.permutation_null(values, AMONG, 19, seed=0)
    assert null.shape == (19, 2)
    close(comb.p_values(found.score, null), 1 / 20)
    close(comb.p_values(np.array([1.0]), np.array([[1.0], [2.0], [0.5]])), 3 / 4)
    np.testing.assert_array_equal(null, comb.permutation_null(values, AMONG, 19, seed=0))


@pytest.mark.parametrize("level", [0.0, 1 / 300, 0.1, 1e9])
def test_constant_rows_have_no_comb(level: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = best(np.stack([np.full(STEPS, level), level + spikes(20)]))
    assert found.strength[0] == found.score[0] == 0
    assert np.isnan(found.period[0])
    close(found.period[1], 20)
    assert not np.isnan(found.strength).any()


rows = st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).standard_normal((2, 3, 64)))
SMALL = comb.candidates(64)


@settings(deadline=None, max_examples=40)
@given(rows)
def test_energy_adds_to_one_over_lags_that_are_long_enough(values: Any) -> None:
    energy = comb.lag_energy(values)
    assert energy.shape == values.shape
    close(energy.sum(-1), 1)
    assert (energy[..., : comb.LEAST_LAG] == 0).all()
    assert (energy >= 0).all()


@settings(deadline=None, max_examples=40)
@given(rows, st.floats(-9, 9), st.floats(-30, 30))
def test_neither_scale_nor_level_nor_direction_matters(values: Any, power: float, level: float) -> None:
    energy = comb.lag_energy(values)
    close(comb.lag_energy(values * 10**power), energy, terms=FORWARD, dtype=torch.float64)
    close(comb.lag_energy(-values + level), energy, terms=FORWARD, dtype=torch.float64)
    close(comb.lag_energy(values[..., ::-1]), energy, terms=FORWARD, dtype=torch.float64)


@given(st.integers(0, 63), st.sampled_from([8, 16, 32]))
def test_shifting_a_comb_along_the_context_leaves_its_period(shift: int, period: int) -> None:
    values = np.random.default_rng(period).uniform(0.5, 1, 64) * (np.arange(64) % period == 0)
    found = comb.best_comb(comb.lag_energy(np.stack([values, np.roll(values, shift)])), SMALL)
    close(found.period, period, terms=LAYER)
    np.testing.assert_allclose(found.strength[1], found.strength[0], atol=0.15)


@given(st.integers(20, 200), st.floats(4, 60))
def test_a_combs_lags_are_the_multiples_of_its_period(steps: int, period: float) -> None:
    lags = np.flatnonzero(comb.comb_lags(steps, period))
    near = np.abs(lags - np.rint(lags / period) * period)
    assert (near < 1).all()
    assert ((lags >= comb.LEAST_LAG) & (lags < steps)).all()
    for multiple in range(1, int((steps - 1) / period) + 1):
        assert np.abs(lags - multiple * period).min() < 1
    if period == int(period):
        np.testing.assert_array_equal(lags, np.arange(int(period), steps, int(period)))


@pytest.mark.parametrize("steps", [16, 63, 150])
def test_candidates_are_all_different_and_miss_no_period(steps: int) -> None:
    among = comb.candidates(steps)
    assert len(np.unique(among.member, axis=0)) == len(among.period) == len(among.chance)
    assert (np.diff(among.period) > 0).all()
    assert (among.period[0], among.period[-1]) == (4, pytest.approx(steps / 2, rel=1 / steps))
    tried = {row.tobytes() for row in among.member.astype(bool)}
    assert all(comb.comb_lags(steps, p).tobytes() in tried for p in range(4, steps // 2 + 1))
    # Any other period has a neighbour whose last lag is less than a step away.
    for p in np.random.default_rng(0).uniform(4, steps // 2, 50):
        assert np.abs(among.period / p - 1).min() < 1 / steps


def test_chance_is_the_share_of_pairs_at_the_lags() -> None:
    """By hand: 10 steps, lags 4 to 9 have 6 + 5 + 4 + 3 + 2 + 1 = 21 pairs; of 4 and 8, 6 + 2."""
    among = comb.combs(10, [4.0, 4.5])
    close(among.chance, [8 / 21, (6 + 5 + 1) / 21])


def test_the_score_is_the_divergence_from_chance() -> None:
    among = comb.combs(10, [4.0])
    energy = np.zeros((2, 10))
    energy[0, [4, 5]] = 0.75, 0.25
    energy[1, [4, 5]] = 0.1, 0.9
    share, score = comb.comb_scores(energy, among)
    close(share[:, 0], [0.75, 0.1], terms=LAYER)
    expected = stats.entropy([0.75, 0.25], [8 / 21, 13 / 21])
    close(score[:, 0], [expected, 0], terms=LAYER)
    found = comb.best_comb(energy[:1], among)
    close(found.strength[0], (0.75 - 8 / 21) / (1 - 8 / 21), terms=LAYER)


def test_rows_do_not_mix_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.stack([spikes(p, seed=p) for p in range(8, 38)]).reshape(5, 6, STEPS)
    whole = best(values)
    monkeypatch.setattr(comb, "_CHUNK", 7 * len(AMONG.period))
    parts = best(values)
    np.testing.assert_array_equal(parts.period, whole.period)
    close(parts.score, whole.score, terms=STEPS)
    np.testing.assert_allclose(whole.period.ravel(), range(8, 38), rtol=0.01)
