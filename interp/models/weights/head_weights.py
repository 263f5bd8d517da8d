"""Weights by head, in the field's layout: they act on row vectors, `x @ W`, the norm folded in or not.

A head reads the residual stream through a norm. Folded, the norm's scale, and its mean and shift where it has them,
are part of W_Q, W_K, W_V and their biases, which so act on the stream divided by its deviation (the root mean square
in T5). W_Q and its bias then also have the factor of the scores, 1/sqrt(d_head) in GPT-2 and 1 in T5: what comes out
are the very scores, `(x W_Q + b_Q) (y W_K + b_K)^T`, beside a position bias. Cross-attention takes its keys and values
from the encoder's output: their norm is the encoder's final one, that of W_Q the cross sublayer's own.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (heads as W_QK and W_OV);
Raffel et al. 2020, "Exploring the Limits of Transfer Learning" (T5: no 1/sqrt(d_head), no biases); Radford et al.
2019, "Language Models are Unsupervised Multitask Learners" (GPT-2).
"""

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.errors import UnknownHead, UnknownSite, UnsupportedModel
from interp.models.handle import Handle
from interp.models.weights.factored import FactoredMatrix
from interp.models.weights.norms import Norm, final_norm, norm
from interp.models.weights.parameters import affine, looked_up
from interp.names import AttentionLayer, Head, Site, Stack, as_head

Projection = Literal["Q", "K", "V", "O"]


@dataclass(frozen=True, eq=False)
class Projections:
    """What heads compute with; what is not folded can share memory with the model: do not write to it.

    The biases are zero where the architecture has none; b_O is the attention layer's, which its heads share.
    """

    W_Q: Float[Tensor, "*stack d_model d_head"]
    W_K: Float[Tensor, "*stack d_model d_head"]
    W_V: Float[Tensor, "*stack d_model d_head"]
    W_O: Float[Tensor, "*stack d_head d_model"]
    b_Q: Float[Tensor, "*stack d_head"]  # noqa: N815
    b_K: Float[Tensor, "*stack d_head"]  # noqa: N815
    b_V: Float[Tensor, "*stack d_head"]  # noqa: N815
    b_O: Float[Tensor, "*layer d_model"]  # noqa: N815
    folded: bool

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_K^T: the score of query x on key y is `x W_QK y^T`, beside what biases of any kind add."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O: what the head writes where it attends to y is `y W_OV`, and `b_V W_O` whatever y is."""
        return FactoredMatrix(self.W_V, self.W_O)


@dataclass(frozen=True, eq=False)
class HeadWeights(Projections):
    """The weights of one head: W_Q, W_K, W_V `[d_model, d_head]`, W_O `[d_head, d_model]`, and biases."""

    head: Head


@dataclass(frozen=True, eq=False)
class StackedWeights(Projections):
    """The weights of all heads of a stack and kind, `layer, head` in front."""

    site: str

    def __getitem__(self, head: Head | str) -> HeadWeights:
        """Return one head's weights, by address."""
        at = as_head(head)
        layers, heads = self.W_Q.shape[:2]
        if f"{at.stack}.{at.kind}" != self.site or at.layer >= layers or at.head >= heads:
            raise UnknownHead(f"{at}: these are weights of {self.site}, {layers} layers of {heads} heads.")
        return self._one(at, at.layer)

    def _one(self, head: Head, layer: int) -> HeadWeights:
        cell = (layer, head.head)
        parts = {name: getattr(self, name)[cell] for name in _BY_HEAD}
        return HeadWeights(**parts, b_O=self.b_O[layer], folded=self.folded, head=head)


_BY_HEAD = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")


