"""Edits applied to whatever runs inside a context, and always undone.

1. Each edit becomes actions at points of the model. What they need from references is read first,
   from the model with no edit in force.
2. A point that is edited gets one hook, however many contexts meet there. It copies the tensor,
   lets the actions that set a value act before those that change one, and passes it on. Only actions
   of contexts that were entered where the model runs act: in that thread and task.
3. On leaving, normally or not, the actions go, and with the last one its hook. An edit that never
   acted is then an error, unless an exception is already on its way.

Hooks are plain PyTorch: a forward, `generate`, `pipeline.predict` and nnsight traces all run them.
"""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from interp.arguments import checked
from interp.editing import scopes
from interp.editing.actions import Action, actions
from interp.editing.edit import Edit, Target, addresses_of
from interp.editing.edits import Reference
from interp.editing.methods import Method, ablations
from interp.editing.positions import Positions, apart
from interp.editing.running import Run
from interp.editing.scopes import Bound, Scope, entered, outside
from interp.errors import ChangedModel, InertEdit, InvalidInput
from interp.inputs.batch import Batch
from interp.models.checks.states import check_attention, check_not_checkpointed, eager
from interp.models.families.family import Point, part_of
from interp.models.hooking import owners
from interp.models.model import Model
from interp.names import Site


