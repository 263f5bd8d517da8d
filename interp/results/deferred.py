"""A field of a frozen result that is computed when it is first read, for numbers that cost more than the rest."""

from collections.abc import Callable
from typing import Any

from interp.results.result import Floats, frozen


class Deferred:
    """Hold an array or a function that returns one, which is called once, when the field is first read.

    The annotation of the field is `Floats`, and its default is `deferred()`. Saving, copying and comparing read it.
    """

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, result: Any, owner: type | None = None) -> Floats:
        if result is None:
            raise AttributeError(self.name)  # so that dataclass sees a field without a default
        if is_pending(result, self.name):
            vars(result)[self.name] = frozen(vars(result)[self.name]())
        return vars(result)[self.name]

    def __set__(self, result: Any, value: Floats | Callable[[], Floats]) -> None:
        vars(result)[self.name] = value if callable(value) else frozen(value)


def is_pending(result: Any, name: str) -> bool:
    """Return whether a deferred field of a result has not been computed yet."""
    return callable(vars(result)[name])


def deferred() -> Any:
    """Return a field that takes an array, or a function that returns one when it is first asked for."""
    return Deferred()
