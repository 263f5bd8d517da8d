"""Captured values are Hugging Face's own, in one forward, and nothing stays behind."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

import interp
from interp import Batch, Model, capture


@pytest.fixture
def everything(plain: T5ForConditionalGeneration, batch: Batch) -> Any:
    with torch.no_grad():
        return plain(**batch.inputs, output_attentions=True, output_hidden_states=True)


def test_equal_to_hugging_face_bit_for_bit(model: Model, batch: Batch, everything: Any) -> None:
    cache = capture(model, batch, model.sites())
    for layer in range(3):
        assert torch.equal(cache[f"encoder.self.{layer}.pattern"], everything.encoder_attentions[layer])
        assert torch.equal(cache[f"encoder.{layer}.resid_pre"], everything.encoder_hidden_states[layer])
    for layer in range(2):
        assert torch.equal(cache[f"decoder.self.{layer}.pattern"], everything.decoder_attentions[layer])
        assert torch.equal(cache[f"decoder.cross.{layer}.pattern"], everything.cross_attentions[layer])
        assert torch.equal(cache[f"decoder.{layer}.resid_pre"], everything.decoder_hidden_states[layer])
    assert torch.equal(cache["encoder.ln_final"], everything.encoder_last_hidden_state)
    assert torch.equal(cache["decoder.ln_final"], everything.decoder_hidden_states[-1])
    assert torch.equal(cache["decoder.logits"], everything.logits)


def test_every_site_has_its_axes(model: Model, batch: Batch) -> None:
    cache = capture(model, batch, model.sites())
    assert list(cache) == [str(site) for site in model.sites()]
    assert not [name for name, value in cache.items() if value.requires_grad]
    enc, dec, heads, d_head, d_model = 9, 5, 3, 8, 20
    shapes = {
        "encoder.self.1.scores": (4, heads, enc, enc),
        "decoder.self.1.pattern": (4, heads, dec, dec),
        "decoder.cross.1.pattern": (4, heads, dec, enc),
        "decoder.cross.1.q": (4, dec, heads, d_head),
        "decoder.cross.1.k": (4, enc, heads, d_head),
        "decoder.cross.1.v": (4, enc, heads, d_head),
        "decoder.cross.1.z": (4, dec, heads, d_head),
        "decoder.cross.1.head_out": (4, dec, heads, d_model),
        "decoder.1.resid_mid_cross": (4, dec, d_model),
        "encoder.0.mlp_out": (4, enc, d_model),
    }
    assert {name: tuple(cache[name].shape) for name in shapes} == shapes


def test_the_parts_add_up(model: Model, batch: Batch) -> None:
    """Residual stream, attention and MLP outputs, head outputs: the sums that define them."""
    c = capture(model, batch, model.sites())
    for layer in range(3):
        at = f"encoder.{layer}"
        mid = c[f"{at}.resid_pre"] + c[f"encoder.self.{layer}.attn_out"]
        assert torch.equal(c[f"{at}.resid_mid"], mid)
        assert torch.equal(c[f"{at}.resid_post"], mid + c[f"{at}.mlp_out"])
    for layer in range(2):
        at = f"decoder.{layer}"
        sums = {
            f"{at}.resid_mid": c[f"{at}.resid_pre"] + c[f"decoder.self.{layer}.attn_out"],
            f"{at}.resid_mid_cross": c[f"{at}.resid_mid"] + c[f"decoder.cross.{layer}.attn_out"],
            f"{at}.resid_post": c[f"{at}.resid_mid_cross"] + c[f"{at}.mlp_out"],
        }
        for name, total in sums.items():
            assert torch.equal(c[name], total), name
    for name in c:
        if name.endswith("head_out"):
            torch.testing.assert_close(c[name].sum(2), c[name.replace("head_out", "attn_out")], atol=2e-6, rtol=1e-5)


def test_scores_pattern_z_by_hand(model: Model, batch: Batch) -> None:
    """q, k, v, scores, pattern and z are tied by the attention formula, heads on the right axis."""
    c = capture(model, batch, "decoder.cross.1.*")
    q, k, v = (c[f"decoder.cross.1.{name}"].transpose(1, 2) for name in "qkv")
    mask = torch.zeros(4, 1, 1, 9).masked_fill(batch.attention_mask[:, None, None] == 0, torch.finfo().min)
    scores = q @ k.transpose(-1, -2) + mask
    torch.testing.assert_close(c["decoder.cross.1.scores"], scores)
    torch.testing.assert_close(c["decoder.cross.1.pattern"], scores.softmax(-1))
    torch.testing.assert_close(c["decoder.cross.1.z"], (scores.softmax(-1) @ v).transpose(1, 2))
    assert float(c["decoder.cross.1.pattern"][1, :, :, :2].max()) == 0


def test_one_forward_that_stops_after_the_last_site(model: Model, batch: Batch) -> None:
    calls: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1

        return hook

    paths = ("encoder.block.0", "decoder.block.1.layer.1.EncDecAttention.k", "decoder.block.1.layer.2", "lm_head")
    handles = [model.module.get_submodule(p).register_forward_hook(count(p)) for p in paths]
    capture(model, batch, ["decoder.cross.*.pattern", "encoder.self.*.z"])
    assert calls == {paths[0]: 1, paths[1]: 1}
    capture(model, batch, "encoder.1.resid_pre")
    assert calls == {paths[0]: 2, paths[1]: 1}
    for handle in handles:
        handle.remove()


def test_values_are_copies_of_what_was_there(model: Model, batch: Batch) -> None:
    """A later hook that edits in place must not change what was captured before it."""

    def spoil(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        args[0].zero_()

    clean = capture(model, batch, "decoder.1.resid_pre")["decoder.1.resid_pre"]
    handle = model.module.get_submodule("decoder.block.1.layer.0").register_forward_pre_hook(spoil)
    spoiled = capture(model, batch, ["decoder.1.resid_pre", "decoder.1.resid_mid"])
    handle.remove()
    assert torch.equal(spoiled["decoder.1.resid_pre"], clean)
    assert not spoiled["decoder.1.resid_pre"].requires_grad


@pytest.mark.parametrize("suffix", ["", ".o"])
def test_an_attention_output_is_read_as_it_is_handed_on(model: Model, batch: Batch, suffix: str) -> None:
    """Whichever module a hook edits it at, what is captured is what the residual stream gets."""

    def silence(_: nn.Module, __: Any, output: Any) -> Any:
        return torch.zeros_like(output) if suffix else (torch.zeros_like(output[0]), *output[1:])

    path = f"decoder.block.1.layer.1.EncDecAttention{suffix}"
    handle = model.module.get_submodule(path).register_forward_hook(silence)
    cache = capture(model, batch, ["decoder.cross.1.attn_out", "decoder.1.resid_mid", "decoder.1.resid_mid_cross"])
    handle.remove()
    assert not bool(cache["decoder.cross.1.attn_out"].any())
    assert torch.equal(cache["decoder.1.resid_mid"], cache["decoder.1.resid_mid_cross"])


def test_nothing_stays_behind(model: Model, batch: Batch) -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        first = model.module(**batch.inputs).logits
    capture(model, batch, model.sites())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.module.modules())
    with torch.no_grad():
        assert torch.equal(first, model.module(**batch.inputs).logits)
    assert torch.is_grad_enabled()
    assert torch.equal(before, torch.get_rng_state())


def test_unembed_gives_the_logits(model: Model, batch: Batch) -> None:
    cache = capture(model, batch, ["decoder.ln_final", "decoder.logits"])
    with torch.no_grad():
        assert torch.equal(model.unembed(cache["decoder.ln_final"]), cache["decoder.logits"])


def test_views_read_and_assign(model: Model, batch: Batch) -> None:
    """Zeroing a head's z in a trace equals zeroing its rows of W_O; flat and by head agree."""
    view = model.views("decoder.cross.1")
    cache = capture(model, batch, "decoder.cross.1.*")
    with torch.no_grad(), model.nnsight.trace(**model.inputs(batch)):
        q, k, v = view.q.clone().save(), view.k.clone().save(), view.v.clone().save()
        scores, pattern = view.scores.clone().save(), view.pattern.clone().save()
        view.z[:, :, 1] = 0
        edited = model.nnsight.output.logits.save()
    for name, value in (("q", q), ("k", k), ("v", v), ("scores", scores), ("pattern", pattern)):
        assert torch.equal(value, cache[f"decoder.cross.1.{name}"]), name
    o = model.module.get_submodule("decoder.block.1.layer.1.EncDecAttention.o")
    with torch.no_grad():
        kept = o.weight.clone()
        o.weight[:, 8:16] = 0  # type: ignore[index]
        expected = model.module(**batch.inputs).logits
        o.weight.copy_(kept)  # type: ignore[operator]
    assert torch.equal(edited, expected)


