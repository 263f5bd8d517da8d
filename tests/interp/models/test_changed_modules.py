"""Handles follow the modules of their model: what is replaced, added or taken away after the first use."""

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import interp
from interp import Batch
from tests.conftest import first_stack, fresh


def blocks(model: interp.Model) -> nn.ModuleList:
    return cast(nn.ModuleList, model.module.get_submodule(model.family.blocks["decoder"]))


def used(model: interp.Model, batch: Batch) -> str:
    """Everything that a handle could keep is asked for once."""
    interp.capture(model, batch, ["decoder.*.resid_post", "decoder.logits"])
    with interp.ablate(model, model.heads()[0]):
        interp.capture(model, batch, "decoder.logits")
    assert model.known_sites
    assert model.n_parameters
    model.envoy(model.family.blocks["decoder"])
    return model.digest


def as_opened_anew(model: interp.Model, batch: Batch) -> None:
    """A handle gives what a handle on a copy of its model gives, which was opened as it is now."""
    source = copy.deepcopy(model.source)
    other = interp.wrap(source)
    sites = [str(site) for site in other.sites()]
    assert list(model.known_sites) == sites
    assert model.n_parameters == other.n_parameters
    assert model.digest == other.digest
    found, wanted = (interp.capture(each, batch, sites) for each in (model, other))
    assert all(torch.equal(found[site], wanted[site]) for site in sites)
    for head in (other.heads()[-1], other.heads()[0]):
        with interp.ablate(model, head), interp.ablate(other, head):
            mine, its = (interp.capture(each, batch, "decoder.logits") for each in (model, other))
        assert torch.equal(mine["decoder.logits"], its["decoder.logits"])
        assert not torch.equal(mine["decoder.logits"], found["decoder.logits"])
        assert torch.equal(model.weights(head).W_O, other.weights(head).W_O)


def another_block(model: interp.Model) -> None:
    blocks(model)[1] = blocks(interp.wrap(fresh(model, seed=5)))[1]


def a_plain_block(model: interp.Model) -> None:
    """Of a model that the toolkit never saw, with another attention implementation."""
    module = fresh(model, seed=5).model.model
    module.set_attn_implementation("sdpa")
    blocks(model)[1] = module.get_submodule(model.family.blocks["decoder"])[1]


def a_copied_block(model: interp.Model) -> None:
    blocks(model)[-1] = copy.deepcopy(blocks(model)[-1])
    blocks(model)[-1].get_parameter(next(n for n, _ in blocks(model)[-1].named_parameters())).data.mul_(2)


def blocks_in_another_order(model: interp.Model) -> None:
    mine = cast(nn.ModuleList, model.module.get_submodule(model.family.blocks[first_stack(model)]))
    mine[1], mine[-1] = mine[-1], mine[1]
    for index, block in enumerate(mine):
        for part in block.modules():
            if getattr(part, "layer_idx", None) is not None:
                part.layer_idx = index


def another_attention(model: interp.Model) -> None:
    path = model.family.attention_path(model.layers()[-1])
    model.module.set_submodule(path, fresh(model, seed=5).model.model.get_submodule(path))


def another_projection(model: interp.Model) -> None:
    path = model.family.point(interp.Site.parse("decoder.self.1.z")).path
    model.module.set_submodule(path, fresh(model, seed=5).model.model.get_submodule(path))


def one_block_less(model: interp.Model) -> None:
    del blocks(model)[-1]


def one_block_more(model: interp.Model) -> None:
    mine = blocks(model)
    mine.append(copy.deepcopy(mine[-1]))
    for part in mine[-1].modules():
        if getattr(part, "layer_idx", None) is not None:
            part.layer_idx = len(mine) - 1
    # As who adds a layer has to do: the cache has as many as the config says.
    model.module.get_submodule(model.family.stacks["decoder"]).config.num_hidden_layers = len(mine)


def another_module(model: interp.Model) -> None:
    model.source.model.model = fresh(model, seed=6).model.model


def hook_points_taken_off(model: interp.Model) -> None:
    for path in map(model.family.attention_path, model.layers()):
        del model.module.get_submodule(path).hook_scores
        del model.module.get_submodule(path).hook_pattern
    model.module.lm_head.weight.data.mul_(2)


def another_forward(model: interp.Model) -> None:
    """Put on a module itself, where nnsight has put its own."""
    norm = model.module.get_submodule(model.family.stack_points["decoder", "ln_final"][0])

    def twice(x: Tensor) -> Tensor:
        return 2 * type(norm).forward(norm, x)

    norm.forward = twice


