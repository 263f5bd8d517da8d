"""What training needs to know of a T5: how one is made, which heads join late, what is watched."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from interp.inputs.vocabulary import PUBLISHED_START
from interp.zoo.recipe import Recipe, chronos_config


def model_config(recipe: Recipe) -> T5Config:
    """Return the T5 of a recipe, with its `chronos_config`, so that plain Chronos opens it."""
    make: Any = T5Config
    chronos = chronos_config()
    return make(
        vocab_size=chronos.n_tokens,
        d_model=recipe.d_model,
        d_kv=recipe.d_kv,
        d_ff=recipe.d_ff,
        num_layers=recipe.layers,
        num_decoder_layers=recipe.layers,
        num_heads=recipe.heads,
        dropout_rate=0.0,
        initializer_factor=1.0,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        pad_token_id=chronos.pad_token_id,
        eos_token_id=chronos.eos_token_id,
        decoder_start_token_id=PUBLISHED_START,
        n_positions=chronos.context_length,
        chronos_config=asdict(chronos),
        architectures=["T5ForConditionalGeneration"],
    )


def build(recipe: Recipe) -> T5ForConditionalGeneration:
    """Build a T5 as drawn from the global seed, with eager attention and its routes laid."""
    config = model_config(recipe)
    config._attn_implementation = "eager"
    model = T5ForConditionalGeneration(config)
    lay_routes(model, recipe)
    return model


def late_heads(model: nn.Module, recipe: Recipe) -> Iterator[tuple[nn.Parameter, tuple[slice, slice]]]:
    """Return W_O of each cross-attention layer, and its columns of the heads that join after the motifs."""
    late = slice(recipe.motif_heads * recipe.d_kv, None)
    for block in cast(T5ForConditionalGeneration, model).decoder.block:
        yield cast(nn.Parameter, block.get_submodule("layer.1.EncDecAttention.o").weight), (slice(None), late)


def lay_routes(model: T5ForConditionalGeneration, recipe: Recipe) -> None:
    """Start some encoder heads as next- and previous-token heads, by the position bias of one step."""
    attention = model.encoder.block.get_submodule("0.layer.0.SelfAttention")
    bias = cast(nn.Embedding, attention.relative_attention_bias).weight
    ahead, back = T5Attention._relative_position_bucket(torch.tensor([1, -1])).tolist()
    with torch.no_grad():
        bias[ahead, : recipe.next_token_heads] = 4.0
        bias[back, recipe.heads - recipe.previous_token_heads :] = 4.0
