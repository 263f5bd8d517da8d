"""From a name to a handle, with a typed error for everything that can be wrong with it.

1. Find out what the name means: a bundled model, a directory, or a model on the hub.
2. Check what it is before any weight is read; open it with Chronos itself; see that no weight is
   missing, which transformers would draw at random.
3. Attach the hook points and check that the forward pass really goes through them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from chronos import BaseChronosPipeline, ChronosConfig, ChronosPipeline
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from interp import attention, zoo
from interp.checks import check_hooks
from interp.errors import DamagedFile, InvalidInput, UnknownModel, UnsupportedModel, nearest
from interp.families import FAMILIES, Family
from interp.model import Model

PUBLISHED = tuple(f"amazon/chronos-t5-{size}" for size in ("tiny", "mini", "small", "base", "large"))
"""The Chronos T5 models that Amazon published."""

TEXT = ("openai-community/gpt2",)
"""A decoder-only model that is read without a tokenizer for series."""

SUPPORTED = (
    f"Supported are Chronos models of {' and '.join(f.name for f in FAMILIES.values())}, as {PUBLISHED[2]}, and plain "
    f"GPT-2, as {TEXT[0]}."
)

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def open_source(name: str, dtype: Any, device: str | torch.device) -> ChronosPipeline | PreTrainedModel:
    """Open a model by its bundled name, its directory or its name on the hub.

    Args:
        name: such as `pico-t5`, `runs/mine` or `amazon/chronos-t5-small`.
        dtype: what the weights are converted to.
        device: where they go.

    Returns:
        The pipeline as Chronos opens it, or the Hugging Face model where it is not one of Chronos'; with eager
        attention.

    Raises:
        UnknownModel: there is no such model, or it is neither cached nor to be had now.
        UnsupportedModel: another architecture, or weights that are not in safetensors.
        DamagedFile: a config or weights that cannot be read whole.
        InvalidInput: a dtype that is not of floats, or a device that is not there.
    """
    check_device(device)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InvalidInput(f"dtype={dtype!r} must be a floating-point torch.dtype, as torch.bfloat16.")
    source = str(zoo.path(name)) if name in zoo.names() else name
    if source and Path(source).is_dir():
        _check_directory(Path(source))
    elif source and Path(source).exists():
        raise UnsupportedModel(f"{name} is a file: give the directory that holds its config.json.")
    else:
        _check_hub_name(name)
    try:
        family, chronos = _check_config(name, source)
        opener: Any = BaseChronosPipeline if chronos else family.architecture
        opened = opener.from_pretrained(source, dtype=dtype, attn_implementation="eager", use_safetensors=True)
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{name}: the weights or the config cannot be read: {error}. Fetch them again.") from None
    except (OSError, HFValidationError) as error:
        raise _unreachable(name, source, error) from None
    except (RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFile(f"{name}: the weights do not fit the config: {error}") from None
    module = opened.model.model if chronos else opened
    _check_weights(name, source, module, family)
    module.to(device)
    return opened


def check_device(device: str | torch.device) -> None:
    """See that a device is there before anything is read for it.

    Raises:
        InvalidInput: no such device, or not on this machine.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise InvalidInput(f"device={str(device)!r} cannot be used here: {first}") from None


def _check_weights(name: str, source: str, module: PreTrainedModel, family: Family) -> None:
    """Hold the weights' file against the model: what is missing would be random, and in silence."""
    groups: dict[int, list[str]] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(value), []).append(key)
    known = set[str]().union(*groups.values())
    # Old checkpoints are of the model without its head, whose names lack a prefix.
    prefixed = {key: f"{module.base_model_prefix}.{key}" for key in _stored_names(source)}
    found = {longer if longer in known else key for key, longer in prefixed.items()}
    missing = [names[0] for names in groups.values() if not found.intersection(names)]
    unknown = sorted(key for key in found - known if not any(re.search(end, key) for end in family.ignored))
    if missing or unknown:
        what = [f"lack {', '.join(missing[:3])}"] if missing else []
        what += [f"hold {', '.join(unknown[:3])}, which the config has no place for"] if unknown else []
        raise DamagedFile(f"{name}: the weights {' and '.join(what)}. The file is not whole, or of another model.")
    if not all(bool(p.isfinite().all()) for p in module.parameters()):
        raise DamagedFile(f"{name}: the weights hold NaN or infinite values.")


def _stored_names(source: str) -> set[str]:
    for file in WEIGHTS:
        path = cached_file(source, file, _raise_exceptions_for_missing_entries=False)
        if path is None:
            continue
        if file.endswith(".json"):
            return set(json.loads(Path(path).read_text())["weight_map"])
        with safe_open(path, "pt") as stored:
            return set(stored.keys())
    return set()


def _check_directory(directory: Path) -> None:
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


def _check_hub_name(name: str) -> None:
    known = [*zoo.names(), *PUBLISHED, *TEXT]
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or not name:
        raise UnknownModel(
            f"{name!r} is neither a bundled model ({', '.join(zoo.names())}), nor a directory here, nor a name "
            f"on the hub (owner/model, as {PUBLISHED[2]}).{nearest(name, known)}"
        )


