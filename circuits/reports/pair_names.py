"""Pairs of repeated random tokens or patches by the name of their corruption, with the metric between the two."""

from circuits.metrics import Metric, logit_difference, towards
from interp import Model
from interp.errors import InvalidInput, nearest
from interp.inputs.vocabulary import PUBLISHED
from probes import repeated_random_patches, repeated_random_tokens
from probes.stimuli import pairs
from probes.stimuli.pairs import Pair

SHIFT = 50
"""By how many bins of the published models `shifted_values` moves all tokens: 0.37 of the series' scale."""

RISE = 1.0
"""By how many deviations `shifted_values` moves the latest repetition of patches."""

PAIRS = {
    "another_sequence": "other tokens throughout, and the query's token at another place: all that induction needs",
    "swapped_continuation": "the continuation exchanged with a later token of its sequence: what is carried",
    "shuffled_occurrences": "the tokens after the query's token in another order: what is carried",
    "shifted_values": f"all tokens moved by {SHIFT} bins of the published models: values, not where they repeat",
}
"""The corruptions by name, and what each takes away."""

OF_PATCHES = {
    "another_sequence": "other patches throughout, and the last one at another place: all that induction needs",
    "swapped_continuation": "the patch that follows exchanged with a later one of its sequence: what is carried",
    "shuffled_occurrences": "the patches after the last one's in another order: what is carried",
    "shifted_values": f"the latest repetition moved by {RISE:g} deviation: the level, not where patches repeat",
}
"""The same in patches."""


def pair_words(name: str, model: Model) -> str:
    """Say what a corruption takes away from what a model reads."""
    return (PAIRS if model.reads_tokens else OF_PATCHES)[name]


def check_pair_name(option: str, name: str) -> str:
    """Return the name of a corruption.

    Raises:
        InvalidInput: there is none of this name.
    """
    if name not in PAIRS:
        raise InvalidInput(f"{option}={name!r}: there are {', '.join(PAIRS)}.{nearest(str(name), PAIRS)}")
    return name


def pair_of(
    name: str, *, batch_size: int, seed: int, model: Model | None = None, coefficients: int | None = None
) -> tuple[Pair, Metric]:
    """Make a pair of repeated random tokens, and its logit difference: right on clean minus right on corrupt.

    Of a model that reads patches it is a pair of these, and how far the median lies on the way from what is right on
    corrupt, 0, to what is right on clean, 1.

    Args:
        name: the corruption, one of `PAIRS`.
        batch_size: rows of tokens.
        seed: seed of the tokens and of the corruption.
        model: the model whose tokens are drawn; None for the published tokens, read by an encoder.
        coefficients: of how many numbers a patch is made.

    Raises:
        InvalidInput: another name, no rows, or a negative seed.
        MissingCapability: coefficients for a model that reads tokens.
    """
    check_pair_name("pair", name)
    if model is not None and (coefficients is not None or not model.reads_tokens):
        patches = repeated_random_patches(model, coefficients=coefficients, batch_size=batch_size, seed=seed)
        raised = name == "shifted_values"
        pair = pairs.shifted_values(patches, RISE) if raised else getattr(pairs, name)(patches, seed=seed)
        assert pair.against is not None
        return pair, towards(pair.target, pair.against)
    clean = repeated_random_tokens(batch_size=batch_size, unique=True, model=model, seed=seed)
    if name == "shifted_values":
        here = clean.vocabulary or PUBLISHED
        pair = pairs.shifted_values(clean, max(1, round(SHIFT * PUBLISHED.bin_width / here.bin_width)))
    else:
        pair = getattr(pairs, name)(clean, seed=seed)
    assert pair.against is not None
    return pair, logit_difference(pair.target, pair.against)
