"""Figures of circuits: every edge is there, as wide as it is worth, and a figure of another circuit is refused."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import pytest

import circuits
import interp
import probes
from circuits import plots
from circuits.edges import LOGITS
from circuits.graph.edge_matrix import Graph
from circuits.graph.edge_scores import EdgeScores
from circuits.graph.evaluation import CircuitReport
from circuits.plots.circuit_graph import FEEDS
from circuits.plots.stacks import DOT, MLP, Plane, is_mlp
from probes.induction.mosaic import Mosaic
from probes.stimuli.pairs import Pair
from tests.probes.plots.test_mosaics import needs_browser, traces
from tests.tolerance import LAYER, close


@pytest.fixture(scope="module")
def plant() -> interp.zoo.Planted:
    return interp.zoo.planted(copies=2)


@pytest.fixture(scope="module")
def circuit(plant: interp.zoo.Planted) -> circuits.Circuit:
    return circuits.Circuit(plant.circuit, plant.model.digest)


def pair_and_metric(seed: int = 1) -> tuple[Pair, Any]:
    pair = probes.another_sequence(probes.repeated_random_tokens(seed=seed, batch_size=4, unique=True))
    return pair, circuits.logit_difference(pair.target, pair.against)


@pytest.fixture(scope="module")
def report(plant: interp.zoo.Planted, circuit: circuits.Circuit) -> CircuitReport:
    pair, metric = pair_and_metric()
    return circuits.evaluate(plant.model, circuit, *pair, metric, controls=3, parts=2, progress=False)


@pytest.fixture(scope="module")
def mosaic(plant: interp.zoo.Planted) -> Mosaic:
    return probes.induction_mosaic(plant.model, probes.repeated_random_tokens(seed=3, batch_size=3))


def lines(figure: go.Figure) -> dict[str, Any]:
    """Edges as drawn, by their text."""
    drawn = [trace for trace in figure.data if trace.mode == "lines+markers"]
    return {trace.text[0].split("<br>")[0]: trace for trace in drawn}


def told(figure: go.Figure) -> dict[str, str]:
    """What hovering says, by the part's name."""
    drawn = [trace for trace in figure.data if trace.customdata is not None]
    return {words.split("<br>")[0]: words for trace in drawn for words in trace.customdata}


def test_every_edge_is_drawn_by_what_it_feeds(circuit: circuits.Circuit) -> None:
    figure = plots.circuit(circuit)
    drawn = lines(figure)
    assert set(drawn) == set(map(str, circuit))
    assert {trace.line.width for trace in drawn.values()} == {2}
    for text, trace in drawn.items():
        feeds = circuits.Edge.parse(text).kind or "logits"
        assert trace.line.color == trace.marker.color == FEEDS[feeds][1]
    named = {trace.name for trace in figure.data if trace.name}
    assert {"feeds queries", "feeds keys", "feeds values", "feeds the logits", "heads of the circuit"} <= named
    assert "feeds an MLP" not in named
    # A model has one output, so that logits and quantiles share a colour.
    colors = {color for feeds, (_, color) in FEEDS.items() if feeds != "quantiles"}
    assert len(colors) == len(FEEDS) - 1
    assert "10 edges, 4 heads, 0 MLPs" in figure.layout.title.subtitle.text


def test_width_is_what_an_edge_adds(circuit: circuits.Circuit, report: CircuitReport) -> None:
    figure = plots.circuit(circuit, report)
    drawn, weights = lines(figure), report.weights()
    widths = [drawn[str(edge)].line.width for edge in weights]
    close(np.corrcoef(widths, np.abs(list(weights.values())))[0, 1], 1)
    assert {text: trace.line.dash for text, trace in drawn.items()} == {
        str(edge): "dash" if adds < 0 else "solid" for edge, adds in weights.items()
    }
    rows = report.to_frame().set_index("edge")
    for text, trace in drawn.items():
        row: Any = rows.loc[text]
        assert f"adds {row['adds']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})" in trace.text[0]
    assert f"faithfulness {report.faithfulness:.2f}" in figure.layout.title.subtitle.text
    assert "the corrupt run" in figure.layout.title.subtitle.text
    assert "planted-token_to_right-copies" in figure.layout.title.text


def test_negative_edges_are_dashed(circuit: circuits.Circuit, report: CircuitReport) -> None:
    without = report.without.copy()
    without[0] = 4 * report.model - 3 * report.empty
    changed = CircuitReport(**(vars(report) | {"without": without}))
    drawn = lines(plots.circuit(circuit, changed))
    dashed = [text for text, trace in drawn.items() if trace.line.dash == "dash"]
    assert dashed == [report.edges[0]]
    close(drawn[report.edges[0]].line.width, 6, "wide by its size, whatever its sign")


