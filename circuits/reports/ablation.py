"""The ablation report: what `python -m circuits ablate` runs, prints and writes."""

from enum import StrEnum
from typing import Any

import numpy as np

from circuits import plots
from circuits.ablation.curve import ablation_curve
from circuits.ablation.forecast_effects import ForecastEffects, forecast_effects
from circuits.ablation.head_effects import head_effects
from circuits.ablation.layer_effects import layer_effects
from circuits.ablation.self_repair import self_repair
from circuits.controls import random_controls, strongest
from interp import Batch, Model
from interp.errors import InvalidInput, UnsupportedModel
from interp.output.report import Report, Section, as_text
from interp.validate import whole
from interp.zoo.benchmark import held_out
from probes import induction_mosaic, repeated_random_tokens
from probes.induction.mosaic import THRESHOLD
from probes.stimuli.datasets import air_passengers

SEASON, HORIZON = 12, 24


class AblationMethod(StrEnum):
    """What stands in for an ablated head."""

    zero = "zero"
    mean = "mean"


def ablate(
    model: Model,
    *,
    top: int = 3,
    method: AblationMethod = AblationMethod.zero,
    controls: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Ablate the mosaic's strongest heads, on repeated random tokens and in forecasts, against controls.

    Heads are chosen on one stimulus and ablated on another. A model without a tokenizer for series, such as plain
    GPT-2, is read on tokens alone.

    Args:
        model: the model to run.
        top: How many of the mosaic's strongest heads.
        method: Ablate to zero, or to the mean over other stimuli of the same kind.
        controls: Random sets of heads of the same layers; a quarter as many in forecasts, which cost more.
        seed: Heads are chosen on this seed and measured on the next; the one after gives the means.

    Raises:
        InvalidInput: more heads than there are, or another method.
    """
    if method not in ("zero", "mean"):
        raise InvalidInput(f"method={method!r}: the report takes 'zero' or 'mean'.")
    whole("top", top, 1)
    tokens, fresh, other = (repeated_random_tokens(model=model, seed=seed + i) for i in range(3))
    mosaic = induction_mosaic(model, tokens)
    how: dict[str, Any] = {"method": str(method), "reference": other if method == "mean" else None}
    ranked = [head.address for head in mosaic.either.heads()]
    induction = [head.address for head in mosaic.heads()]
    counts = sorted({1, top, len(induction)} - {0})
    # In a small model there may be no other heads to draw from; the page then shows the rest.
    drawable = any(
        random_controls(model, heads, exclude=induction, draws=1).sets
        for heads in strongest(mosaic.either, counts).values()
    )
    curve = ablation_curve(
        model, mosaic, fresh, counts=counts, controls=controls if drawable else 0, seed=seed, progress=progress, **how
    )
    effects = head_effects(model, fresh, progress=progress, **how)
    layers = layer_effects(model, fresh, progress=progress, **how)
    repair = self_repair(model, fresh, ranked[: max(top, len(induction))], controls=4, progress=progress, **how)
    note = _why_no_forecasts(model)
    horizon = 0 if note else min(HORIZON, model.chronos_config.prediction_length)
    forecasts: dict[str, ForecastEffects] = {}
    for name, series in ({} if note else example_series(horizon)).items():
        past = [np.asarray(values)[:-horizon] for values in series]
        forecasts[name] = forecast_effects(
            model, series, _named_sets(ranked, top, len(induction)), prediction_length=horizon, season=SEASON,
            method=str(method),  # type: ignore[arg-type]
            # The contexts alone, the decoder reading their last steps: nothing of what is scored.
            reference=Batch.from_series(model, past, num_decoder=horizon) if method == "mean" else None,
            seed=seed, controls=-(-controls // 4), exclude=induction, progress=progress,
        )  # fmt: skip

    shown: Any = curve.to_frame()[["count", "outcome", "clean", "value", "low", "high", "control", "draws", "heads"]]
    curve_words = (
        "The strongest heads, chosen on other tokens than these, against random heads of the same layers that are not "
        f"induction heads (score of at least {THRESHOLD:g}), where any can be drawn."
    )
    sections = [
        Section(
            "ablation_curve",
            "Ablation curve",
            f"{curve_words} {note}".strip(),
            figure=plots.ablation_curve(curve),
            table=curve.to_frame(),
            shown=curve.to_frame().drop(columns=["reason"], errors="ignore"),
            brief=as_text(shown) + (f"\n\n{note}" if note else ""),
        ),
        Section(
            "head_effects",
            "Head effects",
            "Each head ablated alone, and the change of the continuation's log-probability.",
            figure=plots.head_effects(effects, mosaic),
            table=effects.to_frame().sort_values("score"),
        ),
        Section(
            "score_against_effect",
            "Score against effect",
            "A head may attend to the right place and still not matter: each point is one head.",
            figure=plots.score_against_effect(mosaic, effects),
        ),
        Section(
            "layer_effects",
            "Layer effects",
            "Whole attention layers and MLPs, ablated one at a time. The row's other tokens stand beside.",
            figure=plots.layer_effects(layers),
            table=layers.to_frame(),
        ),
        Section(
            "self_repair",
            "Self-repair",
            "A head's total effect, the part that goes straight to the logits, and the change when the head is given "
            "back while all chosen heads are ablated. Where the total is smaller than the direct effect, later layers "
            "make up for the head.",
            figure=plots.self_repair(repair),
            table=repair.to_frame(),
        ),
    ]
    for name, result in forecasts.items():
        sections += _forecast_sections(name, result)
    results = {
        "mosaic.json": mosaic,
        "ablation_curve.json": curve,
        "head_effects.json": effects,
        "layer_effects.json": layers,
        "self_repair.json": repair,
    } | {f"forecast_effects_{name.replace(' ', '_')}.json": result for name, result in forecasts.items()}
    return Report("ablation", "Head ablation", sections, results)


def example_series(horizon: int = HORIZON) -> dict[str, list[Any]]:
    """Return monthly air passengers at five origins, and the bundled synthetic series of season 12, up to a horizon."""
    passengers = air_passengers().to_series()
    origins = range(72, len(passengers) - HORIZON + 1, 12)
    values, period = held_out()
    start = values.shape[1] - HORIZON
    return {
        "air passengers": [passengers.iloc[: origin + horizon] for origin in origins],
        "synthetic": list(values[period == SEASON, : start + horizon]),
    }


def _named_sets(ranked: list[Any], top: int, count: int) -> dict[str, list[Any]]:
    """Return the strongest heads, and all induction heads where these are others."""
    sets = {f"top {top}": ranked[:top]}
    if count not in (0, top):
        sets[f"all {count} induction heads" if count > 1 else "the one induction head"] = ranked[:count]
    return sets


def _why_no_forecasts(model: Model) -> str:
    """Say why a model cannot forecast series; nothing where it can."""
    try:
        model.require("series")
    except UnsupportedModel as error:
        return f"No forecasts: {error}"
    return ""


def _forecast_sections(name: str, effects: ForecastEffects) -> list[Section]:
    tail = name.replace(" ", "_")
    summary: Any = effects.summary()
    columns = ["ablation", "outcome", "unedited", "ablated", "change", "low", "high", "control"]
    rows = effects.to_frame().pivot_table("value", "variant", "outcome", sort=False)
    unablated = [*effects.baselines, "unedited", *effects.controls]
    fans: Any = effects.forecasts()
    last = len(effects.truth) - 1
    medians = fans[(fans["series"] == last) & fans["variant"].isin(["unedited", *effects.controls])]
    medians = medians.pivot_table("0.5", ["time", "truth"], "variant", sort=False).reset_index()
    return [
        Section(
            f"forecast_effects_{tail}",
            f"Forecasts: {name}",
            f"Forecast errors with heads ablated, on {len(effects.truth)} series.",
            figure=plots.forecast_effects(effects),
            table=summary,
            brief=as_text(summary[columns], f"{name}, {len(effects.truth)} series"),
        ),
        Section(
            f"forecast_fan_{tail}",
            f"The last series: {name}",
            figure=plots.forecast_fan(effects, last),
            table=fans,
            note="Medians of the forecasts, and what came.",
            shown=medians.rename_axis(columns=None),
        ),
        Section(
            f"forecast_baselines_{tail}",
            f"Baselines and controls: {name}",
            table=rows.loc[unablated, ["mase", "wql"]].reset_index(),
        ),
    ]
