"""From a name to a handle, with a typed error for everything that can be wrong with it.

1. Find out what the name means: a bundled model, a directory, or a model on the hub.
2. Check what it is before any weight is read; open it with Chronos itself; see that no weight is
   missing, which transformers would draw at random.
3. Attach the hook points and check that the forward pass really goes through them.
"""

import json
import re
from pathlib import Path
from typing import Any, cast

import torch
from chronos import BaseChronosPipeline
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from interp.arguments import checked
from interp.errors import DamagedFile, InterpError, InvalidInput, UnsupportedModel
from interp.models import bundled
from interp.models.checkpoints import (
    SUPPORTED,
    WEIGHTS,
    check_config,
    check_directory,
    check_hub_name,
    check_kind,
    check_pipeline,
    check_said,
    check_variant,
    unreachable,
)
from interp.models.checks.generation import check_generation
from interp.models.checks.release import check_names, check_patches, check_tokenizer
from interp.models.families.family import Family
from interp.models.families.registry import family_of_source
from interp.models.hooking import follow
from interp.models.model import Model
from interp.output.progress import late_bars


def open_source(name: str, dtype: Any, device: str | torch.device) -> BaseChronosPipeline | PreTrainedModel:
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
    source = str(bundled.path(name)) if name in bundled.names() else name
    if source and Path(source).is_dir():
        check_directory(Path(source))
    elif source and Path(source).exists():
        raise UnsupportedModel(f"{name} is a file: give the directory that holds its config.json.")
    else:
        check_hub_name(name)
    try:
        family, chronos = check_config(name, source)
        opener: Any = family.pipeline if chronos else family.architecture
        with late_bars():
            opened = opener.from_pretrained(source, dtype=dtype, attn_implementation="eager", use_safetensors=True)
    except InterpError:
        raise
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{name}: the weights or the config cannot be read: {error}. Fetch them again.") from None
    except (OSError, HFValidationError) as error:
        raise unreachable(name, source, error) from None
    except (RuntimeError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise DamagedFile(f"{name}: the weights do not fit the config: {error}") from None
    module = family.module_in(opened) if chronos else opened
    _check_weights(name, source, module, family)
    cast(torch.nn.Module, module).to(device)
    return opened


def check_device(device: str | torch.device) -> None:
    """Check that a device is there before anything is read for it.

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
    stored = {longer if longer in known else key for key, longer in prefixed.items()}
    missing = [names[0] for names in groups.values() if not stored.intersection(names)]
    unknown = sorted(key for key in stored - known if not any(re.search(end, key) for end in family.ignored))
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


def check_source(source: object) -> Family:
    """Hold an object that is to be wrapped against what can be read.

    Returns:
        Its family.

    Raises:
        UnsupportedModel: neither a Chronos pipeline nor a Hugging Face model of a supported family, or one whose
            weights are not there (meta device) or quantised.
    """
    family, module = family_of_source(source)
    if family is None or not isinstance(module, PreTrainedModel):
        of = f"a pipeline of {type(module).__name__}" if module is not source else type(module).__name__
        raise UnsupportedModel(f"{of} cannot be wrapped. {SUPPORTED}")
    if family.needs_pipeline and module is source:
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be wrapped by itself: give the chronos.{family.pipeline.__name__} that it "
            "is in."
        )
    if type(module).forward is not family.architecture.forward:
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be wrapped: its forward is not that of {family.architecture.__name__}. "
            f"{SUPPORTED}"
        )
    # A model that was made here is named after the class that it will be saved as.
    check_kind(type(module).__name__, module.config, (*family.architectures, type(module).__name__))
    check_variant(type(module).__name__, module.config)
    if isinstance(source, BaseChronosPipeline):
        _check_pipeline(source, module, family)
    if any(p.is_meta for p in module.parameters()):
        raise UnsupportedModel("the model's weights are on the meta device: load them first.")
    if any(not p.is_floating_point() for p in module.parameters()) or getattr(module, "is_quantized", False):
        raise UnsupportedModel("the model's weights are quantised: open it in a float dtype.")
    return family


def _check_pipeline(source: BaseChronosPipeline, module: PreTrainedModel, family: Family) -> None:
    """Check that a pipeline is of the family of the model in it."""
    name, holds = f"a pipeline of {type(module).__name__}", cast(Any, source)
    if not isinstance(source, family.pipeline):
        check_pipeline(name, type(source).__name__, family)
    check_pipeline(name, getattr(module.config, "chronos_pipeline_class", family.pipeline.__name__), family)
    if family.chronos_type is not None:
        check_said(name, holds.model.config.model_type, family)


@checked
def wrap(source: BaseChronosPipeline | PreTrainedModel, *, name: str = "wrapped") -> Model:
    """Make a handle on a model that is already open.

    The model is switched to the hooked attention, which gives bit for bit what eager attention gives, and keeps
    working as before. A module in training mode stays so: experiments run it in eval mode, and switch it back.

    Args:
        source: a Chronos pipeline, or a Hugging Face GPT-2.
        name: what results call it.

    Returns:
        The handle.

    Raises:
        UnsupportedModel: another architecture, or weights that cannot be read.
        BrokenHook: the forward pass does not go through the hook points, or the installed release of transformers
            or chronos names or does things otherwise.
    """
    model = Model(name, source, check_source(source))
    check_names(model)
    check_tokenizer(model)
    check_patches(model)
    follow(model, check_generation)
    return model


@checked
def load(name: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Model:
    """Open a model: bundled, from a directory, or from the hub.

    Args:
        name: `pico-t5`, a directory, or a name such as `amazon/chronos-t5-small`, `amazon/chronos-bolt-small` or
            `openai-community/gpt2`.
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
