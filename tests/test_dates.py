"""A series' dates reach everything that shows its steps, at any frequency: tables, axes, files, and parts of series."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import dateutil.tz
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import circuits
import interp
import probes
from circuits.ablation.forecast_effects import ForecastEffects
from circuits.attribution.by_position import AttributionByPosition
from circuits.reports.forecasts import example_series
from interp.inputs.dates import index_at
from interp.output.time_axis import time_words
from interp.results.result import Result
from probes import TimeSeries
from probes.attention import AttentionPatterns
from probes.periodic.spectrum import AttentionSpectrum
from tests.interp.inputs.test_user_series import DOORS
from tests.tolerance import close

STEPS, AHEAD = 36, 5
"""Steps of the series, and how many of them are forecast, or are the decoder's."""

dates = partial(pd.date_range, periods=STEPS + 1)
"""One step more than the series has, so that the step after its end is known."""

BERLIN = dates("2024-03-30 05:00", freq="h", tz="Europe/Berlin")  # the clocks are put forward in the context
HOLIDAYS = pd.offsets.CDay(holidays=["2024-01-05", "2024-02-22"])


@dataclass(frozen=True)
class Case:
    """An index with one step more than the series, where its steps stand on an axis, and the unit of the spectra."""

    index: Any
    axis: Any
    unit: str
    per_unit: float


def _plain(index: Any, unit: str, per_unit: float) -> Case:
    return Case(index, index, unit, per_unit)


CASES = {
    "months": _plain(dates("2019-11-30", freq="ME"), "year", 12),
    "months of a file": _plain(pd.DatetimeIndex(list(dates("2019-11-01", freq="MS"))), "year", 12),
    "weeks": _plain(dates("2023-12-06", freq="W-WED"), "year", 365.2425 / 7),
    "business days": _plain(dates("2024-01-03", freq="B"), "week", 5),
    "business days with holidays": _plain(dates("2024-01-03", freq=HOLIDAYS), "week", 5),
    "years before nanoseconds": _plain(dates("1501-01-01", freq="YS", unit="s"), "year", 1),
    "minutes": _plain(dates("2024-02-28 23:00", freq="15min"), "day", 96),
    "milliseconds": _plain(dates("2024-02-28", freq="250ms"), "s", 4),
    "days in local time": Case(
        dates("2024-10-10", freq="D", tz="America/New_York"), dates("2024-10-10", freq="D"), "week", 7
    ),
    "hours across daylight saving": Case(BERLIN, BERLIN.tz_convert("UTC").tz_localize(None), "day", 24),
    "periods of months": Case(
        pd.period_range("2020-01", periods=STEPS + 1, freq="M"), dates("2020-01-01", freq="MS"), "year", 12
    ),
    "periods of hours": Case(
        pd.period_range("2024-01-01 07:00", periods=STEPS + 1, freq="h"), dates("2024-01-01 07:00", freq="h"), "day", 24
    ),
    "durations": Case(
        pd.timedelta_range("30min", periods=STEPS + 1, freq="30min"), (1 + np.arange(STEPS + 1)) / 48, "day", 48
    ),
    "numbers": Case(
        pd.Index(range(1900, 1901 + 2 * STEPS, 2), name="year"), np.arange(1900, 1901 + 2 * STEPS, 2), "year", 0.5
    ),
}
if int(pd.__version__.split(".")[0]) >= 3:  # before, pandas makes no dates in such a zone
    CASES["a zone without pandas' name"] = Case(
        dates("2024-03-20", freq="D", tz=dateutil.tz.gettz("Europe/Berlin")), dates("2024-03-20", freq="D"), "week", 7
    )
CONTEXT, ALL = range(STEPS - AHEAD), range(STEPS)
FORECAST = range(STEPS - AHEAD, STEPS)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def series(case: Case) -> pd.Series:
    return pd.Series(20 + 5 * np.sin(np.arange(STEPS) * 0.7), index=case.index[:STEPS], name="sales")


