"""Question 1: why do more repetitions give fewer induction heads? Do they spread over all occurrences?

1. Choose heads on one seed, at the fewest repetitions of 2 or more, and measure on the others.
2. Take each head's attention to every earlier occurrence of the query's token (or to the position after it, if that is
   more where heads are chosen), counted from the last, and its sum: last = sum x share of the last.
3. Split the change of log(last) from the fewest to the most repetitions into that of the sum and that of the share. All
   in the share is spreading over occurrences; all in the sum is less attention to all.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, which asks this; matching by content alone gives each
of R occurrences 1/R at most (cross-attention has no position bias; a decoder alone embeds positions, and can prefer
some of them).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import InvalidInput
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.validate import number
from probes.induction.mosaic import THRESHOLD
from probes.questions.by_seed import Table, chosen_heads, interval_columns, mean_with_interval, seeds_of, sweep_frame

SIDES = {"token_to_right": "right", "current_token": "current"}


@dataclass(frozen=True, eq=False, repr=False)
class RepetitionEffect(Result):
    """Attention by occurrence and repetitions, as tidy tables; `low`, `high` are 95 % intervals over seeds.

    Attributes:
        occurrences: `model, group, sequence_length, repetitions, occurrence` (1 is the last), `attention` with `low`,
            `high`; mean over the group's heads. Groups are `induction` and `other`.
        sums: `model, group, sequence_length, repetitions`, the attention to the `last` occurrence, the `sum` over all,
            the `evenness` of the induction heads (0: all on the last, 1: equal shares, more: earlier ones preferred)
            and how many of the group's `heads` reach the threshold.
        verdicts: a row a model and length: `from`, `to` repetitions, `last_ratio` and `sum_ratio` (most over fewest
            repetitions), `spreading` (the part of the fall of log(last) that is a falling share) with its interval,
            `verdict`.
        threshold: the score from which a head was chosen.
    """

    KIND = "repetition-effect"

    occurrences: pd.DataFrame
    sums: pd.DataFrame
    verdicts: pd.DataFrame
    threshold: float

    def to_frame(self) -> pd.DataFrame:
        """Return `verdicts`."""
        return self.verdicts.copy()

    def _title(self) -> str:
        return f"RepetitionEffect of heads with a score of at least {self.threshold:g}"


def repetition_effect(sweep: Any, *, threshold: float = THRESHOLD) -> RepetitionEffect:
    """Measure how induction heads share their attention among earlier occurrences, over repetitions.

    Args:
        sweep: a sweep from `probes.induction_sweep` over two or more repetitions and three or more seeds, or its frame.

    Raises:
        InvalidInput: no sweep, fewer than two repetitions from 2 on, fewer than three seeds, or a model and length of
            which some of these are missing.
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
                    ends = zip(
                        ("attention", "low", "high"), mean_with_interval(_by_seed(paid[:, k], seeds)), strict=True
                    )
                    where = {**about, "group": name, "repetitions": count, "occurrence": k + 1}
                    tables["occurrences"].append({**where, **dict(ends)})
                tables["sums"].append({**about, "group": name, **_sums(paid, seeds, rows, threshold)})
        tables["verdicts"].append({**about, **_verdict(measured[measured["head"].isin(chosen)], len(chosen))})
    return RepetitionEffect(**{name: Frame(rows) for name, rows in tables.items()}, threshold=threshold)


def _groups(frame: Table, chosen: set[str]) -> dict[str, Table]:
    inside = frame["head"].isin(chosen)
    return {name: part for name, part in (("induction", frame[inside]), ("other", frame[~inside])) if len(part)}


def _by_occurrence(rows: Table, count: int) -> Floats:
    """Return attention `[row, occurrence]` on the side that the head scores on."""
    right, current = (rows[[f"{side}_{k + 1}" for k in range(count)]].to_numpy(dtype=float) for side in SIDES.values())
    return np.where(rows["ahead"].to_numpy()[:, None], right, current)


def _ahead(rows: Table) -> Table:
    """Return by head whether its attention to the positions after all occurrences is larger than to these."""
    sums = rows.set_index("head")
    return sums["right_sum"] >= sums["occurrence_sum"]


def _by_seed(values: Floats, seeds: Any) -> Floats:
    return np.array([values[seeds == seed].mean() for seed in np.unique(seeds)])


def _sums(paid: Floats, seeds: Any, rows: Table, threshold: float) -> dict[str, Any]:
    count = paid.shape[1]
    total = _by_seed(paid.sum(1), seeds)
    last = _by_seed(paid[:, 0], seeds)
    evenness = (1 - last / total) / (1 - 1 / count)
    sums = interval_columns({"last": last, "sum": total, "evenness": evenness})
    heads = float((rows["either"] >= threshold).groupby(rows["seed"]).sum().mean())
    return {"repetitions": count, **sums, "heads": heads}


def _verdict(rows: Table, heads: int) -> dict[str, Any]:
    if not heads:
        return {"heads": heads, "from": 0, "to": 0, "verdict": "no induction heads"}
    few, many = int(rows["repetitions"].min()), int(rows["repetitions"].max())
    ends: list[tuple[Floats, Floats]] = []
    for count in (few, many):
        at = rows[rows["repetitions"] == count]
        paid, seeds = _by_occurrence(at, count), at["seed"].to_numpy()
        ends.append((_by_seed(paid[:, 0], seeds), _by_seed(paid.sum(1), seeds)))
    (last_few, sum_few), (last_many, sum_many) = ends
    last_ratio, sum_ratio = last_many / last_few, sum_many / sum_few
    fall = np.log(last_ratio)
    spreading = 1 - np.divide(np.log(sum_ratio), fall, out=np.full_like(fall, np.nan), where=fall != 0)
    parts = interval_columns({"last_ratio": last_ratio, "sum_ratio": sum_ratio, "spreading": spreading})
    _, low, high = mean_with_interval(fall)
    if low > np.log(0.9):
        verdict = "does not fall"
    elif high > np.log(0.9):
        verdict = "undecided"
    elif parts["spreading_low"] > 0.5:
        verdict = "spread over occurrences"
    elif parts["spreading_high"] < 0.5:
        verdict = "less attention to all"
    else:
        verdict = "undecided"
    return {"heads": heads, "from": few, "to": many, **parts, "verdict": verdict}