@dataclass(eq=False)
class _PointHook:
    """The one hook at a point: a copy of the tensor goes through all actions there that are in force where it runs."""

    point: Point
    n_heads: int
    actions: tuple[tuple[Scope, Action], ...] = ()

    def __reduce__(self) -> tuple[type["_PointHook"], tuple[Point, int]]:
        # A copy or pickle of a model that is being edited is a model, not an edited one for ever.
        return _PointHook, (self.point, self.n_heads)

    @property
    def here(self) -> list[Action]:
        """The actions of contexts that the thread and task that is running entered."""
        return [action for scope, action in self.actions if scope.here]

    def _pass(self, raw: Tensor, here: list[Action]) -> Tensor:
        check_not_checkpointed()
        value = raw if self.point.shared else raw.clone()
        part = part_of(self.point, value)
        view = part.unflatten(-1, (self.n_heads, -1)) if self.point.layout == "heads" else part
        for action in here:
            mine = view
            if action.head is not None:
                mine = view[:, action.head] if self.point.layout == "square" else view[..., action.head, :]
            replaced = action.act(mine)
            if replaced is not None:
                mine.copy_(replaced)
                action.acted = True
        return value

    def on_input(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        here = self.here
        # Without keywords it was taken off between being looked up and called, so it is another thread's.
        if not here or kwargs is None:
            return None
        if args:
            return (self._pass(args[0], here), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: self._pass(kwargs[name], here)}

    def on_output(self, _: nn.Module, __: Any, output: Any) -> Any:
        here = self.here
        if not here:
            return None
        element = self.point.element
        if element is None:
            return self._pass(output, here)
        if isinstance(element, str):
            return type(output)(**{**output, element: self._pass(output[element], here)})
        return (*output[:element], self._pass(output[element], here), *output[element + 1 :])

    def attach(self, module: nn.Module) -> None:
        # nnsight serves an output as it was before a hook changed it; scores and pattern are
        # identities, whose input serves as well.
        if self.point.port == "input" or self.point.layout == "square":
            # A hook of the user's that hands on another tensor must not come before an edit in place.
            module.register_forward_pre_hook(self.on_input, with_kwargs=True, prepend=self.point.shared)
        else:
            module.register_forward_hook(self.on_output)


def _hooks_of(module: nn.Module) -> list[_PointHook]:
    return [owner for owner in owners(module) if isinstance(owner, _PointHook)]


def check_unhooked(model: Model, what: str) -> None:
    """Check that nothing edits the model, for experiments that run its layers one by one.

    Edits of other threads and tasks do not count: they are not seen here.

    Raises:
        InvalidInput: edits are in force, or there are forward hooks of the user's own, of a module or of all.
    """
    for name, module in model._modules.items():
        for owner in owners(module):
            if not isinstance(owner, _PointHook | Bound) or owner.here:
                raise InvalidInput(
                    f"{what} runs on the unedited model: {name or 'the model'} has hooks. Leave edits first, and take "
                    "hooks of your own off."
                )
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        raise InvalidInput(
            f"{what} runs on the unedited model: there are forward hooks of all modules, as of "
            "torch.nn.modules.module.register_module_forward_hook. Take them off first."
        )


def is_hooked(model: Model) -> bool:
    """Return whether edits in force here, or forward hooks of the user's own, may change what the model computes."""
    try:
        check_unhooked(model, "this")
    except InvalidInput:
        return True
    return False


@checked
@contextmanager
def edited(model: Model, edits: Edit | Sequence[Edit]) -> Generator[None]:
    """Apply edits to whatever runs inside: a forward, `generate`, `predict`, an nnsight trace.

    Args:
        model: the model. Contexts nest; references are always taken from the unedited model.
        edits: one or several. Values are set before anything is scaled, added or cut, so the order
            does not decide what is lost.

    Yields:
        Nothing; the edits are in force until the context is left, by whatever way, in the thread and task that
        entered it. Tasks that asyncio starts inside, and `asyncio.to_thread`, see them too while it lasts; other
        threads see the model without them. The module's own mode stays: a training step sees the edits as well, but
        references are read in eval mode. In an nnsight trace
        of your own, a value that is edited at a module's output (q, k, v, attn_out, mlp_out, the
        residual stream, logits) is served at that very site as it was before; all that follows is
        edited, and `capture` gives the site itself as it is used.

    Raises:
        UnknownHead, UnknownSite: an address that this model does not have.
        InvalidInput: an edit that is given twice, two that set the same value in different ways, a
            reference or value of another shape; and while running, positions, rows or tokens that
            a reference does not have.
        InertEdit: on leaving, an edit that reached no module: nothing ran, or nothing that has it.
        ChangedModel: modules of the model were replaced meanwhile.
    """
    listed: Any = [edits] if isinstance(edits, Edit) else edits
    if not isinstance(listed, Sequence):
        raise InvalidInput(f"edits={edits!r}: give an edit, or several of them.")
    items: list[Edit] = list(cast(Sequence[Edit], listed))
    known = [edit for edit in items if isinstance(cast(object, edit), Edit)]
    run = _run(model, next((edit.frozen for edit in known if edit.frozen is not None), None))
    model.follow()
    with outside(model.module):
        acts = actions(model, items, run)
    if any(action.site.is_square for action in acts):
        check_attention(model)
    _check_conflicts(model, acts)
    with ExitStack() as stack, entered(model.module) as scope, eager():
        if any(action.reads_run for action in acts):
            _watch(model, run, scope, stack)
        hooked = dict(_place(model, action, scope, stack) for action in acts)
        yield
        for path, module in hooked.items():
            if model.module.get_submodule(path) is not module:
                raise ChangedModel(
                    f"{path} was replaced while it was edited: what then ran was not. Replace modules first, and edit "
                    "the model after."
                )
    _check_reached(items, acts)


@checked
@contextmanager
def ablate(
    model: Model,
    targets: Target | Sequence[Target],
    *,
    method: Method = "zero",
    reference: Reference | None = None,
    by_position: bool = False,
    positions: Positions | None = None,
) -> Generator[None]:
    """Ablate heads, attention layers or sites in whatever runs inside.

    Args:
        targets: such as `["decoder.cross.1.3", "encoder.self.0", "decoder.0.mlp_out"]`, or
            `mosaic.heads()`.
        method: `zero`; `mean` over the reference; `resample` from the reference, row by row.
        reference: a batch, or for means several.
        by_position: whether means are taken at each position by itself.
        positions: where along the sequence, as in an edit: `positions=slice(1, None)` leaves the first alone.

    Yields:
        Nothing, as `edited`.

    Raises:
        InvalidInput: an unknown method, a reference that is missing or not used, a target that is
            named twice; and all that `edited` raises.
    """
    with edited(model, ablations(addresses_of(model, targets), method, reference, by_position, positions)):
        yield


def _run(model: Model, frozen: Batch | None) -> Run:
    if model.reads_tokens:
        return Run(frozen)
    return Run(frozen, model.horizon, len(model.levels), model.patching.context_length)


def _watch(model: Model, run: Run, scope: Scope, stack: ExitStack) -> None:
    modules = {name: model.module.get_submodule(path) for name, path in model.family.stacks.items()}
    if (encoder := modules.get("encoder")) is not None:
        scope.on_input(encoder, run.enter_encoder, stack, with_kwargs=True)
        scope.on_output(encoder, run.see_encoder, stack, with_kwargs=True)
    scope.on_input(modules["decoder"], run.enter_decoder, stack, with_kwargs=True)
    if (patches := model.family.patches) is not None:
        scope.on_input(model.module.get_submodule(patches.values), run.enter_values, stack, with_kwargs=True)


def _place(model: Model, action: Action, scope: Scope, stack: ExitStack) -> tuple[str, nn.Module]:
    point = model.family.point(action.site)
    module = model.module.get_submodule(point.path)
    with scopes.lock:
        hook = next((ours for ours in _hooks_of(module) if ours.point == point), None)
        hook = hook or _PointHook(point, model.n_heads)
        # Undone whatever comes, an interrupt between these lines too.
        stack.callback(_remove, module, hook, action)
        # Stable: values are set first, then changed in turn. Never in place: another thread may be going through.
        hook.actions = tuple(sorted([*hook.actions, (scope, action)], key=lambda entry: not entry[1].edit.sets))
        if hook not in _hooks_of(module):
            hook.attach(module)
    return point.path, module


def _remove(module: nn.Module, hook: _PointHook, action: Action) -> None:
    with scopes.lock:
        hook.actions = tuple(entry for entry in hook.actions if entry[1] is not action)
        if hook.actions:
            return
        for table in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, entry in table.items() if getattr(entry, "__self__", None) is hook]:
                for entries in (table, module._forward_pre_hooks_with_kwargs, module._forward_hooks_with_kwargs):
                    entries.pop(key, None)


