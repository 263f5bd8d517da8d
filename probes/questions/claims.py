"""The sources' claims, each with a statistic, an interval and a verdict, on whatever results are at hand.

A claim is supported if its whole 95 % interval lies on its side of the point of no effect,
contradicted if it lies on the other, undecided otherwise, and left open where there is nothing to
test it on. Where heads of two kinds are compared, an exact or permutation test must agree: a bootstrap
of two or three heads is too narrow. Intervals over heads are bootstraps within models (Efron 1979),
Wilson's for the share of right heads over all models: they cover the choice of heads, not of training
runs. Those over seeds are t intervals.

Source: "Hunting for Induction Heads in Amazon's Chronos", parts 1 and 2.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from scipy import stats

from interp import InvalidInput
from interp.inputs import number, whole
from interp.results import Floats
from interp.vocabulary import PUBLISHED
from probes.mosaic import KINDS, THRESHOLD, Mosaic
from probes.published import published_table
from probes.questions.agreement import Agreement
from probes.questions.frames import Table, over_seeds, sweep_frame
from probes.stimuli import ALL_VALUES, NARROW, repeated_random_tokens

DRAWS = 2000
LEAST_HEADS = 3
"""Of either kind, for two kinds to be compared."""

LEVELS_OFF = 0.13
"""The share of heads, current and right added, that the sources see large models settle at."""

COLUMNS = ("claim", "on", "statistic", "value", "low", "high", "none", "n", "verdict")


@dataclass(frozen=True)
class Evidence:
    """What a claim rests on: a statistic with its interval, the value of no effect, and the verdict.

    The claim's side is the upper one, unless the verdict is given.
    """

    on: str
    statistic: str
    value: float
    low: float
    high: float
    none: float
    n: int
    verdict: str = ""

    def __post_init__(self) -> None:
        # Rounding alone decides nothing, as where all seeds give the same.
        above, below = self.low > self.none + 1e-9, self.high < self.none - 1e-9
        verdict = self.verdict or ("supported" if above else "contradicted" if below else "undecided")
        object.__setattr__(self, "verdict", verdict)


def claims(results: Any, *, threshold: float = THRESHOLD, seed: int = 0) -> pd.DataFrame:
    """Each claim of the sources with its statistic, interval and verdict.

    Args:
        results: any number of mosaics (published ones too), induction sweeps or their frames, and
            agreements with multisines. Mosaics of the published stimulus count for claims about
            models; one of all tokens beside one of the narrow range for the claim about ranges.
        threshold: from which score on a head counts as an induction head.
        seed: of the bootstraps.

    Returns:
        One row a claim, or more where it is tested model by model: `claim, on, statistic, value, low,
        high`, `none` (the value of no effect, or the one that the claim names), `n`, and `verdict`:
        supported, contradicted, undecided, or what would be needed to test it.

    Raises:
        InvalidInput: something that is no result of a probe.
    """
    number("threshold", threshold)
    items = [results] if hasattr(results, "to_frame") or isinstance(results, pd.DataFrame) else results
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping):
        raise InvalidInput(f"{type(results).__name__} is no result: give mosaics, induction sweeps and agreements.")
    mosaics: list[Mosaic] = []
    agreements: list[Agreement] = []
    sweeps: list[Table] = []
    for item in items:
        if isinstance(item, Mosaic):
            mosaics.append(item)
        elif isinstance(item, Agreement):
            agreements.append(item)
        else:
            sweeps.append(sweep_frame(item, "either"))
    rng = np.random.default_rng(whole("seed", seed, 0))
    plain = _standard(mosaics, "narrow")
    pairs = [(plain[name], wide) for name, wide in _standard(mosaics, "values").items() if name in plain]
    models = list(plain.values())
    few = "needs mosaics of three models or more"
    found: list[tuple[str, Sequence[Evidence], str]] = [
        ("larger models have more induction heads", _size(models, threshold, rng), few),
        ("most induction heads are right", _right(models, threshold), "needs mosaics with induction heads"),
        (
            "current heads sit in earlier layers than right ones",
            _layers(models, threshold, rng),
            "needs mosaics with three heads or more of either kind",
        ),
        ("their share levels off near 13 %", _share(models, threshold, rng), few),
        (
            "the narrow range finds more than all tokens",
            [_range_gap(a, b, threshold, rng) for a, b in pairs],
            f"needs mosaics of one model with vocab_range {NARROW} and {ALL_VALUES}",
        ),
        (
            "more repetitions give fewer",
            [e for s in sweeps for e in _slopes(s, "repetitions", threshold)],
            "needs a sweep over repetitions with two seeds or more",
        ),
        (
            "longer sequences give more",
            [e for s in sweeps for e in _slopes(s, "sequence_length", threshold)],
            "needs a sweep over sequence lengths with two seeds or more",
        ),
        (
            "induction heads have the highest amplitudes on multisines",
            [e for a in agreements for e in _amplitude(a, rng)],
            "needs an agreement of a model with three induction heads or more",
        ),
    ]
    rows: list[dict[str, Any]] = []
    for claim, evidence, needed in found:
        for one in evidence:
            rows.append({"claim": claim, **vars(one)})
        if not evidence:
            rows.append({"claim": claim, "verdict": needed})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _standard(mosaics: Sequence[Mosaic], which: Literal["narrow", "values"]) -> dict[tuple[str, str], Mosaic]:
    """The first mosaic of each model and its weights on the published stimulus, with this range of its tokens.

    A decoder alone gets the same tokens in one row.
    """
    usual = {name: p.default for name, p in signature(repeated_random_tokens).parameters.items()}
    found: dict[tuple[str, str], Mosaic] = {}
    for mosaic in mosaics:
        stimulus = mosaic.provenance.get("stimulus", {})
        wanted = stimulus.get("tokens", PUBLISHED.to_dict())[which]
        known = [
            (stimulus.get(name, value), value)
            for name, value in (usual | {"vocab_range": wanted}).items()
            if name not in ("seed", "batch_size", "encoder", "model")
        ]
        if "vocab_range" in stimulus and all(given == value for given, value in known):
            found.setdefault((mosaic.name, str(mosaic.provenance.get("digest"))), mosaic)
    return found


def _parameters(mosaic: Mosaic) -> float:
    """How many parameters a model has, from the mosaic or the published table."""
    known = mosaic.counts().n_parameters
    table = dict(zip(published_table()["model"], published_table()["parameters"], strict=True))
    # Published in millions, as "46M".
    return float(known or 1e6 * float(str(table.get(mosaic.name, "nan")).removesuffix("M")))


def _marks(mosaic: Mosaic, threshold: float) -> Floats:
    """For each head the number of kinds, 0 to 2, in which it reaches the threshold: the published total's parts."""
    return np.sum([getattr(mosaic, kind).values.ravel() >= threshold for kind in KINDS], axis=0).astype(float)


