"""What is running while edits are in force: whose rows these are, and where in the sequence the decoder is.

A run has one row an input in the encoder; `generate` and `predict` then give the decoder several rows an input, side
by side, and with the cache only the newest positions. Without an encoder the tokens themselves are so repeated.

A model of values forecasts further than its horizon by going on from each of its quantile paths: Chronos puts the paths
of an input side by side, each behind the context, so that an input has as many rows as there are quantiles.
"""

import threading
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from interp.errors import InvalidInput
from interp.inputs.batch import Batch, ValueBatch
from interp.inputs.forward_arguments import named
from interp.names import STACKS, Site, Stack


@dataclass(eq=False)
class Run(threading.local):
    """What is running now, in each thread: how many rows the inputs have, where in the sequence the decoder is.

    `offset` tokens came before the step's own, which are `length`; `shown` are the masks as the stacks got them. A
    model of values goes on by `horizon` steps from each of its `paths`, within `context_length`.
    """

    frozen: Batch | None = None
    horizon: int = 0
    paths: int = 0
    context_length: int = 0
    rows: int | None = None
    offset: int = 0
    length: int = 0
    shown: dict[Stack, Tensor | None] = field(default_factory=dict[Stack, "Tensor | None"])
    _values: Tensor | None = None
    _inputs: int = 0
    _fresh: bool = False
    _encoded: Tensor | None = None
    _encoded_rows: int = 0
    _read: Tensor | None = None
    _ids: Tensor | None = None
    _mask: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Describe a teacher-forced run of a batch, whose values are known without running the model."""
        run = cls(rows=len(batch), length=batch.length("decoder"))
        run.shown = {stack: batch.mask(stack) for stack in STACKS if batch.length(stack)}
        return run

    def tokens(self, stack: Stack, rows: int, start: int, count: int) -> Bool[Tensor, "row pos"] | None:
        """Mark the positions of a stack that are not padding, so many from `start` on; None if all are, or unknown.

        Args:
            stack: whose positions.
            rows: of the tensor they are those of.
            start: the first position.
            count: how many.
        """
        mask = self.shown.get(stack)
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            return None
        mask = mask[:, start : start + count].bool()
        if mask.shape[1] != count or rows % len(mask) or bool(mask.all()):
            return None
        return mask.repeat_interleave(rows // len(mask), 0)

    def enter_values(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named_values = named(module, args, kwargs)
        if named_values.get("loc_scale") is not None:
            return  # a target, in units of the context
        values = cast(Tensor, named_values["x"])
        if not self._goes_on(values):
            self._inputs = len(values)
        self._values, self._fresh = values, False
        if isinstance(self.frozen, ValueBatch):
            self._same("values", values.nan_to_num(torch.inf), self.frozen.values.nan_to_num(torch.inf))
        self._fresh = True

    def _goes_on(self, values: Tensor) -> bool:
        """Tell whether values are those of the last run with a forecast behind them, each of its paths a row."""
        before = self._values
        if before is None or values.shape[1] != min(before.shape[1] + self.horizon, self.context_length):
            return False
        paths = self.paths if self._inputs == len(before) else 1
        if len(values) != paths * len(before):
            return False
        shared = max(values.shape[1] - self.horizon, 0)
        again = before[:, before.shape[1] - shared :].repeat_interleave(paths, 0)
        return torch.equal(values[:, :shared].nan_to_num(torch.inf), again.nan_to_num(torch.inf))

    def see_encoder(self, _: nn.Module, __: Any, kwargs: dict[str, Any], output: Any) -> None:
        self._encoded, self._encoded_rows, self._read = output[0], self.rows or len(output[0]), None

    def enter_encoder(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs = named(stack, args, kwargs)
        tokens_in = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
        self.rows = None if tokens_in is None else len(tokens_in)
        fresh, self._fresh = self._fresh, False
        if fresh:
            self.rows = self._inputs
        if isinstance(self.frozen, ValueBatch) and not fresh:
            raise InvalidInput(
                "patterns are frozen for one batch, and embedded patches came: whether they are of that batch cannot "
                "be known. Run the whole model on the batch."
            )
        mask = self.shown["encoder"] = kwargs.get("attention_mask")
        if self.frozen is not None and self.frozen.has_tokens:
            self._same("input_ids", kwargs.get("input_ids"), self.frozen.input_ids, self.frozen.attention_mask)
            mask = torch.ones_like(cast(Tensor, kwargs.get("input_ids"))) if mask is None else mask.long()
            self._same("attention_mask", mask, self.frozen.attention_mask)

    def enter_decoder(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs = named(stack, args, kwargs)
        past = kwargs["cache"]
        self.offset = 0 if past is None else int(past.get_seq_length())
        ids = kwargs.get("input_ids")
        tokens_in = ids if ids is not None else kwargs.get("inputs_embeds")
        self.length = 0 if tokens_in is None else tokens_in.shape[1]
        mask = self.shown["decoder"] = kwargs.get("attention_mask")
        if not self.offset:
            self._ids, self._mask = ids, mask
        hidden = kwargs.get("encoder_hidden_states")
        if hidden is not None:
            self.shown["encoder"] = kwargs.get("encoder_attention_mask")
        if hidden is not None and hidden is not self._read:
            self._read, self.rows = hidden, self._inputs_read(hidden)
        if self.frozen is not None:
            if self.offset:
                raise InvalidInput(
                    "patterns are frozen for a teacher-forced run; this is a later step of a generation, where tokens "
                    "part ways. Run the model on the batch itself."
                )
            shown = self.frozen.decoder_attention_mask
            if self.frozen.has_tokens:
                self._same("decoder_input_ids", ids, self.frozen.decoder_input_ids, shown)
            if not self.frozen.has_encoder:
                mask = torch.ones_like(cast(Tensor, ids)) if mask is None else mask.long()
                self._same("attention_mask", mask, shown)

    def keys_seen(self, site: Site, square: Tensor) -> tuple[int, Bool[Tensor, "row key"] | None]:
        """Count the keys of a square that are of tokens, and mark those that are not padding, as `tokens` does."""
        count = square.shape[-1]
        count = self.keys(count) if (site.stack, site.kind) == ("decoder", "self") else count
        return count, self.tokens(site.key_stack, len(square), 0, count)

    def keys(self, there: int) -> int:
        """Count the keys of the decoder's own attention that are of tokens; a static cache has room for more.

        Args:
            there: how many keys there are.

        Raises:
            InvalidInput: a cache that has dropped some, as one with a sliding window does.
        """
        tokens = self.offset + self.length
        if there < tokens:
            raise InvalidInput(
                f"the cache holds {there} keys of {tokens} tokens: it drops the oldest, so positions of keys are not "
                "known. Generate with another cache, or with use_cache=False."
            )
        return tokens or there

    def inputs_of(self, rows: int, known: int) -> int:
        """Count the inputs that a run's rows stand for, where a reference has `known` rows.

        Without an encoder `generate` repeats the tokens themselves, side by side.
        """
        if self.rows is not None:
            return self.rows
        tensors = [tensor for tensor in (self._ids, self._mask) if isinstance(tensor, Tensor)]
        if self._ids is None or known == 0 or rows % known or any(len(tensor) != rows for tensor in tensors):
            return rows
        blocks = [tensor.unflatten(0, (known, -1)) for tensor in tensors]
        return known if all(bool((block == block[:, :1]).all()) for block in blocks) else rows

    def _inputs_read(self, hidden: Tensor) -> int:
        """Count the inputs that the decoder's rows stand for: generation repeats each side by side."""
        if hidden is self._encoded:
            return self._encoded_rows
        known = self._encoded
        repeated = known is not None and len(hidden) % len(known) == 0 and hidden.shape[1:] == known.shape[1:]
        if (
            known is not None
            and repeated
            and torch.equal(hidden, known.repeat_interleave(len(hidden) // len(known), 0))
        ):
            return self._encoded_rows
        if self.frozen is not None:
            raise InvalidInput(
                "patterns are frozen for one batch, and the encoder's output was given: whether it is of that batch "
                "cannot be known. Run the whole model on the batch."
            )
        return len(hidden)

    def _same(self, name: str, running: Tensor | None, wanted: Tensor, where: Tensor | None = None) -> None:
        """Check that what runs is the frozen batch: everywhere, or where it has tokens."""
        off = None if running is None or running.shape != wanted.shape else running.cpu() != wanted.cpu()
        if off is not None and where is not None:
            off &= where.cpu() == 1
        if off is None or bool(off.any()):
            raise InvalidInput(
                f"patterns are frozen for one batch, and other {name} came: run the model on that very batch "
                "(teacher-forced; not in generation)."
            )
