"""Repeated random tokens: a stimulus that knows its query, where the query's token came before, and what follows.

encoder  S_0 S_1 ...  S_0 S_1 ...  (begun once more)  <EOS>      decoder  <START> query
decoder alone                      S_0 S_1 ...  S_0 S_1 ...  (begun once more)  query
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from interp import Batch, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.masks import check_tokens
from interp.inputs.vocabulary import PUBLISHED, Vocabulary, published
from interp.models.model import as_model
from interp.names import Stack
from interp.validate import as_tensor, whole

DEFAULT_TOKENS = PUBLISHED.narrow
"""First and last id of scaled values within +-1.01 in the published models; of any model `model.vocabulary.narrow`."""

VALUE_TOKENS = PUBLISHED.value_range
"""First and last id that is a value in the published models, as in part 1; else `model.vocabulary.value_range`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RepeatedTokens(Batch):
    """A batch that knows its query, the query token's earlier occurrences and what follows.

    The positions follow from the stimulus' formula and hold for every row.

    Attributes:
        query: the decoder position that looks.
        occurrences: positions of the query's token among the keys, first to last: in the encoder's tokens or, without
            an encoder, in the decoder's own.
        continuation: the token after the last occurrence, `[batch]`.
        parameters: what the batch was made with.
    """

    query: int
    occurrences: tuple[int, ...]
    continuation: Int[Tensor, " batch"]
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "continuation", as_tensor(self.continuation))

    def check_occurrences(self) -> None:
        """Check that all rows have a token at each earlier occurrence and after it.

        Raises:
            InvalidInput: a row is padded there.
        """
        positions = {position + after for position in self.occurrences for after in (0, 1)}
        stack: Stack = "encoder" if self.has_encoder else "decoder"
        check_tokens(self.mask(stack), stack, sorted(positions), "an earlier occurrence")


def context_site(model: Model) -> str:
    """Return the kind of attention that reads the past: `decoder.cross`, or `decoder.self` without an encoder."""
    return ".".join(model.family.context)


def stimulus_of(batch: Any, what: str) -> RepeatedTokens:
    """Return the batch if it knows its query and continuation.

    Raises:
        InvalidInput: it does not, or a row is padded at the query.
        MissingCapability: it is of values.
    """
    if isinstance(batch, Batch):
        batch.require_tokens()
    if not isinstance(batch, RepeatedTokens):
        raise InvalidInput(
            f"{what} needs a batch that knows its continuation: make it with probes.repeated_random_tokens(seed=...)."
        )
    check_tokens(batch.mask("decoder"), "decoder", [batch.query], "the query")
    return batch


def tokens_for(model: Model | None, encoder: bool | None) -> tuple[Vocabulary | None, bool]:
    """Return the vocabulary of a stimulus, and whether an encoder reads it.

    Args:
        model: None for the published tokens.
        encoder: None for what the model has; without a model, an encoder.

    Returns:
        The vocabulary, None where a model's tokens are words; and whether there is an encoder.

    Raises:
        InvalidInput: an encoder for a model that has none, or the other way round.
        MissingCapability: a model that reads values.
    """
    if model is None:
        encoder = encoder is None or bool(encoder)
        return published(encoder), encoder
    as_model(model).require("tokens")
    has_encoder = model.has_encoder
    if encoder is not None and bool(encoder) != has_encoder:
        raise InvalidInput(
            f"encoder={encoder}: {model.name} has {'an' if has_encoder else 'no'} encoder. Leave encoder out."
        )
    return model.vocabulary if model.tokens_are_values else None, has_encoder


