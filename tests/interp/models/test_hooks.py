"""The hooked attention is eager attention, bit for bit, and what is edited is what is used."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from chronos import ChronosPipeline
from torch import Tensor, nn
from transformers import GPT2LMHeadModel
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.t5 import modeling_t5

import interp
from interp.inputs.forward_arguments import cache_name
from interp.models.checks.hook_points import check_hooks
from interp.models.hooks import NAME
from tests.conftest import fresh, masked_batch, tiny_causal_pipeline, tiny_gpt2, tiny_pipeline, without_heads
from tests.tolerance import FORWARD, close

pytestmark = pytest.mark.versions

SERIES = torch.sin(torch.arange(40.0) / 3) + 2


@pytest.fixture(params=["t5", "gpt2"])
def plain(request: pytest.FixtureRequest) -> ChronosPipeline:
    """A pipeline of each family that the toolkit has not touched."""
    return tiny_pipeline() if request.param == "t5" else tiny_causal_pipeline()


def tensors(output: Any) -> Iterator[tuple[str, Tensor]]:
    for name, value in output.items():
        yield from ((name, tensor) for tensor in (value if isinstance(value, tuple) else (value,)))


def same(one: Any, other: Any, least: int) -> None:
    """Whatever Hugging Face puts out, bit for bit."""
    pairs = [*zip(tensors(one), tensors(other), strict=True)]
    assert len(pairs) >= least
    for (name, a), (_, b) in pairs:
        assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_forward_is_bit_equal_to_eager(dtype: torch.dtype, either: interp.Model, either_batch: interp.Batch) -> None:
    pipeline = fresh(either, dtype=dtype)
    before = copy.deepcopy(pipeline.model.model)
    model = interp.wrap(pipeline)
    inputs = model.inputs(either_batch) | {"output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        found = model.module(**inputs)
        same(before(**inputs), found, 1 + 2 * sum(either.n_layers.values()))
    assert found.logits.dtype == dtype == model.dtype


@pytest.mark.parametrize("cache", [True, False])
def test_generation_is_bit_equal_to_eager(cache: bool, either: interp.Model, either_batch: interp.Batch) -> None:
    """With padding on the left, whose positions `generate` counts by itself."""
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "use_cache": cache, "output_attentions": True}
    options |= {"output_hidden_states": True, "output_logits": True, "return_dict_in_generate": True}
    first = {"input_ids": either_batch.inputs["input_ids"], "attention_mask": either_batch.inputs["attention_mask"]}
    found, wanted = (m.generate(**first, **options) for m in (either.module, fresh(either).model.model))
    assert torch.equal(found.sequences, wanted.sequences)
    assert all(torch.equal(a, b) for a, b in zip(found.logits, wanted.logits, strict=True))
    names = [name for name in wanted if name.endswith(("attentions", "hidden_states")) and "encoder_" not in name]
    assert names or either.has_encoder
    for name in names:
        for steps in zip(found[name], wanted[name], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True)), name


def test_positions_are_those_that_generate_counts(causal: interp.Model) -> None:
    """The forward that a padded batch stands for is the one in which `generate` reads its prompt."""
    batch = masked_batch(False)
    options: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False, "output_logits": True}
    made = causal.module.generate(**batch.inputs, **options, return_dict_in_generate=True)
    logits = interp.capture(causal, batch, "decoder.logits")["decoder.logits"]
    # One row of logits and fourteen are of matrices of other shapes, whose sums are added in another order.
    close(logits[:, -1], made.logits[0], terms=FORWARD)
    # A row without its padding is the same sequence.
    alone = interp.Batch(decoder_input_ids=batch.decoder_input_ids[1:2, 3:])
    shorter = interp.capture(causal, alone, "decoder.logits")["decoder.logits"]
    close(logits[1:2, 3:], shorter, terms=FORWARD)
    with torch.no_grad():
        uncounted = causal.module(**batch.inputs).logits
    assert not torch.allclose(uncounted[1, -1], logits[1, -1], atol=1e-2)


def test_forecasts_are_bit_equal_to_eager(plain: ChronosPipeline) -> None:
    forecasts: list[Tensor] = []
    for pipeline in (plain, interp.wrap(copy.deepcopy(plain)).pipeline):
        torch.manual_seed(5)
        forecasts.append(pipeline.predict([SERIES, SERIES[:9]]))
    assert torch.equal(*forecasts)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 8**-0.5),
        ({"n_inner": None}, 8**-0.5),
        ({"scale_attn_by_inverse_layer_idx": True}, 8**-0.5 / 3),
        ({"scale_attn_weights": False}, 1.0),
    ],
)
def test_variants_of_gpt2(changes: dict[str, Any], factor: float) -> None:
    """Hugging Face's own numbers, and the scaling of scores by hand too."""
    plain, batch = tiny_gpt2(**changes), masked_batch(False)
    model = interp.wrap(copy.deepcopy(plain))
    with torch.no_grad():
        same(*(m(**model.inputs(batch), output_attentions=True) for m in (plain, model.module)), least=4)
    c = interp.capture(model, batch, "decoder.self.2.*")
    q, k = (c[f"decoder.self.2.{name}"].transpose(1, 2) for name in "qk")
    scores = q @ k.transpose(-1, -2) * factor
    close(c["decoder.self.2.scores"][0].tril(), scores[0].tril())


