"""Effects as values: heads with their rows, intervals, controls and false discovery."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from circuits.controls import columns_of_controls
from interp import InvalidInput
from interp.names import Head
from interp.results.by_head import HeadScores, ScoredHead
from interp.results.result import Floats, Result, frozen
from interp.results.statistics import (
    Test,
    interval,
    p_values,
    proportion_change_interval,
    proportion_interval,
    q_values,
)


@dataclass(frozen=True, eq=False, repr=False)
class HeadEffects(HeadScores):
    """The change that ablating each head alone makes, with every row of the stimulus.

    `values` `[layer, head]` are means over `rows` `[layer, head, row]`, in nats: negative where the
    head helps. `control_rows` are the same change for the row's other tokens.
    """

    rows: Floats = None  # type: ignore[assignment]
    control_rows: Floats = None  # type: ignore[assignment]

    KIND = "head-effects"
    VERSION = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rows", "control_rows"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
            if getattr(self, name).shape[:2] != self.values.shape or getattr(self, name).ndim != 3:
                raise InvalidInput(f"{name} must be [layer, head, row] for {list(self.values.shape)} heads.")

    @classmethod
    def of(cls, site: str, rows: Floats, control_rows: Floats, source: dict[str, Any]) -> Self:
        """From rows `[layer, head, row]`."""
        n = rows.shape[-1]
        stderr = rows.std(-1, ddof=1) / n**0.5 if n > 1 else None
        return cls(
            name="effect",
            site=site,
            values=rows.mean(-1),
            stderr=stderr,
            unit="change in log-probability (nats)",
            provenance=source,
            rows=rows,
            control_rows=control_rows,
        )

    @property
    def control(self) -> HeadScores:
        """The same change for the row's other tokens: what the ablation does at large."""
        return HeadScores("control", self.site, self.control_rows.mean(-1), None, self.unit, self.provenance)

    @property
    def helpful(self) -> HeadScores:
        """How much each head helps: the effect with its sign turned, so that the strongest comes first."""
        return HeadScores("help", self.site, -self.values, self.stderr, self.unit, self.provenance)

    def interval(self) -> tuple[Floats, Floats]:
        """Student's 95 % interval of each effect over rows, low and high `[layer, head]`; NaN under three rows."""
        return interval(self.rows)

    @property
    def q_values(self) -> Floats:
        """Benjamini-Hochberg adjusted p-values of no effect, by the t-test, over all heads, `[layer, head]`."""
        return q_values(p_values(self.rows))

    def discoveries(self, q: float = 0.05, test: Test = "t") -> tuple[ScoredHead, ...]:
        """The heads with an effect at a false discovery rate, the most helpful first.

        Args:
            q: the rate.
            test: `t`, or `sign flips`, which does not take rows for near-normal (`interp.results.statistics.p_values`).

        Raises:
            InvalidInput: another test.
        """
        kept = np.where(q_values(p_values(self.rows, test)) <= q, self.values, np.nan)
        return tuple(
            ScoredHead(found.address, self.name, -found.score)
            for found in HeadScores(self.name, self.site, -kept).heads()
        )

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """One tidy row a head, with `low, high` (Student's 95 % over rows), `control, q`.

        Args:
            test: of no effect, of which `q` is adjusted: `t`, or `sign flips`.

        Raises:
            InvalidInput: another test.
        """
        low, high = self.interval()
        q = q_values(p_values(self.rows, test)).ravel()
        return super().to_frame().assign(low=low.ravel(), high=high.ravel(), control=self.control.values.ravel(), q=q)

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("score")

    @classmethod
    def _of_old(cls, content: dict[str, Any]) -> dict[str, Any]:
        rows = {name: frozen(content[name]) for name in ("rows", "control_rows")}
        return super()._of_old(content) | rows


@dataclass(frozen=True, eq=False, repr=False)
class CurvePoint(Result):
    """One k: the heads, the change in log-probability and the hits by row, and the controls' `[draw, row]`."""

    KIND = "curve-point"

    count: int
    heads: tuple[Head, ...]
    log_prob: Floats
    hit: Floats
    control_sets: tuple[tuple[Head, ...], ...]
    control_log_prob: Floats
    control_hit: Floats
    reason: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class AblationCurve(Result):
    """The strongest k heads ablated, against random heads of the same layers, for several k.

    `clean_log_prob` and `clean_hit` are the unedited model's, by row; `forecasts` are those of the
    same sets, where series were given.
    """

    KIND = "ablation-curve"

    points: tuple[CurvePoint, ...]
    clean_log_prob: Floats
    clean_hit: Floats
    provenance: dict[str, Any]
    forecasts: "ForecastEffects | None" = None

    def to_frame(self) -> pd.DataFrame:
        """One tidy row a k and outcome, for the heads and, as `control...`, for the control sets.

        `effect` is the change in log-probability (nats), `accuracy` the share of rows whose continuation is predicted,
        and `accuracy change` that minus the unedited model's, row by row. `low, high` are 95 % intervals over rows:
        Student's, Wilson's, and Bonett & Price's. `control_low, control_high` are the least and the largest mean of
        the control sets, or the middle 95 % of 39 sets or more, as `band` says; `p` is the rank of the value among
        the sets, which cannot come under 1 / (1 + draws). All of these are NaN where there is no control.
        """
        rows = []
        for point in self.points:
            clean = float(self.clean_hit.mean())
            change_interval = proportion_change_interval(point.hit, self.clean_hit)
            change, others_change = point.hit - self.clean_hit, point.control_hit - self.clean_hit
            for outcome, own, (low, high), others, level in (
                ("effect", point.log_prob, interval(point.log_prob), point.control_log_prob, 0.0),
                ("accuracy", point.hit, proportion_interval(point.hit), point.control_hit, clean),
                ("accuracy change", change, change_interval, others_change, 0.0),
            ):
                means = others.mean(-1) if len(others) else np.empty(0)
                rows.append(
                    {
                        "count": point.count,
                        "outcome": outcome,
                        "clean": level,
                        "value": own.mean(),
                        "low": float(low),
                        "high": float(high),
                        **columns_of_controls(float(own.mean()), means),
                        "reason": point.reason,
                        "heads": " ".join(map(str, point.heads)),
                    }
                )
        return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False, repr=False)
