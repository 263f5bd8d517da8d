"""The index of a series: in order, each once, even by the clock or the calendar; and what a refusal advises."""

import datetime
import re
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from interp.errors import InvalidInput
from interp.inputs.series_index import check_index, frequency
from interp.inputs.user_series import read_series

dates = pd.date_range
_hours = dates("2024-01-01", "2024-01-19", freq="h")
TRADING = _hours[(_hours.hour >= 9) & (_hours.hour < 17) & (_hours.day_of_week < 5)]

CALENDAR = ["D", "W", "2W", "B", "MS", "ME", "2MS", "QS-FEB", "QE", "YS", "YE", "BMS", "BME", "BQE", "BYE", "WOM-3FRI"]

EVEN: dict[str, pd.Index] = {
    **{name: dates("2020-01-01", periods=24, freq=name) for name in [*CALENDAR, "h", "15min", "36h", "SMS"]},
    "every 15th": dates("2020-01-01", periods=24, freq="MS") + pd.Timedelta("14D"),
    "every 30th, or the end of February": pd.DatetimeIndex(
        [
            month.start_time + pd.Timedelta(days=min(30, month.days_in_month) - 1)
            for month in pd.period_range("2019", periods=24, freq="M")
        ]
    ),
    "a custom calendar": dates("2020-01-01", periods=24, freq=pd.offsets.CDay(holidays=["2020-01-06"])),
    "days across daylight saving": dates("2024-03-25", periods=12, tz="Europe/Berlin"),
    "hours across daylight saving": dates("2024-10-26", periods=72, freq="h", tz="Europe/Berlin"),
    "business days across daylight saving": dates("2024-03-01", periods=30, freq="B", tz="Europe/Berlin"),
    "months in local time": dates("2024-01-01", periods=12, freq="MS", tz="America/New_York"),
    "24 hours across daylight saving": dates("2024-03-25", periods=12, freq="24h", tz="UTC").tz_convert(
        "Europe/Berlin"
    ),
    "301 steps of a day": dates("2020-01-01", "2020-01-02", periods=301),
    "1001 steps of two centuries": dates("1900-01-01", "2100-01-01", periods=1001),
    "years before pandas' nanoseconds": dates("1500-01-01", periods=20, freq="YS", unit="s"),
    **{
        f"periods {name}": pd.period_range("2020-01-01", periods=24, freq=name)
        for name in ["D", "W", "M", "Q", "Y", "h", "3M"]
    },
    "periods of business days": pd.PeriodIndex(dates("2024-01-01", periods=24, freq="B"), freq="D"),
    "durations": pd.timedelta_range("0h", periods=9, freq="h"),
    "rows": pd.RangeIndex(9),
    "every fifth row": pd.RangeIndex(5, 50, 5),
    "years": pd.Index([2019, 2020, 2021]),
    "every fourth year": pd.Index([2000, 2004, 2008]),
    "seconds": pd.Index(np.arange(0, 3, 0.01)),
    "rounded seconds": pd.Index(np.round(np.arange(301) * 3 / 301, 4)),
    "rounded years": pd.Index(np.round(1958 + np.arange(100) / 12, 3)),
    "single precision": pd.Index(np.arange(0, 3, 0.01, dtype=np.float32)),
    "nullable": pd.Index([1, 2, 3], dtype="Int64"),
    "unsigned": pd.Index([0, 100, 200], dtype="uint8"),
    "8 bits": pd.Index([-120, 0, 120], dtype="int8"),
    "Arrow's integers": pd.Index([1, 2, 3], dtype="int64[pyarrow]"),
    "Arrow's dates": pd.Index(dates("2020", periods=5).astype(pd.ArrowDtype(pa.timestamp("ns", tz="UTC")))),
    "objects": pd.Index([1, 2, 3], dtype=object),
    "dates as objects": pd.Index(list(dates("2020", periods=4)), dtype=object),
    "one": dates("2020", periods=1),
    "two": pd.DatetimeIndex(["2020-01-01", "2020-01-05"]),
}

