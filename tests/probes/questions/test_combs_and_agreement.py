"""Questions 4 and 3: planted combs get their verdict, planted heads their phase, noise nothing."""

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.results.by_head import HeadScores
from probes import agreement, comb_origin, induction_mosaic, multisine_scores, value_matching
from probes.periodic.combs import lag_energy
from probes.questions import agreement as agreement_module
from probes.questions import comb_origin as origin
from probes.questions.agreement import Agreement
from probes.questions.comb_origin import CombOrigin
from probes.stimuli.periodic_series import multisine
from tests.conftest import tiny_pipeline
from tests.tolerance import BUNDLED, FORWARD, LAYER, close

CASES = ((9, 15, 24), (10, 16, 26), (12, 20, 30))
SPACINGS = {(9, 15, 24): (3, 6, 9), (10, 16, 26): (2, 6, 10), (12, 20, 30): (2, 8, 12)}
NOISE = 45


def spikes(period: float, steps: int, rng: np.random.Generator) -> Any:
    """Steps of random height at multiples of a period, from a random place on, and a little noise."""
    at = np.arange(rng.uniform(0, period), steps - 0.5, period)
    values = 0.02 * rng.random(steps)
    values[np.rint(at).astype(int)] += rng.uniform(0.5, 1, len(at))
    return values / values.sum()


@pytest.fixture(scope="module")
def planted() -> CombOrigin:
    """In each case and draw: a head with each hypothesis's comb, and heads of noise."""
    rng = np.random.default_rng(0)
    asked = iter([(case, shuffled) for case in CASES for shuffled in (False, True)])

    def planted_attention(_: interp.Model, values: Any, *, num_decoder: int) -> Any:
        assert num_decoder == 1
        assert values.shape == (10, 301)
        case, shuffled = next(asked)
        if shuffled:
            return rng.dirichlet(np.full(300, 0.3), (len(values), 1, 3 + NOISE))
        three = SPACINGS[case]
        heads = [[spikes(301 / 3 / spacing, 300, rng) for spacing in three] for _ in values]
        noise = rng.dirichlet(np.full(300, 0.3), (len(values), NOISE))
        return np.concatenate([np.array(heads), noise], axis=1)[:, None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(origin, "context_attention", planted_attention)
        return comb_origin(interp.wrap(tiny_pipeline()), draws=10, permutations=19, seed=1)


def test_a_planted_comb_gets_its_verdict(planted: CombOrigin) -> None:
    frame = planted.to_frame()
    assert list(frame["verdict"][:3]) == ["gcd", "smallest difference", "smallest frequency"]
    assert (frame["detected"][:3] == 1).all()
    for row, name in enumerate(origin.HYPOTHESES):
        assert frame.loc[row, name] > 0.8
        assert frame.loc[row, "margin_low"] > 0
        # By hand: the winner's score over the better of the others.
        scores = planted.scores[:, :, :, 0, row].reshape(3, -1)
        others = np.delete(scores, row, axis=0).max(0)
        close(frame.loc[row, "margin"], (scores[row] - others).mean())
    assert planted.spacings == tuple(SPACINGS.values())
    assert planted.scores.shape == (3, 3, 10, 1, 3 + NOISE)


def test_noise_gets_no_verdict_and_is_detected_as_often_as_the_level_says(planted: CombOrigin) -> None:
    frame = planted.to_frame()[3:-1]
    assert len(frame) == NOISE
    # False discovery is controlled at 5 % over all heads, of which three are true.
    assert (frame["verdict"] != "none").sum() <= 2
    # 45 heads of 30 draws each: p <= 1/20 in 5 % of them.
    assert frame["detected"].mean() == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / (NOISE * 30)) ** 0.5)
    assert abs(frame["strength"].mean()) < 0.02


