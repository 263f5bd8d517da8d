"""A public function that is given an obvious wrong argument answers with an error of the toolkit that names it."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch

import circuits
import interp
import probes
from interp.arguments import checked
from interp.errors import InterpError, InvalidInput
from probes.induction.mosaic import Mosaic
from probes.stimuli.repeated_tokens import RepeatedTokens


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for package in (interp, probes, circuits, probes.plots, circuits.plots):
        for name in package.__all__:
            function = getattr(package, name)
            if inspect.isfunction(function):
                yield f"{package.__name__}.{name}", function


FUNCTIONS = dict(functions())


def positional(function: Callable[..., Any]) -> list[str]:
    """The arguments that must be given."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind in kinds]


def keywords_are_needed(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)


@pytest.fixture
def tokens(model: interp.Model) -> RepeatedTokens:
    return probes.repeated_random_tokens(model=model, batch_size=3, sequence_length=5, seed=0)


@pytest.fixture
def mosaic(model: interp.Model, tokens: RepeatedTokens) -> Mosaic:
    return probes.induction_mosaic(model, tokens)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_arguments(name: str, model: interp.Model, tokens: RepeatedTokens, mosaic: Mosaic) -> None:
    function = FUNCTIONS[name]
    if keywords_are_needed(function):
        pytest.skip("Python itself names the arguments that are missing")
    right: dict[str, Any] = {
        "model": model,
        "mosaic": mosaic,
        "scores": mosaic,
        "result": mosaic,
        "heads": mosaic.heads(),
    }
    wrong = [
        None,
        "nonsense",
        3.5,
        [3],
        np.ones((2, 3)),
        torch.ones(2, 3),
        model,
        tokens,
        (mosaic, 1),
        mosaic.to_frame(),
    ]
    names = positional(function)
    for at, argument in enumerate(names):
        for value in wrong:
            passed = [value if i == at else right.get(other, tokens) for i, other in enumerate(names)]
            try:
                result = function(*passed)
                if isinstance(result, AbstractContextManager) and not isinstance(result, torch.Tensor):
                    with result:
                        pass
            except InterpError:
                continue
            except Exception as error:
                pytest.fail(f"{name}({argument}={type(value).__name__}): {type(error).__name__}: {error}")


def test_messages_name_the_argument_and_who_makes_it(
    model: interp.Model, tokens: RepeatedTokens, mosaic: Mosaic
) -> None:
    cases: dict[str, Callable[[], Any]] = {
        r"result: tuple is no Mosaic or PatchMosaic: give what probes\.induction_mosaic returns\. Take one": lambda: (
            probes.plots.mosaic(
                (mosaic, mosaic)  # type: ignore[arg-type]
            )
        ),
        "mosaics: one Mosaic was given where several": lambda: probes.mosaic_summary(mosaic),  # type: ignore[arg-type]
        r"scores: list is no Mosaic or HeadScores": lambda: circuits.ablation_curve(
            model,
            list(mosaic.heads()),  # type: ignore[arg-type]
            tokens,
        ),
        r"open it: interp\.load\('pico-t5'\)": lambda: circuits.head_effects("pico-t5", tokens),  # type: ignore[arg-type]
        r"heads=Mosaic: give the heads in it, by \.heads\(\)": lambda: probes.attention_patterns(
            model,
            tokens,
            mosaic,  # type: ignore[arg-type]
        ),
    }
    for words, call in cases.items():
        with pytest.raises(InvalidInput, match=words):
            call()


def test_batches_that_are_made_while_they_are_read_are_read_once(tokens: RepeatedTokens) -> None:
    read: list[int] = []

    @checked
    def count(batches: "interp.Batch | Iterator[interp.Batch]", other: int | None = None) -> int:
        return len(list(batches))  # type: ignore[arg-type]

    def stream() -> Iterator[interp.Batch]:
        for i in range(3):
            read.append(i)
            yield tokens

    assert count(stream()) == 3
    assert read == [0, 1, 2]