@checked
def repeated_random_tokens(
    *,
    model: Model | None = None,
    batch_size: int = 100,
    sequence_length: int = 10,
    repetitions: int = 2,
    num_unique_sequences: int = 1,
    extension: int = 0,
    sub_extension: int = 1,
    vocab_range: tuple[int, int] | None = None,
    unique: bool = False,
    min_gap: int = 0,
    prefix: int = 0,
    encoder: bool | None = None,
    seed: int = 0,
) -> RepeatedTokens:
    """Repeat random sequences S_0, S_1, ... and begin them once more: `ABC...J ABC...J A <EOS> | <START> B`.

    For a decoder-only model the very same tokens come in one row, `ABC...J ABC...J A B`.

    Args:
        model: takes its tokens and whether it has an encoder. Without one the tokens are the published ones, and models
            with others refuse them.
        batch_size: rows, each with sequences of its own.
        repetitions: how often (S_0 S_1 ...) comes; 1 is the control with one occurrence.
        num_unique_sequences: distinct sequences in a row.
        extension: how many of them come once more after the repetitions.
        sub_extension: how many tokens of the next one come after that. The token after those is the query.
        vocab_range: first and last id to draw from, 1911 to 2187 by default in the published models. Part 1 has
            `(2, 4095)` with `sub_extension=0`.
        unique: draw without replacement within a row, over all its sequences.
        min_gap: smallest distance in bins between any two tokens of a row's sequences.
        prefix: number of random tokens in front, none of them in the row's sequences: a longer context in which nothing
            else changes.
        encoder: whether an encoder reads them, where no model says so; it does by default.

    Returns:
        The batch: encoder ids `[batch, pos]` with EOS at the end, where the model has one, and decoder ids
        `[batch, 2]`; without an encoder decoder ids `[batch, pos]` alone, with no special tokens, whose last position
        is the query.

    Raises:
        InvalidInput: sizes that leave no earlier occurrence (no repetition) or nothing after it (a sequence of one
            token); or a vocabulary range that is empty, reversed, too narrow, holds special tokens or leaves no token
            for the prefix.

    Source: "Hunting for Induction Heads in Amazon's Chronos", part 2; Olsson et al. 2022.
    """
    vocabulary, encoder = tokens_for(model, encoder)
    low, high = token_range(vocab_range, vocabulary)
    parameters: dict[str, Any] = {
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
        "encoder": encoder,
        "seed": whole("seed", seed, 0),
        **unusual_tokens(vocabulary, encoder),
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
    tokens = _drawn(rng, batch_size, num_unique_sequences * sequence_length, (low, high), max(min_gap, int(unique)))
    sequences = tokens.reshape(batch_size, num_unique_sequences, sequence_length)
    context = np.concatenate(
        [
            _others(rng, tokens, prefix, (low, high)),
            np.tile(tokens, (1, repetitions)),
            sequences[:, :extension].reshape(batch_size, -1),
            sequences[:, extension, :sub_extension],
        ],
        axis=1,
    )
    query = sequences[:, extension, [sub_extension]]
    in_one_row = np.concatenate([context, query], axis=1)
    occurrences = tuple(
        prefix + sequence_length * (r * num_unique_sequences + extension) + sub_extension for r in range(repetitions)
    )
    stacks = stacked(context, query, vocabulary) if encoder else {"decoder_input_ids": torch.from_numpy(in_one_row)}
    return RepeatedTokens(
        **stacks,
        vocabulary=vocabulary,
        query=1 if encoder else context.shape[1],
        occurrences=occurrences,
        continuation=torch.from_numpy(in_one_row[:, occurrences[-1] + 1]),
        parameters=parameters,
    )


def unusual_tokens(vocabulary: Vocabulary | None, encoder: bool) -> dict[str, Any]:
    """Return what a stimulus' parameters say of its tokens: nothing for the published ones and for words."""
    return {} if vocabulary in (None, published(encoder)) else {"tokens": vocabulary.to_dict()}


def stacked(context: NDArray[np.int64], after: NDArray[np.int64], vocabulary: Vocabulary | None) -> dict[str, Tensor]:
    """Put tokens `[row, pos]` into the stacks of an encoder-decoder.

    The encoder reads `context` and EOS, if there is one; the decoder reads the start token and `after`.
    """
    known = vocabulary or PUBLISHED
    ends, begins = (
        np.full((len(after), int(token is not None)), token or 0, dtype=np.int64) for token in (known.eos, known.start)
    )
    return {
        "input_ids": torch.from_numpy(np.concatenate([context, ends], axis=1)),
        "decoder_input_ids": torch.from_numpy(np.concatenate([begins, after], axis=1)),
    }


def _others(rng: Generator, tokens: NDArray[np.int64], count: int, vocab_range: tuple[int, int]) -> NDArray[np.int64]:
    """Draw tokens `[row, count]` of the range that are none of the row's own."""
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


def token_range(vocab_range: Any, vocabulary: Vocabulary | None) -> tuple[int, int]:
    """Return the first and last id of a range as plain ints.

    Args:
        vocab_range: None for the scaled values within +-1.01, of the published models where tokens are words.
        vocabulary: None where tokens are words.

    Raises:
        InvalidInput: something else than two ids, a range that is empty or reversed, or one that holds special tokens.
    """
    if vocab_range is None:
        return (vocabulary or PUBLISHED).narrow
    if not isinstance(vocab_range, list | tuple | np.ndarray) or len(vocab_range) != 2:
        raise InvalidInput(f"vocab_range={vocab_range!r} must be (first, last), both included.")
    low, high = whole("vocab_range[0]", vocab_range[0], 0), whole("vocab_range[1]", vocab_range[1], 0)
    if high < low:
        raise InvalidInput(f"vocab_range={vocab_range} is reversed or empty: give (first, last), both included.")
    if vocabulary is not None and low < vocabulary.n_special:
        raise InvalidInput(
            f"vocab_range={vocab_range} holds special tokens ({vocabulary}): begin at {vocabulary.n_special} or later."
        )
    return low, high


@checked
def random_tokens(
    rng: Generator,
    rows: int,
    length: int,
    vocab_range: tuple[int, int] | None = None,
    min_gap: int = 0,
    *,
    model: Model | None = None,
) -> NDArray[np.int64]:
    """Draw uniform random tokens `[row, pos]`, with replacement unless `min_gap`, in bins, is 1 or more.

    Raises:
        InvalidInput: a range that is empty, reversed, holds special tokens, or is too narrow.
    """
    vocabulary, _ = tokens_for(model, None)
    return _drawn(rng, rows, length, token_range(vocab_range, vocabulary), whole("min_gap", min_gap, 0))


def _drawn(rng: Generator, rows: int, length: int, among: tuple[int, int], min_gap: int) -> NDArray[np.int64]:
    low, high = among
    if min_gap < 1:
        return rng.integers(low, high + 1, (rows, length))
    free = (high - low + 1) - (length - 1) * (min_gap - 1)
    if free < length:
        raise InvalidInput(
            f"{length} tokens that differ by {min_gap} or more do not fit into vocab_range={among}: it must hold "
            f"{(length - 1) * min_gap + 1} ids."
        )
    # Sorted draws without replacement from a shortened range, spread by the gap, then shuffled.
    chosen = np.sort(np.argsort(rng.random((rows, free)), axis=1)[:, :length], axis=1)
    spread = low + chosen + np.arange(length) * (min_gap - 1)
    return rng.permuted(spread, axis=1).astype(np.int64)
