"""Head-ablation experiments on top of a mosaic, with controls.

Heads are chosen on one stimulus and measured on another; every effect comes with an interval over
rows and the same measurement on control heads.

Source: Crosbie & Shutova 2024 (the strongest heads against random heads of the same layers).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from circuits.ablation.forecast_effects import ForecastEffects, check_forecasts, controlled_forecasts
from circuits.ablation.head_sets import set_outcomes
from circuits.controls import Controls, columns_of_controls, random_controls, strongest
from circuits.measurement import Stimulus, described, stimulus_for, stimulus_source
from circuits.metrics import Metric, continuation_metrics
from interp import Batch, Model
from interp.arguments import checked
from interp.editing.edits import Reference
from interp.editing.methods import Method, method_source
from interp.errors import InvalidInput
from interp.inputs.user_series import Series, read_series
from interp.names import Head
from interp.renamed import renamed_field
from interp.results.by_head import HeadScores, provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import interval, proportion_change_interval, proportion_interval
from interp.validate import whole
from probes.induction.mosaic import THRESHOLD, Mosaic

FIELDS_BEFORE = {"log_prob": "effect", "control_log_prob": "control_effect", "clean_log_prob": "clean_value"}
"""What files of version 0.6 call the fields."""


@dataclass(frozen=True, eq=False, repr=False)
class CurvePoint(Result):
    """The ablation of k heads.

    `effect` is the change of the metric and `hit` whether the continuation is predicted, `[row]`; the controls' are
    `[draw, row]`. The metric is the continuation's log-probability unless the curve's provenance names another.
    """

    KIND = "curve-point"

    count: int
    heads: tuple[Head, ...]
    effect: Floats
    hit: Floats
    control_sets: tuple[tuple[Head, ...], ...]
    control_effect: Floats
    control_hit: Floats
    reason: str = ""

    def to_frame(self) -> pd.DataFrame:
        """Return one row per row of the stimulus: `effect, hit`, and the controls' means over draws."""
        control = {"control_effect": self.control_effect, "control_hit": self.control_hit}
        means = {name: rows.mean(0) if len(rows) else np.nan for name, rows in control.items()}
        return Frame({"effect": self.effect, "hit": self.hit, **means})

    def _title(self) -> str:
        return f"CurvePoint of {self.count} ablated heads: {', '.join(map(str, self.heads))}"

    log_prob = renamed_field("log_prob", "effect")
    control_log_prob = renamed_field("control_log_prob", "control_effect")

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        return super()._of_contents({FIELDS_BEFORE.get(name, name): value for name, value in values.items()})


@dataclass(frozen=True, eq=False, repr=False)
class AblationCurve(Result):
    """The effects of ablating the strongest k heads, against random heads of the same layers, for several k.

    `clean_value` is the metric of the unedited model and `clean_hit` whether it predicts the continuation, `[row]`;
    `forecasts` are those of the same sets, if there were series.
    """

    KIND = "ablation-curve"

    points: tuple[CurvePoint, ...]
    clean_value: Floats
    clean_hit: Floats
    provenance: dict[str, Any]
    forecasts: ForecastEffects | None = None

    clean_log_prob = renamed_field("clean_log_prob", "clean_value")

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        return super()._of_contents({FIELDS_BEFORE.get(name, name): value for name, value in values.items()})

    def to_frame(self) -> pd.DataFrame:
        """Return one row per k and outcome, for the heads and, as `control...`, for the control sets.

        `effect` is the change of the metric (log-probability in nats), `accuracy` the share of rows whose continuation
        is predicted, and `accuracy change` that minus the unedited model's. `low, high` are 95 % intervals over rows:
        Student's, Wilson's, and Bonett & Price's. `control_low, control_high` are the least and the largest mean of
        the control sets, or the middle 95 % of 39 sets or more, as `band` says. `p` is the rank of the value among
        the sets, at least 1 / (1 + draws). Columns of controls are NaN where there is no control.
        """
        rows = []
        for point in self.points:
            clean = float(self.clean_hit.mean())
            change_interval = proportion_change_interval(point.hit, self.clean_hit)
            change, others_change = point.hit - self.clean_hit, point.control_hit - self.clean_hit
            for outcome, own, (low, high), others, level in (
                ("effect", point.effect, interval(point.effect), point.control_effect, 0.0),
                ("accuracy", point.hit, proportion_interval(point.hit), point.control_hit, clean),
                ("accuracy change", change, change_interval, others_change, 0.0),
            ):
                means = others.mean(-1) if len(others) else np.empty(0)
                rows.append(
                    {
                        "count": point.count,
                        "outcome": outcome,
                        "clean": level,
                        "value": own.mean(),
                        "low": float(low),
                        "high": float(high),
                        **columns_of_controls(float(own.mean()), means),
                        "reason": point.reason,
                        "heads": " ".join(map(str, point.heads)),
                    }
                )
        return Frame(rows)


