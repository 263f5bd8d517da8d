"""The ablation report: what `python -m circuits ablate` runs, prints and writes."""

from collections.abc import Sequence
from enum import StrEnum
from textwrap import fill
from typing import Annotated, Any

from circuits import plots
from circuits.ablation.curve import AblationCurve, ablated_set, ablation_curve
from circuits.ablation.head_effects import head_effects
from circuits.ablation.layer_effects import layer_effects
from circuits.ablation.self_repair import self_repair
from circuits.controls import random_controls, strongest
from circuits.measurement import Stimulus
from circuits.reports.forecasts import forecast_sections, forecasts, why_no_forecasts
from interp import Head, Model
from interp.errors import InvalidInput
from interp.output.command import addresses
from interp.output.report import WIDTH, Report, Section, as_text
from interp.results.by_head import as_heads
from interp.validate import whole
from probes import induction_mosaic, repeated_random_patches, repeated_random_tokens
from probes.induction.mosaic import THRESHOLD, Mosaic
from probes.induction.patch_mosaic import PatchMosaic, strongest_query
from probes.plots.patch_mosaics import QUERY_NAMES
from probes.reports.own_series import own_series
from probes.stimuli.time_series import as_time_series

SHOWN = 6
"""How many heads the command names over its table."""

TOP = 3
"""How many of the mosaic's strongest heads are ablated by default."""


class AblationMethod(StrEnum):
    """What stands in for an ablated head."""

    zero = "zero"
    mean = "mean"


