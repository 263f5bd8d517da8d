"""The time axis of a figure: dates in local time where they are known, numbers elsewhere.

Plotly knows no time zones. Days and longer stand at their local date. Hours and shorter steps stand at local time too,
unless the clocks are put forward or back between them: an hour would be missing or come twice, and the axis is in UTC.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from interp.inputs.dates import SECONDS, has_dates, index_at, time_unit, zone_name
from interp.results.result import Floats

YEARS, MONTHS = "%Y", "%b %Y"
"""Formats of dates that are known by their year or month."""

CLOCKS = {"D": "", "m": " %H:%M", "s": " %H:%M:%S", "ms": " %H:%M:%S.%3f", "us": " %H:%M:%S.%6f"}
"""Plotly's formats of the time of the day, by NumPy's name of the unit that it is whole in."""


def axis_values(index: pd.Index, steps: Sequence[int]) -> list[str] | Floats:
    """Return where the steps of a series stand on an axis: dates as text, such as 1949-01-01, or numbers."""
    entries = index_at(index, steps)
    if isinstance(entries, pd.TimedeltaIndex):
        return np.asarray(entries / pd.Timedelta(1, "s"), dtype=np.float64) / SECONDS[time_unit(index)[1]]
    if not has_dates(entries):
        return entries.to_numpy(dtype=np.float64)
    dates = _local(entries, index)
    return np.datetime_as_string(dates.to_numpy(), unit=cast(Any, _precision(dates))).tolist()


def time_words(times: pd.Index) -> list[str]:
    """Return times in words: 1949, Jan 1949, 1949-01-01, 1949-01-01 06:00 or 0.25; nothing where one is missing."""
    known = times[times.notna()]
    if not len(known):
        return [""] * len(times)
    form = str(axis_layout(known)["hoverformat"])
    if form in (YEARS, MONTHS):
        known_words = iter(cast(Any, _local(known, known)).strftime(form))
    else:
        values = axis_values(known, range(len(known)))
        known_words = (value.replace("T", " ") if isinstance(value, str) else f"{value:.4g}" for value in values)
    return ["" if missing else next(known_words) for missing in times.isna()]


def axis_layout(index: pd.Index) -> dict[str, Any]:
    """Return type, title and the format of hovering for the axis of an index, as flat paths of plotly's layout."""
    if not has_dates(index):
        unit = time_unit(index)[1]
        named = "index" if index.name is None else str(index.name)
        title = f"time ({unit})" if isinstance(index, pd.TimedeltaIndex) or named == "s" else named
        return {"type": "linear", "title.text": title, "hoverformat": ""}
    spacing, unit = time_unit(index)
    years = unit == "year" and abs(spacing - round(spacing)) < 1e-6
    months = unit == "year" and abs(12 * spacing - round(12 * spacing)) < 1e-6
    days = unit in ("year", "week") and not _clock(index)
    title = "year" if years else "date" if days else "time"
    clock = CLOCKS[_precision(_local(index, index))]
    form = YEARS if years else MONTHS if months else "%a %d %b %Y" if days else f"%d %b %Y{clock}"
    zone = _zone(index)
    return {"type": "date", "title.text": f"{title} ({zone})" if zone else title, "hoverformat": form}


def _clock(index: pd.Index) -> bool:
    """Tell whether the time of the day differs between steps."""
    dates = _local(index, index)
    return bool(((dates - dates.normalize()) != (dates[0] - dates[0].normalize())).any())


def _precision(dates: pd.DatetimeIndex) -> str:
    """Return the coarsest unit that dates are whole in, by NumPy's name: days, minutes, seconds and so on."""
    units = (("D", "D"), ("m", "min"), ("s", "s"), ("ms", "ms"))
    return next((unit for unit, name in units if (dates == dates.floor(name)).all()), "us")


def _zone(index: pd.Index) -> str | None:
    """Return the name of the zone that an axis is in, if its dates have one."""
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
        return None
    return "UTC" if _in_utc(index) else zone_name(index)


def _in_utc(index: pd.DatetimeIndex) -> bool:
    """Tell whether hours would come twice or be missing in local time."""
    local = index.tz_localize(None)
    if time_unit(index)[1] not in ("s", "day") or len(index) < 2:
        return False
    return bool((local - local[0] != index - index[0]).any())


def _local(entries: Any, index: Any) -> pd.DatetimeIndex:
    """Return entries that belong to an index as dates without a zone."""
    if isinstance(entries, pd.PeriodIndex):
        return entries.to_timestamp()
    if entries.tz is None:
        return entries
    return entries.tz_convert(None) if _in_utc(index) else entries.tz_localize(None)
