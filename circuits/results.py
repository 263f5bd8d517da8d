"""Effects as values: heads with their rows, intervals, controls and false discovery."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from circuits.statistics import interval, p_values, q_values
from interp import DamagedFile, InvalidInput
from interp.names import Head
from interp.results import Floats, HeadScores, ScoredHead, frozen, listed


@dataclass(frozen=True, eq=False)
class HeadEffects(HeadScores):
    """The change that ablating each head alone makes, with every row of the stimulus.

    `values` `[layer, head]` are means over `rows` `[layer, head, row]`, in nats: negative where the
    head helps. `control_rows` are the same change for the row's other tokens.
    """

    rows: Floats = None  # type: ignore[assignment]
    control_rows: Floats = None  # type: ignore[assignment]

    KIND = "head-effects"
    VERSION = 1

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

    def interval(self, seed: int = 0) -> tuple[Floats, Floats]:
        """A 95 % bootstrap interval of each effect over rows, low and high `[layer, head]`."""
        return interval(self.rows, seed=seed)

    @property
    def q_values(self) -> Floats:
        """Benjamini-Hochberg adjusted p-values of no effect, over all heads, `[layer, head]`."""
        return q_values(p_values(self.rows))

    def discoveries(self, q: float = 0.05) -> tuple[ScoredHead, ...]:
        """The heads with an effect at a false discovery rate, the most helpful first."""
        kept = np.where(self.q_values <= q, self.values, np.nan)
        return tuple(
            ScoredHead(found.address, self.name, -found.score)
            for found in HeadScores(self.name, self.site, -kept).heads()
        )

    def to_frame(self) -> pd.DataFrame:
        """One tidy row a head, with `low, high, control, q`."""
        low, high = self.interval()
        return (
            super()
            .to_frame()
            .assign(low=low.ravel(), high=high.ravel(), control=self.control.values.ravel(), q=self.q_values.ravel())
        )

    def to_dict(self) -> dict[str, Any]:
        """What JSON holds of it; NaN becomes null."""
        return super().to_dict() | {"rows": listed(self.rows), "control_rows": listed(self.control_rows)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            DamagedFile: a part is missing or of another form.
        """
        plain = HeadScores.from_dict(content)
        try:
            rows, control_rows = frozen(content["rows"]), frozen(content["control_rows"])
            return cls(**vars(plain), rows=rows, control_rows=control_rows)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(f"head effects cannot be read: {type(error).__name__}: {error}") from None


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """One k: the heads, the change in log-probability and the hits by row, and the controls' `[draw, row]`."""

    count: int
    heads: tuple[Head, ...]
    log_prob: Floats
    hit: Floats
    control_sets: tuple[tuple[Head, ...], ...]
    control_log_prob: Floats
    control_hit: Floats
    reason: str = ""


@dataclass(frozen=True, eq=False)
class AblationCurve:
    """The strongest k heads ablated, against random heads of the same layers, for several k.

    `clean_log_prob` and `clean_hit` are the unedited model's, by row.
    """

    points: tuple[CurvePoint, ...]
    clean_log_prob: Floats
    clean_hit: Floats
    provenance: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One tidy row a k and outcome, for the heads and, as `control...`, for the control sets.

        `effect` is the change in log-probability (nats), `accuracy` the share of rows whose
        continuation is predicted. `low, high` are 95 % bootstrap intervals over rows; the
        control's are the 2.5th and 97.5th percentiles over draws, and NaN where there is none.
        """
        rows = []
        for point in self.points:
            for outcome, own, others, clean in (
                ("effect", point.log_prob, point.control_log_prob, 0.0),
                ("accuracy", point.hit, point.control_hit, float(self.clean_hit.mean())),
            ):
                low, high = interval(own[None])
                means = others.mean(-1) if len(others) else np.array([np.nan])
                rows.append(
                    {
                        "count": point.count,
                        "outcome": outcome,
                        "clean": clean,
                        "value": own.mean(),
                        "low": low[0],
                        "high": high[0],
                        "control": means.mean(),
                        "control_low": np.percentile(means, 2.5),
                        "control_high": np.percentile(means, 97.5),
                        "draws": len(others),
                        "reason": point.reason,
                        "heads": " ".join(map(str, point.heads)),
                    }
                )
        return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class LayerEffects:
    """Whole layers ablated one at a time: changes in log-probability `[layer, row]`, and the control's."""

    layers: tuple[str, ...]
    rows: Floats
    control_rows: Floats
    provenance: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One tidy row a layer: `layer, effect, low, high, control, control_low, control_high, q`."""
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
                "q": q_values(p_values(self.rows)),
            }
        )


@dataclass(frozen=True, eq=False)
class SelfRepair:
    """Total and direct effects `[head, row]` of chosen heads, then of controls, and what restoring brings.

    `all_ablated` `[row]` is the effect of all chosen heads together.
    """

    heads: tuple[Head, ...]
    controls: tuple[Head, ...]
    total: Floats
    direct: Floats
    restored: Floats
    all_ablated: Floats
    provenance: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One tidy row a head: each part with its 95 % interval; `role` is `chosen` or `control`."""
        frame = pd.DataFrame(
            {
                "head": [str(head) for head in (*self.heads, *self.controls)],
                "role": ["chosen"] * len(self.heads) + ["control"] * len(self.controls),
            }
        )
        parts = {"total": self.total, "direct": self.direct, "repaired": self.total - self.direct}
        for name, rows in (parts | {"restored": self.restored}).items():
            low, high = interval(rows)
            frame = frame.assign(**{name: rows.mean(-1), f"{name}_low": low, f"{name}_high": high})
        return frame


@dataclass(frozen=True, eq=False)
class MosaicEffects:
    """How cross heads' scores change when earlier heads are ablated: `[ablated, layer, head, row]`.

    The controls are the mean change over other heads of the ablated head's layer, likewise.
    """

    heads: tuple[Head, ...]
    current_token: Floats
    token_to_right: Floats
    control_current_token: Floats
    control_token_to_right: Floats
    provenance: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One tidy row an ablated head, later cross head and kind: change, interval, control."""
        rows = []
        for kind in ("current_token", "token_to_right"):
            values, control = getattr(self, kind), getattr(self, f"control_{kind}").mean(-1)
            low, high = interval(values)
            for index, ablated in enumerate(self.heads):
                for layer, head in zip(*np.nonzero(~np.isnan(values[index].mean(-1))), strict=True):
                    at = (index, layer, head)
                    rows.append(
                        {
                            "ablated": str(ablated),
                            "head": str(Head("decoder", "cross", int(layer), int(head))),
                            "kind": kind,
                            "change": values[at].mean(),
                            "low": low[at],
                            "high": high[at],
                            "control": control[at],
                        }
                    )
        return pd.DataFrame(rows)
