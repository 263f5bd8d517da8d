"""Edits in force: equal to what they stand for on paper, and gone afterwards, whatever happens."""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import T5ForConditionalGeneration

import interp
from interp import Add, Batch, FreezePatterns, InertEdit, InvalidInput, Knockout, Mean, Resample, Scale, Zero
from interp.editing import check_unhooked

from .conftest import tiny_pipeline

SERIES = torch.sin(torch.arange(20.0))


@torch.no_grad()
def logits(model: interp.Model, batch: Batch) -> Tensor:
    return model.module(**model.inputs(batch)).logits


def hooks(model: interp.Model) -> list[tuple[str, int, int]]:
    return [(n, len(m._forward_pre_hooks), len(m._forward_hooks)) for n, m in model.module.named_modules()]


def without_heads(model: interp.Model, plain: T5ForConditionalGeneration, *heads: str) -> T5ForConditionalGeneration:
    """A copy of the untouched model in which the heads' rows of W_O are zero."""
    made = copy.deepcopy(plain)
    for head in map(interp.Head.parse, heads):
        path = model.family.attention_path(interp.AttentionLayer(head.stack, head.kind, head.layer))
        weight = made.get_submodule(path).get_parameter("o.weight")
        with torch.no_grad():
            weight[:, head.head * model.d_head : (head.head + 1) * model.d_head] = 0
    return made


def test_editing_nothing_is_bit_equal(model: interp.Model, batch: Batch) -> None:
    clean = logits(model, batch)
    width = torch.zeros(model.d_model)
    nothing: list[Any] = [
        *(Scale(head, 1.0) for head in model.heads()),
        *(Add(str(site), width) for site in model.sites("*.*.resid_post")),
        *(Resample(str(site), batch) for site in model.sites("decoder.*.*.q", "encoder.*.mlp_out")),
        FreezePatterns(batch),
    ]
    with interp.edited(model, nothing):
        assert torch.equal(logits(model, batch), clean)
    with interp.edited(model, []):
        assert torch.equal(logits(model, batch), clean)
    assert torch.equal(logits(model, batch), clean)


@pytest.mark.parametrize("layer", ["encoder.self.1", "decoder.self.0", "decoder.cross.1"])
def test_all_heads_of_a_layer_are_its_output(model: interp.Model, batch: Batch, layer: str) -> None:
    every = [head for head in model.heads() if str(head).rsplit(".", 1)[0] == layer]
    found = []
    for target in (every, [layer], [f"{layer}.attn_out"]):
        with interp.ablate(model, target):
            found.append(logits(model, batch))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], logits(model, batch))


HEADS = ["encoder.self.2.1", "decoder.self.1.0", "decoder.cross.0.2"]


@pytest.mark.parametrize("heads", [[head] for head in HEADS] + [HEADS])
def test_zero_is_the_head_without_its_output_weights(
    model: interp.Model, plain: T5ForConditionalGeneration, batch: Batch, heads: list[str]
) -> None:
    other = interp.wrap(_pipeline_of(model, without_heads(model, plain, *heads)))
    with interp.ablate(model, heads):
        torch.testing.assert_close(logits(model, batch), logits(other, batch), atol=1e-5, rtol=1e-4)
        edited = _predict(model)
    torch.testing.assert_close(edited, _predict(other), atol=1e-4, rtol=1e-4)
    assert not torch.equal(edited, _predict(model))


def _pipeline_of(model: interp.Model, module: T5ForConditionalGeneration) -> Any:
    pipeline = tiny_pipeline()
    pipeline.model.model = module
    return pipeline


def _predict(model: interp.Model, length: int = 5, **options: Any) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return model.pipeline.predict([SERIES, SERIES[:12] + 1], prediction_length=length, **options)


