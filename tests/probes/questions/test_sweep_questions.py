"""Questions 1 and 2: made-up frames with known answers, and small real runs that add up."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import interp
import probes
from probes import induction_sweep, length_effect, repetition_effect
from probes.induction.mosaic import Mosaic
from probes.questions.length_effect import CONDITIONS, LengthEffect, _verdicts, length_rows
from tests.tolerance import FORWARD, LAYER, close, tolerance

REPETITIONS, SEEDS = (2, 4, 8), (0, 1, 2, 3)


def made_up(attention: Any, *, right: bool = True, heads: int = 2, weak: float = 0.01) -> pd.DataFrame:
    """A sweep's frame in which the first head pays `attention(R, seed)[k]` to the k-th occurrence from the last."""
    rows: list[dict[str, Any]] = []
    for count in REPETITIONS:
        for seed in SEEDS:
            for head in range(heads):
                strong = np.asarray(attention(count, seed), dtype=float) if head == 0 else np.full(count, weak)
                other = np.full(count, 0.001)
                sides = (other, strong) if right else (strong, other)
                row: dict[str, Any] = {"model": "m", "repetitions": count, "sequence_length": 10, "seed": seed}
                row |= {"head": f"decoder.cross.0.{head}", "layer": 0, "index": head}
                row |= {"current_token": sides[0][0], "token_to_right": sides[1][0]}
                row |= {"either": max(s[0] for s in sides)}
                row |= {"occurrence_sum": sides[0].sum(), "right_sum": sides[1].sum()}
                for name, side in zip(("current", "right"), sides, strict=True):
                    row |= {f"{name}_{k + 1}": side[k] if k < count else np.nan for k in range(REPETITIONS[-1])}
                rows.append(row)
    return pd.DataFrame(rows)


def evenly(total: float, wobble: float = 2.0**-30) -> Any:
    """Equal shares of a total that grows a little with the seed; the shares differ by next to nothing."""

    def attention(r: int, seed: int) -> Any:
        return np.full(r, (total + 0.01 * seed + wobble * np.cos(seed * r)) / r)

    return attention


@pytest.mark.parametrize("right", [True, False])
def test_equal_shares_of_a_steady_sum_are_spreading(right: bool) -> None:
    """0.9 over R occurrences: a last of 0.45 falls to 0.1125, all of it in the share."""
    found = repetition_effect(made_up(evenly(0.9), right=right))
    verdict = found.verdicts.iloc[0]
    assert verdict["verdict"] == "spread over occurrences"
    assert (verdict["from"], verdict["to"], verdict["heads"]) == (2, 8, 1)
    close(verdict["last_ratio"], 1 / 4)
    close(verdict["sum_ratio"], 1)
    close(verdict["spreading"], 1)
    sums = found.sums[found.sums["group"] == "induction"].set_index("repetitions")
    close(sums["evenness"], 1)
    # Seed 0 chose; seeds 1 to 3 are measured.
    close(sums["sum"], 0.92)
    close(sums["last"], [0.92 / 2, 0.92 / 4, 0.92 / 8])
    assert list(sums["heads"]) == [1, 0, 0]
    half = stats.t.ppf(0.975, 2) * 0.01 / 3**0.5
    close(sums["sum_high"] - sums["sum"], half)
    close(sums["sum"] - sums["sum_low"], half)
    paid = found.occurrences[found.occurrences["group"] == "induction"]
    assert list(paid["occurrence"]) == [1, 2, 1, 2, 3, 4, *range(1, 9)]
    close(paid["attention"] * paid["repetitions"], 0.92)


def test_seeds_that_are_all_the_same_decide_nothing() -> None:
    verdict = repetition_effect(made_up(evenly(0.9, wobble=0))).verdicts.iloc[0]
    close(verdict["spreading"], 1)
    assert np.isnan(verdict["spreading_low"])
    assert verdict["verdict"] == "undecided"


def test_a_falling_sum_at_a_steady_share_is_less_attention_to_all() -> None:
    def attention(r: int, seed: int) -> Any:
        rest = np.full(r - 1, 0.2 / (r - 1))
        return np.concatenate([[0.8], rest]) * (2 / r) * (0.9 + 0.01 * seed)

    found = repetition_effect(made_up(attention))
    verdict = found.verdicts.iloc[0]
    assert verdict["verdict"] == "less attention to all"
    close(verdict["last_ratio"], 1 / 4)
    close(verdict["sum_ratio"], 1 / 4)
    close(verdict["spreading"], 0, of=1, dtype=torch.float64)
    sums = found.sums[found.sums["group"] == "induction"]
    close(sums["evenness"], 0.2 / (1 - 1 / sums["repetitions"]))


