"""What the decoder's last residual stream is multiplied with to give a number: a direction of it, by row and position.

1. A number made from the logits is, or is made, a weighted sum of them: one token's logit, the difference of two, or
   the expected value along the straight path of the logits from zero, which is not linear in them.
2. The weights go back through the unembedding and the final norm at its actual scale, to the stream. The stream times
   this direction, and what the norm's shift adds to the logits, is the number; so is the sum over whatever was added
   into the stream. T5's norm has no shift; the mean that GPT-2's takes off is taken off the unembedding.

For the expected value E of the distribution over value tokens, with logits alpha * l and p its softmax,
dE / d alpha = sum_t l_t p_t (c_t - E), c_t being the bins' centres. The weights are w_t = integral of p_t (c_t - E)
over alpha from 0 to 1: then sum_t l_t w_t is E minus the mean of the bins, exactly.

A model of values reads its last norm through an MLP, which is not linear: there the direction is the gradient of a
metric of its quantiles, at the norm as it is. The product is the metric to first order, and what is left of it, the
constants and the bend of the readout, is reported beside.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (direct logit attribution); Sundararajan
et al. 2017, "Axiomatic Attribution for Deep Networks" (the straight path: integrated gradients, Aumann-Shapley).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.measurement import described, measured, metric_name, read_out, stimulus_source, to_numpy
from circuits.metrics import Metric, Tokens, bin_centers, median, token_ids
from interp import Batch, Model
from interp.editing.variants import check_dtype
from interp.errors import InvalidInput
from interp.inputs.batch import ValueBatch
from interp.models.model import as_model
from interp.models.weights.head_weights import unembedding, unembedding_bias
from interp.models.weights.norms import final_norm
from interp.results.result import Floats
from interp.validate import as_tensor
from probes.stimuli.pairs import stacks_of
from probes.stimuli.repeated_tokens import RepeatedTokens
from probes.stimuli.time_series import SeriesBatch

NODES, MOST_NODES, CLOSED = 32, 512, 1e-10
"""Of the Gauss-Legendre quadrature: doubled until the sum closes to this share of the largest bin."""


@dataclass(frozen=True, eq=False)
class Asked:
    """The number to explain: a token's logit, minus another's if there is one; without a token, the expected value.

    `target` and `against` are token ids `[row, pos]`. Of quantiles it is a `metric`.
    """

    name: str
    unit: str
    target: Tensor | None = None
    against: Tensor | None = None
    metric: Metric | None = None

    def at(self, columns: Int[Tensor, " row"]) -> "Asked":
        """Return the same number at one decoder position of each row alone, `[row, 1]`."""
        rows = torch.arange(len(columns))
        target, against = (
            None if ids is None else ids[rows, columns.cpu(), None] for ids in (self.target, self.against)
        )
        return Asked(self.name, self.unit, target, against, self.metric)


VALUE = Asked("expected value", "scaled value")
"""The expected value of the forecast, over the mean of the bins."""


def asked_of(
    model: Model, batch: Batch, target: Tokens | None, against: Tokens | None, metric: Metric | None = None
) -> Asked:
    """Return the number to explain: of tokens, held against the batch and the vocabulary, or the expected value.

    Of quantiles it is a metric, the mean of the median over all steps by default.

    Raises:
        InvalidInput: ids of another shape, not whole numbers, or outside the vocabulary; or `against` alone.
        UnsupportedModel: no target for a model whose tokens are not values, tokens for a model of quantiles, or a
            metric for one of logits.
    """
    if model.gives_quantiles:
        if target is not None or against is not None:
            model.require("tokens")
        chosen = median() if metric is None else metric
        about = described(chosen)
        return Asked(about["metric"], about["unit"], metric=chosen)
    if metric is not None:
        raise InvalidInput(
            f"metric={metric_name(metric)}: of logits a token's is explained, or the expected value. Give target, or "
            "target and against, and leave metric out."
        )
    if target is None:
        if against is not None:
            raise InvalidInput("against is a second token: give target, the token whose logit it is taken off, too.")
        bin_centers(model)
        return VALUE
    ids = positions_tokens("target", target, model, batch)
    if against is None:
        return Asked("logit", "logit", ids)
    return Asked("logit difference", "logit", ids, positions_tokens("against", against, model, batch))


def positions_tokens(name: str, tokens: Any, model: Model, batch: Batch) -> Tensor:
    """Return token ids `[row, pos]`, given one for all, one per row, or one per row and decoder position.

    Raises:
        InvalidInput: another shape, not whole numbers, or outside the vocabulary.
    """
    rows, size = batch.decoder_input_ids.shape
    try:
        ids = as_tensor(tokens).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{name} must be token ids, one a row: {error}.") from None
    if ids.ndim == 2 and ids.shape != (rows, size):
        raise InvalidInput(f"{name} is {list(ids.shape)}; the decoder has [row, pos] = {[rows, size]}: give as many.")
    flat = token_ids(name, ids.flatten() if ids.ndim == 2 else ids)
    if ids.ndim < 2 and len(flat) not in (1, rows):
        raise InvalidInput(f"{name} has {len(flat)} tokens and the batch {rows} rows: give one a row, or one for all.")
    if int(flat.max()) >= model.d_vocab:
        raise InvalidInput(f"{name} holds the token {int(flat.max())}: {model.name} has tokens 0-{model.d_vocab - 1}.")
    return flat.reshape(rows, size) if ids.ndim == 2 else flat[:, None].expand(rows, size).clone()


def check_run(model: Any, batch: Any) -> None:
    """Check that a batch is one that the model can read.

    Raises:
        InvalidInput: something else, a token outside the vocabulary, or a model in float16.
    """
    if not isinstance(batch, Batch):
        raise InvalidInput(f"a Batch is needed and {type(batch).__name__} was given: make it with Batch or a stimulus.")
    as_model(model).check(batch)
    check_dtype(model)


def stimulus_parameters(batch: Batch) -> dict[str, Any]:
    """Describe a batch, for a result's provenance."""
    if isinstance(batch, RepeatedTokens):
        return {"name": "repeated_random_tokens", **batch.parameters}
    if isinstance(batch, ValueBatch):
        return stimulus_source(batch)
    keys = batch.ids(stacks_of(batch)[0]).shape[1]
    shape = {"rows": len(batch), "keys": keys, "queries": batch.decoder_input_ids.shape[1]}
    return {"name": "series", "series": batch.series.name, **shape} if isinstance(batch, SeriesBatch) else shape


