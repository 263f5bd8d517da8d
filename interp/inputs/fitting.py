"""Hold a batch against a model, and turn it into the arguments of a forward pass."""

from typing import cast

from torch import Tensor

from interp.errors import InvalidInput
from interp.inputs.batch import Batch, ValueBatch
from interp.inputs.masks import positions_of
from interp.inputs.vocabulary import Vocabulary, vocabulary_of
from interp.models.checks.states import check_loaded
from interp.models.handle import Handle


def check_fit(model: Handle, batch: Batch) -> None:
    """Hold a batch against a model, as `Model.check` says.

    Raises:
        InvalidInput: it does not fit.
        MissingCapability: a batch of tokens for a model that reads values.
        UnsupportedModel: weights on the meta device, with which nothing can be run.
    """
    if not isinstance(cast(object, batch), Batch):
        raise InvalidInput(
            f"a Batch is needed and {type(batch).__name__} was given: make it with interp.Batch(...), as "
            f"{'input_ids' if model.has_encoder else 'decoder_input_ids'}=ids, or with a stimulus."
        )
    if isinstance(batch, ValueBatch):
        _check_values(model, batch)
        check_loaded(model)
        return
    model.require("tokens")
    if model.has_encoder and not batch.has_encoder:
        raise InvalidInput(f"{model.name} has an encoder, and the batch has no tokens for it: give input_ids.")
    if batch.has_encoder and not model.has_encoder:
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
        check_tokens(vocabulary_of(model), batch, model.name)


def _check_values(model: Handle, batch: ValueBatch) -> None:
    if model.reads_tokens:
        raise InvalidInput(
            f"{model.name} reads tokens, and the batch is of values: make it with interp.Batch.from_series(model, "
            "series), of this model."
        )
    if batch.patching != model.patching:
        raise InvalidInput(
            f"the batch is of {batch.patching}, and {model.name} reads {model.patching}: make it for this model, with "
            "interp.Batch.from_series(model, series)."
        )


def check_tokens(vocabulary: Vocabulary, batch: Batch, name: str) -> None:
    """Hold a batch against the meaning of a model's tokens. Masked tokens may be anything.

    Args:
        vocabulary: the meaning of the model's tokens.
        batch: a batch whose ids the model has.
        name: the name of the model.

    Raises:
        InvalidInput: a batch made for tokens of another meaning; a token beyond the tokenizer's; in the encoder a
            special token that is not EOS or padding here; or a decoder that begins with a special token that is
            not its start token.
    """
    if batch.vocabulary is not None and batch.vocabulary != vocabulary:
        raise InvalidInput(
            f"the batch is of other tokens than {name}'s. There {batch.vocabulary}; here {vocabulary}. Make it for "
            "this model: stimuli take model=, and series Batch.from_series(model, ...)."
        )
    begun = batch.decoder_input_ids[:, 0] if batch.has_encoder else None
    if begun is not None and bool(((begun != vocabulary.start) & (begun < vocabulary.n_special)).any()):
        raise InvalidInput(
            f"the decoder begins with the special token {int(begun[(begun != vocabulary.start).nonzero()[0, 0]])}: "
            f"{name}'s start token is {vocabulary.start}. Give decoder_input_ids that begin with it."
        )
    for stack in ("encoder", "decoder"):
        ids, seen = batch.ids(stack), batch.mask(stack).bool()
        wrong = seen & (ids >= vocabulary.n_tokens)
        if stack == "encoder":
            wrong |= seen & (ids < vocabulary.n_special) & (ids != vocabulary.pad) & (ids != vocabulary.eos)
        elif begun is not None:
            wrong[:, 0] &= begun != vocabulary.start
        if bool(wrong.any()):
            raise InvalidInput(
                f"the {stack} reads the token {int(ids[wrong][0])}, which stands for nothing in {name}: {vocabulary}."
            )


def inputs_of(model: Handle, batch: Batch) -> dict[str, Tensor]:
    """Return the keyword arguments of the model's forward, on its device.

    Raises:
        InvalidInput: the batch does not fit.
    """
    model.follow()
    check_fit(model, batch)
    named = {name: ids.to(model.device) for name, ids in batch.inputs.items()}
    if model.embeds_positions and not bool(batch.decoder_attention_mask.all()):
        named["position_ids"] = positions_of(named["attention_mask"])
    return named | model.family.arguments
