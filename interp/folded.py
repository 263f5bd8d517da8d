"""The decoder on many variants of each input at once, through Hugging Face's own layers.

1. The encoder runs once, and each cross-attention layer's keys and values are made once a row.
2. Variants of a row (other heads ablated, other samples) are folded into the query axis of
   cross-attention, `[row, variant * pos, d_model]`, which has no position bias; self-attention sees
   them as rows, `[row * variant, pos, d_model]`. Both are views of one tensor.
3. What lies below the place where variants part is not run: `resume` starts at any layer.

Nothing is computed here that the modules do not compute; only shapes, masks and caches are.

Source: the arithmetic of `transformers.models.t5.modeling_t5.T5Stack`.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from interp.batch import Batch
from interp.capture import Cache, capture
from interp.errors import InvalidInput
from interp.model import Model
from interp.names import AttentionLayer, Site


@dataclass(frozen=True, eq=False)
class Context:
    """What cross-attention reads: keys and values of every layer, made on first use, and the mask."""

    hidden: Float[Tensor, "row pos d_model"]
    mask: Float[Tensor, "row 1 1 pos"] | None
    cross: DynamicCache

    @classmethod
    def of(cls, hidden: Tensor, attention_mask: Tensor, cache: Cache | None = None, layers: int = 0) -> "Context":
        """From the encoder's output; with captured keys and values where there are."""
        cross = DynamicCache()
        for layer in range(layers if cache is not None else 0):
            assert cache is not None
            keys, values = (cache[f"decoder.cross.{layer}.{name}"].transpose(1, 2) for name in ("k", "v"))
            cross.update(keys.contiguous(), values.contiguous(), layer)
        return cls(hidden, padding(attention_mask, hidden), cross)

    def cache(self) -> EncoderDecoderCache:
        """A cache with these keys and values and an empty self-attention part."""
        return EncoderDecoderCache(DynamicCache(), self.cross)


def check_dtype(model: Model) -> None:
    """See that sublayers can be run one by one: in float16 T5's blocks clamp what lies between them.

    Raises:
        InvalidInput: a model in float16.
    """
    if model.dtype == torch.float16:
        raise InvalidInput(
            f"{model.name} is in float16, where T5 clamps between layers: open it in float32 or bfloat16."
        )


@torch.no_grad()
def encode(model: Model, batch: Batch) -> Context:
    """The encoder's output on a batch, whose edits are seen; keys and values come on first use.

    Raises:
        InvalidInput: a model in float16.
    """
    check_dtype(model)
    inputs = model.inputs(batch)
    hidden = model.module.encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]
    return Context.of(hidden, batch.attention_mask)