def last_stream(model: Model) -> str:
    """Return the site of the decoder's last residual stream."""
    return f"decoder.{model.n_layers['decoder'] - 1}.resid_post"


def direction(
    model: Model,
    batch: Batch,
    explained: Asked,
    stream: Float[Tensor, "row pos d_model"],
    end: Float[Tensor, "row pos *any"],
    shown: Bool[Tensor, "row pos"],
) -> tuple[Float[Tensor, "row pos d_model"], Float[Tensor, "row pos"], Floats]:
    """Return the direction in the stream whose product with it is the explained number, but for a constant.

    Args:
        batch: what was run.
        explained: the number to explain.
        stream: the decoder's last residual stream.
        end: the model's own logits; of a model of values its last norm.
        shown: which positions are no padding.

    Returns:
        The direction, with the final norm's scale in it, in float32 at least; what the final norm's shift adds, 0 where
        it has none; and the number `[row, pos]` as the model itself gives it, NaN at padding.

    Raises:
        InvalidInput: logits so far apart that the expected value's path cannot be followed, or a metric that is not
            differentiable.
    """
    if explained.metric is not None:
        return _of_metric(model, batch, explained.metric, stream, end)
    logits = end
    W_U, b_U = unembedding(model), unembedding_bias(model)
    # What padding would be continued by must not decide anything, not even whether a path can be followed.
    exact = logits.double().masked_fill(~shown[..., None], 0.0).cpu()
    if explained.target is None:
        vocabulary = model.vocabulary
        weights, total = value_weights(vocabulary.value_logits(exact), bin_centers(model))
        vectors = weights.to(W_U) @ vocabulary.value_logits(W_U).T
        shift = weights.to(b_U) @ vocabulary.value_logits(b_U)
    else:
        vectors, total = _columns(W_U, explained.target), _picked(exact, explained.target)
        shift = b_U[explained.target.to(b_U.device)]
        if explained.against is not None:
            vectors, total = vectors - _columns(W_U, explained.against), total - _picked(exact, explained.against)
            shift = shift - b_U[explained.against.to(b_U.device)]
    return (
        vectors * inverse_deviation(model, stream).to(vectors),
        shift,
        total.masked_fill(~shown.cpu(), torch.nan).numpy(),
    )


