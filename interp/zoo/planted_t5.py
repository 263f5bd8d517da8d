"""Models planted by hand: the circuit is known, because it was built.

The residual stream holds subspaces of d_head dimensions in a random basis: the token itself, one for what each of
the encoder's planted heads copies, and a spare one. Token embeddings are random directions of the first.

* `token_to_right`: an encoder head attends one position back, by its position bias alone, and copies that token
  into the second subspace. A cross head's keys read it there: its queries find the token *after* an earlier
  occurrence of theirs, and it writes that token.
* `current_token`: the encoder head attends one position ahead. The cross head attends to the earlier occurrence
  itself, and its values read, and it writes, the token that the encoder head put there.

A redundant copy is the same circuit once more, in heads and a subspace of its own: either alone suffices. A
distractor is a cross head of the same queries and keys that writes nothing: it attends alike and has no effect.

All other heads are random, live and faint. Norms have random scales, which the planted weights undo. With R
occurrences a planted cross head pays 1/R to each, since it matches content alone.

Source: Olsson et al. 2022 (previous-token head and induction head); AutoCircuit's hand-made models, in spirit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from chronos import ChronosPipeline
from chronos.chronos import ChronosModel
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from interp.errors import InvalidInput, nearest
from interp.models.opening import wrap
from interp.names import Head
from interp.validate import whole
from interp.zoo.fresh_t5 import model_config
from interp.zoo.recipe import Recipe, chronos_config

if TYPE_CHECKING:
    from interp.models.model import Model

Route = Literal["token_to_right", "current_token"]

HEADS, D_HEAD, LAYERS = 3, 64, 2

# The second copy has other layers and indices where it can. Both cross heads are of the last layer: what one wrote
# in an earlier layer would be among the queries of the other.
ENCODER_HEADS = (Head("encoder", "self", 0, 1), Head("encoder", "self", 1, 0))
CROSS_HEADS = (Head("decoder", "cross", 1, 2), Head("decoder", "cross", 1, 0))
DISTRACTOR = Head("decoder", "cross", 0, 1)

SHARP, GAIN, FAINT = 60.0, 6.0, 1e-3
"""Scores of a match before the norm's share, how loud the cross head writes, how faint the other heads do."""

PLANTED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "token to right": MappingProxyType({"route": "token_to_right"}),
        "current token": MappingProxyType({"route": "current_token"}),
        "redundant copy": MappingProxyType({"route": "token_to_right", "copies": 2}),
        "distractor": MappingProxyType({"route": "token_to_right", "distractor": True}),
    }
)
"""The standard planted models, by name: the keyword arguments of `planted`."""


@dataclass(frozen=True, eq=False)
class Planted:
    """A model and what was built into it, as text; nothing where the wire is cut.

    `edges` go from head to head. `circuit` is every edge that was built, embeddings and output included:
    `writer -> reader:input`, such as `decoder.0.resid_pre -> decoder.cross.1.2:q`, and `... -> decoder.logits`.
    """

    model: "Model"
    edges: tuple[str, ...]
    circuit: tuple[str, ...]


def planted(
    route: Route = "token_to_right", *, wired: bool = True, copies: int = 1, distractor: bool = False, seed: int = 0
) -> Planted:
    """Make a Chronos T5 with an induction circuit of two heads across the stacks, written by hand.

    Args:
        route: what the cross head attends to, as the mosaic names it.
        wired: whether the cross head reads the subspace that the encoder head writes to; if not, the encoder
            head writes to a spare one, everything else being the same.
        copies: 2 for a redundant copy, `encoder.self.1.0` and `decoder.cross.1.0`, in a subspace of its own.
        distractor: whether `decoder.cross.0.1` attends as the cross head does, and writes nothing.
        seed: of embeddings, basis, norms and the other heads.

    Returns:
        The model, opened; its edges between heads, `encoder.self.0.1 -> decoder.cross.1.2` by `k` or by `v`; and
        its circuit.

    Raises:
        InvalidInput: another route, or more than two copies.
    """
    if route not in get_args(Route):
        known = get_args(Route)
        raise InvalidInput(f"route={route!r}: there are {', '.join(known)}.{nearest(str(route), known)}")
    if whole("copies", copies, 1) > len(CROSS_HEADS):
        raise InvalidInput(f"copies={copies}: there are heads for 1 or 2.")
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    # Of the token, of each copy, and a spare one.
    recipe = Recipe(layers=LAYERS, heads=HEADS, d_model=(copies + 2) * D_HEAD, d_kv=D_HEAD, d_ff=8)
    config: T5Config = model_config(recipe)
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = T5ForConditionalGeneration(config).eval()
        _plant(module, route, wired, copies, distractor, generator)
    chronos = chronos_config()
    pipeline = ChronosPipeline(tokenizer=chronos.create_tokenizer(), model=ChronosModel(chronos, module))
    name = f"planted-{route}{'-copies' if copies > 1 else ''}{'-distractor' if distractor else ''}"
    model = wrap(pipeline, name=name)
    if not wired:
        return Planted(model, (), ())
    built = [_built(route, *heads) for heads in list(zip(ENCODER_HEADS, CROSS_HEADS, strict=True))[:copies]]
    return Planted(model, tuple(edges[1] for edges in built), tuple(edge for edges in built for edge in edges))


