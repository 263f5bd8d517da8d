"""How a model cuts a series into patches: which steps each position of its sequence stands for.

1. What is longer than the context length loses its first steps.
2. The rest is filled up with missing values on the left, to whole patches.
3. One position a patch, and after the last one a [REG] token where the model has one.

Source: `chronos.chronos_bolt.Patch` and `ChronosBoltModelForForecasting.encode`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Patching:
    """How a model cuts a series into patches.

    Attributes:
        size: the steps of a patch.
        context_length: the longest context, in steps.
        has_reg: whether a [REG] token comes after the last patch.
    """

    size: int
    context_length: int
    has_reg: bool

    def count(self, steps: int) -> int:
        """Return how many patches so many steps make."""
        return -(-steps // self.size)

    def steps(self, patch: int, steps: int) -> range:
        """Return the steps of a patch, of a series of so many steps; the first patch may have fewer than the others."""
        start = patch * self.size - (self.count(steps) * self.size - steps)
        return range(max(start, 0), start + self.size)

    def cut(self, values: Float[Tensor, "row step"]) -> Float[Tensor, "row patch step"]:
        """Cut values into patches; missing and added steps are NaN."""
        added = self.count(values.shape[-1]) * self.size - values.shape[-1]
        return nn.functional.pad(values, (added, 0), value=torch.nan).unflatten(-1, (-1, self.size))

    def shown(self, values: Float[Tensor, "row step"]) -> Bool[Tensor, "row pos"]:
        """Mark the positions that hold anything: patches with a value, and [REG]."""
        patches = ~self.cut(values).isnan().all(-1)
        return nn.functional.pad(patches, (0, 1), value=True) if self.has_reg else patches

    def __str__(self) -> str:
        return (
            f"patches of {self.size} steps{' with [REG]' if self.has_reg else ''}, at most {self.context_length} steps"
        )