@pytest.mark.parametrize("graph", [Graph(3, 2, 8), Graph(0, 3, 4)], ids=["two stacks", "one stack"])
def test_edges_end_at_the_rim_of_what_they_feed(graph: Graph) -> None:
    """And point into it: the arrow's direction is that of the line's last piece, on the screen."""
    plane = Plane(graph)
    across, up = plane.pixels
    every = circuits.Circuit(graph.edges(graph.exists))
    for edge in every:
        xs, ys = plane.line(edge)
        x, y = plane.spot(edge.reader)
        away = (abs(xs[-1] - x) * across, abs(ys[-1] - y) * up)
        if edge.reader == LOGITS:
            assert ys[-1] == y - 0.25
        elif is_mlp(edge.reader):
            assert max(away) == pytest.approx(MLP / 2, abs=0.3)
        else:
            assert np.hypot(*away) == pytest.approx(DOT / 2, abs=0.3)
        cut, cut_up, angle = plane.arrow(xs, ys, 10)
        ahead = np.array([(xs[-1] - cut[-1]) * across, (ys[-1] - cut_up[-1]) * up])
        assert np.hypot(*ahead) == pytest.approx(10, abs=1)
        close([np.sin(np.radians(angle)), np.cos(np.radians(angle))], ahead / np.hypot(*ahead), terms=LAYER)
        if edge.writer.stack == edge.reader.stack:
            assert plane.spot(edge.writer)[1] < y, "read upwards"


def test_edges_into_one_head_stand_apart() -> None:
    head = "encoder.self.0.1"
    texts = [f"encoder.0.resid_pre -> {head}:{kind}" for kind in "qkv"]
    drawn = lines(plots.circuit(circuits.Circuit(texts)))
    assert drawn[texts[0]].x[0] < drawn[texts[1]].x[0] < drawn[texts[2]].x[0]


def test_parts_say_what_is_known_of_them(
    plant: interp.zoo.Planted, circuit: circuits.Circuit, report: CircuitReport, mosaic: Mosaic
) -> None:
    summary = circuits.circuit_summary(plant.model, circuit, mosaic=mosaic)
    figure = plots.circuit(circuit, report, mosaic=mosaic, summary=summary)
    said = told(figure)
    assert set(map(str, plant.model.heads())) <= set(said), "the model's size is that of the report"
    assert {"encoder embedding", "decoder embedding", "logits", "encoder MLP 1", "decoder MLP 0"} <= set(said)
    words = said["decoder.cross.1.2"]
    assert f"right {mosaic.token_to_right['decoder.cross.1.2']:.2f}" in words
    assert "copying 1" in words
    assert words.count("token to right") == 0, "said once"
    assert "3 in" in words
    assert "1 out" in words
    adds = report.weights()[circuits.Edge.parse("encoder.self.0.1 -> decoder.cross.1.2:k")]
    assert f"encoder.self.0.1:k {adds:+.3f}" in words
    assert "token to right 0.5" in told(plots.circuit(circuit, summary=summary))["decoder.cross.1.2"]
    colored = next(trace for trace in figure.data if trace.name == "token to right")
    assert {text.split("<br>")[0] for text in colored.customdata} == {"decoder.cross.1.0", "decoder.cross.1.2"}
    heads: Any = next(trace for trace in figure.data if trace.name == "heads of the circuit")
    assert {text.split("<br>")[0] for text in heads.customdata} == {"encoder.self.0.1", "encoder.self.1.0"}


def test_only_its_heads_are_large(circuit: circuits.Circuit, mosaic: Mosaic) -> None:
    """An induction head that the circuit leaves out keeps its colour, and is small."""
    part = circuits.Circuit((e for e in circuit if "decoder.cross.1.0" not in str(e)), circuit.digest)
    figure = plots.circuit(part, mosaic=mosaic)
    colored: Any = next(trace for trace in figure.data if trace.name == "token to right")
    sizes = {text.split("<br>")[0]: size for text, size in zip(colored.customdata, colored.marker.size, strict=True)}
    assert sizes["decoder.cross.1.2"] == DOT > sizes["decoder.cross.1.0"]
    assert list(colored.text) == ["2" if size == DOT else "" for size in colored.marker.size]