def padding(attention_mask: Tensor, like: Tensor) -> Tensor | None:
    """What is added to scores so that padding is not seen, `[row, 1, 1, pos]`; None where there is none."""
    if bool(attention_mask.all()):
        return None
    mask = torch.zeros(attention_mask.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill(attention_mask.to(like.device) == 0, torch.finfo(like.dtype).min)[:, None, None]


def causal(size: int, like: Tensor) -> Tensor | None:
    """The decoder's own mask `[1, 1, query, key]`; None for a single query."""
    if size == 1:
        return None
    lowest = torch.finfo(like.dtype).min
    return torch.full((size, size), lowest, dtype=like.dtype, device=like.device).triu(1)[None, None]


@torch.no_grad()
def resume(
    model: Model,
    context: Context,
    x: Float[Tensor, "row variant pos d_model"],
    layer: int = 0,
    after: str | None = None,
    cache: EncoderDecoderCache | None = None,
    last: bool = False,
) -> Float[Tensor, "row variant last d_model"]:
    """The decoder's last norm, of variants of its residual stream at some layer.

    Args:
        model: the model.
        context: what cross-attention reads, a row each.
        x: the residual stream `[row, variant, pos, d_model]`.
        layer: where it is.
        after: at which point of that layer: None for its start, `self` or `cross` for after that
            attention.
        cache: of earlier positions, for one new position at a time; it is written to.
        last: whether only the last position is wanted, and so the last layer runs on it alone.

    Returns:
        `decoder.ln_final` of the variants, `[row, variant, pos, d_model]`.
    """
    rows, variants, pos, d_model = x.shape
    blocks = cast(Sequence[Any], model.module.decoder.block)
    attention = blocks[0].layer[0].SelfAttention
    past = 0 if cache is None else cache.get_seq_length()
    bias = attention.compute_bias(pos, past + pos, device=x.device, past_seen_tokens=past)
    mask = causal(pos, x)
    shared = context.cache() if cache is None else cache
    for index in range(layer, len(blocks)):
        first, second, third = blocks[index].layer
        done = after if index == layer else None
        if done is None:
            flat = x.reshape(rows * variants, x.shape[2], d_model)
            flat = first(flat, attention_mask=mask, position_bias=bias, past_key_values=cache)[0]
            x = flat.reshape(rows, variants, -1, d_model)
        if last and index == len(blocks) - 1:
            x = x[:, :, -1:]
        if done != "cross":
            flat = x.reshape(rows, -1, d_model)
            flat = second(flat, key_value_states=context.hidden, attention_mask=context.mask, past_key_values=shared)[0]
            x = flat.reshape(rows, variants, -1, d_model)
        x = third(x)
    return model.module.decoder.final_layer_norm(x)


def decode(
    model: Model,
    context: Context,
    ids: Int[Tensor, "row variant pos"],
    cache: EncoderDecoderCache | None = None,
) -> Float[Tensor, "row variant pos d_model"]:
    """The decoder's last norm on tokens, variants of a row sharing its keys and values."""
    return resume(model, context, model.module.decoder.embed_tokens(ids.to(model.device)), cache=cache)


@torch.no_grad()
def resume_encoder(
    model: Model,
    x: Float[Tensor, "row variant pos d_model"],
    attention_mask: Tensor,
    layer: int,
    after: str | None = "self",
) -> Float[Tensor, "row variant pos d_model"]:
    """The encoder's last norm, of variants of its residual stream after the attention of a layer.

    With `after=None` the stream is that at the layer's start, as in `resume`.
    """
    rows, variants, pos, d_model = x.shape
    blocks = cast(Sequence[Any], model.module.encoder.block)
    bias = blocks[0].layer[0].SelfAttention.compute_bias(pos, pos, device=x.device)
    mask = padding(attention_mask, x)
    mask = None if mask is None else mask.repeat_interleave(variants, 0)
    flat = x.reshape(rows * variants, pos, d_model)
    for index in range(layer, len(blocks)):
        first, second = blocks[index].layer
        if index > layer or after is None:
            flat = first(flat, attention_mask=mask, position_bias=bias)[0]
        flat = second(flat)
    return model.module.encoder.final_layer_norm(flat).reshape(x.shape)


@contextmanager
def variant_heads(
    model: Model,
    keep: Mapping[AttentionLayer, Float[Tensor, "variant head"]],
    fill: Mapping[AttentionLayer, Float[Tensor, "#row 1 #pos head d_head"]],
) -> Generator[None]:
    """Replace decoder heads in some variants of folded runs: kept where 1, filled where 0.

    Args:
        model: the model.
        keep: by attention layer, which heads each variant keeps.
        fill: by attention layer, what stands for heads that are not kept; zero where none is given.
    """

    def hook(at: AttentionLayer, kept: Tensor) -> Any:
        factor = kept[:, None, :, None]
        added = None if at not in fill else fill[at] * (1 - factor)

        def act(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            rows = len(args[0]) if at.kind == "cross" else len(args[0]) // len(kept)
            z = args[0].reshape(rows, len(kept), -1, model.n_heads, model.d_head) * factor
            return ((z if added is None else z + added).reshape(args[0].shape),)

        return act

    with ExitStack() as stack:
        for at, kept in keep.items():
            path = model.family.point(Site(at.stack, at.kind, at.layer, "z")).path
            module = model.module.get_submodule(path)
            stack.callback(module.register_forward_pre_hook(hook(at, kept.to(model.device, model.dtype))).remove)
        yield


def clean_run(model: Model, batch: Batch, sites: Sequence[str]) -> tuple[Cache, Context]:
    """The unedited run of a batch: some sites, and its context with the keys and values as they were."""
    check_dtype(model)
    names = [*sites, "encoder.ln_final", "decoder.cross.*.k", "decoder.cross.*.v"]
    cache = capture(model, batch, names)
    return cache, Context.of(cache["encoder.ln_final"], batch.attention_mask, cache, model.n_layers["decoder"])