CHANGES: dict[str, Callable[[interp.Model], None]] = {
    change.__name__: change
    for change in (
        another_block, a_plain_block, a_copied_block, blocks_in_another_order, another_attention, another_projection,
        one_block_less, one_block_more, another_module, hook_points_taken_off, another_forward,
    )
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_handle_follows(either: interp.Model, either_batch: Batch, change: str) -> None:
    before = used(either, either_batch)
    CHANGES[change](either)
    if change != "another_forward":
        assert either.digest != before
    as_opened_anew(either, either_batch)
    CHANGES["a_copied_block"](either)
    as_opened_anew(either, either_batch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(either: interp.Model, either_batch: Batch, dtype: torch.dtype) -> None:
    before = used(either, either_batch)
    either.module.to(dtype)
    assert either.digest != before
    assert either.dtype == dtype
    as_opened_anew(either, either_batch)


def test_resized_embeddings(either: interp.Model, either_batch: Batch) -> None:
    before = used(either, either_batch)
    either.module.resize_token_embeddings(4200)
    assert either.d_vocab == 4200
    assert either.digest != before
    as_opened_anew(either, either_batch)
    assert interp.capture(either, either_batch, "decoder.logits")["decoder.logits"].shape[-1] == 4200


def test_the_model_that_lent_a_block_stays_as_it_was(either: interp.Model, either_batch: Batch) -> None:
    lender = fresh(either, seed=5).model.model
    used(either, either_batch)
    blocks(either)[1] = lender.get_submodule(either.family.blocks["decoder"])[1]
    interp.capture(either, either_batch, "decoder.logits")
    assert lender.config._attn_implementation == "eager"
    for path in either.family.stacks.values():
        assert lender.get_submodule(path).config._attn_implementation == "eager"


@pytest.mark.parametrize("change", ["another_block", "another_projection", "another_module"])
def test_modules_replaced_under_an_edit(either: interp.Model, either_batch: Batch, change: str) -> None:
    """What runs is then edited in part or not at all: an error at the next use, or on leaving at the latest."""
    inputs = either.inputs(either_batch)
    used(either, either_batch)

    def replace_and(use: Callable[[], object]) -> None:
        with interp.ablate(either, "decoder.self.1.0"):
            CHANGES[change](either)
            use()

    for use in (lambda: interp.capture(either, either_batch, "decoder.logits"), lambda: either.module(**inputs)):
        with pytest.raises(interp.errors.ChangedModel, match=r"replaced while|while it was edited"):
            replace_and(use)
        as_opened_anew(either, either_batch)


class Shifted(nn.Module):
    """A module in the place of an attention which calls it, and hides its hook points from those who look for them."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.inside, self.config = attention, attention.config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inside(*args, **kwargs)


def test_an_attention_that_cannot_be_followed(either: interp.Model, either_batch: Batch) -> None:
    """It is refused at every use until it is gone, and the model is as it was."""
    used(either, either_batch)
    path = either.family.attention_path(either.layers()[-1])
    attention = either.module.get_submodule(path)
    clean = interp.capture(either, either_batch, "decoder.logits")["decoder.logits"]
    either.module.set_submodule(path, Shifted(attention))
    for _ in range(2):
        with pytest.raises(interp.errors.BrokenHook):
            interp.capture(either, either_batch, "decoder.logits")
        with pytest.raises(interp.errors.BrokenHook), interp.ablate(either, either.heads()[-1]):
            pass
    either.module.set_submodule(path, attention)
    assert torch.equal(interp.capture(either, either_batch, "decoder.logits")["decoder.logits"], clean)


def test_another_architecture(either: interp.Model, either_batch: Batch, causal: interp.Model) -> None:
    used(either, either_batch)
    either.source.model.model = nn.Linear(2, 2)
    with pytest.raises(interp.errors.UnsupportedModel, match="Linear"):
        interp.capture(either, either_batch, "decoder.logits")


def test_a_forecast_after_a_block_was_replaced(either: interp.Model, either_batch: Batch) -> None:
    used(either, either_batch)
    another_block(either)
    wanted = interp.wrap(copy.deepcopy(either.source))
    series = torch.arange(40.0).sin()

    def forecast(model: interp.Model) -> Tensor:
        torch.manual_seed(0)
        with interp.ablate(model, "decoder.self.1.0"):
            return model.pipeline.predict(series, prediction_length=3)

    assert torch.equal(forecast(either), forecast(wanted))
