"""The sources' claims: verdicts on mosaics, sweeps and agreements whose answers are known."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import interp
import probes
from interp.errors import InvalidInput
from interp.results.by_head import HeadScores
from probes.induction.mosaic import Mosaic
from probes.questions.agreement import Agreement, MultisineScores
from tests.tolerance import FORWARD, LAYER, close

SIZES = ("mini", "small", "base", "large")


def mosaic(
    current: Any, right: Any, *, name: str = "m", parameters: int = 10, vocab_range: tuple[int, int] = (1911, 2187)
) -> Mosaic:
    stimulus = {"repetitions": 2, "sequence_length": 10, "vocab_range": list(vocab_range)}
    source = {"model": name, "digest": name, "n_parameters": parameters, "stimulus": stimulus}
    sides = (
        HeadScores(kind, "decoder.cross", np.asarray(values, dtype=float), provenance=source)
        for kind, values in (("current_token", current), ("token_to_right", right))
    )
    return Mosaic(*sides, n_tokens=22, provenance=source)


def with_heads(shape: tuple[int, int], n_right: int, n_current: int = 0, **about: Any) -> Mosaic:
    """Current heads fill the first layers, right heads the last."""
    size = shape[0] * shape[1]
    current, right = np.zeros(size), np.zeros(size)
    current[:n_current], right[size - n_right :] = 0.8, 0.9
    return mosaic(current.reshape(shape), right.reshape(shape), **about)


def swept(count: Callable[[int, int, int], float], models: tuple[str, ...] = ("m",)) -> pd.DataFrame:
    """A frame of 20 heads, of which `count(repetitions, length, seed)` reach the threshold."""
    rows = [
        {
            "model": m, "repetitions": r, "sequence_length": n, "seed": s, "head": f"decoder.cross.{i // 5}.{i % 5}",
            "layer": i // 5, "index": i % 5, "current_token": 0.0, "token_to_right": score, "either": score,
        }
        for m, r, n, s in product(models, (1, 2, 4, 8), (2, 4, 8), (0, 1, 2))
        for i in range(20)
        for score in [0.5 if i < count(r, n, s) else 0.1]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def table_of(results: Any, claim: str) -> pd.DataFrame:
    table = probes.check_claims(results)
    return table.loc[table["claim"].str.contains(claim)]


def verdict(results: Any, claim: str) -> pd.Series:
    found = table_of(results, claim)
    assert len(found) == 1
    return found.iloc[0]


def test_the_published_mosaics_support_what_was_published() -> None:
    table = probes.check_claims([probes.published(f"chronos-t5-{size}")[0] for size in SIZES]).set_index("claim")
    for claim in ("most induction heads attend to the token to the right", "current-token heads are in earlier"):
        assert table[table.index.str.startswith(claim)]["verdict"].tolist() == ["supported"]
    # Larger models have more heads of any kind, and a share of induction heads that does not grow.
    size = table[table.index.str.startswith("larger models have more")]
    assert size["verdict"].tolist() == ["undecided", "undecided"]
    assert 0 < size["low"].iloc[0] < size["none"].iloc[0] < size["high"].iloc[0]
    assert abs(size["value"].iloc[1]) < 0.01
    assert table["covers"].dropna().unique().tolist() == [
        "4 models, as if drawn from many like them", "layers of this model",
    ]  # fmt: skip
    share = table[table.index.str.startswith("the share of induction heads levels off")]
    published = [(5 + 15) / 144, (15 + 31) / 384]
    close(share["value"].tolist(), published)
    assert (share["low"] < share["value"]).all()
    assert (share["value"] < share["high"]).all()


def test_what_cannot_be_tested_says_what_it_needs() -> None:
    table = probes.check_claims([])
    assert len(table) == 9
    assert table["value"].isna().all()
    assert table["verdict"].str.startswith("needs ").all()


def test_models_that_shrink_contradict() -> None:
    counts = np.array([40, 34, 29, 18, 15, 10])
    models = [with_heads((6, 8), n, name=f"m{i}", parameters=10 ** (6 + i)) for i, n in enumerate(counts)]
    rows = table_of(models, "larger models")
    assert rows["verdict"].tolist() == ["contradicted", "contradicted"]
    slope = stats.linregress(range(6), counts)
    half = stats.t.ppf(0.975, 4) * slope.stderr
    close(rows["value"].tolist(), [slope.slope, slope.slope / 48], terms=FORWARD)
    close(rows[["low", "high"]].iloc[0].tolist(), [slope.slope - half, slope.slope + half], terms=FORWARD)
    # Three models that halve and halve again are not yet a rule.
    few = [with_heads((6, 8), n, name=f"m{n}", parameters=10 ** (6 + i)) for i, n in enumerate((40, 20, 10))]
    assert table_of(few, "larger models")["verdict"].tolist() == ["undecided", "undecided"]
    assert verdict(models[:2], "larger models")["verdict"].startswith("needs")


def test_a_constant_share_of_more_heads_supports_nothing() -> None:
    """Ten times the parameters are some thirty heads more, of which a fixed part is induction heads."""
    models = [
        with_heads((k, 8), 2 * k + bit, name=f"m{k}", parameters=10 ** (5 + k // 4))
        for k, bit in zip((4, 8, 12, 16, 20, 24), (0, 1, -1, 1, -1, 0), strict=True)
    ]
    rows = table_of(models, "larger models").set_index("statistic")
    assert rows["verdict"].tolist() == ["undecided", "undecided"]
    assert rows["low"].iloc[0] > 5  # more heads, for certain; and as many as a constant share brings
    assert rows["none"].iloc[0] == pytest.approx(8, abs=0.1)


def by_layer(current: Any, right: Any, **about: Any) -> Mosaic:
    """So many current and right heads in each layer of eight."""
    places = np.arange(8)[None]
    first, last = np.asarray(current)[:, None], np.asarray(right)[:, None]
    return mosaic(0.8 * (places < first), 0.9 * (places >= 8 - last), **about)


@pytest.mark.parametrize(
    ("right", "current", "expected"), [(4, 1, "supported"), (1, 4, "contradicted"), (2, 2, "undecided")]
)
def test_the_share_of_right_heads_where_layers_are_alike_is_wilsons(right: int, current: int, expected: str) -> None:
    """Layers that do not differ at all: as many heads as there are, less what twelve layers tell of their spread."""
    row = verdict(by_layer([current] * 12, [right] * 12), "most induction heads attend to the token to the right")
    p, z, n = right / (right + current), 1.959963984540054, 12 * (right + current)
    n *= (z / stats.t.ppf(0.975, 11)) ** 2
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    close((row["value"], row["low"], row["high"]), (p, middle - half, middle + half))
    assert row["verdict"] == expected


def test_right_heads_of_a_few_layers_are_few() -> None:
    """32 of 40 heads, all 32 of them in four layers of the six: not 40 independent heads."""
    row = verdict(
        by_layer([4, 4, 0, 0, 0, 0], [0, 0, 8, 8, 8, 8]), "most induction heads attend to the token to the right"
    )
    assert row["value"] == 0.8
    assert row["low"] < 0.5
    assert row["verdict"] == "undecided"
    assert (
        verdict(with_heads((2, 8), 8, 1), "most induction heads attend to the token to the right")["verdict"]
        == "undecided"
    )


EARLY, LATE = [3, 2, 3, 1, 2, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 2, 3, 2, 3, 1, 2]


def test_layers_of_both_kinds() -> None:
    row = verdict(by_layer(EARLY, LATE), "earlier layers")
    assert row["verdict"] == "supported"
    assert row["covers"] == "layers of this model"
    depth = np.arange(1, 13) / 12
    close(row["value"], depth @ LATE / sum(LATE) - depth @ EARLY / sum(EARLY), terms=FORWARD)
    assert verdict(by_layer(LATE, EARLY), "earlier layers")["verdict"] == "contradicted"
    # However many heads: one layer of either kind is one case, and the ends are the ends in one of 15.
    assert verdict(with_heads((6, 8), 8, 8), "earlier layers")["verdict"] == "undecided"


def test_heads_at_random_layers_are_seldom_decided() -> None:
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        current, right = (np.where(rng.random((12, 12)) < 0.1, 0.5, 0.0) for _ in range(2))
        found.append(verdict(mosaic(current, right), "earlier layers")["verdict"])
    assert found.count("undecided") >= 50


def test_ranges_are_paired_by_model() -> None:
    narrow, wide = by_layer([0] * 4, [3, 4, 3, 4]), by_layer([0] * 4, [1, 0, 1, 0], vocab_range=(2, 4095))
    row = verdict([narrow, wide, with_heads((3, 8), 1, name="other")], "narrow range")
    assert (row["on"], row["value"], row["verdict"]) == ("m", 12, "supported")
    half = 4 * stats.t.ppf(0.975, 3) * stats.sem([2, 4, 2, 4])
    close((row["low"], row["high"]), (12 - half, 12 + half), terms=FORWARD)
    # One layer that has them all is one case.
    rows = verdict([with_heads((3, 8), 8), with_heads((3, 8), 0, vocab_range=(2, 4095))], "narrow range")
    assert (rows["value"], rows["verdict"]) == (8, "undecided")
    assert verdict([narrow, with_heads((3, 8), 2, name="other", vocab_range=(2, 4095))], "narrow")[
        "verdict"
    ].startswith("needs")


def test_slopes_over_a_sweep_by_hand() -> None:
    frame = swept(lambda r, n, s: 12 - 3 * np.log2(r) + (s == 1) * (r == 2))
    row = verdict(frame, "more repetitions")
    assert row["value"] == pytest.approx(3, abs=0.2)
    assert row["verdict"] == "supported"
    assert verdict(frame, "longer sequences")["verdict"] == "undecided"
    longer = swept(lambda r, n, s: 15 - 3 * np.log2(n) + (s == 1) * (n == 8))
    assert verdict(longer, "longer")["verdict"] == "contradicted"
    # Seeds that all give the very same numbers do not tell how much others would differ.
    same = verdict(swept(lambda r, n, s: 15 - 3 * np.log2(n)), "longer")
    close(same["value"], -3)
    assert same["verdict"] == "undecided"


def test_one_repetition_is_a_control_and_no_part_of_the_slope() -> None:
    frame = swept(lambda r, n, s: 20 if r == 1 else 5)
    close(verdict(frame, "more repetitions")["value"], 0, of=1, terms=LAYER, dtype=torch.float64)


def agreed(amplitude: np.ndarray[Any, Any], found: Mosaic | None = None) -> Agreement:
    found = with_heads((4, 6), 8) if found is None else found
    scores = {
        name: HeadScores(name, "decoder.cross", amplitude, provenance=found.provenance)
        for name in ("same_phase", "next_phase", "amplitude", "comb")
    }
    return Agreement(found, MultisineScores(**scores))


def test_amplitudes_of_the_second_spectrum_are_a_claim_of_their_own(tmp_path: Path) -> None:
    found = by_layer([0] * 8, [1, 2, 1, 2, 1, 2, 1, 2])
    noise = np.random.default_rng(0).random((8, 8))
    high, low = agreed(noise + found.token_to_right.values, found), agreed(noise - found.token_to_right.values, found)
    both = Agreement(found, replace(low.multisine, second_amplitude=high.multisine.amplitude))
    claim = "highest amplitudes in the FFT of the FFT"
    assert verdict(both, claim)["verdict"] == "supported"
    assert verdict(both, "highest amplitudes on")["verdict"] == "contradicted"
    # Scores of before have none.
    assert verdict(low, claim)["verdict"].startswith("needs an agreement, with second amplitudes")
    path = low.save(tmp_path / "agreement.json")
    content = json.loads(path.read_text())
    del content["fields"]["items"]["multisine"]["fields"]["items"]["second_amplitude"]
    path.write_text(json.dumps(content))
    assert "second_amplitude" not in Agreement.load(path).heads()


def test_amplitudes_of_induction_heads() -> None:
    found = by_layer([0] * 8, [1, 2, 1, 2, 1, 2, 1, 2])
    high = np.random.default_rng(0).random((8, 8)) + found.token_to_right.values
    row = verdict(agreed(high, found), "highest amplitudes on")
    assert row["value"] > 0.95
    assert row["verdict"] == "supported"
    assert verdict(agreed(-high, found), "highest amplitudes on")["verdict"] == "contradicted"
    assert verdict(agreed(np.ones((8, 8)), found), "highest amplitudes on")["value"] == 0.5
    # All that have it in the last of four layers, which is higher as a whole: one case.
    whole = np.arange(24, dtype=float).reshape(4, 6)
    assert verdict(agreed(whole), "highest amplitudes on")["verdict"] == "undecided"


@pytest.mark.parametrize("n_chosen", [3, 5])
def test_random_amplitudes_are_seldom_decided(n_chosen: int) -> None:
    found = []
    for seed in range(40):
        result = agreed(np.random.default_rng(seed).random((4, 6)))
        found.append(
            verdict(Agreement(with_heads((4, 6), n_chosen), result.multisine), "highest amplitudes on")["verdict"]
        )
    assert found.count("undecided") >= 34


def test_two_heads_are_too_few_to_compare() -> None:
    assert verdict(with_heads((6, 8), 2, 5), "earlier layers")["verdict"].startswith("needs")
    few = Agreement(with_heads((4, 6), 2), agreed(np.ones((4, 6))).multisine)
    assert verdict(few, "highest amplitudes on")["verdict"].startswith("needs")


def test_another_stimulus_or_other_weights_do_not_count() -> None:
    changed = with_heads((6, 8), 10)
    changed.provenance["stimulus"]["prefix"] = 300
    assert verdict(changed, "most induction heads")["verdict"].startswith("needs")
    other = with_heads((4, 4), 3, vocab_range=(2, 4095))
    other.provenance["digest"] = "other"
    assert verdict([with_heads((3, 8), 12), other], "narrow range")["verdict"].startswith("needs")


def test_a_grid_with_holes_is_refused() -> None:
    frame = swept(lambda r, n, s: 10)
    with pytest.raises(InvalidInput, match="26 of 27 runs"):
        probes.check_claims(frame[(frame["repetitions"] != 8) | (frame["sequence_length"] != 8) | (frame["seed"] != 1)])


def test_one_result_or_many_and_nothing_else(pico: interp.Model) -> None:
    one = probes.induction_mosaic(pico, batch_size=10)
    assert probes.check_claims(one).equals(probes.check_claims([one]))
    with pytest.raises(InvalidInput, match="no sweep"):
        probes.check_claims(["pico-t5"])
    for wrong in (3, "pico-t5", {}):
        with pytest.raises(InvalidInput, match="no result"):
            probes.check_claims(wrong)
    with pytest.raises(InvalidInput, match="threshold"):
        probes.check_claims([], threshold=float("nan"))


def test_amplitudes_beyond_those_on_shuffled_series_are_a_row_of_their_own() -> None:
    found = by_layer([0] * 8, [1, 2, 1, 2, 1, 2, 1, 2])
    plain = agreed(np.random.default_rng(0).random((8, 8)) + 2 * found.token_to_right.values, found).multisine
    same = replace(plain, shuffled={"amplitude": plain.amplitude})
    table = probes.check_claims(Agreement(found, same))
    rows = table[table["claim"].str.contains("highest amplitudes on")]
    assert rows["value"].tolist() == [1.0, 0.5]
    assert rows["verdict"].tolist() == ["supported", "undecided"]
