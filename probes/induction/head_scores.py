"""Scores of self-attention heads on repeated random tokens: where in the past, or future, they look.

One stimulus serves all: random tokens repeated, in the encoder followed by EOS where the model has
one, in its decoder after the start token, in a decoder alone as they are. Each score is the mean attention from a set
of queries to the keys that the score is named for, over the batch.

Source: Olsson et al. 2022, "In-context Learning and Induction Heads".
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp import InvalidInput, Model, capture
from interp.inputs.masks import check_tokens
from interp.models.model import as_model
from interp.results.by_head import HeadScores, over_rows, provenance
from probes.stimuli.repeated_sequences import RepeatedSequences, sequences_for


@dataclass(frozen=True)
class Pairs:
    """Query-key pairs `[pair]`, in positions of the repeated tokens, and how to weigh them."""

    query: Tensor
    key: Tensor
    n_queries: int


def pairs_at(queries: range, offsets: list[int], length: int) -> Pairs:
    """All pairs of a query and an offset from it that stay within the tokens."""
    pairs = [(i, i + offset) for i in queries for offset in offsets if 0 <= i + offset < length]
    query, key = (torch.tensor(side) for side in zip(*pairs, strict=True))
    return Pairs(query, key, len({i for i, _ in pairs}))


def head_scores(
    model: Model,
    *,
    sequence_length: int = 25,
    repetitions: int = 4,
    batch_size: int = 20,
    vocab_range: tuple[int, int] | None = None,
    seed: int = 0,
) -> dict[str, HeadScores]:
    """Where the self-attention heads of all stacks look on repeated random tokens.

    Args:
        model: the model.
        sequence_length: tokens in the sequence.
        repetitions: how often it is given, 2 or more.
        batch_size: rows.
        vocab_range: the ids to draw from, both included; those of scaled values within +-1.01 by default.
        seed: of the tokens.

    Returns:
        HeadScores by address, such as `decoder.self.previous_token`. All stacks:
        `previous_token` (mean attention one back), `duplicate_token` (to the latest earlier
        occurrence), `induction` (to the position after it), `prefix_matching` (to the positions
        after all earlier occurrences, added, queries of the second repetition on),
        `prefix_matching_0` and `prefix_matching_-1` (at the occurrences, and before them). An
        encoder, which sees both sides, also `next_token` and `later_occurrence`.

    Raises:
        InvalidInput: fewer than two repetitions, or a sequence of fewer than two tokens.
    """
    parameters: dict[str, Any] = {
        "sequence_length": sequence_length,
        "repetitions": repetitions,
        "batch_size": batch_size,
        "vocab_range": vocab_range,
        "seed": seed,
    }
    stimulus = sequences_for(as_model(model), None, parameters)
    n, total = stimulus.sequence_length, stimulus.sequence_length * stimulus.repetitions
    every, repeated = range(total), range(n, total)
    pairs = {
        "previous_token": pairs_at(every, [-1], total),
        "duplicate_token": pairs_at(repeated, [-n], total),
        "induction": pairs_at(repeated, [1 - n], total),
    }
    for offset, name in ((1, "prefix_matching"), (0, "prefix_matching_0"), (-1, "prefix_matching_-1")):
        pairs[name] = _earlier(n, stimulus.repetitions, offset)
    both_sides = {
        "next_token": pairs_at(every, [1], total),
        "later_occurrence": pairs_at(range(total - n), [n], total),
    }
    kept = {name: stimulus.parameters[name] for name in parameters}
    source = provenance(model, name="head_scores", **kept)
    found: dict[str, HeadScores] = {}
    for site in self_attention(model):
        patterns = token_patterns(model, stimulus, site)
        for name, some in (pairs | (both_sides if site == "encoder.self" else {})).items():
            found[f"{site}.{name}"] = score(name, site, patterns, some, source)
    return found


def prefix_matching(
    model: Model,
    *,
    offset: int = 1,
    average: bool = False,
    sequence_length: int = 25,
    repetitions: int = 4,
    batch_size: int = 20,
    vocab_range: tuple[int, int] | None = None,
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
        vocab_range: the ids to draw from, both included; those of scaled values within +-1.01 by default.
        seed: of the tokens.

    Returns:
        HeadScores by `decoder.self`, and `encoder.self` where there is an encoder.

    Raises:
        InvalidInput: another offset, or nothing that repeats.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads", appendix on head scores.
    """
    if offset not in (-1, 0, 1):
        raise InvalidInput(f"offset={offset}: choose -1, 0 or 1.")
    parameters: dict[str, Any] = {
        "sequence_length": sequence_length,
        "repetitions": repetitions,
        "batch_size": batch_size,
        "vocab_range": vocab_range,
        "seed": seed,
    }
    stimulus = sequences_for(as_model(model), None, parameters)
    pairs = _earlier(stimulus.sequence_length, stimulus.repetitions, offset)
    kept = {name: stimulus.parameters[name] for name in parameters}
    source = provenance(model, name="prefix_matching", offset=offset, average=average, **kept)
    return {
        site: score("prefix_matching", site, token_patterns(model, stimulus, site), pairs, source, average)
        for site in self_attention(model)
    }


def _earlier(n: int, repetitions: int, offset: int) -> Pairs:
    """Pairs of each query of the second repetition on with all its earlier occurrences, shifted."""
    total = n * repetitions
    pairs = [(i, j + offset) for i in range(n, total) for j in range(i - n, -1, -n) if j + offset >= 0]
    query, key = (torch.tensor(side) for side in zip(*pairs, strict=True))
    return Pairs(query, key, len({i for i, _ in pairs}))


def self_attention(model: Model) -> list[str]:
    """The kinds of self-attention that a model has, in forward order."""
    return [f"{stack}.{kind}" for stack, kind in model.family.kinds if kind == "self"]


def token_patterns(model: Model, stimulus: RepeatedSequences, site: str) -> Tensor:
    """Patterns among the repeated tokens alone, `[layer, batch, head, query, key]`.

    Raises:
        InvalidInput: a row is padded among them.
    """
    stack, places = model.kind(site)[0], stimulus.places(model.kind(site)[0])
    check_tokens(stimulus.mask(stack), stack, range(places.start, places.stop), "a repeated token")
    cache = capture(model, stimulus, f"{site}.*.pattern")
    return torch.stack([pattern[:, :, places, places] for pattern in cache.values()])


def score(
    name: str, site: str, patterns: Tensor, pairs: Pairs, source: dict[str, Any], average: bool = False
) -> HeadScores:
    """The attention that pairs of query and key get, added by query, mean over queries and rows."""
    paid = patterns.cpu()[..., pairs.query, pairs.key].double()
    if average:
        per_query = torch.bincount(pairs.query).to(paid)
        paid = paid / per_query[pairs.query]
    return over_rows(name, site, paid.sum(-1) / pairs.n_queries, source)
