"""Metrics: what an experiment measures, one number per row, computed from what the model puts out.

Ablation, patching, attribution and discovery take the same metrics. A metric is any function from logits
`[row, pos, token]` to `[row]`; the usual ones are here, with a name for results. Their `position` counts over each
row's own tokens: -1 is the last one that is not padding. A function of your own gets logits that are NaN at padding,
so that reading padding is noticed. It may say its `unit` and whether `higher_is_better` as attributes.

Of a model of quantiles a metric is a function of the quantiles `[row, quantile, step]` of the next steps.

1. A level is read from the model's own quantiles. Between two of its levels it is interpolated, without sorting;
   outside them it is refused. How often quantiles cross is `crossing()`.
2. Numbers are divided by the deviation of the row's context, by which the model scales a series, so that rows of
   different scales can be averaged. With `scaled=False` they are in the series' units, as a function of your own has
   them.

Source: Zhang & Nanda 2024, "Towards Best Practices of Activation Patching"; Heimersheim & Nanda 2024; Koenker & Bassett
1978, "Regression Quantiles" (pinball loss).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp import Batch, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.masks import row_positions
from interp.inputs.user_series import as_series
from interp.names import Stack
from interp.results.quantile_losses import Levels, at_level, pinball_loss
from interp.validate import number, positions
from probes.stimuli.pairs import token_ids
from probes.stimuli.repeated_patches import RepeatedPatches
from probes.stimuli.repeated_tokens import RepeatedTokens

Metric = Callable[[Tensor], Float[Tensor, " row"]]
"""A function from logits `[row, pos, token]`, or from quantiles `[row, quantile, step]`, to one number per row."""

Tokens = int | Sequence[int] | Tensor
"""One token for all rows, or one token per row."""


@dataclass(frozen=True, eq=False)
class NamedMetric:
    """A metric with a name, which results keep.

    Attributes:
        name: names the metric in results.
        of: computes the numbers `[row]`: with a position from the logits there, `[row, token]` in float32 or more;
            without one from all logits.
        position: a position of each row's own tokens.
        unit: the unit of the numbers, such as nats.
        higher_is_better: whether a model that predicts well has high numbers; None if neither is better.
    """

    name: str
    of: Callable[[Tensor], Tensor]
    position: int | None = None
    unit: str = ""
    higher_is_better: bool | None = True

    def __call__(self, logits: Float[Tensor, "row pos token"], shown: Tensor | None = None) -> Float[Tensor, " row"]:
        """Return the numbers by row; `shown` `[row, pos]` marks the positions that are not padding, by default all."""
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
    """Measure the log-probability of a token, in nats.

    Args:
        target: the token of each row, such as `batch.continuation`; or one for all.
        position: a decoder position; by default the last that is not padding.

    Raises:
        InvalidInput: targets that are not token ids.
    """
    ids = token_ids("target", target)

    def of(logits: Tensor) -> Tensor:
        return _picked(logits.log_softmax(-1), ids)

    return NamedMetric("log_prob", of, position, "nats")


def mean_log_prob(targets: Tensor, counted: Tensor | None = None, *, position: int = -1) -> NamedMetric:
    """Measure the mean log-probability of several tokens, in nats: NaN in a row without any.

    Args:
        targets: the tokens of each row, `[row, k]`.
        counted: which of them count, `[row, k]`; by default all.
        position: a decoder position; by default the last that is not padding.
    """
    weights = torch.ones_like(targets) if counted is None else counted

    def of(logits: Tensor) -> Tensor:
        ids, share = targets.to(logits.device), weights.to(logits)
        return (logits.gather(-1, ids) * share).sum(-1) / share.sum(-1) - logits.logsumexp(-1)

    return NamedMetric("mean_log_prob", of, position, "nats")


def accuracy(target: Tokens, *, position: int = -1) -> NamedMetric:
    """Measure whether a token is the likeliest, 1 or 0.

    Args:
        target: the token of each row, such as `batch.continuation`; or one for all.
        position: a decoder position; by default the last that is not padding.

    Raises:
        InvalidInput: targets that are not token ids.
    """
    ids = token_ids("target", target)

    def of(logits: Tensor) -> Tensor:
        return (_picked(logits, ids) >= logits.amax(-1)).to(logits.dtype)

    return NamedMetric("accuracy", of, position, "share of rows")


def logit_difference(target: Tokens, against: Tokens, *, position: int = -1) -> NamedMetric:
    """Measure the logit of one token minus that of another: linear in the logits, so that direct effects add up.

    Args:
        target: the token of each row, or one for all.
        against: the other token, likewise.
        position: a decoder position; by default the last that is not padding.

    Raises:
        InvalidInput: targets that are not token ids, or of different numbers of rows.
    """
    ids, others = token_ids("target", target), token_ids("against", against)
    if len(ids) != len(others) and 1 not in (len(ids), len(others)):
        raise InvalidInput(f"target has {len(ids)} rows and against {len(others)}: give as many.")

    def of(logits: Tensor) -> Tensor:
        return _picked(logits, ids) - _picked(logits, others)

    return NamedMetric("logit_difference", of, position, "logits")


@checked
def expected_value(model: Model, *, position: int = -1) -> NamedMetric:
    """Measure the mean of the forecast's distribution over values, in units of the series' scale.

    Args:
        model: the model whose tokenizer gives the bins' centres.
        position: a decoder position; by default the last that is not padding.

    Source: Ansari et al. 2024, "Chronos" (tokens are bins of the scaled value).
    """
    model.require("tokens", "It is the mean over bins of tokens: of quantiles there is the median.")
    vocabulary, values = model.vocabulary, bin_centers(model)

    def of(logits: Tensor) -> Tensor:
        bins = vocabulary.value_logits(logits)
        return bins.softmax(-1) @ values.to(bins)

    return NamedMetric("expected_value", of, position, "scaled value", None)


def bin_centers(model: Model) -> Float[Tensor, " token"]:
    """Return the scaled values of the value tokens in order, in float64."""
    return model.vocabulary.values.double()


def _picked(values: Tensor, ids: Tensor) -> Tensor:
    """Return the value of each row's token, of `[row, token]`."""
    if len(ids) not in (1, len(values)):
        raise InvalidInput(f"the metric has {len(ids)} target tokens and the batch {len(values)} rows: give as many.")
    if int(ids.max()) >= values.shape[-1]:
        raise InvalidInput(f"the metric asks for token {int(ids.max())}: the model has 0-{values.shape[-1] - 1}.")
    return values.gather(-1, ids.to(values.device).expand(len(values))[:, None])[:, 0]


