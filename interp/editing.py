"""Edits applied to whatever runs inside a context, and always undone.

1. Each edit becomes actions at points of the model. What they need from references is read first,
   from the model with no edit in force.
2. A point that is edited gets one hook, however many contexts meet there. It copies the tensor,
   lets the actions that set a value act before those that change one, and passes it on.
3. On leaving, normally or not, the actions go, and with the last one its hook. An edit that never
   acted is then an error, unless an exception is already on its way.

Hooks are plain PyTorch: a forward, `generate`, `pipeline.predict` and nnsight traces all run them.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.actions import Action, Run, actions
from interp.edits import Add, Edit, Knockout, Method, Reference, Scale, Target, Zero, ablations
from interp.errors import InertEdit, InvalidInput
from interp.families import Point
from interp.model import Model
from interp.names import Site


@dataclass(eq=False)
class _PointHook:
    """The one hook at a point: a copy of the tensor goes through all actions there."""

    point: Point
    n_heads: int
    actions: list[Action] = field(default_factory=list[Action])
    paused: bool = False
    handle: RemovableHandle | None = None

    def __deepcopy__(self, _: dict[int, Any]) -> "_PointHook":
        # A copy of a model that is being edited is a model, not an edited one for ever.
        return _PointHook(self.point, self.n_heads, paused=True)

    def _pass(self, raw: Tensor) -> Tensor:
        value = raw.clone()
        view = value.unflatten(-1, (self.n_heads, -1)) if self.point.layout == "heads" else value
        for action in self.actions:
            part = view
            if action.head is not None:
                part = view[:, action.head] if self.point.layout == "square" else view[..., action.head, :]
            made = action.act(part)
            if made is not None:
                part.copy_(made)
                action.acted = True
        return value

    def on_input(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.paused:
            return None
        if args:
            return (self._pass(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: self._pass(kwargs[name])}

    def on_output(self, _: nn.Module, __: Any, output: Any) -> Any:
        if self.paused:
            return None
        element = self.point.element
        if element is None:
            return self._pass(output)
        return (*output[:element], self._pass(output[element]), *output[element + 1 :])

    def attach(self, module: nn.Module) -> None:
        # nnsight serves an output as it was before a hook changed it; scores and pattern are
        # identities, whose input serves as well.
        if self.point.port == "input" or self.point.layout == "square":
            self.handle = module.register_forward_pre_hook(self.on_input, with_kwargs=True)
        else:
            self.handle = module.register_forward_hook(self.on_output)


def _owners(module: nn.Module) -> Iterator[Any]:
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for hook in hooks.values():
            yield getattr(hook, "__self__", None)


def _hooks_of(module: nn.Module) -> Iterator[_PointHook]:
    return (owner for owner in _owners(module) if isinstance(owner, _PointHook))


@contextmanager
def unedited(model: Model) -> Generator[None]:
    """The model without the edits that are in force, which act again afterwards."""
    owners = [owner for module in model._modules.values() for owner in _owners(module)]
    pausing = [owner for owner in owners if isinstance(owner, _PointHook | Run) and not owner.paused]
    for owner in pausing:
        owner.paused = True
    try:
        yield
    finally:
        for owner in pausing:
            owner.paused = False


def check_unhooked(model: Model, what: str) -> None:
    """See that nothing edits the model, for what runs its layers one by one.

    Raises:
        InvalidInput: edits are in force, or modules have forward hooks of the user's own.
    """
    for name, module in model._modules.items():
        if module._forward_pre_hooks or module._forward_hooks:
            raise InvalidInput(
                f"{what} runs on the unedited model: {name or 'the model'} has hooks. Leave edits first."
            )


@contextmanager
def edited(model: Model, edits: Edit | Sequence[Edit]) -> Generator[None]:
    """Apply edits to whatever runs inside: a forward, `generate`, `predict`, an nnsight trace.

    Args:
        model: the model. Contexts nest; references are always taken from the unedited model.
        edits: one or several. Values are set before anything is scaled, added or cut, so the order
            does not decide what is lost.

    Yields:
        Nothing; the edits are in force until the context is left, by whatever way.

    Raises:
        UnknownHead, UnknownSite: an address that this model does not have.
        InvalidInput: an edit that is given twice, two that set the same value in different ways, a
            reference or value of another shape; and while running, positions, rows or tokens that
            a reference does not have.
        InertEdit: on leaving, an edit that reached no module: nothing ran, or nothing that has it.
    """
    items: list[Edit] = [edits] if isinstance(edits, Edit) else list(edits)
    run = Run()
    with unedited(model):
        made = actions(model, items, run)
    _check_conflicts(model, made)
    with ExitStack() as stack:
        # Zero, Scale and Add need not know where in a run they are.
        if not all(isinstance(edit, Zero | Scale | Add) for edit in items):
            for name, see in (("encoder", run.see_encoder), ("decoder", run.see_decoder)):
                watched = model.module.get_submodule(name)
                stack.callback(watched.register_forward_pre_hook(see, with_kwargs=True).remove)
        for action in made:
            _place(model, action, stack)
        yield
    _check_reached(items, made)


@contextmanager
def ablate(
    model: Model,
    targets: Target | Sequence[Target],
    *,
    method: Method = "zero",
    reference: Reference | None = None,
    by_position: bool = False,
) -> Generator[None]:
    """Ablate heads, attention layers or sites in whatever runs inside.

    Args:
        model: the model.
        targets: such as `["decoder.cross.1.3", "encoder.self.0", "decoder.0.mlp_out"]`, or
            `mosaic.heads()`.
        method: `zero`; `mean` over the reference; `resample` from the reference, row by row.
        reference: a batch, or for means several.
        by_position: whether means are taken at each position by itself.

    Yields:
        Nothing, as `edited`.

    Raises:
        InvalidInput: an unknown method, a reference that is missing or not used, a target that is
            named twice; and all that `edited` raises.
    """
    with edited(model, ablations(targets, method, reference, by_position)):
        yield


def _place(model: Model, action: Action, stack: ExitStack) -> None:
    point = model.family.point(action.site)
    module = model.module.get_submodule(point.path)
    hook = next((found for found in _hooks_of(module) if found.point == point), None)
    if hook is None:
        hook = _PointHook(point, model.n_heads)
        hook.attach(module)
    hook.actions.append(action)
    hook.actions.sort(key=lambda action: not action.sets)  # stable: values are set first, then changed in turn
    stack.callback(_remove, hook, action)


def _remove(hook: _PointHook, action: Action) -> None:
    hook.actions.remove(action)
    if not hook.actions and hook.handle is not None:
        hook.handle.remove()


def _check_conflicts(model: Model, made: Sequence[Action]) -> None:
    """Two edits that set one value, or one that cuts scores whose pattern is set."""
    outer = [action for module in model._modules.values() for hook in _hooks_of(module) for action in hook.actions]
    for index, action in enumerate(made):
        for other in made[:index]:
            if other.edit == action.edit and other.site == action.site:
                raise InvalidInput(f"{action.edit} is given twice. Give each edit once.")
        for other in [*made[:index], *outer]:
            overlap = _tensor(model, action.site) == _tensor(model, other.site) and (
                None in (action.head, other.head) or action.head == other.head
            )
            if (
                overlap
                and action.sets
                and other.sets
                and not (isinstance(action.edit, Zero) and action.edit == other.edit)
            ):
                raise InvalidInput(f"{other.edit} and {action.edit} set the same value in two ways: give one of them.")
            for cut, setter in ((action, other), (other, action)):
                if isinstance(cut.edit, Knockout) and setter.sets and _is_pattern_of(setter.site, cut.site):
                    if setter.head not in (None, cut.head):
                        continue
                    raise InvalidInput(
                        f"{cut.edit} acts on the scores, and {setter.edit} sets the pattern that is made from them: "
                        "the knockout would be lost. Give it with renormalise=False."
                    )


def _is_pattern_of(pattern: Site, scores: Site) -> bool:
    return (pattern.name, scores.name) == ("pattern", "scores") and (pattern.stack, pattern.kind, pattern.layer) == (
        scores.stack,
        scores.kind,
        scores.layer,
    )


def _tensor(model: Model, site: Site) -> Site:
    """One name for each tensor: what a layer puts out is what the next one takes in."""
    if site.name == "resid_post" and site.layer is not None and site.layer + 1 < model.n_layers[site.stack]:
        return Site(site.stack, None, site.layer + 1, "resid_pre")
    return site


def _check_reached(edits: Sequence[Edit], made: Sequence[Action]) -> None:
    for edit in edits:
        mine = [action for action in made if action.edit is edit]
        reasons = [reason for action in mine if (reason := action.missing())]
        if len(reasons) == len(mine):
            raise InertEdit(
                f"{edit} did not act: {reasons[0]}. Run the model inside the context (the encoder runs only where its "
                "output is not given), and mind the positions."
            )
