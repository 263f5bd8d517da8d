"""Forecasts under edits of any kind, step by step, on the same random numbers as those of ablated heads.

1. The truth is read in one teacher-forced forward pass under the edits.
2. Samples are drawn token by token, each step a forward of the whole model with its cache. An encoder runs once.

Folded runs of many ablations at once (`sampling`) are faster, and can only ablate.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from circuits.ablation.sampling import Sampler
from interp import Batch, Model, capture
from interp.editing.context import edited
from interp.editing.edit import Edit
from interp.editing.edits import FreezePatterns, Resample
from interp.errors import InvalidInput
from interp.inputs.forward_arguments import cache_name
from interp.inputs.masks import positions_of
from interp.models.checks.states import evaluated


def check_edits(name: str, edits: Sequence[Edit]) -> None:
    """Check that edits make sense in a forecast.

    Raises:
        InvalidInput: values of another input, row by row: sampled tokens part ways from it.
    """
    for edit in edits:
        if isinstance(edit, Resample | FreezePatterns):
            raise InvalidInput(
                f"{name!r}: {edit} takes values of another input row by row, and sampled tokens part ways from it. "
                "Use Mean, or interp.edited around model.pipeline.predict."
            )


@torch.no_grad()
def edited_run(
    model: Model,
    edits: Sequence[Edit],
    prompt: Batch,
    ids: Int[Tensor, "series step"],
    uniform: Float[Tensor, "series sample step"],
    judge: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Int[Tensor, "series sample step"]]:
    """Read the truth and sample a forecast while edits are in force.

    Args:
        prompt: what the series are read as.
        ids: the prompt's last token, and the tokens after it.
        uniform: one number for each token that is drawn.
        judge: a function from logits `[series, 1, step, token]` to what is kept of them.

    Returns:
        What `judge` returned, and the tokens.

    Raises:
        InertEdit: an edit that reached nothing.
    """
    own = torch.cat([prompt.decoder_input_ids, ids[:, 1:]], 1)
    shown = torch.cat([prompt.decoder_attention_mask, torch.ones_like(ids[:, 1:])], 1)
    truth = Batch(prompt.input_ids, prompt.attention_mask, own, None if prompt.has_encoder else shown)  # type: ignore[arg-type]
    with edited(model, edits):
        logits = capture(model, truth, "decoder.logits")["decoder.logits"][:, None, -ids.shape[1] :]
        return judge(logits), _sampled(model, prompt, uniform.to(model.device))


def _sampled(model: Model, prompt: Batch, uniform: Tensor) -> Tensor:
    series, samples, steps = uniform.shape
    sampler, module = Sampler.of(model), model.module
    once = model.inputs(prompt) | {"use_cache": True}
    inputs: dict[str, Any] = {
        name: value.repeat_interleave(samples, 0) if isinstance(value, Tensor) else value
        for name, value in once.items()
    }
    inputs[cache_name(module)] = (
        EncoderDecoderCache(DynamicCache(), DynamicCache()) if prompt.has_encoder else DynamicCache()
    )
    drawn: list[Tensor] = []
    with evaluated(model):
        if prompt.has_encoder:
            # Samples of a series stand side by side, as in `generate`: edits know them as one input.
            encoder: Any = module.encoder
            hidden = encoder(input_ids=once["input_ids"], attention_mask=once["attention_mask"])[0]
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=hidden.repeat_interleave(samples, 0))
            del inputs["input_ids"]
        for step in range(steps):
            token = sampler(module(**inputs).logits[:, -1], uniform[:, :, step].reshape(-1))[:, None]
            drawn.append(token)
            if prompt.has_encoder:
                inputs["decoder_input_ids"] = token
            else:
                mask = inputs["attention_mask"]
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
                inputs |= {"input_ids": token, "attention_mask": mask, "position_ids": positions_of(mask)[:, -1:]}
    return torch.cat(drawn, 1).reshape(series, samples, steps)
