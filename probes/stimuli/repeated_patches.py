"""Repeated random patches: a stimulus for models that read values in patches, with the controls that belong to it.

values   P_1 P_2 ... P_n   P_1 P_2 ... P_n   P_1 ... P_k   [REG]        the right forecast: P_k+1 P_k+2 ...

1. Each patch has values of its own, all independent, or drawn from a few coefficients (level, slope, curvature, ...),
   so that no patch continues its neighbour. What comes next can be known from what came before alone.
2. The last patch, P_k, came before. A head that finds it there attends to it (*current*) or to the patch after it
   (*right*), from the decoder, from [REG] or from the last patch itself.
3. The controls have the same lengths and positions: nothing repeated; a period that is no whole number of patches;
   repetitions at other levels; values in another order inside each patch that came before.

Source: after "Hunting for Induction Heads in Amazon's Chronos", part 2 (repeated random tokens); Olsson et al. 2022.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import legendre
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from interp import Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.batch import ValueBatch
from interp.inputs.patches import Patching
from interp.models.model import as_model
from interp.names import Stack
from interp.validate import number, whole

Floats = NDArray[np.float64]

CONTROLS = ("unrepeated", "off_patch", "shifted", "shuffled")
"""The controls: nothing repeated, a period of no whole number of patches, other levels, another order in each patch."""

FOLLOWING = 2
"""How many patches of the right forecast a stimulus knows, as far as one forward pass forecasts them."""


class RepeatedPatches(ValueBatch):
    """A batch of values that knows where its last patch came before, and what follows.

    Attributes:
        occurrences: the earlier patches that the last one repeats, first to last.
        continuation: the steps that follow, in the values' units, `[batch, step]`.
        parameters: what the batch was made with.
    """

    occurrences: tuple[int, ...]
    continuation: Float[Tensor, "batch step"]
    parameters: dict[str, Any]

    def __init__(
        self,
        values: Floats,
        patching: Patching,
        occurrences: tuple[int, ...],
        continuation: Floats,
        parameters: dict[str, Any],
    ) -> None:
        super().__init__(values, patching)
        object.__setattr__(self, "occurrences", occurrences)
        object.__setattr__(self, "continuation", torch.from_numpy(continuation).float())
        object.__setattr__(self, "parameters", parameters)

    @property
    def last(self) -> int:
        """The position of the last patch, which repeats the earlier ones."""
        return self.n_patches - 1

    @property
    def sequence_length(self) -> int:
        """How many patches come before they come again."""
        return int(self.parameters["patches"])

    def places(self, stack: Stack) -> slice:
        """Return the positions of the whole repetitions in the encoder, without those that come once more."""
        return slice(0, self.sequence_length * int(self.parameters["repetitions"]) if stack == "encoder" else 0)

    @property
    def alternatives(self) -> Float[Tensor, "batch patch step"]:
        """The patches that could follow, as they came last: the one that does, then the row's other ones."""
        count, last = self.sequence_length, self.last
        follows = self.continuation[:, None, : self.patching.size]
        came = {place % count: place for place in range(last - count, last)} | {self.occurrences[-1] % count: last}
        others = [came[(self.occurrences[-1] + 1 + after) % count] for after in range(1, count)]
        return torch.cat([follows, self.patching.cut(self.values)[:, others, : follows.shape[-1]]], 1)

    @property
    def _sequence(self) -> "_Sequence":
        parameters = {name: self.parameters[name] for name in _Sequence.PARAMETERS}
        return _Sequence(patching=self.patching, steps=self.continuation.shape[1], **parameters)

    def drawn(self, seed: int) -> Floats:
        """Draw as many other patches as are repeated, as these were drawn: `[row, patch, step]`."""
        own = self._sequence
        # The batch's own seed must not give its own patches again.
        rng = np.random.default_rng((seed, own.seed, len(self.parameters.get("corrupted", [])), 1))
        return own.drawn(rng, own.patches).reshape(len(self), own.patches, -1)

    def controls(self) -> "dict[str, RepeatedPatches]":
        """Make the controls of this batch, of the same shape, with the same positions.

        Returns:
            By name: `unrepeated`, in which nothing comes twice; `off_patch`, whose period is 3/8 of a patch longer, so
            that nothing repeats patch by patch; `shifted`, in which each repetition lies a deviation higher than
            the one before; `shuffled`, in which the values of every patch that came before are in another order. The
            continuation of each is what follows by its own rule.
        """
        own = self._sequence
        return {
            "unrepeated": own.batch("unrepeated"),
            "off_patch": own.batch("off_patch"),
            "shifted": replace(own, shift=own.shift + 1.0).batch("shifted"),
            "shuffled": own.batch("shuffled"),
        }


