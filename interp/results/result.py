"""Results that are frozen through and through, and go to JSON and back: arrays, heads, results in results."""

from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from interp import DamagedFile, InterpError
from interp.names import Head
from interp.results.by_head import frozen, listed
from interp.results.files import load_json, save_json


class Saved:
    """What frozen results share: read-only arrays, `save` and `load`."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, frozen(value))
            elif isinstance(value, dict):
                object.__setattr__(self, name, _frozen_dict(cast(dict[str, Any], value)))

    def save(self, path: str | Path) -> Path:
        """Write as JSON, whole or not at all."""
        return save_json(path, self.KIND, self.VERSION, {"fields": _plain(vars(self))})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DamagedFile: the file is not whole or is something else.
            WrongVersion: another version of the form.
            MissingFile: there is no such file.
        """
        content = load_json(path, cls.KIND, cls.VERSION)
        try:
            return cls._made(_value(content["fields"]))
        except (KeyError, TypeError, ValueError, AttributeError, InterpError) as error:
            raise DamagedFile(f"{path} is damaged: {type(error).__name__}: {error}. Make it again.") from None

    @classmethod
    def _made(cls, values: dict[str, Any]) -> Self:
        known: set[str] = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if set(values) != known:
            raise TypeError(f"the fields are {sorted(values)} and not {sorted(known)}")
        return cls(**values)


def _frozen_dict(value: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            made[key] = _frozen_dict(cast(dict[str, Any], item))
        else:
            made[key] = frozen(item) if isinstance(item, np.ndarray) else item
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = cast(NDArray[Any], value)
        return {"array": listed(array.ravel()), "shape": list(array.shape)}
    if isinstance(value, Head):
        return {"head": str(value)}
    if isinstance(value, Saved):
        return {"result": value.KIND, "fields": _plain(vars(value))}
    if isinstance(value, tuple):
        return {"tuple": [_plain(item) for item in cast(tuple[Any, ...], value)]}
    if isinstance(value, dict):
        return {"items": {key: _plain(item) for key, item in cast(dict[str, Any], value).items()}}
    if isinstance(value, list):
        return [_plain(item) for item in cast(list[Any], value)]
    return value


def _value(stored: Any) -> Any:
    if isinstance(stored, list):
        return [_value(item) for item in cast(list[Any], stored)]
    if not isinstance(stored, dict):
        return stored
    if "array" in stored:
        return frozen(stored["array"]).reshape(stored["shape"])
    if "head" in stored:
        return Head.parse(stored["head"])
    if "tuple" in stored:
        return tuple(_value(item) for item in stored["tuple"])
    if "result" in stored:
        kinds = {kind.KIND: kind for kind in Saved.__subclasses__()}
        return kinds[stored["result"]]._made(_value(stored["fields"]))
    return {key: _value(item) for key, item in stored["items"].items()}
