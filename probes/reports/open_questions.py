"""The report on the open questions: what `python -m probes questions` runs, prints and writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from interp import Model
from interp.output.page import check_out, write_page
from interp.output.style import unique
from interp.results.files import write_text
from probes import plots
from probes.induction.induction_sweep import induction_sweep
from probes.induction.mosaic import induction_mosaic
from probes.questions.agreement import Agreement, agreement, multisine_scores
from probes.questions.by_seed import seeds_of
from probes.questions.claims import check_claims
from probes.questions.comb_origin import CombOrigin, comb_origin
from probes.questions.length_effect import LengthEffect, length_effect
from probes.questions.repetition_effect import RepetitionEffect, repetition_effect


@dataclass(frozen=True, eq=False)
class Answers:
    """What the open questions gave on some models, and the sources' claims held against all of it."""

    names: list[str]
    repetitions: RepetitionEffect
    lengths: LengthEffect
    agreements: list[Agreement]
    origins: list[CombOrigin]
    claims: pd.DataFrame


def answer(
    models: Sequence[Model],
    *,
    repetitions: Sequence[int] = (2, 4, 6, 8, 10),
    sequence_lengths: Sequence[int] = (2, 4, 6, 8, 10),
    seeds: Sequence[int] = range(5),
    batch_size: int = 100,
    draws: int = 40,
    store: str | Path | None = None,
    progress: bool = True,
) -> Answers:
    """Run all four questions, in this process.

    Args:
        models: that are open.
        repetitions: of the sweep.
        sequence_lengths: of the sweep and of the question about length.
        seeds: three or more.
        batch_size: rows of a mosaic.
        draws: of multisines.
        store: a directory that keeps the two sweeps.
        progress: whether to show bars.

    Returns:
        The answers.
    """
    seeds_of(seeds)
    kept = None if store is None else Path(store)
    sweep = induction_sweep(
        models,
        repetitions=repetitions,
        sequence_lengths=sequence_lengths,
        seeds=seeds,
        batch_size=batch_size,
        store=None if kept is None else kept / "mosaics",
        dtype=models[0].dtype,
        progress=progress,
    )
    lengths = length_effect(
        models,
        sequence_lengths=sequence_lengths,
        seeds=seeds,
        batch_size=batch_size,
        store=None if kept is None else kept / "lengths",
        dtype=models[0].dtype,
        progress=progress,
    )
    # A seed of its own: heads are chosen and measured on different stimuli.
    fresh = max(seeds) + 1
    narrow = [induction_mosaic(model, seed=fresh) for model in models]
    wide = [induction_mosaic(model, seed=fresh, vocab_range=model.vocabulary.value_range) for model in models]
    agreements = [agreement(m, multisine_scores(model, draws=draws)) for m, model in zip(narrow, models, strict=True)]
    return Answers(
        names=unique([model.name for model in models]),
        repetitions=repetition_effect(sweep),
        lengths=lengths,
        agreements=agreements,
        origins=[comb_origin(model, draws=draws) for model in models],
        claims=check_claims([*narrow, *wide, sweep, *agreements]),
    )


def figures(answers: Answers) -> dict[str, go.Figure]:
    """The report's figures by name."""
    made = {
        "repetitions": plots.repetition_effect(answers.repetitions),
        "lengths": plots.length_effect(answers.lengths),
    }
    for name, agreed, origin in zip(answers.names, answers.agreements, answers.origins, strict=True):
        made[f"agreement-{name}"] = plots.agreement(agreed)
        made[f"comb-{name}"] = plots.comb_origin(origin)
    return made


def tables(answers: Answers) -> dict[str, pd.DataFrame]:
    """The report's tables by name."""
    made = {"repetitions": answers.repetitions.verdicts, "lengths": answers.lengths.verdicts}
    for name, agreed, origin in zip(answers.names, answers.agreements, answers.origins, strict=True):
        made[f"agreement-{name}"] = agreed.to_frame()
        made[f"comb-{name}"] = origin.to_frame()
    return made | {"claims": answers.claims}


WORDS = {
    "repetitions": "1. Why do more repetitions give fewer heads? Attention of induction heads by earlier occurrence.",
    "lengths": "2. Why do longer sequences give more? Length apart from chance collisions and from context length.",
    "agreement": "3. Are the same heads at work on periodic series? Repeated random tokens against multisines.",
    "comb": "4. Is the spectrum's period the gcd of the frequencies, their smallest difference or the smallest?",
    "claims": "The sources' claims, each with its statistic, its 95 % interval and a verdict.",
}


def write_report(out: str | Path, answers: Answers) -> list[Path]:
    """One page with figures and tables, and the tables as CSV; `write_images` draws the pictures.

    Args:
        out: a directory, made if it is not there, or an `.html` file for the page alone.
        answers: what `answer` gave.

    Returns:
        The files written.

    Raises:
        InvalidInput: a place that cannot be written.
    """
    folder = check_out(out)
    drawn = figures(answers)
    parts: list[tuple[str, str, go.Figure | pd.DataFrame]] = []
    for name, table in tables(answers).items():
        heading, text = name.replace("-", ": ", 1).capitalize(), WORDS[name.partition("-")[0]]
        if name in drawn:
            parts.append((heading, text, drawn[name]))
        parts.append((f"{heading}, the numbers" if name in drawn else heading, "" if name in drawn else text, table))
    if folder.suffix.lower() == ".html":
        return [write_page(folder, "Open questions", parts)]
    written = [write_page(folder / "questions.html", "Open questions", parts)]
    for name, table in tables(answers).items():
        written.append(write_text(folder / f"{name}.csv", table.to_csv(index=False)))
    return written
