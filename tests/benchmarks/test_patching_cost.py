"""What patching costs: the estimate of all edges against heads patched one by one, and discovery end to end.

`make bench` prints the ratios; they are measured in one run, on whatever machine it is.
"""

import time

import pytest

import circuits
import interp
import probes
from circuits.graph.attribution_patching import edge_attributions
from circuits.graph.subject import Subject
from probes.stimuli.pairs import Pair
from tests.benchmarks.shapes import opened, timed

pytestmark = pytest.mark.benchmark

KINDS = ("encoder.self", "decoder.self", "decoder.cross")
BUNDLED = "pico-t5-induction"


def subject(model: interp.Model, rows: int, seed: int) -> tuple[Pair, circuits.metrics.NamedMetric]:
    pair = probes.another_sequence(probes.repeated_random_tokens(batch_size=rows, unique=True, seed=seed), seed=seed)
    assert pair.against is not None
    return pair, circuits.logit_difference(pair.target, pair.against)


@pytest.mark.parametrize(("size", "rows"), [(BUNDLED, 20), ("small shape", 4)])
def test_all_heads_at_once_against_one_by_one(size: str, rows: int) -> None:
    model = opened(size)
    pair, metric = subject(model, rows, 0)
    heads = [head for kind in KINDS for head in model.heads(kind)]
    few = heads[:: len(heads) // 6][:6]

    def estimate() -> None:
        edge_attributions(Subject.of(model, pair.clean, pair.corrupt, metric, "resample"))

    def one_by_one() -> None:
        for head in few:
            with interp.edited(model, interp.Resample(head, pair.corrupt)):
                metric(model.module(**model.inputs(pair.clean)).logits)

    def folded() -> None:
        circuits.patch_heads(model, pair.clean, pair.corrupt, metric, [f"{kind}.*.z" for kind in KINDS], progress=False)

    times = timed({"all edges by attribution": estimate, "one by one": one_by_one, "patch_heads": folded}, rounds=3)
    loop = times["one by one"] * len(heads) / len(few)
    quick, sweep = times["all edges by attribution"], times["patch_heads"]
    print(
        f"\n{size}, {rows} rows: {len(heads)} heads patched one by one take {loop / quick:.1f} times as long as the "
        f"attribution of all {Subject.of(model, *pair, metric, 'resample').graph.exists.sum()} edges, patch_heads "
        f"{sweep / quick:.1f} times"
    )
    assert loop > quick


def test_discovery_end_to_end() -> None:
    model = interp.load(BUNDLED)
    pair, metric = subject(model, 50, 1)
    start = time.perf_counter()
    found = circuits.discover(model, pair.clean, pair.corrupt, metric, edges=40, progress=False)
    took = time.perf_counter() - start
    plain = timed({"forward": lambda: model.module(**model.inputs(pair.clean))}, rounds=5)["forward"]
    print(f"\n{BUNDLED}, 50 rows: {len(found)} edges found in {took:.0f} s, {took / plain:.0f} plain forwards")
