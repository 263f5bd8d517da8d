"""Files that release 0.6 wrote open, each as the result that it was."""

import json
from pathlib import Path

import numpy as np
import pytest

import probes
from interp.results.result import Result, read

FILES = sorted((Path(__file__).parents[2] / "data" / "files-0.6").iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_opens_is_saved_and_opens_again(path: Path, tmp_path: Path) -> None:
    result = read(path)
    assert type(result).load(path) is not result
    for ending in ("json", "safetensors"):
        again = read(result.save(tmp_path / f"again.{ending}"))
        assert type(again) is type(result)
        assert again.to_frame().equals(result.to_frame())
        assert repr(again) == repr(result)


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".json"], ids=lambda path: path.name)
def test_numbers_are_those_of_the_file(path: Path) -> None:
    """Every array that stands in the file, as lists or with its shape, is in the result."""

    def arrays(content: object) -> list[np.ndarray]:
        if isinstance(content, dict):
            if "array" in content:
                return [np.array(content["array"], dtype=float)]
            return [array for value in content.values() for array in arrays(value)]
        if isinstance(content, list):
            flat = np.array(content, dtype=object).ravel()
            if len(flat) and all(isinstance(x, int | float | None) for x in flat):
                return [flat.astype(float)]
            return [array for value in content for array in arrays(value)]
        return []

    def held(value: object) -> list[np.ndarray]:
        if isinstance(value, np.ndarray):
            return [value]
        if isinstance(value, Result):
            return held(vars(value))
        if isinstance(value, dict):
            return [array for item in value.values() for array in held(item)]
        if isinstance(value, tuple):
            numbers = [np.array(value, dtype=float)] if all(isinstance(x, int | float) for x in value) else []
            return numbers + [array for item in value for array in held(item)]
        return []

    content = json.loads(path.read_text())
    result = read(path)
    there = {array.tobytes() for array in map(np.ascontiguousarray, held(result))}
    for array in arrays({key: value for key, value in content.items() if key != "provenance"}):
        if array.size > 2:
            assert array.tobytes() in there, f"{path.name}: {array[:4]}"


def test_a_spectrum_from_before_decoder_only_models(tmp_path: Path) -> None:
    content = json.loads((FILES[0].parent / "spectrum.json").read_text())
    del content["site"]
    (tmp_path / "s.json").write_text(json.dumps(content))
    spectrum = probes.AttentionSpectrum.load(tmp_path / "s.json")
    assert spectrum.site == "decoder.cross"
    assert spectrum.eos is not None
