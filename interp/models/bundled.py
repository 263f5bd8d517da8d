"""The bundled models: their names, and where they are."""

from pathlib import Path

from interp.errors import UnknownModel, nearest

_MODELS = Path(__file__).parents[1] / "zoo" / "models"


def names() -> list[str]:
    """Return the names of the bundled models."""
    return sorted(directory.name for directory in _MODELS.iterdir() if (directory / "config.json").exists())


def path(name: str) -> Path:
    """Return the directory of a bundled model, for plain Chronos.

    Args:
        name: such as `pico-t5`.

    Returns:
        A directory that `chronos.BaseChronosPipeline.from_pretrained` opens.

    Raises:
        UnknownModel: no bundled model has this name.
    """
    if str(name) not in names():
        raise UnknownModel(f"{name!r} is not bundled; there are {', '.join(names())}.{nearest(str(name), names())}")
    return _MODELS / name
