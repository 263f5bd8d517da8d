"""Interventions as values: what is set, scaled, added or cut, and where.

`Zero`, `Mean` and `Resample` set a value, as `FreezePatterns` does with all patterns; `Scale`,
`Add` and `Knockout` change what is there. Where both kinds meet, values are set first. An edit
says nothing about when: `interp.edited` applies it to whatever runs inside.

A head's value is its output z before W_O; a whole attention layer's is the z of all its heads, which for
these edits is the same as its output where W_O is linear without a shift. Where it has one, as in GPT-2,
zero heads leave it: b_O is of no head. For an output without it too, edit `attn_out`.

Source: Heimersheim & Nanda 2024, "How to use and interpret activation patching"; Geva et al. 2023,
"Dissecting Recall of Factual Associations" (attention knockout).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from interp.editing.edit import Act, Edit, PlacedEdit, Target
from interp.editing.references import Spans, check_attended, check_known, check_tokens, fit, mean_value
from interp.editing.running import Run
from interp.errors import InvalidInput
from interp.inputs.batch import Batch
from interp.models.model import Model
from interp.names import AttentionLayer, Pattern, Site
from interp.validate import as_tensor

Reference = Batch | Sequence[Batch]
"""One batch, or a data set as several."""


@dataclass(frozen=True)
class Zero(PlacedEdit):
    """The value is zero.

    Args:
        at: head, attention layer or site.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: scores, which hold the mask.
    """

    at: Target
    sets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._no_scores("the mask is part of the scores, and masked positions would be attended to.")

    def reads_run(self, site: Site) -> bool:
        """Tell that zero is zero in every run."""
        return False

    def act(self, model: Model, site: Site, head: int | None, run: Run, values: Sequence[Tensor]) -> Act:
        """Return the function that gives zeros."""
        return torch.zeros_like

    def agrees(self, other: Edit) -> bool:
        """Tell whether the other edit sets zero too."""
        return isinstance(other, Zero)


@dataclass(frozen=True)
class Scale(PlacedEdit):
    """The value times a factor.

    Args:
        at: head, attention layer or site.
        factor: 1 changes nothing, 0 is `Zero`.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: a factor that is not a finite number, or scores, which hold the mask.
    """

    at: Target
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._no_scores("the mask is part of the scores, and would be scaled too.")
        object.__setattr__(self, "factor", float(_finite(self, "factor", self.factor, 0)))

    def __str__(self) -> str:
        return f"{super().__str__()[:-1]}, factor={self.factor!s:.20})"

    def reads_run(self, site: Site) -> bool:
        """Tell that a factor is the same in every run."""
        return False

    def act(self, model: Model, site: Site, head: int | None, run: Run, values: Sequence[Tensor]) -> Act:
        """Return the function that multiplies with the factor."""
        return partial(torch.mul, other=self.factor)


@dataclass(frozen=True, eq=False)
class Add(PlacedEdit):
    """Something is added to the value at every position: steering.

    Args:
        at: head, attention layer (its output `attn_out`) or site.
        value: a number, or what fits one position: `[d_head]` at a head, `[d_model]` in the
            residual stream and at what is added to it, `[head, d_head]` at q, k, v, z,
            `[head]` at scores and pattern, `[token]` at logits, `[quantile, step]` at quantiles, in the series' units.
            No attention is added to keys that are padding.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: NaN or infinite values, or more axes than any site has.
    """

    at: Target
    value: Tensor | float

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.at, AttentionLayer):
            object.__setattr__(self, "at", Site(self.at.stack, self.at.kind, self.at.layer, "attn_out"))
        elif isinstance(self.at, Pattern) and self.at.of_layers:
            object.__setattr__(self, "at", Pattern(f"{self.at}.attn_out"))
        object.__setattr__(self, "value", _finite(self, "value", self.value, 2))

    def reads_run(self, site: Site) -> bool:
        """Tell whether there is padding to leave out: in a pattern, to whose padding no attention is added."""
        return site.name == "pattern"

    def act(self, model: Model, site: Site, head: int | None, run: Run, values: Sequence[Tensor]) -> Act:
        """Return the function that adds the value.

        Raises:
            InvalidInput: a value of another shape than one position of the site.
        """
        layout = model.family.point(site).layout
        fits = model.shape_at(layout) if head is None else (model.d_head,)
        value = cast(Tensor, self.value)
        if value.ndim and tuple(value.shape) != fits:
            raise InvalidInput(f"{self}: value is {list(value.shape)}; what fits there is a number or {list(fits)}.")
        value = value.to(model.device, model.dtype)
        value = value[:, None, None] if layout == "square" and value.ndim else value
        return partial(_added, value, site, run) if site.name == "pattern" else partial(torch.add, other=value)


@dataclass(frozen=True, eq=False)
class Mean(PlacedEdit):
    """The value is its mean over a reference, as the unedited model computes it.

    Args:
        at: head, attention layer or site.
        reference: a batch, or several as a data set. Masked positions do not count.
        by_position: a mean of its own at each position, over rows; over rows and positions
            otherwise. By position the reference must have the encoder length of what runs, and at
            least its decoder length; positions are those of the tensor, padding counted, and one that is padding in
            all rows of the reference must be so in the run. A mean pattern may pay nothing to the run's padding.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: no reference, batches of different shapes by position, or scores or patterns
            over positions, which have no mean.
    """

    at: Target
    reference: Reference
    by_position: bool = False
    sets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        batches: Any = self.reference
        batches = (batches,) if isinstance(batches, Batch) else tuple(batches) if isinstance(batches, Sequence) else ()
        if not batches or not all(isinstance(batch, Batch) for batch in batches):
            raise InvalidInput(f"{self}: a mean needs a reference to be taken over: give a Batch, or a list of them.")
        shapes = sorted({(b.length("encoder"), b.length("decoder")) for b in batches})
        if self.by_position and len(shapes) > 1:
            raise InvalidInput(f"{self}: a mean by position needs batches of one shape; found lengths {shapes}.")
        self._no_scores("the mean would mix the mask in.")
        if str(self.at).endswith(".pattern") and not self.by_position:
            raise InvalidInput(f"{self}: a pattern has a mean by position only: give by_position=True.")
        object.__setattr__(self, "reference", batches)

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The reference."""
        return cast(tuple[Batch, ...], self.reference)

    def act(self, model: Model, site: Site, head: int | None, run: Run, values: Sequence[Tensor]) -> Act:
        """Return the function that gives the mean."""
        mean = mean_value(self.batches, values, site, self.by_position)
        mean = mean if head is None else mean[..., head, :]
        if self.by_position:
            return lambda part: fit(mean, part, self, site, run)
        return lambda part: mean.to(part).expand_as(part)

    def known(self, value: Tensor, axis: int, start: int, site: Site, run: Run) -> Tensor:
        """Return the mean with zero where no row of the reference has a token, which must be padding in the run too."""
        check_known(self, value, axis, start, site, run)
        return value.nan_to_num()

    def check_match(self, value: Tensor, part: Tensor, site: Site, run: Run, spans: Spans) -> None:
        """Check that a mean pattern pays no attention to padding of the run."""
        if site.name == "pattern":
            check_attended(self, value, part, site, run)


