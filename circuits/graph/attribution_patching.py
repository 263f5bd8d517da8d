"""Attribution patching: what patching every edge would do, from one forward and one backward pass.

1. Two runs give what every part writes on the clean and on the corrupt input; their difference is what an edge would
   carry.
2. One backward pass of the metric on the clean input gives its gradient by every head's queries, keys and values and by
   every MLP's output; through the model's own norms and weights, by the stream that each reader reads.
3. The estimate of an edge is the difference of its writer, times the gradient of its reader, over positions.
4. A sample of edges is patched as well, so that the estimate never stands alone.

With integrated gradients the gradient is a mean over inputs on the straight line between the two embeddings.

Source: Nanda 2023, "Attribution Patching"; Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit
Discovery" (edges); Hanna et al. 2024, "Have Faith in Faithfulness" (integrated gradients over the inputs).
"""

from typing import Any, cast

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from circuits.ablation.head_effects import MEMORY
from circuits.attribution.gradients import Gradients, gradients, replaced_embeddings
from circuits.edges import EMBEDDINGS, OUTPUTS, Composition
from circuits.graph.edge_matrix import Graph, Port
from circuits.graph.edge_scores import EdgeScores
from circuits.graph.mixed_run import normed
from circuits.graph.subject import Subject
from circuits.measurement import to_numpy
from circuits.metrics import Metric
from interp import Batch, Model
from interp.arguments import checked
from interp.models.checks.states import evaluated
from interp.models.weights.head_weights import projection
from interp.names import STACKS, AttentionLayer, Site, Stack
from interp.results.result import Floats
from interp.validate import whole


@checked
def attribution_patching(
    model: Model,
    clean: Batch,
    corrupt: Batch,
    metric: Metric,
    *,
    integrated: int = 0,
    sample: int = 32,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = True,
) -> EdgeScores:
    """Estimate, for all edges at once, what patching each edge alone would do to a metric.

    Args:
        corrupt: where patched edges come from.
        metric: from logits `[row, pos, token]` to `[row]`, differentiable.
        integrated: how many points between the two inputs the gradient is taken at; 0 is at the clean input alone,
            where what is saturated has no gradient. 5 do in most cases, at as many times the price.
        sample: how many edges are patched beside it: half of them the strongest, half any others.
        seed: of which ones.
        memory: bytes that the runs of the sample may take.

    Returns:
        The estimates, in the metric's unit, with their standard errors over rows, and the agreement with the sample.

    Raises:
        InvalidInput: as `patch_edges`; and a metric that is not differentiable.

    Source: Syed et al. 2023; Hanna et al. 2024.
    """
    whole("integrated", integrated, 0)
    whole("sample", sample, 4)
    whole("seed", seed, 0)
    subject = Subject.of(model, clean, corrupt, metric, "resample")
    rows = edge_attributions(subject, integrated)
    exists = subject.graph.exists
    values = np.where(exists, rows.mean(0), np.nan)
    stderr = np.where(exists, rows.std(0, ddof=1) / len(rows) ** 0.5, np.nan) if len(rows) > 1 else None
    cells = _sample(values, sample, seed)
    off = np.zeros((len(cells), *exists.shape), dtype=bool)
    off[np.arange(len(cells)), *cells.T] = True
    patched = subject.measure(off, memory=memory, progress=progress, what="patch a sample")
    return EdgeScores(
        layers={stack: subject.graph.layers(stack) for stack in STACKS},
        n_heads=subject.graph.heads,
        output=str(subject.graph.output),
        fixed=subject.graph.fixed,
        values=values,
        stderr=stderr,
        sampled=tuple(str(subject.graph.edge(int(row), int(column))) for row, column in cells),
        measured=(patched - subject.clean_values).mean(1),
        clean=float(subject.clean_values.mean()),
        corrupt=float(subject.corrupt_values.mean()),
        provenance=subject.source("attribution_patching", integrated=integrated, sample=sample, seed=seed),
    )