def _of_metric(
    model: Model, batch: Batch, metric: Metric, stream: Tensor, ln_final: Tensor
) -> tuple[Tensor, Tensor, Floats]:
    """Return the gradient of a metric of quantiles by the last stream, its norm's deviation held, as `direction`."""
    with torch.inference_mode(False), torch.enable_grad():
        at = ln_final.detach().clone().requires_grad_()
        values = measured(model, metric, read_out(model, at, batch), batch)
        slope = None
        if values.requires_grad:
            (slope,) = torch.autograd.grad(values.sum(), at, allow_unused=True)
    if slope is None:
        raise InvalidInput(
            f"the metric {metric_name(metric)} is not differentiable: it must be computed from the quantiles, by torch "
            "operations."
        )
    slope = slope.to(torch.promote_types(slope.dtype, torch.float32))
    vectors = slope * final_norm(model).scale.to(slope) * inverse_deviation(model, stream).to(slope)
    return vectors, vectors.new_zeros(vectors.shape[:2]), to_numpy(values)[:, None]


def inverse_deviation(model: Model, stream: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos 1"]:
    """Return the factor by which the decoder's final norm multiplies the stream, beside its scale."""
    norm = final_norm(model)
    # T5 takes its mean square in float32 whatever the stream is in, a LayerNorm its deviation as exactly as that.
    exactly = torch.promote_types(stream.dtype, torch.float32) if norm.centred else torch.float32
    return norm.inverse(stream.to(exactly))


def value_weights(
    logits: Float[Tensor, "*pos value"], centers: Float[Tensor, " value"]
) -> tuple[Float[Tensor, "*pos value"], Float[Tensor, "*pos"]]:
    """Return the weight of each value token's logit in the expected value, along the straight path of the logits.

    Args:
        logits: of the value tokens, in float64.
        centers: of the value tokens.

    Returns:
        The weights, and the expected value minus the mean of the bins, which is the logits times the weights.

    Raises:
        InvalidInput: the sum does not close with the most nodes: logits hundreds of nats apart.
    """
    # Any constant may be taken off, and the largest logit is the one that rounding should not touch.
    values = logits - logits.amax(-1, keepdim=True)
    total = values.softmax(-1) @ centers - centers.mean()
    nodes = NODES
    while True:
        weights = _integrated(values, centers, nodes)
        off = float(((values * weights).sum(-1) - total).abs().max())
        if off <= CLOSED * float(centers.abs().max()):
            return weights, total
        if nodes >= MOST_NODES:
            raise InvalidInput(
                f"the expected value cannot be attributed: its path is off by {off:.2g} with {nodes} nodes. The logits "
                f"are up to {float(-values.min()):.3g} nats apart."
            )
        nodes *= 2


def _integrated(values: Tensor, centers: Tensor, nodes: int) -> Tensor:
    weights = torch.zeros_like(values)
    for x, share in zip(*np.polynomial.legendre.leggauss(nodes), strict=True):
        p = (values * float(x + 1) / 2).softmax(-1)
        weights += float(share) / 2 * p * (centers - (p @ centers)[..., None])
    return weights


def _columns(W_U: Tensor, ids: Tensor) -> Tensor:
    return W_U.T[ids.to(W_U.device)]


def _picked(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.gather(-1, ids[..., None])[..., 0]
