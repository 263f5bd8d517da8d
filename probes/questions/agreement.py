"""Question 3: do induction heads on repeated random tokens also work on periodic series?

1. Draw multisines with random phases; the last value is at the decoder, as the query is in repeated random tokens.
2. Give each head that reads the past five scores: attention to the steps of the query's phase in earlier periods,
   attention to the steps after those, the highest magnitude of its attention's spectrum, how periodic that spectrum is,
   and the highest magnitude of the spectrum's own spectrum.
3. Compare their ranks with the mosaic's, over heads and within layers. The control is the same series with its context
   shuffled, which has no phase to attend to.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, which asks this of small models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import gcd
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import torch
from scipy import stats

from interp import Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.models.model import as_model
from interp.results.by_head import HeadScores, over_rows, provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import rank_correlation
from interp.validate import number
from probes.induction.mosaic import THRESHOLD, Mosaic
from probes.periodic import combs as comb
from probes.periodic.context_attention import context_attention
from probes.stimuli.periodic_series import MultisineDraws, whole_frequencies
from probes.stimuli.repeated_tokens import context_site
from probes.stimuli.time_series import shuffled_context

MEASURES = ("same_phase", "next_phase", "amplitude", "comb", "second_amplitude")

PUBLISHED = ((5, 10, 20, 40), (1.0, 0.75, 0.5, 0.5))
"""Frequencies in Hz and amplitudes of the published notebook."""


@dataclass(frozen=True, eq=False, repr=False)
class MultisineScores(Result):
    """Scores on multisines of each head that reads the past: means over draws with their standard errors.

    Attributes:
        same_phase: attention to the steps one, two, ... periods before the query, added.
        next_phase: attention to the steps after those, added.
        amplitude: the highest magnitude of the attention's spectrum, the constant part left out.
        comb: strength of the best comb in that spectrum.
        shuffled: the same scores by name, with the context shuffled.
        second_amplitude: the highest magnitude of the FFT of that spectrum's magnitudes, the constant part left out;
            None in files from before there was one.
    """

    KIND = "multisine-scores"

    same_phase: HeadScores
    next_phase: HeadScores
    amplitude: HeadScores
    comb: HeadScores
    shuffled: dict[str, HeadScores] = field(default_factory=dict[str, HeadScores])
    second_amplitude: HeadScores | None = None

    @property
    def scores(self) -> dict[str, HeadScores]:
        """The scores by name, those that there are."""
        return {name: scores for name in MEASURES if (scores := getattr(self, name)) is not None}

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head: `head, layer, index`, the scores, and the same as `shuffled_...`."""
        frame = self.same_phase.to_frame().loc[:, ["head", "layer", "index"]]
        for name, scores in self.scores.items():
            frame[name] = scores.values.ravel()
        for name, scores in self.shuffled.items():
            frame[f"shuffled_{name}"] = scores.values.ravel()
        return frame

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("same_phase", ascending=False, kind="stable")

    def _title(self) -> str:
        return f"MultisineScores of {self.name}"

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        """Read files from before there was a second amplitude too."""
        return super()._of_contents({"second_amplitude": None} | values)

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.same_phase.provenance.get("model", "model"))


@checked
def multisine_scores(
    model: Model,
    frequencies: Sequence[int] = PUBLISHED[0],
    amplitudes: Sequence[float] | float = PUBLISHED[1],
    *,
    draws: int = 40,
    num_decoder: int = 1,
    duration: float = 3.0,
    steps: int = 301,
    seed: int = 0,
) -> MultisineScores:
    """Score each head that reads the past on multisines of random phases.

    Args:
        frequencies: whole numbers of Hz; their greatest common divisor is the period's inverse.
        amplitudes: one for all or one a component.
        draws: number of draws of the phases.
        num_decoder: how many of the last values go to the decoder; the last of them looks.
        duration: of the series in seconds.

    Returns:
        Five scores by head, and the same with the context shuffled.

    Raises:
        InvalidInput: no value at the decoder, or as for `multisine`.
    """
    as_model(model).require("tokens")
    stimulus = MultisineDraws(draws, num_decoder, duration, steps, seed)
    tones = whole_frequencies("frequencies", frequencies)
    if not tones:
        raise InvalidInput("no frequencies: give at least one.")
    period, n, query = stimulus.period(reduce(gcd, tones)), stimulus.context, steps - 1
    if n < 2 * period:
        raise InvalidInput(f"a period of {period:.0f} steps does not come twice in a context of {n}: take more steps.")
    rng = np.random.default_rng(seed)
    values = stimulus.series(rng, tones, amplitudes)
    mixed = shuffled_context(rng, values, n)
    back = np.rint(np.arange(1, int(query / period) + 1) * period).astype(int)
    places = {"same_phase": query - back, "next_phase": query + 1 - back}
    components = {"frequencies": list(tones), "amplitudes": np.atleast_1d(amplitudes).tolist()}
    source = provenance(model, name="multisine_scores", **components, **vars(stimulus))
    real, control = (
        _scored(context_attention(model, rows, num_decoder=num_decoder), places, context_site(model), source)
        for rows in (values, mixed)
    )
    return MultisineScores(**real, shuffled=control)