UNEVEN: dict[str, pd.Index] = {
    **{
        f"{name} with a gap": dates("2020-01-01", periods=24, freq=name).delete(7) for name in [*CALENDAR, "h", "15min"]
    },
    "trading hours": TRADING,
    "declared trading hours": dates("2024-01-01", periods=30, freq="bh"),
    "periods of trading hours": pd.PeriodIndex(TRADING, freq="h"),
    "third Fridays with a gap": pd.DatetimeIndex(["2020-01-17", "2020-02-21", "2020-05-15", "2020-06-19"]),
    "Mondays, Wednesdays and Fridays": pd.DatetimeIndex(["2024-01-01", "2024-01-03", "2024-01-05", "2024-01-08"]),
    "a late hour": pd.DatetimeIndex(["2020-01-01 00:00", "2020-01-01 01:00", "2020-01-01 02:05", "2020-01-01 03:00"]),
    "any day of a month": pd.DatetimeIndex(["2020-01-03", "2020-02-28", "2020-03-01", "2020-04-15"]),
    "days, then months": dates("2020", periods=5).append(dates("2020-02-01", periods=5, freq="MS")),
    "local hours without their zone": dates("2024-03-30", periods=72, freq="h", tz="Europe/Berlin").tz_localize(None),
    "a gap in local days": dates("2024-03-25", periods=12, tz="Europe/Berlin").delete(4),
    "a gap in local hours": dates("2024-10-26", periods=72, freq="h", tz="Europe/Berlin").delete(9),
    "periods with a gap": pd.period_range("2020", periods=24, freq="M").delete(3),
    "durations with a gap": pd.timedelta_range("0h", periods=9, freq="h").delete(4),
    "years with a gap": pd.Index([2019, 2020, 2022]),
    "months as numbers": pd.Index([202011, 202012, 202101, 202102]),
    "seconds with a gap": pd.Index([0.0, 0.1, 0.2, 0.4]),
    "rows of a filter": pd.Index([0, 1, 2, 10, 11, 12]),
    "unsigned with a gap": pd.Index([0, 100, 250], dtype="uint8"),
    "8 bits with a gap": pd.Index([-120, 0, 100], dtype="int8"),
}

REFUSED: dict[str, tuple[pd.Index, str]] = {
    "twice": (dates("2020", periods=5).repeat(2), "each step once: 2020-01-01 comes twice"),
    "two stations": (dates("2020", periods=5).append(dates("2020", periods=5)), "comes twice"),
    "the hour that daylight saving repeats": (
        dates("2024-10-26", periods=72, freq="h", tz="Europe/Berlin").tz_localize(None),
        "2024-10-27 02:00:00 comes twice",
    ),
    "NaT": (dates("2020", periods=5).insert(2, pd.NaT), "1 of its 6 entries are missing"),
    "NaT of periods": (pd.period_range("2020", periods=5, freq="M").insert(2, pd.NaT), "are missing"),
    "NaN": (pd.Index([0.0, np.nan, 2.0]), "are missing"),
    "NA": (pd.Index([1, None, 3], dtype="Int64"), "are missing"),
    "out of order": (dates("2020", periods=5)[[1, 0, 2, 3, 4]], "out of order"),
    "unsigned, newest first": (pd.Index([3, 2, 1], dtype="uint64"), "newest first, from 3 to 1"),
    "rows, newest first": (pd.RangeIndex(9, 0, -1), "newest first"),
    "dates as text": (pd.Index(["2020-01-01", "2020-01-02"]), r"it is text, as '2020-01-01'. .* pd.to_datetime"),
    "Arrow's text": (pd.Index(["a", "b"], dtype="string[pyarrow]"), "it is text"),
    "Python's dates": (pd.Index([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]), "it is date"),
    "mixed": (pd.Index([1, "a"]), "it is mixed"),
    "categories": (pd.CategoricalIndex([1, 2, 3]), "it is categorical"),
    "intervals": (pd.Index(pd.interval_range(0, 3)), "it is interval"),
    "booleans": (pd.Index([False, True]), "it is boolean"),
    "complex": (pd.Index([1j, 2j]), "it is complex"),
    "stations and steps": (pd.MultiIndex.from_product([["a", "b"], [1, 2]]), "it has 2"),
    "one station and steps": (pd.MultiIndex.from_product([["a"], [1, 2]]), "it has 2"),
}


@pytest.mark.parametrize("name", EVEN)
def test_what_is_even(name: str) -> None:
    check_index(EVEN[name])
    if name not in ("SMS", "a custom calendar"):
        plain = EVEN[name].copy()
        if isinstance(plain, pd.DatetimeIndex | pd.TimedeltaIndex):
            plain.freq = None  # as a file's dates, that declare nothing
        check_index(plain)


