"""The circuit report: what `python -m circuits discover` runs, prints and writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import plotly.graph_objects as go
from interp.output.folder import Part, write_folder

from circuits import plots
from circuits.graph.attribution_patching import attribution_patching
from circuits.graph.circuit import Circuit
from circuits.graph.circuit_summary import circuit_summary
from circuits.graph.discovery import INTEGRATED, discover
from circuits.graph.edge_scores import EdgeScores
from circuits.graph.evaluation import CircuitReport, evaluate
from circuits.graph.faithfulness_by_size import SizeCurve, faithfulness_by_size
from circuits.graph.node_outputs import Outside
from circuits.reports.pair_names import pair_of
from interp import Model
from interp.results.files import write_text
from interp.validate import whole
from probes import induction_mosaic
from probes.induction.mosaic import Mosaic

OUTSIDE: tuple[Outside, ...] = get_args(Outside)

SHOWN = 20
"""How many of a table's rows are on the page; all are in the CSV."""


@dataclass(frozen=True, eq=False)
class DiscoveryReport:
    """Everything the page shows; `evaluations` are by what edges outside carry, on other rows than it was found on."""

    pair: str
    mosaic: Mosaic
    scores: EdgeScores
    circuit: Circuit
    evaluations: dict[str, CircuitReport]
    sizes: SizeCurve
    summary: pd.DataFrame


def run_report(
    model: Model,
    *,
    pair: str = "another_sequence",
    edges: int = 40,
    controls: int = 20,
    batch_size: int = 30,
    seed: int = 0,
    progress: bool = True,
) -> DiscoveryReport:
    """Find a circuit on one seed and hold it against the model and random circuits on the next.

    Args:
        model: the model.
        pair: how the corrupt input differs, one of `circuits.reports.pair_names.PAIRS`.
        edges: how many are wanted.
        controls: random circuits of each kind.
        batch_size: rows that it is found on, and as many others that it is tested on.
        seed: of the tokens and corruption that it is found on; it is tested on those of the next.
        progress: whether to show progress bars.

    Returns:
        The results.

    Raises:
        InvalidInput: another pair; sizes that are too small; more edges than the model has; a model in float16; or a
            pair that this model answers alike, so that there is nothing to explain.
    """
    whole("controls", controls, 0)
    found_on, tested_on = (pair_of(pair, batch_size=batch_size, seed=seed + i, model=model) for i in range(2))
    (clean, corrupt), metric = found_on
    circuit = discover(model, clean, corrupt, metric, edges=edges, progress=progress)
    scores = attribution_patching(model, clean, corrupt, metric, integrated=INTEGRATED, seed=seed, progress=progress)
    (clean, corrupt), metric = tested_on
    evaluations = {
        outside: evaluate(
            model, circuit, clean, corrupt, metric, outside=outside, controls=controls, seed=seed, progress=progress
        )
        for outside in OUTSIDE
    }
    mosaic = induction_mosaic(model, clean)
    return DiscoveryReport(
        pair=pair,
        mosaic=mosaic,
        scores=scores,
        circuit=circuit,
        evaluations=evaluations,
        sizes=faithfulness_by_size(model, scores, clean, corrupt, metric, seed=seed, progress=progress),
        summary=circuit_summary(model, circuit, mosaic=mosaic),
    )


def figures(report: DiscoveryReport) -> dict[str, go.Figure]:
    """The report's figures by name."""
    return {
        "circuit": plots.circuit(
            report.circuit, report.evaluations["resample"], mosaic=report.mosaic, summary=report.summary
        ),
        "evaluation": plots.circuit_report(report.evaluations),
        "sizes": plots.faithfulness_by_size(report.sizes, report.evaluations["resample"]),
        "agreement": plots.estimate_against_patch(report.scores),
    }


def tables(report: DiscoveryReport) -> dict[str, pd.DataFrame]:
    """The report's tables by name."""
    evaluation: Any = pd.concat(
        [found.summary().assign(outside=outside) for outside, found in report.evaluations.items()], ignore_index=True
    )
    agreement = {"edges": len(report.scores.sampled), **report.scores.agreement}
    return {
        "evaluation": evaluation[["outside", "what", "value", "low", "high", "bounds"]],
        "circuit_edges": report.evaluations["resample"].to_frame(),
        "sizes": report.sizes.to_frame(),
        "agreement": pd.DataFrame([agreement]),
        "edge_scores": report.scores.to_frame(),
        "circuit_heads": report.summary,
    }


