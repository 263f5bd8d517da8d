"""Question 4: is the comb in the attention's spectrum the frequencies' gcd, smallest difference or minimum?

1. Draw multisines with random phases and amplitudes whose greatest common divisor g, smallest difference d and
   smallest frequency s differ.
2. A comb of spacing D is attention that repeats at lags of 1/D. Every multiple of d and of s is one of g, so the lags
   of g are among those of d and of s: the hypotheses are nested, and the one whose lags hold the energy at the least
   cost of lags wins (see `probes.periodic.combs`).
3. In each draw, compare the best of the three with the same attention permuted over positions and in blocks; the larger
   p counts. Do the same with the context shuffled, which has no period left.
4. Over draws, a head has a verdict if its combs are beyond chance more often than with the context shuffled (McNemar's
   exact test, false discovery controlled over heads), and one hypothesis wins more than half of those. Attention that
   does not depend on the series has no verdict.
5. Take the control through the same steps: attention that only falls off with the difference from the query's value.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, whose notebook leaves this open.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from math import gcd
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats

from interp import Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.user_series import read_series
from interp.models.model import as_model
from interp.results.by_head import provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result, frozen
from interp.results.statistics import q_values
from interp.validate import whole
from probes.periodic import combs as comb
from probes.periodic.context_attention import context_attention
from probes.periodic.head_combs import SITE
from probes.questions.by_seed import interval_columns
from probes.stimuli.periodic_series import MultisineDraws, whole_frequencies
from probes.stimuli.repeated_tokens import context_site
from probes.stimuli.time_series import positive, shuffled_context

HYPOTHESES = ("gcd", "smallest difference", "smallest frequency")
CASES = ((9, 15, 24), (10, 16, 26), (12, 20, 30))
"""Frequencies in Hz that tell the three apart: 3, 6, 9; 2, 6, 10; 2, 8, 12."""

LEVEL = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class CombOrigin(Result):
    """Which spacing each head's spectrum has, by draw; the last two axes are `[layer, head]`.

    Attributes:
        cases: the frequencies, by case, and their three `spacings` in Hz.
        scores: scores of the three hypotheses, in nats, `[hypothesis, case, draw, layer, head]`.
        strength: share of the energy at the lags of the gcd, beyond chance, `[case, draw, layer, head]`.
        p: p of the best of the three against permuted attention, whole and in blocks, `[case, draw, layer, head]`.
        shuffled_p: `p` with the context shuffled.
        control_scores, control_strength, control_p, control_shuffled_p: the same for matching by value, without heads.
        width: width of the control's kernel, in units of the series' mean absolute value.
        site: the kind of attention.
    """

    KIND = "comb-origin"

    cases: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[int, int, int], ...]
    scores: Floats
    strength: Floats
    p: Floats
    shuffled_p: Floats
    control_scores: Floats
    control_strength: Floats
    control_p: Floats
    control_shuffled_p: Floats
    width: float
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    site: str = SITE

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head, and one for the control, with the verdict.

        Returns:
            `head`, `detected` (share of draws with a comb beyond chance), `q` (that there are more than with the
            context shuffled, over heads), the share of those draws that each hypothesis wins, `verdict`, `margin`
            (winner's score over the next one's, in nats, with `margin_low`, `margin_high`), `strength`, and
            `over_control` (strength minus the control's, same draws, with its interval).
        """
        layers, heads = self.p.shape[-2:]
        rows = [self._row(f"{self.site}.{i}.{j}", (..., i, j)) for i, j in np.ndindex(layers, heads)]
        q = q_values(np.array([row.pop("p") for row in rows]))
        control = self._row("matching by value", None)
        frame = Frame([*rows, {k: v for k, v in control.items() if k != "p"}])
        frame.insert(2, "q", [*q, control["p"]])
        frame["verdict"] = frame["verdict"].where(frame["q"] <= LEVEL, "none")
        return frame

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("strength", ascending=False, kind="stable")

    def _row(self, name: str, at: Any) -> dict[str, Any]:
        """Summarize the draws of a head at an index of the arrays, or of the control, at None."""
        own = at is not None
        score = (self.scores[(slice(None), *at)] if own else self.control_scores).reshape(3, -1)
        strength = (self.strength[at] if own else self.control_strength).ravel()
        detected = (self.p[at] if own else self.control_p).ravel() <= LEVEL
        mixed = (self.shuffled_p[at] if own else self.control_shuffled_p).ravel() <= LEVEL
        only, against, count = int((detected & ~mixed).sum()), int((detected ^ mixed).sum()), int(detected.sum())
        wins = np.bincount(score[:, detected].argmax(0), minlength=3) if count else np.zeros(3, dtype=int)
        best = int(wins.argmax())
        low = stats.binomtest(int(wins[best]), count).proportion_ci(method="wilson").low if count else 0.0
        margin = score[best] - np.delete(score, best, axis=0).max(0)
        over = strength - self.control_strength.ravel() if own else np.array([np.nan])
        return {
            "head": name,
            "detected": float(detected.mean()),
            "p": stats.binomtest(only, against, alternative="greater").pvalue if against else 1.0,
            **{h: float(w / max(count, 1)) for h, w in zip(HYPOTHESES, wins, strict=True)},
            "verdict": HYPOTHESES[best] if low > 0.5 else "mixed",
            **interval_columns({"margin": margin}),
            "strength": float(strength.mean()),
            **interval_columns({"over_control": over}),
        }


