"""The bundled models, trained by the recipe in this folder, and models planted by hand, whose circuit is known."""

from pathlib import Path

from interp.errors import UnknownModel, nearest
from interp.zoo.planted import PLANTED, Planted, planted
from interp.zoo.planted_decoder import planted_decoder

_MODELS = Path(__file__).parent / "models"


def names() -> list[str]:
    """The names of the bundled models."""
    return sorted(directory.name for directory in _MODELS.iterdir() if (directory / "config.json").exists())


def path(name: str) -> Path:
    """The directory of a bundled model, for plain Chronos.

    Args:
        name: such as `pico-t5`.

    Returns:
        A directory that `chronos.BaseChronosPipeline.from_pretrained` opens.

    Raises:
        UnknownModel: no bundled model has this name.
    """
    if name not in names():
        raise UnknownModel(f"{name!r} is not bundled; there are {', '.join(names())}.{nearest(name, names())}")
    return _MODELS / name


__all__ = ["PLANTED", "Planted", "names", "path", "planted", "planted_decoder"]
