"""An edit that a user writes is one class, and is applied, undone and checked as the toolkit's own are."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import interp
from interp import Batch, Model, Scale, Site
from interp.editing.edit import Act, PlacedEdit
from interp.editing.running import Run
from interp.errors import InertEdit, UnknownHead


@torch.no_grad()
def logits(model: interp.Model, batch: Batch) -> Tensor:
    return model.module(**model.inputs(batch)).logits


@dataclass(frozen=True)
class Negate(PlacedEdit):
    """An edit that the toolkit does not have: the value with its sign turned."""

    def act(self, model: Model, site: Site, head: int | None, run: Run, values: Sequence[Tensor]) -> Act:
        return torch.neg


@pytest.mark.parametrize(
    "at", ["decoder.cross.1.2", "encoder.self.0", "encoder.1.resid_post", "decoder.cross.0.pattern"]
)
def test_an_edit_of_ones_own_needs_a_class_and_nothing_else(model: Model, batch: Batch, at: str) -> None:
    with interp.edited(model, Negate(at)):
        negated = logits(model, batch)
    with interp.edited(model, Scale(at, -1)):
        scaled = logits(model, batch)
    assert torch.equal(negated, scaled)
    assert not torch.equal(negated, logits(model, batch))


def test_an_edit_of_ones_own_is_checked_as_all_are(model: Model) -> None:
    with pytest.raises(InertEdit, match="Negate"), interp.edited(model, Negate("decoder.cross.1.2")):
        pass
    with pytest.raises(UnknownHead), interp.edited(model, Negate("decoder.cross.7.2")):
        pass
