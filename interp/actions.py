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
from interp.names import AttentionLayer, Head, Site
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
        return partial(torch.add, other=_addend(model, edit, site, head))
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
        # Padding of an encoder looks at the same keys as all; that of a decoder alone has none to look at.
        return torch.ones(len(batch), 1) if site.stack == "encoder" else batch.mask("decoder")[:, None]


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
    rows = len(part)
    inputs = run.inputs_of(rows, len(value))
    if len(value) not in (1, inputs):
        raise InvalidInput(
            f"{edit}: the reference has {len(value)} rows and the run {inputs}: give as many, or one for all."
        )
    if len(value) > 1:
        value = value.repeat_interleave(rows // inputs, 0)
    value = value.to(part)
    if value.shape[-1] < part.shape[-1]:
        # Slots of a static cache that no token has filled stay as they are, masked.
        return torch.cat([value.expand(*part.shape[:-1], -1), part[..., value.shape[-1] :]], -1)
    return value.expand_as(part)


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
        offset = self.run.offset if self.site.stack == "decoder" else 0
        grows = (self.site.stack, self.site.kind) == ("decoder", "self")
        queries = self._here("query", part.shape[-2], offset, self.site.stack == "decoder", part)
        keys = self._here("key", self.run.keys(part.shape[-1]) if grows else part.shape[-1], 0, grows, part)
        if not len(queries) or not len(keys):
            return None
        value = part.clone()
        if not self.edit.renormalise:
            value[:, queries[:, None], keys] = 0
            return value
        # Padding of a decoder alone sees no key at all: there is nothing to cut.
        cut = value[:, queries].index_fill(-1, keys, -torch.inf)
        looks = self._seen(value[:, queries])
        if not bool((self._seen(cut) | ~looks).all()):
            raise InvalidInput(
                f"{self.edit}: a query is left without any key, so there is nothing to renormalise: give fewer keys, "
                "or renormalise=False."
            )
        value[:, queries] = torch.where(looks, cut, value[:, queries])
        return value

    @staticmethod
    def _seen(scores: Tensor) -> Tensor:
        """Whether a query has a key: masked ones have the lowest finite score, which a softmax of them alone shows."""
        return scores.amax(-1, keepdim=True) > torch.finfo(scores.dtype).min / 2

    def _here(self, name: str, length: int, offset: int, grows: bool, part: Tensor) -> Tensor:
        """The asked positions as indices into the step's own."""
        asked = cast(tuple[int, ...] | None, getattr(self.edit, name))
        if asked is None:
            return torch.arange(length, device=part.device)
        places = {p: p + length if p < 0 else p - offset for p in asked}
        inside = {p: index for p, index in places.items() if 0 <= index < length}
        if not grows and len(inside) < len(asked):
            raise InvalidInput(
                f"{self.edit}: {self.site.stack} has {length} positions there, so {name} "
                f"{sorted(set(asked) - set(inside))} is outside the sequence."
            )
        self.left[name] -= set(inside)
        return torch.tensor(sorted(inside.values()), device=part.device, dtype=torch.long)
