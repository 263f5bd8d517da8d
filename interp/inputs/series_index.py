"""What the index of a pandas series says of its steps: in order, each once, and evenly spaced, or refused.

1. An index is of dates, periods, durations or numbers; anything else says nothing of time.
2. Nothing is missing, nothing comes twice, and the oldest comes first.
3. Steps are even: of one length, within 1 % for rounded times; or of whole days, business days, months, quarters or
   years by the calendar. Trading hours are not even: nights are missing.
"""

from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.frequencies import to_offset

from interp.errors import InvalidInput

ROUNDING = 0.01
"""How far a time may lie from an even axis, in steps: times are rounded."""

CALENDAR = {
    *("D", "W", "B", "C", "SME", "SMS", "ME", "MS", "BME", "BMS", "CBME", "CBMS", "WOM", "LWOM"),
    *("QE", "QS", "BQE", "BQS", "YE", "YS", "BYE", "BYS"),
}
"""Pandas' names of calendar frequencies, without what they are anchored to."""


def check_index(index: pd.Index) -> None:
    """Check that an index is in order, without repeats, and evenly spaced.

    Raises:
        InvalidInput: it is not, or it is of something that has no order in time, such as text or several levels.
    """
    if isinstance(index, pd.MultiIndex):
        raise InvalidInput(
            f"the index of a series must have one level: it has {index.nlevels}, which hold several series or say more "
            "than the time. Take one series by series.xs(...), or drop a level by series.droplevel(...)."
        )
    index = known_index(index)
    if index.hasnans:
        raise InvalidInput(
            f"the index of a series must be whole: {int(index.isna().sum())} of its {len(index)} entries are missing "
            "(NaT or NaN). Leave these steps out, series[series.index.notna()], or fill the index in."
        )
    if not index.is_unique:
        raise InvalidInput(
            f"the index of a series must hold each step once: {entry_text(index[index.duplicated()][0])} comes twice. "
            "Of several series pass a list, one each; of repeats keep one, as series.groupby(level=0).last() does."
        )
    if not index.is_monotonic_increasing:
        order = "newest first" if index.is_monotonic_decreasing else "out of order"
        raise InvalidInput(
            f"a series must begin with its oldest step: its index is {order}, from {entry_text(index[0])} to "
            f"{entry_text(index[-1])}. Sort it by series.sort_index()."
        )
    if len(index) > 2 and not _even(index):
        raise InvalidInput(_uneven(index))


def frequency(index: pd.Index) -> str | None:
    """Return pandas' name of an index' frequency, such as `MS`; None where it has no name."""
    if isinstance(index, pd.PeriodIndex):
        return str(index.freqstr)
    if not isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex):
        return None
    if index.freq is not None:
        return str(index.freqstr)
    inferred: Any = pd.infer_freq(index) if len(index) > 2 else None
    return getattr(inferred, "freqstr", inferred)  # later releases of pandas return an offset


def known_index(index: pd.Index) -> pd.Index:
    """Return the index as one of dates, periods, durations or numbers."""
    if index.dtype == object:
        index = index.infer_objects()
    if isinstance(index.dtype, pd.ArrowDtype) and index.dtype.kind in "Mm":
        index = pd.Index(index.array.astype(object))  # pandas' own dates and durations
    if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex | pd.PeriodIndex):
        return index
    kind = getattr(index.dtype, "kind", "O")
    if pd.api.types.is_numeric_dtype(index.dtype) and kind in "iuf":
        return index
    what = "text" if index.inferred_type == "string" else index.inferred_type
    first = f", as {index[0]!r:.40}" if len(index) else ""
    raise InvalidInput(
        f"the index of a series must be dates, periods, durations or numbers: it is {what}{first}. Make dates of it, "
        "series.index = pd.to_datetime(series.index); or drop it, series.reset_index(drop=True), if it is no time."
    )


def _even(index: pd.Index) -> bool:
    if isinstance(index, pd.RangeIndex):
        return True
    if isinstance(index, pd.PeriodIndex):
        return _same(np.diff(index.astype("int64").to_numpy())) or _daily_or_monthly(index.to_timestamp())
    if isinstance(index, pd.DatetimeIndex):
        return _spaced(index.asi8) or _daily_or_monthly(index)
    if isinstance(index, pd.TimedeltaIndex):
        return _spaced(index.asi8)
    return _spaced(index.to_numpy(dtype={"f": np.float64, "i": np.int64, "u": np.uint64}[index.dtype.kind]))


def _same(steps: NDArray[Any]) -> bool:
    return bool((steps == steps[0]).all())


