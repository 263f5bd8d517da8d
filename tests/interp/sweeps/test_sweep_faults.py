"""Sweeps whose processes are killed, whose disk fills up, and that share a store: nothing is lost or torn.

Children are forked from a server that has imported everything, so that a start costs milliseconds and
a kill can fall on any part of a run: opening, claiming, running, writing.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest

import interp
from interp.sweeps import read, sweep
from interp.sweeps.grid import key_of
from tests import sweep_functions as functions
from tests.interp.sweeps.test_sweeps import equal, shards

GRID: dict[str, Any] = {
    "repetitions": [1, 2, 3, 4],
    "sequence_lengths": [2, 3, 4, 5],
    "seeds": range(20),
    "batch_size": 4,
}
KILLS = pytest.mark.parametrize("kills", [12, pytest.param(50, marks=pytest.mark.long)])
PATIENCE = 60.0


@pytest.fixture(scope="module")
def children() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.sweep_functions"])
    return context


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.touch()
    return path


def runs(log: Path) -> list[tuple[int, int]]:
    """What ran and where: value and process."""
    return [(int(a), int(pid)) for a, pid in (line.split() for line in log.read_text().splitlines())]


def wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.001)


def finish(process: Any) -> None:
    process.join(PATIENCE)
    assert process.exitcode == 0


def kill_often(start: Callable[[], Any], store: Path, kills: int, early: int, late: float, tears: int = 0) -> None:
    """Start and kill so many times: `early` times within 0.15 s, else up to `late` seconds after new shards.

    After each kill every shard must be whole, and those from before the same files. Goes on, up to 50 kills, until
    `tears` times something was left half written.
    """
    chance, before, torn = random.Random(0), {}, 0
    for i in range(50):
        if i >= kills and torn >= tears:
            break
        process = start()
        if i < early:
            time.sleep(chance.uniform(0, 0.15))
        else:
            more = len(before) + chance.randint(1, 2)
            folder = store / "shards"
            wait(lambda more=more, folder=folder: folder.exists() and len(list(folder.glob("*.parquet"))) >= more)
            time.sleep(chance.uniform(0, late))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was done before it was killed: make the grid larger"
        if (store / "store.json").exists():
            assert len(read(store)) == len(shards(store))
            assert before.items() <= shards(store).items()
            before = shards(store)
            torn += any((store / "shards").glob(".*"))
    assert torn >= tears, "no kill fell on a write"


@KILLS
def test_kills_of_an_induction_sweep_change_nothing(children: Any, tmp_path: Path, kills: int) -> None:
    grid = {**GRID, "seeds": range(kills * 2 // 5)}
    total = 16 * len(grid["seeds"])

    def start(store: Path) -> Any:
        process = children.Process(target=functions.run_induction, args=({**grid, "store": store},))
        process.start()
        return process

    calm, store = tmp_path / "calm", tmp_path / "killed"
    reference = start(calm)
    kill_often(lambda: start(store), store, kills, early=kills // 5, late=0.02)
    before = shards(store)
    assert kills * 4 // 5 <= len(before) < total
    finish(start(store))
    finish(reference)
    equal(read(store), read(calm))
    assert len(read(store)) == total
    assert before.items() <= shards(store).items()


@KILLS
def test_kills_where_writing_dominates(children: Any, tmp_path: Path, log: Path, kills: int) -> None:
    options = {"fixed": {"log": str(log)}, "store": tmp_path / "s"}
    grid = {"a": range(400)}

    def start() -> Any:
        process = children.Process(target=functions.run, args=(functions.bulky, grid, options))
        process.start()
        return process

    kill_often(start, tmp_path / "s", kills, early=0, late=0.006, tears=1)
    before = shards(tmp_path / "s")
    n_before = len(runs(log))
    found = sweep(functions.bulky, grid, progress=False, **options)
    assert before.items() <= shards(tmp_path / "s").items()
    assert len(runs(log)) - n_before == 400 - len(before)
    equal(found, sweep(functions.bulky, grid, progress=False, fixed={"log": os.devnull}))
    assert {path.suffix for path in (tmp_path / "s" / "shards").iterdir()} == {".parquet"}
    assert not list((tmp_path / "s" / "claims").iterdir())


def test_two_processes_share_the_work(children: Any, tmp_path: Path, log: Path) -> None:
    options = {"fixed": {"log": str(log)}, "store": tmp_path / "s"}
    both = [children.Process(target=functions.run, args=(functions.slow, {"a": range(60)}, options)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        finish(process)
    assert sorted(a for a, _ in runs(log)) == list(range(60))
    share = Counter(pid for _, pid in runs(log))
    assert set(share) == {process.pid for process in both}
    assert min(share.values()) >= 10
    equal(read(tmp_path / "s"), sweep(functions.slow, {"a": range(60)}, fixed={"log": os.devnull}, progress=False))


def test_stores_are_made_and_extended_by_several_at_once(children: Any, tmp_path: Path, log: Path) -> None:
    for i in range(8):
        options = {"fixed": {"log": str(log), "seconds": 0.0}, "store": tmp_path / str(i)}
        grids = [{"a": [0, j]} for j in range(1, 5)]
        started = [children.Process(target=functions.run, args=(functions.slow, grid, options)) for grid in grids]
        for process in started:
            process.start()
        for process in started:
            finish(process)
        found = read(tmp_path / str(i))
        assert sorted(found.axes["a"]) == [0, 1, 2, 3, 4]
        assert len(found) == 5
    assert len(runs(log)) == 8 * 5


def test_what_a_dead_process_had_claimed_is_taken_over(children: Any, tmp_path: Path, log: Path) -> None:
    options = {"fixed": {"log": str(log), "until": str(tmp_path / "go")}, "store": tmp_path / "s"}
    pair = [children.Process(target=functions.run, args=(functions.hangs, {"a": range(5)}, options)) for _ in range(2)]
    pair[0].start()
    wait(lambda: runs(log))
    pair[1].start()
    wait(lambda: len(shards(tmp_path / "s")) == 4)
    time.sleep(0.3)
    assert pair[1].is_alive()  # it waits for what the first one holds
    assert [a for a, _ in runs(log)] == [0, 1, 2, 3, 4]
    (tmp_path / "go").touch()
    os.kill(pair[0].pid, signal.SIGSTOP)  # it cannot finish now
    pair[0].kill()
    finish(pair[1])
    assert len(read(tmp_path / "s")) == 5
    assert Counter(a for a, _ in runs(log))[0] in (1, 2)


def test_a_killed_parent_leaves_workers_that_do_no_harm(children: Any, tmp_path: Path, log: Path) -> None:
    grid, fixed = {"a": range(40)}, {"log": str(log), "seconds": 0.1}
    options = {"fixed": fixed, "store": tmp_path / "s"}
    parent = children.Process(target=functions.run, args=(functions.slow, grid, {**options, "n_jobs": 2}))
    parent.start()
    wait(lambda: len(shards(tmp_path / "s")) >= 5 if (tmp_path / "s").exists() else False)
    workers = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.join()
    before = shards(tmp_path / "s")
    try:
        found = sweep(functions.slow, grid, progress=False, **options)
    finally:
        for worker in workers:  # they would idle for five minutes
            with suppress(psutil.NoSuchProcess):
                worker.kill()
    assert before.items() <= shards(tmp_path / "s").items()
    assert before.keys() < shards(tmp_path / "s").keys()
    assert sorted(a for a, _ in runs(log)) == list(range(40))  # workers that live on hold their claims
    assert list(found.to_frame().square) == [a * a for a in range(40)]
    assert {pid for _, pid in runs(log)} > {os.getpid()}


def test_a_lost_worker_is_a_typed_error_and_the_rest_is_kept(tmp_path: Path, log: Path) -> None:
    grid, fixed = {"a": range(12)}, {"log": str(log), "unless": str(tmp_path / "mended")}
    with pytest.raises(
        interp.errors.LostWorker, match=r"worker process was lost.*\d+ of 12 configurations are in .*calling"
    ) as e:
        sweep(functions.dies, grid, fixed=fixed, store=tmp_path / "s", n_jobs=2, progress=False)
    before = shards(tmp_path / "s")
    assert f"{len(before)} of 12" in str(e.value)
    assert len(before) >= 1
    (tmp_path / "mended").touch()
    found = sweep(functions.dies, grid, fixed=fixed, store=tmp_path / "s", progress=False)
    assert list(found.to_frame().square) == [a * a for a in range(12)]
    assert before.items() <= shards(tmp_path / "s").items()


def test_dask_goes_on_when_a_worker_is_killed(children: Any, tmp_path: Path, log: Path) -> None:
    distributed = pytest.importorskip("distributed")
    from dask import config

    grid, fixed = {"a": range(60)}, {"log": str(log), "seconds": 0.05}

    def kill_one() -> None:
        wait(lambda: len(runs(log)) >= 12)
        os.kill(runs(log)[-1][1], signal.SIGKILL)

    with (
        # Forked from the same server, so that workers need not import everything anew.
        config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        distributed.LocalCluster(2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        from threading import Thread

        killer = Thread(target=kill_one)
        killer.start()
        found = sweep(functions.slow, grid, fixed=fixed, store=tmp_path / "s", progress=False)
        killer.join()
    equal(found, sweep(functions.slow, grid, fixed={**fixed, "log": os.devnull, "seconds": 0.0}, progress=False))
    assert os.getpid() not in {pid for _, pid in runs(log)}
    assert len({pid for _, pid in runs(log)}) >= 2
    assert len(runs(log)) in (60, 61)  # only what was running when it was killed ran again


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk may be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    with suppress(OSError):
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk(small_disk: Path, log: Path) -> None:
    options: dict[str, Any] = {"fixed": {"log": str(log)}, "store": small_disk / "s", "progress": False}
    with pytest.raises(
        interp.errors.CannotWrite, match=r"No space left.*2 of 6 configurations are in .*calling again goes on"
    ):
        sweep(functions.bulky, {"a": range(6)}, **options)
    before = shards(small_disk / "s")
    assert len(before) == 2
    assert not list((small_disk / "s" / "shards").glob(".*"))
    assert len(read(small_disk / "s")) == 2
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    found = sweep(functions.bulky, {"a": range(6)}, **options)
    equal(found, sweep(functions.bulky, {"a": range(6)}, fixed={"log": os.devnull}, progress=False))
    assert before.items() <= shards(small_disk / "s").items()
    assert [a for a, _ in runs(log)] == [0, 1, 2, 2, 3, 4, 5]


def test_a_limit_on_the_size_of_files(children: Any, tmp_path: Path, log: Path) -> None:
    options: dict[str, Any] = {"fixed": {"log": os.devnull}, "store": tmp_path / "s"}
    functions.run(functions.bulky, {"a": [0, 1], "rows": [10]}, options)
    grid = {"a": [0, 1, 2], "rows": [10, 5000]}
    error = tmp_path / "error"
    process = children.Process(target=functions.run, args=(functions.bulky, grid, options, str(error), 60_000))
    process.start()
    finish(process)
    text = error.read_text()
    assert text.startswith("CannotWrite: ")
    assert "File too large" in text
    before = shards(tmp_path / "s")
    assert len(before) == 2
    assert f"2 of 6 configurations are in {tmp_path / 's'}; calling again goes on" in text
    assert f"{key_of({'a': 0, 'rows': 5000})}.parquet" not in before
    assert not list((tmp_path / "s" / "shards").glob(".*"))
    found = sweep(functions.bulky, grid, progress=False, **options)
    equal(found, sweep(functions.bulky, grid, fixed={"log": os.devnull}, progress=False))
    assert before.items() <= shards(tmp_path / "s").items()
