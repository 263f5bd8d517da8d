"""Circuits between positions: what a head looks for by where a token is, where positions are embedded.

Rows of W_pos are divided by their deviation, as the norm does, and stand for the streams that a head reads: W_pos
through W_QK. Previous-token heads of the first layers show in it. Tokens have no part in it, nor do the layers below.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (the positional part of W_QK).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.weights.head_circuit import HeadCircuit
from circuits.weights.token_circuit import biased, normed
from interp import Head
from interp import validate as checks
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.models.weights.factored import FactoredMatrix
from interp.models.weights.head_weights import position_embedding
from interp.results.by_head import provenance


@dataclass(frozen=True, eq=False, repr=False)
class PositionCircuit(FactoredMatrix):
    """A head's QK circuit between positions, `[query position, key position]`: scores of positions alone."""

    of: Head
    positions: Int[Tensor, "position"]
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        return f"PositionCircuit(QK of {self.of}, {len(self.positions)} positions)"

    def pattern(self) -> Float[Tensor, "query key"]:
        """Return the attention that these scores give: softmax over the keys at or before each query's position."""
        ahead = self.positions[:, None] < self.positions
        return self.full().masked_fill(ahead.to(self.A.device), -torch.inf).softmax(-1)

    @property
    def previous_token(self) -> float:
        """The mean attention to the position one back, over the queries for which it is there; NaN where none is."""
        before = self.positions[:, None] - 1 == self.positions
        return float(self.pattern().cpu()[before].double().mean())


@checked
def position_circuit(circuit: HeadCircuit, positions: Sequence[int] | range | None = None) -> PositionCircuit:
    """Compute a head's QK circuit from positions to positions, through W_pos, biases included.

    Args:
        circuit: of `qk_circuit`. An unfolded one takes W_pos as it is, and lacks GPT-2's 1/sqrt(d_head).
        positions: which, from 0; all by default.

    Returns:
        The map: scores of layer 0 as they would be without token embeddings.

    Raises:
        InvalidInput: another circuit, or positions that the model does not have.
        UnknownSite: an architecture that embeds no positions; `interp.position_bias` says what T5 does by distance.

    Source: Elhage et al. 2021.
    """
    if not isinstance(cast(object, circuit), HeadCircuit) or circuit.name != "QK":
        raise InvalidInput(f"a QK circuit is needed and {circuit!r} was given: see qk_circuit.")
    model = circuit.model
    rows = position_embedding(model)
    wanted = checks.positions("positions", range(len(rows)) if positions is None else positions) or ()
    if min(wanted) < 0 or max(wanted) >= len(rows):
        raise InvalidInput(f"positions={positions!r}: {model.name} has positions 0-{len(rows) - 1}.")
    dtype = torch.promote_types(circuit.A.dtype, torch.float32)
    read = rows[list(wanted)].to(dtype)
    read = normed(model, read) if circuit.folded else read
    left, right = circuit.A.to(dtype), circuit.B.to(dtype)
    queries, keys = biased(read @ left, circuit.biases[0]), biased(read @ right.mT, circuit.biases[1])
    source = provenance(model, name="position_circuit", folded=circuit.folded)
    return PositionCircuit(queries, keys.mT, circuit.head, torch.tensor(wanted), source)
