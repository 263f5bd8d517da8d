"""Run a model in which each edge carries what its writer puts out now, or something else in its place.

1. The forward pass is Hugging Face's own, on as many copies of the batch as there are variants.
2. What each part writes is seen as it is made; its difference to what stands in for it is kept.
3. Where a reader has edges that are cut, it reads the stream plus the differences of those writers, through the
   model's own norm and weights; heads of one layer can so read different streams. All others read what the model gives.

So what no edge is cut of is the model's own number, and a reader all of whose edges are cut reads exactly the stream
that stands in. What no part writes, biases of attention, is in the stream whichever edges are cut.

Source: Goldowsky-Dill et al. 2023, "Localizing Model Behavior with Path Patching"; Conmy et al. 2023 (edges of a
circuit carry the current run, all others the corrupt one).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor, nn

from circuits.edges import OUTPUTS, Composition
from circuits.graph.edge_matrix import Graph, Port
from circuits.graph.node_outputs import Outputs
from circuits.measurement import output_size
from interp import Batch, Model
from interp.editing.scopes import Scope, entered
from interp.models.checks.states import evaluating
from interp.models.families.family import Point, part_of
from interp.models.weights.head_weights import Projection, projection, projection_bias
from interp.models.weights.layers import run_encoder, run_rest
from interp.names import AttentionLayer, Site, Stack

Off = Bool[Tensor, "variant reader writer"]


def norm_path(model: Model, port: Port) -> str:
    """Return the path of the norm through which a port reads its stream."""
    family = model.family
    if port.at in OUTPUTS:
        return family.stack_points["decoder", "ln_final"][0]
    if isinstance(port.at, AttentionLayer):
        norms = family.query_norms if port.kind == "Q" else family.key_norms
        return norms[port.at.stack, port.at.kind].format(layer=port.at.layer)
    return family.mlp_norms[port.at.stack].format(layer=port.at.layer)


def projected(
    model: Model, port: Port, x: Float[Tensor, "*variant #head row pos d_model"], heads: Tensor
) -> Float[Tensor, "*variant row pos head d_head"]:
    """Compute queries, keys or values of some heads, each of which reads a stream of its own, or all the same."""
    assert isinstance(port.at, AttentionLayer)
    W = projection(model, port.at, cast(Projection, port.kind), fold_norm=False)[heads]
    values = einsum(
        normed(model, port, x), W, "... head row pos d_model, head d_model d_head -> ... row pos head d_head"
    )
    return values + projection_bias(model, port.at, cast(Projection, port.kind), fold_norm=False)[heads]


def normed(model: Model, port: Port, x: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos d_model"]:
    """Apply a port's norm to a stream without hooks, since the norm's input can be a stream that is hooked."""
    return model.module.get_submodule(norm_path(model, port)).forward(x)


def made_at(model: Model, port: Port) -> Point:
    """Return the point where the queries, keys or values of a port are computed."""
    assert isinstance(port.at, AttentionLayer)
    return model.family.point(Site(port.at.stack, port.at.kind, port.at.layer, cast(Composition, port.kind).lower()))


class _Mixing:
    """One run's state: streams and differences, variants in front of rows."""

    def __init__(self, model: Model, off: Tensor, other: Outputs, rows: int) -> None:
        self.model, self.off, self.other, self.rows = model, off, other, rows
        self.graph = Graph.of(model)
        self.streams: dict[Site, Tensor] = {}
        self.differences: dict[Stack, Tensor] = {}

    def start(self, stack: Stack) -> None:
        shape = self.other.written[stack].shape
        self.differences[stack] = self.other.written[stack].new_zeros(len(self.off), *shape)

    def by_variant(self, value: Tensor) -> Tensor:
        return value.unflatten(0, (len(self.off), self.rows))

    def wrote(self, stack: Stack, start: int, values: Float[Tensor, "variant writer row pos d_model"]) -> None:
        part = slice(start, start + values.shape[1])
        self.differences[stack][:, part] = self.other.written[stack][part] - values

    def mixed(self, port: Port, heads: Tensor) -> Float[Tensor, "variant head row pos d_model"]:
        """Return the streams of some readers of a port."""
        off = self.off[:, port.rows, port.columns][:, heads]
        stack = port.stream.stack
        first = 0 if stack == "encoder" else self.graph.encoder_columns.stop
        part = self.differences[stack][:, port.columns.start - first : port.columns.stop - first]
        change = (off.to(part) @ part.flatten(2)).unflatten(2, part.shape[2:])
        x = self.by_variant(self.streams[port.stream])[:, None] + change
        whole = off.all(2)[:, :, None, None, None]
        return torch.where(whole, self.other.streams[port.stream], x)

    def read_by_heads(self, port: Port) -> Callable[..., Any]:
        off = self.off[:, port.rows, port.columns]
        touched, whole = off.any(2), off.all(2)
        # What is cut from all it could read, in all variants, is the same in all.
        cut = whole.all(0).nonzero()[:, 0]
        heads = (touched.any(0) & ~whole.all(0)).nonzero()[:, 0]

        point = made_at(self.model, port)

        def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            output = output.clone()
            # A view: what is put there is put into its part of the output.
            values = self.by_variant(part_of(point, output).unflatten(-1, (self.model.n_heads, -1)))
            if len(cut):
                values[..., cut, :] = projected(self.model, port, self.other.streams[port.stream][None], cut)
            if len(heads):
                replaced = projected(self.model, port, self.mixed(port, heads), heads)
                is_cut = touched[:, heads][:, None, None, :, None]
                values[..., heads, :] = torch.where(is_cut, replaced, values[..., heads, :])
            return output

        return hook

    def read_by_one(self, port: Port) -> Callable[..., Any]:
        touched = self.off[:, port.rows, port.columns].any(2)[:, 0, None, None, None]

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            x = self.mixed(port, touched.new_zeros(1, dtype=torch.long))[:, 0]
            x = x if port.at in OUTPUTS else normed(self.model, port, x)
            stream = torch.where(touched, x, self.by_variant(args[0]))
            return (stream.reshape(args[0].shape),)

        return hook

    def place(self, stack: Stack, scope: Scope, hooks: ExitStack) -> None:
        """Place all hooks of one stack; a module's input hooks come before its output hooks."""
        model = self.model
        module = cast(Callable[[str], nn.Module], model.module.get_submodule)
        for site in {port.stream for port in self.graph.ports if port.stream.stack == stack}:
            self._watch(site, lambda value, site=site: self.streams.__setitem__(site, value), scope, hooks)
        first = 0 if stack == "encoder" else self.graph.encoder_columns.stop
        for column, node in enumerate(self.graph.writers):
            if node.stack != stack:
                continue
            if isinstance(node, Site):

                def one(value: Tensor, c: int = column - first) -> None:
                    self.wrote(stack, c, self.by_variant(value)[:, None])

                self._watch(node, one, scope, hooks)
            elif node.head == 0:
                at = node.attention
                W_O = projection(model, at, "O", fold_norm=False)

                def heads(z: Tensor, c: int = column - first, W_O: Tensor = W_O) -> None:
                    z = self.by_variant(z.unflatten(-1, (model.n_heads, -1)))
                    self.wrote(stack, c, einsum(z, W_O, "v row pos head e, head e d -> v head row pos d"))

                self._watch(node.site("z"), heads, scope, hooks)
        for port in self.graph.ports:
            if port.at.stack != stack or not bool(self.off[:, port.rows, port.columns].any()):
                continue
            if isinstance(port.at, AttentionLayer):
                path = made_at(model, port).path
                scope.on_output(module(path), self.read_by_heads(port), hooks)
            else:
                path = norm_path(model, port) if port.at in OUTPUTS else model.family.point(port.at).path
                scope.on_input(module(path), self.read_by_one(port), hooks)

    def _watch(self, site: Site, keep: Callable[[Tensor], None], scope: Scope, hooks: ExitStack) -> None:
        point = self.model.family.point(site)
        module = self.model.module.get_submodule(point.path)

        def watch_input(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            keep(args[0] if args else next(iter(kwargs.values())))

        def watch_output(_: nn.Module, __: Any, output: Any) -> None:
            keep(output if point.element is None else output[point.element])

        if point.port == "input":
            scope.on_input(module, watch_input, hooks, with_kwargs=True)
        else:
            scope.on_output(module, watch_output, hooks)


@torch.no_grad()
@evaluating
def run(model: Model, batch: Batch, other: Outputs, off: Bool[Tensor, "variant reader writer"]) -> Tensor:
    """Compute what a model puts out when some edges carry something else, for several choices of edges.

    Args:
        other: what edges that are cut carry.
        off: which those are.

    Returns:
        Logits `[variant, row, pos, token]`, or quantiles `[variant, row, quantile, step]` in the batch's units.
    """
    rows, inputs = len(batch), model.inputs(batch)
    off = off.to(model.device)
    state = _Mixing(model, off, other, rows)
    hidden = _encoded(state, inputs) if state.graph.encoder else None
    with ExitStack() as hooks, entered(model.module) as scope:
        state.off = off
        state.start("decoder")
        state.place("decoder", scope, hooks)
        outputs = run_rest(model, _repeated(inputs, len(off)), hidden)
    return outputs.unflatten(0, (len(off), rows))


def _encoded(state: _Mixing, inputs: dict[str, Tensor]) -> Tensor:
    """Compute the encoder's output by variant; variants that agree in the encoder share one run."""
    off = state.off
    upper = next(port.rows.start for port in state.graph.ports if port.at.stack == "decoder")
    distinct, which = off[:, :upper].unique(dim=0, return_inverse=True)
    with ExitStack() as hooks, entered(state.model.module) as scope:
        state.off = torch.cat([distinct, distinct.new_zeros(len(distinct), *off[0, upper:].shape)], 1)
        state.start("encoder")
        state.place("encoder", scope, hooks)
        hidden = run_encoder(state.model, _repeated(inputs, len(distinct)))
    for table in (state.streams, state.differences):
        _spread(cast(dict[Any, Tensor], table), which, len(distinct))
    return _chosen(hidden, which, len(distinct))


def _repeated(inputs: dict[str, Tensor], times: int) -> dict[str, Any]:
    """Repeat the inputs of a run for several variants, which stand before rows."""
    return {name: x.repeat(times, 1) if isinstance(x, Tensor) else x for name, x in inputs.items()}  # type: ignore[redundant-expr]


def _spread(table: dict[Any, Tensor], which: Tensor, count: int) -> None:
    for key, value in table.items():
        table[key] = _chosen(value, which, count)


def _chosen(value: Tensor, which: Tensor, count: int) -> Tensor:
    """Give each variant its part of what was run once for several variants."""
    if len(which) == count and bool((which.diff() == 1).all()):
        return value
    return value.unflatten(0, (count, -1))[which].flatten(0, 1)


def chunks(model: Model, batch: Batch, count: int, memory: int) -> Iterator[slice]:
    """Yield slices of variants whose runs stay near the memory limit."""
    graph = Graph.of(model)
    rows, queries, keys = len(batch), batch.length("decoder"), batch.length(graph.stacks[0])
    first = graph.encoder_columns.stop
    held = (first * keys + (len(graph.writers) - first) * queries) * model.d_model
    read = 4 * model.n_heads * keys * (model.d_model + keys) + output_size(model, queries)
    size = max(1, memory // (rows * (held + read) * torch.finfo(model.dtype).bits // 8))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
