"""Question 2: why do longer sequences give more induction heads? Is it length, collisions or context?

1. Heads are chosen on the first seed, at two repetitions of the longest length, and measured on the
   other seeds, at every length, under four conditions:
   `plain`, as published; `apart`, no two tokens of a sequence within a few bins of each other, so that
   nothing is repeated by chance; `same context`, unrelated tokens in front so that every context is as
   long as the longest; `context alone`, the shortest length with contexts as long as those of `plain`.
2. In each, the slope of a score on log2(length) is taken by seed, with an interval over seeds: of the
   attention to the last occurrence, of its sum over all occurrences, and of the number of heads.
3. What a cause explains is the part of the plain slope that goes when it is held still.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, which leaves this open.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp import InvalidInput, Model
from interp.inputs import whole
from interp.results import Floats
from interp.sweeps import sweep
from interp.sweeps.grid import axis_values
from probes.induction import induction_mosaic
from probes.mosaic import THRESHOLD
from probes.questions.frames import over_seeds, seeds_of
from probes.sweeping import induction_rows

CONDITIONS = ("plain", "apart", "same context", "context alone")
OUTCOMES = ("last", "sum", "heads")


@dataclass(frozen=True, eq=False)
class LengthEffect:
    """Scores by condition and length, and their slopes; `low`, `high` are 95 % intervals over seeds.

    Attributes:
        scores: `model, condition, sequence_length, n_tokens, outcome, value, low, high`; outcomes are
            the chosen heads' attention to the `last` occurrence and its `sum` over all, and the number
            of `heads` of all at the threshold.
        slopes: `model, condition, outcome, slope` per doubling of the length, with its interval; for
            `context alone` the doublings are those of the plain lengths with the same contexts.
        verdicts: a row a model and outcome: the plain slope, `direction` (more, fewer, no change), and
            the part of the slope that `collisions` and `context` explain (NaN where there is none).
        repetitions: at which all this holds.
        provenance: the sweep's.
    """

    scores: pd.DataFrame
    slopes: pd.DataFrame
    verdicts: pd.DataFrame
    repetitions: int
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])


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
    """What sequence length does to induction heads, apart from collisions and from context length.

    Args:
        models: one or several names or directories, or open models.
        sequence_lengths: two or more.
        repetitions: how often the sequence is given.
        seeds: three or more; heads are chosen on the first.
        batch_size: rows.
        min_gap: bins between any two tokens of a row under `apart`.
        threshold: from which score on a head counts.
        store: a directory that keeps results; see `interp.sweeps.sweep`.
        n_jobs: processes.
        dtype: of the weights.
        device: where the models run.
        progress: whether to show a bar.

    Returns:
        Scores, slopes and verdicts.

    Raises:
        InvalidInput: fewer than two lengths or three seeds, or what the stimulus cannot be.
    """
    lengths = sorted(whole("sequence_lengths", n, 2) for n in axis_values("sequence_lengths", sequence_lengths))
    if len(set(lengths)) < 2:
        raise InvalidInput(f"sequence_lengths={lengths}: two different ones or more are needed.")
    drawn = list(axis_values("seeds", seeds))
    seeds_of(pd.DataFrame({"seed": drawn}))
    found = sweep(
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
    frame = found.to_frame()
    first, others = seeds_of(frame)
    scores: list[dict[str, Any]] = []
    slopes: list[dict[str, Any]] = []
    doublings = np.log2(lengths)
    for (model, condition), part in frame.groupby(["model", "condition"], sort=False):
        reference = part[(part["seed"] == first) & (part["sequence_length"] == lengths[-1])]
        chosen = reference.loc[reference["reference"] >= threshold, "head"]
        rows = part[part["seed"].isin(others)]
        for name, table in _outcomes(rows, chosen, threshold).items():
            about = {"model": model, "condition": condition, "outcome": name}
            by_length: Floats = table.loc[others, lengths].to_numpy()
            tokens = rows.groupby("sequence_length")["n_tokens"].first()
            for i, length in enumerate(lengths):
                value, low, high = over_seeds(by_length[:, i])
                where = {"sequence_length": length, "n_tokens": int(tokens[length])}
                scores.append({**about, **where, "value": value, "low": low, "high": high})
            value, low, high = over_seeds(np.polyfit(doublings, by_length.T, 1)[0])
            slopes.append({**about, "slope": value, "low": low, "high": high})
    table = pd.DataFrame(slopes)
    return LengthEffect(pd.DataFrame(scores), table, _verdicts(table), repetitions, found.provenance)


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
) -> pd.DataFrame:
    """One row a cross head under one condition; `reference` is its score on what heads are chosen on."""
    changes: dict[str, dict[str, int]] = {
        "plain": {},
        "apart": {"min_gap": min_gap},
        "same context": {"prefix": (longest - sequence_length) * repetitions},
        "context alone": {"sequence_length": shortest, "prefix": (sequence_length - shortest) * repetitions},
    }
    stimulus = {"sequence_length": sequence_length, "batch_size": batch_size, "seed": seed, **changes[condition]}
    rows = induction_rows(model, repetitions=repetitions, **stimulus)
    reference = induction_mosaic(model, sequence_length=longest, repetitions=2, batch_size=batch_size, seed=seed)
    ahead = (reference.token_to_right.values >= reference.current_token.values).ravel()
    return pd.DataFrame(
        {
            "head": rows["head"],
            "reference": reference.either.values.ravel(),
            "either": rows["either"],
            "last": np.where(ahead, rows["token_to_right"], rows["current_token"]),
            "sum": np.where(ahead, rows["right_sum"], rows["occurrence_sum"]),
            "n_tokens": rows["n_tokens"],
        }
    )


def _outcomes(rows: pd.DataFrame, chosen: Any, threshold: float) -> dict[str, pd.DataFrame]:
    """Each outcome as a table, seeds down and lengths across."""
    axes = [rows["seed"], rows["sequence_length"]]
    found = {"heads": (rows["either"] >= threshold).groupby(axes).sum().unstack()}
    own = rows[rows["head"].isin(chosen)]
    if len(own):
        found |= {name: own.groupby(["seed", "sequence_length"])[name].mean().unstack() for name in ("last", "sum")}
    return found


def _verdicts(slopes: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for (model, outcome), part in slopes.groupby(["model", "outcome"], sort=False):
        by = part.set_index("condition")
        low, high = float(by.loc["plain", "low"]), float(by.loc["plain", "high"])
        plain = float(by.loc["plain", "slope"])
        direction = "more" if low > 0 else "fewer" if high < 0 else "no change"
        known = direction != "no change"
        rows.append(
            {
                "model": model,
                "outcome": outcome,
                "slope": plain,
                "low": low,
                "high": high,
                "direction": direction,
                "collisions": 1 - float(by.loc["apart", "slope"]) / plain if known else float("nan"),
                "context": 1 - float(by.loc["same context", "slope"]) / plain if known else float("nan"),
                "context_alone": float(by.loc["context alone", "slope"]) / plain if known else float("nan"),
            }
        )
    return pd.DataFrame(rows)
