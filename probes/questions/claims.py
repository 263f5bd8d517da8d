"""The sources' claims, each with a statistic, an interval and a verdict, on whatever results are at hand.

A claim is supported if its whole 95 % interval lies on its side of the point of no effect, contradicted if it lies on
the other, undecided otherwise, and left open where there is nothing to test it on. Heads of a layer and of a model are
alike, so that intervals are over layers, over models where there are three or more, or over seeds of the tokens
(`probes.questions.evidence`): the table says which. None of them covers training runs. Where heads of two kinds are
compared, a permutation test must agree: of layers, or of layers and of heads within them. From three or four models
little can be told, and most claims about sizes are then undecided.

Source: "Hunting for Induction Heads in Amazon's Chronos", parts 1 and 2.
"""

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from interp.errors import InvalidInput
from interp.inputs.vocabulary import PUBLISHED
from interp.results.result import Floats
from interp.results.statistics import LEAST_ROWS, interval, jackknife_interval, shuffled
from interp.validate import number, whole
from probes.induction.mosaic import KINDS, THRESHOLD, Mosaic
from probes.induction.published import published_table
from probes.questions.agreement import Agreement
from probes.questions.by_seed import Table, over_seeds, sweep_frame
from probes.questions.evidence import (
    LEAST_MODELS,
    Counts,
    Evidence,
    chance_of_higher,
    covered,
    proportion_over_clusters,
    slope_interval,
    without_each,
)
from probes.stimuli.repeated_tokens import DEFAULT_TOKENS, VALUE_TOKENS, repeated_random_tokens

DRAWS = 2000
"""Permutations."""

LEAST_HEADS = 3
"""Of either kind, for two kinds to be compared."""

LEVELS_OFF = 0.13
"""The share of heads, current and right added, at which the sources see large models settle."""

COLUMNS = ("claim", "on", "statistic", "value", "low", "high", "none", "n", "covers", "verdict")


