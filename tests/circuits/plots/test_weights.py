"""Figures of weights and wiring show what they are given, by the names it has."""

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from typer.testing import CliRunner

import circuits
import interp
import probes
from circuits import plots
from circuits.__main__ import app
from circuits.edges import WIRES, Edges, ScoredEdge
from circuits.plots.stacks import WIRE, spot
from circuits.reports.compositions import composition
from circuits.weights.composition_scores import CompositionScores
from interp.models.weights.factored import FactoredMatrix
from interp.output.report import Report, Section
from tests.conftest import tiny_causal_pipeline, tiny_gpt2, tiny_pipeline
from tests.tolerance import FORWARD, close


@pytest.fixture(scope="module")
def scores() -> CompositionScores:
    return circuits.composition_scores(interp.load("pico-t5-induction"), progress=False)


@pytest.fixture(scope="module")
def induction() -> interp.Model:
    return interp.load("pico-t5-induction")


def test_a_circuit_is_drawn_as_it_is(model: interp.Model) -> None:
    found = circuits.ov_circuit(model, "decoder.cross.1.2")
    figure = plots.head_circuit(found)
    close(figure.data[0].z, found.full().numpy())
    assert "OV circuit of decoder.cross.1.2" in figure.layout.title.text
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax == -np.abs(figure.data[0].z).max()


def test_a_token_map_has_values_on_its_axes(pico: interp.Model) -> None:
    made = circuits.token_circuit(circuits.ov_circuit(pico, "decoder.cross.1.2"))
    figure = plots.token_circuit(made)
    cells = figure.data[0]
    close(cells.x, made.scaled_values)
    assert (cells.x[0], cells.x[-1]) == pytest.approx((-1.01, 1.01), abs=0.01)
    close(cells.z, made.centred.full().numpy(), terms=FORWARD)
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("output value", "attended value")
    assert figure.layout.coloraxis.colorbar.title.text == "logit"
    assert "+0.99" in figure.layout.title.subtitle.text, "copying"


def test_self_attention_maps_have_their_bias_beside_them(pico: interp.Model) -> None:
    circuit = circuits.qk_circuit(pico, "encoder.self.1.4")
    figure = plots.token_circuit(circuits.token_circuit(circuit, (1911, 1950)))
    bars = figure.data[1]
    assert bars.x[np.argmax(bars.y)] == circuit.position_bias.preferred[0] == -2  # type: ignore[union-attr]
    assert len(plots.token_circuit(circuits.token_circuit(circuits.qk_circuit(pico, "decoder.cross.1.0"))).data) == 1


def test_special_tokens_turn_the_axes_to_ids(pico: interp.Model) -> None:
    figure = plots.token_circuit(circuits.token_circuit(circuits.qk_circuit(pico, "decoder.cross.1.0"), [0, 1, 2000]))
    assert list(figure.data[0].x) == ["token 0", "token 1", "token 2000"]
    assert figure.layout.xaxis.title.text == "key's token"


def test_too_many_tokens_are_refused(pico: interp.Model) -> None:
    made = circuits.token_circuit(circuits.qk_circuit(pico, "decoder.cross.1.0"), (2, 4095))
    with pytest.raises(interp.errors.InvalidInput, match="at most 1200"):
        plots.token_circuit(made)


def test_eigenvalues_and_spectra(pico: interp.Model) -> None:
    found = [
        circuits.token_circuit(circuits.ov_circuit(pico, head)) for head in ("decoder.cross.1.2", "decoder.cross.0.3")
    ]
    figure = plots.eigenvalues(found)
    for trace, one in zip(figure.data, found, strict=True):
        close(trace.customdata, one.centred.eigenvalues().abs().numpy())
        close(max(np.hypot(trace.x, trace.y)), 1)
        assert f"({float(one.centred.eigenvalue_score()):+.2f})" in trace.name
    spectra = plots.singular_values(circuits.qk_circuit(pico, "decoder.cross.1.2"))
    assert spectra.data[0].y[0] == 1
    assert len(spectra.data[0].x) == 16
    for draw in (plots.eigenvalues, plots.singular_values):
        with pytest.raises(interp.errors.InvalidInput, match="no circuits"):
            draw([])
    zero = FactoredMatrix(torch.zeros(4, 2), torch.zeros(2, 4))
    assert torch.equal(zero.singular_values(), torch.zeros(2, dtype=torch.float64))


