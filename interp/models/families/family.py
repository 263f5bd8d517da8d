"""Everything that differs between architectures, as data: each file beside this one describes one of them.

A `Family` says how its checkpoints and pipelines are recognised, where each site lives and how its tensor is laid out,
how norms and positions enter the weights, what the model reads, and what it puts out. A `Point` says which module of
the Hugging Face model carries a site, at its input or its output. Everything else in the toolkit goes through these
tables. To add an architecture, write one file and name it in `registry.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from chronos import BaseChronosPipeline, ChronosConfig
from torch import Tensor
from transformers import PreTrainedModel

from interp.inputs.patches import Patching
from interp.names import ATTENTION_SITES, KINDS, STACKS, AttentionLayer, Kind, Site, Stack

Layout = Literal["stream", "heads", "square", "tokens", "quantiles"]
"""How a tensor is laid out: `stream` is `[batch, pos, d_model]`; `heads` is
`[batch, pos, n_heads * d_head]` in the module and `[batch, pos, head, d_head]` for the user;
`square` is `[batch, head, query, key]`; `tokens` is `[batch, pos, token]`; `quantiles` is `[batch, quantile, step]`."""

Element = int | str | None
"""Which part of a module's output holds a tensor: a place in a tuple, a name in an output object, or all of it."""


@dataclass(frozen=True)
class Point:
    """Where a site lives: a port of a module, the element of it if that has several, the part of its last axis.

    `part` is (index, count) of equal parts, as where one module puts out queries, keys and values side by side.
    `shared` says that others hold the very tensor too, so that an edit has to be made in place to be seen by all.
    """

    path: str
    port: Literal["input", "output"]
    layout: Layout
    element: Element = None
    part: tuple[int, int] = (0, 1)
    shared: bool = False


def part_of(point: Point, value: Tensor) -> Tensor:
    """Return a point's own part of what its module holds, as a view."""
    index, count = point.part
    width = value.shape[-1] // count
    # Not chunk: autograd allows no edit in place of one of several views.
    return value if count == 1 else value.narrow(-1, index * width, width)


_Attention = tuple[str, Literal["input", "output"], Layout, int | None]
_Layer = tuple[str, Literal["input", "output"], int | None]
_Stack = tuple[str, Layout, Element]


def read_tokens(config: Any) -> None:
    """Read the `chronos_config` of a model of tokens as Chronos does.

    Raises:
        TypeError, AttributeError, AssertionError, ValueError: Chronos makes no tokenizer of it, or one of more tokens
            than the model has.
    """
    chronos = ChronosConfig(**config.chronos_config)
    chronos.create_tokenizer()
    if chronos.n_tokens > config.vocab_size:
        raise ValueError(f"the tokenizer has {chronos.n_tokens} tokens and the model {config.vocab_size}")


