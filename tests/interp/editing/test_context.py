"""Edits in force: equal to what they stand for on paper, and gone afterwards, whatever happens."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import interp
from interp import Add, Batch, FreezePatterns, Knockout, Mean, Resample, Scale, Site, Zero
from interp.cache import Cache
from interp.editing.context import check_unhooked
from interp.errors import InertEdit, InvalidInput
from tests.conftest import context, first_stack, fresh, masked_batch, tiny_causal_pipeline, tiny_pipeline, without_heads
from tests.tolerance import FORWARD, LAYER, close, not_close

pytestmark = pytest.mark.versions

SERIES = torch.sin(torch.arange(20.0))


def editable(model: interp.Model) -> list[Site]:
    return [site for site in model.sites() if site.name != "head_out"]


@torch.no_grad()
def logits(model: interp.Model, batch: Batch) -> Tensor:
    return model.module(**model.inputs(batch)).logits


def read(model: interp.Model, batch: Batch, site: str | Site) -> Tensor:
    return interp.capture(model, batch, site)[site]


def hooks(model: interp.Model) -> list[tuple[str, int, int]]:
    return [(n, len(m._forward_pre_hooks), len(m._forward_hooks)) for n, m in model.module.named_modules()]


def test_editing_nothing_is_bit_equal(either: interp.Model, either_batch: Batch) -> None:
    clean = logits(either, either_batch)
    nothing: list[Any] = [
        *(Scale(head, 1.0) for head in either.heads()),
        *(Add(site, 0.0) for site in editable(either)),
        *(Scale(site, 1.0) for site in editable(either) if site.name != "scores"),
        FreezePatterns(either_batch),
    ]
    for edits in (nothing, []):
        with interp.edited(either, edits):
            assert torch.equal(logits(either, either_batch), clean)
    assert torch.equal(logits(either, either_batch), clean)


def test_resampling_the_run_itself_is_bit_equal(either: interp.Model, either_batch: Batch) -> None:
    """Every site by itself: its own value, set anew."""
    clean = logits(either, either_batch)
    for site in editable(either):
        with interp.edited(either, Resample(site, either_batch)):
            assert torch.equal(logits(either, either_batch), clean), site


def test_every_site_is_live(either: interp.Model, either_batch: Batch) -> None:
    """An edit at any site is there where it is read, and in the logits."""
    clean = interp.capture(either, either_batch, either.sites())
    generator = torch.Generator().manual_seed(0)
    for site in editable(either):
        width = {"scores": (3,), "pattern": (3,), "logits": (4096,), **dict.fromkeys("qkvz", (3, 8))}
        value = torch.randn(width.get(site.name, (either.d_model,)), generator=generator)
        with interp.edited(either, Add(site, value)):
            found = interp.capture(either, either_batch, [site, "decoder.logits"])
        added = value[:, None, None] if site.name in ("scores", "pattern") else value
        if site.name == "pattern":  # padding gets no attention
            added = added * either_batch.mask(site.key_stack)[:, None, None]
        close(found[site], clean[site] + added)
        if site.name == "k":  # the same for all keys falls out of the softmax, and a factor does not
            with interp.edited(either, Scale(site, 0.5)):
                found = interp.capture(either, either_batch, "decoder.logits")
        if site.name != "scores":  # no number that all keys get shows: below, some get none
            not_close(found["decoder.logits"], clean["decoder.logits"], str(site))
    for at in either.layers():
        with interp.edited(either, Knockout(f"{at}.1", query=-1, key=1)):
            not_close(logits(either, either_batch), clean["decoder.logits"], str(at))


def test_a_part_of_a_fused_projection_is_edited_alone(either: interp.Model, either_batch: Batch) -> None:
    at = context(either, 0)
    clean = interp.capture(either, either_batch, f"{at}.*")
    for name in "qkv":
        with interp.edited(either, Zero(f"{at}.{name}")):
            found = interp.capture(either, either_batch, f"{at}.*")
        assert not found[f"{at}.{name}"].any()
        for other in set("qkv") - {name}:
            assert torch.equal(found[f"{at}.{other}"], clean[f"{at}.{other}"]), (name, other)


def test_all_heads_of_a_layer_are_its_output(either: interp.Model, either_batch: Batch) -> None:
    """A layer is its heads, and what it puts out without them is b_O: nothing in T5."""
    clean = logits(either, either_batch)
    for layer in map(str, either.layers()):
        every = [head for head in either.heads() if str(head).rsplit(".", 1)[0] == layer]
        found: list[Tensor] = []
        outputs: list[Tensor] = []
        for target in (every, [layer], [f"{layer}.attn_out"]):
            with interp.ablate(either, target):
                found.append(logits(either, either_batch))
                outputs.append(read(either, either_batch, f"{layer}.attn_out"))
        assert torch.equal(found[0], found[1])
        shift = either.weights(every[0]).b_O
        assert bool(shift.any()) != either.has_encoder
        close(outputs[1], shift.expand_as(outputs[1]), terms=LAYER)
        assert not outputs[2].any()
        with interp.edited(either, [Zero(layer), Add(f"{layer}.attn_out", -shift)]):
            torch.testing.assert_close(logits(either, either_batch), found[2], atol=1e-4, rtol=1e-4)
        not_close(found[2], clean)


HEADS = ["encoder.self.2.1", "decoder.self.1.0", "decoder.cross.0.2"]


def some_heads(model: interp.Model) -> list[str]:
    return HEADS if model.has_encoder else ["decoder.self.0.2", "decoder.self.1.0", "decoder.self.2.1"]


@pytest.mark.parametrize("chosen", [[0], [1], [2], [0, 1, 2]])
def test_zero_is_the_head_without_its_output_weights(
    either: interp.Model, either_batch: Batch, chosen: list[int]
) -> None:
    heads = [some_heads(either)[i] for i in chosen]
    other = interp.wrap(without_heads(either, *heads))
    with interp.ablate(either, heads):
        close(logits(either, either_batch), logits(other, either_batch), terms=FORWARD)
        edited = _predict(either)
    torch.testing.assert_close(edited, _predict(other), atol=1e-4, rtol=1e-4)
    assert not torch.equal(edited, _predict(either))


def _predict(model: interp.Model, length: int = 5, **options: Any) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return model.pipeline.predict([SERIES, SERIES[:12] + 1], prediction_length=length, **options)


def _greedy(model: interp.Model, batch: Batch, length: int = 6, **options: Any) -> Tensor:
    """The logits of each step `[step, row, token]`."""
    inputs = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True, **options}
    return torch.stack(model.module.generate(**inputs, max_new_tokens=length, **options).logits)


def test_every_way_of_running_sees_the_edit(either: interp.Model, either_batch: Batch) -> None:
    def traced() -> Tensor:
        with torch.no_grad(), either.nnsight.trace(**either.inputs(either_batch)):
            found = either.nnsight.output.logits.save()
        return found  # noqa: RET504  (nothing may be returned inside a trace)

    ways: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: logits(either, either_batch),
        "generate": lambda: _greedy(either, either_batch),
        "generate without cache": lambda: _greedy(either, either_batch, use_cache=False),
        "predict": lambda: _predict(either),
        "predict_quantiles": lambda: either.pipeline.predict_quantiles([SERIES], prediction_length=3)[1],
        "trace": traced,
        "capture": lambda: read(either, either_batch, "decoder.ln_final"),
    }
    heads = some_heads(either)
    for name, run in ways.items():
        torch.manual_seed(0)
        before = run()
        with interp.ablate(either, heads):
            torch.manual_seed(0)
            during = run()
        torch.manual_seed(0)
        assert torch.equal(before, run()), name
        assert not torch.equal(before, during), name


CHANGED = ("resid_pre", "resid_mid", "mlp_out", "resid_post", "ln_final", "q", "k", "v", "z", "pattern", "attn_out")


@pytest.mark.parametrize("name", [*CHANGED, "scores"])
def test_the_cache_changes_nothing_of_an_edit(either: interp.Model, either_batch: Batch, name: str) -> None:
    """Generation step by step with a cache is generation of the whole sequence at each step, edited alike."""
    site = next(s for s in editable(either) if s.stack == "decoder" and s.name == name and s.layer in (1, None))
    edit: Any = Add(site, 0.7) if name == "ln_final" else Scale(site, -1.0) if name != "scores" else None
    if edit is None:
        past = 0 if either.has_encoder else either_batch.decoder_input_ids.shape[1] - 1
        edit = Knockout("decoder.self.1.0", query=[past + 2, past + 3], key=[past, past + 1])
    with interp.edited(either, edit):
        cached, whole = _greedy(either, either_batch), _greedy(either, either_batch, use_cache=False)
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=1e-4)
    assert not torch.equal(cached, _greedy(either, either_batch))


def test_nnsight_sees_edited_scores_and_patterns(either: interp.Model, either_batch: Batch) -> None:
    at, first = context(either), str(either.layers()[0])
    cut = Knockout(f"{at}.1", query=-1, key=[5, 6])
    with interp.edited(either, [cut, Zero(f"{first}.pattern")]):
        views, before = either.views(at), either.views(first)
        with torch.no_grad(), either.nnsight.trace(**either.inputs(either_batch)):
            emptied = before.pattern.save()
            pattern = views.pattern.save()
        cache = interp.capture(either, either_batch, [f"{at}.pattern", f"{at}.scores"])
    assert not emptied.any()
    assert torch.equal(pattern, cache[f"{at}.pattern"])
    assert not pattern[:, 1, -1, [5, 6]].any()
    assert pattern[:, [0, 2], -1][..., [5, 6]].min() > 0
    close(pattern.sum(-1), torch.ones(pattern.shape[:-1]), terms=LAYER)


def test_knockouts_by_hand(either: interp.Model, either_batch: Batch) -> None:
    at = "decoder.self.0"
    clean = read(either, either_batch, f"{at}.pattern")
    last = clean.shape[-1] - 1
    for renormalise in (True, False):
        with interp.edited(either, Knockout(f"{at}.2", query=[4, -1], key=[0, 2], renormalise=renormalise)):
            found = read(either, either_batch, f"{at}.pattern")
        wanted = clean.clone()
        for query in {4, last}:
            wanted[:, 2, query, [0, 2]] = 0
            if renormalise:
                wanted[:, 2, query] /= wanted[:, 2, query].sum(-1, keepdim=True)
        # Row 3 lacks its token 4, and sees others from there all the same.
        close(found, wanted, terms=LAYER)


def test_a_knockout_leaves_padding_as_it_is(causal: interp.Model) -> None:
    """Padding of a decoder alone sees no key, so none can be taken from it."""
    batch, site = masked_batch(False), "decoder.self.1.pattern"
    clean = read(causal, batch, site)
    with interp.edited(causal, Knockout("decoder.self.1.0", key=5, query=[0, 1, 2, 6])):
        found = read(causal, batch, site)
        assert logits(causal, batch).isfinite().all()
    assert torch.equal(found[1, :, :3], clean[1, :, :3])
    assert not found[:, 0, 6, 5].any()
    assert clean[:, 0, 6, 5].min() > 0
    # All keys: padding that sees none stays, with no NaN, and others are left without any.
    padded, everything = batch.rows(torch.tensor([1])), Knockout("decoder.self.1.0", query=[0, 1, 2], key=range(14))
    alone = read(causal, padded, site)
    with interp.edited(causal, everything):
        assert torch.equal(read(causal, padded, site), alone)
        with pytest.raises(InvalidInput, match="nothing to renormalise"):
            logits(causal, batch)
    # Row 1 begins at position 3, which sees itself alone.
    with (
        pytest.raises(InvalidInput, match="nothing to renormalise"),
        interp.edited(causal, Knockout("decoder.self.1.0", query=3, key=3)),
    ):
        logits(causal, padded)
    with interp.edited(causal, Knockout("decoder.self.1.0", query=3, key=3, renormalise=False)):
        assert not read(causal, padded, site)[0, 0, 3].any()


def test_a_knockout_step_by_step(either: interp.Model) -> None:
    """With the cache a step has one query: -1 is every step's, a position of its own step alone."""
    steps: list[Tensor] = []
    at = either.layers(".".join(either.family.context))[0]
    module: torch.nn.Module = either.module.get_submodule(f"{either.family.attention_path(at)}.hook_pattern")
    handle = module.register_forward_hook(lambda _m, _a, pattern: steps.append(pattern[:, 0, -1, 9]))
    past = 0 if either.has_encoder else len(SERIES) - 1
    try:
        with interp.edited(either, Knockout(f"{at}.0", query=-1, key=9)):
            _predict(either)
        last = torch.stack(steps)
        steps.clear()
        with interp.edited(either, Knockout(f"{at}.0", query=past + 2, key=9)):
            _predict(either)
    finally:
        handle.remove()
    assert not last.any()
    shown = torch.stack(steps)[:, 0] > 0
    assert shown.tolist() == [True, True, False, True, True]


