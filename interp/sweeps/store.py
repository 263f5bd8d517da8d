"""A directory that holds a sweep: a manifest, one Parquet file a configuration, and claims.

    store.json            what the sweep is: function, parameters, axes, versions, weights
    shards/<key>.parquet  the result of one configuration, written whole or not at all
    claims/<key>.lock     held by the process that runs it; the system frees it when that one dies

Who holds the claim of a configuration is the only one to write its shard, and looks first whether it
is there. So any number of processes may share a store, and any of them may be killed at any moment.
"""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from interp.errors import CannotWrite, DamagedFile, WrongStore
from interp.results.files import load_json, write_whole
from interp.sweeps.grid import Configuration, canonical, key_of, label, thaw

KIND = "sweep"
VERSION = 1
MANIFEST = "store.json"
LOCK = "store.lock"
PARTS = {"function": str, "fixed": dict, "axes": dict, "versions": dict, "models": dict, "dtype": str}


def open_store(store: Path, manifest: dict[str, Any]) -> None:
    """Make a store, or see that the one which is there is of the same sweep, and extend it.

    Args:
        store: the directory.
        asked: the manifest that a new store would get; axes and models may be further ones.

    Raises:
        WrongStore: a file, a directory that is no store, or a store of another sweep.
        DamagedFile: a manifest that is not whole, or shards without one.
        WrongVersion: a store in another version of the form.
        CannotWrite: the directory cannot be made or written.
    """
    if store.exists() and not store.is_dir():
        raise WrongStore(f"store={store} is a file: give a directory, new or of an earlier sweep.")
    try:
        store.mkdir(parents=True, exist_ok=True)
        _check_contents(store)
        # Two calls may start together: one makes the manifest, the other finds it.
        with FileLock(store / LOCK):
            for left in store.glob(f".{MANIFEST}.*"):
                left.unlink(missing_ok=True)
            whole = manifest
            if (store / MANIFEST).exists():
                stored = read_manifest(store)
                _check_same(store, stored, manifest)
                whole = _extended(stored, manifest)
                if canonical(whole) == canonical(stored):
                    whole = None
            else:
                _check_contents(store)
            if whole is not None:
                content = {"kind": KIND, "version": VERSION, **whole}
                write_whole(store / MANIFEST, (json.dumps(content, allow_nan=False, indent=1) + "\n").encode())
            for part in ("shards", "claims"):
                (store / part).mkdir(exist_ok=True)
    except CannotWrite:
        raise
    except OSError as error:
        raise CannotWrite(f"store={store} cannot be written: {error.strerror or error}.") from error


def _check_contents(store: Path) -> None:
    if (store / MANIFEST).exists():
        return
    contents = sorted(path.name for path in store.iterdir())
    # What a process that was killed while it made the store leaves behind.
    foreign = [
        name for name in contents if name not in (LOCK, "shards", "claims") and not name.startswith(f".{MANIFEST}.")
    ]
    if foreign:
        raise WrongStore(
            f"store={store} is a directory with other things in it ({', '.join(foreign[:3])}) and no {MANIFEST}: give "
            "a new directory, an empty one, or one of an earlier sweep."
        )
    if any((store / "shards").glob("*.parquet")):
        raise DamagedFile(
            f"{store / MANIFEST} is missing and there are shards: put it back, or give another directory."
        )


def read_manifest(store: Path) -> dict[str, Any]:
    """Read the manifest of a store.

    Raises:
        DamagedFile: not whole.
        WrongVersion: in another version of the form.
        MissingFile: there is none.
    """
    content = load_json(store / MANIFEST, KIND, VERSION)
    for part, kind in PARTS.items():
        if not isinstance(content.get(part), kind):
            raise DamagedFile(f"{store / MANIFEST}: {part!r} is missing or not what it should be. Put the file back.")
    if not all(isinstance(values, list) for values in content["axes"].values()):
        raise DamagedFile(f"{store / MANIFEST}: 'axes' must hold a list of values for each axis. Put the file back.")
    return {**{part: content[part] for part in PARTS}, "source": content.get("source")}