_WORDS = {
    "circuit": (
        "The circuit",
        "Found on one set of rows, and drawn with what each edge adds on others. Layers go upwards, an encoder to the "
        "left; colour is what an edge feeds.",
    ),
    "evaluation": (
        "Is it the circuit?",
        "On other rows than it was found on, in parts of the whole model: 1 is the model, 0 the empty circuit. Edges "
        "outside carry the corrupt run (resample), its mean over rows (mean), or nothing (zero), not even a position "
        "where positions are embedded. The circuit's value "
        "is its faithfulness; 'model without it' is what is left when it is cut, 0 for a complete one. The controls "
        "are circuits of its size: the same wiring of other heads of the same layers, edges drawn at random, and edges "
        "drawn at random that all lie on a path from the input to the logits. "
        "|F(C-K) - F(M-K)| is how differently circuit and model break when random halves K of the circuit are cut, "
        "also 0 for a complete one. The column of bounds says what low and high are; 'model minus nothing', in the "
        "metric's unit, is what all others are parts of, and where its interval holds 0 they mean nothing.",
    ),
    "circuit_heads": (
        "Its heads",
        "The heads of the circuit in forward order: eigenvalue scores of copying and matching in token space, the "
        "attention of the heads that read the past on these rows, and how many of the circuit's edges arrive and "
        "leave.",
    ),
    "circuit_edges": (
        "Its edges",
        "What each edge adds to the circuit: the share that is lost when it alone carries the corrupt run, the others "
        "of the circuit being as they are. Negative where the circuit is better without it.",
    ),
    "sizes": (
        "How many edges it takes",
        "The same with only so many of the strongest edges by attribution left, up to all, on the rows it is tested "
        "on, beside as many at random, and as many at random on paths; and the circuit itself, which was pruned from "
        "more. Where the curve rises late the behaviour is spread over many edges, and a circuit of few is a part of "
        "it.",
    ),
    "agreement": (
        "Attribution patching held against patching",
        "All edges are scored from gradients alone; a sample, half of them the strongest, is patched as well. slope is "
        "the patch in parts of the estimate. Where the two do not agree the scores are not to be trusted.",
    ),
    "edge_scores": (
        "The strongest edges by attribution",
        "Each alone: patched minus clean, in the metric's unit.",
    ),
}
"""Headings and words by name of the figure or table."""

HEADS = [
    "head",
    "copying",
    "matching",
    "preferred_distance",
    "current_token",
    "token_to_right",
    "edges_in",
    "edges_out",
]
"""What is shown of the table of heads."""


def write_report(out: str | Path, report: DiscoveryReport, drawn: dict[str, go.Figure]) -> list[Path]:
    """The page, the tables as CSV, the circuit as text and JSON, and the results as JSON.

    Args:
        out: a directory; it is made if it is not there.
        report: what `run_report` gave.
        drawn: its `figures`.

    Returns:
        The files written.
    """
    made: dict[str, Any] = tables(report)
    parts: list[Part] = []
    for name, figure in drawn.items():
        parts.append((*_WORDS[name], figure))
        if name == "circuit":
            heads = made["circuit_heads"].reindex(columns=HEADS)
            parts.append((*_WORDS["circuit_heads"], heads.dropna(axis=1, how="all")))
        if name in made:
            parts.append((f"{_WORDS[name][0].rstrip('?')}: the numbers", "", made[name]))
    parts.append((*_WORDS["circuit_edges"], made["circuit_edges"].drop(columns=["writer", "reader", "kind"])))
    parts.append((*_WORDS["edge_scores"], made["edge_scores"][["edge", "score", "stderr", "patched"]].head(SHOWN)))
    results = {
        "circuit": report.circuit,
        "edge_scores": report.scores,
        "sizes": report.sizes,
        **{f"evaluation_{outside}": found for outside, found in report.evaluations.items()},
    }
    title = f"A circuit of {report.mosaic.name}: {len(report.circuit)} edges, {report.pair.replace('_', ' ')}"
    written = write_folder(out, "circuit", title, parts, made, results)
    return [*written, write_text(Path(out) / "circuit.txt", f"{report.circuit}\n")]
