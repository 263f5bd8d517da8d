"""The probes of series, values, sweeps and the command lines on decoder-only models, and what text models lack."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

import interp
import interp.__main__ as interp_command
import probes
import probes.__main__ as probes_command
from interp import Batch, Model, zoo
from probes import attention_spectrum, context_attention, multisine, plots, series_batch
from tests.conftest import masked_batch, tiny_causal_pipeline, tiny_gpt2
from tests.tolerance import FORWARD, LAYER, close

SERIES = multisine([2, 6], [1, 0.5], [0.2, 1.4], steps=40)


@pytest.fixture
def words() -> Model:
    return interp.wrap(tiny_gpt2(), name="words")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted decoder and a text model, saved."""
    root = tmp_path_factory.mktemp("models")
    zoo.planted_decoder().model.module.save_pretrained(root / "planted")
    tiny_gpt2().save_pretrained(root / "words")
    return root


@pytest.mark.parametrize("num_decoder", [0, 3])
def test_each_token_is_the_value_at_its_step(causal: Model, num_decoder: int) -> None:
    batch = series_batch(causal, SERIES, num_decoder=num_decoder)
    n = 40 - num_decoder
    tokenizer = causal.pipeline.tokenizer
    values = torch.tensor(SERIES.values[None], dtype=torch.float32)
    ids, _, scale = tokenizer.context_input_transform(values[:, :n])
    rest = tokenizer._input_transform(context=values[:, n:], scale=scale)[0] if num_decoder else ids[:, :0]
    assert torch.equal(batch.decoder_input_ids, torch.cat([ids, rest], 1))
    assert not batch.has_encoder
    assert batch.decoder_steps.tolist() == list(range(40))
    assert batch.encoder_steps.tolist() == []
    close(batch.scale, float(scale))


@pytest.mark.parametrize(("num_decoder", "position"), [(0, 0), (2, 0), (2, 1), (2, 2)])
def test_the_spectrum_of_a_decoder_alone(causal: Model, num_decoder: int, position: int, tmp_path: Path) -> None:
    """From the token of step n + position - 1 to the n tokens of the context, by Hugging Face's own attentions."""
    found = attention_spectrum(causal, SERIES, num_decoder=num_decoder, position=position, shuffles=2)
    batch = Batch.from_series(causal, SERIES, num_decoder=num_decoder)
    n = 40 - num_decoder
    at = n + position - 1
    with torch.no_grad():
        out = tiny_causal_pipeline().model.model(**batch.inputs, output_attentions=True)
    expected = torch.stack([layer[0, :, at, :n] for layer in out.attentions]).double().numpy()
    close(found.attention, expected, terms=LAYER)
    assert found.eos is None
    assert found.site == found.amplitude.site == "decoder.self"
    assert (found.query_step, found.next_step) == (at, at + 1)
    token = out.logits[0, at].argmax()
    ids = torch.tensor([[[int(token)]]])
    scale = torch.tensor([series_batch(causal, SERIES, num_decoder=num_decoder).scale])
    close(found.prediction, float(causal.pipeline.tokenizer.output_transform(ids, scale)), terms=FORWARD)
    again = probes.AttentionSpectrum.load(found.save(tmp_path / "s.json"))
    assert again.eos is None
    assert again.site == "decoder.self"
    np.testing.assert_array_equal(again.attention, found.attention)
    combs = found.comb(permutations=19)
    assert list(combs.to_frame()["head"]) == [str(head) for head in causal.heads("decoder.self")]
    assert "decoder.self.0.0" in set(found.coherence(permutations=3)["head"])


def test_many_series_are_single_runs(causal: Model) -> None:
    values = np.random.default_rng(0).standard_normal((5, 30))
    at_once = context_attention(causal, values, num_decoder=2)
    assert at_once.shape == (5, 3, 3, 28)
    for row in (0, 4):
        alone = attention_spectrum(causal, values[row], num_decoder=2, shuffles=0)
        close(at_once[row], alone.attention, terms=LAYER)


def test_a_planted_induction_head_follows_a_period() -> None:
    """Each value of the motif occurs once a period: the head pays to what followed it, and to nothing else."""
    model = zoo.planted_decoder().model
    period, steps = 8, 48
    motif = np.tile(np.random.default_rng(1).permutation(np.linspace(-1, 1, period)), 7)[:steps]
    found = attention_spectrum(model, motif, num_decoder=1, shuffles=0)
    after = [found.query_step - k * period + 1 for k in range(1, 7) if found.query_step - k * period >= 0]
    paid = found.attention[1, 2]
    np.testing.assert_allclose(paid[after], 1 / len(after), atol=0.02)
    assert found.attention[1, 2].sum() == pytest.approx(1, abs=0.02)
    assert found.attention[0, 1][found.query_step - 1] == pytest.approx(1, abs=1e-3)
    assert found.comb(permutations=19).spacing[1, 2] == pytest.approx(1 / period, rel=0.02)


