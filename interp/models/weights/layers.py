"""The stacks of a model, and their layers one by one, through Hugging Face's own modules, masks and biases as given.

Source: the arithmetic of `transformers.models.t5.modeling_t5.T5Stack` and `transformers.models.gpt2.modeling_gpt2`.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from interp.inputs.batch import Batch
from interp.inputs.forward_arguments import cache_name
from interp.inputs.masks import positions_of
from interp.models.model import Model
from interp.names import AttentionLayer, Kind, Site, Stack


def run_encoder(model: Model, inputs: dict[str, Tensor]) -> Float[Tensor, "row pos d_model"]:
    """Run the encoder on a model's inputs, to its last norm."""
    if (patches := model.family.patches) is not None:
        return patches.encode(model.module, inputs["context"])
    return model.module.encoder(**{name: inputs[name] for name in ("input_ids", "attention_mask")})[0]


def run_rest(model: Model, inputs: dict[str, Tensor], hidden: Float[Tensor, "row pos d_model"] | None) -> Tensor:
    """Run a model on its inputs, with the encoder's output where there is an encoder, which does not run then.

    Returns:
        Logits `[row, pos, token]`, or quantiles `[row, quantile, step]` in the units of each row's context.
    """
    if hidden is None:
        return model.module(**inputs).logits
    if (patches := model.family.patches) is not None:
        context = inputs["context"]
        return patches.quantiles(model.module, patches.decode(model.module, hidden, context), context)
    encoded: Any = BaseModelOutput(last_hidden_state=hidden)  # type: ignore[arg-type]
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    return model.module(encoder_outputs=encoded, **rest).logits


def padding(attention_mask: Tensor, like: Tensor) -> Tensor | None:
    """Return what is added to scores to hide padding, `[row, 1, 1, pos]`; None where there is none."""
    if bool(attention_mask.all()):
        return None
    mask = torch.zeros(attention_mask.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill(attention_mask.to(like.device) == 0, torch.finfo(like.dtype).min)[:, None, None]


def causal(
    size: int, like: Tensor, past: int = 0, shown: Int[Tensor, "row pos"] | None = None
) -> Float[Tensor, "#row 1 query key"] | None:
    """Return the decoder's own mask: no key ahead of its query, and no padding; None where every key is seen.

    Args:
        size: how many queries.
        like: whose dtype and device it has.
        past: how many tokens came before them.
        shown: which tokens are no padding, all of them by default.
    """
    if size == 1 and shown is None:
        return None
    keys = torch.arange(past + size, device=like.device)
    hidden = (keys > keys[past:, None])[None]
    if shown is not None:
        hidden = hidden | (shown.to(like.device) == 0)[:, None]
    mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill(hidden, torch.finfo(like.dtype).min)[:, None]


def distance_bias(model: Model, stack: Stack, kind: Kind, size: int, past: int = 0) -> Tensor | None:
    """Return what attention adds to its scores by distance, `[1, head, query, key]`, in all layers; None if nothing.

    Args:
        stack: of the attention.
        kind: of the attention.
        size: how many queries.
        past: how many tokens came before them.
    """
    holder = model.family.position_biases.get((stack, kind))
    if holder is None:
        return None
    attention = model.module.get_submodule(holder)
    return attention.compute_bias(size, past + size, device=model.device, past_seen_tokens=past)


def attend(
    model: Model,
    at: AttentionLayer,
    x: Float[Tensor, "row pos d_model"],
    mask: Tensor | None = None,
    cache: Any = None,
    hidden: Float[Tensor, "row key d_model"] | None = None,
    bias: Tensor | None = None,
) -> Float[Tensor, "row pos d_model"]:
    """Run an attention layer on the residual stream, through its norm and its own modules.

    Args:
        at: which layer.
        x: the stream before it.
        mask: what is added to the scores.
        cache: of earlier positions; it is written to.
        hidden: what cross-attention reads.
        bias: what is added to the scores by distance, as `distance_bias` makes it.
    """
    family, modules = model.family, model.module.get_submodule
    attention = modules(family.attention_path(at))
    arguments: dict[str, Any] = {family.mask_argument: mask, cache_name(attention): cache}
    if hidden is not None:
        arguments["key_value_states"] = hidden
    if bias is not None:
        arguments["position_bias"] = bias
    norm = modules(family.query_norms[at.stack, at.kind].format(layer=at.layer))
    return x + attention(norm(x), **arguments)[0]


def feed_forward(model: Model, stack: Stack, layer: int, x: Float[Tensor, "*row d_model"]) -> Tensor:
    """Run an MLP on the residual stream, through its norm and its own module."""
    modules = model.module.get_submodule
    mlp = modules(model.family.point(Site(stack, None, layer, "mlp_out")).path)
    return x + mlp(modules(model.family.mlp_norms[stack].format(layer=layer))(x))


def last_norm(model: Model, stack: Stack, x: Float[Tensor, "*row d_model"]) -> Tensor:
    """Apply a stack's last norm to its residual stream."""
    return model.module.get_submodule(model.family.stack_points[stack, "ln_final"][0])(x)


def decoder_ids(model: Model, batch: Batch) -> Int[Tensor, "row pos"]:
    """Return what the decoder reads on a batch: its tokens, or the start token where the encoder reads values."""
    if batch.has_tokens:
        return batch.decoder_input_ids
    return torch.full((len(batch), 1), int(model.config.decoder_start_token_id))


def embed(
    model: Model, ids: Int[Tensor, "row variant pos"], shown: Int[Tensor, "row pos"] | None = None, past: int = 0
) -> Float[Tensor, "row variant pos d_model"]:
    """Return the decoder's first residual stream on tokens, positions embedded where the model does so.

    Args:
        ids: the tokens.
        shown: which of all tokens so far are no padding; all by default. Tokens after the last that it speaks of
            are counted on from there, as `generate` does.
        past: how many tokens came before these.
    """
    family, modules = model.family, model.module.get_submodule
    x = modules(family.embeddings["decoder"])(ids.to(model.device))
    if family.position_embedding is None:
        return x
    total = past + ids.shape[-1]
    places = positions_of(torch.ones(1, total, dtype=torch.long) if shown is None else shown)
    after = places[:, -1:] + torch.arange(1, max(0, total - places.shape[1]) + 1, device=places.device)
    places = torch.cat([places, after], 1)[:, past:total]
    return x + modules(family.position_embedding)(places[:, None].to(model.device))