def test_knockouts_outside_the_sequence(model: interp.Model, causal: interp.Model, batch: Batch) -> None:
    for edit in (Knockout("decoder.cross.0.0", key=9), Knockout("encoder.self.0.0", query=-10, key=0)):
        with pytest.raises(InvalidInput, match="outside the sequence"), interp.edited(model, edit):
            logits(model, batch)
    for edit in (Knockout("decoder.cross.0.0", query=5, key=1), Knockout("decoder.self.0.0", query=4, key=[0, 5])):
        with pytest.raises(InertEdit, match="no step had"), interp.edited(model, edit):
            logits(model, batch)
    with (
        pytest.raises(InertEdit, match=r"no step had key \[14\]"),
        interp.edited(causal, Knockout("decoder.self.0.0", query=13, key=[0, 14])),
    ):
        logits(causal, masked_batch(False))
    padding_alone = Knockout("decoder.cross.0.0", key=range(2, 9))
    with pytest.raises(InvalidInput, match="nothing to renormalise"), interp.edited(model, padding_alone):
        logits(model, batch)


def test_mean_over_positions_by_hand(either: interp.Model, either_batch: Batch) -> None:
    """Over what is no padding, in whichever stack."""
    at, stack = context(either), first_stack(either)
    heads = {f"{at}.0": f"{at}.z", f"{stack}.self.1.2": f"{stack}.self.1.z", f"{stack}.1.mlp_out": f"{stack}.1.mlp_out"}
    clean = interp.capture(either, either_batch, list(heads.values()))
    for head, site in heads.items():
        seen = either_batch.mask("encoder" if site.startswith("encoder") else "decoder").bool()
        assert either.has_encoder or not seen.all()

        def part(value: Tensor, head: str = head) -> Tensor:
            return value if "mlp" in head else value[:, :, int(head[-1])]

        mean = part(clean[site])[seen].mean(0)
        with interp.edited(either, Mean(head, [either_batch])):
            found = part(read(either, either_batch, site))
        close(found, mean.expand_as(found), terms=LAYER)
    # Over a data set, batches weigh by their size.
    other = either_batch.rows(torch.tensor([1]))
    seen = either_batch.decoder_attention_mask.bool()
    z = clean[f"{at}.z"][:, :, 0]
    both = torch.cat([z[seen], z[1][seen[1]]]).mean(0)
    with interp.edited(either, Mean(f"{at}.0", [either_batch, other])):
        found = read(either, either_batch, f"{at}.z")[:, :, 0]
    close(found, both.expand_as(found), terms=LAYER)


