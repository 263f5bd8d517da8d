"""The report on the open questions: what `python -m probes questions` runs, prints and writes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp import Model
from interp.output.command import whole_numbers
from interp.output.report import Report, Section, file_name
from interp.output.style import unique
from probes import plots
from probes.induction.induction_mosaic import induction_mosaic
from probes.induction.induction_sweep import induction_sweep
from probes.questions.agreement import agreement, multisine_scores
from probes.questions.by_seed import seeds_of
from probes.questions.claims import check_claims
from probes.questions.comb_origin import comb_origin
from probes.questions.length_effect import length_effect
from probes.questions.repetition_effect import repetition_effect

VERDICTS = ("contradicted", "undecided", "supported")
"""Verdicts on a claim, those first that speak against it."""


def questions(
    models: Iterable[Model],
    *,
    repetitions: Annotated[Sequence[int], whole_numbers] = (2, 4, 6, 8, 10),
    sequence_lengths: Annotated[Sequence[int], whole_numbers] = (2, 4, 6, 8, 10),
    seeds: Annotated[Sequence[int], whole_numbers] = (0, 1, 2, 3, 4),
    batch_size: int = 100,
    draws: int = 40,
    store: Path | None = None,
    progress: bool = True,
) -> Report:
    """Answer the four open questions and test the sources' claims on some models: page, pictures and tables.

    Args:
        models: the models to test on.
        repetitions: Repetitions of the sweep, as 2,4,6 or 1-4.
        sequence_lengths: Lengths of the random sequence, likewise.
        seeds: Three seeds or more, likewise.
        batch_size: Rows of tokens per mosaic.
        draws: Number of multisines.
        store: Folder that holds the two sweeps: an interrupted run goes on there.

    Raises:
        InvalidInput: fewer than three seeds, or a stimulus that cannot be made.
    """
    seeds_of(seeds)
    models = list(models)
    grid: dict[str, Any] = {"sequence_lengths": sequence_lengths, "seeds": seeds, "batch_size": batch_size}
    settings: dict[str, Any] = {"dtype": models[0].dtype, "progress": progress}
    stores = {name: None if store is None else store / name for name in ("mosaics", "lengths")}
    sweep = induction_sweep(models, repetitions=repetitions, store=stores["mosaics"], **grid, **settings)
    lengths = length_effect(models, store=stores["lengths"], **grid, **settings)
    # A seed of its own: heads are chosen and measured on different stimuli.
    fresh = max(seeds) + 1
    narrow = [induction_mosaic(model, seed=fresh) for model in models]
    wide = [induction_mosaic(model, seed=fresh, vocab_range=model.vocabulary.value_range) for model in models]
    agreements = [agreement(m, multisine_scores(model, draws=draws)) for m, model in zip(narrow, models, strict=True)]
    effect = repetition_effect(sweep)
    claims: Any = check_claims([*narrow, *wide, sweep, *agreements])

    def section(name: str, title: str, words: str, result: Any, figure: go.Figure) -> Section:
        table = result.verdicts if hasattr(result, "verdicts") else result.to_frame()
        return Section(name, title, words, figure=figure, table=table)

    sections = [
        section(
            "repetitions",
            "Repetitions",
            "1. Why do more repetitions give fewer heads? Attention of induction heads by earlier occurrence.",
            effect,
            plots.repetition_effect(effect),
        ),
        section(
            "lengths",
            "Lengths",
            "2. Why do longer sequences give more? Length, apart from chance collisions and from context length.",
            lengths,
            plots.length_effect(lengths),
        ),
    ]
    for name, result, model in zip(unique([model.name for model in models]), agreements, models, strict=True):
        origin = comb_origin(model, draws=draws)
        sections += [
            section(
                f"agreement-{file_name(name)}",
                f"Agreement: {name}",
                "3. Are the same heads at work on periodic series? Repeated random tokens against multisines.",
                result,
                plots.agreement(result),
            ),
            section(
                f"comb-{file_name(name)}",
                f"Comb: {name}",
                "4. Is the spectrum's period the gcd of the frequencies, their smallest difference or the smallest?",
                origin,
                plots.comb_origin(origin),
            ),
        ]
    sections.append(
        Section(
            "claims",
            "Claims",
            "The sources' claims, each with its statistic, its 95 % interval and a verdict.",
            table=claims,
            brief=claims_in_words(claims),
        )
    )
    return Report("questions", "Open questions", sections)


def claims_in_words(claims: pd.DataFrame, width: int = 79) -> str:
    """Return each claim once, with the verdict on what it was tested on and the statistic that decides it.

    Where a claim has several statistics of one thing, all of them have to support it: the one that speaks most against
    it decides.
    """
    lines: list[str] = []
    for claim, rows in claims.groupby("claim", sort=False):
        lines.append(str(claim))
        tested: Any = rows.dropna(subset=["on"])
        if tested.empty:
            lines.append(f"  {rows['verdict'].iloc[0]}")
        for on, evidence in tested.groupby("on", sort=False):
            deciding = evidence.iloc[int(np.argmin([VERDICTS.index(verdict) for verdict in evidence["verdict"]]))]
            value, low, high, none = (f"{deciding[name]:.3g}" for name in ("value", "low", "high", "none"))
            interval = "no interval" if np.isnan(deciding["low"]) else f"{low} to {high}"
            text = f"{deciding['verdict']} on {on}: {deciding['statistic']}: {value} ({interval}; no effect is {none})"
            lines.append(fill(text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))
    return "\n".join(lines)