def _resampled(values: Floats, rng: np.random.Generator, draws: int = DRAWS) -> Floats:
    """Sums of bootstrap samples of heads, `[draw]`."""
    return values[rng.integers(0, max(len(values), 1), (draws, len(values)))].sum(1)


def _bounds(draws: Floats) -> tuple[float, float]:
    low, high = np.percentile(draws[~np.isnan(draws)], [2.5, 97.5])
    return float(low), float(high)


def _size(mosaics: Sequence[Mosaic], threshold: float, rng: np.random.Generator) -> list[Evidence]:
    known = [m for m in mosaics if not np.isnan(_parameters(m))]
    x = np.log10([_parameters(m) for m in known])
    if len(set(x)) < 3:
        return []
    marks = [_marks(m, threshold) for m in known]
    slopes = np.polyfit(x, np.stack([_resampled(row, rng) for row in marks]), 1)[0]
    value = float(np.polyfit(x, [row.sum() for row in marks], 1)[0])
    names = f"{len(known)} models"
    return [Evidence(names, "heads for ten times the parameters", value, *_bounds(slopes), 0.0, len(known))]


def _right(mosaics: Sequence[Mosaic], threshold: float) -> list[Evidence]:
    kinds = [head.kind for m in mosaics for head in m.heads(threshold)]
    if not kinds:
        return []
    right = kinds.count("token_to_right")
    interval = stats.binomtest(right, len(kinds)).proportion_ci(method="wilson")
    on = _named(mosaics)
    return [Evidence(on, "share of right heads", right / len(kinds), interval.low, interval.high, 0.5, len(kinds))]


def _layers(mosaics: Sequence[Mosaic], threshold: float, rng: np.random.Generator) -> list[Evidence]:
    """Relative layer of right minus that of current heads; heads change kind, and are drawn, within models."""
    sides: list[tuple[Floats, Floats]] = []
    for m in mosaics:
        depth = m.current_token.values.shape[0]
        layers = [[(h.address.layer + 1) / depth for h in getattr(m, kind).heads(threshold)] for kind in KINDS]
        sides.append((np.array(layers[0]), np.array(layers[1])))
    n_current, n_right = (sum(len(side[i]) for side in sides) for i in (0, 1))
    if min(n_current, n_right) < LEAST_HEADS:
        return []
    gap = sum(r.sum() for _, r in sides) / n_right - sum(c.sum() for c, _ in sides) / n_current
    draws, null = np.zeros(DRAWS), np.zeros(DRAWS)
    for current, right in sides:
        draws += _resampled(right, rng) / n_right - _resampled(current, rng) / n_current
        mixed = rng.permuted(np.tile(np.concatenate([current, right]), (DRAWS, 1)), axis=1)
        null += mixed[:, len(current) :].sum(1) / n_right - mixed[:, : len(current)].sum(1) / n_current
    p = float((1 + (np.abs(null - null.mean()) >= abs(gap - null.mean()) - 1e-12).sum()) / (1 + DRAWS))
    statistic = f"relative layer, right minus current (permutation p {p:.3f})"
    return [_tested(_named(mosaics), statistic, float(gap), _bounds(draws), 0.0, min(n_current, n_right), p)]


