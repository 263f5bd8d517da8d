"""What a norm does to the residual stream, in one form for all: y = (x - mean) / deviation * scale + shift.

T5's norm takes no mean off and has no shift, and its deviation is the root mean square; GPT-2's is a LayerNorm.
Folded into the weights behind it, scale, shift and the taking off of the mean become part of them, so that they act
on the stream divided by its deviation, whatever the norm.

Source: Zhang & Sennrich 2019, "Root Mean Square Layer Normalization"; Ba et al. 2016, "Layer Normalization"; Elhage
et al. 2021 (folding).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import UnsupportedModel
from interp.models.handle import Handle
from interp.models.weights.parameters import MERGE, computing, probe, readable, rounding


@dataclass(frozen=True, eq=False)
class Norm:
    """The parameters of a norm; `shift` is None where there is none."""

    scale: Float[Tensor, " d_model"]
    shift: Float[Tensor, " d_model"] | None
    epsilon: float
    centred: bool

    def inverse(self, stream: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos 1"]:
        """Return the factor on the stream beside the scale: one over its deviation."""
        x = stream - stream.mean(-1, keepdim=True) if self.centred else stream
        return torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)

    def divided(self, stream: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos d_model"]:
        """Divide the stream by its deviation: folded weights act on this."""
        return stream * self.inverse(stream)

    def __call__(self, stream: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos d_model"]:
        """Apply the norm."""
        x = stream - stream.mean(-1, keepdim=True) if self.centred else stream
        y = x * self.inverse(stream) * self.scale.to(stream)
        return y if self.shift is None else y + self.shift.to(stream)

    def fold(self, weight: Float[Tensor, "*head d_model out"]) -> Float[Tensor, "*head d_model out"]:
        """Return weights that act on the divided stream as these do on the norm's output."""
        scaled = self.scale.to(weight)[:, None] * weight
        return scaled - scaled.mean(-2, keepdim=True) if self.centred else scaled

    def fold_bias(self, weight: Float[Tensor, "*head d_model out"]) -> Float[Tensor, "*head out"]:
        """Return what the shift adds behind these weights; zero where there is none."""
        if self.shift is None:
            return weight.new_zeros(*weight.shape[:-2], weight.shape[-1])
        return self.shift.to(weight) @ weight


def _check_norm(model: Handle, path: str, norm: Norm) -> None:
    """Check that a norm does what its parameters say.

    Raises:
        UnsupportedModel: it does something else.
    """
    module = model.module.get_submodule(path)
    x, scale = probe(len(norm.scale)).to(norm.scale), norm.scale.double().abs()
    actual, expected = computing(model, path, module)(x).double(), norm(x.double())
    # What is normed is of size 1 to 4; the epsilon of a row is as exact as its square.
    # T5's is made in float32, whatever the weights are in.
    tolerance = max(rounding(norm.scale, len(scale)), rounding(norm.scale.float(), len(scale)))
    allowed = 8 * tolerance * (4 * scale + (0 if norm.shift is None else norm.shift.abs()))
    if actual.shape != expected.shape or bool(((actual - expected).abs() > allowed).any()):
        raise UnsupportedModel(
            f"{model.name}: {path} ({type(module).__name__}) is no norm of a known kind: what it does to the stream "
            f"cannot be folded into weights. {MERGE}"
        )


def norm(model: Handle, path: str) -> Norm:
    """Return a norm of a model.

    Args:
        path: of the module, dotted.

    Returns:
        Its parameters: the very tensors, not copies.

    Raises:
        UnsupportedModel, InvalidInput: weights that cannot be read.
    """
    module = model.module.get_submodule(path)
    centred = isinstance(module, nn.LayerNorm)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(epsilon, float) or not isinstance(getattr(module, "weight", None), Tensor):
        raise UnsupportedModel(
            f"{model.name}: {path} ({type(module).__name__}) is no norm of a known kind: it has no scale or no epsilon "
            "that could be folded into weights. Put the norm of the architecture there."
        )
    shift = readable(model, path, "bias") if getattr(module, "bias", None) is not None else None
    checked = Norm(readable(model, path), shift, epsilon, centred)
    _check_norm(model, path, checked)
    return checked


def final_norm(model: Handle) -> Norm:
    """Return the decoder's last norm."""
    return norm(model, model.family.stack_points["decoder", "ln_final"][0])
