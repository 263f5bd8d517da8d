"""Direct attribution: parts sum to what the model itself gives, predicted effects are the measured ones."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import circuits
import interp
import probes
from circuits.attribution.by_position import AttributionByPosition
from circuits.attribution.direct import DirectAttribution
from circuits.attribution.readout import value_weights
from circuits.measurement import metric_name
from circuits.metrics import bin_centers, distance_to, median, pinball, quantile, towards
from interp import Batch
from interp.errors import InvalidInput, MissingCapability
from interp.results.by_head import as_heads
from tests.conftest import masked_batch, tiny_bolt, tiny_causal_pipeline, tiny_gpt2, tiny_pipeline, values_with_gaps
from tests.planted import content_matcher
from tests.tolerance import BUNDLED, FORWARD, LAYER, close, tolerance


def made(seed: int = 0, dtype: torch.dtype = torch.float32, scaled: bool | None = None, **changes: Any) -> interp.Model:
    """A tiny model whose final norm has a scale of its own, which the fresh one has not."""
    if changes.pop("alone", False):
        return interp.wrap(tiny_causal_pipeline(seed, dtype, **changes), name="tiny")
    pipeline = tiny_pipeline(seed, dtype, **changes)
    module: Any = pipeline.model.model
    with torch.no_grad():
        module.decoder.final_layer_norm.weight.copy_(torch.rand(20, generator=torch.Generator().manual_seed(9)) + 0.5)
    if scaled is not None:
        module.config.scale_decoder_outputs = scaled
    return interp.wrap(pipeline, name="tiny")


@torch.no_grad()
def logits_of(model: interp.Model, batch: Batch) -> Tensor:
    """The model's logits, NaN at padding."""
    return at_tokens(batch, model.module(**model.inputs(batch)).logits)


def at_tokens(batch: Batch, values: Tensor) -> Tensor:
    """Values `[row, pos, ...]` of the decoder, NaN at padding."""
    hidden = batch.decoder_attention_mask == 0
    return values.masked_fill(hidden.reshape(*hidden.shape, *[1] * (values.ndim - 2)), torch.nan)


TIED = [
    {},
    {"tie_word_embeddings": False},
    {"scaled": False},
    {"tie_word_embeddings": False, "scaled": True},
]
ALONE: list[dict[str, Any]] = [{"alone": True}, {"alone": True, "tie_word_embeddings": False}]
BOTH = pytest.mark.parametrize("alone", [False, True], ids=["t5", "gpt2"])


def batch_for(model: interp.Model) -> Batch:
    """Four rows with padding, of nine encoder and five decoder tokens or fourteen of a decoder alone."""
    return masked_batch(model.has_encoder)


def inverse(model: interp.Model, stream: Tensor) -> Tensor:
    """One over the deviation of the final norm, as plain formulas have it."""
    if model.has_encoder:
        epsilon = model.module.decoder.final_layer_norm.variance_epsilon
        return (stream.float().pow(2).mean(-1, keepdim=True) + epsilon).rsqrt().to(stream)
    return (stream.var(-1, unbiased=False, keepdim=True) + model.module.transformer.ln_f.eps).rsqrt()


