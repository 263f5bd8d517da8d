"""Forecasts of many ablations at once, which differ by the ablation alone.

1. An encoder runs once per series. All samples and ablations share its keys and values. A set that reaches outside
   the decoder's attention needs an encoder run of its own.
2. A lone decoder reads the series once per set, and all samples of the set continue from its keys and values.
3. Each token is drawn by common random numbers: one stored uniform number per series, sample and step goes
   through the inverse of the cumulative distribution over the value tokens, in their order.
   Temperature, top_k and top_p are the pipeline's, applied in the order of transformers.

Source: Glasserman & Yao 1992, "Some guidelines and guarantees for common random numbers".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from circuits.ablation.head_sets import Set, ablated_values, in_decoder_attention, kept_heads, layers_of
from interp import Batch, Model
from interp.editing.context import edited
from interp.editing.edit import Address
from interp.editing.edits import Reference
from interp.editing.methods import Method, ablations
from interp.editing.variants import Context, decode, encode, read, repeated, variant_heads
from interp.errors import InvalidInput
from interp.inputs.vocabulary import PUBLISHED
from interp.names import AttentionLayer


@dataclass(frozen=True)
class Sampler:
    """Draws tokens from logits with the pipeline's own settings."""

    temperature: float
    top_k: int
    top_p: float
    n_tokens: int
    n_special: int = PUBLISHED.n_special

    @classmethod
    def of(cls, model: Model) -> "Sampler":
        """Read a model's settings from its `chronos_config`.

        Raises:
            InvalidInput: a temperature that is not positive, or settings that the config leaves to transformers.
        """
        config = model.chronos_config
        settings: list[Any] = [config.temperature, config.top_k, config.top_p]
        if None in settings:
            raise InvalidInput(
                f"{model.name}: its chronos_config leaves temperature, top_k or top_p to transformers: set all three."
            )
        if config.temperature <= 0:
            raise InvalidInput(f"{model.name} samples at temperature {config.temperature}: it must be positive.")
        vocabulary = model.vocabulary
        return cls(config.temperature, config.top_k, config.top_p, vocabulary.n_tokens, vocabulary.n_special)

    def __call__(self, logits: Float[Tensor, "*row token"], uniform: Float[Tensor, "*row"]) -> Int[Tensor, "*row"]:
        """Return the value tokens at which the cumulative distribution passes the uniform numbers.

        Tokens that are not values are never drawn. (transformers suppresses EOS only: it would read other special
        tokens as the lowest value, and tokens beyond the tokenizer's as the highest.)
        """
        values = logits[..., self.n_special : self.n_tokens].float() / self.temperature
        places = torch.arange(values.shape[-1], device=values.device).expand(values.shape)
        if 0 < self.top_k < values.shape[-1]:
            values, places = _largest(values, self.top_k)
        if self.top_p < 1:
            values = values.masked_fill(~_nucleus(values, self.top_p), -torch.inf)
        shares = values.double().softmax(-1).cumsum(-1)
        at = (shares < uniform[..., None] * shares[..., -1:]).sum(-1, keepdim=True).clamp(max=values.shape[-1] - 1)
        return places.gather(-1, at)[..., 0] + self.n_special


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values and their places, in the order of places.

    transformers keeps all values that equal the k-th, and in bfloat16 there are often several: then all places come
    back, and the other values are -inf. Otherwise the k largest values lie in the k blocks with the largest maxima,
    and looking through these is several times faster than looking through everything.
    """
    size, block = values.shape[-1], 16
    blocks = nn.functional.pad(values, (0, -size % block), value=-torch.inf).unflatten(-1, (-1, block))
    tops = blocks.amax(-1)
    chosen = tops.topk(min(k, tops.shape[-1]), sorted=False).indices
    index = chosen[..., None].expand(*chosen.shape, block)
    among = blocks.gather(-2, index).flatten(-2)
    largest, at = among.topk(k, sorted=False)
    least = largest.amin(-1, keepdim=True)
    missed = (tops >= least).sum() > (tops.gather(-1, chosen) >= least).sum()
    if bool(missed | ((among >= least).sum() > largest.numel())):
        places = torch.arange(size, device=values.device).expand(values.shape)
        return values.masked_fill(values < least, -torch.inf), places
    places = (index * block + torch.arange(block, device=values.device)).flatten(-2).gather(-1, at)
    places, order = places.sort(-1)
    return largest.gather(-1, order), places


def _nucleus(values: Tensor, top_p: float) -> Tensor:
    """Mark the smallest set of likeliest tokens whose shares add up to at least `top_p`."""
    order = values.argsort(-1, descending=True)
    shares = values.gather(-1, order).softmax(-1)
    before = shares.cumsum(-1) - shares
    inside = before < top_p
    inside[..., 0] = True
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, order, inside)


def uniforms(seed: int, series: int, samples: int, steps: int) -> Float[Tensor, "series sample step"]:
    """Return the uniform numbers of a seed; those of a series do not depend on how many series follow it."""
    drawn = [np.random.default_rng([seed, index]).random((samples, steps)) for index in range(series)]
    return torch.from_numpy(np.stack(drawn))


def split(batch: Batch, steps: int) -> tuple[Batch, Int[Tensor, "series step"], Int[Tensor, "series step"]]:
    """Split off the last decoder tokens of a batch that `Batch.from_series(..., num_decoder=steps)` returned.

    Returns:
        The prompt, which is all that comes before them; the tokens from which they are predicted (the prompt's last
        token, and all of them but the last); and the tokens themselves.
    """
    ids, shown = batch.decoder_input_ids, batch.decoder_attention_mask
    prompt = Batch(batch.input_ids, batch.attention_mask, ids[:, :-steps], shown[:, :-steps])
    return prompt, ids[:, -steps - 1 : -1], ids[:, -steps:]


@dataclass(frozen=True, eq=False)
class Started:
    """Variants of a run that have read a prompt except its last token.

    Attributes:
        token: the prompt's last token.
        past: the decoder's own keys and values of the tokens before it, once per set; None if there are none.
        copies: the number of variants of each set, side by side, which continue from the same keys and values.
    """

    context: Context
    token: Int[Tensor, "row variant 1"]
    past: DynamicCache | None
    copies: int

    def cache(self) -> EncoderDecoderCache | DynamicCache:
        """Return a new cache from which one run continues."""
        return self.context.cache(None if self.past is None else repeated(self.past, self.copies))


@dataclass(frozen=True, eq=False)
class Job:
    """A function to run on variants of a batch.

    `act` maps the variants to `[row, variant, ...]`. Each set has `copies` variants side by side, such as samples.
    """

    act: Callable[[Started], Tensor]
    copies: int = 1


@dataclass(frozen=True, eq=False)
class Ablated:
    """A model with several sets ablated, each in a variant of one run."""

    model: Model
    sets: Sequence[Set]
    method: Method
    reference: Reference | None

    def groups(self) -> dict[tuple[Address, ...], list[int]]:
        """Group sets by their members outside the decoder's attention, for which the encoder runs again."""
        by_outside: dict[tuple[Address, ...], list[int]] = {}
        for index, members in enumerate(self.sets):
            outside = sorted((m for m in members if not in_decoder_attention(m)), key=str)
            by_outside.setdefault(tuple(outside), []).append(index)
        return by_outside

    @torch.no_grad()
    def run(self, prompt: Batch, *jobs: Job, at_once: int | None = None) -> list[Tensor]:
        """Run jobs on the folded decoder with all sets ablated; the prompt is read once.

        Args:
            prompt: the encoder's tokens and the start token, or the series that a lone decoder reads.
            at_once: number of sets that run side by side, each with its own cache of the prompt; all by default.

        Returns:
            The output of each job, `[set, row, copy, ...]`.
        """
        outputs: list[dict[int, Tensor]] = [{} for _ in jobs]
        for outside, indices in self.groups().items():
            elsewhere = ablations(list(outside), self.method, self.reference) if outside else []
            touched = layers_of([self.sets[i] for i in indices])
            fill = ablated_values(self.model, touched, self.method, self.reference)
            with edited(self.model, elsewhere):
                context = encode(self.model, prompt)
                step = at_once or len(indices)
                for part in (indices[start : start + step] for start in range(0, len(indices), step)):
                    sets = [self.sets[i] for i in part]
                    for values, by_set in zip(self._together(context, prompt, sets, jobs, fill), outputs, strict=True):
                        by_set |= {index: values[:, place] for place, index in enumerate(part)}
        return [torch.stack([by_set[index] for index in range(len(self.sets))]) for by_set in outputs]

    def _together(
        self,
        context: Context,
        prompt: Batch,
        sets: Sequence[Set],
        jobs: Sequence[Job],
        fill: Mapping[AttentionLayer, Tensor],
    ) -> Iterator[Tensor]:
        """Run each job on sets side by side, and yield its output `[row, set, copy, ...]`."""

        def ablated(copies: int) -> AbstractContextManager[None]:
            members = [members_of_set for members_of_set in sets for _ in range(copies)]
            return variant_heads(self.model, kept_heads(self.model, members, layers_of(sets)), fill)

        before, last = prompt.decoder_input_ids[:, None].split([prompt.decoder_input_ids.shape[1] - 1, 1], -1)
        past = None
        if before.shape[-1]:
            with ablated(1):
                past = read(self.model, context, before.expand(-1, len(sets), -1))
        for job in jobs:
            token = last.expand(-1, len(sets) * job.copies, -1).to(self.model.device)
            with ablated(job.copies):
                yield job.act(Started(context, token, past, job.copies)).unflatten(1, (len(sets), job.copies))