def test_a_composition_cell_is_the_pair_it_names(scores: CompositionScores) -> None:
    figure = plots.composition(scores, "encoder.self", "decoder.cross", "K", score="z")
    cells = figure.data[0]
    row, column = list(cells.y).index("encoder.self.2.7"), list(cells.x).index("decoder.cross.1.2")
    wanted = scores.edge("encoder.self.2.7", "decoder.cross.1.2", "K").z
    assert cells.z[row][column] == pytest.approx(wanted, abs=1e-4)
    assert cells.z[row][column] == np.nanmax(cells.z)
    assert "%{y} → %{x}:k" in cells.hovertemplate
    blank = plots.composition(scores, "decoder.self", "decoder.self", "V").data[0]
    assert np.isnan(blank.z[8:16, :16]).all()
    with pytest.raises(interp.errors.InvalidInput, match="share no stream"):
        plots.composition(scores, "decoder.cross", "encoder.self", "K")


def test_layers_are_labelled_where_they_are() -> None:
    """12 heads: the middle of layer 0 is 5.5, which is no category's name, or the label would go there."""
    model = interp.wrap(tiny_pipeline(num_layers=6, num_decoder_layers=6, num_heads=12))
    figure = plots.composition(circuits.composition_scores(model, progress=False), "encoder.self", "decoder.cross", "K")
    for axis, names in ((figure.layout.xaxis, figure.data[0].x), (figure.layout.yaxis, figure.data[0].y)):
        assert list(axis.tickvals) == [12 * layer + 5.5 for layer in range(6)]
        assert list(axis.ticktext) == [str(layer) for layer in range(6)]
        assert not {str(value) for value in axis.tickvals} & set(names)
        assert all(name.startswith(("encoder.self.", "decoder.cross.")) for name in names)


def test_a_sample_in_any_order_is_drawn_by_value(pico: interp.Model) -> None:
    made = circuits.token_circuit(circuits.ov_circuit(pico, "decoder.cross.1.2"), [2100, 1950, 2000, 1911])
    cells = plots.token_circuit(made).data[0]
    assert list(cells.x) == sorted(cells.x)
    close(cells.z[0][3], float(made.centred.full()[3, 0]), "1911 attended, 2100 put out")


def test_axes_say_what_they_are(pico: interp.Model, induction: interp.Model) -> None:
    qk, ov = circuits.qk_circuit(pico, "decoder.cross.1.2"), circuits.ov_circuit(pico, "decoder.cross.1.2")
    wire = circuits.token_composition(induction, "encoder.self.2.7 -> decoder.cross.1.2:k")
    for figure, rows, columns in (
        (plots.head_circuit(qk), "query's stream", "key's stream"),
        (plots.head_circuit(ov), "stream read", "stream written"),
        (plots.token_circuit(circuits.token_circuit(qk)), "query's value", "key's value"),
        (plots.token_circuit(wire), "query's value", "value the writer attends to"),
    ):
        assert (figure.layout.yaxis.title.text, figure.layout.xaxis.title.text) == (rows, columns)
    assert plots.token_circuit(wire).layout.coloraxis.colorbar.title.text == "score"


def test_the_menu_switches_to_every_pair(scores: CompositionScores) -> None:
    figure = plots.composition_explorer(scores)
    (menu,) = figure.layout.updatemenus
    assert len(menu.buttons) == len(WIRES) == len(figure.data)
    shown = [index for index, trace in enumerate(figure.data) if trace.visible]
    assert shown == [menu.active]
    for index, (button, wire) in enumerate(zip(menu.buttons, WIRES, strict=True)):
        assert button.label == f"{wire[2]}: {wire[0]} → {wire[1]}"
        assert [place for place, visible in enumerate(button.args[0]["visible"]) if visible] == [index]
        for axis, place in (("yaxis", 0), ("xaxis", 1)):
            assert wire[place] in button.args[1][axis]["title"]["text"], "a bare string is dropped by the browser"