@checked
def comb_origin(
    model: Model,
    cases: Sequence[Sequence[int]] = CASES,
    *,
    draws: int = 40,
    permutations: int = 99,
    num_decoder: int = 1,
    duration: float = 3.0,
    steps: int = 301,
    width: float = 0.1,
    seed: int = 0,
) -> CombOrigin:
    """Test if the spacing of each head's spectrum is the frequencies' gcd, smallest difference or minimum.

    Args:
        cases: sets of whole frequencies in Hz that tell the three apart.
        draws: draws of phases (uniform) and amplitudes (0.5 to 1) a case.
        permutations: permutations of each draw's attention over positions, and of its blocks.
        num_decoder: how many of the last values go to the decoder; the last of them looks.
        duration: of the series in seconds.
        width: as for `value_matching`, the control.

    Returns:
        Scores and p by draw; `to_frame()` has the verdict by head beside the control's.

    Raises:
        InvalidInput: a case that cannot tell the three apart, or whose gcd does not repeat twice in the context; no
            value at the decoder to look from.
    """
    as_model(model).require("tokens")
    if not isinstance(cast(Any, cases), Iterable):
        raise InvalidInput(f"cases={cases!r}: give sets of frequencies, as {CASES}.")
    sets = tuple(whole_frequencies("cases", case) for case in cases)
    if not sets:
        raise InvalidInput("no cases: give at least one set of frequencies.")
    stimulus = MultisineDraws(draws, num_decoder, duration, steps, seed)
    rng, n = np.random.default_rng(seed), stimulus.context
    spacings = tuple(_spacings(case) for case in sets)
    parts: dict[str, list[Floats]] = {}
    for case, three in zip(sets, spacings, strict=True):
        if stimulus.period(three[0]) > n / 2:
            raise InvalidInput(
                f"{case}: their gcd, {three[0]} Hz, does not repeat twice in the context, {n} of {steps} steps."
            )
        among = comb.combs(n, [stimulus.period(spacing) for spacing in three])
        values = stimulus.series(rng, case)
        mixed = shuffled_context(np.random.default_rng((seed, len(parts))), values, n)
        sources = {
            "": [context_attention(model, rows, num_decoder=num_decoder) for rows in (values, mixed)],
            "control_": [value_matching(rows, num_decoder, width) for rows in (values, mixed)],
        }
        for name, (paid, shuffled) in sources.items():
            scores, strength, p = _compared(paid, among, permutations, rng)
            shuffled_p = _compared(shuffled, among, permutations, rng)[2]
            for part, array in {"scores": scores, "strength": strength, "p": p, "shuffled_p": shuffled_p}.items():
                parts.setdefault(name + part, []).append(array)
    arrays = {name: frozen(np.stack(by_case, axis=1 if "scores" in name else 0)) for name, by_case in parts.items()}
    settings = {"cases": [list(case) for case in sets], "permutations": permutations, "width": width}
    source = provenance(model, name="comb_origin", **settings, **vars(stimulus))
    return CombOrigin(sets, spacings, **arrays, width=width, provenance=source, site=context_site(model))


def value_matching(values: Floats, num_decoder: int = 1, width: float = 0.1) -> Floats:
    """Compute attention that only falls off with the difference from the last value.

    Args:
        values: series, `[series, step]`.
        num_decoder: how many of the last values are not in the context.
        width: width of the kernel exp(-|x_i - x_T| / width), in units of the series' mean absolute value.

    Returns:
        `[series, step]` over the context, adding to 1.

    Raises:
        InvalidInput: no series `[series, step]`, values that are missing or all zero, nothing left for the context, or
            a width that is not positive.
    """
    rows = read_series(values).values
    n = rows.shape[1] - whole("num_decoder", num_decoder, 0)
    if n < 1:
        raise InvalidInput(f"values {list(rows.shape)} without the last {num_decoder}: [series, step] is needed.")
    size = np.abs(rows).mean(1, keepdims=True)
    if not (np.isfinite(size) & (size > 0)).all():
        raise InvalidInput("series that are all zero, or hold missing or infinite values, cannot be scaled.")
    away = np.abs(rows[:, :n] - rows[:, -1:]) / size
    paid = np.exp(-away / positive("width", width))
    return paid / paid.sum(1, keepdims=True)


def _compared(
    paid: Floats, among: comb.Combs, permutations: int, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Return scores `[hypothesis, draw, ...]`, strength at the gcd and p of the best, `[draw, ...]`."""
    share, score = comb.comb_scores(comb.lag_energy(paid), among)
    draws, seed = whole("permutations", permutations, 19), int(rng.integers(2**31))
    p = [
        comb.p_values(score.max(-1), null(paid, among, draws, seed))
        for null in (comb.permutation_null, comb.block_null)
    ]
    strength = (share[..., 0] - among.chance[0]) / (1 - among.chance[0])
    return np.moveaxis(score, -1, 0), strength, np.maximum(*p)


def _spacings(case: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the three hypotheses' spacings in Hz: gcd, smallest difference, smallest frequency."""
    if len(set(case)) < 2:
        raise InvalidInput(f"{case}: give two different frequencies or more.")
    least = reduce(gcd, case)
    ordered = sorted(set(case))
    three = (least, min(b - a for a, b in pairwise(ordered)), ordered[0])
    if len(set(three)) < 3:
        raise InvalidInput(
            f"{case}: gcd {three[0]}, smallest difference {three[1]} and smallest frequency {three[2]} Hz do not all "
            f"differ, so nothing can tell them apart. Try {CASES[0]}."
        )
    if all(f // least % 2 for f in case):
        raise InvalidInput(
            f"{case} are all odd multiples of {least}: the series is antiperiodic, and any odd response has a comb of "
            f"{2 * least} Hz. Try {CASES[0]}."
        )
    return three