Steps = int | Sequence[int] | slice | None
"""Steps of the forecast, counted from 0: one, several, a range or a slice; None for all."""


@dataclass(frozen=True, eq=False)
class QuantileMetric:
    """A metric of quantiles with a name, which results keep.

    Attributes:
        name: names the metric in results.
        of: computes the numbers `[row]` in the series' units, from the quantiles `[row, quantile, step]` and their
            levels.
        scaled: whether they are divided by the deviation of each row's context.
        higher_is_better: whether a model that predicts well has high numbers; None if neither is better.
        unit: the unit of the numbers.
    """

    name: str
    of: Callable[[Tensor, Levels], Tensor]
    scaled: bool = True
    higher_is_better: bool | None = False
    unit: str = ""

    def __call__(
        self,
        quantiles: Float[Tensor, "row quantile step"],
        levels: Levels = (),
        deviation: Float[Tensor, " row"] | None = None,
    ) -> Float[Tensor, " row"]:
        """Return the numbers by row, of quantiles at these levels of series with these deviations.

        Experiments say both; who calls it gives `model.levels` and, where numbers are scaled, `batch.deviation`.

        Raises:
            InvalidInput: a level or steps that there are not, targets of another number of rows, or a row whose context
                does not vary.
        """
        if len(levels) != quantiles.shape[1] or (self.scaled and deviation is None):
            needs = "it needs the quantiles' levels and, where it is scaled, the deviation of each row's context"
            raise InvalidInput(f"{self.name}: {needs}: metric(quantiles, model.levels, batch.deviation).")
        values = self.of(quantiles, levels)
        if not self.scaled or deviation is None:
            return values
        if bool((constant := deviation == 0).any()):
            rows = constant.nonzero()[:6, 0].tolist()
            unscaled = "leave them out, or give scaled=False."
            raise InvalidInput(f"{self.name}: the context of rows {rows} has no deviation to scale by: {unscaled}")
        return values / deviation.to(values)