def projection(model: Handle, layer: AttentionLayer, name: Projection, *, fold_norm: bool = True) -> Tensor:
    """Return one of W_Q, W_K, W_V `[head, d_model, d_head]` and W_O `[head, d_head, d_model]` of an attention layer.

    Args:
        layer: the attention layer.
        name: `Q`, `K`, `V` or `O`.
        fold_norm: whether the scale of the norm in front is multiplied in; there is none in front of W_O.

    Returns:
        The weights; in the model's dtype, in float32 at least with `fold_norm`. Folded, W_Q has the factor of the
        scores too.

    Raises:
        UnsupportedModel, InvalidInput: weights that cannot be read.
    """
    weight, _ = _flat(model, layer, name)
    # A product rounded to half precision would be a weight that the model does not have.
    dtype = torch.promote_types(model.dtype, torch.float32) if fold_norm else weight.dtype
    if name == "O":
        return weight.unflatten(0, (model.n_heads, -1)).to(dtype)
    cut = weight.unflatten(1, (model.n_heads, -1)).permute(1, 0, 2)
    if not fold_norm:
        return cut
    folded = _norm(model, layer, name).fold(cut.to(dtype))
    return folded * _scaling(model, layer) if name == "Q" else folded


def head_outputs(
    model: Handle, layer: AttentionLayer, z: Float[Tensor, "row pos head d_head"]
) -> Float[Tensor, "row pos head d_model"]:
    """Project each head's z through W_O into the residual stream."""
    W_O = projection(model, layer, "O", fold_norm=False)
    return einsum(z, W_O, "row pos head d_head, head d_head d_model -> row pos head d_model")


def projection_bias(model: Handle, layer: AttentionLayer, name: Projection, *, fold_norm: bool = True) -> Tensor:
    """Return the bias of one of W_Q, W_K, W_V `[head, d_head]` or W_O `[d_model]`; zero where there is none.

    Args:
        layer: the attention layer.
        name: `Q`, `K`, `V` or `O`.
        fold_norm: whether what the norm's shift adds is in it.

    Returns:
        The bias; in the model's dtype, in float32 at least with `fold_norm`.

    Raises:
        UnsupportedModel, InvalidInput: weights that cannot be read.
    """
    weight, bias = _flat(model, layer, name)
    dtype = torch.promote_types(model.dtype, torch.float32) if fold_norm else weight.dtype
    if name == "O":
        return weight.new_zeros(model.d_model, dtype=dtype) if bias is None else bias.to(dtype)
    added = weight.new_zeros(model.n_heads, model.d_head, dtype=dtype) if bias is None else bias.to(dtype)
    added = added.reshape(model.n_heads, model.d_head)
    if not fold_norm:
        return added
    cut = weight.unflatten(1, (model.n_heads, -1)).permute(1, 0, 2)
    added = added + _norm(model, layer, name).fold_bias(cut.to(dtype))
    return added * _scaling(model, layer) if name == "Q" else added


def _flat(model: Handle, layer: AttentionLayer, name: Projection) -> tuple[Tensor, Tensor | None]:
    """Return a projection's weight and bias with all heads side by side, as they act on rows; None if it has none."""
    site = "z" if name == "O" else name.lower()
    point = model.family.point(Site(layer.stack, layer.kind, layer.layer, site))
    inside = name == "O"
    weight, bias = affine(model, point.path, model.n_heads * model.d_head if inside else model.d_model, inside)
    index, count = point.part
    wide = model.d_model if inside else model.n_heads * model.d_head * count
    if weight.shape[1] != wide:
        raise UnsupportedModel(
            f"{model.name}: {point.path} puts out rows of {weight.shape[1]}, and its heads need {wide}: put a "
            "projection of that width there."
        )
    return weight.chunk(count, -1)[index], None if bias is None else bias.chunk(count, -1)[index]


def _norm(model: Handle, layer: AttentionLayer, name: Projection) -> Norm:
    norms = model.family.query_norms if name == "Q" else model.family.key_norms
    return norm(model, norms[layer.stack, layer.kind].format(layer=layer.layer))


def _scaling(model: Handle, layer: AttentionLayer) -> float:
    return float(model.module.get_submodule(model.family.attention_path(layer)).scaling)