@dataclass(frozen=True)
class PatchReader:
    """What a family says that reads values in patches and puts out quantiles.

    Attributes:
        values: the module whose input is the context, as it is before the standardisation.
        patching: returns how a Hugging Face model cuts series into patches.
        levels: returns the levels of its quantiles.
        horizon: returns how many steps one forward pass forecasts.
        quantiles: returns the quantiles `[row, quantile, step]` in the series' units, from the model, its last norm
            `[row, pos, d_model]` and the context `[row, step]`.
        encode: runs the encoder: from the model and the context to `[row, pos, d_model]`.
        decode: runs the decoder to its last norm: from the model, the encoder's output and the context.
    """

    values: str
    patching: Callable[[Any], Patching]
    levels: Callable[[Any], tuple[float, ...]]
    horizon: Callable[[Any], int]
    quantiles: Callable[[Any, Tensor, Tensor], Tensor]
    encode: Callable[[Any, Tensor], Tensor]
    decode: Callable[[Any, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Family:
    """One architecture: how it is recognised, where its sites live, what it reads and puts out.

    Attributes:
        model_type: the config's name for it, which other architectures can share.
        architecture: the Hugging Face class.
        architectures: the classes that configs of its checkpoints name; one without its head has all its weights too.
        pipeline: the Chronos pipeline that its Chronos models open in.
        inside: the attribute path from the pipeline to the Hugging Face model.
        settings: the attribute path from the pipeline to the settings that Chronos made of its `chronos_config`.
        chronos_type: the name of such a model in a `chronos_config`; None where that names none.
        needs_pipeline: whether a model is read only as a Chronos model.
        reads: the input of its Chronos models: one token for each value, or the values themselves.
        puts_out: the output: logits over tokens at each position, or quantiles over steps. The last site is named so.
        returns: the attribute of what the forward returns that holds it.
        context: the attention that reads the past.
        stacks: the module of each stack.
        blocks: the list of layers of each stack.
        attention_points: the port and layout of each attention site, below the attention module.
        layer_points: the port of each site of a layer, `stack_points` of each site of a stack.
        parts: the part of a fused projection that holds a site, as `Point.part`.
        shared: the sites whose tensor others hold too, as `Point.shared`.
        columns_first: whether weights are stored `[in, out]`, as they act on rows, and not `[out, in]` as in a Linear.
        query_norms: the norm that W_Q reads through.
        key_norms: the norm that W_K and W_V read through; `mlp_norms` is that of MLPs.
        position_biases: the attention that holds the bias which all layers of its stack share.
        position_embedding: the embedding of positions, whose length is the longest sequence; None without one.
        mask_argument: the name of the mask in the attention module's forward.
        mlp_width: the config's name for the width of the MLP, which is 4 d_model where the config gives none.
        arguments: arguments that every forward is called with.
        read_config: reads the `chronos_config` of a config as Chronos does, and raises what is wrong with it.
        patches: what a family that reads values says of them; None where tokens are read.
        constants: patterns of the sites that are the same for every input.
        scales_unembedding: whether tied embeddings scale the decoder's output by d_model^-0.5.
        clamps_float16: whether layers clamp the residual stream in float16.
        ignored: tensors of old checkpoints that no model uses, as regular expressions.
    """

    name: str
    model_type: str
    architecture: type[PreTrainedModel]
    architectures: tuple[str, ...]
    pipeline: type[BaseChronosPipeline]
    inside: str
    settings: str
    chronos_type: Literal["seq2seq", "causal"] | None
    needs_pipeline: bool
    reads: Literal["tokens", "values"]
    puts_out: Literal["logits", "quantiles"]
    returns: str
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
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    read_config: Callable[[Any], None] = read_tokens
    patches: PatchReader | None = None
    constants: tuple[str, ...] = ()
    scales_unembedding: bool = False
    clamps_float16: bool = False
    ignored: tuple[str, ...] = ()

    def module_in(self, pipeline: BaseChronosPipeline) -> PreTrainedModel:
        """Return the Hugging Face model in a pipeline."""
        return attrgetter(self.inside)(pipeline)

    @property
    def kinds(self) -> tuple[tuple[Stack, Kind], ...]:
        """The kinds of attention there are, in forward order."""
        return tuple(kind for kind in KINDS if kind in self.attention_paths)

    @property
    def has_encoder(self) -> bool:
        """Whether there is an encoder, and so cross-attention."""
        return "encoder" in self.stacks

    def attention_path(self, layer: AttentionLayer) -> str:
        """Return the dotted path of an attention module."""
        return self.attention_paths[layer.stack, layer.kind].format(layer=layer.layer)

    def point(self, site: Site) -> Point:
        """Return the point where a site lives; for `head_out`, which is computed from z and W_O, that of z."""
        if site.kind is not None:
            assert site.layer is not None
            name, port, layout, element = self.attention_points["z" if site.name == "head_out" else site.name]
            path = self.attention_path(site.attention)
            part = self.parts.get(site.name, (0, 1))
            return Point(f"{path}.{name}".rstrip("."), port, layout, element, part)
        if site.layer is not None:
            path, port, element = self.layer_points[site.stack, site.name]
            shared = site.name in self.shared
            return Point(path.format(layer=site.layer), port, "stream", element, shared=shared)
        path, layout, element = self.stack_points[site.stack, site.name]
        return Point(path, "output", layout, element)

    def sites(self, layers: dict[Stack, int]) -> Iterator[Site]:
        """Return all sites of a model in the order of the forward pass.

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
