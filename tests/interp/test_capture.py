"""Captured values are Hugging Face's own, in one forward, and nothing stays behind."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp
from interp import Batch, Model, Site, capture
from tests.conftest import context, fresh, masked_batch, without_heads
from tests.tolerance import FORWARD, close

pytestmark = pytest.mark.versions


def everything(model: Model, batch: Batch) -> Any:
    """What plain Hugging Face puts out."""
    options = {"output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        return fresh(model).model.model(**model.inputs(batch), **options)


def test_equal_to_hugging_face_bit_for_bit(either: Model, either_batch: Batch) -> None:
    cache, found = capture(either, either_batch, either.sites()), everything(either, either_batch)
    alone = "" if either.has_encoder else None
    patterns = {"encoder.self": "encoder_attentions", "decoder.cross": "cross_attentions"}
    for at in either.layers():
        name = "attentions" if alone is None else patterns.get(f"{at.stack}.{at.kind}", "decoder_attentions")
        assert torch.equal(cache[f"{at}.pattern"], found[name][at.layer])
    for stack in either.family.stacks:
        hidden = found["hidden_states" if alone is None else f"{stack}_hidden_states"]
        layers = either.n_layers[stack]
        assert len(hidden) == layers + 1
        for layer in range(layers):
            assert torch.equal(cache[f"{stack}.{layer}.resid_pre"], hidden[layer])
        assert torch.equal(cache[f"{stack}.ln_final"], hidden[-1])
    assert torch.equal(cache["decoder.logits"], found.logits)


def test_every_site_has_its_axes(either: Model, either_batch: Batch) -> None:
    cache = capture(either, either_batch, either.sites())
    assert list(cache) == [str(site) for site in either.sites()]
    assert not [name for name, value in cache.items() if value.requires_grad]
    enc, dec = either_batch.input_ids.shape[1], either_batch.decoder_input_ids.shape[1]
    assert (enc, dec) == ((9, 5) if either.has_encoder else (0, 14))
    heads, d_head, d_model = 3, 8, either.d_model
    for site in either.sites():
        queries = enc if site.stack == "encoder" else dec
        keys = dec if (site.stack, site.kind) == ("decoder", "self") else enc
        shapes = dict.fromkeys(("q", "z"), (4, queries, heads, d_head)) | dict.fromkeys(
            ("k", "v"), (4, keys, heads, d_head)
        )
        shapes |= dict.fromkeys(("scores", "pattern"), (4, heads, queries, keys))
        shapes |= {"head_out": (4, queries, heads, d_model), "logits": (4, dec, 4096)}
        assert tuple(cache[site].shape) == shapes.get(site.name, (4, queries, d_model)), site


def test_the_parts_add_up(either: Model, either_batch: Batch) -> None:
    """Residual stream, attention and MLP outputs, head outputs: the sums that define them."""
    c = capture(either, either_batch, either.sites())
    for stack in either.family.stacks:
        middles = {"self": "resid_mid", "cross": "resid_mid_cross"}
        kinds = [kind for s, kind in either.family.kinds if s == stack]
        for layer in range(either.n_layers[stack]):
            total = c[f"{stack}.{layer}.resid_pre"]
            for kind in kinds:
                total = total + c[f"{stack}.{kind}.{layer}.attn_out"]
                assert torch.equal(c[f"{stack}.{layer}.{middles[kind]}"], total)
            assert torch.equal(c[f"{stack}.{layer}.resid_post"], total + c[f"{stack}.{layer}.mlp_out"])
    for at in either.layers():
        heads = c[f"{at}.head_out"].sum(2) + either.weights(f"{at}.0").b_O
        close(heads, c[f"{at}.attn_out"], terms=FORWARD)
    if not either.has_encoder:
        assert float(either.weights("decoder.self.0.0").b_O.abs().min()) > 0


def test_scores_pattern_z_by_hand(model: Model, batch: Batch) -> None:
    """q, k, v, scores, pattern and z are tied by the attention formula, heads on the right axis."""
    c = capture(model, batch, "decoder.cross.1.*")
    q, k, v = (c[f"decoder.cross.1.{name}"].transpose(1, 2) for name in "qkv")
    mask = torch.zeros(4, 1, 1, 9).masked_fill(batch.attention_mask[:, None, None] == 0, torch.finfo().min)
    scores = q @ k.transpose(-1, -2) + mask
    close(c["decoder.cross.1.scores"], scores)
    close(c["decoder.cross.1.pattern"], scores.softmax(-1))
    close(c["decoder.cross.1.z"], (scores.softmax(-1) @ v).transpose(1, 2))
    assert float(c["decoder.cross.1.pattern"][1, :, :, :2].max()) == 0


def test_scores_pattern_z_of_gpt2_by_hand(causal: Model) -> None:
    """The same with a causal mask and 1/sqrt(d_head), from the very columns of the fused weight that are whose."""
    batch = masked_batch(False)
    c = capture(causal, batch, ["decoder.self.1.*", "decoder.1.resid_pre"])
    block = causal.module.transformer.h[1]
    x = block.ln_1(c["decoder.1.resid_pre"])
    q, k, v = ((x @ w + b).unflatten(-1, (3, 8)).transpose(1, 2) for w, b in zip(
        block.attn.c_attn.weight.split(24, 1), block.attn.c_attn.bias.split(24), strict=True))  # fmt: skip
    for name, value in zip("qkv", (q, k, v), strict=True):
        close(c[f"decoder.self.1.{name}"].transpose(1, 2), value, terms=FORWARD)
    seen = torch.ones(14, 14).tril().bool() & batch.decoder_attention_mask[:, None, None].bool()
    scores = (q @ k.transpose(-1, -2) * 8**-0.5).masked_fill(~seen, -torch.inf)
    shown = batch.decoder_attention_mask.bool()
    pattern = c["decoder.self.1.pattern"].transpose(1, 2)[shown]
    close(pattern, scores.softmax(-1).transpose(1, 2)[shown], terms=FORWARD)
    assert float(pattern[~seen.expand(4, 3, 14, 14).transpose(1, 2)[shown]].max()) == 0
    z = (scores.softmax(-1) @ v).transpose(1, 2)
    close(c["decoder.self.1.z"][shown], z[shown], terms=FORWARD)


def test_one_forward_that_stops_after_the_last_site(either: Model, either_batch: Batch) -> None:
    calls: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1

        return hook

    sites, family = {str(site): either.family.point(site).path for site in either.sites()}, either.family
    stack, kind = family.context
    first = "encoder" if family.has_encoder else "decoder"
    paths = (f"{family.blocks[first]}.0", sites[f"{stack}.{kind}.1.k"], sites["decoder.1.mlp_out"], "lm_head")
    handles = [either.module.get_submodule(p).register_forward_hook(count(p)) for p in paths]
    capture(either, either_batch, [f"{stack}.{kind}.1.pattern", f"{first}.self.*.z"][: 1 + family.has_encoder])
    assert calls == {paths[0]: 1, paths[1]: 1}
    capture(either, either_batch, f"{first}.1.resid_pre")
    assert calls == {paths[0]: 2, paths[1]: 1}
    for handle in handles:
        handle.remove()


def test_values_are_copies_of_what_was_there(either: Model, either_batch: Batch) -> None:
    """A later hook that edits in place must not change what was captured before it."""

    def spoil(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        args[0].zero_()

    clean = capture(either, either_batch, "decoder.1.resid_pre")["decoder.1.resid_pre"]
    path = "decoder.block.1.layer.0" if either.has_encoder else "transformer.h.1.ln_1"
    handle = either.module.get_submodule(path).register_forward_pre_hook(spoil)
    spoiled = capture(either, either_batch, ["decoder.1.resid_pre", "decoder.1.resid_mid"])
    handle.remove()
    assert torch.equal(spoiled["decoder.1.resid_pre"], clean)
    assert not spoiled["decoder.1.resid_pre"].requires_grad


@pytest.mark.parametrize("inner", [False, True])
def test_an_attention_output_is_read_as_it_is_handed_on(either: Model, either_batch: Batch, inner: bool) -> None:
    """Whichever module a hook edits it at, what is captured is what the residual stream gets."""

    def silence(_: nn.Module, __: Any, output: Any) -> Any:
        return torch.zeros_like(output) if inner else (torch.zeros_like(output[0]), *output[1:])

    stack, kind = either.family.context
    at = interp.AttentionLayer(stack, kind, 1)
    path = either.family.point(Site(stack, kind, 1, "z")).path if inner else either.family.attention_path(at)
    before, after = ("mid", "mid_cross") if kind == "cross" else ("pre", "mid")
    handle = either.module.get_submodule(path).register_forward_hook(silence)
    cache = capture(either, either_batch, [f"{at}.attn_out", f"decoder.1.resid_{before}", f"decoder.1.resid_{after}"])
    handle.remove()
    assert not bool(cache[f"{at}.attn_out"].any())
    assert torch.equal(cache[f"decoder.1.resid_{before}"], cache[f"decoder.1.resid_{after}"])


def test_nothing_stays_behind(either: Model, either_batch: Batch) -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        first = either.module(**either.inputs(either_batch)).logits
    capture(either, either_batch, either.sites())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in either.module.modules())
    with torch.no_grad():
        assert torch.equal(first, either.module(**either.inputs(either_batch)).logits)
    assert torch.is_grad_enabled()
    assert torch.equal(before, torch.get_rng_state())


def test_unembed_gives_the_logits(either: Model, either_batch: Batch) -> None:
    cache = capture(either, either_batch, ["decoder.ln_final", "decoder.logits"])
    with torch.no_grad():
        assert torch.equal(either.unembed(cache["decoder.ln_final"]), cache["decoder.logits"])


def test_views_read_and_assign(either: Model, either_batch: Batch) -> None:
    """Zeroing a head's z in a trace equals zeroing its rows of W_O; flat and by head agree."""
    at = context(either, 1)
    view = either.views(at)
    cache = capture(either, either_batch, f"{at}.*")
    with torch.no_grad(), either.nnsight.trace(**either.inputs(either_batch)):
        q, k, v = view.q.clone().save(), view.k.clone().save(), view.v.clone().save()
        scores, pattern = view.scores.clone().save(), view.pattern.clone().save()
        view.z[:, :, 1] = 0
        edited = either.nnsight.output.logits.save()
    for name, value in (("q", q), ("k", k), ("v", v), ("scores", scores), ("pattern", pattern)):
        assert torch.equal(value, cache[f"{at}.{name}"]), name
    with torch.no_grad():
        expected = without_heads(either, f"{at}.1").model.model(**either.inputs(either_batch)).logits
    assert torch.equal(edited, expected)