def test_size_is_taken_from_where_it_is_known(circuit: circuits.Circuit, report: CircuitReport) -> None:
    small = circuits.Circuit.parse("decoder.0.resid_pre -> decoder.cross.0.1:q\ndecoder.cross.0.1 -> decoder.logits")
    names = {name for name in told(plots.circuit(small)) if name.count(".") == 3}
    assert names == {
        f"{kind}.0.{head}" for kind in ("encoder.self", "decoder.self", "decoder.cross") for head in (0, 1)
    }
    assert report.provenance["n_layers"] == {"encoder": 2, "decoder": 2}
    assert report.provenance["n_heads"] == 3
    assert len([name for name in told(plots.circuit(circuit, report)) if name.count(".") == 3]) == 18
    assert not lines(plots.circuit(circuits.Circuit()))


def test_a_model_gives_its_size(plant: interp.zoo.Planted, circuit: circuits.Circuit, model: interp.Model) -> None:
    assert set(map(str, plant.model.heads())) <= set(told(plots.circuit(circuit, model=plant.model)))
    with pytest.raises(interp.errors.InvalidInput, match="other weights"):
        plots.circuit(circuit, model=model)


def test_one_stack_has_no_place_for_another() -> None:
    plant = interp.zoo.planted_decoder()
    batch = probes.repeated_random_tokens(batch_size=3, unique=True, encoder=False)
    pair = probes.another_sequence(batch)
    metric = circuits.logit_difference(pair.target, cast(Any, pair.against))
    found = circuits.Circuit(plant.circuit, plant.model.digest)
    report = circuits.evaluate(plant.model, found, *pair, metric, controls=2, parts=0, progress=False)
    mosaic = probes.induction_mosaic(plant.model, batch)
    figure = plots.circuit(found, report, mosaic=mosaic)
    assert set(lines(figure)) == set(map(str, found))
    said = told(figure)
    assert {name for name in said if name.count(".") == 3} == set(map(str, plant.model.heads()))
    assert {"decoder embedding", "logits", "decoder MLP 0", "decoder MLP 1"} <= set(said)
    assert not any("encoder" in name.removeprefix("decoder") for name in said)
    assert f"right {mosaic.token_to_right['decoder.self.1.2']:.2f}" in said["decoder.self.1.2"]
    colored: Any = next(trace for trace in figure.data if trace.name == "token to right")
    assert [words.split("<br>")[0] for words in colored.customdata] == ["decoder.self.1.2"]
    notes = [note.text for note in figure.layout.annotations]
    assert sorted(notes) == ["<b>decoder</b>", "self 0", "self 1"]
    assert len(figure.layout.shapes) == 2, "boxes of one embedding and the logits"
    # It begins where two stacks begin, and nothing lies beyond the axes.
    xs = [x for trace in figure.data if trace.customdata is not None for x in trace.x]
    assert min(xs) == 0
    low, high = figure.layout.xaxis.range
    assert low < min(xs) <= max(xs) < high
    # Without a report the circuit itself says that no part is an encoder's.
    plain = plots.circuit(found)
    assert [note.text for note in plain.layout.annotations if "<b>" in note.text] == ["<b>decoder</b>"]
    both = plots.circuit(circuits.Circuit.parse("decoder.0.resid_pre -> decoder.cross.0.1:q"))
    assert len([note for note in both.layout.annotations if "<b>" in note.text]) == 2


def test_mlps_are_boxes(circuit: circuits.Circuit) -> None:
    more = circuit | circuits.Circuit.parse(
        "decoder.cross.1.2 -> decoder.1.mlp_out\ndecoder.1.mlp_out -> decoder.logits"
    )
    figure = plots.circuit(more)
    boxes: Any = next(trace for trace in figure.data if trace.marker.symbol == "square")
    shown = [words.split("<br>")[0] for words, text in zip(boxes.customdata, boxes.text, strict=True) if text == "MLP"]
    assert shown == ["decoder MLP 1"]
    assert lines(figure)["decoder.cross.1.2 -> decoder.1.mlp_out"].line.color == FEEDS["mlp_out"][1]


