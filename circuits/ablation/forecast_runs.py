"""Forecasts of several variants of a model on some series, measured in every way at once.

1. Contexts and truths are checked: what is scored must be there, and errors must have a scale.
2. Chunk by chunk of series: the logits of the truth's own tokens, then samples.
3. Likelihoods, errors and distances, with the baselines beside them.

Source: as `circuits.ablation.forecast_scores`, `circuits.ablation.baselines` and `circuits.ablation.sampling`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import torch
from chronos import MeanScaleUniformBins
from torch import Tensor
from tqdm.auto import tqdm

from circuits.ablation.baselines import WINDOW, naive, parrot, seasonal_naive
from circuits.ablation.forecast_scores import QUANTILES, bin_crps, forecast_errors, quantiles, seasonal_scale
from circuits.ablation.head_effects import MEMORY
from circuits.ablation.sampling import Ablated, reading, sampling, split, uniforms
from circuits.controls import Controls, columns_of_controls
from interp import Batch, Model
from interp.editing.context import check_unhooked
from interp.editing.edits import Address, Method, Reference, ablations, method_source
from interp.errors import InvalidInput
from interp.inputs.user_series import Series, as_series
from interp.results.by_head import provenance
from interp.results.result import Floats, Result
from interp.results.statistics import (
    interval,
)
from interp.validate import whole

UNEDITED = "unedited"
BASELINES = ("naive", "seasonal_naive", "parroting")


@dataclass(frozen=True, eq=False, repr=False)
class ForecastEffects(Result):
    """Forecasts unedited, ablated and under controls, with what they are worth.

    Attributes:
        names: of the variants: `unedited`, the ablations, their controls.
        sets: what each variant ablates.
        controls: by ablation, the names of its controls.
        reasons: by ablation, why it has no controls or fewer than asked; empty otherwise.
        outcomes: by name, `[variant, series]`: `nll` (nats a step over the value tokens, the truth read step by step),
            `crps` (of the bins' distribution, likewise), `mase`, `wql`, `distance` (of the median
            to the unedited one), `to_parroting` (of the median to the parroted forecast),
            `parroting` (correlation of the two over steps). CRPS and distances are in units of the
            context's mean absolute seasonal difference, as MASE is.
        baselines: `mase` and `wql` `[series]` of `naive`, `seasonal_naive`, `parroting`.
        contexts: `[series, step]`.
        truth: `[series, step]`.
        fans: quantile forecasts 0.1 to 0.9, `[variant, series, quantile, step]`.
        points: the baselines' forecasts, `[series, step]`.
        provenance: the model, its weights' digest, seeds, versions.
    """

    KIND = "forecast-effects"

    names: tuple[str, ...]
    sets: dict[str, tuple[str, ...]]
    controls: dict[str, tuple[str, ...]]
    reasons: dict[str, str]
    outcomes: dict[str, Floats]
    baselines: dict[str, dict[str, Floats]]
    contexts: Floats
    truth: Floats
    fans: Floats
    points: dict[str, Floats]
    provenance: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One tidy row a variant, series and outcome; the baselines' among them."""
        rows = [
            {"variant": name, "series": i, "outcome": outcome, "value": float(value)}
            for outcome, values in self.outcomes.items()
            for name, of_series in zip(self.names, values, strict=True)
            for i, value in enumerate(of_series)
        ]
        rows += [
            {"variant": name, "series": i, "outcome": outcome, "value": float(value)}
            for name, found in self.baselines.items()
            for outcome, values in found.items()
            for i, value in enumerate(values)
        ]
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """One row an ablation and outcome: means over series, the change, and the controls' change.

        `low, high` are Student's 95 % interval of the change over series (NaN under three series); `control` is the
        mean change over control sets, `control_low, control_high` the least and the largest of them, or the middle
        95 % of 39 sets or more, as `band` says; `p` is the rank of the change among theirs, which cannot come under
        1 / (1 + draws). `series` is how many have the outcome under all of these.
        """
        rows = []
        for name in self.controls:
            for outcome, values in self.outcomes.items():
                variants = values[[0, self.names.index(name), *(self.names.index(c) for c in self.controls[name])]]
                # A correlation with parroting does not exist where what is parroted is flat.
                kept = ~np.isnan(variants).any(0)
                clean, own, *controls = variants[:, kept]
                low, high = interval((own - clean)[None])
                if not kept.any():
                    clean, own, controls = np.full(1, np.nan), np.full(1, np.nan), []
                others = np.array([float((control - clean).mean()) for control in controls])
                rows.append(
                    {
                        "ablation": name,
                        "outcome": outcome,
                        "unedited": clean.mean(),
                        "ablated": own.mean(),
                        "change": (own - clean).mean(),
                        "low": low[0],
                        "high": high[0],
                        **columns_of_controls(float((own - clean).mean()), others),
                        "draws": len(self.controls[name]),
                        "series": int(kept.sum()),
                        "reason": self.reasons[name],
                    }
                )
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Variants:
    """What is ablated, by name, `unedited` first; and by ablation its controls, and why they lack."""

    sets: Mapping[str, Sequence[Address]]
    controls: Mapping[str, Sequence[str]]
    reasons: Mapping[str, str]

    @classmethod
    def of(cls, named: Mapping[str, Sequence[Address]], drawn: Mapping[str, Controls]) -> Self:
        """From ablations and their controls, by name.

        Raises:
            InvalidInput: an ablation has the name of a baseline, a control or the unedited forecast.
        """
        reserved = {UNEDITED, *BASELINES}
        if taken := sorted(reserved & set(named)):
            raise InvalidInput(
                f"an ablation cannot be called {', '.join(taken)}: that is the name of another forecast."
            )
        sets: dict[str, Sequence[Address]] = {UNEDITED: [], **named}
        controls = {name: [f"{name}, control {i + 1}" for i in range(len(drawn[name].sets))] for name in named}
        for name, titles in controls.items():
            if taken := sorted(set(titles) & set(sets)):
                raise InvalidInput(f"an ablation cannot be called {', '.join(taken)}: so are controls of {name!r}.")
            sets |= dict(zip(titles, drawn[name].sets, strict=True))
        return cls(sets, controls, {name: drawn[name].reason for name in named})


