"""The decoder on many variants of each input at once, through Hugging Face's own modules.

1. The encoder, if there is one, runs once, and each cross-attention layer's keys and values are made once a row.
2. Variants of a row (other heads ablated, other samples) are folded into the query axis of
   cross-attention, `[row, variant * pos, d_model]`, which has no position bias; self-attention sees
   them as rows, `[row * variant, pos, d_model]`. Both are views of one tensor.
3. What lies below the place where variants part is not run: `resume` starts at any layer.

Nothing is computed here that the modules do not compute but sums of the residual stream, shapes, masks and caches.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from interp.cache import Cache, capture
from interp.editing.scopes import entered
from interp.errors import InvalidInput
from interp.inputs.batch import Batch
from interp.models.checks.states import evaluating
from interp.models.model import Model
from interp.models.weights.layers import (
    attend,
    causal,
    decoder_ids,
    distance_bias,
    embed,
    feed_forward,
    last_norm,
    padding,
)
from interp.names import AttentionLayer, Site


@dataclass(frozen=True, eq=False)
class Context:
    """What the decoder reads beside its own tokens, a row each.

    With an encoder: its output `hidden`, which of it is padding (`mask`), and the keys and values of every
    cross-attention layer, made on first use. Without, `hidden` and `mask` are None. `shown` says which of the
    decoder's own tokens are no padding; None where all are.
    """

    hidden: Float[Tensor, "row pos d_model"] | None
    mask: Float[Tensor, "row 1 1 pos"] | None
    cross: DynamicCache
    shown: Int[Tensor, "row dec_pos"] | None = None

    @classmethod
    def of(cls, hidden: Tensor, attention_mask: Tensor, cache: Cache | None = None, layers: int = 0) -> "Context":
        """Make the context of an encoder's output, with captured keys and values if there are any."""
        cross = DynamicCache()
        for layer in range(layers if cache is not None else 0):
            assert cache is not None
            keys, values = (cache[f"decoder.cross.{layer}.{name}"].transpose(1, 2) for name in ("k", "v"))
            cross.update(keys.contiguous(), values.contiguous(), layer)
        return cls(hidden, padding(attention_mask, hidden), cross)

    @classmethod
    def alone(cls, mask: Tensor) -> "Context":
        """Make the context of a decoder without an encoder, whose tokens are seen where `mask` is 1."""
        return cls(None, None, DynamicCache(), None if bool(mask.all()) else mask)

    def cache(self, own: DynamicCache | None = None) -> EncoderDecoderCache | DynamicCache:
        """Make a cache with the encoder's keys and values, if any, and a self-attention part, empty by default."""
        own = DynamicCache() if own is None else own
        return own if self.hidden is None else EncoderDecoderCache(own, self.cross)

    def grown(self, tokens: int) -> Int[Tensor, "row pos"] | None:
        """Return `shown` for the first so many tokens of the decoder; tokens that were added are seen."""
        if self.shown is None:
            return None
        added = self.shown.new_ones(len(self.shown), max(0, tokens - self.shown.shape[1]))
        return torch.cat([self.shown, added], 1)[:, :tokens]


def check_dtype(model: Model) -> None:
    """Check that sublayers can be run one by one: in float16 T5's blocks clamp what lies between them.

    Raises:
        InvalidInput: a model in float16.
    """
    if model.family.clamps_float16 and model.dtype == torch.float16:
        raise InvalidInput(
            f"{model.name} is in float16, where T5 clamps between layers: open it in float32 or bfloat16."
        )


@torch.no_grad()
@evaluating
def encode(model: Model, batch: Batch) -> Context:
    """Run the encoder on a batch, with the edits in force; keys and values come on first use.

    Without an encoder it is only what the batch says of padding.

    Raises:
        InvalidInput: a model in float16.
    """
    check_dtype(model)
    model.check(batch)
    if not model.has_encoder:
        return Context.alone(batch.decoder_attention_mask)
    return Context.of(capture(model, batch, "encoder.ln_final")["encoder.ln_final"], batch.attention_mask)