def test_the_menu_works_in_a_browser(browser_page: Any, scores: CompositionScores, tmp_path: Path) -> None:
    figure = plots.composition_explorer(scores)
    page = Report("page", "Composition", [Section("scores", "Scores", figure=figure)])
    browser_page.goto(page.write(tmp_path / "page.html")[0].as_uri())
    names = [button.label for button in figure.layout.updatemenus[0].buttons]
    for index in (len(names) - 1, 0):
        browser_page.locator(".updatemenu-header").click()
        browser_page.locator(".updatemenu-dropdown-button").filter(has_text=names[index]).click()
        drawn = browser_page.evaluate(
            "(e => ({shown: e._fullData.map(t => t.visible), rows: e._fullLayout.yaxis.title.text}))"
            "(document.querySelector('.js-plotly-plot'))"
        )
        assert [place for place, visible in enumerate(drawn["shown"]) if visible] == [index]
        assert WIRES[index][0] in drawn["rows"]
        assert browser_page.locator(".heatmaplayer image").count() == 1


def test_wiring_draws_each_edge_by_its_kind_and_width(scores: CompositionScores, induction: interp.Model) -> None:
    mosaic = probes.induction_mosaic(induction)
    edges = scores.top(12)
    figure = plots.wiring(scores, edges, mosaic=mosaic)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(lines) == 12
    by_text = {trace.text[0].split("<br>")[0]: trace for trace in lines}
    assert set(by_text) == {str(scored.edge) for scored in edges}
    widths = [by_text[str(scored.edge)].line.width for scored in edges]
    close(np.corrcoef(widths, [scored.excess for scored in edges])[0, 1], 1)
    ringed = next(trace for trace in figure.data if trace.name == "token to right")
    assert {text.split("<br>")[0] for text in ringed.customdata} == {str(head.address) for head in mosaic.heads()}
    names = {
        text.split("<br>")[0] for trace in figure.data if trace.mode == "markers+text" for text in trace.customdata
    }
    assert names == {str(head) for head in induction.heads()}
    named = {trace.text[0].split("<br>")[0][-1]: (trace.name, trace.line.color) for trace in lines}
    assert named["k"] == ("feeds keys", WIRE["K"])
    assert named["v"] == ("feeds values", WIRE["V"])
    assert named["q"] == ("feeds queries", WIRE["Q"])
    assert len(set(WIRE.values())) == 3
    assert spot(interp.Head.parse("decoder.cross.1.3"), 8)[1] - spot(interp.Head.parse("decoder.self.1.3"), 8)[1] == 1
    assert spot(interp.Head.parse("decoder.self.2.3"), 8)[1] - spot(interp.Head.parse("decoder.cross.1.3"), 8)[1] == 1
    first = by_text["encoder.self.2.7 -> decoder.cross.1.2:k"]
    start, end = (first.x[0], first.y[0]), (first.x[-1], first.y[-1])
    assert start[0] < 8 < 11 <= end[0], "from the encoder to the decoder"


def test_wiring_of_nothing_and_of_others(scores: CompositionScores, pico: interp.Model) -> None:
    assert not [trace for trace in plots.wiring(scores, Edges(())).data if trace.mode == "lines"]
    with pytest.raises(interp.errors.InvalidInput, match="different weights"):
        plots.wiring(scores, mosaic=probes.induction_mosaic(pico, batch_size=3))
    edge = circuits.Edge.parse("encoder.self.0.0 -> decoder.cross.7.0:k")
    model = interp.load("pico-t5-induction")
    found = circuits.induction_candidates(model, probes.induction_mosaic(model), composition=scores)
    for given in (found, found.edges, found.candidates, list(found)):
        drawn = [trace for trace in plots.wiring(scores, given).data if trace.mode == "lines"]
        assert {trace.text[0].split("<br>")[0] for trace in drawn} == {str(one.edge.edge) for one in found}
    for excess in (0.0, -0.1):
        scored = ScoredEdge(circuits.Edge.parse("encoder.self.0.0 -> decoder.cross.1.0:k"), 0.1, excess, 0)
        assert plots.wiring(scores, [scored]).data[0].line.width == 1
    for wrong in ([edge], "abc", 3, [ScoredEdge(edge, np.nan, np.nan, np.nan)]):
        with pytest.raises(interp.errors.InvalidInput, match="edges"):
            plots.wiring(scores, wrong)  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match=r"without decoder\.cross\.7\.0"):
        plots.wiring(scores, Edges((ScoredEdge(edge, 1, 1, 1),)))


