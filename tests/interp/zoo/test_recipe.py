"""The recipe's fields that lay a route: motifs that begin anywhere, heads that start out looking back."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

import interp
from interp import zoo
from interp.zoo import recipe as recipes
from interp.zoo.fresh_t5 import lay_routes, model_config
from interp.zoo.recipe import Recipe, batch
from tests.interp.zoo.test_zoo_t5 import TINY

MOTIFS_ONLY = replace(TINY, motif_share=1.0)
"""Varied motifs in every row, from step 4 on."""


def stored(name: str) -> Recipe:
    return Recipe.parse((zoo.path(name) / "training.json").read_text(), {})


def test_the_bundled_models_recipes() -> None:
    """A record from before there were these fields is read, and says that they were off."""
    first, second = stored("pico-t5"), stored("pico-t5-induction")
    assert (first.anywhere, first.previous_token_heads) == (0.0, 0)
    assert (second.anywhere, second.previous_token_heads) == (0.8, 1)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("pico-t5", "45b42ec14970f620"),
        ("pico-t5-induction", "e1fd6ce62f795888"),
        ("pico-t5-current", "5e42c4bdece8fa7b"),
        ("pico-gpt2", "f02a80ead80ba45f"),
    ],
)
def test_the_first_batch_is_the_one_that_was_trained_on(name: str, wanted: str) -> None:
    both = b"".join(part.numpy().astype("<i8").tobytes() for part in batch(stored(name), 0))
    assert hashlib.sha256(both).hexdigest()[:16] == wanted


@pytest.mark.parametrize("step", [0, 3, 4, 6, 8])
def test_without_it_batches_are_as_they_were(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_the_field = batch(TINY, step)

    def untouched(rng: np.random.Generator, recipe: Recipe, tokens: Tensor, context: int) -> Tensor:
        return tokens

    monkeypatch.setattr(recipes, "_begin_anywhere", untouched)
    assert all(torch.equal(a, b) for a, b in zip(with_the_field, batch(TINY, step), strict=True))


@pytest.mark.parametrize(("recipe", "step"), [(replace(TINY, motif_rows=300), 2), (replace(MOTIFS_ONLY, rows=300), 6)])
def test_labels_begin_anywhere(recipe: Recipe, step: int) -> None:
    """The encoder's tokens stay; labels are a stretch of them, from a place that differs by row."""
    ids, plain = batch(recipe, step)
    same, labels = batch(replace(recipe, anywhere=1.0), step)
    assert torch.equal(ids, same)
    stretches = ids[:, :-1].unfold(1, labels.shape[1], 1)
    found = (stretches == labels[:, None]).all(-1)
    assert bool(found.any(1).all())
    assert len(found.int().argmax(1).unique()) > 3
    assert 0.7 < float((labels != plain).any(1).double().mean()) < 1  # some begin where the motif does, too
    half = batch(replace(recipe, anywhere=0.5), step)[1]
    assert 0.3 < float((half != plain).any(1).double().mean()) < 0.6


def test_labels_longer_than_the_context_go_on_with_the_motif() -> None:
    recipe = replace(MOTIFS_ONLY, longest_context=17)
    step = next(s for s in range(4, 100) if batch(recipe, s)[1].shape[1] > 17)
    ids, plain = batch(recipe, step)
    labels = batch(replace(recipe, anywhere=1.0), step)[1]
    context = ids.shape[1] - 1
    assert torch.equal(labels[:, :context], ids[:, :context])
    assert torch.equal(labels[:, context:], plain[:, : labels.shape[1] - context])


def test_series_always_go_on_at_the_end() -> None:
    recipe = replace(TINY, motif_share=0.0)
    assert torch.equal(batch(recipe, 8)[1], batch(replace(recipe, anywhere=1.0), 8)[1])


def test_previous_token_heads_start_out_looking_back() -> None:
    recipe = replace(TINY, previous_token_heads=1, next_token_heads=1, d_model=32, d_kv=8)
    torch.manual_seed(0)
    config = model_config(recipe)
    config._attn_implementation = "eager"
    module = T5ForConditionalGeneration(config).eval()
    bias = module.get_submodule("encoder.block.0.layer.0.SelfAttention.relative_attention_bias").weight
    assert isinstance(bias, Tensor)
    before = bias.detach().clone()
    lay_routes(module, recipe)
    assert int((bias != before).sum()) == 2
    with torch.no_grad():
        ids = torch.randint(2, 4096, (20, 12), generator=torch.Generator().manual_seed(0))
        layers = module.get_encoder()(ids, output_attentions=True).attentions
    for paid in layers:
        back = paid.diagonal(-1, dim1=-2, dim2=-1).mean((0, 2))
        ahead = paid.diagonal(1, dim1=-2, dim2=-1).mean((0, 2))
        assert int(back.argmax()) == 2
        assert int(ahead.argmax()) == 0
        assert float(back[2]) > 0.5
        assert float(ahead[0]) > 0.5
        assert float(back[:2].max()) < 0.3


@pytest.mark.parametrize(
    "changes",
    [
        {"anywhere": 1.1},
        {"anywhere": -0.1},
        {"anywhere": float("nan")},
        {"anywhere": "half"},
        {"motif_share": 2},
        {"previous_token_heads": -1},
        {"previous_token_heads": 1.5},
        {"previous_token_heads": 2, "next_token_heads": 2},
    ],
)
def test_recipes_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=next(iter(changes))):
        replace(TINY, **changes)