def spectrum(model: interp.Model, series: Any) -> AttentionSpectrum:
    return probes.attention_spectrum(model, series, num_decoder=AHEAD, shuffles=0)


def patterns(model: interp.Model, series: Any) -> AttentionPatterns:
    batch = probes.series_batch(model, series, num_decoder=AHEAD)
    return probes.attention_patterns(model, batch, ["decoder.cross.1.0"])


def attributed(model: interp.Model, series: Any) -> AttributionByPosition:
    return circuits.attribution_by_position(model, probes.series_batch(model, series, num_decoder=AHEAD))


def effects(model: interp.Model, series: Any) -> ForecastEffects:
    options: dict[str, Any] = {"prediction_length": AHEAD, "num_samples": 2, "controls": 0, "progress": False}
    return circuits.forecast_effects(model, series, {"one": ["decoder.cross.1.0"]}, **options)


def of_curve(model: interp.Model, series: Any) -> ForecastEffects:
    first, second = (probes.repeated_random_tokens(batch_size=3, seed=seed) for seed in (0, 1))
    options: dict[str, Any] = {"prediction_length": AHEAD, "num_samples": 2, "controls": 0, "progress": False}
    scores = probes.induction_mosaic(model, first)
    found = circuits.ablation_curve(model, scores, second, counts=(2,), series=series, **options).forecasts
    assert found is not None
    return found


def entries(effects: ForecastEffects) -> Any:
    frame = effects.forecasts()
    assert set(frame["name"]) == set(effects.to_frame()["name"]) == {"sales"}
    return frame["time"][frame["variant"] == "unedited"]


def column(table: Any, name: str = "time") -> Any:
    return table[name]


def times(batch: Any, stack: str) -> Any:
    return batch.times(stack)


def reread(result: Any) -> Any:
    """What a file makes of a result."""
    path = Path("result.json")
    try:
        again: Any = interp.read(result.save(path))
        assert type(again) is type(result)
        return again
    finally:
        path.unlink(missing_ok=True)