def test_the_reports_figures_are_of_the_strongest_heads(induction: interp.Model) -> None:
    report = composition(induction, top=3, progress=False)
    mosaic: Any = report.results["mosaic.json"]
    strongest = [str(head.address) for head in mosaic.either.heads()[:4]]
    drawn: dict[str, Any] = report.figures
    assert [trace.name.split(" (")[0] for trace in drawn["eigenvalues"].data] == [f"OV {head}" for head in strongest]
    assert [trace.name.split(" (")[0] for trace in drawn["singular_values"].data] == [
        f"QK {head}" for head in strongest
    ]
    for name in ("OV", "QK"):
        assert drawn[f"{name.lower()}_map"].layout.title.text.startswith(f"{name} of {strongest[0]},")
    assert report.tables["induction_candidates"]["edge"][0] in drawn["candidate_map"].layout.title.text
    assert len([trace for trace in drawn["induction_candidates"].data if trace.mode == "lines"]) == 3


def test_the_report_of_a_model_with_candidates_and_of_one_without(tmp_path: Path) -> None:
    for name in ("pico-t5-induction", "pico-t5"):
        out = tmp_path / name
        done = CliRunner().invoke(app, ["composition", "--model", name, "--out", str(out), "--top", "5", "--no-images"])
        assert done.exit_code == 0, done.output
        page = (out / "composition.html").read_text()
        headings = [part.split("</h2>")[0].replace("&#x27;", "'") for part in page.split("<h2>")[1:]]
        carries = ["What the strongest candidate's wire carries"] if name != "pico-t5" else []
        others = ["Composition scores", "OV eigenvalues", "QK spectra", "OV map", "QK map", "Heads"]
        assert headings == ["Wiring", "Induction candidates", *carries, *others]
        drawn = page.split("<h2>Induction candidates")[1].split("<h2>")[0].count("plotly-graph-div")
        assert drawn == (name != "pico-t5")
        assert ("no induction candidates" in done.output) == (name == "pico-t5")
        written = {path.name for path in out.iterdir()}
        tables = {"edges.csv", "induction_candidates.csv", "head_summary.csv"}
        assert written == tables | {"composition.html", "composition.safetensors", "mosaic.json"}
        assert len((out / "edges.csv").read_text().splitlines()) == 6
        assert CompositionScores.load(out / "composition.safetensors").provenance["model"] == name


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    for arguments, text in (
        (["--model", "pico", "--out", str(tmp_path)], "Did you mean 'pico-t5'"),
        (["--model", "pico-t5", "--out", str(tmp_path), "--top", "0"], "top=0"),
    ):
        done = CliRunner().invoke(app, ["composition", *arguments])
        assert done.exit_code == 2
        assert text in done.output
    assert not list(tmp_path.iterdir())


def test_figures_leave_plotlys_defaults_alone(scores: CompositionScores) -> None:
    assert isinstance(plots.composition_explorer(scores, score="raw"), go.Figure)
    assert plots.composition_explorer(scores, score="raw").layout.coloraxis.cmin == 0


@pytest.fixture(scope="module")
def alone() -> interp.Model:
    return interp.zoo.planted_decoder().model


@pytest.fixture(scope="module")
def wires(alone: interp.Model) -> CompositionScores:
    return circuits.composition_scores(alone, progress=False)


def test_wiring_of_a_decoder_has_no_empty_encoder(alone: interp.Model, wires: CompositionScores) -> None:
    figure = plots.wiring(wires, wires.top(8))
    drawn = [trace for trace in figure.data if trace.mode == "markers+text"]
    names = {text.split("<br>")[0] for trace in drawn for text in trace.customdata}
    assert names == {str(head) for head in alone.heads()}
    left, right = figure.layout.xaxis.range
    places = [x for trace in drawn for x in trace.x]
    assert min(places) - left == 1, "the figure begins with the decoder"
    assert max(places) + 1 < right
    assert [note.text for note in figure.layout.annotations] == ["self 0", "self 1", "<b>decoder</b>"]
    assert "read upwards; thickest: +0.049 over chance (0.040)" in figure.layout.title.subtitle.text
    lines = {trace.text[0].split("<br>")[0]: trace for trace in figure.data if trace.mode == "lines"}
    assert set(lines) == {str(edge.edge) for edge in wires.top(8)}
    planted = lines["decoder.self.0.1 -> decoder.self.1.2:k"]
    assert planted.line.width == 6
    assert planted.y[0] < planted.y[-1], "from the first layer up to the second"
    other = circuits.Edge.parse("encoder.self.0.0 -> decoder.cross.1.0:k")
    with pytest.raises(interp.errors.InvalidInput, match=r"of a model without decoder\.cross\.1\.0"):
        plots.wiring(wires, [ScoredEdge(other, 0.1, 0.1, 1)])


