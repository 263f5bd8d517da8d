"""What every part writes and every stream holds in one run; and what stands for them outside a circuit.

Biases of attention, which no part writes, are in the streams and stay there: where nothing else is left of a stream,
they are.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.attribution.constants import constants
from circuits.graph.edge_matrix import Graph
from interp import Batch, Model, capture
from interp.cache import Cache
from interp.errors import InvalidInput, nearest
from interp.names import Site, Stack

Outside = Literal["resample", "mean", "zero"]
"""What edges outside a circuit carry: what the writer puts out on the corrupt input, its mean there, or nothing.

Biases of attention are on no edge and stay, so that with `zero` a reader that has lost all its edges reads them alone.
Where positions are embedded with the tokens, `zero` takes both.
"""


@dataclass(frozen=True, eq=False)
class Outputs:
    """By stack, what each writer puts out `[writer, row, pos, d_model]`; and the streams that ports read.

    `constants` are what a stream holds beside all that is written, `[d_model]`, where it holds anything.
    """

    written: dict[Stack, Float[Tensor, "writer row pos d_model"]]
    streams: dict[Site, Float[Tensor, "row pos d_model"]]
    constants: dict[Site, Float[Tensor, " d_model"]]

    def standing_in(self, batch: Batch, outside: Outside) -> "Outputs":
        """Return what replaces these outside a circuit: themselves, their mean over rows by position, or zero.

        Masked positions do not count in the mean.
        """
        if outside == "resample":
            return self

        def replaced(value: Tensor, stack: Stack) -> Tensor:
            weight = batch.mask(stack).to(value)[:, :, None] * (outside == "mean")
            mean = (value * weight).sum(-3, keepdim=True) / weight.sum(0).clamp(min=1)
            return mean.expand(*value.shape[:-3], len(batch), *value.shape[-2:])

        def replaced_stream(value: Tensor, site: Site) -> Tensor:
            if (fixed := self.constants.get(site)) is None:
                return replaced(value, site.stack)
            return replaced(value - fixed, site.stack) + fixed

        return Outputs(
            {stack: replaced(value, stack) for stack, value in self.written.items()},
            {site: replaced_stream(value, site) for site, value in self.streams.items()},
            self.constants,
        )


def sites(graph: Graph) -> list[Site]:
    """Return the sites from which `Outputs` are computed: what is written, and the streams of all ports."""
    written_sites = [node if isinstance(node, Site) else node.site("head_out") for node in graph.writers]
    return list(dict.fromkeys([*written_sites, *(port.stream for port in graph.ports)]))


def outputs(model: Model, batch: Batch) -> Outputs:
    """Capture what the model writes on a batch, by part."""
    return gathered(model, capture(model, batch, sites(Graph.of(model))))


def gathered(model: Model, cache: Cache) -> Outputs:
    """Gather the outputs from a cache."""
    graph = Graph.of(model)
    written: dict[Stack, Tensor] = {}
    for stack in graph.stacks:
        parts: list[Tensor] = []
        for site in dict.fromkeys(
            node if isinstance(node, Site) else node.site("head_out") for node in graph.writers if node.stack == stack
        ):
            value = cache[site]
            parts.append(value.permute(2, 0, 1, 3) if site.name == "head_out" else value[None])
        written[stack] = torch.cat(parts)
    streams = {port.stream: cache[port.stream] for port in graph.ports}
    return Outputs(written, streams, constants(model, streams))


def check_outside(outside: object) -> Outside:
    """Check the name of what replaces the outside of a circuit.

    Raises:
        InvalidInput: another name.
    """
    for known in get_args(Outside):
        if outside == known:
            return known
    known = get_args(Outside)
    raise InvalidInput(f"outside={outside!r}: there are {', '.join(known)}.{nearest(str(outside), known)}")
