"""What a model is fed: encoder ids, mask and decoder ids, checked when they are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from chronos import ChronosPipeline, MeanScaleUniformBins
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InvalidInput
from interp.inputs import whole

if TYPE_CHECKING:
    from interp.model import Model

Series = Any
"""One series or several: an array or tensor `[step]` or `[series, step]`, a pandas series, a list
of numbers, or a list of one-dimensional arrays of different lengths."""

_DEFAULT: Any = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Token ids for one forward pass of an encoder-decoder.

    Args:
        input_ids: encoder tokens `[batch, pos]`.
        attention_mask: 1 where an encoder token is to be seen, `[batch, pos]`; all by default.
        decoder_input_ids: decoder tokens `[batch, pos]`; the start token (id 0) by default.

    Raises:
        InvalidInput: shapes that do not fit, ids that are not integers or are negative, or a row
            in which every token is masked.
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"] = _DEFAULT
    decoder_input_ids: Int[Tensor, "batch dec_pos"] = _DEFAULT

    def __post_init__(self) -> None:
        ids = _ids("input_ids", self.input_ids)
        given = cast(Tensor | None, self.attention_mask)
        mask = torch.ones_like(ids) if given is None else given
        mask = _ids("attention_mask", mask)
        if mask.shape != ids.shape:
            raise InvalidInput(
                f"attention_mask is {list(mask.shape)} and input_ids {list(ids.shape)}: give one mask value a token."
            )
        if bool((mask > 1).any()) or not bool(mask.any(dim=1).all()):
            raise InvalidInput("attention_mask must be 0 or 1, with at least one 1 in each row.")
        decoder = cast(Tensor | None, self.decoder_input_ids)
        decoder = ids.new_zeros(len(ids), 1) if decoder is None else _ids("decoder_input_ids", decoder)
        if len(decoder) != len(ids):
            raise InvalidInput(f"decoder_input_ids has {len(decoder)} rows and input_ids {len(ids)}: give as many.")
        object.__setattr__(self, "input_ids", ids)
        object.__setattr__(self, "attention_mask", mask)
        object.__setattr__(self, "decoder_input_ids", decoder)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The keyword arguments of the Hugging Face model."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "decoder_input_ids": self.decoder_input_ids,
        }

    @classmethod
    def from_series(cls, model: "Model", series: Series, *, num_decoder: int = 0) -> "Batch":
        """Series through the pipeline's own tokenizer.

        Args:
            model: whose tokenizer and context length to use.
            series: one or several series; shorter ones are padded on the left, as Chronos does,
                and missing values (NaN) are masked.
            num_decoder: how many of the last values go to the decoder, after the start token,
                instead of the encoder.

        Returns:
            The batch; with EOS at the end of the encoder's tokens. All values are scaled by the
            mean absolute value of what the encoder sees.

        Raises:
            InvalidInput: an empty series, one without any value, a ragged nested list, or a
                series that `num_decoder` leaves nothing of.
        """
        values = as_series(series)
        steps = values.shape[1]
        if whole("num_decoder", num_decoder, 0) >= steps:
            raise InvalidInput(
                f"num_decoder={num_decoder} of a series of {steps} steps leaves the encoder nothing: "
                f"choose 0 to {steps - 1}."
            )
        context, rest = (part.contiguous() for part in values.split([steps - num_decoder, num_decoder], dim=1))
        pipeline: ChronosPipeline = model.pipeline
        tokenizer = cast(MeanScaleUniformBins, pipeline.tokenizer)
        ids, mask, scale = tokenizer.context_input_transform(context)
        if not bool((mask & (ids >= pipeline.model.config.n_special_tokens)).any(dim=1).all()):
            raise InvalidInput(
                "a series has no value at all in what the encoder sees "
                f"(the last {pipeline.model_context_length} steps at most): only NaN was found."
            )
        decoder = torch.zeros(len(values), 1, dtype=torch.long)
        if num_decoder:
            if bool(rest.isnan().any()):
                raise InvalidInput("the values that go to the decoder must not be NaN.")
            after, _, _ = tokenizer._input_transform(context=rest, scale=scale)
            decoder = torch.cat([decoder, after], dim=1)
        return cls(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=decoder)


def _ids(name: str, values: Any) -> Tensor:
    try:
        ids = torch.as_tensor(values)
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


def as_series(series: Series) -> Float[Tensor, "series step"]:
    """One or several series as one float32 rectangle, padded with NaN on the left.

    Raises:
        InvalidInput: an empty series, one that is only NaN, infinite values, or a ragged nested list.
    """
    if isinstance(series, Sequence) and any(isinstance(row, Sequence) for row in series):
        lengths = {len(row) if isinstance(row, Sequence) else 0 for row in series}
        if len(lengths) > 1:
            raise InvalidInput(
                f"a ragged nested list, with rows of {sorted(lengths)} values: for series of different "
                "lengths pass a list of one-dimensional arrays."
            )
    if isinstance(series, Sequence) and any(np.ndim(row) == 1 for row in series):
        rows = [_numbers(row) for row in series]
        if any(row.ndim != 1 for row in rows):
            raise InvalidInput("a list of series must hold one-dimensional arrays only.")
        longest = max(len(row) for row in rows)
        if not all(len(row) for row in rows):
            raise InvalidInput("an empty series: give each at least one value.")
        padded = [torch.nn.functional.pad(row, (longest - len(row), 0), value=torch.nan) for row in rows]
        values = torch.stack(padded)
    else:
        values = _numbers(series)
        values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or 0 in values.shape:
        raise InvalidInput(f"a series must be [step] or [series, step] and not empty; found {list(values.shape)}.")
    if bool(values.isinf().any()):
        raise InvalidInput("a series holds infinite values.")
    empty = values.isnan().all(dim=1)
    if bool(empty.any()):
        raise InvalidInput(f"series {empty.nonzero().flatten().tolist()} hold only NaN: nothing to look at.")
    return values


def _numbers(values: Any) -> Tensor:
    """Real numbers as float32, from anything array-like but a data frame, whose axes would be guessed."""
    if isinstance(values, pd.DataFrame):
        raise InvalidInput("a data frame could hold series in rows or columns: pass one column, or frame.to_numpy().T.")
    if isinstance(values, Tensor):
        values = values.detach().cpu().float() if values.is_floating_point() else values.cpu()
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"found {array.dtype}")
        return torch.as_tensor(array.astype(np.float32))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"a series must be real numbers: {error}.") from None
