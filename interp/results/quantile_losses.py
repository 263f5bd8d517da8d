"""Quantiles of a forecast: one level of them, and their pinball loss against what came.

Source: Koenker & Bassett 1978, "Regression Quantiles".
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InvalidInput

Levels = tuple[float, ...]


def at_level(
    quantiles: Float[Tensor, "*row quantile step"], levels: Levels, level: float
) -> Float[Tensor, "*row step"]:
    """Return the quantile at a level, interpolated between its two neighbours as they are, whether they cross or not.

    Raises:
        InvalidInput: a level outside the model's.
    """
    if not levels[0] <= level <= levels[-1]:
        raise InvalidInput(
            f"level={level}: the model's quantiles are at {levels[0]:g} to {levels[-1]:g}, and nothing is known "
            "outside them. Choose a level between."
        )
    after = next(i for i, own in enumerate(levels) if own >= level)
    if levels[after] == level:
        return quantiles[..., after, :]
    share = (level - levels[after - 1]) / (levels[after] - levels[after - 1])
    return torch.lerp(quantiles[..., after - 1, :], quantiles[..., after, :], share)


def pinball_loss(
    quantiles: Float[Tensor, "*row quantile step"], levels: Levels, truth: Float[Tensor, "*row step"]
) -> Float[Tensor, "*row"]:
    """Return the pinball loss, averaged over levels and steps: (y - q) * (level - [y < q]).

    Args:
        truth: the first steps of those that are forecast; missing ones (NaN) do not count.
    """
    at = torch.tensor(levels).to(quantiles)[:, None]
    off = truth[..., None, :] - quantiles[..., : truth.shape[-1]]
    return torch.maximum(at * off, (at - 1) * off).nanmean((-2, -1))
