"""A T5 forward written out head by head in plain formulas, in which every edge carries what it is told to.

The independent number for edge patching: it shares no code with the toolkit but the weights and the order of edges.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Attention

import interp
from circuits import Circuit

Written = dict[str, Tensor]


def forward(
    model: interp.Model,
    batch: interp.Batch,
    circuit: Circuit | None = None,
    other: Written | None = None,
    embedded: Written | None = None,
) -> tuple[Tensor, Written]:
    """Logits, and what each part writes by address; edges outside the circuit carry `other`.

    `embedded` stands for the embeddings where it is given.
    """
    module: Any = model.module
    inside = None if circuit is None else {str(edge) for edge in circuit}
    now: Written = {}

    def read(reader: str, writers: list[str]) -> Tensor:
        total: Any = 0
        for writer in writers:
            kept = inside is None or f"{writer} -> {reader}" in inside
            total = total + (now[writer] if kept else other[writer])  # type: ignore[index]
        return total

    def norm(x: Tensor, layer: Any) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + layer.variance_epsilon).sqrt() * layer.weight

    def attend(name: str, att: Any, q_norm: Any, kv_norm: Any, upper: list[str], keys: list[str], bias: Tensor) -> None:
        for h in range(model.n_heads):
            rows = slice(h * model.d_head, (h + 1) * model.d_head)
            q = norm(read(f"{name}.{h}:q", upper), q_norm) @ att.q.weight[rows].T
            k = norm(read(f"{name}.{h}:k", keys), kv_norm) @ att.k.weight[rows].T
            v = norm(read(f"{name}.{h}:v", keys), kv_norm) @ att.v.weight[rows].T
            pattern = (q @ k.mT + bias[:, h]).softmax(-1)
            now[f"{name}.{h}"] = pattern @ v @ att.o.weight[:, rows].T

    def position(att: Any, queries: int, two_sided: bool) -> Tensor:
        distance = torch.arange(queries)[None] - torch.arange(queries)[:, None]
        buckets = T5Attention._relative_position_bucket(distance, bidirectional=two_sided)
        return att.relative_attention_bias.weight[buckets].permute(2, 0, 1)[None]

    lowest = torch.finfo(model.dtype).min
    hidden = torch.zeros(batch.attention_mask.shape, dtype=model.dtype)
    hidden = hidden.masked_fill(batch.attention_mask == 0, lowest)[:, None, None]
    writers: list[str] = []
    for stack, ids in (("encoder", batch.input_ids), ("decoder", batch.decoder_input_ids)):
        part = getattr(module, stack)
        length = ids.shape[1]
        if stack == "decoder":
            encoder, writers = writers, []
        start = f"{stack}.0.resid_pre"
        now[start] = module.shared.weight[ids] if embedded is None else embedded[start]
        writers.append(f"{stack}.0.resid_pre")
        first = part.block[0].layer[0].SelfAttention
        bias = position(first, length, stack == "encoder")
        ahead = torch.full((length, length), lowest, dtype=model.dtype).triu(1)
        bias = bias + (hidden if stack == "encoder" else ahead)
        for i, block in enumerate(part.block):
            att, scale = block.layer[0].SelfAttention, block.layer[0].layer_norm
            attend(f"{stack}.self.{i}", att, scale, scale, writers, writers, bias)
            writers = writers + [f"{stack}.self.{i}.{h}" for h in range(model.n_heads)]
            if stack == "decoder":
                cross, scale = block.layer[1].EncDecAttention, block.layer[1].layer_norm
                at = f"decoder.cross.{i}"
                seen = hidden.expand(-1, model.n_heads, -1, -1)
                attend(at, cross, scale, module.encoder.final_layer_norm, writers, encoder, seen)
                writers = writers + [f"decoder.cross.{i}.{h}" for h in range(model.n_heads)]
            mlp = block.layer[-1]
            x = norm(read(f"{stack}.{i}.mlp_out", writers), mlp.layer_norm)
            now[f"{stack}.{i}.mlp_out"] = _mlp(x, mlp.DenseReluDense)
            writers = [*writers, f"{stack}.{i}.mlp_out"]
    last = norm(read("decoder.logits", writers), module.decoder.final_layer_norm)
    return model.unembed(last), now


def _mlp(x: Tensor, mlp: Any) -> Tensor:
    if hasattr(mlp, "wi"):
        return (x @ mlp.wi.weight.T).relu() @ mlp.wo.weight.T
    u = x @ mlp.wi_0.weight.T
    gelu = u * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3))) / 2
    return (gelu * (x @ mlp.wi_1.weight.T)) @ mlp.wo.weight.T
