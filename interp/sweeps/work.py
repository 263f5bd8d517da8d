"""What a worker does: one configuration, claimed, run and written, with the model it needs."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from interp.errors import InvalidInput
from interp.models.model import Model
from interp.results.by_head import versions
from interp.sweeps import opened_models as models
from interp.sweeps import store
from interp.sweeps.grid import MODEL, Configuration, canonical, key_of, label
from interp.sweeps.sweep_result import table_of

Outcome = tuple[str, bool, pa.Table | None]
"""A configuration's key, whether it is done, and its table where there is no store."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know besides the configuration. `open_models` stay in this process."""

    function: Callable[..., Any]
    fixed: dict[str, Any]
    store: Path | None
    dtype: torch.dtype
    device: str
    digests: dict[str, str]
    open_models: dict[str, Model] = field(default_factory=dict[str, Model])


def provenance(job: Job, keep: bool) -> dict[str, Any]:
    """Return where the results of a sweep come from.

    Args:
        job: the function and the models' digests.
        keep: whether the results go to a store, which must be able to tell the function again.

    Returns:
        The function by name and source, dtype, versions and digests: what JSON can hold.

    Raises:
        InvalidInput: a partial function is to be kept.
    """
    function = job.function
    if keep and isinstance(function, partial):
        raise InvalidInput("a store cannot tell what a functools.partial holds: give its parameters as fixed=.")
    named = function if hasattr(function, "__qualname__") else type(function)
    return {
        "function": f"{named.__module__}:{named.__qualname__}",
        "source": _source_hash(named),
        "dtype": str(job.dtype).removeprefix("torch."),
        "versions": versions(),
        "models": job.digests,
    }


def _source_hash(function: Any) -> str | None:
    """Hash the source as Python reads it, without comments and layout; None if there is none."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    return sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def run_one(job: Job, point: Configuration) -> Outcome:
    """Run one configuration in this process, unless it is done or another process runs it.

    Args:
        job: the function and its surroundings.
        point: the configuration.

    Returns:
        Its key, whether it is done, and its table where there is no store.
    """
    key = key_of(point)
    with models.ONE_AT_A_TIME:
        if job.store is None:
            return key, True, _result(job, point)
        if store.shard(job.store, key).exists():
            return key, True, None
        with store.claim(job.store, key) as mine:
            if not mine:
                return key, False, None
            # Between the look above and the claim another process may have finished it.
            if not store.shard(job.store, key).exists():
                store.write_shard(job.store, key, _result(job, point))
            return key, True, None


def _result(job: Job, point: Configuration) -> pa.Table:
    try:
        if MODEL in point:
            name, digest = point[MODEL], job.digests[point[MODEL]]
            model = job.open_models.get(name) or models.opened(name, job.dtype, job.device, digest)
            models.check(model, digest)
            table = table_of(job.function(**{**point, MODEL: model}, **job.fixed), point)
            # What the function did to the weights is not what the store says it is of.
            models.check(model, digest)
            return table
        return table_of(job.function(**point, **job.fixed), point)
    except Exception as error:
        error.add_note(f"in the configuration {label(point)} of a sweep: {canonical(point)}")
        raise
