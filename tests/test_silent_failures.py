"""What goes wrong without an error, in other tools or by hand, does not here: one test each."""

import copy
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp import Batch, FreezePatterns, Mean, Zero
from interp.editing.context import check_unhooked
from tests.conftest import context, first_stack, fresh, masked_batch, tiny_causal_pipeline, tiny_pipeline
from tests.tolerance import FORWARD, close, not_close


@torch.no_grad()
def logits(model: interp.Model, batch: Batch) -> Tensor:
    return model.module(**model.inputs(batch)).logits


def test_heads_are_transposed_back(either: interp.Model, either_batch: Batch) -> None:
    """Ablating no head at all moves no logit, at the first position or any other."""
    clean = logits(either, either_batch)
    for nothing in ([], [interp.Scale(head, 1.0) for head in either.heads()]):
        with interp.edited(either, nothing):
            assert torch.equal(logits(either, either_batch), clean)


def test_the_same_ablation_twice_leaves_nothing_behind(either: interp.Model, either_batch: Batch) -> None:
    clean = logits(either, either_batch)
    with interp.ablate(either, f"{context(either)}.0"):
        once = logits(either, either_batch)
        with interp.ablate(either, f"{context(either)}.0"):
            assert torch.equal(logits(either, either_batch), once)
        assert torch.equal(logits(either, either_batch), once)
    assert torch.equal(logits(either, either_batch), clean)


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


def test_a_mean_is_not_over_a_heads_own_features(either: interp.Model, either_batch: Batch) -> None:
    site = f"{context(either)}.z"
    with interp.edited(either, Mean(f"{context(either)}.1", either_batch)):
        z = interp.capture(either, either_batch, site)[site][:, :, 1]
    assert z.std(-1).min() > 0
    close(z.std((0, 1)), torch.zeros(8), of=1)


def test_the_stack_is_read(model: interp.Model, batch: Batch) -> None:
    found: dict[str, Tensor] = {}
    for head in ("encoder.self.0.1", "decoder.self.0.1", "decoder.cross.0.1"):
        with interp.ablate(model, head):
            found[head] = logits(model, batch)
    values = [*found.values(), logits(model, batch)]
    for one, other in combinations(values, 2):
        not_close(one, other)


def test_edited_patterns_are_the_ones_used(either: interp.Model, either_batch: Batch) -> None:
    """What `output_attentions` returns is edited too, and editing it changes what the heads put out."""
    with interp.edited(either, Zero(f"{context(either)}.pattern")):
        edited = logits(either, either_batch)
        out = either.module(**either.inputs(either_batch), output_attentions=True)
    patterns = out.cross_attentions if either.has_encoder else out.attentions
    assert not patterns[1].any()
    assert patterns[0].any()
    with interp.ablate(either, context(either)):
        assert torch.equal(edited, logits(either, either_batch))


