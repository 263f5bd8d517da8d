"""Old public names, which keep working for one minor release with a `DeprecationWarning`."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def renamed(package: str, names: Mapping[str, str], until: str = "0.8") -> Callable[[str], Any]:
    """Make the `__getattr__` of a package that finds its old names.

    Args:
        package: the dotted name of the package.
        names: for each old name, the module and the name where it is now, such as `circuits.edges:Edge`.
        until: the version in which the old names go.

    Returns:
        A function from an old name to what it stands for. It warns, and raises AttributeError for other names.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, new = names[name].split(":")
        warnings.warn(
            f"{package}.{name} is now {module}.{new}; the old name goes in {until}.", DeprecationWarning, stacklevel=2
        )
        return getattr(import_module(module), new)

    return find


def renamed_field(old: str, new: str, until: str = "0.8") -> Any:
    """Make the property that finds a field of a result by its old name.

    Returns:
        A property that warns and gives the field's value.
    """

    def find(self: Any) -> Any:
        words = f"{type(self).__name__}.{old} is now {new}; the old name goes in {until}."
        warnings.warn(words, DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    return property(find, doc=f"The old name of `{new}`.")