def quantile(level: float, steps: Steps = None, *, scaled: bool = True) -> QuantileMetric:
    """Measure a quantile of the forecast, averaged over steps.

    Args:
        level: between the model's lowest and highest; between two of its levels it is interpolated.
        steps: of the forecast, from 0, negative ones from its end; all by default.
        scaled: divide by the deviation of each row's context.

    Raises:
        InvalidInput: a level that is no number from 0 to 1, or steps that are not whole numbers.
    """
    wanted = number("level", level)
    if not 0 < wanted < 1:
        raise InvalidInput(f"level={level!r} must lie between 0 and 1.")
    chosen = _steps(steps)

    def of(quantiles: Tensor, levels: Levels) -> Tensor:
        return _taken(at_level(quantiles, levels, wanted), chosen).mean(-1)

    return QuantileMetric(f"quantile {wanted:g}", of, scaled, None, _unit(scaled))


def median(steps: Steps = None, *, scaled: bool = True) -> QuantileMetric:
    """Measure the median of the forecast, averaged over steps: `quantile` at the level .5.

    Args:
        steps: of the forecast, from 0; all by default.
        scaled: divide by the deviation of each row's context.
    """
    return replace(quantile(0.5, steps, scaled=scaled), name="median")


def pinball(truth: Any, *, level: float | None = None, scaled: bool = True) -> QuantileMetric:
    """Measure the pinball loss against what came, averaged over steps and levels: (y - q) * (level - [y < q]).

    At the level .5 it is half the absolute error.

    Args:
        truth: the steps that follow the context, `[row, step]`, or one series for all rows; at most as many as the
            model forecasts at once. Missing ones (NaN) do not count.
        level: the one level that counts; all of the model's by default.
        scaled: divide by the deviation of each row's context.

    Raises:
        InvalidInput: a truth that is no series.
    """
    series = as_series(truth)

    def of(quantiles: Tensor, levels: Levels) -> Tensor:
        if level is not None:
            quantiles, levels = at_level(quantiles, levels, level)[:, None], (level,)
        return pinball_loss(quantiles, levels, _targets("pinball", series, quantiles))

    return QuantileMetric("pinball", of, scaled, False, _unit(scaled))


def distance_to(series: Any, *, level: float = 0.5, scaled: bool = True) -> QuantileMetric:
    """Measure the mean absolute distance of the median to other forecasts, or to what came.

    Args:
        series: `[row, step]`, or one for all rows, from the first step of the forecast on; missing steps do not count.
        level: the quantile whose distance it is.
        scaled: divide by the deviation of each row's context.

    Raises:
        InvalidInput: no series.
    """
    others = as_series(series)

    def of(quantiles: Tensor, levels: Levels) -> Tensor:
        own = at_level(quantiles, levels, level)
        target = _targets("distance_to", others, own)
        return (target - own[:, : target.shape[-1]]).abs().nanmean(1)

    return QuantileMetric("distance", of, scaled, False, _unit(scaled))


def towards(target: Any, against: Any) -> QuantileMetric:
    """Measure how far the median lies on the way from one series to another: 0 at `against`, 1 at `target`.

    It is linear in the quantiles, so that direct effects on them add up, as `logit_difference` is in logits. Of a pair
    of `probes` it is 1 where the forecast is what is right on clean, and 0 where it is what is right on corrupt.

    Args:
        target: `[row, step]`, or one for all rows, from the first step of the forecast on; missing steps do not count.
        against: the other one, of as many steps.

    Raises:
        InvalidInput: no series, of other shapes, or a row in which the two are the same.
    """
    ends = as_series(target), as_series(against)
    if ends[0].shape != ends[1].shape:
        raise InvalidInput(f"target is {list(ends[0].shape)} and against {list(ends[1].shape)}: give two of one shape.")
    if len(same := ((ends[0] - ends[1]).nan_to_num() == 0).all(1).nonzero()):
        raise InvalidInput(f"target and against are the same in rows {same[:6, 0].tolist()}: nothing lies between.")

    def of(quantiles: Tensor, levels: Levels) -> Tensor:
        own = at_level(quantiles, levels, 0.5)
        one, other = (_targets("towards", series, own) for series in ends)
        way = (one - other).nan_to_num()
        return ((own[:, : way.shape[-1]] - other.nan_to_num()) * way).sum(1) / way.square().sum(1)

    return QuantileMetric("towards", of, False, True, "share of the way")


def crossing() -> QuantileMetric:
    """Measure the share of neighbouring quantiles, over steps, of which the lower level lies above the higher one."""

    def of(quantiles: Tensor, _: Levels) -> Tensor:
        return (quantiles.diff(dim=1) < 0).to(quantiles).mean((1, 2))

    return QuantileMetric("crossing", of, False, False, "share of neighbours")


def _unit(scaled: bool) -> str:
    return "deviations" if scaled else "the series' units"