@pytest.mark.parametrize("name", ["q", "k", "v", "z", "scores", "pattern"])
def test_every_view_is_live_when_assigned(either: Model, either_batch: Batch, name: str) -> None:
    at = context(either, 0)
    view = either.views(at)
    value = capture(either, either_batch, f"{at}.{name}")[f"{at}.{name}"]
    with torch.no_grad():
        clean = either.module(**either.inputs(either_batch)).logits
    logits: list[Tensor] = []
    for new in (value, value.flip(1)):
        with torch.no_grad(), either.nnsight.trace(**either.inputs(either_batch)):
            setattr(view, name, new)
            out = either.nnsight.output.logits.save()
        logits.append(out)
    assert torch.equal(logits[0], clean)
    assert not torch.equal(logits[1], clean)
    with torch.no_grad():
        assert torch.equal(either.module(**either.inputs(either_batch)).logits, clean)


def test_views_of_one_module_are_assigned_side_by_side(either: Model, either_batch: Batch) -> None:
    """GPT-2 puts out q, k and v as one tensor: what is assigned to one leaves the others, edited or not."""
    at = context(either, 1)
    view, cache = either.views(at), capture(either, either_batch, f"{at}.*")
    with torch.no_grad(), either.nnsight.trace(**either.inputs(either_batch)):
        view.q = cache[f"{at}.q"] * 2
        view.k[:, :, 1] = 0
        view.v = cache[f"{at}.v"].flip(2)
        scores, z = view.scores.clone().save(), view.z.clone().save()
    edits = [interp.Scale(f"{at}.q", 2.0)]
    with interp.edited(either, edits), torch.no_grad(), either.nnsight.trace(**either.inputs(either_batch)):
        view.k[:, :, 1] = 0
        again = view.scores.clone().save()
    assert torch.equal(scores, again)
    mask = cache[f"{at}.scores"] <= torch.finfo(torch.float32).min / 2
    wanted = (2 * cache[f"{at}.scores"][:, [0, 2]]).masked_fill(mask[:, [0, 2]], torch.finfo(torch.float32).min)
    close(scores[:, [0, 2]].clamp(min=torch.finfo(torch.float32).min), wanted)
    assert not scores[:, 1][~mask[:, 1]].any()
    flipped = cache[f"{at}.v"].flip(2).transpose(1, 2)
    close(z, (scores.softmax(-1) @ flipped).transpose(1, 2))


