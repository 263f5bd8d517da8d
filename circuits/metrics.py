"""What patching moves: a number per row, made from the logits, and its values on a clean and a corrupt input.

A metric is any function from logits `[row, pos, token]` to `[row]`; these are the usual ones, with a name for results.
Their `position` is that of each row's own tokens: the last is the last that is not padding. A function of your own gets
logits that are NaN at padding, so that one that reads it is found out.

Source: Zhang & Nanda 2024, "Towards Best Practices of Activation Patching"; Heimersheim & Nanda 2024.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from interp import Batch, Model
from interp.errors import InvalidInput, UnclearGap
from interp.inputs.masks import row_positions
from interp.models.model import as_model
from interp.results.result import Floats
from interp.results.statistics import interval
from probes.stimuli.pairs import check_aligned, token_ids

Metric = Callable[[Float[Tensor, "row pos token"]], Float[Tensor, " row"]]
"""From logits to a number per row."""

Tokens = int | Sequence[int] | Tensor
"""One token for all rows, or one a row."""


@dataclass(frozen=True, eq=False)
class NamedMetric:
    """A metric with a name, which results remember.

    With a `position`, `of` makes its numbers of what stands there, `[row, token]` in float32 at least; without, of all
    logits.
    """

    name: str
    of: Callable[[Tensor], Tensor]
    position: int | None = None

    def __call__(self, logits: Float[Tensor, "row pos token"], shown: Tensor | None = None) -> Float[Tensor, " row"]:
        """The numbers by row; `shown` `[row, pos]` says which positions are no padding, all by default."""
        if self.position is None:
            return self.of(logits)
        shown = torch.ones(logits.shape[:2], dtype=torch.bool) if shown is None else shown.bool()
        columns = row_positions("position", self.position, shown.to(logits.device))
        rows = torch.arange(len(logits), device=logits.device)
        padded = ~shown.to(logits.device)[rows, columns]
        if bool(padded.any()):
            raise InvalidInput(
                f"{self.name}: position={self.position} is padding in {int(padded.sum())} rows, the first of them row "
                f"{int(padded.int().argmax())}. Negative positions count over a row's own tokens: -1 is its last."
            )
        return self.of(logits[rows, columns].to(torch.promote_types(logits.dtype, torch.float32)))


def log_prob(target: Tokens, *, position: int = -1) -> NamedMetric:
    """The log-probability of a token, in nats.

    Args:
        target: the token of each row, such as `batch.continuation`; or one for all.
        position: of the decoder; by default the last that is not padding.

    Returns:
        The metric.

    Raises:
        InvalidInput: targets that are not token ids.
    """
    ids = token_ids("target", target)

    def of(logits: Tensor) -> Tensor:
        return _picked(logits.log_softmax(-1), ids)

    return NamedMetric("log_prob", of, position)


def logit_difference(target: Tokens, against: Tokens, *, position: int = -1) -> NamedMetric:
    """The logit of one token minus that of another: linear in the logits, so that direct effects add up.

    Args:
        target: the token of each row, or one for all.
        against: the other token, likewise.
        position: of the decoder; by default the last that is not padding.

    Returns:
        The metric.

    Raises:
        InvalidInput: targets that are not token ids, or of different numbers of rows.
    """
    ids, others = token_ids("target", target), token_ids("against", against)
    if len(ids) != len(others) and 1 not in (len(ids), len(others)):
        raise InvalidInput(f"target has {len(ids)} rows and against {len(others)}: give as many.")

    def of(logits: Tensor) -> Tensor:
        return _picked(logits, ids) - _picked(logits, others)

    return NamedMetric("logit_difference", of, position)


def expected_value(model: Model, *, position: int = -1) -> NamedMetric:
    """The mean of the forecast's distribution over values, in units of the series' scale.

    Args:
        model: whose tokenizer gives the bins' centres.
        position: of the decoder; by default the last that is not padding.

    Returns:
        The metric.

    Source: Ansari et al. 2024, "Chronos" (tokens are bins of the scaled value).
    """
    vocabulary, values = model.vocabulary, bin_centers(model)

    def of(logits: Tensor) -> Tensor:
        bins = vocabulary.value_logits(logits)
        return bins.softmax(-1) @ values.to(bins)

    return NamedMetric("expected_value", of, position)


def bin_centers(model: Model) -> Float[Tensor, " token"]:
    """The scaled values of the value tokens in order, in float64."""
    return model.vocabulary.values.double()


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


def measured(metric: Metric, logits: Float[Tensor, "row pos token"], batch: Batch) -> Float[Tensor, " row"]:
    """A metric of the logits of a batch, if it is one number per row and depends on no padding.

    Raises:
        InvalidInput: it is something else, not finite, or read off padding.
    """
    if not callable(cast(object, metric)):
        raise InvalidInput(f"metric={metric!r}: give a function from logits [row, pos, token] to one number per row.")
    shown = batch.decoder_attention_mask.to(logits.device).bool()
    padded = not bool(shown.all())
    own = padded and not (isinstance(metric, NamedMetric) and metric.position is not None)
    found = _by_row(metric, logits, shown, own)
    if own and not _same_without(metric, found.detach(), logits.detach(), shown):
        raise InvalidInput(
            f"the metric {metric_name(metric)} reads padding: of logits that are NaN there it made another number, or "
            "none. Read each row's own last token, logits[torch.arange(len(logits)), batch.position(-1)], or take a "
            "metric such as circuits.log_prob, whose position counts so."
        )
    if not bool(found.isfinite().all()):
        raise InvalidInput(f"the metric {metric_name(metric)} is not finite in {int((~found.isfinite()).sum())} rows.")
    return found


def _by_row(metric: Metric, logits: Tensor, shown: Tensor, own: bool) -> Tensor:
    """What a metric gives, if it is a real number per row; where it picks its positions itself, padding is NaN."""
    if own:
        found: Any = metric(torch.where(shown[..., None], logits, torch.nan))
    else:
        found = metric(logits, shown) if isinstance(metric, NamedMetric) else metric(logits)
    if not isinstance(found, Tensor) or tuple(found.shape) != (len(logits),):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InvalidInput(
            f"the metric {metric_name(metric)} gave {what} for {len(logits)} rows: it must give one number per row."
        )
    if found.is_complex():
        raise InvalidInput(f"the metric {metric_name(metric)} gave {found.dtype}: it must give real numbers.")
    # Whether a token is right, or which one is the likeliest, are numbers too.
    return found if found.is_floating_point() else found.to(torch.float32)


def _same_without(metric: Metric, found: Tensor, logits: Tensor, shown: Tensor) -> bool:
    """Whether a metric gives what it gave when other numbers stand at padding: those of a row's tokens beside it.

    NaN would go through arithmetic, but not through comparisons and the like.
    """
    columns = torch.arange(shown.shape[1], device=shown.device)
    before = torch.where(shown, columns, -1).cummax(1).values
    beside = torch.where(before < 0, shown.long().argmax(1, keepdim=True), before)
    with torch.no_grad():
        other = _by_row(metric, logits.gather(1, beside[..., None].expand_as(logits)), shown, own=False).to(found)
    near = torch.isclose(found, other, rtol=1e-3, atol=1e-5 * float(other.abs().nan_to_num(0, 0, 0).max()))
    return bool((near | ~other.isfinite()).all())


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
