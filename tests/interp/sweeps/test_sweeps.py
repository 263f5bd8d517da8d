"""Sweeps: the frame of a plain loop, whatever runs it, and a typed error for what cannot be meant."""

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from threading import Thread
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import interp
import interp.sweeps.opened_models
import probes
from interp.output import progress
from interp.sweeps import Sweep, read, sweep
from interp.sweeps import store as files
from interp.sweeps.grid import by_model, configurations, key_of
from interp.sweeps.sweep_result import merged, table_of
from probes.induction.induction_sweep import defaults
from tests.conftest import tiny_causal_pipeline, tiny_gpt2, tiny_pipeline
from tests.sweep_functions import ablated, cheap, logged, opened_here, other, sizes, third_fails, varied, where

GRID = {"b": ["x", "y"], "a": range(3)}
RRT: dict[str, Any] = {"repetitions": [2, 3], "sequence_lengths": [4, 5], "seeds": [0], "batch_size": 4}


def equal(found: Sweep | pd.DataFrame, expected: Sweep | pd.DataFrame) -> None:
    frames = [thing.to_frame() if isinstance(thing, Sweep) else thing for thing in (found, expected)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def quiet(function: Any, grid: Any, **options: Any) -> Sweep:
    return sweep(function, grid, progress=False, **options)


def shards(store: Path) -> dict[str, tuple[int, int]]:
    """What tells a shard that was written again: another inode, another time."""
    found = {p.name: p.stat() for p in (store / "shards").glob("*.parquet")}
    return {name: (s.st_ino, s.st_mtime_ns) for name, s in found.items()}


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    names = [str(tmp_path / name) for name in ("one", "two")]
    for seed, name in enumerate(names):
        tiny_pipeline(seed).model.model.save_pretrained(name)
    return names


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []

    def counted(name: str, **options: Any) -> interp.Model:
        seen.append(name)
        return interp.load(name, **options)

    monkeypatch.setattr(interp.sweeps.opened_models, "load", counted)
    return seen


# The frame


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_sweep_is_a_plain_loop(stored: bool, n_jobs: int | None, tmp_path: Path) -> None:
    expected = pd.DataFrame([{"b": b, "a": a, **row} for b, a in product("xy", range(3)) for row in cheap(a, b, 2.0)])
    found = quiet(cheap, GRID, fixed={"scale": 2.0}, store=tmp_path / "s" if stored else None, n_jobs=n_jobs)
    equal(found, expected)
    assert len(found) == 6
    assert found.axes == {"b": ("x", "y"), "a": (0, 1, 2)}
    assert found.fixed == {"scale": 2.0}
    assert repr(found) == "Sweep(6 configurations, 12 rows; b 2, a 3)"
    if stored:
        equal(read(tmp_path / "s"), expected)


@pytest.mark.parametrize("backend", ["threading", "multiprocessing", "loky"])
def test_joblib_says_where_it_runs(backend: str, tmp_path: Path) -> None:
    with joblib.parallel_config(backend=backend, n_jobs=2):
        equal(quiet(cheap, GRID), quiet(cheap, GRID, n_jobs=1))
        pids = quiet(where, {"a": range(4)}, store=tmp_path / "s").to_frame().pid
    assert (os.getpid() in set(pids)) == (backend == "threading")


def test_threads_run_one_at_a_time() -> None:
    inside: list[int] = []

    def alone(a: int) -> dict[str, int]:
        inside.append(a)
        at_once = len(inside)
        torch.linalg.svd(torch.ones(120, 120))
        inside.remove(a)
        return {"at_once": at_once}

    with joblib.parallel_config(backend="threading", n_jobs=4):
        assert set(quiet(alone, {"a": range(24)}).to_frame().at_once) == {1}


def number_or_text(a: int) -> dict[str, Any]:
    return {"x": [1, "one"][a]}


def test_results_of_all_forms_and_with_different_columns() -> None:
    def forms(a: int, pair: Any) -> Any:
        return [
            {"x": 1, "y": None},
            pd.DataFrame({"x": [1.5, 2.5], "more": ["p", "q"]}, index=[7, 9]),
            [],
            [{"x": 3, "y": "text"}],
        ][a]

    frame = quiet(forms, {"a": range(4), "pair": [[1911, 2187], None]}).to_frame()
    assert list(frame.columns) == ["a", "pair", "x", "more", "y"]
    assert list(frame.a) == [0, 0, 1, 1, 1, 1, 3, 3]
    assert frame.pair[0] == "(1911, 2187)"
    assert frame.pair[1] is None
    assert list(frame.x) == [1, 1, 1.5, 2.5, 1.5, 2.5, 3, 3]
    assert frame.more.isna().sum() == 4
    assert frame.y[7] == "text"
    # Numbers in one configuration and text in another stay what they are.
    mixed = quiet(number_or_text, {"a": [0, 1]}).to_frame()
    assert list(mixed.x) == [1, "one"]


def test_columns_keep_their_neighbours() -> None:
    assert merged([["h", "c1", "r1"], ["h", "c1", "c2", "c3", "r1", "r2"]]) == ["h", "c1", "c2", "c3", "r1", "r2"]


def test_numpy_and_lists_become_plain_values() -> None:
    def see(a: Any, c: Any) -> dict[str, str]:
        return {"kinds": f"{type(a).__name__} {type(c).__name__} {c!r}"}

    frame = quiet(see, {"a": np.arange(2), "c": [np.float32(0.5), [1, [2, 3]]]}).to_frame()
    assert list(frame.kinds[:2]) == ["int float 0.5", "int tuple (1, (2, 3))"]


# What is wrong with the asking


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("grid", "options", "words"),
    [
        ({}, {}, "no axis"),
        ([("a", [1])], {}, "dictionary"),
        ({"a": [], "b": ["x"]}, {}, "a: an axis without values"),
        ({"a": [1], "b": "x"}, {}, r"as \['x'\]"),
        ({"a": 3, "b": ["x"]}, {}, r"a=3 must be a list"),
        ({"a": {1, 2}, "b": ["x"]}, {}, "in an order"),
        ({"a": [1], "b": ["x"], "scal": [2.0]}, {}, "scal: cheap takes no such parameter.*mean 'scale'"),
        ({"a": [1], "b": ["x"]}, {"fixed": {"scalle": 2.0}}, "Did you mean 'scale'"),
        ({"a": [1], "b": ["x"]}, {"fixed": {"b": "x"}}, "b: in the grid and in fixed"),
        ({"a": [1]}, {}, "cheap needs b by name"),
        ({"a": [1, 1], "b": ["x"]}, {}, "a=1 is given more than once"),
        ({"a": [1, True], "b": ["x"]}, {}, "a=True is given more than once"),
        ({"a": [float("nan")], "b": ["x"]}, {}, "cannot be kept as JSON"),
        ({"a": [Colour.RED], "b": ["x"]}, {}, "a Colour cannot be kept"),
        ({"a": [{"k": 1}], "b": ["x"]}, {}, "a dict cannot be kept"),
        ({"a": [1], "b": ["x"]}, {"fixed": {"scale": torch.ones(1)}}, "a Tensor cannot be kept"),
        ({"a": [1], "b": ["x"]}, {"fixed": {"model": "pico-t5"}}, "Give it as an axis"),
        ({"a": [1], "b": ["x"]}, {"n_jobs": 0}, "n_jobs=0"),
        ({"a": [1], "b": ["x"]}, {"n_jobs": 1.5}, "whole number"),
        ({"a": [1], "b": ["x"]}, {"store": 3}, "store=3 must be a directory"),
        ({"a": [1], "b": ["x"]}, {"dtype": torch.int64}, "floating-point"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(grid: Any, options: Any, words: str) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=words):
        quiet(cheap, grid, **options)


def test_other_functions_that_cannot_be_run() -> None:
    def by_place(a: int, /) -> dict[str, int]:
        return {"x": a}

    def by_any_name(**values: Any) -> dict[str, int]:
        return {"x": len(values)}

    with pytest.raises(interp.errors.InvalidInput, match="cannot be called"):
        quiet(3, {"a": [1]})
    with pytest.raises(interp.errors.InvalidInput, match="takes no such parameter"):
        quiet(by_place, {"a": [1]})
    assert list(quiet(by_any_name, {"any": [1], "name": [2]}).to_frame().x) == [2]
    with pytest.raises(interp.errors.InvalidInput, match="a model's name"):
        quiet(sizes, {"model": [7], "a": [1]})


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (3, "is a int: return a DataFrame"),
        ([1], "is a list: return"),
        ({"a": 1}, "column a, which is an axis"),
        ({3: 1}, "column 3: name columns by text"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "a column twice"),
        (pd.DataFrame({"x": [1]}, index=pd.Index([1], name="head")), "named index"),
        ({"x": torch.ones(1)}, "cannot be kept as a table"),
        ({}, "no columns"),
    ],
)
def test_a_result_that_is_no_table_names_its_configuration(returned: Any, words: str) -> None:
    def gives(a: int) -> Any:
        return returned if a else {"x": 1}

    with pytest.raises(interp.errors.InvalidInput, match=rf"for a=1\b.*{words}") as caught:
        quiet(gives, {"a": [0, 1]})
    assert '{"a":1}' in "".join(caught.value.__notes__)