def _built(route: Route, encoder: Head, cross: Head) -> tuple[str, ...]:
    """Return the edges of one copy, in forward order; the second is the one between its heads."""
    copied, token = ("k", "v") if route == "token_to_right" else ("v", "k")
    return (
        f"encoder.0.resid_pre -> {encoder}:v",
        f"{encoder} -> {cross}:{copied}",
        f"encoder.0.resid_pre -> {cross}:{token}",
        f"decoder.0.resid_pre -> {cross}:q",
        f"{cross} -> decoder.logits",
    )


def _plant(
    module: T5ForConditionalGeneration,
    route: Route,
    wired: bool,
    copies: int,
    distractor: bool,
    generator: torch.Generator,
) -> None:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    d_model: int = module.config.d_model
    token, *copied, spare = torch.linalg.qr(draw(d_model, d_model)).Q.split(D_HEAD, dim=1)
    for name, weight in module.named_parameters():
        if "norm" in name and name != "decoder.final_layer_norm.weight":
            weight.copy_(draw(d_model).mul(0.3).exp())
        elif name.endswith(".o.weight"):
            weight.copy_(draw(*weight.shape) * FAINT)
        elif name.endswith(".wo.weight") or "relative_attention_bias" in name:
            weight.zero_()
        elif name.endswith((".q.weight", ".k.weight", ".v.weight")):
            weight.copy_(draw(*weight.shape) * d_model**-0.5)
    directions = nn.functional.normalize(draw(module.config.vocab_size, D_HEAD), dim=1)
    module.shared.weight.copy_(d_model**0.5 * directions @ token.T)

    back = route == "token_to_right"
    # All layers of a stack share the first one's bias.
    bias = cast(T5Attention, module.get_submodule("encoder.block.0.layer.0.SelfAttention")).relative_attention_bias
    bucket = T5Attention._relative_position_bucket(torch.tensor([-1 if back else 1]))
    keys = _column(module.get_submodule("encoder.final_layer_norm").weight)
    zero = torch.zeros(d_model, D_HEAD)
    for own, encoder, cross in zip(copied, ENCODER_HEADS, CROSS_HEADS, strict=False):
        bias.weight[bucket, encoder.head] = 20.0
        write_head(module, encoder, zero, zero, token / norm_before(module, encoder), (own if wired else spare).T)
        read, moved = (own, token) if back else (token, own)
        matches = token * SHARP / d_model / norm_before(module, cross), read / keys
        write_head(module, cross, *matches, moved / keys, GAIN * token.T)
    if distractor:
        matches = token * SHARP / d_model / norm_before(module, DISTRACTOR), (copied[0] if back else token) / keys
        write_head(module, DISTRACTOR, *matches, token / keys, zero.T)


def _column(scale: object) -> Tensor:
    return cast(Tensor, scale)[:, None]


def norm_before(module: nn.Module, head: Head) -> Tensor:
    """Return the scale of the norm in front of a head, `[d_model, 1]`."""
    return _column(module.get_submodule(f"{_sublayer(head)}.layer_norm").weight)


def _sublayer(head: Head) -> str:
    return f"{head.stack}.block.{head.layer}.layer.{int(head.kind == 'cross')}"


def write_head(module: nn.Module, head: Head, W_Q: Tensor, W_K: Tensor, W_V: Tensor, W_O: Tensor) -> None:
    """Write weights of one head, given as they act on row vectors; what they do not reach of it is 0."""
    name = "EncDecAttention" if head.kind == "cross" else "SelfAttention"
    attention = cast(T5Attention, module.get_submodule(f"{_sublayer(head)}.{name}"))
    first, size = head.head * attention.key_value_proj_dim, attention.key_value_proj_dim
    rows = slice(first, first + size)
    for linear, matrix in ((attention.q, W_Q), (attention.k, W_K), (attention.v, W_V)):
        linear.weight[rows] = nn.functional.pad(matrix, (0, size - matrix.shape[1])).T
    attention.o.weight[:, rows] = nn.functional.pad(W_O, (0, 0, 0, size - len(W_O))).T
