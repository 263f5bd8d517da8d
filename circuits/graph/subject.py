"""The subject of an experiment on edges: a model, a clean and a corrupt input, and what is measured."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from circuits.graph.edge_matrix import Graph, Mask
from circuits.graph.mixed_run import chunks, run
from circuits.graph.node_outputs import Outputs, Outside, check_outside, gathered, sites
from circuits.measurement import check_moves, check_pair, end_site, measured, metric_name, outputs_in, to_numpy
from circuits.metrics import Metric
from interp import Batch, Model, capture
from interp.editing.context import check_unhooked
from interp.editing.variants import check_dtype
from interp.names import STACKS
from interp.output.progress import late_bar
from interp.results.by_head import provenance
from interp.results.result import Floats
from interp.validate import whole


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, a pair of inputs and a metric: what circuits are measured on."""

    model: Model
    graph: Graph
    clean: Batch
    corrupt: Batch
    metric: Metric
    outside: Outside
    written: Outputs
    other: Outputs
    clean_values: Floats
    corrupt_values: Floats

    @classmethod
    def of(cls, model: Model, clean: Batch, corrupt: Batch, metric: Metric, outside: Outside) -> "Subject":
        """Check what is to be measured, and run both inputs.

        Raises:
            InvalidInput: as `patch_edges`.
        """
        check_pair(model, clean, corrupt)
        check_unhooked(model, "a run by edges")
        check_dtype(model)
        how = check_outside(outside)
        with torch.no_grad():
            graph = Graph.of(model)
            end = end_site(model)
            here, there = (capture(model, batch, [*sites(graph), end]) for batch in (clean, corrupt))
            values = [measured(model, metric, outputs_in(model, cache[end], clean), clean) for cache in (here, there)]
            check_moves(metric, *values)
            other = gathered(model, there).standing_in(corrupt, how)
            return cls(model, graph, clean, corrupt, metric, how, gathered(model, here), other, *map(to_numpy, values))

    def measure(self, off: Mask, *, memory: int, progress: bool, what: str) -> Floats:
        """Measure the metric with some edges cut, `[variant, row]`; `off` is `[variant, reader, writer]`."""
        whole("memory", memory, 1)
        values: list[Floats] = []
        bar = late_bar(total=len(off), progress=progress, desc=what, unit="run")
        for part in chunks(self.model, self.clean, len(off), memory):
            outputs = run(self.model, self.clean, self.other, torch.from_numpy(off[part]))
            values += [to_numpy(measured(self.model, self.metric, variant, self.clean)) for variant in outputs]
            bar.update(len(outputs))
        bar.close()
        return np.stack(values)

    def source(self, name: str, **settings: Any) -> dict[str, Any]:
        """Return the provenance of a result."""
        pair = {"clean": self.clean.description, "corrupt": self.corrupt.description}
        settings |= {"metric": metric_name(self.metric), "outside": self.outside}
        size: dict[str, Any] = {"n_layers": {stack: self.graph.layers(stack) for stack in STACKS}}
        size |= {"n_heads": self.graph.heads, "output": str(self.graph.output)}
        return provenance(self.model, name=name, **pair, **settings) | size
