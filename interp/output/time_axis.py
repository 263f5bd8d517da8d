"""The time axis of a figure: dates in local time where they are known, numbers elsewhere.

Plotly knows no time zones. Days and longer stand at their local date. Hours and shorter steps stand at local time too,
unless the clocks are put forward or back between them: an hour would be missing or come twice, and the axis is in UTC.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from interp.inputs.dates import has_dates, index_at, time_unit
from interp.results.result import Floats


def axis_values(index: pd.Index, steps: Sequence[int]) -> list[str] | Floats:
    """Return where the steps of a series stand on an axis: dates as text, such as 1949-01-01, or numbers."""
    entries = index_at(index, steps)
    if isinstance(entries, pd.TimedeltaIndex):
        return np.asarray(entries / pd.Timedelta(1, "s"), dtype=np.float64) / _seconds(index)
    if not has_dates(entries):
        return entries.to_numpy(dtype=np.float64)
    dates = _local(entries, index)
    unit = next((u for u, name in (("D", "D"), ("m", "min"), ("s", "s")) if (dates == dates.floor(name)).all()), "ms")
    return np.datetime_as_string(dates.to_numpy(), unit=cast(Any, unit)).tolist()


def axis_layout(index: pd.Index) -> dict[str, Any]:
    """Return type, title and the format of hovering for the axis of an index, as flat paths of plotly's layout."""
    if not has_dates(index):
        unit = time_unit(index)[1]
        named = f"time ({unit})" if isinstance(index, pd.TimedeltaIndex) else str(index.name or "index")
        return {"type": "linear", "title.text": named, "hoverformat": ""}
    spacing, unit = time_unit(index)
    years = unit == "year" and abs(spacing - round(spacing)) < 1e-6
    months = unit == "year" and abs(12 * spacing - round(12 * spacing)) < 1e-6
    days = unit in ("year", "week") and not _clock(index)
    title = "year" if years else "date" if days else "time"
    form = "%Y" if years else "%b %Y" if months else "%a %d %b %Y" if days else "%d %b %Y %H:%M"
    zone = _zone(index)
    return {"type": "date", "title.text": f"{title} ({zone})" if zone else title, "hoverformat": form}


def _clock(index: pd.Index) -> bool:
    """Tell whether the time of the day differs between steps."""
    dates = _local(index, index)
    return bool(((dates - dates.normalize()) != (dates[0] - dates[0].normalize())).any())


def _seconds(index: pd.Index) -> float:
    return {"s": 1.0, "day": 86400.0, "week": 7 * 86400.0, "year": 365.2425 * 86400}[time_unit(index)[1]]


def _zone(index: pd.Index) -> str:
    """Return the name of the zone that an axis is in, if its dates have one."""
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
        return ""
    return "UTC" if _in_utc(index) else str(index.tz)


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
