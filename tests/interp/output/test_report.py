"""A report: each section's words, figure and table stand together, and each file is written once."""

import re
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.errors import InvalidInput
from interp.output.report import Report, Section, as_text, joined
from tests.probes.plots.test_mosaics import needs_browser

TABLE = pd.DataFrame({"head": ["a", "b", "c"], "score": [0.5, 0.25, float("nan")]})


def figure(height: int = 300) -> go.Figure:
    return go.Figure(go.Bar(x=["a", "b"], y=[1, 2])).update_layout(width=400, height=height)


def report() -> Report:
    sections = [
        Section(
            "first", "One & two", "Words < words.", figure=figure(), table=TABLE, note="A note.", shown=TABLE.head(1)
        ),
        Section("menu", "With a menu", figure=figure(301), picture=figure(302)),
        Section("numbers", "Numbers alone", table=TABLE, brief=as_text(TABLE, "in short")),
        Section("hidden", "In the folder only", table=TABLE, shown=pd.DataFrame()),
    ]
    return Report("page", "A page", sections, {"frame.parquet": TABLE, "words.txt": "words\n"})


def test_words_figure_and_table_stand_together() -> None:
    page = report().to_html()
    parts = [part.split("</h2>") for part in page.split("<h2>")[1:]]
    assert [title for title, _ in parts] == ["One &amp; two", "With a menu", "Numbers alone", "In the folder only"]
    assert [(body.count("plotly-graph-div"), body.count("<table")) for _, body in parts] == [
        (1, 1),
        (1, 0),
        (0, 1),
        (0, 0),
    ]
    first = parts[0][1]
    order = [
        first.index(text) for text in ("Words &lt; words.", "plotly-graph-div", "The numbers", "A note.", "<table")
    ]
    assert order == sorted(order)
    assert first.count("<tr") == 2, "the heading and the one row that is shown"
    assert "<td></td>" in parts[2][1], "a missing value is a blank cell"
    words = Section(
        "w",
        "W",
        table=pd.DataFrame(
            {"on": ["pico-t5", "a few words, as a statistic has", ""], "n": [1.0, 0.25, 3.0], "no": None}
        ),
    ).to_html()
    assert '<th class="words">on</th><th>n</th>' in words
    assert '<td class="words name">pico-t5</td><td>1.000</td>' in words
    assert '<td class="words">a few words, as a statistic has</td><td>0.250</td>' in words
    assert 'src="http' not in page


def test_the_folder_holds_whole_tables_and_results(tmp_path: Path) -> None:
    written = report().write(tmp_path / "new")
    names = ["page.html", "first.csv", "numbers.csv", "hidden.csv", "frame.parquet", "words.txt"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "first.csv"), TABLE, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "new" / "frame.parquet"), TABLE, check_exact=True)
    assert (tmp_path / "new" / "words.txt").read_text() == "words\n"


def test_a_page_alone(tmp_path: Path) -> None:
    assert report().write(tmp_path / "a" / "alone.HTML") == [tmp_path / "a" / "alone.HTML"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["alone.HTML"]


@needs_browser
def test_each_figure_is_drawn_once_and_without_its_menu(tmp_path: Path) -> None:
    own = report()
    assert {name: drawn.layout.height for name, drawn in own.figures.items()} == {"first": 300, "menu": 302}
    assert sorted(path.name for path in own.draw(tmp_path)) == ["first.png", "menu.png"]


def test_reports_of_several_models_are_one_page() -> None:
    both = joined({"a/b": report(), "c": report()})
    assert [section.name for section in both.sections][:4] == ["first-a-b", "menu-a-b", "numbers-a-b", "hidden-a-b"]
    assert both.sections[4].title == "c: One & two"
    assert list(both.results) == ["frame-a-b.parquet", "words-a-b.txt", "frame-c.parquet", "words-c.txt"]
    assert both.title == "Page of a/b, c"
    assert re.findall(r"(?m)^(\S+): in short", both.brief) == ["a/b", "c"]
    alone = report()
    assert joined({"a": alone}) is alone


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    for place in ("file", "file/x", "folder.html"):
        with pytest.raises(InvalidInput, match="cannot write to"):
            report().write(tmp_path / place)
