"""What a model's tokens are: which are special, which are values, and of what.

All that the toolkit knows of token ids is read here, from the tokenizer by what it does and from the model's configs:
nowhere else is an id, a number of special tokens or a limit written down.

Of Chronos' bins (`chronos.MeanScaleUniformBins`): `n_tokens - n_special - 1` centres lie evenly between the limits.
Token `n_special + 1` is the first of them and `n_tokens - 1` the last. Token `n_special` reads as the first too, and no
value is written as it. Ids from `n_tokens` on, which a padded vocabulary has, stand for nothing.

Source: Ansari et al. 2024, "Chronos: Learning the Language of Time Series", 3.1; chronos-forecasting.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from chronos import ChronosConfig, MeanScaleUniformBins
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import InvalidInput, UnsupportedModel
from interp.models.handle import Handle
from interp.names import Stack

NARROW_VALUE = 1.01
"""The scaled values that the default stimulus is drawn from, either side of 0, as published: tokens 1911 to 2187."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What the tokens of a Chronos model are. Two are equal where every token means the same in both.

    Attributes:
        tokenizer: of the model's pipeline.
        n_tokens: special and value tokens; the model may have more, which stand for nothing.
        n_special: ids below are special, and the other ones values, in ascending order.
        pad: what stands where a series has no value, masked.
        eos: what ends the encoder's tokens; None where nothing does.
        start: what the decoder begins with beside an encoder; None for a decoder alone.
        values: of the value tokens, in units of the series' scale, `[value]`.
    """

    tokenizer: MeanScaleUniformBins = field(repr=False)
    n_tokens: int
    n_special: int
    pad: int
    eos: int | None
    start: int | None
    values: Float[Tensor, " value"] = field(repr=False)

    @classmethod
    def of(cls, tokenizer: Any, start: int | None) -> "Vocabulary":
        """Read the vocabulary of a tokenizer from what it does.

        Args:
            tokenizer: of a Chronos pipeline.
            start: what the decoder begins with beside an encoder.

        Raises:
            UnsupportedModel: another kind of tokenizer, fewer than two values, or limits that are not ascending.
        """
        if not isinstance(tokenizer, MeanScaleUniformBins):
            raise UnsupportedModel(
                f"the tokenizer is a {type(tokenizer).__name__}: values are read through MeanScaleUniformBins only."
            )
        config: ChronosConfig = tokenizer.config
        first, count = config.n_special_tokens, config.n_tokens
        if count < first + 3:
            raise UnsupportedModel(f"n_tokens={count} of which {first} are special: fewer than two tokens are values.")
        values = tokenizer.output_transform(torch.arange(first, count)[None, None], torch.ones(1))[0, 0]
        if not bool((values[1:].diff() > 0).all()):
            raise UnsupportedModel("the tokenizer's values do not ascend: its low_limit must be under its high_limit.")
        # As MeanScaleUniformBins.context_input_transform has it.
        ends = config.use_eos_token and config.model_type == "seq2seq"
        eos = config.eos_token_id if ends else None
        return cls(tokenizer, count, first, config.pad_token_id, eos, start, values)

    @property
    def _ids(self) -> tuple[int | None, ...]:
        return self.n_tokens, self.n_special, self.pad, self.eos, self.start

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self._ids == other._ids and torch.equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash(self._ids)

    def __str__(self) -> str:
        low, high = float(self.values[0]), float(self.values[-1])
        parts = [f"values {low:g} to {high:g} are {self.n_special}-{self.n_tokens - 1}", f"padding {self.pad}"]
        parts += [] if self.eos is None else [f"EOS {self.eos}"]
        return ", ".join(parts if self.start is None else [*parts, f"start {self.start}"])

    @property
    def value_range(self) -> tuple[int, int]:
        """The first and the last id that is a value."""
        return self.n_special, self.n_tokens - 1

    @property
    def narrow(self) -> tuple[int, int]:
        """The first and the last id of the scaled values within +-1.01, from which the default stimulus is drawn.

        Raises:
            InvalidInput: they are one token, of which no sequence can be made.
        """
        low, high = self._narrow
        if low == high:
            raise InvalidInput(
                f"the values within +-{NARROW_VALUE} are one token, {low}: bins are wide here. Give "
                f"vocab_range=(first, last) within {self.n_special}-{self.n_tokens - 1}."
            )
        return low, high

    @property
    def _narrow(self) -> tuple[int, int]:
        low, high = self.tokens_of(torch.tensor([-NARROW_VALUE, NARROW_VALUE])).tolist()
        return low, high

    @property
    def bin_width(self) -> float:
        """From one value to the next, in units of the series' scale."""
        # Values begin with the lowest twice.
        return float(self.values[-1] - self.values[1]) / (len(self.values) - 2)

    def are_values(self, ids: Int[Tensor, "*pos"]) -> Bool[Tensor, "*pos"]:
        """Tell which tokens are values: neither special nor beyond the tokenizer's."""
        return (ids >= self.n_special) & (ids < self.n_tokens)

    def values_of(self, ids: Int[Tensor, "*pos"]) -> Float[Tensor, "*pos"]:
        """Return the scaled values that tokens stand for, NaN where they stand for none."""
        values = self.values.to(ids.device)
        known = self.are_values(ids)
        return values[torch.where(known, ids - self.n_special, 0)].masked_fill(~known, torch.nan)

    def tokens_of(self, values: Float[Tensor, " value"]) -> Int[Tensor, " value"]:
        """Return the tokens of scaled values, by the tokenizer itself."""
        return self.tokenizer._input_transform(context=values[None], scale=torch.ones(1))[0][0]

    def value_logits(self, logits: Float[Tensor, "*pos token"]) -> Float[Tensor, "*pos value"]:
        """Cut logits over all tokens to those over values, in the order of `values`."""
        return logits[..., self.n_special : self.n_tokens]

    def names(self, stack: Stack) -> dict[int, str]:
        """Return the names of the special tokens in a stack."""
        own = {self.eos: "EOS"} if stack == "encoder" else {self.start: "start"}
        return {self.pad: "padding"} | {id: name for id, name in own.items() if id is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return a description for a result's provenance."""
        limits = [float(self.values[0]), float(self.values[-1])]
        ids = {name: getattr(self, name) for name in ("n_tokens", "n_special", "pad", "eos", "start")}
        return {**ids, "limits": limits, "narrow": [*self._narrow], "values": [*self.value_range]}


def vocabulary_of(model: Handle) -> Vocabulary:
    """Read what a model's tokens are from its tokenizer and its configs; nothing is cached, since they can change.

    Raises:
        UnsupportedModel: a model of values, or of text, whose tokens are words; a tokenizer that does not fit the
            model; or a decoder beside an encoder that has no start token.
    """
    model.require("tokens")
    vocabulary = Vocabulary.of(model.pipeline.tokenizer, _start_token(model.module) if model.has_encoder else None)
    if vocabulary.n_tokens > model.d_vocab:
        raise UnsupportedModel(
            f"{model.name}: the tokenizer has {vocabulary.n_tokens} tokens, the model {model.d_vocab}."
        )
    return vocabulary


def _start_token(module: Any) -> int:
    """Return the token with which `generate` begins a decoder beside an encoder."""
    config = module.generation_config
    start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
    if not isinstance(start, int):
        raise UnsupportedModel(
            f"decoder_start_token_id is {start!r}: generate begins the decoder with one token, the same in all rows."
        )
    return start


def published_config() -> ChronosConfig:
    """Return the settings of the Chronos T5 models that Amazon published: 4096 tokens over +-15, with EOS."""
    return ChronosConfig(
        tokenizer_class="MeanScaleUniformBins",
        tokenizer_kwargs={"low_limit": -15.0, "high_limit": 15.0},
        context_length=512,
        prediction_length=64,
        n_tokens=4096,
        n_special_tokens=2,
        pad_token_id=0,
        eos_token_id=1,
        use_eos_token=True,
        model_type="seq2seq",
        num_samples=20,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
    )


PUBLISHED_START = 0
"""The start token of those models, which is their padding too."""

PUBLISHED = Vocabulary.of(published_config().create_tokenizer(), PUBLISHED_START)
"""What tokens are where no model is given: those of the published Chronos T5 models."""

PUBLISHED_ALONE = Vocabulary.of(replace(published_config(), model_type="causal").create_tokenizer(), None)
"""The same for a decoder alone, which reads neither EOS nor a start token."""


def published(encoder: bool) -> Vocabulary:
    """Return the published tokens, with an encoder or for a decoder alone."""
    return PUBLISHED if encoder else PUBLISHED_ALONE
