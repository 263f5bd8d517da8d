"""The modules that a model is made of: are they still those that were there before?"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from nnsight.intervention.source import STATE as NNSIGHT
from torch import nn

from interp.names import Site


class Tree:
    """All modules of a model with their places, held, so that none of them can be taken for a later one.

    Attributes:
        modules: by dotted path, each once.
        named: likewise, shared ones under each of their paths.
        sites: all sites by address, in forward order, once they were asked for.
    """

    def __init__(self, root: nn.Module) -> None:
        self.modules = dict(root.named_modules())
        self.named = list(root.named_modules(remove_duplicate=False))
        self.sites: dict[str, Site] = {}
        self._walked = _walk(root)

    def is_of(self, root: nn.Module) -> bool:
        """Tell whether a model consists of these very modules, in these places, each with the forward it had."""
        return self._walked == _walk(root)

    def wrapped(self, root: nn.Module) -> None:
        """Take note that nnsight has put its own forward on the modules, which are the same."""
        self._walked = _walk(root)


@dataclass(eq=False)
class Known:
    """What a handle knows of its model, each with what it holds for, so that it can be seen whether it still does."""

    tree: Tree | None = None
    following: int | None = None
    digests: dict[Hashable, str] = field(default_factory=dict[Hashable, str])


def _walk(root: nn.Module) -> tuple[list[nn.Module | None], list[str], list[Callable[..., Any] | None]]:
    """Collect modules level by level, how each is called, and forwards set on a module in place of its class's."""
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