TABLES: dict[str, tuple[range, Callable[[interp.Model, Any], Any]]] = {
    "TimeSeries.to_frame": (ALL, lambda _, s: column(TimeSeries(s).to_frame())),
    "TimeSeries.to_series": (ALL, lambda _, s: TimeSeries(s).to_series().index),
    "TimeSeries of a TimeSeries": (ALL, lambda _, s: TimeSeries(TimeSeries(s)).index),
    "TimeSeries, passed beside values": (ALL, lambda _, s: TimeSeries(s.to_numpy(), index=s.index).index),
    "TimeSeries.first": (CONTEXT, lambda _, s: TimeSeries(s).first(len(CONTEXT)).index),
    "TimeSeries.last": (FORECAST, lambda _, s: TimeSeries(s).last(AHEAD).index),
    "TimeSeries.shuffled": (ALL, lambda _, s: TimeSeries(s).shuffled().index),
    "a slice": (CONTEXT, lambda _, s: TimeSeries(s.iloc[:-AHEAD]).index),
    "a concatenation": (ALL, lambda _, s: TimeSeries(pd.concat([s.iloc[:9], s.iloc[9:]])).index),
    "replace": (ALL, lambda _, s: replace(TimeSeries(s), values=np.arange(STEPS)).index),
    "replace with a series": (ALL, lambda _, s: replace(TimeSeries(s), values=s * 2).index),
    "replace with another series": (
        CONTEXT,
        lambda _, s: replace(TimeSeries(s), values=s.iloc[:-AHEAD], index=None).index,
    ),
    "a file of a TimeSeries": (ALL, lambda _, s: reread(TimeSeries(s)).index),
    "series_batch": (CONTEXT, lambda m, s: times(probes.series_batch(m, s, num_decoder=AHEAD), "encoder")[:-1]),
    "series_batch, the decoder": (
        FORECAST,
        lambda m, s: times(probes.series_batch(m, s, num_decoder=AHEAD), "decoder")[1:],
    ),
    "attention_spectrum": (ALL, lambda m, s: spectrum(m, s).series.index),
    "AttentionSpectrum.context": (CONTEXT, lambda m, s: spectrum(m, s).context.index),
    "a file of an AttentionSpectrum": (ALL, lambda m, s: reread(spectrum(m, s)).series.index),
    "attention_patterns": (CONTEXT, lambda m, s: column(patterns(m, s).to_frame(), "key_time")[: len(CONTEXT)]),
    "attention_patterns, the query": (
        FORECAST,
        lambda m, s: column(patterns(m, s).to_frame(), "query_time").dropna().drop_duplicates(),
    ),
    "a file of AttentionPatterns": (CONTEXT, lambda m, s: reread(patterns(m, s)).key_times[:-1]),
    "attribution_by_position": (CONTEXT, lambda m, s: column(attributed(m, s).by_position())[:-1]),
    "AttributionByPosition.to_frame": (CONTEXT, lambda m, s: column(attributed(m, s).to_frame())[: len(CONTEXT)]),
    "a file of an AttributionByPosition": (CONTEXT, lambda m, s: reread(attributed(m, s)).times[:-1]),
    "forecast_effects": (FORECAST, lambda m, s: entries(effects(m, s))),
    "forecast_effects of a TimeSeries": (FORECAST, lambda m, s: entries(effects(m, TimeSeries(s)))),
    "forecast_effects of several": (FORECAST, lambda m, s: entries(effects(m, [s.iloc[7:], s]))[:AHEAD]),
    "a file of ForecastEffects": (FORECAST, lambda m, s: entries(reread(effects(m, s)))),
    "ablation_curve": (FORECAST, lambda m, s: entries(of_curve(m, s))),
}
"""By place, the steps that it shows and how to get at their times."""


def traces(figure: go.Figure, name: str) -> list[Any]:
    return [list(trace.x) for trace in figure.data if trace.name == name]


def heat(figure: go.Figure) -> Any:
    return [row[0] for row in figure.data[0].customdata[0]][: len(CONTEXT)]


AXES: dict[str, tuple[range, Callable[[interp.Model, Any], Any]]] = {
    "probes.plots.attention_spectrum": (
        CONTEXT,
        lambda m, s: traces(probes.plots.attention_spectrum(spectrum(m, s), heads="decoder.cross.0.0"), "attention")[0],
    ),
    "probes.plots.attention_spectrum, the decoder's part": (
        range(STEPS - AHEAD - 1, STEPS),
        lambda m, s: traces(probes.plots.attention_spectrum(spectrum(m, s)), "series, at the decoder")[0],
    ),
    "probes.plots.attention_spectrum, the prediction": (
        range(STEPS, STEPS + 1),
        lambda m, s: traces(probes.plots.attention_spectrum(spectrum(m, s)), "prediction")[0],
    ),
    "probes.plots.attention_over_series": (
        CONTEXT,
        lambda m, s: traces(probes.plots.attention_over_series(spectrum(m, s), 0), "attention")[0],
    ),
    "circuits.plots.attribution_by_position": (
        CONTEXT,
        lambda m, s: traces(circuits.plots.attribution_by_position(attributed(m, s)), "sum")[0],
    ),
    "circuits.plots.forecast_fan, the context": (
        CONTEXT,
        lambda m, s: traces(circuits.plots.forecast_fan(effects(m, s)), "context")[0],
    ),
    "circuits.plots.forecast_fan": (
        range(STEPS - AHEAD - 1, STEPS),
        lambda m, s: traces(circuits.plots.forecast_fan(effects(m, s)), "ablated")[0],
    ),
    "circuits.plots.forecast_fan of the shorter of two": (
        range(STEPS - AHEAD - 1, STEPS),
        lambda m, s: traces(circuits.plots.forecast_fan(effects(m, [s, s.iloc[9:]]), 1), "what came")[0],
    ),
}