# Models


def test_models_are_opened_once_and_run_outermost(folders: list[str], opens: list[str], tmp_path: Path) -> None:
    order: list[tuple[str, int]] = []

    def watched(model: interp.Model, a: int) -> dict[str, Any]:
        order.append((model.name, a))
        return sizes(model, a)

    found = quiet(watched, {"a": range(3), "model": [Path(name) for name in folders]})
    assert sorted(opens) == folders
    assert order == [(name, a) for name in folders for a in range(3)]
    frame = found.to_frame()
    assert list(frame.columns) == ["a", "model", "digest", "a2"]
    assert [*zip(frame.a, frame.model, strict=True)] == [(a, name) for a in range(3) for name in folders]
    assert found.provenance["models"] == dict(zip(frame.model, frame.digest, strict=True))
    assert not interp.sweeps.opened_models._OPEN  # nothing stays open in this process


def test_a_worker_opens_a_model_once(folders: list[str]) -> None:
    frame = quiet(opened_here, {"model": folders[:1], "a": range(12)}, n_jobs=2).to_frame()
    assert os.getpid() not in set(frame.pid)
    assert (frame.groupby("pid").handle.nunique() == 1).all()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_models_of_both_families_in_one_sweep(n_jobs: int, folders: list[str], tmp_path: Path) -> None:
    """A T5, a causal Chronos model and a plain GPT-2, opened by the workers and told apart by their weights."""
    names = [folders[0], str(tmp_path / "causal"), str(tmp_path / "text")]
    tiny_causal_pipeline().model.model.save_pretrained(names[1])
    tiny_gpt2(seed=3).save_pretrained(names[2])
    grid = {"model": names, "head": ["decoder.self.0.1", "decoder.self.1.2"]}
    found = quiet(ablated, grid, store=tmp_path / "s", n_jobs=n_jobs)
    frame = found.to_frame()
    models = {name: interp.load(name) for name in names}
    assert found.provenance["models"] == {name: model.digest for name, model in models.items()}
    assert len(set(found.provenance["models"].values())) == 3
    for row in frame.itertuples():
        assert row.change == ablated(models[str(row.model)], str(row.head))["change"] > 0
        assert row.family == models[str(row.model)].family.name
    assert list(frame.family) == ["T5"] * 2 + ["GPT-2"] * 4
    equal(read(tmp_path / "s"), frame)
    grid["head"].append("decoder.cross.0.1")
    with pytest.raises(interp.errors.UnknownHead, match="decoder-only GPT-2") as caught:
        quiet(ablated, grid, store=tmp_path / "s")
    assert "in the configuration" in "".join(caught.value.__notes__)
    assert "head=decoder.cross.0.1" in "".join(caught.value.__notes__)
    assert set(read(tmp_path / "s").to_frame()["head"]) == {"decoder.self.0.1", "decoder.self.1.2", "decoder.cross.0.1"}