def check_claims(results: Any, *, threshold: float = THRESHOLD, seed: int = 0) -> pd.DataFrame:
    """Each claim of the sources with its statistic, interval and verdict.

    Args:
        results: any number of mosaics (published ones too), induction sweeps or their frames, and
            agreements with multisines. Mosaics of the published stimulus count for claims about
            models; one of all tokens beside one of the narrow range for the claim about ranges.
        threshold: from which score on a head counts as an induction head.
        seed: of the permutations.

    Returns:
        One row a claim, or more where it is tested model by model: `claim, on, statistic, value, low,
        high`, `none` (the value of no effect, or the one that the claim names), `n`, `covers` (what the interval is
        over: what else could have been drawn), and `verdict`: supported, contradicted, undecided, or what would be
        needed to test it.

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
        ("larger models have more induction heads", _size(models, threshold), few),
        ("most induction heads are right", _right(models, threshold), "needs mosaics with induction heads"),
        (
            "current heads sit in earlier layers than right ones",
            _layers(models, threshold, rng),
            "needs mosaics with three heads or more of either kind",
        ),
        ("their share levels off near 13 %", _share(models, threshold), few),
        (
            "the narrow range finds more than all tokens",
            [_range_gap(a, b, threshold) for a, b in pairs],
            f"needs mosaics of one model with vocab_range {DEFAULT_TOKENS} and {VALUE_TOKENS}",
        ),
        (
            "more repetitions give fewer",
            [e for s in sweeps for e in _slopes(s, "repetitions", threshold)],
            "needs a sweep over repetitions with three seeds or more",
        ),
        (
            "longer sequences give more",
            [e for s in sweeps for e in _slopes(s, "sequence_length", threshold)],
            "needs a sweep over sequence lengths with three seeds or more",
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


def _size(mosaics: Sequence[Mosaic], threshold: float) -> list[Evidence]:
    """Slopes over models. A constant share of more heads is more heads: `none` is what that alone would bring."""
    known = [m for m in mosaics if not np.isnan(_parameters(m))]
    x = np.log10([_parameters(m) for m in known])
    if len(set(x)) < LEAST_MODELS:
        return []
    marks = [_marks(m, threshold) for m in known]
    heads = np.array([len(row) for row in marks], dtype=float)
    counts = np.array([row.sum() for row in marks])
    constant = counts.sum() / heads.sum() * heads
    on, n, covers = f"{len(known)} models", len(known), covered(known)
    statistic = "heads for ten times the parameters (none: at a constant share)"
    none = float(np.polyfit(x, constant, 1)[0])
    value, low, high = (end + none for end in slope_interval(x, counts - constant))
    share = slope_interval(x, counts / heads)
    return [
        Evidence(on, statistic, value, low, high, none, n, covers),
        Evidence(on, "share of heads for ten times the parameters", *share, 0.0, n, covers),
    ]


def _right(mosaics: Sequence[Mosaic], threshold: float) -> list[Evidence]:
    counts = [[np.zeros(len(m.current_token.values)) for m in mosaics] for _ in KINDS]
    for i, m in enumerate(mosaics):
        for head in m.heads(threshold):
            counts[KINDS.index(head.kind)][i][head.address.layer] += 1
    n = int(_total(counts[0]) + _total(counts[1]))
    if not n:
        return []

    def share(of: Sequence[Counts]) -> float:
        all_of_them = _total(of[0]) + _total(of[1])
        return _total(of[1]) / all_of_them if all_of_them else float("nan")

    ends = proportion_over_clusters(share(counts), np.array([share(left) for left in without_each(counts)]), n)
    return [Evidence(_named(mosaics), "share of right heads", share(counts), *ends, 0.5, n, covered(mosaics))]


def _layers(mosaics: Sequence[Mosaic], threshold: float, rng: np.random.Generator) -> list[Evidence]:
    """Relative layer of right minus that of current heads; whole layers change places within models."""
    counts = [[(getattr(m, kind).values >= threshold).sum(1).astype(float) for m in mosaics] for kind in KINDS]
    fewest = int(min(_total(kind) for kind in counts))
    if fewest < LEAST_HEADS:
        return []
    depths = [np.arange(1, len(layers) + 1) / len(layers) for layers in counts[0]]

    def gap(of: Sequence[Counts], places: Sequence[Floats] = depths) -> Any:
        if not min(_total(kind) for kind in of):
            return float("nan")
        current, right = (sum(d @ c for d, c in zip(places, kind, strict=True)) / _total(kind) for kind in of)
        return right - current

    value = float(gap(counts))
    null = gap(counts, [rng.permuted(np.tile(d, (DRAWS, 1)), axis=1) for d in depths])
    p = float((1 + (np.abs(null - null.mean()) >= abs(value - null.mean()) - 1e-12).sum()) / (1 + DRAWS))
    ends = jackknife_interval(value, np.array([gap(left) for left in without_each(counts)]))
    statistic = f"relative layer, right minus current (layers permuted: p {p:.3f})"
    return [_tested(_named(mosaics), statistic, value, ends, 0.0, fewest, covered(mosaics), p)]


def _share(mosaics: Sequence[Mosaic], threshold: float) -> list[Evidence]:
    """The shares of the two largest models: near 13 % is from half of it to half as much again."""
    known = sorted((m for m in mosaics if not np.isnan(_parameters(m))), key=_parameters)
    if len(known) < LEAST_MODELS:
        return []
    found: list[Evidence] = []
    for mosaic in known[-2:]:
        marks = _marks(mosaic, threshold)
        low, high = interval(_by_layer(marks, mosaic).mean(1))
        near = low >= LEVELS_OFF / 2 and high <= 1.5 * LEVELS_OFF
        away = high < LEVELS_OFF / 2 or low > 1.5 * LEVELS_OFF
        verdict = "supported" if near else "contradicted" if away else "undecided"
        statistic, ends = "share of heads, current and right added", (float(low), float(high))
        about = (LEVELS_OFF, len(marks), covered([mosaic]), verdict)
        found.append(Evidence(mosaic.name, statistic, float(marks.mean()), *ends, *about))
    return found


def _range_gap(narrow: Mosaic, wide: Mosaic, threshold: float) -> Evidence:
    gap = _marks(narrow, threshold) - _marks(wide, threshold)
    by_layer = _by_layer(gap, narrow).sum(1)
    low, high = interval(by_layer)
    statistic = "heads in the narrow range minus in all tokens"
    ends = (float(gap.sum()), len(by_layer) * float(low), len(by_layer) * float(high))
    return Evidence(narrow.name, statistic, *ends, 0.0, len(gap), covered([narrow]))


def _by_layer(values: Floats, mosaic: Mosaic) -> Floats:
    return values.reshape(mosaic.current_token.values.shape)


def _total(counts: Counts) -> float:
    return float(sum(layers.sum() for layers in counts))


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
        if table.shape[0] < LEAST_ROWS or table.shape[1] < 2:
            continue
        slopes = np.polyfit(np.log2(table.columns.to_numpy(dtype=float)), table.to_numpy().T, 1)[0]
        sign = -1.0 if axis == "repetitions" else 1.0
        value, low, high = over_seeds(sign * slopes)
        word, covers = "fewer" if sign < 0 else "more", f"{len(slopes)} seeds of the tokens"
        found.append(Evidence(str(model), f"{word} heads a doubling", value, low, high, 0.0, len(slopes), covers))
    return found


def _amplitude(result: Agreement, rng: np.random.Generator) -> list[Evidence]:
    """By themselves, and beyond those with the context shuffled: all attention on one step has amplitude 1."""
    chosen = result.mosaic.either.values >= result.threshold
    fewest = int(min(chosen.sum(), (~chosen).sum()))
    if fewest < LEAST_HEADS:
        return []
    amplitude = result.multisine.amplitude.values
    kinds = {"amplitude": amplitude}
    if "amplitude" in result.multisine.shuffled:
        kinds["amplitude beyond that on shuffled series"] = amplitude - result.multisine.shuffled["amplitude"].values
    found: list[Evidence] = []
    for name, values in kinds.items():
        value = chance_of_higher(values[chosen], values[~chosen])
        # Ranks once, and of each draw the sum of those of the chosen: heads change places within layers, and layers.
        ranks = stats.rankdata(values).reshape(values.shape)
        null = np.array([ranks[shuffled(chosen.astype(float), rng) > 0].sum() for _ in range(DRAWS)])
        away = abs(ranks[chosen].sum() - ranks.mean() * chosen.sum())
        p = float((1 + (np.abs(null - ranks.mean() * chosen.sum()) >= away - 1e-9).sum()) / (1 + DRAWS))
        layers = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
        left_out = [
            chance_of_higher(values[chosen & (layers != i)], values[~chosen & (layers != i)])
            for i in range(len(values))
        ]
        ends = proportion_over_clusters(value, np.array(left_out), fewest)
        statistic = f"chance that an induction head has the higher {name} (layers and heads permuted: p {p:.3f})"
        found.append(_tested(result.mosaic.name, statistic, value, ends, 0.5, fewest, covered([result.mosaic]), p))
    return found


def _tested(
    on: str, statistic: str, value: float, bounds: tuple[float, float], none: float, n: int, covers: str, p: float
) -> Evidence:
    """Evidence of which a test of its own must be sure too."""
    return Evidence(on, statistic, value, *bounds, none, n, covers, "" if p <= 0.05 else "undecided")


def _named(mosaics: Sequence[Mosaic]) -> str:
    return ", ".join(m.name for m in mosaics) if len(mosaics) <= 2 else f"{len(mosaics)} models"
