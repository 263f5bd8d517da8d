"""The sections of the composition report about single heads of a model that reads patches."""

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd

from circuits import plots
from circuits.edges import is_fixed
from circuits.weights.head_circuit import qk_circuit
from circuits.weights.patch_circuit import patch_circuit
from interp import Head, Model
from interp.output.report import Section, as_text
from interp.results.frame import Frame


def patch_weights(model: Model, heads: Sequence[Head]) -> list[Section]:
    """Lay out what heads do to random patches by their weights alone, and how many directions their queries use.

    Args:
        model: one that reads patches.
        heads: the heads, in order.
    """
    parts = [patch_circuit(model, head).summary().assign(head=str(head)) for head in heads]
    rows = pd.concat(parts, ignore_index=True)
    table = cast(pd.DataFrame, Frame(rows, columns=["head", *rows.columns.drop("head")]))
    columns = ["head", "circuit", "first", "chance", "control_high", "z", "p"]
    short: Any = table[columns]
    sections = [
        Section(
            "patch_circuits",
            "Patches through single heads",
            "The mosaic's strongest heads on random patches, along the direct path: how often a patch matches itself "
            "best (QK), and how often what is written on it looks most like itself (OV), beside chance. What the "
            "layers below add is left out, so a head whose match is made below it is at chance here.",
            table=table,
            brief=as_text(short, "the strongest heads on random patches, by the weights alone"),
        )
    ]
    asking: Any = [head for head in heads if not is_fixed(model, head.attention, "Q")]
    if asking:
        sections.append(
            Section(
                "singular_values",
                "QK spectra",
                "The same heads, but for those whose query is the same for every input: how many directions their "
                "queries and keys use.",
                figure=plots.singular_values([qk_circuit(model, head) for head in asking]),
            )
        )
    return sections
