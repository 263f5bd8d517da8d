"""What composition scores cost: against the cursive notebook's double loop, and in memory at the largest shape.

`make bench` prints the ratios; they are measured in one run, on whatever machine it is.
"""

import gc
import threading
import time

import numpy as np
import psutil
import pytest
import torch

import circuits
import interp
from circuits.weights.composition import MEMORY, _factor, _standardised, _table
from circuits.weights.composition_scores import CompositionScores
from tests.benchmarks.shapes import opened, timed
from tests.conftest import tiny_gpt2
from tests.tolerance import FORWARD, close

pytestmark = pytest.mark.benchmark

LEAST = {"mini shape": 25, "small shape": 50, "base shape": 110}


def loop(model: interp.Model, writers: list[interp.Head], readers: list[interp.Head]) -> list[float]:
    """The double loop as it is written: both circuits, their product and three norms for every pair, on K."""
    first, second = [model.weights(head) for head in writers], [model.weights(head) for head in readers]
    scores: list[float] = []
    for one in first:
        for two in second:
            OV, QK = one.W_V @ one.W_O, two.W_K @ two.W_Q.T
            scores.append(float((OV @ QK).norm() / (OV.norm() * QK.norm())))
    return scores


def kinder_loop(model: interp.Model, writers: list[interp.Head], readers: list[interp.Head]) -> list[float]:
    """The same with circuits and their norms made once a head: one d_model x d_model product and norm a pair."""
    OV = [model.weights(head).OV.full() for head in writers]
    QK = [model.weights(head).QK.full().T for head in readers]
    first, second = [m.norm() for m in OV], [m.norm() for m in QK]
    return [
        float((a @ b).norm() / (n * m)) for a, n in zip(OV, first, strict=True) for b, m in zip(QK, second, strict=True)
    ]


def one_wire(model: interp.Model) -> tuple[np.ndarray, np.ndarray]:
    """All pairs encoder.self -> decoder.cross by keys, raw and z, as `composition_scores` works them out."""
    A = _factor(model, "encoder.self", None, True)
    B = _factor(model, "decoder.cross", "K", True)
    raw = _table(A, B, "any", MEMORY)
    return raw, _standardised(raw, A, B, model.d_model)


@pytest.mark.parametrize("size", list(LEAST))
@torch.no_grad()
def test_against_the_double_loop(size: str) -> None:
    model = opened(size)
    readers, writers = model.heads("decoder.cross"), model.heads("encoder.self")
    # The loop's time is proportional to its pairs: a few writers stand for all, the readers' circuits made once.
    few = writers[:: len(writers) // 4][:4]
    raw, _ = one_wire(model)
    wanted = np.array(loop(model, few, readers)).reshape(len(few), -1)
    found = np.stack([raw[head.layer, head.head].ravel() for head in few])
    close(found, wanted, terms=FORWARD)
    setup: dict[str, float] = {}
    for name, call in (("loop", loop), ("kinder loop", kinder_loop)):
        start = time.perf_counter()
        call(model, [], readers)
        setup[name] = time.perf_counter() - start
    seconds = timed(
        {
            "ours": lambda: one_wire(model),
            "loop": lambda: loop(model, few, readers),
            "kinder loop": lambda: kinder_loop(model, few, readers),
        },
        rounds=7,
        warm=1,
    )
    ratios = {
        name: (apart + (seconds[name] - apart) * len(writers) / len(few)) / seconds["ours"]
        for name, apart in setup.items()
    }
    limit = (model.d_model / model.d_head) ** 2
    print(
        f"\n{size}: {raw.size} pairs in {seconds['ours']:.3f} s, {ratios['loop']:.0f} times faster than "
        f"the loop (asked {LEAST[size]}), {ratios['kinder loop']:.0f} with its circuits made once; by multiplications "
        f"{limit:.0f}"
    )
    assert ratios["kinder loop"] > 1


def test_memory_at_the_large_shape() -> None:
    """All pairs at 24 + 24 layers of 16 heads, d_model 1024: what is resident beyond the model and the scores."""
    model = opened("large shape")
    gc.collect()
    process, most, done = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    scores = circuits.composition_scores(model, progress=False)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    pairs = sum(int((~np.isnan(table)).sum()) for table in scores.raw.values())
    extra = (most[0] - before) / 2**20
    print(f"\nlarge shape: {pairs} pairs in {seconds:.0f} s, {extra:.0f} MiB over the model (asked at most 1024)")
    assert extra < 1024


@torch.no_grad()
def test_against_transformer_lens() -> None:
    """Self-attention of the encoder by queries at the base shape, beside TransformerLens' own function."""
    theirs = pytest.importorskip("transformer_lens.utilities.matrix", reason="optional: see test_transformer_lens.py")
    factored = pytest.importorskip("transformer_lens").FactoredMatrix
    model = opened("base shape")
    stacked = model.stacked_weights("encoder.self")
    OV, QK = factored(stacked.W_V, stacked.W_O), factored(stacked.W_Q, stacked.W_K.mT)

    def ours() -> np.ndarray:
        A = _factor(model, "encoder.self", None, True)
        return _table(A, _factor(model, "encoder.self", "Q", True), "later", MEMORY)

    found, wanted = ours(), theirs.composition_scores(OV, QK, broadcast_dims=True).numpy()
    np.testing.assert_allclose(found[~np.isnan(found)], wanted[~np.isnan(found)], rtol=1e-4)
    calls = {"ours": ours, "TransformerLens": lambda: theirs.composition_scores(OV, QK, broadcast_dims=True)}
    seconds = timed(calls, rounds=3, warm=1)
    ratio = seconds["TransformerLens"] / seconds["ours"]
    print(
        f"\nbase shape, encoder.self by queries: {seconds['ours']:.2f} s, {ratio:.1f} times faster than TransformerLens"
    )


@torch.no_grad()
def test_a_decoder_against_transformer_lens() -> None:
    """All pairs of GPT-2 small's shape, by queries, keys and values, beside what their all_composition_scores does."""
    theirs = pytest.importorskip("transformer_lens.utilities.matrix", reason="optional: see test_transformer_lens.py")
    factored = pytest.importorskip("transformer_lens").FactoredMatrix
    shape = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": 3072, "n_positions": 1024}
    model = interp.wrap(tiny_gpt2(initializer_range=0.02, **shape), name="GPT-2 small shape")
    _ = model.digest
    stacked = model.stacked_weights("decoder.self")
    OV, QK = factored(stacked.W_V, stacked.W_O), factored(stacked.W_Q, stacked.W_K.mT)
    right = {"Q": QK, "K": QK.T, "V": OV}

    def all_of_theirs() -> dict[str, np.ndarray]:
        return {kind: theirs.composition_scores(OV, right[kind], broadcast_dims=True).numpy() for kind in right}

    def ours() -> CompositionScores:
        return circuits.composition_scores(model, progress=False)

    scores, wanted = ours(), all_of_theirs()
    for kind in right:
        found = scores.between("decoder.self", "decoder.self", kind)
        np.testing.assert_allclose(found[~np.isnan(found)], wanted[kind][~np.isnan(found)], rtol=1e-4)
    seconds = timed({"ours": ours, "TransformerLens": all_of_theirs}, rounds=3, warm=0)
    ratio = seconds["TransformerLens"] / seconds["ours"]
    print(
        f"\nGPT-2 small shape: {scores.n_pairs} pairs in {seconds['ours']:.2f} s, {ratio:.1f} times faster than theirs"
    )
