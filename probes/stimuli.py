"""What the probes feed a model: repeated random tokens that know where they repeat."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from interp import Batch, InvalidInput, Model
from interp.inputs import whole
from interp.names import Stack
from interp.zoo.series import NARROW

EOS, START = 1, 0
N_SPECIAL = 2

ALL_VALUES = (2, 4095)
"""All ids that are not special, inclusive: part 1's range."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RepeatedTokens(Batch):
    """A batch that knows its query, the query token's earlier occurrences and what follows.

    `query` is the decoder position that looks; `occurrences` are the positions of the query's token among the keys,
    the encoder's tokens or, without an encoder, the decoder's own, first to last; `continuation` is the token after
    the last of them, `[batch]`. The positions hold for every row, by the stimulus' formula.
    """

    query: int
    occurrences: tuple[int, ...]
    continuation: Int[Tensor, " batch"]
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])

    def check_occurrences(self) -> None:
        """See that all rows have a token at each earlier occurrence and after it.

        Raises:
            InvalidInput: a row is padded there.
        """
        places = {place + after for place in self.occurrences for after in (0, 1)}
        check_tokens(self, "encoder" if self.has_encoder else "decoder", sorted(places), "an earlier occurrence")


def check_tokens(batch: Batch, stack: Stack, positions: Sequence[int], what: str) -> None:
    """See that all rows have a token at the positions that a stimulus speaks of.

    Raises:
        InvalidInput: a row is padded there.
    """
    mask = batch.mask(stack)
    padded = [place for place in positions if -mask.shape[1] <= place < mask.shape[1] and not mask[:, place].all()]
    if padded:
        raise InvalidInput(
            f"{what} is at {stack} position {padded[0]}, which is padding in a row: the stimulus' positions hold for "
            "all rows. Pad elsewhere, and move the positions with the tokens."
        )


def context_site(model: Model) -> str:
    """The kind of attention that reads the past: `decoder.cross`, or `decoder.self` without an encoder."""
    return ".".join(model.family.context)


def stimulus_of(batch: Any, what: str) -> RepeatedTokens:
    """The batch, if it knows its query and continuation.

    Raises:
        InvalidInput: it does not, or a row is padded at the query.
    """
    if not isinstance(batch, RepeatedTokens):
        raise InvalidInput(
            f"{what} needs a batch that knows its continuation: make it with probes.repeated_random_tokens(seed=...)."
        )
    check_tokens(batch, "decoder", [batch.query], "the query")
    return batch


def repeated_random_tokens(
    *,
    batch_size: int = 100,
    sequence_length: int = 10,
    repetitions: int = 2,
    num_unique_sequences: int = 1,
    extension: int = 0,
    sub_extension: int = 1,
    vocab_range: tuple[int, int] = NARROW,
    unique: bool = False,
    min_gap: int = 0,
    prefix: int = 0,
    encoder: bool = True,
    seed: int = 0,
) -> RepeatedTokens:
    """Random sequences S_0, S_1, ... repeated, then begun once more: `ABC...J ABC...J A <EOS> | <START> B`.

    For a decoder-only model the very same tokens come in one row, `ABC...J ABC...J A B`.

    Args:
        batch_size: rows, each with sequences of its own.
        sequence_length: tokens in one sequence.
        repetitions: how often (S_0 S_1 ...) is given; 1 is the control with one occurrence.
        num_unique_sequences: distinct sequences in a row.
        extension: how many of them the encoder gets once more after the repetitions.
        sub_extension: how many tokens of the next one it gets after that; the decoder gets the
            token that comes then.
        vocab_range: the ids to draw from, both included. Part 1 has `(2, 4095)` with
            `sub_extension=0`.
        unique: draw without replacement within a row, over all its sequences.
        min_gap: draw so that any two tokens of a row's sequences differ by at least this many bins.
        prefix: random tokens in front, none of them one of the row's sequences: a longer context in
            which nothing else changes.
        encoder: whether the model has an encoder to read them: `model.family.has_encoder`.
        seed: of the tokens.

    Returns:
        The batch: encoder ids `[batch, pos]` with EOS at the end, decoder ids `[batch, 2]`; without an encoder
        decoder ids `[batch, pos]` alone, with no special tokens, whose last position is the query.

    Raises:
        InvalidInput: sizes that leave no earlier occurrence (no repetition) or nothing after it (a
            sequence of one token), or a vocabulary range that is empty, reversed, holds special tokens,
            is too narrow, or leaves no token for the prefix.

    Source: "Hunting for Induction Heads in Amazon's Chronos", part 2; Olsson et al. 2022.
    """
    low, high = token_range(vocab_range)
    parameters = {
        "batch_size": whole("batch_size", batch_size, 1),
        "sequence_length": whole("sequence_length", sequence_length, 2),
        "repetitions": whole("repetitions", repetitions, 1),
        "num_unique_sequences": whole("num_unique_sequences", num_unique_sequences, 1),
        "extension": whole("extension", extension, 0),
        "sub_extension": whole("sub_extension", sub_extension, 0),
        "vocab_range": [low, high],
        "unique": bool(unique),
        "min_gap": whole("min_gap", min_gap, 0),
        "prefix": whole("prefix", prefix, 0),
        "encoder": bool(encoder),
        "seed": whole("seed", seed, 0),
    }
    if extension >= num_unique_sequences:
        raise InvalidInput(
            f"extension={extension} of {num_unique_sequences} sequences leaves none to go on with: choose 0 to "
            f"{num_unique_sequences - 1}."
        )
    if sub_extension >= sequence_length:
        raise InvalidInput(
            f"sub_extension={sub_extension} of a sequence of {sequence_length} leaves no token for the decoder: "
            f"choose 0 to {sequence_length - 1}."
        )
    rng = np.random.default_rng(seed)
    tokens = random_tokens(
        rng, batch_size, num_unique_sequences * sequence_length, vocab_range, max(min_gap, int(unique))
    )
    sequences = tokens.reshape(batch_size, num_unique_sequences, sequence_length)
    given = np.concatenate(
        [
            _others(rng, tokens, prefix, (low, high)),
            np.tile(tokens, (1, repetitions)),
            sequences[:, :extension].reshape(batch_size, -1),
            sequences[:, extension, :sub_extension],
        ],
        axis=1,
    )
    query = sequences[:, extension, [sub_extension]]
    occurrences = tuple(
        prefix + sequence_length * (r * num_unique_sequences + extension) + sub_extension for r in range(repetitions)
    )
    continuation = np.concatenate([given, query], axis=1)[:, occurrences[-1] + 1]
    return RepeatedTokens(
        **_stacks(given, query, bool(encoder)),
        query=1 if encoder else given.shape[1],
        occurrences=occurrences,
        continuation=torch.from_numpy(continuation),
        parameters=parameters,
    )


