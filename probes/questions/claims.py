"""The sources' claims, each with a statistic, an interval and a verdict on the results at hand.

A claim is supported if its whole 95 % interval lies on its side of the point of no effect, contradicted if it lies on
the other side, undecided otherwise. Without results to test it on, the verdict says what is needed.

Heads of a layer and of a model are alike, so intervals are over layers, over models if there are three or more, or over
seeds of the tokens (`probes.questions.evidence`); the table says which. No interval covers training runs. Where two
kinds of heads are compared, a permutation test must agree, of layers, or of layers and of heads within them. Three or
four models tell little, so most claims about sizes are then undecided.

Source: "Hunting for Induction Heads in Amazon's Chronos", parts 1 and 2.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from interp.errors import InvalidInput
from interp.inputs.vocabulary import PUBLISHED
from interp.results.frame import Frame
from interp.results.result import Floats
from interp.results.statistics import LEAST_ROWS, interval, jackknife_interval, shuffled
from interp.validate import number, whole
from probes.induction.mosaic import KINDS, THRESHOLD, Mosaic
from probes.induction.published import published_table
from probes.questions.agreement import Agreement
from probes.questions.by_seed import Table, mean_with_interval, sweep_frame
from probes.questions.evidence import (
    LEAST_MODELS,
    Counts,
    Evidence,
    chance_of_higher,
    covered,
    permutation_p,
    proportion_over_clusters,
    slope_interval,
    without_each,
)
from probes.stimuli.repeated_tokens import DEFAULT_TOKENS, VALUE_TOKENS, repeated_random_tokens

DRAWS = 2000
"""Number of permutations."""

LEAST_HEADS = 3
"""The fewest heads of either kind from which two kinds are compared."""

LEVELS_OFF = 0.13
"""The share of heads, current and right added, at which it levels off in large models according to the sources."""

COLUMNS = ("claim", "on", "statistic", "value", "low", "high", "none", "n", "covers", "verdict")


@dataclass(frozen=True)
class Results:
    """The results that claims are tested on.

    `mosaics` are of the published stimulus, one a model; `ranges` are pairs of these and mosaics of all value tokens.
    """

    mosaics: list[Mosaic]
    ranges: list[tuple[Mosaic, Mosaic]]
    sweeps: list[Table]
    agreements: list[Agreement]
    threshold: float
    rng: np.random.Generator


def check_claims(results: Any, *, threshold: float = THRESHOLD, seed: int = 0) -> pd.DataFrame:
    """Test each claim of the sources.

    Args:
        results: any number of mosaics (published ones too), induction sweeps or their frames, and agreements with
            multisines. Mosaics of the published stimulus count for claims about models; one of all tokens beside one
            of the narrow range for the claim about ranges.

    Returns:
        One row a claim, or more if it is tested model by model: `claim, on, statistic, value, low, high`, `none` (the
        value of no effect, or the one that the claim names), `n`, `covers` (what the interval is over), and `verdict`:
        supported, contradicted, undecided, or what is needed to test it.

    Raises:
        InvalidInput: something that is no result of a probe.
    """
    number("threshold", threshold)
    items = [results] if hasattr(results, "to_frame") or isinstance(results, pd.DataFrame) else results
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping):
        raise InvalidInput(f"{type(results).__name__} is no result: give mosaics, induction sweeps and agreements.")
    items = list(items)
    mosaics = [item for item in items if isinstance(item, Mosaic)]
    narrow, wide = _on_published_stimulus(mosaics, "narrow"), _on_published_stimulus(mosaics, "values")
    material = Results(
        mosaics=list(narrow.values()),
        ranges=[(narrow[name], mosaic) for name, mosaic in wide.items() if name in narrow],
        sweeps=[sweep_frame(item, "either") for item in items if not isinstance(item, Mosaic | Agreement)],
        agreements=[item for item in items if isinstance(item, Agreement)],
        threshold=threshold,
        rng=np.random.default_rng(whole("seed", seed, 0)),
    )
    rows: list[dict[str, Any]] = []
    for claim, (needed, test) in CLAIMS.items():
        evidence = [{"claim": claim, **vars(one)} for one in test(material)]
        rows += evidence or [{"claim": claim, "verdict": f"needs {needed}"}]
    return Frame(rows, columns=list(COLUMNS)).astype({"n": "Int64"})


def _on_published_stimulus(
    mosaics: Sequence[Mosaic], which: Literal["narrow", "values"]
) -> dict[tuple[str, str], Mosaic]:
    """Return the first mosaic of each model and its weights on the published stimulus, with this range of its tokens.

    A decoder alone gets the same tokens in one row.
    """
    published = {name: p.default for name, p in signature(repeated_random_tokens).parameters.items()}
    for name in ("seed", "batch_size", "encoder", "model"):
        del published[name]
    first: dict[tuple[str, str], Mosaic] = {}
    for mosaic in mosaics:
        stimulus = mosaic.provenance.get("stimulus", {})
        wanted = published | {"vocab_range": stimulus.get("tokens", PUBLISHED.to_dict())[which]}
        if "vocab_range" in stimulus and all(stimulus.get(name, value) == value for name, value in wanted.items()):
            first.setdefault((mosaic.name, str(mosaic.provenance.get("digest"))), mosaic)
    return first


def _parameters(mosaic: Mosaic) -> float:
    """Return the number of parameters of a model, from the mosaic or the published table; NaN if unknown."""
    table = dict(zip(published_table()["model"], published_table()["parameters"], strict=True))
    # Published in millions, as "46M".
    published = 1e6 * float(str(table.get(mosaic.name, "nan")).removesuffix("M"))
    return float(mosaic.counts().n_parameters or published)


def _marks(mosaic: Mosaic, threshold: float) -> Floats:
    """Count for each head the kinds, 0 to 2, in which it reaches the threshold: `[layer, head]`."""
    return np.sum([getattr(mosaic, kind).values >= threshold for kind in KINDS], axis=0).astype(float)


def _size(mosaics: Sequence[Mosaic], threshold: float) -> list[Evidence]:
    """Take slopes over models. More heads at a constant share are more induction heads too: that slope is `none`."""
    known = [m for m in mosaics if not np.isnan(_parameters(m))]
    x = np.log10([_parameters(m) for m in known])
    if len(set(x)) < LEAST_MODELS:
        return []
    marks = [_marks(m, threshold) for m in known]
    heads, counts = np.array([m.size for m in marks], dtype=float), np.array([m.sum() for m in marks])
    constant = counts.sum() / heads.sum() * heads
    none = float(np.polyfit(x, constant, 1)[0])
    slope, low, high = slope_interval(x, counts - constant)
    between = (slope + none, low + none, high + none)
    on, about = f"{len(known)} models", (len(known), covered(known))
    return [
        Evidence(
            on,
            "heads for ten times the parameters (none: at a constant share)",
            *between,
            none,
            *about,
        ),
        Evidence(on, "share of heads for ten times the parameters", *slope_interval(x, counts / heads), 0.0, *about),
    ]


def _right(mosaics: Sequence[Mosaic], threshold: float) -> list[Evidence]:
    """Take the share of heads whose stronger kind is token to right."""
    counts = [[np.zeros(len(m.current_token.values)) for m in mosaics] for _ in KINDS]
    for i, m in enumerate(mosaics):
        for head in m.heads(threshold):
            counts[KINDS.index(head.kind)][i][head.address.layer] += 1
    n = int(_total(counts[0]) + _total(counts[1]))
    if not n:
        return []

    def share(of: Sequence[Counts]) -> float:
        both = _total(of[0]) + _total(of[1])
        return _total(of[1]) / both if both else float("nan")

    ends = proportion_over_clusters(share(counts), np.array([share(left) for left in without_each(counts)]), n)
    return [Evidence(_named(mosaics), "share of right heads", share(counts), *ends, 0.5, n, covered(mosaics))]


def _layers(mosaics: Sequence[Mosaic], threshold: float, rng: np.random.Generator) -> list[Evidence]:
    """Take the mean relative layer of right heads minus that of current heads; the test permutes layers of a model."""
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
    p = permutation_p(value, null, null.mean())
    ends = jackknife_interval(value, np.array([gap(left) for left in without_each(counts)]))
    statistic = f"relative layer, right minus current (layers permuted: p {p:.3f})"
    return [Evidence(_named(mosaics), statistic, value, *ends, 0.0, fewest, covered(mosaics), p=p)]


def _share(mosaics: Sequence[Mosaic], threshold: float) -> list[Evidence]:
    """Take the shares of the two largest models: near 13 % is from half of it to half as much again."""
    known = sorted((m for m in mosaics if not np.isnan(_parameters(m))), key=_parameters)
    if len(known) < LEAST_MODELS:
        return []
    evidence: list[Evidence] = []
    for mosaic in known[-2:]:
        marks = _marks(mosaic, threshold)
        low, high = map(float, interval(marks.mean(1)))
        near = low >= LEVELS_OFF / 2 and high <= 1.5 * LEVELS_OFF
        away = high < LEVELS_OFF / 2 or low > 1.5 * LEVELS_OFF
        verdict = "supported" if near else "contradicted" if away else "undecided"
        value, about = float(marks.ravel().mean()), (LEVELS_OFF, marks.size, covered([mosaic]), verdict)
        evidence.append(Evidence(mosaic.name, "share of heads, current and right added", value, low, high, *about))
    return evidence


def _range_gap(narrow: Mosaic, wide: Mosaic, threshold: float) -> Evidence:
    gap = _marks(narrow, threshold) - _marks(wide, threshold)
    layers = len(gap)
    low, high = (layers * float(end) for end in interval(gap.sum(1)))
    statistic = "heads in the narrow range minus in all tokens"
    return Evidence(narrow.name, statistic, float(gap.sum()), low, high, 0.0, gap.size, covered([narrow]))


def _slopes(frame: Table, axis: Literal["repetitions", "sequence_length"], threshold: float) -> list[Evidence]:
    """Take by model the slope of the number of heads on log2 of an axis, mean over the other axis, by seed."""
    other = "sequence_length" if axis == "repetitions" else "repetitions"
    sign, word = (-1.0, "fewer") if axis == "repetitions" else (1.0, "more")
    frame = frame[frame["repetitions"] >= 2]
    evidence: list[Evidence] = []
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
        n, ends = len(slopes), mean_with_interval(sign * slopes)
        evidence.append(Evidence(str(model), f"{word} heads a doubling", *ends, 0.0, n, f"{n} seeds of the tokens"))
    return evidence


def _amplitude(result: Agreement, rng: np.random.Generator, measure: str = "amplitude") -> list[Evidence]:
    """Compare amplitudes, and amplitudes beyond those with the context shuffled; one step alone has amplitude 1."""
    chosen = result.mosaic.either.values >= result.threshold
    fewest = int(min(chosen.sum(), (~chosen).sum()))
    if fewest < LEAST_HEADS or measure not in result.multisine.scores:
        return []
    amplitude = result.multisine.scores[measure].values
    kinds = {"amplitude": amplitude}
    if measure in result.multisine.shuffled:
        kinds["amplitude beyond that on shuffled series"] = amplitude - result.multisine.shuffled[measure].values
    layers = np.broadcast_to(np.arange(len(amplitude))[:, None], amplitude.shape)
    evidence: list[Evidence] = []
    for name, values in kinds.items():
        value = chance_of_higher(values[chosen], values[~chosen])
        # The sum of the chosen heads' ranks; the test permutes heads within layers, and layers.
        ranks = stats.rankdata(values).reshape(values.shape)
        null = np.array([ranks[shuffled(chosen.astype(float), rng) > 0].sum() for _ in range(DRAWS)])
        p = permutation_p(ranks[chosen].sum(), null, ranks.mean() * chosen.sum())
        without = [(chosen & (layers != i), ~chosen & (layers != i)) for i in range(len(values))]
        left_out = np.array([chance_of_higher(values[ours], values[others]) for ours, others in without])
        ends = proportion_over_clusters(value, left_out, fewest)
        statistic = f"chance that an induction head has the higher {name} (layers and heads permuted: p {p:.3f})"
        about = (0.5, fewest, covered([result.mosaic]))
        evidence.append(Evidence(result.mosaic.name, statistic, value, *ends, *about, p=p))
    return evidence


def _total(counts: Counts) -> float:
    return float(sum(layers.sum() for layers in counts))


def _named(mosaics: Sequence[Mosaic]) -> str:
    return ", ".join(m.name for m in mosaics) if len(mosaics) <= 2 else f"{len(mosaics)} models"


CLAIMS: dict[str, tuple[str, Callable[[Results], Iterable[Evidence]]]] = {
    "larger models have more induction heads": (
        "mosaics of three models or more",
        lambda results: _size(results.mosaics, results.threshold),
    ),
    "most induction heads attend to the token to the right": (
        "mosaics with induction heads",
        lambda results: _right(results.mosaics, results.threshold),
    ),
    "current-token heads are in earlier layers than token-to-right heads": (
        "mosaics with three heads or more of either kind",
        lambda results: _layers(results.mosaics, results.threshold, results.rng),
    ),
    "the share of induction heads levels off near 13 %": (
        "mosaics of three models or more",
        lambda results: _share(results.mosaics, results.threshold),
    ),
    "the narrow range of tokens gives more induction heads than all tokens": (
        f"mosaics of one model with vocab_range {DEFAULT_TOKENS} and {VALUE_TOKENS}",
        lambda results: (_range_gap(narrow, wide, results.threshold) for narrow, wide in results.ranges),
    ),
    "more repetitions give fewer induction heads": (
        "a sweep over repetitions with three seeds or more",
        lambda results: (e for s in results.sweeps for e in _slopes(s, "repetitions", results.threshold)),
    ),
    "longer sequences give more induction heads": (
        "a sweep over sequence lengths with three seeds or more",
        lambda results: (e for s in results.sweeps for e in _slopes(s, "sequence_length", results.threshold)),
    ),
    "induction heads have the highest amplitudes on multisines": (
        "an agreement of a model with three induction heads or more",
        lambda results: (e for agreed in results.agreements for e in _amplitude(agreed, results.rng)),
    ),
    "induction heads have the highest amplitudes in the FFT of the FFT on multisines": (
        "an agreement, with second amplitudes, of a model with three induction heads or more",
        lambda results: (e for a in results.agreements for e in _amplitude(a, results.rng, "second_amplitude")),
    ),
}
"""Each claim with the results that it needs and the test that gives its evidence."""
