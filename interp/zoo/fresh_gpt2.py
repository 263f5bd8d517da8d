"""What training needs to know of a GPT-2: how one is made, which heads join late."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, cast

from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from interp.zoo.recipe import HORIZON, Recipe, chronos_config

INITIAL = 0.1
"""Standard deviation of the weights as drawn; with GPT-2's own 0.02 no induction head formed in 1,300 steps."""


def model_config(recipe: Recipe) -> GPT2Config:
    """Return the GPT-2 of a recipe, with a causal `chronos_config`, so that plain Chronos opens it.

    There is a position for every token of the longest context and its forecast, and none beyond:
    positions are learned, and one that no row reaches would stay as it was drawn.
    """
    chronos = replace(chronos_config(), model_type="causal", use_eos_token=False, context_length=recipe.longest_context)
    make: Any = GPT2Config
    return make(
        vocab_size=chronos.n_tokens,
        n_positions=recipe.longest_context + HORIZON,
        n_embd=recipe.d_model,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        n_inner=recipe.d_ff,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=INITIAL,
        tie_word_embeddings=True,
        pad_token_id=chronos.pad_token_id,
        eos_token_id=chronos.eos_token_id,
        bos_token_id=None,
        chronos_config=asdict(chronos),
        architectures=["GPT2LMHeadModel"],
    )


def build(recipe: Recipe) -> GPT2LMHeadModel:
    """Build a GPT-2 as drawn from the global seed, with eager attention."""
    config = model_config(recipe)
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # what it falls back to with a warning
    return model


def late_heads(model: nn.Module, recipe: Recipe) -> Iterator[tuple[nn.Parameter, tuple[slice, slice]]]:
    """Return W_O of each layer, and its rows (GPT-2 stores it transposed) of the heads that join after the motifs."""
    late = slice(recipe.motif_heads * recipe.d_kv, None)
    for block in cast(GPT2LMHeadModel, model).transformer.h:
        yield cast(nn.Parameter, block.get_submodule("attn.c_proj").weight), (late, slice(None))
