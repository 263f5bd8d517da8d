"""Intervals and tests where there is little to go by: few rows, equal rows, rows that are missing, few controls."""

import numpy as np
import pytest
from scipy import stats

from interp.errors import InvalidInput
from interp.results.statistics import (
    band,
    band_words,
    interval,
    jackknife_interval,
    p_values,
    proportion_change_interval,
    proportion_interval,
    q_values,
    rank_correlation,
    rank_p,
    ratio_interval,
)
from tests.tolerance import FORWARD, close


@pytest.mark.parametrize("n", [3, 5, 30])
def test_intervals_and_p_are_those_of_scipy_and_agree(n: int) -> None:
    rows = np.random.default_rng(n).normal(0.4, 1, (200, n))
    low, high = interval(rows)
    expected = stats.ttest_1samp(rows, 0, axis=1)
    wanted = expected.confidence_interval(0.95)
    close(low, wanted.low, terms=FORWARD)
    close(high, wanted.high, terms=FORWARD)
    p = p_values(rows)
    close(p, expected.pvalue, terms=FORWARD)
    np.testing.assert_array_equal((low <= 0) & (high >= 0), p > 0.05)
    assert 0 < (p <= 0.05).sum() < 200


@pytest.mark.parametrize("n", [0, 1, 2])
def test_under_three_rows_there_is_nothing(n: int) -> None:
    rows = np.arange(2.0 * n).reshape(2, n)
    for found in (*interval(rows), p_values(rows), p_values(rows, "sign flips"), *proportion_interval(rows)):
        assert np.isnan(found).all()
    for found in (*proportion_change_interval(rows, np.zeros(n)), *ratio_interval(rows, np.ones(n))):
        assert np.isnan(found).all()


@pytest.mark.parametrize("value", [0.1, -3.0, 1e-30, 1e30])  # no tolerance: sizes of values
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_are_all_the_same_tell_nothing_unless_they_are_zero(value: float, dtype: type) -> None:
    same = np.full((1, 7), value, dtype=dtype)
    nearly = same * (1 + np.finfo(dtype).eps * (np.arange(7) % 2)).astype(dtype)
    for rows in (same, nearly):
        for found in (*interval(rows), p_values(rows), p_values(rows, "sign flips")):
            assert np.isnan(found).all()
    zeros = np.zeros((1, 7), dtype=dtype)
    assert [float(end[0]) for end in interval(zeros)] == [0, 0]
    assert p_values(zeros)[0] == p_values(zeros, "sign flips")[0] == 1


def test_rows_that_are_missing_are_left_out_cell_by_cell() -> None:
    rows = np.random.default_rng(0).normal(1, 1, (3, 8))
    rows[0, 5:] = rows[1, 2:] = np.nan
    low, high = interval(rows)
    for test in ("t", "sign flips"):
        p = p_values(rows, test)
        close(p[[0, 2]], [p_values(rows[:1, :5], test)[0], p_values(rows[2:], test)[0]], terms=FORWARD)
        assert np.isnan(p[1])
    close([low[0], high[0]], np.ravel(interval(rows[0, :5])), terms=FORWARD)
    assert np.isnan([low[1], high[1]]).all()
    hits = np.array([[1, 1, 0, np.nan, np.nan]])
    close(proportion_interval(hits), proportion_interval(hits[:, :3]), terms=FORWARD)


def test_signs_flipped_by_hand() -> None:
    """Of the eight sums of +-1 +-2 +-4 two are as far from 0 as 7, four as 5, six as 3."""
    rows = np.array([[1.0, 2, 4], [-1, 2, 4], [1, -2, 4], [-1, -2, 4]])
    close(p_values(rows, "sign flips"), [2 / 8, 4 / 8, 6 / 8, 1], terms=FORWARD)
    n = 12
    assert p_values(np.arange(1.0, n + 1), "sign flips") == 2 / 2**n
    assert p_values(np.arange(1.0, 41), "sign flips") == 1 / 4096
    wide = np.random.default_rng(0).normal(0.3, 1, (40, 13))
    wanted = stats.permutation_test((wide[0],), np.mean, permutation_type="samples", n_resamples=9999, rng=0)
    assert p_values(wide[0], "sign flips") == pytest.approx(wanted.pvalue, abs=0.03)
    np.testing.assert_array_equal(p_values(wide, "sign flips"), p_values(wide, "sign flips"))
    with pytest.raises(InvalidInput, match="sign flips"):
        p_values(rows, "bootstrap")  # type: ignore[arg-type]


