"""A report: sections of words, figures and tables, written as one page beside its tables, results and pictures.

The page is one HTML file that opens anywhere, with no network.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from interp.errors import InvalidInput
from interp.inputs.series_index import entry_text
from interp.output.style import write_images
from interp.results.files import write_bytes, write_text

WIDTH, SHORTEST = 79, 24
"""Characters in a line of a terminal, and those that a cell keeps in any case: addresses are shorter."""

_STYLE = """
body { font: 15px/1.5 Helvetica, Arial, "DejaVu Sans", sans-serif; color: #222; margin: 2.5rem auto;
       max-width: 1120px; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin-top: 1.4rem; }
p { color: #444; max-width: 46rem; } .figure { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: .25rem .8rem; text-align: right; }
th { border-bottom: 1px solid #888; } td { border-bottom: 1px solid #eee; }
td:first-child, th:first-child, .words { text-align: left; } .name { white-space: nowrap; }
"""


class Savable(Protocol):
    """A result that writes itself to a file."""

    def save(self, path: str | Path) -> Path:
        """Write whole or not at all."""
        ...


class Displayable(Protocol):
    """Anything that a notebook can show as HTML."""

    def _repr_html_(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Section:
    """One part of a report: words, a figure and a table that belong together.

    Attributes:
        name: names the files: `<name>.csv` holds the whole table, `<name>.png` the figure.
        title: the heading on the page.
        words: a paragraph under the heading.
        figure: a plotly figure, or anything else that has an HTML view.
        table: the whole table.
        note: a paragraph over the table.
        shown: the part of the table that the page shows; None for all of it.
        picture: the figure to draw as PNG, where the page's own needs a menu.
        brief: the lines that a command prints.
    """

    name: str
    title: str
    words: str = ""
    figure: go.Figure | Displayable | None = None
    table: pd.DataFrame | None = None
    note: str = ""
    shown: pd.DataFrame | None = None
    picture: go.Figure | None = None
    brief: str = ""

    @property
    def drawn(self) -> go.Figure | None:
        """The figure of the PNG; None if there is none."""
        return self.picture or (self.figure if isinstance(self.figure, go.Figure) else None)

    def to_html(self) -> str:
        """Return the section as HTML; the page loads plotly."""
        parts = [f"<h2>{escape(self.title)}</h2>", _paragraph(self.words)]
        if isinstance(self.figure, go.Figure):
            parts.append(f'<div class="figure">{self.figure.to_html(full_html=False, include_plotlyjs=False)}</div>')
        elif self.figure is not None:
            parts.append(f'<div class="figure">{self.figure._repr_html_()}</div>')
        table = self.table if self.shown is None else self.shown
        if table is not None and len(table.columns):
            heading = "" if self.figure is None else "<h3>The numbers</h3>"
            parts += [heading, _paragraph(self.note), f'<div class="figure">{_as_html(table)}</div>']
        return "".join(parts)


@dataclass(frozen=True, eq=False)
class Report:
    """What an experiment shows: its sections in order, and its results.

    Attributes:
        name: names the page: `<name>.html`.
        title: the heading of the page.
        sections: the parts, in order, with names of their own.
        results: results by the name of their file, which ends as the form says: a result saves itself, a string is
            written as text, and a frame as Parquet.
    """

    name: str
    title: str
    sections: Sequence[Section]
    results: Mapping[str, Savable | str | pd.DataFrame] = field(default_factory=dict[str, Any])

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The whole tables by section."""
        return {section.name: section.table for section in self.sections if section.table is not None}

    @property
    def figures(self) -> dict[str, go.Figure]:
        """The figures that are drawn as PNG, by section."""
        return {section.name: section.drawn for section in self.sections if section.drawn is not None}

    @property
    def brief(self) -> str:
        """The lines that a command prints."""
        return "\n\n".join(section.brief for section in self.sections if section.brief)

    def to_html(self) -> str:
        """Return the page."""
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body><h1>{escape(self.title)}</h1>"
            f"{''.join(section.to_html() for section in self.sections)}</body></html>\n"
        )

    def write(self, out: str | Path) -> list[Path]:
        """Write the page, and in a folder the tables as CSV and the results too; each file whole or not at all.

        Args:
            out: a folder, which is made if it is not there, or an `.html` file for the page alone.

        Returns:
            The files written, the page first.

        Raises:
            InvalidInput: a place that cannot be written.
        """
        place = check_out(out)
        if is_page(place):
            return [write_text(place, self.to_html())]
        written = [write_text(place / f"{self.name}.html", self.to_html())]
        for name, table in self.tables.items():
            written.append(write_text(place / f"{name}.csv", table.to_csv(index=False)))
        for name, result in self.results.items():
            written.append(_write_result(place / name, result))
        return written

    def draw(self, out: str | Path) -> list[Path]:
        """Write the figures as PNG into a folder.

        Raises:
            MissingBrowser: no Chrome or Chromium is installed.
        """
        return write_images({Path(out) / f"{name}.png": figure for name, figure in self.figures.items()})


def joined(reports: Mapping[str, Report]) -> Report:
    """Join the reports of several models into one, in which titles and files carry the model's name.

    Args:
        reports: one or more reports of the same kind, by model. A single one is returned as it is.
    """
    if len(reports) == 1:
        return next(iter(reports.values()))
    sections: list[Section] = []
    results: dict[str, Any] = {}
    for model, report in reports.items():
        tail = f"-{file_name(model)}"
        for section in report.sections:
            brief = section.brief and f"{model}: {section.brief}"
            title = f"{model}: {section.title}"
            sections.append(replace(section, name=section.name + tail, title=title, brief=brief))
        for name, result in report.results.items():
            results[f"{Path(name).stem}{tail}{Path(name).suffix}"] = result
    first = next(iter(reports.values()))
    return Report(first.name, f"{first.name.capitalize()} of {', '.join(reports)}", sections, results)


def as_text(table: pd.DataFrame, heading: str = "") -> str:
    """Return a table as lines of text under a heading, of a terminal's width where cutting its longest words will do.

    Columns without values are left out, and cells without one are blank.
    """
    cells = _cells(table.dropna(axis=1, how="all"))

    def text(width: int | None = None) -> str:
        return cells.to_string(index=False, float_format="{:.3f}".format, line_width=width)

    over = max(map(len, text().splitlines())) - WIDTH
    widths = {name: int(cells[name].astype(str).str.len().max()) for name in cells if _is_text(cells[name])}
    if over > 0 and widths:
        longest = max(widths, key=widths.__getitem__)
        cut = max(SHORTEST, widths[longest] - over)
        cells[longest] = [word if len(word) <= cut else f"{word[: cut - 3]}..." for word in cells[longest]]
    lines = text(WIDTH) if max(map(len, text().splitlines())) > WIDTH else text()
    return f"{heading}\n{lines}" if heading else lines


def _is_text(column: Any) -> bool:
    return len(column) > 0 and all(isinstance(cell, str) for cell in column)


def _as_html(table: pd.DataFrame) -> str:
    """Return a table as HTML: numbers on the right, words on the left, names and short words in one line.

    Columns without values are left out.
    """
    cells = _cells(table)
    cells = cells.loc[:, (cells != "").any()] if len(cells) else cells
    kinds = {name: ' class="words"' if _is_text(cells[name][cells[name] != ""]) else "" for name in cells}

    def one(name: Any, cell: Any) -> str:
        if isinstance(cell, str) and cell and (" " not in cell or len(cell) <= SHORTEST):
            return f'<td class="words name">{escape(cell)}</td>'
        return f"<td{kinds[name]}>{escape(f'{cell:.3f}' if isinstance(cell, float) else str(cell))}</td>"

    head = "".join(f"<th{kinds[name]}>{escape(str(name))}</th>" for name in cells)
    lines = (
        "".join(one(name, cell) for name, cell in zip(cells, row, strict=True))
        for row in cells.itertuples(index=False, name=None)
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as it is read: a cell without a value is blank, and a date has no time that is midnight."""
    shown = table.astype(object).where(table.notna(), "")
    return shown.map(lambda cell: entry_text(cell) if isinstance(cell, pd.Timestamp) else cell)


def file_name(name: str) -> str:
    """Return the name of a figure or model without the characters that file systems refuse."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")


def is_page(out: Path) -> bool:
    """Tell whether a place is one page instead of a folder."""
    return out.suffix.lower() == ".html"


def check_out(out: str | Path) -> Path:
    """Return the place that a report goes to, and make its folder.

    Raises:
        InvalidInput: a place that cannot be written.
    """
    path = Path(out)
    try:
        (path.parent if is_page(path) else path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write to {out}: {error.strerror}. Give another folder.") from None
    if is_page(path) and path.is_dir():
        raise InvalidInput(f"cannot write to {out}: it is a directory. Give another name, or a folder.")
    return path


def _paragraph(words: str) -> str:
    return f"<p>{escape(words)}</p>" if words else ""


def _write_result(path: Path, result: Savable | str | pd.DataFrame) -> Path:
    if isinstance(result, str):
        return write_text(path, result)
    if isinstance(result, pd.DataFrame):
        return write_bytes(path, result.to_parquet(index=False))
    return result.save(path)
