"""Results: frozen values with named fields, which print briefly, turn into tables, and go to files and back.

1. A result class is a frozen dataclass that derives from `Result` and names its `KIND`. Its fields hold arrays,
   numbers, texts, addresses, frames, dates (a pandas index), other results, and tuples and dictionaries of these.
2. `save` writes JSON, or safetensors for classes that are `LARGE` and for paths that end in `.safetensors`. `read`
   finds the class by the kind that the file names, and makes the result again.

No file holds code, and files are written whole or not at all.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import fields
from html import escape
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from interp.arguments import checked
from interp.errors import DamagedFile, InterpError, MissingFile, WrongVersion
from interp.inputs.dates import index_of_plain, index_to_plain
from interp.names import AttentionLayer, Head, Site
from interp.results.files import write_bytes, write_text
from interp.results.frame import Frame

Floats = NDArray[np.float64]

_WIDTH, _ROWS = 110, 8
"""The size of the table that a result prints: characters and rows."""

_PACKAGES = ("probes", "circuits")
"""The packages above this one, whose classes `read` has to know."""

_ADDRESSES: dict[str, Any] = {"head": Head, "site": Site, "layer": AttentionLayer}
"""Addresses in files, by the key that marks each."""


class Result:
    """What all results share: read-only arrays, a short text, a table, `save` and `load`."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = 1
    LARGE: ClassVar[bool] = False
    _kinds: ClassVar[dict[str, type["Result"]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._kinds[cls.KIND] = cls

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, frozen(value))
            elif isinstance(value, dict):
                object.__setattr__(self, name, _frozen_dict(cast(dict[Any, Any], value)))
            elif isinstance(value, pd.DataFrame):
                object.__setattr__(self, name, value.copy())

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy table, the columns that answer the question first."""
        raise NotImplementedError

    def _shown(self) -> pd.DataFrame:
        """Return the rows of the table that a short text begins with."""
        return self.to_frame()

    def _title(self) -> str:
        """Return one line: what this is, of which model, on which stimulus."""
        source: dict[str, Any] = getattr(self, "provenance", {})
        stimulus = source.get("stimulus", {})
        settings = [f"{k}={v}" for k, v in stimulus.items() if k != "name" and isinstance(v, int | float | str)]
        text = f"{type(self).__name__} of {source.get('model', 'a model')}"
        text = f"{text}, {stimulus['name']}" if "name" in stimulus else text
        return _cut(f"{text} ({', '.join(settings)})" if settings else text)

    def __repr__(self) -> str:
        return f"{self._title()}\n{_table(self._shown())}"

    def _repr_html_(self) -> str:
        table = self._shown().head(20).to_html(index=False, border=0, float_format="{:.3g}".format)
        return f"<p><b>{escape(self._title())}</b></p>{table}"

    def save(self, path: str | Path) -> Path:
        """Write the result to a file, whole or not at all.

        Args:
            path: the file; `.safetensors` and results of large arrays give safetensors, anything else JSON.

        Raises:
            InvalidInput: the directory does not exist, or the path is one.
            CannotWrite: the disk is full, or the directory cannot be written.
        """
        head = {"kind": self.KIND, "version": self.VERSION}
        if not self.LARGE and Path(path).suffix != ".safetensors":
            content = head | {"fields": _plain(self._contents(), None)}
            return write_text(path, json.dumps(content, allow_nan=False) + "\n")
        arrays: dict[str, NDArray[Any]] = {}
        content = _plain(self._contents(), arrays)
        about = {key: str(value) for key, value in head.items()} | {"fields": json.dumps(content, allow_nan=False)}
        return write_bytes(path, to_bytes(arrays, metadata=about))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a result of this class from a file.

        Raises:
            DamagedFile: the file is not whole, or holds something else.
            WrongVersion: the file has another version of the form.
            MissingFile: there is no such file.
        """
        content = _content(path)
        if content.get("kind") != cls.KIND:
            raise DamagedFile(
                f"{path} holds {content.get('kind') or 'something else'}; a file of kind {cls.KIND!r} was asked for."
            )
        return cls._from_content(path, content)

    @classmethod
    def _from_content(cls, path: str | Path, content: dict[str, Any]) -> Self:
        version = content.get("version")
        if isinstance(version, bool) or version not in range(1, cls.VERSION + 1):
            raise WrongVersion(
                f"{path} is of version {version} of {cls.KIND!r}; this release reads version {cls.VERSION}. "
                "Make it again, or read it with the release that wrote it."
            )
        try:
            values = _value(content["fields"], content["arrays"]) if "fields" in content else cls._of_old(content)
            return cls._of_contents(values)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, InterpError) as error:
            raise DamagedFile(f"{path} is damaged: {type(error).__name__}: {error}. Make it again.") from None

    def _contents(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(cast(Any, self))}

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        """Make a result of its fields; classes override it where earlier files lack one."""
        known: set[str] = {f.name for f in fields(cast(Any, cls))}
        if set(values) != known:
            raise TypeError(f"the fields are {sorted(values)} and not {sorted(known)}")
        for name, hint in get_type_hints(cls).items():
            if name in known and not _fits(values[name], hint):
                raise TypeError(f"{name} is {values[name]!r:.40}")
        return cls(**values)

    @classmethod
    def _of_old(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a file that an earlier release wrote in a form of its own."""
        raise KeyError("fields")


@checked
def read(path: str | Path) -> Result:
    """Read any result from a file.

    Returns:
        A value of the class that wrote the file.

    Raises:
        DamagedFile: the file is not whole, or holds no result.
        WrongVersion: the file has another version of the form.
        MissingFile: there is no such file.
    """
    for package in _PACKAGES:
        import_module(package)
    content = _content(path)
    if (kind := Result._kinds.get(str(content.get("kind")))) is None:
        raise DamagedFile(f"{path} holds {content.get('kind') or 'something else'}, which is no result.")
    return kind._from_content(path, content)


def frozen(values: Any, dtype: Any = np.float64) -> NDArray[Any]:
    """Return a read-only copy as a NumPy array."""
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


def strongest_first(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Sort a table by the size of a column, whatever its sign."""
    return frame.sort_values(column, key=lambda values: values.abs(), ascending=False, kind="stable")


def listed(values: NDArray[Any]) -> list[Any]:
    """Return nested lists for JSON, with None for NaN."""
    items = values.astype(object)
    items[np.isnan(values)] = None
    return items.tolist()


def _frozen_dict(value: dict[Any, Any]) -> dict[Any, Any]:
    def one(item: Any) -> Any:
        if isinstance(item, dict):
            return _frozen_dict(cast(dict[Any, Any], item))
        return frozen(item) if isinstance(item, np.ndarray) else item

    return {key: one(item) for key, item in value.items()}


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value read from a file is of the type that a field declares, as far as its outer type goes."""
    outer = get_origin(hint) or hint
    if outer in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if outer is Literal:
        return value in get_args(hint)
    if outer is Any:
        return True
    if outer in (int, float):
        return isinstance(value, int | float if outer is float else int) and not isinstance(value, bool)
    return isinstance(value, outer)


def _table(frame: pd.DataFrame) -> str:
    """Return as many columns as fit in a line, and the first rows."""
    if frame.empty:
        return "no rows"
    rows, count = frame.head(_ROWS), len(frame.columns)
    while True:
        shown = rows.iloc[:, :count].to_string(index=False, max_colwidth=40, float_format="{:.3g}".format)
        if count == 1 or max(map(len, shown.splitlines())) <= _WIDTH:
            break
        count -= 1
    dropped = [f"{len(frame) - _ROWS} rows more"] if len(frame) > _ROWS else []
    dropped += [f"columns {', '.join(map(str, frame.columns[count:]))}"] if count < len(frame.columns) else []
    return f"{shown}\n{_cut('; '.join(dropped))}".rstrip()


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 4]} ..."


def _content(path: str | Path) -> dict[str, Any]:
    """Return what a file holds: `kind`, `version`, and `fields` with `arrays`, or the form of an earlier release."""
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such file.") from None
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}.") from None
    try:
        if len(raw) > 8 and raw[8:9] == b"{" and struct.unpack("<Q", raw[:8])[0] < len(raw):
            return _of_safetensors(path)
        content = json.loads(raw)
    except (ValueError, RecursionError, SafetensorError, OSError) as error:
        raise DamagedFile(f"{path} is not whole: {error}. Make it again.") from None
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} holds something else than a result.")
    return cast(dict[str, Any], content) | {"arrays": {}}


def _of_safetensors(path: str | Path) -> dict[str, Any]:
    with safe_open(path, "numpy") as stored:
        about: dict[str, Any] = dict(stored.metadata() or {})
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    version = str(about.get("version"))
    about |= {"version": int(version) if version.isdigit() else version, "arrays": arrays}
    return about | ({"fields": json.loads(about["fields"])} if "fields" in about else {})


def _plain(value: Any, arrays: dict[str, NDArray[Any]] | None, path: str = "") -> Any:
    """Return what JSON can hold; arrays go to `arrays`, under their path in the result, where that is given."""

    def inner(item: Any, key: object) -> Any:
        return _plain(item, arrays, f"{path}/{key}".lstrip("/"))

    if isinstance(value, np.ndarray):
        array = cast(NDArray[Any], value)
        if arrays is None:
            return {"array": listed(array.ravel()), "shape": list(array.shape)}
        arrays[path] = np.ascontiguousarray(array)
        return {"stored": path}
    if isinstance(value, pd.DataFrame):
        return {"frame": [[str(name), str(column.dtype), _cells(column)] for name, column in value.items()]}
    if isinstance(value, pd.Index):
        return index_to_plain(value)
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(value)}
    for key, kind in _ADDRESSES.items():
        if isinstance(value, kind):
            return {key: str(value)}
    if isinstance(value, Result):
        return {"result": value.KIND, "fields": _plain(value._contents(), arrays, path)}
    if isinstance(value, tuple | list):
        items = [inner(item, index) for index, item in enumerate(cast(Sequence[Any], value))]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        pairs = cast(dict[Any, Any], value).items()
        if all(isinstance(key, str) for key, _ in pairs):
            return {"items": {key: inner(item, key) for key, item in pairs}}
        return {
            "pairs": [
                [_plain(key, None), inner(item, " ".join(map(str, key if isinstance(key, tuple) else (key,))))]
                for key, item in pairs
            ]
        }
    return value.item() if isinstance(value, np.generic) else value


def _cells(column: Any) -> list[Any]:
    """Return the values of a column of a frame for JSON: None for a missing value, but NaN stays NaN among floats."""
    if pd.api.types.is_float_dtype(column.dtype):
        return [_plain(float(item), None) for item in column]
    return [None if bool(pd.isna(item)) else _plain(item, None) for item in column]


def _value(stored: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return what `_plain` was given."""
    if isinstance(stored, list):
        return [_value(item, arrays) for item in cast(list[Any], stored)]
    if not isinstance(stored, dict):
        return stored
    if "array" in stored:
        return frozen(stored["array"]).reshape(stored["shape"])
    if "stored" in stored:
        return frozen(arrays[stored["stored"]])
    if "index" in stored:
        return index_of_plain(stored)
    if "float" in stored:
        return float(stored["float"])
    if "frame" in stored:
        columns = {name: pd.Series(_value(values, arrays), dtype=kind) for name, kind, values in stored["frame"]}
        return Frame(columns)
    for key, kind in _ADDRESSES.items():
        if key in stored:
            return kind.parse(stored[key])
    if "tuple" in stored:
        return tuple(_value(item, arrays) for item in stored["tuple"])
    if "result" in stored:
        return Result._kinds[stored["result"]]._of_contents(_value(stored["fields"], arrays))
    if "pairs" in stored:
        return {_value(key, arrays): _value(item, arrays) for key, item in stored["pairs"]}
    return {key: _value(item, arrays) for key, item in stored["items"].items()}
