"""From a circuit back to its heads: one row a head, with its weights, its scores and its place in the circuit."""

from collections.abc import Mapping, Sequence

import pandas as pd

from circuits.edges import Composition
from circuits.graph.circuit import Circuit, check_circuit
from circuits.weights.head_summary import summary_of
from circuits.weights.token_circuit import Tokens
from interp import Head, Model
from interp.arguments import checked
from interp.models.model import as_model
from interp.results.by_head import HeadScores
from interp.results.frame import Frame
from probes.induction.mosaic import Mosaic

READS: dict[str, Composition] = {"queries_from": "Q", "keys_from": "K", "values_from": "V"}
"""Columns of what a head reads, and by which of its inputs."""


@checked
def circuit_summary(
    model: Model,
    circuit: Circuit,
    *,
    tokens: Tokens | None = None,
    mosaic: Mosaic | None = None,
    effects: HeadScores | Mapping[str, HeadScores] | Sequence[HeadScores] = (),
) -> pd.DataFrame:
    """Tabulate what is known of the heads of a circuit: one row per head, in forward order.

    Args:
        model: the model, whose circuit it is.
        circuit: the circuit.
        tokens: which tokens the scores in token space are over; by default the values within +-1.01.
        mosaic: adds `current_token, token_to_right, either`.
        effects: of `head_effects`, or several, such as one for each kind of heads; other scores of heads, too.

    Returns:
        The columns of `head_summary`, then `edges_in` and `edges_out`, how many of the circuit's edges arrive and
        leave; `queries_from, keys_from, values_from`, the parts that it reads by each input; and `writes_to`, the parts
        that read it, heads by an input (`decoder.cross.1.2:k`). Parts are addresses with commas between.

    Raises:
        InvalidInput: something else than a circuit, a circuit or scores of other weights; and as `head_summary`.
        UnknownHead, UnknownSite: an edge of a part that this model does not have.
    """
    chosen = check_circuit(as_model(model), circuit)
    scores = [effects] if isinstance(effects, HeadScores) else effects
    layers = list(dict.fromkeys(head.attention for head in chosen.heads))
    frame = summary_of(model, layers, tokens, mosaic, scores, "effects")
    frame = frame[frame["head"].isin([str(head) for head in chosen.heads])].reset_index(drop=True)
    return pd.concat([frame, Frame([_edges(chosen, head) for head in chosen.heads], columns=COLUMNS)], axis=1)


COLUMNS = ["edges_in", "edges_out", *READS, "writes_to"]


def _edges(circuit: Circuit, head: Head) -> dict[str, object]:
    """Describe a head's place in a circuit."""
    arriving = [edge for edge in circuit if edge.reader == head]
    leaving = [edge for edge in circuit if edge.writer == head]
    reads = {
        column: ", ".join(str(edge.writer) for edge in arriving if edge.kind == kind) for column, kind in READS.items()
    }
    to = ", ".join(f"{edge.reader}{f':{edge.kind.lower()}' if edge.kind else ''}" for edge in leaving)
    return {"edges_in": len(arriving), "edges_out": len(leaving), **reads, "writes_to": to}
