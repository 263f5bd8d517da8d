"""For each architecture, where each site lives and how its tensor is laid out: data, no branches.

A `Point` says which module of the Hugging Face model carries a site, at its input or its output.
Everything else in the toolkit, traces and hooks alike, goes through these tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedModel, T5ForConditionalGeneration

from interp.names import ATTENTION_SITES, KINDS, STACKS, AttentionLayer, Kind, Site, Stack

Layout = Literal["stream", "heads", "square", "tokens"]
"""How a tensor is laid out: `stream` is `[batch, pos, d_model]`; `heads` is
`[batch, pos, n_heads * d_head]` in the module and `[batch, pos, head, d_head]` for the user;
`square` is `[batch, head, query, key]`; `tokens` is `[batch, pos, token]`."""


@dataclass(frozen=True)
class Point:
    """Where a site lives: a port of a module, the element of it if that is a tuple, the part of its last axis.

    `part` is (index, count) of equal parts, as where one module puts out queries, keys and values side by side.
    `shared` says that others hold the very tensor too, so that an edit has to be made in place to be seen by all.
    """

    path: str
    port: Literal["input", "output"]
    layout: Layout
    element: int | None = None
    part: tuple[int, int] = (0, 1)
    shared: bool = False


def part_of(point: Point, value: Tensor) -> Tensor:
    """A point's own part of what its module holds, as a view."""
    index, count = point.part
    width = value.shape[-1] // count
    # Not chunk: autograd allows no edit in place of one of several views.
    return value if count == 1 else value.narrow(-1, index * width, width)


_Attention = tuple[str, Literal["input", "output"], Layout, int | None]
_Layer = tuple[str, Literal["input", "output"], int | None]
_Stack = tuple[str, Layout, int | None]


@dataclass(frozen=True)
class Family:
    """One architecture: its names in Hugging Face's model and its sites in forward order.

    Attributes:
        model_type: what its config calls it.
        architecture: the Hugging Face class.
        architectures: what configs of its checkpoints call it; one without its head has all its weights too.
        chronos_type: what a `chronos_config` calls such a model.
        needs_pipeline: whether a model is read only as a Chronos model, with a tokenizer for series.
        context: the attention that reads the past.
        stacks: the module of each stack, and `blocks` the list of its layers.
        parts: which part of a fused projection is whose, as `Point.part`.
        columns_first: whether weights are kept as they act on rows, `[in, out]`, not `[out, in]` as in a Linear.
        query_norms: the norm that W_Q reads through; `key_norms` that of W_K and W_V, `mlp_norms` that of MLPs.
        position_biases: the attention that holds the bias which all layers of its stack share.
        position_embedding: the embedding of positions, whose length is the longest sequence; None without.
        mask_argument: how the attention module calls its mask.
        mlp_width: how the config calls the width of the MLP; where it says nothing that is 4 d_model.
        scales_unembedding: whether tied embeddings scale the decoder's output by d_model^-0.5.
        clamps_float16: whether layers clamp what lies between them in float16.
        ignored: what old checkpoints hold and no model uses, as regular expressions.
    """

    name: str
    model_type: str
    architecture: type[PreTrainedModel]
    architectures: tuple[str, ...]
    chronos_type: Literal["seq2seq", "causal"]
    needs_pipeline: bool
    context: tuple[Stack, Kind]
    stacks: dict[Stack, str]
    blocks: dict[Stack, str]
    attention_paths: dict[tuple[Stack, Kind], str]
    attention_points: dict[str, _Attention]
    layer_points: dict[tuple[Stack, str], _Layer]
    stack_points: dict[tuple[Stack, str], _Stack]
    query_norms: dict[tuple[Stack, Kind], str]
    key_norms: dict[tuple[Stack, Kind], str]
    mlp_norms: dict[Stack, str]
    position_biases: dict[tuple[Stack, Kind], str]
    embeddings: dict[Stack, str]
    mask_argument: str
    mlp_width: str
    position_embedding: str | None = None
    parts: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    shared: frozenset[str] = frozenset()
    columns_first: bool = False
    scales_unembedding: bool = False
    clamps_float16: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[tuple[Stack, Kind], ...]:
        """The kinds of attention there are, in forward order."""
        return tuple(kind for kind in KINDS if kind in self.attention_paths)

    @property
    def has_encoder(self) -> bool:
        """Whether there is an encoder, and so cross-attention."""
        return "encoder" in self.stacks

    def attention_path(self, layer: AttentionLayer) -> str:
        """The dotted path of an attention module."""
        return self.attention_paths[layer.stack, layer.kind].format(layer=layer.layer)

    def point(self, site: Site) -> Point:
        """Where a site lives. `head_out` is made from z and W_O, so its point is that of z."""
        if site.kind is not None:
            assert site.layer is not None
            name, port, layout, element = self.attention_points["z" if site.name == "head_out" else site.name]
            path = self.attention_path(AttentionLayer(site.stack, site.kind, site.layer))
            part = self.parts.get(site.name, (0, 1))
            return Point(f"{path}.{name}".rstrip("."), port, layout, element, part)
        if site.layer is not None:
            path, port, element = self.layer_points[site.stack, site.name]
            shared = site.name in self.shared
            return Point(path.format(layer=site.layer), port, "stream", element, shared=shared)
        path, layout, element = self.stack_points[site.stack, site.name]
        return Point(path, "output", layout, element)

    def sites(self, layers: dict[Stack, int]) -> Iterator[Site]:
        """All sites of a model in the order in which the forward pass reaches them.

        Args:
            layers: the number of layers by stack.

        Yields:
            The sites. `z` comes just before `head_out`, which is made from it.
        """
        for stack in STACKS:
            kinds: list[Kind] = [kind for s, kind in self.kinds if s == stack]
            for layer in range(layers[stack]):
                yield Site(stack, None, layer, "resid_pre")
                for kind, after in zip(kinds, ("resid_mid", "resid_mid_cross"), strict=False):
                    for name in ATTENTION_SITES:
                        yield Site(stack, kind, layer, name)
                    yield Site(stack, None, layer, after)
                yield Site(stack, None, layer, "mlp_out")
                yield Site(stack, None, layer, "resid_post")
            for s, name in self.stack_points:
                if s == stack:
                    yield Site(stack, None, None, name)


