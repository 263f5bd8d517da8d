"""The sweep report: what `python -m probes sweep` prints and writes."""

from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp.output.page import check_out
from interp.results.files import write_bytes, write_text
from interp.sweeps import Sweep
from probes import plots
from probes.induction.mosaic import THRESHOLD
from probes.induction.sweep_frame import head_counts, swept


def count_table(sweep: Sweep, threshold: float = THRESHOLD) -> pd.DataFrame:
    """How many heads reach the threshold by model, repetitions and length, mean over seeds."""
    counts: Any = head_counts(swept(sweep), threshold)
    grouped = counts.groupby(["model", "repetitions", "sequence_length"], sort=False)
    return grouped[["current_token", "token_to_right", "either", "n_heads"]].mean().reset_index()


def figures(sweep: Sweep, threshold: float = THRESHOLD) -> dict[str, go.Figure]:
    """The report's figures by name: heads against repetitions by length, and heatmaps."""
    return {
        "lines": plots.sweep_lines(sweep, threshold=threshold),
        "heatmap": plots.sweep_heatmap(sweep, threshold=threshold),
    }


def write_report(out: str | Path, sweep: Sweep, threshold: float = THRESHOLD) -> list[Path]:
    """The explorer page, and the frame as Parquet with its counts as CSV.

    Args:
        out: a directory, made if it is not there, or an `.html` file for the explorer alone.
        sweep: what `induction_sweep` gave.
        threshold: from which score on a head counts.

    Returns:
        The files written.

    Raises:
        InvalidInput: a place that cannot be written.
    """
    folder = check_out(out)
    explorer = plots.mosaic_explorer(sweep, threshold=threshold)
    if folder.suffix.lower() == ".html":
        return [explorer.write_html(folder)]
    return [
        explorer.write_html(folder / "mosaics.html"),
        write_bytes(folder / "sweep.parquet", sweep.to_frame().to_parquet(index=False)),
        write_text(folder / "counts.csv", count_table(sweep, threshold).to_csv(index=False)),
    ]
