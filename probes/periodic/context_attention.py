"""Attention of every head that reads the past over a series, its spectra, and their nulls.

1. The encoder gets the tokenized series, the decoder the start token (and the last values, with `num_decoder`).
   A decoder alone gets all values in one row, without special tokens.
2. Each head's attention from one decoder position to the context, EOS left out, is a series of
   its own on the same time axis, and so has a spectrum and a spectrum of that. The heads are those of
   cross-attention or, in a decoder alone, its own.
   A model that reads patches has one value of attention a patch; its decoder has one position, and the encoder's
   [REG] or last patch can look instead.
3. Combs in the spectrum stand against three nulls: the same attention permuted over positions, and in blocks, and the
   attention to the series when its context is shuffled.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, and its notebook.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from interp import Batch, Model, capture
from interp.arguments import checked
from interp.editing.context import is_hooked
from interp.editing.scopes import outside
from interp.errors import ChangedModel, InvalidInput
from interp.inputs.batch import ValueBatch
from interp.inputs.series_index import entry_text
from interp.inputs.user_series import as_series
from interp.models.model import as_model
from interp.results.by_head import provenance
from interp.results.quantile_losses import at_level
from interp.results.result import Floats
from interp.validate import whole
from probes.periodic import combs as comb
from probes.periodic.spectrum import AttentionSpectrum
from probes.stimuli.repeated_tokens import context_site
from probes.stimuli.time_series import TimeSeries, as_time_series, check_series, series_batch, shuffled_context

ROWS = 64
"""Series in one forward pass."""

Query = Literal["decoder", "reg", "last_patch"]
"""What looks back over a series: the decoder, or in the encoder of a model that reads patches [REG] or the last one."""

PERMUTATIONS = 29
"""Permutations of each shuffled run's attention, for the mean and the spread of its own null."""