@pytest.mark.parametrize("name", ["q", "k", "v", "z", "scores", "pattern"])
def test_every_view_is_live_when_assigned(model: Model, batch: Batch, name: str) -> None:
    view = model.views("decoder.cross.0")
    value = capture(model, batch, f"decoder.cross.0.{name}")[f"decoder.cross.0.{name}"]
    with torch.no_grad():
        clean = model.module(**batch.inputs).logits
    logits: list[Tensor] = []
    for new in (value, value.flip(1)):
        with torch.no_grad(), model.nnsight.trace(**model.inputs(batch)):
            setattr(view, name, new)
            out = model.nnsight.output.logits.save()
        logits.append(out)
    assert torch.equal(logits[0], clean)
    assert not torch.equal(logits[1], clean)


def test_no_sites_is_an_error(model: Model, batch: Batch) -> None:
    with pytest.raises(interp.InvalidInput, match="no sites"):
        capture(model, batch, [])


def test_a_site_that_was_not_captured_is_an_error(model: Model, batch: Batch) -> None:
    cache = capture(model, batch, "decoder.cross.1.pattern")
    assert "decoder.cross.1.pattern" in cache
    with pytest.raises(interp.UnknownSite, match=r"Did you mean 'decoder\.cross\.1\.pattern'"):
        cache["decoder.cross.0.pattern"]


def test_tokens_outside_the_vocabulary(model: Model) -> None:
    bad = Batch(input_ids=torch.tensor([[5, 4096]]))
    with pytest.raises(interp.InvalidInput, match=r"token 4096.*0-4095"):
        capture(model, bad, "encoder.0.resid_pre")
