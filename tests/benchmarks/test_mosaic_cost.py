"""What the mosaic costs, as ratios of medians measured in one run: `make bench`.

Three things are timed in turn, interleaved, on the same model and batch: the plain forward that the
mosaic needs, `induction_mosaic`, and the published procedure (`generate` of one token with all
attentions, then the means). Sizes: the bundled model, and chronos-t5-small with random weights.
"""

import copy
from typing import Any

import pytest
import torch

import interp
import probes
from interp import zoo
from probes.stimuli.repeated_tokens import RepeatedTokens
from tests.benchmarks.shapes import SHAPES, timed
from tests.conftest import tiny_pipeline
from tests.published_procedure import published_attentions

ROUNDS = {"pico-t5": 80, "small shape": 15}
MOST = 1.15


def pipelines(size: str, dtype: torch.dtype) -> Any:
    if size in SHAPES:
        return tiny_pipeline(dtype=dtype, **SHAPES[size])
    from chronos import BaseChronosPipeline

    return BaseChronosPipeline.from_pretrained(str(zoo.path("pico-t5")), dtype=dtype, attn_implementation="eager")


def published(module: Any, batch: RepeatedTokens) -> None:
    layers = published_attentions(module, batch)
    for position in (batch.occurrences[-1], batch.occurrences[-1] + 1):
        for layer in layers:
            for head in range(layer.shape[1]):
                layer[:, head, 1, position].mean().item()


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