IN_WORDS: dict[str, Callable[[interp.Model, Any], Any]] = {
    "probes.plots.attention": lambda m, s: heat(probes.plots.attention(patterns(m, s)))
}
"""Places where the times of the context stand in words."""

WITHOUT_STEPS = {
    "from_series": "tokens; series_batch knows the steps",
    "context_attention": "an array of many series",
    "value_matching": "an array of many series",
    "motif": "a pattern, which comes again and again",
    "probes.plots.second_spectrum": "periods",
    "circuits.plots.forecast_effects": "means over series",
}
"""What takes a series, or a result that holds one, and shows none of its steps."""


@pytest.mark.parametrize("place", TABLES)
def test_a_table_or_file_keeps_the_dates(
    place: str, case: Case, series: pd.Series, pico: interp.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    steps, times_of = TABLES[place]
    shown = pd.Index(times_of(pico, series))
    expected = case.index[list(steps)]
    assert len(shown) == len(expected)
    assert (shown == expected).all(), f"{shown[:3]} instead of {expected[:3]}"


@pytest.mark.parametrize("place", AXES)
def test_an_axis_shows_the_dates(place: str, case: Case, series: pd.Series, pico: interp.Model) -> None:
    steps, times_of = AXES[place]
    expected, shown = case.axis[list(steps)], times_of(pico, series)
    if isinstance(expected, pd.DatetimeIndex):
        assert all(isinstance(time, str) for time in shown)
        assert [pd.Timestamp(time) for time in shown] == list(expected)
    else:
        close(shown, expected)


@pytest.mark.parametrize("place", IN_WORDS)
def test_words_tell_the_dates(place: str, case: Case, series: pd.Series, pico: interp.Model) -> None:
    shown = IN_WORDS[place](pico, series)
    assert len(set(shown)) == len(CONTEXT)
    if isinstance(case.axis, pd.DatetimeIndex):
        days = pd.DatetimeIndex([pd.Timestamp(word) for word in shown])
        expected = case.axis[list(CONTEXT)]
        months = "-" not in shown[0]
        assert ((days.to_period("M") == expected.to_period("M")) if months else (days == expected)).all()
    else:
        close([float(word) for word in shown], case.axis[list(CONTEXT)], of=1e12)


def test_everything_that_takes_a_series_or_shows_one_is_held_here() -> None:
    """A new function, result or figure has to say where its dates are, or why it has none."""
    places = {name.split(",")[0].split(" of ")[0] for name in [*TABLES, *AXES, *IN_WORDS, *WITHOUT_STEPS]}
    assert not set(DOORS) - places
    results = Result._kinds.values()
    holders = {kind for kind in results if any(re.search(r"TimeSeries|Index\b", str(f.type)) for f in fields(kind))}
    assert holders == {TimeSeries, AttentionSpectrum, AttentionPatterns, AttributionByPosition, ForecastEffects}
    for package in (probes, circuits):
        for name in package.plots.__all__:
            first, *_ = inspect.signature(getattr(package.plots, name)).parameters.values()
            if any(re.search(rf"\b{kind.__name__}\b", str(first.annotation)) for kind in holders):
                assert f"{package.__name__}.plots.{name}" in places


def test_the_unit_of_the_spectra_is_that_of_the_dates(case: Case, series: pd.Series) -> None:
    timed = TimeSeries(series)
    assert timed.unit == case.unit
    close(timed.spacing * case.per_unit, 1, terms=1e12)


def test_the_axis_goes_on_before_and_after_the_series(case: Case) -> None:
    part = case.index[4:-3]
    assert list(index_at(TimeSeries(np.arange(len(part)), index=part).index, range(-4, len(part) + 3))) == list(
        case.index
    )


def test_the_report_pages_show_the_months_of_the_air_passengers(pico: interp.Model) -> None:
    series = example_series()["air passengers"].series
    assert [f"{s.index[-1]:%b %Y}" for s in series] == [f"Dec {year}" for year in range(1956, 1961)]
    assert all(f"{s.index[0]:%b %Y}" == "Jan 1949" for s in series)
    passengers = effects(pico, series)
    assert passengers.series_names == ("air passengers",) * 5
    assert circuits.plots.forecast_fan(passengers, 4).layout.xaxis.range[1] == "1961-01-01"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": pd.date_range("2020", periods=STEPS, freq="D")}, "the values have an index of their own"),
        ({"index": "2020"}, "give a pandas index"),
        ({"spacing": 1.0, "unit": "year"}, r"spacing=1 year: the steps of the index are 0\.083"),
        ({"unit": "day", "spacing": 1}, r"steps of the index are 30\.4"),
    ],
)
def test_dates_that_contradict_each_other_are_refused(change: dict[str, Any], message: str) -> None:
    series = pd.Series(np.arange(float(STEPS)), index=pd.date_range("2020-01-01", periods=STEPS, freq="MS"))
    with pytest.raises(interp.errors.InvalidInput, match=message) as caught:
        replace(TimeSeries(series), values=series, **change)
    assert len(str(caught.value)) <= 300


