"""The induction mosaic over a grid of models, repetitions, sequence lengths and seeds."""

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp import Model
from interp.arguments import checked
from interp.errors import InvalidInput, nearest
from interp.sweeps import Sweep, sweep
from interp.sweeps.grid import axis_values
from interp.validate import whole
from probes.induction.induction_mosaic import induction_mosaic
from probes.stimuli.repeated_tokens import repeated_random_tokens

VARIED = {"repetitions": "repetitions", "sequence_length": "sequence_lengths", "seed": "seeds"}
OF_MODEL = ("encoder", "model")
"""Parameters that each model sets itself, so that one sweep can hold models of both families."""


@checked
def induction_sweep(
    models: str | Path | Model | Sequence[str | Path | Model],
    *,
    repetitions: Iterable[int] = (2,),
    sequence_lengths: Iterable[int] = (10,),
    seeds: Iterable[int] = (0,),
    store: str | Path | None = None,
    n_jobs: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: bool = True,
    **stimulus: Any,
) -> Sweep:
    """Run the induction mosaic of each model on each kind of repeated random tokens.

    Args:
        models: one or several names or directories; open models where the sweep runs in this process.
        stimulus: other parameters of `repeated_random_tokens`, the same for all.

    `store`, `n_jobs`, `dtype`, `device` and `progress` are those of `interp.sweeps.sweep`.

    Returns:
        The sweep, axes `model, repetitions, sequence_length, seed`. Its frame has one row a configuration and head of
        the mosaic: `head, layer, index, relative_layer`, the scores with standard errors, `either`, `lift` (times
        chance), `eos`, `occurrence_sum` and `right_sum` (attention to all earlier occurrences and one to their right,
        added), `n_tokens` (that can be seen), `accuracy` (share of rows whose continuation is predicted),
        `n_parameters`, and attention by occurrence, `current_1, ...` and `right_1, ...`, 1 being the last; NaN beyond
        the repetitions.

    Raises:
        InvalidInput: an unknown or impossible parameter of the stimulus, or an impossible axis.
        InterpError: from `interp.sweeps.sweep`.

    Source: "Hunting for Induction Heads in Amazon's Chronos", part 2.
    """
    grid = {
        "model": [models] if isinstance(models, str | Path | Model) else models,
        "repetitions": axis_values("repetitions", repetitions),
        "sequence_length": axis_values("sequence_lengths", sequence_lengths),
        "seed": axis_values("seeds", seeds),
    }
    _check_stimulus(grid, stimulus)
    return sweep(
        induction_rows,
        grid,
        # Spelled out, so that a store knows the same call by its defaults as by their values.
        fixed=defaults() | stimulus,
        store=store,
        n_jobs=n_jobs,
        dtype=dtype,
        device=device,
        progress=progress,
    )


def defaults() -> dict[str, Any]:
    """Return the parameters of `repeated_random_tokens` that neither the sweep varies nor the model sets."""
    parameters = inspect.signature(repeated_random_tokens).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in (*VARIED, *OF_MODEL)}


def _check_stimulus(grid: dict[str, Any], stimulus: dict[str, Any]) -> None:
    """Check that every stimulus of the grid can be made, before a model is opened."""
    known = list(defaults())
    for name in stimulus:
        if name in VARIED:
            raise InvalidInput(f"{name} varies over the grid: give {VARIED[name]}=[...].")
        if name in OF_MODEL:
            raise InvalidInput(f"{name} is each model's own: leave it out.")
        if name not in known:
            raise InvalidInput(
                f"{name}: no parameter of repeated_random_tokens.{nearest(name, [*known, *VARIED.values()])}"
            )
    small: dict[str, Any] = {**stimulus, "batch_size": min(1, whole("batch_size", stimulus.get("batch_size", 1), 1))}
    for seed in grid["seed"]:
        whole("seed", seed, 0)
    for n in grid["repetitions"]:
        for length in grid["sequence_length"]:
            repeated_random_tokens(repetitions=n, sequence_length=length, **small)


def induction_rows(model: Model, **stimulus: Any) -> pd.DataFrame:
    """Run the mosaic of one model on one stimulus: a row a head, with the columns of `induction_sweep`."""
    model.require("tokens")
    mosaic = induction_mosaic(model, **stimulus)
    current, right = mosaic.current_by_occurrence, mosaic.right_by_occurrence
    assert current is not None
    assert right is not None
    frame = mosaic.to_frame().drop(columns="model")
    n = current.shape[-1]
    extra = {
        "right_sum": right.sum(-1).ravel(),
        "n_tokens": mosaic.n_tokens,
        "accuracy": mosaic.accuracy(),
        "n_parameters": model.n_parameters,
        **{f"current_{i + 1}": current[..., i].ravel() for i in range(n)},
        **{f"right_{i + 1}": np.asarray(right[..., i]).ravel() for i in range(n)},
    }
    return frame.assign(**extra)
