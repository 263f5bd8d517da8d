"""Head scores as values, and files that are written whole or not at all."""

import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import interp
from interp import Head
from interp.results.by_head import HeadScores, as_heads, provenance
from interp.results.files import write_text
from tests.conftest import fresh, tiny_gpt2


@pytest.fixture
def scores() -> HeadScores:
    values = np.array([[0.1, 0.9, np.nan], [0.4, 0.2, 0.5]])
    return HeadScores("induction", "decoder.self", values, values / 10, provenance={"model": "tiny"})


def test_heads_strongest_first(scores: HeadScores) -> None:
    assert [str(h.address) for h in scores.heads(0.3)] == ["decoder.self.0.1", "decoder.self.1.2", "decoder.self.1.0"]
    assert len(scores.heads()) == 5
    assert scores["decoder.self.0.1"] == 0.9
    assert scores[Head("decoder", "self", 1, 0)] == 0.4
    with pytest.raises(interp.errors.InvalidInput, match=r"scores of decoder\.self"):
        scores["decoder.cross.0.1"]


def test_frame_is_tidy(scores: HeadScores) -> None:
    frame = scores.to_frame()
    assert len(frame) == 6
    assert frame.loc[frame["head"] == "decoder.self.1.2", "score"].item() == 0.5


def test_values_are_frozen_copies() -> None:
    given = np.zeros((2, 3))
    scores = HeadScores("x", "encoder.self", given)
    given[0, 0] = 1
    assert scores.values[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        scores.values[0, 0] = 1


def test_shapes_are_checked() -> None:
    with pytest.raises(interp.errors.InvalidInput, match=r"\[layer, head\]"):
        HeadScores("x", "encoder.self", np.zeros(3))
    with pytest.raises(interp.errors.InvalidInput, match="stderr"):
        HeadScores("x", "encoder.self", np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(interp.errors.UnknownSite, match=r"encoder\.self"):
        HeadScores("x", "encoder.cross", np.zeros((2, 3)))


def test_round_trip(scores: HeadScores, tmp_path: Path) -> None:
    again = HeadScores.load(scores.save(tmp_path / "s.json"))
    np.testing.assert_array_equal(again.values, scores.values)
    np.testing.assert_array_equal(again.stderr, scores.stderr)  # type: ignore[arg-type]
    assert (again.name, again.site, again.provenance) == (scores.name, scores.site, scores.provenance)


def test_damaged_files(scores: HeadScores, tmp_path: Path) -> None:
    path = scores.save(tmp_path / "s.json")
    whole = path.read_text()
    for text in ("", whole[: len(whole) // 2], "[1, 2]", '{"kind": "induction-mosaic"}', "\x00"):
        path.write_text(text)
        with pytest.raises(interp.errors.DamagedFile):
            HeadScores.load(path)
    content = json.loads(whole)
    path.write_text(json.dumps(content | {"version": 99}))
    with pytest.raises(interp.errors.WrongVersion, match="version 99"):
        HeadScores.load(path)
    for part in ("values", "site", "provenance"):
        fields = {k: v for k, v in content["fields"]["items"].items() if k != part}
        path.write_text(json.dumps(content | {"fields": {"items": fields}}))
        with pytest.raises(interp.errors.DamagedFile):
            HeadScores.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(interp.errors.DamagedFile):
        HeadScores.load(path)
    with pytest.raises(FileNotFoundError):
        HeadScores.load(tmp_path / "none.json")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "x.txt", "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(interp.errors.InvalidInput, match="no directory"):
        write_text(tmp_path / "no" / "x.txt", "text")


def test_what_functions_that_take_heads_accept(model: interp.Model, scores: HeadScores) -> None:
    wanted = [Head("decoder", "self", 0, 1), Head("decoder", "self", 1, 2)]
    assert as_heads(model, "decoder.self.0.1") == wanted[:1]
    assert as_heads(model, wanted[0]) == wanted[:1]
    assert as_heads(model, ["decoder.self.0.1", wanted[1]]) == wanted
    assert as_heads(model, scores.heads(0.5)) == wanted
    with pytest.raises(interp.errors.InvalidInput, match="more than once"):
        as_heads(model, ["decoder.self.0.1", wanted[0]])
    with pytest.raises(interp.errors.UnknownHead, match="Did you mean"):
        as_heads(model, ["decoder.self.7.1"])


def test_heads_of_a_decoder_alone(causal: interp.Model, scores: HeadScores, tmp_path: Path) -> None:
    wanted = [Head("decoder", "self", 0, 1), Head("decoder", "self", 1, 2)]
    assert as_heads(causal, scores.heads(0.5)) == wanted
    for head in ("decoder.cross.0.1", Head("encoder", "self", 0, 0)):
        with pytest.raises(interp.errors.UnknownHead, match="decoder-only GPT-2"):
            as_heads(causal, [head])


def test_provenance_tells_the_weights(either: interp.Model) -> None:
    found = provenance(either, seed=3)
    assert found["digest"] == either.digest
    assert found["model"] == either.name
    assert found["n_parameters"] == sum(p.numel() for p in either.module.parameters())
    assert (found["dtype"], found["device"], found["stimulus"]) == ("float32", "cpu", {"seed": 3})
    assert found["versions"]["transformers"] == version("transformers")
    json.dumps(found)
    assert found["digest"] != provenance(interp.wrap(fresh(either, seed=1)))["digest"]


def test_provenance_of_a_text_model() -> None:
    assert provenance(interp.wrap(tiny_gpt2(), name="text"))["model"] == "text"
