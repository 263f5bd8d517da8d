"""Chronos-Bolt as `ChronosBoltModelForForecasting`: the stacks of T5, which read patches of values and give quantiles.

1. The context is standardised by its own mean and deviation, and cut into patches.
2. A patch's values, and which of them there are, go through `input_patch_embedding` into the encoder; then [REG].
3. The decoder reads one start token. What it puts out goes through `output_patch_embedding`, and is the quantiles of
   all steps at once, in units of the context's deviation from its mean.

So the decoder's own attention looks from one position at that position: its patterns are 1 for every input. What its
first layer makes, and the query of the first cross-attention, are the same for every input too.

Source: chronos-forecasting, `chronos.chronos_bolt`; Ansari et al. 2024, "Chronos" (the models of T5 before it).
"""

from dataclasses import replace
from typing import Any

from chronos import ChronosBoltPipeline
from chronos.chronos_bolt import ChronosBoltConfig, ChronosBoltModelForForecasting
from torch import Tensor

from interp.errors import UnsupportedModel
from interp.inputs.patches import Patching
from interp.models.families.family import PatchReader
from interp.models.families.t5 import T5


def read_config(config: Any) -> None:
    """Read a config as Chronos does.

    Raises:
        TypeError, ValueError: Chronos cannot read it.
    """
    if not getattr(config, "architectures", None):
        raise ValueError("the config names no architectures, by which Chronos tells its models apart")
    chronos = ChronosBoltConfig(**config.chronos_config)
    for name in ("context_length", "prediction_length", "input_patch_size", "input_patch_stride"):
        if type(getattr(chronos, name)) is not int or getattr(chronos, name) < 1:
            raise ValueError(f"{name}={getattr(chronos, name)!r} must be a whole number from 1 on")


def patching(module: ChronosBoltModelForForecasting) -> Patching:
    """Return how a model cuts series into patches.

    Raises:
        UnsupportedModel: patches that overlap or leave steps out.
    """
    chronos = module.chronos_config
    if chronos.input_patch_stride != chronos.input_patch_size:
        raise UnsupportedModel(
            f"input_patch_stride={chronos.input_patch_stride} is not input_patch_size={chronos.input_patch_size}: a "
            "step would be of several patches or of none. Open a model whose patches lie side by side."
        )
    return Patching(chronos.input_patch_size, chronos.context_length, bool(chronos.use_reg_token))


def levels(module: ChronosBoltModelForForecasting) -> tuple[float, ...]:
    """Return the levels of the quantiles, in ascending order."""
    return tuple(map(float, module.chronos_config.quantiles))


def horizon(module: ChronosBoltModelForForecasting) -> int:
    """Return how many steps one forward pass forecasts."""
    return module.chronos_config.prediction_length


def quantiles(module: ChronosBoltModelForForecasting, ln_final: Tensor, context: Tensor) -> Tensor:
    """Return the quantiles `[row, quantile, step]` that a model makes of its last norm, in the context's units."""
    _, scale = module.instance_norm(context)
    read = module.output_patch_embedding(ln_final).reshape(len(ln_final), -1)
    return module.instance_norm.inverse(read, scale).unflatten(-1, (len(levels(module)), horizon(module)))


def encode(module: ChronosBoltModelForForecasting, context: Tensor) -> Tensor:
    """Run the encoder, and return its output."""
    return module.encode(context)[0]


def decode(module: ChronosBoltModelForForecasting, hidden: Tensor, context: Tensor) -> Tensor:
    """Run the decoder on the encoder's output, and return its last norm."""
    shown = patching(module).shown(context)
    # As the model's own mask is; of the embedded patches only their number is read.
    return module.decode(hidden, shown.to(hidden.dtype) if module.chronos_config.use_reg_token else shown, hidden)


CHRONOS_BOLT = replace(
    T5,
    name="Chronos-Bolt",
    architecture=ChronosBoltModelForForecasting,
    architectures=("ChronosBoltModelForForecasting",),
    pipeline=ChronosBoltPipeline,
    inside="model",
    settings="model.chronos_config",
    chronos_type=None,
    reads="values",
    puts_out="quantiles",
    returns="quantile_preds",
    arguments={},
    read_config=read_config,
    patches=PatchReader("instance_norm", patching, levels, horizon, quantiles, encode, decode),
    stack_points={
        ("encoder", "ln_final"): ("encoder.final_layer_norm", "stream", None),
        ("decoder", "ln_final"): ("decoder.final_layer_norm", "stream", None),
        # The forward's own output: no module holds the quantiles in the series' units.
        ("decoder", "quantiles"): ("", "quantiles", "quantile_preds"),
    },
    embeddings={"encoder": "input_patch_embedding", "decoder": "decoder.embed_tokens"},
    constants=(
        "decoder.0.resid_pre",
        "decoder.self.0.*",
        "decoder.self.*.pattern",
        "decoder.0.resid_mid",
        "decoder.cross.0.q",
    ),
    scales_unembedding=False,
    # Chronos ignores the head of the T5 that a model was trained from.
    ignored=(*T5.ignored, r"^lm_head\.weight$"),
)
