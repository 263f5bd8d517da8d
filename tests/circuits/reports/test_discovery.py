"""The page on a circuit: what was planted is found, held on other rows against controls, and written whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from typer.testing import CliRunner

import circuits
import interp
from circuits import plots
from circuits.__main__ import app
from circuits.reports.discovery import OUTSIDE, SHOWN, discover
from circuits.reports.pair_names import pair_of
from interp import zoo
from interp.errors import InvalidInput
from interp.output.report import Report
from probes import induction_mosaic
from tests.probes.plots.test_mosaics import traces
from tests.tolerance import FORWARD, LAYER, close

ROWS, CONTROLS = 6, 4


@pytest.fixture(scope="module")
def planted() -> zoo.Planted:
    return zoo.planted()


@pytest.fixture(scope="module")
def report(planted: zoo.Planted) -> Report:
    return discover(
        planted.model, edges=len(planted.circuit), controls=CONTROLS, batch_size=ROWS, seed=4, progress=False
    )


@pytest.fixture(scope="module")
def results(report: Report) -> dict[str, Any]:
    return {Path(name).stem: result for name, result in report.results.items() if not name.endswith("txt")}


@pytest.fixture(scope="module")
def tables(report: Report) -> dict[str, Any]:
    return report.tables


def test_what_was_planted_is_found_and_holds(
    planted: zoo.Planted, results: dict[str, Any], tables: dict[str, Any]
) -> None:
    assert set(map(str, results["circuit"])) == set(planted.circuit)
    table = tables["evaluation"]
    assert list(table["outside"].unique()) == list(OUTSIDE) == ["resample", "mean", "zero"]
    for _, rows in table.set_index("what").groupby("outside"):
        value = rows["value"]
        assert value["model"] == 1
        assert value["circuit"] == pytest.approx(1, abs=0.06)
        assert value[["same wiring, other heads", "random edges"]].abs().max() < 0.1
        assert value["least that an edge adds"] > 0.2, "no edge too many"
    edges = tables["circuit_edges"]
    assert set(edges["edge"]) == set(planted.circuit)
    assert list(edges["adds"]) == sorted(edges["adds"], reverse=True)


def test_it_is_tested_on_other_rows_than_it_was_found_on(
    planted: zoo.Planted, results: dict[str, Any], tables: dict[str, Any]
) -> None:
    found_on = results["edge_scores"].provenance["stimulus"]["clean"]
    (clean, corrupt), metric = pair_of("another_sequence", batch_size=ROWS, seed=5)
    for outside in OUTSIDE:
        evaluation = results[f"evaluation_{outside}"]
        stimulus = evaluation.provenance["stimulus"]
        assert (found_on["seed"], stimulus["clean"]["seed"], stimulus["outside"]) == (4, 5, outside)
        assert len(evaluation.same_shape) == len(evaluation.random) == CONTROLS
    again = circuits.evaluate(planted.model, results["circuit"], clean, corrupt, metric, controls=0, parts=0)
    close(results["evaluation_resample"].faithfulness, again.faithfulness, terms=LAYER)
    mosaic = induction_mosaic(planted.model, clean)
    cross = tables["circuit_heads"].set_index("head")["token_to_right"]["decoder.cross.1.2"]
    close(cross, mosaic.token_to_right["decoder.cross.1.2"])


def test_estimates_stand_beside_patches(planted: zoo.Planted, results: dict[str, Any], tables: dict[str, Any]) -> None:
    table = tables["edge_scores"]
    patched = table[table["patched"].notna()]
    assert len(patched) == tables["agreement"]["edges"].iloc[0] == 32
    pair, metric = pair_of("another_sequence", batch_size=ROWS, seed=4)
    edge = patched["edge"].iloc[0]
    alone = circuits.patch_edges(planted.model, *pair, metric, edge, progress=False)
    assert patched["patched"].iloc[0] == pytest.approx(alone.effects.mean(), abs=1e-4)
    correlation = float(np.corrcoef(patched["score"], patched["patched"])[0, 1])
    close(tables["agreement"]["pearson"].iloc[0], correlation)


def test_a_decoder_alone(tmp_path: Path) -> None:
    """Its planted circuit is found, to the edge, and holds on other rows; its page is whole."""
    plant = zoo.planted_decoder()
    report = discover(plant.model, edges=len(plant.circuit), controls=2, batch_size=6, progress=False)
    results: dict[str, Any] = dict(report.results)
    assert set(map(str, results["circuit.json"])) == set(plant.circuit)
    for outside in ("resample", "mean"):
        evaluation = results[f"evaluation_{outside}.json"]
        assert evaluation.faithfulness == pytest.approx(1, abs=0.1)
        assert np.abs(evaluation.normalised(evaluation.random)).max() < 0.1
    heads: Any = report.tables["circuit_heads"].set_index("head")
    assert heads["token_to_right"]["decoder.self.1.2"] == pytest.approx(0.5, abs=0.02)
    (clean, _), _ = pair_of("another_sequence", batch_size=6, seed=1, model=plant.model)
    own = induction_mosaic(plant.model, clean).token_to_right["decoder.self.1.2"]
    assert heads["token_to_right"]["decoder.self.1.2"] == own
    assert heads["keys_from"]["decoder.self.1.2"] == "decoder.self.0.1"
    written = report.write(tmp_path)
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    assert circuits.EdgeScores.load(tmp_path / "edge_scores.json").graph.kinds == plant.model.family.kinds


def test_how_many_edges_it_takes(planted: zoo.Planted, results: dict[str, Any], tables: dict[str, Any]) -> None:
    model, table = planted.model, tables["sizes"].set_index("edges")
    total = len(circuits.Circuit.full(model))
    assert list(table.index) == [10, 20, 40, 80, 160, 320, total]
    close([table["faithfulness"][total], table["random"][total]], 1, terms=LAYER)
    (clean, corrupt), metric = pair_of("another_sequence", batch_size=ROWS, seed=5)
    alone = circuits.evaluate(
        model, results["edge_scores"].top(20), clean, corrupt, metric, controls=0, parts=0, progress=False
    )
    close(table["faithfulness"][20], alone.faithfulness, terms=FORWARD)
    assert table.loc[20, ["low", "high"]].tolist() == pytest.approx(alone.interval(alone.circuit), abs=1e-4)
    # Five of 336 edges carry it: few random ones hold all of them.
    assert table["faithfulness"][20] > 0.9
    assert table["random_high"][20] < 0.2
    again = circuits.faithfulness_by_size(
        model, results["edge_scores"], clean, corrupt, metric, draws=0, progress=False
    )
    close(again.to_frame()["faithfulness"].tolist(), table["faithfulness"].tolist())
    assert again.to_frame()["random"].isna().all()
    figure = plots.faithfulness_by_size(results["sizes"], results["evaluation_resample"])
    strongest, random, connected, found = traces(figure, go.Scatter)
    close(strongest.y, table["faithfulness"])
    close(strongest.error_y.array, table["high"] - table["faithfulness"])
    close(random.y, table["random"])
    close(connected.y, table["connected"])
    assert (list(found.x), list(found.y)) == ([5], [results["evaluation_resample"].faithfulness])
    assert len(traces(plots.faithfulness_by_size(again), go.Scatter)) == 1


def test_sizes_of_something_else(planted: zoo.Planted, results: dict[str, Any], model: interp.Model) -> None:
    (clean, corrupt), metric = pair_of("another_sequence", batch_size=2, seed=0)
    with pytest.raises(InvalidInput, match="other weights"):
        circuits.faithfulness_by_size(model, results["edge_scores"], clean, corrupt, metric)
    with pytest.raises(InvalidInput, match="attribution_patching"):
        circuits.faithfulness_by_size(planted.model, results["circuit"], clean, corrupt, metric)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="draws=-1"):
        circuits.faithfulness_by_size(planted.model, results["edge_scores"], clean, corrupt, metric, draws=-1)
    with pytest.raises(InvalidInput, match="different"):
        plots.faithfulness_by_size(results["sizes"], results["evaluation_mean"])
    with pytest.raises(InvalidInput, match="faithfulness_by_size"):
        plots.faithfulness_by_size(results["edge_scores"])  # type: ignore[arg-type]


def test_the_folder(report: Report, results: dict[str, Any], tables: dict[str, Any], tmp_path: Path) -> None:
    written = report.write(tmp_path)
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    for path in written:
        if path.suffix == ".csv":
            assert len(pd.read_csv(path)) == len(tables[path.stem])
    assert circuits.Circuit.load(tmp_path / "circuit.json") == results["circuit"]
    assert circuits.Circuit.parse((tmp_path / "circuit.txt").read_text()) == results["circuit"]
    for outside in OUTSIDE:
        again = circuits.CircuitReport.load(tmp_path / f"evaluation_{outside}.json")
        np.testing.assert_array_equal(again.random, results[f"evaluation_{outside}"].random)
    sizes = circuits.SizeCurve.load(tmp_path / "sizes.json")
    pd.testing.assert_frame_equal(sizes.to_frame(), results["sizes"].to_frame(), check_exact=True)
    scores = circuits.EdgeScores.load(tmp_path / "edge_scores.json")
    np.testing.assert_array_equal(scores.values, results["edge_scores"].values)
    page = written[0].read_text()
    assert page.count('class="plotly-graph-div"') == len(report.figures)
    assert page.count("<tr") < SHOWN + len(results["circuit"]) + 50
    assert "5 edges, another sequence" in page
    headings = [part.split("</h2>")[0] for part in page.split("<h2>")[1:]]
    assert headings[:4] == ["The circuit", "Its heads", "Is it the circuit?", "How many edges it takes"]
    assert set(tables["circuit_heads"]["head"]) == {"encoder.self.0.1", "decoder.cross.1.2"}
    assert list(pd.read_csv(tmp_path / "circuit_heads.csv")["edges_in"]) == [1, 3]


def test_the_command(planted: zoo.Planted, tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "planted", tmp_path / "out"
    planted.model.module.save_pretrained(checkpoint)
    sizes = ["--edges", "4", "--controls", "2", "--batch-size", "4", "--pair", "swapped_continuation"]
    done = CliRunner().invoke(app, ["discover", "--model", str(checkpoint), "--out", str(out), *sizes, "--no-images"])
    assert done.exit_code == 0, done.output
    found = circuits.Circuit.load(out / "circuit.json")
    assert all(str(edge) in done.output for edge in found)
    assert "decoder.cross.1.2" in found
    assert "pearson" in done.output
    assert "same wiring, other heads" in done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "no-such-model", "--pair", "another-sequence"], "Did you mean 'another_sequence'"),
        (["--model", "pico-t6"], "Did you mean 'pico-t5'"),
        (["--model", "pico-t5", "--edges", "0"], "at least 1"),
        (["--model", "pico-t5", "--edges", "99999", "--batch-size", "2"], "pico-t5 has"),
        (["--model", "pico-t5", "--controls", "-1"], "at least 0"),
    ],
)
def test_mistakes(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["discover", *arguments, "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert says in done.output
    assert not list(tmp_path.iterdir())


def test_a_model_that_answers_alike_is_an_error(model: interp.Model) -> None:
    for parameter in model.module.lm_head.parameters():
        parameter.data.zero_()
    with pytest.raises(InvalidInput, match="nothing to explain"):
        discover(model, batch_size=2, progress=False)


def test_the_planted_circuit_of_patches_is_found() -> None:
    """Six edges were written by hand, and six are found: the head that looks back, the match, the reader."""
    plant = zoo.planted_patches()
    report = discover(plant.model, edges=6, controls=2, batch_size=12, progress=False)
    circuit: Any = report.results["circuit.json"]
    assert set(map(str, circuit)) == set(plant.circuit)
    evaluation: Any = report.results["evaluation_resample.json"]
    assert evaluation.faithfulness > 0.9
    assert "over random patches" in next(one.words for one in report.sections if one.name == "circuit_heads")
