"""What each edit does to the tensors it reaches: reference values, rows, positions, knockouts.

What a reference holds is matched row by row and position by position with the run that is on, or refused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from interp.batch import Batch
from interp.capture import capture
from interp.edits import Add, Address, Edit, FreezePatterns, Knockout, Mean, Resample, Scale, Zero
from interp.errors import InvalidInput
from interp.model import Model
from interp.names import AttentionLayer, Head, Site, Stack
from interp.run import Run


@dataclass(eq=False)
class Action:
    """What one edit does to one tensor, or to one head's part of it; `act` gives None for nothing."""

    edit: Edit
    site: Site
    head: int | None
    sets: bool
    act: Callable[[Tensor], Tensor | None]
    acted: bool = False

    def missing(self) -> str:
        """What of the edit was never reached; nothing where all was."""
        if isinstance(self.act, Cut):
            return self.act.missing()
        return "" if self.acted else "nothing ran inside that has it"


def locate(model: Model, address: Address) -> tuple[Site, int | None]:
    """The site at which an address is edited, and the head where it is of one.

    Raises:
        UnknownHead, UnknownSite: this model does not have it.
    """
    if isinstance(address, Head):
        return model.head(address).site("z"), address.head
    if isinstance(address, AttentionLayer):
        at = model.layer(address)
        return Site(at.stack, at.kind, at.layer, "z"), None
    return model.sites(str(address))[0], None


def actions(model: Model, edits: Sequence[Edit], run: Run) -> list[Action]:
    """What edits do, point by point; references are read here, so no edit should be in force.

    Raises:
        UnknownHead, UnknownSite: an address that this model does not have.
        InvalidInput: something other than an edit, or a value of another shape.
    """
    for edit in edits:
        if not isinstance(cast(Any, edit), Edit):
            raise InvalidInput(f"{edit!r:.80} is not an edit: use Zero, Mean, Resample, Scale, Add or Knockout.")
    places = [(edit, *place) for edit in edits for place in _places(model, edit)]
    references = _References(model, [(edit, site) for edit, site, _ in places])
    made: list[Action] = []
    for edit, site, head in places:
        sets = isinstance(edit, Zero | Mean | Resample | FreezePatterns)
        made.append(Action(edit, site, head, sets, _act(model, edit, site, head, run, references)))
    return made


def _places(model: Model, edit: Edit) -> list[tuple[Site, int | None]]:
    if isinstance(edit, FreezePatterns):
        if not isinstance(cast(Any, edit.batch), Batch):
            raise InvalidInput(f"FreezePatterns takes the Batch that will run; found {type(edit.batch).__name__}.")
        return [(site, None) for site in model.sites() if site.name == "pattern"]
    if isinstance(edit, Knockout):
        head = model.head(cast(Head, edit.head))
        return [(edit.at, head.head)]
    return [locate(model, cast(Address, edit.at))]


def _act(
    model: Model, edit: Edit, site: Site, head: int | None, run: Run, references: "_References"
) -> Callable[[Tensor], Tensor | None]:
    if isinstance(edit, Zero):
        return torch.zeros_like
    if isinstance(edit, Scale):
        return partial(torch.mul, other=edit.factor)
    if isinstance(edit, Add):
        value = _addend(model, edit, site, head)
        return partial(_added, value, site, run) if site.name == "pattern" else partial(torch.add, other=value)
    if isinstance(edit, Knockout):
        return Cut(edit, site, run)
    value = references.value(edit, site)
    if head is not None:
        value = value[..., head, :]
    if isinstance(edit, Mean) and not edit.by_position:
        return lambda part: value.to(part).expand_as(part)
    return lambda part: _fit(value, part, edit, site, run)


