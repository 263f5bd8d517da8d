"""The bundled models: what they promise, what their cards say, and the recipe that made them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chronos import BaseChronosPipeline, ChronosPipeline

import circuits
import interp
import probes
from interp import zoo
from interp.zoo import benchmark as evaluation
from interp.zoo.made_series import SERIES, varied_motifs
from interp.zoo.monitor import induction_snapshot
from interp.zoo.recipe import HORIZON, Recipe, batch, learning_rate, motif_fraction
from interp.zoo.training import snapshot_steps, train
from probes.induction.mosaic import Mosaic
from tests.tolerance import LAYER, close

TINY = Recipe(
    layers=2,
    heads=3,
    d_model=16,
    d_kv=4,
    d_ff=8,
    steps=9,
    motif_steps=4,
    motif_heads=1,
    widen_steps=2,
    motif_rows=6,
    rows=5,
)

TINY_GPT2 = replace(TINY, architecture="gpt2", d_model=12, longest_context=40, longest_period=20)
TINY_BOLT = replace(TINY, architecture="bolt", longest_context=256, motif_context=16, longest_period=4)

NOISE = 0.25
"""How far a mean error of a few sampled forecasts may be from the one on record, as a share.

Samples drawn anew move the mean over 24 series by up to 0.15, and air passengers by up to 0.13.
"""

T5S = ["pico-t5", "pico-t5-current", "pico-t5-induction"]
GPT2S = ["pico-gpt2"]
BOLTS = ["pico-bolt"]


@pytest.fixture(scope="module", params=T5S)
def model_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=zoo.names())
def any_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[TINY, TINY_GPT2, TINY_BOLT], ids=["t5", "gpt2", "bolt"])
def tiny(request: pytest.FixtureRequest) -> Recipe:
    return request.param


@pytest.fixture(scope="module")
def bundled(model_name: str) -> interp.Model:
    return interp.load(model_name)


@pytest.fixture(scope="module")
def mosaic(bundled: interp.Model) -> Mosaic:
    return probes.induction_mosaic(bundled)


def record_of(name: str) -> dict[str, object]:
    return json.loads((zoo.path(name) / "training.json").read_text())


@pytest.fixture(scope="module")
def record(model_name: str) -> dict[str, object]:
    return record_of(model_name)


@pytest.fixture(scope="module")
def pipeline(any_name: str) -> evaluation.Pipeline:
    """As plain Chronos opens it, without the toolkit."""
    opened = BaseChronosPipeline.from_pretrained(str(zoo.path(any_name)), attn_implementation="eager")
    assert isinstance(opened, evaluation.Pipeline)
    assert isinstance(opened, ChronosPipeline) is (any_name not in BOLTS)
    return opened


def test_what_is_bundled() -> None:
    assert zoo.names() == sorted([*T5S, *GPT2S, *BOLTS])


def test_plain_chronos_opens_it(pipeline: evaluation.Pipeline) -> None:
    """Twenty samples, or nine quantiles."""
    torch.manual_seed(0)
    forecast = pipeline.predict(torch.sin(torch.arange(60.0)), prediction_length=12)
    assert forecast.shape == (1, 20 if isinstance(pipeline, ChronosPipeline) else 9, 12)


def test_it_is_small(any_name: str) -> None:
    assert sum(f.stat().st_size for f in zoo.path(any_name).iterdir()) <= 8_000_000


def test_it_has_induction_heads_and_others(mosaic: Mosaic) -> None:
    counts = mosaic.counts()
    assert mosaic.accuracy() >= 0.9
    assert counts.either >= 3
    assert counts.either <= counts.n_heads / 2


def test_no_idle_heads_keep_the_share_down(bundled: interp.Model) -> None:
    """Every cross head writes: the norm of W_O by head is of the same order in all of them."""
    for layer in range(bundled.n_layers["decoder"]):
        weight = bundled.module.get_submodule(f"decoder.block.{layer}.layer.1.EncDecAttention.o").weight
        assert isinstance(weight, torch.Tensor)
        norms = weight.detach().unflatten(1, (bundled.n_heads, -1)).norm(dim=(0, 2))
        assert float(norms.min() / norms.max()) > 0.2


def test_the_instrument_agrees_with_the_training_record(
    bundled: interp.Model, mosaic: Mosaic, record: dict[str, object]
) -> None:
    """Two ways to the same numbers: hook points, and Hugging Face's output_attentions while training."""
    snapshots = record["snapshots"]
    assert isinstance(snapshots, list)
    assert 18 <= len(snapshots) <= 26
    last = snapshots[-1]
    now = induction_snapshot(bundled.module)
    for kind in ("current_token", "token_to_right"):
        close(getattr(mosaic, kind).values, now[kind], terms=LAYER)
        np.testing.assert_allclose(getattr(mosaic, kind).values, last[kind], atol=1e-4)
    close(mosaic.accuracy(), now["accuracy"])


