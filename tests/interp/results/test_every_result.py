"""Every kind of result prints briefly, turns into a table, and comes back from its file bit by bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import circuits
import interp
import probes
from circuits.edges import Edges
from circuits.patching import Patched
from interp.results.by_head import HeadScores
from interp.results.result import Result, read
from probes.questions.agreement import Agreement, multisine_scores
from probes.questions.comb_origin import comb_origin
from probes.questions.length_effect import LengthEffect
from probes.questions.repetition_effect import RepetitionEffect
from tests.conftest import tiny_bolt

SERIES = np.sin(np.arange(80) / 3)[None] + np.linspace(0, 1, 80)


def classes(base: type[Result]) -> list[type[Result]]:
    below = [found for cls in base.__subclasses__() for found in classes(cls)]
    ours = base.__module__.split(".")[0] in ("interp", "probes", "circuits")
    return [*([base] if ours and base not in (Result, Patched) else []), *below]


@pytest.fixture(scope="module")
def examples() -> dict[str, Result]:
    """One result of every class, by the class's name."""
    model, quiet = interp.load("pico-t5-induction"), {"progress": False}
    bolt = interp.wrap(tiny_bolt())
    tokens = probes.repeated_random_tokens(batch_size=4, unique=True, model=model, seed=1)
    sequences = probes.repeated_sequences(batch_size=4, sequence_length=8, repetitions=2, model=model, seed=1)
    fresh = probes.repeated_random_tokens(batch_size=4, model=model, seed=2)
    mosaic = probes.induction_mosaic(model, tokens)
    pair = probes.another_sequence(tokens, seed=1)
    assert pair.against is not None
    metric = circuits.logit_difference(pair.target, pair.against)
    head = mosaic.heads()[0].address
    spectrum = probes.attention_spectrum(model, SERIES[0], shuffles=19)
    composition = circuits.composition_scores(model, progress=False)
    scores = circuits.attribution_patching(model, *pair, metric, **quiet)
    circuit = circuits.discover(model, *pair, metric, edges=30, **quiet)
    multisine = multisine_scores(model, draws=2)
    frame = pd.DataFrame({"model": ["a", "b"], "value": [0.1, np.nan], "n": [1, 2], "sure": [True, False]})
    curve = circuits.ablation_curve(model, mosaic, fresh, counts=[2], controls=2, **quiet)
    results: list[Any] = [
        mosaic,
        mosaic.either,
        spectrum,
        spectrum.series,
        spectrum.comb(permutations=19),
        probes.induction_scores(model, sequences),
        probes.position_loss(model, sequences),
        probes.attention_patterns(model, tokens, head, row=0),
        probes.attention_by_lag(model, tokens, head),
        multisine,
        Agreement(mosaic, multisine),
        comb_origin(model, draws=2, permutations=19),
        RepetitionEffect(frame, frame, frame, 0.3),
        LengthEffect(frame, frame, frame, 4, {"model": "a"}),
        circuits.head_effects(model, fresh, **quiet),
        circuits.layer_effects(model, fresh, **quiet),
        circuits.self_repair(model, fresh, head, controls=2, **quiet),
        circuits.mosaic_effects(model, fresh, "encoder.self.0.1", controls=1, **quiet),
        circuits.forecast_effects(
            model, SERIES, {"top": head}, prediction_length=4, num_samples=2, controls=1, **quiet
        ),
        curve,
        curve.points[0],
        circuits.random_controls(model, [head], draws=3),
        circuits.patch_heads(model, *pair, metric, **quiet),
        circuits.patch_positions(model, *pair, metric, **quiet),
        circuits.direct_attribution(model, tokens, target=tokens.continuation),
        circuits.attribution_by_position(model, tokens, target=tokens.continuation),
        circuits.logit_lens(model, tokens, target=tokens.continuation),
        composition,
        composition.top(20),
        circuits.induction_candidates(model, mosaic, composition=composition, **quiet),
        scores,
        circuit,
        circuits.patch_edges(model, *pair, metric, list(circuit)[:3], **quiet),
        circuits.evaluate(model, circuit, *pair, metric, controls=2, parts=2, **quiet),
        circuits.faithfulness_by_size(model, scores, *pair, metric, draws=2, **quiet),
        circuits.patch_circuit(bolt, "encoder.self.1.0", patches=5),
        probes.induction_mosaic(bolt, patches=4, batch_size=3),
    ]
    return {type(result).__name__: result for result in results}


def test_there_is_an_example_of_every_class(examples: dict[str, Result]) -> None:
    assert {cls.__name__ for cls in classes(Result)} == set(examples)


def test_they_print_briefly(examples: dict[str, Result]) -> None:
    for name, result in examples.items():
        text = repr(result)
        assert len(text.splitlines()) <= 12, f"{name}: {text}"
        assert max(map(len, text.splitlines())) <= 120, f"{name}: {text}"
        assert "array(" not in text, name
        assert "<table" in result._repr_html_(), name


def test_they_turn_into_tables(examples: dict[str, Result]) -> None:
    for name, result in examples.items():
        frame = result.to_frame()
        assert len(frame), name
        assert all(isinstance(column, str) for column in frame.columns), name


def same(a: Any, b: Any, where: str) -> None:
    assert type(a) is type(b) or isinstance(a, pd.DataFrame), where
    if isinstance(a, np.ndarray):
        assert not b.flags.writeable, where
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        assert np.array_equal(a, b, equal_nan=True), where
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True, check_frame_type=False, obj=where)
    elif isinstance(a, Result):
        same(a._contents(), b._contents(), where)
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key, value in a.items():
            same(value, b[key], f"{where}.{key}")
    elif isinstance(a, tuple | list):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}.{index}")
    elif isinstance(a, float):
        assert a == b or (np.isnan(a) and np.isnan(b)), where
    else:
        assert a == b, where


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_they_come_back_bit_by_bit(examples: dict[str, Result], tmp_path: Path, suffix: str) -> None:
    for name, result in examples.items():
        path = result.save(tmp_path / f"{name}{suffix}")
        same(result, read(path), name)
        assert repr(read(path)) == repr(result), name


def test_a_file_of_another_class_is_refused(examples: dict[str, Result], tmp_path: Path) -> None:
    path = examples["Mosaic"].save(tmp_path / "mosaic.json")
    for cls in (HeadScores, Edges, Agreement):
        with pytest.raises(interp.errors.DamagedFile, match=r"holds .*mosaic"):
            cls.load(path)
