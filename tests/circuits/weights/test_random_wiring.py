"""The largest z of random wirings: what is turned, what stays, and how often random heads are discovered."""

import numpy as np
import pytest
import torch
from scipy import stats

import circuits
import interp
from circuits.weights.composition import _factor, _turned, composition_scores, largest_by_chance
from interp import zoo
from interp.errors import InvalidInput
from tests.conftest import tiny_pipeline
from tests.tolerance import FORWARD, close


def test_turning_keeps_singular_values_and_nothing_else(either: interp.Model) -> None:
    kind = "encoder.self" if either.has_encoder else "decoder.self"
    factor = _factor(either, kind, None, True)
    turned = _turned(factor, torch.Generator().manual_seed(0))
    assert turned.rows.shape == factor.rows.shape
    for one, other in zip(factor.rows.flatten(0, 1), turned.rows.flatten(0, 1), strict=True):
        close(torch.linalg.svdvals(one), torch.linalg.svdvals(other), terms=FORWARD)
        assert (one - other).norm() > 0.5
    close(turned.spread, factor.spread, terms=FORWARD)


def test_planted_wires_are_beyond_random_wiring_and_random_models_are_not() -> None:
    plant = zoo.planted(**zoo.PLANTED["token to right"])
    scores = composition_scores(plant.model, progress=False)
    found = scores.discoveries(largest_by_chance(plant.model, draws=19, progress=False))
    ends = [(edge, edge.writer, edge.reader) for edge in circuits.Circuit(plant.circuit)]
    built = {edge for edge, *both in ends if all(isinstance(end, interp.Head) for end in both)}
    assert built & {scored.edge for scored in found}
    random = interp.wrap(tiny_pipeline())
    scores = composition_scores(random, progress=False)
    largest = largest_by_chance(random, draws=39, seed=1, progress=False)
    np.testing.assert_array_equal(largest, largest_by_chance(random, draws=39, seed=1, progress=False))
    # A z over 3 comes in random models: by itself it is none.
    assert np.median(largest) > 3
    top = scores.top(1)[0].z
    beaten = int((largest >= top).sum())
    assert len(scores.discoveries(largest, level=(1 + beaten) / 40)) >= 1
    if beaten:
        assert len(scores.discoveries(largest, level=beaten / 40)) == 0


def test_a_model_wired_at_random_is_discovered_in_one_of_twenty() -> None:
    """Every draw against all others: the rank of one of so many that are alike."""
    model = interp.wrap(tiny_pipeline())
    largest = largest_by_chance(model, draws=40, seed=2, progress=False)
    p = np.array([(1 + (np.delete(largest, i) >= z).sum()) / 40 for i, z in enumerate(largest)])
    assert (p <= 0.05).sum() <= stats.binom.ppf(0.999, 40, 0.05)
    # New models of the same shape, weights drawn afresh, against their own turned heads.
    beyond = 0
    for seed in range(4):
        fresh = interp.wrap(tiny_pipeline(seed=seed))
        top = composition_scores(fresh, progress=False).top(1)[0].z
        beyond += top > largest_by_chance(fresh, draws=19, seed=seed, progress=False).max()
    assert beyond <= stats.binom.ppf(0.999, 4, 0.05)


def test_levels_that_draws_cannot_reach_are_refused(either: interp.Model) -> None:
    scores = composition_scores(either, progress=False)
    with pytest.raises(InvalidInput, match="give 19 draws or more"):
        scores.discoveries(np.ones(10))
    assert len(scores.discoveries(np.full(19, -1e9))) == scores.n_pairs
    assert len(scores.discoveries(np.full(19, 1e9))) == 0
    with pytest.raises(InvalidInput, match="draws"):
        circuits.largest_by_chance(either, draws=0)
