"""How well methods recover circuits that are known because they were built.

A method scores edges, or heads, of a planted model; the area under the ROC curve is the chance that one that was built
is scored over one that was not: 1 is perfect, 0.5 is chance.

Source: Conmy et al. 2023 and Syed et al. 2023 (areas under the ROC curve over edges); Hanley & McNeil 1982 (the area as
a rank statistic).
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from circuits.ablation.head_effects import head_effects
from circuits.attribution.direct import direct_attribution
from circuits.edges import Edge, Node
from circuits.graph.attribution_patching import attribution_patching
from circuits.graph.circuit import Circuit
from circuits.graph.discovery import discover
from circuits.graph.path_patching import patch_edges
from circuits.metrics import Metric, logit_difference, towards
from circuits.patching import patch_heads
from circuits.weights.composition import composition_scores
from interp import Model, zoo
from interp.errors import InvalidInput
from interp.output.progress import late_bar
from interp.results.by_head import HeadScores
from interp.results.frame import Frame
from interp.validate import whole
from probes import another_sequence, induction_mosaic, repeated_random_patches, repeated_random_tokens
from probes.induction.mosaic import Mosaic
from probes.induction.patch_mosaic import REPEATED
from probes.stimuli.pairs import Pair

Scores = Mapping[Any, float]


def _kinds(model: Model, stack: str = "") -> list[str]:
    """Return the kinds of heads of a model, or of one stack."""
    return [f"{s}.{kind}" for s, kind in model.family.kinds if s.startswith(stack)]


def roc_area(scores: Mapping[Any, float], truth: set[Any] | frozenset[Any]) -> float:
    """Compute the area under the ROC curve of absolute scores.

    Args:
        scores: by edge or head; NaN is the lowest there is.
        truth: those that should score high; only the ones that have a score count.

    Returns:
        The area; ties count half.

    Raises:
        InvalidInput: scores of which all or none should be high.

    Source: the Mann-Whitney statistic; Hanley & McNeil 1982.
    """
    values = np.nan_to_num(np.abs(np.array(list(scores.values()), dtype=float)), nan=-1.0)
    positive = np.array([key in truth for key in scores])
    n = int(positive.sum())
    if not 0 < n < len(values):
        raise InvalidInput(f"{n} of {len(values)} scores should be high: an area needs some that should and some not.")
    ranks = stats.rankdata(values)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(values) - n)))


def _by_head(*tables: HeadScores) -> dict[Hashable, float]:
    return {head.address: head.score for table in tables for head in table.heads()}


def _composition(model: Model, pair: Pair, metric: Metric, truth: Circuit) -> Scores:
    return {wire.edge: wire.z for wire in composition_scores(model, progress=False).top(10**9)}


def _mosaic(model: Model, pair: Pair, metric: Metric, truth: Circuit) -> Scores:
    mosaic: Any = induction_mosaic(model, pair.clean)
    if isinstance(mosaic, Mosaic):
        return _by_head(mosaic.either)
    # From whichever place a head is read, its larger score counts.
    tables = [_by_head(each.either) for each in mosaic.mosaics[REPEATED].values()]
    return {head: max(table.get(head, 0.0) for table in tables) for table in tables for head in table}


def _ablation(model: Model, pair: Pair, metric: Metric, truth: Circuit) -> Scores:
    return _by_head(*(head_effects(model, pair.clean, kind, progress=False) for kind in _kinds(model)))


def _direct(model: Model, pair: Pair, metric: Metric, truth: Circuit) -> Scores:
    number: Any = {"target": pair.target, "against": pair.against} if model.reads_tokens else {"metric": metric}
    attribution = direct_attribution(model, pair.clean, **number)
    return _by_head(*(attribution.heads(kind) for kind in _kinds(model, "decoder")))


def _heads(model: Model, pair: Pair, metric: Metric, truth: Circuit) -> Scores:
    patched = patch_heads(model, pair.clean, pair.corrupt, metric, ["*.*.*.z"], progress=False)
    return _by_head(*(patched.scores(kind) for kind in _kinds(model)))


def _attribution(model: Model, pair: Pair, metric: Metric, truth: Circuit) -> Scores:
    return attribution_patching(model, pair.clean, pair.corrupt, metric, progress=False).by_edge()


def _integrated(model: Model, pair: Pair, metric: Metric, truth: Circuit) -> Scores:
    return attribution_patching(model, pair.clean, pair.corrupt, metric, integrated=5, progress=False).by_edge()


def _edges(model: Model, pair: Pair, metric: Metric, truth: Circuit) -> Scores:
    return patch_edges(model, pair.clean, pair.corrupt, metric, Circuit.full(model), progress=False).by_edge()


def _restored(model: Model, pair: Pair, metric: Metric, truth: Circuit) -> Scores:
    return patch_edges(model, pair.corrupt, pair.clean, metric, Circuit.full(model), progress=False).by_edge()


def _discovered(model: Model, pair: Pair, metric: Metric, truth: Circuit) -> Scores:
    circuit = discover(model, pair.clean, pair.corrupt, metric, edges=len(truth), progress=False)
    return {edge: float(edge in circuit) for edge in Circuit.full(model)}


METHODS: dict[str, tuple[str, Callable[[Model, Pair, Metric, Circuit], Scores]]] = {
    "mosaic": ("{reading} heads", _mosaic),
    "direct attribution": ("decoder heads", _direct),
    "head ablation": ("heads", _ablation),
    "head patching": ("heads", _heads),
    "composition": ("head-to-head edges", _composition),
    "attribution patching": ("edges", _attribution),
    "attribution patching, integrated": ("edges", _integrated),
    "edge patching": ("edges", _edges),
    "edge patching, clean into corrupt": ("edges", _restored),
    "discover": ("edges", _discovered),
}
"""By name, over what a method gives scores, and how; `reading` heads are those that read the past."""


def _reading(model: Model) -> str:
    """Name the heads that a mosaic is of."""
    return model.family.context[1] if model.reads_tokens else "encoder and cross"


def _pair(model: Model, batch_size: int, seed: int) -> tuple[Pair, Metric]:
    """Make repeated random tokens, or patches, and the same with other sequences."""
    if not model.reads_tokens:
        pair = another_sequence(repeated_random_patches(model, batch_size=batch_size, seed=seed), seed=seed)
        return pair, towards(pair.target, pair.against)
    clean = repeated_random_tokens(batch_size=batch_size, unique=True, model=model, seed=seed)
    pair = another_sequence(clean, seed=seed)
    assert pair.against is not None
    return pair, logit_difference(pair.target, pair.against)


def recovery_benchmark(
    plants: Mapping[str, zoo.Planted] | None = None, *, batch_size: int = 20, seed: int = 0, progress: bool = True
) -> pd.DataFrame:
    """Measure how well every method recovers circuits that were models_with_circuits by hand.

    Args:
        plants: models with the edges that were built, by name; the four of `interp.zoo.PLANTED` by default.
        batch_size: rows of repeated random tokens, against other sequences (`probes.another_sequence`).
        seed: of the tokens.

    Returns:
        One row a method: `method`, `over` (what it gives scores to: an area over heads is no area over edges), and the
        area under the ROC curve by model. `discover` is told how many edges there are, and no more.

    Raises:
        InvalidInput: a model into which nothing was built.
    """
    models_with_circuits = {name: zoo.planted(**how) for name, how in zoo.PLANTED.items()} if plants is None else plants
    if empty := [name for name, plant in models_with_circuits.items() if not plant.circuit]:
        raise InvalidInput(f"{', '.join(empty)}: nothing was built into it, so that there is nothing to recover.")
    whole("batch_size", batch_size, 2)
    inputs = {name: _pair(plant.model, batch_size, seed) for name, plant in models_with_circuits.items()}
    reading = " or ".join(sorted({_reading(plant.model) for plant in models_with_circuits.values()}))
    rows: list[dict[str, Any]] = []
    bar = late_bar(total=len(METHODS) * len(models_with_circuits), progress=progress, desc="recover", unit="run")
    for method, (over, score) in METHODS.items():
        row: dict[str, Any] = {"method": method, "over": over.format(reading=reading)}
        for name, plant in models_with_circuits.items():
            truth = Circuit(plant.circuit)
            wanted: set[Edge | Node] = {*truth.edges, *truth.heads}
            row[name] = roc_area(score(plant.model, *inputs[name], truth), wanted)
            bar.update()
        rows.append(row)
    bar.close()
    return Frame(rows)
