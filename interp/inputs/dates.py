"""Dates of a series' steps: those before and after it, the unit of time that fits them, and their form in files.

1. Steps by the calendar (days, business days, months, quarters, years) go on by the calendar, in local time.
2. Steps of one length (hours, minutes, 30 days) go on in absolute time: across daylight saving, an hour stays an hour.
3. Numbers and durations go on by their mean step.
"""

import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

from interp.errors import InvalidInput
from interp.inputs.series_index import CALENDAR, entry_text, frequency, known_index

YEAR, WEEK, DAY, MINUTE = 365.2425 * 86400, 7 * 86400, 86400, 60
"""Lengths in seconds; a year is the calendar's mean year."""

SECONDS = {"s": 1, "minute": MINUTE, "hour": 3600, "day": DAY, "week": WEEK, "month": YEAR / 12, "year": YEAR}
"""Lengths of the units of time that are known, in seconds."""

HALF_MONTHS = ("SME", "SMS")
BUSINESS_DAYS = ("B", "C")


def own_index(index: pd.Index | None) -> pd.Index | None:
    """Return an index as one of dates, periods, durations or numbers; None for the row numbers that pandas counts."""
    if index is None or (isinstance(index, pd.RangeIndex) and (index.start, index.step, index.name) == (0, 1, None)):
        return None
    return known_index(index).copy()


def chosen_index(values: pd.Index | None, index: Any) -> pd.Index | None:
    """Return the index of values: that of their own, or the one that is passed beside them.

    Raises:
        InvalidInput: something else than an index, or both, which differ.
    """
    own = own_index(values)
    if index is None:
        return own
    if not isinstance(index, pd.Index):
        raise InvalidInput(f"index={index!r:.60}: give a pandas index, as pd.date_range(...), or none.")
    if own is not None and not (len(own) == len(index) and bool((own == index).all())):
        first, other = (f"{entry_text(i[0])} to {entry_text(i[-1])}" if len(i) else "nothing" for i in (own, index))
        raise InvalidInput(
            f"index is {other}, and the values have an index of their own, {first}: pass index=None to take theirs, or "
            "the values without it, series.to_numpy()."
        )
    return own_index(index)


def has_dates(index: pd.Index | None) -> bool:
    """Tell whether an index holds dates or periods."""
    return isinstance(index, pd.DatetimeIndex | pd.PeriodIndex)


def index_at(index: pd.Index, steps: Sequence[int]) -> pd.Index:
    """Return the entries of an even index at steps, 0 being its first; steps before and after it continue it.

    Args:
        index: as `check_index` passes it. One entry alone has no step: the next one is a day or 1 away, or a period.
    """
    wanted = np.asarray(steps, dtype=np.int64)
    before, after = max(0, -int(wanted.min(initial=0))), max(0, int(wanted.max(initial=0)) - len(index) + 1)
    return _continued(index, before, after)[wanted + before]


def time_unit(index: pd.Index) -> tuple[float, str]:
    """Return the length of a step and its unit, in which the usual periods are whole numbers of cycles.

    Returns:
        Steps under a minute in seconds, under a day in days, under a week in weeks (business days are a fifth of a
        week), and longer ones in years. Numbers have the unit that is their index' name, and count in steps without.
    """
    if not isinstance(index, pd.DatetimeIndex | pd.PeriodIndex | pd.TimedeltaIndex):
        places = _numbers(index).astype(np.float64)
        if index.name is None or len(index) < 2:
            return 1.0, "step"
        return float((places[-1] - places[0]) / (len(places) - 1)), str(index.name)
    dates = index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index
    seconds = _seconds(dates)
    base = _base(dates if _base(index) == "D" else index)
    if isinstance(dates, pd.DatetimeIndex):
        if base in HALF_MONTHS:
            return 1 / 24, "year"
        if base in BUSINESS_DAYS:
            return 1 / 5, "week"
        if (months := _months(dates)) is not None:
            return months / 12, "year"
        if abs(seconds - round(seconds / DAY) * DAY) < 0.05 * DAY and seconds > 0.9 * DAY:
            seconds = round(seconds / DAY) * DAY  # days in local time, of 23 to 25 hours
    longest = [(MINUTE, 1, "s"), (DAY, DAY, "day"), (WEEK, WEEK, "week"), (np.inf, YEAR, "year")]
    length, unit = next((length, unit) for end, length, unit in longest if seconds < end)
    return seconds / length, unit


def fitting_unit(index: pd.Index, spacing: float | None, unit: str | None) -> tuple[float | None, str | None]:
    """Return the length of a step and its unit, those that are passed or else the index' own.

    Raises:
        InvalidInput: a step that is half as long again as the index says, or more; or so much shorter.
    """
    length, own = time_unit(index)
    if unit is None and spacing is None:
        return length, own
    same = unit == own
    if not same and (unit not in SECONDS or own not in SECONDS):
        return spacing, unit
    expected = length if same else length * SECONDS[own] / SECONDS[str(unit)]
    if spacing is not None and not 2 / 3 < float(spacing) / expected < 3 / 2:
        raise InvalidInput(
            f"spacing={spacing:.4g} {unit}: the steps of the index are {expected:.4g} {unit} long. Leave spacing out, "
            "or give the length that fits."
        )
    return expected if spacing is None else spacing, unit


