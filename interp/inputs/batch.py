"""What a model is fed: tokens of its stacks and their masks, or the values of series, checked when they are made."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, cast

import pandas as pd
import torch
from chronos import MeanScaleUniformBins
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import InvalidInput, no_tokens
from interp.inputs.masks import row_positions
from interp.inputs.patches import Patching
from interp.inputs.user_series import Series, as_series
from interp.inputs.vocabulary import PUBLISHED_START, Vocabulary, vocabulary_of
from interp.models.handle import Handle
from interp.names import Stack
from interp.validate import as_tensor, whole

_DEFAULT: Any = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Token ids for one forward pass: of an encoder and a decoder, or of a decoder alone.

    Of a model that reads values `from_series` makes a `ValueBatch`, which has no token ids.

    Args:
        input_ids: encoder tokens `[batch, pos]`; none for a decoder-only model.
        attention_mask: 1 where an encoder token is to be seen, `[batch, pos]`; all by default.
        decoder_input_ids: decoder tokens `[batch, pos]`; beside encoder tokens the published models' start token by
            default.
        decoder_attention_mask: likewise for the tokens of a decoder-only model.
        vocabulary: what the tokens stand for, where they were made for models of one vocabulary: other models refuse
            the batch. None for ids that were given as such.

    Without an encoder `input_ids` and `attention_mask` are `[batch, 0]`.

    Raises:
        InvalidInput: no tokens at all, shapes that do not fit, ids that are not integers or are negative, a row in
            which every token is masked, or a decoder's mask beside encoder tokens.
    """

    input_ids: Int[Tensor, "batch pos"] = _DEFAULT
    attention_mask: Int[Tensor, "batch pos"] = _DEFAULT
    decoder_input_ids: Int[Tensor, "batch dec_pos"] = _DEFAULT
    decoder_attention_mask: Int[Tensor, "batch dec_pos"] = _DEFAULT
    vocabulary: Vocabulary | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        ids, decoder = cast(Tensor | None, self.input_ids), cast(Tensor | None, self.decoder_input_ids)
        if ids is None and decoder is None:
            raise InvalidInput("a batch needs tokens: input_ids for an encoder, decoder_input_ids for a decoder alone.")
        without = ids is None or (isinstance(cast(Any, ids), Tensor) and ids.ndim == 2 and ids.shape[1] == 0)
        if decoder is not None:
            decoder = _ids("decoder_input_ids", decoder)
        if not without:
            ids = _ids("input_ids", ids)
            decoder = ids.new_full((len(ids), 1), PUBLISHED_START) if decoder is None else decoder
            if len(decoder) != len(ids):
                raise InvalidInput(f"decoder_input_ids has {len(decoder)} rows and input_ids {len(ids)}: give as many.")
        elif decoder is None:
            raise InvalidInput("input_ids holds no token: give at least one, or decoder_input_ids alone.")
        ids = decoder.new_zeros(len(decoder), 0) if without or ids is None else ids
        masks = cast(Tensor | None, self.attention_mask), cast(Tensor | None, self.decoder_attention_mask)
        object.__setattr__(self, "input_ids", ids)
        object.__setattr__(self, "attention_mask", _mask("attention_mask", "input_ids", masks[0], ids))
        object.__setattr__(self, "decoder_input_ids", decoder)
        shown = None if masks[1] is None else _ids("decoder_attention_mask", masks[1])
        if not without and shown is not None and not bool(shown.all()):
            raise InvalidInput(
                "decoder_attention_mask hides tokens of a decoder that has an encoder beside it, which Chronos never "
                "does: mask encoder tokens by attention_mask, or give decoder_input_ids alone."
            )
        # Beside an encoder it is of ones, whatever the length: a batch with other decoder tokens needs no other.
        mask = _mask("decoder_attention_mask", "decoder_input_ids", shown if without else None, decoder)
        object.__setattr__(self, "decoder_attention_mask", mask)

    def __len__(self) -> int:
        return len(self.decoder_attention_mask)

    @property
    def has_tokens(self) -> bool:
        """Tell whether it is of tokens, and not of values."""
        return True

    def require_tokens(self) -> None:
        """Raise the shared error if it is of values.

        Raises:
            MissingCapability: it is; the message says what to use instead.
        """
        if not self.has_tokens:
            raise no_tokens("a batch of values")

    @property
    def has_encoder(self) -> bool:
        """Tell whether there are tokens for an encoder."""
        return self.attention_mask.shape[1] > 0

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The keyword arguments of the Hugging Face model, which calls what a decoder alone reads `input_ids`."""
        if not self.has_encoder:
            return {"input_ids": self.decoder_input_ids, "attention_mask": self.decoder_attention_mask}
        names = ("input_ids", "attention_mask", "decoder_input_ids")
        return {name: getattr(self, name) for name in names}

    @property
    def description(self) -> dict[str, Any]:
        """Return what results keep of a batch: the parameters that it was made with, or its shape."""
        read = self.input_ids if self.has_encoder else self.decoder_input_ids
        return dict(getattr(self, "parameters", None) or {"shape": list(read.shape)})

    def rows(self, chosen: Tensor) -> "Batch":
        """Return some rows, by index, as a plain batch."""
        chosen = as_tensor(chosen)  # as 8-bit integers they would be a mask
        names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
        return Batch(**{name: getattr(self, name)[chosen] for name in names}, vocabulary=self.vocabulary)

    def ids(self, stack: Stack) -> Int[Tensor, "batch pos"]:
        """Return the tokens of a stack."""
        return self.input_ids if stack == "encoder" else self.decoder_input_ids

    def content(self, stack: Stack) -> Tensor:
        """Return what stands at each position of a stack, `[batch, pos, ...]`, to be compared: tokens, or values."""
        return self.ids(stack)

    def mask(self, stack: Stack) -> Int[Tensor, "batch pos"]:
        """Return 1 where a token of a stack is seen, 0 at padding."""
        return self.attention_mask if stack == "encoder" else self.decoder_attention_mask

    def length(self, stack: Stack) -> int:
        """Return how many positions a stack has, padding counted; 0 without it."""
        return self.mask(stack).shape[1]

    def times(self, stack: Stack) -> pd.Index | None:
        """Return the time of each token of a stack, where the batch knows it, as those of `probes.series_batch` do."""
        return None

    def position(self, position: int = -1, stack: Stack = "decoder") -> Int[Tensor, " batch"]:
        """Return the column of a position in each row; negative positions count a row's own tokens from its end.

        Args:
            position: from 0 on a column of the batch; a negative one counts back over the row's own tokens, so that
                -1 is the last that is not masked, whichever side padding is on.
            stack: whose positions.

        Returns:
            The columns, such that `logits[torch.arange(len(batch)), batch.position(-1)]` are those at the last tokens.

        Raises:
            InvalidInput: no such column, or a row with fewer tokens.
        """
        return row_positions("position", position, self.mask(stack).bool())

    @classmethod
    def from_series(cls, model: Handle, series: Series, *, num_decoder: int = 0) -> "Batch":
        """Make of series what a model reads: tokens by the pipeline's own tokenizer, or the values themselves.

        Args:
            model: whose tokenizer or patches, and context length, to use.
            series: one or several series, as `interp.inputs.user_series.Series` says; shorter ones are padded on the
                left, as Chronos does, and missing values (NaN, None, masked) are masked.
            num_decoder: how many of the last values go to the decoder, after the start token,
                instead of the encoder. In a decoder-only model they follow the others all the same.

        Returns:
            The batch; with EOS at the end of the encoder's tokens where the tokenizer puts one, or all values' tokens
            in a row for a decoder alone. All values are scaled by the mean absolute value of what is not among the
            last `num_decoder`. Of a model that reads values it is a `ValueBatch`, as `batch.has_tokens` says.

        Raises:
            InvalidInput: an empty series, one without any value, a ragged nested list, a table, an index that is not
                in order or not evenly spaced, a series that `num_decoder` leaves nothing of, or in a decoder alone
                values that follow a context whose end is missing.
            UnsupportedModel: a model that reads no series, or with `num_decoder` one whose decoder reads no values.
        """
        values = as_series(series)
        model.require("series")
        if not model.reads_tokens:
            if num_decoder:
                model.require("tokens")
            return ValueBatch(values, model.patching)
        steps = values.shape[1]
        if whole("num_decoder", num_decoder, 0) >= steps:
            raise InvalidInput(
                f"num_decoder={num_decoder} of a series of {steps} steps leaves the context nothing: "
                f"choose 0 to {steps - 1}."
            )
        context, rest = (part.contiguous() for part in values.split([steps - num_decoder, num_decoder], dim=1))
        pipeline = model.pipeline
        vocabulary = vocabulary_of(model)
        tokenizer = cast(MeanScaleUniformBins, pipeline.tokenizer)
        ids, mask, scale = tokenizer.context_input_transform(context)
        if not bool((mask & vocabulary.are_values(ids)).any(dim=1).all()):
            raise InvalidInput(
                "a series has no value at all in what the model sees "
                f"(the last {pipeline.model_context_length} steps at most): only NaN was found."
            )
        begins = [] if vocabulary.start is None else [vocabulary.start]
        decoder = torch.tensor(begins, dtype=torch.long).expand(len(values), -1)
        if num_decoder:
            if bool(rest.isnan().any()):
                raise InvalidInput("the values that go to the decoder must not be NaN.")
            if not model.has_encoder and not bool(mask[:, -1].all()):
                raise InvalidInput(
                    f"the context ends in missing values, after which {model.name} numbers positions anew when it "
                    "generates: what follows in one batch would not be what it forecasts. Leave these steps out."
                )
            after, _, _ = tokenizer._input_transform(context=rest, scale=scale)
            decoder = torch.cat([decoder, after], dim=1)
        if not model.has_encoder:
            shown = torch.cat([mask.long(), torch.ones_like(decoder)], dim=1)
            ids = torch.cat([ids, decoder], dim=1)
            return cls(decoder_input_ids=ids, decoder_attention_mask=shown, vocabulary=vocabulary)
        return cls(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=decoder, vocabulary=vocabulary)


class ValueBatch(Batch):
    """The values of series for one forward pass of a model that reads them in patches: see `Batch.from_series`.

    A position of the encoder is a patch, and the last one [REG] where the model has it. The decoder has one position.

    Args:
        values: `[batch, step]`, NaN where one is missing, and on the left of shorter series. Steps beyond the context
            length are cut off the front, as Chronos does.
        patching: how the model cuts series into patches.
        dropped: how many steps were cut off before.

    Attributes:
        values: in float32, what is left of them.
        dropped: how many steps were cut off in all.
        attention_mask: 1 at patches that have a value, and at [REG], `[batch, pos]`.

    A series whose values are all the same has no deviation: the model divides by a small number instead, reads zeros
    and forecasts about that value, whatever is edited.

    Raises:
        InvalidInput: values that are no rectangle of real numbers, or a row without any in what the model sees.
    """

    values: Float[Tensor, "batch step"]
    patching: Patching
    dropped: int

    def __init__(self, values: Any, patching: Patching, dropped: int = 0) -> None:
        values = as_series(values)
        seen = values[:, -patching.context_length :].clone()
        if bool((empty := seen.isnan().all(1)).any()):
            raise InvalidInput(
                f"series {empty.nonzero()[:6, 0].tolist()} have no value in what the model sees (the last "
                f"{patching.context_length} steps at most): only NaN was found."
            )
        put = partial(object.__setattr__, self)
        put("values", seen)
        put("patching", patching)
        put("dropped", dropped + values.shape[1] - seen.shape[1])
        put("attention_mask", patching.shown(seen).long())
        put("decoder_attention_mask", torch.ones(len(values), 1, dtype=torch.long))

    def __repr__(self) -> str:
        cut = f", {self.dropped} steps before them cut off" if self.dropped else ""
        return f"{type(self).__name__}({len(self)} series of {self.values.shape[1]} steps{cut}: {self.patching})"

    @property
    def has_tokens(self) -> bool:
        """Tell whether it is of tokens, and not of values."""
        return False

    @property
    def query(self) -> int:
        """The position of the decoder that makes the forecast, its only one."""
        return 0

    @property
    def input_ids(self) -> NoReturn:  # type: ignore[override]
        """There are none: reading them is an error that says what to use instead."""
        raise no_tokens("a batch of values")

    @property
    def decoder_input_ids(self) -> NoReturn:  # type: ignore[override]
        """There are none, as of the encoder."""
        raise no_tokens("a batch of values")

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The keyword arguments of the Hugging Face model."""
        return {"context": self.values}

    @property
    def description(self) -> dict[str, Any]:
        """Return what results keep of a batch: the parameters that it was made with, or its shape."""
        return dict(getattr(self, "parameters", None) or {"shape": list(self.values.shape)})

    @property
    def deviation(self) -> Float[Tensor, " batch"]:
        """The standard deviation of each series, by which the model scales it; 0 where all its values are the same."""
        centred = self.values - self.values.nanmean(1, keepdim=True)
        return centred.square().nanmean(1).sqrt()

    @property
    def standardised(self) -> Float[Tensor, "batch step"]:
        """The values less each series' mean, in parts of its deviation, as the model reads them."""
        centred = self.values - self.values.nanmean(1, keepdim=True)
        return centred / self.deviation.clamp(min=1e-30)[:, None]

    @property
    def n_patches(self) -> int:
        """Count the patches, [REG] not counted."""
        return self.patching.count(self.values.shape[1])

    @property
    def reg(self) -> int | None:
        """The position of [REG] in the encoder; None without it."""
        return self.n_patches if self.patching.has_reg else None

    def content(self, stack: Stack) -> Float[Tensor, "batch pos step"]:
        """Return the values of each patch, infinite where one is missing; zeros at [REG] and in the decoder."""
        if stack == "decoder":
            return self.values.new_zeros(len(self), 1, 1)
        patches = self.patching.cut(self.values).nan_to_num(torch.inf)
        return nn.functional.pad(patches, (0, 0, 0, int(self.patching.has_reg)))

    def steps(self, patch: int) -> range:
        """Return the steps of a patch: columns of `values`, from which `dropped` steps were cut off the front.

        Args:
            patch: a position of the encoder; a negative one counts back from the last patch.

        Returns:
            The steps; the first patch has fewer than the others where the series is not whole patches.

        Raises:
            InvalidInput: no such patch, or [REG], which stands for no steps.
        """
        at = whole("patch", patch, -self.n_patches)
        if at == self.reg:
            raise InvalidInput(f"patch={patch}: that position is [REG], which stands for no steps.")
        if at >= self.n_patches:
            raise InvalidInput(f"patch={patch}: there are patches 0-{self.n_patches - 1}.")
        return self.patching.steps(at % self.n_patches, self.values.shape[1])

    def rows(self, chosen: Tensor) -> "ValueBatch":
        """Return some rows, by index, as a plain batch of values."""
        return ValueBatch(self.values[as_tensor(chosen)], self.patching, self.dropped)


