"""Apply metrics to what a model puts out, check what they give, and check pairs of inputs."""

import inspect
import warnings
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.metrics import Metric, NamedMetric, QuantileMetric
from interp import Batch, Model, Site
from interp.errors import InvalidInput, UnclearGap
from interp.inputs.batch import ValueBatch
from interp.inputs.masks import row_positions
from interp.models.model import as_model
from interp.results.result import Floats
from interp.results.statistics import interval
from probes.stimuli.pairs import check_aligned
from probes.stimuli.repeated_patches import RepeatedPatches
from probes.stimuli.repeated_tokens import RepeatedTokens, stimulus_of

Stimulus = RepeatedTokens | ValueBatch
"""A batch on which heads are ablated: it knows at which position of the decoder its metric is read."""


def metric_name(metric: Metric) -> str:
    """Return the name of a metric in results."""
    return str(getattr(metric, "name", None) or getattr(metric, "__name__", type(metric).__name__))


def described(metric: Metric) -> dict[str, Any]:
    """Return what results keep of a metric: name, unit, and whether higher is better."""
    return {
        "metric": metric_name(metric),
        "unit": str(getattr(metric, "unit", "")),
        "higher_is_better": getattr(metric, "higher_is_better", True),
    }


def check_metric(metric: Any) -> None:
    """Check that a metric can be called.

    Raises:
        InvalidInput: it cannot.
    """
    if not callable(metric):
        raise InvalidInput(
            f"metric={metric!r}: give a function from logits [row, pos, token] to one number per row, such as "
            "circuits.log_prob(batch.continuation), or from quantiles [row, quantile, step], such as "
            "circuits.metrics.median()."
        )