def _scored(paid: Floats, places: Mapping[str, Any], site: str, source: dict[str, Any]) -> dict[str, HeadScores]:
    """Compute the scores of attention `[draw, layer, head, step]`."""
    n = paid.shape[-1]
    rows = {name: paid[..., at[(at >= 0) & (at < n)]].sum(-1) for name, at in places.items()}
    spectrum = np.abs(np.fft.rfft(paid, axis=-1))
    rows["amplitude"] = spectrum[..., 1:].max(-1)
    rows["second_amplitude"] = np.abs(np.fft.rfft(spectrum, axis=-1))[..., 1:].max(-1)
    rows["comb"] = comb.best_comb(comb.lag_energy(paid), comb.candidates(n)).strength
    return {
        name: over_rows(name, site, torch.from_numpy(np.swapaxes(r, 0, 1).copy()), source) for name, r in rows.items()
    }


@dataclass(frozen=True, eq=False, repr=False)
class Agreement(Result):
    """Scores of the same heads on repeated random tokens and on multisines, and how they rank them."""

    KIND = "agreement"

    mosaic: Mosaic
    multisine: MultisineScores
    threshold: float = THRESHOLD

    def to_frame(self) -> pd.DataFrame:
        """Return one row per multisine score.

        Returns:
            `measure`; Spearman's `rho` with the mosaic's `either` over heads and its `p`, `within_layers` and
            `within_layers_p` (permutations); `auc`, the chance that an induction head has more of it than another head,
            with its `auc_p` (Mann & Whitney); and `shuffled_rho`, the correlation where the context was shuffled.
        """
        either = self.mosaic.either.values
        chosen = either >= self.threshold
        rows: list[dict[str, Any]] = []
        for name, scores in self.multisine.scores.items():
            values = scores.values
            ranks = rank_correlation(either, values)
            auc, auc_p = float("nan"), float("nan")
            if 0 < chosen.sum() < chosen.size:
                test: Any = stats.mannwhitneyu(values[chosen], values[~chosen])
                auc, auc_p = float(test.statistic) / float(chosen.sum() * (~chosen).sum()), float(test.pvalue)
            shuffled = rank_correlation(either, self.multisine.shuffled[name].values, draws=1)
            rows.append(
                {
                    "measure": name,
                    "rho": ranks["overall"],
                    "p": ranks["overall_p"],
                    "within_layers": ranks["within_layers"],
                    "within_layers_p": ranks["within_layers_p"],
                    "auc": auc,
                    "auc_p": auc_p,
                    "shuffled_rho": shuffled["overall"],
                }
            )
        return Frame(rows)

    def _title(self) -> str:
        return f"Agreement of repeated random tokens and multisines on {self.mosaic.name}"

    def heads(self) -> pd.DataFrame:
        """Return one row per head: `head, layer, index, either, induction` and the multisine scores."""
        frame: Any = self.mosaic.to_frame()[["head", "layer", "index", "either"]]
        frame["induction"] = frame["either"] >= self.threshold
        for name, scores in self.multisine.scores.items():
            frame[name] = scores.values.ravel()
        return frame


@checked
def agreement(mosaic: Mosaic, multisine: MultisineScores, *, threshold: float = THRESHOLD) -> Agreement:
    """Compare the mosaic's scores with the result of `multisine_scores` of the same model.

    Returns:
        Both, with rank correlations over heads and within layers by `to_frame()`.

    Raises:
        InvalidInput: scores of different models.
    """
    if not isinstance(cast(Any, mosaic), Mosaic) or not isinstance(cast(Any, multisine), MultisineScores):
        raise InvalidInput(
            f"agreement({type(mosaic).__name__}, {type(multisine).__name__}): give a mosaic and what "
            "multisine_scores returns."
        )
    number("threshold", threshold)
    ours, theirs = mosaic.provenance, multisine.same_phase.provenance
    if mosaic.either.values.shape != multisine.same_phase.values.shape or ours.get("digest") != theirs.get("digest"):
        raise InvalidInput(
            f"a mosaic of {mosaic.name} and multisine scores of {multisine.name}, or of other weights: take both of "
            "one model."
        )
    return Agreement(mosaic, multisine, threshold)
