"""The documented rates of error: within what they should be, and what a fresh sample finds."""

import numpy as np
import pytest
from scipy import stats

from tests.error_rates import SEED, Case, cases, documented

CASES = cases()


def test_the_page_lists_what_is_simulated() -> None:
    assert list(documented()) == [case.name for case in CASES]
    assert all(draws == case.draws for (_, draws), case in zip(documented().values(), CASES, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_rate_is_as_documented(case: Case) -> None:
    """Few draws of another seed, held against the page by the binomial of both."""
    rate, _ = documented()[case.name]
    assert case.least <= rate <= case.most
    fresh = case.outcomes(SEED + 1, max(case.draws // 20, 25))
    table = [[fresh.sum(), (~fresh).sum()], [round(rate * case.draws), case.draws - round(rate * case.draws)]]
    assert stats.fisher_exact(np.array(table, dtype=int)).pvalue > 1e-4
