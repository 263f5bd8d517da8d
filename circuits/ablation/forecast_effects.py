"""Do heads cause the forecast? Forecasts with and without them, against the truth and controls.

1. A model of tokens reads the truth step by step, without sampling: the likelihood of each next token, and the CRPS of
   its distribution over bins. Its forecasts are sampled, with common random numbers.
2. A model of quantiles draws nothing: its forecasts are what its pipeline's `predict_quantiles` gives. They have a
   pinball loss, a coverage and crossing quantiles.
3. Of both: MASE and weighted quantile loss, and the distance to the unedited forecast.
4. Beside them stand naive, seasonal naive and parroted forecasts, and how close each forecast is to parroting.

Source: Zhang & Gilpin 2025, "Context parroting"; Bao et al. 2026 (forecast error against the truth
and against the unablated forecast); Crosbie & Shutova 2024 (random heads of the same layers).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from circuits.ablation.baselines import naive, parrot, seasonal_naive
from circuits.ablation.forecast_runs import forecast_runs, split_series
from circuits.ablation.forecast_scores import (
    QUANTILES,
    at,
    forecast_errors,
    quantile_scores,
    quantiles,
    seasonal_scale,
)
from circuits.ablation.forecast_variants import Change, Members, drawn_controls, targets_of, variants_of
from circuits.ablation.head_effects import MEMORY
from circuits.ablation.quantile_forecasts import quantile_forecasts
from circuits.controls import Controls, columns_of_controls
from interp import Model
from interp.arguments import checked
from interp.editing.context import check_unhooked
from interp.editing.edits import Reference
from interp.editing.methods import Method, ablations, method_source
from interp.errors import InvalidInput, MissingCapability
from interp.inputs.dates import own_index
from interp.inputs.user_series import Series, read_series
from interp.models.model import as_model
from interp.results.by_head import Heads, provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import interval
from interp.validate import whole

SAMPLES = 20
"""Sample paths of a model of tokens for each series and ablation, by default."""


@dataclass(frozen=True, eq=False, repr=False)
class ForecastEffects(Result):
    """Forecasts of the unedited model, of ablations and of their controls, with their errors.

    Attributes:
        names: the variants: `unedited`, the ablations, their controls.
        sets: by variant, what it ablates.
        controls: by ablation, the names of its controls.
        reasons: by ablation, why it has no controls or fewer than asked; otherwise empty.
        outcomes: by name, `[variant, series]`. Of all models: `mase` (of the median), `wql`, `distance` (of the median
            to the unedited one), `to_parroting` (of the median to the parroted forecast), `parroting` (correlation of
            the two over steps). Of models of tokens: `nll` (nats per step over the value tokens, the truth read step by
            step), `crps` (of the distribution over bins, likewise). Of models of quantiles: `pinball` (averaged over
            levels and steps), `coverage` (share of steps between the lowest and the highest quantile, of which 80 % are
            right between .1 and .9), `crossing` (share of neighbouring quantiles that cross). CRPS, pinball and
            distances are in units of the context's mean absolute seasonal difference, as MASE is.
        baselines: `mase` and `wql` `[series]` of `naive`, `seasonal_naive`, `parroting`.
        contexts: `[series, step]`.
        truth: `[series, step]`.
        fans: quantile forecasts at `levels`, `[variant, series, quantile, step]`.
        points: the baselines' forecasts, `[series, step]`.
        series_names: the name of each series; None where it has none.
        indexes: the dates (or periods, or numbers) of each series' own steps, context and truth together; None where it
            has none.
        levels: of the quantiles: the model's own, or 0.1 to 0.9 of samples.
    """

    KIND = "forecast-effects"
    VERSION = 2

    names: tuple[str, ...]
    sets: dict[str, tuple[str, ...]]
    controls: dict[str, tuple[str, ...]]
    reasons: dict[str, str]
    outcomes: dict[str, Floats]
    baselines: dict[str, dict[str, Floats]]
    contexts: Floats
    truth: Floats
    fans: Floats
    points: dict[str, Floats]
    provenance: dict[str, Any]
    series_names: tuple[str | None, ...]
    indexes: tuple[pd.Index | None, ...]
    levels: tuple[float, ...]

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        # Files of version 1 hold neither names nor dates nor levels.
        unknown = (None,) * len(values["truth"])
        before = {"series_names": unknown, "indexes": unknown, "levels": QUANTILES}
        return super()._of_contents(before | values)

    @property
    def medians(self) -> Floats:
        """The medians of the forecasts, `[variant, series, step]`; interpolated where no level is 0.5."""
        return at(self.fans, self.levels, 0.5)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per variant, series and outcome; the baselines are variants too.

        Returns:
            `variant, series, name, outcome, value`. `name` is left out where no series has one.
        """
        rows = [
            {"variant": name, "series": i, "outcome": outcome, "value": float(value)}
            for outcome, values in self.outcomes.items()
            for name, by_series in zip(self.names, values, strict=True)
            for i, value in enumerate(by_series)
        ]
        rows += [
            {"variant": name, "series": i, "outcome": outcome, "value": float(value)}
            for name, errors in self.baselines.items()
            for outcome, values in errors.items()
            for i, value in enumerate(values)
        ]
        frame = Frame(rows)
        frame.insert(2, "name", [self.series_names[i] for i in frame["series"]])
        return self._named(frame)

    def forecasts(self) -> pd.DataFrame:
        """Return the forecasts themselves: one row per variant, series and step.

        Returns:
            `variant, series, name, time` (the date where it is known, otherwise the step from the start of the longest
            context), `truth`, and the quantiles by level, as `0.1` to `0.9`. `name` is left out where no series has
            one.
        """
        start, steps = self.contexts.shape[1], self.truth.shape[1]
        times = [pd.RangeIndex(start, start + steps) if i is None else i[-steps:] for i in self.indexes]
        parts: list[pd.DataFrame] = []
        for variant, fans in zip(self.names, self.fans, strict=True):
            for row, (name, time, fan) in enumerate(zip(self.series_names, times, fans, strict=True)):
                about = {"variant": variant, "series": row, "name": name, "time": time, "truth": self.truth[row]}
                parts.append(Frame(about | dict(zip(map(str, self.levels), fan, strict=True))))
        return self._named(pd.concat(parts, ignore_index=True))

    def calibration(self) -> pd.DataFrame:
        """Return how often the truth lies at or below each quantile, which a good forecast does as often as it says.

        Returns:
            One row per variant, series and level: `variant, series, name, level, coverage` (a share of steps). `name`
            is left out where no series has one.
        """
        below = (self.truth[:, None] <= self.fans).mean(-1)
        rows = [
            {"variant": variant, "series": row, "name": self.series_names[row], "level": level, "coverage": share}
            for variant, by_series in zip(self.names, below, strict=True)
            for row, shares in enumerate(by_series)
            for level, share in zip(self.levels, shares.tolist(), strict=True)
        ]
        return self._named(Frame(rows))

    def _named(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame if any(self.series_names) else frame.drop(columns="name")

    def _shown(self) -> pd.DataFrame:
        return self.summary()

    def summary(self) -> pd.DataFrame:
        """Return one row per ablation and outcome: means over series, the change, and the controls' change.

        `low, high` are Student's 95 % interval of the change over series (NaN under three series). `control` is the
        mean change over control sets; `control_low, control_high` are the least and the largest of them, or the middle
        95 % of 39 sets or more, as `band` says. `p` is the rank of the change among theirs, at least
        1 / (1 + draws). `series` counts the series in which all of these have the outcome.
        """
        rows = []
        for name in self.controls:
            for outcome, values in self.outcomes.items():
                variants = values[[0, self.names.index(name), *(self.names.index(c) for c in self.controls[name])]]
                # The correlation with parroting does not exist where the parroted forecast is flat.
                known = ~np.isnan(variants).any(0)
                clean, own, *controls = variants[:, known]
                low, high = interval((own - clean)[None])
                if not known.any():
                    clean, own, controls = np.full(1, np.nan), np.full(1, np.nan), []
                changes = np.array([float((control - clean).mean()) for control in controls])
                rows.append(
                    {
                        "ablation": name,
                        "outcome": outcome,
                        "unedited": clean.mean(),
                        "ablated": own.mean(),
                        "change": (own - clean).mean(),
                        "low": low[0],
                        "high": high[0],
                        **columns_of_controls(float((own - clean).mean()), changes),
                        "draws": len(self.controls[name]),
                        "series": int(known.sum()),
                        "reason": self.reasons[name],
                    }
                )
        return Frame(rows)


@checked
def forecast_effects(
    model: Model,
    series: Series,
    ablations: Mapping[str, Change | Sequence[Change]],
    *,
    prediction_length: int = 24,
    num_samples: int | None = None,
    season: int = 1,
    seed: int = 0,
    method: Method = "zero",
    reference: Reference | None = None,
    controls: int = 5,
    exclude: Heads = (),
    memory: int = MEMORY,
    progress: bool = True,
) -> ForecastEffects:
    """Forecast the end of each series with and without some heads, or under edits of any kind.

    Args:
        series: one or several. The last `prediction_length` steps are the truth; what comes before
            is the context, in which values may be missing (NaN).
        ablations: by name, what is done together: heads, attention layers or sites, which are ablated by `method`, and
            edits, such as `[interp.Add(site, value), "decoder.cross.1.2"]`. All forecasts share the random numbers.
            Several ablations run side by side; edits take a run of the whole model for each name.
        prediction_length: steps to forecast. A model of tokens forecasts at most its own prediction length. A model of
            quantiles forecasts `model.horizon` steps in one pass. Beyond it this is a heuristic of Chronos, which goes
            on from each quantile path and takes quantiles of all that come out; edits are in force in all these runs.
        num_samples: sample paths for each series and ablation, by default as the model does: 20 of a model of tokens,
            and none of a model of quantiles, which has no others.
        season: steps of a season, by which errors are scaled; 1 scales by single steps.
        method: `zero`, or `mean` over the rows and positions of the reference.
        reference: a batch, or several, for means.
        controls: random sets for each ablation of heads; all distinct ones where there are fewer.
        exclude: heads that are never drawn, such as all induction heads. Ablated heads never are.

    Returns:
        The outcomes that `ForecastEffects` lists for each series, unedited, ablated and under every control, with the
        baselines.

    Raises:
        UnknownHead, UnknownSite: an address that this model does not have.
        InvalidInput: no ablations, one without a target or with one twice, or under a reserved name; of a model of
            tokens, sites that the folded decoder does not pass, and edits that take another input row by row; series
            that are too short for the prediction or the season, without a finite truth, or whose context does
            not vary from season to season, for which a scaled error is undefined; series and forecast together
            longer than the model's positions; quantiles without a median among or between them; edits in force.
        UnsupportedModel: a model without a tokenizer for series.
        MissingCapability: samples of a model of quantiles.
        InertEdit: an edit that reaches nothing in a forecast.
    """
    check_forecasts(model, method, num_samples)
    targets = targets_of(model, ablations, method, reference)
    whole("seed", seed, 0)
    whole("controls", controls, 0)
    return controlled_forecasts(
        model,
        series,
        targets,
        drawn_controls(model, targets, exclude=exclude, draws=controls, seed=seed),
        prediction_length=prediction_length,
        num_samples=num_samples,
        season=season,
        seed=seed,
        method=method,
        reference=reference,
        memory=memory,
        progress=progress,
    )


def check_forecasts(model: Model, method: Method, num_samples: int | None) -> None:
    """Check that a model forecasts series, by such a method, with as many samples.

    Raises:
        MissingCapability: it forecasts nothing, or draws no samples.
        InvalidInput: resamples, another number of samples, or quantiles that have no median.
    """
    as_model(model).require("series")
    if method == "resample":
        why = "sampled tokens part ways from a resample's."
        if model.gives_quantiles:
            why = "give a resample as an edit, [interp.Resample(address, batch)], with a row for each series."
        raise InvalidInput(f"forecasts take method='zero' or 'mean': {why}")
    if num_samples is not None:
        whole("num_samples", num_samples, 1)
    if not model.gives_quantiles:
        return
    if num_samples is not None:
        raise MissingCapability(
            f"{model.name} draws no samples: its forecasts are quantiles, and the same at each call. Leave num_samples "
            "out."
        )
    if not model.levels[0] <= 0.5 <= model.levels[-1]:
        raise InvalidInput(
            f"{model.name} forecasts quantiles from {model.levels[0]:g} to {model.levels[-1]:g}: there is no median "
            "among or between them, and MASE and distances are of medians."
        )


def controlled_forecasts(
    model: Model,
    series: Series,
    targets: Mapping[str, Members],
    drawn: Mapping[str, Controls],
    *,
    prediction_length: int,
    num_samples: int | None,
    season: int,
    seed: int,
    method: Method,
    reference: Reference | None,
    memory: int = MEMORY,
    progress: bool = True,
) -> ForecastEffects:
    """Forecast with and without some heads as `forecast_effects` does, beside the controls that are drawn already.

    Args:
        targets: by name, what is ablated together, or the edits that are in force together.
        drawn: by name of the ablation, its controls.
    """
    check_unhooked(model, "a forecast of several ablations")
    check_forecasts(model, method, num_samples)
    ablations([], method, reference)
    user_series = read_series(series)
    contexts, truth = split_series(model, user_series.values, prediction_length, season)
    whole("seed", seed, 0)
    controls = {name: [f"{name}, control {i + 1}" for i in range(len(drawn[name].sets))] for name in targets}
    variants = variants_of(targets, drawn, controls)
    run: dict[str, Any] = {"method": method, "reference": reference, "memory": memory, "progress": progress}
    scale = seasonal_scale(contexts, season)
    if model.gives_quantiles:
        levels = model.levels
        fans = quantile_forecasts(model, list(variants.values()), contexts, prediction_length, **run)
        own = quantile_scores(fans, levels, truth)
        own["pinball"] = own["pinball"] / scale
        settings = {"horizon": model.horizon}
    else:
        levels = QUANTILES
        settings = {"num_samples": SAMPLES if num_samples is None else num_samples}
        nll, crps, samples = forecast_runs(
            model, list(variants.values()), contexts, truth, seed=seed, **settings, **run
        )
        fans, own = quantiles(samples), {"nll": nll, "crps": crps / scale}
    points = {
        "naive": np.stack([naive(context, prediction_length) for context in contexts]),
        "seasonal_naive": np.stack([seasonal_naive(context, prediction_length, season) for context in contexts]),
        "parroting": np.stack([parrot(context, prediction_length) for context in contexts]),
    }
    flat = {name: np.repeat(point[:, None], len(levels), axis=1) for name, point in points.items()}
    errors = forecast_errors(contexts, truth, dict(zip(variants, fans, strict=True)) | flat, season, levels)
    medians = at(fans, levels, 0.5)
    outcomes = own | {
        **{outcome: np.stack([by_name[name] for name in variants]) for outcome, by_name in errors.items()},
        "distance": np.abs(medians - medians[:1]).mean(-1) / scale,
        "to_parroting": np.abs(medians - points["parroting"]).mean(-1) / scale,
        "parroting": np.stack([_correlation(median, points["parroting"]) for median in medians]),
    }
    source = provenance(model, name="series", n_series=len(truth), context=contexts.shape[1], season=season)
    source |= method_source(method, reference, seed=seed, prediction_length=prediction_length, **settings)
    return ForecastEffects(
        names=tuple(variants),
        sets={name: tuple(map(str, members)) for name, members in variants.items()},
        controls={name: tuple(titles) for name, titles in controls.items()},
        reasons={name: drawn[name].reason for name in targets},
        outcomes=outcomes,
        baselines={name: {outcome: by_name[name] for outcome, by_name in errors.items()} for name in points},
        contexts=contexts,
        truth=truth,
        fans=fans,
        points=points,
        provenance=source,
        series_names=user_series.names,
        indexes=tuple(own_index(index) for index in user_series.indexes),
        levels=levels,
    )


def _correlation(a: Floats, b: Floats) -> Floats:
    """Return Pearson's correlation over steps, `[series]`; NaN where one of the two does not vary."""
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