def _steps(steps: Steps) -> list[int] | slice:
    if steps is None:
        return slice(None)
    return steps if isinstance(steps, slice) else list(positions("steps", steps) or ())


def _taken(values: Tensor, steps: list[int] | slice) -> Tensor:
    """Return the chosen steps of `[row, step]`.

    Raises:
        InvalidInput: steps beyond what one forward pass forecasts, or none.
    """
    count = values.shape[-1]
    chosen = [*range(count)][steps] if isinstance(steps, slice) else steps
    beyond = isinstance(steps, slice) and (steps.stop or 0) > count
    if beyond or not chosen or not all(-count <= step < count for step in chosen):
        raise InvalidInput(
            f"steps={steps}: one forward pass forecasts the steps 0-{count - 1}. Metrics are of one pass: beyond it "
            "Chronos feeds quantiles back."
        )
    return values[..., chosen]


def _targets(name: str, series: Tensor, quantiles: Tensor) -> Tensor:
    """Return targets on the device of quantiles, a row each.

    Raises:
        InvalidInput: more steps than one forward pass forecasts, or another number of rows.
    """
    rows, count = len(quantiles), quantiles.shape[-1]
    if series.shape[1] > count:
        more = f"the series has {series.shape[1]} steps, and one forward pass forecasts {count}"
        raise InvalidInput(f"{name}: {more}. Metrics are of one pass: give the first {count} steps.")
    if len(series) not in (1, rows):
        raise InvalidInput(f"{name}: {len(series)} series for {rows} rows: give as many, or one for all.")
    return series.to(quantiles).expand(rows, -1)


def continuation_metrics(
    model: Model, batch: Batch, metric: Metric | None = None
) -> dict[Literal["effect", "control", "accuracy"], Metric]:
    """Return what ablation measures on repeated random tokens or patches.

    Returns:
        `effect`, the metric, which is the log-probability of the continuation where none is named; `control`, the mean
        log-probability of the other tokens of the row's sequences, which tells an effect on the continuation from
        damage at large; and the `accuracy` of the continuation. Of patches they are the pinball loss, that against the
        other patches of the row, and whether the median is nearer to the continuation than to any of them. Other values
        have the metric alone.
    """
    if isinstance(batch, RepeatedPatches):
        own = pinball(batch.continuation) if metric is None else metric
        return {"effect": own, "control": _other_patches(batch), "accuracy": _nearest_patch(batch)}
    if not isinstance(batch, RepeatedTokens):
        assert metric is not None
        return {"effect": metric}
    tokens = batch
    # The tokens that the query can look back at, whichever stack reads them.
    stack: Stack = "encoder" if tokens.has_encoder else "decoder"
    before = slice(None) if tokens.has_encoder else slice(tokens.query)
    ids, shown = tokens.ids(stack)[:, before], tokens.mask(stack)[:, before]
    values = model.vocabulary.are_values(ids) if model.tokens_are_values else torch.ones_like(ids, dtype=torch.bool)
    others = (ids != tokens.continuation[:, None]) & values & (shown == 1)
    return {
        # Normalized in the way that the control is, so that the two differ by the tokens alone.
        "effect": replace(mean_log_prob(tokens.continuation[:, None]), name="log_prob") if metric is None else metric,
        "control": mean_log_prob(ids, others),
        "accuracy": accuracy(tokens.continuation),
    }


def _other_patches(batch: RepeatedPatches) -> QuantileMetric:
    """Measure the mean pinball loss against the patches of each row that do not follow."""
    others = batch.alternatives[:, 1:]

    def of(quantiles: Tensor, levels: Levels) -> Tensor:
        each = others.to(quantiles)[..., : quantiles.shape[-1]]
        return pinball_loss(quantiles[:, None].expand(-1, each.shape[1], -1, -1), levels, each).mean(1)

    return QuantileMetric("pinball of other patches", of, True, False, _unit(True))


def _nearest_patch(batch: RepeatedPatches) -> QuantileMetric:
    """Measure whether the median is nearer to the patch that follows than to any other of the row, 1 or 0."""
    patches = batch.alternatives

    def of(quantiles: Tensor, levels: Levels) -> Tensor:
        each = patches.to(quantiles)[..., : quantiles.shape[-1]]
        off = (at_level(quantiles, levels, 0.5)[:, None, : each.shape[-1]] - each).abs().mean(-1)
        return (off[:, 0] <= off.amin(1)).to(quantiles)

    return QuantileMetric("accuracy", of, False, True, "share of rows")