def _mask(name: str, of: str, mask: Tensor | None, ids: Tensor) -> Tensor:
    if mask is None:
        return torch.ones_like(ids)
    if ids.shape[1] == 0:
        if as_tensor(mask).numel():
            raise InvalidInput(f"{name} is given without {of}: for a decoder alone give decoder_attention_mask.")
        return ids
    mask = _ids(name, mask)
    if mask.shape != ids.shape:
        raise InvalidInput(f"{name} is {list(mask.shape)} and {of} {list(ids.shape)}: give one mask value a token.")
    if bool((mask > 1).any()) or not bool(mask.any(dim=1).all()):
        raise InvalidInput(f"{name} must be 0 or 1, with at least one 1 in each row.")
    return mask


def _ids(name: str, values: Any) -> Tensor:
    try:
        ids = as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{name} must be a rectangle of integers [batch, pos]: {error}.") from None
    if ids.dtype == torch.bool:
        ids = ids.long()
    if ids.is_floating_point() or ids.is_complex():
        raise InvalidInput(f"{name} must be integers; found {ids.dtype}. For a series of values use from_series.")
    if ids.ndim != 2 or 0 in ids.shape:
        raise InvalidInput(f"{name} must be [batch, pos] with at least one of each; found {list(ids.shape)}.")
    if bool((ids < 0).any()):
        raise InvalidInput(f"{name} holds {int(ids.min())}: ids are not negative.")
    # A copy: what is checked here must not change behind the batch's back.
    return ids.detach().long().clone()
