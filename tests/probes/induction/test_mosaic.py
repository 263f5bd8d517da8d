"""The mosaic: the published procedure, a head known on paper, and the value's own arithmetic."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp
import probes
from interp import Batch, Model, zoo
from probes import induction_mosaic, repeated_random_tokens
from probes.induction.mosaic import Mosaic
from tests.conftest import tiny_causal_pipeline, tiny_gpt2, tiny_pipeline
from tests.planted import content_matcher
from tests.published_procedure import published_scores
from tests.tolerance import FORWARD, LAYER, close


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"repetitions": 4, "num_unique_sequences": 2, "extension": 1, "sub_extension": 3, "sequence_length": 5},
        {"vocab_range": (2, 4095), "sub_extension": 0, "sequence_length": 3},
    ],
)
def test_scores_are_those_of_the_published_procedure(values: dict[str, Any]) -> None:
    plain = tiny_pipeline().model.model
    batch = repeated_random_tokens(batch_size=20, **values)
    mosaic = induction_mosaic(interp.wrap(tiny_pipeline()), batch)
    n, r = batch.parameters["sequence_length"], batch.parameters["repetitions"]
    u, e = batch.parameters["num_unique_sequences"], batch.parameters["extension"]
    s = n * ((r - 1) * u + e) + batch.parameters["sub_extension"]
    close(mosaic.current_token.values, published_scores(plain, batch, s), terms=LAYER)
    close(mosaic.token_to_right.values, published_scores(plain, batch, s + 1), terms=LAYER)


@pytest.mark.parametrize("repetitions", [1, 2, 4, 5])
def test_a_head_that_matches_content_splits_its_attention_equally(repetitions: int) -> None:
    """On paper: 1/R at each earlier occurrence, all of it in their sum, nothing to the right of them."""
    model = content_matcher()
    mosaic = induction_mosaic(model, repetitions=repetitions, unique=True, batch_size=30)
    assert mosaic.current_by_occurrence is not None
    assert mosaic.right_by_occurrence is not None
    assert mosaic.eos is not None
    assert mosaic.occurrence_sum is not None
    assert mosaic.occurrence_sum.stderr is not None
    at = (1, 2)
    np.testing.assert_allclose(mosaic.current_token.values[at], 1 / repetitions, atol=1e-4)
    np.testing.assert_allclose(mosaic.current_by_occurrence[at], np.full(repetitions, 1 / repetitions), atol=1e-4)
    np.testing.assert_allclose(mosaic.occurrence_sum.values[at], 1, atol=1e-4)
    np.testing.assert_allclose(mosaic.right_by_occurrence[at], np.zeros(repetitions), atol=1e-4)
    others = mosaic.current_token.values.copy()
    others[at] = 1 / mosaic.n_tokens
    close(others, 1 / mosaic.n_tokens, terms=FORWARD)
    close(mosaic.eos.values[0], 1 / mosaic.n_tokens, terms=FORWARD)
    assert [str(h.address) for h in mosaic.heads()] == (["decoder.cross.1.2"] if repetitions < 4 else [])


def test_the_content_matcher_repeats_the_token_not_its_continuation() -> None:
    """It writes nothing, so the tied unembedding gives back the query: bins off by the step to the next token."""
    batch = repeated_random_tokens(batch_size=30, unique=True)
    mosaic = induction_mosaic(content_matcher(), batch)
    assert mosaic.bin_errors is not None
    expected = (batch.decoder_input_ids[:, 1] - batch.continuation).abs().numpy()
    np.testing.assert_array_equal(mosaic.bin_errors, expected)
    assert mosaic.accuracy() == 0
    assert mosaic.accuracy(within=4096) == 1


def test_permuting_heads_permutes_the_scores() -> None:
    pipeline = tiny_pipeline()
    order = [2, 0, 1]
    clean = induction_mosaic(interp.wrap(tiny_pipeline()), batch_size=10)
    rows = torch.cat([torch.arange(8) + 8 * h for h in order])
    with torch.no_grad():
        cross = pipeline.model.model.get_submodule("decoder.block.1.layer.1.EncDecAttention")
        for name in "qkv":
            weight: Any = getattr(cross, name).weight
            weight.copy_(weight[rows].clone())
        o: Any = cross.o.weight
        o.copy_(o[:, rows].clone())
    mixed = induction_mosaic(interp.wrap(pipeline), batch_size=10)
    close(mixed.current_token.values[1], clean.current_token.values[1][order], terms=LAYER)
    close(mixed.current_token.values[0], clean.current_token.values[0], terms=LAYER)


def test_standard_errors_are_over_the_rows(model: Model) -> None:
    batch = repeated_random_tokens(batch_size=7)
    mosaic = induction_mosaic(model, batch)
    pattern = interp.capture(model, batch, "decoder.cross.1.pattern")["decoder.cross.1.pattern"][:, 0, 1, 11]
    assert mosaic.current_token.stderr is not None
    close(mosaic.current_token.stderr[1, 0], pattern.numpy().std(ddof=1) / 7**0.5, terms=FORWARD)
    assert induction_mosaic(model, batch_size=1).current_token.stderr is None


def test_accuracy_equals_that_of_the_full_logits(model: Model) -> None:
    batch = repeated_random_tokens(batch_size=15)
    mosaic = induction_mosaic(model, batch)
    with torch.no_grad():
        guess = model.module(**batch.inputs).logits[:, -1].argmax(-1)
    np.testing.assert_array_equal(mosaic.bin_errors, (guess - batch.continuation).abs().numpy())  # type: ignore[arg-type]


def test_bfloat16_scores_are_close(model: Model) -> None:
    low = interp.wrap(tiny_pipeline(dtype=torch.bfloat16))
    a, b = (induction_mosaic(m, batch_size=50) for m in (model, low))
    assert b.provenance["dtype"] == "bfloat16"
    assert max(a.compare(b).largest_difference.values()) < 2e-3


def test_counts_heads_and_frame() -> None:
    current, right = np.array([[0.5, 0.1], [0.3, 0.31]]), np.array([[0.1, 0.7], [0.29, 0.4]])
    scores = [
        interp.results.by_head.HeadScores(k, "decoder.cross", v)
        for k, v in zip(probes.induction.mosaic.KINDS, (current, right), strict=True)
    ]
    mosaic = Mosaic(*scores, n_tokens=22, provenance={"model": "a/b", "n_parameters": 12})
    counts = mosaic.counts()
    assert (counts.current_token, counts.token_to_right, counts.either, counts.total) == (3, 2, 4, 5)
    assert counts.proportions["total"] == 5 / 4
    assert [(str(h.address), h.kind) for h in mosaic.heads()] == [
        ("decoder.cross.0.1", "token_to_right"),
        ("decoder.cross.0.0", "current_token"),
        ("decoder.cross.1.1", "token_to_right"),
        ("decoder.cross.1.0", "current_token"),
    ]
    close(mosaic.lift.values, mosaic.either.values * 22)
    frame = mosaic.to_frame()
    assert list(frame["relative_layer"]) == [0.5, 0.5, 1, 1]
    assert frame["eos"].isna().all()
    assert mosaic.counts(0.6).either == 1
    assert np.isnan(mosaic.accuracy())


def test_save_and_load(model: Model, tmp_path: Path) -> None:
    mosaic = induction_mosaic(model, batch_size=5, seed=3)
    path = mosaic.save(tmp_path / "m.json")
    again = Mosaic.load(path)
    assert again.provenance == json.loads(json.dumps(mosaic.provenance))
    assert again.provenance["stimulus"]["seed"] == 3
    assert again.provenance["digest"] == model.digest
    for name in ("current_by_occurrence", "right_by_occurrence", "bin_errors"):
        np.testing.assert_array_equal(getattr(again, name), getattr(mosaic, name))
    for name in ("current_token", "token_to_right", "eos"):
        np.testing.assert_array_equal(getattr(again, name).values, getattr(mosaic, name).values)
        np.testing.assert_array_equal(getattr(again, name).stderr, getattr(mosaic, name).stderr)
    assert again.n_tokens == mosaic.n_tokens


def test_numbers_from_numpy_can_be_saved(model: Model, tmp_path: Path) -> None:
    mosaic = induction_mosaic(model, seed=np.int64(3), batch_size=np.int32(4))
    assert Mosaic.load(mosaic.save(tmp_path / "m.json")).provenance["stimulus"]["seed"] == 3


@pytest.mark.parametrize(
    "change",
    [
        {"provenance": None},
        {"n_tokens": -1},
        {"n_tokens": 2.5},
        {"eos": {}},
        {"bin_errors": "x"},
        {"current_by_occurrence": [[[0.1]]]},
    ],
)
def test_a_file_of_another_form(model: Model, tmp_path: Path, change: dict[str, Any]) -> None:
    path = induction_mosaic(model, batch_size=3).save(tmp_path / "m.json")
    content = json.loads(path.read_text())
    content["fields"]["items"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(interp.errors.DamagedFile):
        Mosaic.load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(interp.errors.MissingFile):
        Mosaic.load(tmp_path / "none.json")
    with pytest.raises(interp.errors.InvalidInput, match="directory"):
        probes.published("chronos-t5-mini")[0].save(tmp_path)


def test_compare() -> None:
    first, second = probes.published("amazon/chronos-t5-base")
    same = first.compare(first)
    assert same.largest_difference == {"current_token": 0, "token_to_right": 0}
    close(same.rank_correlation["current_token"], 1)
    other = first.compare(second)
    assert 0 < other.largest_difference["token_to_right"] < 0.1
    assert other.rank_correlation["token_to_right"] > 0.95
    from scipy.stats import spearmanr  # what the correlation is held to

    expected = spearmanr(first.token_to_right.values.ravel(), second.token_to_right.values.ravel()).statistic
    close(other.rank_correlation["token_to_right"], expected)
    with pytest.raises(interp.errors.InvalidInput, match="one shape"):
        first.compare(probes.published("chronos-t5-mini")[0])


def test_a_batch_that_does_not_know_is_refused(model: Model, batch: Batch) -> None:
    with pytest.raises(interp.errors.InvalidInput, match="repeated_random_tokens"):
        induction_mosaic(model, batch)
    with pytest.raises(interp.errors.InvalidInput, match="not both"):
        induction_mosaic(model, repeated_random_tokens(), seed=3)


def test_edits_in_force_are_seen(model: Model) -> None:
    """A plain hook that makes a head uniform: its score becomes chance, the others' in layer 0 stay."""
    clean = induction_mosaic(model, batch_size=10)

    def uniform(_: Any, __: Any, pattern: torch.Tensor) -> torch.Tensor:
        edited = pattern.clone()
        edited[:, 1] = 1 / pattern.shape[-1]
        return edited

    path = "decoder.block.0.layer.1.EncDecAttention.hook_pattern"
    handle = model.module.get_submodule(path).register_forward_hook(uniform)
    edited = induction_mosaic(model, batch_size=10)
    handle.remove()
    close(edited.current_token.values[0, 1], 1 / 22)
    assert edited.current_token.values[0, 0] == clean.current_token.values[0, 0]