def test_a_mean_over_batches_of_other_lengths(model: interp.Model, causal: interp.Model, batch: Batch) -> None:
    shorter = Batch(input_ids=batch.input_ids[:1, :4], decoder_input_ids=batch.decoder_input_ids[:1, :2])
    alone = masked_batch(False)
    short = Batch(decoder_input_ids=alone.decoder_input_ids[:2, :6])
    for m, at, whole, less in ((model, "decoder.cross.1", batch, shorter), (causal, "decoder.self.1", alone, short)):
        parts = [read(m, b, f"{at}.z")[:, :, 0][b.decoder_attention_mask.bool()] for b in (whole, less)]
        with interp.edited(m, Mean(f"{at}.0", [whole, less])):
            found = read(m, whole, f"{at}.z")[:, :, 0]
        close(found, torch.cat(parts).mean(0).expand_as(found), terms=LAYER)


def test_means_by_position_do_not_count_padding(causal: interp.Model) -> None:
    batch = masked_batch(False)
    shown = batch.decoder_attention_mask
    stream = read(causal, batch, "decoder.1.resid_pre")
    pattern = read(causal, batch, "decoder.self.1.pattern")
    weights = shown[:, :, None].double()
    with interp.edited(causal, Mean("decoder.1.resid_pre", batch, by_position=True)):
        found = read(causal, batch, "decoder.1.resid_pre")
    wanted = ((stream * weights).sum(0) / weights.sum(0)).float()
    close(found, wanted.expand_as(found), terms=LAYER)
    full = batch.rows(torch.tensor([0, 2]))
    with interp.edited(causal, Mean("decoder.self.1.pattern", batch, by_position=True)):
        found = read(causal, full, "decoder.self.1.pattern")
        with pytest.raises(InvalidInput, match="pays attention to position 0, which is padding in a row of the run"):
            read(causal, batch, "decoder.self.1.pattern")
    weights = shown[:, None, :, None].double()
    wanted = ((pattern * weights).sum(0) / weights.sum(0)).float()
    close(found, wanted.expand_as(found), terms=LAYER)
    # Position 4, which row 3 lacks, is a pattern over what comes before it; nothing of it is on what comes after.
    assert not found[:, :, 4, 5:].any()
    assert not torch.allclose(found[0, :, 4], pattern.mean(0)[:, 4], atol=1e-4)


