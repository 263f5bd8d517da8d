"""The modules that a model is made of: are they still those that were there before?"""

from collections.abc import Callable
from typing import Any

from torch import nn

NNSIGHT = "__nnsight__"
"""Where nnsight notes on a module that it has put its own forward there."""


class Tree:
    """All modules of a model with their places, held, so that none of them can be taken for a later one."""

    def __init__(self, root: nn.Module) -> None:
        self._walked = _walk(root)
        self.named: list[tuple[str, nn.Module]] = list(root.named_modules(remove_duplicate=False))
        """The modules by dotted path, shared ones under each of their paths."""

    def is_of(self, root: nn.Module) -> bool:
        """Whether a model is made of these very modules, in these places, each with the forward it had."""
        return self._walked == _walk(root)


def _walk(root: nn.Module) -> tuple[list[nn.Module | None], list[str], list[Callable[..., Any] | None]]:
    """Modules, level by level; how each is called; and forwards that were put on a module in place of its class's."""
    # Much faster than `named_modules`, which makes every path: this runs before most of what a handle does.
    modules: list[Any] = [root]
    names: list[str] = []
    forwards: list[Any] = []
    for module in modules:
        if module is None:
            continue
        if children := module._modules:
            names.extend(children)
            modules.extend(children.values())
        own = module.__dict__
        if (forward := own.get("forward")) is None:
            if NNSIGHT in own:
                forwards.append(None)
        elif not type(forward).__module__.startswith("nnsight"):
            forwards.append(forward)  # nnsight's own calls the one that it found there
    return modules, names, forwards


def release(tree: Tree) -> None:
    """Let nnsight wrap those modules anew whose forward was changed after it had put its own there."""
    for _, module in tree.named:
        own = module.__dict__
        if NNSIGHT in own and not type(own.get("forward")).__module__.startswith("nnsight"):
            del own[NNSIGHT]