def test_no_sites_is_an_error(model: Model, batch: Batch) -> None:
    with pytest.raises(interp.errors.InvalidInput, match="no sites"):
        capture(model, batch, [])


def test_a_site_that_was_not_captured_is_an_error(model: Model, batch: Batch) -> None:
    cache = capture(model, batch, "decoder.cross.1.pattern")
    assert "decoder.cross.1.pattern" in cache
    with pytest.raises(interp.errors.UnknownSite, match=r"Did you mean 'decoder\.cross\.1\.pattern'"):
        cache["decoder.cross.0.pattern"]


def test_tokens_outside_the_vocabulary(either: Model) -> None:
    ids = torch.tensor([[5, 4096]])
    bad = Batch(input_ids=ids) if either.has_encoder else Batch(decoder_input_ids=ids)
    with pytest.raises(interp.errors.InvalidInput, match=r"token 4096.*0-4095"):
        capture(either, bad, "decoder.0.resid_pre")


def test_a_sequence_over_the_positions(causal: Model) -> None:
    assert causal.max_positions == 96
    longest = Batch(decoder_input_ids=torch.arange(2, 98)[None])
    assert capture(causal, longest, "decoder.logits")["decoder.logits"].shape == (1, 96, 4096)
    with pytest.raises(interp.errors.InvalidInput, match=r"97 tokens: tiny-causal has 96 positions"):
        capture(causal, Batch(decoder_input_ids=torch.arange(2, 99)[None]), "decoder.0.resid_pre")


def test_a_batch_of_the_other_family(model: Model, causal: Model) -> None:
    with pytest.raises(interp.errors.InvalidInput, match="decoder-only GPT-2 and has no encoder to read input_ids"):
        capture(causal, masked_batch(True), "decoder.0.resid_pre")
    with pytest.raises(interp.errors.InvalidInput, match="has an encoder, and the batch has no tokens for it"):
        capture(model, masked_batch(False), "decoder.0.resid_pre")
