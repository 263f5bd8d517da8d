"""Figures of experiments hold the numbers they are made from, and can be drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import circuits
import interp
import probes
from circuits import plots
from circuits.reports.ablation import AblationReport, figures, run_report, tables, write_report
from tests.probes.plots.test_mosaics import needs_browser, traces
from tests.tolerance import close

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def report(pico: interp.Model) -> AblationReport:
    return run_report(pico, top=2, controls=4, progress=False)


def test_the_curve_and_its_band(report: AblationReport) -> None:
    figure = plots.ablation_curve(report.curve)
    frame = report.curve.to_frame()
    lines: list[Any] = [t for t in traces(figure, go.Scatter) if t.name]
    own = next(t for t in lines if t.name == "strongest heads" and t.xaxis == "x")
    rows = frame[frame["outcome"] == "effect"]
    close(np.array(own.y, dtype=float), rows["value"])
    close(np.array(own.error_y.array, dtype=float), rows["high"] - rows["value"])
    band = next(t for t in traces(figure, go.Scatter) if t.fill == "toself")
    known = rows.dropna(subset=["control"])
    close(list(band.y)[: len(known)], known["control_high"])
    assert band.mode == "lines"


def test_effects_are_red_where_a_head_helps(report: AblationReport) -> None:
    figure = plots.head_effects(report.effects, report.mosaic)
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax == report.effects.values.min()
    assert axis.colorscale[0][1] == "rgb(103,0,31)"
    rings = traces(figure, go.Scatter)[0]
    assert len(rings.x) == report.mosaic.counts().either
    np.testing.assert_array_equal(traces(figure, go.Heatmap)[0].z, report.effects.values)


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


def test_a_point_a_head(report: AblationReport) -> None:
    figure = plots.score_against_effect(report.mosaic, report.effects)
    points = {t: (x, y) for trace in figure.data for t, x, y in zip(trace.text, trace.x, trace.y, strict=True)}
    assert len(points) == report.effects.values.size
    for name, (x, y) in points.items():
        close(x, report.mosaic.either[name])
        close(y, report.effects[name])
    other = circuits.HeadEffects.of("encoder.self", RNG.random((3, 8, 4)), RNG.random((3, 8, 4)), {})
    with pytest.raises(interp.errors.InvalidInput):
        plots.score_against_effect(report.mosaic, other)
    shape = (*report.effects.values.shape, 4)
    strange = circuits.HeadEffects.of("decoder.cross", RNG.random(shape), RNG.random(shape), {"digest": "other"})
    for draw in (
        lambda: plots.score_against_effect(report.mosaic, strange),
        lambda: plots.head_effects(strange, report.mosaic),
    ):
        with pytest.raises(interp.errors.InvalidInput, match="different weights"):
            draw()


def test_fans_before_and_after(report: AblationReport) -> None:
    effects = report.forecasts["synthetic"]
    name = next(iter(effects.controls))
    figure = plots.forecast_fan(effects, 1, [name])
    lines = {t.name: list(t.y) for t in traces(figure, go.Scatter) if t.name}
    close(lines["what came"], effects.truth[1])
    close(lines["unedited"], effects.fans[0, 1, 4])
    close(lines["ablated"], effects.fans[effects.names.index(name), 1, 4])
    for bad in ({"series": 99}, {"names": ["nothing"]}, {"names": []}):
        with pytest.raises(interp.errors.InvalidInput):
            plots.forecast_fan(effects, **bad)  # type: ignore[arg-type]


def test_forecast_bars(report: AblationReport) -> None:
    effects = report.forecasts["air passengers"]
    figure = plots.forecast_effects(effects)
    summary = effects.summary()
    mase = summary[summary["outcome"] == "mase"]
    bars = {t.name: list(t.y) for t in traces(figure, go.Bar) if t.xaxis == "x3"}
    close(bars["ablated"], mase["ablated"])
    close(bars["unedited"], mase["unedited"])
    close(bars["control heads"], mase["unedited"] + mase["control"])


def test_layers_and_self_repair(report: AblationReport) -> None:
    bars = traces(plots.layer_effects(report.layers), go.Bar)
    close(bars[0].y, report.layers.rows.mean(-1))
    bars = traces(plots.self_repair(report.repair), go.Bar)
    close(bars[1].y, report.repair.direct.mean(-1))
    assert any("(control)" in name for name in bars[0].x)


@pytest.mark.versions
def test_the_report_is_written(report: AblationReport, tmp_path: Path) -> None:
    written = write_report(tmp_path / "new", report)
    names = {path.name for path in written}
    assert {"ablation.html", *(f"{name}.csv" for name in tables(report))} <= names
    assert sum(name.endswith(".json") for name in names) == 6
    curve = circuits.AblationCurve.load(tmp_path / "new" / "ablation_curve.json")
    assert curve.to_frame().equals(report.curve.to_frame())
    page = (tmp_path / "new" / "ablation.html").read_text()
    assert page.count("Plotly.newPlot") == len(figures(report)) == 9
    assert 'src="http' not in page
    loaded = circuits.HeadEffects.load(tmp_path / "new" / "head_effects.json")
    np.testing.assert_array_equal(loaded.values, report.effects.values)


def test_the_report_with_means(pico: interp.Model) -> None:
    report = run_report(pico, top=1, method="mean", controls=2, progress=False)
    assert report.curve.provenance["method"] == "mean"
    with pytest.raises(interp.errors.InvalidInput):
        run_report(pico, method="resample")  # type: ignore[arg-type]


@needs_browser
def test_every_figure_can_be_drawn(report: AblationReport, tmp_path: Path) -> None:
    made = figures(report)
    files = probes.plots.write_images({tmp_path / f"{name}.png": figure for name, figure in made.items()}, scale=1)
    assert all(path.stat().st_size > 5000 for path in files)