def test_an_open_decoder_alone_in_a_sweep(causal: interp.Model, tmp_path: Path) -> None:
    found = quiet(ablated, {"model": [causal], "head": ["decoder.self.2.0"]}, store=tmp_path / "s")
    assert found.provenance["models"] == {"tiny-causal": causal.digest}
    assert found.to_frame().change[0] == ablated(causal, "decoder.self.2.0")["change"]
    with torch.no_grad():
        causal.module.transformer.h[0].attn.c_attn.bias[0] += 1
    with pytest.raises(interp.errors.WrongStore, match="weights of tiny-causal: stored"):
        quiet(ablated, {"model": [causal], "head": ["decoder.self.2.0"]}, store=tmp_path / "s")


def test_an_open_model_runs_here_only(model: interp.Model, tmp_path: Path) -> None:
    found = quiet(sizes, {"model": [model, "pico-t5"], "a": [1]}, store=tmp_path / "s")
    assert list(found.to_frame().model) == ["tiny", "pico-t5"]
    assert found.provenance["models"]["tiny"] == model.digest
    with pytest.raises(interp.errors.InvalidInput, match="tiny is open in this process and workers run in others"):
        quiet(sizes, {"model": [model], "a": [1, 2]}, n_jobs=2)
    with pytest.raises(interp.errors.InvalidInput, match=r"give dtype=torch\.float32"):
        quiet(sizes, {"model": [model], "a": [1]}, dtype=torch.bfloat16)
    with pytest.raises(interp.errors.InvalidInput, match="more than once"):
        quiet(sizes, {"model": [model, "tiny"], "a": [1]})
    with pytest.raises(interp.errors.UnknownModel):
        quiet(sizes, {"model": ["pico-t6"], "a": [1]})
    with torch.no_grad():
        model.module.shared.weight[3, 3] += 1
    with pytest.raises(interp.errors.WrongStore, match="weights of tiny: stored"):
        quiet(sizes, {"model": [model], "a": [1]}, store=tmp_path / "s")