def ablate(
    model: Model,
    *,
    top: int = TOP,
    heads: Annotated[Sequence[str], addresses] = (),
    method: AblationMethod = AblationMethod.zero,
    controls: int = 20,
    series: Annotated[Any, own_series] = None,
    coefficients: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Ablate the mosaic's strongest heads, or heads of your choice, on random tokens or patches and in forecasts.

    Random heads of the same layers stand beside as controls. The strongest heads are chosen on one stimulus and ablated
    on another. Of a model that reads patches they are those of the query (decoder, [REG] or last patch) at which a head
    tells repeated patches best from unrepeated ones. A model without a tokenizer for series, such as plain GPT-2, is
    read on tokens alone.

    Args:
        model: the model to run.
        top: How many of the mosaic's strongest heads.
        heads: Heads to ablate together instead: addresses, layers and patterns, as
            "decoder.cross.1.2,decoder.cross.2,decoder.self.*.0".
        method: Ablate to zero, or to the mean over other stimuli of the same kind.
        controls: Random sets of heads of the same layers; a quarter as many in forecasts, which cost more.
        series: A series to forecast instead of the examples: a CSV file, whose dates are read too, or a bundled one:
            air_passengers, el_nino, mauna_loa_co2, sunspots.
        coefficients: Of how many numbers a random patch is made, such as 3: its level, slope and curvature. By default
            its values are independent.
        seed: Heads are chosen on this seed and measured on the next; the one after gives the means.

    Raises:
        InvalidInput: more heads than there are, a number of heads beside heads by address, or another method.
        UnknownHead, UnknownSite: heads that the model does not have.
        MissingCapability: a series for a model that reads none, or coefficients for one that reads tokens.
    """
    if method not in ("zero", "mean"):
        raise InvalidInput(f"method={method!r}: the report takes 'zero' or 'mean'.")
    chosen = as_heads(model, list(heads)) if len(heads) else []
    if whole("top", top, 1) != TOP and chosen:
        raise InvalidInput(f"--top {top} beside --heads: give the number of the strongest heads, or heads by address.")
    if series is not None:
        model.require("series")
    first_stimulus, fresh, other = (_stimulus(model, seed + i, coefficients) for i in range(3))
    mosaic = _mosaic(model, first_stimulus)
    run: dict[str, Any] = {"method": str(method), "reference": other if method == "mean" else None}
    run |= {"progress": progress}
    ranked, induction = ([head.address for head in scores.heads()] for scores in (mosaic.either, mosaic))
    if chosen:
        curve = ablated_set(model, chosen, fresh, exclude=induction, controls=controls, seed=seed, **run)
    else:
        counts = sorted({1, top, len(induction)} - {0})
        curve = _curve(model, mosaic, fresh, counts, controls=controls, seed=seed, **run)
    note = why_no_forecasts(model)
    sets = _named_sets(chosen, ranked[:top], induction)
    effects = {} if note else forecasts(
        model, sets, None if series is None else as_time_series(series), method=str(method),
        controls=-(-controls // 4), exclude=induction, seed=seed, progress=progress,
    )  # fmt: skip
    sections, results = _by_part(model, mosaic, fresh, chosen or ranked[: max(top, len(induction))], run)
    for name, result in effects.items():
        of_forecasts = forecast_sections(name, result)
        sections += of_forecasts
        results[f"{of_forecasts[0].name}.json"] = result
    first = _chosen_section(curve, mosaic, note) if chosen else _curve_section(curve, mosaic, note)
    return Report("ablation", "Head ablation", [first, *sections], {f"{first.name}.json": curve, **results})


def _stimulus(model: Model, seed: int, coefficients: int | None) -> Stimulus:
    """Make repeated random tokens or, for a model that reads them, patches."""
    if model.reads_tokens and coefficients is None:
        return repeated_random_tokens(model=model, seed=seed)
    return repeated_random_patches(model, coefficients=coefficients, seed=seed)


def _mosaic(model: Model, stimulus: Stimulus) -> Mosaic:
    """Return the mosaic of a stimulus; of patches that of the query at which a head tells repeated ones best."""
    mosaic: Any = induction_mosaic(model, stimulus)
    return strongest_query(mosaic) if isinstance(mosaic, PatchMosaic) else mosaic


def _where(mosaic: Mosaic) -> str:
    """Say from which query heads of patches are scored; nothing of tokens."""
    query = mosaic.provenance.get("query")
    return "" if query is None else f" from the query {QUERY_NAMES[query]}"


def _curve(
    model: Model, mosaic: Mosaic, tokens: Stimulus, counts: list[int], *, controls: int, **run: Any
) -> AblationCurve:
    """Ablate the strongest heads, with controls where any can be drawn: a small model may have no other heads."""
    sets = strongest(mosaic.either, counts).values()
    induction = [head.address for head in mosaic.heads()]
    drawable = any(random_controls(model, heads, exclude=induction, draws=1).sets for heads in sets)
    return ablation_curve(model, mosaic, tokens, counts=counts, controls=controls if drawable else 0, **run)


def _curve_section(curve: AblationCurve, mosaic: Mosaic, note: str) -> Section:
    frame: Any = curve.to_frame()
    words = (
        f"The strongest heads{_where(mosaic)}, chosen on another stimulus than this, against random heads of the same "
        f"layers that are not induction heads (score of at least {THRESHOLD:g}), where any can be drawn."
    )
    return Section(
        "ablation_curve",
        "Ablation curve",
        f"{words} {note}".strip(),
        figure=plots.ablation_curve(curve),
        table=frame,
        shown=frame.drop(columns=["reason"]),
        brief="\n\n".join([as_text(frame[_COLUMNS], _heading(curve, "strongest first")), *filter(None, [note])]),
    )


def _chosen_section(curve: AblationCurve, mosaic: Mosaic, note: str) -> Section:
    frame: Any = curve.to_frame()
    point = curve.points[0]
    heads = ", ".join(map(str, point.heads))
    words = (
        f"{heads}, ablated together, against random heads of the same layers that are not induction heads (score of at "
        f"least {THRESHOLD:g}{_where(mosaic)}). {point.reason.capitalize()}"
    )
    return Section(
        "chosen_heads",
        "The heads of your choice",
        f"{words.rstrip('. ')}. {note}".strip(),
        table=frame,
        shown=frame.drop(columns=["reason", "heads"]).dropna(axis=1, how="all"),
        brief="\n\n".join([as_text(frame[_COLUMNS], _heading(curve)), *filter(None, (point.reason, note))]),
    )


_COLUMNS = ["count", "outcome", "clean", "value", "low", "high", "control", "draws"]
"""The columns of a curve's table that the command prints."""


def _heading(curve: AblationCurve, order: str = "") -> str:
    """Return the line over a curve's table that says which heads are ablated."""
    point = max(curve.points, key=lambda point: point.count)
    names = ", ".join(map(str, point.heads[:SHOWN])) + (", ..." if len(point.heads) > SHOWN else "")
    words = f"{point.count} heads ablated{f', {order}' if order else ''}: {names}"
    return fill(words, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _by_part(
    model: Model, mosaic: Mosaic, tokens: Stimulus, together: list[Head], run: dict[str, Any]
) -> tuple[list[Section], dict[str, Any]]:
    """Return the sections on single heads, layers and self-repair, and their results by file."""
    effects, layers = head_effects(model, tokens, mosaic.site, **run), layer_effects(model, tokens, **run)
    results: dict[str, Any] = {"mosaic.json": mosaic, "head_effects.json": effects, "layer_effects.json": layers}
    sections = [
        Section(
            "head_effects",
            "Head effects",
            "Each head ablated alone, and the change of the continuation's "
            + ("log-probability." if model.reads_tokens else "pinball loss."),
            figure=plots.head_effects(effects, mosaic),
            table=effects.to_frame().sort_values("score", ascending=effects.sign < 0),
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
            "Whole attention layers and MLPs, ablated one at a time. The row's other continuations stand beside.",
            figure=plots.layer_effects(layers),
            table=layers.to_frame(),
        ),
    ]
    # Encoder heads have no direct path to the logits.
    decoder = [head for head in together if head.stack == "decoder"]
    if decoder:
        repair = self_repair(model, tokens, decoder, controls=4, **run)
        results["self_repair.json"] = repair
        sections.append(
            Section(
                "self_repair",
                "Self-repair",
                "A head's total effect, the part that goes straight to the output, and the change when the head is "
                "given back while all chosen heads are ablated. Where the total is smaller than the direct effect, "
                "later layers make up for the head.",
                figure=plots.self_repair(repair),
                table=repair.to_frame(),
            )
        )
    return sections, results


def _named_sets(chosen: list[Head], strongest_heads: list[Head], induction: list[Head]) -> dict[str, list[Head]]:
    """Return the heads of the user's choice or the strongest ones, and all induction heads where these are others."""
    first = chosen or strongest_heads
    sets = {"chosen heads" if chosen else f"top {len(first)}": first}
    if induction and set(induction) != set(first):
        sets[f"all {len(induction)} induction heads" if len(induction) > 1 else "the one induction head"] = induction
    return sets
