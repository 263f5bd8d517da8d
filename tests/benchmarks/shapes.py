"""What benchmarks are timed on, and how: medians, or the least, of interleaved calls in one run."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import interp
from interp.zoo.recipe import chronos_config
from tests.conftest import tiny_pipeline

SHAPES = {
    "mini shape": {"d_model": 384, "d_kv": 64, "d_ff": 1536, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 8},
    "small shape": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_decoder_layers": 6, "num_heads": 8},
    "base shape": {
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 3072,
        "num_layers": 12,
        "num_decoder_layers": 12,
        "num_heads": 12,
    },
    "large shape": {
        "d_model": 1024,
        "d_kv": 64,
        "d_ff": 4096,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 16,
    },
}
"""The shapes of amazon/chronos-t5-mini, -small, -base and -large; their contexts are 512 steps, their forecasts 64."""


def opened(size: str, **options: Any) -> interp.Model:
    """The bundled model, or random weights of a published shape."""
    if size in SHAPES:
        settings = vars(replace(chronos_config(), context_length=512, prediction_length=64))
        model = interp.wrap(tiny_pipeline(**SHAPES[size], chronos_config=settings, **options), name=size)
    else:
        model = interp.load(size, **options)
    _ = model.digest  # computed once a model, not once a result
    return model


def paired(first: Callable[[], object], second: Callable[[], object], pairs: int) -> tuple[float, float]:
    """Median seconds of the first, and the median over pairs of how many times it the second takes.

    Pairs alternate in order, so that what is drifting favours neither.
    """
    seconds: list[tuple[float, float]] = []
    for index in range(pairs + 2):
        taken: dict[int, float] = {}
        for place in ((0, 1), (1, 0))[index % 2]:
            start = time.perf_counter()
            (first, second)[place]()
            taken[place] = time.perf_counter() - start
        seconds.append((taken[0], taken[1]))
    kept = seconds[2:]
    return median(a for a, _ in kept), median(b / a for a, b in kept)


def timed(calls: dict[str, Callable[[], object]], rounds: int, warm: int = 3) -> dict[str, float]:
    """Median seconds of each call, in turn."""
    for call in warm * list(calls.values()):
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def least(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least seconds of each call, in turn, after one round that warms up."""
    seconds: dict[str, float] = {}
    for index in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken = time.perf_counter() - start
            if index:
                seconds[name] = min(seconds.get(name, taken), taken)
    return seconds