def _stacks(given: NDArray[np.int64], query: NDArray[np.int64], encoder: bool) -> dict[str, Tensor]:
    """What each stack reads: tokens and EOS in the encoder and the query after the start token, or all in one row."""
    if not encoder:
        return {"decoder_input_ids": torch.from_numpy(np.concatenate([given, query], axis=1))}
    ends = np.full((len(given), 1), EOS), np.full((len(given), 1), START)
    return {
        "input_ids": torch.from_numpy(np.concatenate([given, ends[0]], axis=1)),
        "decoder_input_ids": torch.from_numpy(np.concatenate([ends[1], query], axis=1)),
    }


def _others(rng: Generator, tokens: NDArray[np.int64], count: int, vocab_range: tuple[int, int]) -> NDArray[np.int64]:
    """Random tokens `[row, count]` of the range that are none of the row's own."""
    if not count:
        return tokens[:, :0]
    own = np.zeros((len(tokens), vocab_range[1] + 1 - vocab_range[0]), dtype=bool)
    np.put_along_axis(own, tokens - vocab_range[0], True, axis=1)
    free = (~own).sum(1, keepdims=True)
    if not free.all():
        raise InvalidInput(f"vocab_range={vocab_range} leaves no token for the prefix: all are in the sequences.")
    # The k-th free id of each row, k uniform; a stable sort puts the free ones first, in their order.
    wanted = rng.integers(0, free, (len(tokens), count))
    return vocab_range[0] + np.take_along_axis(np.argsort(own, axis=1, kind="stable"), wanted, axis=1)


def token_range(vocab_range: Any) -> tuple[int, int]:
    """The first and last id of a range, as plain ints.

    Raises:
        InvalidInput: something else than two ids.
    """
    if not isinstance(vocab_range, list | tuple | np.ndarray) or len(vocab_range) != 2:
        raise InvalidInput(f"vocab_range={vocab_range!r} must be (first, last), both included.")
    return whole("vocab_range[0]", vocab_range[0], 0), whole("vocab_range[1]", vocab_range[1], 0)


def random_tokens(
    rng: Generator, rows: int, length: int, vocab_range: tuple[int, int] = NARROW, min_gap: int = 0
) -> NDArray[np.int64]:
    """Uniform random tokens `[row, pos]`, with replacement unless `min_gap` is 1 or more.

    Args:
        rng: where the randomness comes from.
        rows: how many rows.
        length: tokens in one row.
        vocab_range: the ids to draw from, both included.
        min_gap: the least difference between two tokens of a row.

    Returns:
        The ids.

    Raises:
        InvalidInput: a range that is empty, reversed, holds special tokens, or is too narrow.
    """
    low, high = token_range(vocab_range)
    whole("min_gap", min_gap, 0)
    if high < low:
        raise InvalidInput(f"vocab_range={vocab_range} is reversed or empty: give (first, last), both included.")
    if low < N_SPECIAL:
        raise InvalidInput(
            f"vocab_range={vocab_range} holds special tokens (0 is padding and start, 1 is EOS): begin at "
            f"{N_SPECIAL} or later."
        )
    if min_gap < 1:
        return rng.integers(low, high + 1, (rows, length))
    free = (high - low + 1) - (length - 1) * (min_gap - 1)
    if free < length:
        raise InvalidInput(
            f"{length} tokens that differ by {min_gap} or more do not fit into vocab_range={vocab_range}: it "
            f"must hold {(length - 1) * min_gap + 1} ids."
        )
    # Sorted draws without replacement from a shortened range, spread by the gap, then shuffled.
    chosen = np.sort(np.argsort(rng.random((rows, free)), axis=1)[:, :length], axis=1)
    spread = low + chosen + np.arange(length) * (min_gap - 1)
    return rng.permuted(spread, axis=1).astype(np.int64)