@torch.no_grad()
@evaluating
def resume(
    model: Model,
    context: Context,
    x: Float[Tensor, "row variant pos d_model"],
    layer: int = 0,
    after: str | None = None,
    cache: EncoderDecoderCache | DynamicCache | None = None,
    only: int | None = None,
    joining: Mapping[int, Float[Tensor, "row variant pos d_model"]] | None = None,
) -> Float[Tensor, "row variant last d_model"]:
    """Run the decoder to its last norm, from variants of its residual stream at some layer.

    Args:
        context: what the decoder reads, a row each.
        x: the residual stream `[row, variant, pos, d_model]`.
        layer: where it is.
        after: at which point of that layer: None for its start, `self` or `cross` for after that
            attention.
        cache: of earlier positions, for new positions alone; it is written to.
        only: the one position that is wanted, on which alone the last layer then runs; all by default.
        joining: by later layer, variants of the stream at the same point of it, which go on with those from before.

    Returns:
        `decoder.ln_final` of the variants, `[row, variant, pos, d_model]`.
    """
    rows, _, pos, d_model = x.shape
    layers = model.n_layers["decoder"]
    past = 0 if cache is None else cache.get_seq_length()
    mask = causal(pos, x, past, context.grown(past + pos))
    bias = distance_bias(model, "decoder", "self", pos, past)
    shared = context.cache() if cache is None else cache

    def joined(x: Tensor, index: int, point: str) -> Tensor:
        if joining is None or point != after or index not in joining:
            return x
        new = joining[index]
        return torch.cat([x, new if x.shape[2] == pos else new[:, :, only, None]], 1)

    for index in range(layer, layers):
        done = after if index == layer else None
        if done is None:
            own = mask if mask is None or len(mask) == 1 else mask.repeat_interleave(x.shape[1], 0)
            flat = x.reshape(-1, pos, d_model)
            flat = attend(model, AttentionLayer("decoder", "self", index), flat, own, cache, bias=bias)
            x = flat.reshape(x.shape)
        x = joined(x, index, "self")
        if only is not None and index == layers - 1:
            x = x[:, :, only, None]
        if done != "cross" and context.hidden is not None:
            flat = x.reshape(rows, -1, d_model)
            at = AttentionLayer("decoder", "cross", index)
            x = attend(model, at, flat, context.mask, shared, context.hidden).reshape(x.shape)
        x = joined(x, index, "cross")
        x = feed_forward(model, "decoder", index, x)
    return last_norm(model, "decoder", x)


def decode(
    model: Model,
    context: Context,
    ids: Int[Tensor, "row variant pos"],
    cache: EncoderDecoderCache | DynamicCache | None = None,
) -> Float[Tensor, "row variant pos d_model"]:
    """Run the decoder to its last norm on tokens; variants of a row share the context."""
    past = 0 if cache is None else cache.get_seq_length()
    return resume(model, context, embed(model, ids, context.shown, past), cache=cache)


def decode_each(
    model: Model, batch: Batch, hidden: Float[Tensor, "row variant pos d_model"], only: int | None = None
) -> Float[Tensor, "row variant last d_model"]:
    """Run the decoder of a batch on variants of the encoder's output, each as a row of its own.

    Args:
        hidden: variants of `encoder.ln_final`.
        only: the one decoder position that is wanted; all by default.

    Returns:
        `decoder.ln_final` of the variants.
    """
    rows, variants = hidden.shape[:2]
    ids = decoder_ids(model, batch).repeat_interleave(variants, 0)[:, None]
    context = Context.of(hidden.flatten(0, 1), batch.attention_mask.repeat_interleave(variants, 0))
    return resume(model, context, embed(model, ids), only=only).reshape(rows, variants, -1, model.d_model)


@torch.no_grad()
def read(model: Model, context: Context, ids: Int[Tensor, "row variant pos"]) -> DynamicCache:
    """Read tokens, and return the keys and values of the decoder's own attention, rows by variants."""
    own = DynamicCache()
    resume(model, context, embed(model, ids, context.shown), cache=context.cache(own), only=-1)
    return own


def repeated(own: DynamicCache, copies: int) -> DynamicCache:
    """Copy what `read` returned, each variant so many times, side by side."""
    copy = deepcopy(own)
    copy.batch_repeat_interleave(copies)
    return copy


