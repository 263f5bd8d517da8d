"""Figures of experiments hold the numbers they are made from, and can be drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import circuits
import interp
import probes
from circuits import plots
from circuits.reports.ablation import AblationMethod, ablate
from interp.output.report import Report
from tests.probes.plots.test_mosaics import needs_browser, traces
from tests.tolerance import close

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def report(pico: interp.Model) -> Report:
    return ablate(pico, top=2, controls=4, progress=False)


@pytest.fixture(scope="module")
def results(report: Report) -> dict[str, Any]:
    return {Path(name).stem: result for name, result in report.results.items()}


def test_the_curve_and_its_band(results: dict[str, Any]) -> None:
    figure = plots.ablation_curve(results["ablation_curve"])
    frame = results["ablation_curve"].to_frame()
    lines: list[Any] = [t for t in traces(figure, go.Scatter) if t.name]
    own = next(t for t in lines if t.name == "strongest heads" and t.xaxis == "x")
    rows = frame[frame["outcome"] == "effect"]
    close(np.array(own.y, dtype=float), rows["value"])
    close(np.array(own.error_y.array, dtype=float), rows["high"] - rows["value"])
    band = next(t for t in traces(figure, go.Scatter) if t.fill == "toself")
    known = rows.dropna(subset=["control"])
    close(list(band.y)[: len(known)], known["control_high"])
    assert band.mode == "lines"


def test_effects_are_red_where_a_head_helps(results: dict[str, Any]) -> None:
    figure = plots.head_effects(results["head_effects"], results["mosaic"])
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax == results["head_effects"].values.min()
    assert axis.colorscale[0][1] == "rgb(103,0,31)"
    rings = traces(figure, go.Scatter)[0]
    assert len(rings.x) == results["mosaic"].counts().either
    np.testing.assert_array_equal(traces(figure, go.Heatmap)[0].z, results["head_effects"].values)


def test_without_induction_heads_none_are_ringed(causal: interp.Model) -> None:
    tokens = probes.repeated_random_tokens(batch_size=5, encoder=False)
    effects, mosaic = circuits.head_effects(causal, tokens, progress=False), probes.induction_mosaic(causal, tokens)
    figure: Any = plots.head_effects(effects, mosaic, threshold=0.99)
    assert "no induction heads, at least 0.99" in figure.layout.title.subtitle.text
    assert "decoder.self" in figure.layout.title.text
    points = plots.score_against_effect(mosaic, effects)
    assert sum(len(trace.x) for trace in points.data) == len(causal.heads())
    of_t5 = circuits.HeadEffects.of("decoder.cross", effects.rows, effects.control_rows, {})
    with pytest.raises(interp.errors.InvalidInput, match=r"decoder\.cross \[3, 3\], the mosaic of decoder\.self"):
        plots.score_against_effect(mosaic, of_t5)


def test_a_point_a_head(results: dict[str, Any]) -> None:
    figure = plots.score_against_effect(results["mosaic"], results["head_effects"])
    points = {t: (x, y) for trace in figure.data for t, x, y in zip(trace.text, trace.x, trace.y, strict=True)}
    assert len(points) == results["head_effects"].values.size
    for name, (x, y) in points.items():
        close(x, results["mosaic"].either[name])
        close(y, results["head_effects"][name])
    other = circuits.HeadEffects.of("encoder.self", RNG.random((3, 8, 4)), RNG.random((3, 8, 4)), {})
    with pytest.raises(interp.errors.InvalidInput):
        plots.score_against_effect(results["mosaic"], other)
    shape = (*results["head_effects"].values.shape, 4)
    strange = circuits.HeadEffects.of("decoder.cross", RNG.random(shape), RNG.random(shape), {"digest": "other"})
    for draw in (
        lambda: plots.score_against_effect(results["mosaic"], strange),
        lambda: plots.head_effects(strange, results["mosaic"]),
    ):
        with pytest.raises(interp.errors.InvalidInput, match="different weights"):
            draw()


def test_fans_before_and_after(results: dict[str, Any]) -> None:
    effects = results["forecast_effects_synthetic"]
    name = next(iter(effects.controls))
    figure = plots.forecast_fan(effects, 1, [name])
    lines = {t.name: list(t.y) for t in traces(figure, go.Scatter) if t.name}
    last = effects.contexts[1, -1]  # all begin where the context ends
    assert lines["context"][-1] == last
    close(lines["what came"], [last, *effects.truth[1]])
    close(lines["unedited"], [last, *effects.fans[0, 1, 4]])
    close(lines["ablated"], [last, *effects.fans[effects.names.index(name), 1, 4]])
    for bad in ({"series": 99}, {"names": ["nothing"]}, {"names": []}):
        with pytest.raises(interp.errors.InvalidInput):
            plots.forecast_fan(effects, **bad)  # type: ignore[arg-type]


def test_forecasts_under_edits_are_not_called_ablated(results: dict[str, Any]) -> None:
    effects = results["forecast_effects_synthetic"]
    name = next(iter(effects.controls))
    steered = replace(effects, sets={**effects.sets, name: ("Add('decoder.0.resid_post')",)})
    for one, words, subtitle in ((effects, "ablated", True), (steered, "edited", False)):
        figure = plots.forecast_fan(one, 1, [name])
        assert words in {trace.name for trace in traces(figure, go.Scatter)}
        assert ("zero ablation" in figure.layout.title.subtitle.text) is subtitle
    bars = {trace.name for trace in traces(plots.forecast_effects(steered), go.Bar)}
    assert bars == {"unedited", "edited", "control heads"}


def test_forecast_bars(results: dict[str, Any]) -> None:
    effects = results["forecast_effects_air_passengers"]
    figure = plots.forecast_effects(effects)
    summary = effects.summary()
    mase = summary[summary["outcome"] == "mase"]
    bars = {t.name: list(t.y) for t in traces(figure, go.Bar) if t.xaxis == "x3"}
    close(bars["ablated"], mase["ablated"])
    close(bars["unedited"], mase["unedited"])
    close(bars["control heads"], mase["unedited"] + mase["control"])


def test_layers_and_self_repair(results: dict[str, Any]) -> None:
    bars = traces(plots.layer_effects(results["layer_effects"]), go.Bar)
    close(bars[0].y, results["layer_effects"].rows.mean(-1))
    bars = traces(plots.self_repair(results["self_repair"]), go.Bar)
    close(bars[1].y, results["self_repair"].direct.mean(-1))
    assert any("(control)" in name for name in bars[0].x)


@pytest.mark.versions
def test_the_report_is_written(report: Report, results: dict[str, Any], tmp_path: Path) -> None:
    written = report.write(tmp_path / "new")
    names = {path.name for path in written}
    assert {"ablation.html", *(f"{name}.csv" for name in report.tables)} <= names
    assert sum(name.endswith(".json") for name in names) == 7
    curve = circuits.AblationCurve.load(tmp_path / "new" / "ablation_curve.json")
    assert curve.to_frame().equals(results["ablation_curve"].to_frame())
    page = (tmp_path / "new" / "ablation.html").read_text()
    assert page.count("Plotly.newPlot") == len(report.figures) == 9
    assert 'src="http' not in page
    loaded = circuits.HeadEffects.load(tmp_path / "new" / "head_effects.json")
    np.testing.assert_array_equal(loaded.values, results["head_effects"].values)


def test_the_report_with_means(pico: interp.Model) -> None:
    report = ablate(pico, top=1, method=AblationMethod.mean, controls=2, progress=False)
    curve: Any = report.results["ablation_curve.json"]
    assert curve.provenance["method"] == "mean"
    with pytest.raises(interp.errors.InvalidInput):
        ablate(pico, method="resample")  # type: ignore[arg-type]


@needs_browser
def test_every_figure_can_be_drawn(report: Report, tmp_path: Path) -> None:
    files = report.draw(tmp_path)
    assert len(files) == 9
    assert all(path.stat().st_size > 5000 for path in files)