def test_every_generated_step_is_edited(either: interp.Model) -> None:
    seen: list[tuple[str, bool]] = []
    heads = [interp.Head.parse(f"{at}.2") for at in dict.fromkeys((f"{first_stack(either)}.self.0", context(either)))]
    modules = {head: either.module.get_submodule(either.family.point(head.site("z")).path) for head in heads}

    def watch(name: str) -> Any:
        def look(_: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.append((name, bool(args[0][..., 16:].any())))

        return look

    with interp.ablate(either, heads):
        handles = [module.register_forward_pre_hook(watch(head.stack)) for head, module in modules.items()]
        try:
            either.pipeline.predict(torch.arange(12.0), prediction_length=5)
        finally:
            for handle in handles:
                handle.remove()
    steps = ["encoder", *["decoder"] * 5] if either.has_encoder else ["decoder"] * 10
    assert [stack for stack, _ in seen] == steps
    assert not any(alive for _, alive in seen)


def test_keys_and_values_of_the_first_step_serve_all(model: interp.Model, batch: Batch) -> None:
    """Cross-attention's k and v are made once in generation; an edit of them reaches every step."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "max_new_tokens": 5}
    options: dict[str, Any] = {"do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    with interp.edited(model, Zero("decoder.cross.0.v")):
        cached = model.module.generate(**inputs, **options, use_cache=True)
        whole = model.module.generate(**inputs, **options, use_cache=False)
    close(torch.stack(cached.scores), torch.stack(whole.scores), terms=FORWARD)


def test_encoder_edits_reach_generation(model: interp.Model, batch: Batch) -> None:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "max_new_tokens": 5}
    options: dict[str, Any] = {"do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    clean = torch.stack(model.module.generate(**inputs, **options).scores)
    with interp.ablate(model, "encoder.self.1"):
        edited = torch.stack(model.module.generate(**inputs, **options).scores)
    moved = (clean != edited).flatten(1).any(1)
    assert moved.all()


def test_what_was_captured_is_not_changed_by_later_edits(either: interp.Model, either_batch: Batch) -> None:
    cache = interp.capture(either, either_batch, "*.*.*.z")
    kept = {site: value.clone() for site, value in cache.items()}
    with interp.ablate(either, either.heads()):
        logits(either, either_batch)
    assert all(torch.equal(cache[site], kept[site]) for site in kept)


def test_references_are_not_changed_by_the_run(either: interp.Model, either_batch: Batch) -> None:
    at = context(either)
    with interp.edited(either, [interp.Resample(at, either_batch), interp.Add(f"{at}.0", 1.0)]):
        first = logits(either, either_batch)
        assert torch.equal(first, logits(either, either_batch))


def test_a_site_is_read_as_the_model_uses_it(either: interp.Model, either_batch: Batch) -> None:
    """nnsight serves an output as it was before a hook; `capture` gives what flows on."""
    with interp.edited(either, Zero("decoder.0.mlp_out")):
        cache = interp.capture(either, either_batch, "decoder.0.*")
    assert not cache["decoder.0.mlp_out"].any()
    middle = "resid_mid_cross" if either.has_encoder else "resid_mid"
    assert torch.equal(cache["decoder.0.resid_post"], cache[f"decoder.0.{middle}"])


def test_a_trace_sees_what_follows_an_edited_output(either: interp.Model, either_batch: Batch) -> None:
    """The one thing nnsight serves unedited is the edited output itself; what follows is edited."""
    with interp.edited(either, Zero("decoder.0.mlp_out")), torch.no_grad():
        wanted = either.module(**either.inputs(either_batch)).logits
        with either.nnsight.trace(**either.inputs(either_batch)):
            served = either.envoy(either.family.layer_points["decoder", "mlp_out"][0].format(layer=0)).output.save()
            found = either.nnsight.output.logits.save()
    assert served.any()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_causal_pipeline])
def test_the_original_pipeline_under_sdpa_is_not_what_is_edited(make: Any) -> None:
    """Under sdpa patterns do not exist; the hooked attention is put in its place on opening."""
    pipeline = make()
    pipeline.model.model.set_attn_implementation("sdpa")
    model = interp.wrap(pipeline)
    batch = masked_batch(model.has_encoder)
    clean = logits(model, batch)
    with interp.edited(model, Zero(f"{first_stack(model)}.self.0.pattern")):
        not_close(logits(model, batch), clean)


def test_a_copied_model_carries_no_edit(either: interp.Model, either_batch: Batch) -> None:
    clean = logits(either, either_batch)
    with interp.ablate(either, [context(either), "decoder.0.resid_mid"]):
        copied = copy.deepcopy(either.module)
        not_close(logits(either, either_batch), clean)
    with torch.no_grad():
        assert torch.equal(either.module(**either.inputs(either_batch)).logits, clean)
        assert torch.equal(copied(**either.inputs(either_batch)).logits, clean)
    pipeline = fresh(either)
    pipeline.model.model = copied
    again = interp.wrap(pipeline)
    check_unhooked(again, "this")
    with interp.ablate(again, [context(again), "decoder.0.resid_mid"]):
        not_close(logits(again, either_batch), clean)
    with interp.edited(either, FreezePatterns(either_batch)):
        logits(either, either_batch)
        thawed = copy.deepcopy(either.module)
    with torch.no_grad():
        inputs = either.inputs(either_batch)
        thawed(**inputs | {"input_ids": inputs["input_ids"] + 1})


def test_frozen_patterns_do_not_follow_other_tokens(either: interp.Model, either_batch: Batch) -> None:
    ids, encoder = either_batch.decoder_input_ids[:, :-2], either_batch.input_ids
    shorter = Batch(encoder if either.has_encoder else None, either_batch.attention_mask, ids)
    with pytest.raises(interp.errors.InvalidInput, match="frozen"), interp.edited(either, FreezePatterns(either_batch)):
        logits(either, shorter)


def test_heads_are_permuted_with_their_weights(either: interp.Model, either_batch: Batch) -> None:
    """Heads that change places in the weights change places in what is read, and in what is ablated."""
    order = torch.tensor([2, 0, 1])
    at = next(at for at in either.layers() if str(at) == context(either))
    pipeline = fresh(either)
    module: Any = pipeline.model.model
    attention = module.get_submodule(either.family.attention_path(at))

    def permuted(weight: Tensor, heads: int) -> Tensor:
        """The rows of a matrix, by head: of several projections one below the other, each by itself."""
        return weight.unflatten(0, (heads, 3, 8))[:, order].flatten(0, 2)

    with torch.no_grad():
        if either.has_encoder:
            for name in "qkv":
                weight = attention.get_parameter(f"{name}.weight")
                weight.copy_(permuted(weight, 1))
            attention.o.weight.copy_(permuted(attention.o.weight.T, 1).T)
        else:
            attention.c_attn.weight.copy_(permuted(attention.c_attn.weight.T, 3).T)
            attention.c_attn.bias.copy_(permuted(attention.c_attn.bias, 3))
            attention.c_proj.weight.copy_(permuted(attention.c_proj.weight, 1))
    other = interp.wrap(pipeline)
    assert other.digest != either.digest
    close(logits(other, either_batch), logits(either, either_batch), terms=FORWARD)
    ours, theirs = (interp.capture(m, either_batch, f"{at}.*") for m in (either, other))
    for name in ("scores", "pattern"):
        torch.testing.assert_close(theirs[f"{at}.{name}"], ours[f"{at}.{name}"][:, order], atol=1e-4, rtol=1e-4)
    for name in ("q", "k", "v", "z", "head_out"):
        torch.testing.assert_close(theirs[f"{at}.{name}"], ours[f"{at}.{name}"][:, :, order], atol=1e-4, rtol=1e-4)
    for place, head in enumerate(order.tolist()):
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_V"):
            mine, its = (getattr(m.weights(f"{at}.{h}"), name) for m, h in ((either, head), (other, place)))
            close(mine, its)
        with interp.ablate(either, f"{at}.{head}"), interp.ablate(other, f"{at}.{place}"):
            ablated = logits(either, either_batch), logits(other, either_batch)
        close(*ablated, terms=FORWARD)
