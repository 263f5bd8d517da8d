"""What ablation costs, as ratios measured in one run: `make bench`.

1. `head_effects` on all decoder cross heads against one full forward a head (heads + 1 times the
   median of five forwards), RRT batch of 100, beside the limit that arithmetic sets: the
   multiplications of that many forwards over those that cannot be saved.
2. `pipeline.predict` inside `ablate` against the plain one, interleaved.
3. `forecast_effects` of eight ablations against eight calls of `predict`, each inside `ablate`.
"""

import numpy as np
import pytest
import torch

import circuits
import interp
import probes
from probes.stimuli.repeated_tokens import RepeatedTokens
from tests.benchmarks.shapes import SHAPES, opened, paired, timed

pytestmark = pytest.mark.benchmark
STEPS = 24
SERIES = torch.from_numpy(np.sin(np.arange(536) * 2 * np.pi / 12) + np.random.default_rng(0).normal(0, 0.1, (8, 536)))


def limit(model: interp.Model, batch: RepeatedTokens) -> float:
    """Multiplications of a full forward a head, over those of the sweep, whatever runs them.

    The sweep needs one forward; and for each head of layer l the MLP of that layer, the later
    layers without their keys and values, the last one at the last position only, and the logits.
    """
    c, heads, layers = model.config, model.n_heads, model.n_layers["decoder"]
    inner, keys, queries = heads * c.d_kv, batch.input_ids.shape[1], batch.decoder_input_ids.shape[1]
    mlp, square = 2 * c.d_model * c.d_ff, 4 * c.d_model * inner
    encoder = model.n_layers["encoder"] * (keys * (square + mlp) + 2 * keys * keys * inner)
    unembed = c.d_model * c.vocab_size
    own = square + 2 * queries * inner
    across = 2 * c.d_model * inner + 2 * keys * inner
    full = encoder + layers * (queries * (own + across + mlp) + 2 * keys * c.d_model * inner) + queries * unembed
    sweep = full
    for layer in range(layers):
        rest = queries * mlp + (layers - 1 - layer) * queries * (own + across + mlp)
        # The last layer's cross-attention and MLP are needed at the last position only.
        saved = (queries - 1) * (mlp + (across if layer < layers - 1 else 0))
        sweep += heads * (rest - saved + unembed)
    return (heads * layers + 1) * full / sweep


@pytest.mark.parametrize(("size", "least"), [("pico-t5", 1), ("small shape", 12), ("base shape", 18)])
def test_all_heads_cost_little(size: str, least: float, capsys: pytest.CaptureFixture[str]) -> None:
    model, batch = opened(size), probes.repeated_random_tokens()

    def forward() -> None:
        with torch.no_grad():
            model.module(**model.inputs(batch))

    found = timed({"forward": forward}, 5, warm=2)
    sweep = timed({"sweep": lambda: circuits.head_effects(model, batch, progress=False)}, 3, warm=1)["sweep"]
    again = timed({"forward": forward}, 5, warm=0)["forward"]
    heads = len(model.heads("decoder.cross"))
    forward_seconds = (found["forward"] + again) / 2
    gain = (heads + 1) * forward_seconds / sweep
    with capsys.disabled():
        print(
            f"\n{size:12} head_effects of {heads} heads {sweep:.2f} s, {heads + 1} forwards of {forward_seconds:.3f} s "
            f"each: {gain:.1f} times faster (arithmetic limit {limit(model, batch):.1f})"
        )
    assert gain >= least


@pytest.mark.parametrize("heads", [1, 6])
def test_predict_inside_ablate(heads: int, capsys: pytest.CaptureFixture[str]) -> None:
    model = opened("pico-t5")
    chosen = model.heads("decoder.cross")[8 : 8 + heads]

    def predict() -> None:
        torch.manual_seed(0)
        model.pipeline.predict(SERIES[:2, -144:], prediction_length=STEPS)

    def ablated() -> None:
        with interp.ablate(model, chosen):
            predict()

    seconds, ratio = paired(predict, ablated, 41)
    with capsys.disabled():
        print(f"\npredict {seconds:.3f} s, inside ablate of {heads} heads {ratio:.3f} x")
    assert ratio <= 1.03


@pytest.mark.parametrize(
    ("size", "rows", "context", "rounds"),
    [("pico-t5", 1, 144, 9), ("pico-t5", 8, 144, 3), ("small shape", 2, 512, 2), ("base shape", 1, 512, 1)],
)
def test_eight_ablations_of_a_forecast(
    size: str, rows: int, context: int, rounds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    model = opened(size)
    series = SERIES[:rows, -context - STEPS :]
    sets = {str(head): head for head in model.heads("decoder.cross")[:8]}

    def one_by_one() -> None:
        for head in sets.values():
            with interp.ablate(model, head):
                model.pipeline.predict(series[:, :-STEPS], prediction_length=STEPS, num_samples=20)

    def together() -> None:
        circuits.forecast_effects(model, series, sets, prediction_length=STEPS, controls=0, progress=False)

    found = timed({"predict": one_by_one, "together": together}, rounds, warm=int(size not in SHAPES))
    gain = found["predict"] / found["together"]
    with capsys.disabled():
        print(
            f"\n{size:12} eight ablations, {rows} series of {context} + {STEPS} steps: eight calls of predict "
            f"{found['predict']:.2f} s, forecast_effects {found['together']:.2f} s, {gain:.1f} times faster"
        )
    assert gain >= 2.5
