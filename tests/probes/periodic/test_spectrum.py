"""Spectra of attention: the published procedure, their axes, planted combs, coherence, and files."""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import signal
from transformers import T5ForConditionalGeneration

import interp
import probes
from probes import TimeSeries, attention_spectrum, context_attention, multisine
from probes.periodic.combs import best_comb, candidates, lag_energy, over_null, permutation_null
from probes.periodic.context_attention import PERMUTATIONS
from probes.periodic.spectrum import AttentionSpectrum
from tests.conftest import tiny_pipeline
from tests.tolerance import FORWARD, LAYER, close

SHORT = multisine([2, 6], [1, 0.5], [0.2, 1.4], steps=40)
PUBLISHED = multisine([5, 10, 20, 40], [1, 0.75, 0.5, 0.5])


def published_spectra(pipeline: Any, plain: Any, series: TimeSeries, num_decoder: int, position: int) -> dict[str, Any]:
    """As the published notebook does it, from decoder positions that it does not have too."""
    n = len(series) - num_decoder
    tokenizer = pipeline.tokenizer
    values = torch.tensor(series.values[None], dtype=torch.float32)
    ids, mask, scale = tokenizer.context_input_transform(values[:, :n])
    rest = tokenizer._input_transform(context=values[:, n:], scale=scale)[0] if num_decoder else ids[:, :0]
    decoder = torch.cat([torch.zeros(1, 1, dtype=torch.long), rest], dim=1)
    with torch.no_grad():
        out = plain(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder, output_attentions=True)
    layers = [layer[0, :, position].numpy().astype(np.float64) for layer in out.cross_attentions]
    attention = np.stack([layer[:, :-1] for layer in layers])
    spectrum = np.abs(np.fft.rfft(attention))
    token = out.logits[:, position].argmax(-1)
    return {
        "attention": attention,
        "eos": np.stack([layer[:, -1] for layer in layers]),
        "spectrum": spectrum,
        "second_spectrum": np.abs(np.fft.rfft(spectrum)),
        "prediction": float(tokenizer.output_transform(token[None, :, None], scale)),
    }


@pytest.mark.parametrize(("num_decoder", "position"), [(0, 0), (2, 0), (2, 1), (2, 2)])
@pytest.mark.parametrize("size", ["tiny", "pico"])
def test_spectra_are_those_of_the_published_procedure(
    size: str, num_decoder: int, position: int, pico: interp.Model
) -> None:
    series = SHORT if size == "tiny" else PUBLISHED
    if size == "tiny":
        pipeline = tiny_pipeline()
        plain: Any = copy.deepcopy(pipeline.model.model)
        model = interp.wrap(tiny_pipeline())
    else:
        pipeline, model = pico.pipeline, pico
        path = interp.zoo.path("pico-t5")
        plain = T5ForConditionalGeneration.from_pretrained(path, attn_implementation="eager").eval()
    found = attention_spectrum(model, series, num_decoder=num_decoder, position=position, shuffles=0)
    expected = published_spectra(pipeline, plain, series, num_decoder, position)
    for name, values in expected.items():
        close(getattr(found, name), values, name, terms=LAYER)
    assert found.query_step == (len(series) - num_decoder + position - 1 if position else -1)
    assert found.next_step == len(series) - num_decoder + position
    assert found.eos is not None
    assert (found.position, found.shuffled.shape) == (position, (0, *found.eos.shape))
    if position == num_decoder:
        again = attention_spectrum(model, series, num_decoder=num_decoder, shuffles=0)
        np.testing.assert_array_equal(again.attention, found.attention)


def test_attention_and_eos_add_to_one(model: interp.Model) -> None:
    found = attention_spectrum(model, SHORT, num_decoder=1, shuffles=0)
    assert found.eos is not None
    close(found.attention.sum(-1) + found.eos, 1, terms=LAYER)
    close(found.spectrum[..., 0] + found.eos, 1, terms=LAYER)


