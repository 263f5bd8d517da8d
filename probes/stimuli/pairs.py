"""Pairs for patching: a clean and a corrupt input that differ in one thing, aligned position by position.

`clean, corrupt = pair`; what is right on clean is `pair.target`, and what corrupt makes right is `pair.against`. Where
the sequences are is the same with and without an encoder: in its tokens, or in the decoder's own.

Source: Zhang & Nanda 2024, "Towards Best Practices of Activation Patching" (a symmetric token replacement keeps the
input in distribution, unlike noise); Wang et al. 2022.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from interp import Batch, InvalidInput
from interp.inputs.vocabulary import published
from interp.names import STACKS, Stack
from interp.validate import as_tensor, whole
from probes.stimuli.repeated_tokens import RepeatedTokens, stimulus_of

Ids = NDArray[np.int64]

MAKE = "probes.repeated_random_tokens(unique=True, ...)"


@dataclass(frozen=True, eq=False, repr=False)
class Pair:
    """Two batches that differ in one thing.

    Attributes:
        clean: the batch.
        corrupt: the other, of the same shapes and masks.
        target: the token that is right on clean, `[batch]`.
        against: the token that is right on corrupt instead, `[batch]`, or None where there is none.
        parameters: what differs, and what both were made with.

    Raises:
        InvalidInput: batches that are not aligned, or targets that are not one token a row.
    """

    clean: Batch
    corrupt: Batch
    target: Int[Tensor, " batch"]
    against: Int[Tensor, " batch"] | None = None
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        check_aligned(self.clean, self.corrupt)
        for name in ("target", "against"):
            if (given := getattr(self, name)) is None and name == "against":
                continue
            ids = token_ids(name, given)
            if len(ids) != len(self.clean):
                raise InvalidInput(
                    f"{name} has {len(ids)} tokens and the batches {len(self.clean)} rows: give one a row."
                )
            object.__setattr__(self, name, ids)

    def __iter__(self) -> Iterator[Batch]:
        yield self.clean
        yield self.corrupt

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        name = self.parameters.get("name", "pair")
        found = " and ".join(f"{len(positions)} {stack}" for stack, positions in self.changed.items())
        return f"Pair({name}: {len(self)} rows, {found} positions differ)"

    @property
    def changed(self) -> dict[str, tuple[int, ...]]:
        """The positions at which the two differ in any row, of `encoder`, where there is one, and `decoder`."""
        clean, corrupt = self.clean, self.corrupt
        differ = {s: (clean.ids(s) != corrupt.ids(s)) & (clean.mask(s) == 1) for s in stacks_of(clean)}
        return {stack: tuple(map(int, where.any(0).nonzero()[:, 0])) for stack, where in differ.items()}


def stacks_of(batch: Batch) -> tuple[Stack, ...]:
    """The stacks that a batch has tokens for; the first is where the past is read."""
    return STACKS if batch.has_encoder else ("decoder",)


def shuffled_occurrences(batch: RepeatedTokens, *, seed: int = 0) -> Pair:
    """The tokens after the query's in the sequences, in another order, so that another one follows it.

    In each row one random order is taken for all repetitions, so the corrupt batch too is repeated random tokens, with
    a continuation of its own, and `against` is that token: what is corrupted is the content that repeats, not that it
    repeats. (Shuffled one by one, the repetitions would leave nothing to predict.) The query's token, what comes before
    it in a repetition, and with that the part after the repetitions stay; so does the query.

    A head that finds the query's token looks at the same place in both, and finds another token there. So the pair
    shows what a circuit carries, not how it finds the place: for its queries and keys take `another_sequence`.

    Args:
        batch: what `repeated_random_tokens(unique=True, ...)` made, clean.
        seed: of the orders.

    Returns:
        The pair; `target` is the continuation, `against` the token that then follows, never the same.

    Raises:
        InvalidInput: a batch that does not know its sequences or is padded, a row in which a token is there twice, or
            fewer than two tokens after the query's in a repetition.
    """
    after, rng = _after(batch, "shuffled_occurrences"), np.random.default_rng(whole("seed", seed, 0))
    keys = rng.random((len(batch), after.shape[1]))
    # Uniform among the orders in which the first is another one.
    np.put_along_axis(keys, _others(rng, len(batch), after), -1, axis=1)
    return _reordered("shuffled_occurrences", batch, after, np.argsort(keys, axis=1), seed)


def swapped_continuation(batch: RepeatedTokens, *, seed: int = 0) -> Pair:
    """The token after the query's exchanged with a later one of its sequences, in every repetition alike.

    The least change that makes another token right: two positions a repetition. The corrupt batch too is repeated
    random tokens. The other token is one of those that come after the continuation in a repetition, so the part after
    the repetitions stays, as does the query. What shows is what is carried, as with `shuffled_occurrences`.

    Args:
        batch: what `repeated_random_tokens(unique=True, ...)` made, clean.
        seed: of the choice of the other token, one a row.

    Returns:
        The pair; `target` is the continuation, `against` the other token.

    Raises:
        InvalidInput: as `shuffled_occurrences`.
    """
    after, rng = _after(batch, "swapped_continuation"), np.random.default_rng(whole("seed", seed, 0))
    other = _others(rng, len(batch), after)
    order = np.tile(np.arange(after.shape[1]), (len(batch), 1))
    np.put_along_axis(order, other, 0, axis=1)
    order[:, :1] = other
    return _reordered("swapped_continuation", batch, after, order, seed)


def shifted_values(batch: RepeatedTokens, by: int) -> Pair:
    """Every token that is not special moved by some bins, in all stacks: the structure stays, no value does.

    Args:
        batch: what `repeated_random_tokens(...)` made, clean.
        by: how many bins up, or down if negative; of the published models a bin is 30 / 4092 of the series' scale.

    Returns:
        The pair; `target` is the continuation, `against` the continuation moved likewise.

    Raises:
        InvalidInput: a batch that does not know its continuation, a shift of 0, or one by which a token would leave
            the value tokens.
    """
    tokens = stimulus_of(batch, "shifted_values")
    known = tokens.vocabulary or published(tokens.has_encoder)
    first, last = known.value_range
    by = whole("by", by, -last)
    every: dict[Stack, Tensor] = {stack: tokens.ids(stack) for stack in stacks_of(tokens)}
    moves = {stack: known.are_values(ids) & tokens.mask(stack).bool() for stack, ids in every.items()}
    values = torch.cat([ids[moves[stack]] for stack, ids in every.items()])
    low, high = int(values.min()), int(values.max())
    if not by or low + by < first or high + by > last:
        raise InvalidInput(
            f"by={by} moves tokens {low}-{high} to {low + by}-{high + by}: value tokens are {first}-{last}. Choose "
            f"{first - low} to {last - high}, and not 0."
        )
    moved: dict[Stack, Tensor] = {stack: torch.where(moves[stack], ids + by, ids) for stack, ids in every.items()}
    return _pair("shifted_values", tokens, moved, {"by": by})


def another_sequence(batch: RepeatedTokens, *, seed: int = 0) -> Pair:
    """Other random tokens throughout, none of the row's own, and the query's token at another place of the sequence.

    Nothing of the clean input is right on the corrupt one: not the tokens, nor the place where the query's token
    occurred. So all that induction needs shows: what finds the place, and what is carried from there. (Repeated random
    tokens of another seed will not do for that: by their formula all rows repeat at the same positions, so that corrupt
    queries and keys agree on the very place that is right on clean. Nor will `shifted_values`.)

    Args:
        batch: what `repeated_random_tokens(unique=True, ...)` made, clean.
        seed: of the other tokens.

    Returns:
        The pair; `target` is the continuation, `against` the corrupt batch's own, which comes about halfway between
        the place of the clean one and the end of the sequences.

    Raises:
        InvalidInput: as `shuffled_occurrences`; or a vocabulary range without as many other tokens.
    """
    after, rng = _after(batch, "another_sequence"), np.random.default_rng(whole("seed", seed, 0))
    known = batch.parameters
    low, high = known["vocab_range"]
    size, start = known["sequence_length"] * known["num_unique_sequences"], known["prefix"]
    keys, ids = rng.random((len(batch), high + 1 - low)), _sequences(batch)
    own = ids[:, : start + size].numpy() - low
    np.put_along_axis(keys, own, np.inf, axis=1)
    if (short := np.isfinite(keys).sum(1).min()) < start + size:
        raise InvalidInput(
            f"another_sequence: vocab_range=({low}, {high}) has {short} tokens that are not in a row already, and "
            f"{start + size} are needed: choose a wider range."
        )
    drawn = torch.from_numpy(low + np.argsort(keys, axis=1)[:, : start + size])
    # The sequences end a whole round after the last earlier occurrence.
    motif, length = drawn[:, start:], batch.occurrences[-1] + size - start
    repeated = motif.repeat(1, -(-length // size))[:, :length]
    moved = (after.shape[1] + 1) // 2
    query = motif[:, int(after[0, 0]) - 1 - start + moved, None]
    # An encoder's row ends with EOS, if the model has one, and the decoder has the query; a decoder alone has it there.
    last = ids[:, start + length :] if batch.has_encoder else query
    other: dict[Stack, Tensor] = {"decoder": torch.cat([batch.decoder_input_ids[:, :1], query], 1)}
    other |= {stacks_of(batch)[0]: torch.cat([drawn[:, :start], repeated, last], 1)}
    occurrences = tuple(occurrence + moved for occurrence in batch.occurrences)
    return _pair("another_sequence", batch, other, {"seed": int(seed)}, occurrences)


def _sequences(batch: RepeatedTokens) -> Tensor:
    """The tokens in which the sequences repeat."""
    return batch.ids(stacks_of(batch)[0])


def _after(batch: Any, what: str) -> Ids:
    """The positions after the query's token in each repetition, `[repetition, pos]`."""
    tokens = stimulus_of(batch, what)
    known = tokens.parameters
    if not all(bool(tokens.mask(stack).all()) for stack in stacks_of(tokens)):
        raise InvalidInput(
            f"{what}: the batch is padded, and where its sequences are follows from how it was made: make the pair of "
            "the batch without padding, and pad both."
        )
    if missing := sorted({"sequence_length", "num_unique_sequences", "prefix"} - set(known)):
        raise InvalidInput(f"{what}: the batch's parameters have no {', '.join(missing)}: make it with {MAKE}.")
    length, start = known["sequence_length"] * known["num_unique_sequences"], known["prefix"]
    motif = np.sort(_sequences(tokens)[:, start : start + length].numpy(), axis=1)
    if (twice := (np.diff(motif, axis=1) == 0).any(1)).any():
        raise InvalidInput(
            f"{what}: in {twice.sum()} of {len(tokens)} rows a token is in the sequences twice, so that it is not one "
            f"token that follows: make the batch with {MAKE}."
        )
    count = length - 1 - (tokens.occurrences[0] - start)
    if count < 2:
        raise InvalidInput(
            f"{what}: {count} tokens come after the query's in a repetition, and two at least are to change places: "
            "choose a smaller sub_extension or extension, or longer sequences."
        )
    return np.array(tokens.occurrences)[:, None] + 1 + np.arange(count)