@pytest.mark.parametrize(
    "values",
    [{}, {"repetitions": 3, "num_unique_sequences": 2, "extension": 1, "sub_extension": 3, "sequence_length": 5}],
)
def test_a_decoder_alone_is_read_at_the_same_formula(values: dict[str, Any]) -> None:
    """By Hugging Face's own attentions, at the positions of the formula in the one row."""
    model = interp.wrap(tiny_causal_pipeline(), name="causal")
    mosaic = induction_mosaic(model, batch_size=12, **values)
    batch = repeated_random_tokens(batch_size=12, encoder=False, **values)
    n, r = batch.parameters["sequence_length"], batch.parameters["repetitions"]
    u, e = batch.parameters["num_unique_sequences"], batch.parameters["extension"]
    s = n * ((r - 1) * u + e) + batch.parameters["sub_extension"]
    with torch.no_grad():
        out = tiny_causal_pipeline().model.model(**batch.inputs, output_attentions=True)
    paid = torch.stack([a[:, :, -1] for a in out.attentions]).mean(1)
    close(mosaic.current_token.values, paid[..., s], terms=FORWARD)
    close(mosaic.token_to_right.values, paid[..., s + 1], terms=FORWARD)
    assert mosaic.site == mosaic.either.site == "decoder.self"
    assert mosaic.eos is None
    assert mosaic.n_tokens == batch.decoder_input_ids.shape[1] == paid.shape[-1]
    np.testing.assert_array_equal(mosaic.bin_errors, (out.logits[:, -1].argmax(-1) - batch.continuation).abs().numpy())  # type: ignore[arg-type]
    assert list(mosaic.to_frame()["head"]) == [str(head) for head in model.heads("decoder.self")]


