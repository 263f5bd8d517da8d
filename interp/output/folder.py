"""A report's folder: its page, its tables as CSV and its results as JSON, each whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd
import plotly.graph_objects as go

from interp.output.page import write_page
from interp.results.files import write_text

Part = tuple[str, str, go.Figure | pd.DataFrame]
"""Of a page: heading, a paragraph or nothing, and a figure or a table."""


class Savable(Protocol):
    """A result that writes itself."""

    def save(self, path: str | Path) -> Path:
        """Write as JSON, whole or not at all."""
        ...


def write_folder(
    out: str | Path,
    page: str,
    title: str,
    parts: Sequence[Part],
    tables: Mapping[str, pd.DataFrame],
    results: Mapping[str, Savable],
) -> list[Path]:
    """Write a report.

    Args:
        out: a directory; it is made if it is not there.
        page: the page's file name, without its ending.
        title: of the page.
        parts: of the page, in order.
        tables: by file name.
        results: by file name.

    Returns:
        The files written.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    written = [write_page(folder / f"{page}.html", title, parts)]
    written += [write_text(folder / f"{name}.csv", table.to_csv(index=False)) for name, table in tables.items()]
    return written + [result.save(folder / f"{name}.json") for name, result in results.items()]