def test_every_way_of_running_sees_the_edit(model: interp.Model, batch: Batch) -> None:
    def generate(cache: bool) -> Tensor:
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        made = model.module.generate(**inputs, max_new_tokens=6, do_sample=False, use_cache=cache, output_scores=True,
                                     return_dict_in_generate=True)  # fmt: skip
        return torch.stack(made.scores)

    def traced() -> Tensor:
        with torch.no_grad(), model.nnsight.trace(**model.inputs(batch)):
            found = model.nnsight.output.logits.save()
        return found  # noqa: RET504  (nothing may be returned inside a trace)

    ways: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: logits(model, batch),
        "generate": lambda: generate(True),
        "generate without cache": lambda: generate(False),
        "predict": lambda: _predict(model),
        "predict_quantiles": lambda: model.pipeline.predict_quantiles([SERIES], prediction_length=3)[1],
        "trace": traced,
        "capture": lambda: interp.capture(model, batch, "decoder.ln_final")["decoder.ln_final"],
    }
    for name, run in ways.items():
        torch.manual_seed(0)
        before = run()
        with interp.ablate(model, HEADS):
            torch.manual_seed(0)
            during = run()
        torch.manual_seed(0)
        assert torch.equal(before, run()), name
        assert not torch.equal(before, during), name
    with interp.ablate(model, HEADS):
        torch.testing.assert_close(generate(True), generate(False), atol=1e-4, rtol=1e-4)


def test_nnsight_sees_edited_scores_and_patterns(model: interp.Model, batch: Batch) -> None:
    cut = Knockout("decoder.cross.1.1", query=-1, key=[2, 3])
    with interp.edited(model, [cut, Zero("encoder.self.0.pattern")]):
        views, encoder = model.views("decoder.cross.1"), model.views("encoder.self.0")
        with torch.no_grad(), model.nnsight.trace(**model.inputs(batch)):
            first = encoder.pattern.save()
            pattern = views.pattern.save()
        cache = interp.capture(model, batch, ["decoder.cross.1.pattern", "decoder.cross.1.scores"])
    assert not first.any()
    assert torch.equal(pattern, cache["decoder.cross.1.pattern"])
    assert not pattern[:, 1, -1, [2, 3]].any()
    assert pattern[2:, 1, :-1].min() > 0
    torch.testing.assert_close(pattern.sum(-1), torch.ones(4, 3, 5))


def test_knockouts_by_hand(model: interp.Model, batch: Batch) -> None:
    clean = interp.capture(model, batch, "decoder.self.0.pattern")["decoder.self.0.pattern"]
    for renormalise in (True, False):
        with interp.edited(model, Knockout("decoder.self.0.2", query=[3, -1], key=[0, 2], renormalise=renormalise)):
            found = interp.capture(model, batch, "decoder.self.0.pattern")["decoder.self.0.pattern"]
        wanted = clean.clone()
        for query in (3, 4):
            wanted[:, 2, query, [0, 2]] = 0
            if renormalise:
                wanted[:, 2, query] /= wanted[:, 2, query].sum(-1, keepdim=True)
        torch.testing.assert_close(found, wanted)


def test_a_knockout_step_by_step(model: interp.Model) -> None:
    """With the cache a step has one query: -1 is every step's, 2 is the third step's alone."""
    steps: list[Tensor] = []
    module: torch.nn.Module = model.module.get_submodule("decoder.block.0.layer.1.EncDecAttention.hook_pattern")
    handle = module.register_forward_hook(lambda _m, _a, pattern: steps.append(pattern[:, 0, -1, 4]))
    try:
        with interp.edited(model, Knockout("decoder.cross.0.0", query=-1, key=4)):
            _predict(model)
        last = torch.stack(steps)
        steps.clear()
        with interp.edited(model, Knockout("decoder.cross.0.0", query=2, key=4)):
            _predict(model)
    finally:
        handle.remove()
    assert not last.any()
    shown = torch.stack(steps)[:, 0] > 0
    assert shown.tolist() == [True, True, False, True, True]


def test_knockouts_outside_the_sequence(model: interp.Model, batch: Batch) -> None:
    for edit in (Knockout("decoder.cross.0.0", key=9), Knockout("encoder.self.0.0", query=-10, key=0)):
        with pytest.raises(InvalidInput, match="outside the sequence"), interp.edited(model, edit):
            logits(model, batch)
    for edit in (Knockout("decoder.cross.0.0", query=5, key=1), Knockout("decoder.self.0.0", query=4, key=[0, 5])):
        with pytest.raises(InertEdit, match="no step had"), interp.edited(model, edit):
            logits(model, batch)
    padding_alone = Knockout("decoder.cross.0.0", key=range(2, 9))
    with pytest.raises(InvalidInput, match="nothing to renormalise"), interp.edited(model, padding_alone):
        logits(model, batch)


