"""Question 1: why do more repetitions give fewer induction heads? Do they spread over all occurrences?

1. Heads are chosen on one seed, at the fewest repetitions of 2 or more, and measured on the others.
2. Each head's attention to every earlier occurrence of the query's token (or the position after it,
   whichever it pays more where heads are chosen) is counted from the last, and summed:
   last = sum x share of the last.
3. The change of log(last) from the fewest to the most repetitions is split into that of the sum and
   that of the share: all of it in the share is spreading, all in the sum is losing the token.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, which asks this; matching by content
alone gives each of R occurrences 1/R at most (cross-attention has no position bias;
a decoder alone embeds positions, and can prefer some of them).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp import InvalidInput
from interp.results.result import Floats
from interp.validate import number
from probes.induction.mosaic import THRESHOLD
from probes.questions.by_seed import Table, chosen_heads, over_seeds, seeds_of, sweep_frame

SIDES = {"token_to_right": "right", "current_token": "current"}


@dataclass(frozen=True, eq=False)
class RepetitionEffect:
    """Attention by occurrence and repetitions, as tidy tables; `low`, `high` are 95 % intervals over seeds.

    Attributes:
        occurrences: `model, group, sequence_length, repetitions, occurrence` (1 is the last), `attention`
            with `low`, `high`; mean over the group's heads. Groups are `induction` and `other`.
        sums: `model, group, sequence_length, repetitions`, the attention to the `last` occurrence, the
            `sum` over all, the `evenness` of the induction heads (0: all on the last, 1: equal shares,
            more: earlier ones preferred) and how many of the group's `heads` are at the threshold.
        verdicts: a row a model and length: `from`, `to` repetitions, `last_ratio` and `sum_ratio` (most over
            fewest repetitions), `spreading` (the part of the fall of log(last) that is a falling
            share) with its interval, `verdict`.
        threshold: from which score on a head was chosen.
    """

    occurrences: pd.DataFrame
    sums: pd.DataFrame
    verdicts: pd.DataFrame
    threshold: float


def repetition_effect(sweep: Any, *, threshold: float = THRESHOLD) -> RepetitionEffect:
    """How the attention of induction heads is shared among earlier occurrences, over repetitions.

    Args:
        sweep: what `probes.induction_sweep` gave over two or more repetitions and three or more seeds,
            or its frame.
        threshold: from which score on a head counts as an induction head.

    Returns:
        Attention by occurrence, sums, and a verdict by model and sequence length.

    Raises:
        InvalidInput: no sweep, fewer than two repetitions from 2 on, fewer than three seeds, or a
            model and length of which some of these are missing.
    """
    frame = sweep_frame(sweep, "either", "right_sum", "occurrence_sum")
    number("threshold", threshold)
    every = sorted(frame["repetitions"].unique().tolist())
    frame = frame[frame["repetitions"] >= 2]
    counts = sorted(frame["repetitions"].unique())
    if len(counts) < 2:
        raise InvalidInput(f"the sweep has repetitions {every}: two different numbers from 2 on are needed.")
    sweep_frame(frame, *(f"{side}_{k + 1}" for side in SIDES.values() for k in range(int(counts[-1]))))
    first, others = seeds_of(frame["seed"])
    for (model, length), part in frame.groupby(["model", "sequence_length"], sort=False):
        if len(part[["repetitions", "seed"]].drop_duplicates()) < len(counts) * (len(others) + 1):
            raise InvalidInput(
                f"{model} at length {length} lacks some of repetitions {counts} with seeds {[first, *others]}: "
                "only whole grids can be compared."
            )
    tables: dict[str, list[dict[str, Any]]] = {"occurrences": [], "sums": [], "verdicts": []}
    for (model, length), part in frame.groupby(["model", "sequence_length"], sort=False):
        about = {"model": model, "sequence_length": length}
        reference = part[(part["seed"] == first) & (part["repetitions"] == counts[0])]
        chosen = chosen_heads(reference, threshold)
        part = part.assign(ahead=part["head"].map(_ahead(reference)).astype(bool))
        measured = part[part["seed"].isin(others)]
        for name, group in _groups(measured, chosen).items():
            for count, rows in group.groupby("repetitions"):
                paid = _by_occurrence(rows, int(count))
                seeds = rows["seed"].to_numpy()
                for k in range(int(count)):
                    mean, low, high = over_seeds(_by_seed(paid[:, k], seeds))
                    occurrence = {
                        "repetitions": count,
                        "occurrence": k + 1,
                        "attention": mean,
                        "low": low,
                        "high": high,
                    }
                    tables["occurrences"].append({**about, "group": name, **occurrence})
                tables["sums"].append({**about, "group": name, **_sums(paid, seeds, rows, threshold)})
        tables["verdicts"].append({**about, **_verdict(measured[measured["head"].isin(chosen)], len(chosen))})
    return RepetitionEffect(**{name: pd.DataFrame(rows) for name, rows in tables.items()}, threshold=threshold)


def _groups(frame: Table, chosen: set[str]) -> dict[str, Table]:
    inside = frame["head"].isin(chosen)
    return {name: part for name, part in (("induction", frame[inside]), ("other", frame[~inside])) if len(part)}


def _by_occurrence(rows: Table, count: int) -> Floats:
    """`[row, occurrence]` on the side that the head scores on."""
    right, current = (rows[[f"{side}_{k + 1}" for k in range(count)]].to_numpy(dtype=float) for side in SIDES.values())
    return np.where(rows["ahead"].to_numpy()[:, None], right, current)


def _ahead(rows: Table) -> Table:
    """By head, one row each: is its attention to all positions after occurrences larger than to the occurrences?"""
    sums = rows.set_index("head")
    return sums["right_sum"] >= sums["occurrence_sum"]


def _by_seed(values: Floats, seeds: Any) -> Floats:
    return np.array([values[seeds == seed].mean() for seed in np.unique(seeds)])


def _sums(paid: Floats, seeds: Any, rows: Table, threshold: float) -> dict[str, Any]:
    count = paid.shape[1]
    total = _by_seed(paid.sum(1), seeds)
    last = _by_seed(paid[:, 0], seeds)
    found: dict[str, Any] = {"repetitions": count}
    for name, values in (("last", last), ("sum", total), ("evenness", (1 - last / total) / (1 - 1 / count))):
        found[name], found[f"{name}_low"], found[f"{name}_high"] = over_seeds(values)
    found["heads"] = float((rows["either"] >= threshold).groupby(rows["seed"]).sum().mean())
    return found


def _verdict(rows: Table, heads: int) -> dict[str, Any]:
    few, many = int(rows["repetitions"].min()) if heads else 0, int(rows["repetitions"].max()) if heads else 0
    found: dict[str, Any] = {"heads": heads, "from": few, "to": many}
    if not heads:
        return found | {"verdict": "no induction heads"}
    ends: list[tuple[Floats, Floats]] = []
    for count in (few, many):
        at = rows[rows["repetitions"] == count]
        paid, seeds = _by_occurrence(at, count), at["seed"].to_numpy()
        ends.append((_by_seed(paid[:, 0], seeds), _by_seed(paid.sum(1), seeds)))
    (last_few, sum_few), (last_many, sum_many) = ends
    fall = np.log(last_many / last_few)
    change = np.log(sum_many / sum_few)
    shared = 1 - np.divide(change, fall, out=np.full_like(fall, np.nan), where=fall != 0)
    for name, values in (
        ("last_ratio", last_many / last_few),
        ("sum_ratio", sum_many / sum_few),
        ("spreading", shared),
    ):
        found[name], found[f"{name}_low"], found[f"{name}_high"] = over_seeds(values)
    _, low, high = over_seeds(fall)
    if low > np.log(0.9):
        verdict = "does not fall"
    elif high > np.log(0.9):
        verdict = "undecided"
    elif found["spreading_low"] > 0.5:
        verdict = "spread over occurrences"
    elif found["spreading_high"] < 0.5:
        verdict = "less attention to all"
    else:
        verdict = "undecided"
    return found | {"verdict": verdict}