@pytest.mark.parametrize("repetitions", [1, 2, 4])
def test_a_planted_head_of_a_decoder_alone(repetitions: int, tmp_path: Path) -> None:
    """On paper: it matches content alone, so it pays 1/R to the token after each of R occurrences; unwired nothing."""
    values: dict[str, Any] = {"repetitions": repetitions, "unique": True, "batch_size": 12, "prefix": 2}
    mosaic = induction_mosaic(zoo.planted_decoder().model, **values)
    assert mosaic.token_to_right["decoder.self.1.2"] == pytest.approx(1 / repetitions, abs=0.02)
    assert mosaic.right_by_occurrence is not None
    np.testing.assert_allclose(mosaic.right_by_occurrence[1, 2], np.full(repetitions, 1 / repetitions), atol=0.02)
    assert mosaic.accuracy() == 1
    again = Mosaic.load(mosaic.save(tmp_path / "m.json"))
    assert again.site == "decoder.self"
    assert again.eos is None
    assert again.to_frame().equals(mosaic.to_frame())
    counts = mosaic.counts(0.2)
    assert (counts.token_to_right, counts.n_heads) == (1, 10)
    cut = induction_mosaic(zoo.planted_decoder(wired=False).model, **values)
    assert cut.token_to_right["decoder.self.1.2"] < 0.1


def test_a_text_model_has_a_mosaic(tmp_path: Path) -> None:
    model = interp.wrap(tiny_gpt2(vocab_size=200), name="words")
    found = induction_mosaic(model, batch_size=3, vocab_range=(10, 190))
    assert found.counts().n_heads == 9
    with pytest.raises(interp.errors.InvalidInput, match="encoder=False"):
        induction_mosaic(model, repeated_random_tokens(batch_size=2, vocab_range=(10, 190)))


def test_panels_of_one_kind(model: Model) -> None:
    mosaic = induction_mosaic(model, batch_size=3)
    for site in ("decoder.self", "encoder.self"):
        with pytest.raises(interp.errors.InvalidInput, match=r"decoder\.cross, decoder\.self"):
            replace(mosaic, current_token=replace(mosaic.current_token, site=site))
