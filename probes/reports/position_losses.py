"""The report on a random sequence given twice: what `python -m probes losses` prints and writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp import Model
from interp.errors import InvalidInput
from interp.output.page import check_out, file_name, write_page
from interp.output.style import heads_of, short, unique
from interp.results.files import write_text
from probes import plots
from probes.induction.induction_scores import InductionScores, induction_scores
from probes.induction.mosaic import THRESHOLD
from probes.induction.position_loss import PositionLoss, position_loss


@dataclass(frozen=True, eq=False)
class Repeats:
    """What one model does on a random sequence given again: its loss, the control's, and its heads."""

    loss: PositionLoss
    control: PositionLoss
    scores: InductionScores


def repeats(
    model: Model, *, sequence_length: int = 50, repetitions: int = 2, site: str = "decoder.self", **stimulus: Any
) -> Repeats:
    """The loss by position and the heads' scores, and as the control the loss on as many tokens without a repeat.

    Args:
        model: the model.
        sequence_length: tokens in the sequence.
        repetitions: how often it is given, 2 or more.
        site: of which heads.
        stimulus: other parameters of `repeated_sequences`.

    Returns:
        All three.
    """
    # The heads first: they ask for what repeats, before the loss is taken of what does not.
    scores = induction_scores(model, site=site, sequence_length=sequence_length, repetitions=repetitions, **stimulus)
    loss = position_loss(model, sequence_length=sequence_length, repetitions=repetitions, **stimulus)
    control = position_loss(model, sequence_length=sequence_length * repetitions, repetitions=1, **stimulus)
    return Repeats(loss, control, scores)


def loss_table(found: Sequence[Repeats]) -> pd.DataFrame:
    """One row a model, stimulus and part: the halves and the drop, with 95 % intervals over rows."""
    tables = [
        result.summary().assign(model=short(result.name), tokens=tokens)
        for one in found
        for tokens, result in (("repeated", one.loss), ("not repeated", one.control))
    ]
    table: Any = pd.concat(tables, ignore_index=True)
    return table[["model", "tokens", "part", "loss", "low", "high", "n"]]


def head_table(found: Sequence[Repeats]) -> pd.DataFrame:
    """All heads, the strongest of each model first."""
    frames = [one.scores.to_frame().sort_values("induction", ascending=False, kind="stable") for one in found]
    return pd.concat(frames, ignore_index=True)


def figures(found: Sequence[Repeats], threshold: float = THRESHOLD) -> dict[str, go.Figure]:
    """The report's figures by name: losses by position, and the scores of each model's heads."""
    made = {"losses": plots.position_loss([side for one in found for side in (one.loss, one.control)])}
    for name, one in zip(unique([one.scores.name for one in found]), found, strict=True):
        made[f"scores-{name}"] = plots.induction_scores(one.scores, threshold=threshold)
    return made


def write_report(out: str | Path, found: Sequence[Repeats], threshold: float = THRESHOLD) -> list[Path]:
    """The page, the results as JSON and the tables as CSV; `write_images` draws the pictures.

    Args:
        out: a directory, made if it is not there, or an `.html` file for the page alone.
        found: what `repeats` gave, one a model.
        threshold: from which score on a head is ringed.

    Returns:
        The files written.

    Raises:
        InvalidInput: no models, or a place that cannot be written.
    """
    if not found:
        raise InvalidInput("no models to report: give at least one.")
    folder = check_out(out)
    alone = folder.suffix.lower() == ".html"
    losses, heads = loss_table(found), head_table(found)
    n = found[0].scores.sequence_length
    words = {
        "losses": "Cross-entropy of each next token on a random sequence given again, and on as many random tokens "
        "without a repeat. From the dashed line on, the current token has been seen before, and what followed it then "
        "comes again. A decoder whose encoder reads all tokens first can copy from the start, so no drop is expected.",
        "scores": f"Mean attention of the {heads_of(one.scores.site for one in found)}: {n - 1} back, to what "
        f"followed the token the last time, from the second repetition on; the same with query {n - 1} too, as in "
        f"the tutorial; to the token before; {n} back, to the same token.",
    }
    parts: list[tuple[str, str, go.Figure | pd.DataFrame]] = [
        (name.replace("-", ": ", 1).capitalize(), words[name.partition("-")[0]], figure)
        for name, figure in figures(found, threshold).items()
    ]
    parts.insert(1, ("Losses before and after", "", losses))
    parts.append(("Heads", "Strongest first.", heads))
    page = write_page(folder if alone else folder / "losses.html", "A sequence given twice", parts)
    if alone:
        return [page]
    by_position = pd.concat(
        [
            side.to_frame().assign(tokens=tokens)
            for one in found
            for tokens, side in (("repeated", one.loss), ("not repeated", one.control))
        ]
    )
    tables = {"losses": by_position, "loss_summary": losses, "induction_scores": heads}
    written = [page, *(write_text(folder / f"{name}.csv", t.to_csv(index=False)) for name, t in tables.items())]
    for name, one in zip(unique([one.scores.name for one in found]), found, strict=True):
        written.append(one.loss.save(folder / f"loss-{file_name(name)}.json"))
        written.append(one.control.save(folder / f"loss-control-{file_name(name)}.json"))
        written.append(one.scores.save(folder / f"scores-{file_name(name)}.json"))
    return written
