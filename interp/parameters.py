"""A module's parameters, held against what cannot be computed with."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.errors import InvalidInput, UnsupportedModel

if TYPE_CHECKING:
    from interp.model import Model

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What can be computed with: 8-bit floats are storage, as integers are."""


def readable(model: "Model", path: str, name: str = "weight") -> Tensor:
    """A module's weight or bias, detached, held against what cannot be computed with.

    Args:
        model: the model.
        path: of the module, dotted.
        name: of the parameter.

    Returns:
        The parameter itself, not a copy.

    Raises:
        UnsupportedModel: weights on the meta device, or quantised.
        InvalidInput: weights with NaN or infinite values.
    """
    weight: object = getattr(model.module.get_submodule(path), name, None)
    if not isinstance(weight, Tensor) or weight.dtype not in DTYPES:
        raise UnsupportedModel(f"{model.name}: {path} is quantised: open the model in a float dtype.")
    if weight.is_meta:
        raise UnsupportedModel(f"{model.name}: {path} is on the meta device: load the weights first.")
    # The sum is many times faster; it can overflow where every weight is finite.
    if not bool(weight.detach().sum().isfinite()) and not bool(weight.isfinite().all()):
        raise InvalidInput(f"{model.name}: {path} holds NaN or infinite weights: load the model again.")
    return weight.detach()
