"""QK and OV circuits of heads: what a head looks for, and what it writes, as low-rank matrices.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from interp import Head, Model
from interp.arguments import checked
from interp.models.model import as_model
from interp.models.weights.factored import FactoredMatrix
from interp.models.weights.position_bias import PositionBias, position_bias


@dataclass(frozen=True, eq=False, repr=False)
class HeadCircuit(FactoredMatrix):
    """A head's `[d_model, d_model]` circuit, which knows whose it is; never formed unless asked.

    QK: the score of query x on key y is `x QK y^T`. OV: attending to y writes `y OV`. Both act on residual
    streams divided by their deviation (in T5 the root mean square) where `folded`, on what the norm puts out where
    not.

    The circuit is the linear part, as in the field: norms, spectra and eigenvalues are of it. What a head computes has
    `biases` besides: with b_Q and b_K of a QK circuit scores are `(x A + b_Q) (y B^T + b_K)^T`, with b_V of an OV
    circuit, beside which there is None, the head writes `(y A + b_V) B`. They are zero where the architecture has
    none.
    """

    name: Literal["QK", "OV"]
    head: Head
    model: Model
    folded: bool
    biases: tuple[Float[Tensor, " d_head"], Float[Tensor, " d_head"] | None]

    def __repr__(self) -> str:
        norm = "norm folded" if self.folded else "norm not folded"
        return f"HeadCircuit({self.name} of {self.head}, {self.model.name}, {norm}, rank at most {self.A.shape[-1]})"

    @property
    def position_bias(self) -> PositionBias | None:
        """What is added to a QK circuit's scores by distance, one row; None for OV, and where nothing is added."""
        if self.name == "OV" or (self.head.stack, self.head.kind) not in self.model.family.position_biases:
            return None
        table = position_bias(self.model, f"{self.head.stack}.{self.head.kind}")
        return PositionBias(table.site, table.distances, table.values[self.head.head : self.head.head + 1])


@checked
def qk_circuit(model: Model, head: Head | str, *, fold_norm: bool = True) -> HeadCircuit:
    """Compute W_Q W_K^T: which keys a head's queries look for.

    Args:
        head: such as `decoder.cross.3.5`.
        fold_norm: whether the norms, and GPT-2's 1/sqrt(d_head), are multiplied in; without, it is the plain
            `W_Q @ W_K.T` of the cursive-transformer notebook.

    Returns:
        The circuit, `[d_model of the query's stream, d_model of the key's]`.

    Raises:
        UnknownHead: the model has no such head.
        UnsupportedModel, InvalidInput: weights that cannot be read.

    Source: Elhage et al. 2021; T5 does not divide by sqrt(d_head).
    """
    weights = as_model(model).weights(head, fold_norm=fold_norm)
    biases = (weights.b_Q, weights.b_K)
    return HeadCircuit(weights.W_Q, weights.W_K.mT, "QK", weights.head, model, fold_norm, biases)


@checked
def ov_circuit(model: Model, head: Head | str, *, fold_norm: bool = True) -> HeadCircuit:
    """Compute W_V W_O: what a head writes of what it attends to.

    Args:
        head: such as `decoder.cross.3.5`.
        fold_norm: whether the norm is multiplied in; without, it is the plain `W_V @ W_O` of the
            cursive-transformer notebook.

    Returns:
        The circuit, `[d_model of the stream read, d_model of the stream written]`.

    Raises:
        UnknownHead: the model has no such head.
        UnsupportedModel, InvalidInput: weights that cannot be read.

    Source: Elhage et al. 2021.
    """
    weights = as_model(model).weights(head, fold_norm=fold_norm)
    return HeadCircuit(weights.W_V, weights.W_O, "OV", weights.head, model, fold_norm, (weights.b_V, None))