def _spaced(places: NDArray[Any]) -> bool:
    """Tell whether places are evenly spaced; times that were rounded may lie a little off."""
    steps = np.diff(places)
    if _same(steps):
        return True
    away = (places - places[0]).astype(np.float64)
    off = np.abs(away - np.linspace(0, away[-1], len(away))).max()
    return bool(off <= ROUNDING * away[-1] / (len(away) - 1))


def _daily_or_monthly(dates: pd.DatetimeIndex) -> bool:
    """Tell whether dates are even by the calendar, in local time: days, business days, months, quarters or years."""
    if dates.freq is not None:
        return not isinstance(dates.freq, pd.offsets.BusinessHour)
    local = dates.tz_localize(None)
    steps = np.diff(local.to_numpy())
    if _same(steps) and steps[0] % np.timedelta64(1, "D") == np.timedelta64(0):
        return True  # days that daylight saving makes longer or shorter
    inferred = _base(frequency(local) or "")
    if inferred == "B":
        return True
    if not _same(np.diff(local.year * 12 + local.month)) or (local - local.normalize()).nunique() > 1:
        return False
    # The same day of each month, or its last where there is no such day; or its first, last or n-th business day.
    day = local.day.to_numpy()
    return bool((day == np.minimum(day.max(), local.days_in_month)).all()) or inferred in CALENDAR


def _base(name: str) -> str:
    return name.split("-")[0].lstrip("0123456789")


def _uneven(index: pd.Index) -> str:
    """Say where an index is uneven, and what to do."""
    place = _stamps(index)
    steps = np.diff(place)
    usual = np.sort(steps)[(len(steps) - 1) // 2]
    at = int(np.argmax(np.abs(steps - usual)))
    where = f"after {entry_text(index[at])} comes {entry_text(index[at + 1])}, and most steps are of {_length(usual)}"
    return (
        f"a series must be evenly spaced: {where}. {_filled(index, steps)} If only the order counts, as of trading "
        "hours, drop the index: series.reset_index(drop=True)."
    )


def _filled(index: pd.Index, steps: NDArray[Any]) -> str:
    """Say how to put NaN where steps are missing."""
    least = steps.min()
    if isinstance(index, pd.PeriodIndex):
        return "Fill gaps with NaN: series.reindex(pd.period_range(series.index[0], series.index[-1]))."
    if steps.dtype.kind != "m":
        # Numbers such as 202012, 202101 are no axis that could be filled.
        if steps.dtype.kind in "iu" and bool((steps % least == 0).all()) and steps.sum() <= 10 * least * len(steps):
            return f"Fill gaps with NaN: series.reindex(range({index[0]}, {index[-1]} + 1, {least}))."
        return "Put it on an even axis first, or make dates of it by pd.to_datetime(index, ...)."
    name, day = None, np.timedelta64(1, "D")
    if isinstance(index, pd.DatetimeIndex) and least >= 28 * day:
        name = "MS" if index.is_month_start.all() else "ME" if index.is_month_end.all() else None
    elif isinstance(index, pd.DatetimeIndex) and least == day and (index.day_of_week < 5).all():
        name = "B"
    elif bool((steps % least == np.timedelta64(0)).all()) and least % day == np.timedelta64(0):
        name = f"{least // day}D"
    elif bool((steps % least == np.timedelta64(0)).all()):
        name = to_offset(cast(Any, pd.Timedelta(least))).freqstr
    if name is None:
        return "Put it on an even axis first, as series.resample(...).mean() does."
    call = f"asfreq({name!r})" if isinstance(index, pd.DatetimeIndex) else f"resample({name!r}).asfreq()"
    return f"Fill gaps with NaN: series.{call}."


def _stamps(index: pd.Index) -> NDArray[Any]:
    if isinstance(index, pd.PeriodIndex):
        return index.to_timestamp().to_numpy()
    if isinstance(index, pd.DatetimeIndex) and index.tz is not None:
        local = index.tz_localize(None)
        # Days and longer in local time; hours in absolute time, where none comes twice or is left out.
        return (local if (local - local.normalize()).nunique() == 1 else index.tz_convert(None)).to_numpy()
    return index.to_numpy()


def _length(step: Any) -> str:
    return entry_text(pd.Timedelta(step)).removeprefix("0 days ") if isinstance(step, np.timedelta64) else f"{step:g}"


def entry_text(entry: Any) -> str:
    """Format a date, without a time that is midnight; numbers stay as they are."""
    if isinstance(entry, pd.Timestamp) and entry == entry.normalize():
        return f"{entry:%Y-%m-%d}"
    return f"{entry}".removesuffix(" 00:00:00")[:40]
