"""The composition report: what `python -m circuits composition` runs, prints and writes."""

from collections.abc import Sequence
from typing import Any

from circuits import plots
from circuits.reports.patch_weights import patch_weights
from circuits.weights.composition import composition_scores, largest_by_chance
from circuits.weights.composition_scores import CompositionScores
from circuits.weights.head_circuit import ov_circuit, qk_circuit
from circuits.weights.head_summary import head_summary
from circuits.weights.induction_candidates import ROUTES, InductionCandidates, fitting_scores, induction_candidates
from circuits.weights.position_circuit import position_circuit
from circuits.weights.token_circuit import token_circuit, token_composition
from interp import Head, Model
from interp.output.report import Report, Section, as_text
from interp.results.result import Floats
from interp.validate import whole
from probes import induction_mosaic
from probes.induction.patch_mosaic import PatchMosaic, strongest_query

SHOWN = 4
"""How many of the mosaic's strongest heads have their circuits drawn."""

WIRINGS = 19
"""Random wirings that the edges are compared with: beyond the largest z of them, p is at most 0.05."""

JOINED = ("encoder.self.previous_token", "decoder.self.previous_token", "encoder.self.next_token")
"""Scores of heads that stand in the table, where the model has such heads."""

LONGEST = 128
"""The last position of the map of positions."""


def composition(model: Model, *, top: int = 20, seed: int = 0, progress: bool = True) -> Report:
    """Show from the weights which heads are wired into which, and which could form an induction circuit.

    Args:
        model: the model whose weights are read.
        top: How many of the strongest edges are listed and drawn.
        seed: Seed of the tokens that heads are scored on, and of the random wirings.

    Raises:
        InvalidInput: fewer than one edge, or weights that cannot be read.
    """
    whole("top", top, 1)
    measured = induction_mosaic(model, seed=seed)
    # Of a model that reads patches there is one for each query: heads are coloured by the one with the strongest head.
    mosaic = strongest_query(measured) if isinstance(measured, PatchMosaic) else measured
    behaviour = fitting_scores(model, seed)
    scores = composition_scores(model, progress=progress)
    candidates = induction_candidates(model, measured, composition=scores, scores=behaviour, progress=progress)
    summary = head_summary(model, mosaic=mosaic, scores=[behaviour[name] for name in JOINED if name in behaviour])
    strongest = [head.address for head in mosaic.either.heads()[:SHOWN]]
    edges = scores.top(top)
    chance = _chance(scores, largest_by_chance(model, draws=WIRINGS, seed=seed, progress=progress))
    encoder = model.has_encoder
    _, wire = ROUTES[mosaic.either.site]["token_to_right"]
    reached = " The encoder's heads reach the keys and values of cross heads through its final norm." if encoder else ""

    edge_table: Any = edges.to_frame()
    sections = [
        Section(
            "edges",
            "Wiring",
            f"The strongest of all edges by their z-score under a random rotation.{reached}{chance}",
            figure=plots.wiring(scores, edges, mosaic=mosaic),
            table=edge_table,
            note="Raw composition score, its excess over chance, and its exact z-score.",
            brief=as_text(edge_table[["edge", "raw", "excess", "z"]]),
        ),
        _candidates(model, scores, candidates, top, mosaic),
    ]
    if candidates.candidates and model.reads_tokens:
        unit = "values" if encoder else "tokens"
        sections.append(
            Section(
                "candidate_map",
                "What the strongest candidate's wire carries",
                f"The two heads composed, from {unit} to {unit}, each row less its mean. Where the wire carries the "
                f"{unit[:-1]} itself there is a diagonal; a positive eigenvalue score without a diagonal says that it "
                "does so on average.",
                figure=plots.token_circuit(token_composition(model, candidates[0].edge)),
            )
        )
    if model.max_positions is not None:
        previous = behaviour["decoder.self.previous_token"].heads()[0].address
        positions = position_circuit(qk_circuit(model, previous), range(min(LONGEST, model.max_positions)))
        sections.append(
            Section(
                "position_map",
                "Attention by position",
                "The strongest previous-token head, by the embedded positions alone: what tokens and the layers below "
                "add to its scores is left out.",
                figure=plots.position_circuit(positions),
            )
        )
    kinds = "all pairs of kinds of heads that share a stream" if encoder else "all pairs of heads"
    sections += [
        Section(
            "composition",
            "Composition scores",
            f"Z-scores of {kinds}: choose one in the menu. Cells are blank where the reader runs before the writer. "
            "Heads of low rank score high by chance. The z-score allows for this, so its order and that of the raw "
            "scores differ.",
            figure=plots.composition_explorer(scores),
            picture=plots.composition(scores, *wire, score="z"),
        ),
        *(_in_tokens(model, strongest) if model.reads_tokens else patch_weights(model, strongest)),
        Section(
            "head_summary",
            "Heads",
            _summary_words(model),
            table=summary,
        ),
    ]
    results = {"mosaic.json": measured, "composition.safetensors": scores}
    return Report("composition", f"Weights and wiring of {mosaic.name}", sections, results)