def _addend(model: Model, edit: Add, site: Site, head: int | None) -> Tensor:
    layout = model.family.point(site).layout
    fits = {
        "stream": (model.d_model,),
        "tokens": (model.d_vocab,),
        "heads": (model.n_heads, model.d_head) if head is None else (model.d_head,),
        "square": (model.n_heads,),
    }[layout]
    value = cast(Tensor, edit.value)
    if value.ndim and tuple(value.shape) != fits:
        raise InvalidInput(f"{edit}: value is {list(value.shape)}; what fits there is a number or {list(fits)}.")
    value = value.to(model.device, model.dtype)
    return value[:, None, None] if layout == "square" and value.ndim else value


def _added(value: Tensor, site: Site, run: Run, part: Tensor) -> Tensor:
    """A pattern with attention added, but to padding."""
    shown = run.tokens(keys_of(site), len(part), 0, part.shape[-1])
    if shown is None:
        return part + value
    shown = shown.to(part.device).reshape(len(part), *[1] * (part.ndim - 2), -1)
    return torch.where(shown, part + value, part)


def keys_of(site: Site) -> Stack:
    """The stack that an attention site's keys are in."""
    return "encoder" if site.kind == "cross" or site.stack == "encoder" else "decoder"


def in_encoder_positions(site: Site) -> bool:
    """Whether the positions of a site (not squares) are those of the encoder's tokens."""
    return site.stack == "encoder" or (site.kind == "cross" and site.name in ("k", "v"))


class _References:
    """The values that edits take from other inputs: one forward for each batch."""

    def __init__(self, model: Model, wanted: Iterable[tuple[Edit, Site]]) -> None:
        sites: dict[int, tuple[Batch, set[Site]]] = {}
        for edit, site in wanted:
            for batch in _batches(edit):
                sites.setdefault(id(batch), (batch, set()))[1].add(site)
        self._caches = {
            key: capture(model, batch, sorted(found, key=str)) for key, (batch, found) in sites.items() if found
        }
        self._device = model.device

    def value(self, edit: Edit, site: Site) -> Tensor:
        """The mean (without its axes of rows and positions, or by position with one row), or rows."""
        batches = _batches(edit)
        values = [self._caches[id(batch)][site] for batch in batches]
        if not isinstance(edit, Mean):
            return values[0]
        total, count = torch.zeros((), device=self._device), torch.zeros((), device=self._device)
        for batch, value in zip(batches, values, strict=True):
            weight = self._weight(batch, site).to(value.device).double()
            weight = weight.reshape(*weight.shape, *[1] * (value.ndim - weight.ndim))
            axes = (0,) if edit.by_position else (0, 1)
            total = total + (value.double() * weight).sum(axes)
            count = count + weight.sum(axes)
        mean = total / count  # NaN at positions where no row has a token
        return mean[None] if edit.by_position else mean

    @staticmethod
    def _weight(batch: Batch, site: Site) -> Tensor:
        """1 for what counts in a mean, along the axes of rows and positions; padding does not."""
        if site.name not in ("scores", "pattern"):
            return batch.mask("encoder" if in_encoder_positions(site) else "decoder")
        # Keys that are padding get no attention: what a query pays goes on summing to 1.
        return batch.mask(site.stack)[:, None]


def _batches(edit: Edit) -> tuple[Batch, ...]:
    if isinstance(edit, Mean):
        return cast(tuple[Batch, ...], edit.reference)
    if isinstance(edit, Resample):
        return (edit.source,)
    return (edit.batch,) if isinstance(edit, FreezePatterns) else ()


