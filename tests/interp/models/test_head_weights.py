"""Weights by head: cut, folded and addressed as the forward pass uses them."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped

import interp
import probes
from interp.models.weights.head_weights import (
    Projections,
    embedding,
    layer_weights,
    position_embedding,
    unembedding,
    unembedding_bias,
)
from interp.names import KINDS, Head
from tests.conftest import masked_batch, tiny_bolt, tiny_causal_pipeline, tiny_gpt2, tiny_pipeline, values_with_gaps
from tests.dense_decoder import dense_head, dense_unembedding, divided
from tests.tolerance import FORWARD, LAYER, close

SITES = [f"{stack}.{kind}" for stack, kind in KINDS]


def scaled(model: interp.Model) -> interp.Model:
    """The norms' scales away from one, so that folding shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if "norm" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator).mul(0.4).exp())
    return model


def rms(stream: torch.Tensor) -> torch.Tensor:
    return stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + 1e-6)  # no tolerance: the norm's own


def inputs_of(model: interp.Model, batch: interp.Batch, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual streams a head's queries, and its keys and values, are read from, before any norm."""
    layer, last = head.layer, model.n_layers["encoder"] - 1
    if head.kind == "cross":
        query, key = f"decoder.{layer}.resid_mid", f"encoder.{last}.resid_post"
    else:
        query = key = f"{head.stack}.{layer}.resid_pre"
    cache = interp.capture(model, batch, [query, key])
    return cache[query], cache[key]


@pytest.mark.parametrize("values", [False, True], ids=["t5", "bolt"])
@pytest.mark.parametrize("address", ["encoder.self.1.2", "decoder.self.1.0", "decoder.cross.0.1", "decoder.cross.1.2"])
def test_folded_weights_act_on_the_residual_stream(
    model: interp.Model, batch: interp.Batch, address: str, values: bool
) -> None:
    """x / rms(x) @ W gives the captured q, k, v; scores are q k^T and the bias; z @ W_O is the head's output."""
    if values:
        model = interp.wrap(tiny_bolt())
        batch = interp.Batch.from_series(model, values_with_gaps())
    head, w = Head.parse(address), scaled(model).weights(address)
    query, key = (rms(stream) for stream in inputs_of(model, batch, head))
    site = f"{head.stack}.{head.kind}.{head.layer}"
    cache = interp.capture(model, batch, [f"{site}.{name}" for name in ("q", "k", "v", "scores", "z", "head_out")])
    for name, made in (("q", query @ w.W_Q), ("k", key @ w.W_K), ("v", key @ w.W_V)):
        close(made, cache[f"{site}.{name}"][:, :, head.head], terms=LAYER)
    close(cache[f"{site}.z"][:, :, head.head] @ w.W_O, cache[f"{site}.head_out"][:, :, head.head], terms=LAYER)
    scores = query @ w.QK.full() @ key.mT
    seen = cache[f"{site}.scores"][:, head.head]
    if head.kind == "self":
        length = seen.shape[-1]
        table = interp.position_bias(
            model, f"{head.stack}.self", range(1 - length, length if head.stack == "encoder" else 1)
        )
        at = {int(distance): place for place, distance in enumerate(table.distances)}
        for q in range(length):
            for k in range(length):
                if k - q in at:
                    scores[:, q, k] += float(table.values[head.head, at[k - q]])
    live = seen > -1e4
    assert int(live.sum()) > (3 if values else 20)  # a decoder of one position has one score
    close(scores[live], seen[live], terms=LAYER)


@pytest.mark.parametrize("site", SITES)
def test_stacked_weights_are_those_of_each_head(model: interp.Model, site: str) -> None:
    for fold in (True, False):
        stacked = scaled(model).stacked_weights(site, fold_norm=fold)
        for head in model.heads(site):
            one, same = model.weights(head, fold_norm=fold), stacked[head]
            for name in ("W_Q", "W_K", "W_V", "W_O"):
                assert torch.equal(getattr(one, name), getattr(same, name))
        norms = stacked.OV.norm()
        assert norms.shape == (model.n_layers[head.stack], model.n_heads)  # type: ignore[possibly-undefined]
        last = stacked[str(head)]  # type: ignore[possibly-undefined]
        close(norms[-1, -1], (last.W_V @ last.W_O).double().norm(), terms=LAYER)


def test_unfolded_weights_are_rows_of_q_k_v_and_columns_of_o(model: interp.Model) -> None:
    attention = model.module.get_submodule("decoder.block.1.layer.1.EncDecAttention")
    w = model.weights("decoder.cross.1.2", fold_norm=False)
    for name in "qkv":
        weight = getattr(attention, name).weight
        cut = getattr(w, f"W_{name.upper()}")
        assert torch.equal(cut, weight[16:24].T)
        assert cut.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr(), "a view, not a copy"
    assert torch.equal(w.W_O, attention.o.weight[:, 16:24].T)  # type: ignore[union-attr, index]
    assert not w.W_Q.requires_grad
    assert w.W_Q.shape == (20, 8)


def test_cross_heads_read_keys_through_the_encoders_final_norm(model: interp.Model) -> None:
    plain, folded = model.weights("decoder.cross.1.2", fold_norm=False), model.weights("decoder.cross.1.2")
    with torch.no_grad():
        model.module.encoder.final_layer_norm.weight.mul_(2)
        after = model.weights("decoder.cross.1.2")
        close(after.W_K, 2 * folded.W_K)
        close(after.W_V, 2 * folded.W_V)
        assert torch.equal(after.W_Q, folded.W_Q)
        model.module.get_submodule("decoder.block.1.layer.1.layer_norm").weight.mul_(3)  # type: ignore[operator, union-attr]
    close(model.weights("decoder.cross.1.2").W_Q, 3 * folded.W_Q)
    assert torch.equal(model.weights("decoder.cross.1.2", fold_norm=False).W_K, plain.W_K)


def test_half_precision_weights_are_folded_in_float32() -> None:
    model = interp.wrap(tiny_pipeline(dtype=torch.bfloat16))
    assert model.weights("decoder.cross.0.0").W_K.dtype == torch.float32
    assert model.weights("decoder.cross.0.0", fold_norm=False).W_K.dtype == torch.bfloat16
    assert float(model.weights("decoder.cross.0.0", fold_norm=False).QK.norm()) > 0


@pytest.mark.parametrize("tied", [True, False])
def test_the_unembedding_gives_the_models_logits(batch: interp.Batch, tied: bool) -> None:
    model = scaled(interp.wrap(tiny_pipeline(tie_word_embeddings=tied)))
    last = f"decoder.{model.n_layers['decoder'] - 1}.resid_post"
    cache = interp.capture(model, batch, [last, "decoder.ln_final", "decoder.logits"])
    close(rms(cache[last]) @ unembedding(model), cache["decoder.logits"], terms=LAYER)
    plain = cache["decoder.ln_final"] @ unembedding(model, fold_norm=False)
    close(plain, cache["decoder.logits"], terms=LAYER)
    first = interp.capture(model, batch, ["encoder.0.resid_pre", "decoder.0.resid_pre"])
    assert torch.equal(embedding(model, "encoder")[batch.input_ids], first["encoder.0.resid_pre"])
    assert torch.equal(embedding(model, "decoder")[batch.decoder_input_ids], first["decoder.0.resid_pre"])


@settings(max_examples=25, deadline=None)
@given(query=st.integers(0, 200), key=st.integers(0, 200), encoder=st.booleans())
def test_the_position_bias_is_hugging_faces(query: int, key: int, encoder: bool) -> None:
    model = interp.wrap(tiny_pipeline())
    stack = model.module.encoder if encoder else model.module.decoder
    if not encoder and key > query:
        key, query = query, key
    attention: Any = stack.get_submodule("block.0.layer.0.SelfAttention")
    with torch.no_grad():
        whole = attention.compute_bias(201, 201)[0]
    found = interp.position_bias(model, "encoder.self" if encoder else "decoder.self", [key - query])
    np.testing.assert_array_equal(found.values[:, 0], whole[:, query, key].double().numpy())


def test_the_preferred_distance_is_the_nearest_of_the_largest_bias(model: interp.Model) -> None:
    attention: Any = model.module.get_submodule("encoder.block.0.layer.0.SelfAttention")
    with torch.no_grad():
        attention.relative_attention_bias.weight.zero_()
        for head, distance in enumerate((-1, 3, -100)):
            bucket = attention._relative_position_bucket(torch.tensor([distance]))
            attention.relative_attention_bias.weight[bucket, head] = 1
    table = interp.position_bias(model, "encoder.self")
    assert list(table.preferred[:2]) == [-1, 3]
    assert -100 <= table.preferred[2] <= -80, "far distances share a bucket: its nearest"
    frame = table.to_frame()
    assert frame.loc[(frame["index"] == 1) & (frame["distance"] == 3), "bias"].item() == 1
    assert len(frame) == 3 * len(table.distances) == 3 * 257
    assert interp.position_bias(model, "decoder.self").distances.max() == 0


def test_shapes_hold(model: interp.Model) -> None:
    assert jaxtyped(embedding, typechecker=beartype)(model, "encoder").shape == (4096, 20)
    assert jaxtyped(unembedding, typechecker=beartype)(model).shape == (20, 4096)
    for value, stack in ((model.weights("decoder.cross.0.1"), ()), (model.stacked_weights("decoder.cross"), (2, 3))):
        for name, kind in Projections.__annotations__.items():
            assert isinstance(getattr(value, name), kind), name
        assert value.W_Q.shape == value.W_K.shape == value.W_V.shape == (*stack, 20, 8)
        assert value.W_O.shape == (*stack, 8, 20)


def test_addresses_that_are_not_there(model: interp.Model) -> None:
    with pytest.raises(interp.errors.UnknownHead, match=r"decoder\.cross\.1\.2"):
        model.weights("decoder.cross.9.2")
    with pytest.raises(interp.errors.UnknownSite, match="there are encoder"):
        model.stacked_weights("encoder.cross")
    with pytest.raises(interp.errors.UnknownHead, match="2 layers of 3 heads"):
        model.stacked_weights("decoder.cross")["decoder.cross.2.0"]
    with pytest.raises(interp.errors.UnknownHead, match="weights of decoder"):
        model.stacked_weights("decoder.cross")["decoder.self.0.0"]


def test_position_biases_that_are_not_there(model: interp.Model) -> None:
    with pytest.raises(interp.errors.UnknownSite, match="has no position bias"):
        interp.position_bias(model, "decoder.cross")
    with pytest.raises(interp.errors.InvalidInput, match="sees no key ahead"):
        interp.position_bias(model, "decoder.self", [-1, 2])
    with pytest.raises(interp.errors.InvalidInput, match="whole number"):
        interp.position_bias(model, "encoder.self", [0.5])  # type: ignore[list-item]


def test_weights_that_cannot_be_read(model: interp.Model) -> None:
    with torch.no_grad():
        model.module.get_submodule("decoder.block.0.layer.1.EncDecAttention.k").weight[3, 3] = torch.nan  # type: ignore[index, operator]
    with pytest.raises(interp.errors.InvalidInput, match=r"EncDecAttention\.k holds NaN"):
        model.weights("decoder.cross.0.0")
    assert model.weights("decoder.cross.1.0").W_K.isfinite().all(), "other layers are not to blame"


def test_meta_and_quantised_weights(model: interp.Model) -> None:
    module = copy.deepcopy(model.module)
    attention: Any = module.get_submodule("decoder.block.0.layer.1.EncDecAttention")
    attention.v = attention.v.to("meta")
    moved = interp.Model("moved", copy.copy(model.pipeline), model.family)
    moved.pipeline.model = copy.copy(moved.pipeline.model)
    moved.pipeline.model.model = module
    with pytest.raises(interp.errors.UnsupportedModel, match="meta device"):
        moved.weights("decoder.cross.0.0")
    attention.v = torch.nn.Linear(20, 24, bias=False)
    attention.v.weight = torch.nn.Parameter(torch.ones(24, 20, dtype=torch.int8), requires_grad=False)
    for weight in (
        attention.v.weight,
        torch.nn.Parameter(torch.ones(24, 20).to(torch.float8_e4m3fn), requires_grad=False),
    ):
        attention.v.weight = weight
        with pytest.raises(interp.errors.UnsupportedModel, match="quantised"):
            moved.weights("decoder.cross.0.0")
    attention.v = torch.nn.Identity()
    with pytest.raises(interp.errors.UnsupportedModel, match="puts out rows of 20, and its heads need 24"):
        moved.weights("decoder.cross.0.0")


@pytest.mark.parametrize("scales", [True, False])
def test_what_is_tied_is_seen_by_the_weights(model: interp.Model, scales: bool) -> None:
    """Whatever the config says of ties, which transformers 5 sets by itself: what is read is what the logits are of."""
    model.module.config.scale_decoder_outputs = scales
    stream = torch.eye(20)
    equal = torch.nn.Parameter(model.module.lm_head.weight.detach().clone())
    for weight in (model.module.lm_head.weight, equal, torch.nn.Parameter(torch.randn(4096, 20))):
        model.module.lm_head.weight = weight
        assert model.module.config.tie_word_embeddings
        with torch.no_grad():
            close(unembedding(model, fold_norm=False), model.unembed(stream), terms=FORWARD)


def test_heads_are_taken_as_scored(pico: interp.Model) -> None:
    scored = probes.induction_mosaic(pico, batch_size=3).either.heads()[0]
    assert pico.weights(scored).head == scored.address  # type: ignore[arg-type]
    assert pico.stacked_weights("decoder.cross")[scored].head == scored.address  # type: ignore[index]
    for wrong in (None, 3, ("decoder", "cross", 0, 1)):
        with pytest.raises(interp.errors.UnknownHead):
            pico.stacked_weights("decoder.cross")[wrong]  # type: ignore[index]
        with pytest.raises(interp.errors.UnknownHead):
            pico.weights(wrong)  # type: ignore[arg-type]
    with pytest.raises(interp.errors.UnknownSite):
        pico.stacked_weights(None)  # type: ignore[arg-type]


def test_weights_whose_sum_overflows_are_finite() -> None:
    model = interp.wrap(tiny_pipeline(dtype=torch.float16))
    with torch.no_grad():
        model.module.get_submodule("decoder.block.0.layer.1.EncDecAttention.k").weight.fill_(60000)  # type: ignore[operator, union-attr]
    assert float(model.weights("decoder.cross.0.0", fold_norm=False).W_K.max()) == 60000


def test_layers_come_one_by_one(model: interp.Model) -> None:
    layer = layer_weights(model, interp.AttentionLayer("decoder", "cross", 1))
    assert torch.equal(layer.W_Q[0], model.stacked_weights("decoder.cross").W_Q[1])


@pytest.fixture
def decoder() -> interp.Model:
    """A causal model in float64."""
    return interp.wrap(tiny_causal_pipeline(dtype=torch.float64))


@pytest.mark.parametrize("fold", [True, False])
def test_a_decoders_weights_are_cut_and_folded_as_written_out(decoder: interp.Model, fold: bool) -> None:
    """Parts of the fused projection, kept as they act on rows; scale, shift, mean and 1/sqrt(d_head) where folded."""
    stacked = decoder.stacked_weights("decoder.self", fold_norm=fold)
    for head in decoder.heads():
        wanted, found = dense_head(decoder.module, head, fold), stacked[head]
        for name in "QKV":
            close(getattr(found, f"W_{name}"), getattr(wanted, name), terms=FORWARD, dtype=torch.float64)
            close(getattr(found, f"b_{name}"), getattr(wanted, name.lower()), terms=FORWARD, dtype=torch.float64)
        assert torch.equal(found.W_O, wanted.O)
        close(found.QK.full(), wanted.QK, terms=FORWARD, dtype=torch.float64)
        close(found.OV.full(), wanted.OV, terms=FORWARD, dtype=torch.float64)
        own = decoder.weights(head, fold_norm=fold)
        assert all(torch.equal(getattr(own, f"b_{name}"), getattr(found, f"b_{name}")) for name in "QKVO")
    if not fold:
        fused = decoder.module.transformer.h[1].attn.c_attn.weight
        assert decoder.weights("decoder.self.1.2", fold_norm=False).W_K.data_ptr() == fused[:, 24 + 16 :].data_ptr()


def test_a_decoders_scores_and_logits_are_its_folded_weights(decoder: interp.Model) -> None:
    """On the divided stream, at every layer and with padding: q, k, v, scores, what heads write, and logits."""
    batch = masked_batch(encoder=False)
    cache = interp.capture(decoder, batch, [str(site) for site in decoder.sites()])
    for layer in range(3):
        read = divided(cache[f"decoder.{layer}.resid_pre"])
        site = f"decoder.self.{layer}"
        scores, written = cache[f"{site}.scores"], cache[f"{site}.attn_out"] - cache[f"{site}.head_out"].sum(2)
        live = scores > -1e30
        assert int(live[0].sum()) == 3 * 14 * 15 / 2
        for head in decoder.heads("decoder.self")[3 * layer : 3 * layer + 3]:
            w = decoder.weights(head)
            for name, W, b in (("q", w.W_Q, w.b_Q), ("k", w.W_K, w.b_K), ("v", w.W_V, w.b_V)):
                # What is captured as q is without the factor of the scores.
                factor = 8**0.5 if name == "q" else 1
                made = (read @ W + b) * factor
                close(made, cache[f"{site}.{name}"][:, :, head.head], terms=FORWARD, dtype=torch.float64)
            made = (read @ w.W_Q + w.b_Q) @ (read @ w.W_K + w.b_K).mT
            own = live[:, head.head]
            close(made[own], scores[:, head.head][own], terms=FORWARD, dtype=torch.float64)
            close(
                cache[f"{site}.z"][:, :, head.head] @ w.W_O,
                cache[f"{site}.head_out"][:, :, head.head],
                terms=FORWARD,
                dtype=torch.float64,
            )
            close(written, w.b_O.expand_as(written), terms=FORWARD, dtype=torch.float64)
    last, logits = divided(cache["decoder.2.resid_post"]), cache["decoder.logits"]
    close(last @ unembedding(decoder) + unembedding_bias(decoder), logits, terms=FORWARD, dtype=torch.float64)
    W_U, b_U = dense_unembedding(decoder.module, True)
    close(unembedding(decoder), W_U, terms=FORWARD, dtype=torch.float64)
    close(unembedding_bias(decoder), b_U, terms=FORWARD, dtype=torch.float64)
    assert float(b_U.abs().max()) > 0.1, "the norm's shift is not nothing here"


def test_a_decoder_embeds_tokens_and_positions(decoder: interp.Model) -> None:
    ids = torch.randint(2, 4096, (2, 7), generator=torch.Generator().manual_seed(0))
    stream = interp.capture(decoder, interp.Batch(decoder_input_ids=ids), ["decoder.0.resid_pre"])
    made = embedding(decoder, "decoder")[ids] + position_embedding(decoder)[:7]
    assert torch.equal(made, stream["decoder.0.resid_pre"])
    with pytest.raises(interp.errors.UnknownSite, match="positions are embedded there, as W_pos"):
        interp.position_bias(decoder, "decoder.self")
    with pytest.raises(interp.errors.UnknownSite, match="embeds no positions"):
        position_embedding(interp.wrap(tiny_pipeline()))
    for kind in ("encoder.self", "decoder.cross"):
        with pytest.raises(interp.errors.UnknownSite, match="has no encoder and no cross-attention"):
            decoder.stacked_weights(kind)


def test_scores_are_scaled_as_the_config_says() -> None:
    """By each layer's number too, or not at all: the factor is the attention module's own."""
    batch = masked_batch(encoder=False)
    for options in ({"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}):
        model = interp.wrap(tiny_gpt2(dtype=torch.float64, **options))
        cache = interp.capture(model, batch, ["decoder.2.resid_pre", "decoder.self.2.scores"])
        read, w = divided(cache["decoder.2.resid_pre"]), model.weights("decoder.self.2.1")
        seen = cache["decoder.self.2.scores"][:, 1]
        made = (read @ w.W_Q + w.b_Q) @ (read @ w.W_K + w.b_K).mT
        close(made[seen > -1e30], seen[seen > -1e30], terms=FORWARD, dtype=torch.float64)


def test_half_precision_biases_are_folded_in_float32() -> None:
    model = interp.wrap(tiny_gpt2(dtype=torch.bfloat16))
    for name in ("W_Q", "W_O", "b_Q", "b_O"):
        assert getattr(model.weights("decoder.self.0.0"), name).dtype == torch.float32
        assert getattr(model.weights("decoder.self.0.0", fold_norm=False), name).dtype == torch.bfloat16
