"""Errors of forecasts: CRPS of a distribution over bins, MASE and weighted quantile loss (by utilsforecast).

Source: Gneiting & Raftery 2007 (CRPS); Hyndman & Koehler 2006 (MASE); Rangapuram et al. 2021
(weighted quantile loss, as scaled CRPS).
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from utilsforecast.losses import mase, scaled_crps

from interp.results.frame import Frame
from interp.results.quantile_losses import Levels, at_level, pinball_loss
from interp.results.result import Floats

QUANTILES = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""Quantiles that are taken of samples, as in the evaluation of Chronos."""


def bin_crps(
    log_probs: Float[Tensor, "*step token"], centers: Float[Tensor, " token"], truth: Float[Tensor, "*#step"]
) -> Float[Tensor, "*step"]:
    """Compute the CRPS of a distribution over bins, each at its center: E|X - y| - E|X - X'| / 2.

    Args:
        log_probs: log-probabilities of the value tokens in order; normalised here.
        centers: their values, ascending, in whose units the CRPS is.
    """
    shares = log_probs.double().softmax(-1)
    centers, truth = centers.double(), truth.double()
    off = (shares * (centers - truth[..., None]).abs()).sum(-1)
    below = shares.cumsum(-1)[..., :-1]
    return off - (below * (1 - below) * centers.diff()).sum(-1)


def forecast_errors(
    contexts: Floats, truth: Floats, forecasts: Mapping[str, Floats], season: int, levels: Levels = QUANTILES
) -> dict[str, dict[str, Floats]]:
    """Compute MASE of the median and the weighted quantile loss of several forecasts.

    Args:
        contexts: `[series, step]`; NaN where a value is missing.
        truth: `[series, step]`.
        forecasts: by name, quantile forecasts `[series, quantile, step]`.
        season: steps of the season whose differences scale MASE.
        levels: of the quantiles. Between two of them the median is interpolated.

    Returns:
        `mase` and `wql`: by name `[series]`; `wql` is NaN where the truth is zero throughout.
    """
    series, steps = truth.shape
    start = contexts.shape[1]
    names = list(forecasts)
    stacked = np.stack([forecasts[name] for name in names])
    # Long frames, an id for each forecast of a series: the library works column by column.
    each = np.arange(len(names) * series)
    table = Frame(
        {
            "unique_id": np.repeat(each, steps),
            "ds": np.tile(np.arange(start, start + steps), len(each)),
            "y": np.tile(truth.ravel(), len(names)),
            "median": at(stacked, levels, 0.5).ravel(),
            **{str(q): stacked[:, :, i].ravel() for i, q in enumerate(levels)},
        }
    )
    past = Frame(
        {
            "unique_id": np.repeat(each, start),
            "ds": np.tile(np.arange(start), len(each)),
            "y": np.tile(contexts.ravel(), len(names)),
        }
    )
    scaled = mase(table, models=["median"], seasonality=season, train_df=past).sort_values("unique_id")["median"]
    losses = scaled_crps(table, models={"wql": list(map(str, levels))}, quantiles=np.array(levels))
    weighted = losses.sort_values("unique_id")["wql"].to_numpy().reshape(len(names), series)
    # The loss is weighted by the truth's absolute values: where all are zero it does not exist.
    weighted = np.where(np.abs(truth).sum(1) > 0, weighted, np.nan)
    return {
        "mase": dict(zip(names, scaled.to_numpy().reshape(len(names), series), strict=True)),
        "wql": dict(zip(names, weighted, strict=True)),
    }


def seasonal_scale(contexts: Floats, season: int) -> Floats:
    """Return the mean absolute seasonal difference of each context, by which MASE scales, `[series]`."""
    differences = np.abs(contexts[:, season:] - contexts[:, :-season])
    counts = (~np.isnan(differences)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(differences, axis=1) / counts


def quantile_scores(fans: Floats, levels: Levels, truth: Floats) -> dict[str, Floats]:
    """Score quantile forecasts that are no quantiles of samples.

    Args:
        fans: `[*variant, series, quantile, step]`.
        truth: `[series, step]`.

    Returns:
        `pinball`, the loss averaged over levels and steps, in the series' units; `coverage`, the share of steps that
        lie between the lowest and the highest quantile, these included; and `crossing`, the share of neighbouring
        quantiles, over steps, of which the lower level lies above the higher one: `[*variant, series]` each.
    """
    inside = (fans[..., 0, :] <= truth) & (truth <= fans[..., -1, :])
    with np.errstate(invalid="ignore"):  # of one level there are no neighbours
        crossing = (np.diff(fans, axis=-2) < 0).sum((-2, -1)) / np.float64((len(levels) - 1) * truth.shape[-1])
    came = torch.from_numpy(np.broadcast_to(truth, (*fans.shape[:-2], truth.shape[-1])).copy())
    losses = pinball_loss(torch.from_numpy(fans.copy()), levels, came)
    return {"pinball": losses.numpy(), "coverage": inside.mean(-1), "crossing": crossing}


def at(fans: Floats, levels: Levels, level: float) -> Floats:
    """Return the quantile at a level of forecasts `[..., quantile, step]`, interpolated between two of their levels."""
    return at_level(torch.from_numpy(np.array(fans)), levels, level).numpy()


def quantiles(samples: Floats) -> Floats:
    """Return the quantiles at `QUANTILES`, `[..., quantile, step]`, of samples `[..., sample, step]`."""
    return np.moveaxis(np.quantile(samples, QUANTILES, axis=-2), 0, -2)
