"""Frames as sweeps of mosaics give them: of real mosaics, and of scores made up by hand."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

import interp
import probes
from probes.induction.mosaic import Mosaic


def real_frame(
    models: Iterable[interp.Model], repetitions: Iterable[int], lengths: Iterable[int], seeds: Iterable[int]
) -> pd.DataFrame:
    """One row a configuration and head, of real mosaics."""
    parts: list[pd.DataFrame] = []
    for model in models:
        for r, n, s in product(repetitions, lengths, seeds):
            mosaic = probes.induction_mosaic(model, repetitions=r, sequence_length=n, seed=s, batch_size=20)
            parts.append(_with_axes(mosaic, model.name, {"repetitions": r, "sequence_length": n, "seed": s}))
    return pd.concat(parts, ignore_index=True)


def made_up(model: str, current: Any, right: Any, *, accuracy: float = 0.5, **axes: Any) -> pd.DataFrame:
    """The rows of one configuration with these scores `[layer, head]`."""
    current, right = (np.array(scores, dtype=float) for scores in (current, right))
    places = list(np.ndindex(*current.shape))
    frame = pd.DataFrame(
        {
            "head": [f"decoder.cross.{i}.{j}" for i, j in places],
            "layer": [i for i, _ in places],
            "index": [j for _, j in places],
            "current_token": current.ravel(),
            "token_to_right": right.ravel(),
            "either": np.maximum(current, right).ravel(),
            "n_tokens": 22,
            "accuracy": accuracy,
        }
    )
    for place, (name, value) in enumerate({"model": model, **axes}.items()):
        frame.insert(place, name, pd.Series([value] * len(frame)))
    return frame


def random_frame(model: str, shape: tuple[int, int], *, draw: int = 0, **axes: Any) -> pd.DataFrame:
    """Like `made_up`, with random scores of which few are large."""
    rng = np.random.default_rng(draw)
    current, right = rng.beta(0.3, 2.5, (2, *shape))
    return made_up(model, current, right, accuracy=float(rng.random()), **axes)


def _with_axes(mosaic: Mosaic, model: str, axes: dict[str, int]) -> pd.DataFrame:
    frame = mosaic.to_frame().drop(columns="model")
    frame["n_tokens"], frame["accuracy"] = mosaic.n_tokens, mosaic.accuracy()
    for place, (name, value) in enumerate({"model": model, **axes}.items()):
        frame.insert(place, name, value)
    return frame
