"""The comb in each head's spectrum as a value: spacing, strength, and how certain it is."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from interp.results.by_head import HeadScores, ScoredHead
from interp.results.frame import Frame
from interp.results.result import Floats, Result

SITE = "decoder.cross"
"""The kind of attention of results that do not name it."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadCombs(Result):
    """The comb in each head's spectrum; all arrays `[layer, head]`.

    Attributes:
        spacing: distance of the spectrum's peaks, in cycles a `unit` of the series; NaN without a comb.
        strength: how periodic the spectrum is with that spacing: near 1 entirely, 0 as by chance.
        p_permuted: p against the same attention permuted over positions.
        p_blocks: p against the same attention with its blocks permuted, which keeps it as smooth or bumpy as it is;
            None if unknown.
        p_shuffled: p against the attention to the series with its context shuffled; NaN without such runs.
        p: the largest of the three.
        q: `p` controlled for false discovery over heads (Benjamini & Hochberg).
    """

    KIND = "head-combs"

    spacing: Floats
    strength: Floats
    p_permuted: Floats
    p_shuffled: Floats
    p: Floats
    q: Floats
    unit: str = "s"
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    site: str = SITE
    p_blocks: Floats | None = None

    def heads(self, level: float = 0.05) -> tuple[ScoredHead, ...]:
        """Return the heads whose comb is beyond chance at a false discovery rate, strongest first."""
        strengths = HeadScores("comb", self.site, np.where(self.q <= level, self.strength, np.nan))
        return strengths.heads()

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head: `head, layer, index, spacing, period, strength, p_permuted, p_blocks, p_shuffled,
        p, q`."""
        layers, heads = self.spacing.shape
        names = ("spacing", "strength", "p_permuted", "p_blocks", "p_shuffled", "p", "q")
        frame = Frame(
            {
                "head": [f"{self.site}.{i}.{j}" for i, j in np.ndindex(layers, heads)],
                "layer": np.repeat(np.arange(layers), heads),
                "index": np.tile(np.arange(heads), layers),
                **{name: np.nan if (table := getattr(self, name)) is None else table.ravel() for name in names},
            }
        )
        frame.insert(4, "period", 1 / frame["spacing"])
        return frame

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("strength", ascending=False, kind="stable")
