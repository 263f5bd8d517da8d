"""Scores of self-attention heads on repeated random tokens or patches: where in the past, or future, they look.

One stimulus serves all: random tokens repeated, in the encoder followed by EOS where the model has one, in its decoder
after the start token, in a decoder alone as they are. A model that reads patches gets repeated random patches, and
offsets count patches. Each score is the mean attention from a set of queries to the
keys that the score is named for, over the batch. To add a score, add its keys to `SCORES`.

Source: Olsson et al. 2022, "In-context Learning and Induction Heads".
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp import Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.masks import check_tokens
from interp.models.model import as_model
from interp.results.by_head import HeadScores, over_rows, provenance
from interp.scoring import score_rows
from interp.validate import whole
from probes.stimuli.repeated_patches import RepeatedPatches, repeated_random_patches
from probes.stimuli.repeated_sequences import RepeatedSequences, sequences_for

Repeated = RepeatedSequences | RepeatedPatches
"""What the scores are measured on."""

LENGTH = 25
"""How many random tokens or patches come before they come again."""

Keys = Callable[[int, int], Iterable[int]]
"""The key positions of a score, from the query's position and the sequence's length; those off the tokens are dropped.

Positions count the repeated tokens alone. A query without any key does not count.
"""


def _after_occurrences(query: int, length: int, *, offset: int) -> list[int]:
    """Return the positions `offset` after all earlier occurrences of the query's token, the latest first."""
    return [occurrence + offset for occurrence in range(query - length, -1, -length)]


SCORES: dict[str, Keys] = {
    "previous_token": lambda query, length: [query - 1],
    "duplicate_token": lambda query, length: [query - length],
    "induction": lambda query, length: [query - length + 1] if query >= length else [],
    "prefix_matching": partial(_after_occurrences, offset=1),
    "prefix_matching_0": partial(_after_occurrences, offset=0),
    "prefix_matching_-1": partial(_after_occurrences, offset=-1),
    "next_token": lambda query, length: [query + 1],
    "later_occurrence": lambda query, length: [query + length],
}

AHEAD = ("next_token", "later_occurrence")
"""Scores of an encoder alone, which sees both sides."""


@checked
def head_scores(
    model: Model,
    *,
    sequence_length: int | None = None,
    repetitions: int = 4,
    batch_size: int = 20,
    vocab_range: tuple[int, int] | None = None,
    coefficients: int | None = None,
    seed: int = 0,
) -> dict[str, HeadScores]:
    """Score where the self-attention heads of all stacks look on repeated random tokens.

    Args:
        sequence_length: how many tokens, or patches, come before they come again; 25 by default, or as many patches as
            fit the context.
        repetitions: how often the sequence comes, 2 or more.
        vocab_range: first and last id to draw tokens from.
        coefficients: of how many numbers a random patch is made, as in `repeated_random_patches`.

    Returns:
        HeadScores by address, such as `decoder.self.previous_token`. All stacks: `previous_token` (mean attention one
        back), `duplicate_token` (to the latest earlier occurrence), `induction` (to the position after it),
        `prefix_matching` (to the positions after all earlier occurrences, added, queries of the second repetition on),
        `prefix_matching_0` and `prefix_matching_-1` (at the occurrences, and before them). An encoder also has
        `next_token` and `later_occurrence`. A decoder of one position, which can look at itself alone, has none.

    Raises:
        InvalidInput: fewer than two repetitions, or a sequence of fewer than two tokens.
        MissingCapability: a range of tokens for a model that reads patches, or coefficients for one that reads tokens.
    """
    wanted = {"sequence_length": sequence_length, "repetitions": repetitions, "batch_size": batch_size, "seed": seed}
    stimulus, parameters = _sequences(model, wanted, vocab_range, coefficients)
    source = provenance(model, name="head_scores", **parameters)
    scores: dict[str, HeadScores] = {}
    for site in _self_attention(model):
        keys = {name: keys for name, keys in SCORES.items() if name not in AHEAD or site == "encoder.self"}
        panels = scores_by_keys(model, stimulus, keys, site, source)
        scores |= {f"{site}.{name}": panel for name, panel in panels.items()}
    return scores


