"""What is measured on repeated random tokens: log-probability and accuracy of the continuation."""

from typing import Any

import torch
from torch import Tensor

from interp import Batch, Model
from interp.editing.edits import Method, Reference
from interp.names import Stack
from interp.results.result import Floats
from probes.stimuli.repeated_tokens import RepeatedTokens
from probes.stimuli.repeated_tokens import stimulus_of as stimulus_of


def method_of(method: Method, reference: Reference | None, **settings: Any) -> dict[str, Any]:
    """How an ablation was done, for a result's provenance: the reference by its own parameters or its shape."""
    batches = () if reference is None else (reference,) if isinstance(reference, Batch) else tuple(reference)
    return {"method": method, "reference": [told(batch) for batch in batches], **settings}


def told(batch: Batch) -> dict[str, Any]:
    """What a result remembers of a batch: how it was made where it knows that, or its shape."""
    read = batch.input_ids if batch.has_encoder else batch.decoder_input_ids
    return dict(getattr(batch, "parameters", None) or {"shape": list(read.shape)})


@torch.no_grad()
def continuation_scores(model: Model, ln_final: Tensor, tokens: RepeatedTokens) -> tuple[Floats, Floats, Floats]:
    """Log-probabilities at the query, of variants or not.

    Args:
        model: the model.
        ln_final: the decoder's last norm at the query, `[row, d_model]` or `[row, variant, d_model]`.
        tokens: the stimulus.

    Returns:
        In nats, `[row]` or `[row, variant]`: the log-probability of the continuation; the mean
        log-probability of the other tokens of the row's sequences, as a control (NaN where there
        is none); and whether the continuation is the likeliest token, 0 or 1.
    """
    logits = model.unembed(ln_final)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = logits.logsumexp(-1)
    shape = (len(tokens), *[1] * (logits.ndim - 2), 1)
    target = tokens.continuation.to(logits.device)
    right = logits.gather(-1, target.reshape(shape).expand(*logits.shape[:-1], 1))[..., 0]
    # What the query can look back at, whichever stack reads it.
    stack: Stack = "encoder" if tokens.has_encoder else "decoder"
    before = slice(None) if tokens.has_encoder else slice(tokens.query)
    ids, shown = (x[:, before].to(logits.device) for x in (tokens.ids(stack), tokens.mask(stack)))
    values = model.vocabulary.are_values(ids) if model.tokens_are_values else torch.ones_like(ids, dtype=torch.bool)
    others = ((ids != target[:, None]) & values & (shown == 1)).to(logits.dtype)
    among = ids.reshape(*shape[:-1], ids.shape[1]).expand(*logits.shape[:-1], ids.shape[1])
    weights = others.reshape(*shape[:-1], ids.shape[1])
    rest = (logits.gather(-1, among) * weights).sum(-1) / weights.sum(-1)
    hit = right >= logits.amax(-1)
    return _numpy(right - total), _numpy(rest - total), _numpy(hit)


def _numpy(values: Tensor) -> Floats:
    return values.double().cpu().numpy()
