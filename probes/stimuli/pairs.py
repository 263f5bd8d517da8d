"""Pairs for patching: a clean and a corrupt input that differ in one thing, aligned position by position.

`clean, corrupt = pair`; the right token is `pair.target` on clean and `pair.against` on corrupt. The sequences are in
the encoder's tokens or, without an encoder, in the decoder's own. Of repeated random patches they are in the patches,
and target and against are the values that follow.

Source: Zhang & Nanda 2024, "Towards Best Practices of Activation Patching" (a symmetric token replacement keeps the
input in distribution, unlike noise); Wang et al. 2022.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from interp import Batch
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.batch import ValueBatch
from interp.inputs.user_series import as_series
from interp.inputs.vocabulary import published
from interp.names import STACKS, Stack
from interp.validate import as_tensor, number, whole
from probes.stimuli.counterfactual_patches import cycle_of, laid_out, raised
from probes.stimuli.repeated_patches import RepeatedPatches
from probes.stimuli.repeated_tokens import RepeatedTokens, stimulus_of

Ids = NDArray[np.int64]

Repeated = RepeatedTokens | RepeatedPatches
"""What knows its sequences: tokens or patches."""

MAKE = "probes.repeated_random_tokens(unique=True, ...)"


@dataclass(frozen=True, eq=False, repr=False)
class Pair:
    """Two batches, `clean` and `corrupt`, that have the same shapes and masks and differ in one thing.

    Attributes:
        target: the token that is right on clean, `[batch]`; of patches the steps that follow, `[batch, step]`.
        against: what is right on corrupt instead, or None where there is nothing.
        parameters: what differs, and what both were made with.

    Raises:
        InvalidInput: batches that are not aligned, or targets that are not one token, or one series, a row.
    """

    clean: Batch
    corrupt: Batch
    target: Int[Tensor, " batch"] | Float[Tensor, "batch step"]
    against: Int[Tensor, " batch"] | Float[Tensor, "batch step"] | None = None
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        check_aligned(self.clean, self.corrupt)
        for name in ("target", "against"):
            if (tokens := getattr(self, name)) is None and name == "against":
                continue
            ids = token_ids(name, tokens) if self.clean.has_tokens else as_series(tokens)
            if len(ids) != len(self.clean):
                what = "tokens" if self.clean.has_tokens else "series"
                raise InvalidInput(
                    f"{name} has {len(ids)} {what} and the batches {len(self.clean)} rows: give one a row."
                )
            object.__setattr__(self, name, ids)

    def __iter__(self) -> Iterator[Batch]:
        yield self.clean
        yield self.corrupt

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        name = self.parameters.get("name", "pair")
        counts = " and ".join(f"{len(positions)} {stack}" for stack, positions in self.changed.items())
        return f"Pair({name}: {len(self)} rows, {counts} positions differ)"

    @property
    def changed(self) -> dict[str, tuple[int, ...]]:
        """The positions at which the two differ in any row, by stack."""
        clean, corrupt = self.clean, self.corrupt
        differ: dict[Stack, Tensor] = {}
        for stack in stacks_of(clean):
            shown = clean.mask(stack)
            other = clean.content(stack) != corrupt.content(stack)
            differ[stack] = other.reshape(*shown.shape, -1).any(-1) & (shown == 1)
        return {stack: tuple(map(int, where.any(0).nonzero()[:, 0])) for stack, where in differ.items()}


def stacks_of(batch: Batch) -> tuple[Stack, ...]:
    """Return the stacks that a batch has tokens for; the first is where the past is read."""
    return STACKS if batch.has_encoder else ("decoder",)


@checked
def shuffled_occurrences(batch: Repeated, *, seed: int = 0) -> Pair:
    """Shuffle the tokens after the query's within the sequences, so that another one follows it.

    Each row has one random order for all its repetitions, so the corrupt batch is repeated random tokens too, with a
    continuation of its own: its content changes, but it still repeats. (Shuffled one by one, the repetitions would
    leave nothing to predict.) The query's token, what comes before it in a repetition, and the part after the
    repetitions stay.

    A head that finds the query's token looks at the same place in both, and finds another token there. So the pair
    shows what a circuit carries, not how it finds the place: for its queries and keys take `another_sequence`.

    Args:
        batch: the clean batch, from `repeated_random_tokens(unique=True, ...)` or `repeated_random_patches`, whose
            patches change places as tokens do; what a patch holds stays.

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


