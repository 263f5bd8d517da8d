"""From a name to a Chronos pipeline, with a typed error for everything that can be wrong with it."""

import json
from pathlib import Path
from typing import Any

import torch
from chronos import BaseChronosPipeline, ChronosPipeline
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils import HFValidationError
from safetensors import SafetensorError
from transformers import AutoConfig, T5ForConditionalGeneration

from interp import zoo
from interp.errors import DamagedFile, UnknownModel, UnsupportedModel, nearest
from interp.families import FAMILIES

PUBLISHED = tuple(f"amazon/chronos-t5-{size}" for size in ("tiny", "mini", "small", "base", "large"))
"""The Chronos T5 models that Amazon published."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def open_pipeline(name: str, dtype: torch.dtype, device: str | torch.device) -> ChronosPipeline:
    """Open a model by its bundled name, its directory or its name on the hub.

    Args:
        name: such as `pico-t5`, `runs/mine` or `amazon/chronos-t5-small`.
        dtype: what the weights are converted to.
        device: where they go.

    Returns:
        The pipeline as Chronos opens it, with eager attention.

    Raises:
        UnknownModel: there is no such model, or it is neither cached nor to be had now.
        UnsupportedModel: something other than a Chronos T5 in safetensors.
        DamagedFile: a config or weights that cannot be read whole.
    """
    source = str(zoo.path(name)) if name in zoo.names() else name
    if Path(source).is_dir():
        _check_directory(Path(source))
    elif Path(source).exists():
        raise UnsupportedModel(f"{name} is a file: give the directory that holds its config.json.")
    else:
        _check_hub_name(name)
    try:
        _check_config(name, source)
        pipeline = BaseChronosPipeline.from_pretrained(
            source, dtype=dtype, attn_implementation="eager", use_safetensors=True
        )
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{name}: the weights or the config cannot be read: {error}. Fetch them again.") from None
    except (OSError, HFValidationError) as error:
        raise _unreachable(name, source, error) from None
    except RuntimeError as error:
        raise DamagedFile(f"{name}: the weights do not fit the config: {error}") from None
    assert isinstance(pipeline, ChronosPipeline)
    pipeline.model.to(device)
    return pipeline


def _check_directory(directory: Path) -> None:
    if not (directory / "config.json").exists():
        raise UnsupportedModel(f"{directory} has no config.json: it is not a directory of a model.")
    try:
        json.loads((directory / "config.json").read_text())
    except ValueError as error:
        raise DamagedFile(f"{directory / 'config.json'} is not JSON: {error}.") from None
    if not any((directory / file).exists() for file in WEIGHTS):
        if any((directory / file).exists() for file in PICKLED):
            raise UnsupportedModel(
                f"{directory} has pickled weights only, which can run code when read. Convert them where you "
                "trust them: load with transformers, then save_pretrained(directory)."
            )
        raise UnsupportedModel(f"{directory} has no model.safetensors.")


def _check_hub_name(name: str) -> None:
    known = [*zoo.names(), *PUBLISHED]
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UnknownModel(
            f"{name!r} is neither a bundled model ({', '.join(zoo.names())}), nor a directory here, nor a name "
            f"on the hub (owner/model, as {PUBLISHED[2]}).{nearest(name, known)}"
        )


def _check_config(name: str, source: str) -> None:
    try:
        config: Any = AutoConfig.from_pretrained(source)
    except ValueError as error:
        raise UnsupportedModel(f"{name}: transformers does not know this model: {error}") from None
    kind = getattr(config, "chronos_pipeline_class", "ChronosPipeline")
    if kind != "ChronosPipeline":
        raise UnsupportedModel(
            f"{name} is a {kind.removesuffix('Pipeline')} model: it does not read tokens one by one, so the "
            f"probes do not apply. Supported are Chronos T5 models, as {PUBLISHED[2]}."
        )
    if not hasattr(config, "chronos_config"):
        raise UnsupportedModel(
            f"{name} is a plain {config.model_type} model without a chronos_config: it has no tokenizer for "
            f"series. Supported are Chronos T5 models, as {PUBLISHED[2]}."
        )
    if config.model_type not in FAMILIES or config.chronos_config.get("model_type") != "seq2seq":
        raise UnsupportedModel(
            f"{name} is a {config.model_type} model ({config.chronos_config.get('model_type')}); supported "
            f"are {', '.join(FAMILIES)} encoder-decoders."
        )


def _unreachable(name: str, source: str, error: Exception) -> Exception:
    if Path(source).is_dir():
        return DamagedFile(f"{name}: cannot be read: {error}")
    cached = isinstance(try_to_load_from_cache(name, "config.json"), str) if name.count("/") == 1 else False
    found = "only a part of it is in the cache" if cached else "it is not in the cache"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UnknownModel(
        f"{name!r} cannot be had: {found}, and the hub gave: {first} Check the name and the network, or give a "
        f"directory; bundled, with no network: {', '.join(zoo.names())}.{nearest(name, PUBLISHED)}"
    )


def check_pipeline(pipeline: object) -> None:
    """Hold an object that is to be wrapped against what can be read.

    Raises:
        UnsupportedModel: not a Chronos pipeline of a T5, or one whose weights are not there
            (meta device) or quantised.
    """
    if not isinstance(pipeline, ChronosPipeline):
        raise UnsupportedModel(
            f"{type(pipeline).__name__} cannot be wrapped: give a chronos.ChronosPipeline of a T5 model."
        )
    module = pipeline.model.model
    if not isinstance(module, T5ForConditionalGeneration):
        raise UnsupportedModel(
            f"a pipeline of {type(module).__name__} cannot be wrapped: supported is T5ForConditionalGeneration."
        )
    if any(p.is_meta for p in module.parameters()):
        raise UnsupportedModel("the model's weights are on the meta device: load them first.")
    if any(not p.is_floating_point() for p in module.parameters()) or getattr(module, "is_quantized", False):
        raise UnsupportedModel("the model's weights are quantised: open it in a float dtype.")
