"""Find a circuit: edges by attribution, then pruned by patching.

1. Attribution patching with integrated gradients scores all edges; several times as many as are wanted are kept, and of
   those the ones on a path from an embedding to the logits.
2. Only they carry the clean run, the others the corrupt one; each edge in turn is cut as well, and the metric taken.
3. The edges that change it least go, with what is then on no path; 2 and 3 again until as many are left as are wanted.

Source: Conmy et al. 2023, "Towards Automated Circuit Discovery" (pruning by patching); Hanna et al. 2024 (attribution
with integrated gradients for the candidates).
"""

import numpy as np
from tqdm.auto import tqdm

from circuits.effects import MEMORY
from circuits.graph.attribution import edge_attributions
from circuits.graph.circuit import Circuit, check_circuit
from circuits.graph.layout import Mask
from circuits.graph.patching import Subject
from circuits.metrics import Metric
from interp import Batch, InvalidInput, Model
from interp.inputs import whole
from interp.results import Floats

INTEGRATED = 5
"""Points of the integrated gradients that candidates are scored by."""

WIDER = 4
"""How many times as many candidates there are as edges wanted."""

SHARE = 0.2
"""Of the edges that are left, how many go in one round at most."""


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
    """The edges that carry a metric from the clean input, as a circuit.

    Args:
        model: the model, with no edit in force.
        clean: what it is fed.
        corrupt: what edges outside the circuit carry.
        metric: from logits `[row, pos, token]` to `[row]`, differentiable.
        edges: how many are wanted; fewer come back where those left carry nothing without the ones that went.
        memory: bytes that the variants of one run may take.
        progress: whether to show a progress bar.

    Returns:
        The circuit. Test it on other inputs than these, by `evaluate`.

    Raises:
        InvalidInput: as `attribution_patching`; or more edges than the model has.

    Source: Conmy et al. 2023; Hanna et al. 2024.
    """
    subject = Subject.of(model, clean, corrupt, metric, "resample")
    if whole("edges", edges, 1) > subject.graph.exists.sum():
        raise InvalidInput(f"edges={edges}: {model.name} has {subject.graph.exists.sum()}.")
    scores = np.abs(edge_attributions(subject, INTEGRATED).mean(0))
    scores[~subject.graph.exists] = -np.inf
    return _pruned(subject, _candidates(subject, scores, WIDER * edges), edges, memory, progress)


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
    """The edges of a circuit that matter most in it, those that matter least taken out round by round.

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
    """The strongest edges of which, unconnected ones taken out, about as many are left."""
    order = np.argsort(-scores, axis=None)[: int(subject.graph.exists.sum())]
    found = np.zeros_like(subject.graph.exists)
    taken = count
    while True:
        found[:] = False
        found.flat[order[:taken]] = True
        found &= _connected(subject, found)
        if found.sum() >= count or taken >= len(order):
            return found
        taken = min(len(order), 2 * taken)


def _connected(subject: Subject, mask: Mask) -> Mask:
    graph = subject.graph
    return graph.mask(Circuit(graph.edges(mask)).connected().edges)


def _pruned(subject: Subject, kept: Mask, edges: int, memory: int, progress: bool) -> Circuit:
    start = int(kept.sum())
    bar = tqdm(total=max(start - edges, 0), disable=not progress, desc="prune", unit="edge", leave=False)
    while (count := int(kept.sum())) > edges:
        cells = np.argwhere(kept)
        without = np.repeat(kept[None], len(cells) + 1, 0)
        without[np.arange(len(cells)), *cells.T] = False
        off = subject.graph.exists & ~without
        values = subject.measure(off, memory=memory, progress=False, what="")
        # By row: an edge that helps in some rows and harms in others does something.
        loss = np.abs(values[:-1] - values[-1]).mean(1)
        going = min(count - edges, max(1, int(SHARE * count)))
        kept[tuple(cells[np.argsort(loss, kind="stable")[:going]].T)] = False
        kept = _connected(subject, kept)
        bar.update(count - int(kept.sum()))
    bar.close()
    return Circuit(subject.graph.edges(kept), subject.model.digest)