@dataclass(frozen=True, eq=False)
class Resample(PlacedEdit):
    """The value is what the unedited model has on another input, row by row and position by position.

    Args:
        at: head, attention layer or site.
        source: the other input, with as many rows as what runs (or one, for all), the same
            encoder length and at least the same decoder length; padded where that is.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: the source is not a batch.
    """

    at: Target
    source: Batch
    sets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(cast(Any, self.source), Batch):
            raise InvalidInput(f"{self}: the source must be a Batch; found {type(self.source).__name__}.")

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The source."""
        return (self.source,)

    def act(self, model: Model, site: Site, head: int | None, run: Run, values: Sequence[Tensor]) -> Act:
        """Return the function that gives the source's rows."""
        value = values[0] if head is None else values[0][..., head, :]
        return lambda part: fit(value, part, self, site, run)

    def known(self, value: Tensor, axis: int, start: int, site: Site, run: Run) -> Tensor:
        """Return the value: an input is known at all of its positions."""
        return value

    def check_match(self, value: Tensor, part: Tensor, site: Site, run: Run, spans: Spans) -> None:
        """Check that the source has tokens where the run has some."""
        for axis, span in spans.items():
            stack = site.key_stack if axis == -1 else site.position_stack
            check_tokens(self, self.source, stack, axis, span, len(part), run)


@dataclass(frozen=True, eq=False)
class FreezePatterns(Edit):
    """All attention patterns stay what the unedited model has on a batch, whatever else is edited.

    Together with an ablation this gives its pattern-preserving form. It holds for teacher-forced
    runs of that very batch; where other tokens come, as in sampled generation, it is an error.

    Args:
        batch: what will run.
    """

    batch: Batch
    sets: ClassVar[bool] = True

    @property
    def frozen(self) -> Batch:
        """The batch whose patterns these are."""
        return self.batch

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batch."""
        return (self.batch,)

    def places(self, model: Model) -> list[tuple[Site, int | None]]:
        """Return all patterns of the model."""
        if not isinstance(cast(Any, self.batch), Batch):
            raise InvalidInput(f"FreezePatterns takes the Batch that will run; found {type(self.batch).__name__}.")
        return [(site, None) for site in model.sites() if site.name == "pattern"]

    def act(self, model: Model, site: Site, head: int | None, run: Run, values: Sequence[Tensor]) -> Act:
        """Return the function that gives the batch's pattern."""
        return lambda part: fit(values[0], part, self, site, run)

    def known(self, value: Tensor, axis: int, start: int, site: Site, run: Run) -> Tensor:
        """Return the pattern: an input is known at all of its positions."""
        return value

    def check_match(self, value: Tensor, part: Tensor, site: Site, run: Run, spans: Spans) -> None:
        """Leave the match as it is: the run is checked to be the batch itself."""

    def __str__(self) -> str:
        return "FreezePatterns"


def _finite(edit: Any, name: str, value: Any, axes: int) -> Any:
    try:
        tensor = as_tensor(value).detach().clone()
        good = bool(tensor.isfinite().all()) and tensor.ndim <= axes and not tensor.is_complex() and tensor.numel() > 0
    except (TypeError, ValueError, RuntimeError):
        good, tensor = False, None
    if not good:
        what = "a finite number" if axes == 0 else f"finite numbers of at most {axes} axes"
        raise InvalidInput(f"{edit}: {name} must be {what}; found {value!r:.80}.")
    return tensor


def _added(value: Tensor, site: Site, run: Run, part: Tensor) -> Tensor:
    """Add attention to a pattern, except to padding."""
    count, shown = run.keys_seen(site, part)
    if shown is None:
        return part + value
    shown = nn.functional.pad(shown, (0, part.shape[-1] - count)).to(part.device)
    shown = shown.reshape(len(part), *[1] * (part.ndim - 2), -1)
    return torch.where(shown, part + value, part)