def test_composition_of_a_decoder_has_three_maps(wires: CompositionScores) -> None:
    figure = plots.composition_explorer(wires)
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == [f"{kind}: decoder.self → decoder.self" for kind in "QKV"]
    assert menu.active == 1, "keys: what induction is made of"
    assert [trace.visible for trace in figure.data] == [False, True, False]
    cells = plots.composition(wires, "decoder.self", "decoder.self", "K", score="z").data[0]
    row, column = list(cells.y).index("decoder.self.0.1"), list(cells.x).index("decoder.self.1.2")
    assert cells.z[row][column] == np.nanmax(cells.z)
    assert np.isnan(cells.z[5:]).all()


def test_a_map_of_positions_is_its_pattern_with_what_is_ahead_blank(alone: interp.Model) -> None:
    found = circuits.position_circuit(circuits.qk_circuit(alone, "decoder.self.0.1"), [7, 2, 3, 4, 6])
    figure = plots.position_circuit(found)
    cells = figure.data[0]
    assert list(cells.x) == list(cells.y) == [2, 3, 4, 6, 7]
    assert np.isnan(cells.z[np.triu_indices(5, 1)]).all()
    assert cells.z[1][0] == cells.z[2][1] == pytest.approx(1, abs=1e-3), "3 to 2, and 4 to 3"
    close(cells.z[4][3], float(found.pattern()[0, 4]), "7 to 6")
    assert "attention to the position before: 1.00" in figure.layout.title.subtitle.text
    large = interp.wrap(tiny_gpt2(n_positions=1300))
    with pytest.raises(interp.errors.InvalidInput, match="at most 1200"):
        plots.position_circuit(circuits.position_circuit(circuits.qk_circuit(large, "decoder.self.0.0")))


def test_the_report_of_a_decoder(tmp_path: Path) -> None:
    """Of a causal model, and of a text model, whose tokens are no values."""
    for model in (
        interp.wrap(tiny_causal_pipeline(), name="causal"),
        interp.wrap(tiny_gpt2(), name="text"),
    ):
        report = composition(model, top=5, progress=False)
        drawn: dict[str, Any] = report.figures
        out = tmp_path / model.name
        report.write(out)
        page = (out / "composition.html").read_text()
        assert "Attention by position" in page
        assert "encoder" not in "".join(section.words for section in report.sections)
        summary: Any = report.tables["head_summary"]
        previous = summary.set_index("head")["previous_token"]
        assert previous.idxmax() in drawn["position_map"].layout.title.text
        against = "token against token" if model.name == "text" else "value against value"
        assert against in drawn["ov_map"].layout.title.text
        keys = drawn["composition"]
        assert keys.layout.title.text == "K-composition: decoder.self → decoder.self"
        assert CompositionScores.load(out / "composition.safetensors").n_pairs == 81
        assert summary["either"].notna().all()


def test_the_candidates_of_a_decoder_are_on_its_page(alone: interp.Model, tmp_path: Path) -> None:
    """Of 64 positions: the scores of heads are taken on what fits."""
    report = composition(alone, top=4, progress=False)
    candidates: Any = report.tables["induction_candidates"]
    assert sorted({*candidates["writer"], *candidates["reader"]}) == ["decoder.self.0.1", "decoder.self.1.2"]
    drawn: dict[str, Any] = report.figures
    report.write(tmp_path)
    page = (tmp_path / "composition.html").read_text()
    for section in report.sections:
        assert f"<h2>{section.title.replace(chr(39), '&#x27;')}</h2>" in page
        assert "ncoder's" not in section.words
    ringed = next(trace for trace in drawn["induction_candidates"].data if trace.name == "token to right")
    assert [text.split("<br>")[0] for text in ringed.customdata] == ["decoder.self.1.2"]
    assert "QK of decoder.self.0.1, position" in drawn["position_map"].layout.title.text
