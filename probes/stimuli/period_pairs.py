"""A pair of periodic series that agree at the end: what comes next follows from the period alone.

1. A motif is drawn for the shorter period; the longer one has random values in front of it.
2. The values in front are scaled so that both series have the same scale in Chronos' tokenizer: equal values are
   equal tokens.
3. Both go through the tokenizer with the true next value, whose tokens are the targets.

Source: Zhang & Nanda 2024 (a corrupt input that is in distribution, and as right as the clean one).
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from interp import Batch, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.results.result import Floats
from interp.validate import whole
from probes.stimuli.pairs import Pair, stacks_of


@checked
def changed_period(
    model: Model, *, period: int, other: int, steps: int = 96, batch_size: int = 100, seed: int = 0
) -> Pair:
    """Make pairs of periodic series that agree at the end and differ in their period.

    The longer motif is the shorter one with random values in front. So the last steps agree, as many as the shorter
    period, with the decoder's value among them: what comes next follows from the period alone. The values in front are
    scaled so that the mean absolute value of the context, by which Chronos divides, is the same too.

    Args:
        period: period of the clean series, in steps.
        other: period of the corrupt series, in steps.
        steps: values in the context; the decoder gets the one after them. A decoder alone gets all in one row.
        batch_size: rows, each with a motif of its own, standard normal before scaling.

    Returns:
        The pair; `target` and `against` are the tokens of the true next value of each, different in every row.

    Raises:
        InvalidInput: periods that are the same or under 2, fewer than two periods in `steps`, a context longer than the
            model's, or periods and steps for which too few such motifs are found.
        UnsupportedModel: a model without a tokenizer for series.
    """
    first, second = whole("period", period, 2), whole("other", other, 2)
    rows, longest = whole("batch_size", batch_size, 1), model.pipeline.model_context_length
    if first == second:
        raise InvalidInput(f"period and other are both {first}: choose two periods.")
    if not 2 * max(first, second) <= whole("steps", steps, 1) <= longest:
        raise InvalidInput(
            f"steps={steps}: a period of {max(first, second)} must come twice in {model.name}'s context, so choose "
            f"{2 * max(first, second)} to {longest}."
        )
    rng = np.random.default_rng(whole("seed", seed, 0))
    short = min(first, second)
    series = _motifs(rng, 2 * rows + 16, short, max(first, second), steps)
    (clean, target), (corrupt, against) = (
        _tokenized(model, values) for values in (series if first == short else series[::-1])
    )
    # Rounding may put equal values into two bins, and different ones can fall into one.
    agree = torch.ones(len(clean), dtype=torch.bool)
    for stack in stacks_of(clean):
        agree &= (clean.ids(stack) == corrupt.ids(stack))[:, -short:].all(1)
    chosen = (agree & (target != against)).nonzero()[:rows, 0]
    if len(chosen) < rows:
        raise InvalidInput(
            f"period={period} and other={other} in {steps} steps: only {len(chosen)} of {2 * rows + 16} random motifs "
            "have one scale and two different next tokens. Take steps that are a multiple of both, or other periods."
        )
    parameters = {"period": first, "other": second, "steps": int(steps), "batch_size": rows, "seed": int(seed)}
    return Pair(
        clean.rows(chosen),
        corrupt.rows(chosen),
        target[chosen],
        against[chosen],
        {"name": "changed_period", **parameters},
    )


def _motifs(rng: Generator, rows: int, short: int, long: int, steps: int) -> tuple[Floats, Floats]:
    """Draw series of both periods, `[row, step]`: the context, the last value, and the true next one."""
    end, front = rng.standard_normal((rows, short)), rng.standard_normal((rows, long - short))
    # The next step begins a motif, in both.
    step_in_motif = np.arange(steps + 2) - (steps + 1)
    one = end[:, step_in_motif % short]
    other = np.concatenate([front, end], axis=1)[:, step_in_motif % long]
    in_front = step_in_motif % long < long - short
    seen, total = np.abs(other[:, :steps]), np.abs(one[:, :steps]).sum(1)
    factor = (total - (seen * ~in_front[:steps]).sum(1)) / (seen * in_front[:steps]).sum(1)
    # Below 0 no values in front give that scale: the two series differ in theirs, and are not chosen.
    return one, np.where(in_front, other * factor.clip(0)[:, None], other)


def _tokenized(model: Model, values: Floats) -> tuple[Batch, Tensor]:
    """Tokenize series, all but the last two values as context, and return the token of the last apart."""
    batch = Batch.from_series(model, values, num_decoder=2)
    ids, mask = batch.decoder_input_ids, batch.decoder_attention_mask
    return replace(batch, decoder_input_ids=ids[:, :-1], decoder_attention_mask=mask[:, :-1]), ids[:, -1]
