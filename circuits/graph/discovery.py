"""Find a circuit: edges by attribution, then pruned by patching.

1. Attribution patching with integrated gradients scores all edges. Kept are those that help: whose patch would move the
   metric from clean towards corrupt; twice as many as are wanted, all on a path from an embedding to the logits.
2. Only they carry the clean run, the others the corrupt one; each edge in turn is cut as well, and the metric taken.
3. The edges without which the metric stays closest to the model's, row by row, go, a tenth at a time, with what then
   carries nothing; and again from 2, until as many are left as are wanted.

Source: Conmy et al. 2023, "Towards Automated Circuit Discovery" (pruning by patching); Hanna et al. 2024 (attribution
with integrated gradients for the candidates).
"""

import numpy as np

from circuits.ablation.head_effects import MEMORY
from circuits.graph.attribution_patching import edge_attributions
from circuits.graph.circuit import Circuit, check_circuit
from circuits.graph.edge_matrix import Mask
from circuits.graph.subject import Subject
from circuits.metrics import Metric
from interp import Batch, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.progress import late_bar
from interp.results.result import Floats
from interp.validate import whole

INTEGRATED = 5
"""Points of the integrated gradients that candidates are scored by."""

WIDER = 2
"""How many times as many candidates there are as edges wanted."""

SHARE = 0.1
"""Of the edges that are left, how many go in one round at most."""


@checked
def discover(
    model: Model,
    clean: Batch,
    corrupt: Batch,
    metric: Metric,
    *,
    edges: int = 40,
    memory: int = MEMORY,
    progress: bool = True,
) -> Circuit:
    """Find the edges that carry a metric from the clean input, as a circuit.

    Args:
        corrupt: what edges outside the circuit carry.
        metric: from logits `[row, pos, token]` to `[row]`, differentiable.
        edges: how many are wanted; fewer come back where those left carry nothing without the ones that went.

    Returns:
        The circuit. Test it on other inputs than these, by `evaluate`.

    Raises:
        InvalidInput: as `attribution_patching`; or more edges than the model has.

    Source: Conmy et al. 2023; Hanna et al. 2024.
    """
    subject = Subject.of(model, clean, corrupt, metric, "resample")
    if whole("edges", edges, 1) > subject.graph.exists.sum():
        raise InvalidInput(f"edges={edges}: {model.name} has {subject.graph.exists.sum()}.")
    towards = np.sign(subject.corrupt_values.mean() - subject.clean_values.mean())
    scores = edge_attributions(subject, INTEGRATED).mean(0) * towards
    scores[~subject.graph.exists] = -np.inf
    return _pruned(subject, _candidates(subject, scores, WIDER * edges), edges, memory, progress)


@checked
def prune(
    model: Model,
    circuit: Circuit,
    clean: Batch,
    corrupt: Batch,
    metric: Metric,
    *,
    edges: int,
    memory: int = MEMORY,
    progress: bool = True,
) -> Circuit:
    """Prune a circuit to the edges that matter most: round by round those that matter least are removed.

    Args:
        circuit: where to start: a circuit of this model. The other arguments are those of `discover`.

    Returns:
        The smaller circuit; only edges on a path from an embedding to the logits are left.

    Raises:
        InvalidInput: as `patch_edges`; a circuit of another model.
    """
    subject = Subject.of(model, clean, corrupt, metric, "resample")
    start = subject.graph.mask(check_circuit(model, circuit).connected().edges)
    return _pruned(subject, start, whole("edges", edges, 1), memory, progress)


def _candidates(subject: Subject, scores: Floats, count: int) -> Mask:
    """Return the strongest edges, so many that about `count` of them are connected."""
    order = np.argsort(-scores, axis=None)[: int(subject.graph.exists.sum())]
    candidates, size = np.zeros_like(subject.graph.exists), min(count, len(order))
    while True:
        candidates[:] = False
        candidates.flat[order[:size]] = True
        candidates = _connected(subject, candidates)
        missing = count - int(candidates.sum())
        if missing <= 0 or size == len(order):
            return candidates
        size = min(len(order), size + missing)


def _connected(subject: Subject, mask: Mask) -> Mask:
    graph = subject.graph
    return graph.mask(Circuit(graph.edges(mask)).connected().edges)


def _pruned(subject: Subject, remaining: Mask, edges: int, memory: int, progress: bool) -> Circuit:
    start = int(remaining.sum())
    bar = late_bar(total=max(start - edges, 0), progress=progress, desc="prune", unit="edge")
    while (count := int(remaining.sum())) > edges:
        cells = np.argwhere(remaining)
        without = np.repeat(remaining[None], len(cells), 0)
        without[np.arange(len(cells)), *cells.T] = False
        off = subject.graph.exists & ~without
        values = subject.measure(off, memory=memory, progress=False, what="")
        distance = np.abs(values - subject.clean_values).mean(1)
        going = min(count - edges, max(1, int(SHARE * count)))
        remaining[tuple(cells[np.argsort(distance, kind="stable")[:going]].T)] = False
        remaining = _connected(subject, remaining)
        bar.update(count - int(remaining.sum()))
    bar.close()
    return Circuit(subject.graph.edges(remaining), subject.model.digest)
