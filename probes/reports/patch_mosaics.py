"""The sections of the mosaic report about models that read patches."""

from collections.abc import Sequence

import pandas as pd

from interp.output.report import Section, as_text, file_name
from interp.output.style import short, unique
from interp.results.frame import Frame
from probes import plots
from probes.induction.mosaic import KINDS
from probes.induction.patch_mosaic import REPEATED, PatchMosaic
from probes.plots.patch_mosaics import STIMULI, controls, stimulus_words

WORDS = (
    "Attention to the earlier occurrence of the last patch (current patch) and to the patch after it (patch to right), "
    "from the decoder's one position, from [REG] and from the last patch itself. The third column shows the same "
    "positions where nothing repeats. Heads with a score of at least {threshold:g} count as induction heads."
)


def patch_heads(mosaic: PatchMosaic, threshold: float) -> pd.DataFrame:
    """List the induction heads of a mosaic by query, strongest first, with the larger of both scores on each control.

    Args:
        mosaic: of a model that reads patches.
        threshold: the least score of an induction head.
    """
    rows = [
        {
            "head": str(head.address),
            "query": query,
            "kind": "current" if head.kind == KINDS[0] else "right",
            "score": head.score,
            **{
                stimulus: queries[query].either.values[head.address.layer, head.address.head]
                for stimulus, queries in mosaic.mosaics.items()
                if stimulus != REPEATED
            },
        }
        for query, of_query in mosaic.mosaics[REPEATED].items()
        for head in of_query.heads(threshold)
    ]
    return Frame(rows, columns=["head", "query", "kind", "score", *(name for name in STIMULI if name != REPEATED)])


def patch_sections(mosaics: Sequence[PatchMosaic], threshold: float) -> list[Section]:
    """Lay out mosaics of models that read patches: forecasts by stimulus, then figures and heads of each."""
    names = unique([mosaic.name for mosaic in mosaics])
    forecasts = Frame(
        [
            {
                "model": short(name),
                "stimulus": STIMULI[stimulus][0],
                "pinball": mosaic.losses[stimulus].mean(),
                "distance": mosaic.distances[stimulus].mean(),
            }
            for name, mosaic in zip(names, mosaics, strict=True)
            for stimulus in mosaic.mosaics
        ]
    )
    note = (
        "Pinball loss over the levels, and the distance of the median, on the two patches that follow, in deviations "
        "of the context. Where a model goes on with what it saw, it is far better on repeated patches than on "
        "unrepeated ones."
    )
    sections = [Section("patch_forecasts", "Forecasts of patches", note, table=forecasts, brief=as_text(forecasts))]
    for name, mosaic in zip(names, mosaics, strict=True):
        file, table = file_name(name), patch_heads(mosaic, threshold)
        words = f"{WORDS.format(threshold=threshold)} The stimulus is {stimulus_words(mosaic)}."
        brief = as_text(table.drop(columns="off_patch")) if len(table) else f"{mosaic.name}: no induction heads"
        sections += [
            Section(f"mosaic-{file}", f"Mosaic: {name}", words, figure=plots.mosaic(mosaic, threshold=threshold)),
            Section(
                f"controls-{file}",
                f"Controls: {name}",
                "The strongest heads of each query, beside their scores on the controls. A head that matches shapes "
                "finds patches at other levels too; one that looks at a position scores the same everywhere.",
                figure=controls(mosaic),
                table=table,
                brief=brief,
            ),
        ]
    return sections
