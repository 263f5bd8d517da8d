"""Repeated sequences: random tokens that repeat, with nothing after them, for self-attention and losses by position.

An encoder reads them with EOS at the end and its decoder the same tokens after the start token, teacher-forced:
`S S <EOS> | <START> S S`. A decoder alone reads `S S`. The model says what EOS and the start token are.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from interp import Batch, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.names import Stack
from interp.validate import whole
from probes.stimuli.repeated_tokens import random_tokens, stacked, token_range, tokens_for, unusual_tokens

TEXT_TOKENS = (1000, 9999)
"""First and last id that nnsight's tutorial draws from for GPT-2."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RepeatedSequences(Batch):
    """A batch that knows the sequence it repeats.

    `sequence_length` tokens come `repetitions` times; `first` is the decoder position of the first of them: 1 after a
    start token, else 0.
    """

    sequence_length: int
    repetitions: int
    first: int
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])

    def places(self, stack: Stack) -> slice:
        """Return the positions of the repeated tokens in a stack, without special tokens around them."""
        first = 0 if stack == "encoder" else self.first
        return slice(first, first + self.sequence_length * self.repetitions)


@checked
def repeated_sequences(
    *,
    model: Model | None = None,
    batch_size: int = 10,
    sequence_length: int = 50,
    repetitions: int = 2,
    vocab_range: tuple[int, int] | None = None,
    unique: bool = False,
    encoder: bool | None = None,
    bos: int | None = None,
    seed: int = 0,
) -> RepeatedSequences:
    """Repeat a random sequence S in each row, with nothing after it: `S S`.

    Args:
        model: as for `repeated_random_tokens`; so are `encoder` and `unique`.
        repetitions: how often S comes; 1 is the control, in which nothing repeats.
        vocab_range: first and last id to draw from, 1911 to 2187 by default in the published models. nnsight's tutorial
            on GPT-2 has `TEXT_TOKENS`.
        bos: a token in front for a decoder alone; none by default, as in the tutorial.

    Returns:
        The batch: the decoder's tokens, after the start token where an encoder reads them too, followed by EOS
        where the model has one.

    Raises:
        InvalidInput: a sequence of fewer than two tokens, no repetition, a vocabulary range that is empty, reversed,
            too narrow or holds special tokens, or a `bos` beside an encoder, where the decoder begins with its own.

    Source: nnsight's tutorial on induction heads in GPT-2; Olsson et al. 2022.
    """
    vocabulary, encoder = tokens_for(model, encoder)
    if bos is not None and encoder:
        raise InvalidInput(f"bos={bos} beside an encoder: the decoder begins with its start token. Leave bos out.")
    parameters: dict[str, Any] = {
        "batch_size": whole("batch_size", batch_size, 1),
        "sequence_length": whole("sequence_length", sequence_length, 2),
        "repetitions": whole("repetitions", repetitions, 1),
        "vocab_range": [*token_range(vocab_range, vocabulary)],
        "unique": bool(unique),
        "encoder": encoder,
        "bos": None if bos is None else whole("bos", bos, 0),
        "seed": whole("seed", seed, 0),
        **unusual_tokens(vocabulary, encoder),
    }
    rng = np.random.default_rng(seed)
    drawn = random_tokens(rng, batch_size, sequence_length, vocab_range, int(unique), model=model)
    tokens = np.tile(drawn, (1, repetitions))
    if encoder:
        stacks = stacked(tokens, tokens, vocabulary)
    else:
        before = np.full((batch_size, int(bos is not None)), bos or 0)
        stacks = {"decoder_input_ids": torch.from_numpy(np.concatenate([before, tokens], axis=1))}
    return RepeatedSequences(
        **stacks,
        sequence_length=parameters["sequence_length"],
        repetitions=parameters["repetitions"],
        first=stacks["decoder_input_ids"].shape[1] - tokens.shape[1],
        vocabulary=vocabulary,
        parameters=parameters,
    )


def sequences_for(model: Model, batch: Batch | None, stimulus: dict[str, Any], least: int = 2) -> RepeatedSequences:
    """Return the batch, or make one for the model from the parameters of `repeated_sequences`.

    Args:
        least: the fewest repetitions that make sense.

    Raises:
        InvalidInput: a batch that does not know its sequence, too few repetitions, or both a batch and parameters.
    """
    if batch is not None and stimulus:
        raise InvalidInput(f"give a batch or its parameters ({', '.join(stimulus)}), not both.")
    if batch is not None:
        model.check(batch)
    if batch is None:
        whole("repetitions", stimulus.get("repetitions", least), least)
        return repeated_sequences(model=model, **stimulus)
    if not isinstance(batch, RepeatedSequences):
        raise InvalidInput(
            "this batch does not know the sequence it repeats: make it with probes.repeated_sequences(...)."
        )
    whole("the batch's repetitions", batch.repetitions, least)
    return batch
