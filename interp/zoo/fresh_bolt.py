"""What training needs to know of a Chronos-Bolt: how one is made."""

from dataclasses import asdict
from typing import Any

from chronos import ChronosBoltConfig
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from transformers import T5Config

from interp.zoo.recipe import Recipe

PATCH = 16
"""Steps of a patch, as in the published models."""

HORIZON = 64
"""Steps of one forecast, as in the published models."""

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The levels of the quantiles, as in the published models."""


def bolt_config(context_length: int) -> ChronosBoltConfig:
    """Return the Chronos settings of a Chronos-Bolt: patches, horizon and levels as published, with [REG]."""
    return ChronosBoltConfig(context_length, HORIZON, PATCH, PATCH, list(LEVELS), use_reg_token=True)


def model_config(recipe: Recipe) -> T5Config:
    """Return the Chronos-Bolt of a recipe, with its `chronos_config`, so that plain Chronos opens it."""
    make: Any = T5Config
    return make(
        vocab_size=2,
        d_model=recipe.d_model,
        d_kv=recipe.d_kv,
        d_ff=recipe.d_ff,
        num_layers=recipe.layers,
        num_decoder_layers=recipe.layers,
        num_heads=recipe.heads,
        dropout_rate=0.0,
        initializer_factor=1.0,
        feed_forward_proj="relu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        chronos_config=asdict(bolt_config(recipe.longest_context)),
        chronos_pipeline_class="ChronosBoltPipeline",
        architectures=["ChronosBoltModelForForecasting"],
    )


def build(recipe: Recipe) -> ChronosBoltModelForForecasting:
    """Build a Chronos-Bolt as drawn from the global seed, with eager attention."""
    config = model_config(recipe)
    config._attn_implementation = "eager"
    return ChronosBoltModelForForecasting(config)
