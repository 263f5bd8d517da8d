"""Do heads cause the forecast? Forecasts with and without them, against the truth and controls.

1. Without sampling: the model reads the truth step by step; the likelihood of each next token, and
   the CRPS of its distribution over bins.
2. Sampled, with common random numbers: MASE and weighted quantile loss of the median and the
   quantiles, and the distance to the unedited forecast.
3. Beside them naive, seasonal naive and parroting, and how close each forecast is to parroting.

Source: Zhang & Gilpin 2025, "Context parroting"; Bao et al. 2026 (forecast error against the truth
and against the unablated forecast); Crosbie & Shutova 2024 (random heads of the same layers).
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from circuits.ablation.baselines import WINDOW
from circuits.ablation.forecast_runs import ForecastEffects, Variants, measure_forecasts
from circuits.ablation.head_effects import MEMORY
from circuits.controls import Controls, random_controls
from interp import Model
from interp.editing.actions import locate
from interp.editing.edits import Address, Method, Reference, Target, as_address
from interp.editing.edits import ablations as check_once
from interp.errors import InvalidInput
from interp.inputs.user_series import Series
from interp.names import Head
from interp.results.by_head import Heads, as_heads
from interp.validate import whole


def forecast_effects(
    model: Model,
    series: Series,
    ablations: Mapping[str, Target | Sequence[Target]],
    *,
    prediction_length: int = 24,
    num_samples: int = 20,
    season: int = 1,
    seed: int = 0,
    method: Method = "zero",
    reference: Reference | None = None,
    controls: int = 5,
    exclude: Heads = (),
    window: int = WINDOW,
    memory: int = MEMORY,
    progress: bool = True,
) -> ForecastEffects:
    """Forecast the end of each series with and without some heads.

    Args:
        model: the model, with no edit in force.
        series: one or several; the last `prediction_length` steps are the truth, what comes before
            is the context, in which values may be missing (NaN).
        ablations: by name, heads, attention layers or sites that are ablated together.
        prediction_length: steps to forecast, at most the model's own prediction length.
        num_samples: sample paths for each series and ablation.
        season: steps of a season, by which errors are scaled; 1 scales by single steps.
        seed: of the sampling and of the controls.
        method: `zero`, or `mean` over the rows and positions of the reference.
        reference: a batch, or several, for means.
        controls: random sets of as many other heads of the same layers, for each set of heads; all
            distinct ones where there are fewer.
        exclude: heads that are never drawn, such as all induction heads; those that are ablated
            under any name never are.
        window: how many of the last points parroting matches.
        memory: bytes that the variants of one run may take; at least one series runs.
        progress: whether to show a progress bar.

    Returns:
        Likelihood over the value tokens, CRPS, MASE, weighted quantile loss and distances for each series, unedited,
        ablated and under every control, with the baselines.

    Raises:
        UnknownHead, UnknownSite: an address that this model does not have.
        InvalidInput: no ablations, one without a target or with one twice, or by a name that is
            taken; sites that the folded decoder does not pass; series that are too
            short for the prediction or the season, without a finite truth, or whose context does
            not vary from season to season, for which a scaled error is undefined; series and forecast together
            longer than the model's positions; edits in force.
        UnsupportedModel: a model without a tokenizer for series.
    """
    named = _targets(model, ablations)
    whole("seed", seed, 0)
    whole("controls", controls, 0)
    everywhere = {m for members in named.values() for m in members if isinstance(m, Head)}
    never = sorted(everywhere | set(as_heads(model, exclude)))
    drawn: dict[str, Controls] = {}
    for name, members in named.items():
        heads = [m for m in members if isinstance(m, Head)]
        if len(heads) < len(members):
            drawn[name] = Controls((), "no control: they are drawn for sets of heads only")
        else:
            drawn[name] = random_controls(model, heads, exclude=never, draws=controls, seed=seed)
    return measure_forecasts(
        model,
        series,
        Variants.of(named, drawn),
        prediction_length=prediction_length,
        num_samples=num_samples,
        season=season,
        seed=seed,
        method=method,
        reference=reference,
        window=window,
        memory=memory,
        progress=progress,
    )


def _targets(model: Model, named: Mapping[str, Target | Sequence[Target]]) -> dict[str, list[Address]]:
    if not isinstance(cast(Any, named), Mapping) or not named:
        raise InvalidInput("no ablations: give a dictionary, as {'induction': mosaic.heads()}.")
    found: dict[str, list[Address]] = {}
    for name, targets in named.items():
        items = [targets] if isinstance(targets, Target) else list(targets)
        if not isinstance(cast(Any, name), str) or not items:
            raise InvalidInput(f"the ablation {name!r} has no heads, or no name: give both, as text.")
        check_once(items)
        found[name] = [as_address(target) for target in items]
        for address in found[name]:
            site, _ = locate(model, address)
            if site.stack == "decoder" and site.name in ("resid_pre", "resid_post"):
                raise InvalidInput(
                    f"{address}: forecasts of several ablations run the decoder's layers one by one, past this site. "
                    "Ablate what is added to the stream, as decoder.1.mlp_out, or use interp.ablate and predict."
                )
    return found
