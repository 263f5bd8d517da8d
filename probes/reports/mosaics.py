"""The mosaic report: what `python -m probes mosaic` prints and writes."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from interp.errors import InvalidInput
from interp.output.page import check_out, file_name, write_page
from interp.output.style import heads_of, label, short, unique
from interp.results.files import write_text
from probes import plots
from probes.induction.mosaic import THRESHOLD, Mosaic


def induction_heads(mosaic: Mosaic, threshold: float = THRESHOLD) -> pd.DataFrame:
    """The table of induction heads, strongest first.

    Args:
        mosaic: whose heads.
        threshold: from which score on a head counts.

    Returns:
        One row a head: model, head, kind, score, standard error, lift, attention to EOS.
    """
    frame = mosaic.to_frame().set_index("head")
    rows = [
        {
            "model": short(mosaic.name),
            "head": str(found.address),
            "kind": label(found.kind),
            "score": found.score,
            "stderr": frame.loc[str(found.address), f"{found.kind}_stderr"],
            "lift": frame.loc[str(found.address), "lift"],
            "EOS": frame.loc[str(found.address), "eos"],
        }
        for found in mosaic.heads(threshold)
    ]
    return pd.DataFrame(rows, columns=["model", "head", "kind", "score", "stderr", "lift", "EOS"])


def mosaic_summary(mosaics: Sequence[Mosaic], threshold: float = THRESHOLD) -> pd.DataFrame:
    """One row a model: counts, shares, accuracy of the continuation, dtype."""
    rows = []
    for mosaic in mosaics:
        counts = mosaic.counts(threshold)
        rows.append(
            {
                "model": short(mosaic.name),
                "parameters": counts.n_parameters,
                "heads": counts.n_heads,
                "current": counts.current_token,
                "right": counts.token_to_right,
                "either": counts.either,
                "share": counts.proportions["either"],
                "accuracy": mosaic.accuracy(),
                "within 5 bins": mosaic.accuracy(within=5),
                "dtype": mosaic.provenance.get("dtype"),
            }
        )
    return pd.DataFrame(rows)


def figures(mosaics: Sequence[Mosaic], threshold: float = THRESHOLD) -> dict[str, go.Figure]:
    """The report's figures by name: a mosaic a model, counts, layers, occurrences."""
    names = unique([m.name for m in mosaics])
    made = {f"mosaic-{name}": plots.mosaic(m, threshold=threshold) for name, m in zip(names, mosaics, strict=True)}
    made["counts"] = plots.head_counts(mosaics, threshold=threshold)
    made["layers"] = plots.head_layers(mosaics, threshold=threshold)
    for name, m in zip(names, mosaics, strict=True):
        made[f"occurrences-{name}"] = plots.attention_by_occurrence(m, threshold=threshold)
    return made


def write_report_page(path: str | Path, mosaics: Sequence[Mosaic], threshold: float = THRESHOLD) -> Path:
    """One self-contained HTML page with the figures and the tables of some mosaics.

    Args:
        path: where to.
        mosaics: one a model.
        threshold: from which score on a head counts.

    Returns:
        The path.

    Raises:
        InvalidInput: no mosaics, or the directory does not exist.
    """
    if not mosaics:
        raise InvalidInput("no mosaics to report: give at least one.")
    used = ", ".join(sorted({str(m.provenance.get("dtype")) for m in mosaics}))
    text = (
        f"Attention of the {heads_of(m.site for m in mosaics)} from a repeated token to its last earlier occurrence "
        f"(current token) and to the position after it (token to right). Computed in {used}. "
        f"Heads with a score of at least {threshold:g} count as induction heads."
    )
    parts: list[tuple[str, str, go.Figure | pd.DataFrame]] = [("Models", text, mosaic_summary(mosaics, threshold))]
    for name, figure in figures(mosaics, threshold).items():
        parts.append((name.replace("-", ": ", 1).capitalize(), "", figure))
    heads = pd.concat([induction_heads(m, threshold) for m in mosaics], ignore_index=True)
    parts.append(("Induction heads", "", heads))
    return write_page(path, "Induction mosaic", parts)


def write_report(out: str | Path, mosaics: Sequence[Mosaic], threshold: float = THRESHOLD) -> list[Path]:
    """The page, the mosaics as JSON and the table as CSV; `write_images` draws the pictures.

    Args:
        out: a directory; it is made if it is not there.
        mosaics: one a model.
        threshold: from which score on a head counts.

    Returns:
        The files written.
    """
    folder = check_out(out)
    written = [write_report_page(folder / "induction_mosaic.html", mosaics, threshold)]
    for name, mosaic in zip(unique([m.name for m in mosaics]), mosaics, strict=True):
        written.append(mosaic.save(folder / f"mosaic-{file_name(name)}.json"))
    table = pd.concat([induction_heads(m, threshold) for m in mosaics], ignore_index=True)
    written.append(write_text(folder / "induction_heads.csv", table.to_csv(index=False)))
    return written
