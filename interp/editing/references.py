"""Values from other inputs: read once, then matched row by row and position by position with what is running."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from interp.cache import capture
from interp.editing.running import Run
from interp.errors import InvalidInput
from interp.inputs.batch import Batch
from interp.models.model import Model
from interp.names import Site, Stack

Spans = dict[int, tuple[int, int]]
"""By axis, where the run's positions start in the reference, and how many they are."""


class Matching(Protocol):
    """What an edit says of a match between its reference and a run; both may refuse it."""

    def known(self, value: Tensor, axis: int, start: int, site: Site, run: Run) -> Tensor:
        """Return the value without the positions that it does not know."""
        ...

    def check_match(self, value: Tensor, part: Tensor, site: Site, run: Run, spans: Spans) -> None:
        """Check that what the reference holds there can stand for the run's tensor."""
        ...


def read_references(model: Model, wanted: Iterable[tuple[Sequence[Batch], Site]]) -> list[list[Tensor]]:
    """Read the value at each site on each of its batches, with one forward per batch."""
    pairs = list(wanted)
    sites: dict[int, tuple[Batch, set[Site]]] = {}
    for batches, site in pairs:
        for batch in batches:
            sites.setdefault(id(batch), (batch, set()))[1].add(site)
    caches = {key: capture(model, batch, sorted(needed, key=str)) for key, (batch, needed) in sites.items()}
    return [[caches[id(batch)][site] for batch in batches] for batches, site in pairs]


def mean_value(batches: Sequence[Batch], values: Sequence[Tensor], site: Site, by_position: bool) -> Tensor:
    """Average values over rows and positions that are not padding, or by position over rows, with one row."""
    total, count = (torch.zeros((), device=values[0].device) for _ in range(2))
    for batch, value in zip(batches, values, strict=True):
        # In squares, keys that are padding get no attention: what a query pays goes on summing to 1.
        if not site.has_positions:
            weight = batch.mask(site.stack)
        else:
            weight = batch.mask(site.stack)[:, None] if site.is_square else batch.mask(site.position_stack)
        weight = weight.to(value.device).double()
        weight = weight.reshape(*weight.shape, *[1] * (value.ndim - weight.ndim))
        axes = (0,) if by_position or not site.has_positions else (0, 1)
        total = total + (value.double() * weight).sum(axes)
        count = count + weight.sum(axes)
    mean = total / count  # NaN at positions where no row has a token
    return mean[None] if by_position else mean


def fit(value: Tensor, part: Tensor, edit: Matching, site: Site, run: Run) -> Tensor:
    """Return a reference's rows and positions that stand for those of a run's tensor."""
    if not site.has_positions:
        axes = {}
    elif site.is_square:
        axes = {-2: site.stack == "decoder", -1: (site.stack, site.kind) == ("decoder", "self")}
    else:
        axes = {1: site.position_stack == "decoder"}
    spans: Spans = {}
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
            value = edit.known(value, axis, start, site, run)
        spans[axis] = start, wanted
    rows = len(part)
    inputs = run.inputs_of(rows, len(value))
    if len(value) not in (1, inputs):
        raise InvalidInput(
            f"{edit}: the reference has {len(value)} rows and the run {inputs}: give as many, or one for all."
        )
    if len(value) > 1:
        value = value.repeat_interleave(rows // inputs, 0)
    edit.check_match(value, part, site, run, spans)
    value = value.to(part)
    if value.shape[-1] < part.shape[-1]:
        # Slots of a static cache that no token has filled stay as they are, masked.
        return torch.cat([value.expand(*part.shape[:-1], -1), part[..., value.shape[-1] :]], -1)
    return value.expand_as(part)


def check_tokens(
    edit: Matching, source: Batch, stack: Stack, axis: int, span: tuple[int, int], rows: int, run: Run
) -> None:
    """Check that a source has tokens where the run has queries, and keys where the run may attend to keys."""
    start, count = span
    there = source.mask(stack)[:, start : start + count].bool()
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


def check_attended(edit: Matching, value: Tensor, part: Tensor, site: Site, run: Run) -> None:
    """Check that a mean pattern pays no attention to padding of the run."""
    offset = run.offset if site.stack == "decoder" else 0
    queries = run.tokens(site.stack, len(part), offset, part.shape[-2])
    _, keys = run.keys_seen(site, part)
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


def check_known(edit: Matching, value: Tensor, axis: int, start: int, site: Site, run: Run) -> None:
    """Check that positions that a mean by position does not know are padding in the run too."""
    unknown = value.movedim(axis, 0).flatten(1).isnan().any(1)
    shown = run.shown.get(site.position_stack)
    missing = unknown
    if isinstance(shown, Tensor) and shown.ndim == 2:
        missing = unknown & shown[:, start : start + len(unknown)].any(0).to(unknown.device)
    if bool(missing.any()):
        raise InvalidInput(
            f"{edit}: every row of the reference is padded at position {start + int(missing.int().argmax())}, where "
            "the run has a token: give a reference with tokens there, or take the mean over positions."
        )