T5 = Family(
    name="T5",
    model_type="t5",
    architecture=T5ForConditionalGeneration,
    architectures=("T5ForConditionalGeneration",),
    chronos_type="seq2seq",
    needs_pipeline=True,
    context=("decoder", "cross"),
    stacks={"encoder": "encoder", "decoder": "decoder"},
    blocks={"encoder": "encoder.block", "decoder": "decoder.block"},
    attention_paths={
        ("encoder", "self"): "encoder.block.{layer}.layer.0.SelfAttention",
        ("decoder", "self"): "decoder.block.{layer}.layer.0.SelfAttention",
        ("decoder", "cross"): "decoder.block.{layer}.layer.1.EncDecAttention",
    },
    attention_points={
        "q": ("q", "output", "heads", None),
        "k": ("k", "output", "heads", None),
        "v": ("v", "output", "heads", None),
        "scores": ("hook_scores", "output", "square", None),
        "pattern": ("hook_pattern", "output", "square", None),
        "z": ("o", "input", "heads", None),
        "attn_out": ("", "output", "stream", 0),
    },
    layer_points={
        ("encoder", "resid_pre"): ("encoder.block.{layer}", "input", None),
        ("encoder", "resid_mid"): ("encoder.block.{layer}.layer.0", "output", 0),
        ("encoder", "mlp_out"): ("encoder.block.{layer}.layer.1.DenseReluDense", "output", None),
        ("encoder", "resid_post"): ("encoder.block.{layer}", "output", 0),
        ("decoder", "resid_pre"): ("decoder.block.{layer}", "input", None),
        ("decoder", "resid_mid"): ("decoder.block.{layer}.layer.0", "output", 0),
        ("decoder", "resid_mid_cross"): ("decoder.block.{layer}.layer.1", "output", 0),
        ("decoder", "mlp_out"): ("decoder.block.{layer}.layer.2.DenseReluDense", "output", None),
        ("decoder", "resid_post"): ("decoder.block.{layer}", "output", 0),
    },
    stack_points={
        ("encoder", "ln_final"): ("encoder.final_layer_norm", "stream", None),
        ("decoder", "ln_final"): ("decoder.final_layer_norm", "stream", None),
        ("decoder", "logits"): ("lm_head", "tokens", None),
    },
    query_norms={
        ("encoder", "self"): "encoder.block.{layer}.layer.0.layer_norm",
        ("decoder", "self"): "decoder.block.{layer}.layer.0.layer_norm",
        ("decoder", "cross"): "decoder.block.{layer}.layer.1.layer_norm",
    },
    key_norms={
        ("encoder", "self"): "encoder.block.{layer}.layer.0.layer_norm",
        ("decoder", "self"): "decoder.block.{layer}.layer.0.layer_norm",
        ("decoder", "cross"): "encoder.final_layer_norm",
    },
    mlp_norms={
        "encoder": "encoder.block.{layer}.layer.1.layer_norm",
        "decoder": "decoder.block.{layer}.layer.2.layer_norm",
    },
    position_biases={
        ("encoder", "self"): "encoder.block.0.layer.0.SelfAttention",
        ("decoder", "self"): "decoder.block.0.layer.0.SelfAttention",
    },
    embeddings={"encoder": "encoder.embed_tokens", "decoder": "decoder.embed_tokens"},
    mask_argument="mask",
    mlp_width="d_ff",
    scales_unembedding=True,
    clamps_float16=True,
    ignored=(r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",),
)
"""T5 as `T5ForConditionalGeneration`, which the Chronos T5 models are."""

GPT2 = Family(
    name="GPT-2",
    model_type="gpt2",
    architecture=GPT2LMHeadModel,
    architectures=("GPT2LMHeadModel", "GPT2Model"),
    chronos_type="causal",
    needs_pipeline=False,
    context=("decoder", "self"),
    stacks={"decoder": "transformer"},
    blocks={"decoder": "transformer.h"},
    attention_paths={("decoder", "self"): "transformer.h.{layer}.attn"},
    attention_points={
        "q": ("c_attn", "output", "heads", None),
        "k": ("c_attn", "output", "heads", None),
        "v": ("c_attn", "output", "heads", None),
        "scores": ("hook_scores", "output", "square", None),
        "pattern": ("hook_pattern", "output", "square", None),
        "z": ("c_proj", "input", "heads", None),
        "attn_out": ("", "output", "stream", 0),
    },
    parts={"q": (0, 3), "k": (1, 3), "v": (2, 3)},
    layer_points={
        ("decoder", "resid_pre"): ("transformer.h.{layer}", "input", None),
        # The block adds the attention's output itself: the sum is seen where the next norm takes it in, and the
        # block goes on with the very same tensor.
        ("decoder", "resid_mid"): ("transformer.h.{layer}.ln_2", "input", None),
        ("decoder", "mlp_out"): ("transformer.h.{layer}.mlp", "output", None),
        ("decoder", "resid_post"): ("transformer.h.{layer}", "output", None),
    },
    shared=frozenset({"resid_mid"}),
    stack_points={
        ("decoder", "ln_final"): ("transformer.ln_f", "stream", None),
        ("decoder", "logits"): ("lm_head", "tokens", None),
    },
    query_norms={("decoder", "self"): "transformer.h.{layer}.ln_1"},
    key_norms={("decoder", "self"): "transformer.h.{layer}.ln_1"},
    mlp_norms={"decoder": "transformer.h.{layer}.ln_2"},
    position_biases={},
    embeddings={"decoder": "transformer.wte"},
    position_embedding="transformer.wpe",
    columns_first=True,
    mask_argument="attention_mask",
    mlp_width="n_inner",
    ignored=(r"(^|\.)h\.\d+\.attn\.(masked_)?bias$",),
)
"""GPT-2 as `GPT2LMHeadModel`, decoder-only, which Chronos' causal models are."""

FAMILIES: dict[str, Family] = {family.model_type: family for family in (T5, GPT2)}
"""The families that can be opened, by `model_type`."""
