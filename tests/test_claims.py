"""The sources' claims: verdicts on mosaics, sweeps and agreements whose answers are known."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import interp
import probes
from interp import InvalidInput
from interp.results import HeadScores
from probes import Mosaic
from probes.questions.agreement import Agreement, MultisineScores
from tests.tolerance import LAYER, close

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


def verdict(results: Any, claim: str) -> pd.Series:
    table = probes.claims(results)
    found = table[table["claim"].str.contains(claim)]
    assert len(found) == 1
    return found.iloc[0]


def test_the_published_mosaics_support_what_was_published() -> None:
    table = probes.claims([probes.published(f"chronos-t5-{size}")[0] for size in SIZES]).set_index("claim")
    for claim in ("larger models have more", "most induction heads are right", "current heads sit in earlier"):
        assert table[table.index.str.startswith(claim)]["verdict"].tolist() == ["supported"]
    share = table[table.index.str.startswith("their share levels off")]
    published = [(5 + 15) / 144, (15 + 31) / 384]
    close(share["value"].tolist(), published)
    assert (share["low"] < share["value"]).all()
    assert (share["value"] < share["high"]).all()


def test_what_cannot_be_tested_says_what_it_needs() -> None:
    table = probes.claims([])
    assert len(table) == 8
    assert table["value"].isna().all()
    assert table["verdict"].str.startswith("needs ").all()


def test_models_that_shrink_contradict() -> None:
    models = [with_heads((6, 8), 40 // k, name=f"m{k}", parameters=10 ** (6 + k)) for k in (1, 2, 4)]
    row = verdict(models, "larger models")
    assert row["verdict"] == "contradicted"
    counts = np.array([40, 20, 10])
    close(row["value"], np.polyfit([7, 8, 10], counts, 1)[0])
    assert verdict(models[:2], "larger models")["verdict"].startswith("needs")


@pytest.mark.parametrize(
    ("right", "current", "expected"), [(20, 2, "supported"), (2, 20, "contradicted"), (3, 3, "undecided")]
)
def test_the_share_of_right_heads_is_wilsons(right: int, current: int, expected: str) -> None:
    row = verdict(with_heads((6, 8), right, current), "most induction heads are right")
    n, p, z = right + current, right / (right + current), 1.959963984540054
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    close((row["value"], row["low"], row["high"]), (p, middle - half, middle + half))
    assert row["verdict"] == expected


def test_layers_of_both_kinds() -> None:
    row = verdict(with_heads((6, 8), 8, 8), "earlier layers")
    assert row["verdict"] == "supported"
    close(row["value"], 1 - 1 / 6)
    turned = mosaic(with_heads((6, 8), 8).token_to_right.values, with_heads((6, 8), 0, 8).current_token.values)
    assert verdict(turned, "earlier layers")["verdict"] == "contradicted"


def test_heads_at_random_layers_are_seldom_decided() -> None:
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        current, right = (np.where(rng.random((12, 12)) < 0.1, 0.5, 0.0) for _ in range(2))
        found.append(verdict(mosaic(current, right), "earlier layers")["verdict"])
    assert found.count("undecided") >= 50


def test_ranges_are_paired_by_model() -> None:
    narrow, wide = with_heads((3, 8), 12), with_heads((3, 8), 2, vocab_range=(2, 4095))
    row = verdict([narrow, wide, with_heads((3, 8), 1, name="other")], "narrow range")
    assert (row["on"], row["value"], row["verdict"]) == ("m", 10, "supported")
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


def agreed(amplitude: np.ndarray[Any, Any]) -> Agreement:
    found = with_heads((4, 6), 8)
    scores = {
        name: HeadScores(name, "decoder.cross", amplitude, provenance=found.provenance)
        for name in ("same_phase", "next_phase", "amplitude", "comb")
    }
    return Agreement(found, MultisineScores(**scores))


def test_amplitudes_of_induction_heads() -> None:
    high = np.arange(24, dtype=float).reshape(4, 6)
    row = verdict(agreed(high), "highest amplitudes")
    assert (row["value"], row["verdict"]) == (1.0, "supported")
    assert verdict(agreed(-high), "highest amplitudes")["verdict"] == "contradicted"
    assert verdict(agreed(np.ones((4, 6))), "highest amplitudes")["value"] == 0.5


@pytest.mark.parametrize("n_chosen", [3, 5])
def test_random_amplitudes_are_seldom_decided(n_chosen: int) -> None:
    found = []
    for seed in range(40):
        result = agreed(np.random.default_rng(seed).random((4, 6)))
        found.append(verdict(Agreement(with_heads((4, 6), n_chosen), result.multisine), "highest")["verdict"])
    assert found.count("undecided") >= 34


def test_two_heads_are_too_few_to_compare() -> None:
    assert verdict(with_heads((6, 8), 2, 5), "earlier layers")["verdict"].startswith("needs")
    few = Agreement(with_heads((4, 6), 2), agreed(np.ones((4, 6))).multisine)
    assert verdict(few, "highest amplitudes")["verdict"].startswith("needs")


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
        probes.claims(frame[(frame["repetitions"] != 8) | (frame["sequence_length"] != 8) | (frame["seed"] != 1)])


def test_one_result_or_many_and_nothing_else(pico: interp.Model) -> None:
    one = probes.induction_mosaic(pico, batch_size=10)
    assert probes.claims(one).equals(probes.claims([one]))
    with pytest.raises(InvalidInput, match="no sweep"):
        probes.claims(["pico-t5"])
    for wrong in (3, "pico-t5", {}):
        with pytest.raises(InvalidInput, match="no result"):
            probes.claims(wrong)
    with pytest.raises(InvalidInput, match="threshold"):
        probes.claims([], threshold=float("nan"))


def test_amplitudes_beyond_those_on_shuffled_series_are_a_row_of_their_own() -> None:
    plain = agreed(np.arange(24, dtype=float).reshape(4, 6)).multisine
    same = replace(plain, shuffled={"amplitude": plain.amplitude})
    table = probes.claims(Agreement(with_heads((4, 6), 8), same))
    rows = table[table["claim"].str.contains("highest amplitudes")]
    assert rows["value"].tolist() == [1.0, 0.5]
    assert rows["verdict"].tolist() == ["supported", "undecided"]