def test_half_of_each_is_undecided() -> None:
    """The share halves and so does the sum."""
    wobble = {0: 1.0, 1: 0.8, 2: 1.0, 3: 1.2}

    def attention(r: int, seed: int) -> Any:
        share, total = (2 / r) ** 0.5 * 0.5, 0.9 * (2 / r) ** (0.5 * wobble[seed])
        return np.concatenate([[share], np.full(r - 1, (1 - share) / (r - 1))]) * total

    verdict = repetition_effect(made_up(attention)).verdicts.iloc[0]
    assert verdict["verdict"] == "undecided"
    assert verdict["spreading_low"] < 0.5 < verdict["spreading_high"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("jitter", [0.0, 0.01])
def test_a_last_that_stays_does_not_fall(jitter: float) -> None:
    def attention(r: int, seed: int) -> Any:
        return [0.5 + jitter * ((seed * r) % 3 - 1), *np.full(r - 1, 0.01)]

    verdict = repetition_effect(made_up(attention)).verdicts.iloc[0]
    assert verdict["verdict"] == "does not fall"
    close(verdict["last_ratio"], 1, terms=FORWARD, dtype=torch.float64)


def test_no_head_at_the_threshold_is_said() -> None:
    found = repetition_effect(made_up(evenly(0.1)))
    assert found.verdicts.iloc[0]["verdict"] == "no induction heads"
    assert set(found.occurrences["group"]) == {"other"}
    assert repetition_effect(made_up(evenly(0.1)), threshold=0.05).verdicts.iloc[0]["heads"] == 1


def test_heads_and_their_sides_are_chosen_on_the_first_seed_at_the_fewest_repetitions() -> None:
    """The second head is over the threshold everywhere else, and the first one's other side grows."""
    frame = made_up(evenly(0.9))
    second = frame["index"] == 1
    elsewhere = (frame["seed"] != 0) | (frame["repetitions"] != 2)
    frame.loc[second & elsewhere, "either"] = 0.9
    grown = ~second & (frame["repetitions"] == 8)
    frame.loc[grown, "occurrence_sum"] = 0.99
    frame.loc[grown, "current_1"] = 0.5
    found = repetition_effect(frame)
    assert found.verdicts.iloc[0]["heads"] == 1
    close(found.verdicts.iloc[0]["last_ratio"], 1 / 4)


def test_sweeps_that_cannot_answer_are_refused() -> None:
    frame = made_up(evenly(0.9))
    refused: list[tuple[str, Any]] = [
        ("no sweep", None),
        ("needed are", frame.drop(columns="seed")),
        ("no right_sum", frame.drop(columns="right_sum")),
        ("no current_7", frame.drop(columns="current_7")),
        ("two different numbers", frame[frame["repetitions"] == 2]),
        ("two different numbers", frame.assign(repetitions=frame["repetitions"].replace({2: 1, 4: 1}), seed=range(24))),
        ("three or more", frame[frame["seed"] < 2]),
        ("whole grids", frame[(frame["seed"] != 3) | (frame["repetitions"] != 8)]),
        ("whole grids", frame[(frame["seed"] != 0) | (frame["repetitions"] != 2)]),
        ("are there twice", pd.concat([frame, frame])),
    ]
    for message, sweep in refused:
        with pytest.raises(interp.errors.InvalidInput, match=message):
            repetition_effect(sweep)
    wide = pd.concat([frame.assign(batch=1), frame.assign(batch=2)])
    wide.insert(0, "batch", wide.pop("batch"))
    with pytest.raises(interp.errors.InvalidInput, match="varies batch too"):
        repetition_effect(wide)


def test_the_heads_of_a_trained_model_spread() -> None:
    sweep = induction_sweep(
        interp.load("pico-t5-induction"),
        repetitions=(2, 4),
        sequence_lengths=(10,),
        seeds=(0, 1, 2, 3),
        batch_size=20,
        progress=False,
    )
    found = repetition_effect(sweep)
    verdict = found.verdicts.iloc[0]
    assert verdict["verdict"] == "spread over occurrences"
    assert verdict["heads"] >= 3
    # By hand, of the three seeds that did not choose.
    frame = sweep.to_frame()
    chosen = frame[(frame["seed"] == 0) & (frame["repetitions"] == 2) & (frame["either"] >= 0.3)].set_index("head")
    ahead = (chosen["right_sum"] >= chosen["occurrence_sum"]).to_dict()
    assert verdict["heads"] == len(ahead)
    ratios = []
    for seed in (1, 2, 3):
        ends = []
        for count in (4, 2):
            rows = frame[(frame["seed"] == seed) & (frame["repetitions"] == count)].set_index("head")
            ends.append(np.mean([rows.loc[h, "right_1" if side else "current_1"] for h, side in ahead.items()]))
        ratios.append(ends[0] / ends[1])
    close(verdict["last_ratio"], np.mean(ratios))


LENGTHS, RUN = (3, 6), {"repetitions": 3, "batch_size": 12, "min_gap": 5}


@pytest.fixture(scope="module")
def lengths(pico: interp.Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[LengthEffect, Path]:
    store = tmp_path_factory.mktemp("lengths") / "store"
    found = length_effect(pico, sequence_lengths=LENGTHS, seeds=(0, 1, 2, 3), store=store, progress=False, **RUN)
    return found, store


@pytest.mark.parametrize(
    ("condition", "stimulus"),
    [
        ("plain", {"sequence_length": 4}),
        ("apart", {"sequence_length": 4, "min_gap": 5}),
        ("same context", {"sequence_length": 4, "prefix": 12}),
        ("context alone", {"sequence_length": 3, "prefix": 3}),
    ],
)
def test_each_condition_is_the_stimulus_that_it_says(
    pico: interp.Model, condition: str, stimulus: dict[str, int]
) -> None:
    rows = length_rows(pico, condition, 4, seed=7, shortest=3, longest=8, **RUN)
    mosaic = probes.induction_mosaic(pico, repetitions=3, batch_size=12, seed=7, **stimulus)
    np.testing.assert_array_equal(rows["token_to_right"], mosaic.token_to_right.values.ravel())
    np.testing.assert_array_equal(rows["current_token"], mosaic.current_token.values.ravel())
    assert set(rows["n_tokens"]) == {mosaic.n_tokens}
    assert rows["reference"].isna().all()


def test_contexts_are_as_long_as_they_should_be(lengths: tuple[LengthEffect, Path]) -> None:
    tokens = lengths[0].scores.groupby(["condition", "sequence_length"])["n_tokens"].unique().map(list).unstack()
    # R times the length, the query's predecessor, EOS.
    for condition in CONDITIONS:
        expected = [[20], [20]] if condition == "same context" else [[11], [20]]
        assert list(tokens.loc[condition]) == expected


def test_scores_and_slopes_are_those_of_the_runs(pico: interp.Model, lengths: tuple[LengthEffect, Path]) -> None:
    found, _ = lengths
    longest = probes.induction_mosaic(pico, sequence_length=6, repetitions=2, batch_size=12, seed=0)
    chosen = np.argwhere(longest.either.values >= 0.3)
    assert len(chosen) >= 3
    ahead = longest.token_to_right.values >= longest.current_token.values
    changes: dict[str, Any] = {"plain": {}, "apart": {"min_gap": 5}}
    for condition, change in changes.items():
        values: dict[str, list[list[float]]] = {"last": [], "sum": [], "heads": []}
        for seed in (1, 2, 3):
            runs = [
                probes.induction_mosaic(pico, sequence_length=n, repetitions=3, batch_size=12, seed=seed, **change)
                for n in LENGTHS
            ]
            for name in values:
                values[name].append([outcome(run, name, chosen, ahead) for run in runs])
        for name, by_seed in values.items():
            rows = found.scores[(found.scores["condition"] == condition) & (found.scores["outcome"] == name)]
            close(rows["value"], np.mean(by_seed, axis=0), terms=LAYER)
            slopes = [np.polyfit(np.log2(LENGTHS), row, 1)[0] for row in by_seed]
            at = (found.slopes["condition"] == condition) & (found.slopes["outcome"] == name)
            row = found.slopes[at].iloc[0]
            close(row["slope"], np.mean(slopes))
            half = stats.t.ppf(0.975, 2) * stats.sem(slopes)
            # Numbers of heads that are the same in all seeds say nothing of how much they vary.
            half = half if np.ptp(slopes) > tolerance() or not np.any(slopes) else np.nan
            close([row["high"] - row["slope"], row["slope"] - row["low"]], half, terms=LAYER)


def outcome(mosaic: Mosaic, name: str, chosen: Any, ahead: Any) -> float:
    assert mosaic.right_by_occurrence is not None
    assert mosaic.current_by_occurrence is not None
    if name == "heads":
        return float((mosaic.either.values >= 0.3).sum())
    sides = (mosaic.current_by_occurrence, mosaic.right_by_occurrence)
    paid = [sides[int(ahead[tuple(at)])][tuple(at)] for at in chosen]
    return float(np.mean([row[0] if name == "last" else row.sum() for row in paid]))


def test_a_store_gives_the_same_again(pico: interp.Model, lengths: tuple[LengthEffect, Path]) -> None:
    found, store = lengths
    again = length_effect(pico, sequence_lengths=LENGTHS, seeds=(0, 1, 2, 3), store=store, progress=False, **RUN)
    pd.testing.assert_frame_equal(again.scores, found.scores, check_exact=True)
    pd.testing.assert_frame_equal(again.verdicts, found.verdicts, check_exact=True)
    assert set(found.verdicts["outcome"]) == {"heads", "last", "sum"}


@pytest.mark.parametrize(
    ("apart", "context", "direction", "verdict"),
    [
        (0.1, 1.0, "more", "collisions"),
        (1.0, 0.2, "more", "context"),
        (0.3, 0.2, "more", "collisions and context"),
        (0.8, 1.3, "more", "length itself"),
    ],
)
@pytest.mark.parametrize("size", [1.0, -0.5])
def test_a_cause_explains_the_part_of_the_slope_that_goes_with_it(
    size: float, apart: float, context: float, direction: str, verdict: str
) -> None:
    wobble = np.array([-0.01, 0.0, 0.01])
    parts = zip(("plain", "apart", "same context", "context alone"), (1.0, apart, context, 9.0), strict=True)
    slopes = {("m", name, "last"): size * (part + wobble) for name, part in parts}
    (row,) = _verdicts(slopes)
    assert row["direction"] == (direction if size > 0 else "fewer")
    assert row["verdict"] == verdict
    close([row["collisions"], row["context"]], [1 - apart, 1 - context])
    # Fieller, seeds paired: at both ends of 1 - r the t value of apart - r * plain is that of 97.5 %.
    for end in ("collisions_low", "collisions_high"):
        left = (apart + wobble) - (1 - row[end]) * (1 + wobble)
        close(abs(left.mean()), stats.t.ppf(0.975, 2) * abs(stats.sem(left)), of=1)
    assert row["collisions_low"] <= row["collisions"] <= row["collisions_high"]


def test_without_a_slope_nothing_is_explained() -> None:
    names = ("plain", "apart", "same context", "context alone")
    (row,) = _verdicts({("m", name, "last"): np.array([-0.1, 0.0, 0.2]) for name in names})
    assert row["direction"] == row["verdict"] == "undecided"
    assert np.isnan(row["collisions"])
    (row,) = _verdicts({("m", name, "heads"): np.zeros(3) for name in names})
    assert row["direction"] == row["verdict"] == "no change"


def test_a_cause_that_may_explain_half_or_not_is_undecided() -> None:
    parts = zip(("plain", "apart", "same context", "context alone"), (1.0, 0.5, 1.0, 9.0), strict=True)
    slopes = {("m", name, "last"): part + np.array([-0.1, 0.0, 0.1]) * (name != "plain") for name, part in parts}
    assert _verdicts(slopes)[0]["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sequence_lengths": (4,)}, "two different ones"),
        ({"sequence_lengths": (4, 4)}, "more than once"),
        ({"sequence_lengths": (1, 4)}, "sequence_lengths=1"),
        ({"sequence_lengths": 4}, "list of values"),
        ({"seeds": (0, 1)}, "three or more"),
        ({"seeds": (0, 0, 1)}, "more than once"),
        ({"repetitions": 0}, "repetitions=0"),
        ({"min_gap": 0}, "min_gap=0"),
        ({"min_gap": 200}, "do not fit"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"models": "nope"}, "neither a bundled model"),
    ],
)
def test_lengths_that_cannot_be_compared_are_refused(pico: interp.Model, values: dict[str, Any], message: str) -> None:
    with pytest.raises(interp.InterpError, match=message):
        length_effect(**{"models": pico, "sequence_lengths": (2, 3), "batch_size": 2, "progress": False, **values})
