"""The architecture that a config names, and the one that a module is, are those that are read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

import circuits
import interp
from interp import Batch
from tests.conftest import fresh, masked_batch, tiny_pipeline


def stored(model: interp.Model, directory: Path, **changes: Any) -> str:
    model.module.save_pretrained(directory)
    path = directory / "config.json"
    config = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not ...}
    path.write_text(json.dumps(config))
    return str(directory)


@pytest.mark.parametrize(
    "said",
    ["ChronosBoltModelForForecasting", "Chronos2Model", "T5ForQuestionAnswering", "GPT2DoubleHeadsModel", "Mine"],
)
def test_another_architecture_in_the_config(either: interp.Model, said: str, tmp_path: Path) -> None:
    with pytest.raises(interp.errors.UnsupportedModel, match=f"its config says that it is a {said}"):
        interp.load(stored(either, tmp_path, architectures=[said]))
    source = fresh(either)
    source.model.model.config.architectures = [said]
    with pytest.raises(interp.errors.UnsupportedModel, match=f"its config says that it is a {said}"):
        interp.wrap(source)


@pytest.mark.parametrize("said", [None, [], ...])
def test_an_architecture_that_is_not_named(either: interp.Model, said: Any, tmp_path: Path) -> None:
    assert interp.load(stored(either, tmp_path, architectures=said)).digest == either.digest


def test_the_kind_of_a_wrapped_pipeline(either: interp.Model) -> None:
    source = fresh(either)
    source.model.model.config.chronos_pipeline_class = "ChronosBoltPipeline"
    with pytest.raises(interp.errors.UnsupportedModel, match="is a ChronosBolt model"):
        interp.wrap(source)


class WarmT5(T5ForConditionalGeneration):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out: Any = super().forward(*args, **kwargs)
        out.logits = out.logits / 2
        return out


class WarmGPT2(GPT2LMHeadModel):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out: Any = super().forward(*args, **kwargs)
        out.logits = out.logits / 2
        return out


class NamedT5(T5ForConditionalGeneration):
    """With the architecture's own forward."""


def test_a_class_with_a_forward_of_its_own(either: interp.Model) -> None:
    source = fresh(either)
    source.model.model.__class__ = WarmT5 if either.has_encoder else WarmGPT2
    with pytest.raises(interp.errors.UnsupportedModel, match="its forward is not that of"):
        interp.wrap(source)


def test_a_class_with_the_same_forward() -> None:
    source = tiny_pipeline()
    source.model.model.__class__ = NamedT5
    batch, site = masked_batch(True), "decoder.logits"
    found, plain = (interp.capture(interp.wrap(each), batch, site)[site] for each in (source, tiny_pipeline()))
    assert torch.equal(found, plain)


def test_logits_that_are_something_else(either: interp.Model, either_batch: Batch) -> None:
    """By a forward that is put on the model itself, before it is opened or after."""
    for opened in (False, True):
        source = fresh(either)
        model = interp.wrap(source) if opened else None
        module = source.model.model
        module.forward = _halved(module)
        with pytest.raises(interp.errors.BrokenHook, match="its logits are not what the unembedding"):
            interp.wrap(source) if model is None else interp.capture(model, either_batch, "decoder.logits")


def _halved(module: Any) -> Any:
    plain = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = plain(*args, **kwargs)
        out.logits = out.logits / 2
        return out

    return forward


@pytest.mark.parametrize("said", [True, False, ...])
@pytest.mark.parametrize("weights", ["tied", "equal", "untied"])
def test_attribution_whatever_is_said_of_ties(said: Any, weights: str, tmp_path: Path) -> None:
    """What a checkpoint's config says of ties decides the scaling, and its weights decide the rest."""
    model = interp.wrap(tiny_pipeline())
    if weights != "tied":
        weight = model.module.lm_head.weight.detach().clone()
        model.module.lm_head.weight = torch.nn.Parameter(weight if weights == "equal" else torch.randn_like(weight))
    path = stored(model, tmp_path, tie_word_embeddings=said, scale_decoder_outputs=...)
    found, batch = interp.load(path), masked_batch(True)
    assert torch.equal(found.module.lm_head.weight, model.module.lm_head.weight)
    assert found.unembedding_scale == (1.0 if said is False else 20**-0.5)
    shares = circuits.direct_attribution(found, batch, target=500, against=600)
    logits = interp.capture(found, batch, "decoder.logits")["decoder.logits"].double()
    wanted = logits[..., 500] - logits[..., 600]
    scale = float(logits.abs().max())
    assert (
        float((torch.tensor(shares.values.sum(0)) - wanted).abs().max()) < 256 * torch.finfo(torch.float32).eps * scale
    )
