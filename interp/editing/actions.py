"""Edits made ready for a model: what each does to each tensor that it reaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from interp.editing.edit import Act, Edit, PlacedEdit
from interp.editing.positions import Selected
from interp.editing.references import read_references
from interp.editing.running import Run
from interp.errors import InvalidInput
from interp.models.model import Model
from interp.names import Site


@dataclass(eq=False)
class Action:
    """What one edit does to one tensor, or to one head's part of it."""

    edit: Edit
    site: Site
    head: int | None
    act: Act
    acted: bool = False

    @property
    def reads_run(self) -> bool:
        """Whether it must know what is running."""
        return isinstance(self.act, Selected) or self.edit.reads_run(self.site)

    def missing(self) -> str:
        """Say which part of the edit was never reached; empty if all was."""
        return self.edit.missing(self.act, self.acted)


def actions(model: Model, edits: Sequence[Edit], run: Run) -> list[Action]:
    """Turn edits into actions, point by point; references are read here, so no edit should be in force.

    Raises:
        UnknownHead, UnknownSite: an address that this model does not have.
        InvalidInput: something other than an edit, or a value of another shape.
    """
    for edit in edits:
        if not isinstance(cast(Any, edit), Edit):
            raise InvalidInput(f"{edit!r:.80} is not an edit: use Zero, Mean, Resample, Scale, Add or Knockout.")
    places = [(edit, *place) for edit in edits for place in edit.places(model)]
    for edit, site, _ in places:
        if site.name == "scores" and model.is_constant(site.beside("pattern")):
            raise InvalidInput(
                f"{edit}: the decoder of {model.name} has one position, which looks at itself alone: its pattern is 1 "
                "whatever the scores are. Edit the pattern, z or v."
            )
    values = read_references(model, [(edit.batches, site) for edit, site, _ in places])
    return [
        Action(edit, site, head, _at_positions(edit, site, run, edit.act(model, site, head, run, read)))
        for (edit, site, head), read in zip(places, values, strict=True)
    ]


def _at_positions(edit: Edit, site: Site, run: Run, act: Act) -> Act:
    """Return an act that leaves positions alone that its edit does not name."""
    chosen = edit.positions if isinstance(edit, PlacedEdit) else None
    if chosen is not None and not site.has_positions:
        raise InvalidInput(f"{edit}: {site} is of all steps at once and has no positions. Leave positions out.")
    return act if chosen is None else Selected(edit, act, chosen, site, run)
