"""Metrics of quantiles: by hand, per row, with what they refuse."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import circuits
import interp
from circuits.measurement import measured
from circuits.metrics import crossing, distance_to, median, pinball, quantile, towards
from interp import Batch, capture
from interp.errors import InvalidInput, MissingCapability
from tests.conftest import masked_batch, tiny_bolt, tiny_pipeline, values_with_gaps
from tests.tolerance import close

LEVELS = (0.1, 0.3, 0.5, 0.8, 0.9)


@pytest.fixture
def model() -> interp.Model:
    return interp.wrap(tiny_bolt(), name="tiny-bolt")


@pytest.fixture
def batch(model: interp.Model) -> Batch:
    return Batch.from_series(model, values_with_gaps())


@pytest.fixture
def quantiles(model: interp.Model, batch: Batch) -> Tensor:
    return capture(model, batch, "decoder.quantiles")["decoder.quantiles"]


def deviation() -> Any:
    return np.nanstd(values_with_gaps().double().numpy(), axis=1)


def test_a_quantile_by_hand(model: interp.Model, batch: Batch, quantiles: Tensor) -> None:
    for metric, expected in (
        (quantile(0.8), quantiles[:, 3].mean(1)),
        (quantile(0.3, 2), quantiles[:, 1, 2]),
        (quantile(0.3, -1), quantiles[:, 1, 11]),
        (quantile(0.9, [0, 5]), quantiles[:, 4, [0, 5]].mean(1)),
        (quantile(0.1, range(4)), quantiles[:, 0, :4].mean(1)),
        (median(slice(2, 6)), quantiles[:, 2, 2:6].mean(1)),
        # Between two levels along the straight line, whichever lies higher.
        (quantile(0.6), (quantiles[:, 2] * 2 / 3 + quantiles[:, 3] / 3).mean(1)),
    ):
        close(measured(model, metric, quantiles, batch), expected.double().numpy() / deviation(), terms=20)
    close(measured(model, median(scaled=False), quantiles, batch), quantiles[:, 2].mean(1), terms=12)


def test_losses_by_hand(model: interp.Model, batch: Batch, quantiles: Tensor) -> None:
    truth = torch.randn(4, 7, generator=torch.Generator().manual_seed(3))
    truth[1, 2] = torch.nan
    own = quantiles.double().numpy()
    for row in range(4):
        losses, distances = [], []
        for step in range(7):
            y = float(truth[row, step])
            if np.isnan(y):
                continue
            distances.append(abs(y - own[row, 2, step]))
            for index, level in enumerate(LEVELS):
                q = own[row, index, step]
                losses.append(level * (y - q) if y >= q else (1 - level) * (q - y))
        scale = deviation()[row]
        close(measured(model, pinball(truth), quantiles, batch)[row], np.mean(losses) / scale, terms=100)
        close(measured(model, distance_to(truth), quantiles, batch)[row], np.mean(distances) / scale, terms=100)
    half = measured(model, pinball(truth, level=0.5, scaled=False), quantiles, batch)
    close(half * 2, measured(model, distance_to(truth, scaled=False), quantiles, batch), terms=20)
    one = measured(model, pinball(truth[0]), quantiles, batch)
    assert float(one[0]) == float(measured(model, pinball(truth), quantiles, batch)[0])
    other = torch.randn(4, 7, generator=torch.Generator().manual_seed(4))
    way = (truth - other).nan_to_num().double().numpy()
    there = own[:, 2, :7] - other.double().numpy()
    wanted = (there * way).sum(1) / (way**2).sum(1)
    close(measured(model, towards(truth, other), quantiles, batch), wanted, of=np.abs(wanted).max() + 20, terms=100)
    ends = [quantiles[:, [2]].expand(-1, 5, -1), torch.ones(4, 5, 12)]
    for end, place in zip(ends, (1.0, 0.0), strict=True):
        close(measured(model, towards(ends[0][:, 0], ends[1][:, 0]), end, batch), place, of=20.0, terms=100)
    crossed = (np.diff(own, axis=1) < 0).mean((1, 2))
    close(measured(model, crossing(), quantiles, batch), crossed)
    assert float(crossed.max()) > 0


def test_the_deviation_is_the_model_s_own(model: interp.Model, batch: Any) -> None:
    _, (_, scale) = model.module.instance_norm(batch.values)
    assert torch.equal(batch.deviation, scale[:, 0])


def test_scaled_metrics_do_not_change_with_the_scale_of_a_series(model: interp.Model) -> None:
    values = values_with_gaps()
    for metric in (pinball(torch.zeros(4, 5)), distance_to(torch.zeros(4, 5)), median()):
        one, other = (
            measured(model, metric, capture(model, b, "decoder.quantiles")["decoder.quantiles"], b)
            for b in (Batch.from_series(model, factor * values) for factor in (1.0, 64.0))
        )
        close(one, other, of=float(one.abs().max()), terms=500)


def test_directions_and_units() -> None:
    assert [m.higher_is_better for m in (quantile(0.3), median(), pinball([1.0]), distance_to([1.0]))] == [
        *(None, None, False, False)
    ]
    assert median().unit == "deviations"
    assert median(scaled=False).unit == "the series' units"
    assert [m.name for m in (quantile(0.25), median(), pinball([1.0]), crossing())] == [
        *("quantile 0.25", "median", "pinball", "crossing")
    ]


def infinite(quantiles: Tensor) -> Tensor:
    return quantiles.mean((1, 2)) / 0


def test_what_is_refused(model: interp.Model, batch: Batch, quantiles: Tensor) -> None:
    for metric, said in (
        (quantile(0.05), r"level=0\.05: the model's quantiles are at 0\.1 to 0\.9"),
        (quantile(0.95), "nothing is known outside"),
        (median(12), r"one forward pass forecasts the steps 0-11\. Metrics are of one pass"),
        (median(slice(20, 30)), "the steps 0-11"),
        (median(slice(0, 13)), "the steps 0-11"),
        (pinball(torch.zeros(4, 13)), r"the series has 13 steps, and one forward pass forecasts 12"),
        (distance_to(torch.zeros(3, 5)), "3 series for 4 rows"),
        (torch.abs, "must give one number per row"),
        (infinite, "is not finite in 4 rows"),
    ):
        with pytest.raises(InvalidInput, match=said):
            measured(model, metric, quantiles, batch)
    for ends, said in (
        ((torch.ones(3), torch.ones(4)), "two of one shape"),
        ((torch.ones(3), torch.ones(3)), "nothing lies between"),
    ):
        with pytest.raises(InvalidInput, match=said):
            towards(*ends)
    for wrong in (0.0, 1.0, 1.5, "x", True):
        with pytest.raises(InvalidInput):
            quantile(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        median([])
    flat = Batch.from_series(model, torch.stack([torch.ones(20), torch.arange(20.0)]))
    read = capture(model, flat, "decoder.quantiles")["decoder.quantiles"]
    with pytest.raises(InvalidInput, match=r"the context of rows \[0\] has no deviation to scale by"):
        measured(model, median(), read, flat)
    assert measured(model, median(scaled=False), read, flat).isfinite().all()


def test_metrics_of_the_other_kind(model: interp.Model, batch: Batch, quantiles: Tensor) -> None:
    with pytest.raises(MissingCapability, match="tiny-bolt has no tokens"):
        measured(model, circuits.log_prob(5), quantiles, batch)
    t5 = interp.wrap(tiny_pipeline())
    tokens = masked_batch(True)
    logits = capture(t5, tokens, "decoder.logits")["decoder.logits"]
    with pytest.raises(MissingCapability, match="no quantiles"):
        measured(t5, median(), logits, tokens)


def test_a_metric_of_one_s_own_gets_the_series_units(model: interp.Model, batch: Batch, quantiles: Tensor) -> None:
    seen: list[Tensor] = []

    def spread(q: Tensor) -> Tensor:
        seen.append(q)
        return (q[:, -1] - q[:, 0]).mean(1)

    close(measured(model, spread, quantiles, batch), (quantiles[:, 4] - quantiles[:, 0]).mean(1), terms=12)
    assert torch.equal(seen[0], quantiles)


@pytest.mark.parametrize("levels", [[0.1, 0.4, 0.6], [0.5], [0.1, 0.2]])
def test_a_model_without_the_median(levels: list[float]) -> None:
    """It is interpolated between its neighbours, and refused where there are none."""
    model = interp.wrap(tiny_bolt(quantiles=levels))
    batch = Batch.from_series(model, values_with_gaps())
    quantiles = capture(model, batch, "decoder.quantiles")["decoder.quantiles"]
    if levels[-1] < 0.5:
        with pytest.raises(InvalidInput, match=r"level=0\.5"):
            measured(model, median(), quantiles, batch)
        return
    expected = quantiles[:, 0] if levels == [0.5] else (quantiles[:, 1] + quantiles[:, 2]) / 2
    close(
        measured(model, median(scaled=False), quantiles, batch),
        expected.mean(1),
        of=float(quantiles.abs().max()),
        terms=12,
    )
