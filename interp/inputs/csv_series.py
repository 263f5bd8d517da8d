"""One series from a CSV file, with its dates.

1. The first line names the columns, with commas, semicolons or tabs between them. Beside the latter two a decimal comma
   is read too.
2. The values are the column that is named, or the only one of numbers. Empty cells, NA and NaN are missing values.
3. The dates are the first other column in which every cell is a date, or a whole number such as 1949, 194901 or
   19490131. Nothing is sorted or filled in. Days and months that could change places are refused.
"""

import re
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import pandas as pd

from interp.errors import InvalidInput, MissingFile, nearest
from interp.inputs.series_index import check_index

SEPARATORS = (",", ";", "\t")
NUMBERED = {"%Y": r"1[5-9]\d\d|2[01]\d\d", "%Y%m": r"(1[5-9]|2[01])\d{4}", "%Y%m%d": r"(1[5-9]|2[01])\d{6}"}
"""Forms of dates that are whole numbers, and what they look like."""

YEAR = r"\d{4}|\d+[./-]\d+[./-]\d+|[A-Za-z]{3,}[ .'-]*\d\d"
"""What every date holds: a year of four digits, or three numbers, or a month's name and a number."""

_SHOWN = 6
"""How many columns an error lists."""


def read_csv(path: str | Path, column: str = "") -> pd.Series:
    """Read one series from a CSV file.

    Args:
        column: the column of the values; by default the only one of numbers.

    Returns:
        The series, with the column's name and, where the file has dates, these as its index.

    Raises:
        MissingFile: no such file.
        InvalidInput: a file that is no table with a line of names; no such column, none of numbers, or several without
            a choice; dates that cannot be read, or that are not in order or not evenly spaced.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingFile(f"{path}: {'a directory' if file.is_dir() else 'no such file'}. Give a CSV file.")
    table = _table(file)
    numeric = [name for name in table.columns if pd.api.types.is_numeric_dtype(table[name].dtype)]
    if column and column not in table.columns:
        raise InvalidInput(f"{file.name}: no column {column!r}. There are {_listed(table)}.{_near(column, table)}")
    if column and column not in numeric:
        raise InvalidInput(f"{file.name}: column {column!r} holds {_text_in(table[column])}. {_choice(table, numeric)}")
    dated, dates = _dates(file, table, column)
    values = [column] if column else [name for name in numeric if name != dated]
    if len(values) > 1:
        raise InvalidInput(
            f"{file.name}: several columns of numbers, {_names(values)}. Choose one, as --column {values[0]!r}."
        )
    if not values:
        text = ", ".join(f"{name!r} holds {_text_in(table[name])}" for name in table.columns[:2] if name != dated)
        raise InvalidInput(f"{file.name}: no column of numbers: {text}. Write numbers as 1234.5.")
    series = pd.Series(table[values[0]].to_numpy(dtype=float), name=values[0])
    if dates is not None:
        series.index = dates
        try:
            check_index(series.index)
        except InvalidInput as error:
            what = str(error).split(". ")[0]
            raise InvalidInput(
                f"{file.name}, dates in column {dated!r}: {what}. Sort the lines, oldest first; give a step that is "
                "missing a line with an empty value, and each series a file of its own."
            ) from None
    return series


def _table(file: Path) -> pd.DataFrame:
    """Return the cells of a file, with numbers where all cells of a column are numbers."""
    try:
        first = next((line for line in file.read_text("utf-8-sig").splitlines() if line.strip()), "")
        if not first:
            raise InvalidInput(f"{file.name} is empty: the first line names the columns, and values follow.")
        separator = max(SEPARATORS, key=first.count)
        options: dict[str, Any] = {"sep": separator, "encoding": "utf-8-sig", "skipinitialspace": True}
        table = pd.read_csv(file, **options)
        if separator != "," and not any(map(pd.api.types.is_float_dtype, table.dtypes)):
            table = pd.read_csv(file, decimal=",", **options)
    except UnicodeDecodeError:
        raise InvalidInput(f"{file.name} is not text in UTF-8: save the table as CSV (UTF-8).") from None
    except pd.errors.ParserError as error:
        place = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        what = f"line {place[2]} has {place[3]} cells, and the first {place[1]}" if place else str(error).strip()
        raise InvalidInput(f"{file.name} is no table of columns: {what}. Give each line as many cells.") from None
    table.columns = [str(name).strip() for name in table.columns]
    if not len(table):
        raise InvalidInput(f"{file.name} holds names of columns and no values: {_listed(table)}.")
    if all(re.fullmatch(r"[-+.,:/ TZ]*\d[-+\d.,:/ TZ]*", name) for name in table.columns):
        raise InvalidInput(
            f"{file.name}: the first line holds values, {_listed(table)}, and would be lost. Put a line above it that "
            "names the columns."
        )
    # Row numbers, which pandas writes into a column without a name.
    rows = [name for name in table.columns if name.startswith("Unnamed") and _counts(table[name])]
    return table.drop(columns=rows)


def _counts(column: Any) -> bool:
    return pd.api.types.is_integer_dtype(column.dtype) and bool((column.diff().iloc[1:] == 1).all())


def _dates(file: Path, table: pd.DataFrame, column: str) -> tuple[str, pd.DatetimeIndex | None]:
    """Return the column of dates and the dates; nothing where no column looks like dates."""
    unreadable = ""
    for name in (name for name in table.columns if name != column):
        cells = table[name]
        dates = _numbered(cells)
        if dates is None and not pd.api.types.is_numeric_dtype(cells.dtype):
            words = cells.fillna("").astype(str).str.strip()
            dates, wrong = _of_words(file, name, words)
            unreadable = unreadable or wrong
        if dates is not None:
            return name, dates.rename(None if name.startswith("Unnamed") else name)
    if unreadable:
        raise InvalidInput(unreadable)
    return "", None


def _numbered(cells: Any) -> pd.DatetimeIndex | None:
    """Return the dates of a column of growing whole numbers such as 1949, 194901 or 19490131; None for another."""
    if not pd.api.types.is_integer_dtype(cells.dtype) or not cells.is_monotonic_increasing or len(cells) < 2:
        return None
    for form, looks in NUMBERED.items():
        words = cells.astype(str)
        if words.str.fullmatch(looks).all():
            dates = pd.to_datetime(words, format=form, errors="coerce")
            return None if dates.isna().any() else pd.DatetimeIndex(dates)
    return None


def _of_words(file: Path, name: str, words: Any) -> tuple[pd.DatetimeIndex | None, str]:
    """Return the dates of a column of text, or why it cannot be read though it looks like dates."""
    where = f"{file.name}: column {name!r} holds"
    if words.str.fullmatch(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?").all():
        return None, f"{where} times without a date, as {words[0]!r}. Write both in one column."
    # A date that begins with its year has one reading, which pandas' dayfirst would turn around.
    orders = (False,) if words.str.match(r"\d{4}").all() else (False, True)
    readings = [_parsed(words, dayfirst) for dayfirst in orders]
    known = [dates for dates in readings if dates is not None and not dates.isna().any()]
    if known:
        if len(known) > 1 and not known[0].equals(known[1]):
            even = [dates for dates in known if _is_even(dates)]
            if len(even) != 1:
                reason = "dates whose day and month could change places"
                return None, f"{where} {reason}, as {words[0]!r}. Write them as 2024-01-31."
            known = even
        return known[0], ""
    parsed = next((dates for dates in readings if dates is not None), None)
    missing = pd.Series(True, index=words.index) if parsed is None else pd.Series(parsed.isna(), index=words.index)
    # Text that comes again, as a name of a place does, is no date. Nor is a column of remarks.
    if missing.mean() > 0.5 and not (words.is_unique and words.str.contains(r"\d").all()):
        return None, ""
    at = int(missing.to_numpy().argmax())
    return None, (
        f"{where} {words[at]!r} in its row {at + 1}, which is no date that can be read. Write dates as 2024-01-31 or "
        "2024-01-31 06:00, or leave the column out."
    )


def _parsed(words: Any, dayfirst: bool) -> pd.DatetimeIndex | None:
    """Return text as dates, NaT where a cell is none; None where the forms or zones of the cells differ."""
    looks = words.str.contains(YEAR)
    for utc in (False, True):
        try:
            with catch_warnings():
                simplefilter("ignore")  # of forms that pandas does not know by name
                dates: Any = pd.to_datetime(words, dayfirst=dayfirst, errors="coerce", utc=utc)
            return pd.DatetimeIndex(dates.where(looks))
        except (ValueError, TypeError):  # zones that differ, as across daylight saving
            continue
    return None


def _is_even(dates: pd.DatetimeIndex) -> bool:
    try:
        check_index(dates)
    except InvalidInput:
        return False
    return True


def _text_in(cells: Any) -> str:
    numbers: Any = pd.to_numeric(cells, errors="coerce")
    wrong = cells[numbers.isna() & cells.notna()]
    return f"text, as {str(wrong.iloc[0])!r:.40} in its row {wrong.index[0] + 1}" if len(wrong) else "no numbers"


def _choice(table: pd.DataFrame, numeric: list[str]) -> str:
    return f"Columns of numbers are {_names(numeric)}." if numeric else f"No column of {_listed(table)} holds numbers."


def _names(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _listed(table: pd.DataFrame) -> str:
    return _names(list(table.columns))


def _near(column: str, table: pd.DataFrame) -> str:
    return nearest(column, list(table.columns))