@checked
def attention_spectrum(
    model: Model,
    series: Any,
    *,
    num_decoder: int = 0,
    position: int | None = None,
    query: Query = "decoder",
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
        query: what looks: the decoder or, in a model that reads patches, `reg` or `last_patch`, from which the heads of
            its encoder are read.
        shuffles: runs with the context shuffled, for the third null of combs; 0 for none. They take most of the time,
            and are made when `comb` is first asked for, or the result is saved. The smallest p is 1 / (shuffles + 1):
            one of H heads alone can have q <= 0.05 from 20 H on.

    Raises:
        InvalidInput: a series that is constant or has missing values, a context longer than the
            model's, a position that the decoder does not have, or a query that the model does not have.
        UnsupportedModel: a model that reads no series, or `num_decoder` of one whose decoder reads no values.
        ChangedModel: from `comb`, if the model was changed before it was asked for.

    Source: the published notebook: one forward with the start token, `numpy.fft` of the attention.
    """
    shuffles, seed = whole("shuffles", shuffles, 0), whole("seed", seed, 0)
    num_decoder = whole("num_decoder", num_decoder, 0)
    as_model(model)
    timed = as_time_series(series)
    at = _position(position, num_decoder)
    n = len(timed) - num_decoder
    check_series(model, timed.values[None], num_decoder)
    batch = Batch.from_series(model, timed, num_decoder=num_decoder)
    site, place, keys = _query(model, batch, n, at, query)
    cache = capture(model, batch, [f"{site}.*.pattern", _outcome(model)])
    pattern = torch.stack([cache[f"{layer}.pattern"][0, :, place] for layer in model.layers(site)])
    paid = pattern.cpu().double().numpy()
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
    special = paid.shape[-1] > keys and (batch.has_encoder or not model.reads_tokens)
    eos = paid[..., keys] if special else None
    step = n + at - 1 if at or not batch.has_encoder else -1
    layers, heads = paid.shape[:2]

    def shuffled() -> Floats:
        if not shuffles or keys < comb.SHORTEST:
            return np.empty((0, layers, heads))
        rows = shuffled_context(np.random.default_rng(seed), np.tile(timed.values, (shuffles, 1)), n)
        paid = context_attention(model, rows, num_decoder=num_decoder, position=at, query=query)
        return _shuffled_scores(paid, seed)

    def shuffled_later() -> Floats:
        _check_as_before(model, source["digest"])
        with outside(model.module):
            return shuffled()

    # What hooks do now may be gone later: then the runs are made at once.
    runs: Any = shuffled() if is_hooked(model) else shuffled_later
    value = _prediction(model, cache[_outcome(model)], place, timed, num_decoder)
    patch = 1 if model.reads_tokens else model.patching.size
    return AttentionSpectrum(timed, paid[..., :keys], eos, at, step, value, runs, source, site, query, patch)


def _outcome(model: Model) -> str:
    """Return the site from which the next value is read."""
    return "decoder.ln_final" if model.reads_tokens else "decoder.quantiles"


def _prediction(model: Model, outcome: torch.Tensor, place: int, series: TimeSeries, num_decoder: int) -> float:
    """Return the next value in units of the series: the median, or of tokens the likeliest; NaN if it is a special one.

    Args:
        outcome: what was captured at `_outcome(model)`.
        place: the decoder position that looks.
    """
    if not model.reads_tokens:
        return float(at_level(outcome, model.levels, 0.5)[0, 0])
    with torch.no_grad():
        token = int(model.unembed(outcome[0, place]).float().argmax())
    if not bool(model.vocabulary.are_values(torch.tensor(token))):
        return float("nan")
    scale = torch.tensor([series_batch(model, series, num_decoder=num_decoder).scale])
    return float(model.pipeline.tokenizer.output_transform(torch.tensor([[[token]]]), scale))


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
    model: Model,
    values: NDArray[np.float64],
    *,
    num_decoder: int = 1,
    position: int | None = None,
    query: Query = "decoder",
) -> Floats:
    """Measure the attention of every head that reads the past over the contexts of many series of one length.

    Args:
        values: `[series, step]`, without gaps.
        num_decoder: how many of the last values go to the decoder; 0 for one that reads none.
        position: as in `attention_spectrum`, as is `query`.

    Returns:
        `[series, layer, head, step]` over the context, EOS left out, or `[series, layer, head, patch]`.

    Raises:
        InvalidInput, UnsupportedModel: as for `attention_spectrum`.
    """
    as_model(model)
    values = as_series(values).double().numpy()
    check_series(model, values, num_decoder)
    n, at = values.shape[1] - num_decoder, _position(position, num_decoder)
    parts: list[Floats] = []
    for rows in np.array_split(np.arange(len(values)), -(-len(values) // ROWS)):
        batch = Batch.from_series(model, values[rows], num_decoder=num_decoder)
        site, place, keys = _query(model, batch, n, at, query)
        cache = capture(model, batch, [f"{site}.*.pattern"])
        layers = [cache[f"{layer}.pattern"][:, :, place, :keys] for layer in model.layers(site)]
        parts.append(torch.stack(layers, dim=1).cpu().double().numpy())
    return np.concatenate(parts)


def _query(model: Model, batch: Batch, n: int, position: int, query: Query) -> tuple[str, int, int]:
    """Return the kind of attention, the position that looks, and how many keys the context of n steps has."""
    if isinstance(batch, ValueBatch):
        places = {"decoder": batch.query, "last_patch": batch.n_patches - 1}
        places |= {} if batch.reg is None else {"reg": batch.reg}
        if query not in places:
            raise InvalidInput(f"query={query!r}: {model.name} has {', '.join(places)}.")
        site = "decoder.cross" if query == "decoder" else "encoder.self"
        return site, places[query], batch.n_patches
    if query != "decoder":
        raise InvalidInput(f"query={query!r} is of models that read patches; {model.name} looks from its decoder.")
    # In a decoder alone a context of n values comes first.
    return context_site(model), position if model.has_encoder else n + position - 1, n


def _position(position: int | None, num_decoder: int) -> int:
    """Return the decoder position that looks, the last by default."""
    at = num_decoder if position is None else whole("position", position, 0)
    if at > num_decoder:
        raise InvalidInput(f"position={position}: the decoder has positions 0-{num_decoder}; num_decoder gives more.")
    return at
