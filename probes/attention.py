"""Attention patterns of chosen heads, and mean attention by value difference and by lag."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import Batch, Head, Model, capture
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.batch import ValueBatch
from interp.inputs.masks import positions_of
from interp.names import Stack
from interp.results.by_head import Heads, as_heads, provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.scoring import each_batch
from interp.validate import as_tensor, whole


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPatterns(Result):
    """Patterns of heads of one stack and kind, `[head, query, key]`.

    Attributes:
        values: NaN where no row has a token at the query or at the key (padding).
        key_tokens: token ids along the axis, None at padding; None altogether if the pattern is a mean over rows that
            differ, or positions are patches. `query_tokens` likewise.
        key_values: scaled values of these tokens, NaN at special tokens and padding; None altogether where there are
            no `key_tokens` or a model's tokens are words. `query_values` likewise.
        row: the row of the batch; None for the mean over rows.
        key_names: names of special tokens by id; `query_names` likewise.
        key_times: the date or time of each token, missing at special ones; None where the batch does not know it.
            `query_times` likewise.
        key_patches: the first step of each patch, and `[REG]`; None where positions are tokens or rows differ.
            `query_patches` likewise.
    """

    KIND = "attention-patterns"

    heads: tuple[Head, ...]
    values: Floats
    key_tokens: tuple[int | None, ...] | None
    query_tokens: tuple[int | None, ...] | None
    key_values: Floats | None
    query_values: Floats | None
    row: int | None
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    key_names: dict[int, str] = field(default_factory=dict[int, str])
    query_names: dict[int, str] = field(default_factory=dict[int, str])
    key_times: pd.Index | None = None
    query_times: pd.Index | None = None
    key_patches: tuple[str, ...] | None = None
    query_patches: tuple[str, ...] | None = None

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head, query and key: `head, query, key, attention`.

        Where times are known they stand beside: `query_time, key_time`.
        """
        heads, queries, keys = self.values.shape
        frame = Frame(
            {
                "head": np.repeat([str(head) for head in self.heads], queries * keys),
                "query": np.tile(np.repeat(np.arange(queries), keys), heads),
                "key": np.tile(np.arange(keys), heads * queries),
                "attention": self.values.ravel(),
            }
        )
        for name, times in (("query", self.query_times), ("key", self.key_times)):
            if times is not None:
                frame[f"{name}_time"] = times.take(frame[name].to_numpy())
        return frame

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        # Files of before know neither times nor patches.
        unknown = dict.fromkeys(("key_times", "query_times", "key_patches", "query_patches"))
        return super()._of_contents({**unknown, **values})

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("attention", ascending=False, kind="stable")


@dataclass(frozen=True, eq=False, repr=False)
class AttentionCurves(Result):
    """Mean attention by head, `values` `[head, bin]`, against the bins' centres `x`."""

    KIND = "attention-curves"

    heads: tuple[Head, ...]
    x: Floats
    values: Floats
    against: Literal["value difference", "lag"]
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head and bin: `head`, the bin's centre (`lag` or `value_difference`), `attention`."""
        return Frame(
            {
                "head": np.repeat([str(head) for head in self.heads], len(self.x)),
                self.against.replace(" ", "_"): np.tile(self.x, len(self.heads)),
                "attention": self.values.ravel(),
            }
        )

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("attention", ascending=False, kind="stable")


@checked
def token_values(model: Model, ids: Int[Tensor, "*pos"]) -> Float[Tensor, "*pos"]:
    """Return the scaled values of token ids: bin centres in units of the series' mean absolute value.

    Special tokens and ids beyond the tokenizer's are NaN.

    Raises:
        UnsupportedModel: a model without a tokenizer for series, whose tokens are no values.
        InvalidInput: ids that are not whole numbers.
    """
    return model.vocabulary.values_of(_whole_ids(ids).cpu())


def _whole_ids(ids: Any) -> Tensor:
    try:
        read = as_tensor(ids)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise InvalidInput(f"ids must be integers: {error}.") from None
    if read.is_floating_point() or read.is_complex():
        raise InvalidInput(f"ids must be integers; found {read.dtype}.")
    return read


def batch_values(model: Model, batch: Batch, stack: Stack) -> Float[Tensor, "batch pos"]:
    """Return the scaled values of a stack's tokens, NaN at special ones, a start token of any id among them."""
    values = token_values(model, batch.ids(stack))
    if stack == "decoder" and batch.has_encoder:
        starts = batch.decoder_input_ids[:, 0].cpu() == model.vocabulary.start
        values[:, 0] = values[:, 0].masked_fill(starts, torch.nan)
    return values


