"""Question 2: why do longer sequences give more induction heads? Is it length, collisions or context?

1. Choose heads on the first seed, at two repetitions of the longest length, and measure on the other seeds, at every
   length, under four conditions: `plain`, as published; `apart`, no two tokens of a sequence within a few bins of each
   other, so that nothing repeats by chance; `same context`, unrelated tokens in front so that every context is as long
   as the longest; `context alone`, the shortest length with contexts as long as those of `plain`.
2. In each, take the slope on log2(length) by seed, with an interval over seeds, of the attention to the last
   occurrence, of its sum over all occurrences, and of the number of heads.
3. A cause explains the part of the plain slope that goes when the cause is held constant.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, which leaves this open.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp import Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import ratio_interval
from interp.sweeps import sweep
from interp.sweeps.grid import axis_values
from interp.validate import number, whole
from probes.induction.induction_mosaic import induction_mosaic
from probes.induction.induction_sweep import induction_rows
from probes.induction.mosaic import THRESHOLD
from probes.questions.by_seed import Table, mean_with_interval, seeds_of
from probes.stimuli.repeated_tokens import repeated_random_tokens

CONDITIONS = ("plain", "apart", "same context", "context alone")
CAUSES = {"collisions": "apart", "context": "same context"}
"""Causes that may explain a slope, and the condition that holds each constant."""

SIDES = {
    "last": {"right": "token_to_right", "current": "current_token"},
    "sum": {"right": "right_sum", "current": "occurrence_sum"},
}
"""Outcomes of the chosen heads, and their columns for heads of either side."""


@dataclass(frozen=True, eq=False, repr=False)
class LengthEffect(Result):
    """Scores by condition and length, and their slopes; `low`, `high` are 95 % intervals over seeds.

    Attributes:
        scores: `model, condition, sequence_length, n_tokens, outcome, value, low, high`; outcomes are the chosen heads'
            attention to the `last` occurrence and its `sum` over all, and how many of all `heads` reach the threshold.
        slopes: `model, condition, outcome, slope` per doubling of the length, with its interval; for `context alone`
            the doublings are those of the plain lengths with the same contexts.
        verdicts: a row a model and outcome: the plain slope, `direction` (more, fewer, no change, undecided), the part
            of the slope that `collisions` and `context` explain with its interval (the part that goes when each is
            held constant; negative where it works against the slope; NaN without a slope), and a `verdict`: the cause
            whose whole interval is over half, the length itself (no interval reaches half), or undecided.
        repetitions: the number of repetitions.
        provenance: the sweep's.
    """

    KIND = "length-effect"

    scores: pd.DataFrame
    slopes: pd.DataFrame
    verdicts: pd.DataFrame
    repetitions: int
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_frame(self) -> pd.DataFrame:
        """Return `verdicts`."""
        return self.verdicts.copy()

    def _title(self) -> str:
        return f"LengthEffect with {self.repetitions} repetitions"


@checked
def length_effect(
    models: Any,
    *,
    sequence_lengths: Iterable[int] = (2, 4, 6, 8, 10),
    repetitions: int = 4,
    seeds: Iterable[int] = range(4),
    batch_size: int = 100,
    min_gap: int = 5,
    threshold: float = THRESHOLD,
    store: str | Path | None = None,
    n_jobs: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    progress: bool = True,
) -> LengthEffect:
    """Measure how sequence length changes induction heads, apart from collisions and from context length.

    Args:
        models: one or several names or directories, or open models.
        sequence_lengths: two or more.
        seeds: three or more; heads are chosen on the first. From four on there are intervals and verdicts.
        min_gap: smallest distance in bins between any two tokens of a row under `apart`.

    `store`, `n_jobs`, `dtype`, `device` and `progress` are those of `interp.sweeps.sweep`.

    Raises:
        InvalidInput: fewer than two lengths or three seeds, or an impossible stimulus.
    """
    number("threshold", threshold)
    lengths = sorted(whole("sequence_lengths", n, 2) for n in axis_values("sequence_lengths", sequence_lengths))
    if len(set(lengths)) < 2:
        raise InvalidInput(f"sequence_lengths={lengths}: two different ones or more are needed.")
    drawn = list(axis_values("seeds", seeds))
    seeds_of(drawn)
    repeated_random_tokens(batch_size=1, sequence_length=lengths[-1], repetitions=repetitions, min_gap=min_gap)
    swept = sweep(
        length_rows,
        {
            "model": [models] if isinstance(models, str | Path | Model) else models,
            "condition": CONDITIONS,
            "sequence_length": lengths,
            "seed": drawn,
        },
        fixed={
            "shortest": lengths[0],
            "longest": lengths[-1],
            "repetitions": whole("repetitions", repetitions, 1),
            "batch_size": whole("batch_size", batch_size, 1),
            "min_gap": whole("min_gap", min_gap, 1),
        },
        store=store,
        n_jobs=n_jobs,
        dtype=dtype,
        device=device,
        progress=progress,
    )
    frame: Table = swept.to_frame()
    first, others = seeds_of(frame["seed"])
    scores: list[dict[str, Any]] = []
    slopes: dict[tuple[str, str, str], Floats] = {}
    doublings = np.log2(lengths)
    reference = frame[(frame["seed"] == first) & frame["reference"].notna()]
    for (model, condition), part in frame.groupby(["model", "condition"], sort=False):
        chosen = reference.loc[(reference["model"] == model) & (reference["reference"] >= threshold)]
        rows = part[part["seed"].isin(others)]
        for name, table in _outcomes(rows, chosen, threshold).items():
            about = {"model": model, "condition": condition, "outcome": name}
            by_length: Floats = table.loc[others, lengths].to_numpy()
            tokens = rows.groupby("sequence_length")["n_tokens"].first()
            for i, length in enumerate(lengths):
                value, low, high = mean_with_interval(by_length[:, i])
                where = {"sequence_length": length, "n_tokens": int(tokens[length])}
                scores.append({**about, **where, "value": value, "low": low, "high": high})
            slopes[model, condition, name] = np.polyfit(doublings, by_length.T, 1)[0]
    return LengthEffect(
        scores=Frame(scores),
        slopes=Frame([_slope(*where, values) for where, values in slopes.items()]),
        verdicts=Frame(_verdicts(slopes)),
        repetitions=repetitions,
        provenance=swept.provenance,
    )


def length_rows(
    model: Model,
    condition: str,
    sequence_length: int,
    seed: int,
    shortest: int,
    longest: int,
    repetitions: int,
    batch_size: int,
    min_gap: int,
) -> Table:
    """Return one row a head of the mosaic under one condition; `reference`, at the longest plain one, chooses heads."""
    changes: dict[str, dict[str, int]] = {
        "plain": {},
        "apart": {"min_gap": min_gap},
        "same context": {"prefix": (longest - sequence_length) * repetitions},
        "context alone": {"sequence_length": shortest, "prefix": (sequence_length - shortest) * repetitions},
    }
    stimulus = {"sequence_length": sequence_length, "batch_size": batch_size, "seed": seed, **changes[condition]}
    rows = induction_rows(model, repetitions=repetitions, **stimulus)
    rows["reference"], rows["ahead"] = np.nan, False
    if condition == "plain" and sequence_length == longest:
        mosaic = induction_mosaic(model, sequence_length=longest, repetitions=2, batch_size=batch_size, seed=seed)
        rows["reference"] = mosaic.either.values.ravel()
        rows["ahead"] = (mosaic.token_to_right.values >= mosaic.current_token.values).ravel()
    outcomes = [name for side in SIDES.values() for name in side.values()]
    return rows[["head", "reference", "ahead", "either", *outcomes, "n_tokens"]]


def _outcomes(rows: Table, chosen: Table, threshold: float) -> dict[str, Table]:
    """Return each outcome as a table, seeds down and lengths across."""
    axes = [rows["seed"], rows["sequence_length"]]
    tables = {"heads": (rows["either"] >= threshold).groupby(axes).sum().unstack()}
    own = rows[rows["head"].isin(chosen["head"])]
    ahead = own["head"].map(chosen.set_index("head")["ahead"]).astype(bool)
    for name, side in SIDES.items() if len(own) else ():
        values = own[side["right"]].where(ahead, own[side["current"]])
        tables[name] = values.groupby([own["seed"], own["sequence_length"]]).mean().unstack()
    return tables


def _slope(model: str, condition: str, outcome: str, values: Floats) -> dict[str, Any]:
    mean, low, high = mean_with_interval(values)
    return {"model": model, "condition": condition, "outcome": outcome, "slope": mean, "low": low, "high": high}


def _verdicts(slopes: dict[tuple[str, str, str], Floats]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for (model, condition, outcome), plain in slopes.items():
        if condition != "plain":
            continue
        mean, low, high = mean_with_interval(plain)
        # Rounding alone is no direction, and an interval around zero does not yet mean no change.
        still = float(np.abs(plain).max()) < 1e-9
        direction = "no change" if still else "more" if low > 0 else "fewer" if high < 0 else "undecided"
        parts = {name: float("nan") for cause in CAUSES for name in (cause, f"{cause}_low", f"{cause}_high")}
        verdict = direction
        if direction in ("more", "fewer"):
            for cause, constant in CAUSES.items():
                # Seeds are paired, and the plain slope varies too.
                without = slopes[model, constant, outcome]
                least, most = ratio_interval(without, plain)
                ends = (1 - float(without.mean()) / mean, 1 - float(most), 1 - float(least))
                parts |= dict(zip((cause, f"{cause}_low", f"{cause}_high"), ends, strict=True))
            causes = [cause for cause in CAUSES if parts[f"{cause}_low"] > 0.5]
            none = all(parts[f"{cause}_high"] < 0.5 for cause in CAUSES)
            verdict = " and ".join(causes) or ("length itself" if none else "undecided")
        about = {"model": model, "outcome": outcome, "slope": mean, "low": low, "high": high}
        rows.append({**about, "direction": direction, **parts, "verdict": verdict})
    return rows
