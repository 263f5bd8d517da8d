"""The command lines: what they print and write, and one line for what is wrong."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

import circuits
import circuits.__main__ as circuits_command
import interp
import interp.__main__ as interp_command
import probes
import probes.__main__ as probes_command
from probes import induction_mosaic
from probes.induction.mosaic import Mosaic
from tests.conftest import tiny_bolt, tiny_causal_pipeline, tiny_gpt2
from tests.probes.plots.test_mosaics import BROWSERS, needs_browser
from tests.tolerance import FORWARD, close

runner = CliRunner()


def probe(*arguments: str) -> Result:
    return runner.invoke(probes_command.app, ["mosaic", *arguments])


def test_the_mosaic_command_writes_page_json_and_table(tmp_path: Path, pico: interp.Model) -> None:
    result = probe("--model", "pico-t5", "--out", str(tmp_path), "--no-images", "--batch-size", "30", "--seed", "2")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "induction_heads.csv",
        "induction_mosaic.html",
        "mosaic-pico-t5.json",
        "mosaic_summary.csv",
    ]
    mosaic = Mosaic.load(tmp_path / "mosaic-pico-t5.json")
    expected = induction_mosaic(pico, batch_size=30, seed=2)
    assert max(mosaic.compare(expected).largest_difference.values()) == 0
    table = pd.read_csv(tmp_path / "induction_heads.csv")
    assert list(table["head"]) == [str(h.address) for h in expected.heads()]
    assert all(head in result.output for head in table["head"])
    assert "float32" in result.output


@pytest.mark.versions
def test_the_page_is_self_contained(tmp_path: Path) -> None:
    page = tmp_path / "induction_mosaic.html"
    assert probe("--model", "pico-t5", "--out", str(page), "--batch-size", "10").exit_code == 0
    text = page.read_text()
    assert "Plotly.newPlot" in text
    assert 'src="http' not in text
    assert "Computed in float32" in text
    assert [p.name for p in tmp_path.iterdir()] == ["induction_mosaic.html"]


def test_several_models_and_dtypes(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "page.html"), "--batch-size", "5", "--dtype", "bfloat16"]
    result = probe("--model", "pico-t5", "--model", "pico-t5", *out)
    assert result.exit_code == 0, result.output
    assert "Computed in bfloat16" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "pico-t6"], "Did you mean 'pico-t5'"),
        (["--model", "pico-t5", "--repetitions", "0"], "at least 1"),
        (["--model", "pico-t5", "--vocab-range", "9", "3"], "reversed"),
        (["--model", "pico-t5", "--seed", "-1"], "at least 0"),
        (["--model", "pico-t5", "--device", "zzz"], "cannot be used here"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = probe(*arguments, "--out", str(tmp_path / "page.html"))
    assert result.exit_code == 2
    assert message in result.output
    assert isinstance(result.exception, SystemExit)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "d.html").mkdir()
    for out in ("file", "file/x", "d.html"):
        result = probe("--model", "no-such-model", "--out", str(tmp_path / out))
        assert result.exit_code == 2
        assert "cannot write" in result.output


def test_models_and_info() -> None:
    result = runner.invoke(interp_command.app, ["models"])
    assert "pico-t5" in result.output
    assert "amazon/chronos-t5-large" in result.output
    assert "openai-community/gpt2 " in result.output
    result = runner.invoke(interp_command.app, ["info", "pico-t5"])
    assert "live, patterns sum to 1" in result.output
    layers = interp.load("pico-t5").n_layers
    assert f"{layers['encoder']} encoder, {layers['decoder']} decoder\n" in result.output
    assert re.search(r"heads .*\d+ encoder\.self, \d+ decoder\.self, \d+ decoder\.cross\n", result.output)
    assert runner.invoke(interp_command.app, ["info", "nowhere"]).exit_code == 2


def test_info_of_a_decoder_alone(tmp_path: Path) -> None:
    tiny_causal_pipeline().model.model.save_pretrained(tmp_path / "causal")
    tiny_gpt2().save_pretrained(tmp_path / "text")
    shown: dict[str, dict[str, str]] = {}
    for name in ("causal", "text"):
        result = runner.invoke(interp_command.app, ["info", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        shown[name] = dict(re.findall(r"(?m)^([a-z_ ]{12}) (.*)$", result.output))
        shown[name] = {key.strip(): value for key, value in shown[name].items()}
    for found in shown.values():
        assert found["family"] == "GPT-2"
        assert found["layers"] == "3 decoder"
        assert found["heads"] == "3 a layer of 8: 9 decoder.self"
        assert found["hook points"] == "live, patterns sum to 1"
    assert shown["causal"]["tokens"] == "4096, MeanScaleUniformBins low_limit -15 high_limit 15"
    assert shown["causal"]["context"] == "64, prediction 6"
    assert shown["text"]["tokens"] == "4096, no tokenizer for series"
    assert shown["text"]["context"] == "96 positions"


def test_train_from_the_command_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    sizes = {"layers": 2, "heads": 2, "d_model": 16, "d_kv": 4, "d_ff": 8, "motif_heads": 1}
    recipe.write_text(json.dumps(sizes | {"motif_steps": 2, "widen_steps": 1, "motif_rows": 4, "rows": 4}))
    out = tmp_path / "model"
    result = runner.invoke(
        interp_command.app,
        ["train", "--out", str(out), "--recipe", str(recipe), "--steps", "4", "--seed", "5", "--no-evaluate"],
    )
    assert result.exit_code == 0, result.output
    assert (out / "model.safetensors").exists()
    recipe.write_text(json.dumps({"wings": 2}))
    result = runner.invoke(interp_command.app, ["train", "--out", str(out), "--recipe", str(recipe)])
    assert result.exit_code == 2
    assert "wings" in result.output


@needs_browser
def test_the_page_draws_in_a_browser(tmp_path: Path) -> None:
    """Every figure of the page becomes an SVG in a real browser, offline."""
    page = tmp_path / "page.html"
    assert probe("--model", "pico-t5", "--out", str(page), "--batch-size", "10").exit_code == 0
    browser = next(found for name in BROWSERS if (found := shutil.which(name)))
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=20000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.count('class="main-svg"') >= 8
    assert re.search(r"<text[^>]*>Induction mosaic of pico-t5</text>", done.stdout)


def ablate(*arguments: str) -> Result:
    return runner.invoke(circuits_command.app, ["ablate", *arguments])


def test_the_ablate_command(tmp_path: Path) -> None:
    out = tmp_path / "report"
    result = ablate("--model", "pico-t5", "--top", "2", "--out", str(out), "--controls", "2", "--no-images")
    assert result.exit_code == 0, result.output
    assert (out / "ablation.html").exists()
    table = pd.read_csv(out / "ablation_curve.csv")
    assert {1, 2} <= set(table["count"])
    assert "air passengers, 5 series" in result.output
    assert "mase" in result.output


def test_the_ablate_command_on_heads_and_a_series_of_ones_own(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=90, freq="D")
    pd.DataFrame({"day": days, "sales": 20 + 5 * np.sin(np.arange(90) * 0.9)}).to_csv(tmp_path / "own.csv", index=False)
    options = [
        "--heads",
        "decoder.cross.1.*,encoder.self.0.1",
        "--series",
        str(tmp_path / "own.csv"),
        "--controls",
        "2",
    ]
    out = tmp_path / "report"
    result = ablate("--model", "pico-t5", *options, "--out", str(out), "--no-images")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out / "chosen_heads.csv")
    assert set(table["count"]) == {9}
    assert table["heads"][0].split()[-1] == "encoder.self.0.1"
    effects = circuits.ForecastEffects.load(out / "forecast_effects_sales.json")
    assert effects.sets["chosen heads"] == tuple(table["heads"][0].split())
    assert [index[-1] for index in effects.indexes if index is not None] == days[[61, 68, 75, 82, 89]].tolist()
    assert effects.provenance["stimulus"]["season"] == 7
    fan = pd.read_csv(out / "forecast_fan_sales.csv")
    assert fan["time"].iloc[-1] == "2024-03-30"
    assert "sales, 5 series" in result.output
    assert "no control" in result.output, "all heads of a layer leave none to draw"
    assert not (out / "forecast_effects_synthetic.csv").exists()


def test_the_ablate_command_on_a_decoder_alone(tmp_path: Path) -> None:
    """The forecasts are as long as the model's own, 6 steps."""
    tiny_causal_pipeline().model.model.save_pretrained(tmp_path / "tiny")
    out = tmp_path / "report"
    options = ["--top", "2", "--controls", "4", "--no-images", "--method", "mean"]
    result = ablate("--model", str(tmp_path / "tiny"), "--out", str(out), *options)
    assert result.exit_code == 0, result.output
    assert "air passengers, 5 series" in result.output
    assert pd.read_csv(out / "head_effects.csv")["head"].str.startswith("decoder.self.").all()
    effects = circuits.ForecastEffects.load(out / "forecast_effects_synthetic.json")
    assert effects.truth.shape == (9, 6)
    assert all(head.startswith("decoder.self.") for head in effects.sets["top 2"])


