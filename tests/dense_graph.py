"""Forwards written out head by head in plain formulas, in which every edge carries what it is told to.

The independent number for edge patching: it shares no code with the toolkit but the weights and the order of edges.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Attention

import interp
from circuits import Circuit

FIXED = (r"decoder\.self\.0\.\d+:[qkv]", r"decoder\.self\.\d+\.\d+:[qk]", r"decoder\.cross\.0\.\d+:q")
"""What heads of Chronos-Bolt read that is the same for every input, or makes no difference: on no edge."""

Written = dict[str, Tensor]
Read = Callable[[str, list[str]], Tensor]


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
    now: Written = {}
    inside = None if circuit is None else {str(edge) for edge in circuit}

    def read(reader: str, writers: list[str]) -> Tensor:
        total: Any = 0
        fixed = not model.reads_tokens and any(re.fullmatch(form, reader) for form in FIXED)
        for writer in writers:
            kept = inside is None or f"{writer} -> {reader}" in inside or fixed
            total = total + (now[writer] if kept else other[writer])  # type: ignore[index]
        return total

    write = _t5 if model.has_encoder else _gpt2  # Chronos-Bolt is a T5 between its patches and its quantiles
    return write(model, batch, now, read, embedded), now


def _gpt2(model: interp.Model, batch: interp.Batch, now: Written, read: Read, embedded: Written | None) -> Tensor:
    """One row of tokens; biases of attention are on no edge, and always there."""
    part: Any = model.module.transformer
    ids, mask = batch.decoder_input_ids, batch.decoder_attention_mask

    def norm(x: Tensor, layer: Any) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias

    start, length, lowest = "decoder.0.resid_pre", ids.shape[1], torch.finfo(model.dtype).min
    places = (mask.cumsum(1) - 1).clamp(min=0) * mask
    now[start] = part.wte.weight[ids] + part.wpe.weight[places] if embedded is None else embedded[start]
    ahead = torch.ones(length, length).triu(1).bool()
    hidden = torch.zeros(len(ids), length, length, dtype=model.dtype)
    hidden = hidden.masked_fill(ahead | (mask == 0)[:, None], lowest)
    writers, fixed = [start], torch.zeros(model.d_model, dtype=model.dtype)
    for i, block in enumerate(part.h):
        att, inner = block.attn, model.n_heads * model.d_head
        for h in range(model.n_heads):
            made: dict[str, Tensor] = {}
            for offset, name in enumerate("qkv"):
                columns = slice(offset * inner + h * model.d_head, offset * inner + (h + 1) * model.d_head)
                x = norm(read(f"decoder.self.{i}.{h}:{name}", writers) + fixed, block.ln_1)
                made[name] = x @ att.c_attn.weight[:, columns] + att.c_attn.bias[columns]
            scores = made["q"] @ made["k"].mT / model.d_head**0.5 + hidden
            rows = slice(h * model.d_head, (h + 1) * model.d_head)
            now[f"decoder.self.{i}.{h}"] = scores.softmax(-1) @ made["v"] @ att.c_proj.weight[rows]
        writers = writers + [f"decoder.self.{i}.{h}" for h in range(model.n_heads)]
        fixed = fixed + att.c_proj.bias
        x = norm(read(f"decoder.{i}.mlp_out", writers) + fixed, block.ln_2)
        u = x @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
        now[f"decoder.{i}.mlp_out"] = _gelu(u) @ block.mlp.c_proj.weight + block.mlp.c_proj.bias
        writers = [*writers, f"decoder.{i}.mlp_out"]
    return norm(read("decoder.logits", writers) + fixed, part.ln_f) @ model.module.lm_head.weight.T


def _t5(model: interp.Model, batch: interp.Batch, now: Written, read: Read, embedded: Written | None) -> Tensor:
    module: Any = model.module

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
    for stack in ("encoder", "decoder"):
        part = getattr(module, stack)
        length = batch.length(stack)  # type: ignore[arg-type]
        if stack == "decoder":
            encoder, writers = writers, []
        start = f"{stack}.0.resid_pre"
        now[start] = _start(module, batch, stack) if embedded is None else embedded[start]
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
    last = norm(read(f"decoder.{model.output.name}", writers), module.decoder.final_layer_norm)
    return model.unembed(last) if model.reads_tokens else _quantiles(module, batch, last)


def _start(module: Any, batch: Any, stack: str) -> Tensor:
    """What a stack begins with: embedded tokens, or embedded patches with [REG], and the decoder's start token."""
    if batch.has_tokens:
        return module.shared.weight[batch.input_ids if stack == "encoder" else batch.decoder_input_ids]
    rows, shared = len(batch.values), module.shared.weight
    if stack == "decoder":
        return shared[:1].expand(rows, 1, -1)
    size = module.chronos_config.input_patch_size
    mean, deviation = _scale(batch.values)
    scaled = ((batch.values - mean) / deviation).to(shared.dtype)
    patches = torch.nn.functional.pad(scaled, (-scaled.shape[1] % size, 0), value=torch.nan).unflatten(1, (-1, size))
    x = torch.cat([patches.nan_to_num(), (~patches.isnan()).to(patches)], -1)
    return torch.cat([_residual(x, module.input_patch_embedding), shared[1:].expand(rows, 1, -1)], 1)


def _quantiles(module: Any, batch: Any, last: Tensor) -> Tensor:
    mean, deviation = _scale(batch.values)
    read = _residual(last[:, 0], module.output_patch_embedding)
    return (read * deviation + mean).unflatten(1, (len(module.chronos_config.quantiles), -1))


def _scale(values: Tensor) -> tuple[Tensor, Tensor]:
    """In float32, as Chronos has it whatever the model's weights are in."""
    mean = values.nanmean(1, keepdim=True)
    return mean, (values - mean).square().nanmean(1, keepdim=True).sqrt()


def _residual(x: Tensor, mlp: Any) -> Tensor:
    """A patch embedding: an MLP, and a straight way around it."""
    u = x @ mlp.hidden_layer.weight.T + mlp.hidden_layer.bias
    hidden = u.relu() if isinstance(mlp.act, torch.nn.ReLU) else _gelu(u)
    straight = x @ mlp.residual_layer.weight.T + mlp.residual_layer.bias
    return hidden @ mlp.output_layer.weight.T + mlp.output_layer.bias + straight


def _mlp(x: Tensor, mlp: Any) -> Tensor:
    if hasattr(mlp, "wi"):
        return (x @ mlp.wi.weight.T).relu() @ mlp.wo.weight.T
    u = x @ mlp.wi_0.weight.T
    return (_gelu(u) * (x @ mlp.wi_1.weight.T)) @ mlp.wo.weight.T


def _gelu(u: Tensor) -> Tensor:
    return u * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3))) / 2
