"""Batches of values: what a model of patches is fed, and which steps each position stands for."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import Batch, capture
from interp.errors import InvalidInput, MissingCapability
from interp.inputs.batch import ValueBatch
from interp.inputs.patches import Patching
from tests.conftest import masked_batch, tiny_bolt, tiny_pipeline, values_with_gaps


def bolt(**changes: Any) -> interp.Model:
    return interp.wrap(tiny_bolt(**changes), name="tiny-bolt")


def batch_of(model: interp.Model, series: Any) -> ValueBatch:
    batch = Batch.from_series(model, series)
    assert isinstance(batch, ValueBatch)
    return batch


def test_a_batch_knows_what_it_is_of() -> None:
    values = batch_of(bolt(), values_with_gaps())
    assert not values.has_tokens
    assert masked_batch(True).has_tokens
    assert masked_batch(False).has_tokens
    assert len(values) == 4
    assert values.has_encoder
    assert values.length("encoder") == 7
    assert values.length("decoder") == 1
    assert values.description == {"shape": [4, 45]}
    assert repr(values) == "ValueBatch(4 series of 45 steps: patches of 8 steps with [REG], at most 96 steps)"


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 45, 96, 97, 130])
@pytest.mark.parametrize("reg", [True, False])
def test_each_patch_holds_the_steps_that_are_said(steps: int, reg: bool) -> None:
    """Changing one step changes the embedding of its patch alone, but for the mean and deviation of the series."""
    model = bolt(use_reg_token=reg)
    values = torch.randn(1, steps, generator=torch.Generator().manual_seed(0))
    batch = batch_of(model, values)
    left = min(steps, 96)
    assert batch.dropped == steps - left
    assert ("34 steps before them cut off" in repr(batch)) == (batch.dropped == 34)
    assert torch.equal(batch.values, values[:, -left:])
    assert batch.n_patches == -(-left // 8)
    assert batch.reg == (batch.n_patches if reg else None)
    assert [step for patch in range(batch.n_patches) for step in batch.steps(patch)] == [*range(left)]
    assert batch.steps(-1) == batch.steps(batch.n_patches - 1) == range(max(left - 8, 0), left)
    assert batch.length("encoder") == batch.n_patches + reg
    assert capture(model, batch, "encoder.0.resid_pre")["encoder.0.resid_pre"].shape[1] == batch.length("encoder")
    missing = batch.values.clone()
    missing[:, [*batch.steps(0)]] = torch.nan
    if batch.n_patches > 1:
        mask = batch_of(model, missing).mask("encoder")
        assert mask.tolist() == [[0] + [1] * (batch.length("encoder") - 1)]


def test_masks_are_those_that_the_encoder_gets() -> None:
    model, shown = bolt(), list[torch.Tensor]()
    batch = batch_of(model, values_with_gaps())
    handle = model.module.encoder.register_forward_pre_hook(
        lambda _, __, kwargs: shown.append(kwargs["attention_mask"]),  # type: ignore[reportUnknownLambdaType]
        with_kwargs=True,
    )
    capture(model, batch, "encoder.ln_final")
    handle.remove()
    assert torch.equal(shown[0].long(), batch.mask("encoder"))
    assert batch.mask("encoder").tolist() == [[1] * 7, [0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1, 1], [1] * 7]
    assert batch.position(-1, "encoder").tolist() == [6] * 4
    assert batch.position(-2, "encoder").tolist() == [5] * 4
    with pytest.raises(InvalidInput, match="row 1 holds 5 tokens"):
        batch.position(-6, "encoder")


def test_values_at_missing_steps_change_nothing() -> None:
    """`forward(mask=)` alone would leave them in the mean and the deviation."""
    model = bolt()
    values = values_with_gaps()
    one, other = (np.ma.masked_array(values.nan_to_num(n).numpy(), values.isnan().numpy()) for n in (0.0, 1e6))
    sites = [str(site) for site in model.sites()]
    plain = capture(model, batch_of(model, values), sites)
    for masked in (one, other):
        batch = batch_of(model, masked)
        assert torch.equal(batch.values.isnan(), values.isnan())
        for name, value in capture(model, batch, sites).items():
            assert torch.equal(value, plain[name]), name


def test_shorter_series_are_padded_as_chronos_does() -> None:
    model = bolt()
    series = [torch.arange(30.0).sin(), torch.arange(150.0).cos(), torch.tensor([2.0, 3.0])]
    quantiles = capture(model, Batch.from_series(model, series), "decoder.quantiles")["decoder.quantiles"]
    assert torch.equal(quantiles, tiny_bolt().predict(series))
    dated = pd.Series(series[0].numpy(), pd.date_range("2020", periods=30, freq="D"))
    assert torch.equal(batch_of(model, dated).values, series[0][None])


def test_a_constant_series_is_forecast_as_that_constant() -> None:
    model = bolt()
    batch = batch_of(model, torch.full((1, 20), 3.0))
    with interp.edited(model, interp.Add("decoder.1.resid_post", 0.5)):
        quantiles = capture(model, batch, "decoder.quantiles")["decoder.quantiles"]
    assert float((quantiles - 3).abs().max()) < 1e-2  # the deviation is taken as 1e-5


def test_rows() -> None:
    model = bolt()
    batch = batch_of(model, torch.randn(3, 120))
    rows = batch.rows(torch.tensor([2, 0]))
    assert torch.equal(rows.values, batch.values[[2, 0]])
    assert (rows.dropped, rows.patching) == (24, batch.patching)


def test_steps_that_are_not_there() -> None:
    batch = batch_of(bolt(), torch.randn(1, 40))
    with pytest.raises(InvalidInput, match=r"patch=5: that position is \[REG\]"):
        batch.steps(5)
    for patch, said in ((6, "patches 0-4"), (-6, "at least -5"), (1.5, "whole number")):
        with pytest.raises(InvalidInput, match=said):
            batch.steps(patch)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="patches 0-4"):
        batch_of(bolt(use_reg_token=False), torch.randn(1, 40)).steps(5)


def test_series_without_values() -> None:
    model = bolt()
    with pytest.raises(InvalidInput, match="only NaN"):
        Batch.from_series(model, torch.full((2, 20), torch.nan))
    late = torch.ones(2, 150)
    late[1, -96:] = torch.nan
    with pytest.raises(InvalidInput, match=r"series \[1\] have no value in what the model sees \(the last 96 steps"):
        Batch.from_series(model, late)
    for wrong in ([], [[1.0], [2.0]], ["a"], pd.DataFrame({"y": [1.0]}), [float("inf")]):
        with pytest.raises(InvalidInput):
            Batch.from_series(model, wrong)


def test_tokens_and_values_do_not_mix() -> None:
    model, t5 = bolt(), interp.wrap(tiny_pipeline(), name="tiny")
    values = Batch.from_series(model, values_with_gaps())
    for batch in (masked_batch(True), masked_batch(False)):
        with pytest.raises(MissingCapability, match="tiny-bolt has no tokens: it reads the values of series"):
            capture(model, batch, "encoder.ln_final")
    with pytest.raises(InvalidInput, match="tiny reads tokens, and the batch is of values"):
        capture(t5, values, "encoder.ln_final")
    for name in ("input_ids", "decoder_input_ids"):
        with pytest.raises(MissingCapability, match=r"has no tokens.*Batch\.from_series"):
            getattr(values, name)
    with pytest.raises(MissingCapability, match="has no tokens"):
        values.ids("encoder")
    with pytest.raises(MissingCapability, match="has no tokens"):
        Batch.from_series(model, torch.randn(20), num_decoder=2)


def test_a_batch_of_other_patches() -> None:
    values, model = values_with_gaps(), bolt()
    with pytest.raises(InvalidInput, match=r"patches of 8 steps, at most 96 steps, and tiny-bolt reads"):
        model.check(Batch.from_series(bolt(use_reg_token=False), values))
    with pytest.raises(InvalidInput, match="at most 80 steps"):
        model.check(Batch.from_series(bolt(context_length=80), values))
    other = ValueBatch(values, Patching(4, 96, True))
    with pytest.raises(InvalidInput, match="patches of 4 steps"):
        model.inputs(other)
