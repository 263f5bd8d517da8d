"""Scores of self-attention heads on repeated random tokens: where in the past, or future, they look.

One stimulus serves all: random tokens repeated, in the encoder followed by EOS, in the decoder
after the start token. Each score is the mean attention from a set of queries to the keys that the
score is named for, over the batch.

Source: Olsson et al. 2022, "In-context Learning and Induction Heads".
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp import Batch, InvalidInput, Model, capture
from interp.inputs import whole
from interp.results import HeadScores, over_rows, provenance
from probes.stimuli import EOS, NARROW, START, random_tokens

SITES = ("encoder.self", "decoder.self")


@dataclass(frozen=True)
class _Pairs:
    """Query-key pairs `[pair]`, in positions of the repeated tokens, and how to weigh them."""

    query: Tensor
    key: Tensor
    n_queries: int


def _pairs(queries: range, offsets: list[int], length: int) -> _Pairs:
    """All pairs of a query and an offset from it that stay within the tokens."""
    pairs = [(i, i + offset) for i in queries for offset in offsets if 0 <= i + offset < length]
    query, key = (torch.tensor(side) for side in zip(*pairs, strict=True))
    return _Pairs(query, key, len({i for i, _ in pairs}))


def head_scores(
    model: Model, *, sequence_length: int = 25, repetitions: int = 4, batch_size: int = 20, seed: int = 0
) -> dict[str, HeadScores]:
    """Where the self-attention heads of both stacks look on repeated random tokens.

    Args:
        model: the model.
        sequence_length: tokens in the sequence.
        repetitions: how often it is given, 2 or more.
        batch_size: rows.
        seed: of the tokens.

    Returns:
        HeadScores by address, such as `encoder.self.previous_token`. Both stacks:
        `previous_token` (mean attention one back), `duplicate_token` (to the latest earlier
        occurrence), `induction` (to the position after it), `prefix_matching` (to the positions
        after all earlier occurrences, added, queries of the second repetition on),
        `prefix_matching_0` and `prefix_matching_-1` (at the occurrences, and before them). The
        encoder, which sees both sides, also `next_token` and `later_occurrence`.

    Raises:
        InvalidInput: fewer than two repetitions, or a sequence of fewer than two tokens.
    """
    n, total = sequence_length, sequence_length * repetitions
    stimulus = _stimulus(batch_size, n, repetitions, seed)
    every, repeated = range(total), range(n, total)
    pairs = {
        "previous_token": _pairs(every, [-1], total),
        "duplicate_token": _pairs(repeated, [-n], total),
        "induction": _pairs(repeated, [1 - n], total),
    }
    for offset, name in ((1, "prefix_matching"), (0, "prefix_matching_0"), (-1, "prefix_matching_-1")):
        pairs[name] = _earlier(n, repetitions, offset)
    both_sides = {
        "next_token": _pairs(every, [1], total),
        "later_occurrence": _pairs(range(total - n), [n], total),
    }
    source = provenance(
        model,
        name="head_scores",
        sequence_length=n,
        repetitions=repetitions,
        batch_size=batch_size,
        vocab_range=list(NARROW),
        seed=seed,
    )
    found: dict[str, HeadScores] = {}
    for site in SITES:
        patterns = _patterns(model, stimulus, site)
        for name, some in (pairs | (both_sides if site == "encoder.self" else {})).items():
            found[f"{site}.{name}"] = _score(name, site, patterns, some, source)
    return found


def prefix_matching(
    model: Model,
    *,
    offset: int = 1,
    average: bool = False,
    sequence_length: int = 25,
    repetitions: int = 4,
    batch_size: int = 20,
    seed: int = 0,
) -> dict[str, HeadScores]:
    """Prefix matching by self-attention head: attention tied to the token's earlier occurrences.

    Args:
        model: the model.
        offset: where to look from each occurrence; sources disagree: +1 (default), 0 or -1.
        average: the mean over the earlier occurrences instead of their sum, which is at most 1.
        sequence_length: random tokens in the sequence.
        repetitions: how often it is given; queries are those of the second repetition on.
        batch_size: rows.
        seed: of the tokens.

    Returns:
        HeadScores by `encoder.self` and `decoder.self`.

    Raises:
        InvalidInput: another offset, or nothing that repeats.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads", appendix on head scores.
    """
    if offset not in (-1, 0, 1):
        raise InvalidInput(f"offset={offset}: choose -1, 0 or 1.")
    stimulus = _stimulus(batch_size, sequence_length, repetitions, seed)
    pairs = _earlier(sequence_length, repetitions, offset)
    parameters: dict[str, Any] = {
        "offset": offset,
        "average": average,
        "sequence_length": sequence_length,
        "repetitions": repetitions,
        "batch_size": batch_size,
        "seed": seed,
    }
    source = provenance(model, name="prefix_matching", **parameters)
    return {
        site: _score("prefix_matching", site, _patterns(model, stimulus, site), pairs, source, average)
        for site in SITES
    }


def _earlier(n: int, repetitions: int, offset: int) -> _Pairs:
    """Pairs of each query of the second repetition on with all its earlier occurrences, shifted."""
    total = n * repetitions
    pairs = [(i, j + offset) for i in range(n, total) for j in range(i - n, -1, -n) if j + offset >= 0]
    query, key = (torch.tensor(side) for side in zip(*pairs, strict=True))
    return _Pairs(query, key, len({i for i, _ in pairs}))


def _stimulus(rows: int, n: int, repetitions: int, seed: int) -> Batch:
    """The same tokens in both stacks: `S S ... <EOS> | <START> S S ...`."""
    for name, value in (("sequence_length", n), ("repetitions", repetitions)):
        whole(name, value, 2)  # with fewer, nothing repeats
    tokens = np.tile(
        random_tokens(np.random.default_rng(whole("seed", seed, 0)), whole("batch_size", rows, 1), n), (1, repetitions)
    )
    end, start = (np.full((rows, 1), token) for token in (EOS, START))
    return Batch(
        input_ids=torch.from_numpy(np.concatenate([tokens, end], axis=1)),
        decoder_input_ids=torch.from_numpy(np.concatenate([start, tokens], axis=1)),
    )


def _patterns(model: Model, stimulus: Batch, site: str) -> Tensor:
    """Patterns among the repeated tokens alone, `[layer, batch, head, query, key]`."""
    cache = capture(model, stimulus, f"{site}.*.pattern")
    tokens = slice(0, -1) if site == "encoder.self" else slice(1, None)
    return torch.stack([pattern[:, :, tokens, tokens] for pattern in cache.values()])


def _score(
    name: str, site: str, patterns: Tensor, pairs: _Pairs, source: dict[str, Any], average: bool = False
) -> HeadScores:
    paid = patterns.cpu()[..., pairs.query, pairs.key].double()
    if average:
        per_query = torch.bincount(pairs.query).to(paid)
        paid = paid / per_query[pairs.query]
    return over_rows(name, site, paid.sum(-1) / pairs.n_queries, source)
