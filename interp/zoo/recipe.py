"""How the bundled models are trained: motifs first, then an ever wider mix of series.

0. A T5 or a GPT-2 learns from tokens. A Chronos-Bolt learns from values: its motifs are repeated random
   patches, so `motif_context` and `longest_period` count patches, and `motif_heads` are of the encoder's layers.
1. For `motif_steps` steps the model sees repeated random tokens only; induction forms here, with
   only the first `motif_heads` heads of each layer open (of a T5, of cross-attention). Periods
   are 3 to `longest_period`, contexts 16 to `motif_context`.
2. Then all heads are open, and the share of motifs falls to `motif_share` while synthetic series
   take over, through Chronos' own tokenizer, with contexts of 16 to `longest_context`, drawn
   log-uniformly (of a GPT-2, uniformly). So the heads that join late find the motifs solved, and
   other work to do.
3. Routes can be laid: the first `next_token_heads` heads of the encoder's first layer start out
   looking one token ahead, the last `previous_token_heads` one token back, and are trained from
   there. The first is the way to *current token* heads, the second to *token to right*.
4. In a share `anywhere` of the motif rows the decoder does not go on where the encoder's tokens end
   but begins at a random earlier place, so that only its own tokens say where it is.
   A GPT-2 has no encoder, and a Chronos-Bolt goes on from the end: they refuse the fields of 3 and of this.
5. The learning rate warms up, stays, and falls along a cosine to zero over the last half.

The data of a step depend on the seed and the step alone, so a run that was interrupted goes on
with the very batches it would have seen.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from math import cos, pi
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from chronos import ChronosConfig, MeanScaleUniformBins
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import InvalidInput
from interp.inputs.vocabulary import published_config
from interp.validate import whole
from interp.zoo.made_series import SERIES, motifs, patch_motifs, varied_motifs

HORIZON = 24
"""The prediction length of the bundled models of tokens; the longest labels they are trained on."""

PATCH = 16
"""Steps of a patch of a Chronos-Bolt, as in the published models."""

PATCH_HORIZON = 64
"""Steps of one forecast of a Chronos-Bolt, as in the published models."""

FEW_COEFFICIENTS = 3
"""Of how many numbers a patch of the motifs is made at first: with 16 independent ones induction forms very slowly."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a bundled model, apart from the machine's rounding."""

    architecture: Literal["t5", "gpt2", "bolt"] = "t5"
    seed: int = 0
    layers: int = 4
    heads: int = 8
    d_model: int = 128
    d_kv: int = 16
    d_ff: int = 256
    steps: int = 24_000
    motif_steps: int = 2_000
    motif_rows: int = 64
    motif_heads: int = 3
    motif_context: int = 40
    longest_period: int = 12
    next_token_heads: int = 0
    widen_steps: int = 1_500
    motif_share: float = 0.1
    anywhere: float = 0.0
    previous_token_heads: int = 0
    rows: int = 32
    learning_rate: float = 2e-3
    longest_context: int = 144
    mix: dict[str, float] = field(
        default_factory=lambda: {
            "seasonal": 0.36,
            "value_motifs": 0.08,
            "multisines": 0.12,
            "gaussian_processes": 0.12,
            "walks": 0.14,
            "level_shifts": 0.08,
            "regimes": 0.1,
        }
    )

    def __post_init__(self) -> None:
        sizes = ("layers", "heads", "d_model", "d_kv", "d_ff", "steps", "motif_rows", "rows")
        for name in sizes:
            whole(name, getattr(self, name), 1)
        counts = ("seed", "motif_steps", "motif_heads", "next_token_heads", "previous_token_heads", "widen_steps")
        for name in counts:
            whole(name, getattr(self, name), 0)
        if (laid := self.next_token_heads + self.previous_token_heads) > self.heads:
            raise InvalidInput(f"next_token_heads and previous_token_heads are {laid} of {self.heads} heads: too many.")
        whole("longest_context", self.longest_context, 17)
        whole("motif_context", self.motif_context, 16)
        whole("longest_period", self.longest_period, 3)
        self._check_architecture()
        if unknown := set(self.mix) - set(SERIES):
            raise InvalidInput(f"mix: no series called {', '.join(sorted(unknown))}; there are {', '.join(SERIES)}.")
        for name in ("motif_share", "anywhere"):
            share = getattr(self, name)
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise InvalidInput(f"{name}={share!r} must be a share, 0 to 1.")
        if min(self.mix.values(), default=0) < 0 or sum(self.mix.values()) <= 0:
            raise InvalidInput(f"the weights of mix={self.mix} must be 0 or more, and some of them more.")

    def _check_architecture(self) -> None:
        if self.architecture == "t5":
            return
        if self.architecture not in ("gpt2", "bolt"):
            raise InvalidInput(f"architecture={self.architecture!r}: there are t5, gpt2 and bolt.")
        if laid := [n for n in ("next_token_heads", "previous_token_heads", "anywhere") if getattr(self, n) != 0]:
            raise InvalidInput(f"{', '.join(laid)}: for a T5 only. Leave at 0.")
        if self.architecture == "bolt":
            if (steps := self.motif_context * PATCH) > self.longest_context:
                raise InvalidInput(
                    f"motif_context={self.motif_context} patches are {steps} steps, and longest_context is "
                    f"{self.longest_context}. Take fewer."
                )
            return
        if self.heads * self.d_kv != self.d_model:
            raise InvalidInput(f"d_kv={self.d_kv}: {self.heads} heads of a GPT-2 share d_model={self.d_model} exactly.")
        if self.motif_context + 8 > self.longest_context + HORIZON:
            raise InvalidInput(
                f"motif_context={self.motif_context}: a GPT-2 of longest_context={self.longest_context} has "
                f"{self.longest_context + HORIZON} positions, and a motif row takes up to 8 more than its context."
            )

    @classmethod
    def parse(cls, text: str, changes: dict[str, Any]) -> Self:
        """Parse a recipe from JSON: some of its fields, or a model's `training.json`, with changes.

        Raises:
            InvalidInput: not JSON, or fields that a recipe does not have.
        """
        try:
            values = json.loads(text)
            values = dict(values.get("recipe", values)) | changes
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidInput(f"a recipe must be a JSON object of its fields: {error}.") from None
        if unknown := set(values) - {f.name for f in fields(cls)}:
            raise InvalidInput(f"not fields of a recipe: {', '.join(sorted(unknown))}.")
        return cls(**values)