def test_a_function_must_leave_the_weights(model: interp.Model) -> None:
    def spoils(model: interp.Model, a: int) -> dict[str, int]:
        with torch.no_grad():
            model.module.shared.weight[3, 3] += 1
        return {"x": a}

    with pytest.raises(interp.errors.WrongStore, match="leave them as they are"):
        quiet(spoils, {"model": [model], "a": [1, 2]})


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_weights_that_changed_are_seen(folders: list[str], n_jobs: int, tmp_path: Path) -> None:
    first = quiet(sizes, {"model": folders[:1], "a": range(3)}, store=tmp_path / "s", n_jobs=n_jobs)
    shutil.copytree(folders[1], folders[0], dirs_exist_ok=True)
    before = shards(tmp_path / "s")
    for grid in ({"model": folders[:1], "a": range(3)}, {"model": folders[:1], "a": range(9)}):
        with pytest.raises(interp.errors.WrongStore, match=r"weights of .*one: stored '\w{16}', asked '\w{16}'"):
            quiet(sizes, grid, store=tmp_path / "s", n_jobs=n_jobs)
    assert shards(tmp_path / "s") == before
    # Workers that live on from the first call have the old weights open, and must not use them.
    again = quiet(sizes, {"model": folders[:1], "a": range(3)}, n_jobs=n_jobs)
    assert not set(again.to_frame().digest) & set(first.to_frame().digest)


# Progress


def test_the_bar_counts_configurations_and_names_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "DELAY", 0)
    grid = {
        "models": ["pico-t5"],
        "repetitions": [2],
        "sequence_lengths": [4],
        "batch_size": 4,
        "store": tmp_path / "s",
    }
    models = grid.pop("models")
    probes.induction_sweep(models, seeds=[0, 1], progress=False, **grid)
    assert "run" not in capsys.readouterr().err
    probes.induction_sweep(models, seeds=[0, 1, 2], **grid)
    shown = capsys.readouterr().err
    assert "2/3" in shown
    assert "0/3" not in shown
    assert "pico-t5 repetitions=2 sequence_length=4 seed=2: 100%" in shown
    assert "3/3" in shown


# Stores