def season(index: pd.Index | None) -> int:
    """Return the steps of the usual season: 24 hours, 7 days, 5 business days, 52 weeks, 12 months, 4 quarters.

    1 where there is no index, no date, or no such season.
    """
    if index is None or not has_dates(index):
        return 1
    spacing, unit = time_unit(index)
    steps = round(1 / spacing)
    # A week more or less in a year does not matter; steps that do not fit a period have no season.
    return steps if unit != "s" and steps > 1 and abs(steps * spacing - 1) < 0.01 else 1


def index_to_plain(index: pd.Index) -> dict[str, Any]:
    """Return what JSON can hold of an index, whose entries may be missing: dates as text, with zone and frequency."""
    index = known_index(index)
    plain: dict[str, Any] = {"name": None if index.name is None else str(index.name), "frequency": None}
    if isinstance(index, pd.PeriodIndex):
        entries = index.astype("int64").tolist()
        return {"index": entries, "of": "periods", **plain, "frequency": index.freqstr}
    if isinstance(index, pd.DatetimeIndex):
        declared = None if index.freq is None else index.freqstr
        entries = [entry.isoformat() for entry in index]
        axis = {"frequency": declared, "unit": index.unit, "zone": zone_name(index), "calendar": _calendar(index.freq)}
        return {"index": entries, "of": "dates", **plain, **axis}
    if isinstance(index, pd.TimedeltaIndex):
        return {"index": index.asi8.tolist(), "of": "durations", **plain, "unit": index.unit}
    entries = [None if missing else entry for entry, missing in zip(index.tolist(), index.isna(), strict=True)]
    return {"index": entries, "of": "numbers", **plain, "unit": str(index.dtype)}


def index_of_plain(plain: dict[str, Any]) -> pd.Index:
    """Return the index that `index_to_plain` was given.

    Raises:
        KeyError, TypeError, ValueError: something else.
    """
    entries, name, declared = plain["index"], plain["name"], plain["frequency"]
    if plain["of"] == "periods":
        return pd.PeriodIndex.from_ordinals(entries, freq=declared, name=name)
    if plain["of"] == "durations":
        return pd.TimedeltaIndex(np.array(entries, dtype=f"m8[{plain['unit']}]"), name=name)
    if plain["of"] == "numbers":
        return pd.Index(entries, dtype=plain["unit"], name=name)
    if plain["zone"] is None:
        index = pd.DatetimeIndex(np.array(entries, dtype=f"M8[{plain['unit']}]"), name=name)
    else:
        index = pd.DatetimeIndex(pd.to_datetime(entries, utc=True, format="ISO8601"), name=name)
        index = index.as_unit(plain["unit"]).tz_convert(plain["zone"])
    try:
        offset = None if declared is None else to_offset(declared)
        if offset is not None and (calendar := plain.get("calendar")):
            offset = type(offset)(offset.n, **calendar)
        return index if offset is None else pd.DatetimeIndex(index, freq=offset)
    except ValueError:
        return index  # a frequency that its name does not tell, as of pd.DateOffset(months=1)


def _continued(index: pd.Index, before: int, after: int) -> pd.Index:
    """Return an index with so many entries more at both ends."""
    if not before and not after:
        return index
    if isinstance(index, pd.PeriodIndex):
        return _continued_periods(index, before, after)
    if isinstance(index, pd.DatetimeIndex):
        return _continued_dates(index, before, after)
    places = index.asi8 if isinstance(index, pd.TimedeltaIndex) else _numbers(index)
    ahead = _linear(places, before, after)
    if isinstance(index, pd.TimedeltaIndex):
        return pd.TimedeltaIndex(ahead.view(f"m8[{index.unit}]"), name=index.name)
    return pd.Index(ahead, name=index.name)


def _continued_periods(index: pd.PeriodIndex, before: int, after: int) -> pd.Index:
    ordinals = index.astype("int64").to_numpy()
    steps = np.diff(ordinals)
    if len(steps) and not (steps == steps[0]).all():  # business days as periods of a day
        return _continued_dates(index.to_timestamp(), before, after).to_period(index.freq)
    step = int(steps[0]) if len(steps) else getattr(index.freq, "n", 1)
    ahead = ordinals[0] + step * np.arange(-before, len(index) + after)
    return pd.PeriodIndex.from_ordinals(ahead, freq=index.freq, name=index.name)