@pytest.mark.parametrize("option", ["reorder_and_upcast_attn", "add_cross_attention"])
def test_variants_that_are_refused(option: str) -> None:
    with pytest.raises(interp.errors.UnsupportedModel, match=f"a gpt2 with {option}"):
        interp.wrap(tiny_gpt2(**{option: True}))


def test_the_state_dict_is_unchanged(plain: ChronosPipeline) -> None:
    names, module = list(plain.model.model.state_dict()), plain.model.model
    model = interp.wrap(plain)
    assert names == list(model.module.state_dict())
    assert model.pipeline.model.model is model.module is module


def test_wrapping_twice_is_harmless(plain: ChronosPipeline) -> None:
    first = interp.wrap(plain)
    modules, config = len(list(first.module.modules())), first.config
    second = interp.wrap(plain)
    assert len(list(second.module.modules())) == modules
    assert first.digest == second.digest
    assert second.config is config


def test_wrapping_leaves_no_hooks_and_no_randomness(plain: ChronosPipeline) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = interp.wrap(plain)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.module.modules())


def test_another_model_of_the_same_config_is_left_alone(plain: ChronosPipeline) -> None:
    """GPT-2's attention reads the model's own config, which two models made from one share."""
    config = plain.model.model.config
    config._attn_implementation = "sdpa"
    one, other = (type(plain.model.model)(config).eval() for _ in range(2))
    ids = torch.tensor([[5, 6, 7]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if config.is_encoder_decoder else {})
    with torch.no_grad():
        before = other(**inputs).logits
        plain.model.model = one
        assert interp.wrap(plain).config._attn_implementation == NAME
        assert torch.equal(other(**inputs).logits, before)
    assert config._attn_implementation == "sdpa"


def test_an_edited_pattern_is_used_at_every_generated_step(either: interp.Model) -> None:
    """Knocking a head's pattern out by hook equals zeroing its rows of W_O, with the cache too."""
    at = either.layers(".".join(either.family.context))[-1]
    other = interp.wrap(without_heads(either, f"{at}.1"))
    calls: list[torch.Size] = []

    def knock_out(_: Any, __: Any, pattern: Tensor) -> Tensor:
        calls.append(pattern.shape)
        edited = pattern.clone()
        edited[:, 1] = 0
        return edited

    def forecast(m: interp.Model) -> Tensor:
        torch.manual_seed(7)
        return m.pipeline.predict(SERIES, prediction_length=6, num_samples=3)

    clean = forecast(either)
    path = either.family.attention_path(at)
    handle = either.module.get_submodule(f"{path}.hook_pattern").register_forward_hook(knock_out)
    edited = forecast(either)
    handle.remove()
    assert len(calls) == 6
    assert torch.equal(edited, forecast(other))
    assert not torch.equal(edited, clean)
    assert torch.equal(clean, forecast(either))


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_opening_refuses_a_model_whose_hook_points_are_dead(
    plain: ChronosPipeline, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If transformers ignored the registered function, every hook would miss in silence."""
    monkeypatch.setattr("interp.models.hooks.NAME", name)
    with pytest.raises(interp.errors.BrokenHook, match=r"\.self\.0\.pattern is not reached"):
        interp.wrap(plain)


def test_a_model_that_was_set_to_another_attention_is_found_out(either: interp.Model) -> None:
    check_hooks(either)
    either.module.set_attn_implementation("sdpa")
    for path in either.family.stacks.values():
        either.module.get_submodule(path).config._attn_implementation = "sdpa"
    with pytest.raises(interp.errors.BrokenHook, match="was changed to 'sdpa'"):
        check_hooks(either)


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_opening_refuses_hook_points_that_are_read_only(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern that passes a module but is not the one used: edits would change nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    eager: Any = (modeling_t5 if family == "t5" else modeling_gpt2).eager_attention_forward

    def looks_on(module: Any, *args: Any, **kwargs: Any) -> Any:
        out, pattern = eager(module, *args, **kwargs)
        module.hook_scores(pattern)
        return out, module.hook_pattern(pattern)

    AttentionInterface.register("looks_on", looks_on)
    AttentionMaskInterface.register("looks_on", eager_mask)
    monkeypatch.setattr("interp.models.hooks.NAME", "looks_on")
    pipeline = tiny_pipeline() if family == "t5" else tiny_causal_pipeline()
    with pytest.raises(interp.errors.BrokenHook, match="edited without effect"):
        interp.wrap(pipeline)
    assert pipeline.model.model.config._attn_implementation == "eager"
    assert not [name for name, _ in pipeline.model.model.named_modules() if "hook_" in name]


def test_opening_refuses_a_stream_that_is_not_what_the_layer_goes_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's resid_mid is edited where the next norm takes it in; a layer that gave the norm a copy would lose it."""

    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs |= {cache_name(self.attn): args[0], "attention_mask": args[1]}
        middle = self.attn(self.ln_1(hidden_states), **kwargs)[0] + hidden_states
        return middle + self.mlp(self.ln_2(middle.clone() if copied else middle))

    monkeypatch.setattr(modeling_gpt2.GPT2Block, "forward", forward)
    copied = False
    interp.wrap(tiny_gpt2())
    copied = True
    with pytest.raises(interp.errors.BrokenHook, match=r"decoder\.0\.resid_mid can be edited without effect"):
        interp.wrap(tiny_gpt2())


def test_idle_heads_and_layers_are_accepted(plain: ChronosPipeline) -> None:
    module: nn.Module = plain.model.model
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith((".o.weight", ".v.weight")) or ".attn." in name or ".mlp." in name:
                weight.zero_()
    assert interp.wrap(plain).config._attn_implementation == NAME


def test_a_gpt2_by_itself_is_the_one_in_its_pipeline(causal: interp.Model) -> None:
    alone = interp.wrap(tiny_gpt2(), name="text")
    assert isinstance(alone.module, GPT2LMHeadModel)
    assert alone.digest == causal.digest
    batch = masked_batch(False)
    ours, theirs = (interp.capture(m, batch, "decoder.logits")["decoder.logits"] for m in (alone, causal))
    assert torch.equal(ours, theirs)
    with pytest.raises(interp.errors.UnsupportedModel, match="text has no chronos_config"):
        _ = alone.pipeline