@checked
def swapped_continuation(batch: Repeated, *, seed: int = 0) -> Pair:
    """Exchange the token after the query's with a later one of its sequences, in every repetition alike.

    This is the least change that makes another token right: two positions a repetition. The corrupt batch is repeated
    random tokens too. The other token comes after the continuation in a repetition, one random choice a row, so the
    part after the repetitions stays, as does the query. Like `shuffled_occurrences`, the pair shows what is carried.

    Args:
        batch: as for `shuffled_occurrences`.

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


@checked
def shifted_values(batch: Repeated, by: float, *, occurrence: int | None = None) -> Pair:
    """Move every token that is not special by some bins, in all stacks: the structure stays, no value does.

    Of patches one repetition alone is moved. A shift of the whole context is invisible to a model that standardises it.

    Args:
        batch: the clean batch, from `repeated_random_tokens(...)` or `repeated_random_patches(...)`.
        by: how many bins up, or down if negative; in the published models a bin is 30 / 4092 of the series' scale. Of
            patches, how many deviations of each row's context; then the row is brought to its mean and deviation again.
        occurrence: of patches, the repetition of which earlier occurrence of the last patch is moved, the latest by
            default.

    Returns:
        The pair; `target` is the continuation, `against` the continuation moved likewise.

    Raises:
        InvalidInput: a batch that does not know its continuation, a shift of 0, one that moves a token out of the
            value tokens, or an occurrence that is not there.
    """
    if isinstance(batch, RepeatedPatches):
        _check_own(batch, "shifted_values")
        if not number("by", by):
            raise InvalidInput("by=0 moves nothing: give deviations of the context, such as 1.0 or -0.5.")
        count, chosen = len(batch.occurrences), -1 if occurrence is None else occurrence
        if whole("occurrence", chosen, -count) >= count:
            raise InvalidInput(f"occurrence={occurrence}: the last patch came {count} times before: 0 to {count - 1}.")
        how = {"name": "shifted_values", "by": float(by), "occurrence": int(chosen)}
        return _pair_of_patches(batch, raised(batch, by, chosen, how), how)
    if occurrence is not None:
        raise InvalidInput(f"occurrence={occurrence} is of patches: tokens are all moved. Leave occurrence out.")
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


@checked
def another_sequence(batch: Repeated, *, seed: int = 0) -> Pair:
    """Replace all tokens by others that a row does not hold, and put the query's at another place of the sequence.

    Nothing of the clean input is right on the corrupt one: neither the tokens nor the place where the query's token
    occurred. So the pair shows all that induction needs: what finds the place, and what is carried from there.
    (Repeated random tokens of another seed do not: all rows repeat at the same positions, so that corrupt queries and
    keys agree on the very place that is right on clean. Neither does `shifted_values`.)

    Args:
        batch: as for `shuffled_occurrences`.

    Returns:
        The pair; `target` is the continuation, `against` the corrupt batch's own, which comes about halfway between
        the place of the clean one and the end of the sequences.

    Raises:
        InvalidInput: as `shuffled_occurrences`; or a vocabulary range without as many other tokens.
    """
    after, rng = _after(batch, "another_sequence"), np.random.default_rng(whole("seed", seed, 0))
    moved = (after.shape[1] + 1) // 2
    if isinstance(batch, RepeatedPatches):
        how = {"name": "another_sequence", "seed": int(seed)}
        return _pair_of_patches(batch, laid_out(batch, batch.drawn(seed), how, moved), how)
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
    query = motif[:, int(after[0, 0]) - 1 - start + moved, None]
    # An encoder's row ends with EOS, if the model has one, and the decoder has the query; a decoder alone has it there.
    last = ids[:, start + length :] if batch.has_encoder else query
    other: dict[Stack, Tensor] = {"decoder": torch.cat([batch.decoder_input_ids[:, :1], query], 1)}
    other |= {stacks_of(batch)[0]: torch.cat([drawn[:, :start], repeated, last], 1)}
    occurrences = tuple(occurrence + moved for occurrence in batch.occurrences)
    return _pair("another_sequence", batch, other, {"seed": int(seed)}, occurrences)


def _sequences(batch: RepeatedTokens) -> Tensor:
    """Return the tokens in which the sequences repeat."""
    return batch.ids(stacks_of(batch)[0])


def _after(batch: Any, what: str) -> Ids:
    """Return the positions after the query's token, or the last patch, in each repetition, `[repetition, pos]`."""
    if isinstance(batch, RepeatedPatches):
        _check_own(batch, what)
        count = batch.sequence_length - 1 - batch.occurrences[0]
        if count < 2:
            raise InvalidInput(
                f"{what}: {count} patches come after the last one's in a repetition, and at least two must change "
                "places: choose a smaller extension, from 1 on, or more patches."
            )
        return np.array(batch.occurrences)[:, None] + 1 + np.arange(count)
    tokens = stimulus_of(batch, what)
    known = tokens.parameters
    if not all(bool(tokens.mask(stack).all()) for stack in stacks_of(tokens)):
        raise InvalidInput(
            f"{what}: the batch is padded, so its sequences are not where they were made. Make the pair of the batch "
            "without padding, and pad both."
        )
    if missing := sorted({"sequence_length", "num_unique_sequences", "prefix"} - set(known)):
        raise InvalidInput(f"{what}: the batch's parameters have no {', '.join(missing)}: make it with {MAKE}.")
    length, start = known["sequence_length"] * known["num_unique_sequences"], known["prefix"]
    motif = np.sort(_sequences(tokens)[:, start : start + length].numpy(), axis=1)
    if (twice := (np.diff(motif, axis=1) == 0).any(1)).any():
        raise InvalidInput(
            f"{what}: in {twice.sum()} of {len(tokens)} rows a token is in the sequences twice, so that more than one "
            f"token follows it: make the batch with {MAKE}."
        )
    count = length - 1 - (tokens.occurrences[0] - start)
    if count < 2:
        raise InvalidInput(
            f"{what}: {count} tokens come after the query's in a repetition, and at least two must change places: "
            "choose a smaller sub_extension or extension, or longer sequences."
        )
    return np.array(tokens.occurrences)[:, None] + 1 + np.arange(count)