@pytest.mark.parametrize("at", ["decoder.1.resid_mid", "decoder.self.0.1", "decoder.self.1.pattern"])
def test_a_position_of_which_a_reference_has_no_token(causal: interp.Model, at: str) -> None:
    """There is no mean there: where the run has padding too, that does not matter, and where it has a token it does."""
    batch = masked_batch(False)
    padded = batch.rows(torch.tensor([1, 1]))
    with interp.edited(causal, Mean(at, padded, by_position=True)):
        assert logits(causal, padded).isfinite().all()
        with pytest.raises(InvalidInput, match="padded at position 0, where the run has a token"):
            logits(causal, batch)
    if "pattern" not in at:
        with interp.edited(causal, Mean(at, padded)):
            assert logits(causal, batch).isfinite().all()


@pytest.mark.parametrize("at", ["{context}.1.0", "{first}.self.1", "decoder.0.resid_mid", "decoder.self.1.k"])
def test_mean_over_one_item_is_resampling_it(either: interp.Model, either_batch: Batch, at: str) -> None:
    place = at.format(context=".".join(either.family.context), first=first_stack(either))
    row = either_batch.rows(torch.tensor([2]))
    one = Batch(
        input_ids=row.input_ids + 1 if row.has_encoder else None,
        decoder_input_ids=row.decoder_input_ids + 1,
    )
    with interp.edited(either, Mean(place, one, by_position=True)):
        mean = logits(either, either_batch)
    with interp.edited(either, Resample(place, one)):
        assert torch.equal(mean, logits(either, either_batch))
    not_close(mean, logits(either, either_batch))