def test_a_store_grows_and_runs_nothing_twice(tmp_path: Path) -> None:
    store = tmp_path / "deep" / "s"
    quiet(cheap, {"a": [0, 2], "b": ["x"]}, store=store)
    before = shards(store)
    found = quiet(cheap, {"b": ["y", "x"], "a": [2, 1, 0]}, store=store)
    equal(found, quiet(cheap, {"b": ["y", "x"], "a": [2, 1, 0]}))
    assert before.items() <= shards(store).items()
    assert len(shards(store)) == 6
    # Read back: values in the order in which they were first asked for, axes as at first.
    equal(read(store), quiet(cheap, {"a": [0, 2, 1], "b": ["x", "y"]}))
    assert not list((store / "claims").iterdir())
    assert sorted(p.name for p in store.iterdir()) == ["claims", "shards", "store.json", "store.lock"]


def test_comments_and_layout_are_not_another_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = "def found(a):\n    return {'x': a}\n"
    sources = [source, source.replace("\n    ", "\n    # why\n\n    "), source.replace("'x': a", "'x': a + 0")]
    for i, text in enumerate(sources):
        scope: dict[str, Any] = {"__name__": "made"}
        path = tmp_path / f"made{i}.py"
        path.write_text(text)
        exec(compile(text, str(path), "exec"), scope)
        if i < 2:
            quiet(scope["found"], {"a": [1]}, store=tmp_path / "s")
        else:
            with pytest.raises(
                interp.errors.WrongStore, match=r"source of the function \(hash\): stored '\w+', asked '\w+'"
            ):
                quiet(scope["found"], {"a": [1]}, store=tmp_path / "s")


def test_another_sweep_is_refused_and_each_difference_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "s"
    grid = {"a": [1], "b": ["x"]}
    quiet(cheap, grid, fixed={"scale": 2.0}, store=store)
    before = shards(store)
    cases: list[tuple[Any, Any, dict[str, Any], list[str]]] = [
        (other, grid, {"fixed": {"scale": 2.0}}, ["function: stored 'tests.sweep_functions:cheap', asked", ":other'"]),
        (cheap, grid, {"fixed": {"scale": 3.0}}, ["fixed scale: stored 2.0, asked 3.0"]),
        (cheap, grid, {}, ["fixed scale: stored 2.0, asked 'not given'"]),
        (cheap, {**grid, "scale": [2.0]}, {}, ["axes: stored ['a', 'b'], asked ['a', 'b', 'scale']", "fixed scale"]),
        (
            cheap,
            grid,
            {"fixed": {"scale": 2.0}, "dtype": torch.bfloat16},
            ["dtype: stored 'float32', asked 'bfloat16'"],
        ),
        (other, grid, {"fixed": {"scale": 1.0, "more": 1}}, ["function:", "fixed scale:", "fixed more:"]),
    ]
    for function, asked, options, words in cases:
        with pytest.raises(interp.errors.WrongStore) as caught:
            quiet(function, asked, store=store, **options)
        assert all(word in str(caught.value) for word in words), caught.value
    monkeypatch.setattr("interp.sweeps.work.versions", lambda: {"torch": "1.0"})
    with pytest.raises(
        interp.errors.WrongStore, match=r"version of torch: stored '2.*asked '1\.0'.*version of nnsight"
    ):
        quiet(cheap, grid, fixed={"scale": 2.0}, store=store)
    assert shards(store) == before


@pytest.mark.parametrize("kind", [interp.errors.CannotWrite, interp.errors.WrongStore, interp.errors.LostWorker])
def test_errors_come_back_from_workers_whole(kind: type[Exception]) -> None:
    error = kind("what was asked")
    error.add_note("where")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.__notes__) == (kind, "what was asked", ["where"])


