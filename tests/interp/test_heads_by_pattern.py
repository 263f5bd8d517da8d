"""Heads may be named by layers, kinds and patterns wherever heads are accepted, with the same result."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import circuits
import interp
import probes
from circuits.attribution.by_position import AttributionByPosition
from interp.editing.edit import addresses_of
from interp.names import AttentionLayer, Head
from interp.results.by_head import as_heads, heads_among
from probes.stimuli.repeated_tokens import RepeatedTokens

LAYER = [Head("decoder", "cross", 1, head) for head in range(3)]
FORMS: list[Any] = [
    "decoder.cross.1",
    "decoder.cross.1.*",
    AttentionLayer("decoder", "cross", 1),
    ["decoder.cross.1.0", "decoder.cross.1.1", LAYER[2]],
]


@pytest.fixture
def tokens(model: interp.Model) -> RepeatedTokens:
    return probes.repeated_random_tokens(model=model, batch_size=4, sequence_length=5, seed=0)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_is_the_same_heads(model: interp.Model, form: Any) -> None:
    assert as_heads(model, form) == LAYER
    assert heads_among(model.heads("decoder.cross"), form) == LAYER
    if not isinstance(form, list):
        assert model.heads(form) == LAYER


@pytest.mark.parametrize(
    ("pattern", "heads"),
    [
        ("decoder.cross.*.0", ["decoder.cross.0.0", "decoder.cross.1.0"]),
        ("decoder.*.1.2", ["decoder.self.1.2", "decoder.cross.1.2"]),
        ("*.self.1.0", ["encoder.self.1.0", "decoder.self.1.0"]),
        ("decoder.cross", [f"decoder.cross.{i}.{j}" for i in range(2) for j in range(3)]),
        ("decoder.*.1", [f"decoder.{kind}.1.{j}" for kind in ("self", "cross") for j in range(3)]),
    ],
)
def test_patterns(model: interp.Model, pattern: str, heads: list[str]) -> None:
    assert [str(head) for head in model.heads(pattern)] == heads
    assert sorted(map(str, heads_among(model.heads(), pattern))) == sorted(heads)


USES: dict[str, Callable[[interp.Model, RepeatedTokens, Any], Any]] = {
    "attention_patterns": lambda m, b, h: probes.attention_patterns(m, b, h).to_frame().to_numpy(),
    "attention_by_lag": lambda m, b, h: probes.attention_by_lag(m, b, h).to_frame().to_numpy(),
    "mosaic_effects": lambda m, b, h: circuits.mosaic_effects(m, b, h, progress=False).to_frame().to_numpy(),
    "self_repair": lambda m, b, h: circuits.self_repair(m, b, h, controls=0).to_frame().to_numpy(),
    "attribution": lambda m, b, h: circuits.attribution_by_position(m, b).of(h),
    "ablate": lambda m, b, h: _logits(m, b, interp.ablate(m, h)),
    "Zero": lambda m, b, h: _logits(m, b, interp.edited(m, _each(interp.Zero, h))),
    "Scale": lambda m, b, h: _logits(m, b, interp.edited(m, _each(partial(interp.Scale, factor=0.5), h))),
    "Mean": lambda m, b, h: _logits(m, b, interp.edited(m, _each(partial(interp.Mean, reference=b), h))),
    "Knockout": lambda m, b, h: _logits(m, b, interp.edited(m, _each(partial(interp.Knockout, key=0), h))),
}


def _each(edit: Callable[[Any], Any], heads: Any) -> list[Any]:
    return [edit(at) for at in (heads if isinstance(heads, list) else [heads])]


def _logits(model: interp.Model, batch: RepeatedTokens, context: Any) -> torch.Tensor:
    with context:
        return interp.capture(model, batch, "decoder.logits")["decoder.logits"]


@pytest.mark.parametrize("name", USES)
def test_every_function_takes_every_form(model: interp.Model, tokens: RepeatedTokens, name: str) -> None:
    layer, pattern, value, each = (_plain(USES[name](model, tokens, form)) for form in FORMS)
    assert layer == pattern == value == each


def _plain(result: Any) -> str:
    return repr(np.asarray(result).tolist())


def test_a_pattern_of_layers_or_sites(model: interp.Model) -> None:
    assert list(map(str, addresses_of(model, "decoder.cross.*"))) == ["decoder.cross.0", "decoder.cross.1"]
    assert list(map(str, addresses_of(model, "decoder.*.mlp_out"))) == ["decoder.0.mlp_out", "decoder.1.mlp_out"]
    assert list(map(str, addresses_of(model, "decoder.*"))) == [
        *("decoder.self.0", "decoder.self.1", "decoder.cross.0", "decoder.cross.1")
    ]


def test_an_edit_at_a_pattern_is_one_at_each(model: interp.Model, tokens: RepeatedTokens) -> None:
    clean = _logits(model, tokens, nullcontext())
    for pattern, each in {
        "decoder.cross.*": ["decoder.cross.0", "decoder.cross.1"],
        "encoder.*.mlp_out": [f"encoder.{layer}.mlp_out" for layer in range(3)],
    }.items():
        together = _logits(model, tokens, interp.edited(model, interp.Add(pattern, 0.5)))
        apart = _logits(model, tokens, interp.edited(model, [interp.Add(at, 0.5) for at in each]))
        assert torch.equal(together, apart)
        one = _logits(model, tokens, interp.edited(model, interp.Add(each[0], 0.5)))
        assert not torch.equal(together, one)
        assert not torch.equal(one, clean)


@pytest.mark.parametrize("name", ["ablate", "Zero", "Scale", "Mean", "Knockout"])
def test_a_layer_is_more_than_one_of_its_heads(model: interp.Model, tokens: RepeatedTokens, name: str) -> None:
    """Each head of a pattern is edited, not the first or the last alone."""
    clean = _logits(model, tokens, nullcontext())
    layer = USES[name](model, tokens, "decoder.cross.1.*")
    for kept in range(3):
        fewer = USES[name](model, tokens, [f"decoder.cross.1.{head}" for head in range(3) if head != kept])
        assert not torch.equal(layer, fewer)
    assert not torch.equal(layer, clean)


@pytest.mark.parametrize(
    "heads", ["", "decoder.cross.7.*", "decoder.cross.*.9", "decoder.*.mlp_out", "a.b.c.d", "decoder.cross.9"]
)
def test_what_names_no_head_is_refused(model: interp.Model, tokens: RepeatedTokens, heads: str) -> None:
    by_position: AttributionByPosition = circuits.attribution_by_position(model, tokens)
    errors = (interp.errors.UnknownHead, interp.errors.UnknownSite)
    with pytest.raises(errors) as of_model:
        as_heads(model, heads)
    with pytest.raises((*errors, interp.errors.InvalidInput)) as of_result:
        by_position.of(heads)
    with pytest.raises(errors):
        model.heads(heads)
    assert heads in str(of_model.value)
    assert heads in str(of_result.value)


def test_scores_are_not_set_by_a_pattern_either() -> None:
    with pytest.raises(interp.errors.InvalidInput, match="mask"):
        interp.Zero("decoder.cross.*.scores")
    with pytest.raises(interp.errors.InvalidInput, match="mask"):
        interp.Scale("decoder.cross.*.scores", 2.0)
    with pytest.raises(interp.errors.UnknownSite, match="cannot be edited"):
        interp.Zero("decoder.cross.*.head_out")
