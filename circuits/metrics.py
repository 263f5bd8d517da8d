"""Metrics: what an experiment measures, one number per row, computed from the logits.

Ablation, patching, attribution and discovery take the same metrics. A metric is any function from logits
`[row, pos, token]` to `[row]`; the usual ones are here, with a name for results. Their `position` counts over each
row's own tokens: -1 is the last one that is not padding. A function of your own gets logits that are NaN at padding,
so that reading padding is noticed. It may say its `unit` and whether `higher_is_better` as attributes.

Source: Zhang & Nanda 2024, "Towards Best Practices of Activation Patching"; Heimersheim & Nanda 2024.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp import Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.masks import row_positions
from interp.names import Stack
from probes.stimuli.pairs import token_ids
from probes.stimuli.repeated_tokens import RepeatedTokens

Metric = Callable[[Float[Tensor, "row pos token"]], Float[Tensor, " row"]]
"""A function from logits to one number per row."""

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


def continuation_metrics(
    model: Model, tokens: RepeatedTokens, metric: Metric | None = None
) -> dict[Literal["effect", "control", "accuracy"], Metric]:
    """Return what ablation measures on repeated random tokens.

    Returns:
        `effect`, the metric, which is the log-probability of the continuation where none is named; `control`, the mean
        log-probability of the other tokens of the row's sequences, which tells an effect on the continuation from
        damage at large; and the `accuracy` of the continuation.
    """
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
