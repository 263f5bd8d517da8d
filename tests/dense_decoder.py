"""GPT-2's heads written out in float64 from Hugging Face's own tensors, with nothing of the toolkit."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.names import Head


@dataclass(frozen=True)
class Dense:
    """One head: `score(x, y) = (x Q + q) (y K + k)^T`, and `(y V + v) O` is what it writes of y."""

    Q: Tensor
    K: Tensor
    V: Tensor
    O: Tensor  # noqa: E741
    q: Tensor
    k: Tensor
    v: Tensor

    @property
    def QK(self) -> Tensor:
        return self.Q @ self.K.T

    @property
    def OV(self) -> Tensor:
        return self.V @ self.O


def dense_head(module: Any, head: Head, fold: bool) -> Dense:
    """A head; folded it acts on the stream divided by its deviation, and its scores are those of the softmax."""
    block = module.transformer.h[head.layer]
    d_model = module.config.n_embd
    d_head = d_model // module.config.n_head
    own = slice(d_head * head.head, d_head * (head.head + 1))
    with torch.no_grad():
        weights = block.attn.c_attn.weight.detach().double().split(d_model, dim=1)
        biases = block.attn.c_attn.bias.detach().double().split(d_model)
        plain = [(weight[:, own], bias[own]) for weight, bias in zip(weights, biases, strict=True)]
        if fold:
            less_mean = torch.eye(d_model, dtype=torch.float64) - 1 / d_model
            scale, shift = block.ln_1.weight.double(), block.ln_1.bias.double()
            plain = [(less_mean @ torch.diag(scale) @ W, shift @ W + b) for W, b in plain]
            plain[0] = (plain[0][0] / d_head**0.5, plain[0][1] / d_head**0.5)
        (Q, q), (K, k), (V, v) = plain
        return Dense(Q, K, V, block.attn.c_proj.weight.detach().double()[own], q, k, v)


def dense_unembedding(module: Any, fold: bool) -> tuple[Tensor, Tensor]:
    """W_U `[d_model, token]` and b_U `[token]`."""
    with torch.no_grad():
        weight = module.lm_head.weight.detach().double().T
        if not fold:
            return weight, torch.zeros(weight.shape[1], dtype=torch.float64)
        d_model = len(weight)
        less_mean = torch.eye(d_model, dtype=torch.float64) - 1 / d_model
        norm = module.transformer.ln_f
        return less_mean @ torch.diag(norm.weight.double()) @ weight, norm.bias.double() @ weight


def divided(stream: Tensor, epsilon: float = 1e-5) -> Tensor:  # no tolerance: the norm's own
    """A stream divided by its deviation, its mean left in."""
    return stream / (stream.var(-1, unbiased=False, keepdim=True) + epsilon).sqrt()
