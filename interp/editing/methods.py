"""Ablation by a named method: zero, mean or resample."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from torch import Tensor

from interp.editing.actions import actions
from interp.editing.edit import Edit, Target, as_address
from interp.editing.edits import Mean, Reference, Resample, Zero
from interp.editing.positions import Positions
from interp.editing.running import Run
from interp.errors import InvalidInput
from interp.inputs.batch import Batch
from interp.models.model import Model
from interp.names import AttentionLayer

Method = Literal["zero", "mean", "resample"]
METHODS: tuple[Method, ...] = ("zero", "mean", "resample")


def ablations(
    targets: Target | Sequence[Target],
    method: Method = "zero",
    reference: Reference | None = None,
    by_position: bool = False,
    positions: Positions | None = None,
) -> list[Edit]:
    """Return the edits that ablate some targets by one method.

    Args:
        targets: heads, attention layers or sites.
        method: `zero`; `mean` over the reference; `resample` from the reference, row by row.
        reference: a batch, or for means several.
        by_position: whether means are taken at each position by itself.
        positions: where along the sequence; everywhere by default.

    Returns:
        One edit a target.

    Raises:
        InvalidInput: an unknown method, a reference that is missing or not used, or a target that
            is named twice.
        UnknownHead, UnknownSite: a malformed address.
    """
    if method not in METHODS:
        raise InvalidInput(f"method={method!r}: there are {', '.join(METHODS)}.")
    items = [targets] if isinstance(targets, Target) else targets
    if not isinstance(cast(Any, items), Sequence):
        raise InvalidInput(f"targets={targets!r}: give an address, or several of them.")
    places = [as_address(target) for target in items]
    if twice := sorted({str(place) for place in places if places.count(place) > 1}):
        raise InvalidInput(f"named more than once: {', '.join(twice)}. Give each once.")
    if by_position and method != "mean":
        raise InvalidInput(f"by_position is of means; the method is {method!r}.")
    if method == "zero":
        if reference is not None:
            raise InvalidInput("a reference was given, which method='zero' does not use: did you mean method='mean'?")
        return [Zero(place, positions=positions) for place in places]
    if reference is None:
        raise InvalidInput(f"method={method!r} needs a reference: give a Batch of the inputs to take values from.")
    if method == "mean":
        return [Mean(place, reference, by_position, positions=positions) for place in places]
    if not isinstance(reference, Batch):
        raise InvalidInput("method='resample' takes one Batch, whose rows stand for the rows of what runs.")
    return [Resample(place, reference, positions=positions) for place in places]


def ablated_z(
    model: Model,
    z: Mapping[AttentionLayer, Tensor],
    run: Run,
    method: Method,
    reference: Reference | None,
    by_position: bool = False,
) -> dict[AttentionLayer, Tensor]:
    """Return what ablation puts in place of all heads' z, by attention layer.

    Args:
        z: the z of a run, `[row, pos, head, d_head]`, by attention layer.
        run: what the run is, whose rows and positions a reference is matched with.

    Returns:
        Tensors of the same shapes.

    Raises:
        InvalidInput: as `ablations`, or a reference that does not fit.
    """
    edits = ablations(list(z), method, reference, by_position) if z else []
    replaced = [action.act(z[at]) for at, action in zip(z, actions(model, edits, run), strict=True)]
    return {at: value for at, value in zip(z, replaced, strict=True) if value is not None}


def method_source(method: Method, reference: Reference | None, **settings: Any) -> dict[str, Any]:
    """Return what results keep of how an ablation was done."""
    batches = () if reference is None else (reference,) if isinstance(reference, Batch) else tuple(reference)
    return {"method": method, "reference": [batch.description for batch in batches], **settings}
