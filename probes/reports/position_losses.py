"""The report on a random sequence given twice: what `python -m probes losses` prints and writes."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from interp import Model
from interp.errors import InvalidInput
from interp.output.report import Report, Section, as_text, file_name
from interp.output.style import heads_of, short
from interp.output.style import unique as unique_names
from probes import plots
from probes.induction.induction_scores import InductionScores, induction_scores
from probes.induction.mosaic import THRESHOLD
from probes.induction.position_loss import PositionLoss, position_loss

SHOWN = 12
"""How many rows of the losses by position the page shows; the CSV holds all."""


def losses(
    models: Iterable[Model],
    *,
    sequence_length: int = 50,
    repetitions: int = 2,
    batch_size: int = 10,
    vocab_range: tuple[int, int] | None = None,
    unique: bool = False,
    bos: int | None = None,
    site: str = "decoder.self",
    seed: int = 0,
    threshold: float = THRESHOLD,
) -> Report:
    """Measure losses by position, and the heads that look back, on a random sequence given twice.

    Args:
        models: the models to set side by side.
        sequence_length: Tokens in the sequence.
        repetitions: How often the sequence comes, twice or more.
        batch_size: Rows of tokens.
        vocab_range: First and last token id; by default those of values within +-1.01. The tutorial on GPT-2 has
            1000 9999.
        unique: Draw tokens without replacement within a row.
        bos: A token in front, for a decoder-only model.
        site: The self-attention heads to score.
        seed: Seed of the tokens.
        threshold: Score from which a head is ringed in the figure.

    Raises:
        InvalidInput: no models.
    """
    stimulus: dict[str, Any] = {
        "batch_size": batch_size, "vocab_range": vocab_range, "unique": unique, "bos": bos, "seed": seed,
    }  # fmt: skip
    scores: list[InductionScores] = []
    repeated: list[PositionLoss] = []
    controls: list[PositionLoss] = []
    for model in models:
        # The heads come first: they refuse a stimulus without a repeat before losses are computed.
        sizes = {"sequence_length": sequence_length, "repetitions": repetitions}
        scores.append(induction_scores(model, site=site, **sizes, **stimulus))
        repeated.append(position_loss(model, **sizes, **stimulus))
        as_long = {"sequence_length": sequence_length * repetitions, "repetitions": 1}
        controls.append(position_loss(model, **as_long, **stimulus))
    if not scores:
        raise InvalidInput("no models to report: give at least one.")
    names = [file_name(name) for name in unique_names([result.name for result in scores])]
    sides = [
        (tokens, loss)
        for pair in zip(repeated, controls, strict=True)
        for tokens, loss in zip(("repeated", "not repeated"), pair, strict=True)
    ]
    summaries = [loss.summary().assign(model=short(loss.name), tokens=tokens) for tokens, loss in sides]
    summary: Any = pd.concat(summaries, ignore_index=True)
    summary = summary[["model", "tokens", "part", "loss", "low", "high", "n"]]
    by_position = pd.concat([loss.to_frame().assign(tokens=tokens) for tokens, loss in sides])
    strongest = [result.to_frame().sort_values("induction", ascending=False, kind="stable") for result in scores]
    heads: Any = pd.concat(strongest, ignore_index=True)
    n = scores[0].sequence_length
    words = (
        f"Mean attention of the {heads_of(result.site for result in scores)}: {n - 1} back, to what followed the "
        f"token the last time, from the second repetition on; the same with query {n - 1} too, as in the tutorial; "
        f"to the token before; {n} back, to the same token."
    )
    columns = ["model", "head", "induction", "previous_token", "duplicate_token"]
    brief = as_text(heads[columns].groupby("model", sort=False).head(8))
    sections = [
        Section(
            "losses",
            "Losses",
            "Cross-entropy of each next token on a random sequence given again, and on as many random tokens without "
            "a repeat. From the dashed line on, the current token has been seen before, and what followed it then "
            "comes again. A decoder whose encoder reads all tokens first can copy from the start, so no drop is "
            "expected.",
            figure=plots.position_loss([loss for _, loss in sides]),
            table=by_position,
            shown=by_position.head(SHOWN),
            note=f"The first {SHOWN} rows.",
        ),
        Section("loss_summary", "Losses before and after", table=summary),
    ]
    for name, result in zip(names, scores, strict=True):
        figure = plots.induction_scores(result, threshold=threshold)
        sections.append(Section(f"scores-{name}", f"Scores: {name}", words, figure=figure))
    sections.append(
        Section("induction_scores", "Heads", "Strongest first.", table=heads, brief=f"{brief}\n\n{as_text(summary)}")
    )
    results = {
        f"{kind}-{name}.json": result
        for kind, of_kind in {"loss": repeated, "loss-control": controls, "scores": scores}.items()
        for name, result in zip(names, of_kind, strict=True)
    }
    return Report("losses", "A sequence given twice", sections, results)