class LayerEffects(Result):
    """Whole layers ablated one at a time: changes in log-probability `[layer, row]`, and the control's."""

    KIND = "layer-effects"

    layers: tuple[str, ...]
    rows: Floats
    control_rows: Floats
    provenance: dict[str, Any]

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """One tidy row a layer: `layer, effect, low, high, control, control_low, control_high, q`.

        All intervals are Student's over rows, the control's too: it is the same rows' other tokens.

        Args:
            test: of no effect, of which `q` is adjusted: `t`, or `sign flips`.

        Raises:
            InvalidInput: another test.
        """
        (low, high), (under, over) = interval(self.rows), interval(self.control_rows)
        return pd.DataFrame(
            {
                "layer": self.layers,
                "effect": self.rows.mean(-1),
                "low": low,
                "high": high,
                "control": self.control_rows.mean(-1),
                "control_low": under,
                "control_high": over,
                "q": q_values(p_values(self.rows, test)),
            }
        )


@dataclass(frozen=True, eq=False, repr=False)
class ForecastEffects(Result):
    """Forecasts unedited, ablated and under controls, with what they are worth.

    Attributes:
        names: of the variants: `unedited`, the ablations, their controls.
        sets: what each variant ablates.
        controls: by ablation, the names of its controls.
        reasons: by ablation, why it has no controls or fewer than asked; empty otherwise.
        outcomes: by name, `[variant, series]`: `nll` (nats a step over the value tokens, the truth read step by step),
            `crps` (of the bins' distribution, likewise), `mase`, `wql`, `distance` (of the median
            to the unedited one), `to_parroting` (of the median to the parroted forecast),
            `parroting` (correlation of the two over steps). CRPS and distances are in units of the
            context's mean absolute seasonal difference, as MASE is.
        baselines: `mase` and `wql` `[series]` of `naive`, `seasonal_naive`, `parroting`.
        contexts: `[series, step]`.
        truth: `[series, step]`.
        fans: quantile forecasts 0.1 to 0.9, `[variant, series, quantile, step]`.
        points: the baselines' forecasts, `[series, step]`.
        provenance: the model, its weights' digest, seeds, versions.
    """

    KIND = "forecast-effects"

    names: tuple[str, ...]
    sets: dict[str, tuple[str, ...]]
    controls: dict[str, tuple[str, ...]]
    reasons: dict[str, str]
    outcomes: dict[str, Floats]
    baselines: dict[str, dict[str, Floats]]
    contexts: Floats
    truth: Floats
    fans: Floats
    points: dict[str, Floats]
    provenance: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One tidy row a variant, series and outcome; the baselines' among them."""
        rows = [
            {"variant": name, "series": i, "outcome": outcome, "value": float(value)}
            for outcome, values in self.outcomes.items()
            for name, of_series in zip(self.names, values, strict=True)
            for i, value in enumerate(of_series)
        ]
        rows += [
            {"variant": name, "series": i, "outcome": outcome, "value": float(value)}
            for name, found in self.baselines.items()
            for outcome, values in found.items()
            for i, value in enumerate(values)
        ]
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """One row an ablation and outcome: means over series, the change, and the controls' change.

        `low, high` are Student's 95 % interval of the change over series (NaN under three series); `control` is the
        mean change over control sets, `control_low, control_high` the least and the largest of them, or the middle
        95 % of 39 sets or more, as `band` says; `p` is the rank of the change among theirs, which cannot come under
        1 / (1 + draws). `series` is how many have the outcome under all of these.
        """
        rows = []
        for name in self.controls:
            for outcome, values in self.outcomes.items():
                variants = values[[0, self.names.index(name), *(self.names.index(c) for c in self.controls[name])]]
                # A correlation with parroting does not exist where what is parroted is flat.
                kept = ~np.isnan(variants).any(0)
                clean, own, *controls = variants[:, kept]
                low, high = interval((own - clean)[None])
                if not kept.any():
                    clean, own, controls = np.full(1, np.nan), np.full(1, np.nan), []
                others = np.array([float((control - clean).mean()) for control in controls])
                rows.append(
                    {
                        "ablation": name,
                        "outcome": outcome,
                        "unedited": clean.mean(),
                        "ablated": own.mean(),
                        "change": (own - clean).mean(),
                        "low": low[0],
                        "high": high[0],
                        **columns_of_controls(float((own - clean).mean()), others),
                        "draws": len(self.controls[name]),
                        "series": int(kept.sum()),
                        "reason": self.reasons[name],
                    }
                )
        return pd.DataFrame(rows)