def test_places_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(interp.errors.WrongStore, match="is a file"):
        quiet(cheap, GRID, store=tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("text")
    with pytest.raises(interp.errors.WrongStore, match=r"other things in it \(thesis\.tex\)"):
        quiet(cheap, GRID, store=tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(interp.errors.CannotWrite, match="cannot be written"):
        quiet(cheap, GRID, store=tmp_path / "file" / "below")
    with pytest.raises(interp.errors.CannotWrite, match="cannot be written"):
        quiet(cheap, GRID, store="/proc/sweeps")
    with pytest.raises(interp.errors.MissingFile):
        read(tmp_path / "nowhere")
    with pytest.raises(interp.errors.InvalidInput, match="must be a directory"):
        read(3)
    with pytest.raises(interp.errors.InvalidInput, match=r"functools\.partial"):
        quiet(partial(cheap, scale=2.0), GRID, store=tmp_path / "s")
    equal(quiet(partial(cheap, scale=2.0), GRID), quiet(cheap, GRID, fixed={"scale": 2.0}))


MANIFESTS: list[tuple[Callable[[str], str], type[Exception], str]] = [
    (lambda text: text[:-9], interp.errors.DamagedFile, "not whole"),
    (lambda text: text.replace('"sweep"', '"mosaic"'), interp.errors.DamagedFile, "holds mosaic"),
    (lambda text: text.replace('"version": 1', '"version": 2'), interp.errors.WrongVersion, "version 2"),
    (lambda text: text.replace('"models": {}', '"models": 3'), interp.errors.DamagedFile, "'models' is missing or not"),
    (lambda text: json.dumps({**json.loads(text), "axes": {"a": 3}}), interp.errors.DamagedFile, "'axes' must hold"),
]


@pytest.mark.parametrize(("damage", "error", "words"), MANIFESTS)
def test_a_damaged_manifest(damage: Any, error: type[Exception], words: str, tmp_path: Path) -> None:
    quiet(cheap, GRID, store=tmp_path / "s")
    manifest = tmp_path / "s" / "store.json"
    manifest.write_text(damage(manifest.read_text()))
    for call in (lambda: read(tmp_path / "s"), lambda: quiet(cheap, GRID, store=tmp_path / "s")):
        with pytest.raises(error, match=words):
            call()
    manifest.unlink()
    with pytest.raises(interp.errors.DamagedFile, match="is missing and there are shards"):
        quiet(cheap, GRID, store=tmp_path / "s")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40] ^= 0xFF  # within the first page of values
    path.write_bytes(content)


def without_a_column(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["text"]), path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not parquet"),
    "no metadata": lambda path: pq.write_table(pa.table({"value": [1.0]}), path),
    "of another": lambda path: shutil.copy(next(p for p in path.parent.iterdir() if p != path), path),
    "one byte": flipped,
    "a column less": without_a_column,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_shard_is_named_and_only_it_runs_again(damage: Any, tmp_path: Path) -> None:
    store, calls = tmp_path / "s", tmp_path / "calls"
    calls.touch()
    expected = quiet(logged, GRID, fixed={"log": str(calls)}, store=store)
    path = store / "shards" / f"{key_of({'a': 1, 'b': 'y'})}.parquet"
    damage(path)
    before = shards(store)
    bigger = {"b": ["x", "y"], "a": range(4)}
    with pytest.raises(interp.errors.DamagedFile, match=rf"{path.name}.*b=y a=1.*5 others are whole") as caught:
        quiet(logged, bigger, fixed={"log": str(calls)}, store=store)
    assert "Delete what is damaged and call again" in str(caught.value)
    assert shards(store) == before
    assert len(calls.read_text().split()) == 6  # nothing ran
    with pytest.raises(interp.errors.DamagedFile, match=path.name):
        read(store)
    path.unlink()
    equal(quiet(logged, GRID, fixed={"log": str(calls)}, store=store), expected)
    assert len(calls.read_text().split()) == 7


def test_a_store_is_read_while_it_is_written(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def looks(a: int) -> dict[str, int]:
        now = read(tmp_path / "s")
        seen.append((a, len(now)))
        assert list(now.to_frame().get("a", [])) == list(range(a))
        return {"x": a}

    quiet(looks, {"a": range(4)}, store=tmp_path / "s")
    assert seen == [(a, a) for a in range(4)]


def test_a_shard_of_another_store_is_not_read_in(tmp_path: Path) -> None:
    quiet(cheap, {"a": [1], "b": ["x"]}, store=tmp_path / "s")
    quiet(cheap, {"a": [2], "b": ["x"]}, store=tmp_path / "t")
    (moved,) = (tmp_path / "t" / "shards").iterdir()
    shutil.copy(moved, tmp_path / "s" / "shards")
    with pytest.raises(interp.errors.DamagedFile, match=r"is not of this store: a=2 b=x"):
        read(tmp_path / "s")


def test_what_killed_processes_left_is_cleared(tmp_path: Path) -> None:
    store = tmp_path / "s"
    quiet(cheap, GRID, store=store)
    key = key_of({"a": 0, "b": "x"})
    left = [store / "shards" / f".{key}.parquet.abc", store / "claims" / f"{key}.lock", store / ".store.json.xyz"]
    kept = store / "shards" / ".hidden"
    for path in (*left, kept):
        path.write_text("half")
    quiet(cheap, GRID, store=store)
    assert not any(path.exists() for path in left)
    assert kept.exists()
    # Unless whoever writes it is alive.
    other_key = "0" * 24
    busy = store / "shards" / f".{other_key}.parquet.abc"
    busy.write_text("half")
    with FileLock(store / "claims" / f"{other_key}.lock"):
        quiet(cheap, GRID, store=store)
        assert busy.exists()
    quiet(cheap, GRID, store=store)
    assert not busy.exists()


def test_what_another_process_finished_just_before_the_claim_is_not_run(tmp_path: Path, monkeypatch: Any) -> None:
    real, calls = files.claim, tmp_path / "calls"
    calls.touch()

    @contextmanager
    def late(store: Path, key: str) -> Generator[bool]:
        point = {"a": 1, "b": "x"}
        files.write_shard(store, key_of(point), table_of(cheap(1, "x"), point))
        with real(store, key) as mine:
            yield mine

    monkeypatch.setattr(files, "claim", late)
    found = quiet(logged, {"a": [1], "b": ["x"]}, fixed={"log": str(calls)}, store=tmp_path / "s")
    assert calls.read_text() == ""
    assert len(found.to_frame()) == 2


def test_the_manifest_is_read_and_written_under_its_lock(tmp_path: Path) -> None:
    store = tmp_path / "s"
    quiet(cheap, {"a": [0], "b": ["x"]}, store=store)
    manifest = json.loads((store / "store.json").read_text())
    thread = Thread(target=quiet, args=(cheap, {"a": [1], "b": ["x"]}), kwargs={"store": store})
    with FileLock(store / "store.lock"):
        thread.start()
        time.sleep(0.3)
        assert json.loads((store / "store.json").read_text()) == manifest
        manifest["axes"]["a"].append(2)
        (store / "store.json").write_text(json.dumps(manifest))
    thread.join()
    assert json.loads((store / "store.json").read_text())["axes"]["a"] == [0, 2, 1]


# Properties


VALUES = st.one_of(st.none(), st.integers(-5, 5), st.floats(-1, 1), st.text(max_size=3), st.tuples(st.integers()))


@st.composite
def grids(draw: st.DrawFn) -> dict[str, list[Any]]:
    names = draw(st.lists(st.sampled_from(["model", "a", "b", "c"]), min_size=1, max_size=3, unique=True))
    text = st.text(min_size=1, max_size=3)
    return {n: draw(st.lists(text if n == "model" else VALUES, min_size=1, max_size=3, unique=True)) for n in names}


@given(grids())
def test_keys_are_one_to_one_and_know_no_order(grid: dict[str, list[Any]]) -> None:
    points = configurations(grid)
    assert points == [dict(zip(grid, p, strict=True)) for p in product(*grid.values())]
    keys = [key_of(point) for point in points]
    assert len(set(keys)) == len(keys)
    assert {key_of(p) for p in configurations(dict(reversed(grid.items())))} == set(keys)
    ordered = by_model(points)
    assert sorted(map(repr, ordered)) == sorted(map(repr, points))
    models = [point.get("model") for point in ordered]
    assert sum(a != b for a, b in pairwise(models)) == len(set(models)) - 1


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    return (tmp_path_factory.mktemp("stores") / str(i) for i in range(10**6))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(
        st.tuples(
            st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True),
            st.lists(st.sampled_from([None, "p", 1.5, (1, 2)]), min_size=1, max_size=2, unique=True),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_the_frame_does_not_depend_on_what_was_there_before(calls: list[Any], numbered: Any) -> None:
    store = next(numbered)
    for a, b in calls:
        equal(quiet(varied, {"a": a, "b": b}, store=store), quiet(varied, {"a": a, "b": b}))


# The induction sweep


def test_the_induction_sweep_is_mosaics_in_a_loop() -> None:
    found = probes.induction_sweep("pico-t5", progress=False, vocab_range=(1911, 2187), **RRT)
    frame, model = found.to_frame(), interp.load("pico-t5")
    axes = ["model", "repetitions", "sequence_length", "seed"]
    assert list(found.axes) == axes
    first = "head current_token current_token_stderr token_to_right token_to_right_stderr either lift eos"
    more = "occurrence_sum layer index relative_layer right_sum n_tokens accuracy n_parameters"
    last = [f"{kind}_{i}" for kind in ("current", "right") for i in (1, 2, 3)]
    assert list(frame.columns) == [*axes, *first.split(), *more.split(), *last]
    for (_, n, length, seed), rows in frame.groupby(axes):
        mosaic = probes.induction_mosaic(
            model, repetitions=n, sequence_length=length, seed=seed, batch_size=4, vocab_range=(1911, 2187)
        )
        plain = mosaic.to_frame()
        shared = [name for name in plain.columns if name in rows]
        pd.testing.assert_frame_equal(rows[shared].reset_index(drop=True), plain[shared], check_exact=True)
        assert set(rows.accuracy) == {mosaic.accuracy()}
        assert set(rows.n_tokens) == {mosaic.n_tokens}
        assert set(rows.n_parameters) == {model.n_parameters}
        by: dict[str, Any] = {"current": mosaic.current_by_occurrence, "right": mosaic.right_by_occurrence}
        for kind, values in by.items():
            for i in range(n):
                assert (rows[f"{kind}_{i + 1}"].to_numpy() == values[..., i].ravel()).all()
            assert all(rows[f"{kind}_{i + 1}"].isna().all() for i in range(n, 3))
        assert (rows.right_sum.to_numpy() == by["right"].sum(-1).ravel()).all()
        assert (rows.current_1 == rows.current_token).all()
    assert len(found) == 4
    assert found.provenance["models"] == {"pico-t5": model.digest}
    assert found.fixed == defaults() | {"vocab_range": (1911, 2187), "batch_size": 4}


def test_several_models_and_an_open_one(model: interp.Model) -> None:
    frame = probes.induction_sweep([model, "pico-t5"], progress=False, **RRT).to_frame()
    assert frame.groupby("model")["head"].nunique().to_dict() == {"tiny": 6, "pico-t5": 24}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batchsize": 3}, "batchsize: no parameter of repeated_random_tokens. Did you mean 'batch_size'"),
        ({"repetition": [3]}, "Did you mean 'repetitions'"),
        ({"sequence_length": 10}, r"give sequence_lengths=\[\.\.\.\]"),
        ({"seed": 10}, r"give seeds=\[\.\.\.\]"),
        ({"repetitions": 3}, "repetitions=3 must be a list"),
        ({"repetitions": [0]}, "repetitions=0 must be at least 1"),
        ({"seeds": [-1]}, "seed=-1 must be at least 0"),
        ({"seeds": []}, "seeds: an axis without values"),
        ({"sequence_lengths": [10, 3], "sub_extension": 3}, "sub_extension=3 of a sequence of 3 leaves no token"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"vocab_range": (5, 2)}, "reversed"),
    ],
)
def test_a_stimulus_that_cannot_be_made_opens_no_model(options: Any, words: str, opens: list[str]) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=words):
        probes.induction_sweep("pico-t5", progress=False, **options)
    assert not opens


# Last, because joblib starts its workers anew after an exception, which takes seconds.


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_the_function_raises_goes_through(n_jobs: int, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="by design") as caught:
        quiet(third_fails, {"a": range(3)}, store=tmp_path / "s", n_jobs=n_jobs)
    assert "in the configuration a=2 of a sweep" in "".join(caught.value.__notes__)
    before = shards(tmp_path / "s")
    assert n_jobs == 2 or len(before) == 2
    monkeypatch.setenv("SWEEP_MENDED", "1")
    found = quiet(third_fails, {"a": range(3)}, store=tmp_path / "s")
    assert list(found.to_frame().x) == [0, 1, 2]
    assert before.items() <= shards(tmp_path / "s").items()