def _sample(values: Floats, size: int, seed: int) -> Any:
    """Choose cells of edges `[edge, 2]`: the strongest half, and as many of the others at random."""
    cells = np.argwhere(~np.isnan(values))
    order = cells[np.argsort(-np.abs(values[tuple(cells.T)]), kind="stable")]
    size = min(size, len(order))
    rest = order[size - size // 2 :]
    return np.concatenate([order[: size - size // 2], np.random.default_rng(seed).permutation(rest)[: size // 2]])


def edge_attributions(subject: Subject, integrated: int = 0) -> Floats:
    """Return the estimates row by row, `[row, reader, writer]`; 0 where there is no edge."""
    graph, model = subject.graph, subject.model
    estimates = np.zeros((len(subject.clean), *graph.exists.shape))
    # Once by row, since every port multiplies with them.
    differences: dict[Stack, Tensor] = {
        stack: _by_row(subject.other.written[stack] - subject.written.written[stack]) for stack in graph.stacks
    }
    for point in range(max(integrated, 1)):
        share = (point + 0.5) / integrated if integrated else 0.0
        with replaced_embeddings(model, _embeddings(subject, share) if integrated else {}):
            at = gradients(model, subject.clean, subject.metric, _sites(graph))
        for port in graph.ports:
            if graph.is_fixed(port):
                continue
            first = 0 if port.stream.stack == "encoder" else graph.encoder_columns.stop
            part = differences[port.stream.stack][:, port.columns.start - first : port.columns.stop - first]
            slope = _by_row(_at_port(model, port, at))
            estimates[:, port.rows, port.columns] += to_numpy(slope @ part.mT) / max(integrated, 1)
    return estimates


def _by_row(written: Tensor) -> Tensor:
    """Flatten `[part, row, pos, d_model]` into `[row, part, pos * d_model]`, in float32 or wider."""
    return written.to(torch.promote_types(written.dtype, torch.float32)).transpose(0, 1).flatten(2)


def _embeddings(subject: Subject, share: float) -> dict[Stack, Tensor]:
    """Return all stacks' embeddings at a point of the straight line from clean to corrupt."""
    # What was computed in inference mode could not be differentiated.
    with torch.inference_mode(False), torch.no_grad():
        return {
            stack: torch.lerp(subject.written.written[stack][0], subject.other.written[stack][0], share)
            for stack in subject.graph.stacks
        }


def _sites(graph: Graph) -> list[Site]:
    """Return the sites whose gradients are needed: what readers compute from their streams, and the streams."""
    ports = [port for port in graph.ports if not graph.is_fixed(port)]
    projections = [_output_site(port) for port in ports if port.at != graph.output]
    begins = [EMBEDDINGS[stack] for stack in graph.stacks]
    return list(dict.fromkeys([*projections, *(port.stream for port in ports), *begins]))


def _output_site(port: Port) -> Site:
    if isinstance(port.at, AttentionLayer):
        return Site(port.at.stack, port.at.kind, port.at.layer, cast(str, port.kind).lower())
    return port.at


def _at_port(model: Model, port: Port, at: Gradients) -> Tensor:
    """Compute the gradient by what each reader of a port reads, back through its norm and weights."""
    x = at.values[port.stream]
    if port.at in OUTPUTS:
        return at.gradients[port.stream][None]
    slope = at.gradients[_output_site(port)]
    with torch.inference_mode(False), torch.enable_grad(), evaluated(model):
        if isinstance(port.at, AttentionLayer):
            W = projection(model, port.at, cast(Composition, port.kind), fold_norm=False).detach()
            own = x.detach().expand(len(W), *x.shape).clone().requires_grad_()
            output, slope = normed(model, port, own), einsum(slope, W, "row pos head e, head d e -> head row pos d")
        else:
            own = x.detach()[None].clone().requires_grad_()
            output = model.module.get_submodule(model.family.point(port.at).path)(normed(model, port, own[0]))
        (back,) = torch.autograd.grad(output, own, slope)
    return back.detach()
