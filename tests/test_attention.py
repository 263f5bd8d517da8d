"""The hooked attention is eager attention, bit for bit, and what is edited is what is used."""

import copy
from typing import Any

import pytest
import torch
from chronos import ChronosPipeline
from transformers import T5ForConditionalGeneration

import interp
from interp.attention import NAME
from tests.conftest import tiny_pipeline

SERIES = torch.sin(torch.arange(40.0) / 3) + 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_forward_is_bit_equal_to_eager(dtype: torch.dtype, batch: interp.Batch) -> None:
    pipeline = tiny_pipeline(dtype=dtype)
    plain = copy.deepcopy(pipeline.model.model)
    model = interp.wrap(pipeline)
    with torch.no_grad():
        a = plain(**batch.inputs, output_attentions=True, output_hidden_states=True)
        b = model.module(**batch.inputs, output_attentions=True, output_hidden_states=True)
    assert torch.equal(a.logits, b.logits)
    for name in ("encoder_attentions", "decoder_attentions", "cross_attentions", "encoder_hidden_states"):
        assert all(torch.equal(x, y) for x, y in zip(a[name], b[name], strict=True)), name


def test_forecasts_are_bit_equal_to_eager() -> None:
    plain, wrapped = tiny_pipeline(), interp.wrap(tiny_pipeline()).pipeline
    forecasts: list[torch.Tensor] = []
    for pipeline in (plain, wrapped):
        torch.manual_seed(5)
        forecasts.append(pipeline.predict(SERIES))
    assert torch.equal(*forecasts)


def test_the_state_dict_is_unchanged(plain: T5ForConditionalGeneration, model: interp.Model) -> None:
    assert list(plain.state_dict()) == list(model.module.state_dict())
    assert model.pipeline.model.model is model.module


def test_wrapping_twice_is_harmless(pipeline: ChronosPipeline, batch: interp.Batch) -> None:
    first = interp.wrap(pipeline)
    modules = len(list(first.module.modules()))
    second = interp.wrap(pipeline)
    assert len(list(second.module.modules())) == modules
    assert first.digest == second.digest


def test_wrapping_leaves_no_hooks_and_no_randomness(pipeline: ChronosPipeline) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = interp.wrap(pipeline)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.module.modules())


def test_an_edited_pattern_is_used_at_every_generated_step(model: interp.Model) -> None:
    """Knocking a head's pattern out by hook equals zeroing its rows of W_O, with the cache too."""
    other = interp.wrap(tiny_pipeline())
    path = "decoder.block.1.layer.1.EncDecAttention"
    with torch.no_grad():
        other.module.get_submodule(path).o.weight[:, 8:16] = 0  # type: ignore[index]

    calls: list[torch.Size] = []

    def knock_out(_: Any, __: Any, pattern: torch.Tensor) -> torch.Tensor:
        calls.append(pattern.shape)
        edited = pattern.clone()
        edited[:, 1] = 0
        return edited

    def forecast(m: interp.Model) -> torch.Tensor:
        torch.manual_seed(7)
        return m.pipeline.predict(SERIES, prediction_length=6, num_samples=3)

    clean = forecast(model)
    handle = model.module.get_submodule(f"{path}.hook_pattern").register_forward_hook(knock_out)
    edited = forecast(model)
    handle.remove()
    assert len(calls) == 6
    assert torch.equal(edited, forecast(other))
    assert not torch.equal(edited, clean)
    assert torch.equal(clean, forecast(model))


def test_opening_refuses_a_model_whose_hook_points_are_dead(
    pipeline: ChronosPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If transformers ignored the registered function, every hook would miss in silence."""
    monkeypatch.setattr("interp.attention.NAME", "eager")
    with pytest.raises(interp.BrokenHook, match=r"encoder\.self\.0\.pattern is not reached"):
        interp.wrap(pipeline)


def test_opening_refuses_hook_points_that_are_read_only(
    pipeline: ChronosPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern that passes a module but is not the one used: edits would change nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask
    from transformers.models.t5.modeling_t5 import eager_attention_forward

    def looks_on(module: Any, *args: Any, **kwargs: Any) -> Any:
        out, pattern = eager_attention_forward(module, *args, **kwargs)
        module.hook_scores(pattern)
        return out, module.hook_pattern(pattern)

    AttentionInterface.register("looks_on", looks_on)
    AttentionMaskInterface.register("looks_on", eager_mask)
    monkeypatch.setattr("interp.attention.NAME", "looks_on")
    with pytest.raises(interp.BrokenHook, match="edited without effect"):
        interp.wrap(pipeline)
    assert pipeline.model.model.config._attn_implementation == "eager"
    assert not [name for name, _ in pipeline.model.model.named_modules() if "hook_" in name]


def test_idle_heads_and_layers_are_accepted(pipeline: ChronosPipeline) -> None:
    with torch.no_grad():
        for name, weight in pipeline.model.model.named_parameters():
            if name.endswith((".o.weight", ".v.weight")):
                weight.zero_()
    assert interp.wrap(pipeline).config._attn_implementation == NAME