def test_a_special_token_is_no_prediction(model: interp.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def eos_first(_: Any, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(1), 4096).expand(*hidden.shape[:-1], -1)

    monkeypatch.setattr(interp.Model, "unembed", eos_first)
    found = attention_spectrum(model, SHORT, shuffles=0)
    assert np.isnan(found.prediction)
    assert np.isnan(AttentionSpectrum.load(found.save(tmp_path / "s.json")).prediction)


def test_the_series_peaks_at_its_frequencies_in_hz() -> None:
    series = multisine([5, 10, 20, 40], [1, 0.75, 0.5, 0.5], steps=300)
    found = hand_made(np.ones((1, 1, 300)), series)
    peaks, _ = signal.find_peaks(found.series_spectrum, height=10)
    close(found.frequencies[peaks], [5, 10, 20, 40], terms=FORWARD, dtype=torch.float64)
    close(found.series_spectrum[peaks], np.array([1, 0.75, 0.5, 0.5]) * 150, terms=LAYER)
    # The series' own comb of 5 Hz is 0.2 s.
    assert found.periods[1 + found.second_series[1:].argmax()] == pytest.approx(0.2, abs=found.periods[1])


@pytest.mark.parametrize("period", [12, 30, 37.5])
def test_the_second_spectrum_peaks_at_the_combs_inverse_spacing_in_seconds(period: float) -> None:
    """Teeth a period of p steps of 1/100 s apart: lines 100/p Hz apart, which is p/100 s."""
    found = hand_made(teeth(period)[None, None], multisine(5, steps=300))
    spacing = 100 / period
    lines, _ = signal.find_peaks(found.spectrum[0, 0], height=found.spectrum[0, 0, 0] / 3)
    np.testing.assert_allclose(np.diff(found.frequencies[lines]).mean(), spacing, rtol=0.02)
    assert found.periods[1 + found.second_spectrum[0, 0, 1:].argmax()] == pytest.approx(
        1 / spacing, abs=found.periods[1]
    )
    assert found.comb(permutations=19).spacing[0, 0] == pytest.approx(spacing, rel=0.01)
    assert found.periods.shape == found.second_spectrum[0, 0].shape


def test_amplitude_is_the_highest_line_apart_from_the_constant_one() -> None:
    t = np.arange(300) / 100
    waves = 1 + 0.2 * np.sin(2 * np.pi * 7 * t) + 0.3 * np.cos(2 * np.pi * 11 * t)
    found = hand_made(np.stack([waves, np.ones(300)])[None] / 300, multisine(5, steps=300))
    close(found.amplitude.values, [[0.3 / 2, 0]], terms=FORWARD, dtype=torch.float64)


def test_many_rows_are_single_runs(model: interp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((70, 30))
    at_once = context_attention(model, values, num_decoder=2)
    assert at_once.shape == (70, 2, 3, 28)
    for row in (0, 1, 63, 64, 69):
        alone = attention_spectrum(model, values[row], num_decoder=2, shuffles=0)
        close(at_once[row], alone.attention, terms=LAYER)
    assert np.abs(at_once[0] - at_once[1]).max() > 1e-3
    monkeypatch.setattr(probes.periodic.context_attention, "ROWS", 3)
    close(context_attention(model, values[:7], num_decoder=2), at_once[:7], terms=LAYER)
    other = context_attention(model, values[:7], num_decoder=2, position=1)
    alone = attention_spectrum(model, values[3], num_decoder=2, position=1, shuffles=0)
    close(other[3], alone.attention, terms=LAYER)


def test_shuffled_runs_permute_the_context_and_leave_the_decoder(
    model: interp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = context_attention

    def recorded(model: interp.Model, values: Any, **settings: Any) -> Any:
        seen.append((values, real(model, values, **settings)))
        return seen[-1][1]

    monkeypatch.setattr(probes.periodic.context_attention, "context_attention", recorded)
    found = attention_spectrum(model, SHORT, num_decoder=2, shuffles=5, seed=3)
    assert (found.spectrum.ndim, found.amplitude.site, seen) == (3, "decoder.cross", [])
    assert found.shuffled.shape == (5, 2, 3)
    found.comb(permutations=9)
    # They are made once.
    ((values, paid),) = seen
    assert values.shape == (5, 40)
    np.testing.assert_array_equal(values[:, 38:], np.tile(SHORT.values[38:], (5, 1)))
    np.testing.assert_array_equal(np.sort(values[:, :38]), np.tile(np.sort(SHORT.values[:38]), (5, 1)))
    assert len({row.tobytes() for row in values}) == 5
    score = best_comb(lag_energy(paid), candidates(38)).score
    null = permutation_null(paid, candidates(38), PERMUTATIONS, 3)
    close(found.shuffled, (score - null.mean(0)) / null.std(0), terms=FORWARD, dtype=torch.float64)
    again = attention_spectrum(model, SHORT, num_decoder=2, shuffles=5, seed=3)
    np.testing.assert_array_equal(again.shuffled, found.shuffled)


def test_shuffled_runs_are_those_of_the_moment_of_the_spectrum(model: interp.Model) -> None:
    def of_now() -> AttentionSpectrum:
        return attention_spectrum(model, SHORT, num_decoder=1, shuffles=4)

    plain, head = of_now().shuffled, "encoder.self.0"
    later = of_now()
    with interp.ablate(model, head):
        np.testing.assert_array_equal(later.shuffled, plain)
        inside = of_now()
        at_once = inside.shuffled
    assert np.abs(at_once - plain).max() > 1e-3
    with interp.ablate(model, head):
        left = of_now()
    np.testing.assert_array_equal(left.shuffled, at_once)


def test_shuffled_runs_of_a_model_that_was_changed_meanwhile_are_refused(tmp_path: Path) -> None:
    model = interp.wrap(tiny_pipeline())
    done, pending = (attention_spectrum(model, SHORT, shuffles=4) for _ in range(2))
    done.comb(permutations=9)
    hook = model.module.decoder.register_forward_hook(print)
    with pytest.raises(interp.errors.ChangedModel, match="hooks of your own"):
        pending.comb()
    hook.remove()
    with torch.no_grad():
        model.module.decoder.block[0].layer[1].EncDecAttention.q.weight.mul_(2)
    for ask in (pending.comb, lambda: pending.save(tmp_path / "s.json"), lambda: copy.copy(pending)):
        with pytest.raises(interp.errors.ChangedModel, match="other weights"):
            ask()
    assert not (tmp_path / "s.json").exists()
    assert done.comb(permutations=9).p_shuffled.shape == (2, 3)
    # What needs no such run is there.
    assert pending.amplitude.values.shape == (2, 3)


def test_a_pickle_holds_the_shuffled_runs_and_no_model(model: interp.Model) -> None:
    spectrum = attention_spectrum(model, SHORT, shuffles=4)
    sent = pickle.dumps(spectrum)
    assert len(sent) < 100_000
    again = pickle.loads(sent)
    np.testing.assert_array_equal(again.shuffled, spectrum.shuffled)
    np.testing.assert_array_equal(copy.deepcopy(spectrum).shuffled, spectrum.shuffled)


def test_a_context_too_short_for_combs_has_all_else(model: interp.Model, tmp_path: Path) -> None:
    spectrum = attention_spectrum(model, SHORT.first(12))
    assert spectrum.shuffled.shape == (0, 2, 3)
    assert AttentionSpectrum.load(spectrum.save(tmp_path / "s.json")).amplitude.values.shape == (2, 3)


def teeth(period: float, steps: int = 300) -> Any:
    away = (np.arange(steps) + period / 2) % period - period / 2
    return np.exp(-(away**2) / 2)


def hand_made(attention: Any, series: TimeSeries, shuffled: Any = None) -> AttentionSpectrum:
    heads = attention.shape[:2]
    return AttentionSpectrum(
        series, attention, np.zeros(heads), 0, -1, 1.5, np.empty((0, *heads)) if shuffled is None else shuffled
    )


def scores_of(runs: Any) -> Any:
    among = candidates(runs.shape[-1])
    return over_null(best_comb(lag_energy(runs), among).score, permutation_null(runs, among, PERMUTATIONS, 0))


PLANTED = {(0, 0): 12.0, (1, 2): 20.07, (2, 3): 33.4}
FIXED = (0, 1)


@pytest.fixture(scope="module")
def planted() -> AttentionSpectrum:
    """Three heads with combs, one that pays the same to every series, and eight of noise; 99 shuffled runs."""
    rng = np.random.default_rng(8)
    runs = rng.dirichlet(np.full(300, 0.5), (100, 3, 4))
    for (i, j), period in PLANTED.items():
        runs[0, i, j] = teeth(period) / teeth(period).sum() + 0.5 * runs[0, i, j]
    runs[:, *FIXED] = teeth(25) + 0.01 * rng.random((100, 300))
    return hand_made(runs[0], multisine([5, 10], steps=300), scores_of(runs[1:]))


def test_combs_are_found_in_the_heads_that_have_them_and_no_others(planted: AttentionSpectrum) -> None:
    found = planted.comb(permutations=99, seed=1)
    assert {(h.address.layer, h.address.head) for h in found.heads()} == set(PLANTED)
    for at, period in PLANTED.items():
        assert found.spacing[at] == pytest.approx(100 / period, rel=0.01)
        assert found.p[at] == 1 / 100
    # It has a comb, but has it whatever the series is.
    assert found.p_permuted[FIXED] == 1 / 100
    assert found.p_shuffled[FIXED] > 0.05
    assert found.p_blocks is not None
    np.testing.assert_array_equal(found.p, np.max([found.p_permuted, found.p_blocks, found.p_shuffled], axis=0))
    order = [h.score for h in found.heads()]
    assert order == sorted(order, reverse=True)
    frame = found.to_frame().set_index("head")
    assert frame.loc["decoder.cross.1.2", "period"] == pytest.approx(0.2007, rel=0.01)
    assert found.heads(0.0) == ()


def test_attention_to_two_places_when_shuffled_is_no_better_comb_than_attention_to_eight() -> None:
    rng = np.random.default_rng(4)
    real = np.full((1, 1, 300), 2.0**-17)
    real[..., 20 * np.arange(3, 11) + 7] = rng.uniform(0.5, 1, 8)
    runs = np.full((60, 1, 1, 300), 2.0**-17)
    for run in runs:
        run[0, 0, rng.choice(300, 2, replace=False)] = 1
    raw = best_comb(lag_energy(np.concatenate([real[None], runs])), candidates(300)).score
    # Two places are always one comb: by the raw score many shuffled runs would beat the real one.
    assert (raw[1:] >= raw[0]).mean() > 0.1
    found = hand_made(real, multisine([5, 10], steps=300), scores_of(runs)).comb(permutations=99)
    close(found.p_shuffled.item(), 1 / 61)


def test_without_shuffled_runs_two_nulls_are_left(planted: AttentionSpectrum) -> None:
    found = replace(planted, shuffled=planted.shuffled[:0]).comb(permutations=99, seed=1)
    assert np.isnan(found.p_shuffled).all()
    assert found.p_blocks is not None
    np.testing.assert_array_equal(found.p, np.maximum(found.p_permuted, found.p_blocks))
    assert {(h.address.layer, h.address.head) for h in found.heads()} >= {*PLANTED, FIXED}


def test_coherence_is_at_the_frequency_that_a_head_follows() -> None:
    series = multisine([5, 10, 20, 40], steps=300)
    rng = np.random.default_rng(0)
    # Noise in both, or every window would hold the same.
    series = replace(series, values=series.values + 0.3 * rng.standard_normal(300))
    attention = rng.random((2, 1, 300))
    attention[1, 0] += np.sin(2 * np.pi * 10 * np.arange(300) / 100 + 0.7)
    frame = hand_made(attention / 300, series).coherence()
    assert list(frame["frequency"].unique()) == [5, 10, 20, 40]
    assert (frame["bin"] == frame["frequency"]).all()
    found = frame[frame["q"] <= 0.05]
    assert [(row["head"], row["frequency"]) for _, row in found.iterrows()] == [("decoder.cross.1.0", 10)]
    assert found["coherence"].item() > 0.8
    bins, expected = signal.coherence(series.values, attention[1, 0], fs=100, nperseg=100, noverlap=50)
    close(
        frame[frame["head"] == "decoder.cross.1.0"]["coherence"],
        expected[np.isin(bins, [5, 10, 20, 40])],
        terms=FORWARD,
        dtype=torch.float64,
    )


def test_a_series_that_knows_no_frequency_has_those_of_its_peaks() -> None:
    series = TimeSeries(multisine([25 / 3, 20], [1, 0.5], steps=300).values, 0.01)
    frame = hand_made(np.random.default_rng(0).random((1, 2, 300)), series).coherence(permutations=9, peaks=2)
    close(frame["frequency"].unique(), [25 / 3, 20])
    # Windows of 1 s resolve whole Hz.
    close(frame["bin"].unique(), [8, 20])


def test_save_and_load(planted: AttentionSpectrum, model: interp.Model, tmp_path: Path) -> None:
    real = attention_spectrum(
        model, SHORT, num_decoder=np.int64(1), position=np.int32(1), shuffles=np.int64(3), seed=np.int64(2)
    )
    for spectrum in (real, planted, replace(planted, shuffled=planted.shuffled[:0])):
        again = AttentionSpectrum.load(spectrum.save(tmp_path / "s.json"))
        for name in ("attention", "eos", "shuffled", "periods", "frequencies"):
            np.testing.assert_array_equal(getattr(again, name), getattr(spectrum, name))
        assert (again.position, again.query_step) == (spectrum.position, spectrum.query_step)
        assert again.prediction == spectrum.prediction
        assert again.provenance == json.loads(json.dumps(spectrum.provenance))
        np.testing.assert_array_equal(again.series.values, spectrum.series.values)
        for name in ("spacing", "unit", "name", "frequencies", "parameters"):
            assert getattr(again.series, name) == getattr(spectrum.series, name)


@pytest.mark.parametrize(
    "change",
    [
        {"attention": [[0.1]]},
        {"attention": [[["a"]]]},
        {"attention": [[[0.1] * 41] * 3] * 2},
        {"eos": [0.1]},
        {"series": None},
        {"series": {"values": [1, 2]}},
        {"position": "x"},
        {"position": float("inf")},
        {"prediction": "x"},
        {"shuffled": [[0.1]]},
        {"provenance": None},
    ],
)
def test_a_damaged_file_says_so(model: interp.Model, tmp_path: Path, change: dict[str, Any]) -> None:
    path = attention_spectrum(model, SHORT, shuffles=0).save(tmp_path / "s.json")
    content = json.loads(path.read_text())
    fields = content["fields"]["items"]
    path.write_text(json.dumps(content | {"fields": {"items": fields | change}}))
    with pytest.raises(interp.errors.DamagedFile):
        AttentionSpectrum.load(path)
    path.write_text(json.dumps(content | {"version": 0}))
    with pytest.raises(interp.errors.WrongVersion):
        AttentionSpectrum.load(path)
    path.write_text(json.dumps(content)[:-20])
    with pytest.raises(interp.errors.DamagedFile):
        AttentionSpectrum.load(path)


def test_what_is_refused(model: interp.Model, planted: AttentionSpectrum) -> None:
    refused: list[tuple[str, Any]] = [
        ("positions 0-1", lambda: attention_spectrum(model, SHORT, num_decoder=1, position=2, shuffles=0)),
        ("position=-1", lambda: attention_spectrum(model, SHORT, position=-1)),
        ("shuffles=-1", lambda: attention_spectrum(model, SHORT, shuffles=-1)),
        ("seed='a'", lambda: attention_spectrum(model, SHORT, shuffles=0, seed="a")),  # type: ignore[arg-type]
        ("12 steps is too short", lambda: attention_spectrum(model, SHORT.first(12)).comb()),
        ("12 steps is too short", lambda: attention_spectrum(model, SHORT.first(12), shuffles=0).comb()),
        ("positions 0-1", lambda: context_attention(model, SHORT.values[None], position=2)),
        ("position=-2", lambda: context_attention(model, SHORT.values[None], position=-2)),
        ("series", lambda: context_attention(model, np.zeros((0, 40)))),
        ("series", lambda: context_attention(model, np.zeros((2, 2, 40)))),
        ("series", lambda: attention_spectrum(model, "air passengers")),
        ("one series", lambda: attention_spectrum(model, np.ones((2, 40)))),
        ("permutations=0", lambda: planted.comb(permutations=0)),
        ("seed=-1", lambda: planted.comb(seed=-1)),
        ("seed=-1", lambda: planted.coherence(seed=-1)),
        ("segments=1", lambda: planted.coherence(segments=1)),
        ("windows of 6 steps", lambda: planted.coherence(segments=90)),
        ("peaks=0", lambda: planted.coherence(peaks=0)),
        ("layer, head, step", lambda: hand_made(np.ones((2, 300)), SHORT)),
        ("41 steps of a series of 40", lambda: hand_made(np.ones((1, 1, 41)), SHORT)),
        ("draw, layer, head", lambda: hand_made(np.ones((1, 2, 40)), SHORT, np.ones((9, 2, 1)))),
    ]
    for message, ask in refused:
        with pytest.raises(interp.errors.InvalidInput, match=message):
            ask()


def test_the_old_name_of_the_second_spectrum_warns(model: interp.Model) -> None:
    spectrum = attention_spectrum(model, SHORT, shuffles=0)
    with pytest.warns(DeprecationWarning, match="second_spectrum"):
        assert spectrum.second is spectrum.second_spectrum
