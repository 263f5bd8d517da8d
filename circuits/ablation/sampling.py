"""Forecasts of many ablations at once, that differ by the ablation alone.

1. An encoder runs once a series, and its keys and values are shared by all samples and ablations;
   once more for each set that reaches outside the decoder's attention.
2. A decoder alone reads the series itself, differently with each set: once a set, whose keys and values all its
   samples go on from.
3. Every step's token comes from one stored uniform number per series, sample and step, inverted
   through the cumulative distribution over the value tokens in their order: common random numbers.
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

from circuits.ablation.head_sets import Set, in_decoder_attention, kept_heads, layers_of
from interp import Batch, Model
from interp.editing.actions import actions
from interp.editing.context import edited
from interp.editing.edits import Address, Method, Reference, ablations
from interp.editing.running import Run
from interp.editing.variants import Context, decode, encode, read, repeated, variant_heads
from interp.errors import InvalidInput
from interp.inputs.vocabulary import PUBLISHED
from interp.names import AttentionLayer


@dataclass(frozen=True)
class Sampler:
    """How a token is drawn from logits: the pipeline's own settings."""

    temperature: float
    top_k: int
    top_p: float
    n_tokens: int
    n_special: int = PUBLISHED.n_special

    @classmethod
    def of(cls, model: Model) -> "Sampler":
        """A model's settings, from its `chronos_config`.

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
        """The value tokens at which the cumulative distribution passes the uniform numbers.

        Tokens that are no values are never drawn (transformers suppresses EOS only; other special tokens it would
        read as the lowest value, and those beyond the tokenizer's as the highest).
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
    """The k largest values and their places, in the order of places; all of them where some equal the k-th.

    transformers keeps all that equal the k-th, which in bfloat16 are often several: they come as a
    mask then. Otherwise the k largest lie in the k blocks whose largest are largest, which are found
    several times faster than by looking through everything.
    """
    size, block = values.shape[-1], 16
    blocks = nn.functional.pad(values, (0, -size % block), value=-torch.inf).unflatten(-1, (-1, block))
    tops = blocks.amax(-1)
    chosen = tops.topk(min(k, tops.shape[-1]), sorted=False).indices
    index = chosen[..., None].expand(*chosen.shape, block)
    among = blocks.gather(-2, index).flatten(-2)
    found, at = among.topk(k, sorted=False)
    least = found.amin(-1, keepdim=True)
    missed = (tops >= least).sum() > (tops.gather(-1, chosen) >= least).sum()
    if bool(missed | ((among >= least).sum() > found.numel())):
        places = torch.arange(size, device=values.device).expand(values.shape)
        return values.masked_fill(values < least, -torch.inf), places
    places = (index * block + torch.arange(block, device=values.device)).flatten(-2).gather(-1, at)
    places, order = places.sort(-1)
    return found.gather(-1, order), places


def _nucleus(values: Tensor, top_p: float) -> Tensor:
    """The smallest set of likeliest tokens that holds at least `top_p`."""
    order = values.argsort(-1, descending=True)
    shares = values.gather(-1, order).softmax(-1)
    before = shares.cumsum(-1) - shares
    kept = before < top_p
    kept[..., 0] = True
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, order, kept)


def uniforms(seed: int, series: int, samples: int, steps: int) -> Float[Tensor, "series sample step"]:
    """The stored uniform numbers of a seed; those of a series do not depend on how many follow it."""
    drawn = [np.random.default_rng([seed, index]).random((samples, steps)) for index in range(series)]
    return torch.from_numpy(np.stack(drawn))


def split(batch: Batch, steps: int) -> tuple[Batch, Int[Tensor, "series step"], Int[Tensor, "series step"]]:
    """A batch whose last decoder tokens are forecast, as `Batch.from_series(..., num_decoder=steps)` makes it.

    Args:
        batch: the tokens.
        steps: how many of the last are forecast.

    Returns:
        The prompt, which is all before them; the tokens that they are predicted from, the prompt's last one and
        all of them but the last; and the tokens themselves.
    """
    ids, shown = batch.decoder_input_ids, batch.decoder_attention_mask
    prompt = Batch(batch.input_ids, batch.attention_mask, ids[:, :-steps], shown[:, :-steps])
    return prompt, ids[:, -steps - 1 : -1], ids[:, -steps:]