def sampling(model: Model, uniform: Float[Tensor, "series sample step"]) -> Job:
    """Return the job that samples continuations with common random numbers: tokens `[set, series, sample, step]`."""
    sampler = Sampler.of(model)
    _, samples, steps = uniform.shape
    uniform = uniform.to(model.device)

    @torch.no_grad()
    def act(started: Started) -> Tensor:
        cache, token = started.cache(), started.token
        drawn: list[Tensor] = []
        for step in range(steps):
            logits = model.unembed(decode(model, started.context, token, cache)[:, :, 0])
            token = sampler(logits, uniform[:, :, step].repeat(1, token.shape[1] // samples))[..., None]
            drawn.append(token)
        return torch.cat(drawn, -1)

    return Job(act, samples)


def reading(model: Model, ids: Int[Tensor, "series pos"], judge: Callable[[Tensor], Tensor]) -> Job:
    """Return the job that reads tokens and judges their logits: `[set, series, 1, ...]`.

    Args:
        ids: the prompt's last token, and the tokens after it.
        judge: a function from logits `[row, variant, pos, token]` to `[row, variant, ...]`.
    """

    @torch.no_grad()
    def act(started: Started) -> Tensor:
        tokens = ids[:, None].expand(-1, started.token.shape[1], -1)
        cache = None if started.past is None else started.cache()
        return judge(model.unembed(decode(model, started.context, tokens, cache)))

    return Job(act)