def test_questions_of_series_name_the_heads(causal: Model) -> None:
    long = interp.wrap(tiny_causal_pipeline(), name="causal")
    scores = probes.multisine_scores(long, [5, 10], 1.0, steps=61, draws=2)
    assert scores.same_phase.site == scores.shuffled["comb"].site == "decoder.self"
    agreed = probes.agreement(probes.induction_mosaic(long, batch_size=4), scores)
    assert list(agreed.heads()["head"]) == [str(head) for head in long.heads()]
    assert len(agreed.to_frame()) == 5
    origin = probes.comb_origin(causal, [(9, 15, 24)], permutations=19, steps=61, duration=1.0, draws=2)
    assert origin.to_frame()["head"].iloc[0] == "decoder.self.0.0"
    for figure in (plots.agreement(agreed), plots.comb_origin(origin)):
        assert figure.data


def test_patterns_and_curves(causal: Model, words: Model) -> None:
    batch = masked_batch(False)
    head = "decoder.self.1.2"
    pattern = interp.capture(causal, batch, "decoder.self.1.pattern")["decoder.self.1.pattern"][:, 2].double().numpy()
    shown = batch.decoder_attention_mask.bool().numpy()
    found = probes.attention_by_lag(causal, batch, head)
    text = probes.attention_by_lag(words, batch, head)  # no value is needed for a distance
    places = shown.cumsum(1)  # as GPT-2 counts them: padding between tokens is no step
    distance = np.where(shown[:, :, None] & shown[:, None], places[:, :, None] - places[:, None], -1)
    for lag in range(14):
        close(found.values[0, lag], pattern[distance == lag].mean(), terms=LAYER)
    assert text.values.shape == found.values.shape
    # A masked token has no value: what is paid to and from it is not counted.
    ids = batch.decoder_input_ids.masked_fill(~batch.decoder_attention_mask.bool(), 2000)
    other = Batch(decoder_input_ids=ids, decoder_attention_mask=batch.decoder_attention_mask)
    curves = [probes.attention_by_value(causal, given, head, bins=5) for given in (batch, other)]
    close(curves[0].x, curves[1].x)
    close(curves[0].values, curves[1].values, terms=LAYER)
    row = probes.attention_patterns(words, batch, head, row=0)
    assert row.key_tokens == row.query_tokens == tuple(batch.decoder_input_ids[0].tolist())
    assert row.key_values is None
    ticks = plots.attention(row).layout.xaxis.ticktext
    assert ticks[0] == str(batch.decoder_input_ids[0, 0].item())
    values = probes.attention_patterns(causal, batch, head, row=0).key_values
    close(values, probes.token_values(causal, batch.decoder_input_ids[0]))  # type: ignore[arg-type]


SERIES_DOORS: dict[str, Callable[[Model], Any]] = {
    "token_values": lambda m: probes.token_values(m, torch.tensor([5])),
    "attention_by_value": lambda m: probes.attention_by_value(m, masked_batch(False), "decoder.self.0.0"),
    "series_batch": lambda m: series_batch(m, SERIES),
    "attention_spectrum": lambda m: attention_spectrum(m, SERIES),
    "context_attention": lambda m: context_attention(m, np.random.default_rng(0).standard_normal((2, 30))),
    "multisine_scores": lambda m: probes.multisine_scores(m, draws=2),
    "comb_origin": lambda m: probes.comb_origin(m, draws=2),
}


@pytest.mark.parametrize("door", SERIES_DOORS)
def test_a_text_model_has_no_series(words: Model, door: str) -> None:
    with pytest.raises(interp.errors.UnsupportedModel, match="no chronos_config"):
        SERIES_DOORS[door](words)


def test_heads_that_are_not_there(causal: Model) -> None:
    batch = masked_batch(False)
    for asked in (probes.attention_patterns, probes.attention_by_lag, probes.attention_by_value):
        with pytest.raises(interp.errors.UnknownHead, match="no encoder and no cross-attention"):
            asked(causal, batch, "decoder.cross.0.0")
    spectrum = attention_spectrum(causal, SERIES, shuffles=0)
    with pytest.raises(interp.errors.InvalidInput, match=r"decoder\.self layers 0-2"):
        plots.second_spectrum(spectrum, "decoder.cross.0.0")
    assert len(cast(Any, plots.attention_spectrum(spectrum, heads="decoder.self.2.1").data)) > 2
    assert plots.attention_over_series(spectrum).layout.annotations[0].text == "decoder.self.0"


