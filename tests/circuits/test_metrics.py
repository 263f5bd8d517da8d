"""Metrics of logits: the numbers by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import circuits
import interp
import probes
from circuits.metrics import bin_centers, expected_value
from tests.tolerance import close


def test_a_certain_forecast_is_worth_its_token(model: interp.Model) -> None:
    """Each token's value is what the pipeline itself decodes it to; the two lowest decode to the same bin."""
    tokens = torch.tensor([2, 3, 1000, 2049, 4095])
    logits = torch.full((len(tokens), 1, model.d_vocab), -1e4)
    logits[torch.arange(len(tokens)), 0, tokens] = 0
    close(expected_value(model)(logits), probes.token_values(model, tokens))
    everything = probes.token_values(model, torch.arange(2, model.d_vocab)).double()
    close(bin_centers(model), everything)


def _pair(rows: int = 3) -> tuple[interp.Batch, interp.Batch]:
    generator = torch.Generator().manual_seed(4)
    encoder = torch.randint(2, 4096, (2, rows, 7), generator=generator)
    decoder = torch.randint(2, 4096, (2, rows, 3), generator=generator)
    mask = torch.ones(rows, 7, dtype=torch.long)
    mask[0, :2] = 0
    clean, corrupt = (interp.Batch(encoder[i], mask, decoder[i]) for i in range(2))
    return clean, corrupt


def test_whether_a_token_is_right_is_a_number(model: interp.Model) -> None:
    """Counts and truth values can be patched, and not differentiated."""
    clean, corrupt = _pair()
    top = model.module(**model.inputs(clean)).logits[:, -1].argmax(-1)

    def right(logits: Tensor) -> Tensor:
        return logits[:, -1].argmax(-1) == top

    def which(logits: Tensor) -> Tensor:
        return logits[:, -1].argmax(-1)

    assert circuits.patch_heads(model, clean, corrupt, right, progress=False).clean.tolist() == [1.0] * 3
    assert circuits.patch_heads(model, clean, corrupt, which, progress=False).clean.tolist() == top.tolist()
    for metric in (right, which):
        with pytest.raises(interp.errors.InvalidInput, match="not differentiable"):
            circuits.attribution_patching(model, clean, corrupt, metric, progress=False)
    with pytest.raises(interp.errors.InvalidInput, match="real numbers"):
        circuits.patch_heads(model, clean, corrupt, lambda logits: logits[:, -1, 5] * 1j, progress=False)


def test_a_gradient_that_does_not_come_through_the_logits(model: interp.Model) -> None:
    clean, corrupt = _pair()
    weight = model.module.get_parameter("shared.weight")

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1, 5].detach() * weight[0, 0]

    with pytest.raises(interp.errors.InvalidInput, match="not differentiable"):
        circuits.attribution_patching(model, clean, corrupt, metric, progress=False)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("integrated", [0, 2])
def test_in_inference_mode(model: interp.Model, integrated: int, frozen: bool) -> None:
    clean, corrupt = _pair()
    settings = {"integrated": integrated, "progress": False}
    metric = circuits.logit_difference([5, 6, 7], 9)
    plain = circuits.attribution_patching(model, clean, corrupt, metric, **settings)
    for weight in model.module.parameters():
        weight.requires_grad_(not frozen)
    with torch.inference_mode():
        clean, corrupt = _pair()
        metric = circuits.logit_difference([5, 6, 7], 9)
        found = circuits.attribution_patching(model, clean, corrupt, metric, **settings)
    np.testing.assert_array_equal(found.values, plain.values)
    assert all(weight.grad is None for weight in model.module.parameters())


def test_something_else_than_a_model() -> None:
    clean, corrupt = _pair()
    metric = circuits.logit_difference(5, 9)
    pair: Any = (clean, corrupt, metric)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (circuits.attribution_patching, pair),
        (circuits.patch_heads, pair),
        (circuits.patch_sites, pair),
        (circuits.evaluate, (circuits.Circuit(), *pair)),
        (circuits.gradients, (clean, metric, "decoder.0.mlp_out")),
        (circuits.Circuit.full, ()),
    ]
    for call, rest in calls:
        with pytest.raises(interp.errors.InvalidInput, match="a model is needed"):
            call("pico-t5", *rest)
