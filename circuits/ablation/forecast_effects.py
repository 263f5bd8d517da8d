"""Do heads cause the forecast? Forecasts with and without them, against the truth and controls.

1. Without sampling, the model reads the truth step by step: the likelihood of each next token, and
   the CRPS of its distribution over bins.
2. Sampled, with common random numbers: MASE and weighted quantile loss, and the distance to the unedited forecast.
3. Beside them stand naive, seasonal naive and parroted forecasts, and how close each forecast is to parroting.

Source: Zhang & Gilpin 2025, "Context parroting"; Bao et al. 2026 (forecast error against the truth
and against the unablated forecast); Crosbie & Shutova 2024 (random heads of the same layers).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import pandas as pd

from circuits.ablation.baselines import naive, parrot, seasonal_naive
from circuits.ablation.edited_forecasts import check_edits
from circuits.ablation.forecast_runs import forecast_runs, split_series
from circuits.ablation.forecast_scores import QUANTILES, forecast_errors, quantiles, seasonal_scale
from circuits.ablation.head_effects import MEMORY
from circuits.ablation.sampling import Ablated
from circuits.controls import Controls, columns_of_controls, random_controls
from interp import Model
from interp.arguments import checked
from interp.editing.context import check_unhooked
from interp.editing.edit import Address, Edit, Target, addresses_of, locate
from interp.editing.edits import Reference
from interp.editing.methods import Method, ablations, method_source
from interp.errors import InvalidInput
from interp.inputs.dates import own_index
from interp.inputs.user_series import Series, read_series
from interp.models.model import as_model
from interp.names import Head
from interp.results.by_head import Heads, as_heads, provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import interval
from interp.validate import whole

Change = Target | Edit
"""What an ablation's name stands for: a head, layer or site that is ablated, or an edit."""

UNEDITED = "unedited"
BASELINES = ("naive", "seasonal_naive", "parroting")