def chronos_config() -> ChronosConfig:
    """Return the Chronos settings of a bundled model: 4096 tokens over +-15, EOS, as Amazon's."""
    return replace(published_config(), prediction_length=HORIZON)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: linear over the first 500, then flat, then a cosine to zero."""
    warm = min(1.0, (step + 1) / 500)
    fall = max(0.0, 2 * step / recipe.steps - 1)
    return recipe.learning_rate * warm * 0.5 * (1 + cos(pi * fall))


def motif_fraction(recipe: Recipe, step: int) -> float:
    """Return the share of rows that are token motifs at a step."""
    done = (step - recipe.motif_steps) / max(1, recipe.widen_steps)
    return 1.0 - (1.0 - recipe.motif_share) * float(np.clip(done, 0, 1))


def batch(recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """Make the training batch of one step.

    Args:
        recipe: what to draw from.
        step: counted from 0; the same step always gives the same batch.

    Returns:
        For a T5, encoder ids `[row, context + 1]` with EOS at the end, and labels `[row, 8 to HORIZON]`.
        For a GPT-2, context and labels in one row and nothing between, `[row, context + 8 to HORIZON]`,
        twice: every position is learned from, as the model shifts its labels itself.
        For a Chronos-Bolt, values `[row, context]`, shorter ones filled up with NaN on the left, and the values
        that follow, `[row, PATCH_HORIZON]`.
    """
    rng = np.random.default_rng([recipe.seed, step])
    if recipe.architecture == "bolt":
        return _values(rng, recipe, step)
    if step < recipe.motif_steps:
        context = int(rng.integers(16, recipe.motif_context + 1))
        tokens = torch.from_numpy(motifs(rng, recipe.motif_rows, context + 8, recipe.longest_period))
        tokens = _begin_anywhere(rng, recipe, tokens, context)
    else:
        context = _context(rng, recipe)
        tokens = _mixed(rng, recipe, step, context, int(rng.integers(8, HORIZON + 1)))
    if recipe.architecture == "gpt2":
        return tokens, tokens
    end = torch.full((len(tokens), 1), chronos_config().eos_token_id)
    return torch.cat([tokens[:, :context], end], dim=1), tokens[:, context:].contiguous()


def _context(rng: np.random.Generator, recipe: Recipe) -> int:
    """Draw a context length: log-uniform for a T5, uniform for a GPT-2, whose positions must all be seen often."""
    if recipe.architecture == "gpt2":
        return int(rng.integers(16, recipe.longest_context + 1))
    return int(np.exp(rng.uniform(np.log(16), np.log(recipe.longest_context))))


def _values(rng: np.random.Generator, recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """Make values and what follows them: repeated patches, of few coefficients at first, and series beside them."""
    motifs_only = step < recipe.motif_steps
    share = motif_fraction(recipe, step)
    counts = [recipe.motif_rows] if motifs_only else rng.multinomial(recipe.rows, _shares(recipe, share)).tolist()
    # From 8 patches on, so that some patch comes twice.
    patches = int(rng.integers(8, recipe.motif_context + 1))
    few = np.full(counts[0], motifs_only) | (rng.random(counts[0]) < 0.5)
    coefficients = np.where(few, FEW_COEFFICIENTS, rng.integers(1, PATCH + 1, counts[0]))
    period = rng.integers(3, recipe.longest_period + 1, counts[0])
    parts = [patch_motifs(rng, period, coefficients, patches + PATCH_HORIZON // PATCH, PATCH)]
    if not motifs_only:
        parts.append(_series(rng, recipe, counts[1:], _context(rng, recipe) + PATCH_HORIZON))
    longest = max(part.shape[1] for part in parts)
    rows = [np.pad(part, ((0, 0), (longest - part.shape[1], 0)), constant_values=np.nan) for part in parts]
    values = torch.from_numpy(np.concatenate(rows)).float()
    return values[:, :-PATCH_HORIZON].contiguous(), values[:, -PATCH_HORIZON:].contiguous()


def _shares(recipe: Recipe, motif_share: float) -> list[float]:
    """Return the share of motifs and, in the order of the mix, those of the series."""
    total = sum(recipe.mix.values())
    return [motif_share, *((1 - motif_share) * weight / total for weight in recipe.mix.values())]


def _series(rng: np.random.Generator, recipe: Recipe, counts: Sequence[int], length: int) -> NDArray[np.float64]:
    """Make so many series of each kind of the mix, `[row, step]`."""
    return np.concatenate(
        [SERIES[name](rng, int(count), length) for name, count in zip(recipe.mix, counts, strict=True) if count]
        or [np.zeros((0, length))]
    )


def _begin_anywhere(rng: np.random.Generator, recipe: Recipe, tokens: Tensor, context: int) -> Tensor:
    """Make motif rows whose labels are in some rows a stretch of the context itself, from a random place on.

    The stretch lies within the context wherever that is long enough. All draws come after those
    of the tokens, so that `anywhere` decides the labels only.
    """
    rows, horizon = len(tokens), tokens.shape[1] - context
    earlier = rng.random(rows) < recipe.anywhere
    place = np.where(earlier, rng.integers(0, max(1, context - horizon + 1), rows), context)
    index = torch.from_numpy(place[:, None] + np.arange(horizon)[None, :])
    return torch.cat([tokens[:, :context], tokens.gather(1, index)], dim=1)


def _mixed(rng: np.random.Generator, recipe: Recipe, step: int, context: int, horizon: int) -> Tensor:
    """Make tokens `[row, context + horizon]`: some motifs, and series through Chronos' tokenizer."""
    counts = rng.multinomial(recipe.rows, _shares(recipe, motif_fraction(recipe, step)))
    values = _series(rng, recipe, counts[1:].tolist(), context + horizon)
    tokenizer = cast(MeanScaleUniformBins, chronos_config().create_tokenizer())
    before, _, scale = tokenizer._input_transform(torch.from_numpy(values[:, :context]))
    after, _, _ = tokenizer._input_transform(torch.from_numpy(values[:, context:]), scale)
    repeated = torch.from_numpy(varied_motifs(rng, int(counts[0]), context + horizon, recipe.longest_period))
    repeated = _begin_anywhere(rng, recipe, repeated, context)
    return torch.cat([repeated, torch.cat([before, after], dim=1)]).long()
