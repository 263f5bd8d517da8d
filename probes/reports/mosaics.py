"""The mosaic report: what `python -m probes mosaic` prints and writes."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from interp import Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.report import Report, Section, as_text, file_name
from interp.output.style import heads_of, label, short, unique
from interp.results.frame import Frame
from probes import plots
from probes.induction.induction_mosaic import induction_mosaic
from probes.induction.mosaic import THRESHOLD, Mosaic
from probes.induction.patch_mosaic import PatchMosaic
from probes.reports.patch_mosaics import patch_sections
from probes.stimuli.repeated_patches import repeated_random_patches


@checked
def induction_heads(mosaic: Mosaic, threshold: float = THRESHOLD) -> pd.DataFrame:
    """List the induction heads of a mosaic, strongest first.

    Args:
        mosaic: the scores to look in.
        threshold: the least score of an induction head.

    Returns:
        One row per head: model, head, kind, score, standard error, lift, attention to EOS.
    """
    frame = mosaic.to_frame().set_index("head")
    rows = [
        {
            "model": short(mosaic.name),
            "head": str(head.address),
            "kind": label(head.kind),
            "score": head.score,
            "stderr": frame.loc[str(head.address), f"{head.kind}_stderr"],
            "lift": frame.loc[str(head.address), "lift"],
            "EOS": frame.loc[str(head.address), "eos"],
        }
        for head in mosaic.heads(threshold)
    ]
    return Frame(rows, columns=["model", "head", "kind", "score", "stderr", "lift", "EOS"])


@checked
def mosaic_summary(mosaics: Sequence[Mosaic], threshold: float = THRESHOLD) -> pd.DataFrame:
    """Summarize mosaics, one row per model: counts, shares, accuracy of the continuation, dtype."""
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
    return Frame(rows)


def mosaic(
    models: Iterable[Model],
    *,
    sequence_length: int | None = None,
    repetitions: int = 2,
    num_unique_sequences: int = 1,
    extension: int = 0,
    sub_extension: int | None = None,
    batch_size: int = 100,
    vocab_range: tuple[int, int] | None = None,
    unique: bool = False,
    min_gap: int = 0,
    prefix: int = 0,
    coefficients: int | None = None,
    seed: int = 0,
    threshold: float = THRESHOLD,
) -> Report:
    """Measure the induction mosaic of some models: page, pictures, JSON and table.

    Args:
        models: the models to set side by side.
        sequence_length: Tokens, or patches, in each random sequence; 10 tokens or 5 patches by default.
        repetitions: How often the sequences come before the query.
        num_unique_sequences: Different sequences in a row.
        extension: How many of them come once more after the repetitions.
        sub_extension: How many tokens of the next one, or patches, come after that; 1 or 2 by default.
        batch_size: Rows of tokens.
        vocab_range: First and last token id; by default those of values within +-1.01. The tutorial on GPT-2 has
            1000 9999.
        unique: Draw tokens without replacement within a row.
        min_gap: Smallest distance in bins between tokens of a row's sequences.
        prefix: Number of random tokens in front.
        coefficients: Of how many numbers a random patch is made, such as 3: its level, slope and curvature. By default
            its values are independent.
        seed: Seed of the tokens.
        threshold: Least score of an induction head.
    """
    shared: dict[str, Any] = {"repetitions": repetitions, "batch_size": batch_size, "seed": seed}
    sizes = {"sequence_length": sequence_length, "sub_extension": sub_extension}
    of_tokens: dict[str, Any] = {
        "num_unique_sequences": num_unique_sequences, "extension": extension, "vocab_range": vocab_range,
        "unique": unique, "min_gap": min_gap, "prefix": prefix,
    }  # fmt: skip
    mosaics: list[Mosaic | PatchMosaic] = []
    for model in models:
        if model.reads_tokens:
            sized: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
            mosaics.append(induction_mosaic(model, **shared, **of_tokens, **sized))
            continue
        if changed := [name for name, value in of_tokens.items() if value != _DEFAULTS[name].default]:
            option = changed[0].replace("_", "-")
            raise InvalidInput(f"--{option} is of tokens, and {model.name} reads patches: leave it out.")
        named: dict[str, int | None] = {
            "patches": sequence_length,
            "extension": sub_extension,
            "coefficients": coefficients,
        }
        chosen = {name: value for name, value in named.items() if value is not None}
        mosaics.append(induction_mosaic(model, repeated_random_patches(model, **shared, **chosen)))
    return mosaic_report(mosaics, threshold)


_DEFAULTS = inspect.signature(mosaic).parameters


def mosaic_report(mosaics: Sequence[Mosaic | PatchMosaic], threshold: float = THRESHOLD) -> Report:
    """Lay out mosaics that were measured before.

    Args:
        mosaics: one per model.
        threshold: the least score of an induction head.

    Raises:
        InvalidInput: no mosaics.
    """
    if not mosaics:
        raise InvalidInput("no mosaics to report: give at least one.")
    of_tokens = [mosaic for mosaic in mosaics if isinstance(mosaic, Mosaic)]
    of_patches = [mosaic for mosaic in mosaics if isinstance(mosaic, PatchMosaic)]
    sections = [
        *(_token_sections(of_tokens, threshold) if of_tokens else []),
        *(patch_sections(of_patches, threshold) if of_patches else []),
    ]
    names = unique([mosaic.name for mosaic in mosaics])
    results = {f"mosaic-{file_name(name)}.json": mosaic for name, mosaic in zip(names, mosaics, strict=True)}
    return Report("induction_mosaic", "Induction mosaic", sections, results)


def _token_sections(mosaics: Sequence[Mosaic], threshold: float) -> list[Section]:
    """Lay out mosaics on tokens: a table of models, then the figures and heads of each."""
    names = unique([m.name for m in mosaics])
    dtypes = ", ".join(sorted({str(m.provenance.get("dtype")) for m in mosaics}))
    words = (
        f"Attention of the {heads_of(m.site for m in mosaics)} from a repeated token to its last earlier occurrence "
        f"(current token) and to the position after it (token to right). Computed in {dtypes}. "
        f"Heads with a score of at least {threshold:g} count as induction heads."
    )
    summary = mosaic_summary(mosaics, threshold)
    tables = [induction_heads(m, threshold) for m in mosaics]
    briefs = [as_text(t) if len(t) else f"{m.name}: no induction heads" for m, t in zip(mosaics, tables, strict=True)]
    sections = [Section("mosaic_summary", "Models", words, table=summary)]
    for name, m in zip(names, mosaics, strict=True):
        figure = plots.mosaic(m, threshold=threshold)
        sections.append(Section(f"mosaic-{file_name(name)}", f"Mosaic: {name}", figure=figure))
    sections += [
        Section("counts", "Counts", figure=plots.head_counts(mosaics, threshold=threshold)),
        Section("layers", "Layers", figure=plots.head_layers(mosaics, threshold=threshold)),
    ]
    for name, m in zip(names, mosaics, strict=True):
        figure = plots.attention_by_occurrence(m, threshold=threshold)
        sections.append(Section(f"occurrences-{file_name(name)}", f"Occurrences: {name}", figure=figure))
    heads = pd.concat(tables, ignore_index=True)
    brief = "\n\n".join([*briefs, as_text(summary)])
    sections.append(Section("induction_heads", "Induction heads", table=heads, brief=brief))
    return sections
