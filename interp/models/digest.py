"""Which weights a model has, told by all their bytes.

1. A fingerprint of every parameter and buffer, read at the speed of memory: are these the weights that were there
   before? It asks nothing of how they were changed: optimizers, views and NumPy leave no trace in a tensor's version.
2. Where they are others, a SHA-256 of them by name, which results carry.

Modules of no library that a model is made of, as adapters are, also count by their class and their own settings: an
adapter that is switched off or scaled is another model with the same tensors.
"""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, cast

import torch
from torch import Tensor, nn
from xxhash import xxh3_128_digest

from interp.errors import UnsupportedModel
from interp.models.handle import Handle
from interp.models.module_tree import NNSIGHT

Named = Iterable[tuple[str, nn.Module]]
"""The modules of a model by dotted path, shared ones under each of their paths."""

# Below this one thread is done before others have begun.
_WORTH_THREADS = 2**24

_LIBRARIES = frozenset({"torch", "transformers", "chronos"})
# What every module has, and what nnsight puts on one.
_COMMON = frozenset({*vars(nn.Module()), "forward", NNSIGHT})


def digest(model: Handle) -> str:
    """Return a SHA-256 of all weights by name, its first 16 digits; recomputed only where weights have changed.

    Raises:
        UnsupportedModel: a tensor without bytes of its own, as on the meta device.
    """
    named, digests = model.follow().named, model._known.digests
    weights = fingerprint(named)
    if weights not in digests:
        digests.clear()
        digests[weights] = sha(model.module, named, model.family.ignored)
    return digests[weights]


def fingerprint(named: Named) -> Hashable:
    """Return what tells the weights of a model from any others, in this process.

    Args:
        named: the model's modules.

    Returns:
        Name, dtype, shape, device and a hash of the bytes of every parameter and buffer, and the settings of modules
        that no library knows.

    Raises:
        UnsupportedModel: a tensor without bytes of its own, as on the meta device.
    """
    tensors: list[tuple[str, Tensor]] = []
    settings: list[tuple[str, str]] = []
    for name, module in named:
        for owned in (module._parameters, module._buffers):
            tensors += [(f"{name}.{own}", value) for own, value in owned.items() if value is not None]  # type: ignore[redundant-expr]
        if not _is_of_a_library(module):
            settings.append((name, _settings(module)))
    # Tied weights are one tensor, which is read once.
    distinct = {id(value): (name, value) for name, value in tensors}
    hashes = dict(zip(distinct, _hashes(list(distinct.values())), strict=True))
    rows = ((name, value.dtype, value.shape, value.device, hashes[id(value)]) for name, value in tensors)
    return tuple(rows), tuple(settings)


def sha(module: nn.Module, named: Named, ignored: Iterable[str]) -> str:
    """Return a SHA-256 of all weights by name, its first 16 digits.

    Args:
        module: the model.
        named: its modules.
        ignored: of buffers that no checkpoint holds, those that say nothing, as regular expressions.

    Raises:
        UnsupportedModel: a tensor without bytes of its own.
    """
    hasher, stored = sha256(), module.state_dict()
    for name, value in sorted(stored.items()):
        hasher.update(f"{name}{value.dtype}{list(value.shape)}".encode())
        hasher.update(_bytes(name, value))
    for name, part in named:
        own = {f"{name}.{key}".lstrip("."): value for key, value in part._buffers.items() if value is not None}  # type: ignore[redundant-expr]
        for path, value in own.items():
            if path not in stored and not any(re.search(end, path) for end in ignored):
                hasher.update(f"{path}{value.dtype}{list(value.shape)}".encode())
                hasher.update(_bytes(path, value))
        if not _is_of_a_library(part):
            hasher.update(f"{name}{_settings(part)}".encode())
    return hasher.hexdigest()[:16]


def _hashes(tensors: list[tuple[str, Tensor]]) -> Iterator[bytes]:
    def one(tensor: tuple[str, Tensor]) -> bytes:
        return xxh3_128_digest(_bytes(*tensor))

    threads = torch.get_num_threads()
    if threads == 1 or sum(value.nbytes for _, value in tensors) < _WORTH_THREADS:
        yield from map(one, tensors)
        return
    with ThreadPoolExecutor(min(threads, 8)) as pool:
        yield from pool.map(one, tensors)


def _bytes(name: str, value: Tensor) -> memoryview:
    """Return a tensor's memory, which is copied only if it is on another device or has gaps."""
    try:
        return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    except (RuntimeError, NotImplementedError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise UnsupportedModel(
            f"{name} cannot be read byte by byte ({type(value).__name__} on {value.device}: {first}). Open the model "
            "in a float dtype, with its weights loaded."
        ) from None


def _is_of_a_library(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] in _LIBRARIES


def _settings(module: nn.Module) -> str:
    own = {name: value for name, value in vars(module).items() if name not in _COMMON}
    return f"{type(module).__module__}.{type(module).__qualname__}{_text(own)}"


def _text(value: Any) -> str:
    """Return a setting as text, without whole numbers, since modules count their calls with them."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{key}: {_text(item)}' for key, item in value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, cast(Iterable[Any], value)))}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_text, cast(Iterable[Any], value))))}}}"
    if isinstance(value, Tensor):
        return f"{value.dtype}{list(value.shape)}{xxh3_128_digest(_bytes('a tensor', value)).hex()}"
    return repr(value) if value is None or isinstance(value, bool | float | str) else type(value).__name__
