"""For each architecture, where each site lives and how its tensor is laid out: data, no branches.

A `Point` says which module of the Hugging Face model carries a site, at its input or its output.
Everything else in the toolkit, traces and hooks alike, goes through these tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from interp.names import ATTENTION_SITES, KINDS, AttentionLayer, Kind, Site, Stack

Layout = Literal["stream", "heads", "square", "tokens"]
"""How a tensor is laid out: `stream` is `[batch, pos, d_model]`; `heads` is
`[batch, pos, n_heads * d_head]` in the module and `[batch, pos, head, d_head]` for the user;
`square` is `[batch, head, query, key]`; `tokens` is `[batch, pos, token]`."""


@dataclass(frozen=True)
class Point:
    """Where a site lives: a port of a module, and the element of it if that is a tuple."""

    path: str
    port: Literal["input", "output"]
    layout: Layout
    element: int | None = None


@dataclass(frozen=True)
class Family:
    """One architecture: its names in Hugging Face's model and its sites in forward order.

    `query_norms` and `key_norms` are the norms that W_Q, and W_K and W_V, read through, `mlp_norms` those of MLPs;
    `position_biases` the attention that holds the bias which all layers of its stack share.
    """

    name: str
    model_type: str
    attention_paths: dict[tuple[Stack, Kind], str]
    attention_points: dict[str, tuple[str, Literal["input", "output"], Layout, int | None]]
    layer_points: dict[tuple[Stack, str], tuple[str, Literal["input", "output"], int | None]]
    stack_points: dict[tuple[Stack, str], tuple[str, Layout, int | None]]
    query_norms: dict[tuple[Stack, Kind], str]
    key_norms: dict[tuple[Stack, Kind], str]
    mlp_norms: dict[Stack, str]
    position_biases: dict[tuple[Stack, Kind], str]
    embeddings: dict[Stack, str]

    def attention_path(self, layer: AttentionLayer) -> str:
        """The dotted path of an attention module."""
        return self.attention_paths[layer.stack, layer.kind].format(layer=layer.layer)

    def point(self, site: Site) -> Point:
        """Where a site lives. `head_out` is made from z and W_O, so its point is that of z."""
        if site.kind is not None:
            assert site.layer is not None
            name, port, layout, element = self.attention_points["z" if site.name == "head_out" else site.name]
            path = self.attention_path(AttentionLayer(site.stack, site.kind, site.layer))
            return Point(f"{path}.{name}".rstrip("."), port, layout, element)
        if site.layer is not None:
            path, port, element = self.layer_points[site.stack, site.name]
            return Point(path.format(layer=site.layer), port, "stream", element)
        path, layout, element = self.stack_points[site.stack, site.name]
        return Point(path, "output", layout, element)

    def sites(self, layers: dict[Stack, int]) -> Iterator[Site]:
        """All sites of a model in the order in which the forward pass reaches them.

        Args:
            layers: the number of layers by stack.

        Yields:
            The sites. `z` comes just before `head_out`, which is made from it.
        """
        for stack, count in layers.items():
            kinds: list[Kind] = [kind for s, kind in KINDS if s == stack]
            for layer in range(count):
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
)
"""T5 as `T5ForConditionalGeneration`, which the Chronos T5 models are."""

FAMILIES: dict[str, Family] = {T5.model_type: T5}
"""The families that can be opened, by `model_type`."""
