"""Other inputs for repeated random patches: what `probes.stimuli.pairs` puts in place of tokens, in place of patches.

1. A cycle of patches is laid out as the stimulus lays out its own: repeated, begun once more, and followed.
2. A model standardises each context by its mean and deviation. So a shift or scale of a whole context is invisible, and
   a shift of a part changes how all the rest is read. Every row is brought to the mean and deviation of the clean one,
   so that both inputs, and what follows them, are in the same units; where patches only change places it has them.
"""

from typing import Any

import numpy as np

from probes.stimuli.repeated_patches import Floats, RepeatedPatches


def cycle_of(batch: RepeatedPatches) -> Floats:
    """Return the patches that a batch repeats, as they come first, `[row, patch, step]`."""
    size = batch.patching.size
    first = batch.values[:, : batch.sequence_length * size].double().numpy()
    return first.reshape(len(batch), -1, size)


def laid_out(batch: RepeatedPatches, cycle: Floats, how: dict[str, Any], moved: int = 0) -> RepeatedPatches:
    """Return a batch of another cycle of patches.

    Args:
        batch: the clean one.
        cycle: `[row, patch, step]`.
        how: what is kept of the change.
        moved: how many places further on in the cycle the last patch is taken from, and what follows it.
    """
    count, total = batch.sequence_length, batch.values.shape[1] + batch.continuation.shape[1]
    places = np.arange(-(-total // batch.patching.size))
    places = np.where(places < batch.last, places, places + moved)
    levels = batch.parameters["shift"] * (places // count)
    values = (cycle[:, places % count] + levels[:, None]).reshape(len(batch), -1)[:, :total]
    return _other(batch, values, how, tuple(place + moved for place in batch.occurrences))


def raised(batch: RepeatedPatches, by: float, occurrence: int, how: dict[str, Any]) -> RepeatedPatches:
    """Return a batch in which the repetition of one earlier occurrence lies higher, and with it what follows.

    Args:
        batch: the clean one.
        by: how much, in deviations of each row's context.
        occurrence: which of the earlier ones.
        how: what is kept of the change.
    """
    size, count = batch.patching.size, batch.sequence_length
    start = batch.occurrences[occurrence] // count * count * size
    values, rise = batch.values.double().numpy().copy(), by * batch.deviation.double().numpy()[:, None]
    values[:, start : start + count * size] += rise
    follows = batch.continuation.double().numpy() + rise
    return _other(batch, np.concatenate([values, follows], axis=1), how, batch.occurrences)


def _other(
    batch: RepeatedPatches, values: Floats, how: dict[str, Any], occurrences: tuple[int, ...]
) -> RepeatedPatches:
    """Return a batch of other values `[row, step]`, what follows among them, at the mean and deviation of the clean."""
    steps, own = batch.values.shape[1], batch.values.double().numpy()
    context = values[:, :steps]
    if not np.array_equal(np.sort(context.astype(np.float32)), np.sort(own.astype(np.float32))):
        scale = own.std(1, keepdims=True) / context.std(1, keepdims=True)
        values = (values - context.mean(1, keepdims=True)) * scale + own.mean(1, keepdims=True)
    corrupted = [*batch.parameters.get("corrupted", []), how]
    parameters = {**batch.parameters, "corrupted": corrupted}
    return RepeatedPatches(values[:, :steps], batch.patching, occurrences, values[:, steps:], parameters)