def check_digest(model: Model, scores: Mosaic | HeadScores) -> None:
    """Check that scores are of this very model, where they say whose they are.

    Raises:
        InvalidInput: scores of other weights.
        UnknownSite: scores of a kind of attention that the model does not have.
    """
    digest = scores.provenance.get("digest")
    if digest is not None and digest != model.digest:
        raise InvalidInput(
            f"the scores are of {scores.provenance.get('model')} (weights {digest}), and the model is {model.name} "
            f"(weights {model.digest}): make them with this model."
        )
    ranked = scores.either if isinstance(scores, Mosaic) else scores
    shape = ranked.values.shape
    layers = len(model.layers(ranked.site))
    if shape != (layers, model.n_heads):
        raise InvalidInput(
            f"the scores are of {list(shape)} [layer, head], and {model.name} has {[layers, model.n_heads]}."
        )


def check_fresh(scores: Mosaic | HeadScores, stimulus: Mapping[str, Any]) -> None:
    """Check that heads are not measured on the very rows they were chosen on.

    Args:
        stimulus: the parameters of what they are measured on.

    Raises:
        InvalidInput: the same seed.
    """
    # The generator gives the same first rows for a seed, whatever else is asked for.
    chosen = scores.provenance.get("stimulus", {})
    if "seed" in chosen and chosen["seed"] == stimulus["seed"]:
        raise InvalidInput(
            f"the heads were chosen on these very {stimulus['name'].split('_')[-1]} (seed {stimulus['seed']}): measure "
            f"on others, as probes.{stimulus['name']}(seed=...) with another seed."
        )


@checked
def ablation_curve(
    model: Model,
    scores: Mosaic | HeadScores,
    batch: Batch,
    *,
    metric: Metric | None = None,
    counts: Sequence[int | str] = (1, 2, 4, 8),
    controls: int = 20,
    seed: int = 0,
    method: Method = "zero",
    reference: Reference | None = None,
    ascending: bool = False,
    threshold: float = THRESHOLD,
    series: Series | None = None,
    prediction_length: int = 24,
    num_samples: int | None = None,
    season: int = 1,
    progress: bool = True,
) -> AblationCurve:
    """Ablate the strongest k heads, and random heads of the same layers, for several k.

    Args:
        scores: a mosaic, or any head scores, by which heads are ranked.
        batch: fresh repeated random tokens or patches, other than those the scores are from.
        metric: what `effect` is a change of; by default the continuation's log-probability, or pinball loss in patches.
        counts: how many heads: whole numbers, or shares of all heads as `"3%"`.
        controls: random sets for each k; all distinct ones where there are fewer.
        method: `zero`, `mean` or `resample`.
        reference: the batches from which means and resamples are taken. With series, means in the forecasts come from
            them too, so give batches of both (`interp.Batch.from_series`).
        ascending: take the weakest heads instead.
        threshold: heads whose score in a mosaic's `either` reaches it are never controls. With other
            scores, the heads of the largest count never are.
        series: series to forecast under the same ablations and controls.
        prediction_length: the series' last steps, which are forecast.
        num_samples: sample paths for each series, ablation and control, as `forecast_effects` says.
        season: steps of a season, by which forecast errors are scaled.

    Returns:
        The metric and the accuracy of the continuation by k, for the heads and for
        each control, with every row. A k without controls says why. With series, `forecasts` is
        the result of `forecast_effects`, in which the ablation of k heads is called `top k`.

    Raises:
        InvalidInput: more heads than there are, scores of another model or from the same tokens,
            controls that cannot be drawn for any k, edits in force.
        MissingCapability: series for a model that reads none, or samples of a model of quantiles.

    Source: Crosbie & Shutova 2024.
    """
    stimulus = stimulus_for(model, batch, None, "ablation_curve")
    if series is not None and method == "resample":
        raise InvalidInput("forecasts take method='zero' or 'mean': leave series out, or choose one of these.")
    if series is not None:
        check_forecasts(model, method, num_samples)
        read_series(series)
    whole("controls", controls, 0)
    whole("seed", seed, 0)
    check_digest(model, scores)
    check_fresh(scores, stimulus_source(stimulus))
    ranked = scores.either if isinstance(scores, Mosaic) else scores
    chosen = strongest(ranked, counts, ascending=ascending)
    largest = chosen[max(chosen)]
    exclude = [head.address for head in scores.heads(threshold)] if isinstance(scores, Mosaic) else largest
    drawn = {
        k: random_controls(model, heads, exclude=exclude, draws=controls, seed=seed) for k, heads in chosen.items()
    }
    check_controls(drawn, controls)
    points, clean = _points(model, stimulus, chosen, drawn, metric, method, reference, progress)
    source = provenance(model, **stimulus_source(stimulus))
    source |= described(continuation_metrics(model, stimulus, metric)["effect"])
    source |= method_source(
        method, reference, ranked_by=ranked.name, ascending=ascending, threshold=threshold, seed=seed
    )
    source |= {"chosen_on": scores.provenance.get("stimulus", {}), "controls": controls}
    forecasts = None
    if series is not None:
        forecasts = controlled_forecasts(
            model,
            series,
            {f"top {k}": heads for k, heads in chosen.items()},
            {f"top {k}": controls_of_k for k, controls_of_k in drawn.items()},
            prediction_length=prediction_length,
            num_samples=num_samples,
            season=season,
            seed=seed,
            method=method,
            reference=reference,
            progress=progress,
        )
    return AblationCurve(points, clean["effect"], clean["accuracy"], source, forecasts)


