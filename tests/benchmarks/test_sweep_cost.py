"""What a sweep costs, as ratios measured in one run: `make bench`.

The 5 x 5 grid of part 2 ([2, 4, 6, 8, 10] repetitions and tokens) of pico-t5, rounds interleaved:

1. `induction_sweep`, kept in memory and kept in a store, against the published procedure, which opens
   the model for every configuration, and against the bare forwards that the grid needs.
2. Two loky workers against this process, once the workers are up, each with one thread a worker, on a
   grid long enough to be divided; needs two cores that nothing else uses.
"""

import tempfile
from itertools import product
from pathlib import Path

import joblib
import pytest
import torch
from chronos import BaseChronosPipeline

import interp
import probes
from interp import zoo
from tests.benchmarks.shapes import timed
from tests.published_procedure import published_scores

pytestmark = pytest.mark.benchmark
SIZES = (2, 4, 6, 8, 10)
POINTS = list(product(SIZES, SIZES))


def published() -> None:
    for n, length in POINTS:
        pipeline = BaseChronosPipeline.from_pretrained(str(zoo.path("pico-t5")), attn_implementation="eager")
        batch = probes.repeated_random_tokens(repetitions=n, sequence_length=length)
        for position in (batch.occurrences[-1], batch.occurrences[-1] + 1):
            published_scores(pipeline.model.model, batch, position)


def test_a_sweep_costs_its_forwards(capsys: pytest.CaptureFixture[str]) -> None:
    model = interp.load("pico-t5")
    batches = [probes.repeated_random_tokens(repetitions=n, sequence_length=length) for n, length in POINTS]

    def forwards() -> None:
        with torch.no_grad():
            for batch in batches:
                model.module(**batch.inputs, use_cache=False)

    def swept(store: str | None = None) -> None:
        probes.induction_sweep("pico-t5", repetitions=SIZES, sequence_lengths=SIZES, store=store, progress=False)

    def stored() -> None:
        with tempfile.TemporaryDirectory() as folder:
            swept(str(Path(folder) / "store"))

    found = timed({"forwards": forwards, "sweep": swept, "stored": stored, "published": published}, 5, warm=1)
    with capsys.disabled():
        print(
            f"\npico-t5, 5 x 5: 25 forwards {found['forwards']:.2f} s; sweep {found['sweep']:.2f} s = "
            f"{found['sweep'] / found['forwards']:.2f} x; with a store {found['stored']:.2f} s = "
            f"{found['stored'] / found['forwards']:.2f} x; published procedure {found['published']:.2f} s = "
            f"{found['published'] / found['sweep']:.1f} x the sweep"
        )
    assert found["published"] > 2 * found["sweep"]
    assert found["stored"] < 2 * found["forwards"]


def test_two_workers_against_one(capsys: pytest.CaptureFixture[str]) -> None:
    def swept(n_jobs: int) -> None:
        with joblib.parallel_config(backend="loky"):
            probes.induction_sweep(
                "pico-t5", repetitions=SIZES, sequence_lengths=SIZES, seeds=range(4), n_jobs=n_jobs, progress=False
            )

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = timed({"one": lambda: swept(1), "two": lambda: swept(2)}, 3, warm=1)
    finally:
        torch.set_num_threads(before)
    with capsys.disabled():
        print(f"\npico-t5, 100 configurations: one worker {found['one']:.2f} s, two {found['two']:.2f} s = ", end="")
        print(f"{found['one'] / found['two']:.2f} times faster")
    # Two hyperthreads of one core gain nothing; two cores should.
    assert found["two"] < 1.5 * found["one"]
