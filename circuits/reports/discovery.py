"""The circuit report: what `python -m circuits discover` runs, prints and writes."""

from typing import Annotated, Any, get_args

import pandas as pd

from circuits import plots
from circuits.graph.attribution_patching import attribution_patching
from circuits.graph.circuit_summary import circuit_summary
from circuits.graph.discovery import INTEGRATED
from circuits.graph.discovery import discover as find_circuit
from circuits.graph.evaluation import evaluate
from circuits.graph.faithfulness_by_size import faithfulness_by_size
from circuits.graph.node_outputs import Outside
from circuits.reports.pair_names import check_pair_name, pair_of
from interp import Model
from interp.output.report import Report, Section, as_text
from interp.results.frame import Frame
from interp.validate import whole
from probes import induction_mosaic
from probes.induction.patch_mosaic import PatchMosaic, strongest_query

OUTSIDE: tuple[Outside, ...] = get_args(Outside)

SHOWN = 20
"""How many rows of the edges by score the page shows; the CSV holds all."""

HEADS = (
    "head", "copying", "matching", "preferred_distance", "current_token", "token_to_right", "edges_in", "edges_out",
)  # fmt: skip
"""The columns of the table of heads that the page and the command show."""


def discover(
    model: Model,
    *,
    pair: Annotated[str, check_pair_name] = "another_sequence",
    edges: int = 40,
    controls: int = 20,
    batch_size: int = 30,
    coefficients: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Find the edges that carry the behaviour, and compare them with the model and random circuits on other rows.

    Args:
        model: the model to run.
        pair: How the corrupt input differs: another_sequence, swapped_continuation, shuffled_occurrences or
            shifted_values.
        edges: Number of edges to find.
        controls: Random circuits of each kind.
        batch_size: Rows to find the circuit on; as many others test it.
        coefficients: Of how many numbers a random patch is made, such as 3: its level, slope and curvature. By default
            its values are independent.
        seed: The circuit is found on this seed and tested on the next.

    Raises:
        InvalidInput: another pair; sizes that are too small; more edges than the model has; a model in float16; or a
            pair that this model answers alike, so that there is nothing to explain.
        MissingCapability: coefficients for a model that reads tokens.
    """
    whole("controls", controls, 0)
    shared: dict[str, Any] = {"batch_size": batch_size, "model": model, "coefficients": coefficients}
    found_on, tested_on = (pair_of(pair, seed=seed + i, **shared) for i in range(2))
    (clean, corrupt), metric = found_on
    circuit = find_circuit(model, clean, corrupt, metric, edges=edges, progress=progress)
    scores = attribution_patching(model, clean, corrupt, metric, integrated=INTEGRATED, seed=seed, progress=progress)
    (clean, corrupt), metric = tested_on
    evaluations = {
        outside: evaluate(
            model, circuit, clean, corrupt, metric, outside=outside, controls=controls, seed=seed, progress=progress
        )
        for outside in OUTSIDE
    }
    mosaic: Any = induction_mosaic(model, clean)
    mosaic = strongest_query(mosaic) if isinstance(mosaic, PatchMosaic) else mosaic
    sizes = faithfulness_by_size(model, scores, clean, corrupt, metric, seed=seed, progress=progress)
    summary = circuit_summary(model, circuit, mosaic=mosaic)
    resampled = evaluations["resample"]

    rows = [result.summary().assign(outside=outside) for outside, result in evaluations.items()]
    evaluation: Any = pd.concat(rows, ignore_index=True)
    evaluation = evaluation[["outside", "what", "value", "low", "high", "bounds"]]
    heads: Any = summary.reindex(columns=list(HEADS))
    by_score: Any = scores.to_frame()
    agreement = Frame([{"edges": len(scores.sampled), **scores.agreement}])
    sections = [
        Section(
            "circuit",
            "The circuit",
            "The circuit was found on one set of rows; the figure shows what each edge adds on others. Layers go "
            "upwards, an encoder to the left; the colour says what an edge feeds.",
            figure=plots.circuit(circuit, resampled, mosaic=mosaic, summary=summary),
            brief=f"{circuit}\n\n{scores}",
        ),
        Section(
            "circuit_heads",
            "Its heads",
            "The heads of the circuit in forward order: eigenvalue scores of copying and matching "
            f"{'in token space' if model.reads_tokens else 'over random patches'}, the attention of the heads that "
            "read the past on these rows, and how many of the circuit's edges arrive and leave.",
            table=summary,
            shown=heads.dropna(axis=1, how="all"),
            brief=as_text(heads, "its heads"),
        ),
        Section(
            "evaluation",
            "Is it the circuit?",
            "Measured on other rows than the circuit was found on, and relative to the whole model: 1 is the model, 0 "
            "the empty circuit. Edges outside carry the corrupt run (resample), its mean over rows (mean), or nothing "
            "(zero), not even a position where positions are embedded. The circuit's value is its faithfulness. "
            "'model without it' is what is left when the circuit is cut, 0 for a complete one. The controls are "
            "circuits of the same size: the same wiring of other heads of the same layers, edges drawn at random, and "
            "random edges that all lie on a path from the input to the output. |F(C-K) - F(M-K)| is how differently "
            "circuit and model break when random halves K of the circuit are cut, also 0 for a complete one. 'bounds' "
            "says what low and high are. 'model minus nothing', in the metric's unit, is what all others are relative "
            "to; where its interval holds 0, they mean nothing.",
            figure=plots.circuit_report(evaluations),
            table=evaluation,
            brief=as_text(evaluation, f"relative to the model, on {batch_size} other rows"),
        ),
        Section(
            "sizes",
            "How many edges it takes",
            "The same with only the strongest edges by attribution, from few up to all, on the rows that test the "
            "circuit. Beside it stand as many edges at random, as many at random on paths, and the circuit itself, "
            "which was pruned from more. Where the curve rises late, the behaviour is spread over many edges, and a "
            "circuit of few edges is a part of it.",
            figure=plots.faithfulness_by_size(sizes, resampled),
            table=sizes.to_frame(),
            brief=as_text(sizes.to_frame(), "with only so many edges"),
        ),
        Section(
            "agreement",
            "Attribution patching compared with patching",
            "All edges are scored from gradients alone; a sample, half of them the strongest, is patched as well. The "
            "slope is the patched effect per unit of the estimate. Where the two disagree, do not trust the scores.",
            figure=plots.estimate_against_patch(scores),
            table=agreement,
        ),
        Section(
            "circuit_edges",
            "Its edges",
            "What each edge adds to the circuit: the share that is lost when this edge alone carries the corrupt run. "
            "It is negative where the circuit is better without the edge.",
            table=resampled.to_frame(),
            shown=resampled.to_frame().drop(columns=["writer", "reader", "kind"]),
        ),
        Section(
            "edge_scores",
            "The strongest edges by attribution",
            "Each edge alone: patched minus clean, in the metric's unit.",
            table=by_score,
            shown=by_score[["edge", "score", "stderr", "patched"]].head(SHOWN),
        ),
    ]
    results = {
        "circuit.json": circuit,
        "circuit.txt": f"{circuit}\n",
        "edge_scores.json": scores,
        "sizes.json": sizes,
    } | {f"evaluation_{outside}.json": result for outside, result in evaluations.items()}
    title = f"A circuit of {mosaic.name}: {len(circuit)} edges, {pair.replace('_', ' ')}"
    return Report("circuit", title, sections, results)