def test_false_discovery_by_hand() -> None:
    close(q_values(np.array([0.01, np.nan, 0.04, 0.03])), [0.03, np.nan, 0.04, 0.04], terms=FORWARD)


@pytest.mark.parametrize(("hits", "n"), [(10, 10), (0, 10), (3, 7), (50, 100)])
def test_accuracies_have_wilsons_interval(hits: int, n: int) -> None:
    rows = np.arange(n) < hits
    wanted = stats.binomtest(hits, n).proportion_ci(method="wilson")
    close(np.ravel(proportion_interval(rows)), [wanted.low, wanted.high], terms=FORWARD)
    low, high = proportion_change_interval(rows, rows)
    assert low < 0 < high  # no row changed, and the next one may
    assert high == pytest.approx(1.96 * 2**0.5 / (n + 2), abs=1e-4)


def test_changes_of_accuracy_by_hand() -> None:
    """Bonett & Price: 6 of 20 rows lost, 1 won."""
    clean, hits = np.zeros(20), np.zeros(20)
    clean[:6] = hits[6] = 1
    up, down = 2 / 22, 7 / 22
    half = 1.959964 * ((up + down - (up - down) ** 2) / 22) ** 0.5
    close(np.ravel(proportion_change_interval(hits, clean)), [up - down - half, up - down + half], terms=FORWARD)


def test_ratios_have_fiellers_interval_and_none_over_what_may_be_zero() -> None:
    rng = np.random.default_rng(1)
    bottom = rng.normal(2, 1, 10)
    top = np.stack([0.4 * bottom + rng.normal(0, 0.3, 10), bottom, 0 * bottom])
    low, high = ratio_interval(top, bottom)
    for end in (low[0], high[0]):  # at both ends the difference is just significant
        close(stats.ttest_1samp(top[0] - end * bottom, 0).pvalue, 0.05, terms=FORWARD)
    close([low[1:], high[1:]], [[1, 0], [1, 0]], terms=FORWARD)
    for shift in np.linspace(-1, 3, 9):
        ends = [float(x) for x in interval(bottom - shift)]
        assert np.isnan(ratio_interval(top[0], bottom - shift)[0]) == (ends[0] <= 0 <= ends[1])


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    rows = np.random.default_rng(2).normal(size=9)
    left_out = np.array([np.delete(rows, i).mean() for i in range(9)])
    close(jackknife_interval(float(rows.mean()), left_out), np.ravel(interval(rows)), terms=FORWARD)
    assert np.isnan(jackknife_interval(1.0, np.array([1.0, 1.0]))).all()
    assert np.isnan(jackknife_interval(1.0, np.ones(5))).all()
    assert np.isnan(jackknife_interval(1.0, np.array([1.0, np.nan, 2.0]))).all()


def test_ranks_among_controls_are_never_zero_and_count_both_sides() -> None:
    draws = np.arange(19.0)
    assert rank_p(30, draws) == rank_p(-30, draws) == 1 / 20
    assert rank_p(18.5, draws) == 2 / 20  # 0 is as far from the median of all
    assert rank_p(9, draws) == 1
    assert np.isnan(rank_p(1.0, np.empty(0)))
    assert rank_p(1.0, np.ones(5)) == 1


def test_bands_are_draws_and_say_what_they_are() -> None:
    draws = np.random.default_rng(0).permutation(100).astype(float)
    assert [float(x) for x in band(draws[:20])] == [draws[:20].min(), draws[:20].max()]
    assert [float(x) for x in band(np.arange(39.0))] == [0, 38]
    assert [float(x) for x in band(np.arange(79.0))] == [1, 77]
    assert [float(x) for x in band(np.arange(99.0))] == [1, 97]
    assert np.isnan(band(np.empty(0))).all()
    assert band_words([20]) == "range of 20 random sets"
    assert band_words([1, 1]) == "range of 1 random set"
    assert band_words([39], "circuits") == "95 % of 39 circuits"
    assert band_words([3, 20, 0]) == "range of 3 to 20 random sets"
    assert band_words([]) == band_words([0]) == "no random sets"


def test_layers_that_are_alike_are_not_many_heads() -> None:
    """Two tables that differ between layers alone: over heads one by one, nearly all pairs would be related."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(60):
        one, other = (rng.normal(size=(6, 1)) + 0.1 * rng.normal(size=(6, 8)) for _ in range(2))
        found.append(rank_correlation(one, other, draws=99)["overall_p"])
    assert (np.array(found) <= 0.05).sum() <= stats.binom.ppf(0.999, 60, 0.05)