def test_zero_equals_resampling_zeros(
    either: interp.Model, either_batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = context(either, 0)
    with interp.ablate(either, f"{at}.1"):
        zero = logits(either, either_batch)
    with interp.edited(either, Scale(f"{at}.1", 0.0)):
        assert torch.equal(zero, logits(either, either_batch))

    def of_zeros(*asked: Any) -> Cache:
        return Cache({name: torch.zeros_like(value) for name, value in interp.capture(*asked).items()})

    monkeypatch.setattr("interp.editing.references.capture", of_zeros)
    for site in [at, *(s for s in editable(either) if s.name != "scores")]:
        with interp.edited(either, Resample(site, either_batch)):
            resampled = logits(either, either_batch)
        with interp.edited(either, Zero(site)):
            assert torch.equal(resampled, logits(either, either_batch)), site


def test_references_are_of_the_unedited_model(either: interp.Model, either_batch: Batch) -> None:
    """The outer ablation must not leak into what the inner edit takes from its reference."""
    at = context(either, 0)
    with interp.ablate(either, at), interp.edited(either, Resample("decoder.self.1.0", either_batch)):
        nested = logits(either, either_batch)
    with interp.edited(either, [Zero(at), Resample("decoder.self.1.0", either_batch)]):
        assert torch.equal(nested, logits(either, either_batch))


def test_resampling_matches_rows_when_predict_multiplies_them(either: interp.Model) -> None:
    """Resampling from the run's own contexts changes nothing, in every one of the samples."""
    contexts = torch.stack([SERIES, SERIES.cos() * 3])
    contexts[1, :3] = torch.nan
    source = Batch.from_series(either, contexts)
    at, first = context(either), f"{first_stack(either)}.self.1.0"

    def run() -> Tensor:
        torch.manual_seed(0)
        return either.pipeline.predict(contexts, prediction_length=1, num_samples=4)

    clean = run()
    places = [at, "decoder.logits", "decoder.0.resid_mid"] + [first] * either.has_encoder
    with interp.edited(either, [Resample(place, source) for place in places]):
        assert torch.equal(run(), clean)
    with interp.edited(either, Resample(at, Batch.from_series(either, -contexts))):
        assert not torch.equal(run(), clean)
    if not either.has_encoder:  # in an encoder-decoder it is the encoder that is padded, which z is not of
        with (
            pytest.raises(InvalidInput, match="decoder position 0 is padding in a row of the source or of the run"),
            interp.edited(either, Resample(at, Batch.from_series(either, contexts.flip(0)))),
        ):
            run()


@pytest.mark.parametrize(
    "site", ["decoder.logits", "decoder.1.resid_mid", "decoder.self.1.pattern", "decoder.self.0.k"]
)
@pytest.mark.parametrize("cache", [True, False])
def test_positions_in_generation_are_those_of_the_whole_sequence(
    either: interp.Model, either_batch: Batch, site: str, cache: bool
) -> None:
    """What a teacher-forced run of the whole has at a position is what the step that reaches it is given."""
    options = {"do_sample": False, "max_new_tokens": 4, "use_cache": cache, "num_return_sequences": 1}
    inputs = {name: either_batch.inputs[name] for name in ("input_ids", "attention_mask")}
    greedy = either.module.generate(**inputs, **options)
    if either.has_encoder:
        whole = Batch(either_batch.input_ids, either_batch.attention_mask, greedy)
    else:
        mask = torch.cat([inputs["attention_mask"], torch.ones(4, 4, dtype=torch.long)], 1)
        whole = Batch(decoder_input_ids=greedy, decoder_attention_mask=mask)
    order = torch.tensor([1, 0, 3, 2])
    # A decoder alone is padded as it is: rows are matched position by position.
    alone = replace(whole, decoder_input_ids=whole.decoder_input_ids[order])
    other = whole.rows(order) if either.has_encoder else alone
    with interp.edited(either, Resample(site, whole)):
        steps = _greedy(either, either_batch, 4, use_cache=cache)
    torch.testing.assert_close(steps, _greedy(either, either_batch, 4, use_cache=cache), atol=1e-4, rtol=1e-4)
    with interp.edited(either, Resample(site, other)):
        assert not torch.allclose(_greedy(either, either_batch, 4, use_cache=cache), steps, atol=1e-2)


def test_logits_of_the_last_position_alone(causal: interp.Model) -> None:
    """`generate` asks for no others, so a reference's last position, not its first, stands for them."""
    batch = masked_batch(False)
    full = read(causal, batch, "decoder.logits")
    other = read(causal, batch.rows(torch.tensor([1, 0, 3, 2])), "decoder.logits")
    with interp.edited(causal, Resample("decoder.logits", batch.rows(torch.tensor([1, 0, 3, 2])))):
        assert torch.equal(_greedy(causal, batch, 1)[0], other[:, -1])
        assert torch.equal(causal.module(**causal.inputs(batch), logits_to_keep=3).logits, other[:, -3:])
    not_close(full[:, -1], other[:, -1])


def test_beyond_the_reference_is_an_error(either: interp.Model, either_batch: Batch) -> None:
    contexts = torch.stack([SERIES, SERIES.cos()])
    source, at = Batch.from_series(either, contexts), context(either)
    for edit in (Resample(f"{at}.0", source), Mean(f"{at}.0", source, by_position=True)):
        with pytest.raises(InvalidInput, match="positions"), interp.edited(either, edit):
            either.pipeline.predict(contexts, prediction_length=2)
    twice = either_batch.rows(torch.arange(4).repeat(2))
    with pytest.raises(InvalidInput, match="rows"), interp.edited(either, Resample(f"{at}.0", either_batch)):
        logits(either, twice)
    with interp.edited(either, Mean(f"{at}.0", source)):
        either.pipeline.predict(contexts, prediction_length=4)


def test_beyond_the_encoders_reference_is_an_error(model: interp.Model, batch: Batch) -> None:
    with pytest.raises(InvalidInput, match="positions"), interp.edited(model, Resample("encoder.self.0.0", batch)):
        logits(model, Batch(batch.input_ids[:, 1:], None, batch.decoder_input_ids))


def test_rows_are_those_of_the_inputs(either: interp.Model) -> None:
    """References stand for inputs, not for samples."""
    contexts = torch.stack([SERIES, SERIES.cos()])
    six, at = Batch.from_series(either, contexts.repeat(3, 1)), context(either)
    with pytest.raises(InvalidInput, match="6 rows"), interp.edited(either, Resample(at, six)):
        either.pipeline.predict(contexts, prediction_length=1, num_samples=4)


def test_what_was_run_before_does_not_count(model: interp.Model, batch: Batch) -> None:
    six = Batch.from_series(model, torch.stack([SERIES, SERIES.cos()]).repeat(3, 1))
    with (
        pytest.raises(InvalidInput, match="6 rows and the run 2"),
        interp.edited(model, Resample("decoder.cross.1", six)),
    ):
        model.pipeline.predict(torch.stack([SERIES, SERIES.cos()]), prediction_length=1, num_samples=3)
    encoded = model.module.encoder(input_ids=batch.input_ids.repeat(2, 1))
    twice = batch.decoder_input_ids.repeat(2, 1)
    with interp.edited(model, Resample("decoder.cross.1", batch)):
        logits(model, batch)
        with pytest.raises(InvalidInput, match="4 rows and the run 8"):
            model.module(encoder_outputs=encoded, decoder_input_ids=twice)


def test_rows_that_differ_in_their_padding_alone_are_other_inputs(causal: interp.Model) -> None:
    ids = torch.randint(2, 4096, (1, 8)).repeat(4, 1)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    source = Batch(decoder_input_ids=ids[:2], decoder_attention_mask=mask[:2])
    for run, match in (
        (Batch(decoder_input_ids=ids), "decoder position 0 is padding in a row of the source"),
        (Batch(decoder_input_ids=ids, decoder_attention_mask=mask), "2 rows and the run 4"),
    ):
        with pytest.raises(InvalidInput, match=match), interp.edited(causal, Resample("decoder.self.1", source)):
            logits(causal, run)


def test_an_interrupt_while_hooks_are_put_on(either: interp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.Module.register_forward_pre_hook

    def interrupted(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        real(module, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", interrupted)
    for target in (f"{context(either)}.0", "decoder.1.resid_mid", "decoder.1.resid_pre"):
        if target == "decoder.1.resid_mid" and either.has_encoder:
            continue
        with pytest.raises(KeyboardInterrupt), interp.ablate(either, target):
            raise AssertionError("not reached")
        assert not any(pre or post for _, pre, post in hooks(either))


def test_frozen_patterns(either: interp.Model, either_batch: Batch) -> None:
    clean = interp.capture(either, either_batch, "*.*.*.pattern")
    target = f"{first_stack(either)}.self.0"
    with interp.edited(either, [Zero(target), FreezePatterns(either_batch)]):
        frozen = interp.capture(either, either_batch, "*.*.*.pattern")
        preserved = logits(either, either_batch)
    assert all(torch.equal(frozen[site], clean[site]) for site in clean)
    with interp.ablate(either, target):
        not_close(logits(either, either_batch), preserved)
    inputs = either.inputs(either_batch)
    name = next(name for name in inputs if name.endswith("input_ids"))
    others: list[Callable[[], Any]] = [
        lambda: _predict(either),
        lambda: either.module(**inputs | {name: inputs[name] + 1}),
        lambda: either.module(**inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}),
        lambda: either.module(**{key: value for key, value in inputs.items() if key != "attention_mask"}),
    ]
    for run in others:
        with pytest.raises(InvalidInput, match="frozen"), interp.edited(either, FreezePatterns(either_batch)):
            run()
    start = either_batch
    if either.has_encoder:
        start = Batch(either_batch.input_ids, either_batch.attention_mask)
    with pytest.raises(InvalidInput, match="part ways"), interp.edited(either, FreezePatterns(start)):
        _greedy(either, start, 3)


def test_frozen_patterns_of_a_given_encoder(model: interp.Model, batch: Batch) -> None:
    encoded = model.module.encoder(input_ids=batch.input_ids + 1)
    with pytest.raises(InvalidInput, match="cannot be known"), interp.edited(model, FreezePatterns(batch)):
        model.module(encoder_outputs=encoded, decoder_input_ids=batch.decoder_input_ids)


def test_adding(either: interp.Model, either_batch: Batch) -> None:
    vector, at = torch.linspace(-1, 1, either.d_model), context(either)
    clean = logits(either, either_batch)
    with interp.edited(either, Add(at, vector)):
        by_layer = logits(either, either_batch)
    with interp.edited(either, Add(f"{at}.attn_out", vector)):
        assert torch.equal(by_layer, logits(either, either_batch))
    with interp.edited(either, Add("decoder.logits", 2.0)):
        close(logits(either, either_batch), clean + 2.0)
    bias, zeroth = torch.tensor([0.0, 5.0, 0.0]), context(either, 0)
    with interp.edited(either, Add(f"{zeroth}.scores", bias)):  # a constant falls out of the softmax
        found = interp.capture(either, either_batch, f"{zeroth}.*")
        close(found[f"{zeroth}.pattern"], found[f"{zeroth}.scores"].softmax(-1))
    with interp.edited(either, [Zero(f"{at}.0"), Add(f"{at}.0", torch.ones(8))]):
        z = read(either, either_batch, f"{at}.z")
    assert torch.equal(z[:, :, 0], torch.ones_like(z[:, :, 0]))
    for place, value in ((f"{at}.0", torch.ones(either.d_model)), ("decoder.0.resid_pre", torch.ones(8))):
        with pytest.raises(InvalidInput, match="what fits there"), interp.edited(either, Add(place, value)):
            pass


@pytest.mark.parametrize("case", range(6))
def test_conflicts(either: interp.Model, either_batch: Batch, case: int) -> None:
    at, stack, batch = context(either), first_stack(either), either_batch
    first, second = [
        (Zero(f"{at}.0"), Zero(f"{at}.0")),
        (Scale(f"{at}.0", 2.0), Scale(f"{at}.0", 2.0)),
        (Zero(at), Mean(f"{at}.0", batch)),
        (Zero(f"{stack}.0.resid_post"), Mean(f"{stack}.1.resid_pre", batch)),
        (Knockout(f"{at}.0", key=1), Mean(f"{at}.pattern", batch, by_position=True)),
        (Zero(f"{at}.attn_out"), Mean(at, batch)),
    ][case]
    with pytest.raises(InvalidInput), interp.edited(either, [first, second]):
        raise AssertionError("not reached")
    if first != second:
        with pytest.raises(InvalidInput), interp.edited(either, first), interp.edited(either, second):
            raise AssertionError("not reached")
    assert not any(pre or post for _, pre, post in hooks(either))


def test_what_does_not_conflict(either: interp.Model, either_batch: Batch) -> None:
    zeroth, at = context(either, 0), context(either)
    mean = Mean(f"{zeroth}.1", either_batch)
    with interp.edited(either, [Zero(at), Zero(f"{at}.0"), Zero(f"{at}.attn_out"), mean]):
        first = logits(either, either_batch)
        with interp.edited(either, mean):
            assert torch.equal(first, logits(either, either_batch))
    with interp.edited(either, [Zero(f"{at}.0"), Mean(f"{at}.1", either_batch)]):
        logits(either, either_batch)
    with interp.edited(either, [Mean(f"{at}.{name}", either_batch) for name in "qkv"]):
        logits(either, either_batch)
    with pytest.raises(InvalidInput, match="several"), interp.edited(either, None):  # type: ignore[arg-type]
        raise AssertionError("not reached")


def test_the_model_is_left_as_it_was(either: interp.Model, either_batch: Batch) -> None:
    before = hooks(either)
    state = torch.get_rng_state()
    grad, attention = torch.is_grad_enabled(), either.module.config._attn_implementation
    clean, heads = logits(either, either_batch), some_heads(either)

    class Stop(BaseException):
        pass

    for error in (ValueError, KeyboardInterrupt, Stop):
        with (
            pytest.raises(error),
            interp.ablate(either, heads),
            interp.edited(either, [Mean("decoder.1.mlp_out", either_batch), Zero("decoder.0.resid_mid")]),
        ):
            raise error
        with pytest.raises(error), interp.ablate(either, heads):
            raise error(logits(either, either_batch).shape)
        assert hooks(either) == before
    with pytest.raises(interp.errors.UnknownHead), interp.ablate(either, [*heads, f"{context(either)[:-2]}.7.0"]):
        pass
    with pytest.raises(InvalidInput), interp.edited(either, [Zero(heads[0]), "no edit"]):  # type: ignore[list-item]
        pass
    with interp.ablate(either, heads):
        _predict(either)
    assert hooks(either) == before
    assert torch.equal(state, torch.get_rng_state())
    assert (grad, attention) == (torch.is_grad_enabled(), either.module.config._attn_implementation)
    assert torch.equal(clean, logits(either, either_batch))


def test_contexts_may_end_in_any_order(either: interp.Model, either_batch: Batch) -> None:
    clean, at = logits(either, either_batch), context(either)
    pairs: list[tuple[Any, Any]] = [
        (Zero(f"{at}.0"), Zero(f"{at}.1")),
        (Scale("decoder.1.resid_mid", 2.0), Add("decoder.1.resid_mid", 1.0)),
        (Scale(f"{at}.q", 2.0), Scale(f"{at}.v", 2.0)),
    ]
    for one, other in pairs:
        first, second = ExitStack(), ExitStack()
        first.enter_context(interp.edited(either, one))
        second.enter_context(interp.edited(either, other))
        both = logits(either, either_batch)
        first.close()
        rest = logits(either, either_batch)
        second.close()
        with interp.edited(either, [one, other]):
            assert torch.equal(both, logits(either, either_batch))
        with interp.edited(either, other):
            assert torch.equal(rest, logits(either, either_batch))
        assert torch.equal(clean, logits(either, either_batch))
        assert not any(pre or post for _, pre, post in hooks(either))


def test_an_edit_that_reached_nothing_is_an_error(either: interp.Model) -> None:
    head = f"{context(either)}.0"
    with pytest.raises(InertEdit, match=head.replace(".", r"\.")), interp.ablate(either, head):
        pass
    with pytest.raises(ValueError, match="on its way"), interp.ablate(either, head):
        raise ValueError("on its way")
    with pytest.raises(InvalidInput, match="hooks"), interp.ablate(either, head):
        check_unhooked(either, "this")


def test_an_edit_of_an_encoder_that_did_not_run_is_an_error(model: interp.Model, batch: Batch) -> None:
    encoded = model.module.encoder(input_ids=batch.input_ids)
    with (
        pytest.raises(InertEdit, match=r"encoder\.self\.0\.0"),
        interp.ablate(model, ["encoder.self.0.0", "decoder.cross.0.0"]),
    ):
        model.module(encoder_outputs=encoded, decoder_input_ids=batch.decoder_input_ids)


# Queries and keys of knockouts are such that each query keeps a key.
FAMILIES: dict[str, Any] = {
    "t5": (
        [f"{kind}.{layer}.{head}" for kind in ("encoder.self", "decoder.self", "decoder.cross")
         for layer in range(2) for head in range(3)],
        ["encoder.0.mlp_out", "decoder.cross.0", "decoder.1.resid_mid"],
        ["decoder.0.resid_pre", "encoder.1.resid_post"],
        ["decoder.cross.1.1", "encoder.self.1.0"],
        tiny_pipeline,
        Batch(torch.arange(2, 38).reshape(4, 9), None, torch.arange(40, 60).reshape(4, 5)),
    ),
    "gpt2": (
        [f"decoder.self.{layer}.{head}" for layer in range(3) for head in range(3)],
        ["decoder.0.mlp_out", "decoder.self.0.q", "decoder.1.resid_mid"],
        ["decoder.0.resid_pre", "decoder.2.resid_mid"],
        ["decoder.self.1.1", "decoder.self.2.0"],
        tiny_causal_pipeline,
        Batch(decoder_input_ids=torch.arange(2, 38).reshape(4, 9)),
    ),
}  # fmt: skip


@st.composite
def edit_sets(draw: st.DrawFn, family: str) -> list[Any]:
    heads, scaled, added, cut, *_ = FAMILIES[family]
    kinds = st.one_of(
        st.builds(Zero, st.sampled_from(heads)),
        st.builds(Scale, st.sampled_from(scaled), st.floats(-2, 2)),
        st.builds(Add, st.sampled_from(added), st.floats(-1, 1)),
        st.builds(Knockout, st.sampled_from(cut), st.integers(-5, -1), st.integers(1, 4)),
    )
    return draw(st.lists(kinds, unique_by=lambda edit: str(edit).split("query")[0], max_size=5))


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def shared(request: pytest.FixtureRequest) -> tuple[str, interp.Model]:
    return request.param, interp.wrap(FAMILIES[request.param][4](5))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_set_of_edits_composes_and_goes(shared: tuple[str, interp.Model], data: st.DataObject) -> None:
    family, model = shared
    batch, edits = FAMILIES[family][5], data.draw(edit_sets(family))
    clean = logits(model, batch)
    with interp.edited(model, edits):
        together = logits(model, batch)
    order = data.draw(st.permutations(edits))
    with ExitStack() as stack:
        for edit in order:
            stack.enter_context(interp.edited(model, edit))
        nested = logits(model, batch)
    torch.testing.assert_close(nested, together, atol=1e-4, rtol=1e-4)
    assert torch.equal(clean, logits(model, batch))
    assert not any(pre or post for _, pre, post in hooks(model))


def test_gradients_pass_through_edits(either: interp.Model, either_batch: Batch) -> None:
    at = context(either)
    with interp.edited(either, [Scale(f"{at}.0", 0.5), Add("decoder.0.mlp_out", torch.zeros(either.d_model))]):
        total = either.module(**either.inputs(either_batch)).logits.sum()
        total.backward()
    assert all(p.grad is not None and np.isfinite(p.grad.numpy()).all() for p in either.module.lm_head.parameters())


@pytest.mark.parametrize("site", ["decoder.1.resid_mid", "decoder.1.resid_pre", "decoder.self.1.z", "decoder.self.1.k"])
def test_gradients_of_an_edited_model_by_differences(site: str) -> None:
    """Edits in place of a stream that others hold too must not lose what autograd needs of it."""
    # T5's norm computes in float32 whatever the dtype, too coarse for differences.
    model, batch = interp.wrap(tiny_causal_pipeline(dtype=torch.float64)), masked_batch(False)
    weight = model.module.transformer.wte.weight
    place = int(batch.decoder_input_ids[0, 1]), 3
    edits = [Scale(site, 0.5), Add("decoder.0.resid_mid", 0.3), Mean("decoder.1.mlp_out", batch)]

    STEP = 2.0**-20

    def loss() -> Tensor:
        return model.module(**model.inputs(batch)).logits[:, -1].logsumexp(-1).sum()

    with interp.edited(model, edits), interp.edited(model, Scale("decoder.2.resid_mid", 2.0)):
        (grad,) = torch.autograd.grad(loss(), [weight])
        values: list[float] = []
        with torch.no_grad():
            for step in (STEP, -2 * STEP):
                weight[place] += step
                values.append(float(loss()))
    assert abs(float(grad[place])) > 1e-4
    assert (values[0] - values[1]) / (2 * STEP) == pytest.approx(float(grad[place]), rel=1e-4)


def test_a_stream_that_is_edited_in_place(causal: interp.Model) -> None:
    """GPT-2's resid_mid: by an edit, in place in a trace, before hooks of the user's; all else of the layer stays."""
    batch, vector = masked_batch(False), torch.linspace(-1, 1, 24)
    clean = interp.capture(causal, batch, causal.sites())
    at, norm = "decoder.1.resid_mid", causal.module.get_submodule("transformer.h.1.ln_2")
    with interp.edited(causal, Add(at, vector)):
        cache = interp.capture(causal, batch, causal.sites())
        wanted = logits(causal, batch)
        hidden = causal.module(**causal.inputs(batch), output_hidden_states=True).hidden_states
    assert torch.equal(cache[at], clean[at] + vector)
    assert torch.equal(cache["decoder.1.resid_post"], cache[at] + cache["decoder.1.mlp_out"])
    for site in ("decoder.1.resid_pre", "decoder.self.1.attn_out", "decoder.0.resid_post"):
        assert torch.equal(cache[site], clean[site])
    assert torch.equal(hidden[1], clean["decoder.1.resid_pre"])
    with torch.no_grad(), causal.nnsight.trace(**causal.inputs(batch)):
        middle = causal.envoy("transformer.h.1.ln_2").input
        middle[:] = middle + vector
        traced = causal.nnsight.output.logits.save()
    assert torch.equal(traced, wanted)

    def hand_on(_: torch.nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0].clone(),)

    handle = norm.register_forward_pre_hook(hand_on, prepend=True)
    with interp.edited(causal, Add(at, vector)):
        assert torch.equal(logits(causal, batch), wanted)
    handle.remove()
    with torch.inference_mode(), interp.edited(causal, Add(at, vector)):
        assert torch.equal(causal.module(**causal.inputs(batch)).logits, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(either: interp.Model, either_batch: Batch, dtype: torch.dtype) -> None:
    model, at = interp.wrap(fresh(either, dtype=dtype)), context(either)
    edits = [
        Mean(f"{at}.0", either_batch),
        Add("decoder.0.resid_mid", 0.5),
        Knockout(f"{first_stack(either)}.self.0.0", query=-1, key=3),
    ]
    with interp.edited(model, edits):
        assert logits(model, either_batch).dtype == dtype


def test_what_a_decoder_alone_does_not_have(causal: interp.Model) -> None:
    """Sites, heads, layers and patterns of an encoder or of cross-attention, in whichever edit or reading."""
    batch = masked_batch(False)
    for place in ("decoder.cross.1.2", "encoder.self.0.1", "decoder.cross.0", "encoder.self.2", "encoder.0.mlp_out",
                  "decoder.0.resid_mid_cross", "decoder.cross.1.z", "encoder.ln_final"):  # fmt: skip
        kinds: list[Any] = [Zero(place), Scale(place, 2.0), Mean(place, batch), Resample(place, batch), Add(place, 1.0)]
        if isinstance(kinds[0].at, interp.Head):
            kinds.append(Knockout(place, key=1))
        for edit in kinds:
            with (
                pytest.raises(
                    (interp.errors.UnknownHead, interp.errors.UnknownSite), match=r"decoder-only GPT-2.*decoder\.self"
                ),
                interp.edited(causal, edit),
            ):
                raise AssertionError("not reached")
    for pattern in ("decoder.cross.*.pattern", "encoder.*.resid_post", "encoder.self.0.z", "*.cross.*.q"):
        with pytest.raises(interp.errors.UnknownSite, match="decoder-only GPT-2"):
            interp.capture(causal, batch, pattern)
    for ask in (causal.heads, causal.layers, causal.kind):
        with pytest.raises(interp.errors.UnknownSite, match=r"'decoder\.cross': tiny-causal is a decoder-only"):
            ask("decoder.cross")
    for ask in (causal.head, causal.weights):
        with pytest.raises(interp.errors.UnknownHead, match="no cross-attention"):
            ask("decoder.cross.0.1")
    for ask in (causal.layer, causal.views):
        with pytest.raises(interp.errors.UnknownSite, match="no cross-attention"):
            ask("decoder.cross.0")
    two = masked_batch(True)
    for edit in (Mean("decoder.self.0", two), Resample("decoder.0.mlp_out", two), FreezePatterns(two)):
        with pytest.raises(InvalidInput, match="decoder-only"), interp.edited(causal, edit):
            raise AssertionError("not reached")
    assert not any(pre or post for _, pre, post in hooks(causal))