@pytest.mark.parametrize(
    "changes", [*TIED, *ALONE], ids=["tied", "untied", "tied unscaled", "untied scaled", "gpt2", "gpt2 untied"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_sum_to_the_models_own_logits(changes: dict[str, Any], dtype: torch.dtype) -> None:
    model = made(dtype=dtype, **changes)
    batch = batch_for(model)
    logits = logits_of(model, batch).double()
    target, against = torch.tensor([5, 900, 2049, 4095]), torch.tensor([2049, 0, 1, 77])
    rows = torch.arange(4)[:, None], torch.arange(logits.shape[1])
    for other, wanted in (
        (None, logits[rows[0], rows[1], target[:, None]]),
        (against, logits[rows[0], rows[1], target[:, None]] - logits[rows[0], rows[1], against[:, None]]),
    ):
        found = circuits.direct_attribution(model, batch, target=target, against=other)
        if model.has_encoder:
            assert found.values.shape == (1 + 2 * (3 + 3 + 1), 4, 5)
        else:
            assert found.values.shape == (1 + 3 * (3 + 1) + 1, 4, 14)
            assert np.nanmin(np.abs(found.values[-1])) > 0, "biases"
        assert (found.parts[-1] == "biases") != model.has_encoder
        close(found.total, wanted, terms=FORWARD, dtype=torch.float64)
        close(found.values.sum(0), wanted, of=np.nanmax(np.abs(found.values).sum(0)), terms=LAYER, dtype=dtype)
        assert np.nanmax(np.abs(found.values)) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("changes", [*TIED[:2], ALONE[0]], ids=["tied", "untied", "gpt2"])
def test_parts_sum_to_the_expected_value(changes: dict[str, Any], dtype: torch.dtype) -> None:
    model = made(dtype=dtype, **changes)
    batch = batch_for(model)
    values = probes.token_values(model, torch.arange(2, 4096)).double()
    wanted = logits_of(model, batch).double()[..., 2:].softmax(-1) @ values - values.mean()
    found = circuits.direct_attribution(model, batch)
    close(found.total, wanted, terms=FORWARD, dtype=torch.float64)
    close(found.values.sum(0), wanted, of=15, terms=LAYER, dtype=dtype)  # values of tokens go up to 15
    assert np.nanmax(np.abs(wanted)) > 0.01


TINY = 2.0**-20


def test_value_weights_on_paper() -> None:
    """Two bins at 0 and 1: E is a sigmoid, and the weight of the upper logit is its rise over the logit."""
    for logit in (-40.0, -3.0, 2.0**-30, 0.5, 9.0, 300.0):
        weights, total = value_weights(
            torch.tensor([1.0, 1.0 + logit], dtype=torch.float64), torch.tensor([0.0, 1.0]).double()
        )
        rise = torch.sigmoid(torch.tensor(logit).double()) - 0.5
        close(float(total), float(rise), terms=FORWARD, dtype=torch.float64)
        slope = float(rise) / logit if abs(logit) > TINY else 0.25
        close(float(weights[1]), slope, of=max(1, TINY / abs(logit)), terms=LAYER, dtype=torch.float64)
        close(float(weights.sum()), 0, of=1, dtype=torch.float64)
    with pytest.raises(InvalidInput, match="nats apart"):
        value_weights(torch.tensor([0, 1e8]).double(), torch.tensor([0.0, 1.0]).double())


def test_values_are_integrated_gradients(batch: Batch) -> None:
    """By autograd at a hundred midpoints, of the model's own logits."""
    model = made(tie_word_embeddings=False)
    logits = logits_of(model, batch).double()[:, -1]
    centers, steps = bin_centers(model), 100
    gradient = torch.zeros_like(logits)
    for i in range(steps):
        scaled = (logits * (i + 0.5) / steps).requires_grad_()
        value = scaled[:, 2:].softmax(-1) @ centers
        gradient += torch.autograd.grad(value.sum(), scaled)[0] / steps
    # The MLP of the last layer, by hand: its write through the norm at its scale, times the mean gradient.
    cache = interp.capture(model, batch, ["decoder.1.mlp_out", "decoder.1.resid_post"])
    norm = model.module.decoder.final_layer_norm
    rms = (cache["decoder.1.resid_post"][:, -1].double().pow(2).mean(-1) + norm.variance_epsilon).sqrt()
    write = cache["decoder.1.mlp_out"][:, -1].double() * norm.weight.double() / rms[:, None]
    wanted = (write @ model.module.lm_head.weight.double().T * gradient).sum(-1).detach().numpy()
    found = circuits.direct_attribution(model, batch)
    np.testing.assert_allclose(found.values[found.parts.index("decoder.1.mlp_out"), :, -1], wanted, rtol=1e-3)


@BOTH
@torch.no_grad()
def test_a_part_taken_from_the_last_stream_takes_its_share_with_it(alone: bool) -> None:
    """In plain torch, the norm held at its scale: the logit falls by the part's attribution; its scale set free, by
    a little more or less."""
    model = made(dtype=torch.float64, alone=alone)
    batch, last = batch_for(model), f"decoder.{model.n_layers['decoder'] - 1}.resid_post"
    target = torch.tensor([5, 900, 2049, 4095])
    found = circuits.direct_attribution(model, batch, target=target)
    cache = interp.capture(model, batch, [last, "decoder.*.mlp_out", "decoder.*.*.head_out"])
    stream, module = cache[last], model.module
    norm = module.transformer.ln_f if alone else module.decoder.final_layer_norm
    scale, picked = inverse(model, stream), target[:, None, None].expand(4, stream.shape[1], 1)

    def logit(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True) if alone else x
        normed = centred * scale * norm.weight + (norm.bias if alone else 0)
        return at_tokens(batch, model.unembed(normed).gather(-1, picked)[..., 0])

    for i, part in enumerate(found.parts):
        if part == "biases":
            blocks: Any = module.transformer.h
            fixed: Any = sum(block.attn.c_proj.bias for block in blocks)
            b_U = (module.lm_head.weight @ norm.bias)[target][:, None]
            fall = logit(stream - fixed) - logit(stream)
            close((fall - b_U).numpy(), -found.values[i], terms=FORWARD, dtype=torch.float64)
            continue
        if part == "decoder.0.resid_pre":
            continue
        layer, _, head = part.rpartition(".")
        write = cache[part] if part.endswith("mlp_out") else cache[f"{layer}.head_out"][:, :, int(head)]
        fall = logit(stream - write) - logit(stream)
        close(fall.numpy(), -found.values[i], terms=BUNDLED, dtype=torch.float64)


@torch.no_grad()
def test_against_effects_through_a_norm_that_is_free(pico: interp.Model) -> None:
    """Without a head the stream is shorter, and the norm scales what is left up: the logit becomes (logit - share)
    times old over new length. Log-probabilities, which `self_repair` reads, rank the strongest heads alike."""
    tokens = probes.repeated_random_tokens(batch_size=20, seed=1)
    found = circuits.direct_attribution(pico, tokens, target=tokens.continuation)
    cache = interp.capture(pico, tokens, ["decoder.2.resid_post", "decoder.cross.*.head_out"])
    stream = cache["decoder.2.resid_post"][:, -1]
    for head in (scored.address for scored in found.heads().heads()[:6]):
        rest = stream - cache[f"decoder.cross.{head.layer}.head_out"][:, -1, head.head]
        after = pico.unembed(pico.module.decoder.final_layer_norm(rest)).gather(1, tokens.continuation[:, None])[:, 0]
        share = found.values[found.parts.index(str(head)), :, -1]
        longer = (stream.norm(dim=-1) / rest.norm(dim=-1)).numpy()
        close(after, (found.total[:, -1] - share) * longer, terms=FORWARD)
        assert longer.mean() > 1
    repair = circuits.self_repair(pico, tokens, pico.heads("decoder.cross"), controls=0, progress=False)
    measured = [str(repair.heads[i]) for i in np.argsort(repair.direct.mean(1))[:6]]
    assert {str(scored.address) for scored in found.heads().heads()[:6]} == set(measured)


def permuted(model: interp.Model, order: list[int]) -> None:
    """The heads of layer 1 that read the past, in another order."""
    if not model.has_encoder:
        attention: Any = model.module.transformer.h[1].attn
        with torch.no_grad():
            for fused in (attention.c_attn.weight, attention.c_attn.bias):
                fused.copy_(fused.unflatten(-1, (3, 3, 8))[..., order, :].flatten(-3).clone())
            weight = attention.c_proj.weight
            weight.copy_(weight.view(3, 8, -1)[order].reshape(weight.shape).clone())
        return
    attention = model.module.get_submodule("decoder.block.1.layer.1.EncDecAttention")
    with torch.no_grad():
        for name in ("q", "k", "v"):
            weight = getattr(attention, name).weight
            weight.copy_(weight.view(3, 8, -1)[order].reshape(weight.shape).clone())
        weight = attention.o.weight
        weight.copy_(weight.view(-1, 3, 8)[:, order].reshape(weight.shape).clone())


@BOTH
@pytest.mark.parametrize("value", [False, True])
def test_permuting_heads_permutes_their_shares(value: bool, alone: bool) -> None:
    order = [2, 0, 1]
    model, other = made(alone=alone), made(alone=alone)
    batch = batch_for(model)
    permuted(other, order)

    def both(of: interp.Model) -> tuple[DirectAttribution, AttributionByPosition]:
        if value:
            return circuits.direct_attribution(of, batch), circuits.attribution_by_position(of, batch)
        return circuits.direct_attribution(of, batch, target=9), circuits.attribution_by_position(of, batch, target=9)

    (direct, past), (direct_other, past_other) = both(model), both(other)
    wanted = direct.heads().values.copy()
    assert np.abs(np.diff(wanted[1])).min() > 100 * tolerance(of=1)
    wanted[1] = wanted[1][order]
    close(direct_other.heads().values, wanted, terms=LAYER)
    close(past_other.values[1], past.values[1][order], terms=LAYER)
    close(past_other.values[0], past.values[0], terms=LAYER)


def test_where_nothing_writes_the_embedding_says_it_all() -> None:
    model = content_matcher()
    batch = Batch(input_ids=torch.tensor([[5, 6, 7, 1]]), decoder_input_ids=torch.tensor([[0, 6]]))
    found = circuits.direct_attribution(model, batch, target=6)
    np.testing.assert_array_equal(found.values[1:], 0)
    close(found.values[0], found.total, terms=FORWARD)
    embedding = model.module.shared.weight[6].detach().double()
    wanted = embedding @ embedding / embedding.pow(2).mean().sqrt() * 64**-0.5
    assert found.total[0, 1] == pytest.approx(float(wanted), rel=1e-4)
    np.testing.assert_array_equal(circuits.attribution_by_position(model, batch, target=6).values, 0)


@pytest.mark.parametrize("route", ["token_to_right", "current_token"])
def test_the_planted_head_carries_the_difference(route: Any) -> None:
    """What was planted writes the continuation: half from each of two occurrences; all other heads are faint."""
    model = interp.zoo.planted(route).model
    tokens = probes.repeated_random_tokens(batch_size=12, unique=True, seed=1)
    other = tokens.input_ids[:, tokens.occurrences[-1] + 3]
    found = circuits.direct_attribution(model, tokens, target=tokens.continuation, against=other)
    cross = found.heads("decoder.cross")
    rest = [abs(scored.score) for scored in (*cross.heads()[1:], *found.heads("decoder.self").heads())]
    assert str(cross.heads()[0].address) == "decoder.cross.1.2"
    assert cross["decoder.cross.1.2"] > 0.7 * found.total[:, -1].mean()
    assert max(rest) < 0.02 * cross["decoder.cross.1.2"]
    past = circuits.attribution_by_position(model, tokens, target=tokens.continuation, against=other)
    shift = 1 if route == "token_to_right" else 0
    at = [place + shift for place in tokens.occurrences]
    shares = past.values[1, 2].mean(0) / past.values[1, 2].mean(0).sum()
    np.testing.assert_allclose(shares[at], 0.5, atol=0.05)
    assert as_heads(model, cross.heads()[:1])[0].title == "L1.H2"
    cut = circuits.direct_attribution(
        interp.zoo.planted(route, wired=False).model, tokens, target=tokens.continuation, against=other
    )
    assert abs(cut.heads()["decoder.cross.1.2"]) < 0.2 * cross["decoder.cross.1.2"]


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("position", [-1, 4, 3])
def test_past_steps_sum_to_their_heads(
    alone: bool, dtype: torch.dtype, position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(dtype=dtype, alone=alone)
    batch, site = batch_for(model), "decoder.self" if alone else "decoder.cross"
    size = batch.decoder_input_ids.shape[1]
    target = np.random.default_rng(0).integers(2, 4096, (4, size))
    for direct, past in (
        (
            circuits.direct_attribution(model, batch, target=target, against=3),
            circuits.attribution_by_position(model, batch, target=target, against=3, position=position),
        ),
        (
            circuits.direct_attribution(model, batch),
            circuits.attribution_by_position(model, batch, position=position),
        ),
    ):
        chosen = [i for i, part in enumerate(direct.parts) if part.startswith(site)]
        wanted = direct.values[chosen][..., position].reshape(-1, 3, 4)
        close(past.values.sum(-1), wanted, of=1, terms=LAYER, dtype=dtype)
        close(past.total, direct.total[:, position], of=1, terms=LAYER, dtype=dtype)
        close(past.heads().values, direct.heads(position=position).values, of=1, terms=LAYER, dtype=dtype)
        assert past.position == position % size
        assert past.site == site
        assert past.values.shape[-1] == past.tokens.shape[1] == (past.position + 1 if alone else 9)
        # What the mask hides adds nothing, and has no value.
        assert (past.values[:, :, 1, :3] == 0).all()
        assert past.token_values is not None
        assert np.isnan(past.token_values[1, :3]).all()
        there = np.where(
            batch.mask("decoder" if alone else "encoder")[:, : past.tokens.shape[1]] == 0, np.nan, past.of()
        )
        close(past.by_position()["mean"], np.nanmean(there, axis=0), of=1, terms=LAYER, dtype=dtype)
    monkeypatch.setattr("circuits.attribution.by_position.MEMORY", 1)
    again = circuits.attribution_by_position(model, batch, position=position)
    close(again.values, past.values, of=1, terms=LAYER, dtype=dtype)


@torch.no_grad()
def test_a_past_step_by_hand(batch: Batch) -> None:
    model = made(dtype=torch.float64)
    found = circuits.attribution_by_position(model, batch, target=77, position=3)
    w = model.weights("decoder.cross.1.2", fold_norm=False)
    cache = interp.capture(model, batch, ["encoder.ln_final", "decoder.cross.1.pattern", "decoder.1.resid_post"])
    x = cache["decoder.1.resid_post"][2, 3]
    norm = model.module.decoder.final_layer_norm
    direction = norm.weight * model.module.lm_head.weight[77] * 20**-0.5 / x.pow(2).mean().sqrt()
    wanted = cache["decoder.cross.1.pattern"][2, 2, 3, 4] * (
        cache["encoder.ln_final"][2, 4] @ w.W_V @ w.W_O @ direction
    )
    close(found.values[1, 2, 2, 4], float(wanted), terms=FORWARD)
    frame = found.to_frame()
    assert len(frame) == 6 * 9
    at = frame[(frame["head"] == "decoder.cross.1.2") & (frame["key"] == 4)]
    close(float(at["mean"].iloc[0]), found.values[1, 2, :, 4].mean())
    chosen = found.by_position("decoder.cross.1.2")
    close(chosen["mean"][4], found.values[1, 2, :, 4].mean())
    assert chosen["token"].isna().all()
    assert chosen["value"].isna().all()


@torch.no_grad()
def test_a_past_step_of_a_decoder_alone_by_hand() -> None:
    """Values with their bias in them, from the stream that the layer itself reads."""
    model = made(dtype=torch.float64, alone=True)
    batch = batch_for(model)
    found = circuits.attribution_by_position(model, batch, target=77, position=9)
    cache = interp.capture(model, batch, ["decoder.1.resid_pre", "decoder.self.1.pattern", "decoder.2.resid_post"])
    block: Any = model.module.transformer.h[1]
    read = block.ln_1(cache["decoder.1.resid_pre"][2, 4])
    value = (read @ block.attn.c_attn.weight + block.attn.c_attn.bias)[48 + 16 : 48 + 24]
    wrote = cache["decoder.self.1.pattern"][2, 2, 9, 4] * (value @ block.attn.c_proj.weight[16:24])
    last = cache["decoder.2.resid_post"][2, 9]
    wanted = ((wrote - wrote.mean()) * inverse(model, last) * model.module.transformer.ln_f.weight) @ (
        model.module.lm_head.weight[77]
    )
    close(found.values[1, 2, 2, 4], float(wanted), terms=FORWARD, dtype=torch.float64)
    assert len(found.to_frame()) == 9 * 10
    assert found.to_frame()["head"].iloc[-1] == "decoder.self.2.2"
    # One row is padded there.
    close(found.by_position("decoder.self.1.2")["mean"][4], found.values[1, 2, :3, 4].mean())


def test_the_planted_decoder_reads_what_comes_next() -> None:
    """Half from each of the two tokens after an earlier occurrence; without the wire from nowhere in particular."""
    tokens = probes.repeated_random_tokens(batch_size=8, unique=True, encoder=False)
    other = probes.swapped_continuation(tokens).against
    assert other is not None
    strongest = 0.0
    for wired in (True, False):
        model = interp.zoo.planted_decoder(wired=wired).model
        found = circuits.direct_attribution(model, tokens, target=tokens.continuation, against=other)
        past = circuits.attribution_by_position(model, tokens, target=tokens.continuation, against=other)
        best = found.heads().heads()[0]
        after = past.values[1, 2].mean(0)[[at + 1 for at in tokens.occurrences]]
        if wired:
            assert str(best.address) == "decoder.self.1.2"
            assert best.score > 0.95 * found.total[:, -1].mean()
            np.testing.assert_allclose(after / best.score, 0.5, atol=0.05)
            strongest = best.score
        else:
            assert after.sum() < 0.2 * strongest


def test_a_model_of_words_has_logits_and_no_values(tmp_path: Path) -> None:
    model, batch = interp.wrap(tiny_gpt2(), name="text"), masked_batch(False)
    past, lens = circuits.attribution_by_position(model, batch, target=9), circuits.logit_lens(model, batch)
    assert past.token_values is None
    assert past.by_position()["value"].isna().all()
    assert lens.expected_value is None
    assert set(lens.to_frame()["measure"]) == {"entropy", "effective_tokens", "kl", "agrees"}
    for result in (past, lens):
        again = type(result).load(result.save(tmp_path / "text.json"))
        pd.testing.assert_frame_equal(again.to_frame(), result.to_frame(), check_exact=True)
    assert np.nanmax(np.abs(circuits.direct_attribution(model, batch, target=9).remainder)) < 1e-4
    for ask in (circuits.direct_attribution, circuits.attribution_by_position):
        with pytest.raises(interp.errors.UnsupportedModel, match="no chronos_config"):
            ask(model, batch)


def test_kinds_that_a_decoder_alone_does_not_have(causal: interp.Model) -> None:
    found = circuits.direct_attribution(causal, masked_batch(False), target=9)
    assert found.heads().site == "decoder.self"
    with pytest.raises(interp.errors.UnknownSite, match="a decoder alone, without cross-attention"):
        found.heads("decoder.cross")
    with pytest.raises(InvalidInput, match=r"There are decoder\.self\."):
        found.heads("encoder.self")
    past = circuits.attribution_by_position(causal, masked_batch(False), target=9)
    with pytest.raises(InvalidInput, match=r"heads decoder\.self\.0\.0 to decoder\.self\.2\.2"):
        past.of("decoder.cross.0.0")
    with pytest.raises(InvalidInput, match="no encoder"):
        circuits.direct_attribution(causal, masked_batch(True), target=9)


def test_files_of_before_are_read(model: interp.Model, batch: Batch, tmp_path: Path) -> None:
    """They say nothing of the kind of heads, which were cross heads."""
    found = circuits.attribution_by_position(model, batch, target=9)
    path = found.save(tmp_path / "past.json")
    text = path.read_text()
    cut = re.sub(r',\s*"site": "decoder.cross"', "", text)
    assert cut != text
    path.write_text(cut)
    assert AttributionByPosition.load(path).site == "decoder.cross"


def test_edits_in_force_are_seen(batch: Batch) -> None:
    model = made()
    plain = circuits.direct_attribution(model, batch, target=9)
    place = plain.parts.index("decoder.cross.0.1")
    with interp.edited(model, interp.Zero("decoder.cross.0.1")):
        ablated = circuits.direct_attribution(model, batch, target=9)
        wanted = logits_of(model, batch)[..., 9]
        with pytest.raises(InvalidInput, match=r"decoder\.cross\.0\.1.*no sum over the past"):
            circuits.attribution_by_position(model, batch, target=9)
    close(ablated.total, wanted, terms=LAYER)
    assert (ablated.values[place] == 0).all()
    assert (plain.values[place] != 0).all()
    close(ablated.remainder, 0, of=np.abs(ablated.values).sum(0).max(), terms=LAYER)
    assert np.abs(ablated.total - plain.total).max() > 1e-3

    steer = torch.linspace(-1, 1, 20)
    with interp.edited(model, interp.Add("decoder.1.resid_mid", steer)):
        steered = circuits.direct_attribution(model, batch, target=9)
        stream = interp.capture(model, batch, "decoder.1.resid_post")["decoder.1.resid_post"]
    rms = stream.pow(2).mean(-1).sqrt()
    norm = model.module.decoder.final_layer_norm
    by_hand = (steer * norm.weight * model.module.lm_head.weight[9]).sum() * model.unembedding_scale / rms
    np.testing.assert_allclose(steered.remainder, by_hand.detach(), rtol=1e-3)

    with interp.edited(model, interp.Knockout("decoder.cross.1.0", key=4)):
        cut = circuits.attribution_by_position(model, batch, target=9)
    assert (cut.values[1, 0, :, 4] == 0).all()
    assert (cut.values[1, 1, :, 4] != 0).all()


@BOTH
def test_bfloat16_sums_up_to_its_rounding(alone: bool) -> None:
    model = made(dtype=torch.bfloat16, alone=alone)
    batch = batch_for(model)
    for found in (
        circuits.direct_attribution(model, batch, target=9),
        circuits.direct_attribution(model, batch),
    ):
        assert np.nanmax(np.abs(found.remainder)) < 0.02 * np.nanmax(np.abs(found.values).sum(0))
    exact = circuits.direct_attribution(made(alone=alone), batch, target=9).heads()
    np.testing.assert_allclose(circuits.direct_attribution(model, batch, target=9).heads().values, exact.values,
                               atol=0.1 * np.abs(exact.values).max())  # fmt: skip
    past = circuits.attribution_by_position(model, batch, target=9)
    np.testing.assert_allclose(past.heads().values, circuits.direct_attribution(model, batch, target=9).heads().values,
                               atol=0.03)  # fmt: skip


def test_targets_by_position(batch: Batch) -> None:
    model = made()
    many = torch.arange(20).reshape(4, 5) * 11 + 2
    found = circuits.direct_attribution(model, batch, target=many, against=torch.tensor([3, 4, 5, 6]))
    for position in range(5):
        one = circuits.direct_attribution(model, batch, target=many[:, position], against=[3, 4, 5, 6])
        close(found.values[..., position], one.values[..., position], terms=LAYER)
    np.testing.assert_array_equal(found.target, many)
    assert found.name == "logit difference"


def test_what_the_results_hold(model: interp.Model, tmp_path: Path) -> None:
    tokens = probes.repeated_random_tokens(batch_size=6, sequence_length=4, seed=1)
    found = circuits.direct_attribution(model, tokens, target=tokens.continuation)
    frame, layers = found.to_frame(), found.by_layer()
    assert list(frame["part"][:2]) == ["decoder.0.resid_pre", "decoder.self.0.0"]
    assert frame["part"].iloc[-1] == "decoder.1.mlp_out"
    assert frame["kind"].value_counts().to_dict() == {"self": 6, "cross": 6, "mlp": 2, "embedding": 1}
    close(frame["mean"], found.values[..., -1].mean(-1))
    assert ((frame["low"] <= frame["mean"]) & (frame["mean"] <= frame["high"])).all()
    assert list(layers["part"]) == ["decoder.0.resid_pre", "decoder.self.0", "decoder.cross.0", "decoder.0.mlp_out",
                                    "decoder.self.1", "decoder.cross.1", "decoder.1.mlp_out"]  # fmt: skip
    cross = frame[(frame["kind"] == "cross") & (frame["layer"] == 1)]
    close(layers["mean"][5], cross["mean"].sum())
    close(layers["mean"].sum(), found.total[:, -1].mean(), terms=BUNDLED)
    scores = found.heads("decoder.self", position=0)
    assert scores.values.shape == (2, 3)
    assert scores.unit == "logit"
    assert scores.site == "decoder.self"
    close(scores["decoder.self.1.2"], found.values[found.parts.index("decoder.self.1.2"), :, 0].mean())
    assert found.provenance["stimulus"]["seed"] == 1
    assert found.provenance["model"] == "tiny"
    past = circuits.attribution_by_position(model, tokens, target=tokens.continuation)
    lens = circuits.logit_lens(model, tokens, target=tokens.continuation)
    for result in (found, past, lens, circuits.logit_lens(model, tokens)):
        again = type(result).load(result.save(tmp_path / "result.json"))
        for name, value in vars(result).items():
            np.testing.assert_equal(getattr(again, name), value)
        pd.testing.assert_frame_equal(again.to_frame(), result.to_frame(), check_exact=True)
        with pytest.raises(ValueError, match="read-only"):
            next(v for v in vars(result).values() if isinstance(v, np.ndarray))[0] = 0


def test_one_row_has_no_interval(pico: interp.Model) -> None:
    series = probes.series_batch(pico, probes.datasets.air_passengers(), num_decoder=1)
    found = circuits.direct_attribution(pico, series)
    assert found.to_frame()["low"].isna().all()
    assert found.heads().stderr is None
    assert found.provenance["stimulus"]["series"] == "air passengers"
    past = circuits.attribution_by_position(pico, series)
    frame = past.by_position()
    np.testing.assert_allclose(frame["value"][:143] * series.scale, series.series.values[:143], atol=1.2)
    # The step that is forecast is the 145th: what was there one, two and three seasons ago adds most.
    assert sorted(frame.sort_values("mean")["key"].iloc[-3:]) == [108, 120, 132]
    shuffled = probes.series_batch(pico, probes.datasets.air_passengers().shuffled(0), num_decoder=1)
    control = circuits.attribution_by_position(pico, shuffled).by_position()
    assert sorted(control.sort_values("mean")["key"].iloc[-3:]) != [108, 120, 132]


def bad(model: interp.Model, batch: Batch) -> dict[str, Callable[[], object]]:
    direct, past, lens = circuits.direct_attribution, circuits.attribution_by_position, circuits.logit_lens
    return {
        r"2 tokens and the batch 4 rows": lambda: direct(model, batch, target=[3, 4]),
        r"\[4, 4\]; the decoder has": lambda: direct(model, batch, target=torch.ones(4, 4, dtype=torch.long)),
        r"tokens 0-4095": lambda: direct(model, batch, target=4096),
        r"against holds the token 5000": lambda: past(model, batch, target=4, against=5000),
        r"not negative": lambda: lens(model, batch, target=-1),
        r"token ids": lambda: direct(model, batch, target=[0.5] * 4),  # type: ignore[arg-type]
        r"must be token ids, one a row": lambda: lens(model, batch, target="a"),  # type: ignore[arg-type]
        r"is no Batch": lambda: direct(model, "series", target=3),  # type: ignore[arg-type]
        r"model is needed": lambda: circuits.direct_attribution("pico-t5", batch),  # type: ignore[arg-type]
        r"positions 0-4": lambda: past(model, batch, target=3, position=5),
        r"position=-6": lambda: circuits.attribution_by_position(model, batch, position=-6),
        r"no direct path": lambda: direct(model, batch, target=3).heads("encoder.self"),
        r"position=7": lambda: direct(model, batch, target=3).to_frame(7),
        r"heads decoder": lambda: past(model, batch, target=3).by_position("decoder.cross.2.0"),
        r"more than once": lambda: past(model, batch, target=3).of(["decoder.cross.1.0"] * 2),
        r"at least one": lambda: Batch(
            input_ids=batch.input_ids, decoder_input_ids=torch.zeros(4, 0, dtype=torch.long)
        ),
        r"float16": lambda: circuits.direct_attribution(interp.wrap(tiny_pipeline(dtype=torch.float16)), batch),
    }


def test_bad_input(model: interp.Model, batch: Batch) -> None:
    for match, call in bad(model, batch).items():
        with pytest.raises(InvalidInput, match=match):
            call()


@BOTH
def test_the_lens_ends_in_the_models_own_output(alone: bool) -> None:
    model = made(alone=alone)
    batch = batch_for(model)
    target = torch.tensor([5, 900, 2049, 4095])
    lens = circuits.logit_lens(model, batch, target=target)
    own = logits_of(model, batch).log_softmax(-1)
    crossed = () if alone else ("decoder.0.resid_mid_cross",)
    start = ("decoder.0.resid_pre", "decoder.0.resid_mid", *crossed, "decoder.0.resid_post")
    assert lens.points[: len(start)] == start
    assert lens.points[-1] == f"decoder.{model.n_layers['decoder'] - 1}.resid_post"
    assert len(lens.points) == 7
    picked = own.gather(-1, target[:, None, None].expand(4, own.shape[1], 1))[..., 0]
    np.testing.assert_array_equal(lens.log_prob[-1], picked)
    np.testing.assert_array_equal(lens.likeliest[-1], at_tokens(batch, own.argmax(-1).double()))
    np.testing.assert_array_equal(lens.kl[-1], at_tokens(batch, torch.zeros(own.shape[:2])))
    close(lens.entropy[-1], -(own.exp() * own).sum(-1), terms=FORWARD)
    values = own[..., 2:].double().softmax(-1) @ probes.token_values(model, torch.arange(2, 4096)).double()
    close(lens.expected_value[-1], values, of=15, terms=LAYER)
    close(lens.effective_tokens, np.exp(lens.entropy))


@BOTH
@torch.no_grad()
def test_the_lens_midway_by_hugging_faces_hidden_states(alone: bool) -> None:
    model = made(tie_word_embeddings=False, alone=alone)
    batch = batch_for(model)
    lens = circuits.logit_lens(model, batch, target=31)
    out = model.module(**model.inputs(batch), output_hidden_states=True)
    own = at_tokens(batch, out.logits.double().log_softmax(-1))
    for point, at in (("decoder.0.resid_pre", 0), ("decoder.0.resid_post", 1)):
        x = (out.hidden_states if alone else out.decoder_hidden_states)[at].double()
        if alone:
            norm = model.module.transformer.ln_f
            normed = (x - x.mean(-1, keepdim=True)) * inverse(model, x) * norm.weight.double() + norm.bias.double()
        else:
            normed = x / x.pow(2).mean(-1, keepdim=True).sqrt() * model.module.decoder.final_layer_norm.weight.double()
        log_probs = at_tokens(batch, (normed @ model.module.lm_head.weight.double().T).log_softmax(-1))
        i = lens.points.index(point)
        assert lens.log_prob is not None
        np.testing.assert_allclose(lens.log_prob[i], log_probs[..., 31], rtol=1e-4)
        divergence = torch.nn.functional.kl_div(own, log_probs, log_target=True, reduction="none").sum(-1)
        np.testing.assert_allclose(lens.kl[i], divergence, rtol=1e-4)
        assert np.nanmin(lens.kl[i]) > 0.01
    frame = lens.to_frame(0)
    picked = frame[(frame["measure"] == "kl") & (frame["point"] == "decoder.0.resid_post")]
    close(float(picked["mean"].iloc[0]), np.nanmean(lens.kl[2 if alone else 3, :, 0]))
    assert picked["after"].iloc[0] == "mlp"
    assert picked["layer"].iloc[0] == 0
    assert circuits.logit_lens(model, batch).log_prob is None


# Quantiles: parts are exact up to the last norm, and to first order from there on


@pytest.fixture(scope="module")
def patched() -> interp.Model:
    """A tiny Chronos-Bolt in float64."""
    return interp.wrap(tiny_bolt(dtype=torch.float64), name="tiny-bolt")


def levels_apart(quantiles: Tensor) -> Tensor:
    """A metric of one's own, in the series' units, not linear in the quantiles."""
    return (quantiles[:, 4] - quantiles[:, 0]).square().mean(1)


METRICS: list[Any] = [
    *(median(), quantile(0.3, [2, 5], scaled=False), levels_apart),
    *(
        pinball(torch.zeros(4, 7)),
        distance_to(torch.ones(4, 12), scaled=False),
        towards(torch.ones(12), torch.zeros(12)),
    ),
]


@pytest.mark.parametrize("metric", METRICS, ids=metric_name)
def test_parts_of_a_metric_of_quantiles(patched: interp.Model, metric: Any) -> None:
    """By plain formulas in float64: the parts' writes through the norm at its scale, times the metric's gradient."""
    batch = Batch.from_series(patched, values_with_gaps())
    with torch.no_grad():
        found = circuits.direct_attribution(patched, batch, metric=metric)
    assert found.parts[-1] == "readout"
    assert len(found.parts) == 1 + 2 * (3 + 3 + 1) + 1
    assert found.values.shape == (len(found.parts), 4, 1)
    cache = interp.capture(patched, batch, patched.sites())
    stream, module = cache["decoder.1.resid_post"], patched.module
    norm, mlp = module.decoder.final_layer_norm, module.output_patch_embedding
    scale = norm.weight * (stream.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    writes = [cache["decoder.0.resid_pre"]]
    for layer in (0, 1):
        writes += [cache[f"decoder.{kind}.{layer}.head_out"][:, :, h] for kind in ("self", "cross") for h in range(3)]
        writes.append(cache[f"decoder.{layer}.mlp_out"])
    # Exact up to the norm.
    close(torch.stack(writes).sum(0), stream, terms=LAYER, dtype=torch.float64)
    close((torch.stack(writes) * scale).sum(0), cache["decoder.ln_final"], terms=LAYER)
    _, (mean, deviation) = module.instance_norm(batch.inputs["context"])
    with torch.enable_grad():
        x = cache["decoder.ln_final"].clone().requires_grad_()
        q = mlp.output_layer(mlp.hidden_layer(x).relu()) + mlp.residual_layer(x)
        q = (q * deviation[:, :, None] + mean[:, :, None]).unflatten(-1, (5, 12))[:, 0]
        known = (patched.levels, deviation[:, 0]) if hasattr(metric, "scaled") else ()
        value = metric(q, *known)
        (slope,) = torch.autograd.grad(value.sum(), x)
    slope = (slope * scale).detach()
    wanted = [(write * slope).sum(-1) for write in writes]
    close(found.values[:-1], torch.stack(wanted), terms=FORWARD)
    close(found.total[:, 0], value, terms=FORWARD)
    close(found.values.sum(0), found.total, of=np.abs(found.values).sum(0).max(), terms=LAYER)
    close(found.remainder, 0.0, of=np.abs(found.values).sum(0).max(), terms=LAYER)
    assert (found.name, found.unit) == (metric_name(metric), getattr(metric, "unit", ""))
    frame = found.to_frame()
    assert list(frame["kind"])[-1] == "readout"
    assert found.heads().values.shape == (2, 3)
    past = circuits.attribution_by_position(patched, batch, metric=metric)
    crossed = [i for i, part in enumerate(found.parts) if part.startswith("decoder.cross")]
    close(past.values.sum(-1).reshape(6, 4), found.values[crossed][..., 0], of=np.abs(found.values).max(), terms=LAYER)
    by_hand = cache["decoder.cross.1.pattern"][:, 2, 0] * torch.einsum(
        "rke,re->rk", cache["decoder.cross.1.v"][:, :, 2], slope[:, 0] @ w_o(module, 1, 2).T
    )
    close(past.values[1, 2], by_hand, terms=FORWARD)
    assert np.array_equal(past.tokens, np.where(batch.mask("encoder") == 1, np.arange(7), np.nan), equal_nan=True)
    assert past.token_values is None
    assert len(past.by_position()) == 7


def w_o(module: Any, layer: int, head: int) -> Tensor:
    """W_O of a cross head, `[d_head, d_model]`."""
    return module.decoder.block[layer].layer[1].EncDecAttention.o.weight[:, 8 * head : 8 * head + 8].T


@torch.no_grad()
def test_a_small_part_of_a_share_is_what_taking_it_away_does(patched: interp.Model) -> None:
    """To first order, by plain forwards of the readout: less a thousandth of a part's write, its norm held."""
    batch = Batch.from_series(patched, values_with_gaps())
    metric = quantile(0.5, scaled=False)
    found = circuits.direct_attribution(patched, batch, metric=metric)
    cache = interp.capture(patched, batch, ["decoder.1.resid_post", "decoder.ln_final", "decoder.cross.*.head_out"])
    norm = cache["decoder.ln_final"] / cache["decoder.1.resid_post"]
    for part, share in zip(found.parts, found.values[..., 0], strict=True):
        if part.startswith("decoder.cross"):
            layer, head = map(int, part.split(".")[2:])
            write = cache[f"decoder.cross.{layer}.head_out"][:, :, head] * norm
            ends = [cache["decoder.ln_final"] - step * write for step in (1e-2, -1e-2)]
            sides = [metric(patched.quantiles(end, batch.inputs["context"]), patched.levels) for end in ends]
            close((sides[0] - sides[1]) / -2e-2, share, of=float(sides[0].abs().max()) / 1e-2, terms=FORWARD)


def test_by_default_the_median_is_explained(patched: interp.Model) -> None:
    batch = Batch.from_series(patched, values_with_gaps())
    found, own = (circuits.direct_attribution(patched, batch, **how) for how in ({}, {"metric": median()}))
    assert np.array_equal(found.values, own.values)
    assert found.name == "median"


def test_what_is_refused_of_quantiles(patched: interp.Model, model: interp.Model, batch: Batch) -> None:
    series = Batch.from_series(patched, values_with_gaps())
    for function in (circuits.direct_attribution, circuits.attribution_by_position):
        for tokens in ({"target": 5}, {"against": 5}):
            with pytest.raises(MissingCapability, match="tiny-bolt has no tokens"):
                function(patched, series, **tokens)
        with pytest.raises(InvalidInput, match="is not differentiable: it must be computed from the quantiles"):
            function(patched, series, metric=lambda q: q.detach().mean((1, 2)))
        with pytest.raises(InvalidInput, match="of logits a token's is explained"):
            function(model, batch, metric=median())
