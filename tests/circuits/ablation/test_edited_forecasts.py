"""Forecasts under edits: equal to ablations of heads where they say the same, and to edits done by hand."""

# pyright: reportUnknownLambdaType=false

from typing import Any

import numpy as np
import pytest
import torch

import circuits
import interp
from circuits.ablation.forecast_effects import ForecastEffects
from interp import Batch
from interp.errors import InertEdit, InvalidInput
from interp.names import Head
from tests.circuits.ablation.test_forecasts import MAKE, SERIES, UNEVEN
from tests.tolerance import LAYER, close, not_close


@pytest.fixture(params=list(MAKE))
def double(request: pytest.FixtureRequest) -> interp.Model:
    return interp.wrap(MAKE[request.param](dtype=torch.float64))


def effects(model: interp.Model, ablations: dict[str, Any], series: Any = SERIES, **options: Any) -> ForecastEffects:
    settings: dict[str, Any] = {"prediction_length": 6, "num_samples": 5, "controls": 2, "season": 3}
    return circuits.forecast_effects(model, series, ablations, progress=False, **(settings | options))


@pytest.mark.parametrize("series", [SERIES, UNEVEN], ids=["even", "padded"])
def test_edits_say_what_ablations_say(double: interp.Model, series: Any) -> None:
    """The same heads by both ways: folded runs, and steps of the whole model under edits."""
    past = Head(*double.family.context, 1, 0)
    first = Head(*double.family.kinds[0], 0, 1)
    reference = Batch.from_series(double, np.cumsum(np.ones((2, 24)), 1))
    variants = {"heads": [past, first], "edits": [interp.Mean(past, reference), interp.Mean(first, reference)]}
    variants |= {"both": [past, interp.Mean(first, reference)], "nothing": [interp.Scale(past, 1.0)]}
    result = effects(double, variants, series, method="mean", reference=reference)
    assert result.names == ("unedited", "heads", "edits", "both", "nothing", "heads, control 1", "heads, control 2")
    for outcome, values in result.outcomes.items():
        heads, edits, both = values[1:4]
        close(edits, heads, f"{outcome}, edits", terms=LAYER)
        close(both, heads, f"{outcome}, both", terms=LAYER)
        close(values[4], values[0], f"{outcome}, nothing", terms=LAYER)
    close(result.fans[2], result.fans[1], terms=LAYER)
    assert result.reasons["edits"].startswith("no control")
    assert result.sets["edits"] == tuple(map(str, variants["edits"]))
    assert set(result.summary()["ablation"]) == {"heads", "edits", "both", "nothing"}


def test_likelihoods_against_edits_by_hand(double: interp.Model) -> None:
    stack = double.family.context[0]
    edits = {
        "steer": [interp.Add(f"{stack}.1.resid_post", torch.linspace(-3, 3, double.d_model))],
        "cut": interp.Knockout(Head(*double.family.context, 1, 0), key=[0, 3], renormalise=False),
        "later": [interp.Zero(f"{stack}.1.mlp_out", positions=slice(-3, None))],
    }
    result = effects(double, edits)
    batch = Batch.from_series(double, SERIES, num_decoder=6)
    labels = batch.decoder_input_ids[:, -6:, None] - 2
    for place, edit in enumerate(edits.values(), start=1):
        with interp.edited(double, edit), torch.no_grad():
            logits = double.module(**double.inputs(batch)).logits[:, -7:-1, 2:]
        nll = -logits.log_softmax(-1).gather(-1, labels)[..., 0].mean(-1)
        if place < 3:  # the last positions of a step by step run move with it
            close(result.outcomes["nll"][place], nll.numpy(), terms=LAYER)
        not_close(result.outcomes["nll"][place], result.outcomes["nll"][0])


def test_samples_against_predict(double: interp.Model) -> None:
    """Where only the likeliest token can be drawn, the pipeline forecasts the same under the same edits."""
    double.chronos_config.top_k = 1
    head = Head(*double.family.context, 1, 0)
    stack = double.family.context[0]
    edits = {"scaled": [interp.Scale(head, -30.0)], "steer": [interp.Add(f"{stack}.0.mlp_out", 4.0)]}
    result = effects(double, edits)
    for place, edit in enumerate(edits.values(), start=1):
        with interp.edited(double, edit):
            samples = double.pipeline.predict(torch.tensor(SERIES[:, :-6]), prediction_length=6, num_samples=2)
        for level in (0, 4, 8):
            close(result.fans[place, :, level], samples[:, 0].double().numpy(), terms=LAYER, dtype=torch.float32)
    not_close(result.fans[1:3], result.fans[[0, 0]])


@pytest.mark.parametrize(
    ("members", "says"),
    [
        (lambda batch: [interp.Resample("decoder.cross.1.0", batch)], "row by row"),
        (lambda batch: [interp.FreezePatterns(batch)], "row by row"),
        (lambda batch: ["decoder.1.resid_post"], "as an edit"),
        (lambda batch: [], "no heads"),
        (lambda batch: [interp.Add("decoder.cross.1.0", [1.0, 2.0])], "value is"),
    ],
)
def test_what_a_forecast_refuses(model: interp.Model, batch: Batch, members: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        effects(model, {"these": members(batch)})


def test_an_edit_that_a_forecast_never_reaches(model: interp.Model) -> None:
    with pytest.raises(InertEdit, match="no step had"):
        effects(model, {"late": [interp.Zero("decoder.cross.1.0", positions=[30])]})
    with pytest.raises(interp.errors.UnknownHead):
        effects(model, {"none": [interp.Zero("decoder.cross.9.0")]})
