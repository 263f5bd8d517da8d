"""What Chronos-Bolt costs at the shape of chronos-bolt-small with contexts of 2,048 steps, in one run: `make bench`.

Random weights, four series. Calls are interleaved, and of each the least of several counts: what else runs on the
machine only adds to a time. Shared work is small work, on which a second thread helps less than on a whole forward:
with OMP_NUM_THREADS=1 the heads of the decoder come closer to what arithmetic allows.

1. `capture` of all attention patterns against a plain forward.
2. `head_effects` of each kind of attention against plain forwards, beside what arithmetic allows.
3. `forecast_effects` of eight ablations against eight calls of `predict_quantiles`, each inside `ablate`.
"""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import circuits
import interp
from circuits.metrics import median
from tests.benchmarks.shapes import SHAPES, least
from tests.conftest import tiny_bolt

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore:We recommend keeping prediction length")]
ROWS, CONTEXT, HORIZON, PATCH = 4, 2048, 64, 16
PUBLISHED: dict[str, Any] = {
    "context_length": CONTEXT,
    "prediction_length": HORIZON,
    "input_patch_size": PATCH,
    "input_patch_stride": PATCH,
    "quantiles": [round(0.1 * n, 1) for n in range(1, 10)],
}
SERIES = np.sin(np.arange(CONTEXT + 2 * HORIZON) * 2 * np.pi / 24) + np.random.default_rng(0).normal(
    0, 0.1, (ROWS, CONTEXT + 2 * HORIZON)
)
VALUES = torch.from_numpy(SERIES[:, :CONTEXT]).float()


@cache
def opened() -> tuple[interp.Model, Callable[[], object]]:
    """A model, and a plain forward of a copy that the toolkit has not touched."""
    pipeline = tiny_bolt(**SHAPES["small shape"], **PUBLISHED)
    plain: Any = copy.deepcopy(pipeline.model)
    model = interp.wrap(pipeline, name="bolt, small shape")
    _ = model.digest  # computed once a model, not once a result

    def forward() -> None:
        with torch.no_grad():
            plain(VALUES)

    return model, forward


def limit(model: interp.Model, kind: str) -> float:
    """Multiplications of a sweep over those of a forward: what heads of one kind cannot share, whatever runs them.

    One forward. Then for each head of layer l what follows its attention in that layer, and all of the layers above it;
    for a head of the encoder the keys and values that the decoder reads, and the decoder, too.
    """
    c, inner, n = model.config, model.n_heads * model.d_head, model.n_layers["encoder"]
    positions, square, mlp = CONTEXT // PATCH + 1, c.d_model * inner, 2 * c.d_model * c.d_ff
    cross = 2 * square + 2 * positions * inner
    readout = c.d_model * c.d_ff + (c.d_ff + c.d_model) * len(model.levels) * model.horizon
    layer = positions * (4 * square + 2 * positions * inner + mlp)
    one = 4 * square + cross + mlp
    decode = n * (positions * 2 * square + one) + readout
    above = n * (n - 1) / 2
    rest = {
        "encoder.self": n * positions * mlp + above * layer + n * decode,
        "decoder.self": n * (cross + mlp) + above * one + n * readout,
        "decoder.cross": n * mlp + above * one + n * readout,
    }[kind]
    return 1 + model.n_heads * rest / (n * layer + decode)


def test_all_patterns_cost_one_forward(capsys: pytest.CaptureFixture[str]) -> None:
    model, forward = opened()
    batch = interp.Batch.from_series(model, VALUES)
    seconds = least({"forward": forward, "patterns": lambda: interp.capture(model, batch, "*.*.*.pattern")}, 12)
    ratio = seconds["patterns"] / seconds["forward"]
    with capsys.disabled():
        print(f"\nbolt, small shape: forward {seconds['forward']:.3f} s, all patterns {ratio:.2f} x")
    assert ratio <= 1.25


@pytest.mark.parametrize(("kind", "most"), [("decoder.cross", 2.1), ("decoder.self", 2.1), ("encoder.self", 32)])
def test_all_heads_cost_little(kind: str, most: float, capsys: pytest.CaptureFixture[str]) -> None:
    model, forward = opened()
    batch = interp.Batch.from_series(model, VALUES)

    def sweep() -> None:
        circuits.head_effects(model, batch, kind, metric=median(), progress=False)

    seconds = least({"forward": forward, "sweep": sweep}, 2 if kind == "encoder.self" else 8)
    ratio, heads = seconds["sweep"] / seconds["forward"], len(model.heads(kind))
    with capsys.disabled():
        print(
            f"\nbolt, small shape: head_effects of {heads} {kind} heads {ratio:.2f} forwards (arithmetic limit "
            f"{limit(model, kind):.2f}), {(heads + 1) / ratio:.1f} times faster than a forward a head"
        )
    assert ratio <= most


CHOSEN = {
    "cross heads": [f"decoder.cross.{layer}.0" for layer in (0, 1, 2, 3, 4, 5)]
    + ["decoder.cross.5.1", "decoder.self.2.0"],
    "encoder heads": [f"encoder.self.{layer}.{head}" for layer in (1, 2, 4, 5) for head in (0, 1)],
}


@pytest.mark.parametrize(("steps", "rounds"), [(HORIZON, 3), (2 * HORIZON, 1)])
@pytest.mark.parametrize("heads", CHOSEN)
def test_eight_ablations_of_a_forecast(heads: str, steps: int, rounds: int, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = opened()
    sets = {name: name for name in CHOSEN[heads]}
    rows = ROWS if steps <= HORIZON else 1
    series = SERIES[:rows, : CONTEXT + steps]

    def one_by_one() -> None:
        for name in sets:
            with interp.ablate(model, name):
                model.pipeline.predict_quantiles(VALUES[:rows], prediction_length=steps)

    def together() -> None:
        circuits.forecast_effects(model, series, sets, prediction_length=steps, controls=0, progress=False)

    seconds = least({"one by one": one_by_one, "together": together}, rounds)
    gain = seconds["one by one"] / seconds["together"]
    with capsys.disabled():
        print(
            f"\nbolt, small shape: eight {heads}, {rows} series of {CONTEXT} + {steps} steps: eight predict_quantiles "
            f"{seconds['one by one']:.2f} s, forecast_effects {gain:.1f} times faster"
        )
    assert gain >= {("cross heads", HORIZON): 3, ("encoder heads", HORIZON): 1.2}.get((heads, steps), 0.6)