@pytest.mark.parametrize("name", UNEVEN)
def test_what_is_not_even(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"must be evenly spaced: after .* comes ") as caught:
        check_index(UNEVEN[name])
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    index, message = REFUSED[name]
    with pytest.raises(InvalidInput, match=message) as caught:
        check_index(index)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("name", EVEN)
def test_newest_first_is_refused(name: str) -> None:
    index = EVEN[name]
    if len(index) > 1:
        with pytest.raises(InvalidInput, match="newest first"):
            check_index(index[::-1])


@given(data=st.data(), name=st.sampled_from(sorted(EVEN.keys() - {"a custom calendar", "SMS"})))
def test_any_other_order_is_refused(data: st.DataObject, name: str) -> None:
    index = EVEN[name]
    order = data.draw(st.permutations(range(len(index))))
    assume(order != list(range(len(index))))
    series = pd.Series(np.arange(float(len(index))), index=index)
    with pytest.raises(InvalidInput, match=r"newest first|out of order"):
        read_series(series.iloc[order])
    np.testing.assert_array_equal(read_series(series.iloc[order].sort_index()).values, read_series(series).values)


@given(data=st.data(), name=st.sampled_from([*CALENDAR, "h", "15min"]), length=st.integers(6, 60))
def test_any_gap_is_refused(data: st.DataObject, name: str, length: int) -> None:
    index = dates("2021-02-03", periods=length, freq=name)
    at = data.draw(st.integers(2, length - 3))
    check_index(index)
    with pytest.raises(InvalidInput, match="evenly spaced"):
        check_index(index.delete(at))


ADVICE = re.compile(
    r"series\.(?:asfreq|resample|reindex|sort_index|groupby|reset_index|droplevel)\((?:[^()]|\((?:[^()]|\[.*?\])*\))*\)(?:\.(?:last|asfreq)\(\))?"
)


def advised(index: pd.Index) -> tuple[pd.Series, list[Any]]:
    """A series with an index, and what the calls that its refusal names make of it."""
    series = pd.Series(np.arange(float(len(index))), index=index)
    with pytest.raises(InvalidInput) as caught:
        read_series(series)
    calls = ADVICE.findall(str(caught.value))
    return series, [eval(call, {"series": series, "pd": pd, "range": range}) for call in calls if "..." not in call]


@pytest.mark.parametrize("name", UNEVEN)
def test_what_a_refusal_of_gaps_advises_works(name: str) -> None:
    series, results = advised(UNEVEN[name])
    assert results
    for result in results:
        values = read_series(result).values[0]
        np.testing.assert_array_equal(values[~np.isnan(values)], series)
    filled = (
        name.endswith("with a gap")
        and "Fridays" not in name
        and not name.startswith(("BM", "BQ", "BY", "WOM", "seconds", "unsigned", "8 bits", "QS"))
    )
    assert (len(results) == 2) >= filled


@pytest.mark.parametrize("name", ["twice", "out of order", "unsigned, newest first", "rows, newest first"])
def test_what_a_refusal_of_order_advises_works(name: str) -> None:
    _, results = advised(REFUSED[name][0])
    assert results
    for result in results:
        read_series(result)


def test_dates_as_text_become_dates_as_advised() -> None:
    series = pd.Series([1.0, 2.0], index=REFUSED["dates as text"][0])
    series.index = pd.to_datetime(series.index)
    assert read_series(series).frequencies == (None,)


def test_frequencies_keep_pandas_names() -> None:
    assert frequency(EVEN["MS"]) == "MS"
    assert frequency(pd.DatetimeIndex(list(EVEN["B"]))) == "B"
    assert frequency(EVEN["periods M"]) == "M"
    assert frequency(EVEN["durations"]) == "h"
    assert frequency(EVEN["every 15th"]) is None
    assert frequency(EVEN["rows"]) is None
    assert frequency(EVEN["one"]) in (None, "D")


def test_the_check_is_quick() -> None:
    """A million dates take milliseconds; calendar ones of a daily century no more."""
    index = dates("2000", periods=1_000_000, freq="min")
    index.freq = None
    check_index(index)
    check_index(pd.RangeIndex(10**12))
