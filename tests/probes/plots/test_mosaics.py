"""Figures hold the numbers they are made from, name their heads, and can be drawn."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

import interp
import probes
from interp import Batch, Model
from probes import plots
from probes.induction.mosaic import Mosaic
from tests.tolerance import close

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
needs_browser = pytest.mark.skipif(
    not any(shutil.which(name) for name in BROWSERS), reason="no Chrome or Chromium was found: pictures not tested"
)


@pytest.fixture(scope="module")
def small() -> Mosaic:
    return probes.published("chronos-t5-small")[0]


def traces(figure: go.Figure, kind: type) -> list[Any]:
    return [trace for trace in figure.data if isinstance(trace, kind)]


def test_the_mosaic_is_two_panels_on_one_scale(small: Mosaic) -> None:
    figure = plots.mosaic(small)
    first, second = traces(figure, go.Heatmap)
    np.testing.assert_array_equal(first.z, small.current_token.values)
    np.testing.assert_array_equal(second.z, small.token_to_right.values)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert first.coloraxis == second.coloraxis == "coloraxis"
    assert first.customdata[3][5][0] == "decoder.cross.3.5"
    # Layer 0 is on top, and no row is cut off.
    assert tuple(figure.layout.yaxis.range) == (5.5, -0.5)
    rings = traces(figure, go.Scatter)
    assert [len(ring.x) for ring in rings] == [3, 9]


def test_a_panel_without_induction_heads_names_the_strongest(small: Mosaic) -> None:
    mini = probes.published("chronos-t5-mini")[0]
    current, right = (note.text for note in plots.mosaic(mini).layout.annotations)
    assert current == "current token: 2 of 32 heads"
    assert right.startswith("token to right: 0 of 32 heads<br>")
    assert "no head reaches 0.3; the strongest is decoder.cross.1.4, 0.19" in right
    strict = plots.mosaic(mini, threshold=0.99)
    assert all("no head reaches 0.99" in note.text for note in strict.layout.annotations)
    # The second line has its place, and all panels keep the height that they had.
    for figure, usual in ((strict, plots.mosaic(mini, threshold=0.01)), (plots.mosaic(mini), plots.mosaic(small))):
        assert figure.layout.margin.t > usual.layout.margin.t
    panel = [figure.layout.height - figure.layout.margin.t for figure in (strict, plots.mosaic(mini, threshold=0.01))]
    assert panel[0] == panel[1]


def test_counts_by_model_are_stacked_as_published(small: Mosaic) -> None:
    mini = probes.published("chronos-t5-mini")[0]
    figure = plots.head_counts([mini, small])
    assert figure.layout.barmode == "stack"
    bars = {(bar.name, bar.xaxis): bar for bar in traces(figure, go.Bar)}
    assert list(bars["current token", "x"].y) == [2, 3]
    assert list(bars["token to right", "x"].y) == [0, 9]
    close(bars["token to right", "x2"].y, [0, 9 / 48])
    assert list(bars["token to right", "x2"].text) == ["", "18.8%"]
    numbers, shares = traces(figure, go.Scatter)
    assert list(numbers.text) == ["<b>2</b>", "<b>12</b>"]
    assert list(shares.text) == ["<b>6.2%</b>", "<b>25.0%</b>"]
    assert "2 repetitions, length 10" in figure.layout.title.text


def test_a_head_of_both_kinds_counts_twice_in_the_stack_and_the_figure_says_so(small: Mosaic) -> None:
    low = plots.head_counts(small, threshold=0.01)
    counts = small.counts(0.01)
    assert counts.total > counts.either
    assert f"{counts.total - counts.either} of both kinds count twice" in low.layout.title.subtitle.text
    assert traces(low, go.Bar)[0].customdata[0][1].startswith(f"{counts.either} (")
    assert "both" not in plots.head_counts(small).layout.title.subtitle.text
    # Of none there is a figure too.
    assert list(traces(plots.head_counts(small, threshold=1), go.Scatter)[0].text) == ["<b>0</b>"]


def test_layers_as_halves_of_violins_with_means_and_points(small: Mosaic) -> None:
    figure = plots.head_layers(small)
    current, right = traces(figure, go.Violin)
    assert (current.side, right.side) == ("negative", "positive")
    assert current.meanline.visible
    assert current.points == "all"
    close(sorted(current.y), [1 / 6, 2 / 6, 3 / 6])
    assert len(right.y) == 9
    assert set(current.text) == {"decoder.cross.0.5", "decoder.cross.1.6", "decoder.cross.2.0"}
    assert figure.layout.yaxis.tickformat == ".0%"
    assert "2 repetitions, length 10" in figure.layout.title.text


def test_occurrences(pico: Model) -> None:
    mosaic = probes.induction_mosaic(pico, repetitions=3, batch_size=20)
    assert mosaic.right_by_occurrence is not None
    figure = plots.attention_by_occurrence(mosaic)
    drawn = {trace.name: trace.y for trace in traces(figure, go.Scatter) if trace.name and trace.xaxis == "x2"}
    for head in mosaic.token_to_right.heads(0.3):
        at = (head.address.layer, head.address.head)
        np.testing.assert_array_equal(drawn[str(head.address)], mosaic.right_by_occurrence[at])
    with pytest.raises(interp.errors.InvalidInput, match="by occurrence"):
        plots.attention_by_occurrence(probes.published("chronos-t5-mini")[0])


def test_attention_patterns(model: Model, batch: Batch) -> None:
    patterns = probes.attention_patterns(model, batch, model.heads("decoder.cross"), row=0)
    figure = plots.attention(patterns)
    maps = traces(figure, go.Heatmap)
    assert len(maps) == 6
    np.testing.assert_array_equal(maps[4].z, patterns.values[4])
    assert "decoder.cross.1.1" in maps[4].hovertemplate
    assert [note.text for note in figure.layout.annotations] == [h.title for h in patterns.heads]


def test_attention_curves(model: Model, batch: Batch) -> None:
    curves = probes.attention_by_lag(model, batch, model.heads("encoder.self")[:2])
    lines = traces(plots.attention_by_lag(curves), go.Scatter)
    assert [line.name for line in lines] == ["encoder.self.0.0", "encoder.self.0.1"]
    by_value = probes.attention_by_value(model, batch, "decoder.cross.0.0")
    assert len(traces(plots.attention_by_value(by_value), go.Scatter)) == 1


def test_training_shows_every_cross_head(pico: Model) -> None:
    figure = plots.training("pico-t5")
    n_heads = len(pico.heads("decoder.cross"))
    assert len(traces(figure, go.Scatter)) == 1 + 2 * n_heads
    with pytest.raises(interp.errors.UnknownModel):
        plots.training("nano")


def test_training_of_a_decoder_only_model_shows_its_own_scores() -> None:
    figure = plots.training("pico-gpt2")
    record = json.loads((interp.zoo.path("pico-gpt2") / "training.json").read_text())
    shots, recipe = record["snapshots"], record["recipe"]
    lines = traces(figure, go.Scatter)
    assert len(lines) == 1 + 2 * recipe["layers"] * recipe["heads"]
    last = [line.y[-1] for line in lines if line.name == "induction"]
    close(last, np.ravel(shots[-1]["induction"]).tolist())
    assert sum(bool(line.showlegend) for line in lines if line.name in ("induction", "previous token")) == 2


def test_models_of_one_short_name_stay_apart(small: Mosaic) -> None:
    from interp.output import report, style

    assert style.unique(["a/m", "b/m", "c", "c"]) == ["a/m", "b/m", "c", "c (2)"]
    twice = plots.head_counts([small, small])
    assert list(traces(twice, go.Bar)[0].x) == ["amazon/chronos-t5-small", "amazon/chronos-t5-small (2)"]
    assert report.file_name("mosaic-a/m (2)") == "mosaic-a-m-2"


def test_ticks_are_values_or_tokens(model: Model, batch: Batch) -> None:
    patterns = probes.attention_patterns(model, batch, "decoder.cross.0.0", row=0)
    assert patterns.key_tokens is not None
    assert plots.attention(patterns, ticks="tokens").layout.xaxis.ticktext[0] == str(patterns.key_tokens[0])
    assert "." in plots.attention(patterns).layout.xaxis.ticktext[0]


def test_plotly_s_defaults_are_left_alone(small: Mosaic) -> None:
    before = pio.templates.default
    plots.mosaic(small)
    assert pio.templates.default == before


def test_no_mosaics() -> None:
    with pytest.raises(interp.errors.InvalidInput, match="at least one"):
        plots.head_counts([])


@needs_browser
def test_pictures_are_written_whole(small: Mosaic, tmp_path: Path) -> None:
    written = plots.write_images(
        {tmp_path / "a.png": plots.mosaic(small), tmp_path / "b.png": plots.head_layers(small)}
    )
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    # Width and height are where a PNG's header has them; a cut-off figure would have plotly's 700 x 500.
    sizes = [struct.unpack(">II", path.read_bytes()[16:24]) for path in written]
    figures = (plots.mosaic(small), plots.head_layers(small))
    assert sizes == [(2 * f.layout.width, 2 * f.layout.height) for f in figures]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_no_browser_is_a_clear_error(small: Mosaic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kaleido.errors import ChromeNotFoundError

    def fail(*_: Any, **__: Any) -> None:
        raise ChromeNotFoundError

    monkeypatch.setattr(pio, "write_images", fail)
    with pytest.raises(interp.errors.MissingBrowser, match="chromium"):
        plots.write_images({tmp_path / "a.png": plots.mosaic(small)})
    assert not list(tmp_path.iterdir())