def ablated_set(
    model: Model,
    heads: Sequence[Head],
    batch: Batch,
    *,
    exclude: Sequence[Head] = (),
    controls: int = 20,
    seed: int = 0,
    method: Method = "zero",
    reference: Reference | None = None,
    progress: bool = True,
) -> AblationCurve:
    """Ablate one set of heads as `ablation_curve` does, which the user chose: a curve of one point.

    Args:
        heads: of any kind, together.
        batch: repeated random tokens or patches.
        exclude: other heads that are never controls.
        controls: random sets of as many heads of the same layers.
        reference: the batches from which means are taken.
    """
    stimulus = stimulus_for(model, batch, None, "ablated_set")
    drawn = random_controls(model, heads, exclude=exclude, draws=controls, seed=seed)
    count = len(heads)
    points, clean = _points(model, stimulus, {count: heads}, {count: drawn}, None, method, reference, progress)
    source = provenance(model, **stimulus_source(stimulus))
    source |= described(continuation_metrics(model, stimulus, None)["effect"])
    source |= method_source(method, reference, seed=seed) | {"controls": controls}
    return AblationCurve(points, clean["effect"], clean["accuracy"], source)


def _points(
    model: Model,
    stimulus: Stimulus,
    chosen: Mapping[int, Sequence[Head]],
    drawn: Mapping[int, Controls],
    metric: Metric | None,
    method: Method,
    reference: Reference | None,
    progress: bool,
) -> tuple[tuple[CurvePoint, ...], dict[str, Floats]]:
    """Measure sets of heads and their controls, by number of heads, and the unedited model by outcome, `[row]`."""
    sets = [[], *chosen.values(), *(members for controls_of_k in drawn.values() for members in controls_of_k.sets)]
    values = set_outcomes(model, stimulus, sets, metric=metric, method=method, reference=reference, progress=progress)
    effect, hit = values["effect"], values["accuracy"]
    points: list[CurvePoint] = []
    after = 1 + len(chosen)
    for index, (k, heads) in enumerate(chosen.items(), start=1):
        there = slice(after, after + len(drawn[k].sets))
        after = there.stop
        points.append(
            CurvePoint(
                count=k,
                heads=tuple(heads),
                effect=effect[index] - effect[0],
                hit=hit[index],
                control_sets=drawn[k].sets,
                control_effect=effect[there] - effect[0],
                control_hit=hit[there],
                reason=drawn[k].reason,
            )
        )
    return tuple(points), {name: outcome[0] for name, outcome in values.items()}


def check_controls(drawn: dict[Any, Controls], draws: int) -> None:
    """Check that controls could be drawn for at least one set.

    Raises:
        InvalidInput: there is none for any set.
    """
    if draws and drawn and not any(controls.sets for controls in drawn.values()):
        reasons = "; ".join(dict.fromkeys(controls.reason for controls in drawn.values()))
        raise InvalidInput(f"controls cannot be drawn at all: {reasons}. Take fewer heads, or controls=0.")