def test_mean_over_positions_by_hand(model: interp.Model, batch: Batch) -> None:
    z = interp.capture(model, batch, ["decoder.cross.1.z", "encoder.self.1.z", "encoder.1.mlp_out"])
    seen = batch.attention_mask.bool()
    expected = {
        "decoder.cross.1.0": z["decoder.cross.1.z"][:, :, 0].mean((0, 1)),
        "encoder.self.1.2": z["encoder.self.1.z"][:, :, 2][seen].mean(0),
        "encoder.1.mlp_out": z["encoder.1.mlp_out"][seen].mean(0),
    }
    for at, mean in expected.items():
        site = at if "mlp" in at else f"{at.rsplit('.', 1)[0]}.z"
        with interp.edited(model, Mean(at, [batch])):
            found = interp.capture(model, batch, site)[site]
        part = found if "mlp" in at else found[:, :, int(at[-1])]
        torch.testing.assert_close(part, mean.expand_as(part))
    # Over a data set, batches weigh by their size.
    other = Batch(input_ids=batch.input_ids[:1, :4], decoder_input_ids=batch.decoder_input_ids[:1, :2])
    more = interp.capture(model, other, "decoder.cross.1.z")["decoder.cross.1.z"]
    both = torch.cat([z["decoder.cross.1.z"][:, :, 0].reshape(-1, 8), more[:, :, 0].reshape(-1, 8)]).mean(0)
    with interp.edited(model, Mean("decoder.cross.1.0", [batch, other])):
        found = interp.capture(model, batch, "decoder.cross.1.z")["decoder.cross.1.z"][:, :, 0]
    torch.testing.assert_close(found, both.expand_as(found))


@pytest.mark.parametrize("at", ["decoder.cross.1.0", "encoder.self.1", "decoder.0.resid_mid", "decoder.self.1.k"])
def test_mean_over_one_item_is_resampling_it(model: interp.Model, batch: Batch, at: str) -> None:
    one = Batch(input_ids=batch.input_ids[2:3] + 1, decoder_input_ids=batch.decoder_input_ids[2:3] + 1)
    with interp.edited(model, Mean(at, one, by_position=True)):
        mean = logits(model, batch)
    with interp.edited(model, Resample(at, one)):
        assert torch.equal(mean, logits(model, batch))
    assert not torch.allclose(mean, logits(model, batch))