def test_what_does_not_belong_together_is_refused(
    circuit: circuits.Circuit, report: CircuitReport, mosaic: Mosaic, model: interp.Model
) -> None:
    with pytest.raises(interp.errors.InvalidInput, match="is no Circuit"):
        plots.circuit(list(circuit))  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match="is no CircuitReport"):
        plots.circuit(circuit, mosaic)  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match="is no Mosaic"):
        plots.circuit(circuit, mosaic=mosaic.either)  # type: ignore[arg-type]
    part = circuits.Circuit(list(circuit)[1:], circuit.digest)
    with pytest.raises(interp.errors.InvalidInput, match="of another circuit, of 10 edges, than this one of 9"):
        plots.circuit(part, report)
    other = probes.induction_mosaic(model, probes.repeated_random_tokens(seed=1, batch_size=2, sequence_length=4))
    for given in ({"circuit": circuit}, {"circuit": circuits.Circuit(circuit.edges), "report": report}):
        with pytest.raises(interp.errors.InvalidInput, match="different weights"):
            plots.circuit(**given, mosaic=other)  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match="the circuit has others"):
        plots.circuit(circuits.Circuit.parse("decoder.cross.1.3 -> decoder.logits"), mosaic=mosaic)
    for wrong in (report.to_frame(), "abc"):
        with pytest.raises(interp.errors.InvalidInput, match="summary= takes"):
            plots.circuit(circuit, summary=wrong)  # type: ignore[arg-type]
    few = circuits.circuit_summary(model, circuits.Circuit.parse("decoder.cross.1.0 -> decoder.logits"))
    with pytest.raises(interp.errors.InvalidInput, match="summary is of other heads"):
        plots.circuit(circuit, summary=few)


def test_reports_beside_their_controls(circuit: circuits.Circuit, report: CircuitReport) -> None:
    figure = plots.circuit_report({"a": report, "b": report})
    bars = {trace.name: trace for trace in traces(figure, go.Bar)}
    close(bars["circuit"].y, [report.faithfulness] * 2)
    close(bars["model without it"].y, [1 - report.completeness] * 2)
    low, high = report.interval(report.circuit)
    close(bars["circuit"].error_y.array[0], high - report.faithfulness)
    close(bars["circuit"].error_y.arrayminus[0], report.faithfulness - low)
    dots = {trace.name: trace for trace in traces(figure, go.Scatter)}
    for name, values in report.controls().items():
        found = report.normalised(values)
        close(dots[f"control: {name}"].y, [*found, *found])
        close(dots[f"{name}: mean"].y, [found.mean()] * 2)
    assert list(figure.layout.xaxis.ticktext) == ["a<br>10 edges", "b<br>10 edges"]
    assert "outside the circuit: the corrupt run" in figure.layout.title.subtitle.text
    assert list(plots.circuit_report(report).layout.xaxis.ticktext) == ["10 edges"]
    nothing = {name: getattr(report, name)[:0] for name in ("same_shape", "random", "connected")}
    bare = CircuitReport(**(vars(report) | nothing))
    assert not traces(plots.circuit_report(bare), go.Scatter)
    assert "other heads none" in plots.circuit(circuit, bare).layout.title.subtitle.text
    with pytest.raises(interp.errors.InvalidInput, match="at least one"):
        plots.circuit_report({})
    for wrong in ({"a": 3}, [report]):
        with pytest.raises(interp.errors.InvalidInput, match="is no CircuitReport"):
            plots.circuit_report(wrong)  # type: ignore[arg-type]


def test_estimates_beside_patches(plant: interp.zoo.Planted) -> None:
    pair, metric = pair_and_metric()
    scores = circuits.attribution_patching(plant.model, *pair, metric, sample=8, progress=False)
    figure = plots.estimate_against_patch(scores)
    points = [trace for trace in figure.data if trace.mode == "markers"]
    found = {text: xy for trace in points for text, *xy in zip(trace.text, trace.x, trace.y, strict=True)}
    patched = circuits.patch_edges(plant.model, *pair, metric, scores.sampled, progress=False).by_edge()
    assert len(found) == 8
    for text, (x, y) in found.items():
        assert x == scores[text]
        close(y, patched[circuits.Edge.parse(text)], terms=LAYER)
        trace = next(trace for trace in points if text in trace.text)
        assert trace.marker.color == FEEDS[circuits.Edge.parse(text).kind or text.rsplit(".")[-1]][1]
    assert f"Pearson {scores.agreement['pearson']:.2f}" in figure.layout.title.subtitle.text
    identity = next(trace for trace in figure.data if trace.mode == "lines")
    assert list(identity.x) == list(identity.y)
    one = EdgeScores(**(vars(scores) | {"stderr": None}))
    assert all(t.error_x.array is None for t in plots.estimate_against_patch(one).data if t.mode == "markers")
    with pytest.raises(interp.errors.InvalidInput, match="is no EdgeScores"):
        plots.estimate_against_patch(patched)  # type: ignore[arg-type]


@needs_browser
def test_pictures_are_written(circuit: circuits.Circuit, report: CircuitReport, mosaic: Mosaic, tmp_path: Path) -> None:
    figures = {"a": plots.circuit(circuit, report, mosaic=mosaic), "b": plots.circuit_report(report)}
    written = probes.plots.write_images({tmp_path / f"{name}.png": figure for name, figure in figures.items()})
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
