"""Sections of attribution reports: what they show of a table, the largest shares first."""

import pandas as pd
import plotly.graph_objects as go

from interp.output.report import Section

SHOWN = 12
"""How many rows of a table the page shows; the CSV holds all."""


def section(
    name: str, title: str, words: str, figure: go.Figure, table: pd.DataFrame, note: str = "", brief: str = ""
) -> Section:
    """Make a section whose page shows the first rows of the table, and all points of a lens."""
    shown = table if name.endswith("lens") else table.head(SHOWN)
    shown = shown.drop(columns=["kind", "layer", "head"], errors="ignore").dropna(axis=1, how="all")
    shown = shown.rename(columns={"mean": "adds"})
    return Section(name, title, words, figure=figure, table=table, note=note, shown=shown, brief=brief)


def strongest(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by the size of their share."""
    return frame.sort_values("mean", key=lambda column: -column.abs(), kind="stable", ignore_index=True)