@checked
def attention_patterns(
    model: Model, batch: Batch | Iterable[Batch], heads: Heads, *, row: int | None = None, progress: bool = True
) -> AttentionPatterns:
    """Read the attention patterns of heads of one stack and kind, of one row or averaged over a data set.

    Args:
        batch: one batch, or several of one length (a data set), which are run one at a time.
        heads: one or several heads; `model.heads("decoder.cross")` for all.
        row: one row of the batch; the mean over all rows of all batches by default.
        progress: shown for several batches.

    Returns:
        The patterns, with tokens and values along the axes. A mean is over the rows that have a token at the query and
        at the key. If rows are padded differently, these rows differ between keys, and a query's mean attention may
        not sum to 1.

    Raises:
        InvalidInput: heads of more than one stack or kind, a row that is not there, or batches of different lengths.
    """
    chosen = _of_one_kind(as_heads(model, heads))
    if row is not None and not isinstance(batch, Batch):
        raise InvalidInput(f"row={row} of several batches: give the one batch whose row it is, or leave row out.")
    if row is not None and isinstance(batch, Batch) and whole("row", row, 0) >= len(batch):
        raise InvalidInput(f"row={row}: the batch has rows 0-{len(batch) - 1}.")
    total: _Averaged | None = None
    batches = 0
    for one in each_batch(batch, progress, "attention patterns"):
        part = _averaged(model, one, chosen, row)
        total = part if total is None else total.joined(part)
        batches += 1
    assert total is not None
    return AttentionPatterns(
        heads=tuple(chosen),
        values=(total.sums / total.counts).numpy(),
        row=row,
        provenance=provenance(model, name="attention_patterns", rows=total.rows, batches=batches),
        **_axis("key", model, total.keys),
        **_axis("query", model, total.queries),
        key_times=total.times[0],
        query_times=total.times[1],
    )


