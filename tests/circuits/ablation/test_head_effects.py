"""Effects of heads: equal to one ordinary edited forward each, and what their results hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import circuits
import interp
import probes
from circuits.ablation.head_effects import variant_bytes
from circuits.measurement import at_query
from circuits.metrics import continuation_metrics
from interp import Batch, zoo
from interp.errors import InvalidInput
from interp.results.result import Floats
from interp.results.statistics import interval, p_values, q_values, rank_correlation
from interp.zoo.planted_gpt2 import INDUCTION, PREVIOUS_TOKEN
from probes.stimuli.repeated_tokens import RepeatedTokens
from tests.conftest import tiny_causal_pipeline, tiny_pipeline
from tests.tolerance import BUNDLED, FORWARD, LAYER, close


def stimulus(seed: int = 1, model: interp.Model | None = None, **options: Any) -> RepeatedTokens:
    """For a model of either family; by default for one with an encoder."""
    encoder = model is None or model.has_encoder
    return probes.repeated_random_tokens(batch_size=5, sequence_length=4, seed=seed, encoder=encoder, **options)


KINDS = [("t5", "encoder.self"), ("t5", "decoder.self"), ("t5", "decoder.cross"), ("gpt2", "decoder.self")]


@torch.no_grad()
def log_probs(model: interp.Model, tokens: RepeatedTokens) -> Floats:
    logits = model.module(**model.inputs(tokens)).logits[:, -1].log_softmax(-1)
    return logits.gather(1, tokens.continuation[:, None])[:, 0].double().numpy()


def one_by_one(model: interp.Model, tokens: RepeatedTokens, kind: str, **options: Any) -> Floats:
    clean, rows = log_probs(model, tokens), []
    for head in model.heads(kind):
        with interp.ablate(model, head, **options):
            rows.append(log_probs(model, tokens) - clean)
    return np.array(rows).reshape(-1, model.n_heads, len(tokens))


@pytest.mark.parametrize(("either", "kind"), KINDS, indirect=["either"])
@pytest.mark.parametrize("method", ["zero", "mean", "by position", "resample"])
def test_equal_to_one_edited_forward_a_head(either: interp.Model, kind: str, method: str) -> None:
    tokens = stimulus(model=either)
    options: dict[str, Any] = {"method": "mean" if method == "by position" else method}
    if method != "zero":
        options["reference"] = stimulus(7, either)
    if method == "by position":
        options["by_position"] = True
    found = circuits.head_effects(either, tokens, kind, progress=False, **options)
    wanted = one_by_one(either, tokens, kind, **options)
    close(found.rows, wanted, of=8, terms=FORWARD)
    close(found.values, wanted.mean(-1), of=8, terms=FORWARD)
    assert np.abs(wanted).max() > 1e-3
    # By default heads of all layers go on together; here one head, fewer than a layer's, a layer at a time.
    for together in (1, either.n_heads - 1, either.n_heads):
        memory = together * variant_bytes(either, tokens, either.kind(kind)[0])
        apart = circuits.head_effects(either, tokens, kind, memory=memory, progress=False, **options)
        close(apart.rows, found.rows, of=8, terms=FORWARD)


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_causal_pipeline])
def test_with_padding_and_in_double_precision(make: Any) -> None:
    model = interp.wrap(make(dtype=torch.float64))
    tokens = stimulus(model=model)
    name = "attention_mask" if tokens.has_encoder else "decoder_attention_mask"
    mask = torch.ones_like(tokens.input_ids if tokens.has_encoder else tokens.decoder_input_ids)
    mask[1, :3] = 0
    padded = type(tokens)(**(vars(tokens) | {name: mask}))
    for kind in ("encoder.self", "decoder.cross") if tokens.has_encoder else ("decoder.self",):
        found = circuits.head_effects(model, padded, kind, progress=False)
        close(found.rows, one_by_one(model, padded, kind), terms=BUNDLED, dtype=torch.float64)
        assert np.abs(
            found.rows[..., 1] - circuits.head_effects(model, tokens, kind, progress=False).rows[..., 1]
        ).any()


def test_by_default_the_heads_that_read_the_past(either: interp.Model) -> None:
    tokens = stimulus(model=either)
    found = circuits.head_effects(either, tokens, progress=False)
    assert found.site == ("decoder.cross" if either.has_encoder else "decoder.self")
    np.testing.assert_array_equal(found.rows, circuits.head_effects(either, tokens, found.site, progress=False).rows)


def test_the_heads_of_a_planted_decoder() -> None:
    """Both heads that were written by hand matter and no others; with the wire cut the first one does not either."""
    tokens = probes.repeated_random_tokens(batch_size=20, unique=True, encoder=False, seed=3)
    built, cut = (zoo.planted_decoder(wired=wired).model for wired in (True, False))
    found = circuits.head_effects(built, tokens, progress=False)
    own = {str(PREVIOUS_TOKEN), str(INDUCTION)}
    assert {str(head.address) for head in found.discoveries()[:2]} == own
    others = [found[head] for head in built.heads() if str(head) not in own]
    assert max(found[head] for head in own) < -2 < -0.1 < min(others)
    apart = circuits.head_effects(cut, tokens, progress=False)
    assert abs(apart[PREVIOUS_TOKEN]) < 0.02 * abs(found[PREVIOUS_TOKEN])
    # What the other still does it does to any token of the row.
    assert apart.control[INDUCTION] < 0.5 * apart[INDUCTION] < 0 < found.control[INDUCTION]


def test_bfloat16_within_its_tolerance(pico: interp.Model) -> None:
    tokens = probes.repeated_random_tokens(batch_size=20, seed=1)
    exact = circuits.head_effects(pico, tokens, progress=False)
    rough = circuits.head_effects(interp.load("pico-t5", dtype=torch.bfloat16), tokens, progress=False)
    assert np.abs(exact.values - rough.values).max() < 0.1 * np.abs(exact.values).max()


def test_the_outcome_by_hand(either: interp.Model) -> None:
    tokens = stimulus(model=either)
    cache = interp.capture(either, tokens, ["decoder.ln_final", "decoder.logits"])
    metrics = continuation_metrics(either, tokens)
    assert list(metrics) == ["effect", "control", "accuracy"]
    right, others, hit = at_query(either, cache["decoder.ln_final"][:, -1], tokens, list(metrics.values()))
    close(right, log_probs(either, tokens), of=8, terms=FORWARD)
    logits = cache["decoder.logits"][:, -1].double().log_softmax(-1).numpy()
    given = stimulus().input_ids  # what is repeated is the same, whichever stack reads it
    for row in range(len(tokens)):
        ids = [t for t in given[row].tolist() if t not in (0, 1, int(tokens.continuation[row]))]
        close(others[row], np.mean([logits[row, t] for t in ids]), terms=LAYER)
        assert hit[row] == (logits[row].argmax() == tokens.continuation[row])


def test_what_the_result_holds(pico: interp.Model, tmp_path: Path) -> None:
    effects = circuits.head_effects(pico, probes.repeated_random_tokens(seed=1), progress=False)
    mosaic = probes.induction_mosaic(pico, seed=0)
    low, high = effects.interval()
    assert ((low <= effects.values) & (effects.values <= high)).all()
    helping = {str(found.address) for found in effects.discoveries()[:6]}
    assert len(helping & {str(found.address) for found in mosaic.heads()}) >= 3
    assert effects.discoveries()[0].score == effects.values.min()
    assert effects.helpful.heads()[0].address == effects.discoveries()[0].address
    frame = effects.to_frame()
    assert {"score", "low", "high", "control", "q"} <= set(frame)
    loaded = circuits.HeadEffects.load(effects.save(tmp_path / "effects.json"))
    np.testing.assert_array_equal(loaded.rows, effects.rows)
    assert loaded.provenance == effects.provenance
    (tmp_path / "effects.json").write_text('{"kind": "head-effects", "version": 1}')
    with pytest.raises(interp.errors.DamagedFile):
        circuits.HeadEffects.load(tmp_path / "effects.json")
    with pytest.raises(interp.errors.DamagedFile):
        circuits.HeadEffects.load(mosaic.either.save(tmp_path / "scores.json"))


def test_bad_input(model: interp.Model, batch: Batch) -> None:
    with pytest.raises(InvalidInput, match="continuation"):
        circuits.head_effects(model, batch)
    with pytest.raises(interp.errors.UnknownSite):
        circuits.head_effects(model, stimulus(), "decoder.mlp")
    with pytest.raises(InvalidInput, match="reference"):
        circuits.head_effects(model, stimulus(), method="mean")
    with pytest.raises(InvalidInput, match="rows"):
        circuits.head_effects(model, stimulus(), method="resample", reference=probes.repeated_random_tokens(
            batch_size=3, sequence_length=4))  # fmt: skip
    with interp.edited(model, interp.Scale("decoder.cross.0", 1.0)):
        with pytest.raises(InvalidInput, match="Leave edits first"):
            circuits.head_effects(model, stimulus())
        model.module(**model.inputs(batch))
    half = interp.wrap(tiny_pipeline(dtype=torch.float16))
    with pytest.raises(InvalidInput, match="float16"):
        circuits.head_effects(half, stimulus())
    with pytest.raises(InvalidInput, match="float16"):
        circuits.layer_effects(half, stimulus())
    with pytest.raises(InvalidInput, match="float16"):
        circuits.forecast_effects(half, np.sin(np.arange(30.0)), {"a": "decoder.cross.0.0"}, prediction_length=4)


def test_what_a_decoder_alone_cannot_do(causal: interp.Model) -> None:
    tokens = stimulus(model=causal)
    for kind in ("decoder.cross", "encoder.self"):
        with pytest.raises(interp.errors.UnknownSite, match="decoder-only GPT-2"):
            circuits.head_effects(causal, tokens, kind)
    with pytest.raises(InvalidInput, match="decoder-only GPT-2"):
        circuits.head_effects(causal, stimulus())
    with pytest.raises(InvalidInput, match="decoder-only GPT-2"):
        circuits.head_effects(causal, tokens, method="mean", reference=stimulus(7))
    with pytest.raises(InvalidInput, match="96 positions"):
        circuits.head_effects(causal, probes.repeated_random_tokens(sequence_length=60, encoder=False))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in causal.module.modules())


def test_one_row_has_no_interval(model: interp.Model) -> None:
    found = circuits.head_effects(model, probes.repeated_random_tokens(batch_size=1, sequence_length=4), progress=False)
    assert found.stderr is None
    assert np.isnan(found.interval()[0]).all()
    assert found.discoveries() == ()


def test_statistics() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0.5, 1, (300, 50))
    low, high = interval(rows)
    covered = ((low <= 0.5) & (high >= 0.5)).mean()
    assert 0.92 < covered < 0.98
    null = p_values(rng.normal(0, 1, (2000, 30)))
    assert 0.03 < (null < 0.05).mean() < 0.07
    assert (q_values(null) < 0.05).sum() <= 2
    assert p_values(np.zeros((2, 5))).tolist() == [1.0, 1.0]
    assert np.isnan(p_values(np.ones((1, 5)))[0])
    assert np.isnan(q_values(np.array([0.01, np.nan]))[1])

    scores = rng.random((4, 8))
    same = rank_correlation(scores, scores**3)
    close([same["overall"], same["within_layers"]], 1)
    assert same["within_layers_p"] < 0.01
    by_layer = np.arange(4)[:, None] + rng.random((4, 8)) * 0.1  # all of it between layers
    apart = rank_correlation(by_layer, np.arange(4)[:, None] + rng.random((4, 8)) * 0.1)
    assert apart["overall"] > 0.8
    assert abs(apart["within_layers"]) < 0.5
    flat = rank_correlation(scores, np.ones((4, 8)))
    assert np.isnan([flat["overall"], flat["overall_p"], flat["within_layers"], flat["within_layers_p"]]).all()
    assert np.isnan(p_values(np.array([np.nan, 1.0, 2.0])))
    for one, other in ((scores, scores[:2]), (scores.ravel(), scores.ravel())):
        with pytest.raises(interp.errors.InvalidInput, match="two tables"):
            rank_correlation(one, other)