@checked
def repeated_random_patches(
    model: Model,
    *,
    patches: int = 5,
    repetitions: int = 2,
    extension: int = 2,
    coefficients: int | None = None,
    shift: float = 0.0,
    batch_size: int = 100,
    seed: int = 0,
) -> RepeatedPatches:
    """Repeat random patches and begin them once more: `P1..P5 P1..P5 P1 P2`, which P3 would follow.

    Args:
        model: whose patches they are.
        patches: how many patches are repeated.
        repetitions: how often they come; 1 is the control with one occurrence.
        extension: how many of them come once more after that; the last of these looks back.
        coefficients: of how many numbers a patch is made, as a sum of polynomials (1 is its level, 2 adds the slope, 3
            the curvature); by default each of its values is independent.
        shift: how much higher each repetition lies than the one before, in deviations of the values. A head that
            compares values no longer finds the patch then; one that compares shapes does.
        batch_size: rows, each with patches of its own.

    Returns:
        The batch; the continuation is known for the two patches that follow, as far as one forward pass forecasts.

    Raises:
        InvalidInput: sizes that leave no earlier occurrence or nothing after it, more coefficients than a patch has
            values, or more steps than the model's context.
        MissingCapability: a model that reads tokens.

    Source: after "Hunting for Induction Heads in Amazon's Chronos", part 2; Olsson et al. 2022.
    """
    patching = as_model(model).patching
    steps = min(FOLLOWING * patching.size, model.horizon)
    parameters: dict[str, Any] = {
        "patches": whole("patches", patches, 2),
        "repetitions": whole("repetitions", repetitions, 1),
        "extension": whole("extension", extension, 0),
        "coefficients": None if coefficients is None else whole("coefficients", coefficients, 1),
        "shift": number("shift", shift),
        "batch_size": whole("batch_size", batch_size, 1),
        "seed": whole("seed", seed, 0),
    }
    return _Sequence(**parameters, patching=patching, steps=steps).batch()


@dataclass(frozen=True)
class _Sequence:
    """What a stimulus is made with; `steps` is how many follow."""

    patches: int
    repetitions: int
    extension: int
    coefficients: int | None
    shift: float
    batch_size: int
    seed: int
    patching: Patching
    steps: int

    PARAMETERS = ("patches", "repetitions", "extension", "coefficients", "shift", "batch_size", "seed")

    def __post_init__(self) -> None:
        if self.extension >= self.patches:
            raise InvalidInput(
                f"extension={self.extension} of {self.patches} patches leaves none to go on with: choose 0 to "
                f"{self.patches - 1}."
            )
        if not self.occurrences:
            raise InvalidInput("repetitions=1 with extension=0 repeats nothing: choose one more of either.")
        if self.coefficients is not None and self.coefficients > self.patching.size:
            raise InvalidInput(
                f"coefficients={self.coefficients}: a patch has {self.patching.size} values. Choose at most as many, "
                "or leave coefficients out."
            )
        if self.context > self.patching.context_length:
            raise InvalidInput(
                f"{self.context // self.patching.size} patches are {self.context} steps, and the model sees "
                f"{self.patching.context_length}: take fewer patches or repetitions."
            )

    @property
    def context(self) -> int:
        """The steps of the context."""
        return (self.patches * self.repetitions + self.extension) * self.patching.size

    @property
    def occurrences(self) -> tuple[int, ...]:
        """The earlier patches that the last one repeats."""
        last = self.patches * self.repetitions + self.extension - 1
        return tuple(range(last % self.patches, last, self.patches))

    def batch(self, control: str | None = None) -> RepeatedPatches:
        """Make the batch, or one of its controls."""
        rng, size, total = np.random.default_rng(self.seed), self.patching.size, self.context + self.steps
        own = self.drawn(rng, self.patches)
        if control == "unrepeated":
            values = self.drawn(rng, -(-total // size))[:, :total]
        else:
            if control == "off_patch":
                # Half a patch would make patches come again after two periods; so it takes eight.
                own = np.concatenate([own, self.drawn(rng, 1)[:, : max(3 * size // 8, 1)]], axis=1)
            place = np.arange(total)
            values = own[:, place % own.shape[1]] + self.shift * (place // own.shape[1])
        context = values[:, : self.context]
        if control == "shuffled":
            context = self._shuffled(rng, context)
        named = {"name": "repeated_random_patches", "control": control}
        parameters = named | {name: getattr(self, name) for name in self.PARAMETERS}
        return RepeatedPatches(context, self.patching, self.occurrences, values[:, self.context :], parameters)

    def drawn(self, rng: Generator, count: int) -> Floats:
        """Draw random patches side by side, `[row, step]`, of mean 0 and variance 1."""
        size = self.patching.size
        if self.coefficients is None:
            return rng.standard_normal((self.batch_size, count * size))
        orders = np.arange(self.coefficients)
        basis = legendre.legvander(np.linspace(-1, 1, size), self.coefficients - 1) * np.sqrt(2 * orders + 1)
        factors = rng.standard_normal((self.batch_size, count, self.coefficients))
        patches = factors @ (basis / np.sqrt((basis**2).sum(1).mean())).T
        return patches.reshape(self.batch_size, -1)

    def _shuffled(self, rng: Generator, context: Floats) -> Floats:
        """Put the values of each patch in another order, but for those after the repetitions."""
        size, after = self.patching.size, max(self.extension, 1)
        patches = context.reshape(len(context), -1, size).copy()
        patches[:, :-after] = rng.permuted(patches[:, :-after], axis=-1)
        return patches.reshape(context.shape)