@dataclass(frozen=True, eq=False)
class Started:
    """Variants of a run that have read a prompt but for its last token.

    `token` `[row, variant, 1]` is that last one; `past` are the decoder's own keys and values of those before it, for
    each set once, which `copies` variants side by side go on from; None where there are none, as after a start token.
    """

    context: Context
    token: Int[Tensor, "row variant 1"]
    past: DynamicCache | None
    copies: int

    def cache(self) -> EncoderDecoderCache | DynamicCache:
        """A cache of one's own, for a run that goes on."""
        return self.context.cache(None if self.past is None else repeated(self.past, self.copies))


@dataclass(frozen=True, eq=False)
class Job:
    """Something to run on variants of a batch.

    `act`, given the variants, gives `[row, variant, ...]`; each set has `copies` variants, side by side, such as the
    number of samples.
    """

    act: Callable[[Started], Tensor]
    copies: int = 1


@dataclass(frozen=True, eq=False)
class Ablated:
    """A model with several sets ablated, each a variant, ready to run on what follows one batch."""

    model: Model
    sets: Sequence[Set]
    method: Method
    reference: Reference | None

    def groups(self) -> dict[tuple[Address, ...], list[int]]:
        """Sets by what of them lies outside the decoder's attention, and so needs a run of its own."""
        found: dict[tuple[Address, ...], list[int]] = {}
        for index, members in enumerate(self.sets):
            outside = sorted((m for m in members if not in_decoder_attention(m)), key=str)
            found.setdefault(tuple(outside), []).append(index)
        return found

    @torch.no_grad()
    def run(self, prompt: Batch, *jobs: Job, at_once: int | None = None) -> list[Tensor]:
        """Run jobs on the folded decoder with all sets ablated; what they all go on from is read once.

        Args:
            prompt: what the encoder reads and the start token, or all that a decoder alone reads of the series.
            jobs: what to run.
            at_once: how many sets run side by side, each of which keeps what it has read of the prompt; all by default.

        Returns:
            What each gave, `[set, row, copy, ...]`.
        """
        made: list[dict[int, Tensor]] = [{} for _ in jobs]
        for outside, indices in self.groups().items():
            elsewhere = ablations(list(outside), self.method, self.reference) if outside else []
            fill = self._fill(layers_of([self.sets[i] for i in indices]))
            with edited(self.model, elsewhere):
                context = encode(self.model, prompt)
                step = at_once or len(indices)
                for part in (indices[start : start + step] for start in range(0, len(indices), step)):
                    sets = [self.sets[i] for i in part]
                    for values, found in zip(self._together(context, prompt, sets, jobs, fill), made, strict=True):
                        found |= {index: values[:, place] for place, index in enumerate(part)}
        return [torch.stack([found[index] for index in range(len(self.sets))]) for found in made]

    def _together(
        self,
        context: Context,
        prompt: Batch,
        sets: Sequence[Set],
        jobs: Sequence[Job],
        fill: Mapping[AttentionLayer, Tensor],
    ) -> Iterator[Tensor]:
        """What each job gives on sets that run side by side, `[row, set, copy, ...]`."""

        def ablated(copies: int) -> AbstractContextManager[None]:
            members = [given for given in sets for _ in range(copies)]
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

    def _fill(self, touched: Sequence[AttentionLayer]) -> dict[AttentionLayer, Tensor]:
        if self.method == "zero" or not touched:
            return {}
        blank = torch.zeros(1, 1, self.model.n_heads, self.model.d_head, device=self.model.device)
        acts = actions(self.model, ablations(touched, self.method, self.reference), Run())
        made = [action.act(blank.to(self.model.dtype)) for action in acts]
        return {at: value[:, None] for at, value in zip(touched, made, strict=True) if value is not None}


def sampling(model: Model, uniform: Float[Tensor, "series sample step"]) -> Job:
    """The job of sampling continuations: value tokens, `[set, series, sample, step]`.

    Args:
        model: the model.
        uniform: common random numbers.
    """
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
    """The job of reading given tokens: what follows from their logits, `[set, series, 1, ...]`.

    Args:
        model: the model.
        ids: the prompt's last token, and what follows it.
        judge: given logits `[row, variant, pos, token]`, gives `[row, variant, ...]`.
    """

    @torch.no_grad()
    def act(started: Started) -> Tensor:
        given = ids[:, None].expand(-1, started.token.shape[1], -1)
        cache = None if started.past is None else started.cache()
        return judge(model.unembed(decode(model, started.context, given, cache)))

    return Job(act)
