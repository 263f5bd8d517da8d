"""What each edit does to the tensors it reaches: reference values, rows, positions, knockouts.

What a reference holds is matched row by row and position by position with the run that is on, or refused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from interp.cache import capture
from interp.editing.edits import Add, Address, Edit, FreezePatterns, Knockout, Mean, Resample, Scale, Zero
from interp.editing.knockouts import Cut, keys_of, keys_seen
from interp.editing.running import Run
from interp.errors import InvalidInput
from interp.inputs.batch import Batch
from interp.models.model import Model
from interp.names import AttentionLayer, Head, Site, Stack


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
        """Say which part of the edit was never reached; empty if all was."""
        if isinstance(self.act, Cut):
            return self.act.missing()
        return "" if self.acted else "nothing ran inside that has it"


def locate(model: Model, address: Address) -> tuple[Site, int | None]:
    """Return the site at which an address is edited, and the head if it names one.

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
    """Turn edits into actions, point by point; references are read here, so no edit should be in force.

    Raises:
        UnknownHead, UnknownSite: an address that this model does not have.
        InvalidInput: something other than an edit, or a value of another shape.
    """
    for edit in edits:
        if not isinstance(cast(Any, edit), Edit):
            raise InvalidInput(f"{edit!r:.80} is not an edit: use Zero, Mean, Resample, Scale, Add or Knockout.")
    places = [(edit, *place) for edit in edits for place in _places(model, edit)]
    references = _References(model, [(edit, site) for edit, site, _ in places])
    acts: list[Action] = []
    for edit, site, head in places:
        sets = isinstance(edit, Zero | Mean | Resample | FreezePatterns)
        acts.append(Action(edit, site, head, sets, _act(model, edit, site, head, run, references)))
    return acts


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
    """Add attention to a pattern, except to padding."""
    count, shown = keys_seen(site, part, run)
    if shown is None:
        return part + value
    shown = nn.functional.pad(shown, (0, part.shape[-1] - count)).to(part.device)
    shown = shown.reshape(len(part), *[1] * (part.ndim - 2), -1)
    return torch.where(shown, part + value, part)


def in_encoder_positions(site: Site) -> bool:
    """Tell whether the positions of a site (not squares) are those of the encoder's tokens."""
    return site.stack == "encoder" or (site.kind == "cross" and site.name in ("k", "v"))


class _References:
    """The values that edits take from other inputs: one forward for each batch."""

    def __init__(self, model: Model, wanted: Iterable[tuple[Edit, Site]]) -> None:
        sites: dict[int, tuple[Batch, set[Site]]] = {}
        for edit, site in wanted:
            for batch in _batches(edit):
                sites.setdefault(id(batch), (batch, set()))[1].add(site)
        self._caches = {
            key: capture(model, batch, sorted(needed, key=str)) for key, (batch, needed) in sites.items() if needed
        }
        self._device = model.device

    def value(self, edit: Edit, site: Site) -> Tensor:
        """Return the mean (without axes of rows and positions, or by position with one row), or rows."""
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
        """Return 1 for what counts in a mean, along the axes of rows and positions, and 0 for padding."""
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
    """Return a reference's rows and positions that stand for those of a run's tensor."""
    if site.name in ("scores", "pattern"):
        axes = {-2: site.stack == "decoder", -1: (site.stack, site.kind) == ("decoder", "self")}
    else:
        axes = {1: not in_encoder_positions(site)}
    spans = dict[int, tuple[int, int]]()
    for axis, grows in axes.items():
        wanted, there = part.shape[axis], value.shape[axis]
        if grows and axis == -1:
            wanted = run.keys(wanted)
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
        spans[axis] = start, wanted
    rows = len(part)
    inputs = run.inputs_of(rows, len(value))
    if len(value) not in (1, inputs):
        raise InvalidInput(
            f"{edit}: the reference has {len(value)} rows and the run {inputs}: give as many, or one for all."
        )
    for axis, span in spans.items() if isinstance(edit, Resample) else ():
        stack = keys_of(site) if axis == -1 else _positions_of(site)
        _check_tokens(cast(Resample, edit), stack, axis, span, rows, run)
    if len(value) > 1:
        value = value.repeat_interleave(rows // inputs, 0)
    if isinstance(edit, Mean) and site.name == "pattern":
        _check_attended(value, part, edit, site, run)
    value = value.to(part)
    if value.shape[-1] < part.shape[-1]:
        # Slots of a static cache that no token has filled stay as they are, masked.
        return torch.cat([value.expand(*part.shape[:-1], -1), part[..., value.shape[-1] :]], -1)
    return value.expand_as(part)


def _positions_of(site: Site) -> Stack:
    """Return the stack whose positions a site has; for squares, that of the queries."""
    square = site.name in ("scores", "pattern")
    return "encoder" if site.stack == "encoder" or (in_encoder_positions(site) and not square) else "decoder"


def _check_tokens(edit: Resample, stack: Stack, axis: int, span: tuple[int, int], rows: int, run: Run) -> None:
    """Check that a source has tokens where the run has queries, and keys where the run may attend to keys."""
    start, count = span
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
    """Check that a mean pattern pays no attention to padding of the run."""
    offset = run.offset if site.stack == "decoder" else 0
    queries = run.tokens(site.stack, len(part), offset, part.shape[-2])
    _, keys = keys_seen(site, part, run)
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
    """Return a mean by position without the positions it does not know, which must be padding in the run too."""
    unknown = value.movedim(axis, 0).flatten(1).isnan().any(1)
    shown = run.shown.get("encoder" if in_encoder_positions(site) else "decoder")
    missing = unknown
    if isinstance(shown, Tensor) and shown.ndim == 2:
        missing = unknown & shown[:, start : start + len(unknown)].any(0).to(unknown.device)
    if isinstance(edit, Mean) and bool(missing.any()):
        raise InvalidInput(
            f"{edit}: every row of the reference is padded at position {start + int(missing.int().argmax())}, where "
            "the run has a token: give a reference with tokens there, or take the mean over positions."
        )
    return value.nan_to_num() if isinstance(edit, Mean) else value