def measure_forecasts(
    model: Model,
    series: Series,
    variants: Variants,
    *,
    prediction_length: int = 24,
    num_samples: int = 20,
    season: int = 1,
    seed: int = 0,
    method: Method = "zero",
    reference: Reference | None = None,
    window: int = WINDOW,
    memory: int = MEMORY,
    progress: bool = True,
) -> ForecastEffects:
    """Forecast the end of each series with every variant, as `forecast_effects` says.

    Args:
        variants: what to ablate. The other arguments are those of `forecast_effects`.

    Returns:
        The outcomes of every variant.

    Raises:
        InvalidInput, UnsupportedModel: as `forecast_effects`.
    """
    check_unhooked(model, "a forecast of several ablations")
    if method == "resample":
        raise InvalidInput("forecasts take method='zero' or 'mean': sampled tokens part ways from a resample's.")
    ablations([], method, reference)
    contexts, truth = _split(model, series, prediction_length, season)
    for name, value, least in (("num_samples", num_samples, 1), ("seed", seed, 0), ("window", window, 1)):
        whole(name, value, least)
    sets = variants.sets
    ablated = Ablated(model, list(sets.values()), method, reference)
    nll, crps, samples = _run(model, ablated, contexts, truth, num_samples, seed, memory, progress)
    scale = seasonal_scale(contexts, season)
    steps = range(len(truth))
    points = {
        "naive": np.stack([naive(contexts[i], prediction_length) for i in steps]),
        "seasonal_naive": np.stack([seasonal_naive(contexts[i], prediction_length, season) for i in steps]),
        "parroting": np.stack([parrot(contexts[i], prediction_length, window) for i in steps]),
    }
    fans = dict(zip(sets, quantiles(samples), strict=True))
    flat = {name: np.repeat(point[:, None], len(QUANTILES), axis=1) for name, point in points.items()}
    errors = forecast_errors(contexts, truth, fans | flat, season)
    medians = np.stack([fan[:, QUANTILES.index(0.5)] for fan in fans.values()])
    outcomes = {
        "nll": nll,
        "crps": crps / scale,
        **{name: np.stack([found[name] for name in sets]) for name, found in errors.items()},
        "distance": np.abs(medians - medians[:1]).mean(-1) / scale,
        "to_parroting": np.abs(medians - points["parroting"]).mean(-1) / scale,
        "parroting": np.stack([_correlation(median, points["parroting"]) for median in medians]),
    }
    source = provenance(model, name="series", n_series=len(truth), context=contexts.shape[1], season=season)
    source |= method_source(method, reference, seed=seed, num_samples=num_samples, prediction_length=prediction_length)
    return ForecastEffects(
        names=tuple(sets),
        sets={name: tuple(map(str, members)) for name, members in sets.items()},
        controls={name: tuple(found) for name, found in variants.controls.items()},
        reasons=dict(variants.reasons),
        outcomes=outcomes,
        baselines={name: {kind: found[name] for kind, found in errors.items()} for name in points},
        contexts=contexts,
        truth=truth,
        fans=np.stack(list(fans.values())),
        points=points,
        provenance=source,
    )