SAMPLE = slice(0, 24)


def recorded_errors(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    errors = np.array(record_of(name)["held_out_errors"])
    assert errors.shape == (200,)
    return errors


def test_it_forecasts(any_name: str, pipeline: evaluation.Pipeline) -> None:
    """What the record says, and the card repeats, is found again: by air passengers, and a sample of held-out series.

    The samples are others where other series stand beside one, and on a processor that draws otherwise.
    """
    again, recorded = evaluation.held_out_errors(pipeline, SAMPLE), recorded_errors(any_name)
    assert abs(np.log(again["model"] / recorded[SAMPLE]).mean()) < NOISE
    assert again["model"].mean() == pytest.approx(recorded[SAMPLE].mean(), rel=NOISE)
    assert np.corrcoef(np.log(again["model"]), np.log(recorded[SAMPLE]))[0, 1] > 0.6
    assert np.median(again["model"]) < np.median(again["naive"]) / 2
    for name, scores in evaluation.air_passenger_scores(pipeline).items():
        assert_forecasts(scores, record_of(any_name)["forecasts"][name])  # type: ignore[index]


def assert_forecasts(scores: dict[str, float], recorded: dict[str, float]) -> None:
    assert scores["model"] < scores["naive"]
    assert scores["model"] == pytest.approx(recorded["model"], rel=NOISE)
    close([scores["naive"], scores["seasonal_naive"]], [recorded["naive"], recorded["seasonal_naive"]], terms=LAYER)


@pytest.mark.long
def test_it_forecasts_all(any_name: str, pipeline: evaluation.Pipeline) -> None:
    errors = evaluation.held_out_errors(pipeline)
    scores = {name: float(np.median(error)) for name, error in errors.items()}
    assert_forecasts(scores, record_of(any_name)["forecasts"]["held_out"])  # type: ignore[index]
    assert np.log(errors["model"] / recorded_errors(any_name)).mean() == pytest.approx(0, abs=NOISE / 2)


def test_the_record_of_held_out_series_is_one(any_name: str) -> None:
    """Held-out series: at most half of naive's median MASE. The errors by series are those that the median is of."""
    recorded: Any = record_of(any_name)["forecasts"]
    assert recorded["held_out"]["model"] <= recorded["held_out"]["naive"] / 2
    assert np.median(recorded_errors(any_name)) == pytest.approx(recorded["held_out"]["model"], rel=1e-3)


def test_the_card_says_what_is_measured(model_name: str, mosaic: Mosaic) -> None:
    card = (zoo.path(model_name) / "README.md").read_text()
    counts = mosaic.counts()
    assert f"{counts.either} of {counts.n_heads} cross-attention heads" in card
    assert f"accuracy {mosaic.accuracy():.2f}" in card


def test_the_card_says_how_it_forecasts(any_name: str) -> None:
    card = (zoo.path(any_name) / "README.md").read_text()
    for place in record_of(any_name)["forecasts"].values():  # type: ignore[attr-defined]
        row = " | ".join(f"{place[name]:.2f}" for name in ("model", "naive", "seasonal_naive"))
        assert re.search(re.escape(row), card), row


def followed(model: interp.Model) -> tuple[float, float]:
    """With F in the decoder in place of B: how often G, and how often C, is predicted."""
    tokens = probes.repeated_random_tokens(seed=0)
    ids = tokens.input_ids
    swapped = torch.stack([tokens.decoder_input_ids[:, 0], ids[:, 5]], dim=1)
    batch = interp.Batch(input_ids=ids, attention_mask=tokens.attention_mask, decoder_input_ids=swapped)
    with torch.no_grad():
        guess = model.module(**model.inputs(batch)).logits[:, -1].argmax(-1)
    return float((guess == ids[:, 6]).double().mean()), float((guess == ids[:, 2]).double().mean())


def test_what_its_heads_match_on(model_name: str, bundled: interp.Model) -> None:
    """The token in pico-t5-induction; in pico-t5 the end of the context more than the token."""
    by_token, by_place = followed(bundled)
    card = (zoo.path(model_name) / "README.md").read_text()
    if model_name == "pico-t5":
        assert by_token < 0.2 < by_place
        assert f"G is predicted in {by_token:.0%} of rows, C in {by_place:.0%}".replace("%", " %") in card
    else:
        assert by_token > 0.7
        assert by_place < 0.1
        assert f"| G predicted | {by_token:.2f} of rows |" in card
        assert f"| C predicted | {by_place:.2f} |" in card


def test_one_model_has_a_previous_token_head(model_name: str, bundled: interp.Model) -> None:
    scores = probes.head_scores(bundled)["encoder.self.previous_token"].values
    if model_name != "pico-t5-induction":
        assert scores.max() < 0.03
    else:
        assert (scores[:, 7] >= 0.9).all()
        assert np.delete(scores, 7, axis=1).max() < 0.1


def test_one_model_has_both_kinds_of_heads() -> None:
    """Next-token heads of its encoder are the route to current heads: without them there is no copying left."""
    model = interp.load("pico-t5-current")
    ahead = probes.head_scores(model)["encoder.self.next_token"].values
    assert (ahead[:, :2] >= 0.8).all()
    assert ahead[:, 2:].max() < 0.1
    batch = probes.repeated_random_tokens(seed=1)
    mosaic = probes.induction_mosaic(model, batch)
    assert (mosaic.counts().current_token, mosaic.counts().token_to_right) == (8, 1)
    with interp.ablate(model, ["encoder.self.*.0", "encoder.self.*.1"]):
        assert probes.induction_mosaic(model, batch).accuracy() < 0.05
    others = circuits.random_controls(model, mosaic.heads(), draws=3).sets
    for heads, least, most in ((mosaic.heads(), 0.0, 0.05), *((list(heads), 0.8, 1.0) for heads in others)):
        with interp.ablate(model, heads):
            assert least <= probes.induction_mosaic(model, batch).accuracy() <= most
    counts = {r: probes.induction_mosaic(model, repetitions=r).counts().either for r in (1, 2, 4, 8)}
    assert counts == {1: 9, 2: 9, 4: 7, 8: 0}, "as the card says: attention is shared among the occurrences"


def test_matching_by_the_token_splits_attention() -> None:
    """At most 1 / R to each of R continuations: no head is counted at 4, where the sum is as high as at 2."""
    model = interp.load("pico-t5-induction")
    sums: dict[int, list[float]] = {}
    heads = probes.induction_mosaic(model).heads()
    for repetitions, count in ((1, 9), (2, 9), (4, 0)):
        mosaic = probes.induction_mosaic(model, repetitions=repetitions)
        assert mosaic.counts().either == count
        assert mosaic.accuracy() >= 0.95
        paid = mosaic.right_by_occurrence
        assert paid is not None
        assert paid[..., 0].max() <= 1 / repetitions
        sums[repetitions] = [paid[h.address.layer, h.address.head].sum() for h in heads]
    np.testing.assert_allclose(sums[4], sums[2], atol=0.02)


def test_naive_errors_by_hand() -> None:
    """MASE of naive and seasonal naive on a series of period 4, worked out by hand."""
    past, future = np.array([1.0, 3, 5, 7, 2, 4, 6, 8]), np.array([3.0, 5, 7, 9])
    errors = evaluation._mase([past], [future], [np.full(4, 8.0)], 4)
    close(errors[0], (5 + 3 + 1 + 1) / 4 / 1.0)
    errors = evaluation._mase([past], [future], [past[-4:]], 4)
    close(errors[0], 1.0)


def test_air_passengers_are_the_published_series() -> None:
    values = evaluation.air_passengers()
    assert (len(values), values.sum()) == (144, 40_363)


def test_the_held_out_set_is_fixed() -> None:
    values, period = evaluation.held_out()
    assert values.shape == (200, 120)
    assert period.min() >= 4
    assert period.max() <= 24
    np.testing.assert_array_equal(values, evaluation.held_out()[0])


def test_a_step_always_gives_the_same_batch() -> None:
    for step in (0, 3, 5, 8):
        first, second = batch(TINY, step), batch(TINY, step)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        ids, labels = first
        assert bool((ids[:, -1] == 1).all())
        assert bool((ids[:, :-1] > 1).all())
        assert 8 <= labels.shape[1] <= HORIZON
    assert not torch.equal(batch(TINY, 0)[0][:, :16], batch(TINY, 1)[0][:, :16])


def test_the_schedule() -> None:
    assert motif_fraction(TINY, 0) == 1
    close(motif_fraction(TINY, TINY.steps), TINY.motif_share)
    assert learning_rate(Recipe(), 499) == Recipe().learning_rate
    assert learning_rate(Recipe(), Recipe().steps - 1) < Recipe().learning_rate / 1000
    steps = snapshot_steps(Recipe())
    assert steps[0] == 0
    assert steps[-1] == Recipe().steps
    assert len(steps) == 20


@pytest.mark.parametrize("name", SERIES)
def test_series_are_finite_and_alive(name: str) -> None:
    values = SERIES[name](np.random.default_rng(0), 40, 70)
    assert values.shape == (40, 70)
    assert np.isfinite(values).all()
    assert (values.std(axis=1) > 0).all()


def test_motifs_end_with_what_the_recent_past_says() -> None:
    """Two of three variants repeat exactly at the end of the row with a period of 3 to 12."""
    tokens = varied_motifs(np.random.default_rng(0), 400, 80)
    repeats = np.zeros(400, dtype=bool)
    for period in range(3, 13):
        repeats |= (tokens[:, -30:] == tokens[:, -30 - period : -period]).all(axis=1)
    assert repeats.mean() > 0.7
    assert tokens.min() >= 2
    assert tokens.max() <= 4095


def test_training_goes_on_where_it_was_interrupted(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after 6 of 9 steps and resumed: the same weights and record, bit for bit."""
    whole = train(tiny, tmp_path / "whole", workers=0, progress=False)

    import interp.zoo.training as training

    real = training.batch

    def stop(recipe: Recipe, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if step == 6:
            raise KeyboardInterrupt
        return real(recipe, step)

    monkeypatch.setattr(training, "batch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "parts", workers=0, save_every=2, progress=False)
    monkeypatch.setattr(training, "batch", real)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    with pytest.raises(interp.errors.InvalidInput, match="another recipe"):
        train(Recipe(seed=9), tmp_path / "parts", workers=0, progress=False)
    parts = train(tiny, tmp_path / "parts", workers=0, progress=False)
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    records = [json.loads((p / "training.json").read_text()) for p in (whole, parts)]
    assert records[0]["snapshots"] == records[1]["snapshots"]
    assert not (parts / "checkpoint.safetensors").exists()


def test_late_heads_are_closed_while_motifs_are_learned(tmp_path: Path) -> None:
    from transformers import T5ForConditionalGeneration

    silent = train(replace(TINY, steps=4), tmp_path / "silent", workers=0, progress=False)
    open_ = train(TINY, tmp_path / "open", workers=0, progress=False)
    columns = slice(TINY.d_kv, None)
    for path, written in ((silent, False), (open_, True)):
        module = T5ForConditionalGeneration.from_pretrained(path)
        weight = module.get_submodule("decoder.block.1.layer.1.EncDecAttention.o").weight
        assert isinstance(weight, torch.Tensor)
        assert bool(weight[:, columns].any()) is written


def test_training_leaves_global_randomness_alone(tiny: Recipe, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(tiny, tmp_path / "m", workers=0, progress=False)
    assert torch.equal(before, torch.get_rng_state())
