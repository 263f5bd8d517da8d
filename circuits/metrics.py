"""What patching moves: a number per row, made from the logits, and its values on a clean and a corrupt input.

A metric is any function from logits `[row, pos, token]` to `[row]`; these are the usual ones, with a name for results.

Source: Zhang & Nanda 2024, "Towards Best Practices of Activation Patching"; Heimersheim & Nanda 2024.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from chronos import MeanScaleUniformBins
from jaxtyping import Float
from torch import Tensor

from circuits.accuracy import centers
from interp import InvalidInput, Model, UnclearGap
from interp.inputs import whole
from interp.model import as_model
from interp.results import Floats
from interp.statistics import interval
from probes.pairs import check_aligned, token_ids
from probes.stimuli import N_SPECIAL

Metric = Callable[[Float[Tensor, "row pos token"]], Float[Tensor, " row"]]
"""From logits to a number per row."""

Tokens = int | Sequence[int] | Tensor
"""One token for all rows, or one a row."""


@dataclass(frozen=True, eq=False)
class NamedMetric:
    """A metric with a name, which results remember."""

    name: str
    of: Metric

    def __call__(self, logits: Float[Tensor, "row pos token"]) -> Float[Tensor, " row"]:
        return self.of(logits)


def log_prob(target: Tokens, *, position: int = -1) -> NamedMetric:
    """The log-probability of a token, in nats.

    Args:
        target: the token of each row, such as `batch.continuation`; or one for all.
        position: of the decoder; the last by default.

    Returns:
        The metric.

    Raises:
        InvalidInput: targets that are not token ids.
    """
    ids = token_ids("target", target)

    def of(logits: Tensor) -> Tensor:
        return _picked(_at(logits, position).log_softmax(-1), ids)

    return NamedMetric("log_prob", of)


def logit_difference(target: Tokens, against: Tokens, *, position: int = -1) -> NamedMetric:
    """The logit of one token minus that of another: linear in the logits, so that direct effects add up.

    Args:
        target: the token of each row, or one for all.
        against: the other token, likewise.
        position: of the decoder; the last by default.

    Returns:
        The metric.

    Raises:
        InvalidInput: targets that are not token ids, or of different numbers of rows.
    """
    ids, others = token_ids("target", target), token_ids("against", against)
    if len(ids) != len(others) and 1 not in (len(ids), len(others)):
        raise InvalidInput(f"target has {len(ids)} rows and against {len(others)}: give as many.")

    def of(logits: Tensor) -> Tensor:
        last = _at(logits, position)
        return _picked(last, ids) - _picked(last, others)

    return NamedMetric("logit_difference", of)


def expected_value(model: Model, *, position: int = -1) -> NamedMetric:
    """The mean of the forecast's distribution over values, in units of the series' scale.

    Args:
        model: whose tokenizer gives the bins' centres.
        position: of the decoder; the last by default.

    Returns:
        The metric.

    Source: Ansari et al. 2024, "Chronos" (tokens are bins of the scaled value).
    """
    values = bin_centers(model)

    def of(logits: Tensor) -> Tensor:
        bins = _at(logits, position)[:, N_SPECIAL : N_SPECIAL + len(values)]
        return bins.softmax(-1) @ values.to(bins)

    return NamedMetric("expected_value", of)


def bin_centers(model: Model) -> Float[Tensor, " token"]:
    """The scaled values of the tokens from the first that is no special one on, in float64."""
    tokenizer = cast(MeanScaleUniformBins, cast(Any, model.pipeline).tokenizer)
    return centers(tokenizer.centers.double())


def _at(logits: Tensor, position: int) -> Tensor:
    at = check_position("position", position, logits.shape[1])
    return logits[:, at].to(torch.promote_types(logits.dtype, torch.float32))


def _picked(values: Tensor, ids: Tensor) -> Tensor:
    """The value of each row's token, of `[row, token]`."""
    if len(ids) not in (1, len(values)):
        raise InvalidInput(f"the metric has {len(ids)} target tokens and the batch {len(values)} rows: give as many.")
    if int(ids.max()) >= values.shape[-1]:
        raise InvalidInput(f"the metric asks for token {int(ids.max())}: the model has 0-{values.shape[-1] - 1}.")
    return values.gather(-1, ids.to(values.device).expand(len(values))[:, None])[:, 0]


def metric_name(metric: Metric) -> str:
    """What a metric is called in results."""
    return str(getattr(metric, "name", None) or getattr(metric, "__name__", type(metric).__name__))


def measured(metric: Metric, logits: Float[Tensor, "row pos token"]) -> Float[Tensor, " row"]:
    """A metric of logits, if it is one number per row.

    Raises:
        InvalidInput: it is something else, or not finite.
    """
    if not callable(cast(object, metric)):
        raise InvalidInput(f"metric={metric!r}: give a function from logits [row, pos, token] to one number per row.")
    found: Any = metric(logits)
    if not isinstance(found, Tensor) or tuple(found.shape) != (len(logits),):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InvalidInput(
            f"the metric {metric_name(metric)} gave {what} for {len(logits)} rows: it must give one number per row."
        )
    if found.is_complex():
        raise InvalidInput(f"the metric {metric_name(metric)} gave {found.dtype}: it must give real numbers.")
    # Whether a token is right, or which one is the likeliest, are numbers too.
    found = found if found.is_floating_point() else found.to(torch.float32)
    if not bool(found.isfinite().all()):
        raise InvalidInput(f"the metric {metric_name(metric)} is not finite in {int((~found.isfinite()).sum())} rows.")
    return found


def check_pair(model: Model, clean: Any, corrupt: Any) -> None:
    """See that two inputs can stand for each other, position by position.

    Raises:
        InvalidInput: not batches, of different shapes or masks, or of tokens that the model does not have.
    """
    as_model(model)
    check_aligned(clean, corrupt)
    for given in (clean, corrupt):
        model.check(given)


def check_moves(metric: Metric, clean: Tensor, corrupt: Tensor) -> None:
    """See that there is something to explain: the metric's mean differs between clean and corrupt.

    Args:
        metric: for its name.
        clean: its values on the clean input, `[row]`.
        corrupt: its values on the corrupt one.

    Raises:
        InvalidInput: it does not move.
    """
    scale = float(torch.cat([clean, corrupt]).abs().mean())
    if abs(float(clean.double().mean() - corrupt.double().mean())) <= 1e-6 * max(scale, 1e-6):
        raise InvalidInput(
            f"the metric {metric_name(metric)} does not move: its mean is {float(clean.mean()):.4g} on clean and "
            f"{float(corrupt.mean()):.4g} on corrupt. There is nothing to explain: choose another pair or metric."
        )


def check_position(name: str, position: Any, size: int) -> int:
    """A position counted from the start, of one that may be counted from the end.

    Raises:
        InvalidInput: not a whole number, or outside.
    """
    found = whole(name, position, -size)
    if found >= size:
        raise InvalidInput(f"{name}={position}: there are positions 0-{size - 1}.")
    return found % size


def warn_of_gap(differences: Floats, between: str) -> None:
    """Warn if the mean of differences by row, which shares are in parts of, cannot be told from 0.

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
            stacklevel=3,
        )
