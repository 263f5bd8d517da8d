"""A series from a CSV file: which column, which dates, and what is wrong, in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.errors import InterpError, InvalidInput, MissingFile
from interp.inputs.csv_series import read_csv
from probes.stimuli import datasets

DAYS = pd.date_range("2024-01-01", periods=20)

BERLIN = pd.date_range("2024-03-31", periods=5, freq="h", tz="Europe/Berlin")


def lines(*rows: Any) -> str:
    return "\n".join(rows) + "\n"


def days(form: str) -> str:
    return lines("when,sales", *(f"{day.strftime(form)},{i}" for i, day in enumerate(DAYS)))


READ: dict[str, tuple[str, str, Any]] = {
    "days": (days("%Y-%m-%d"), "", DAYS),
    "the day first, which only a 13th day tells": (days("%d/%m/%Y"), "", DAYS),
    "the month first": (days("%m/%d/%Y"), "", DAYS),
    "with a time of the day": (days("%Y-%m-%d 06:00"), "", DAYS + pd.Timedelta("6h")),
    "with dots and a decimal comma": (days("%d.%m.%Y").replace(",", ";").replace("\n", ",5\n", 0), "", DAYS),
    "months": (
        lines("month,sales", "2024-01,0", "2024-02,1", "2024-03,2"),
        "",
        pd.date_range("2024", periods=3, freq="MS"),
    ),
    "years as numbers": (lines("year,sales", "1949,0", "1950,1"), "", pd.DatetimeIndex(["1949", "1950"])),
    "months as numbers": (
        lines("m,sales", "194912,0", "195001,1"),
        "",
        pd.DatetimeIndex(["1949-12-01", "1950-01-01"]),
    ),
    "days as numbers": (
        lines("m,sales", "19491231,0", "19500101,1"),
        "",
        pd.DatetimeIndex(["1949-12-31", "1950-01-01"]),
    ),
    "a zone that changes its offset": (
        lines(
            "t,sales",
            *(f"{t},{i}" for i, t in enumerate(pd.date_range("2024-03-31", periods=5, freq="h", tz="Europe/Berlin"))),
        ),
        "",
        pd.date_range("2024-03-30 23:00", periods=5, freq="h", tz="UTC"),
    ),
    "pandas' own files, with row numbers": (
        pd.DataFrame({"when": DAYS, "sales": np.arange(20)}).to_csv(),
        "",
        DAYS,
    ),
    "pandas' own files of a series": (pd.Series(np.arange(20), index=DAYS, name="sales").to_csv(), "", DAYS),
    "dates after the values": (lines("sales,when", *(f"{i},{day:%Y-%m-%d}" for i, day in enumerate(DAYS))), "", DAYS),
    "a place beside": (lines("when,shop,sales", *(f"{day:%Y-%m-%d},A,{i}" for i, day in enumerate(DAYS))), "", DAYS),
    "one column of several": (
        lines("when,b,sales", *(f"{day:%Y-%m-%d},7,{i}" for i, day in enumerate(DAYS))),
        "sales",
        DAYS,
    ),
    "values alone": (lines("sales", "0", "1", "2"), "", None),
    "remarks": (lines("sales,remark", "0,", "1,strike", "2,"), "", None),
    "names with spaces, and a byte order mark": (
        "\ufeffwhen , sales \n 2024-01-01 , 0\n2024-01-02, 1\n",
        "sales",
        DAYS[:2],
    ),
    "tabs": (days("%Y-%m-%d").replace(",", "\t"), "", DAYS),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name: str, tmp_path: Path) -> None:
    text, column, index = READ[name]
    (tmp_path / "own.csv").write_text(text)
    series = read_csv(tmp_path / "own.csv", column)
    assert series.name == "sales"
    assert series.tolist() == list(range(len(series)))
    if index is None:
        assert isinstance(series.index, pd.RangeIndex)
    else:
        assert series.index.tolist() == index.tolist()


def test_missing_values_and_decimal_commas(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("when;sales\n2024-01-01;1,5\n2024-01-02;\n2024-01-03;NA\n2024-01-04;-2\n")
    np.testing.assert_array_equal(read_csv(tmp_path / "own.csv"), [1.5, np.nan, np.nan, -2])


def test_the_bundled_files_are_read_as_they_are_bundled() -> None:
    root = Path(datasets.__file__).parent.parent / "data"
    for name in ("sunspots", "el_nino", "mauna_loa_co2"):
        series = read_csv(root / f"{name}.csv")
        expected = getattr(datasets, name)()
        assert series.index.equals(expected.index)
        np.testing.assert_array_equal(series, expected.values)


WRONG: dict[str, tuple[str | bytes, str, str]] = {
    "another column": (
        days("%Y-%m-%d"),
        "sale",
        r"no column 'sale'. There are 'when', 'sales'. Did you mean 'sales'",
    ),
    "a column of text": (
        days("%Y-%m-%d"),
        "when",
        r"'when' holds text, as '2024-01-01' in its row 1. Columns .* 'sales'",
    ),
    "no numbers": (
        lines("when,sales", "2024-01-01,many"),
        "",
        r"no column of numbers: 'sales' holds text, as 'many'",
    ),
    "thousands": (lines("when,sales", '2024-01-01,"1,234"'), "", r"as '1,234' in its row 1. Write numbers as 1234.5"),
    "several": (
        lines("when,a,b", "2024-01-01,1,2"),
        "",
        r"several columns of numbers, 'a', 'b'. Choose one, as --column 'a'",
    ),
    "no such day": (
        days("%Y-%m-%d").replace("-07,", "-57,"),
        "",
        r"'when' holds '2024-01-57' in its row 7, which is no date",
    ),
    "a day is missing": (days("%Y-%m-%d").replace("2024-01-07,", ","), "", r"'when' holds '' in its row 7"),
    "quarters in words": (
        lines("when,sales", "Q1 of 1949,1", "Q2 of 1949,2"),
        "",
        r"'Q1 of 1949' in its row 1, which is no date",
    ),
    "times alone": (lines("when,sales", "10:00,1", "11:00,2"), "", "times without a date, as '10:00'"),
    "days that could be months": (
        lines("when,sales", "01/02/2024,1", "01/03/2024,2"),
        "",
        "day and month could change places",
    ),
    "newest first": (
        lines("when,sales", "2024-01-02,1", "2024-01-01,2"),
        "",
        "newest first, from 2024-01-02 .* Sort the lines",
    ),
    "a gap": (
        lines("when,sales", *(f"{d:%Y-%m-%d},1" for d in DAYS.delete(9))),
        "",
        "after 2024-01-09 comes 2024-01-11.*empty",
    ),
    "two series": (
        lines("when,shop,sales", "2024-01-01,A,1", "2024-01-01,B,2"),
        "",
        "comes twice.*a file of its own",
    ),
    "no names": (lines("2024-01-01,1", "2024-01-02,2"), "", "first line holds values, '2024-01-01', '1'"),
    "names alone": (lines("when,sales"), "", "names of columns and no values: 'when', 'sales'"),
    "nothing": ("\n\n", "", "is empty"),
    "lines of different lengths": (lines("a,b", "1,2", "1,2,3"), "", "line 3 has 3 cells, and the first 2"),
    "no text": (b"\xff\xd8\x00", "", "not text in UTF-8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    content, column, message = WRONG[name]
    file = tmp_path / "own.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput, match=message) as caught:
        read_csv(file, column)
    assert str(caught.value).startswith("own.csv")
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "own.csv", tmp_path):
        with pytest.raises(MissingFile, match=r"no such file|a directory") as caught:
            read_csv(path)
        assert isinstance(caught.value, InterpError)
        assert isinstance(caught.value, FileNotFoundError)
