"""Whether a batch fits a model: its stacks, its vocabulary and its longest sequence."""

from typing import TYPE_CHECKING, cast

from interp.errors import InvalidInput
from interp.inputs.batch import Batch
from interp.models.checks.states import check_loaded

if TYPE_CHECKING:
    from interp.models.model import Model


def check_fit(model: "Model", batch: Batch) -> None:
    """Hold a batch against a model, as `Model.check` says.

    Raises:
        InvalidInput: it does not fit.
        UnsupportedModel: weights on the meta device, with which nothing can be run.
    """
    if not isinstance(cast(object, batch), Batch):
        raise InvalidInput(
            f"a Batch is needed and {type(batch).__name__} was given: make it with interp.Batch(...), as "
            f"{'input_ids' if model.family.has_encoder else 'decoder_input_ids'}=ids, or with a stimulus."
        )
    if model.family.has_encoder and not batch.has_encoder:
        raise InvalidInput(f"{model.name} has an encoder, and the batch has no tokens for it: give input_ids.")
    if batch.has_encoder and not model.family.has_encoder:
        raise InvalidInput(
            f"{model.name} is a decoder-only {model.family.name} and has no encoder to read input_ids: give "
            "Batch(decoder_input_ids=...) alone; stimuli take encoder=False, and series Batch.from_series."
        )
    check_loaded(model)
    length, longest = batch.decoder_input_ids.shape[1], model.max_positions
    if longest is not None and length > longest:
        raise InvalidInput(f"a sequence of {length} tokens: {model.name} has {longest} positions.")
    for name, ids in (("input_ids", batch.input_ids), ("decoder_input_ids", batch.decoder_input_ids)):
        if ids.numel() and int(ids.max()) >= model.d_vocab:
            raise InvalidInput(
                f"{name} holds the token {int(ids.max())}: {model.name} has tokens 0-{model.d_vocab - 1}. Stimuli "
                "take vocab_range=(first, last)."
            )
    if model.tokens_are_values:
        model.vocabulary.check(batch, model.name)
