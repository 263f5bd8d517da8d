"""Every public function on a model of values: it works, or gives the one error that says what to use instead."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch

import circuits
import interp
import probes
from interp import Batch, Model
from probes.stimuli.repeated_patches import RepeatedPatches
from tests.conftest import tiny_bolt, values_with_gaps

SERIES = np.sin(np.arange(60) / 3.0)
EDGE = "decoder.cross.1.0 -> decoder.quantiles"
METRIC, MEDIAN = circuits.log_prob(5), circuits.metrics.median()
Call = Callable[[Model, Batch], Any]


@cache
def bolt() -> Model:
    return interp.wrap(tiny_bolt(), name="tiny-bolt")


@cache
def values() -> Batch:
    return Batch.from_series(bolt(), values_with_gaps())


@cache
def tokens() -> Any:
    return probes.repeated_random_tokens(batch_size=3, unique=True)


def patches(batch: Batch) -> RepeatedPatches:
    """Repeated random patches in place of values that do not repeat; tokens as they are."""
    return (
        cast(RepeatedPatches, batch)
        if batch.has_tokens
        else probes.repeated_random_patches(bolt(), batch_size=3, patches=4)
    )


def pair(batch: Batch) -> tuple[Batch, Batch]:
    """A batch, and another one beside it: of values, with the same patches missing."""
    if batch.has_tokens:
        return batch, batch
    other = torch.where(values_with_gaps().isnan(), torch.nan, values_with_gaps(seed=1).nan_to_num())
    return batch, Batch.from_series(bolt(), other)


def heads() -> Any:
    return bolt().heads("decoder.cross")[:2]


def largest(pattern: torch.Tensor) -> torch.Tensor:
    return pattern.amax((-1, -2))


def scores() -> Any:
    return interp.results.by_head.HeadScores("any", "decoder.cross", np.arange(6.0).reshape(2, 3))


WORK: dict[str, Call] = {
    "interp.position_bias": lambda model, batch: interp.position_bias(model, "encoder.self"),
    "interp.score_heads": lambda model, batch: interp.score_heads(model, batch, largest),
    "interp.capture": lambda model, batch: interp.capture(model, batch, "decoder.ln_final"),
    "interp.edited": lambda model, batch: ran(model, batch, interp.edited(model, interp.Zero("encoder.self.1"))),
    "interp.ablate": lambda model, batch: ran(model, batch, interp.ablate(model, "encoder.self.1.1")),
    "probes.attention_patterns": lambda model, batch: [
        probes.attention_patterns(model, batch, model.heads(kind)) for kind in ("encoder.self", "decoder.cross")
    ],
    "probes.attention_by_lag": lambda model, batch: [
        probes.attention_by_lag(model, batch, model.heads(kind)) for kind in ("encoder.self", "decoder.cross")
    ],
    "probes.attention_spectrum": lambda model, batch: probes.attention_spectrum(model, SERIES),
    "probes.context_attention": lambda model, batch: probes.context_attention(model, SERIES[None], num_decoder=0),
    "probes.head_scores": lambda model, batch: probes.head_scores(model),
    "probes.prefix_matching": lambda model, batch: probes.prefix_matching(model),
    "probes.repeated_random_patches": lambda model, batch: probes.repeated_random_patches(model),
    "probes.induction_mosaic": lambda model, batch: probes.induction_mosaic(model, patches(batch)),
    "circuits.head_effects": lambda model, batch: circuits.head_effects(model, batch, metric=MEDIAN, progress=False),
    "circuits.layer_effects": lambda model, batch: circuits.layer_effects(model, batch, metric=MEDIAN, progress=False),
    "circuits.self_repair": lambda model, batch: circuits.self_repair(
        model, batch, heads(), metric=MEDIAN, controls=1, progress=False
    ),
    "circuits.ablation_curve": lambda model, batch: circuits.ablation_curve(
        model, scores(), patches(batch), counts=(1,), controls=1, progress=False
    ),
    "circuits.mosaic_effects": lambda model, batch: circuits.mosaic_effects(
        model, patches(batch), "encoder.self.0.1", progress=False
    ),
    "circuits.forecast_effects": lambda model, batch: circuits.forecast_effects(
        model, SERIES, {"one": heads()}, progress=False
    ),
    "circuits.composition_scores": lambda model, batch: circuits.composition_scores(model, progress=False),
    "circuits.largest_by_chance": lambda model, batch: circuits.largest_by_chance(model, draws=1, progress=False),
    "circuits.qk_circuit": lambda model, batch: circuits.qk_circuit(model, "encoder.self.1.0"),
    "circuits.ov_circuit": lambda model, batch: circuits.ov_circuit(model, "decoder.cross.1.0"),
    "circuits.patch_circuit": lambda model, batch: circuits.patch_circuit(model, "encoder.self.1.0", patches=4),
    "circuits.head_summary": lambda model, batch: circuits.head_summary(model),
    "circuits.circuit_summary": lambda model, batch: circuits.circuit_summary(model, circuits.Circuit([EDGE])),
    "circuits.induction_candidates": lambda model, batch: circuits.induction_candidates(
        model, probes.induction_mosaic(model, patches=4, batch_size=2), progress=False
    ),
    "circuits.direct_attribution": lambda model, batch: circuits.direct_attribution(model, batch),
    "circuits.attribution_by_position": lambda model, batch: circuits.attribution_by_position(model, batch),
    "circuits.gradients": lambda model, batch: circuits.gradients(model, batch, MEDIAN, "decoder.cross.*.z"),
    "circuits.patch_heads": lambda model, batch: circuits.patch_heads(model, *pair(batch), MEDIAN, progress=False),
    "circuits.patch_positions": lambda model, batch: circuits.patch_positions(
        model, *pair(batch), MEDIAN, progress=False
    ),
    "circuits.patch_sites": lambda model, batch: circuits.patch_sites(
        model, *pair(batch), MEDIAN, ["decoder.0.mlp_out"]
    ),
    "circuits.patch_edges": lambda model, batch: circuits.patch_edges(
        model, *pair(batch), MEDIAN, EDGE, progress=False
    ),
    "circuits.attribution_patching": lambda model, batch: circuits.attribution_patching(
        model, *pair(batch), MEDIAN, sample=4, progress=False
    ),
    "circuits.discover": lambda model, batch: circuits.discover(model, *pair(batch), MEDIAN, edges=2, progress=False),
    "circuits.prune": lambda model, batch: circuits.prune(
        model, circuits.Circuit([EDGE]), *pair(batch), MEDIAN, edges=1, progress=False
    ),
    "circuits.evaluate": lambda model, batch: circuits.evaluate(
        model, circuits.Circuit([EDGE]), *pair(batch), MEDIAN, controls=1, parts=1, progress=False
    ),
    "circuits.faithfulness_by_size": lambda model, batch: circuits.faithfulness_by_size(
        model,
        circuits.attribution_patching(model, *pair(values()), MEDIAN, sample=4, progress=False),
        *pair(batch),
        MEDIAN,
        draws=1,
        progress=False,
    ),
    "circuits.random_controls": lambda model, batch: circuits.random_controls(model, heads(), draws=2),
}
"""What works on a model of values."""

NEED_TOKENS: dict[str, Call] = {
    "probes.attention_by_value": lambda model, batch: probes.attention_by_value(model, batch, heads()),
    "probes.changed_period": lambda model, batch: probes.changed_period(model, period=8, other=6, batch_size=3),
    "probes.comb_origin": lambda model, batch: probes.comb_origin(model, draws=2, permutations=9),
    "probes.induction_scores": lambda model, batch: probes.induction_scores(model, batch, site="encoder.self"),
    "probes.induction_scores, made": lambda model, batch: probes.induction_scores(model),
    "probes.induction_sweep": lambda model, batch: probes.induction_sweep(model, progress=False),
    "probes.length_effect": lambda model, batch: probes.length_effect([model], progress=False),
    "probes.multisine_scores": lambda model, batch: probes.multisine_scores(model, draws=2),
    "probes.position_loss": lambda model, batch: probes.position_loss(model, batch),
    "probes.position_loss, made": lambda model, batch: probes.position_loss(model),
    "probes.prefix_matching, of tokens": lambda model, batch: probes.prefix_matching(model, vocab_range=(5, 9)),
    "probes.random_tokens": lambda model, batch: probes.random_tokens(np.random.default_rng(0), 2, 3, model=model),
    "probes.repeated_random_tokens": lambda model, batch: probes.repeated_random_tokens(model=model),
    "probes.repeated_sequences": lambda model, batch: probes.repeated_sequences(model=model),
    "probes.series_batch": lambda model, batch: probes.series_batch(model, SERIES),
    "circuits.attribution_by_position, target": lambda model, batch: circuits.attribution_by_position(
        model, batch, target=5
    ),
    "circuits.copying_scores": lambda model, batch: circuits.copying_scores(model),
    "circuits.direct_attribution, target": lambda model, batch: circuits.direct_attribution(model, batch, target=5),
    "circuits.encoder_output_by_token": lambda model, batch: circuits.encoder_output_by_token(model, batch),
    "circuits.gradients, of tokens": lambda model, batch: circuits.gradients(model, batch, METRIC, "decoder.cross.*.z"),
    "circuits.patch_heads, of tokens": lambda model, batch: circuits.patch_heads(
        model, *pair(batch), METRIC, progress=False
    ),
    "circuits.discover, of tokens": lambda model, batch: circuits.discover(
        model, *pair(batch), METRIC, progress=False
    ),
    "circuits.expected_value": lambda model, batch: circuits.expected_value(model),
    "circuits.logit_lens": lambda model, batch: circuits.logit_lens(model, batch),
    "circuits.token_circuit": lambda model, batch: circuits.token_circuit(
        circuits.qk_circuit(model, "encoder.self.0.0")
    ),
    "circuits.token_composition": lambda model, batch: circuits.token_composition(
        model, "encoder.self.0.1 -> decoder.cross.1.0:k"
    ),
}  # fmt: skip
"""What needs tokens, with a batch of values and with one of tokens."""

OF_A_BATCH = ("another_sequence", "shifted_values", "shuffled_occurrences", "swapped_continuation")
"""What takes repeated random tokens or patches, without a model."""

OTHERWISE = {
    "circuits.position_circuit": "takes a circuit of a model that embeds positions",
}


def ran(model: Model, batch: Batch, context: Any) -> Any:
    with context:
        return interp.capture(model, batch, "decoder.ln_final")


def public() -> set[str]:
    """The public functions that take a model, or a circuit or batch of one."""
    faces = {"interp": interp, "probes": probes, "circuits": circuits}
    functions = {
        f"{name}.{each}": getattr(face, each)
        for name, face in faces.items()
        for each in face.__all__
        if inspect.isfunction(inspect.unwrap(getattr(face, each)))
    }
    takes = {"model", "models", "batch", "circuit"}
    return {name for name, function in functions.items() if takes & set(inspect.signature(function).parameters)}


def test_every_public_function_that_takes_a_model_has_a_case() -> None:
    cases = {name.split(",")[0] for name in (*WORK, *NEED_TOKENS, *OTHERWISE)} | {f"probes.{n}" for n in OF_A_BATCH}
    assert public() == cases


@pytest.mark.parametrize("name", WORK)
def test_what_works(name: str) -> None:
    WORK[name](bolt(), values())


WITHOUT_A_BATCH = (
    *("attention_spectrum", "context_attention", "head_scores", "prefix_matching", "position_bias", "composition"),
    *("largest", "_circuit", "repeated_random", "random_controls", "forecast_effects", "_summary", "candidates"),
)


@pytest.mark.parametrize("name", [name for name in WORK if not any(word in name for word in WITHOUT_A_BATCH)])
def test_what_works_takes_no_tokens(name: str) -> None:
    with pytest.raises(interp.errors.MissingCapability, match=r"^tiny-bolt has no tokens"):
        WORK[name](bolt(), tokens())


@pytest.mark.parametrize("name", NEED_TOKENS)
def test_what_needs_tokens_says_what_to_use_instead(name: str) -> None:
    for batch in (values(), tokens()):
        said = r"^(tiny-bolt|a batch of values) has no tokens.*Batch\.from_series.*repeated_random_patches.*metrics"
        with pytest.raises(interp.errors.MissingCapability, match=said):
            NEED_TOKENS[name](bolt(), batch)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *[(name, r"token map.*circuits\.patch_circuit") for name in ("token_circuit", "token_composition")],
        ("encoder_output_by_token", r"circuits\.patch_circuit"),
        ("copying_scores", r"circuits\.patch_circuit"),
        ("logit_lens", r"circuits\.direct_attribution"),
        ("expected_value", r"the median\.$"),
    ],
)
def test_why_it_needs_tokens(name: str, said: str) -> None:
    with pytest.raises(interp.errors.MissingCapability, match=said):
        NEED_TOKENS[f"circuits.{name}"](bolt(), values())


@pytest.mark.parametrize("name", OF_A_BATCH)
def test_pairs_of_tokens(name: str) -> None:
    with pytest.raises(interp.errors.MissingCapability, match=r"^a batch of values has no tokens"):
        getattr(probes, name)(values(), *([3] if name == "shifted_values" else []))