def test_a_sweep_over_both_families(causal: Model, model: Model, tmp_path: Path) -> None:
    grid: dict[str, Any] = {"repetitions": [2, 3], "sequence_lengths": [4], "batch_size": 3, "progress": False}
    found = probes.induction_sweep([causal, model], **grid)
    frame = found.to_frame()
    sites = frame["head"].str.rsplit(".", n=2).str[0].groupby(frame["model"]).unique()
    assert {name: list(kinds) for name, kinds in sites.items()} == {
        "tiny-causal": ["decoder.self"],
        "tiny": ["decoder.cross"],
    }
    own = probes.induction_mosaic(causal, repetitions=3, sequence_length=4, batch_size=3).to_frame()
    rows = frame[(frame["model"] == "tiny-causal") & (frame["repetitions"] == 3)]
    close(rows["either"], own["either"])
    assert set(rows["n_tokens"]) == {4 * 3 + 2}
    assert "decoder attention heads" in plots.sweep_lines(found).layout.title.subtitle.text
    runs = json.loads(plots.mosaic_explorer(found).data)["runs"]
    assert {run["site"] for run in runs} == {"decoder.self", "decoder.cross"}
    with pytest.raises(interp.errors.InvalidInput, match="each model's own"):
        probes.induction_sweep(causal, encoder=False, **grid)


def test_claims_count_the_same_tokens_in_one_row(causal: Model) -> None:
    table = probes.check_claims(
        [probes.induction_mosaic(causal), probes.induction_mosaic(causal, vocab_range=(2, 4095))]
    )
    ranges = table[table["claim"] == "the narrow range of tokens gives more induction heads than all tokens"]
    assert list(ranges["on"]) == ["tiny-causal"]


def run(app: Any, *arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_info_of_both_kinds_of_decoders(folder: Path) -> None:
    chronos, text = (run(interp_command.app, "info", folder / name).output for name in ("planted", "words"))
    assert "2 decoder\n" in chronos
    assert "10 decoder.self\n" in chronos
    assert "MeanScaleUniformBins low_limit -15" in chronos
    assert "120, prediction 8" in chronos
    assert "no tokenizer for series" in text
    assert "96 positions\n" in text
    assert "live, patterns sum to 1" in text
    t5 = run(interp_command.app, "info", "pico-t5").output
    assert "24 encoder.self, 24 decoder.self, 24 decoder.cross\n" in t5


def test_the_mosaic_command(folder: Path, tmp_path: Path) -> None:
    result = run(
        probes_command.app, "mosaic", "--model", folder / "planted", "--model", "pico-t5", "--batch-size", 10,
        "--unique", "--out", tmp_path, "--no-images",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "decoder.self.1.2" in result.output
    assert probes.Mosaic.load(tmp_path / "mosaic-planted.json").counts().n_heads == 10
    assert "decoder attention heads" in (tmp_path / "induction_mosaic.html").read_text()


def test_the_losses_command(folder: Path, tmp_path: Path) -> None:
    options = ["--sequence-length", 20, "--unique", "--batch-size", 6, "--no-images"]
    result = run(probes_command.app, "losses", "--model", folder / "planted", *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "induction_scores.csv",
        "loss-control-planted.json",
        "loss-planted.json",
        "loss_summary.csv",
        "losses.csv",
        "losses.html",
        "scores-planted.json",
    ]
    summary = pd.read_csv(tmp_path / "loss_summary.csv").set_index(["tokens", "part"])["loss"]
    assert summary["repeated", "second half"] < 1 < 10 < summary["not repeated", "second half"]
    assert pd.read_csv(tmp_path / "induction_scores.csv")["head"].iloc[0] == "decoder.self.1.2"
    stored = probes.PositionLoss.load(tmp_path / "loss-planted.json")
    table = pd.read_csv(tmp_path / "losses.csv")
    own = table[table["tokens"] == "repeated"]
    close(own["loss"], stored.mean)
    page = (tmp_path / "losses.html").read_text()
    assert 'src="http' not in page
    assert page.count("Plotly.newPlot") == 2 + page.split("<body>")[0].count("Plotly.newPlot")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "words", "--site", "encoder.self"], "no encoder and no cross-attention"),
        (["--model", "words", "--sequence-length", "60"], "96 positions"),
        (["--model", "words", "--vocab-range", "4000", "5000"], "tokens 0-4095"),
        (["--model", "words", "--repetitions", "1"], "at least 2"),
        (["--model", "pico-t5", "--bos", "3"], "Leave bos out"),
    ],
)
def test_mistakes_in_the_losses_command(folder: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    given = [str(folder / part) if part == "words" else part for part in arguments]
    length = [] if "--sequence-length" in given else ["--sequence-length", 10]
    result = run(probes_command.app, "losses", *given, *length, "--out", tmp_path / "page.html")
    assert result.exit_code == 2
    assert says in result.output
    assert not list(tmp_path.iterdir())


def test_the_losses_command_on_words_and_an_encoder(folder: Path, tmp_path: Path) -> None:
    options = ["--model", "pico-t5", "--sequence-length", 8, "--batch-size", 3, "--vocab-range", 1000, 3999]
    out = tmp_path / "page.html"
    result = run(probes_command.app, "losses", "--model", folder / "words", *options, "--out", out)
    assert result.exit_code == 0, result.output
    assert "pico-t5, nothing repeats" in out.read_text()