def test_a_unit_alone_has_the_steps_of_the_index() -> None:
    days = pd.Series(np.arange(9.0), index=pd.date_range("2024-01-01", periods=9))
    close(TimeSeries(days, unit="hour").spacing, 24)
    close(TimeSeries(days, unit="year").spacing, 1 / 365.2425)
    assert TimeSeries(days, unit="shift").spacing == 1
    assert (TimeSeries(days, 1 / 252, "year").spacing, TimeSeries(days, 3, "shift").spacing) == (1 / 252, 3)


def test_times_in_a_unit_count_where_there_are_no_dates(pico: interp.Model) -> None:
    waves = probes.multisine([2, 5], steps=STEPS)
    assert list(TABLES["forecast_effects"][1](pico, replace(waves, name="sales"))) == list(waves.times[-AHEAD:])
    close(AXES["circuits.plots.attribution_by_position"][1](pico, waves), waves.times[:-AHEAD])
    assert circuits.plots.forecast_fan(effects(pico, waves)).layout.xaxis.title.text == "time (s)"
    bare = np.sin(np.arange(STEPS))
    assert probes.series_batch(pico, bare).times("encoder") is None
    assert "time" not in attributed(pico, bare).by_position()
    with pytest.raises(interp.errors.InvalidInput, match="knows no times"):
        probes.plots.attention(patterns(pico, bare), ticks="times")


def test_words_are_empty_where_a_time_is_missing() -> None:
    months = pd.date_range("2020-01-01", periods=2, freq="MS")
    assert time_words(months.insert(0, pd.NaT)) == ["", "Jan 2020", "Feb 2020"]
    assert time_words(months[:0].insert(0, pd.NaT)) == [""]


def test_a_fan_goes_on_from_the_last_value_that_is_known(pico: interp.Model) -> None:
    index = pd.date_range("2020-01-01", periods=STEPS, freq="MS")
    values = 20 + 5 * np.sin(np.arange(STEPS) * 0.7)
    values[STEPS - AHEAD - 2 : STEPS - AHEAD] = np.nan
    figure = circuits.plots.forecast_fan(effects(pico, pd.Series(values, index=index)))
    came = next(trace for trace in figure.data if trace.name == "what came")
    assert list(came.x[:2]) == [f"{index[at]:%Y-%m-%d}" for at in (STEPS - AHEAD - 3, STEPS - AHEAD)]
    assert np.isfinite(np.asarray(came.y, dtype=float)).all()
