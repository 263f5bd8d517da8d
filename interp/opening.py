"""From a name to a handle, with a typed error for everything that can be wrong with it.

1. Find out what the name means: a bundled model, a directory, or a model on the hub.
2. Check what it is before any weight is read; open it with Chronos itself; see that no weight is
   missing, which transformers would draw at random.
3. Attach the hook points and check that the forward pass really goes through them.
"""

import json
from pathlib import Path
from typing import Any, cast

import torch
from chronos import BaseChronosPipeline, ChronosConfig, ChronosPipeline
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, T5ForConditionalGeneration
from transformers.utils.hub import cached_file

from interp import attention, zoo
from interp.checks import check_hooks
from interp.errors import DamagedFile, InvalidInput, UnknownModel, UnsupportedModel, nearest
from interp.families import FAMILIES
from interp.model import Model
from interp.names import KINDS, AttentionLayer

PUBLISHED = tuple(f"amazon/chronos-t5-{size}" for size in ("tiny", "mini", "small", "base", "large"))
"""The Chronos T5 models that Amazon published."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
IGNORED = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"}
"""What old T5 checkpoints hold and no model uses."""

PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def open_pipeline(name: str, dtype: Any, device: str | torch.device) -> ChronosPipeline:
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
        _check_config(name, source)
        pipeline = BaseChronosPipeline.from_pretrained(
            source, dtype=dtype, attn_implementation="eager", use_safetensors=True
        )
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{name}: the weights or the config cannot be read: {error}. Fetch them again.") from None
    except (OSError, HFValidationError) as error:
        raise _unreachable(name, source, error) from None
    except (RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFile(f"{name}: the weights do not fit the config: {error}") from None
    assert isinstance(pipeline, ChronosPipeline)
    _check_weights(name, source, pipeline.model.model)
    pipeline.model.to(device)
    return pipeline


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


def _check_weights(name: str, source: str, module: nn.Module) -> None:
    """Hold the weights' file against the model: what is missing would be random, and in silence."""
    found = _stored_names(source)
    groups: dict[int, list[str]] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(value), []).append(key)
    missing = [names[0] for names in groups.values() if not found.intersection(names)]
    unknown = sorted(found - set().union(*groups.values()) - IGNORED)
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
    known = [*zoo.names(), *PUBLISHED]
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or not name:
        raise UnknownModel(
            f"{name!r} is neither a bundled model ({', '.join(zoo.names())}), nor a directory here, nor a name "
            f"on the hub (owner/model, as {PUBLISHED[2]}).{nearest(name, known)}"
        )


def _check_config(name: str, source: str) -> None:
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
            f"probes do not apply. Supported are Chronos T5 models, as {PUBLISHED[2]}."
        )
    if not hasattr(config, "chronos_config"):
        raise UnsupportedModel(
            f"{name} is a plain {config.model_type} model without a chronos_config: it has no tokenizer for "
            f"series. Supported are Chronos T5 models, as {PUBLISHED[2]}."
        )
    if not isinstance(config.chronos_config, dict):
        raise DamagedFile(f"{name}: chronos_config must be a JSON object.")
    if config.model_type not in FAMILIES or config.chronos_config.get("model_type") != "seq2seq":
        raise UnsupportedModel(
            f"{name} is a {config.model_type} model ({config.chronos_config.get('model_type')}); supported "
            f"are {', '.join(FAMILIES)} encoder-decoders."
        )
    try:
        chronos = ChronosConfig(**config.chronos_config)
        chronos.create_tokenizer()
    except (TypeError, AttributeError, AssertionError, ValueError) as error:
        raise DamagedFile(f"{name}: the chronos_config cannot be used: {error}") from None
    if chronos.n_tokens > config.vocab_size:
        raise DamagedFile(f"{name}: the tokenizer has {chronos.n_tokens} tokens and the model {config.vocab_size}.")
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModel(f"{name} is quantised: open it in a float dtype.")


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


def _set_attention(module: T5ForConditionalGeneration, name: str) -> None:
    # transformers 5.15 and 5.16 do not pass the name on to the stacks, which have configs of their own.
    module.set_attn_implementation(name)
    for stack in (module.encoder, module.decoder):
        stack.config._attn_implementation = name


def wrap(pipeline: ChronosPipeline, *, name: str = "wrapped") -> Model:
    """A handle on a pipeline that is already open.

    The pipeline's model is switched to the hooked attention, which gives bit for bit what eager
    attention gives, and keeps working as before.

    Args:
        pipeline: a Chronos pipeline of a T5 model.
        name: what results call it.

    Returns:
        The handle.

    Raises:
        UnsupportedModel: the pipeline is not one of a T5, or its weights cannot be read.
        BrokenHook: the forward pass does not go through the hook points.
    """
    check_pipeline(pipeline)
    module = cast(T5ForConditionalGeneration, pipeline.model.model)
    model = Model(name, pipeline, FAMILIES[module.config.model_type])
    before, training = module.config._attn_implementation or "eager", module.training
    layers = [AttentionLayer(s, k, i) for s, k in KINDS for i in range(model.n_layers[s])]
    attached = [at for at in layers if attention.attach(module.get_submodule(model.family.attention_path(at)))]
    _set_attention(module, attention.NAME)
    module.eval()
    try:
        check_hooks(model)
    except BaseException:
        _set_attention(module, before)
        module.train(training)
        for at in attached:
            attention.detach(module.get_submodule(model.family.attention_path(at)))
        raise
    return model


def load(name: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Model:
    """Open a model: bundled, from a directory, or from the hub.

    Args:
        name: `pico-t5`, a directory, or a name such as `amazon/chronos-t5-small`.
        dtype: of the weights; the published notebook ran in `torch.bfloat16`.
        device: where the model runs.

    Returns:
        The handle, its hook points checked.

    Raises:
        UnknownModel: there is no such model, or it is neither cached nor to be had now.
        UnsupportedModel: something other than a Chronos T5 in safetensors.
        DamagedFile: a config or weights that cannot be read whole.
        BrokenHook: the forward pass does not go through the hook points.
    """
    return wrap(open_pipeline(str(name), dtype, device), name=str(name))
