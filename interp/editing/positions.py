"""Positions where an edit acts: whole numbers, slices and ranges, over a sequence that may still be growing.

Positions from 0 count the whole sequence, padding included, whichever step of a generation reaches them. Negative ones
count back over a row's own tokens, from the last that is not padding in the sequence as it is when the step runs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp import validate
from interp.editing.running import Run
from interp.errors import InvalidInput
from interp.names import Site

Positions = int | Sequence[int] | slice
"""One position, several (a range too), or a slice, which may be open-ended."""


@dataclass(frozen=True)
class Span:
    """A slice of positions, which can be compared and hashed."""

    start: int | None
    stop: int | None
    step: int

    def __str__(self) -> str:
        ends = ":".join("" if end is None else str(end) for end in (self.start, self.stop))
        return ends if self.step == 1 else f"{ends}:{self.step}"


def as_positions(name: str, value: Any) -> tuple[int, ...] | Span | None:
    """Return positions in the form in which edits keep them; None stays None.

    Raises:
        InvalidInput: none, one twice, something other than whole numbers, or a slice that runs backwards.
    """
    if value is None or isinstance(value, Span):
        return value
    if not isinstance(value, slice):
        return validate.positions(name, value)
    ends = [None if end is None else validate.whole(name, end, -(2**31)) for end in (value.start, value.stop)]
    step = 1 if value.step is None else validate.whole(f"{name}'s step", value.step, 1)
    start, stop = ends
    same_sign = start is not None and stop is not None and (start < 0) == (stop < 0)
    if (same_sign and start >= stop) or stop == 0:  # type: ignore[operator]
        raise InvalidInput(f"{name}={value!r} holds no position.")
    return Span(start, stop, step)


def words(positions: Iterable[int] | Span | None) -> str:
    """Return positions in few words: neighbours as a range, and no more than six ranges."""
    if positions is None or isinstance(positions, Span):
        return str(positions)
    runs: list[list[int]] = []
    for position in sorted(positions):
        if runs and position == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], position]
        else:
            runs.append([position])
    parts = [" to ".join(map(str, run)) for run in runs]
    more = f", and {len(parts) - 6} more" if len(parts) > 6 else ""
    return f"[{', '.join(parts[:6])}{more}]"


def apart(one: Any, other: Any) -> bool:
    """Tell whether two sets of positions can never meet."""
    if not isinstance(one, tuple) or not isinstance(other, tuple):
        return False
    signs = {position < 0 for position in (*one, *other)}
    return len(signs) == 1 and not set(one) & set(other)


class Chosen:
    """The positions of an edit at work: it knows which of them have been met."""

    def __init__(self, edit: object, name: str, positions: tuple[int, ...] | Span | None) -> None:
        self.edit, self.name, self.positions = edit, name, positions
        self.left = set(positions) if isinstance(positions, tuple) else {positions} - {None}

    def missing(self) -> str:
        """Return the positions that no step had."""
        if isinstance(self.positions, Span):
            return f"no step had a {self.name} of {self.positions}" if self.left else ""
        return f"no step had {self.name} {words(self.left)}" if self.left else ""  # type: ignore[type-var]

    def here(
        self, shown: Bool[Tensor, "row pos"], first: int, own: int, site: Site, grows: bool
    ) -> Bool[Tensor, "row own"]:
        """Mark which of a step's own positions are chosen.

        Args:
            shown: which positions hold a token, up to the step's last.
            first: the position of the first column.
            own: how many columns, the last ones, are of the step itself.
            grows: whether later steps may bring further positions.

        Raises:
            InvalidInput: a negative position that only some rows have, or one outside a sequence that cannot grow.
        """
        if self.positions is None:
            return torch.ones(1, own, dtype=torch.bool)
        columns = first + torch.arange(shown.shape[1])[None]
        if isinstance(self.positions, Span):
            marked = self._span(self.positions, shown, columns)[:, shown.shape[1] - own :]
            if bool(marked.any()):
                self.left.clear()
            return marked
        marked, outside, counted = torch.zeros_like(shown), set[int](), shown.long().cumsum(1)
        for position in self.positions:
            # From the end it is a row's own tokens that count.
            wanted = counted[:, -1:] + 1 + position
            at = (columns == position) if position >= 0 else (counted == wanted) & shown
            if position < 0 and bool((wanted < 1).any()) and bool((wanted >= 1).any()):
                raise InvalidInput(
                    f"{self.edit}: some rows hold fewer tokens than {self.name}={position} counts, the rest is "
                    "padding: choose a position that all rows have."
                )
            marked |= at
            if bool((at & shown)[:, shown.shape[1] - own :].any()):
                self.left.discard(position)
            elif not bool(at.any()):
                outside.add(position)
        if not grows and outside:
            raise InvalidInput(
                f"{self.edit}: {site.stack} has {shown.shape[1]} positions there, so {self.name} {words(outside)} is "
                "outside the sequence."
            )
        return marked[:, shown.shape[1] - own :]

    @staticmethod
    def _span(span: Span, shown: Tensor, columns: Tensor) -> Tensor:
        counted = shown.long().cumsum(1)
        wanted_last = counted[:, -1:] + 1

        def end(position: int | None, default: int) -> Tensor:
            if position is None or position >= 0:
                return torch.full((len(shown), 1), default if position is None else position)
            # As Python's slices do, those that reach beyond the first token begin there.
            at = ((counted == (wanted_last + position).clamp(min=1)) & shown).long().argmax(1, keepdim=True)
            return columns[0, at]

        start, stop = end(span.start, 0), end(span.stop, int(columns[0, -1]) + 1)
        return (columns >= start) & (columns < stop) & ((columns - start) % span.step == 0)


class Selected:
    """What an edit does, at the chosen positions alone."""

    def __init__(self, edit: object, act: Callable[[Tensor], Tensor | None], chosen: Any, site: Site, run: Run) -> None:
        self.act, self.site, self.run, self.ran = act, site, run, False
        self.chosen = Chosen(edit, "position", chosen)

    def missing(self) -> str:
        """Return the positions that no step had."""
        return self.chosen.missing() if self.ran else "nothing ran inside that has it"

    def __call__(self, part: Tensor) -> Tensor | None:
        """Return the tensor with the chosen positions edited; None if this step has none of them."""
        self.ran = True
        axis = part.ndim - 2 if self.site.is_square else 1
        stack = self.site.stack if self.site.is_square else self.site.position_stack
        own, grows = part.shape[axis], stack == "decoder"
        start = self.run.offset if grows else 0
        # Logits may be of the last positions alone.
        start += max(self.run.length - own, 0) if self.site.name == "logits" else 0
        shown = self.run.tokens(stack, len(part), 0, start + own)
        shown = torch.ones(1, start + own, dtype=torch.bool) if shown is None else shown.cpu()
        marked = self.chosen.here(shown, 0, own, self.site, grows).to(part.device)
        if not bool(marked.any()):
            return None
        replaced = self.act(part)
        if replaced is None:
            return None
        shape = [len(marked), *[1] * (part.ndim - 1)]
        shape[axis] = own
        return torch.where(marked.reshape(shape), replaced, part)
