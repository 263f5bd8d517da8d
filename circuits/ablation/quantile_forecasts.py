"""Forecasts of a model of quantiles with heads ablated or under edits, many variants side by side.

1. Within one forward pass, sets of decoder heads are variants of one folded run, which shares the encoder and its keys
   and values. A set that reaches into the encoder goes on from the stream before the first layer that it touches.
2. Beyond it Chronos goes on from the quantile paths of each forecast, which no two variants share. All variants of a
   series go through `predict` as rows side by side.
3. Edits of other kinds take a call of `predict` for each variant.

Source: `chronos.chronos_bolt.ChronosBoltPipeline.predict`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from circuits.ablation.head_effects import variant_bytes
from circuits.ablation.head_sets import Set, ablated_values, kept_heads, layers_of
from circuits.measurement import read_out
from interp import Batch, Model
from interp.editing.context import edited
from interp.editing.edit import Address, Edit
from interp.editing.edits import Mean, Reference
from interp.editing.methods import Method, ablations
from interp.editing.variants import (
    check_dtype,
    clean_run,
    decode,
    decode_each,
    resume_encoder,
    variant_heads,
    variant_rows,
)
from interp.inputs.batch import ValueBatch
from interp.models.checks.states import evaluated
from interp.models.weights.layers import decoder_ids
from interp.names import STACKS, AttentionLayer, Head
from interp.output.progress import late_bar
from interp.results.result import Floats


@torch.no_grad()
def quantile_forecasts(
    model: Model,
    variants: Sequence[Sequence[Address] | Sequence[Edit]],
    contexts: Floats,
    steps: int,
    *,
    method: Method,
    reference: Reference | None,
    memory: int,
    progress: bool,
) -> Floats:
    """Forecast series in several variants, each of which ablates some addresses or is under some edits.

    Args:
        variants: what is ablated, or the edits; none for the unedited model.
        contexts: `[series, step]`, NaN where a value is missing.
        steps: how many to forecast.

    Returns:
        The quantiles at the model's levels, `[variant, series, quantile, step]`, in the series' units.

    Raises:
        InvalidInput: a series without a value in what the model sees; a reference or source that does not fit.
        InertEdit: an edit that reaches nothing in a forecast.
    """
    check_dtype(model)
    batch = cast(ValueBatch, Batch.from_series(model, contexts))
    sets = {i: cast(Set, v) for i, v in enumerate(variants) if all(isinstance(m, Head | AttentionLayer) for m in v)}
    others = [i for i in range(len(variants)) if i not in sets]
    further = steps > model.horizon
    # Bytes of one series in one variant.
    longest = min(batch.values.shape[1] + (steps if further else 0), model.patching.context_length)
    one = ValueBatch(torch.ones(1, longest), model.patching)
    size = variant_bytes(model, one, "encoder") * (len(model.levels) if further else 1)
    wide = len(sets) if further else sum(bool(layers_of([members], "encoder")) for members in sets.values())
    fill = ablated_values(model, _layers(list(sets.values())), method, reference)
    fans = np.full((len(variants), len(contexts), len(model.levels), steps), np.nan)
    total = fans.shape[0] * fans.shape[1]
    bar = late_bar(total=total, progress=progress, desc="forecast", unit="forecast")
    for rows in _slices(len(contexts), memory // (size * max(1, wide))):
        chunk = batch.rows(torch.arange(len(contexts))[rows])
        runs = _further(model, chunk, sets, steps, fill, memory // (size * len(chunk)))
        if not further:
            runs = _one_pass(model, chunk, sets, fill, memory // (size * len(chunk)))
        for part, quantiles in runs:
            fans[part, rows] = quantiles[..., :steps].double().cpu().numpy()
            bar.update(len(chunk) * len(part))
    for index in others:
        edits = _edits(variants[index], method, reference)
        by_row = any(edit.batches for edit in edits if not isinstance(edit, Mean))
        with edited(model, edits), evaluated(model):
            for rows in _slices(len(contexts), len(contexts) if by_row else memory // size):
                fans[index, rows] = model.pipeline.predict(batch.values[rows], steps).double().numpy()
                bar.update(len(fans[index, rows]))
    bar.close()
    return fans


def _one_pass(
    model: Model, batch: ValueBatch, sets: Mapping[int, Set], fill: Mapping[AttentionLayer, Tensor], at_once: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Run sets on one pass, and yield some of their numbers with the quantiles `[set, row, quantile, step]`.

    Args:
        at_once: how many sets go through the encoder side by side.
    """
    by_layer: dict[int | None, list[int]] = {}
    for index, members in sets.items():
        touched = layers_of([members], "encoder")
        by_layer.setdefault(touched[0].layer if touched else None, []).append(index)
    starts = [f"encoder.{layer}.resid_pre" for layer in by_layer if layer is not None]
    cache, context = clean_run(model, batch, [*starts, "decoder.ln_final"])
    for layer, indices in by_layer.items():
        for place in _slices(len(indices), len(indices) if layer is None else at_once):
            part = indices[place]
            chosen = [sets[i] for i in part]
            keep = kept_heads(model, chosen, _layers(chosen))
            if layer is None:
                ids = decoder_ids(model, batch)[:, None].expand(-1, len(part), -1)
                with variant_heads(model, keep, fill):
                    ln_final = decode(model, context, ids)
                yield part, read_out(model, ln_final, batch).transpose(0, 1)
                continue
            rows = torch.arange(len(batch)).repeat(len(part))
            every = batch.rows(rows)
            stream = cache[f"encoder.{layer}.resid_pre"][rows, None]
            with variant_rows(model, keep, fill):
                hidden = resume_encoder(model, stream, every.attention_mask, layer, after=None)
                ln_final = decode_each(model, every, hidden)
            yield part, read_out(model, ln_final[:, 0], every).unflatten(0, (len(part), -1))


def _further(
    model: Model,
    batch: ValueBatch,
    sets: Mapping[int, Set],
    steps: int,
    fill: Mapping[AttentionLayer, Tensor],
    at_once: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """Run sets through `predict` beyond one pass, and yield as `_one_pass` does."""
    for place in _slices(len(sets), at_once):
        part = list(sets)[place]
        chosen = [sets[i] for i in part]
        keep = kept_heads(model, chosen, _layers(chosen))
        with variant_rows(model, keep, fill), evaluated(model):
            quantiles = model.pipeline.predict(batch.values.repeat(len(part), 1), steps)
        yield part, quantiles.unflatten(0, (len(part), -1))


def _edits(members: Sequence[Address] | Sequence[Edit], method: Method, reference: Reference | None) -> list[Edit]:
    """Return the edits of a variant: those that it is of, or what ablates its addresses."""
    edits = [member for member in members if isinstance(member, Edit)]
    return edits or ablations(list(cast(Set, members)), method, reference)


def _layers(sets: Sequence[Set]) -> list[AttentionLayer]:
    return [at for stack in STACKS for at in layers_of(sets, stack)]


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, start + max(1, size)) for start in range(0, total, max(1, size)))