@checked
def prefix_matching(
    model: Model,
    *,
    offset: int = 1,
    average: bool = False,
    sequence_length: int | None = None,
    repetitions: int = 4,
    batch_size: int = 20,
    vocab_range: tuple[int, int] | None = None,
    coefficients: int | None = None,
    seed: int = 0,
) -> dict[str, HeadScores]:
    """Score prefix matching by self-attention head: attention tied to the token's earlier occurrences.

    Args:
        offset: where to look from each occurrence; sources disagree: +1 (default), 0 or -1.
        average: take the mean over the earlier occurrences instead of their sum, which is at most 1.
        sequence_length: as in `head_scores`, as are `vocab_range` and `coefficients`.
        repetitions: how often the sequence comes; queries are those of the second repetition on.

    Returns:
        HeadScores by `decoder.self`, and `encoder.self` where there is an encoder. A decoder of one position has none.

    Raises:
        InvalidInput: another offset, or nothing that repeats.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads", appendix on head scores.
    """
    if offset not in (-1, 0, 1):
        raise InvalidInput(f"offset={offset}: choose -1, 0 or 1.")
    wanted = {"sequence_length": sequence_length, "repetitions": repetitions, "batch_size": batch_size, "seed": seed}
    stimulus, parameters = _sequences(model, wanted, vocab_range, coefficients)
    source = provenance(model, name="prefix_matching", offset=offset, average=average, **parameters)
    keys: dict[str, Keys] = {"prefix_matching": partial(_after_occurrences, offset=offset)}
    return {
        site: scores_by_keys(model, stimulus, keys, site, source, average)["prefix_matching"]
        for site in _self_attention(model)
    }


def _sequences(
    model: Model, wanted: dict[str, Any], vocab_range: tuple[int, int] | None, coefficients: int | None
) -> tuple[Repeated, dict[str, Any]]:
    """Make the stimulus, and return the parameters that name it."""
    length, repetitions = wanted["sequence_length"], whole("repetitions", wanted["repetitions"], 2)
    if as_model(model).reads_tokens:
        if coefficients is not None:
            model.require("patches")
        wanted = wanted | {"sequence_length": LENGTH if length is None else length, "vocab_range": vocab_range}
        stimulus = sequences_for(model, None, wanted)
        return stimulus, {name: stimulus.parameters[name] for name in wanted}
    if vocab_range is not None:
        model.require("tokens")
    fits = model.patching.context_length // model.patching.size // repetitions
    wanted = {name: value for name, value in wanted.items() if name != "sequence_length"}
    wanted |= {"patches": min(LENGTH, fits) if length is None else length, "coefficients": coefficients}
    patches = repeated_random_patches(model, extension=0, **wanted)
    return patches, {name: patches.parameters[name] for name in wanted}


def _self_attention(model: Model) -> list[str]:
    """Return the kinds of self-attention that a model has, in forward order, without one of a single position."""
    kinds = [f"{stack}.{kind}" for stack, kind in model.family.kinds if kind == "self"]
    return [kind for kind in kinds if not model.is_constant(f"{kind}.0.pattern")]


def scores_by_keys(
    model: Model,
    stimulus: Repeated,
    keys: dict[str, Keys],
    site: str,
    source: dict[str, Any],
    average: bool = False,
) -> dict[str, HeadScores]:
    """Score heads by the attention to the keys of each score, in one forward pass.

    Raises:
        InvalidInput: a row is padded among the repeated tokens.
    """
    stack = model.kind(site)[0]
    places = stimulus.places(stack)
    check_tokens(stimulus.mask(stack), stack, range(places.start, places.stop), "a repeated token")
    functions = {name: partial(_paid, rule, places, stimulus.sequence_length, average) for name, rule in keys.items()}
    rows = score_rows(model, stimulus, functions, site)[0]
    return {name: over_rows(name, site, rows[name], source) for name in keys}


def _paid(keys: Keys, places: slice, length: int, average: bool, pattern: Tensor) -> Tensor:
    """Add up (or average) the attention that a query pays to its keys, and take the mean over queries."""
    total = places.stop - places.start
    pairs = [(query, key) for query in range(total) for key in keys(query, length) if 0 <= key < total]
    query, key = (torch.tensor(side) for side in zip(*pairs, strict=True))
    paid = pattern[:, :, places, places].cpu()[..., query, key].double()
    if average:
        paid = paid / torch.bincount(query).to(paid)[query]
    return paid.sum(-1) / len(query.unique())
