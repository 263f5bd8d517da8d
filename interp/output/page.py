"""One self-contained HTML page of figures and tables: it opens anywhere, with no network."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from interp.errors import InvalidInput
from interp.results.files import write_text

_STYLE = """
body { font: 15px/1.5 Helvetica, Arial, "DejaVu Sans", sans-serif; color: #222; margin: 2.5rem auto;
       max-width: 1120px; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p { color: #444; max-width: 46rem; } .figure { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: .25rem .8rem; text-align: right; }
th { border-bottom: 1px solid #888; } td { border-bottom: 1px solid #eee; }
td:first-child, th:first-child { text-align: left; }
"""


def write_page(path: str | Path, title: str, parts: Sequence[tuple[str, str, go.Figure | pd.DataFrame]]) -> Path:
    """Write figures and tables as one HTML page, whole or not at all.

    Args:
        path: where to.
        title: of the page.
        parts: heading, a paragraph (or nothing), and a figure or a table, in order.

    Returns:
        The path.

    Raises:
        InvalidInput: the directory does not exist.
    """
    body = [f"<h1>{escape(title)}</h1>"]
    for heading, text, content in parts:
        body.append(f"<h2>{escape(heading)}</h2>")
        if text:
            body.append(f"<p>{escape(text)}</p>")
        if isinstance(content, go.Figure):
            body.append(f'<div class="figure">{content.to_html(full_html=False, include_plotlyjs=False)}</div>')
        else:
            # A cell without a value is left blank.
            filled = content.astype(object).where(content.notna(), "")
            table = filled.to_html(index=False, border=0, float_format="{:.3f}".format)
            body.append(f'<div class="figure">{table}</div>')
    return write_text(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body>{''.join(body)}</body></html>\n",
    )


def file_name(name: str) -> str:
    """A figure's or model's name with nothing in it that a file system minds."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")


def check_out(out: str | Path) -> Path:
    """The place that a report goes to, made if need be: a directory, or an `.html` file in one.

    Raises:
        InvalidInput: it cannot be written.
    """
    path = Path(out)
    page = path.suffix.lower() == ".html"
    try:
        (path.parent if page else path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write to {out}: {error.strerror}.") from None
    if page and path.is_dir():
        raise InvalidInput(f"cannot write to {out}: it is a directory.")
    return path
