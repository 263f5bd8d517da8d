"""Figures of attention spectra hold the spectra's numbers, and their menu changes all that belongs to a head."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import interp
import probes
from interp.output.style import COLORS
from probes import plots
from probes.periodic.spectrum import AttentionSpectrum, HeadCombs
from probes.plots.head_lines import FAINT, ON_TOP, OTHERS
from tests.tolerance import close

TONES = (5, 10, 20, 40)


@pytest.fixture(scope="module")
def induction() -> interp.Model:
    return interp.load("pico-t5-induction")


@pytest.fixture(scope="module")
def waves(pico: interp.Model) -> AttentionSpectrum:
    return probes.attention_spectrum(pico, probes.multisine(TONES), num_decoder=20, shuffles=0)


@pytest.fixture(scope="module")
def passengers(induction: interp.Model) -> AttentionSpectrum:
    return probes.attention_spectrum(induction, probes.datasets.air_passengers(), shuffles=0)


def shown(figure: go.Figure) -> dict[tuple[str, str], Any]:
    """The visible traces by name and left axis or right."""
    return {(trace.name, trace.yaxis): trace for trace in figure.data if trace.visible is not False}


def test_two_panels_hold_series_attention_and_their_spectra(waves: AttentionSpectrum) -> None:
    figure = plots.attention_spectrum(waves, heads="decoder.cross.2.1")
    found = shown(figure)
    assert set(found) == {
        ("series", "y"), ("series, at the decoder", "y"), ("prediction", "y"), ("attention", "y2"),
        ("series", "y3"), ("attention", "y4"),
    }  # fmt: skip
    values, steps = waves.series.values, waves.series.times
    close(found["series", "y"].y, values[:281])
    close(found["series, at the decoder", "y"].y, values[280:])
    close(found["series, at the decoder", "y"].x, steps[280:])
    # The last value stands at the decoder: what is predicted comes one step after the series.
    close(list(found["prediction", "y"].x), [301 * waves.series.spacing])
    assert list(found["prediction", "y"].y) == [waves.prediction]
    close(found["attention", "y2"].y, waves.attention[2, 1])
    close(found["attention", "y2"].x, steps[:281])
    close(found["attention", "y4"].y, np.abs(np.fft.rfft(waves.attention[2, 1])))
    close(found["series", "y3"].y, np.abs(np.fft.rfft(values[:281])))
    close(found["series", "y3"].x, np.fft.rfftfreq(281, waves.series.spacing))


def test_the_constant_part_is_there_but_does_not_scale(waves: AttentionSpectrum) -> None:
    figure = plots.attention_spectrum(waves, heads="decoder.cross.0.0")
    magnitudes = shown(figure)["attention", "y4"].y
    close(magnitudes[0], waves.attention[0, 0].sum())
    close(figure.layout.yaxis4.range[1], 1.06 * magnitudes[1:].max())
    assert figure.layout.yaxis4.range[1] < magnitudes[0]


def test_one_head_has_no_menu_and_marks_are_at_the_series_frequencies(waves: AttentionSpectrum) -> None:
    figure = plots.attention_spectrum(waves, heads="decoder.cross.1.6")
    assert not figure.layout.updatemenus
    assert figure.layout.title.text == "pico-t5 · decoder.cross.1.6"
    assert [shape.x0 for shape in figure.layout.shapes] == list(TONES)
    assert all(shape.x0 == shape.x1 and shape.yref == "y3 domain" for shape in figure.layout.shapes)
    assert figure.layout.xaxis2.title.text == "frequency (Hz)"
    assert "from step 300" in figure.layout.title.subtitle.text


def test_a_menu_of_heads_offers_the_eight_of_the_highest_amplitude(
    waves: AttentionSpectrum, passengers: AttentionSpectrum
) -> None:
    figure = plots.attention_spectrum([waves, passengers], heads=[None, None])
    labels = [button.label for button in figure.layout.updatemenus[0].buttons]
    expected = [
        f"{name} · {scored.address}"
        for name, spectrum in (("pico-t5", waves), ("pico-t5-induction", passengers))
        for scored in spectrum.amplitude.heads()[:8]
    ]
    assert labels == expected
    assert figure.layout.title.text == expected[0]
    for button in figure.layout.updatemenus[0].buttons:
        visible, changed = button.args
        series = [t for t, v in zip(figure.data, visible["visible"], strict=True) if v and t.name == "series"]
        assert len(series) == 2, "one model's series, over time and frequency"
        assert changed["title.text"] == button.label


def lines(figure: go.Figure, axis: str) -> dict[str, Any]:
    """The visible lines of heads on an axis, by address."""
    heads = [t for t in figure.data if t.yaxis == axis and t.visible is not False and t.name.startswith("decoder.")]
    assert len({t.name for t in heads}) == len(heads)
    return {t.name: t for t in heads}


def test_all_heads_are_drawn_faintly_on_one_axis_from_0(waves: AttentionSpectrum) -> None:
    figure = plots.attention_spectrum(waves)
    assert not figure.layout.updatemenus
    assert "all 24 heads" in figure.layout.title.text
    over_time, over_frequency = lines(figure, "y2"), lines(figure, "y4")
    assert len(over_time) == len(over_frequency) == 24
    for name, line in over_time.items():
        at = interp.Head.parse(name)
        close(line.y, waves.attention[at.layer, at.head])
        close(over_frequency[name].y, waves.spectrum[at.layer, at.head, 1:])
        close(over_frequency[name].x, waves.frequencies[1:])
        for drawn in (line, over_frequency[name]):
            assert (drawn.opacity, drawn.legendgroup, drawn.showlegend) == (0.3, f"layer {at.layer}", False)
            assert drawn.hovertemplate.startswith(name)
    close(figure.layout.yaxis2.range, [0, 1.06 * waves.attention.max()])
    close(figure.layout.yaxis4.range, [0, 1.06 * waves.spectrum[..., 1:].max()])
    colors = {line.legendgroup: line.line.color for line in over_time.values()}
    assert len(set(colors.values())) == 3
    entries = {t.name: t.line.color for t in figure.data if t.legendgroup and t.showlegend is not False}
    assert entries == colors


def test_induction_heads_of_a_mosaic_lie_on_top_in_the_colour_of_their_kind(
    pico: interp.Model, waves: AttentionSpectrum, passengers: AttentionSpectrum
) -> None:
    mosaic = probes.induction_mosaic(pico, seed=3)
    kinds = {str(head.address): head.kind for head in mosaic.heads()}
    figure = plots.attention_spectrum([waves, passengers], mosaics=mosaic)
    drawn = list(lines(figure, "y2").values())
    assert {line.name for line in drawn[-len(kinds) :]} == set(kinds)
    for line in drawn:
        assert line.line.color == COLORS.get(kinds.get(line.name, ""), OTHERS)
        assert line.opacity == (ON_TOP if line.name in kinds else FAINT)
    names = [t.name for t in figure.data if t.visible is not False]
    assert {f"token to right ({len(kinds)})", "current token (0)", f"other heads ({24 - len(kinds)})"} <= set(names)
    assert "at least 0.3" in figure.layout.title.subtitle.text
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["pico-t5", "pico-t5-induction"]
    # The model without a mosaic is coloured by layer.
    other = figure.layout.updatemenus[0].buttons[1].args[0]["visible"]
    groups = {t.legendgroup for t, seen in zip(figure.data, other, strict=True) if seen and t.legendgroup}
    assert groups == {"layer 0", "layer 1", "layer 2"}
    assert len(lines(plots.second_spectrum(waves, mosaic=mosaic, threshold=0.99), "y2")) == 24
    for draw in (
        lambda: plots.attention_spectrum(passengers, mosaics=mosaic),
        lambda: plots.second_spectrum(passengers, mosaic=mosaic),
        lambda: plots.attention_spectrum(waves, mosaics=probes.published("chronos-t5-small")),
    ):
        with pytest.raises(interp.errors.InvalidInput, match="Take both of one model"):
            draw()
    with pytest.raises(interp.errors.InvalidInput, match="no Mosaic"):
        plots.attention_spectrum(waves, mosaics=[waves])  # type: ignore[list-item]


def test_a_published_mosaic_goes_by_its_models_name() -> None:
    mosaic = probes.published("chronos-t5-small")[0]
    attention = np.random.default_rng(0).dirichlet(np.ones(60), mosaic.either.values.shape)
    source = {"model": "amazon/chronos-t5-small", "digest": "of the weights"}
    spectrum = AttentionSpectrum(
        probes.multisine(2, steps=60), attention, None, 0, -1, 0.0, np.empty((0, *attention.shape[:2])), source
    )
    on_top = list(lines(plots.attention_spectrum(spectrum, mosaics=mosaic), "y2"))[-12:]
    assert set(on_top) == {str(head.address) for head in mosaic.heads()}


def test_the_second_spectra_of_all_heads(waves: AttentionSpectrum) -> None:
    figure = plots.second_spectrum(waves, spacings=(5,))
    found = lines(figure, "y2")
    assert len(found) == 24
    twice = np.abs(np.fft.rfft(waves.spectrum, axis=-1))[..., 1:]
    close(found["decoder.cross.2.3"].y, twice[2, 3])
    close(found["decoder.cross.2.3"].x, waves.periods[1:])
    close(figure.layout.yaxis2.range, [0, 1.06 * twice.max()])
    assert {line.opacity for line in found.values()} == {0.3}
    assert [shape.x0 for shape in figure.layout.shapes] == [0.2]


def test_a_name_is_text_and_a_repeated_one_is_numbered(waves: AttentionSpectrum) -> None:
    odd = replace(waves, provenance={"model": "<b>x"}, series=replace(waves.series, name="<i>y"))
    figure = plots.attention_spectrum([odd, odd], heads=["decoder.cross.0.1"])
    first, second = figure.layout.updatemenus[0].buttons
    assert first.label == "&lt;b&gt;x · decoder.cross.0.1"
    assert second.label == "&lt;b&gt;x (2) · decoder.cross.0.1"
    assert first.args[0]["visible"] != second.args[0]["visible"]
    assert "&lt;i&gt;y" in figure.layout.title.subtitle.text


def test_no_prediction_is_said_and_not_drawn(waves: AttentionSpectrum) -> None:
    figure = plots.attention_spectrum(replace(waves, prediction=float("nan")), heads="decoder.cross.0.0")
    assert "prediction" not in {name for name, _ in shown(figure)}
    assert "predicts no value" in figure.layout.title.subtitle.text
    assert np.isfinite(figure.layout.yaxis.range).all()


def test_dates_are_drawn_where_they_are_known(passengers: AttentionSpectrum) -> None:
    figure = plots.attention_spectrum(passengers, heads="decoder.cross.0.0")
    found = shown(figure)
    assert (found["series", "y"].x[0], found["series", "y"].x[-1]) == ("1949-01-01", "1960-12-01")
    assert list(found["prediction", "y"].x) == ["1961-01-01"]
    assert (figure.layout.xaxis.type, figure.layout.xaxis2.title.text) == ("date", "frequency (cycles per year)")
    # A part keeps its own dates.
    cut = replace(passengers, series=passengers.series.last(100), attention=passengers.attention[..., :100])
    figure = plots.attention_spectrum(cut, heads="decoder.cross.0.0")
    assert shown(figure)["series", "y"].x[0] == "1952-09-01"
    bare = replace(cut, series=replace(cut.series, index=None))
    figure = plots.attention_spectrum(bare, heads="decoder.cross.0.0")
    close(shown(figure)["series", "y"].x, np.arange(100) / 12)
    assert (figure.layout.xaxis.type, figure.layout.xaxis.title.text) == ("linear", "time (year)")


def test_the_second_spectrum_over_periods_with_marks(waves: AttentionSpectrum) -> None:
    figure = plots.second_spectrum(waves, "decoder.cross.2.0", spacings=(5, 10))
    found = shown(figure)
    once = np.abs(np.fft.rfft(waves.attention[2, 0]))
    close(found["attention", "y2"].y, np.abs(np.fft.rfft(once)))
    close(found["series", "y"].y, waves.second_series)
    close(found["attention", "y2"].x, waves.periods)
    assert [shape.x0 for shape in figure.layout.shapes] == [0.1, 0.2]
    assert [note.text for note in figure.layout.annotations] == ["10 Hz", "5 Hz"]
    with pytest.raises(interp.errors.InvalidInput, match=r"spacings=\[0\.1\].*Take 0\.7\d+ Hz or more"):
        plots.second_spectrum(waves, spacings=(5, 0.1))
    with pytest.raises(interp.errors.InvalidInput, match="positive"):
        plots.second_spectrum(waves, spacings=(0,))


def test_one_head_of_every_layer_over_the_series(passengers: AttentionSpectrum) -> None:
    figure = plots.attention_over_series(passengers, 3)
    paid = [trace for trace in figure.data if trace.name == "attention"]
    assert [trace.yaxis for trace in paid] == ["y2", "y4", "y6"]
    for layer, trace in enumerate(paid):
        close(trace.y, passengers.attention[layer, 3])
        assert trace.x[-1] == "1960-12-01"
    assert [note.text for note in figure.layout.annotations] == [f"decoder.cross.{i}.3" for i in range(3)]
    assert [trace.showlegend for trace in paid] == [True, False, False]
    assert "head 3 of each layer" in figure.layout.title.text
    with pytest.raises(interp.errors.InvalidInput, match=r"head=8: pico-t5-induction has heads 0-7"):
        plots.attention_over_series(passengers, 8)


def test_all_heads_of_the_chosen_layers_over_the_series(induction: interp.Model, passengers: AttentionSpectrum) -> None:
    figure = plots.attention_over_series(passengers, layers=[2, 0])
    for axis, layer in (("y2", 2), ("y4", 0)):
        found = lines(figure, axis)
        assert set(found) == {f"decoder.cross.{layer}.{head}" for head in range(8)}
        close(found[f"decoder.cross.{layer}.5"].y, passengers.attention[layer, 5])
        assert {line.opacity for line in found.values()} == {0.3}
    assert [note.text for note in figure.layout.annotations] == ["decoder.cross.2", "decoder.cross.0"]
    top = 1.06 * passengers.attention[[0, 2]].max()
    close([figure.layout.yaxis2.range, figure.layout.yaxis4.range], [[0, top]] * 2)
    assert len(lines(plots.attention_over_series(passengers), "y6")) == 8
    mosaic = probes.induction_mosaic(induction)
    coloured = plots.attention_over_series(passengers, layers=[2], mosaic=mosaic)
    last = [head for head in mosaic.heads() if head.address.layer == 2]
    assert f"token to right ({len(last)})" in [trace.name for trace in coloured.data]
    assert sum(line.opacity == ON_TOP for line in lines(coloured, "y2").values()) == len(last)
    for wrong in ([], [3], [1, 1], [-1]):
        with pytest.raises(interp.errors.InvalidInput, match="layers"):
            plots.attention_over_series(passengers, layers=wrong)


def test_combs_are_written_where_they_are_beyond_chance() -> None:
    q = np.array([[0.01, 0.2], [0.05, np.nan]])
    strength = np.array([[0.9, 0.8], [0.4, 0.1]])
    found = HeadCombs(np.array([[5.0166, 3], [2, 1]]), strength, q, q, q, q, "year", {"model": "m"})
    grey, colored = plots.combs(found).data
    np.testing.assert_array_equal(colored.z, [[0.9, np.nan], [0.4, np.nan]])
    np.testing.assert_array_equal(np.isnan(grey.z), [[True, False], [True, False]])
    assert [list(row) for row in colored.text] == [["5.02", ""], ["2", ""]]
    assert colored.customdata[0, 1][0] == "decoder.cross.0.1"
    assert "2 of 4 heads" in plots.combs(found).layout.title.subtitle.text
    assert "cycles per year" in plots.combs(found).layout.title.subtitle.text


def test_what_cannot_be_drawn_is_named(waves: AttentionSpectrum) -> None:
    with pytest.raises(interp.errors.InvalidInput, match="no spectra"):
        plots.attention_spectrum([])
    with pytest.raises(
        interp.errors.InvalidInput, match=r"ndarray is no AttentionSpectrum: .* probes\.attention_spectrum"
    ):
        plots.attention_spectrum([waves, waves.attention])  # type: ignore[list-item]
    with pytest.raises(
        interp.errors.InvalidInput, match=r"decoder\.cross\.3\.0: pico-t5 has decoder\.cross layers 0-2"
    ):
        plots.attention_spectrum(waves, heads=["decoder.cross.0.0", "decoder.cross.3.0"])
    with pytest.raises(interp.errors.InvalidInput, match=r"encoder\.self\.0\.0: pico-t5 has decoder\.cross"):
        plots.second_spectrum(waves, "encoder.self.0.0")
    with pytest.raises(interp.errors.InvalidInput, match="each once"):
        plots.attention_spectrum(waves, heads=["decoder.cross.0.0"] * 2)
    with pytest.raises(interp.errors.UnknownHead):
        plots.attention_spectrum(waves, heads="L0.H0")
    with pytest.raises(interp.errors.InvalidInput, match="no HeadCombs"):
        plots.combs(waves)  # type: ignore[arg-type]


def test_the_menu_changes_everything_in_a_browser(
    browser_page: Any, waves: AttentionSpectrum, passengers: AttentionSpectrum, tmp_path: Path
) -> None:
    """From a multisine in seconds to a series with dates, and back."""
    figure = plots.attention_spectrum([waves, passengers], heads=[None, None])
    figure.write_html(tmp_path / "spectra.html")
    browser_page.goto((tmp_path / "spectra.html").as_uri())
    spectra = {"pico-t5": waves, "pico-t5-induction": passengers}
    names = [button.label for button in figure.layout.updatemenus[0].buttons]
    for name in (names[10], names[1], names[0]):
        browser_page.locator(".updatemenu-header").click()
        browser_page.locator(".updatemenu-dropdown-button").filter(
            has=browser_page.get_by_text(name, exact=True)
        ).click()
        drawn = browser_page.evaluate(
            """(({_fullData: data, _fullLayout: at}) => ({
                traces: data.filter(t => t.visible === true).map(t => [t.name, t.yaxis, Array.from(t.y)]),
                title: document.querySelector('.gtitle').textContent,
                below: document.querySelector('.gtitle-subtitle').textContent,
                axes: [at.xaxis, at.xaxis2, at.yaxis, at.yaxis2, at.yaxis3, at.yaxis4].map(a => a.range),
                type: at.xaxis.type, unit: at.xaxis2.title.text, marks: at.shapes.length,
            }))(document.querySelector('.js-plotly-plot'))"""
        )
        model, address = name.split(" · ")
        spectrum, head = spectra[model], interp.Head.parse(address)
        at, found = (head.layer, head.head), {(n, y): v for n, y, v in drawn["traces"]}
        assert drawn["title"] == name
        assert spectrum.series.name in drawn["below"]
        close(found["attention", "y2"], spectrum.attention[at])
        close(found["attention", "y4"], spectrum.spectrum[at])
        close(found["series", "y3"], spectrum.series_spectrum)
        close(found["series", "y"], spectrum.context.values)
        assert ("series, at the decoder", "y") in found or spectrum is passengers
        _, frequencies, _, attention, _, magnitude = drawn["axes"]
        close(frequencies, [0, spectrum.frequencies[-1]])
        close(attention[1], 1.06 * spectrum.attention[at].max())
        close(magnitude[1], 1.06 * spectrum.spectrum[at][1:].max())
        dated = spectrum is passengers
        assert (drawn["type"], drawn["marks"]) == (("date", 0) if dated else ("linear", 4))
        assert drawn["unit"] == f"frequency ({'cycles per year' if dated else 'Hz'})"