def test_the_ablate_command_on_a_model_of_patches(tmp_path: Path) -> None:
    """Heads are ranked where they tell repeated patches from others, and measured by the loss on what follows."""
    tiny_bolt().model.save_pretrained(tmp_path / "bolt")
    model = interp.load(str(tmp_path / "bolt"))
    days = pd.date_range("2024-01-01", periods=90, freq="D")
    pd.DataFrame({"day": days, "sales": 20 + 5 * np.sin(np.arange(90) * 0.9)}).to_csv(tmp_path / "own.csv", index=False)
    options = ["--series", str(tmp_path / "own.csv"), "--controls", "2", "--top", "2", "--no-images"]
    out = tmp_path / "report"
    result = ablate("--model", str(tmp_path / "bolt"), *options, "--method", "mean", "--out", str(out))
    assert result.exit_code == 0, result.output
    mosaics = probes.induction_mosaic(model, probes.repeated_random_patches(model)).mosaics
    gains = {
        query: (mosaic.either.values - mosaics["unrepeated"][query].either.values).max()
        for query, mosaic in mosaics["repeated"].items()
    }
    query = max(gains, key=lambda name: gains[name])
    curve = circuits.AblationCurve.load(out / "ablation_curve.json")
    strongest = tuple(head.address for head in mosaics["repeated"][query].either.heads()[:2])
    assert curve.points[1].heads == strongest
    assert curve.provenance["metric"] == "pinball"
    words = {"decoder": "decoder", "reg": "[REG]", "last_patch": "last patch"}
    assert f"from the query {words[query]}" in (out / "ablation.html").read_text()
    effects = circuits.ForecastEffects.load(out / "forecast_effects_sales.json")
    assert effects.sets["top 2"] == tuple(map(str, strongest))
    assert effects.truth.shape == (5, 12)  # as far as one pass
    past = interp.Batch.from_series(model, [values.iloc[:-12] for values in _origins(tmp_path / "own.csv", effects)])
    with interp.ablate(model, strongest, method="mean", reference=past):
        own = model.pipeline.predict(torch.tensor(effects.contexts, dtype=torch.float32), 12)
    close(effects.fans[effects.names.index("top 2")], own.double().numpy(), terms=FORWARD)
    assert pd.read_csv(out / "head_effects.csv")["score"].is_monotonic_decreasing
    assert "coverage" in result.output