def _others(rng: Generator, rows: int, after: Ids) -> Ids:
    """In each row, one of the tokens after the query's that is not the first of them: `[row, 1]`."""
    return rng.integers(1, after.shape[1], (rows, 1))


def _reordered(name: str, batch: RepeatedTokens, after: Ids, order: Ids, seed: int) -> Pair:
    """The tokens at `after` in another order, `[row, pos]`, the same in each repetition."""
    ids = _sequences(batch).clone()
    ids[:, torch.from_numpy(after)] = ids[:, after[0]].gather(1, torch.from_numpy(order))[:, None]
    return _pair(name, batch, {stacks_of(batch)[0]: ids}, {"seed": int(seed)})


def _pair(
    name: str,
    clean: RepeatedTokens,
    ids: dict[Stack, Tensor],
    how: dict[str, Any],
    occurrences: tuple[int, ...] | None = None,
) -> Pair:
    corrupted = [*clean.parameters.get("corrupted", []), {"name": name, **how}]
    places = occurrences or clean.occurrences
    corrupt = replace(
        clean,
        input_ids=ids.get("encoder", clean.input_ids),
        decoder_input_ids=ids.get("decoder", clean.decoder_input_ids),
        occurrences=places,
        continuation=ids[stacks_of(clean)[0]][:, places[-1] + 1],
        parameters={**clean.parameters, "corrupted": corrupted},
    )
    parameters = {"name": name, **how, "clean": clean.parameters}
    return Pair(clean, corrupt, clean.continuation, corrupt.continuation, parameters)


