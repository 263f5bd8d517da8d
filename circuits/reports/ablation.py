"""The ablation report: what `python -m circuits ablate` runs, prints and writes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from interp.output.page import write_page

from circuits import plots
from circuits.ablation.curve import AblationCurve, ablation_curve
from circuits.ablation.forecast_effects import forecast_effects
from circuits.ablation.forecast_runs import ForecastEffects
from circuits.ablation.head_effects import HeadEffects, head_effects
from circuits.ablation.layer_effects import LayerEffects, layer_effects
from circuits.ablation.self_repair import SelfRepair, self_repair
from circuits.controls import random_controls, strongest
from interp import Batch, Model
from interp.errors import InvalidInput, UnsupportedModel
from interp.results.files import write_text
from interp.validate import whole
from interp.zoo.benchmark import air_passengers, held_out
from probes import induction_mosaic, repeated_random_tokens
from probes.induction.mosaic import THRESHOLD, Mosaic

SEASON, HORIZON = 12, 24


@dataclass(frozen=True, eq=False)
class AblationReport:
    """Everything the page shows; `note` says why there are no forecasts, where there are none."""

    mosaic: Mosaic
    curve: AblationCurve
    effects: HeadEffects
    layers: LayerEffects
    repair: SelfRepair
    forecasts: dict[str, ForecastEffects]
    note: str = ""


def example_series(horizon: int = HORIZON) -> dict[str, list[np.ndarray]]:
    """Monthly air passengers at five origins, and the bundled synthetic series of season 12, up to a horizon."""
    passengers = air_passengers()
    origins = range(72, len(passengers) - HORIZON + 1, 12)
    values, period = held_out()
    start = values.shape[1] - HORIZON
    return {
        "air passengers": [passengers[: origin + horizon] for origin in origins],
        "synthetic": list(values[period == SEASON, : start + horizon]),
    }


def run_report(
    model: Model,
    *,
    top: int = 3,
    method: Literal["zero", "mean"] = "zero",
    controls: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> AblationReport:
    """Choose heads on one stimulus, ablate them on another, and in forecasts, where the model reads series.

    Args:
        model: the model.
        top: how many of the strongest heads.
        method: `zero`, or `mean` over other stimuli of the same kind.
        controls: random sets of heads; a quarter as many in forecasts, which cost more.
        seed: of the stimulus the heads are chosen on; the next two are measured on and averaged over.
        progress: whether to show progress bars.

    Returns:
        The results.

    Raises:
        InvalidInput: more heads than there are, or another method.
    """
    if method not in ("zero", "mean"):
        raise InvalidInput(f"method={method!r}: the report takes 'zero' or 'mean'.")
    whole("top", top, 1)
    tokens, fresh, other = (repeated_random_tokens(model=model, seed=seed + i) for i in range(3))
    mosaic = induction_mosaic(model, tokens)
    reference = other if method == "mean" else None
    ranked = [found.address for found in mosaic.either.heads()]
    found = len(mosaic.heads())
    counts = sorted({1, top, found} - {0})
    induction = [head.address for head in mosaic.heads()]
    chosen = strongest(mosaic.either, counts).values()
    # A small model may have no other heads to draw from, which is no reason to show nothing.
    drawable = any(random_controls(model, heads, exclude=induction, draws=1).sets for heads in chosen)
    curve = ablation_curve(
        model, mosaic, fresh, counts=counts, controls=controls if drawable else 0, seed=seed, method=method,
        reference=reference, progress=progress,
    )  # fmt: skip
    named = {f"top {top}": ranked[:top]}
    if found not in (0, top):
        named[f"all {found} induction heads" if found > 1 else "the one induction head"] = ranked[:found]
    forecasts: dict[str, ForecastEffects] = {}
    note = _why_no_series(model)
    horizon = 0 if note else min(HORIZON, model.chronos_config.prediction_length)
    for name, series in ({} if note else example_series(horizon)).items():
        forecasts[name] = forecast_effects(
            model, series, named, prediction_length=horizon, season=SEASON, seed=seed, method=method,
            reference=_past(model, series, horizon) if method == "mean" else None, controls=-(-controls // 4),
            exclude=induction, progress=progress,
        )  # fmt: skip
    return AblationReport(
        mosaic=mosaic,
        curve=curve,
        effects=head_effects(model, fresh, method=method, reference=reference, progress=progress),
        layers=layer_effects(model, fresh, method=method, reference=reference, progress=progress),
        repair=self_repair(
            model, fresh, ranked[: max(top, found)], method=method, reference=reference, controls=4, progress=progress
        ),
        forecasts=forecasts,
        note=note,
    )


def _why_no_series(model: Model) -> str:
    """Why a model cannot read series; nothing where it can."""
    try:
        model.require("series")
    except UnsupportedModel as error:
        return f"No forecasts: {error}"
    return ""


def _past(model: Model, series: list[np.ndarray], horizon: int) -> Batch:
    """The contexts alone, the decoder reading the last steps of them: nothing of what is scored."""
    return Batch.from_series(model, [values[:-horizon] for values in series], num_decoder=horizon)


def figures(report: AblationReport) -> dict[str, go.Figure]:
    """The report's figures by name."""
    made = {
        "ablation-curve": plots.ablation_curve(report.curve),
        "head-effects": plots.head_effects(report.effects, report.mosaic),
        "score-against-effect": plots.score_against_effect(report.mosaic, report.effects),
        "layer-effects": plots.layer_effects(report.layers),
        "self-repair": plots.self_repair(report.repair),
    }
    for name, effects in report.forecasts.items():
        slug = name.replace(" ", "-")
        made[f"forecast-effects-{slug}"] = plots.forecast_effects(effects)
        made[f"forecast-fan-{slug}"] = plots.forecast_fan(effects, len(effects.truth) - 1)
    return made