@torch.no_grad()
@evaluating
def resume_encoder(
    model: Model,
    x: Float[Tensor, "row variant pos d_model"],
    attention_mask: Tensor,
    layer: int,
    after: str | None = "self",
) -> Float[Tensor, "row variant pos d_model"]:
    """Run the encoder to its last norm, from variants of its residual stream after the attention of a layer.

    With `after=None` the stream is that at the layer's start, as in `resume`.
    """
    rows, variants, pos, d_model = x.shape
    bias = distance_bias(model, "encoder", "self", pos)
    mask = padding(attention_mask, x)
    mask = None if mask is None else mask.repeat_interleave(variants, 0)
    flat = x.reshape(rows * variants, pos, d_model)
    for index in range(layer, model.n_layers["encoder"]):
        if index > layer or after is None:
            flat = attend(model, AttentionLayer("encoder", "self", index), flat, mask, bias=bias)
        flat = feed_forward(model, "encoder", index, flat)
    return last_norm(model, "encoder", flat).reshape(x.shape)


@contextmanager
def variant_heads(
    model: Model,
    keep: Mapping[AttentionLayer, Float[Tensor, "variant head"]],
    fill: Mapping[AttentionLayer, Float[Tensor, "#row 1 #pos head d_head"]],
) -> Generator[None]:
    """Replace decoder heads in some variants of folded runs: kept where 1, filled where 0.

    Args:
        keep: by attention layer, which heads each variant keeps.
        fill: by attention layer, what stands for heads that are not kept; zero where none is given.
    """

    def rows(at: AttentionLayer, z: Tensor, variants: int) -> tuple[int, int]:
        return (len(z) if at.kind == "cross" else len(z) // variants), variants

    with _replaced(model, keep, fill, rows, 1):
        yield


@contextmanager
def variant_rows(
    model: Model,
    keep: Mapping[AttentionLayer, Float[Tensor, "variant head"]],
    fill: Mapping[AttentionLayer, Float[Tensor, "1 1 1 head d_head"]],
) -> Generator[None]:
    """Replace heads of any stack in runs whose rows are all those of the first variant, then of the second, and so on.

    Args:
        keep: by attention layer, which heads each variant keeps.
        fill: by attention layer, what stands for heads that are not kept; zero where none is given.
    """

    def rows(_: AttentionLayer, z: Tensor, variants: int) -> tuple[int, int]:
        return variants, len(z) // variants

    with _replaced(model, keep, fill, rows, 0):
        yield


@contextmanager
def _replaced(
    model: Model,
    keep: Mapping[AttentionLayer, Tensor],
    fill: Mapping[AttentionLayer, Tensor],
    rows: Callable[[AttentionLayer, Tensor, int], tuple[int, int]],
    axis: int,
) -> Generator[None]:
    """Replace heads in z, whose first axis is split in two as `rows` says; variants are the axis of that number."""

    def hook(at: AttentionLayer, mask: Tensor) -> Any:
        factor = mask[:, None, :, None] if axis == 1 else mask[:, None, None, :, None]
        added = None if at not in fill else fill[at] * (1 - factor)

        def act(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            split = rows(at, args[0], len(mask))
            z = args[0].reshape(*split, -1, model.n_heads, model.d_head) * factor
            return ((z if added is None else z + added).reshape(args[0].shape),)

        return act

    with ExitStack() as stack, entered(model.module) as scope:
        for at, mask in keep.items():
            path = model.family.point(Site(at.stack, at.kind, at.layer, "z")).path
            scope.on_input(model.module.get_submodule(path), hook(at, mask.to(model.device, model.dtype)), stack)
        yield


def clean_run(model: Model, batch: Batch, sites: Sequence[str]) -> tuple[Cache, Context]:
    """Run a batch unedited, and return some sites and its context with the keys and values of that run."""
    check_dtype(model)
    if not model.has_encoder:
        return capture(model, batch, [*sites, "decoder.ln_final"]), Context.alone(batch.decoder_attention_mask)
    names = [*sites, "encoder.ln_final", "decoder.cross.*.k", "decoder.cross.*.v"]
    cache = capture(model, batch, names)
    return cache, Context.of(cache["encoder.ln_final"], batch.attention_mask, cache, model.n_layers["decoder"])
