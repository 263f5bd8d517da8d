"""The evidence for a claim, and its intervals where heads are alike: within layers, and within models.

Heads of a layer, and of a model, are alike, so that ten heads count less than ten independent ones. The intervals are
over clusters: over models if there are three or more, otherwise over the layers of the one or two models.

* A share of heads, or the chance that a head of one kind beats one of another, has Wilson's interval of an effective
  number of heads: as many as would vary as the clusters do, and never more than there are.
* Other statistics have the jackknife over clusters.
* Depth is permuted by whole layers; kinds of heads by whole layers and within them.

Source: Korn & Graubard 1998 (the effective number); Tukey 1958 (jackknife).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy import stats

from interp.results.result import Floats
from interp.results.statistics import LEAST_ROWS, wilson
from probes.induction.mosaic import Mosaic

LEAST_MODELS = 3
"""The number of models from which models are the clusters."""


@dataclass(frozen=True)
class Evidence:
    """A statistic with its interval, the value of no effect `none`, and the verdict on the claim.

    `covers` says what the interval is over, such as models or seeds. The claim says that the statistic is over `none`,
    unless a verdict is passed. With the `p` of a test, the claim stays undecided unless p is 0.05 or less.
    """

    on: str
    statistic: str
    value: float
    low: float
    high: float
    none: float
    n: int
    covers: str
    verdict: str = ""
    p: float = 0.0

    def __post_init__(self) -> None:
        # Rounding alone decides nothing, as where all seeds give the same.
        above, below = self.low > self.none + 1e-9, self.high < self.none - 1e-9
        verdict = self.verdict or ("supported" if above else "contradicted" if below else "undecided")
        verdict = verdict if self.p <= 0.05 else "undecided"
        object.__setattr__(self, "verdict", verdict)


Counts = list[Floats]
"""By model, the number of heads in each layer, `[layer]`."""


def covered(mosaics: Sequence[Mosaic]) -> str:
    """Say in words what an interval over the clusters of some models covers."""
    if len(mosaics) >= LEAST_MODELS:
        return f"{len(mosaics)} models, as if drawn from many like them"
    return f"layers of {'this model' if len(mosaics) == 1 else 'these two models'}"


def without_each(counts: Sequence[Counts]) -> list[list[Counts]]:
    """Leave out each cluster, a model or a layer, that has any of these heads, in turn."""
    left_out: list[list[Counts]] = []
    for i, size in enumerate(len(layers) for layers in counts[0]):
        for place in [slice(None)] if len(counts[0]) >= LEAST_MODELS else range(size):
            if any(np.any(kind[i][place]) for kind in counts):
                left = [[layers.copy() for layers in kind] for kind in counts]
                for kind in left:
                    kind[i][place] = 0
                left_out.append(left)
    return left_out


def proportion_over_clusters(value: float, left_out: Floats, most: float) -> tuple[float, float]:
    """Return Wilson's interval, low and high, of a proportion that varies between clusters.

    Args:
        value: the proportion.
        left_out: the proportion without each cluster in turn. With fewer than three, or any NaN, the interval is NaN.
        most: the number of heads, which the effective number does not exceed.
    """
    n = len(left_out)
    if n < LEAST_ROWS or np.isnan(left_out).any():
        return float("nan"), float("nan")
    variance = (n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum())
    alone = value * (1 - value)
    effective = min(most, alone / variance) if variance > 0 and alone > 0 else most
    # Few clusters know their own spread badly.
    effective *= float(stats.norm.ppf(0.975) / stats.t.ppf(0.975, n - 1)) ** 2
    low, high = wilson(value * effective, effective)
    return float(low), float(high)


def permutation_p(value: float, null: Floats, centre: float) -> float:
    """Return the two-sided p of a value against permutations: how often they are as far from the centre."""
    away = abs(value - centre)
    return float((1 + (np.abs(null - centre) >= away - 1e-9).sum()) / (1 + len(null)))


def slope_interval(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Return the slope of y on x with a regression's 95 % interval: NaN under three points, or on a line."""
    line = cast(Any, stats.linregress(x, y))
    slope, error = float(line.slope), float(line.stderr)
    if len(x) < LEAST_ROWS or not error > 1e-9 * abs(slope):
        return slope, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(x) - 2)) * error
    return slope, slope - half, slope + half


def chance_of_higher(ours: Floats, others: Floats) -> float:
    """Return how often one of ours is higher than one of the others, ties by half: the area under the ROC curve."""
    if not min(len(ours), len(others)):
        return float("nan")
    return float(((ours[:, None] > others) + 0.5 * (ours[:, None] == others)).mean())
