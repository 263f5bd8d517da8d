"""The gradient of a metric by any site, from one forward and one backward pass.

Source: nnsight's tutorials on gradients; activations and logits are read in a trace, and differentiated outside it.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.edges import EMBEDDINGS
from circuits.measurement import measured, metric_name
from circuits.metrics import Metric
from interp import Batch, Model, Site
from interp.arguments import checked
from interp.cache import Cache, by_head, trace
from interp.editing.scopes import entered
from interp.errors import InvalidInput
from interp.models.families.family import Point, part_of
from interp.models.model import as_model
from interp.names import Stack


@dataclass(frozen=True, eq=False)
class Gradients:
    """Values and gradients by site, laid out alike, and the metric `[row]`."""

    values: Cache
    gradients: Cache
    metric: Float[Tensor, " row"]


@checked
def gradients(model: Model, batch: Batch, metric: Metric, sites: str | Site | Sequence[str | Site]) -> Gradients:
    """Compute the gradient of a metric by the value at each site, row by row.

    Args:
        model: the model; edits that are in force are seen.
        metric: from logits `[row, pos, token]`, or quantiles, to `[row]`, by operations of torch.
        sites: addresses or patterns, such as `["decoder.cross.*.z", "encoder.*.mlp_out"]`.

    Returns:
        Values and gradients; a site's gradient has the site's shape. Rows do not see each other, so that the gradient
        at a row is that of its own metric. At padding it is 0, since nothing reads it, and the value is what the model
        has there.

    Raises:
        UnknownSite: a name or pattern that matches no site of this model.
        InvalidInput: no sites, or patterns of `head_out` or the output, which the forward pass does not go on from; a
            metric that is not one number per row, or is not differentiable by the output.
    """
    if not isinstance(cast(object, sites), Iterable | Site):
        raise InvalidInput(f"sites={sites!r:.80}: give an address or a pattern, or several of them.")
    addresses = [sites] if isinstance(sites, str | Site) else list(sites)
    wanted = as_model(model).sites(*addresses) if addresses else []
    if not wanted or any(site.name == "head_out" or site == model.output for site in wanted):
        raise InvalidInput(
            f"sites={[str(site) for site in addresses]}: name at least one on the way to the {model.output.name}, such "
            "as 'decoder.cross.*.z'; head_out is made from z."
        )
    points = {site: model.family.point(site) for site in [*wanted, model.output]}
    with torch.inference_mode(False), torch.enable_grad():
        # Inputs from inference mode could not be saved for the backward pass.
        arguments: dict[str, Any] = model.inputs(batch)
        inputs = {name: x.clone() if isinstance(x, Tensor) else x for name, x in arguments.items()}
        read = trace(model, inputs, list(dict.fromkeys(map(_whole, points.values()))), _followed)
        raw, end = [read[_whole(points[site])] for site in wanted], read[points[model.output]]
        values = measured(model, metric, end, batch)
        derivatives: tuple[Tensor | None, ...] = (None,)
        if values.requires_grad:
            derivatives = cast(Any, torch.autograd.grad(values.sum(), [end, *raw], allow_unused=True))
        if derivatives[0] is None:
            raise InvalidInput(
                f"the metric {metric_name(metric)} is not differentiable: it must be computed from the "
                f"{model.output.name}, by torch operations. What generate and predict return, an argmax or a NumPy "
                "array has no gradient."
            )
        slopes = [
            torch.zeros_like(value) if slope is None else slope
            for value, slope in zip(raw, derivatives[1:], strict=True)
        ]

    def cache(values: Sequence[Tensor]) -> Cache:
        parts = (part_of(points[site], value) for site, value in zip(wanted, values, strict=True))
        pairs = zip(wanted, parts, strict=True)
        return Cache({str(site): by_head(model, site, points[site], value.detach()) for site, value in pairs})

    slopes = [_at_tokens(batch, site, slope) for site, slope in zip(wanted, slopes, strict=True)]
    return Gradients(cache(raw), cache(slopes), values.detach())


def _at_tokens(batch: Batch, site: Site, slope: Tensor) -> Tensor:
    """Zero the gradient by attention to padding, which depends on what padding is; other gradients are 0 there."""
    if site.name != "pattern" or bool((shown := batch.mask(site.key_stack).bool()).all()):
        return slope
    return slope * shown[:, None, None].to(slope)


def _whole(point: Point) -> Point:
    """Return the module's whole output: a part that is cut out of it is not on the way to the logits."""
    return replace(point, part=(0, 1))


def _followed(value: Tensor) -> Tensor:
    """Return a value that autograd follows, even where the weights before it are frozen."""
    return value if value.requires_grad else value.requires_grad_()


@contextmanager
def replaced_embeddings(model: Model, values: Mapping[Stack, Tensor]) -> Generator[None]:
    """Give each stack other embeddings, `[row, pos, d_model]`, in whatever runs inside."""
    with ExitStack() as hooks, entered(model.module) as scope:
        for stack, value in values.items():

            def swap(_: object, args: tuple[Tensor, ...], value: Tensor = value) -> tuple[Tensor, ...]:
                return (value, *args[1:])

            path = model.family.point(EMBEDDINGS[stack]).path
            scope.on_input(model.module.get_submodule(path), swap, hooks)
        yield