def _check_same(store: Path, stored: dict[str, Any], requested: dict[str, Any]) -> None:
    pairs = [(part, stored[part], requested[part]) for part in ("function", "dtype")]
    if stored["function"] == requested["function"]:
        pairs.append(("source of the function (hash)", stored["source"], requested["source"]))
    pairs.append(("axes", sorted(stored["axes"]), sorted(requested["axes"])))
    for part, title in (("fixed", "fixed "), ("versions", "version of ")):
        names = dict.fromkeys([*stored[part], *requested[part]])
        absent = "not given"
        pairs += [
            (f"{title}{name}", stored[part].get(name, absent), requested[part].get(name, absent)) for name in names
        ]
    for name in requested["models"]:
        pairs.append(
            (f"weights of {name}", stored["models"].get(name, requested["models"][name]), requested["models"][name])
        )
    differences = [f"{name}: stored {a!r}, asked {b!r}" for name, a, b in pairs if canonical(a) != canonical(b)]
    if differences:
        raise WrongStore(
            f"store={store} is of another sweep. {'; '.join(differences)}. Give another directory for this one."
        )


def _extended(stored: dict[str, Any], requested: dict[str, Any]) -> dict[str, Any]:
    axes = {name: list(values) for name, values in stored["axes"].items()}
    for name, values in axes.items():
        known = {canonical(value) for value in values}
        values += [value for value in requested["axes"][name] if canonical(value) not in known]
    return {**stored, "axes": axes, "models": {**stored["models"], **requested["models"]}}


def shard(store: Path, key: str) -> Path:
    """Return the path of a configuration's result."""
    return store / "shards" / f"{key}.parquet"


@contextmanager
def claim(store: Path, key: str) -> Generator[bool]:
    """Hold a configuration for this process, if no other holds it.

    Args:
        store: the directory.
        key: of the configuration.

    Yields:
        Whether it is held. At the end it is given back.

    Raises:
        CannotWrite: the claim cannot be made.
    """
    path = store / "claims" / f"{key}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        yield True
    finally:
        # Whoever takes a claim looks for the shard first, so a claim without its file hurts nobody.
        if shard(store, key).exists():
            with suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()


def write_shard(store: Path, key: str, table: pa.Table) -> None:
    """Write the result of a configuration, whole or not at all; only who holds its claim may.

    Raises:
        CannotWrite: the disk is full, a limit was met, or the directory cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    write_whole(shard(store, key), sink.getvalue().to_pybytes())


def read_shard(store: Path, key: str) -> tuple[Configuration, pa.Table]:
    """Read the result of a configuration, checked.

    Raises:
        DamagedFile: not a whole Parquet file, or not of this configuration.
    """
    path = shard(store, key)
    try:
        # From memory, so that no file stays open or mapped while others replace it.
        table = pq.read_table(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
        point, columns = configuration(table), json.loads(table.schema.metadata[b"columns"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise DamagedFile(f"{path} is not whole: {str(error).splitlines()[0] if str(error) else error!r}") from None
    if key_of(point) != key:
        raise DamagedFile(f"{path} is of another configuration: {label(point)}")
    if columns != table.column_names:
        raise DamagedFile(
            f"{path} should have the columns {', '.join(columns)}; it has {', '.join(table.column_names)}"
        )
    return point, table


def configuration(table: pa.Table) -> Configuration:
    """Return the configuration that a table says it is of."""
    metadata = cast(dict[bytes, bytes], table.schema.metadata)
    return {name: thaw(value) for name, value in json.loads(metadata[b"configuration"]).items()}


def read_shards(store: Path, points: Mapping[str, Configuration | None]) -> dict[str, pa.Table]:
    """Read the results of several configurations, of those that are there.

    Args:
        store: the directory.
        points: configurations by key; None where only the key is known.

    Returns:
        Tables by key.

    Raises:
        DamagedFile: one or several are not whole; says how many others are.
    """
    tables: dict[str, pa.Table] = {}
    damaged: list[str] = []
    for key, point in points.items():
        if shard(store, key).exists():
            try:
                tables[key] = read_shard(store, key)[1]
            except DamagedFile as error:
                damaged.append(f"{error} ({label(point)})" if point else str(error))
    if damaged:
        more = f" So are {len(damaged) - 3} more." if len(damaged) > 3 else ""
        raise DamagedFile(
            f"{'; '.join(damaged[:3])}.{more} {len(tables)} others are whole. Delete what is damaged and call "
            "again: only that is run."
        )
    return tables


def tidy(store: Path) -> None:
    """Remove what killed processes left half written; what others are at work on stays."""
    left = [(path, path.name.removeprefix(".").split(".")[0]) for path in (store / "shards").glob(".*.parquet.*")]
    left += [(path, path.stem) for path in (store / "claims").glob("*.lock") if shard(store, path.stem).exists()]
    for path, key in left:
        with claim(store, key) as mine:
            if mine:
                path.unlink(missing_ok=True)


def keys_in(store: Path) -> list[str]:
    """Return the keys of all shards that are in a store now."""
    return sorted(path.stem for path in (store / "shards").glob("*.parquet"))