def _check_conflicts(model: Model, acts: Sequence[Action]) -> None:
    """Check that no two edits set one value, and that none cuts scores whose pattern is set."""
    outer = [action for module in model._modules.values() for hook in _hooks_of(module) for action in hook.here]
    for index, action in enumerate(acts):
        for other in acts[:index]:
            if other.edit == action.edit and (other.site, other.head) == (action.site, action.head):
                raise InvalidInput(f"{action.edit} is given twice. Give each edit once.")
        for other in [*acts[:index], *outer]:
            if _both_set(model, action, other):
                raise InvalidInput(f"{other.edit} and {action.edit} set the same value in two ways: give one of them.")
            for cut, setter in ((action, other), (other, action)):
                if _is_lost(cut, setter):
                    raise InvalidInput(
                        f"{cut.edit} acts on the scores, and {setter.edit} sets the pattern that is made from them: "
                        "the knockout would be lost. Give it with renormalise=False."
                    )


def _both_set(model: Model, one: Action, other: Action) -> bool:
    """Tell whether two actions set the same value differently; zero is zero, whoever says so."""
    other_head = None not in (one.head, other.head) and one.head != other.head
    other_places = apart(getattr(one.edit, "positions", None), getattr(other.edit, "positions", None))
    meet = _tensor(model, one.site) == _tensor(model, other.site) and not other_head and not other_places
    return one.edit.sets and other.edit.sets and meet and not one.edit.agrees(other.edit)


def _is_lost(cut: Action, setter: Action) -> bool:
    """Tell whether a knockout acts on scores whose pattern is set."""
    pattern, scores = setter.site, cut.site
    same_layer = (pattern.stack, pattern.kind, pattern.layer) == (scores.stack, scores.kind, scores.layer)
    names = (pattern.name, scores.name) == ("pattern", "scores")
    return cut.edit.cuts and setter.edit.sets and names and same_layer


def _tensor(model: Model, site: Site) -> Site:
    """Return one name for each tensor: a layer's output is the next one's input, and z gives the attention's output."""
    if site.name == "attn_out":
        return Site(site.stack, site.kind, site.layer, "z")
    if site.name == "resid_post" and site.layer is not None and site.layer + 1 < model.n_layers[site.stack]:
        return Site(site.stack, None, site.layer + 1, "resid_pre")
    return site


def _check_reached(edits: Sequence[Edit], acts: Sequence[Action]) -> None:
    for edit in edits:
        mine = [action for action in acts if action.edit is edit]
        reasons = [reason for action in mine if (reason := action.missing())]
        if len(reasons) == len(mine):
            raise InertEdit(
                f"{edit} did not act: {reasons[0]}. Run the model inside the context (the encoder runs only where its "
                "output is not given), and mind the positions."
            )
