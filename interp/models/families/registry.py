"""The architectures that can be opened, recognised by their classes and not by a name that several of them share."""

from typing import Any

from chronos import BaseChronosPipeline

from interp.models.families.chronos_bolt import CHRONOS_BOLT
from interp.models.families.family import Family
from interp.models.families.gpt2 import GPT2
from interp.models.families.t5 import T5

FAMILIES: tuple[Family, ...] = (T5, GPT2, CHRONOS_BOLT)


def family_of_config(config: Any) -> Family | None:
    """Return the family of a Hugging Face config.

    1. The classes that the config names decide, if one of them is known.
    2. A config that names other classes, or none, is read by its `model_type` and the pipeline that Chronos would open
       it in. `checkpoints.check_kind` then refuses other classes.
    """
    named = set(map(str, getattr(config, "architectures", None) or []))
    known = [family for family in FAMILIES if named.intersection(family.architectures)]
    return next(iter(known or [f for f in FAMILIES if _is_called_so(f, config)]), None)


def _is_called_so(family: Family, config: Any) -> bool:
    return str(config.model_type) == family.model_type and pipeline_name(config) == family.pipeline.__name__


def pipeline_name(config: Any) -> str:
    """Return the class of the pipeline that Chronos opens a config in."""
    return str(getattr(config, "chronos_pipeline_class", "ChronosPipeline"))


def family_of_source(source: object) -> tuple[Family | None, object]:
    """Return the family of a pipeline or of a Hugging Face model, and the Hugging Face model itself."""
    module = source
    if isinstance(source, BaseChronosPipeline):
        module = next((f.module_in(source) for f in FAMILIES if isinstance(source, f.pipeline)), source.inner_model)
    return next((family for family in FAMILIES if isinstance(module, family.architecture)), None), module
