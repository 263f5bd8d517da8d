"""Many runs of one function: anywhere joblib runs, shown, stored, and resumed after anything.

1. The grid is held against the function, the models' weights against the store.
2. What is in the store is read; the rest is handed to joblib, the model outermost.
3. A worker claims a configuration, runs it and writes its shard; what another process has claimed is
   put off, and taken over if that process dies.
4. The frame is put together in the grid's order, whatever order things ran in.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import joblib
import pyarrow as pa
import torch
from joblib.parallel import get_active_backend

from interp.errors import CannotWrite, DamagedFile, InvalidInput, LostWorker
from interp.models.model import Model
from interp.output.progress import late_bar
from interp.sweeps import opened_models as models
from interp.sweeps import store as files
from interp.sweeps.grid import (
    MODEL,
    Configuration,
    Grid,
    by_model,
    canonical,
    checked,
    configurations,
    key_of,
    label,
    model_name,
    thaw,
)
from interp.sweeps.sweep_result import Sweep
from interp.sweeps.work import Job, Outcome, provenance, run_one
from interp.validate import whole


def sweep(
    function: Callable[..., Any],
    grid: Grid,
    *,
    fixed: Mapping[str, Any] | None = None,
    store: str | Path | None = None,
    n_jobs: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Sweep:
    """Run a function over a grid: in this process, on all cores, or wherever joblib is told to.

    Runs go through `joblib.Parallel`, so `with joblib.parallel_config(backend="dask"):` sends them to
    a cluster. With a store every result is kept as soon as it is there: a call that was
    interrupted, or a grid with further values, runs only what is missing, and several processes may
    work on one store at once.

    Args:
        function: called with one value of each axis and the fixed parameters, all by name; returns a
            DataFrame, a result such as `interp.score_heads` gives, a mapping (one row) or a list of mappings.
        grid: values by axis, which JSON can hold. Models on an axis `model` are given by name or
            directory and opened once a worker; one that is open already may be given where the
            sweep runs in this process.
        fixed: further parameters that do not vary.
        store: a directory that all workers see, new or of an earlier call; None keeps results in
            memory. A store knows the function by its name and source, not what it closes over or
            calls: give what may change as `fixed`.
        n_jobs: processes; -1 is one a core. None means what `joblib.parallel_config` says, by
            default this process.
        dtype: of the weights of models that are opened here.
        device: where these run.

    Returns:
        The results of the whole grid.

    Raises:
        InvalidInput: a grid, parameters or a result that cannot be what was meant.
        WrongStore: the store is of another sweep, or weights changed.
        DamagedFile: a shard of this grid in the store is not whole.
        CannotWrite: the disk is full, or the store cannot be written.
        LostWorker: a worker process died.

    What the function itself raises goes through, with a note that names the configuration.
    """
    axes, constants = checked(function, grid, fixed)
    here = _in_this_process(n_jobs)
    _check_settings(store, dtype, axes, here)
    points = {key_of(point): point for point in configurations(axes)}
    job = Job(function, constants, None if store is None else Path(store).absolute(), dtype, str(device), {})
    try:
        job = _with_models(job, axes, here)
        source = provenance(job, keep=store is not None)
        if job.store is not None:
            named = {name: [model_name(value) for value in values] for name, values in axes.items()}
            files.open_store(job.store, {**source, "fixed": constants, "axes": named})
            files.tidy(job.store)
        tables = {} if job.store is None else files.read_shards(job.store, points)
        with late_bar(total=len(points), initial=len(tables), progress=progress, unit="run", leave=True) as bar:
            _run_all(job, {key: point for key, point in points.items() if key not in tables}, n_jobs, tables, bar)
    finally:
        models.close()
    if job.store is not None:
        tables |= files.read_shards(job.store, {key: point for key, point in points.items() if key not in tables})
    shown = {name: tuple(model_name(value) for value in values) for name, values in axes.items()}
    return Sweep(shown, constants, source, tuple(points.values()), tuple(tables[key] for key in points))


def read(store: str | Path) -> Sweep:
    """Read what is in a store now, be it finished, interrupted or still being written.

    Args:
        store: the directory.

    Returns:
        The results that are there, in the order in which values were first asked for.

    Raises:
        MissingFile: there is no store.
        DamagedFile: the manifest or a shard is not whole, or of another store.
        WrongVersion: a store in another version of the form.
    """
    if not isinstance(cast(Any, store), str | Path):
        raise InvalidInput(f"store={store!r} must be a directory.")
    directory = Path(store)
    # Shards first: the manifest that is read after them knows all their values.
    keys = files.keys_in(directory)
    manifest = files.read_manifest(directory)
    shards = files.read_shards(directory, dict.fromkeys(keys, None))
    axes = {name: tuple(thaw(value) for value in values) for name, values in manifest["axes"].items()}
    place = {name: {canonical(value): i for i, value in enumerate(values)} for name, values in axes.items()}
    tables: list[tuple[list[int], Configuration, pa.Table]] = []
    for key, table in shards.items():
        point = files.configuration(table)
        try:
            at = [place[name][canonical(point[name])] for name in axes]
        except KeyError:
            raise DamagedFile(f"{files.shard(directory, key)} is not of this store: {label(point)}") from None
        tables.append((at, {name: point[name] for name in axes}, table))
    tables.sort(key=itemgetter(0))
    source = {part: manifest[part] for part in ("function", "source", "dtype", "versions", "models")}
    fixed = {name: thaw(value) for name, value in manifest["fixed"].items()}
    return Sweep(axes, fixed, source, tuple(point for _, point, _ in tables), tuple(table for _, _, table in tables))


def _in_this_process(n_jobs: int | None) -> bool:
    if n_jobs is not None and whole("n_jobs", n_jobs, -(2**31)) == 0:
        raise InvalidInput("n_jobs=0 would run nothing: give 1 for this process, -1 for all cores, or a number.")
    backend, _ = get_active_backend()
    return joblib.effective_n_jobs(cast(int, n_jobs)) == 1 or bool(getattr(backend, "supports_sharedmem", False))


def _check_settings(store: Any, dtype: Any, axes: dict[str, tuple[Any, ...]], here: bool) -> None:
    if not (store is None or isinstance(store, Path) or (isinstance(store, str) and store)):
        raise InvalidInput(f"store={store!r} must be a directory, or None.")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InvalidInput(f"dtype={dtype!r} must be a floating-point torch.dtype, as torch.bfloat16.")
    for model in (value for value in axes.get(MODEL, ()) if isinstance(value, Model)):
        if not here:
            raise InvalidInput(
                f"{model.name} is open in this process and workers run in others: give its name or its directory."
            )
        if model.dtype != dtype:
            raise InvalidInput(f"{model.name} is open in {model.dtype} and dtype={dtype}: give dtype={model.dtype}.")


def _with_models(job: Job, axes: dict[str, tuple[Any, ...]], here: bool) -> Job:
    """Note the weights of all models before anything runs."""
    values = axes.get(MODEL, ())
    open_models = {value.name: value for value in values if isinstance(value, Model)}
    digests: dict[str, str] = {}
    # The last first, so that the first to be run are those that stay open here.
    for name in reversed([model_name(value) for value in values]):
        # Workers have the device to themselves; the weights' digest is the same on any.
        where = job.device if here else "cpu"
        digests[name] = (open_models.get(name) or models.opened(name, job.dtype, where)).digest
        if not here:
            models.close()
    ordered = {model_name(value): digests[model_name(value)] for value in values}
    return Job(job.function, job.fixed, job.store, job.dtype, job.device, ordered, open_models)


def _run_all(
    job: Job, waiting: dict[str, Configuration], n_jobs: int | None, tables: dict[str, pa.Table], bar: Any
) -> None:
    total, pause = len(waiting) + len(tables), 0.05
    try:
        while waiting:
            before = len(waiting)
            for key, ran, table in _outcomes(job, list(waiting.values()), n_jobs, bar):
                if ran:
                    point = waiting.pop(key)
                    if table is not None:
                        tables[key] = table
                    bar.set_description_str(label(point), refresh=False)
                    bar.update()
            if waiting:
                # Another process is at work on these: see again whether they are there, or it is gone.
                bar.set_description_str(f"another process runs {label(next(iter(waiting.values())))}")
                pause = 0.05 if len(waiting) < before else min(2 * pause, 1.0)
                time.sleep(pause)
    except CannotWrite as error:
        raise CannotWrite(f"{error} {_kept(job, waiting, total)}") from error
    except Exception as error:
        if not _is_lost_worker(error):
            raise
        lines = f"{error}\n{error.__cause__ or ''}".strip('\n" ').splitlines() or [type(error).__name__]
        what = " ".join(dict.fromkeys((lines[0], lines[-1])))
        raise LostWorker(f"a worker process was lost: {what} {_kept(job, waiting, total)}") from error


def _kept(job: Job, waiting: dict[str, Configuration], total: int) -> str:
    if job.store is None:
        return "Nothing is kept: give a store, and a further call goes on from what was done."
    missing = sum(not files.shard(job.store, key).exists() for key in waiting)
    return f"{total - missing} of {total} configurations are in {job.store}; calling again goes on from there."


def _is_lost_worker(error: Exception) -> bool:
    # Dask gives up on a task whose workers died several times; it is no dependency of ours.
    dask = sys.modules.get("distributed")
    return isinstance(error, BrokenProcessPool) or (dask is not None and isinstance(error, dask.KilledWorker))


def _outcomes(job: Job, points: list[Configuration], n_jobs: int | None, bar: Any) -> Iterable[Outcome]:
    if joblib.effective_n_jobs(cast(int, n_jobs)) == 1:
        return _one_by_one(job, points, bar)
    backend, _ = get_active_backend()
    # Ray's and multiprocessing's backends give results at the end only.
    streams = bool(getattr(backend, "supports_return_generator", False))
    parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered" if streams else "list")
    tasks = (joblib.delayed(run_one)(job, point) for point in by_model(points))
    return cast(Iterable[Outcome], parallel(tasks))


def _one_by_one(job: Job, points: list[Configuration], bar: Any) -> Iterator[Outcome]:
    for point in by_model(points):
        bar.set_description_str(label(point))
        yield run_one(job, point)