def _origins(path: Path, effects: Any) -> list[pd.Series]:
    """The series of a file up to the end of each forecast."""
    whole = pd.read_csv(path)["sales"]
    ends = [len(index) for index in effects.indexes]
    return [whole.iloc[:end] for end in ends]


def test_the_ablate_command_on_a_text_model(tmp_path: Path) -> None:
    """Tokens alone: why there are no forecasts is said on the page and in the terminal."""
    tiny_gpt2().save_pretrained(tmp_path / "text")
    out = tmp_path / "report"
    options = ["--top", "2", "--controls", "4", "--no-images"]
    result = ablate("--model", str(tmp_path / "text"), "--out", str(out), *options)
    assert result.exit_code == 0, result.output
    assert {"head_effects.csv", "layer_effects.csv", "self_repair.csv"} <= {path.name for path in out.iterdir()}
    assert not list(out.glob("forecast*"))
    for told in (result.output, (out / "ablation.html").read_text()):
        assert "No forecasts:" in told
        assert "has no chronos_config" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "pico-t6"], "Did you mean"),
        (["--model", "pico-t5", "--top", "99"], "24 have a score"),
        (["--model", "pico-t5", "--top", "0"], "at least 1"),
        (["--model", "pico-t5", "--heads", "decoder.cross.1.9"], "decoder.cross.1.9"),
        (["--model", "pico-t5", "--heads", "decoder.cros.1"], "decoder.cros"),
        (["--model", "pico-t5", "--heads", "decoder.cross.1.2,,"], "give addresses"),
        (["--model", "pico-t5", "--heads", "decoder.cross.1.2,decoder.cross.1"], "more than once"),
        (["--model", "pico-t5", "--heads", "decoder.cross.1.2", "--top", "2"], "--top 2 beside --heads"),
        (["--model", "pico-t6", "--series", "own.csv"], "own.csv: no such file"),
    ],
)
def test_mistakes_in_the_ablate_command(arguments: list[str], says: str, tmp_path: Path) -> None:
    result = ablate("--out", str(tmp_path / "o"), *arguments)
    assert result.exit_code == 2
    assert says in result.output
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


def test_ablation_of_a_model_that_reads_patches(tmp_path: Path) -> None:
    """The same command: heads of the query at which the strongest one looks, on patches, and in forecasts."""
    few = ("--coefficients", "3", "--top", "2", "--controls", "2", "--no-images")
    run = runner.invoke(circuits_command.app, ["ablate", "--model", "pico-bolt", *few, "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    assert "decoder.cross.1.6" in run.output
    tables = [line for line in run.output.splitlines() if "%|" not in line and not line.startswith("written")]
    assert max(map(len, tables)) <= 79
    assert pd.read_csv(tmp_path / "head_effects.csv")["score"].is_monotonic_decreasing
    refused = runner.invoke(circuits_command.app, ["ablate", "--model", "pico-t5", "--coefficients", "3"])
    assert refused.exit_code != 0
    assert "no patches" in refused.output


def test_composition_of_a_model_that_reads_patches(tmp_path: Path) -> None:
    """Wires, candidates from all queries, and single heads on random patches instead of token maps."""
    arguments = ["composition", "--model", "pico-bolt", "--top", "5", "--no-images", "--out", str(tmp_path)]
    run = runner.invoke(circuits_command.app, arguments)
    assert run.exit_code == 0, run.output
    files = {path.name for path in tmp_path.iterdir()}
    assert {"edges.csv", "induction_candidates.csv", "patch_circuits.csv", "head_summary.csv", "mosaic.json"} <= files
    table = pd.read_csv(tmp_path / "patch_circuits.csv")
    assert set(table["circuit"]) == {"matching", "copying"}
    assert table["chance"].eq(1 / 200).all()
    assert "decoder.cross.0.0:q" not in (tmp_path / "edges.csv").read_text()