def _share(mosaics: Sequence[Mosaic], threshold: float, rng: np.random.Generator) -> list[Evidence]:
    """The shares of the two largest models: near 13 % is from half of it to half as much again."""
    known = sorted((m for m in mosaics if not np.isnan(_parameters(m))), key=_parameters)
    if len(known) < 3:
        return []
    found: list[Evidence] = []
    for mosaic in known[-2:]:
        marks = _marks(mosaic, threshold)
        low, high = _bounds(_resampled(marks, rng) / len(marks))
        near = low >= LEVELS_OFF / 2 and high <= 1.5 * LEVELS_OFF
        away = high < LEVELS_OFF / 2 or low > 1.5 * LEVELS_OFF
        verdict = "supported" if near else "contradicted" if away else "undecided"
        statistic = "share of heads, current and right added"
        found.append(Evidence(mosaic.name, statistic, marks.mean(), low, high, LEVELS_OFF, len(marks), verdict))
    return found


def _range_gap(narrow: Mosaic, wide: Mosaic, threshold: float, rng: np.random.Generator) -> Evidence:
    gap = _marks(narrow, threshold) - _marks(wide, threshold)
    low, high = _bounds(_resampled(gap, rng))
    statistic = "heads in the narrow range minus in all tokens"
    return Evidence(narrow.name, statistic, float(gap.sum()), low, high, 0.0, len(gap))


def _slopes(frame: Table, axis: str, threshold: float) -> list[Evidence]:
    """By model, the slope of the number of heads on log2 of an axis, mean over the other, by seed."""
    other = "sequence_length" if axis == "repetitions" else "repetitions"
    frame = frame[frame["repetitions"] >= 2]
    found: list[Evidence] = []
    for model, part in frame.groupby("model", sort=False):
        counts: Table = (part["either"] >= threshold).groupby([part["seed"], part[axis], part[other]]).sum()
        whole_grid = np.prod([part[name].nunique() for name in ("seed", axis, other)])
        if len(counts) < whole_grid:
            raise InvalidInput(
                f"the sweep of {model} has {len(counts)} of {whole_grid} runs of its grid of seeds, repetitions and "
                "lengths: only whole grids can be compared. Let it finish, or leave values out."
            )
        table: Table = counts.groupby(level=[0, 1]).mean().unstack()
        if table.shape[0] < 2 or table.shape[1] < 2:
            continue
        slopes = np.polyfit(np.log2(table.columns.to_numpy(dtype=float)), table.to_numpy().T, 1)[0]
        sign = -1.0 if axis == "repetitions" else 1.0
        value, low, high = over_seeds(sign * slopes)
        word = "fewer" if sign < 0 else "more"
        found.append(Evidence(str(model), f"{word} heads a doubling", value, low, high, 0.0, len(slopes)))
    return found


def _amplitude(result: Agreement, rng: np.random.Generator) -> list[Evidence]:
    """By themselves, and beyond those with the context shuffled: all attention on one step has amplitude 1."""
    chosen = (result.mosaic.either.values >= result.threshold).ravel()
    fewest = int(min(chosen.sum(), (~chosen).sum()))
    if fewest < LEAST_HEADS:
        return []
    amplitude = result.multisine.amplitude.values.ravel()
    kinds = {"amplitude": amplitude}
    if "amplitude" in result.multisine.shuffled:
        kinds["amplitude beyond that on shuffled series"] = (
            amplitude - result.multisine.shuffled["amplitude"].values.ravel()
        )
    found: list[Evidence] = []
    for name, values in kinds.items():
        ours, others = values[chosen], values[~chosen]
        picked = [side[rng.integers(0, len(side), (DRAWS, len(side)))] for side in (ours, others)]
        draws = np.array([_auc(a, b) for a, b in zip(*picked, strict=True)])
        p = float(cast(Any, stats.mannwhitneyu(ours, others)).pvalue)
        statistic = f"chance that an induction head has the higher {name} (Mann-Whitney p {p:.3f})"
        on = result.mosaic.name
        found.append(_tested(on, statistic, _auc(ours, others), _bounds(draws), 0.5, fewest, p))
    return found


def _auc(ours: Floats, others: Floats) -> float:
    return float(((ours[:, None] > others) + 0.5 * (ours[:, None] == others)).mean())


def _tested(
    on: str, statistic: str, value: float, bounds: tuple[float, float], none: float, n: int, p: float
) -> Evidence:
    """Evidence of which a test of its own must be sure too."""
    return Evidence(on, statistic, value, *bounds, none, n, "" if p <= 0.05 else "undecided")


def _named(mosaics: Sequence[Mosaic]) -> str:
    return ", ".join(m.name for m in mosaics) if len(mosaics) <= 2 else f"{len(mosaics)} models"