def _check_config(name: str, source: str) -> tuple[Family, bool]:
    """The family of a config that can be used, and whether it is one of Chronos'."""
    try:
        config: Any = AutoConfig.from_pretrained(source)
    except (ValueError, TypeError, StrictDataclassError) as error:
        if "model type" in str(error) or "model_type" in str(error):
            raise UnsupportedModel(f"{name}: transformers does not know this model: {error}") from None
        raise DamagedFile(f"{name}: the config cannot be used: {error}") from None
    kind = str(getattr(config, "chronos_pipeline_class", "ChronosPipeline"))
    if kind != "ChronosPipeline":
        raise UnsupportedModel(
            f"{name} is a {kind.removesuffix('Pipeline')} model: it does not read tokens one by one, so the "
            f"probes do not apply. {SUPPORTED}"
        )
    family = FAMILIES.get(str(config.model_type))
    if family is None:
        raise UnsupportedModel(f"{name} is a {config.model_type} model. {SUPPORTED}")
    _check_variant(name, config)
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModel(f"{name} is quantised: open it in a float dtype.")
    if not hasattr(config, "chronos_config"):
        if family.needs_pipeline:
            raise UnsupportedModel(
                f"{name} is a plain {config.model_type} model without a chronos_config: it has no tokenizer for "
                f"series. {SUPPORTED}"
            )
        return family, False
    if not isinstance(config.chronos_config, dict):
        raise DamagedFile(f"{name}: chronos_config must be a JSON object.")
    said = config.chronos_config.get("model_type")
    if said != family.chronos_type:
        raise UnsupportedModel(
            f"{name}: its chronos_config says {said}, and a {family.name} is {family.chronos_type} in Chronos. "
            f"{SUPPORTED}"
        )
    try:
        chronos = ChronosConfig(**config.chronos_config)
        chronos.create_tokenizer()
    except (TypeError, AttributeError, AssertionError, ValueError) as error:
        raise DamagedFile(f"{name}: the chronos_config cannot be used: {error}") from None
    if chronos.n_tokens > config.vocab_size:
        raise DamagedFile(f"{name}: the tokenizer has {chronos.n_tokens} tokens and the model {config.vocab_size}.")
    return family, True


def _check_variant(name: str, config: Any) -> None:
    """Variants of an architecture that the hooked attention would not compute as Hugging Face does."""
    for option in ("add_cross_attention", "reorder_and_upcast_attn"):
        if getattr(config, option, False):
            raise UnsupportedModel(f"{name} is a {config.model_type} with {option}, which is not supported.")


def _unreachable(name: str, source: str, error: Exception) -> Exception:
    if Path(source).is_dir():
        return DamagedFile(f"{name}: cannot be read: {error}")
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        cached = False
    found = "only a part of it is in the cache" if cached else "it is not in the cache"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UnknownModel(
        f"{name!r} cannot be had: {found}, and the hub gave: {first} Check the name and the network, or give a "
        f"directory; bundled, with no network: {', '.join(zoo.names())}.{nearest(name, [*PUBLISHED, *TEXT])}"
    )


def check_source(source: object) -> Family:
    """Hold an object that is to be wrapped against what can be read.

    Returns:
        Its family.

    Raises:
        UnsupportedModel: neither a Chronos pipeline nor a Hugging Face model of a supported family, or one whose
            weights are not there (meta device) or quantised.
    """
    module: object = source.model.model if isinstance(source, ChronosPipeline) else source
    family = next((f for f in FAMILIES.values() if isinstance(module, f.architecture)), None)
    if family is None or not isinstance(module, PreTrainedModel):
        of = f"a pipeline of {type(module).__name__}" if module is not source else type(module).__name__
        raise UnsupportedModel(f"{of} cannot be wrapped. {SUPPORTED}")
    if family.needs_pipeline and module is source:
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be wrapped by itself: give the chronos.ChronosPipeline that it is in."
        )
    _check_variant(type(module).__name__, module.config)
    if any(p.is_meta for p in module.parameters()):
        raise UnsupportedModel("the model's weights are on the meta device: load them first.")
    if any(not p.is_floating_point() for p in module.parameters()) or getattr(module, "is_quantized", False):
        raise UnsupportedModel("the model's weights are quantised: open it in a float dtype.")
    return family


def _set_attention(model: Model, name: str) -> None:
    # transformers 5.15 and 5.16 do not pass the name on to the stacks, which have configs of their own.
    model.module.set_attn_implementation(name)
    for path in model.family.stacks.values():
        model.module.get_submodule(path).config._attn_implementation = name


def _attentions(model: Model) -> Iterator[nn.Module]:
    return (model.module.get_submodule(model.family.attention_path(at)) for at in model.layers())


def wrap(source: ChronosPipeline | PreTrainedModel, *, name: str = "wrapped") -> Model:
    """A handle on a model that is already open.

    The model is switched to the hooked attention, which gives bit for bit what eager attention gives, and keeps
    working as before.

    Args:
        source: a Chronos pipeline, or a Hugging Face GPT-2.
        name: what results call it.

    Returns:
        The handle.

    Raises:
        UnsupportedModel: another architecture, or weights that cannot be read.
        BrokenHook: the forward pass does not go through the hook points.
    """
    model = Model(name, source, check_source(source))
    module = model.module
    before, training = module.config._attn_implementation or "eager", module.training
    attached = [layer for layer in _attentions(model) if attention.attach(layer)]
    _set_attention(model, attention.NAME)
    module.eval()
    try:
        check_hooks(model)
    except BaseException:
        _set_attention(model, before)
        module.train(training)
        for layer in attached:
            attention.detach(layer)
        raise
    return model


def load(name: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Model:
    """Open a model: bundled, from a directory, or from the hub.

    Args:
        name: `pico-t5`, a directory, or a name such as `amazon/chronos-t5-small` or `openai-community/gpt2`.
        dtype: of the weights; the published notebook ran in `torch.bfloat16`.
        device: where the model runs.

    Returns:
        The handle, its hook points checked.

    Raises:
        UnknownModel: there is no such model, or it is neither cached nor to be had now.
        UnsupportedModel: another architecture, or weights that are not in safetensors.
        DamagedFile: a config or weights that cannot be read whole.
        BrokenHook: the forward pass does not go through the hook points.
    """
    return wrap(open_source(str(name), dtype, device), name=str(name))