def _split(model: Model, series: Series, prediction_length: int, season: int) -> tuple[Floats, Floats]:
    """Contexts and truths, checked."""
    whole("season", season, 1)
    longest = model.chronos_config.prediction_length
    if whole("prediction_length", prediction_length, 1) > longest:
        raise InvalidInput(
            f"prediction_length={prediction_length}: {model.name} forecasts {longest} steps at once; beyond, Chronos "
            "feeds medians back, in which an ablation and its effect cannot be told apart."
        )
    values = as_series(series).double().numpy()
    if values.shape[1] < prediction_length + season + 1:
        raise InvalidInput(
            f"series of {values.shape[1]} steps: {prediction_length} are the truth, and the context must be longer "
            f"than its season of {season}."
        )
    contexts, truth = values[:, :-prediction_length], values[:, -prediction_length:]
    if not np.isfinite(truth).all():
        rows = sorted(set(np.argwhere(~np.isfinite(truth))[:, 0].tolist()))
        raise InvalidInput(
            f"series {rows} have missing values in the last {prediction_length} steps, which are the truth that is "
            "scored: values may be missing in the context only."
        )
    length = (~np.isnan(contexts)).cumsum(1).astype(bool).sum(1)
    if (length <= season).any():
        rows = np.flatnonzero(length <= season).tolist()
        raise InvalidInput(f"series {rows} have a context no longer than their season of {season}.")
    scale = seasonal_scale(contexts, season)
    bad = np.flatnonzero(~(scale > 0)).tolist()
    if bad:
        raise InvalidInput(
            f"series {bad} do not vary from season to season ({season} steps) in their context, as constant ones: a "
            "scaled error is undefined there. Leave them out, or choose another season."
        )
    return contexts, truth


def _run(
    model: Model,
    ablated: Ablated,
    contexts: Floats,
    truth: Floats,
    num_samples: int,
    seed: int,
    memory: int,
    progress: bool,
) -> tuple[Floats, Floats, Floats]:
    """Likelihoods and CRPS `[set, series]` and samples `[set, series, sample, step]`, in the series' units."""
    steps, sets = truth.shape[1], len(ablated.sets)
    uniform = uniforms(seed, len(truth), num_samples, steps)
    tokenizer = cast(MeanScaleUniformBins, cast(Any, model.pipeline).tokenizer)
    vocabulary = model.vocabulary
    values = vocabulary.values.to(model.device)
    batch = Batch.from_series(model, np.concatenate([contexts, truth], axis=1), num_decoder=steps)
    prompt, given, labels = split(batch, steps)
    # The last sample is not read.
    model.check(Batch(batch.input_ids, decoder_input_ids=batch.decoder_input_ids[:, :-1]))
    size, at_once = _sizes(model, prompt, sets, num_samples, steps, memory)
    nll, crps, samples = [], [], []
    bar = tqdm(total=len(truth), disable=not progress, desc=f"forecast, {sets} variants", unit="series", leave=False)
    for rows in _slices(len(truth), size):
        _, _, scale = tokenizer.context_input_transform(torch.from_numpy(contexts[rows]))
        target = (torch.from_numpy(truth[rows]) / scale[:, None]).to(model.device)
        wanted = labels[rows].to(model.device)

        def judge(logits: Tensor, labels: Tensor = wanted, target: Tensor = target) -> Tensor:
            log_probs = vocabulary.value_logits(logits).float().log_softmax(-1)
            at = (labels - vocabulary.n_special)[:, None, :, None].expand(*log_probs.shape[:-1], 1)
            likelihood = -log_probs.gather(-1, at)[..., 0].mean(-1)
            return torch.stack([likelihood.double(), bin_crps(log_probs, values, target[:, None]).mean(-1)], -1)

        jobs = reading(model, given[rows], judge), sampling(model, uniform[rows])
        here = torch.arange(len(truth))[rows]
        judged, tokens = (made.cpu() for made in ablated.run(prompt.rows(here), *jobs, at_once=at_once))
        found = judged[:, :, 0].numpy()
        nll.append(found[..., 0])
        crps.append(found[..., 1] * scale.numpy())
        samples.append(vocabulary.values_of(tokens).double().numpy() * scale.numpy()[:, None, None])
        bar.update(len(scale))
    bar.close()
    return np.concatenate(nll, 1), np.concatenate(crps, 1), np.concatenate(samples, 1)


def _sizes(model: Model, prompt: Batch, sets: int, num_samples: int, steps: int, memory: int) -> tuple[int, int]:
    """How many series run at once, and how many sets: all of them, unless what they keep of the prompt is too much."""
    width = model.n_heads * model.d_head
    own = model.d_vocab * max(num_samples * 12, steps * 40) + num_samples * steps * width * 8
    before = prompt.decoder_input_ids.shape[1] - 1
    # Keys and values of all layers, and one layer's again while it grows; once a set, the widest of reading.
    kept = before * num_samples * (model.n_layers["decoder"] + 1) * width * 8
    kept += before * (before * model.n_heads + 2 * model.d_mlp) * 8
    series = max(1, memory // (sets * (own + kept)))
    return series, sets if series > 1 or not before else max(1, min(sets, memory // (own + kept)))


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _correlation(a: Floats, b: Floats) -> Floats:
    """Pearson's correlation over steps, `[series]`; NaN where one of the two does not vary."""
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
