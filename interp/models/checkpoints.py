"""What a name or a config stands for: a model that can be read, or a typed error before any weight is."""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from transformers import AutoConfig

from interp.errors import DamagedFile, UnknownModel, UnsupportedModel, nearest
from interp.models import bundled
from interp.models.families.family import Family
from interp.models.families.registry import FAMILIES, family_of_config, pipeline_name

PUBLISHED = (
    *(f"amazon/chronos-t5-{size}" for size in ("tiny", "mini", "small", "base", "large")),
    *(f"amazon/chronos-bolt-{size}" for size in ("tiny", "mini", "small", "base")),
)
"""The Chronos models of supported families that Amazon published."""

TEXT = tuple(f"openai-community/gpt2{size}" for size in ("", "-medium", "-large", "-xl"))
"""Decoder-only models of text, which are read without a tokenizer for series."""

SUPPORTED = (
    f"Supported are Chronos models of {', '.join(f.name for f in FAMILIES)}, as {PUBLISHED[2]}, and plain "
    f"GPT-2, as {TEXT[0]}."
)

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def check_directory(directory: Path) -> None:
    """Check that a directory holds a config and weights in safetensors.

    Raises:
        UnsupportedModel: it does not, or has pickled weights only.
        DamagedFile: the config is not a JSON object.
    """
    if not (directory / "config.json").exists():
        raise UnsupportedModel(f"{directory} has no config.json: it is not a directory of a model.")
    try:
        config = json.loads((directory / "config.json").read_text())
    except (ValueError, OSError) as error:
        raise DamagedFile(f"{directory / 'config.json'} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise DamagedFile(f"{directory / 'config.json'} must hold a JSON object.")
    if not any((directory / file).exists() for file in WEIGHTS):
        if any((directory / file).exists() for file in PICKLED):
            raise UnsupportedModel(
                f"{directory} has pickled weights only, which can run code when read. Convert them where you "
                "trust them: load with transformers, then save_pretrained(directory)."
            )
        raise UnsupportedModel(f"{directory} has no model.safetensors.")


def check_hub_name(name: str) -> None:
    """Check that a name could be one on the hub.

    Raises:
        UnknownModel: it could not.
    """
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or not name:
        raise UnknownModel(
            f"{name!r} is neither a bundled model ({', '.join(bundled.names())}), nor a directory here, nor a name "
            f"on the hub (owner/model, as {PUBLISHED[2]}).{_hint(name)}"
        )


def check_config(name: str, source: str) -> tuple[Family, bool]:
    """Return the family of a config that can be used, and whether it is one of Chronos'.

    Args:
        name: what the user called it.
        source: what transformers is to call it: a directory or a name on the hub.

    Raises:
        UnsupportedModel: another architecture or another kind of Chronos model, quantised weights, or a
            chronos_config or a pipeline of another architecture.
        DamagedFile: a config that cannot be used.
    """
    try:
        config: Any = AutoConfig.from_pretrained(source)
    except (ValueError, TypeError, StrictDataclassError) as error:
        if "model type" in str(error) or "model_type" in str(error):
            raise UnsupportedModel(f"{name}: transformers does not know this model: {error}") from None
        raise DamagedFile(f"{name}: the config cannot be used: {error}") from None
    family = family_of_config(config)
    if family is None:
        check_kind(name, config, ())
        raise UnsupportedModel(f"{name} is a {config.model_type} model. {SUPPORTED}")
    check_kind(name, config, family.architectures)
    check_variant(name, config)
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModel(f"{name} is quantised: open it in a float dtype.")
    if not hasattr(config, "chronos_config"):
        if family.needs_pipeline:
            raise UnsupportedModel(
                f"{name} is a plain {config.model_type} model without a chronos_config: it is not known how it reads "
                f"series. {SUPPORTED}"
            )
        return family, False
    if not isinstance(config.chronos_config, dict):
        raise DamagedFile(f"{name}: chronos_config must be a JSON object.")
    check_pipeline(name, pipeline_name(config), family)
    check_said(name, config.chronos_config.get("model_type"), family)
    try:
        family.read_config(config)
    except (TypeError, AttributeError, AssertionError, ValueError) as error:
        raise DamagedFile(f"{name}: the chronos_config cannot be used: {error}") from None
    return family, True


def check_pipeline(name: str, pipeline: str, family: Family) -> None:
    """Check that Chronos opens a model in the pipeline of its architecture.

    Args:
        pipeline: the class of the pipeline that it opens it in.

    Raises:
        UnsupportedModel: another one than that of the architecture.
    """
    if pipeline != family.pipeline.__name__:
        raise UnsupportedModel(
            f"{name} is a {pipeline.removesuffix('Pipeline')} model by its pipeline, and its config says that it is a "
            f"{family.architectures[0]}, which Chronos opens in a {family.pipeline.__name__}. Set "
            "chronos_pipeline_class and architectures to what the weights are of."
        )


def check_kind(name: str, config: Any, architectures: Sequence[str]) -> None:
    """Check that a config is of a kind of Chronos model that can be read, and its architectures, if any, are these.

    Raises:
        UnsupportedModel: it names another kind of Chronos model, or another architecture.
    """
    kind = pipeline_name(config)
    if kind not in {family.pipeline.__name__ for family in FAMILIES}:
        raise UnsupportedModel(f"{name} is a {kind.removesuffix('Pipeline')} model. {SUPPORTED}")
    named = getattr(config, "architectures", None) or []
    if architectures and (other := [architecture for architecture in named if architecture not in architectures]):
        raise UnsupportedModel(
            f"{name}: its config says that it is a {', '.join(map(str, other))}, which computes something else with "
            f"such weights than {architectures[0]}. {SUPPORTED}"
        )


def check_said(name: str, said: object, family: Family) -> None:
    """Check that what the config says of the architecture is true: Chronos cuts forecasts by it.

    Raises:
        UnsupportedModel: it says something else.
    """
    if family.chronos_type is not None and said != family.chronos_type:
        raise UnsupportedModel(
            f"{name}: its chronos_config says {said}, and a {family.name} is {family.chronos_type} in Chronos. "
            f"{SUPPORTED}"
        )


def check_variant(name: str, config: Any) -> None:
    """Check for variants of an architecture that the hooked attention would not compute as Hugging Face does.

    Raises:
        UnsupportedModel: the config asks for one.
    """
    for option in ("add_cross_attention", "reorder_and_upcast_attn"):
        if getattr(config, option, False):
            raise UnsupportedModel(f"{name} is a {config.model_type} with {option}, which is not supported.")


def unreachable(name: str, source: str, error: Exception) -> Exception:
    """Return the error for a model whose files are not available."""
    if Path(source).is_dir():
        return DamagedFile(f"{name}: cannot be read: {error}")
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        cached = False
    where = "only a part of it is in the cache" if cached else "it is not in the cache"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UnknownModel(
        f"{name!r} cannot be had: {where}, and the hub gave: {first} Check the name and the network, or give a "
        f"directory; bundled, with no network: {', '.join(bundled.names())}.{_hint(name)}"
    )


def _hint(name: str) -> str:
    known = [*bundled.names(), *PUBLISHED, *TEXT]
    if name in known or "/" in name:
        return nearest(name, known)
    # Others call a model by its name alone, without the owner's.
    short = {full.split("/")[-1]: full for full in known}
    close = get_close_matches(name.lower(), short, n=1, cutoff=0.4)
    return f" Did you mean {short[close[0]]!r}?" if close else ""