def tables(report: AblationReport) -> dict[str, pd.DataFrame]:
    """The report's tables by name."""
    made = {
        "ablation_curve": report.curve.to_frame(),
        "head_effects": report.effects.to_frame().sort_values("score"),
        "layer_effects": report.layers.to_frame(),
        "self_repair": report.repair.to_frame(),
    }
    for name, effects in report.forecasts.items():
        slug = name.replace(" ", "_")
        made[f"forecast_effects_{slug}"] = effects.summary()
        rows = effects.to_frame().pivot_table("value", "variant", "outcome", sort=False)
        kept = [*effects.baselines, "unedited", *effects.controls]
        made[f"forecast_baselines_{slug}"] = rows.loc[kept, ["mase", "wql"]].reset_index()
    return made


_WORDS: dict[str, str] = {
    "ablation-curve": "The strongest heads, chosen on other tokens than these, against random heads of the same "
    f"layers that are not induction heads (score of at least {THRESHOLD:g}), where any can be drawn.",
    "head-effects": "Each head ablated alone: what that does to the log-probability of the continuation.",
    "score-against-effect": "Attending to the right place is one thing, mattering another: a point a head.",
    "layer-effects": "Whole attention layers and MLPs, one at a time; beside it the row's other tokens.",
    "self-repair": "A head's total effect, the part that goes straight to the logits, and what giving it back brings "
    "when all chosen heads are ablated. Total less than direct means that later layers make up for it.",
}


def write_report(out: str | Path, report: AblationReport) -> list[Path]:
    """The page, the tables as CSV and the results as JSON.

    Args:
        out: a directory; it is made if it is not there.
        report: what `run_report` gave.

    Returns:
        The files written.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    drawn, made = figures(report), tables(report)
    parts: list[tuple[str, str, go.Figure | pd.DataFrame]] = []
    title: Callable[[str], str] = lambda name: name.replace("-", " ").replace("_", " ").capitalize()  # noqa: E731
    for name, figure in drawn.items():
        words = f"{_WORDS[name]} {report.note}".strip() if name == "ablation-curve" else _WORDS.get(name, "")
        parts.append((title(name), words, figure))
    parts += [(title(name), "", table.drop(columns=["reason"], errors="ignore")) for name, table in made.items()]
    written = [write_page(folder / "ablation.html", "Head ablation", parts)]
    written += [write_text(folder / f"{name}.csv", table.to_csv(index=False)) for name, table in made.items()]
    results = {
        "ablation_curve": report.curve,
        "head_effects": report.effects,
        "layer_effects": report.layers,
        "self_repair": report.repair,
        **{f"forecast_effects_{name.replace(' ', '_')}": effects for name, effects in report.forecasts.items()},
    }
    return written + [result.save(folder / f"{name}.json") for name, result in results.items()]
