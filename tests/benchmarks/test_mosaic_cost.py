"""What the mosaic costs, as ratios of medians measured in one run: `make bench`.

Three things are timed in turn, interleaved, on the same model and batch: the plain forward that the
mosaic needs, `induction_mosaic`, and the published procedure (`generate` of one token with all
attentions, then the means). Sizes: the bundled model, and chronos-t5-small with random weights.
"""

import copy
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch

import interp
import probes
from interp import zoo
from tests.conftest import tiny_pipeline
from tests.published_procedure import published_attentions

SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_decoder_layers": 6, "num_heads": 8}
"""The shape of amazon/chronos-t5-small."""

ROUNDS = {"pico-t5": 80, "small shape": 15}
MOST = 1.15


def pipelines(size: str, dtype: torch.dtype) -> Any:
    if size == "small shape":
        return tiny_pipeline(dtype=dtype, **SMALL)
    from chronos import BaseChronosPipeline

    return BaseChronosPipeline.from_pretrained(str(zoo.path("pico-t5")), dtype=dtype, attn_implementation="eager")


def published(module: Any, batch: probes.RepeatedTokens) -> None:
    layers = published_attentions(module, batch)
    for position in (batch.occurrences[-1], batch.occurrences[-1] + 1):
        for layer in layers:
            for head in range(layer.shape[1]):
                layer[:, head, 1, position].mean().item()


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    for call in 3 * list(calls.values()):
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


@pytest.mark.benchmark
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", ["pico-t5", "small shape"])
def test_the_mosaic_costs_one_forward(size: str, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = pipelines(size, dtype)
    plain: Any = copy.deepcopy(pipeline.model.model)
    model = interp.wrap(pipeline, name=size)
    batch = probes.repeated_random_tokens()
    _ = model.digest  # computed once a model, not once a mosaic

    def forward() -> None:
        with torch.no_grad():
            plain(**batch.inputs, use_cache=False)

    found = timed(
        {
            "forward": forward,
            "mosaic": lambda: probes.induction_mosaic(model, batch),
            "published": lambda: published(plain, batch),
        },
        ROUNDS[size],
    )
    ratio, gain = found["mosaic"] / found["forward"], found["published"] / found["mosaic"]
    with capsys.disabled():
        print(
            f"\n{size:12} {str(dtype).removeprefix('torch.'):9} forward {1e3 * found['forward']:7.1f} ms, mosaic "
            f"{1e3 * found['mosaic']:7.1f} ms = {ratio:.2f} x, published procedure {gain:.2f} x the mosaic"
        )
    assert ratio <= MOST
