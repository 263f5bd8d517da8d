"""What hovering a part of a circuit says: its scores, its weights, its strongest edges."""

from collections.abc import Iterable

import pandas as pd

from circuits.edges import Edge, Node, title
from circuits.plots.stacks import ATTENDED, hover
from interp import Head
from interp.output.style import label
from probes.induction.mosaic import Mosaic

LISTED = 5
"""How many edges in and out hovering a part lists."""


TOLD = ["layer", "index", "edges_in", "edges_out"]
"""Columns of a summary that hovering says anyway."""


def node_words(
    node: Node, edges: dict[Edge, tuple[float, str]], mosaic: Mosaic | None, summary: pd.DataFrame | None
) -> str:
    """Say all that is known of a part.

    Args:
        node: the part.
        edges: of the circuit, with the words for what each adds, strongest first.
        mosaic: adds the scores of heads of its kind.
        summary: adds a head's row, its numbers.

    Returns:
        Lines for a figure.
    """
    lines = [hover(node, mosaic) if isinstance(node, Head) else title(node)]
    if isinstance(node, Head) and summary is not None:
        row = summary[summary["head"] == str(node)].select_dtypes("number")
        row = row.drop(columns=TOLD if mosaic is None else [*TOLD, *ATTENDED, "either"], errors="ignore")
        values = row.iloc[0].dropna().to_dict() if len(row) else {}
        lines += [f"{label(str(name))} {value:.3g}" for name, value in values.items()]
    for way, joined in (
        ("in", [(e.writer, e, words) for e, (_, words) in edges.items() if e.reader == node]),
        ("out", [(e.reader, e, words) for e, (_, words) in edges.items() if e.writer == node]),
    ):
        lines += _listed(way, joined)
    return "<br>".join(lines)


def _listed(way: str, joined: list[tuple[Node, Edge, str]]) -> Iterable[str]:
    if not joined:
        return
    yield f"{len(joined)} {way}"
    for other, edge, words in joined[:LISTED]:
        yield f"· {title(other)}{f':{edge.kind.lower()}' if edge.kind else ''} {words}".rstrip()
    if len(joined) > LISTED:
        yield f"· and {len(joined) - LISTED} more"
