"""Results of experiments are read-only and come back from their files as they were."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import circuits
import interp
from circuits.ablation.curve import CurvePoint
from interp.results.result import Result
from tests.circuits.ablation.test_ablation import scored
from tests.circuits.ablation.test_forecasts import SERIES, effects
from tests.circuits.ablation.test_head_effects import stimulus


@pytest.fixture
def results(model: interp.Model) -> dict[str, Any]:
    tokens = stimulus()
    return {
        "curve": circuits.ablation_curve(
            model, scored(model), tokens, counts=[1, 3], controls=2, series=SERIES, prediction_length=6, num_samples=3,
            progress=False,
        ),
        "layers": circuits.layer_effects(model, tokens, progress=False),
        "repair": circuits.self_repair(model, tokens, "decoder.cross.0.1", controls=1, progress=False),
        "rewired": circuits.mosaic_effects(model, tokens, "decoder.self.1.1", controls=0, progress=False),
        "forecasts": effects(model),
    }  # fmt: skip


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert not b.flags.writeable
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, Result):
        same(vars(a), vars(b))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b


def test_they_come_back_as_they_were(results: dict[str, Any], tmp_path: Path) -> None:
    for name, result in results.items():
        loaded = type(result).load(result.save(tmp_path / f"{name}.json"))
        same(result, loaded)
        assert loaded.to_frame().equals(result.to_frame())


def test_their_arrays_cannot_be_written(results: dict[str, Any]) -> None:
    point: CurvePoint = results["curve"].points[0]
    for array in (point.effect, results["layers"].rows, results["forecasts"].outcomes["mase"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_damaged_files(results: dict[str, Any], tmp_path: Path) -> None:
    path = results["layers"].save(tmp_path / "layers.json")
    with pytest.raises(interp.errors.DamagedFile, match="layer-effects"):
        circuits.SelfRepair.load(path)
    content = json.loads(path.read_text())
    for damage in ({"fields": {}}, {"fields": {"items": {"rows": 1}}}, {"fields": None}):
        path.write_text(json.dumps(content | damage))
        with pytest.raises(interp.errors.DamagedFile, match="Make it again"):
            circuits.LayerEffects.load(path)
    path.write_text(json.dumps(content | {"version": 9}))
    with pytest.raises(interp.errors.WrongVersion):
        circuits.LayerEffects.load(path)
    with pytest.raises(interp.errors.MissingFile):
        circuits.LayerEffects.load(tmp_path / "nothing.json")