def _continued_dates(index: pd.DatetimeIndex, before: int, after: int) -> pd.DatetimeIndex:
    if len(index) < 2 and index.freq is None:
        index = pd.DatetimeIndex(index, freq="D")
    # Beyond the years of nanoseconds, and in them where they are needed.
    fine = index.unit == "ns" and bool((index.asi8 % 1000).any())
    index = index if fine else index.as_unit("us")
    local, offset = index.tz_localize(None), _calendar_offset(index)
    if offset is not None:
        earlier = pd.date_range(end=local[0], periods=before + 1, freq=offset, unit=index.unit)[:-1]
        later = pd.date_range(start=local[-1], periods=after + 1, freq=offset, unit=index.unit)[1:]
    elif (months := _months(index)) is not None:
        first, at = local[0].to_period("M"), np.arange(-before, len(index) + after) * months
        day = int(local.day.to_numpy().max())
        starts = pd.PeriodIndex([first + int(k) for k in at]).to_timestamp().as_unit(index.unit)
        days = np.minimum(day, starts.days_in_month) - 1
        ahead = starts + pd.to_timedelta(days, unit="D") + (local[0] - local[0].normalize())
        earlier, later = ahead[:before], ahead[before + len(index) :]
    else:
        ahead = pd.DatetimeIndex(_linear(index.asi8, before, after).view(f"M8[{index.unit}]"), tz="UTC")
        ahead = ahead.tz_convert(index.tz) if index.tz is not None else ahead.tz_localize(None)
        return cast(pd.DatetimeIndex, ahead[:before].append([index, ahead[before + len(index) :]]))
    if index.tz is not None:
        # A local time that the clocks leave out is the next one, and of one that comes twice the first is meant.
        how: Any = {"nonexistent": "shift_forward"}
        earlier, later = (
            part.tz_localize(index.tz, ambiguous=cast(Any, np.ones(len(part), dtype=bool)), **how)
            for part in (earlier, later)
        )
    return cast(pd.DatetimeIndex, earlier.append([index, later]))


def _numbers(index: pd.Index) -> Any:
    return index.to_numpy(dtype=np.float64 if index.dtype.kind == "f" else np.int64)


def _linear(places: Any, before: int, after: int) -> Any:
    """Return even places with more at both ends; the places themselves stay."""
    step = (places[-1] - places[0]) / (len(places) - 1) if len(places) > 1 else 1
    early, late = np.arange(-before, 0) * step, np.arange(1, after + 1) * step
    if places.dtype.kind in "iu":
        early, late = np.rint(early).astype(np.int64), np.rint(late).astype(np.int64)
    return np.concatenate([places[0] + early, places, places[-1] + late])


def _base(index: pd.Index) -> str:
    """Return pandas' name of an index' frequency without its multiple and its anchor."""
    return (frequency(index) or "").split("-")[0].lstrip("0123456789")


def _calendar_offset(index: pd.DatetimeIndex) -> Any:
    """Return the offset of an index by the calendar; None for steps of one length and for unnamed ones."""
    offset = index.freq
    if offset is None:
        name = frequency(index.tz_localize(None))
        offset = None if name is None else to_offset(name)
    if offset is None or (isinstance(offset, pd.offsets.Tick) and not isinstance(offset, pd.offsets.Day)):
        return None
    local = index.tz_localize(None)
    # Days of 24 hours in absolute time are not days in local time.
    exact = pd.date_range(start=local[0], periods=len(local), freq=offset, unit=local.unit)
    return offset if bool((exact == local).all()) else None


def _months(dates: pd.DatetimeIndex) -> int | None:
    """Return the months from one date to the next where they are even by the calendar; None elsewhere."""
    local = dates.tz_localize(None)
    steps = np.diff(local.year.to_numpy() * 12 + local.month.to_numpy())
    if not len(steps) or steps[0] < 1 or not (steps == steps[0]).all():
        return None
    day = local.day.to_numpy()
    same_day = (day == np.minimum(day.max(), local.days_in_month.to_numpy())).all()
    return int(steps[0]) if same_day or _base(dates) in CALENDAR else None


def _seconds(index: pd.DatetimeIndex | pd.TimedeltaIndex) -> float:
    """Return the mean length of a step in seconds; a day where there is one date alone."""
    if len(index) < 2:
        return float(DAY)
    # As whole numbers: three centuries are too long for a difference in nanoseconds.
    first, last = (int(entry) for entry in index[[0, -1]].asi8)
    return (last - first) / {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[index.unit] / (len(index) - 1)


def _calendar(offset: Any) -> dict[str, Any] | None:
    """Return the week and the holidays of a calendar of business days, which the name of a frequency leaves out."""
    if getattr(offset, "holidays", None) is None:
        return None
    return {"weekmask": str(offset.weekmask), "holidays": [str(day) for day in offset.holidays]}


def zone_name(index: pd.DatetimeIndex) -> str | None:
    """Return a name of the time zone that pandas reads again; UTC where it has none, and None without a zone."""
    if index.tz is None:
        return None
    named = re.search(r"zoneinfo/([\w+/-]+)", str(index.tz))  # the files of dateutil
    name = named[1] if named else str(index.tz)
    try:
        pd.Timestamp(0, tz=name)
    except (KeyError, ValueError, TypeError, OSError):
        offset = {entry.strftime("%z") for entry in index[[0, -1]]}
        return f"UTC{(text := offset.pop())[:3]}:{text[3:5]}" if len(offset) == 1 else "UTC"
    return name
