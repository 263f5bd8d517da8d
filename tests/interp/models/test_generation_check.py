"""Opening a model sees whether the installed transformers hands its cache on as edits expect, by effect."""

import functools
import inspect
from typing import Any

import pytest
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.t5 import modeling_t5

import interp
from interp.inputs.forward_arguments import cache_name, named, names_of
from tests.conftest import tiny_causal_pipeline, tiny_pipeline

pytestmark = pytest.mark.versions

STACKS = {"t5": (modeling_t5.T5Stack, tiny_pipeline), "gpt2": (modeling_gpt2.GPT2Model, tiny_causal_pipeline)}


def renamed(forward: Any, old: str, new: str) -> Any:
    """A forward that takes an argument by another name as well, as a release would that renames it."""
    parameters = [p.replace(name=new) if p.name == old else p for p in inspect.signature(forward).parameters.values()]

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if new in kwargs:
            kwargs[old] = kwargs.pop(new)
        return forward(self, *args, **kwargs)

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper


@pytest.mark.parametrize("family", STACKS)
@pytest.mark.parametrize("argument", ["cache", "attention_mask", "input_ids"])
def test_a_release_that_renames_an_argument_is_refused(
    family: str, argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, make = STACKS[family]
    pipeline = make()
    argument = (
        cache_name(next(m for m in pipeline.model.modules() if isinstance(m, stack)))
        if argument == "cache"
        else argument
    )
    monkeypatch.setattr(stack, "forward", renamed(stack.forward, argument, "something_new"))
    with pytest.raises(interp.errors.BrokenHook, match=r"transformers \d"):
        interp.wrap(pipeline)
    assert pipeline.model.model.config._attn_implementation == "eager"
    assert not [name for name, _ in pipeline.model.model.named_modules() if "hook_" in name]


@pytest.mark.parametrize("family", STACKS)
def test_a_cache_that_comes_by_another_way_is_refused(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are there, and the cache is not handed on by them: only the effect shows it."""
    stack, make = STACKS[family]
    pipeline = make()
    inner = next(m for m in pipeline.model.modules() if isinstance(m, stack) and getattr(m, "is_decoder", True))
    name = cache_name(inner)
    model = type(pipeline.model.model)
    smuggled: dict[str, Any] = {}
    plain, whole = stack.forward, model.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = smuggled.pop("cache", None) if getattr(self, "is_decoder", True) else None
        return plain(self, *args, **({**kwargs, name: given} if given is not None else kwargs))

    def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get(name) is not None:
            smuggled["cache"] = kwargs.pop(name)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(stack, "forward", functools.wraps(plain)(forward))
    monkeypatch.setattr(model, "forward", functools.wraps(whole)(outer))
    with pytest.raises(interp.errors.BrokenHook, match=r"second step is not known to be the second.*transformers \d"):
        interp.wrap(pipeline)


def test_arguments_are_known_by_name_however_they_are_given(model: interp.Model) -> None:
    decoder = model.module.decoder
    names = names_of(decoder)
    cache = object()
    values = {name: object() for name in names if name != "kwargs"} | {cache_name(decoder): cache}
    assert named(decoder, tuple(values[n] for n in names if n != "kwargs"), {})["cache"] is cache
    assert named(decoder, (), {"past_key_values": cache})["cache"] is cache
    assert named(decoder, (), {"cache": cache})["cache"] is cache
    assert named(decoder, (), {})["cache"] is None


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_a_stack_with_more_layers_than_its_config_says_is_refused(family: str) -> None:
    pipeline = STACKS[family][1]()
    module: Any = pipeline.model.model
    config = module.config if family == "gpt2" else module.decoder.config
    config.num_hidden_layers -= 1
    with pytest.raises(interp.errors.UnsupportedModel, match="two steps with the cache fail with IndexError"):
        interp.wrap(pipeline)