def test_zero_equals_resampling_zeros(model: interp.Model, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    with interp.ablate(model, "decoder.cross.0.1"):
        zero = logits(model, batch)
    with interp.edited(model, Scale("decoder.cross.0.1", 0.0)):
        assert torch.equal(zero, logits(model, batch))
    source = Batch(batch.input_ids, batch.attention_mask, batch.decoder_input_ids)
    # References are of the unedited model: the outer ablation must not leak into the inner one's.
    with interp.ablate(model, "decoder.cross.0"), interp.edited(model, Resample("decoder.self.1.0", source)):
        nested = logits(model, batch)
    with interp.edited(model, [Zero("decoder.cross.0"), Resample("decoder.self.1.0", source)]):
        assert torch.equal(nested, logits(model, batch))


def test_resampling_matches_rows_when_predict_multiplies_them(model: interp.Model) -> None:
    """Resampling from the run's own contexts changes nothing, in every one of the samples."""
    contexts = torch.stack([SERIES, SERIES.cos() * 3])
    source = Batch.from_series(model, contexts)

    def run() -> Tensor:
        torch.manual_seed(0)
        return model.pipeline.predict(contexts, prediction_length=1, num_samples=4)

    clean = run()
    with interp.edited(model, [Resample("decoder.cross.1", source), Resample("encoder.self.1.0", source)]):
        assert torch.equal(run(), clean)
    with interp.edited(model, Resample("decoder.cross.1", Batch.from_series(model, contexts.flip(0)))):
        assert not torch.equal(run(), clean)


def test_beyond_the_reference_is_an_error(model: interp.Model, batch: Batch) -> None:
    contexts = torch.stack([SERIES, SERIES.cos()])
    source = Batch.from_series(model, contexts)
    for edit in (Resample("decoder.cross.1.0", source), Mean("decoder.cross.1.0", source, by_position=True)):
        with pytest.raises(InvalidInput, match="positions"), interp.edited(model, edit):
            model.pipeline.predict(contexts, prediction_length=2)
    with pytest.raises(InvalidInput, match="rows"), interp.edited(model, Resample("decoder.cross.1.0", batch)):
        logits(model, Batch(batch.input_ids.repeat(2, 1), None, batch.decoder_input_ids.repeat(2, 1)))
    with pytest.raises(InvalidInput, match="positions"), interp.edited(model, Resample("encoder.self.0.0", batch)):
        logits(model, Batch(batch.input_ids[:, 1:], None, batch.decoder_input_ids))
    with interp.edited(model, Mean("decoder.cross.1.0", source)):
        model.pipeline.predict(contexts, prediction_length=4)


def test_rows_are_those_of_the_inputs(model: interp.Model, batch: Batch) -> None:
    """References stand for inputs, not for samples; what was run before does not count."""
    contexts = torch.stack([SERIES, SERIES.cos()])
    six = Batch.from_series(model, contexts.repeat(3, 1))
    with (
        pytest.raises(InvalidInput, match="6 rows and the run 2"),
        interp.edited(model, Resample("decoder.cross.1", six)),
    ):
        model.pipeline.predict(contexts, prediction_length=1, num_samples=3)
    encoded = model.module.encoder(input_ids=batch.input_ids.repeat(2, 1))
    twice = batch.decoder_input_ids.repeat(2, 1)
    with interp.edited(model, Resample("decoder.cross.1", batch)):
        logits(model, batch)
        with pytest.raises(InvalidInput, match="4 rows and the run 8"):
            model.module(encoder_outputs=encoded, decoder_input_ids=twice)


def test_an_interrupt_while_hooks_are_put_on(model: interp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.Module.register_forward_pre_hook

    def interrupted(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        real(module, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", interrupted)
    with pytest.raises(KeyboardInterrupt), interp.ablate(model, "decoder.cross.1.0"):
        raise AssertionError("not reached")
    assert not any(pre or post for _, pre, post in hooks(model))


def test_frozen_patterns(model: interp.Model, batch: Batch) -> None:
    clean = interp.capture(model, batch, "*.*.*.pattern")
    encoded = model.module.encoder(input_ids=batch.input_ids + 1)
    with pytest.raises(InvalidInput, match="cannot be known"), interp.edited(model, FreezePatterns(batch)):
        model.module(encoder_outputs=encoded, decoder_input_ids=batch.decoder_input_ids)
    with interp.edited(model, [Zero("encoder.self.0"), FreezePatterns(batch)]):
        frozen = interp.capture(model, batch, "*.*.*.pattern")
        preserved = logits(model, batch)
    assert all(torch.equal(frozen[site], clean[site]) for site in clean)
    with interp.ablate(model, "encoder.self.0"):
        assert not torch.allclose(logits(model, batch), preserved)
    for run in (lambda: _predict(model), lambda: logits(model, Batch(batch.input_ids + 1))):
        with pytest.raises(InvalidInput, match="frozen"), interp.edited(model, FreezePatterns(batch)):
            run()
    start = Batch(batch.input_ids, batch.attention_mask)
    with pytest.raises(InvalidInput, match="part ways"), interp.edited(model, FreezePatterns(start)):
        model.module.generate(input_ids=start.input_ids, attention_mask=start.attention_mask, max_new_tokens=3)


def test_adding(model: interp.Model, batch: Batch) -> None:
    vector = torch.linspace(-1, 1, model.d_model)
    sites = ["decoder.0.resid_pre", "decoder.cross.1.attn_out", "decoder.0.resid_mid_cross", "encoder.ln_final"]
    for site in sites:
        with interp.edited(model, Add(site, vector)):
            found = interp.capture(model, batch, site)[site]
        torch.testing.assert_close(found, interp.capture(model, batch, site)[site] + vector)
    with interp.edited(model, Add("decoder.cross.1", vector)):
        by_layer = logits(model, batch)
    with interp.edited(model, Add("decoder.cross.1.attn_out", vector)):
        assert torch.equal(by_layer, logits(model, batch))
    with interp.edited(model, Add("decoder.logits", 2.0)):
        assert torch.equal(logits(model, batch), logits(model, batch))
    bias = torch.tensor([0.0, 5.0, 0.0])
    with interp.edited(model, Add("decoder.cross.0.scores", bias)):  # a constant falls out of the softmax
        torch.testing.assert_close(
            interp.capture(model, batch, "decoder.cross.0.pattern")["decoder.cross.0.pattern"],
            interp.capture(model, batch, "decoder.cross.0.scores")["decoder.cross.0.scores"].softmax(-1),
        )
    with interp.edited(model, [Zero("decoder.cross.1.0"), Add("decoder.cross.1.0", torch.ones(8))]):
        z = interp.capture(model, batch, "decoder.cross.1.z")["decoder.cross.1.z"]
    assert torch.equal(z[:, :, 0], torch.ones(4, 5, 8))
    for at, value in (("decoder.cross.1.0", torch.ones(20)), ("decoder.0.resid_pre", torch.ones(8))):
        with pytest.raises(InvalidInput, match="what fits there"), interp.edited(model, Add(at, value)):
            pass


@pytest.mark.parametrize(
    "pair",
    [
        (Zero("decoder.cross.1.0"), Zero("decoder.cross.1.0")),
        (Scale("decoder.cross.1.0", 2.0), Scale("decoder.cross.1.0", 2.0)),
        (Zero("decoder.cross.1"), "mean of decoder.cross.1.0"),
        (Zero("encoder.0.resid_post"), "mean of encoder.1.resid_pre"),
        (Knockout("decoder.cross.1.0", key=1), "mean pattern"),
    ],
)
def test_conflicts(model: interp.Model, batch: Batch, pair: tuple[Any, Any]) -> None:
    made = {
        "mean of decoder.cross.1.0": lambda: Mean("decoder.cross.1.0", batch),
        "mean of encoder.1.resid_pre": lambda: Mean("encoder.1.resid_pre", batch),
        "mean pattern": lambda: Mean("decoder.cross.1.pattern", batch, by_position=True),
    }
    first, second = (made[edit]() if isinstance(edit, str) else edit for edit in pair)
    with pytest.raises(InvalidInput), interp.edited(model, [first, second]):
        raise AssertionError("not reached")
    if first != second:
        with pytest.raises(InvalidInput), interp.edited(model, first), interp.edited(model, second):
            raise AssertionError("not reached")
    assert not any(pre or post for _, pre, post in hooks(model))


def test_what_does_not_conflict(model: interp.Model, batch: Batch) -> None:
    mean = Mean("decoder.cross.0.1", batch)
    with interp.edited(
        model, [Zero("decoder.cross.1"), Zero("decoder.cross.1.0"), Zero("decoder.cross.1.attn_out"), mean]
    ):
        first = logits(model, batch)
        with interp.edited(model, mean):
            assert torch.equal(first, logits(model, batch))
    with interp.edited(model, [Zero("decoder.cross.1.0"), Mean("decoder.cross.1.1", batch)]):
        logits(model, batch)
    with (
        pytest.raises(InvalidInput, match="two ways"),
        interp.edited(model, [Mean("decoder.cross.1", batch), Zero("decoder.cross.1.attn_out")]),
    ):
        raise AssertionError("not reached")
    with pytest.raises(InvalidInput, match="several"), interp.edited(model, None):  # type: ignore[arg-type]
        raise AssertionError("not reached")


def test_the_model_is_left_as_it_was(model: interp.Model, batch: Batch) -> None:
    before = hooks(model)
    state = torch.get_rng_state()
    grad, attention = torch.is_grad_enabled(), model.module.config._attn_implementation
    clean = logits(model, batch)

    class Stop(BaseException):
        pass

    for error in (ValueError, KeyboardInterrupt, Stop):
        with pytest.raises(error), interp.ablate(model, HEADS), interp.edited(model, Mean("decoder.1.mlp_out", batch)):
            raise error
        with pytest.raises(error), interp.ablate(model, HEADS):
            raise error(logits(model, batch).shape)
        assert hooks(model) == before
    with pytest.raises(interp.UnknownHead), interp.ablate(model, [*HEADS, "decoder.cross.7.0"]):
        pass
    with pytest.raises(InvalidInput), interp.edited(model, [Zero("decoder.cross.0.0"), "no edit"]):  # type: ignore[list-item]
        pass
    with interp.ablate(model, HEADS):
        _predict(model)
    assert hooks(model) == before
    assert torch.equal(state, torch.get_rng_state())
    assert (grad, attention) == (torch.is_grad_enabled(), model.module.config._attn_implementation)
    assert torch.equal(clean, logits(model, batch))


def test_contexts_may_end_in_any_order(model: interp.Model, batch: Batch) -> None:
    clean = logits(model, batch)
    first, second = ExitStack(), ExitStack()
    first.enter_context(interp.ablate(model, "decoder.cross.1.0"))
    second.enter_context(interp.ablate(model, "decoder.cross.1.1"))
    both = logits(model, batch)
    first.close()
    one = logits(model, batch)
    second.close()
    with interp.ablate(model, ["decoder.cross.1.0", "decoder.cross.1.1"]):
        assert torch.equal(both, logits(model, batch))
    with interp.ablate(model, "decoder.cross.1.1"):
        assert torch.equal(one, logits(model, batch))
    assert torch.equal(clean, logits(model, batch))
    assert not any(pre or post for _, pre, post in hooks(model))


def test_an_edit_that_reached_nothing_is_an_error(model: interp.Model, batch: Batch) -> None:
    with pytest.raises(InertEdit, match=r"decoder\.cross\.1\.0"), interp.ablate(model, "decoder.cross.1.0"):
        pass
    encoded = model.module.encoder(input_ids=batch.input_ids)
    with (
        pytest.raises(InertEdit, match=r"encoder\.self\.0\.0"),
        interp.ablate(model, ["encoder.self.0.0", "decoder.cross.0.0"]),
    ):
        model.module(encoder_outputs=encoded, decoder_input_ids=batch.decoder_input_ids)
    with pytest.raises(ValueError, match="on its way"), interp.ablate(model, "decoder.cross.1.0"):
        raise ValueError("on its way")
    with pytest.raises(InvalidInput, match="hooks"), interp.ablate(model, "decoder.cross.1.0"):
        check_unhooked(model, "this")


KINDS = ("encoder.self", "decoder.self", "decoder.cross")
ANY_HEAD = st.sampled_from([f"{kind}.{layer}.{head}" for kind in KINDS for layer in range(2) for head in range(3)])
EDITS = st.lists(
    st.one_of(
        st.builds(Zero, ANY_HEAD),
        st.builds(
            Scale, st.sampled_from(["encoder.0.mlp_out", "decoder.cross.0", "decoder.1.resid_mid"]), st.floats(-2, 2)
        ),
        st.builds(Add, st.sampled_from(["decoder.0.resid_pre", "encoder.1.resid_post"]), st.floats(-1, 1)),
        st.builds(
            Knockout,
            st.sampled_from(["decoder.cross.1.1", "encoder.self.1.0"]),
            st.integers(-5, 4),
            st.integers(3, 8),
        ),
    ),
    unique_by=lambda edit: str(edit).split("query")[0],
    max_size=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS, data=st.data())
def test_any_set_of_edits_composes_and_goes(shared: interp.Model, edits: list[Any], data: st.DataObject) -> None:
    batch = Batch(torch.arange(2, 38).reshape(4, 9), None, torch.arange(40, 60).reshape(4, 5))
    clean = logits(shared, batch)
    with interp.edited(shared, edits):
        together = logits(shared, batch)
    order = data.draw(st.permutations(edits))
    with ExitStack() as stack:
        for edit in order:
            stack.enter_context(interp.edited(shared, edit))
        nested = logits(shared, batch)
    torch.testing.assert_close(nested, together, atol=1e-4, rtol=1e-4)
    assert torch.equal(clean, logits(shared, batch))
    assert not any(pre or post for _, pre, post in hooks(shared))


@pytest.fixture(scope="module")
def shared() -> interp.Model:
    return interp.wrap(tiny_pipeline(5))


def test_gradients_pass_through_edits(model: interp.Model, batch: Batch) -> None:
    vector = torch.zeros(model.d_model)
    with interp.edited(model, [Scale("decoder.cross.1.0", 0.5), Add("decoder.0.mlp_out", vector)]):
        total = model.module(**model.inputs(batch)).logits.sum()
        total.backward()
    assert all(p.grad is not None and np.isfinite(p.grad.numpy()).all() for p in model.module.lm_head.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(batch: Batch, dtype: torch.dtype) -> None:
    model = interp.wrap(tiny_pipeline(dtype=dtype))
    edits = [Mean("decoder.cross.1.0", batch), Add("decoder.0.resid_pre", 0.5), Knockout("encoder.self.0.0", key=3)]
    with interp.edited(model, edits):
        assert logits(model, batch).dtype == dtype