def check_aligned(clean: Any, corrupt: Any) -> None:
    """See that two inputs can stand for each other, position by position.

    Raises:
        InvalidInput: not batches, or of different shapes or masks.
    """
    for name, given in (("clean", clean), ("corrupt", corrupt)):
        if not isinstance(given, Batch):
            raise InvalidInput(f"{name} must be a Batch; found {type(given).__name__}.")
    for name in ("input_ids", "decoder_input_ids"):
        one, other = getattr(clean, name), getattr(corrupt, name)
        if one.shape != other.shape:
            raise InvalidInput(
                f"{name} is {list(one.shape)} in clean and {list(other.shape)} in corrupt: the two must be aligned "
                "position by position."
            )
    if not all(torch.equal(clean.mask(stack), corrupt.mask(stack)) for stack in STACKS):
        raise InvalidInput("clean and corrupt mask different positions: the two must be aligned position by position.")


def token_ids(name: str, given: Any) -> Tensor:
    """Tokens of rows, `[row]`, or `[1]` for one that is meant for all.

    Raises:
        InvalidInput: none, or something other than whole numbers.
    """
    try:
        ids = as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{name} must be token ids, one a row: {error}.") from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.ndim > 1 or ids.numel() == 0:
        raise InvalidInput(f"{name} must be token ids, one a row or one for all; found {ids.dtype} {list(ids.shape)}.")
    if int(ids.min()) < 0:
        raise InvalidInput(f"{name} holds {int(ids.min())}: ids are not negative.")
    with torch.inference_mode(False):  # so that metrics that keep them can be differentiated
        return ids.detach().long().reshape(-1).clone()