def layer_weights(model: Handle, layer: AttentionLayer, *, fold_norm: bool = True) -> StackedWeights:
    """Return the weights of one attention layer, `[1, head, ...]`: see `stacked_weights`."""
    names: tuple[Projection, ...] = get_args(Projection)
    parts = {f"W_{name}": projection(model, layer, name, fold_norm=fold_norm)[None] for name in names}
    parts |= {f"b_{name}": projection_bias(model, layer, name, fold_norm=fold_norm)[None] for name in names}
    return StackedWeights(**parts, folded=fold_norm, site=f"{layer.stack}.{layer.kind}")


def head_weights(model: Handle, head: Head | str, *, fold_norm: bool = True) -> HeadWeights:
    """Return W_Q, W_K, W_V and W_O of one head, and the biases beside them.

    Args:
        head: its address.
        fold_norm: whether the norm that the head reads through, and the factor of the scores, are multiplied in.

    Returns:
        The weights; in the model's dtype, folded ones in float32 at least.

    Raises:
        UnknownHead: the model has no such head.
        UnsupportedModel, InvalidInput: weights that cannot be read.
    """
    at = model.head(head)
    return layer_weights(model, at.attention, fold_norm=fold_norm)._one(at, 0)


def stacked_weights(model: Handle, kind: str, *, fold_norm: bool = True) -> StackedWeights:
    """Return W_Q, W_K, W_V and W_O of all heads of a stack and kind.

    Args:
        kind: such as `decoder.cross`.
        fold_norm: whether the norm that the heads read through, and the factor of the scores, are multiplied in.

    Returns:
        The weights, `[layer, head, ...]`; in the model's dtype, folded ones in float32 at least.

    Raises:
        UnknownSite: there is no such kind, or not in this model.
        UnsupportedModel, InvalidInput: weights that cannot be read.
    """
    model.kind(kind)
    layers = [layer_weights(model, at, fold_norm=fold_norm) for at in model.layers(kind)]
    parts = {name: torch.cat([getattr(layer, name) for layer in layers]) for name in (*_BY_HEAD, "b_O")}
    return StackedWeights(**parts, folded=fold_norm, site=kind)


def embedding(model: Handle, stack: Stack) -> Float[Tensor, "token d_model"]:
    """Return W_E, a stack's token embeddings as rows; plus W_pos, if any, they are its first residual stream."""
    return looked_up(model, model.family.embeddings[stack], model.d_vocab)


def position_embedding(model: Handle) -> Float[Tensor, "pos d_model"]:
    """Return W_pos, which is added to the token embeddings at each position.

    Raises:
        UnknownSite: the architecture embeds no positions.
    """
    path = model.family.position_embedding
    if path is None:
        raise UnknownSite(f"{model.name}: {model.family.name} embeds no positions; see interp.position_bias.")
    return looked_up(model, path, cast(int, model.max_positions))


def unembedding(model: Handle, *, fold_norm: bool = True) -> Float[Tensor, "d_model token"]:
    """Return W_U: from the decoder's last residual stream, divided by its deviation, to logits.

    Args:
        fold_norm: whether the decoder's final norm is multiplied in.

    Returns:
        The unembedding with T5's scaling by d_model^-0.5 where the model's config says so.

    Raises:
        UnsupportedModel, InvalidInput: weights that cannot be read.
    """
    model.require("tokens")
    weight, _ = affine(model, model.family.stack_points["decoder", "logits"][0], model.d_model)
    dtype = torch.promote_types(model.dtype, torch.float32)
    scaled = weight.to(dtype) * model.unembedding_scale
    return final_norm(model).fold(scaled) if fold_norm else scaled


def unembedding_bias(model: Handle) -> Float[Tensor, "token"]:
    """Return b_U, which the final norm's shift and a bias of the unembedding add to the logits of the folded W_U.

    It is zero where there is neither, as in the published models of T5.
    """
    model.require("tokens")
    _, bias = affine(model, model.family.stack_points["decoder", "logits"][0], model.d_model)
    added = final_norm(model).fold_bias(unembedding(model, fold_norm=False))
    return added if bias is None else added + bias.to(added)