def test_attention_that_never_changes_has_no_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that is the same in every draw is in all of them beyond chance, or in none: no draws to count."""
    fixed = np.random.default_rng(3).dirichlet(np.full(300, 0.3), (1, 1, 60))

    def unchanged(_: interp.Model, values: Any, **settings: Any) -> Any:
        return np.tile(fixed, (len(values), 1, 1, 1))

    monkeypatch.setattr(origin, "context_attention", unchanged)
    frame = comb_origin(interp.wrap(tiny_pipeline()), draws=20, permutations=39).to_frame()
    heads = frame[frame["head"] != "matching by value"]
    assert (heads["detected"] > 0.3).any()
    assert set(heads["verdict"]) == {"none"}


def test_matching_by_value_has_the_gcd(planted: CombOrigin) -> None:
    control = planted.to_frame().iloc[-1]
    assert control["head"] == "matching by value"
    assert control["verdict"] == "gcd"
    assert np.isnan(control["over_control"])
    first = planted.to_frame().iloc[0]
    difference = planted.strength[..., 0, 0] - planted.control_strength
    close(first["over_control"], difference.mean())
    assert first["over_control_low"] < difference.mean() < first["over_control_high"]


def test_without_a_majority_beyond_doubt_the_verdict_is_mixed() -> None:
    """One head whose 20 draws are won by the gcd 12 times, another 18 times: Wilson intervals from 0.39 and 0.70."""
    scores = np.zeros((3, 1, 20, 1, 2))
    scores[1] = 0.5
    scores[0, 0, :12, 0, 0] = scores[0, 0, :18, 0, 1] = 1
    control = np.zeros((1, 20))
    found = CombOrigin(
        (CASES[0],),
        ((3, 6, 9),),
        scores,
        strength=scores[0],
        p=scores[0] * 0,
        shuffled_p=scores[0] * 0 + 1,
        control_scores=scores[..., 0, 0],
        control_strength=control,
        control_p=control + 1,
        control_shuffled_p=control + 1,
        width=0.1,
    ).to_frame()
    assert list(found["gcd"][:2]) == [0.6, 0.9]
    assert list(found["verdict"]) == ["mixed", "gcd", "none"]


def test_strength_is_that_of_the_gcds_lags(planted: CombOrigin) -> None:
    """By hand, from the control's kernel over the same draws."""
    rng = np.random.default_rng(1)
    values = np.stack(
        [
            multisine(CASES[0], rng.uniform(0.5, 1, 3).tolist(), rng.uniform(0, 2 * np.pi, 3).tolist()).values
            for _ in range(10)
        ]
    )
    energy = lag_energy(value_matching(values))
    lags = {int(f(k * 301 / 9)) for k in range(1, 9) for f in (np.floor, np.ceil)}
    pairs = {lag: 300 - lag for lag in range(4, 300)}
    chance = sum(pairs[lag] for lag in lags) / sum(pairs.values())
    share = energy[:, sorted(lags)].sum(1)
    close(planted.control_strength[0], (share - chance) / (1 - chance), terms=BUNDLED)


def test_most_heads_of_a_trained_model_have_the_gcd(pico: interp.Model) -> None:
    found = comb_origin(pico, CASES[:2], draws=10, permutations=19)
    frame = found.to_frame()
    verdicts = frame["verdict"][:-1].value_counts()
    assert verdicts["gcd"] >= 12
    assert not {"smallest difference", "smallest frequency"} & set(verdicts.index)
    assert (frame["gcd"][:-1] > frame["smallest difference"][:-1]).all()
    again = comb_origin(pico, CASES[:2], draws=10, permutations=19)
    np.testing.assert_array_equal(again.scores, found.scores)
    np.testing.assert_array_equal(again.control_p, found.control_p)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cases": [(5, 10, 20, 40)]}, "gcd 5, smallest difference 5 and smallest frequency 5 Hz do not all differ"),
        ({"cases": [(6, 10, 14)]}, r"all odd multiples of 2: .* comb of 4 Hz"),
        ({"cases": [(9, 15, 24), (7,)]}, "two different frequencies"),
        ({"cases": [(9, 9)]}, "two different frequencies"),
        ({"cases": (9, 15, 24)}, "two different frequencies"),
        ({"cases": []}, "no cases"),
        ({"cases": [(9.5, 15, 24)]}, "cases="),
        ({"cases": ["abc"]}, "cases="),
        ({"duration": 0.6}, "their gcd, 3 Hz, does not repeat twice"),
        ({"duration": 0}, "duration=0"),
        ({"duration": "3"}, "duration='3'"),
        ({"steps": 301.0}, "steps=301.0"),
        ({"steps": 100}, "Nyquist"),
        ({"num_decoder": 0}, "num_decoder=0"),
        ({"num_decoder": 301}, "does not repeat twice"),
        ({"num_decoder": 400}, "does not repeat twice"),
        ({"draws": 1}, "draws=1"),
        ({"permutations": 18}, "permutations=18"),
        ({"width": 0.0}, "width=0.0"),
        ({"seed": -1}, "seed=-1"),
        ({"steps": 2001, "draws": 2}, "longer than"),
    ],
)
def test_what_cannot_tell_apart_is_refused(pico: interp.Model, values: dict[str, Any], message: str) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=message):
        comb_origin(pico, **{"cases": CASES[:1], "draws": 2, "permutations": 19, **values})


