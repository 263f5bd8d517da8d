"""The shapes in public annotations hold: the functions run with jaxtyping's checks switched on."""

from typing import Any

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped
from transformers import AttentionInterface

import interp
import probes
from circuits.ablation.forecast_scores import bin_crps
from circuits.ablation.sampling import Ablated, Sampler, sampling, uniforms
from interp.editing import variants as folded
from interp.inputs.user_series import as_series
from interp.models.hooks import NAME, hooked_attention


def checked(function: Any) -> Any:
    return jaxtyped(function, typechecker=beartype)


def test_attention_in_a_whole_forward_and_in_generation(either: interp.Model, either_batch: interp.Batch) -> None:
    calls: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return checked(hooked_attention)(*args, **kwargs)

    AttentionInterface.register(NAME, counted)
    try:
        with torch.no_grad():
            either.module(**either.inputs(either_batch))
        either.pipeline.predict(torch.arange(12.0), prediction_length=3)
    finally:
        AttentionInterface.register(NAME, hooked_attention)
    # The encoder runs once in a prediction, the decoder at each step.
    once = len([at for at in either.layers() if at.stack == "encoder"])
    steps = len(either.layers()) - once
    assert len(calls) == once + steps + once + 3 * steps


def test_unembedding(either: interp.Model) -> None:
    unembed, width = checked(interp.Model.unembed), either.d_model
    with torch.no_grad():
        assert unembed(either, torch.zeros(2, 5, width)).shape == (2, 5, 4096)
        assert unembed(either, torch.zeros(width)).shape == (4096,)
        with pytest.raises(TypeCheckError):
            unembed(either, torch.zeros(2, width, dtype=torch.long))


def test_batches(either_batch: interp.Batch) -> None:
    for name in ("ids", "mask"):
        for stack in ("encoder", "decoder"):
            assert checked(getattr(interp.Batch, name))(either_batch, stack).ndim == 2
    for name, kind in interp.Batch.__annotations__.items():
        assert isinstance(getattr(either_batch, name), kind), name


def test_values_and_series(model: interp.Model) -> None:
    assert checked(probes.token_values)(model, torch.tensor([[5, 6], [7, 8]])).shape == (2, 2)
    assert checked(as_series)([1.0, 2.0]).shape == (1, 2)


def test_the_fields_of_stimuli() -> None:
    batch = probes.repeated_random_tokens(batch_size=3)
    fields = {name: kind for cls in type(batch).__mro__[:2] for name, kind in cls.__annotations__.items()}
    for name in ("input_ids", "attention_mask", "decoder_input_ids", "continuation"):
        assert isinstance(getattr(batch, name), fields[name]), name


def test_folded_runs(model: interp.Model, batch: interp.Batch) -> None:
    context = folded.encode(model, batch)
    ids = batch.decoder_input_ids[:, None].expand(-1, 3, -1)
    with torch.no_grad():
        assert checked(folded.decode)(model, context, ids).shape == (4, 3, 5, 20)
        x = torch.zeros(4, 2, 5, 20)
        assert checked(folded.resume)(model, context, x, 1, "cross", only=-1).shape == (4, 2, 1, 20)
        x = torch.zeros(4, 2, 9, 20)
        assert checked(folded.resume_encoder)(model, x, batch.attention_mask, 1).shape == (4, 2, 9, 20)
        with pytest.raises(TypeCheckError):
            checked(folded.resume)(model, context, x[:, 0])


def test_sampling_and_scores(model: interp.Model) -> None:
    uniform = checked(uniforms)(0, 2, 3, 4)
    assert uniform.shape == (2, 3, 4)
    draw = checked(Sampler.__call__)
    assert draw(Sampler(1.0, 5, 0.9, 4096), torch.randn(2, 3, 4096), uniform[..., 0]).shape == (2, 3)
    found = checked(bin_crps)(torch.randn(2, 3, 7), torch.arange(7.0), torch.zeros(2, 3))
    assert found.shape == (2, 3)
    batch = interp.Batch.from_series(model, torch.arange(20.0).reshape(2, 10))
    ablated = Ablated(model, [[], []], "zero", None)
    assert ablated.run(batch, checked(sampling)(model, uniform))[0].shape == (2, 2, 3, 4)
