"""Pairs of repeated random tokens by the name of their corruption, with the metric between the two."""

from circuits.metrics import Metric, logit_difference
from interp import Model
from interp.errors import InvalidInput, nearest
from interp.inputs.vocabulary import PUBLISHED
from probes import repeated_random_tokens
from probes.stimuli import pairs
from probes.stimuli.pairs import Pair

SHIFT = 50
"""By how many bins of the published models `shifted_values` moves all tokens: 0.37 of the series' scale."""

PAIRS = {
    "another_sequence": "other tokens throughout, and the query's token at another place: all that induction needs",
    "swapped_continuation": "the continuation exchanged with a later token of its sequence: what is carried",
    "shuffled_occurrences": "the tokens after the query's token in another order: what is carried",
    "shifted_values": f"all tokens moved by {SHIFT} bins of the published models: values, not where they repeat",
}
"""The corruptions by name, and what each takes away."""


def check_pair_name(option: str, name: str) -> str:
    """Return the name of a corruption.

    Raises:
        InvalidInput: there is none of this name.
    """
    if name not in PAIRS:
        raise InvalidInput(f"{option}={name!r}: there are {', '.join(PAIRS)}.{nearest(str(name), PAIRS)}")
    return name


def pair_of(name: str, *, batch_size: int, seed: int, model: Model | None = None) -> tuple[Pair, Metric]:
    """Make a pair of repeated random tokens, and its logit difference: right on clean minus right on corrupt.

    Args:
        name: the corruption, one of `PAIRS`.
        batch_size: rows of tokens.
        seed: seed of the tokens and of the corruption.
        model: the model whose tokens are drawn; None for the published tokens, read by an encoder.

    Raises:
        InvalidInput: another name, no rows, or a negative seed.
    """
    check_pair_name("pair", name)
    clean = repeated_random_tokens(batch_size=batch_size, unique=True, model=model, seed=seed)
    if name == "shifted_values":
        here = clean.vocabulary or PUBLISHED
        pair = pairs.shifted_values(clean, max(1, round(SHIFT * PUBLISHED.bin_width / here.bin_width)))
    else:
        pair = getattr(pairs, name)(clean, seed=seed)
    assert pair.against is not None
    return pair, logit_difference(pair.target, pair.against)
