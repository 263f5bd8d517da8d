"""What it takes to know which weights a result is of, beside the forward that it is of."""

import pytest
import torch

import interp
from probes import repeated_random_tokens
from tests.benchmarks.shapes import opened, paired, timed

pytestmark = pytest.mark.benchmark


def test_a_digest_takes_a_fiftieth_of_a_forward() -> None:
    """At the shape of chronos-t5-small, with 100 rows of the default stimulus."""
    model = opened("small shape")
    batch = repeated_random_tokens(seed=0, batch_size=100)
    inputs = model.inputs(batch)

    @torch.no_grad()
    def forward() -> object:
        return model.module(**inputs)

    seconds, share = paired(forward, lambda: model.digest, pairs=15)
    held = sum(value.nbytes for value in model.module.parameters())
    print(f"\nforward {1e3 * seconds:.0f} ms, digest {100 * share:.2f} %, {held / share / seconds / 1e9:.1f} GB/s")
    assert share < 0.02


@pytest.mark.parametrize("name", ["pico-t5", "small shape"])
def test_following_modules_takes_no_time(name: str) -> None:
    """Whether modules were replaced is asked several times a capture."""
    model = opened(name)
    batch = repeated_random_tokens(seed=0, batch_size=100)
    seconds = timed(
        {"follow": model.follow, "capture": lambda: interp.capture(model, batch, "decoder.logits")}, rounds=10
    )
    print(f"\n{1e6 * seconds['follow']:.0f} us in a capture of {1e3 * seconds['capture']:.1f} ms")
    assert seconds["follow"] < 0.01 * seconds["capture"]
