"""The bundled models, trained by the recipe in this folder, and models planted by hand, whose circuit is known."""

from interp.models.bundled import names, path
from interp.zoo.planted_bolt import planted_patches
from interp.zoo.planted_gpt2 import planted_decoder
from interp.zoo.planted_t5 import PLANTED, Planted, planted

__all__ = ["PLANTED", "Planted", "names", "path", "planted", "planted_decoder", "planted_patches"]