def _in_tokens(model: Model, heads: Sequence[Head]) -> list[Section]:
    """Make the sections of heads' circuits in token space."""
    encoder = model.has_encoder
    ov = [token_circuit(ov_circuit(model, head)) for head in heads]
    qk = [token_circuit(qk_circuit(model, head)) for head in heads]
    return [
        Section(
            "eigenvalues",
            "OV eigenvalues",
            "The mosaic's strongest heads in token space: heads with eigenvalues to the right copy.",
            figure=plots.eigenvalues(ov),
        ),
        Section(
            "singular_values",
            "QK spectra",
            "The same heads: how many directions their queries and keys use.",
            figure=plots.singular_values(qk),
        ),
        Section(
            "ov_map",
            "OV map",
            "The strongest head, along the direct path from the embedding to the logits.",
            figure=plots.token_circuit(ov[0]),
        ),
        Section(
            "qk_map",
            "QK map",
            "The strongest head, along the direct path: what the encoder's heads add to its keys is left out."
            if encoder
            else "The strongest head, along the direct path: positions, and what heads below add to its keys, are left "
            "out.",
            figure=plots.token_circuit(qk[0]),
        ),
    ]


def _summary_words(model: Model) -> str:
    """Say what copying and matching mean in the table of heads."""
    if not model.reads_tokens:
        return "Copying and matching are eigenvalue scores over random patches: 1 where all eigenvalues are positive."
    if not model.has_encoder:
        return "Copying and matching are eigenvalue scores in token space: 1 where all eigenvalues are positive."
    return (
        "Copying and matching are eigenvalue scores in token space over the values within +-1.01: 1 where all "
        "eigenvalues are positive. What encoder heads write is compared with the embeddings instead of logits."
    )


def _candidates(
    model: Model, scores: CompositionScores, candidates: InductionCandidates, top: int, mosaic: object
) -> Section:
    """Make the section of the pairs of heads that could form an induction circuit."""
    figure = None
    if candidates.candidates:
        edges = candidates.edges[:top]
        title = f"Induction candidates ({len(edges)} of {len(candidates)})"
        figure = plots.wiring(scores, edges, mosaic=mosaic, title=title)  # type: ignore[arg-type]
    table: Any = candidates.to_frame()
    if table.empty:
        brief = f"no induction candidates: no pair of heads at {candidates.threshold:g} with a wire between them"
    else:
        brief = as_text(table[["edge", "excess", "z", "mosaic_score", "strength"]].head(top))
        if len(candidates) > top:
            brief += f"\n... and {len(candidates) - top} more candidates, in the table"
    return Section(
        "induction_candidates",
        "Induction candidates",
        "Encoder heads that look one token back and feed the keys of a head that attends to the token after, or look "
        "one ahead and feed the values of a head that attends to the token itself."
        if model.has_encoder
        else "Heads that look one token back and feed the keys of a head of a later layer that attends to the token "
        "after.",
        figure=figure,
        table=table,
        note="Strongest first; empty where the model has no such heads.",
        brief=brief,
    )


def _chance(scores: CompositionScores, largest: Floats) -> str:
    """Say how large z gets among random wirings of the same heads."""
    if not len(largest):
        return ""
    return (
        f" A z over 3 alone is no discovery among {scores.n_pairs} pairs: with the same heads wired at random "
        f"{len(largest)} times the largest z was {largest.max():.1f}, and {len(scores.discoveries(largest))} edges of "
        "the model lie beyond it."
    )
