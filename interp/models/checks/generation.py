"""The check on opening that generation with a cache is followed: is the second step known to be the second?

1. The arguments of the stacks that edits read go by the names that the installed release gives them.
2. A prompt runs with the cache on, and one more step with the cache that came out of it. An edit of that step's
   position has to act.

A release of transformers that hands its cache on by another name would otherwise make every step count as the first,
and edits by position take the wrong one, in silence.
"""

from typing import TYPE_CHECKING, Any

import torch

from interp.editing.context import edited
from interp.editing.knockouts import Knockout
from interp.errors import BrokenHook, InertEdit, InterpError, UnsupportedModel, release
from interp.inputs.batch import Batch
from interp.inputs.forward_arguments import cache_name, names_of
from interp.models.checks.states import evaluated
from interp.names import Stack

if TYPE_CHECKING:
    from interp.models.model import Model

READ: dict[Stack, tuple[str, ...]] = {
    "encoder": ("input_ids", "inputs_embeds", "attention_mask"),
    "decoder": ("input_ids", "inputs_embeds", "attention_mask"),
}
"""The arguments that `interp.editing.running.Run` reads of the calls of each stack, beside the cache."""

PROMPT = 2
"""Decoder tokens of the first step."""


def check_generation(model: "Model") -> None:
    """Run a prompt and one step with the cache, and see that edits know which step is which.

    A model whose decoder reads one position generates nothing: of it the arguments alone are checked.

    Args:
        model: the handle, its hook points live. It is left as it was.

    Raises:
        BrokenHook: the installed release of transformers names arguments otherwise, or an edit of the second step
            does not act there.
        UnsupportedModel: the model's own two steps with the cache fail.
    """
    for stack, path in model.family.stacks.items():
        missing = set(READ[stack]) - set(names_of(model.module.get_submodule(path)))
        if stack == "decoder" and model.has_encoder:
            missing |= {"encoder_hidden_states"} - set(names_of(model.module.get_submodule(path)))
        if missing:
            raise BrokenHook(
                f"{model.name}: the {stack} takes no {', '.join(sorted(missing))}, by which edits know what runs: "
                f"{release('transformers')} is not supported. Install another release of it."
            )
    if not model.reads_tokens:
        return
    tokens = torch.tensor([[5, 6, 7], [9, 5, 9]]) % model.d_vocab
    encoder: dict[str, Any] = {"input_ids": tokens} if model.has_encoder else {}
    batch = Batch(**encoder, decoder_input_ids=tokens)
    # The second step's only position is the third of the sequence.
    edit = Knockout(model.heads("decoder.self")[0], query=PROMPT, key=0, renormalise=False)
    try:
        with torch.no_grad(), evaluated(model), edited(model, edit):
            _two_steps(model, batch)
    except InertEdit:
        raise BrokenHook(
            f"{model.name}: in generation with the cache the second step is not known to be the second, so edits by "
            f"position would be wrong: {release('transformers')} is not supported. Install another release of it."
        ) from None
    except InterpError:
        raise
    except Exception as error:
        raise UnsupportedModel(
            f"{model.name}: its own two steps with the cache fail with {type(error).__name__}: {error}. A stack with "
            "more layers than its config says, or layers that share a place in the cache, are such."
        ) from error


def _two_steps(model: "Model", batch: Batch) -> None:
    """Run a prompt and one step more with its cache, through the model's own forward."""
    name = cache_name(model.module.get_submodule(model.family.stacks["decoder"]))
    inputs: dict[str, Any] = model.inputs(batch)
    ids = "decoder_input_ids" if model.has_encoder else "input_ids"
    tokens = inputs[ids]
    inputs |= {ids: tokens[:, :PROMPT], "use_cache": True}
    if not model.has_encoder:
        inputs["attention_mask"] = inputs["attention_mask"][:, :PROMPT]
    first = model.module(**inputs)
    inputs |= {ids: tokens[:, PROMPT:], name: getattr(first, name)}
    if model.has_encoder:
        del inputs["input_ids"]
        inputs["encoder_outputs"] = (first.encoder_last_hidden_state,)
    else:
        inputs["attention_mask"] = torch.ones_like(tokens)
    model.module(**inputs)
