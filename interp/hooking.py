"""Hook points on every attention of a model: attached, with the attention function that calls them, and checked.

It is done on opening, and again wherever modules of the model were replaced since.
"""

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from interp import attention
from interp.checks import check_hooks
from interp.errors import ChangedModel, UnsupportedModel
from interp.tree import Tree

if TYPE_CHECKING:
    from interp.model import Model

_PACKAGES = frozenset({"interp", "probes", "circuits"})


def prepare(model: "Model") -> None:
    """Attach what hook points are missing, switch to the hooked attention, and check it; all undone if that fails.

    Raises:
        UnsupportedModel: a model of another architecture.
        BrokenHook: the forward pass does not go through the hook points.
    """
    module = model.module
    if not isinstance(module, model.family.architecture):
        raise UnsupportedModel(
            f"{model.name} was opened as a {model.family.name} and now holds a {type(module).__name__}: wrap that anew."
        )
    before, training = module.config._attn_implementation or "eager", module.training
    attached = [layer for layer in _attentions(model) if attention.attach(layer)]
    if attached:
        _own_config(model)
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


def check_unedited(model: "Model", trees: list[Tree]) -> None:
    """See that no edit is in force on modules of before or of now, where they are not the same.

    Raises:
        ChangedModel: one is.
    """
    hooked = (name for tree in trees for name, module in tree.named if any(hooks_of_ours(module)))
    if (name := next(hooked, None)) is not None:
        raise ChangedModel(
            f"{model.name}: modules were replaced while an edit of {name or 'the model'} is in force. Leave the edit, "
            "replace modules, then enter it again."
        )


def hooks_of_ours(module: nn.Module) -> Iterator[Any]:
    """The hooks on a module that this toolkit put there; what a copy made under edits brought along does nothing."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for hook in hooks.values():
            dead = getattr(getattr(hook, "__self__", None), "dead", False)
            if is_ours(hook) and not dead:
                yield hook


def is_ours(hook: Any) -> bool:
    """Whether a hook is this toolkit's, or nnsight's on its behalf."""
    return str(getattr(hook, "__module__", "")).split(".")[0] in _PACKAGES


def _attentions(model: "Model") -> Iterator[nn.Module]:
    return (model.module.get_submodule(model.family.attention_path(at)) for at in model.layers())


def _set_attention(model: "Model", name: str) -> None:
    # transformers 5.15 and 5.16 do not pass the name on to the stacks, which have configs of their own, and no
    # release does to modules that came from another model.
    model.module.set_attn_implementation(name)
    for path in model.family.stacks.values():
        model.module.get_submodule(path).config._attn_implementation = name
    for layer in _attentions(model):
        config: Any = layer.config
        config._attn_implementation = name


def _own_config(model: "Model") -> None:
    """Configs that no other model reads: it would be given the hooked attention too, without hook points."""
    module = model.module
    stacks = [module.get_submodule(path) for path in model.family.stacks.values()]
    own = {id(stack.config) for stack in stacks if stack.config is not module.config}
    copies: dict[int, Any] = {}
    for part in module.modules():
        config = getattr(part, "config", None)
        if config is not None and id(config) not in own:
            part.config = copies.setdefault(id(config), copy.deepcopy(config))
