"""The induction mosaic as a value: scores by layer and head, counts, comparison, files."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd

from interp.errors import InvalidInput
from interp.results.by_head import HeadScores, ScoredHead
from interp.results.frame import Frame
from interp.results.result import Floats, Result, frozen
from interp.validate import whole

THRESHOLD = 0.3
"""The score from which a head counts as an induction head, as published."""

SITES = ("decoder.cross", "decoder.self", "encoder.self")
"""The attention that reads the past: with an encoder, without, and of a model of patches in the encoder too."""

KINDS = ("current_token", "token_to_right")


@dataclass(frozen=True)
class Counts:
    """How many heads are induction heads, by kind, and what share of all of the mosaic that is.

    `total` is the published notebook's: current and right added, a head with both counted twice;
    `either` counts each head once. Proportions are of `n_heads`.
    """

    threshold: float
    current_token: int
    token_to_right: int
    either: int
    n_heads: int
    n_parameters: int | None

    def __str__(self) -> str:
        kinds = f"{self.current_token} current, {self.token_to_right} right"
        return f"{self.either} of {self.n_heads} heads at {self.threshold:g}: {kinds}"

    @property
    def total(self) -> int:
        """Current and right heads added."""
        return self.current_token + self.token_to_right

    @property
    def proportions(self) -> dict[str, float]:
        """Each count as a share of all heads."""
        names = (*KINDS, "either", "total")
        return {name: float(getattr(self, name)) / self.n_heads for name in names}


@dataclass(frozen=True)
class Comparison:
    """How close two mosaics are, by kind: largest difference, Spearman correlation, counts."""

    largest_difference: dict[str, float]
    rank_correlation: dict[str, float]
    counts: dict[str, tuple[int, int]]


@dataclass(frozen=True, eq=False, repr=False)
class Mosaic(Result):
    """The scores of all heads that read the past on repeated random tokens.

    They are the `decoder.cross` heads of an encoder-decoder, or the `decoder.self` heads of a decoder alone. On
    repeated random patches a token is a patch, and `eos` is [REG]; there are mosaics of `encoder.self` too.

    Attributes:
        current_token: attention to the query token's last earlier occurrence.
        token_to_right: attention to the position after it.
        n_tokens: number of tokens that the query sees, with EOS or, in a decoder alone, itself: chance is
            `1 / n_tokens`.
        eos: attention to EOS or [REG]; None without either, and for published mosaics.
        occurrence_sum: attention to all earlier occurrences of the query's token, added; None for published mosaics.
        current_by_occurrence: attention to each earlier occurrence, `[layer, head, occurrence]`,
            occurrence 0 being the last; None for published mosaics.
        right_by_occurrence: the same one position to the right.
        bin_errors: |predicted - continuation| in bins for each row, NaN where a special token is predicted; None for
            patches and published mosaics.
        provenance: the model, its weights' digest, the stimulus, versions.

    Source: "Hunting for Induction Heads in Amazon's Chronos", part 2.
    """

    current_token: HeadScores
    token_to_right: HeadScores
    n_tokens: int
    eos: HeadScores | None = None
    occurrence_sum: HeadScores | None = None
    current_by_occurrence: Floats | None = None
    right_by_occurrence: Floats | None = None
    bin_errors: Floats | None = None
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    KIND = "induction-mosaic"
    VERSION = 2

    def __post_init__(self) -> None:
        shape = self.current_token.values.shape
        panels = [self.current_token, self.token_to_right, self.eos, self.occurrence_sum]
        for panel in (p for p in panels if p is not None):
            if panel.values.shape != shape or panel.site != self.site or panel.site not in SITES:
                raise InvalidInput(
                    f"a mosaic's panels must all be of one shape and of one of {', '.join(SITES)}: {panel.name} is of "
                    f"{panel.site}."
                )
        for name in ("current_by_occurrence", "right_by_occurrence", "bin_errors"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, frozen(values))
                if name != "bin_errors" and getattr(self, name).shape[:2] != shape:
                    raise InvalidInput(f"{name} must be [layer, head, occurrence] for {list(shape)} heads.")
        whole("n_tokens", self.n_tokens, 1)
        super().__post_init__()

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.provenance.get("model", "model"))

    @property
    def site(self) -> str:
        """The kind of attention, such as `decoder.cross`, or `decoder.self` without an encoder."""
        return self.current_token.site

    @property
    def either(self) -> HeadScores:
        """The larger of the two scores of each head: part 2's definition."""
        c, r = self.current_token, self.token_to_right
        stderr = None
        if c.stderr is not None and r.stderr is not None:
            stderr = np.where(c.values >= r.values, c.stderr, r.stderr)
        return HeadScores("either", c.site, np.maximum(c.values, r.values), stderr, provenance=self.provenance)

    @property
    def lift(self) -> HeadScores:
        """`either` in units of chance, `1 / n_tokens`."""
        e = self.either
        stderr = None if e.stderr is None else e.stderr * self.n_tokens
        return HeadScores(
            "lift", e.site, e.values * self.n_tokens, stderr, unit="times chance", provenance=self.provenance
        )

    def accuracy(self, within: int = 0) -> float:
        """Return the share of rows whose continuation is predicted at most `within` bins off; NaN if not known."""
        return float("nan") if self.bin_errors is None else float((self.bin_errors <= within).mean())

    def heads(self, threshold: float = THRESHOLD) -> tuple[ScoredHead, ...]:
        """Return the induction heads, each once, strongest first, with their stronger kind."""
        kind = np.where(self.current_token.values >= self.token_to_right.values, *KINDS)
        return tuple(
            ScoredHead(h.address, str(kind[h.address.layer, h.address.head]), h.score)
            for h in self.either.heads(threshold)
        )

    def counts(self, threshold: float = THRESHOLD) -> Counts:
        """Count the heads that reach the threshold, by kind."""
        return Counts(
            threshold=threshold,
            current_token=int((self.current_token.values >= threshold).sum()),
            token_to_right=int((self.token_to_right.values >= threshold).sum()),
            either=int((self.either.values >= threshold).sum()),
            n_heads=int(self.current_token.values.size),
            n_parameters=self.provenance.get("n_parameters"),
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head: both scores with standard errors, lift, EOS, sums, and where the head is."""
        c, r = self.current_token, self.token_to_right
        layers, heads = c.values.shape
        return Frame(
            {
                "head": [str(c.head(i, j)) for i, j in np.ndindex(layers, heads)],
                "current_token": c.values.ravel(),
                "current_token_stderr": _ravel(c.stderr, c.values),
                "token_to_right": r.values.ravel(),
                "token_to_right_stderr": _ravel(r.stderr, r.values),
                "either": self.either.values.ravel(),
                "lift": self.lift.values.ravel(),
                "eos": _ravel(None if self.eos is None else self.eos.values, c.values),
                "occurrence_sum": _ravel(None if self.occurrence_sum is None else self.occurrence_sum.values, c.values),
                "layer": np.repeat(np.arange(layers), heads),
                "index": np.tile(np.arange(heads), layers),
                "relative_layer": np.repeat((np.arange(layers) + 1) / layers, heads),
                "model": self.name,
            }
        )

    def compare(self, other: Self) -> Comparison:
        """Compare with another mosaic of the same shape.

        Returns:
            By kind: the largest difference, Spearman's rank correlation over heads, and both counts at 0.3.

        Raises:
            InvalidInput: mosaics of different shapes.
        """
        if self.current_token.values.shape != other.current_token.values.shape:
            raise InvalidInput(
                f"{self.name} has {list(self.current_token.values.shape)} [layer, head] and {other.name} "
                f"{list(other.current_token.values.shape)}: only mosaics of one shape can be compared."
            )
        pairs = {kind: (getattr(self, kind).values, getattr(other, kind).values) for kind in KINDS}
        return Comparison(
            {kind: float(np.abs(a - b).max()) for kind, (a, b) in pairs.items()},
            {kind: _spearman(a, b) for kind, (a, b) in pairs.items()},
            {kind: (int((a >= THRESHOLD).sum()), int((b >= THRESHOLD).sum())) for kind, (a, b) in pairs.items()},
        )

    @classmethod
    def _of_old(cls, content: dict[str, Any]) -> dict[str, Any]:
        panels = {name: _panel(content[name]) for name in (*KINDS, "eos", "occurrence_sum")}
        names = ("current_by_occurrence", "right_by_occurrence", "bin_errors")
        arrays = {name: None if content[name] is None else frozen(content[name]) for name in names}
        return panels | arrays | {name: content[name] for name in ("n_tokens", "provenance")}

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("either", ascending=False)


def _panel(content: dict[str, Any] | None) -> HeadScores | None:
    return None if content is None else HeadScores._of_contents(HeadScores._of_old(content))


def _ravel(values: Floats | None, like: Floats) -> Floats:
    return (np.full(like.shape, np.nan) if values is None else values).ravel()


def _spearman(a: Floats, b: Floats) -> float:
    first, second = (pd.Series(x.ravel()).rank().to_numpy() for x in (a, b))
    return float(np.corrcoef(first, second)[0, 1])
