"""The sweep report: what `python -m probes sweep` prints and writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from interp.output.command import Models, whole_numbers
from interp.output.report import Report, Section, as_text
from interp.sweeps import Sweep
from probes import plots
from probes.induction.induction_sweep import induction_sweep
from probes.induction.mosaic import THRESHOLD
from probes.induction.sweep_frame import head_counts, swept


def sweep(
    models: Models,
    *,
    repetitions: Annotated[Sequence[int], whole_numbers] = (2, 4, 6, 8, 10),
    sequence_lengths: Annotated[Sequence[int], whole_numbers] = (2, 4, 6, 8, 10),
    seeds: Annotated[Sequence[int], whole_numbers] = (0, 1, 2),
    batch_size: int = 100,
    vocab_range: tuple[int, int] | None = None,
    store: Path | None = None,
    jobs: int = 1,
    threshold: float = THRESHOLD,
) -> Report:
    """Measure the induction mosaic over repetitions, lengths and seeds: explorer, pictures, Parquet and table.

    Args:
        models: the models of the sweep.
        repetitions: Repetitions, as 2,4,6 or 1-4.
        sequence_lengths: Lengths of the random sequence, likewise.
        seeds: Seeds of the tokens, likewise.
        batch_size: Rows of tokens per mosaic.
        vocab_range: First and last token id; by default those of values within +-1.01.
        store: Folder that holds finished runs: an interrupted sweep goes on there.
        jobs: Number of processes; -1 for one per core.
        threshold: Least score of an induction head.
    """
    result = induction_sweep(
        models.names,
        repetitions=repetitions,
        sequence_lengths=sequence_lengths,
        seeds=seeds,
        store=store,
        n_jobs=jobs,
        dtype=models.dtype,
        device=models.device,
        batch_size=batch_size,
        vocab_range=vocab_range,
    )
    return sweep_report(result, threshold)


def sweep_report(sweep: Sweep, threshold: float = THRESHOLD) -> Report:
    """Lay out a sweep of induction mosaics that was measured before.

    Args:
        sweep: the result of `induction_sweep`.
        threshold: the least score of an induction head.
    """
    counts = count_table(sweep, threshold)
    heading = f"heads with a score of at least {threshold:g}, mean over {len(sweep.axes['seed'])} seeds"
    sections = [
        Section("explorer", "Every mosaic", figure=plots.mosaic_explorer(sweep, threshold=threshold)),
        Section("lines", "Heads by repetitions", figure=plots.sweep_lines(sweep, threshold=threshold)),
        Section("heatmap", "Heads by repetitions and length", figure=plots.sweep_heatmap(sweep, threshold=threshold)),
        Section("counts", "Counts", f"{heading.capitalize()}.", table=counts, brief=as_text(counts, heading)),
    ]
    return Report("mosaics", "Induction sweep", sections, {"sweep.parquet": sweep.to_frame()})


def count_table(sweep: Sweep, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Count the heads that reach the threshold by model, repetitions and length; means over seeds."""
    counts: Any = head_counts(swept(sweep), threshold)
    grouped = counts.groupby(["model", "repetitions", "sequence_length"], sort=False)
    return (
        grouped[["current_token", "token_to_right", "either", "n_heads"]].mean().reset_index().astype({"n_heads": int})
    )
