"""What goes wrong without an error, in other tools or by hand, does not here: one test each."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp import Batch, FreezePatterns, Mean, Zero
from interp.editing import check_unhooked

from .conftest import tiny_pipeline


@torch.no_grad()
def logits(model: interp.Model, batch: Batch) -> Tensor:
    return model.module(**model.inputs(batch)).logits


def test_heads_are_transposed_back(model: interp.Model, batch: Batch) -> None:
    """Ablating no head at all moves no logit, at the first position or any other."""
    clean = logits(model, batch)
    for nothing in ([], [interp.Scale(head, 1.0) for head in model.heads()]):
        with interp.edited(model, nothing):
            assert torch.equal(logits(model, batch), clean)


def test_the_same_ablation_twice_leaves_nothing_behind(model: interp.Model, batch: Batch) -> None:
    clean = logits(model, batch)
    with interp.ablate(model, "decoder.cross.1.0"):
        once = logits(model, batch)
        with interp.ablate(model, "decoder.cross.1.0"):
            assert torch.equal(logits(model, batch), once)
        assert torch.equal(logits(model, batch), once)
    assert torch.equal(logits(model, batch), clean)


@pytest.mark.parametrize("kind", ["decoder.self", "decoder.cross"])
def test_a_head_of_the_same_number_stays(model: interp.Model, batch: Batch, kind: str) -> None:
    sites = ["decoder.self.0.z", "decoder.cross.0.z", "encoder.self.0.z"]
    clean = interp.capture(model, batch, sites)
    with interp.ablate(model, f"{kind}.0.1"):
        found = interp.capture(model, batch, sites)
    assert not found[f"{kind}.0.z"][:, :, 1].any()
    assert torch.equal(found[f"{kind}.0.z"][:, :, 0], clean[f"{kind}.0.z"][:, :, 0])
    assert torch.equal(found["encoder.self.0.z"], clean["encoder.self.0.z"])
    if kind == "decoder.cross":
        assert torch.equal(found["decoder.self.0.z"], clean["decoder.self.0.z"])
    else:
        assert found["decoder.cross.0.z"][:, :, 1].abs().min() > 0


def test_a_mean_is_not_over_a_heads_own_features(model: interp.Model, batch: Batch) -> None:
    with interp.edited(model, Mean("decoder.cross.1.1", batch)):
        z = interp.capture(model, batch, "decoder.cross.1.z")["decoder.cross.1.z"][:, :, 1]
    assert z.std(-1).min() > 0
    torch.testing.assert_close(z.std((0, 1)), torch.zeros(8), atol=1e-6, rtol=0)


def test_the_stack_is_read(model: interp.Model, batch: Batch) -> None:
    found: dict[str, Tensor] = {}
    for head in ("encoder.self.0.1", "decoder.self.0.1", "decoder.cross.0.1"):
        with interp.ablate(model, head):
            found[head] = logits(model, batch)
    values = [*found.values(), logits(model, batch)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(values) for b in values[:i])


def test_edited_patterns_are_the_ones_used(model: interp.Model, batch: Batch) -> None:
    """What `output_attentions` returns is edited too, and editing it changes what the heads put out."""
    with interp.edited(model, Zero("decoder.cross.1.pattern")):
        edited = logits(model, batch)
        out = model.module(**model.inputs(batch), output_attentions=True)
    assert not out.cross_attentions[1].any()
    assert out.cross_attentions[0].any()
    with interp.ablate(model, "decoder.cross.1"):
        assert torch.equal(edited, logits(model, batch))


def test_every_generated_step_is_edited(model: interp.Model, batch: Batch) -> None:
    seen: list[tuple[str, bool]] = []
    names = ("decoder.block.1.layer.1.EncDecAttention.o", "encoder.block.0.layer.0.SelfAttention.o")
    modules = {name: model.module.get_submodule(name) for name in names}

    def watch(name: str) -> Any:
        def look(_: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.append((name, bool(args[0][..., 16:].any())))

        return look

    with interp.ablate(model, ["decoder.cross.1.2", "encoder.self.0.2"]):
        handles = [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()]
        try:
            model.pipeline.predict(torch.arange(12.0), prediction_length=5)
        finally:
            for handle in handles:
                handle.remove()
    assert [name.split(".")[0] for name, _ in seen] == ["encoder", *["decoder"] * 5]
    assert not any(alive for _, alive in seen)


def test_keys_and_values_of_the_first_step_serve_all(model: interp.Model, batch: Batch) -> None:
    """Cross-attention's k and v are made once in generation; an edit of them reaches every step."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "max_new_tokens": 5}
    options: dict[str, Any] = {"do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    with interp.edited(model, Zero("decoder.cross.0.v")):
        cached = model.module.generate(**inputs, **options, use_cache=True)
        whole = model.module.generate(**inputs, **options, use_cache=False)
    torch.testing.assert_close(torch.stack(cached.scores), torch.stack(whole.scores), atol=1e-5, rtol=1e-4)


def test_encoder_edits_reach_generation(model: interp.Model, batch: Batch) -> None:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "max_new_tokens": 5}
    options: dict[str, Any] = {"do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    clean = torch.stack(model.module.generate(**inputs, **options).scores)
    with interp.ablate(model, "encoder.self.1"):
        edited = torch.stack(model.module.generate(**inputs, **options).scores)
    moved = (clean != edited).flatten(1).any(1)
    assert moved.all()


def test_what_was_captured_is_not_changed_by_later_edits(model: interp.Model, batch: Batch) -> None:
    cache = interp.capture(model, batch, "*.*.*.z")
    kept = {site: value.clone() for site, value in cache.items()}
    with interp.ablate(model, model.heads()):
        logits(model, batch)
    assert all(torch.equal(cache[site], kept[site]) for site in kept)


def test_references_are_not_changed_by_the_run(model: interp.Model, batch: Batch) -> None:
    with interp.edited(model, [interp.Resample("decoder.cross.1", batch), interp.Add("decoder.cross.1.0", 1.0)]):
        first = logits(model, batch)
        assert torch.equal(first, logits(model, batch))


def test_a_site_is_read_as_the_model_uses_it(model: interp.Model, batch: Batch) -> None:
    """nnsight serves an output as it was before a hook; `capture` gives what flows on."""
    with interp.edited(model, Zero("decoder.0.mlp_out")):
        cache = interp.capture(model, batch, ["decoder.0.mlp_out", "decoder.0.resid_post", "decoder.0.resid_mid_cross"])
    assert not cache["decoder.0.mlp_out"].any()
    assert torch.equal(cache["decoder.0.resid_post"], cache["decoder.0.resid_mid_cross"])


def test_a_trace_sees_what_follows_an_edited_output(model: interp.Model, batch: Batch) -> None:
    """The one thing nnsight serves unedited is the edited output itself; what follows is edited."""
    with interp.edited(model, Zero("decoder.0.mlp_out")), torch.no_grad():
        wanted = model.module(**model.inputs(batch)).logits
        with model.nnsight.trace(**model.inputs(batch)):
            served = model.envoy("decoder.block.0.layer.2.DenseReluDense").output.save()
            found = model.nnsight.output.logits.save()
    assert served.any()
    assert torch.equal(found, wanted)


def test_the_original_pipeline_under_sdpa_is_not_what_is_edited(batch: Batch) -> None:
    """Under sdpa patterns do not exist; the hooked attention is put in its place on opening."""
    pipeline = tiny_pipeline()
    pipeline.model.model.set_attn_implementation("sdpa")
    model = interp.wrap(pipeline)
    clean = logits(model, batch)
    with interp.edited(model, Zero("encoder.self.0.pattern")):
        assert not torch.allclose(logits(model, batch), clean)


def test_a_copied_model_carries_no_edit(model: interp.Model, batch: Batch) -> None:
    clean = logits(model, batch)
    with interp.ablate(model, "decoder.cross.1"):
        copied = copy.deepcopy(model.module)
        assert not torch.allclose(logits(model, batch), clean)
    with torch.no_grad():
        assert torch.equal(model.module(**model.inputs(batch)).logits, clean)
        assert torch.equal(copied(**model.inputs(batch)).logits, clean)
    pipeline = tiny_pipeline()
    pipeline.model.model = copied
    again = interp.wrap(pipeline)
    check_unhooked(again, "this")
    with interp.ablate(again, "decoder.cross.1"):
        assert not torch.allclose(logits(again, batch), clean)
    with interp.edited(model, FreezePatterns(batch)):
        logits(model, batch)
        thawed = copy.deepcopy(model.module)
    with torch.no_grad():
        thawed(input_ids=batch.input_ids + 1, decoder_input_ids=batch.decoder_input_ids)


def test_frozen_patterns_do_not_follow_other_tokens(model: interp.Model, batch: Batch) -> None:
    shorter = Batch(batch.input_ids, batch.attention_mask, batch.decoder_input_ids[:, :3])
    with pytest.raises(interp.InvalidInput, match="frozen"), interp.edited(model, FreezePatterns(batch)):
        logits(model, shorter)
