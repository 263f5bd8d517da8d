"""Forecasts of several ablations on some series, from which their errors are computed.

1. Series are split into contexts and truths, which are checked: the truth must be complete, and errors need a scale.
2. Series by series, as many as fit into memory: the logits of the truth's own tokens, then sampled paths.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from chronos import MeanScaleUniformBins
from torch import Tensor

from circuits.ablation.edited_forecasts import edited_run
from circuits.ablation.forecast_scores import bin_crps, seasonal_scale
from circuits.ablation.forecast_variants import Members, are_edits
from circuits.ablation.sampling import Ablated, reading, sampling, split, uniforms
from interp import Batch, Model
from interp.editing.edit import Address, Edit
from interp.editing.edits import Reference
from interp.editing.methods import Method
from interp.errors import InvalidInput
from interp.inputs.user_series import Series, as_series
from interp.output.progress import late_bar
from interp.results.result import Floats
from interp.validate import whole


def split_series(model: Model, series: Series, prediction_length: int, season: int) -> tuple[Floats, Floats]:
    """Split series into contexts and the truth that is forecast, `[series, step]` each.

    Raises:
        InvalidInput: a horizon beyond that of a model that samples; series that are too short, have missing values in
            the truth, or do not vary from season to season in their context.
    """
    whole("season", season, 1)
    longest = model.chronos_config.prediction_length
    if whole("prediction_length", prediction_length, 1) > longest and not model.gives_quantiles:
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
        raise InvalidInput(
            f"series {np.flatnonzero(~np.isfinite(truth).all(1)).tolist()} have missing values in the last "
            f"{prediction_length} steps, which are the truth that is scored: values may be missing in the context only."
        )
    length = (~np.isnan(contexts)).cumsum(1).astype(bool).sum(1)
    if (length <= season).any():
        rows = np.flatnonzero(length <= season).tolist()
        raise InvalidInput(f"series {rows} have a context no longer than their season of {season}.")
    flat = np.flatnonzero(~(seasonal_scale(contexts, season) > 0)).tolist()
    if flat:
        raise InvalidInput(
            f"series {flat} do not vary from season to season ({season} steps) in their context, as constant ones: a "
            "scaled error is undefined there. Leave them out, or choose another season."
        )
    return contexts, truth


def forecast_runs(
    model: Model,
    variants: Sequence[Members],
    contexts: Floats,
    truth: Floats,
    *,
    num_samples: int,
    seed: int,
    method: Method,
    reference: Reference | None,
    memory: int,
    progress: bool,
) -> tuple[Floats, Floats, Floats]:
    """Read the truth step by step, and sample forecasts, in several variants.

    Args:
        variants: what each ablates, or the edits that it is under.

    Returns:
        Negative log-likelihood in nats per step and CRPS, `[variant, series]`, and samples
        `[variant, series, sample, step]`. CRPS and samples are in the series' units.
    """
    under = {i: cast(Sequence[Edit], members) for i, members in enumerate(variants) if are_edits(members)}
    without = {i: cast(Sequence[Address], members) for i, members in enumerate(variants) if i not in under}
    ablated, edits = Ablated(model, list(without.values()), method, reference), list(under.values())
    steps, sets = truth.shape[1], len(without)
    uniform = uniforms(seed, len(truth), num_samples, steps)
    tokenizer = cast(MeanScaleUniformBins, model.pipeline.tokenizer)
    vocabulary = model.vocabulary
    values = vocabulary.values.to(model.device)
    batch = Batch.from_series(model, np.concatenate([contexts, truth], axis=1), num_decoder=steps)
    prompt, inputs, labels = split(batch, steps)
    # The last sample is not read.
    model.check(Batch(batch.input_ids, decoder_input_ids=batch.decoder_input_ids[:, :-1]))
    size, at_once = _sizes(model, prompt, sets, num_samples, steps, memory)
    nll, crps, samples = [], [], []
    bar = late_bar(total=len(truth), progress=progress, desc=f"forecast, {sets + len(edits)} variants", unit="series")
    for rows in _slices(len(truth), size):
        _, _, scale = tokenizer.context_input_transform(torch.from_numpy(contexts[rows]))
        scaled_truth = (torch.from_numpy(truth[rows]) / scale[:, None]).to(model.device)
        true_tokens = labels[rows].to(model.device)

        def judge(logits: Tensor, labels: Tensor = true_tokens, target: Tensor = scaled_truth) -> Tensor:
            log_probs = vocabulary.value_logits(logits).float().log_softmax(-1)
            at = (labels - vocabulary.n_special)[:, None, :, None].expand(*log_probs.shape[:-1], 1)
            likelihood = -log_probs.gather(-1, at)[..., 0].mean(-1)
            return torch.stack([likelihood.double(), bin_crps(log_probs, values, target[:, None]).mean(-1)], -1)

        jobs = reading(model, inputs[rows], judge), sampling(model, uniform[rows])
        chunk = prompt.rows(torch.arange(len(truth))[rows])
        judged, tokens = (outputs.cpu() for outputs in ablated.run(chunk, *jobs, at_once=at_once))
        for members in edits:
            own, drawn = edited_run(model, members, chunk, inputs[rows], uniform[rows], judge)
            judged = torch.cat([judged, own.cpu()[None, :, None, 0]])
            tokens = torch.cat([tokens, drawn.cpu()[None]])
        nll.append(judged[:, :, 0, 0].numpy())
        crps.append(judged[:, :, 0, 1].numpy() * scale.numpy())
        samples.append(vocabulary.values_of(tokens).double().numpy() * scale.numpy()[:, None, None])
        bar.update(len(scale))
    bar.close()
    order = [[*without, *under].index(i) for i in range(len(variants))]
    return np.concatenate(nll, 1)[order], np.concatenate(crps, 1)[order], np.concatenate(samples, 1)[order]


def _sizes(model: Model, prompt: Batch, sets: int, num_samples: int, steps: int, memory: int) -> tuple[int, int]:
    """Return how many series run side by side, and how many sets: all, unless one series alone needs too much."""
    width = model.n_heads * model.d_head
    own = model.d_vocab * max(num_samples * 12, steps * 40) + num_samples * steps * width * 8
    before = prompt.decoder_input_ids.shape[1] - 1
    # Keys and values of all layers, and one layer's again while it grows; once a set, the widest tensors of reading.
    cached = before * num_samples * (model.n_layers["decoder"] + 1) * width * 8
    cached += before * (before * model.n_heads + 2 * model.d_mlp) * 8
    series = max(1, memory // (sets * (own + cached)))
    return series, sets if series > 1 or not before else max(1, min(sets, memory // (own + cached)))


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
