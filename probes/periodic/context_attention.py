"""Runs over series: attention of every head that reads the past over the context, its spectra, and their nulls.

1. The encoder gets the tokenized series, the decoder the start token (and the last values, if asked).
   A decoder alone gets all values in one row, without special tokens.
2. Each head's attention from one decoder position to the context, EOS left out, is a series of
   its own on the same time axis, and so has a spectrum and a spectrum of that. The heads are those of
   cross-attention or, in a decoder alone, its own.
3. Combs in the spectrum are looked for against three nulls: the same attention permuted over positions, and in blocks,
   and the attention that the model pays to the series when its context is shuffled.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, and its notebook.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interp import Batch, InvalidInput, Model, capture
from interp.inputs.user_series import as_series
from interp.models.model import as_model
from interp.results.by_head import provenance
from interp.results.result import Floats
from interp.validate import whole
from probes.periodic import combs as comb
from probes.periodic.spectrum import AttentionSpectrum, comb_candidates
from probes.stimuli.repeated_tokens import context_site
from probes.stimuli.time_series import as_time_series, check_series, series_batch

ROWS = 64
"""Series in one forward pass."""

PERMUTATIONS = 29
"""Of each shuffled run's attention, for the mean and the spread of its own null."""


def attention_spectrum(
    model: Model,
    series: Any,
    *,
    num_decoder: int = 0,
    position: int | None = None,
    shuffles: int = 99,
    seed: int = 0,
) -> AttentionSpectrum:
    """Attention of every head that reads the past over a series, with its spectra.

    Args:
        model: the model.
        series: a `TimeSeries`, as `multisine` and `datasets` give it, or one as `interp.inputs.user_series.Series`
            says.
        num_decoder: how many of the last values are not in the context but after it, in the decoder. With none, the
            query is the start token, which is no value, or the context's own last value in a decoder alone.
            Comparisons with repeated random tokens take 1 or more.
        position: the decoder position that looks, 0 to `num_decoder`; the last by default, the last value. In a
            decoder alone 0 is the context's last value.
        shuffles: runs with the context shuffled, for the second null of combs; 0 for none. A p under
            1 / (shuffles + 1) cannot come out: of H heads, one alone has q <= 0.05 from 20 H on.
        seed: of the shuffles.

    Returns:
        The attention over the context and all that follows from it.

    Raises:
        InvalidInput: a series that is constant or has missing values, a context longer than the
            model's, or a position that the decoder does not have.
        UnsupportedModel: a model without a tokenizer for series.

    Source: the published notebook: one forward with the start token, `numpy.fft` of the attention.
    """
    shuffles, seed, num_decoder = (
        whole("shuffles", shuffles, 0),
        whole("seed", seed, 0),
        whole("num_decoder", num_decoder, 0),
    )
    as_model(model)
    given = as_time_series(series)
    batch = series_batch(model, given, num_decoder=num_decoder)
    at = _position(position, num_decoder)
    n = len(given) - num_decoder
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

    rng = np.random.default_rng(seed)
    scores: Floats = np.empty((0, *paid.shape[:2]))
    if shuffles:
        rows = np.tile(given.values, (shuffles, 1))
        rows[:, :n] = rng.permuted(rows[:, :n], axis=1)
        other = context_attention(model, rows, num_decoder=num_decoder, position=at)
        among = comb_candidates(n)
        null = comb.permutation_null(other, among, PERMUTATIONS, seed)
        scores = comb.over_null(comb.best_comb(comb.lag_energy(other), among).score, null)
    source = provenance(
        model,
        name="attention_spectrum",
        series=given.name,
        steps=len(given),
        num_decoder=num_decoder,
        position=at,
        shuffles=shuffles,
        seed=seed,
        parameters=given.parameters,
    )
    eos = paid[..., n] if batch.has_encoder and model.vocabulary.eos is not None else None
    step = int(batch.decoder_steps[place])
    return AttentionSpectrum(given, paid[..., :n], eos, at, step, value, scores, source, site)


def context_attention(
    model: Model, values: NDArray[np.float64], *, num_decoder: int = 1, position: int | None = None
) -> Floats:
    """Attention of every head that reads the past over the contexts of many series of one length.

    Args:
        model: the model.
        values: `[series, step]`, without gaps.
        num_decoder: how many of the last values go to the decoder.
        position: the decoder position that looks, as in `attention_spectrum`; the last by default.

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
    """The token position of a decoder position, which a context of n values comes before in a decoder alone."""
    return position if model.has_encoder else n + position - 1


def _position(position: int | None, num_decoder: int) -> int:
    """The decoder position that looks, the last by default."""
    at = num_decoder if position is None else whole("position", position, 0)
    if at > num_decoder:
        raise InvalidInput(f"position={position}: the decoder has positions 0-{num_decoder}; num_decoder gives more.")
    return at
