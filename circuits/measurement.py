"""Apply metrics to what a model puts out, check what they give, and check pairs of inputs."""

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.metrics import Metric, NamedMetric
from interp import Batch, Model
from interp.errors import InvalidInput, UnclearGap
from interp.inputs.masks import row_positions
from interp.models.model import as_model
from interp.results.result import Floats
from interp.results.statistics import interval
from probes.stimuli.pairs import check_aligned
from probes.stimuli.repeated_tokens import RepeatedTokens


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
            "circuits.log_prob(batch.continuation)."
        )


def measured(metric: Metric, logits: Float[Tensor, "row pos token"], batch: Batch) -> Float[Tensor, " row"]:
    """Measure a metric on the logits of a batch.

    Raises:
        InvalidInput: the metric does not give one finite number per row, or reads padding.
    """
    check_metric(metric)
    shown = batch.decoder_attention_mask.to(logits.device).bool()
    own = not bool(shown.all()) and not (isinstance(metric, NamedMetric) and metric.position is not None)
    values = _by_row(metric, logits, shown, own)
    if own and not _same_without(metric, values.detach(), logits.detach(), shown):
        raise InvalidInput(
            f"the metric {metric_name(metric)} reads padding: of logits that are NaN there it made another number, or "
            "none. Read each row's own last token, logits[torch.arange(len(logits)), batch.position(-1)], or take a "
            "metric such as circuits.log_prob, whose position counts so."
        )
    if not bool(values.isfinite().all()):
        raise InvalidInput(f"the metric {metric_name(metric)} is not finite in {int((~values.isfinite()).sum())} rows.")
    return values


def measured_at(
    metric: Metric, logits: Float[Tensor, "row variant token"], batch: Batch, position: int
) -> Float[Tensor, "row variant"]:
    """Measure a metric on logits that are known at one position alone, of several variants of a batch.

    Raises:
        InvalidInput: the metric reads other positions, or does not give one number per row.
    """
    check_metric(metric)
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
    if not isinstance(values, Tensor) or tuple(values.shape) != (len(logits),):
        what = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidInput(
            f"the metric {metric_name(metric)} gave {what} for {len(logits)} rows: it must give one number per row."
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
    model: Model, ln_final: Float[Tensor, "row *variant d_model"], tokens: RepeatedTokens, metrics: Sequence[Metric]
) -> list[Floats]:
    """Measure metrics at the query, from the decoder's last norm there.

    Returns:
        For each metric its values, `[row]` or `[row, variant]`.
    """
    logits = model.unembed(ln_final)
    variants = logits if logits.ndim == 3 else logits[:, None]
    values = [to_numpy(measured_at(metric, variants, tokens, tokens.query)) for metric in metrics]
    return values if logits.ndim == 3 else [value[:, 0] for value in values]


def to_numpy(values: Tensor) -> Floats:
    """Copy a tensor into a NumPy array of float64."""
    return values.detach().double().cpu().numpy()


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