def read_out(model: Model, ln_final: Float[Tensor, "row *variant pos d_model"], batch: Batch) -> Tensor:
    """Compute what a model puts out from its decoder's last norm.

    Args:
        ln_final: of a batch, or of variants of each of its rows.

    Returns:
        Logits `[row, *variant, pos, token]`, or quantiles `[row, *variant, quantile, step]` in the series' units.
    """
    if not isinstance(batch, ValueBatch):
        return model.unembed(ln_final)
    rows, variants = len(ln_final), ln_final.shape[1:-2]
    flat = ln_final.reshape(-1, *ln_final.shape[-2:])
    context = batch.values.repeat_interleave(len(flat) // rows, 0)
    return model.quantiles(flat, context).unflatten(0, (rows, *variants))


def end_site(model: Model) -> Site:
    """Return the site from which outputs of one input are measured for another: see `outputs_in`."""
    return model.output if model.reads_tokens else Site("decoder", None, None, "ln_final")


def outputs_in(model: Model, end: Tensor, batch: Batch) -> Tensor:
    """Return what a model puts out where it is at `end_site`, in the units of a batch.

    A model of values gives quantiles in units of its context's deviation from its mean. Those of another input are
    read out with the mean and deviation of this batch, so that the two differ by what the model computes alone.

    Returns:
        Logits `[row, pos, token]`, or quantiles `[row, quantile, step]`.
    """
    return end if model.reads_tokens else read_out(model, end, batch)


def output_size(model: Model, queries: int = 1) -> int:
    """Return how many numbers a model puts out for a row: logits at so many positions, or quantiles of all steps."""
    return prod(model.shape_at("quantiles")) if model.gives_quantiles else queries * model.d_vocab


def measured(model: Model, metric: Metric, outputs: Tensor, batch: Batch) -> Float[Tensor, " row"]:
    """Measure a metric on what a model puts out on a batch.

    Args:
        outputs: logits `[row, pos, token]`, or quantiles `[row, quantile, step]` in the series' units.

    Raises:
        InvalidInput: the metric does not give one finite number per row, or reads padding.
        MissingCapability: a metric of tokens for a model of values, or the other way round.
    """
    check_metric(metric)
    if isinstance(metric, QuantileMetric):
        model.require("patches")
    if isinstance(batch, ValueBatch):
        if isinstance(metric, NamedMetric):
            model.require("tokens")
        values = _numbers(metric, _of_quantiles(model, metric, outputs, batch), len(outputs))
    else:
        values = _of_logits(metric, outputs, batch)
    if not bool(values.isfinite().all()):
        raise InvalidInput(f"the metric {metric_name(metric)} is not finite in {int((~values.isfinite()).sum())} rows.")
    return values


def _of_quantiles(model: Model, metric: Metric, quantiles: Tensor, batch: ValueBatch) -> Any:
    if isinstance(metric, QuantileMetric):
        return metric(quantiles, model.levels, batch.deviation)
    return metric(quantiles)


def _of_logits(metric: Metric, logits: Tensor, batch: Batch) -> Tensor:
    shown = batch.decoder_attention_mask.to(logits.device).bool()
    own = not bool(shown.all()) and not (isinstance(metric, NamedMetric) and metric.position is not None)
    values = _by_row(metric, logits, shown, own)
    if own and not _same_without(metric, values.detach(), logits.detach(), shown):
        raise InvalidInput(
            f"the metric {metric_name(metric)} reads padding: of logits that are NaN there it made another number, or "
            "none. Read each row's own last token, logits[torch.arange(len(logits)), batch.position(-1)], or take a "
            "metric such as circuits.log_prob, whose position counts so."
        )
    return values


def measured_at(
    metric: Metric, logits: Float[Tensor, "row variant token"], batch: Batch, position: int
) -> Float[Tensor, "row variant"]:
    """Measure a metric on logits that are known at one position alone, of several variants of a batch.

    Raises:
        InvalidInput: the metric reads other positions, or does not give one number per row.
    """
    check_metric(metric)
    if isinstance(metric, QuantileMetric):
        raise InvalidInput(f"the metric {metric.name} is of quantiles, and the model puts out logits of tokens.")
    shown = batch.decoder_attention_mask.to(logits.device).bool()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if isinstance(metric, NamedMetric) and metric.position is not None:
        columns = row_positions("position", metric.position, shown)
        if bool((columns != position).any()):
            raise InvalidInput(
                f"the metric {metric.name} reads position {metric.position}: this experiment computes the logits at "
                f"the query alone, position {position}. Leave position out."
            )
        return torch.stack([metric.of(variant) for variant in logits.unbind(1)], 1)
    whole = logits.new_full((len(logits), shown.shape[1], logits.shape[-1]), torch.nan)
    values: list[Tensor] = []
    for variant in logits.unbind(1):
        whole[:, position] = variant
        values.append(_by_row(metric, whole, shown, own=False))
    numbers = torch.stack(values, 1)
    if not bool(numbers.isfinite().all()):
        raise InvalidInput(
            f"the metric {metric_name(metric)} is not finite: this experiment computes the logits at the query alone, "
            f"position {position}, and others are NaN. Read that position."
        )
    return numbers


def _by_row(metric: Metric, logits: Tensor, shown: Tensor, own: bool) -> Tensor:
    """Return a metric's real numbers by row; a metric that picks its positions itself gets NaN at padding."""
    if own:
        values: Any = metric(torch.where(shown[..., None], logits, torch.nan))
    else:
        values = metric(logits, shown) if isinstance(metric, NamedMetric) else metric(logits)
    return _numbers(metric, values, len(logits))


def _numbers(metric: Metric, values: Any, rows: int) -> Tensor:
    """Return what a metric gave as real numbers, one per row."""
    if not isinstance(values, Tensor) or tuple(values.shape) != (rows,):
        what = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidInput(
            f"the metric {metric_name(metric)} gave {what} for {rows} rows: it must give one number per row."
        )
    if values.is_complex():
        raise InvalidInput(f"the metric {metric_name(metric)} gave {values.dtype}: it must give real numbers.")
    # Whether a token is right, or which one is the likeliest, are numbers too.
    return values if values.is_floating_point() else values.to(torch.float32)


def _same_without(metric: Metric, values: Tensor, logits: Tensor, shown: Tensor) -> bool:
    """Tell whether a metric gives the same values when padding holds the numbers of the tokens beside it.

    NaN would go through arithmetic, but not through comparisons and the like.
    """
    columns = torch.arange(shown.shape[1], device=shown.device)
    before = torch.where(shown, columns, -1).cummax(1).values
    beside = torch.where(before < 0, shown.long().argmax(1, keepdim=True), before)
    with torch.no_grad():
        other = _by_row(metric, logits.gather(1, beside[..., None].expand_as(logits)), shown, own=False).to(values)
    near = torch.isclose(values, other, rtol=1e-3, atol=1e-5 * float(other.abs().nan_to_num(0, 0, 0).max()))
    return bool((near | ~other.isfinite()).all())


@torch.no_grad()
def at_query(
    model: Model, ln_final: Float[Tensor, "row *variant d_model"], stimulus: Stimulus, metrics: Sequence[Metric]
) -> list[Floats]:
    """Measure metrics at the query, from the decoder's last norm there.

    Returns:
        For each metric its values, `[row]` or `[row, variant]`.
    """
    variants = ln_final if ln_final.ndim == 3 else ln_final[:, None]
    outputs = read_out(model, variants[:, :, None], stimulus)
    values: list[Floats] = []
    for metric in metrics:
        if stimulus.has_tokens:
            numbers = measured_at(metric, outputs[:, :, 0], stimulus, stimulus.query)
        else:
            numbers = torch.stack([measured(model, metric, variant, stimulus) for variant in outputs.unbind(1)], 1)
        values.append(to_numpy(numbers))
    return values if ln_final.ndim == 3 else [value[:, 0] for value in values]


def to_numpy(values: Tensor) -> Floats:
    """Copy a tensor into a NumPy array of float64."""
    return values.detach().double().cpu().numpy()


def stimulus_for(model: Model, batch: Any, metric: Metric | None, what: str) -> Stimulus:
    """Return what an ablation is measured on.

    Args:
        batch: repeated random tokens or patches; of a model of values any batch, with a metric of what it puts out.
        what: names the experiment in messages.

    Raises:
        InvalidInput: a batch that does not know its continuation, or a row that is padded at the query.
        MissingCapability: tokens for a model of values.
    """
    if as_model(model).reads_tokens:
        if isinstance(batch, ValueBatch):
            model.check(batch)
        return stimulus_of(batch, what)
    model.check(batch)
    assert isinstance(batch, ValueBatch)
    if metric is None and not isinstance(batch, RepeatedPatches):
        raise InvalidInput(
            f"{what} needs a metric, such as circuits.metrics.pinball(truth), or a batch that knows its continuation: "
            "make it with probes.repeated_random_patches(model, ...)."
        )
    return batch


def stimulus_source(stimulus: Stimulus) -> dict[str, Any]:
    """Return what results keep of what an ablation is measured on."""
    name = "repeated_random_tokens" if stimulus.has_tokens else "values"
    return {"name": name, **stimulus.description}


def check_pair(model: Model, clean: Any, corrupt: Any) -> None:
    """Check that two inputs can replace each other, position by position.

    Raises:
        InvalidInput: not batches, of different shapes or masks, or of tokens that the model does not have.
    """
    as_model(model)
    check_aligned(clean, corrupt)
    for batch in (clean, corrupt):
        model.check(batch)


def check_moves(metric: Metric, clean: Tensor, corrupt: Tensor) -> None:
    """Check that there is something to explain: the metric's mean differs between clean and corrupt.

    Raises:
        InvalidInput: it does not differ.
    """
    scale = float(torch.cat([clean, corrupt]).abs().mean())
    if abs(float(clean.double().mean() - corrupt.double().mean())) <= 1e-6 * max(scale, 1e-6):
        raise InvalidInput(
            f"the metric {metric_name(metric)} does not move: its mean is {float(clean.mean()):.4g} on clean and "
            f"{float(corrupt.mean()):.4g} on corrupt. There is nothing to explain: choose another pair or metric."
        )


def warn_of_gap(differences: Floats, between: str) -> None:
    """Warn if the mean of differences by row, which shares are relative to, may be 0.

    Warns:
        UnclearGap: its 95 % interval holds 0.
    """
    low, high = (float(end) for end in interval(differences))
    if low <= 0 <= high:
        warnings.warn(
            f"the metric differs by {float(differences.mean()):.3g} ({low:.3g} to {high:.3g}, 95 % over "
            f"{len(differences)} rows) between {between}: that may be 0, and shares of it mean nothing. Take more "
            "rows.",
            UnclearGap,
            stacklevel=_depth(),
        )


def _depth() -> int:
    """Return how many calls above its caller the user's own code is, for a warning to point at it."""
    packages = {str(Path(__file__).parents[1] / name) for name in ("interp", "probes", "circuits")}
    files = [frame.filename for frame in inspect.stack(context=0)[1:]]
    own = (any(file.startswith(f"{package}/") for package in packages) for file in files)
    return next((depth for depth, ours in enumerate(own, 1) if not ours), 1)
