"""How good forecasts are: likelihood, CRPS of the bins, MASE and weighted quantile loss.

MASE and weighted quantile loss are utilsforecast's.

Source: Gneiting & Raftery 2007 (CRPS); Hyndman & Koehler 2006 (MASE); Rangapuram et al. 2021
(weighted quantile loss, as scaled CRPS).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from utilsforecast.losses import mase, scaled_crps

from interp.results import Floats

QUANTILES = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""Of the weighted quantile loss, as Chronos is evaluated."""


def bin_crps(
    log_probs: Float[Tensor, "*step token"], centers: Float[Tensor, " token"], truth: Float[Tensor, "*#step"]
) -> Float[Tensor, "*step"]:
    """The CRPS of a distribution over bins, each at its center.

    Args:
        log_probs: of the value tokens in order; normalised here.
        centers: their values, ascending.
        truth: what came.

    Returns:
        E|X - y| - E|X - X'| / 2, in the units of the centers.
    """
    shares = log_probs.double().softmax(-1)
    centers, truth = centers.double(), truth.double()
    off = (shares * (centers - truth[..., None]).abs()).sum(-1)
    below = shares.cumsum(-1)[..., :-1]
    return off - (below * (1 - below) * centers.diff()).sum(-1)


def forecast_errors(
    contexts: Floats, truth: Floats, forecasts: Mapping[str, Floats], season: int
) -> dict[str, dict[str, Floats]]:
    """MASE of the median and weighted quantile loss of some forecasts.

    Args:
        contexts: `[series, step]`, NaN where there is none.
        truth: `[series, step]`.
        forecasts: by name, quantile forecasts `[series, quantile, step]` at `QUANTILES`.
        season: by whose differences MASE scales.

    Returns:
        `mase` and `wql`: by name `[series]`; `wql` is NaN where the truth is zero throughout.
    """
    names = list(forecasts)
    # Frames of very many columns are slow, and pandas warns of them.
    parts = [{name: forecasts[name] for name in names[i : i + 10]} for i in range(0, len(names), 10)]
    found: dict[str, dict[str, Floats]] = {"mase": {}, "wql": {}}
    for part in parts:
        for kind, errors in _errors(contexts, truth, part, season).items():
            found[kind] |= errors
    return found


def _errors(
    contexts: Floats, truth: Floats, forecasts: Mapping[str, Floats], season: int
) -> dict[str, dict[str, Floats]]:
    series, steps = truth.shape
    start = contexts.shape[1]
    ids, ds = np.repeat(np.arange(series), steps), np.tile(np.arange(start, start + steps), series)
    columns = {
        f"{name}|{q}": values[:, i].ravel() for name, values in forecasts.items() for i, q in enumerate(QUANTILES)
    }
    table = pd.DataFrame({"unique_id": ids, "ds": ds, "y": truth.ravel(), **columns})
    past = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(series), start),
            "ds": np.tile(np.arange(start), series),
            "y": contexts.ravel(),
        }
    )
    medians = table.rename(columns={f"{name}|0.5": name for name in forecasts})
    scaled = mase(medians, models=list(forecasts), seasonality=season, train_df=past)
    weighted = scaled_crps(
        table,
        models={name: [f"{name}|{q}" for q in QUANTILES] for name in forecasts},
        quantiles=np.array(QUANTILES),
    )
    # The loss is weighted by the truth's absolute values: where all are zero it does not exist.
    weights = np.where(np.abs(truth).sum(1) > 0, 1.0, np.nan)
    return {
        "mase": {name: scaled.sort_values("unique_id")[name].to_numpy() for name in forecasts},
        "wql": {name: weighted.sort_values("unique_id")[name].to_numpy() * weights for name in forecasts},
    }


def seasonal_scale(contexts: Floats, season: int) -> Floats:
    """The mean absolute seasonal difference of each context, by which MASE scales, `[series]`."""
    differences = np.abs(contexts[:, season:] - contexts[:, :-season])
    counts = (~np.isnan(differences)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(differences, axis=1) / counts


def quantiles(samples: Floats) -> Floats:
    """Quantile forecasts at `QUANTILES` of samples `[..., sample, step]`, `[..., quantile, step]`."""
    return np.moveaxis(np.quantile(samples, QUANTILES, axis=-2), 0, -2)


def centers(model_centers: Tensor) -> Tensor:
    """The value of each value token in order: Chronos reads the lowest two tokens as one value."""
    return torch.cat([model_centers[:1], model_centers])
