"""Attention of every head that reads the past over a series, its spectra, and their nulls.

1. The encoder gets the tokenized series, the decoder the start token (and the last values, with `num_decoder`).
   A decoder alone gets all values in one row, without special tokens.
2. Each head's attention from one decoder position to the context, EOS left out, is a series of
   its own on the same time axis, and so has a spectrum and a spectrum of that. The heads are those of
   cross-attention or, in a decoder alone, its own.
3. Combs in the spectrum stand against three nulls: the same attention permuted over positions, and in blocks, and the
   attention to the series when its context is shuffled.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, and its notebook.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interp import Batch, Model, capture
from interp.arguments import checked
from interp.editing.context import is_hooked
from interp.editing.scopes import outside
from interp.errors import ChangedModel, InvalidInput
from interp.inputs.series_index import entry_text
from interp.inputs.user_series import as_series
from interp.models.model import as_model
from interp.results.by_head import provenance
from interp.results.result import Floats
from interp.validate import whole
from probes.periodic import combs as comb
from probes.periodic.spectrum import AttentionSpectrum
from probes.stimuli.repeated_tokens import context_site
from probes.stimuli.time_series import as_time_series, check_series, series_batch, shuffled_context

ROWS = 64
"""Series in one forward pass."""

PERMUTATIONS = 29
"""Permutations of each shuffled run's attention, for the mean and the spread of its own null."""


@checked
def attention_spectrum(
    model: Model,
    series: Any,
    *,
    num_decoder: int = 0,
    position: int | None = None,
    shuffles: int = 99,
    seed: int = 0,
) -> AttentionSpectrum:
    """Measure the attention over a series, with its spectra, of every head that reads the past.

    Args:
        series: a `TimeSeries`, as from `multisine` and `datasets`, or any one series
            (`interp.inputs.user_series.Series`).
        num_decoder: how many of the last values come after the context, in the decoder. With none, the query is the
            start token, which is no value, or the context's own last value in a decoder alone. To compare with repeated
            random tokens, take 1 or more.
        position: the decoder position that looks, 0 to `num_decoder`; by default the last one, the last value. In a
            decoder alone 0 is the context's last value.
        shuffles: runs with the context shuffled, for the third null of combs; 0 for none. They take most of the time,
            and are made when `comb` is first asked for, or the result is saved. The smallest p is 1 / (shuffles + 1):
            one of H heads alone can have q <= 0.05 from 20 H on.

    Raises:
        InvalidInput: a series that is constant or has missing values, a context longer than the
            model's, or a position that the decoder does not have.
        UnsupportedModel: a model without a tokenizer for series.
        ChangedModel: from `comb`, if the model was changed before it was asked for.

    Source: the published notebook: one forward with the start token, `numpy.fft` of the attention.
    """
    shuffles, seed = whole("shuffles", shuffles, 0), whole("seed", seed, 0)
    num_decoder = whole("num_decoder", num_decoder, 0)
    as_model(model)
    timed = as_time_series(series)
    batch = series_batch(model, timed, num_decoder=num_decoder)
    at = _position(position, num_decoder)
    n = len(timed) - num_decoder
    site, place = context_site(model), _place(model, n, at)
    cache = capture(model, batch, [f"{site}.*.pattern", "decoder.ln_final"])
    pattern = torch.stack([cache[f"{layer}.pattern"][0, :, place] for layer in model.layers(site)])
    paid = pattern.cpu().double().numpy()
    with torch.no_grad():
        token = int(model.unembed(cache["decoder.ln_final"][0, place]).float().argmax())
    value = float("nan")
    if bool(model.vocabulary.are_values(torch.tensor(token))):
        centre = model.pipeline.tokenizer.output_transform(torch.tensor([[[token]]]), torch.tensor([batch.scale]))
        value = float(centre)

    source = provenance(
        model,
        name="attention_spectrum",
        series=timed.name,
        steps=len(timed),
        num_decoder=num_decoder,
        position=at,
        shuffles=shuffles,
        seed=seed,
        parameters=timed.parameters,
        dates=None if timed.index is None else [entry_text(entry) for entry in timed.index[[0, -1]]],
    )
    eos = paid[..., n] if batch.has_encoder and model.vocabulary.eos is not None else None
    step = int(batch.decoder_steps[place])
    layers, heads = paid.shape[:2]

    def shuffled() -> Floats:
        if not shuffles or n < comb.SHORTEST:
            return np.empty((0, layers, heads))
        rows = shuffled_context(np.random.default_rng(seed), np.tile(timed.values, (shuffles, 1)), n)
        return _shuffled_scores(context_attention(model, rows, num_decoder=num_decoder, position=at), seed)

    def shuffled_later() -> Floats:
        _check_as_before(model, source["digest"])
        with outside(model.module):
            return shuffled()

    # What hooks do now may be gone later: then the runs are made at once.
    runs: Any = shuffled() if is_hooked(model) else shuffled_later
    return AttentionSpectrum(timed, paid[..., :n], eos, at, step, value, runs, source, site)


def _shuffled_scores(paid: Floats, seed: int) -> Floats:
    """Return how far the best comb of each run's attention lies over permutations of it, `[draw, layer, head]`."""
    among = comb.candidates(paid.shape[-1])
    null = comb.permutation_null(paid, among, PERMUTATIONS, seed)
    return comb.over_null(comb.best_comb(comb.lag_energy(paid), among).score, null)


def _check_as_before(model: Model, digest: str) -> None:
    """Check that a model is the one that a spectrum was measured on.

    Raises:
        ChangedModel: it has other weights or hooks by now.
    """
    with outside(model.module):
        changed = "other weights" if model.digest != digest else "hooks of your own" if is_hooked(model) else None
    if changed:
        raise ChangedModel(
            f"runs of {model.name} with the series shuffled: the model has {changed} since the spectrum was measured. "
            "Measure it again, and ask for combs before the model is changed."
        )


@checked
def context_attention(
    model: Model, values: NDArray[np.float64], *, num_decoder: int = 1, position: int | None = None
) -> Floats:
    """Measure the attention of every head that reads the past over the contexts of many series of one length.

    Args:
        values: `[series, step]`, without gaps.
        num_decoder: how many of the last values go to the decoder.
        position: as in `attention_spectrum`.

    Returns:
        `[series, layer, head, step]` over the context, EOS left out.

    Raises:
        InvalidInput, UnsupportedModel: as for `attention_spectrum`.
    """
    as_model(model)
    values = as_series(values).double().numpy()
    check_series(model, values, num_decoder)
    n = values.shape[1] - num_decoder
    site, place = context_site(model), _place(model, n, _position(position, num_decoder))
    parts: list[Floats] = []
    for rows in np.array_split(np.arange(len(values)), -(-len(values) // ROWS)):
        batch = Batch.from_series(model, values[rows], num_decoder=num_decoder)
        cache = capture(model, batch, [f"{site}.*.pattern"])
        layers = [cache[f"{layer}.pattern"][:, :, place, :n] for layer in model.layers(site)]
        parts.append(torch.stack(layers, dim=1).cpu().double().numpy())
    return np.concatenate(parts)


def _place(model: Model, n: int, position: int) -> int:
    """Return the token position of a decoder position; in a decoder alone a context of n values comes first."""
    return position if model.has_encoder else n + position - 1


def _position(position: int | None, num_decoder: int) -> int:
    """Return the decoder position that looks, the last by default."""
    at = num_decoder if position is None else whole("position", position, 0)
    if at > num_decoder:
        raise InvalidInput(f"position={position}: the decoder has positions 0-{num_decoder}; num_decoder gives more.")
    return at
