"""What modules compute with: read from their parameters where they are what they look like, else from what they do.

1. A plain Linear, Conv1D or Embedding has its weights in its parameters. Whatever else stands in its place, an adapter
   that is not merged, a parametrisation, a wrapper, a hook that changes what it puts out, is run on unit vectors: what
   it makes of them, less what it makes of zero, is its weight.
2. What was read is held against the module itself, on a few random rows of several sizes. A module that is not linear
   is refused: there is no weight to read.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.errors import InvalidInput, UnsupportedModel
from interp.models.checks.states import in_eval_mode
from interp.models.handle import Handle
from interp.models.hooking import foreign_hooks
from interp.models.module_tree import NNSIGHT

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What can be computed with: 8-bit floats are storage, as integers are."""

_SIZES = (1.0, 1.0, 10.0, 100.0, 0.1, 0.0)
"""Of the rows on which what was read is held against the module: what clamps, rounds or bends shows at one of them."""

_CHUNK = 512
"""How many unit vectors are run at a time."""

MERGE = "Merge adapters into plain weights (merge_and_unload of peft), and take hooks off."


def readable(model: Handle, path: str, name: str = "weight") -> Tensor:
    """Return a module's weight or bias, detached, checked for what cannot be computed with.

    Args:
        path: of the module, dotted.
        name: of the parameter.

    Returns:
        The parameter itself, not a copy.

    Raises:
        UnsupportedModel: weights on the meta device, or quantised.
        InvalidInput: weights with NaN or infinite values.
    """
    return _finite(model, path, getattr(model.module.get_submodule(path), name, None))


def affine(
    model: Handle, path: str, width: int, inside: bool = False
) -> tuple[Float[Tensor, "input output"], Float[Tensor, " output"] | None]:
    """Return what a projection does to rows: x @ weight + bias.

    Args:
        path: of the module, dotted.
        width: of the rows that it reads.
        inside: whether the rows are what came through hooks on its input, as z is read.

    Returns:
        Weight and bias, None where there is none; of a plain module its own parameters, not copies.

    Raises:
        UnsupportedModel: a module that is not linear, or weights that are quantised or on the meta device.
        InvalidInput: weights with NaN or infinite values.
    """
    module = model.module.get_submodule(path)
    run = computing(model, path, module, inside)
    if _is_plain(module, (nn.Linear, Conv1D)):
        weight = readable(model, path)
        weight = weight if type(module) is Conv1D else weight.T
        bias = None if module.bias is None else readable(model, path, "bias")
    else:
        zero = run(torch.zeros(1, 1, width))[0]
        rows = [run(part[None])[0] - zero for part in torch.eye(width).split(_CHUNK)]
        weight = _finite(model, path, torch.cat(rows))
        bias = _finite(model, path, zero[0]) if bool(zero.any()) else None
    x = probe(width)
    actual = run(x)[0].double()
    x = x[0].to(weight)
    with torch.autocast(model.device.type, enabled=False):
        expected = (x @ weight if bias is None else x @ weight + bias).double()
    size = x.double().norm(dim=1, keepdim=True) * weight.norm(dim=0, dtype=torch.float64)
    allowed = rounding(weight, width) * (size if bias is None else size + bias.double().abs())
    if actual.shape != expected.shape or bool(((actual - expected).abs() > allowed).any()):
        raise UnsupportedModel(
            f"{model.name}: {path} ({type(module).__name__}) is not linear, so it has no weight that could be read. "
            + MERGE
        )
    return weight, bias


def looked_up(model: Handle, path: str, count: int) -> Float[Tensor, "id width"]:
    """Return the rows of an embedding.

    Args:
        path: of the module, dotted.
        count: how many there are.

    Returns:
        Its first so many rows; of a plain module its own parameter, not a copy.

    Raises:
        UnsupportedModel: a module that is no embedding, or weights that are quantised or on the meta device.
        InvalidInput: weights with NaN or infinite values.
    """
    module = model.module.get_submodule(path)
    run = computing(model, path, module)
    if not _is_plain(module, (nn.Embedding,)):
        return _finite(model, path, run(torch.arange(count)[None])[0])
    rows = readable(model, path)
    ids = torch.linspace(0, len(rows) - 1, min(4, len(rows))).long()
    if not torch.equal(run(ids[None])[0], rows[ids.to(rows.device)]):
        raise UnsupportedModel(f"{model.name}: {path} does not give the rows of its weight. {MERGE}")
    return rows


def _finite(model: Handle, path: str, weight: object) -> Tensor:
    if not isinstance(weight, Tensor) or weight.dtype not in DTYPES:
        raise UnsupportedModel(f"{model.name}: {path} is quantised: open the model in a float dtype.")
    if weight.is_meta:
        raise UnsupportedModel(f"{model.name}: {path} is on the meta device: load the weights first.")
    # The sum is many times faster; it can overflow where every weight is finite.
    if not bool(weight.detach().sum().isfinite()) and not bool(weight.isfinite().all()):
        raise InvalidInput(f"{model.name}: {path} holds NaN or infinite weights: load the model again.")
    return weight.detach()


def _is_plain(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Tell whether a module is of a known class, with no forward and no hook that could make it another."""
    return type(module) in kinds and _forward(module) is type(module).forward and not any(foreign_hooks(module))


def _forward(module: nn.Module) -> Callable[..., Any]:
    """Return the forward that runs, as a function of the module too; below nnsight's own, which belongs to traces."""
    own = module.__dict__.get("forward")
    if own is None:
        return type(module).forward
    if type(own).__module__.startswith("nnsight"):
        return module.__dict__[NNSIGHT].body

    def bound(_: nn.Module, x: Tensor) -> Tensor:
        return own(x)

    return bound


def computing(model: Handle, path: str, module: nn.Module, inside: bool = False) -> Callable[[Tensor], Tensor]:
    """Return what a module computes from rows or ids, with the user's own hooks and without edits of this toolkit."""
    dtype, device = model.dtype, model.device

    @torch.no_grad()
    def run(x: Tensor) -> Tensor:
        x = x.to(device) if not x.is_floating_point() else x.to(device, dtype)
        try:
            with in_eval_mode(module), torch.autocast(device.type, enabled=False):
                for before, hook, keywords in foreign_hooks(module):
                    if before:
                        changed = hook(module, (x,), {}) if keywords else hook(module, (x,))
                        changed = changed[0] if keywords and changed is not None else changed
                        x = x if changed is None or inside else changed[0] if isinstance(changed, tuple) else changed
                y = _forward(module)(module, x)
                for before, hook, keywords in foreign_hooks(module):
                    if not before:
                        changed = hook(module, (x,), {}, y) if keywords else hook(module, (x,), y)
                        y = y if changed is None else changed
                return y.detach()
        except Exception as error:
            raise UnsupportedModel(
                f"{model.name}: {path} ({type(module).__name__}) cannot be run on rows of its own to read what it "
                f"computes: {type(error).__name__}: {str(error)[:100]}. {MERGE}"
            ) from error

    return run


def probe(width: int) -> Float[Tensor, "1 row width"]:
    x = torch.randn(1, len(_SIZES), width, generator=torch.Generator().manual_seed(width))
    return x * torch.tensor(_SIZES)[:, None]


def rounding(weight: Tensor, terms: int) -> float:
    """Return how far a sum of so many products may be off, relative to the sizes of what is multiplied."""
    summed = torch.finfo(torch.promote_types(weight.dtype, torch.float32)).eps
    if weight.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        summed = 2.0**-10 / math.sqrt(terms)
    return terms * summed + 8 * torch.finfo(weight.dtype).eps