def _fit(value: Tensor, part: Tensor, edit: Edit, site: Site, run: Run) -> Tensor:
    """A reference's rows and positions that stand for those of a run's tensor."""
    if site.name in ("scores", "pattern"):
        axes = {-2: site.stack == "decoder", -1: (site.stack, site.kind) == ("decoder", "self")}
    else:
        axes = {1: not in_encoder_positions(site)}
    starts = dict[int, int]()
    for axis, grows in axes.items():
        wanted, there = part.shape[axis], value.shape[axis]
        # The keys of the decoder's own attention are all that came so far; the logits may be of the last ones alone.
        start = run.offset if grows and axis != -1 else 0
        start += max(run.length - wanted, 0) if site.name == "logits" else 0
        if start + wanted > there or (not grows and wanted != there):
            raise InvalidInput(
                f"{edit}: the reference has {there} positions at {site} and the run has {start + wanted}. By "
                "position, a reference needs the run's encoder length and at least its decoder length; a mean over "
                "positions has no such limit."
            )
        value = value.narrow(axis, start, wanted)
        if axis != -1 and bool(value.isnan().any()):
            value = _known(value, axis, start, edit, site, run)
        starts[axis] = start
    rows = len(part)
    inputs = run.inputs_of(rows, len(value))
    if len(value) not in (1, inputs):
        raise InvalidInput(
            f"{edit}: the reference has {len(value)} rows and the run {inputs}: give as many, or one for all."
        )
    for axis, start in starts.items() if isinstance(edit, Resample) else ():
        stack = keys_of(site) if axis == -1 else _positions_of(site)
        _check_tokens(cast(Resample, edit), stack, axis, start, part, run)
    if len(value) > 1:
        value = value.repeat_interleave(rows // inputs, 0)
    if isinstance(edit, Mean) and site.name == "pattern":
        _check_attended(value, part, edit, site, run)
    return value.to(part).expand_as(part)


def _positions_of(site: Site) -> Stack:
    """The stack whose positions a site's are; of its queries, where it has queries and keys."""
    square = site.name in ("scores", "pattern")
    return "encoder" if site.stack == "encoder" or (in_encoder_positions(site) and not square) else "decoder"


def _check_tokens(edit: Resample, stack: Stack, axis: int, start: int, part: Tensor, run: Run) -> None:
    """See that a source has tokens where the run has some; and keys where it has some, which it may attend to."""
    rows, count = len(part), part.shape[axis]
    there = edit.source.mask(stack)[:, start : start + count].bool()
    there = there.repeat_interleave(rows // len(there), 0) if rows % len(there) == 0 else there[:1]
    shown = run.tokens(stack, rows, start, count)
    shown = torch.ones_like(there) if shown is None else shown.to(there.device)
    off = (shown & ~there) if axis != -1 else shown != there
    if bool(off.any()):
        position = start + int(off.any(0).int().argmax())
        raise InvalidInput(
            f"{edit}: {stack} position {position} is padding in a row of the source or of the run, and a token in the "
            "other: rows are matched position by position, so pad both alike."
        )


def _check_attended(value: Tensor, part: Tensor, edit: Mean, site: Site, run: Run) -> None:
    """See that a mean pattern pays nothing to what is padding in the run."""
    offset = run.offset if site.stack == "decoder" else 0
    queries = run.tokens(site.stack, len(part), offset, part.shape[-2])
    keys = run.tokens(keys_of(site), len(part), 0, part.shape[-1])
    if keys is None:
        return
    square = value if value.ndim == 3 else value.abs().amax(1)
    paid = (square != 0) & ~keys.to(value.device)[:, None]
    paid = paid if queries is None else paid & queries.to(value.device)[:, :, None]
    if bool(paid.any()):
        position = int(paid.any(1).any(0).int().argmax())
        raise InvalidInput(
            f"{edit}: the mean pays attention to position {position}, which is padding in a row of the run: take the "
            "mean over rows that are padded alike."
        )


def _known(value: Tensor, axis: int, start: int, edit: Edit, site: Site, run: Run) -> Tensor:
    """A mean by position without what it does not know, which must be padding in the run too."""
    unknown = value.movedim(axis, 0).flatten(1).isnan().any(1)
    shown = run.shown.get("encoder" if in_encoder_positions(site) else "decoder")
    asked = unknown
    if isinstance(shown, Tensor) and shown.ndim == 2:
        asked = unknown & shown[:, start : start + len(unknown)].any(0).to(unknown.device)
    if isinstance(edit, Mean) and bool(asked.any()):
        raise InvalidInput(
            f"{edit}: every row of the reference is padded at position {start + int(asked.int().argmax())}, where the "
            "run has a token: give a reference with tokens there, or take the mean over positions."
        )
    return value.nan_to_num() if isinstance(edit, Mean) else value


class Cut:
    """A knockout at work: it knows which of its positions have been met."""

    def __init__(self, edit: Knockout, site: Site, run: Run) -> None:
        self.edit, self.site, self.run = edit, site, run
        self.left = {"query": set(edit.query or ()), "key": set(edit.key or ())}  # type: ignore[arg-type]
        self.ran = False

    def missing(self) -> str:
        """Which positions no step had."""
        if not self.ran:
            return "nothing ran inside that has it"
        return ", ".join(f"no step had {name} {sorted(left)}" for name, left in self.left.items() if left)

    def __call__(self, part: Tensor) -> Tensor | None:
        self.ran = True
        stack, rows = self.site.stack, len(part)
        offset = self.run.offset if stack == "decoder" else 0
        grows = (stack, self.site.kind) == ("decoder", "self")
        looking = self.run.tokens(stack, rows, offset, part.shape[-2])
        seen = self.run.tokens(keys_of(self.site), rows, 0, part.shape[-1])
        queries = self._here("query", part.shape[-2], offset, stack == "decoder", looking).to(part.device)
        keys = self._here("key", part.shape[-1], 0, grows, seen).to(part.device)
        cut = queries[:, :, None] & keys[:, None]
        if not bool(cut.any()):
            return None
        if not self.edit.renormalise:
            return part.masked_fill(cut, 0)
        # Padding of a decoder alone may see no key at all: there is nothing to cut.
        looks = self._seen(part)
        made = part.masked_fill(cut & looks, -torch.inf)
        blind = looks & ~self._seen(made)
        if bool((blind if looking is None else blind & looking.to(part.device)[:, :, None]).any()):
            raise InvalidInput(
                f"{self.edit}: a query is left without any key, so there is nothing to renormalise: give fewer keys, "
                "or renormalise=False."
            )
        # What padding looks at is read by nobody, but must be a number.
        return torch.where(blind, part, made)

    @staticmethod
    def _seen(scores: Tensor) -> Tensor:
        """Whether a query has a key: masked ones have the lowest finite score, which a softmax of them alone shows."""
        return scores.amax(-1, keepdim=True) > torch.finfo(scores.dtype).min / 2

    def _here(self, name: str, length: int, offset: int, grows: bool, shown: Tensor | None) -> Tensor:
        """Which of the step's own positions are asked for, `[row, pos]`, or `[1, pos]` of all rows alike."""
        asked = cast(tuple[int, ...] | None, getattr(self.edit, name))
        shown = torch.ones(1, length, dtype=torch.bool) if shown is None else shown.cpu()
        if asked is None:
            return torch.ones(1, length, dtype=torch.bool)
        found, outside, counted = torch.zeros_like(shown), set[int](), shown.long().cumsum(1)
        for position in asked:
            # From the end it is a row's own tokens that count.
            wanted = counted[:, -1:] + 1 + position
            at = torch.arange(length)[None] == position - offset if position >= 0 else (counted == wanted) & shown
            if position < 0 and bool((wanted < 1).any()) and bool((wanted >= 1).any()):
                raise InvalidInput(
                    f"{self.edit}: some rows hold fewer tokens than {name}={position} counts, the rest is padding: "
                    "choose a position that all rows have."
                )
            found |= at
            if bool((at & shown).any()):
                self.left[name].discard(position)
            elif not bool(at.any()):
                outside.add(position)
        if not grows and outside:
            raise InvalidInput(
                f"{self.edit}: {self.site.stack} has {length} positions there, so {name} {sorted(outside)} is outside "
                "the sequence."
            )
        return found