def test_value_matching_is_its_kernel() -> None:
    values = np.array([[1.0, -2.0, 3.0, 2.0], [4.0, 4.0, -4.0, 4.0]])
    paid = np.exp(-np.abs(values[:, :3] / [[2], [4]] - values[:, 3:] / [[2], [4]]) / 0.5)
    close(value_matching(values, width=0.5), paid / paid.sum(1, keepdims=True))
    close(value_matching(7 * values), value_matching(values))
    assert value_matching(values, num_decoder=2).shape == (2, 2)
    for bad, num_decoder in ((values[0, 0], 1), (0 * values, 1), (values * np.nan, 1), (values, 4), (values, -1)):
        with pytest.raises(interp.errors.InvalidInput):
            value_matching(bad, num_decoder)


def test_phases_are_read_where_the_period_says(model: interp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 steps a second, 10 and 5 Hz: 20 steps back from step 299 are 279, 259, ..., 19."""
    paid = np.zeros((2, 1, 4, 300))
    paid[:, 0, 0, 19:300:20] = 1 / 15
    paid[:, 0, 1, 20:300:20] = 1 / 14
    paid[0, 0, 2, 279], paid[1, 0, 2, 260] = 0.25, 0.5
    paid[:, 0, 3] = 1 / 300

    def planted_attention(*_: Any, **__: Any) -> Any:
        return paid

    monkeypatch.setattr(agreement_module, "context_attention", planted_attention)
    found = multisine_scores(model, [10, 5], 1.0, draws=2, steps=301, duration=3.01)
    # 301 steps, of which the last looks: steps 280, 260, ..., 0 are of its phase.
    close(found.same_phase.values, [[0, 1, 0.25, 15 / 300]], terms=FORWARD, dtype=torch.float64)
    close(found.next_phase.values, [[0, 0, 0, 15 / 300]], terms=FORWARD, dtype=torch.float64)
    assert found.same_phase.stderr is not None
    close(found.same_phase.stderr, [[0, 0, 0.25, 0]], terms=FORWARD, dtype=torch.float64)
    close(found.amplitude.values[0, 3], 0, of=1, terms=LAYER, dtype=torch.float64)
    close(found.amplitude.values[0, 2], (0.25 + 0.5) / 2)
    assert found.comb.values[0, 0] > 0.9
    assert found.second_amplitude is not None
    once = np.abs(np.fft.rfft(paid[:, 0], axis=-1))
    twice = np.abs(np.fft.rfft(once, axis=-1))[..., 1:].max(-1).mean(0)
    close(found.second_amplitude.values, [twice], terms=FORWARD, dtype=torch.float64)
    # Even attention has one line, at 0, whose own spectrum is flat.
    close(found.second_amplitude.values[0, 3], 1, of=1, terms=LAYER, dtype=torch.float64)
    earlier = multisine_scores(model, [10, 5], 1.0, draws=2, steps=300, duration=3)
    # Now 299 looks, at 279, ..., 19; the next phase are 280, ..., 20.
    close(earlier.same_phase.values, [[14 / 15, 0, 0.125, 14 / 300]], terms=FORWARD, dtype=torch.float64)
    close(earlier.next_phase.values, [[0, 1, 0.25, 14 / 300]], terms=FORWARD, dtype=torch.float64)


def test_the_control_has_its_context_shuffled_and_nothing_else(
    model: interp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def recorded(_: interp.Model, values: Any, *, num_decoder: int) -> Any:
        seen.append(values)
        return np.ones((len(values), 1, 1, values.shape[1] - num_decoder)) / 300

    monkeypatch.setattr(agreement_module, "context_attention", recorded)
    multisine_scores(model, draws=3, num_decoder=2, seed=4)
    real, mixed = seen
    np.testing.assert_array_equal(real[:, -2:], mixed[:, -2:])
    np.testing.assert_array_equal(np.sort(real[:, :-2]), np.sort(mixed[:, :-2]))
    assert not np.array_equal(real, mixed)
    assert len({row.tobytes() for row in real}) == 3
    assert real[0].max() <= 1 + 0.75 + 0.5 + 0.5


@pytest.fixture(scope="module")
def pico_agreement(pico: interp.Model) -> Agreement:
    return agreement(induction_mosaic(pico, batch_size=50), multisine_scores(pico, draws=8))


def test_induction_heads_are_the_heads_that_follow_a_multisine(pico_agreement: Agreement) -> None:
    frame = pico_agreement.to_frame().set_index("measure")
    heads = pico_agreement.heads()
    assert int(heads["induction"].sum()) == 6
    assert heads.loc[heads["induction"], "next_phase"].min() > heads.loc[~heads["induction"], "next_phase"].max()
    assert frame.loc["next_phase", "auc"] == 1.0
    assert frame.loc["next_phase", "auc_p"] < 1e-3
    assert frame.loc["next_phase", "rho"] > 0.6
    assert frame.loc["next_phase", "within_layers_p"] < 0.05
    # Without a phase to follow there is nothing at its steps: 15 of 300 by chance.
    shuffled = pico_agreement.multisine.shuffled["next_phase"].values
    real = pico_agreement.multisine.next_phase.values
    assert shuffled.mean() < 0.1
    assert shuffled.max() < real[heads["induction"].to_numpy().reshape(real.shape)].min() / 3
    assert abs(frame.loc["next_phase", "shuffled_rho"]) < 0.5


def test_the_table_is_that_of_the_scores(pico_agreement: Agreement) -> None:
    from scipy.stats import spearmanr  # what the correlations are held to

    frame = pico_agreement.to_frame().set_index("measure")
    heads = pico_agreement.heads()
    either = pico_agreement.mosaic.either.values
    np.testing.assert_array_equal(heads["either"], either.ravel())
    assert list(frame.index) == ["same_phase", "next_phase", "amplitude", "comb", "second_amplitude"]
    for name in frame.index:
        scores: HeadScores = getattr(pico_agreement.multisine, name)
        np.testing.assert_array_equal(heads[name], scores.values.ravel())
        close(frame.loc[name, "rho"], spearmanr(either.ravel(), scores.values.ravel()).statistic)
        high, low = (scores.values[either >= 0.3], scores.values[either < 0.3])
        pairs = (high[:, None] > low) + 0.5 * (high[:, None] == low)
        close(frame.loc[name, "auc"], pairs.mean())
    none = agreement(pico_agreement.mosaic, pico_agreement.multisine, threshold=1.0).to_frame()
    assert none["auc"].isna().all()


def test_scores_of_different_models_are_refused(pico_agreement: Agreement) -> None:
    other = interp.wrap(tiny_pipeline(num_heads=8, num_layers=3, num_decoder_layers=3))
    mosaic = induction_mosaic(other, batch_size=2)
    assert mosaic.either.values.shape == pico_agreement.mosaic.either.values.shape
    with pytest.raises(interp.errors.InvalidInput, match="both of one model"):
        agreement(mosaic, pico_agreement.multisine)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frequencies": [5.5]}, "frequencies=5.5"),
        ({"frequencies": []}, "no frequencies"),
        ({"frequencies": "ab"}, "frequencies="),
        ({"amplitudes": [1, 2]}, "amplitudes are 2 and frequencies 4"),
        ({"num_decoder": 0}, "num_decoder=0"),
        ({"num_decoder": 300}, "does not come twice"),
        ({"duration": 0.3, "steps": 40}, "does not come twice"),
        ({"duration": 0}, "duration=0"),
        ({"duration": "3"}, "duration='3'"),
        ({"draws": 1}, "draws=1"),
        ({"seed": "a"}, "seed='a'"),
    ],
)
def test_multisines_that_cannot_be_are_refused(pico: interp.Model, values: dict[str, Any], message: str) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=message):
        multisine_scores(pico, **{"draws": 2, **values})
