"""The induction mosaic as a value: scores by layer and head, counts, comparison, files."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp import Batch, Model, capture
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.models.model import as_model
from interp.names import Stack
from interp.results.by_head import HeadScores, ScoredHead, over_rows, provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result, frozen
from interp.validate import whole
from probes.stimuli.repeated_tokens import RepeatedTokens, context_site, repeated_random_tokens, stimulus_of

THRESHOLD = 0.3
"""The score from which a head counts as an induction head, as published."""

SITES = ("decoder.cross", "decoder.self")
"""The attention that reads the past: with an encoder, and without."""

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

    They are the `decoder.cross` heads of an encoder-decoder, or the `decoder.self` heads of a decoder alone.

    Attributes:
        current_token: attention to the query token's last earlier occurrence.
        token_to_right: attention to the position after it.
        n_tokens: number of tokens that the query sees, with EOS or, in a decoder alone, itself: chance is
            `1 / n_tokens`.
        eos: attention to EOS; None without an encoder or EOS, and for published mosaics.
        occurrence_sum: attention to all earlier occurrences of the query's token, added; None for published mosaics.
        current_by_occurrence: attention to each earlier occurrence, `[layer, head, occurrence]`,
            occurrence 0 being the last; None for published mosaics.
        right_by_occurrence: the same one position to the right.
        bin_errors: |predicted - continuation| in bins for each row, NaN where a special token is predicted; None for
            published mosaics.
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
        """The kind of attention: `decoder.cross`, or `decoder.self` without an encoder."""
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
        """Return the share of rows whose continuation is predicted at most `within` bins off; NaN if published."""
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


@checked
def induction_mosaic(model: Model, batch: Batch | None = None, **stimulus: Any) -> Mosaic:
    """Score all heads that read the past on repeated random tokens.

    Args:
        model: the model. Its family says which heads: `decoder.cross`, or `decoder.self` without an encoder.
        batch: what `repeated_random_tokens` made; or
        stimulus: its parameters, such as `sequence_length=10, repetitions=2, seed=0`; `encoder` is the model's.

    Returns:
        The mosaic, with standard errors over the rows of the batch.

    Raises:
        InvalidInput: a batch that does not know its query and occurrences, rows of different numbers of tokens, or
            both a batch and parameters.

    Source: the published procedure; scores are read at the positions of the stimulus' formula.
    """
    if batch is not None and stimulus:
        raise InvalidInput(f"give a batch or its parameters ({', '.join(stimulus)}), not both.")
    as_model(model).require("tokens")
    has_encoder = model.has_encoder
    tokens = repeated_random_tokens(model=model, **stimulus) if batch is None else batch
    if not isinstance(tokens, RepeatedTokens):
        raise InvalidInput(
            "this batch does not know where its tokens repeat: make it with probes.repeated_random_tokens(...)."
        )
    stimulus_of(tokens, "induction_mosaic").check_occurrences()
    site = context_site(model)
    cache = capture(model, tokens, [f"{site}.*.pattern", "decoder.ln_final"])
    patterns = [cache[f"{layer}.pattern"] for layer in model.layers(site)]
    # Sums over occurrences are not to be rounded to bfloat16.
    paid = torch.stack([pattern[:, :, tokens.query] for pattern in patterns]).float()
    source = provenance(model, name="repeated_random_tokens", **tokens.parameters)

    stack: Stack = "encoder" if has_encoder else "decoder"
    shown = tokens.mask(stack)[:, : None if has_encoder else tokens.query + 1]
    counts = sorted(set(shown.sum(1).tolist()))
    if len(counts) > 1:
        raise InvalidInput(
            f"the rows hold {counts[0]} to {counts[-1]} tokens to look at, the rest is padding: chance is then another "
            "one in each. Pad all rows alike."
        )
    end = _ends(model, tokens)
    last = tokens.occurrences[-1]
    earlier = list(reversed(tokens.occurrences))
    return Mosaic(
        current_token=over_rows("current_token", site, paid[..., last], source),
        token_to_right=over_rows("token_to_right", site, paid[..., last + 1], source),
        n_tokens=int(counts[0]),
        eos=None if end is None else over_rows("eos", site, paid[:, range(len(tokens)), :, end].movedim(0, 1), source),
        occurrence_sum=over_rows("occurrence_sum", site, paid[..., earlier].sum(-1), source),
        current_by_occurrence=_mean(paid[..., earlier]),
        right_by_occurrence=_mean(paid[..., [position + 1 for position in earlier]]),
        bin_errors=_bin_errors(model, cache["decoder.ln_final"][:, tokens.query], tokens.continuation),
        provenance=source,
    )


def _mean(paid: Tensor) -> Floats:
    """Return the mean over the batch, which is axis 1 of `[layer, batch, head, ...]`."""
    return paid.cpu().double().mean(1).numpy()


@torch.no_grad()
def _bin_errors(model: Model, ln_final: Tensor, continuation: Tensor) -> Floats:
    # NumPy's argmax is several times faster than torch's over a vocabulary on a CPU.
    guess = model.unembed(ln_final).float().cpu().numpy().argmax(-1)
    errors = np.abs(guess - continuation.numpy()).astype(np.float64)
    # A special token is no number of bins away, however near its id.
    if model.tokens_are_values:
        errors[~model.vocabulary.are_values(torch.from_numpy(guess)).numpy()] = np.nan
    return errors


def _ends(model: Model, tokens: RepeatedTokens) -> Tensor | None:
    """Return where each row of the encoder's tokens ends with EOS, `[row]`; None where one does not."""
    eos = model.vocabulary.eos if tokens.has_encoder else None
    if eos is None:
        return None
    end = tokens.position(-1, "encoder")
    return end if bool((tokens.input_ids[range(len(tokens)), end] == eos).all()) else None
