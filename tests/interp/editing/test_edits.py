"""Edits as values: what they accept, and what bad input gets before anything runs."""

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import Add, Batch, Knockout, Mean, Resample, Scale, Zero
from interp.editing.edit import as_address
from interp.editing.methods import ablations
from interp.errors import InvalidInput, UnknownHead, UnknownSite
from interp.names import AttentionLayer, Head, Site
from interp.results.by_head import ScoredHead

pytestmark = pytest.mark.versions

HEAD = Head("decoder", "cross", 1, 2)


def test_one_address_for_everything() -> None:
    assert as_address("decoder.cross.1.2") == HEAD == as_address(HEAD) == as_address(ScoredHead(HEAD, "x", 1.0))
    assert as_address("decoder.cross.1") == AttentionLayer("decoder", "cross", 1)
    assert as_address("decoder.1.mlp_out") == Site("decoder", None, 1, "mlp_out")
    assert as_address("encoder.self.0.pattern") == Site("encoder", "self", 0, "pattern")
    assert Zero("decoder.cross.1.2") == Zero(HEAD)
    assert str(Zero(HEAD)) == "Zero('decoder.cross.1.2')"


@pytest.mark.parametrize(
    "text", ["decoder.cross.1.x", "decoder.cros.1.2", "nothing", "decoder.1.mlp", "encoder.cross.0.1"]
)
def test_malformed_addresses(text: str) -> None:
    with pytest.raises((UnknownHead, UnknownSite)):
        Zero(text)


def test_head_out_is_not_a_tensor_of_its_own() -> None:
    with pytest.raises(UnknownSite, match=r"Edit decoder\.cross\.1\.z"):
        Add("decoder.cross.1.head_out", 1.0)


@pytest.mark.parametrize("value", [float("nan"), "much", torch.ones(2, 2, 2), torch.tensor([1.0, torch.inf]), []])
def test_values_must_be_finite_numbers(value: Any) -> None:
    with pytest.raises(InvalidInput):
        Add(HEAD, value)


@pytest.mark.parametrize("factor", [float("inf"), None, "2x", torch.ones(2)])
def test_factors_must_be_numbers(factor: Any) -> None:
    with pytest.raises(InvalidInput):
        Scale(HEAD, factor)


def test_a_mean_needs_a_reference(batch: Batch) -> None:
    for nothing in (None, [], [1, 2], torch.ones(2, 2), np.ones(3), 5):
        with pytest.raises(InvalidInput, match="needs a reference"):
            Mean(HEAD, nothing)  # type: ignore[arg-type]
    other = Batch(input_ids=torch.tensor([[5, 6, 1]]))
    with pytest.raises(InvalidInput, match="one shape"):
        Mean(HEAD, [batch, other], by_position=True)
    assert len(Mean(HEAD, [batch, other]).reference) == 2
    with pytest.raises(InvalidInput, match="by_position=True"):
        Mean("decoder.cross.1.pattern", batch)


def test_scores_hold_the_mask(batch: Batch) -> None:
    at = "decoder.cross.1.scores"
    with pytest.raises(InvalidInput, match="mask"):
        Zero(at)
    with pytest.raises(InvalidInput, match="mask"):
        Scale(at, 0.0)
    with pytest.raises(InvalidInput, match="mask"):
        Mean(at, batch, by_position=True)


def test_resample_takes_a_batch() -> None:
    with pytest.raises(InvalidInput, match="Batch"):
        Resample(HEAD, torch.ones(2, 3))  # type: ignore[arg-type]


def test_knockouts() -> None:
    found = Knockout("decoder.cross.1.2", query=-1, key=np.array([3, 4]))
    assert (found.query, found.key) == ((-1,), (3, 4))
    for bad in ({}, {"key": []}, {"key": [1, 1]}, {"key": 1.5}, {"query": True, "key": 0}):
        with pytest.raises(InvalidInput):
            Knockout(HEAD, **bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="of heads"):
        Knockout("decoder.cross.1.z", key=1)


def test_ablations_by_method(batch: Batch) -> None:
    assert ablations(["decoder.cross.1.2", "encoder.self.0"]) == [Zero(HEAD), Zero("encoder.self.0")]
    assert ablations(HEAD) == [Zero(HEAD)]
    assert ablations([]) == []
    assert isinstance(ablations(HEAD, "mean", [batch, batch])[0], Mean)
    assert isinstance(ablations(HEAD, "resample", batch)[0], Resample)


@pytest.mark.parametrize(
    ("targets", "options", "says"),
    [
        (["decoder.cross.1.2", HEAD], {}, "more than once"),
        (None, {}, "give an address"),
        (HEAD, {"method": "none"}, "zero, mean, resample"),
        (HEAD, {"method": "mean"}, "needs a reference"),
        (HEAD, {"method": "resample"}, "needs a reference"),
        (HEAD, {"reference": 1}, "does not use"),
        (HEAD, {"by_position": True}, "by_position"),
        (HEAD, {"method": "resample", "reference": [1]}, "one Batch"),
    ],
)
def test_ablations_refuse(targets: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        ablations(targets, **options)


def test_edits_are_public() -> None:
    for name in ("Zero", "Mean", "Resample", "Scale", "Add", "Knockout", "FreezePatterns", "edited", "ablate"):
        assert name in interp.__all__