def _others(rng: Generator, rows: int, after: Ids) -> Ids:
    """Choose one of the tokens after the query's in each row, but not the first of them: `[row, 1]`."""
    return rng.integers(1, after.shape[1], (rows, 1))


def _reordered(name: str, batch: Repeated, after: Ids, order: Ids, seed: int) -> Pair:
    """Put the tokens or patches at `after` into another order `[row, pos]`, the same in each repetition."""
    if isinstance(batch, RepeatedPatches):
        cycle, how = cycle_of(batch), {"name": name, "seed": int(seed)}
        cycle[:, after[0]] = np.take_along_axis(cycle[:, after[0]], order[..., None], 1)
        return _pair_of_patches(batch, laid_out(batch, cycle, how), how)
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


def _check_own(batch: RepeatedPatches, what: str) -> None:
    """Check that patches repeat as the stimulus has them.

    Raises:
        InvalidInput: one of its controls.
    """
    if (control := batch.parameters["control"]) is not None:
        raise InvalidInput(f"{what}: the batch is the control {control!r}: give what repeated_random_patches made.")


def _pair_of_patches(clean: RepeatedPatches, corrupt: RepeatedPatches, how: dict[str, Any]) -> Pair:
    return Pair(clean, corrupt, clean.continuation, corrupt.continuation, {**how, "clean": clean.parameters})


def check_aligned(clean: Any, corrupt: Any) -> None:
    """Check that two inputs are aligned position by position.

    Raises:
        InvalidInput: not batches, or of different shapes or masks.
    """
    for name, batch in (("clean", clean), ("corrupt", corrupt)):
        if not isinstance(batch, Batch):
            raise InvalidInput(f"{name} must be a Batch; found {type(batch).__name__}.")
    if clean.has_tokens != corrupt.has_tokens:
        raise InvalidInput("one of clean and corrupt is of tokens and the other of values: give two of a kind.")
    names = ("input_ids", "decoder_input_ids") if clean.has_tokens else ("the series in patches", "the decoder")
    for name, stack in zip(names, STACKS, strict=True):
        one, other = clean.mask(stack).shape, corrupt.mask(stack).shape
        if one != other:
            raise InvalidInput(
                f"{name} is {list(one)} in clean and {list(other)} in corrupt: the two must be aligned position by "
                "position."
            )
    if not all(torch.equal(clean.mask(stack), corrupt.mask(stack)) for stack in STACKS):
        raise InvalidInput("clean and corrupt mask different positions: the two must be aligned position by position.")
    if isinstance(clean, ValueBatch) and isinstance(corrupt, ValueBatch):
        _check_visible(clean, corrupt)


def _check_visible(clean: ValueBatch, corrupt: ValueBatch) -> None:
    """Check that a model can tell two batches of values apart, if they are not the same.

    Raises:
        InvalidInput: the one is the other, shifted or scaled as a whole.
    """
    one, other = clean.standardised, corrupt.standardised
    alike = one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-4, equal_nan=True)
    if alike and not torch.equal(clean.values.nan_to_num(), corrupt.values.nan_to_num()):
        raise InvalidInput(
            "corrupt is clean, shifted or scaled as a whole: the model standardises each context by its own mean and "
            "deviation, so that it cannot tell the two apart. Change a part of the context, as "
            "probes.shifted_values(batch, by) does with one repetition."
        )


def token_ids(name: str, tokens: Any) -> Tensor:
    """Return tokens of rows, `[row]`, or `[1]` for one that is meant for all.

    Raises:
        InvalidInput: none, or something other than whole numbers.
    """
    try:
        ids = as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{name} must be token ids, one a row: {error}.") from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.ndim > 1 or ids.numel() == 0:
        raise InvalidInput(f"{name} must be token ids, one a row or one for all; found {ids.dtype} {list(ids.shape)}.")
    if int(ids.min()) < 0:
        raise InvalidInput(f"{name} holds {int(ids.min())}: ids are not negative.")
    with torch.inference_mode(False):  # so that metrics that keep them can be differentiated
        return ids.detach().long().reshape(-1).clone()