@checked
def attention_by_value(model: Model, batch: Batch, heads: Heads, *, bins: int = 41) -> AttentionCurves:
    """Average attention by the key's value minus the query's, by head; special and masked tokens are left out.

    Args:
        heads: heads of one stack and kind.
        bins: number of equal bins of the difference, over the central 98 % of pairs.

    Returns:
        The curves; a head that matches values peaks at zero. Bins without a pair are NaN.

    Raises:
        InvalidInput: heads of more than one stack or kind, no query that is a value, or values that do not differ.
        UnsupportedModel: a model without a tokenizer for series, whose tokens are no values.
    """
    chosen = _of_one_kind(as_heads(model, heads))
    key, query = (batch_values(model, batch, stack) for stack in _stacks(chosen[0]))
    gap = key[:, None, :] - query[:, :, None]
    counted = ~gap.isnan() & _seen(batch, chosen[0])
    if not bool(counted.any()):
        raise InvalidInput(
            "no query is a value: give the decoder values too, as Batch.from_series(..., num_decoder=1) does."
        )
    # quantile takes 16 million values at most; a stride leaves no row out.
    sample = gap[counted][:: 1 + int(counted.sum()) // 1_000_000]
    low, high = torch.quantile(sample, torch.tensor([0.01, 0.99])).tolist()
    if low == high:
        raise InvalidInput("all pairs of query and key differ by the same value: a constant series has no curve.")
    edges = torch.linspace(low, high, whole("bins", bins, 1) + 1)
    return _curves(model, batch, chosen, gap, counted, edges, "value difference")


@checked
def attention_by_lag(model: Model, batch: Batch, heads: Heads) -> AttentionCurves:
    """Average attention by how far back the key is, by head; special and masked tokens are left out.

    Returns:
        The curves, one bin a lag. In self-attention the lag is query minus key; in cross-attention it counts from the
        end of the context, whose last value or patch has lag 1. Padding between tokens counts as the model counts it:
        in T5, which adds scores by distance, a missing value is a step of its own; models that embed positions, as
        GPT-2, number the tokens alone.

    Raises:
        InvalidInput: heads of more than one stack or kind.
    """
    chosen = _of_one_kind(as_heads(model, heads))
    head = chosen[0]
    keys, queries = _tokens(model, batch, head)
    places = _places(model, batch, keys.stack)
    if head.kind == "cross":
        last = places.masked_fill(~keys.shown, -1).amax(1)
        lag = (1 + last[:, None, None] - places[:, None]).expand(-1, queries.there.shape[1], -1)
    else:
        lag = places[:, :, None] - places[:, None]
    # A decoder looks from its start token too.
    looking = queries.shown if head.stack == "encoder" else queries.there
    counted = keys.shown[:, None, :] & looking[:, :, None] & _seen(batch, head)
    among = lag[(keys.there[:, None] & queries.there[:, :, None]).expand_as(lag)]
    low, high = int(among.min()), int(among.max())
    if head.stack == "decoder":
        low = 1 if head.kind == "cross" else 0
    edges = torch.arange(low, high + 2) - 0.5
    return _curves(model, batch, chosen, lag.float(), counted, edges, "lag")


def _curves(
    model: Model,
    batch: Batch,
    heads: list[Head],
    x: Tensor,
    counted: Tensor,
    edges: Tensor,
    against: Literal["value difference", "lag"],
) -> AttentionCurves:
    """Average patterns in bins of `x`, over the pairs that are counted, both `[batch, query, key]`."""
    bins = len(edges) - 1
    # Tokens are discrete: pairs on the outer edges belong to the outer bins.
    at = x[counted]
    place = torch.bucketize(at, edges, right=True) - 1
    place[at == edges[-1]] = bins - 1
    inside = (place >= 0) & (place < bins)
    place = place[inside]
    count = torch.bincount(place, minlength=bins).double()
    patterns = _patterns(model, batch, heads)
    sums = torch.stack([torch.bincount(place, pattern[counted][inside], minlength=bins) for pattern in patterns])
    values = torch.where(count > 0, sums / count, torch.nan)
    return AttentionCurves(
        heads=tuple(heads),
        x=((edges[1:] + edges[:-1]) / 2).double().numpy(),
        values=values.numpy(),
        against=against,
        provenance=provenance(model, name="attention_curves", rows=len(batch)),
    )


def _patterns(model: Model, batch: Batch, heads: list[Head]) -> Tensor:
    """Capture the patterns of heads of one kind, in their order: `[head, batch, query, key]`."""
    cache = capture(model, batch, sorted({str(h.site("pattern")) for h in heads}))
    return torch.stack([cache[h.site("pattern")][:, h.head] for h in heads]).cpu().double()


def _stacks(head: Head) -> tuple[Stack, Stack]:
    """Return the stacks of a head's keys and of its queries."""
    return "encoder" if head.kind == "cross" else head.stack, head.stack


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The tokens or patches of a stack, `[batch, pos]`: `there` where they are not masked.

    There are no `values` where tokens are words, and neither `ids` nor `values` where a position is a patch; `patches`
    are then the names of positions.
    """

    stack: Stack
    ids: Tensor | None
    there: Tensor
    values: Tensor | None
    special: Tensor
    patches: tuple[str, ...] | None = None

    @property
    def shown(self) -> Tensor:
        """Mark what is neither masked nor special; words have no special ones, and of patches it is [REG]."""
        return self.there & ~self.special

    def of_row(self, row: int) -> "_Tokens":
        """Return those of one row."""
        ids, values = (None if part is None else part[row : row + 1] for part in (self.ids, self.values))
        return _Tokens(self.stack, ids, self.there[row : row + 1], values, self.special[row : row + 1], self.patches)


def _tokens(model: Model, batch: Batch, head: Head) -> tuple[_Tokens, _Tokens]:
    """Return the tokens of a head's keys and of its queries, on the CPU."""
    keys, queries = (_stack_tokens(model, batch, stack) for stack in _stacks(head))
    return keys, queries


def _stack_tokens(model: Model, batch: Batch, stack: Stack) -> _Tokens:
    there = batch.mask(stack).bool().cpu()
    special = torch.zeros_like(there)
    if isinstance(batch, ValueBatch):
        if stack == "decoder":
            special[:] = True
            return _Tokens(stack, None, there, None, special, ("start",))
        names = tuple(str(batch.steps(patch)[0]) for patch in range(batch.n_patches))
        if batch.reg is not None:
            special[:, batch.reg] = True
            names += ("[REG]",)
        return _Tokens(stack, None, there, None, special, names)
    values = batch_values(model, batch, stack) if model.tokens_are_values else None
    return _Tokens(stack, batch.ids(stack).cpu(), there, values, special if values is None else values.isnan())


def _places(model: Model, batch: Batch, stack: Stack) -> Tensor:
    """Return each token's position as the model counts it, `[batch, pos]`."""
    if model.embeds_positions:
        return positions_of(batch.mask(stack).cpu())
    return torch.arange(batch.length(stack)).expand(batch.mask(stack).shape)


def _seen(batch: Batch, head: Head) -> Tensor:
    """Mark the keys that a query sees, `[batch, query, key]`: not masked nor, in a decoder's own attention, later."""
    key, query = (batch.mask(stack).bool().cpu() for stack in _stacks(head))
    seen = query[:, :, None] & key[:, None]
    return seen.tril() if (head.stack, head.kind) == ("decoder", "self") else seen


@dataclass(frozen=True, eq=False)
class _Averaged:
    """Patterns summed over the rows that have them, `[head, query, key]`, and what is known of their tokens."""

    sums: Tensor
    counts: Tensor
    rows: int
    keys: _Tokens
    queries: _Tokens
    times: tuple[pd.Index | None, pd.Index | None]

    def joined(self, other: "_Averaged") -> "_Averaged":
        """Add the rows of another batch."""
        if self.sums.shape != other.sums.shape:
            sizes = " and ".join(f"{p.sums.shape[1]} queries on {p.sums.shape[2]} keys" for p in (self, other))
            raise InvalidInput(
                f"batches of {sizes}: a mean pattern is over batches of one length. Pad them with a mask, or read the "
                "patterns of each batch."
            )
        pairs = zip(self.times, other.times, strict=True)
        keys, queries = (mine if mine is not None and mine.equals(their) else None for mine, their in pairs)
        return _Averaged(
            self.sums + other.sums,
            self.counts + other.counts,
            self.rows + other.rows,
            _few_rows(self.keys, other.keys),
            _few_rows(self.queries, other.queries),
            (keys, queries),
        )


def _averaged(model: Model, batch: Batch, heads: list[Head], row: int | None) -> _Averaged:
    """Sum the patterns of one batch over its rows, or take one of them."""
    patterns = _patterns(model, batch, heads)
    keys, queries = _tokens(model, batch, heads[0])
    if row is not None:
        patterns, keys, queries = patterns[:, row : row + 1], keys.of_row(row), queries.of_row(row)
    counted = (queries.there[:, :, None] & keys.there[:, None]) & ~patterns.isnan()
    times = batch.times(keys.stack), batch.times(queries.stack)
    sums = patterns.masked_fill(~counted, 0).sum(1)
    return _Averaged(sums, counted.sum(1), len(batch), _few_rows(keys), _few_rows(queries), times)


def _few_rows(*tokens: _Tokens) -> _Tokens:
    """Join the tokens of several batches into one row if they agree wherever there are any, or into two that differ."""
    there, special = (torch.cat([getattr(t, name) for t in tokens]) for name in ("there", "special"))
    # At each position those of the first row that has a token there.
    first = there.long().argmax(0), torch.arange(there.shape[1])
    one = {"there": there.any(0)[None], "special": special[first][None]}
    if any(t.ids is None for t in tokens):
        names = tokens[0].patches if len({t.patches for t in tokens}) == 1 else None
        return _Tokens(tokens[0].stack, None, values=None, patches=names, **one)
    ids = torch.cat([t.ids for t in tokens if t.ids is not None])
    values = None if tokens[0].values is None else torch.cat([t.values for t in tokens if t.values is not None])
    differ = ((ids != ids[first]) & there).any(1).nonzero()[:1, 0]

    def few(of_rows: Tensor) -> Tensor:
        return torch.cat([of_rows[first][None], of_rows[differ]])

    one = {"there": torch.cat([there.any(0)[None], there[differ]]), "special": few(special)}
    return _Tokens(tokens[0].stack, few(ids), values=None if values is None else few(values), patches=None, **one)


def _axis(name: str, model: Model, tokens: _Tokens) -> dict[str, Any]:
    """Return tokens, values and names along an axis of patterns, if the tokens of all rows agree: of one row."""
    axis: dict[str, Any] = {f"{name}_tokens": None, f"{name}_values": None, f"{name}_names": {}}
    axis[f"{name}_patches"] = tokens.patches
    if tokens.ids is None:
        return axis
    if tokens.values is not None:
        axis[f"{name}_names"] = model.vocabulary.names(tokens.stack)
    if len(tokens.ids) == 1:
        known = zip(tokens.ids[0].tolist(), tokens.there[0].tolist(), strict=True)
        axis[f"{name}_tokens"] = tuple(token if here else None for token, here in known)
        if tokens.values is not None:
            axis[f"{name}_values"] = tokens.values[0].double().masked_fill(~tokens.there[0], torch.nan).numpy()
    return axis


def _of_one_kind(heads: list[Head]) -> list[Head]:
    kinds = sorted({f"{h.stack}.{h.kind}" for h in heads})
    if len(kinds) != 1:
        raise InvalidInput(f"heads of {', '.join(kinds) or 'no kind'}: give heads of one stack and kind.")
    return heads