@dataclass(frozen=True, eq=False, repr=False)
class ForecastEffects(Result):
    """Forecasts of the unedited model, of ablations and of their controls, with their errors.

    Attributes:
        names: the variants: `unedited`, the ablations, their controls.
        sets: by variant, what it ablates.
        controls: by ablation, the names of its controls.
        reasons: by ablation, why it has no controls or fewer than asked; otherwise empty.
        outcomes: by name, `[variant, series]`: `nll` (nats per step over the value tokens, the truth read step by
            step), `crps` (of the distribution over bins, likewise), `mase`, `wql`, `distance` (of the median
            to the unedited one), `to_parroting` (of the median to the parroted forecast),
            `parroting` (correlation of the two over steps). CRPS and distances are in units of the
            context's mean absolute seasonal difference, as MASE is.
        baselines: `mase` and `wql` `[series]` of `naive`, `seasonal_naive`, `parroting`.
        contexts: `[series, step]`.
        truth: `[series, step]`.
        fans: quantile forecasts 0.1 to 0.9, `[variant, series, quantile, step]`.
        points: the baselines' forecasts, `[series, step]`.
        series_names: the name of each series; None where it has none.
        indexes: the dates (or periods, or numbers) of each series' own steps, context and truth together; None where it
            has none.
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

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        # Files of version 1 hold neither names nor dates.
        unknown = (None,) * len(values["truth"])
        return super()._of_contents({"series_names": unknown, "indexes": unknown, **values})

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
            context), `truth`, and the quantiles `0.1` to `0.9`. `name` is left out where no series has one.
        """
        start, steps = self.contexts.shape[1], self.truth.shape[1]
        times = [pd.RangeIndex(start, start + steps) if i is None else i[-steps:] for i in self.indexes]
        parts: list[pd.DataFrame] = []
        for variant, fans in zip(self.names, self.fans, strict=True):
            for row, (name, time, fan) in enumerate(zip(self.series_names, times, fans, strict=True)):
                about = {"variant": variant, "series": row, "name": name, "time": time, "truth": self.truth[row]}
                parts.append(Frame(about | dict(zip(map(str, QUANTILES), fan, strict=True))))
        return self._named(pd.concat(parts, ignore_index=True))

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
    num_samples: int = 20,
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
        prediction_length: steps to forecast, at most the model's own prediction length.
        num_samples: sample paths for each series and ablation.
        season: steps of a season, by which errors are scaled; 1 scales by single steps.
        method: `zero`, or `mean` over the rows and positions of the reference.
        reference: a batch, or several, for means.
        controls: random sets for each ablation of heads; all distinct ones where there are fewer.
        exclude: heads that are never drawn, such as all induction heads. Ablated heads never are.

    Returns:
        Likelihood over the value tokens, CRPS, MASE, weighted quantile loss and distances for each series, unedited,
        ablated and under every control, with the baselines.

    Raises:
        UnknownHead, UnknownSite: an address that this model does not have.
        InvalidInput: no ablations, one without a target or with one twice, or under a reserved name;
            sites that the folded decoder does not pass; edits that take another input row by row; series that are too
            short for the prediction or the season, without a finite truth, or whose context does
            not vary from season to season, for which a scaled error is undefined; series and forecast together
            longer than the model's positions; edits in force.
        UnsupportedModel: a model without a tokenizer for series.
        InertEdit: an edit that reaches nothing in a forecast.
    """
    as_model(model).require("tokens")
    targets = _targets(model, ablations, method, reference)
    whole("seed", seed, 0)
    whole("controls", controls, 0)
    ablated_heads = {m for members in targets.values() for m in members if isinstance(m, Head)}
    never = sorted(ablated_heads | set(as_heads(model, exclude)))
    drawn: dict[str, Controls] = {}
    for name, members in targets.items():
        heads = [m for m in members if isinstance(m, Head)]
        if len(heads) < len(members):
            drawn[name] = Controls((), "no control: they are drawn for sets of ablated heads only")
        else:
            drawn[name] = random_controls(model, heads, exclude=never, draws=controls, seed=seed)
    return controlled_forecasts(
        model,
        series,
        targets,
        drawn,
        prediction_length=prediction_length,
        num_samples=num_samples,
        season=season,
        seed=seed,
        method=method,
        reference=reference,
        memory=memory,
        progress=progress,
    )


def controlled_forecasts(
    model: Model,
    series: Series,
    targets: Mapping[str, Sequence[Address] | Sequence[Edit]],
    drawn: Mapping[str, Controls],
    *,
    prediction_length: int,
    num_samples: int,
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
    if method == "resample":
        raise InvalidInput("forecasts take method='zero' or 'mean': sampled tokens part ways from a resample's.")
    ablations([], method, reference)
    user_series = read_series(series)
    contexts, truth = split_series(model, user_series.values, prediction_length, season)
    whole("num_samples", num_samples, 1)
    whole("seed", seed, 0)
    controls = {name: [f"{name}, control {i + 1}" for i in range(len(drawn[name].sets))] for name in targets}
    sets = _variants(targets, drawn, controls)
    under = {name: cast(Sequence[Edit], members) for name, members in sets.items() if _are_edits(members)}
    without = {name: cast(Sequence[Address], members) for name, members in sets.items() if name not in under}
    outputs = forecast_runs(
        Ablated(model, list(without.values()), method, reference),
        list(under.values()),
        contexts,
        truth,
        num_samples=num_samples,
        seed=seed,
        memory=memory,
        progress=progress,
    )
    order = [[*without, *under].index(name) for name in sets]
    nll, crps, samples = (values[order] for values in outputs)
    scale = seasonal_scale(contexts, season)
    points = {
        "naive": np.stack([naive(context, prediction_length) for context in contexts]),
        "seasonal_naive": np.stack([seasonal_naive(context, prediction_length, season) for context in contexts]),
        "parroting": np.stack([parrot(context, prediction_length) for context in contexts]),
    }
    fans = dict(zip(sets, quantiles(samples), strict=True))
    flat = {name: np.repeat(point[:, None], len(QUANTILES), axis=1) for name, point in points.items()}
    errors = forecast_errors(contexts, truth, fans | flat, season)
    medians = np.stack([fan[:, QUANTILES.index(0.5)] for fan in fans.values()])
    outcomes = {
        "nll": nll,
        "crps": crps / scale,
        **{outcome: np.stack([by_name[name] for name in sets]) for outcome, by_name in errors.items()},
        "distance": np.abs(medians - medians[:1]).mean(-1) / scale,
        "to_parroting": np.abs(medians - points["parroting"]).mean(-1) / scale,
        "parroting": np.stack([_correlation(median, points["parroting"]) for median in medians]),
    }
    source = provenance(model, name="series", n_series=len(truth), context=contexts.shape[1], season=season)
    source |= method_source(method, reference, seed=seed, num_samples=num_samples, prediction_length=prediction_length)
    return ForecastEffects(
        names=tuple(sets),
        sets={name: tuple(map(str, members)) for name, members in sets.items()},
        controls={name: tuple(titles) for name, titles in controls.items()},
        reasons={name: drawn[name].reason for name in targets},
        outcomes=outcomes,
        baselines={name: {outcome: by_name[name] for outcome, by_name in errors.items()} for name in points},
        contexts=contexts,
        truth=truth,
        fans=np.stack(list(fans.values())),
        points=points,
        provenance=source,
        series_names=user_series.names,
        indexes=tuple(own_index(index) for index in user_series.indexes),
    )


def _are_edits(members: Sequence[Address] | Sequence[Edit]) -> bool:
    return bool(members) and isinstance(members[0], Edit)


def _variants(
    targets: Mapping[str, Sequence[Address] | Sequence[Edit]],
    drawn: Mapping[str, Controls],
    controls: Mapping[str, Sequence[str]],
) -> dict[str, Sequence[Address] | Sequence[Edit]]:
    """Return what each variant ablates or edits: nothing, then what was asked for, then its controls.

    Raises:
        InvalidInput: an ablation has the name of a baseline, a control or the unedited forecast.
    """
    if reserved := sorted({UNEDITED, *BASELINES} & set(targets)):
        raise InvalidInput(f"an ablation cannot be called {', '.join(reserved)}: another forecast has that name.")
    sets: dict[str, Sequence[Address] | Sequence[Edit]] = {UNEDITED: [], **targets}
    for name, titles in controls.items():
        if reserved := sorted(set(titles) & set(sets)):
            raise InvalidInput(
                f"an ablation cannot be called {', '.join(reserved)}: {name!r} has controls of that name."
            )
        sets |= dict(zip(titles, drawn[name].sets, strict=True))
    return sets


def _targets(
    model: Model, named: Mapping[str, Change | Sequence[Change]], method: Method, reference: Reference | None
) -> dict[str, list[Address] | list[Edit]]:
    """Return by name the addresses that are ablated, or the edits if there is an edit among them."""
    if not isinstance(cast(Any, named), Mapping) or not named:
        raise InvalidInput("no ablations: give a dictionary, as {'induction': mosaic.heads()}.")
    targets: dict[str, list[Address] | list[Edit]] = {}
    for name, changes in named.items():
        several = isinstance(cast(Any, changes), Sequence) and not isinstance(changes, str)
        items = list(cast(Sequence[Change], changes)) if several else [cast(Change, changes)]
        if not isinstance(cast(Any, name), str) or not items:
            raise InvalidInput(f"the ablation {name!r} has no heads, or no name: give both, as text.")
        edits = [item for item in items if isinstance(item, Edit)]
        others = addresses_of(model, [item for item in items if not isinstance(item, Edit)])
        ablated = ablations(others)
        if edits:
            check_edits(name, edits)
            targets[name] = [*(ablations(others, method, reference) if others else ablated), *edits]
            continue
        targets[name] = list(others)
        for address in others:
            [(site, _)] = locate(model, address)
            if site.stack == "decoder" and site.name in ("resid_pre", "resid_post"):
                raise InvalidInput(
                    f"{address}: forecasts of several ablations run the decoder's layers one by one, past this site. "
                    f"Give it as an edit: [interp.Zero({str(address)!r})]."
                )
    return targets


def _correlation(a: Floats, b: Floats) -> Floats:
    """Return Pearson's correlation over steps, `[series]`; NaN where one of the two does not vary."""
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
