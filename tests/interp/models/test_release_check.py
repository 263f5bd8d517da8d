"""Opening a model sees whether the installed transformers and chronos are as the toolkit reads them."""

from typing import Any

import pytest
import torch
from chronos.chronos import MeanScaleUniformBins

import interp
from tests.conftest import tiny_causal_pipeline, tiny_pipeline

pytestmark = pytest.mark.versions

RENAMED = [
    (tiny_pipeline, "decoder.block.0.layer.0.SelfAttention", "q"),
    (tiny_pipeline, "decoder", "final_layer_norm"),
    (tiny_pipeline, "encoder", "block"),
    (tiny_causal_pipeline, "transformer.h.1", "ln_2"),
    (tiny_causal_pipeline, "transformer", "wpe"),
]


@pytest.mark.parametrize(("make", "parent", "name"), RENAMED, ids=lambda value: getattr(value, "__name__", value))
def test_a_release_that_renames_a_module_is_refused(make: Any, parent: str, name: str) -> None:
    pipeline = make()
    holder = pipeline.model.model.get_submodule(parent)
    holder._modules[f"{name}_new"] = holder._modules.pop(name)
    with pytest.raises(interp.errors.BrokenHook, match=rf"no module .*{name}.*transformers \d"):
        interp.wrap(pipeline)


def one_token_up(whole: Any) -> Any:
    def transform(self: Any, context: torch.Tensor, scale: Any = None) -> Any:
        ids, mask, scale = whole(self, context, scale)
        return ids + 1, mask, scale

    return transform


def without_scale(whole: Any) -> Any:
    def transform(self: Any, context: torch.Tensor, scale: Any = None) -> Any:
        return whole(self, context)

    return transform


def by_another_name(whole: Any) -> Any:
    def transform(self: Any, values: torch.Tensor, scale: Any = None) -> Any:
        return whole(self, values, scale)

    return transform


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_causal_pipeline])
@pytest.mark.parametrize("change", [one_token_up, without_scale, by_another_name])
def test_a_release_whose_tokenizer_does_otherwise_is_refused(
    make: Any, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make()
    monkeypatch.setattr(MeanScaleUniformBins, "_input_transform", change(MeanScaleUniformBins._input_transform))
    with pytest.raises(interp.errors.BrokenHook, match=r"chronos-forecasting \d"):
        interp.wrap(pipeline)
