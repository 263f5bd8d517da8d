"""The page on activation patching: shares hold against plain runs, the planted heads are found, files are whole."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import interp
from circuits.__main__ import app
from circuits.patching import Patched, PatchedHeads, PatchedPositions
from circuits.reports.pair_names import OF_PATCHES, PAIRS, SHIFT, check_pair_name, pair_of, pair_words
from circuits.reports.patching import SHOWN, patch
from interp import Resample, edited, zoo
from interp.errors import InvalidInput, MissingCapability
from interp.output.report import Report
from tests.conftest import tiny_bolt, tiny_pipeline
from tests.tolerance import FORWARD, LAYER, close

ROWS = 5


@pytest.fixture(scope="module")
def report(pico: interp.Model) -> Report:
    return patch(pico, batch_size=ROWS, seed=2, progress=False)


@pytest.fixture(scope="module")
def tables(report: Report) -> dict[str, Any]:
    return report.tables


def difference(model: interp.Model, batch: interp.Batch, target: Any, against: Any) -> float:
    with torch.no_grad():
        last = model.module(**model.inputs(batch)).logits[:, -1].double()
    rows = torch.arange(len(batch))
    return float((last[rows, target] - last[rows, against]).mean())


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_by_name_and_what_is_right_on_each(pico: interp.Model, name: str) -> None:
    pair, metric = pair_of(name, batch_size=ROWS, seed=1)
    assert pair.parameters["name"] == name
    own = [metric(interp.capture(pico, batch, "decoder.logits")["decoder.logits"]).mean() for batch in pair]
    assert own[0] > 2
    assert own[1] < -2
    assert own[0].item() == pytest.approx(difference(pico, pair.clean, pair.target, pair.against), abs=1e-4)
    other, _ = pair_of(name, batch_size=ROWS, seed=2)
    assert not torch.equal(pair.clean.input_ids, other.clean.input_ids)


def test_a_shift_is_as_far_as_the_words_say() -> None:
    pair, _ = pair_of("shifted_values", batch_size=ROWS, seed=1)
    assert int((pair.corrupt.input_ids - pair.clean.input_ids)[0, 0]) == SHIFT
    assert f"{SHIFT} bins" in PAIRS["shifted_values"]


@pytest.mark.parametrize(("name", "says"), [("another_sequnce", "Did you mean 'another_sequence'"), ("", "there are")])
def test_another_pair_is_an_error(name: str, says: str, pico: interp.Model) -> None:
    for fails in (lambda: check_pair_name("pair", name), lambda: patch(pico, pair=name)):
        with pytest.raises(InvalidInput, match=says):
            fails()


def test_shares_are_those_of_plain_runs(pico: interp.Model, tables: dict[str, Any]) -> None:
    pair, _ = pair_of("another_sequence", batch_size=ROWS, seed=2)
    right = pair.target, pair.against
    clean, corrupt = (difference(pico, batch, *right) for batch in pair)
    table = tables["outputs"].set_index("head")
    for head in (table.index[0], table.index[-1], "decoder.self.1.1"):
        with edited(pico, [Resample(head, pair.corrupt)]):
            patched = difference(pico, pair.clean, *right)
        with edited(pico, [Resample(head, pair.clean)]):
            restored = difference(pico, pair.corrupt, *right)
        assert table["share"][head] == pytest.approx((patched - clean) / (corrupt - clean), abs=1e-4)
        assert table["restores"][head] == pytest.approx((restored - corrupt) / (clean - corrupt), abs=1e-4)
    kinds = table.index.str.rsplit(".", n=2).str[0]
    assert set(kinds) == {"decoder.cross", "decoder.self", "encoder.self"}
    assert set(tables["inputs"]["site"].str[-1]) == set("qkv")
    end = tables["decoder_positions"].iloc[-1]
    assert end["site"].endswith("resid_post")
    close(end["share"], 1, "all is at the last position in the end", terms=FORWARD)
    start = tables["encoder_positions"]
    assert set(start["site"]) == {"encoder.0.resid_pre", *(f"encoder.{i}.resid_post" for i in range(3))}


def test_the_planted_heads_are_needed_and_what_they_go_by() -> None:
    model = zoo.planted().model
    other: Any = patch(model, batch_size=6, progress=False).tables["outputs"].set_index("head")
    assert list(other.index[:2]) == ["decoder.cross.1.2", "encoder.self.0.1"]
    assert other[["share", "restores"]].iloc[0].tolist() == pytest.approx([1, 1], abs=0.02)
    assert other[["share", "restores"]].iloc[2:].abs().to_numpy().max() < 0.01
    assert other["share"].iloc[1] > 0.2
    # Where only what is carried differs, values are all, and nothing is done by where it looks.
    swapped: Any = patch(model, pair="swapped_continuation", batch_size=6, progress=False).tables["inputs"]
    assert swapped["site"][0] == "decoder.cross.1.v"
    assert swapped["share"][0] == pytest.approx(1, abs=0.01)
    assert swapped["share"][1:].abs().max() < 0.01


def test_a_decoder_alone(tmp_path: Path) -> None:
    report = patch(zoo.planted_decoder().model, batch_size=5, progress=False)
    tables: dict[str, Any] = report.tables
    assert list(tables) == ["outputs", "restored", "inputs", "decoder_positions"]
    shares = tables["outputs"].set_index("head")["share"]
    assert list(shares.index[:2]) == ["decoder.self.1.2", "decoder.self.0.1"]
    assert shares.iloc[2:].abs().max() < 0.005 < 0.2 < shares.iloc[1]
    assert set(tables["inputs"]["site"].str[:-1]) == {"decoder.self.0.", "decoder.self.1."}
    assert tables["decoder_positions"].iloc[-1]["share"] == pytest.approx(1, abs=1e-4)
    assert list(report.figures) == ["outputs", "restored", "inputs", "decoder_positions"]
    written = report.write(tmp_path)
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    page = written[0].read_text()
    assert "What a self head goes by" in page
    assert "Likewise" not in page


def test_figures_say_which_way_round(report: Report) -> None:
    drawn: dict[str, Any] = report.figures
    result: Any = report.results["outputs.json"]
    outputs, restored = (str(drawn[name].layout.title.subtitle.text) for name in ("outputs", "restored"))
    clean, corrupt = result.clean.mean(), result.corrupt.mean()
    assert f"{clean:.3g} on clean" in outputs
    assert f"{corrupt:.3g} on corrupt" in restored
    assert f"{clean:.3g} on clean" in restored
    assert "red: towards clean" in restored
    assert "restored" in drawn["restored"].layout.title.text
    assert max(figure.layout.width for figure in drawn.values()) <= 1080


def test_the_folder(report: Report, tables: dict[str, Any], tmp_path: Path) -> None:
    written = report.write(tmp_path)
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    for path in written:
        if path.suffix == ".json":
            kind = PatchedPositions if "positions" in path.name else PatchedHeads
            again: Patched = kind.load(path)
            assert again.provenance["model"] == "pico-t5"
        if path.suffix == ".csv":
            assert len(pd.read_csv(path)) == len(tables[path.stem])
    page = written[0].read_text()
    assert page.count('class="plotly-graph-div"') == page.count("<table") == len(report.figures) == 5
    assert page.count("<tr") <= 5 * (SHOWN + 1)
    assert PAIRS["another_sequence"].split(":")[0].replace("'", "&#x27;") in page


def test_the_command(tmp_path: Path) -> None:
    arguments = ["--pair", "swapped_continuation", "--batch-size", "3", "--out", str(tmp_path), "--no-images"]
    done = CliRunner().invoke(app, ["patch", "--model", "pico-t5", *arguments])
    assert done.exit_code == 0, done.output
    assert "on corrupt, 3 rows" in done.output
    assert "swapped continuation" in (tmp_path / "patching.html").read_text()
    stored = PatchedHeads.load(tmp_path / "outputs.json")
    assert stored.provenance["stimulus"]["corrupt"]["corrupted"][0]["name"] == "swapped_continuation"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "no-such-model", "--pair", "shifted_value"], "Did you mean 'shifted_values'"),
        (["--model", "pico-t6"], "Did you mean 'pico-t5'"),
        (["--model", "pico-t5", "--batch-size", "0"], "at least 1"),
    ],
)
def test_mistakes(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["patch", *arguments, "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert says in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_patches(name: str) -> None:
    """The same corruptions of what a model of values reads; the metric is 1 at what is right on clean, 0 on corrupt."""
    bolt = interp.wrap(tiny_bolt(), name="tiny-bolt")
    pair, metric = pair_of(name, batch_size=ROWS, seed=1, model=bolt, coefficients=3)
    assert pair.clean.description["coefficients"] == 3
    assert pair.against is not None
    for series, expected in ((pair.target, 1), (pair.against, 0)):
        steps = torch.as_tensor(series)[:, None].expand(-1, len(bolt.levels), -1)
        close(metric(steps, bolt.levels), torch.full((ROWS,), float(expected)), of=1, terms=LAYER)
    assert pair_words(name, bolt) == OF_PATCHES[name]
    assert set(OF_PATCHES) == set(PAIRS)


def test_the_report_on_a_model_that_reads_patches() -> None:
    bolt = interp.wrap(tiny_bolt(), name="tiny-bolt")
    report = patch(bolt, batch_size=ROWS, coefficients=3, progress=False)
    outputs: Any = report.results["outputs.json"]
    assert outputs.metric == "towards"
    assert {"encoder_positions.json", "decoder_positions.json", "inputs.json", "restored.json"} <= set(report.results)
    assert report.sections[0].brief.startswith("towards: ")
    with pytest.raises(MissingCapability, match="no patches"):
        patch(interp.wrap(tiny_pipeline(), name="tiny"), batch_size=ROWS, coefficients=3, progress=False)
