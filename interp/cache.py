"""Read many sites in one forward pass, through an nnsight trace, in forward order."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from einops import rearrange
from nnsight import save
from torch import Tensor
from torch.nn.modules import module as module_hooks

from interp.arguments import checked
from interp.editing.scopes import entered
from interp.errors import InvalidInput, UnknownSite, nearest
from interp.inputs.batch import Batch
from interp.models.checks.states import evaluated
from interp.models.families.family import Point, part_of
from interp.models.model import Model, envoy_at
from interp.models.weights.head_weights import head_outputs
from interp.names import Site


class Cache(Mapping[str, Tensor]):
    """What `capture` read: tensors by the address of their site, in forward order.

    `cache["decoder.cross.1.pattern"]` is `[batch, head, query, key]`, as are scores; `q`, `k`,
    `v`, `z` are `[batch, pos, head, d_head]`, biases in them; `head_out` is `[batch, pos, head, d_model]`, and
    the rest `[batch, pos, d_model]`. Tensors are copies, on the model's device, in its dtype.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        self._values = values

    def __getitem__(self, key: str | Site) -> Tensor:
        name = str(key)
        if name not in self._values:
            raise UnknownSite(
                f"{name!r} was not captured.{nearest(name, self._values)} Captured: "
                f"{', '.join(list(self._values)[:6])}{', ...' if len(self._values) > 6 else ''}."
            )
        return self._values[name]

    def __contains__(self, key: object) -> bool:
        return str(key) in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        rows = [f"  {name}: {list(value.shape)}" for name, value in self._values.items()]
        return "Cache(\n" + "\n".join(rows) + "\n)"


@checked
def capture(model: Model, batch: Batch, sites: str | Site | Sequence[str | Site]) -> Cache:
    """Read sites of a model on a batch, in one forward pass that stops after the last of them.

    Args:
        model: the model; edits that are in force are seen.
        sites: addresses or patterns, such as `["decoder.cross.*.pattern", "encoder.self.0.z"]`.

    Returns:
        The tensors by site.

    Raises:
        UnknownSite: a name or pattern that matches no site of this model.
        InvalidInput: no sites, or a token outside the vocabulary.
    """
    if not isinstance(cast(object, sites), Iterable | Site):
        raise InvalidInput(f"sites={sites!r:.80}: give an address or a pattern, or several of them.")
    addresses = [sites] if isinstance(sites, str | Site) else list(sites)
    if not addresses:
        raise InvalidInput("no sites to capture: name at least one, as 'decoder.cross.*.pattern'.")
    wanted = model.sites(*addresses)
    points = {site: model.family.point(site) for site in wanted}
    with torch.no_grad():
        # What is read is an alias: a later edit in place would change it.
        read = trace(model, model.inputs(batch), list(dict.fromkeys(points.values())), Tensor.clone)
        return Cache({str(site): by_head(model, site, points[site], read[points[site]]) for site in wanted})


def _is_late(model: Model, point: Point) -> bool:
    """Tell whether a hook may change an output after nnsight, which sits inside the hooks, has read it."""
    hooks = model.module.get_submodule(point.path)._forward_hooks or module_hooks._global_forward_hooks
    return point.port == "output" and bool(hooks)


def trace(
    model: Model, inputs: dict[str, Any], points: Sequence[Point], take: Callable[[Tensor], Tensor]
) -> dict[Point, Tensor]:
    """Read points in one trace that stops after the last.

    Args:
        model: the model; edits that are in force are seen.
        inputs: of the forward.
        points: in forward order.
        take: what is made of each value, at once.

    Returns:
        The values by point, laid out as in the module.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluated(model))
        return _traced(model, inputs, points, take, stack)


def _traced(
    model: Model, inputs: dict[str, Any], points: Sequence[Point], take: Callable[[Tensor], Tensor], stack: ExitStack
) -> dict[Point, Tensor]:
    late = [point for point in points if _is_late(model, point)]
    wrapper: Any = model.nnsight
    envoys = [(point, envoy_at(wrapper, point.path)) for point in points if point not in late]
    values: dict[Point, Tensor] = {}

    def keep(point: Point, value: Any) -> None:
        values[point] = take(part_of(point, value if point.element is None else value[point.element]))

    scope = stack.enter_context(entered(model.module))
    for point in late:

        def watch(_: object, __: object, output: Any, point: Point = point) -> None:
            keep(point, output)

        scope.on_output(model.module.get_submodule(point.path), watch, stack)
    tracer: Any = wrapper.trace(**inputs)
    with tracer:
        save(values)
        for point, envoy in envoys:
            keep(point, envoy.input if point.port == "input" else envoy.output)
        if not late:
            tracer.stop()
    return values


def by_head(model: Model, site: Site, point: Point, value: Tensor) -> Tensor:
    """Return what was read at a point as the user sees the site: by head where it is flat in the module."""
    if point.layout != "heads":
        return value
    z = rearrange(value, "batch pos (head d_head) -> batch pos head d_head", head=model.n_heads)
    if site.name != "head_out":
        return z
    return head_outputs(model, site.attention, z)
