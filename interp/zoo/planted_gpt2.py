"""A decoder-only model planted by hand: a previous-token head and an induction head in one stack, known on paper.

The residual stream holds orthogonal subspaces of d_head dimensions, in a random basis that has no part along the
vector of ones, so that LayerNorm has no mean to take off: the token, the position, what the previous-token head
copies, and a spare one. Token embeddings are random directions of the first, positions one axis each of the second.

* `decoder.self.0.1` attends one position back, by the positions alone, and copies that token into the third subspace.
* `decoder.self.1.2` reads that in its keys: its queries find the position *after* an earlier occurrence of their
  token, and it writes the token that stands there.

All other heads are random, live and faint. Norms have random scales and shifts, which the planted weights and biases
undo. With R earlier occurrences the induction head pays 1/R to each, since it matches content alone.

Source: Olsson et al. 2022, "In-context Learning and Induction Heads"; Elhage et al. 2021 (K-composition).
"""

from dataclasses import asdict, replace
from typing import Any

import torch
from chronos import ChronosPipeline
from chronos.chronos import ChronosModel
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from interp.models.opening import wrap
from interp.names import Head
from interp.validate import whole
from interp.zoo.planted_t5 import FAINT, GAIN, SHARP, Planted
from interp.zoo.recipe import chronos_config

HEADS, D_HEAD, LAYERS, POSITIONS = 5, 128, 2, 128

PREVIOUS_TOKEN = Head("decoder", "self", 0, 1)
INDUCTION = Head("decoder", "self", 1, 2)

CIRCUIT = (
    f"decoder.0.resid_pre -> {PREVIOUS_TOKEN}:v",
    f"{PREVIOUS_TOKEN} -> {INDUCTION}:k",
    f"decoder.0.resid_pre -> {INDUCTION}:q",
    f"decoder.0.resid_pre -> {INDUCTION}:v",
    f"{INDUCTION} -> decoder.logits",
)
"""What was built. The previous-token head's queries and keys read positions alone: no input changes that, so it is no
edge here."""


def planted_decoder(*, wired: bool = True, seed: int = 0) -> Planted:
    """Make a causal Chronos model, a GPT-2, with an induction circuit of two heads written by hand.

    Args:
        wired: whether the induction head's keys read the subspace that the previous-token head writes to; if not, that
            head writes to a spare one, everything else being the same.
        seed: of embeddings, basis, norms and the other heads.

    Returns:
        The model, opened, with 128 positions; its edge `decoder.self.0.1 -> decoder.self.1.2:k`; and its circuit.

    Raises:
        InvalidInput: a seed that is no whole number of 0 or more.
    """
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    chronos = replace(chronos_config(), context_length=POSITIONS - 8, prediction_length=8, model_type="causal")
    config = GPT2Config(
        vocab_size=chronos.n_tokens,
        n_positions=POSITIONS,
        n_embd=HEADS * D_HEAD,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=8,
        bos_token_id=chronos.pad_token_id,
        eos_token_id=chronos.eos_token_id,
        pad_token_id=chronos.pad_token_id,
        tie_word_embeddings=False,
    )
    config.chronos_config = asdict(chronos)
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = GPT2LMHeadModel(config).eval()
        _plant(module, wired, generator)
    pipeline = ChronosPipeline(tokenizer=chronos.create_tokenizer(), model=ChronosModel(chronos, module))
    model = wrap(pipeline, name="planted-decoder")
    return Planted(model, CIRCUIT[1:2], CIRCUIT) if wired else Planted(model, (), ())


def _plant(module: GPT2LMHeadModel, wired: bool, generator: torch.Generator) -> None:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    d_model = HEADS * D_HEAD
    ones = torch.ones(d_model, 1)
    basis = torch.linalg.qr(torch.cat([ones, draw(d_model, 4 * D_HEAD)], 1)).Q[:, 1:]
    token, position, copied, spare = basis.split(D_HEAD, dim=1)
    for name, weight in module.named_parameters():
        if ".ln_1." in name or ".ln_2." in name:
            weight.copy_(draw(d_model).mul(0.3).exp() if name.endswith("weight") else 0.3 * draw(d_model))
        elif name.endswith("attn.c_proj.weight"):
            weight.copy_(draw(*weight.shape) * FAINT)
        elif name.endswith(("mlp.c_proj.weight", "bias")):
            weight.zero_()
        elif name.endswith("c_attn.weight"):
            weight.copy_(draw(*weight.shape) * d_model**-0.5)
    loud = d_model**0.5
    directions = nn.functional.normalize(draw(module.config.vocab_size, D_HEAD), dim=1)
    module.transformer.wte.weight.copy_(loud * directions @ token.T)
    module.lm_head.weight.copy_(directions @ token.T)
    module.transformer.wpe.weight.copy_(loud * position.T)
    # Queries are divided by sqrt(d_head), and two or three subspaces share what the norm lets through.
    sharp = SHARP / d_model * D_HEAD**0.5
    # A query at position p asks for the axis of p - 1.
    back = sharp * position.roll(-1, dims=1)
    _write(module, PREVIOUS_TOKEN, back, position, token, (copied if wired else spare).T)
    _write(module, INDUCTION, sharp * token, copied, token, GAIN * token.T)


def _write(module: GPT2LMHeadModel, head: Head, W_Q: Tensor, W_K: Tensor, W_V: Tensor, W_O: Tensor) -> None:
    """Write weights of one head as they act on the divided stream, with the norm's scale and shift undone."""
    block: Any = module.transformer.h[head.layer]
    scale, shift = block.ln_1.weight, block.ln_1.bias
    width = HEADS * D_HEAD
    for index, matrix in enumerate((W_Q, W_K, W_V)):
        columns = slice(index * width + head.head * D_HEAD, index * width + (head.head + 1) * D_HEAD)
        block.attn.c_attn.weight[:, columns] = matrix / scale[:, None]
        block.attn.c_attn.bias[columns] = -(shift / scale) @ matrix
    block.attn.c_proj.weight[head.head * D_HEAD : (head.head + 1) * D_HEAD] = W_O
