"""Hook points on every attention of a model: attached, with the attention function that calls them, and checked.

It is done on opening, and again wherever modules of the model were replaced since.
"""

import copy
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any, TypeVar

from torch import nn

from interp.editing import scopes
from interp.errors import ChangedModel, UnsupportedModel
from interp.models import hooks as attention
from interp.models.checks.hook_points import check_hooks, check_readout
from interp.models.handle import Handle
from interp.models.module_tree import Tree

M = TypeVar("M", bound=Handle)

HARMLESS = "make_inputs_require_grads"
"""A hook of Hugging Face's on embeddings, for gradient checkpointing, which changes no number."""

_PACKAGES = frozenset({"interp", "probes", "circuits"})


def follow(model: M, *checks: Callable[[M], None]) -> Tree:
    """Make a handle one of the modules as they are now, with hook points on those that came since the last use.

    Args:
        checks: of what was made, beside the check of the hook points; if one fails, all is undone.

    Returns:
        The modules.

    Raises:
        UnsupportedModel: the model itself was replaced by one of another architecture.
        ChangedModel: modules were replaced while an edit is in force.
        BrokenHook: the forward pass does not go through the hook points of what is there now.
    """
    known, module = model._known, model.module
    if known.tree is not None and known.tree.is_of(module):
        return known.tree
    if known.following == get_ident():
        return Tree(module)  # what is being checked
    with scopes.lock:
        now = Tree(module)
        if known.tree is not None:
            _check_unedited(model, [known.tree, now])
        known.following = get_ident()
        try:
            with scopes.outside(module):
                _prepare(model, checks)
        finally:
            known.following = None
        known.tree = Tree(module)
        return known.tree


def _prepare(model: M, checks: tuple[Callable[[M], None], ...]) -> None:
    """Attach missing hook points, switch to the hooked attention, and check it; all is undone if that fails."""
    module = model.module
    if not isinstance(module, model.family.architecture):
        raise UnsupportedModel(
            f"{model.name} was opened as a {model.family.name} and now holds a {type(module).__name__}: wrap that anew."
        )
    before = module.config._attn_implementation or "eager"
    attached = [layer for layer in _attentions(model) if attention.attach(layer)]
    if attached:
        _own_config(model)
    _set_attention(model, attention.NAME)
    try:
        for check in (check_hooks, check_readout, *checks):
            check(model)
    except BaseException:
        _set_attention(model, before)
        for layer in attached:
            attention.detach(layer)
        raise


def _check_unedited(model: Handle, trees: list[Tree]) -> None:
    """Check that no edit is in force on modules of before or of now, where they differ."""
    for tree in trees:
        for name, module in tree.named:
            if any(getattr(owner, "here", False) for owner in owners(module) if is_ours(owner)):
                raise ChangedModel(
                    f"{model.name}: modules were replaced while an edit of {name or 'the model'} is in force. Leave "
                    "the edit, replace modules, then enter it again."
                )


def owners(module: nn.Module) -> list[Any]:
    """Return the owners of a module's hooks; a function is its own owner."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [getattr(hook, "__self__", hook) for hook in hooks if getattr(hook, "__name__", "") != HARMLESS]


def foreign_hooks(module: nn.Module) -> Iterator[tuple[bool, Callable[..., Any], bool]]:
    """Return a module's hooks of others: whether before its forward, the hook, whether with keywords."""
    for before, hooks, keywords in (
        (True, module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (False, module._forward_hooks, module._forward_hooks_with_kwargs),
    ):
        for key, hook in list(hooks.items()):
            if not is_ours(getattr(hook, "__self__", hook)):
                yield before, hook, key in keywords


def is_ours(owner: object) -> bool:
    """Tell whether a hook is this toolkit's."""
    return type(owner).__module__.split(".")[0] in _PACKAGES


def _attentions(model: Handle) -> Iterator[nn.Module]:
    return (model.module.get_submodule(model.family.attention_path(at)) for at in model.layers())


def _set_attention(model: Handle, name: str) -> None:
    # transformers 5.15 and 5.16 do not pass the name on to the stacks, which have configs of their own, and no
    # release does to modules that came from another model.
    model.module.set_attn_implementation(name)
    for path in model.family.stacks.values():
        model.module.get_submodule(path).config._attn_implementation = name
    for layer in _attentions(model):
        config: Any = layer.config
        config._attn_implementation = name


def _own_config(model: Handle) -> None:
    """Give the model configs that no other model reads, which would get the hooked attention without hook points."""
    module = model.module
    stacks = [module.get_submodule(path) for path in model.family.stacks.values()]
    own = {id(stack.config) for stack in stacks if stack.config is not module.config}
    copies: dict[int, Any] = {}
    for part in module.modules():
        config = getattr(part, "config", None)
        if config is not None and id(config) not in own:
            part.config = copies.setdefault(id(config), copy.deepcopy(config))
