"""What training needs to know of a Chronos-Bolt: how one is made, which heads join late."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, cast

from chronos import ChronosBoltConfig
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from torch import Tensor, nn
from transformers import T5Config

from interp.zoo.recipe import PATCH, PATCH_HORIZON, Recipe

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The levels of the quantiles, as in the published models."""


def bolt_config(context_length: int, horizon: int) -> ChronosBoltConfig:
    """Return the Chronos settings of a Chronos-Bolt: patches and levels as published, with [REG]."""
    return ChronosBoltConfig(context_length, horizon, PATCH, PATCH, list(LEVELS), use_reg_token=True)


def model_config(recipe: Recipe, horizon: int = PATCH_HORIZON) -> T5Config:
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
        chronos_config=asdict(bolt_config(recipe.longest_context, horizon)),
        chronos_pipeline_class="ChronosBoltPipeline",
        architectures=["ChronosBoltModelForForecasting"],
    )


def build(recipe: Recipe, horizon: int = PATCH_HORIZON) -> ChronosBoltModelForForecasting:
    """Build a Chronos-Bolt as drawn from the global seed, with eager attention, that forecasts `horizon` steps."""
    config = model_config(recipe, horizon)
    config._attn_implementation = "eager"
    model = ChronosBoltModelForForecasting(config)
    for block in (model.input_patch_embedding, model.output_patch_embedding):
        _draw(block, recipe)
    return model


def _draw(block: nn.Module, recipe: Recipe) -> None:
    """Draw the weights of a patch embedding with the deviations that Chronos names for them.

    Transformers draws every linear layer anew after Chronos has done so, with a deviation of 1. The patches would
    then enter the stream fifty times as large as what heads write.
    """
    deviations = {"hidden_layer": (2 * PATCH) ** -0.5, "residual_layer": (2 * PATCH) ** -0.5}
    deviations |= {"output_layer": recipe.d_ff**-0.5}
    for name, deviation in deviations.items():
        nn.init.normal_(cast(nn.Linear, block.get_submodule(name)).weight, std=deviation)


def late_heads(model: nn.Module, recipe: Recipe) -> Iterator[tuple[nn.Parameter, tuple[slice, slice]]]:
    """Return W_O of each of the encoder's layers, and its columns of the heads that join after the motifs."""
    late = slice(recipe.motif_heads * recipe.d_kv, None)
    for block in cast(ChronosBoltModelForForecasting, model).encoder.block:
        yield cast(nn.Parameter, block.get_submodule("layer.0.SelfAttention.o").weight), (slice(None), late)


def loss(model: nn.Module, context: Tensor, target: Tensor) -> Tensor:
    """Return the model's own loss as a mean over levels and steps, where it sums over the steps."""
    out = cast(ChronosBoltModelForForecasting, model)(context=context, target=target)
    return cast(Tensor, out.loss) / target.shape[1]
