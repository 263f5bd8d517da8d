"""The composition report: what `python -m circuits composition` runs, prints and writes."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from interp.output.page import write_page

from circuits import plots
from circuits.edges import Edges
from circuits.weights.composition import composition_scores, largest_by_chance
from circuits.weights.composition_scores import CompositionScores
from circuits.weights.head_circuit import ov_circuit, qk_circuit
from circuits.weights.head_summary import head_summary
from circuits.weights.induction_candidates import ROUTES, InductionCandidates, fitting_scores, induction_candidates
from circuits.weights.position_circuit import PositionCircuit, position_circuit
from circuits.weights.token_circuit import TokenCircuit, token_circuit, token_composition
from interp import Model
from interp.results.by_head import HeadScores
from interp.results.files import write_text
from interp.results.result import Floats
from interp.validate import whole
from probes import induction_mosaic
from probes.induction.mosaic import Mosaic

SHOWN = 4
"""How many of the mosaic's strongest heads have their circuits drawn."""

WIRINGS = 19
"""Random wirings that the edges are held against: over the largest of them p is 0.05."""

JOINED = ("encoder.self.previous_token", "decoder.self.previous_token", "encoder.self.next_token")
"""Which scores of heads, where there are such heads, stand in the table."""

LONGEST = 128
"""Up to which position the map of positions goes."""


@dataclass(frozen=True, eq=False)
class CompositionReport:
    """Everything the page shows.

    `circuits` are maps of the strongest heads and of the strongest candidate, `positions` that of the strongest
    previous-token head where positions are embedded; `largest` the largest z of random wirings.
    """

    mosaic: Mosaic
    scores: CompositionScores
    top: Edges
    candidates: InductionCandidates
    summary: pd.DataFrame
    circuits: dict[str, TokenCircuit]
    positions: PositionCircuit | None = None
    largest: Floats = field(default_factory=lambda: np.empty(0))


def run_report(model: Model, *, top: int = 20, seed: int = 0, progress: bool = True) -> CompositionReport:
    """The mosaic, all composition scores, the candidates, and one row of weights a head.

    Args:
        model: the model.
        top: how many edges are listed and drawn.
        seed: of the mosaic's and the head scores' tokens, and of the random wirings.
        progress: whether to show a progress bar.

    Returns:
        The results.

    Raises:
        InvalidInput: a number of edges under 1, or weights that cannot be read.
    """
    whole("top", top, 1)
    mosaic = induction_mosaic(model, seed=seed)
    behaviour = fitting_scores(model, seed)
    scores = composition_scores(model, progress=progress)
    candidates = induction_candidates(model, mosaic, composition=scores, scores=behaviour, progress=progress)
    joined = [behaviour[name] for name in JOINED if name in behaviour]
    circuits: dict[str, TokenCircuit] = {}
    for found in mosaic.either.heads()[:SHOWN]:
        circuits[f"ov {found.address}"] = token_circuit(ov_circuit(model, found.address))
        circuits[f"qk {found.address}"] = token_circuit(qk_circuit(model, found.address))
    if candidates.candidates:
        circuits["strongest candidate"] = token_composition(model, candidates[0].edge)
    return CompositionReport(
        mosaic=mosaic,
        scores=scores,
        top=scores.top(top),
        candidates=candidates,
        summary=head_summary(model, mosaic=mosaic, scores=joined),
        circuits=circuits,
        positions=_positions(model, behaviour["decoder.self.previous_token"]),
        largest=largest_by_chance(model, draws=WIRINGS, seed=seed, progress=progress),
    )


def _positions(model: Model, scores: HeadScores) -> PositionCircuit | None:
    if model.max_positions is None:
        return None
    strongest = scores.heads()[0].address
    return position_circuit(qk_circuit(model, strongest), range(min(LONGEST, model.max_positions)))


def figures(report: CompositionReport) -> dict[str, go.Figure]:
    """The report's figures by name."""
    ov, qk = ([c for name, c in report.circuits.items() if name.startswith(kind)] for kind in ("ov", "qk"))
    made = {"wiring": plots.wiring(report.scores, report.top, mosaic=report.mosaic)}
    if report.candidates.candidates:
        strongest = report.candidates.edges[: len(report.top)]
        title = f"Induction candidates ({len(strongest)} of {len(report.candidates)})"
        made["candidates"] = plots.wiring(report.scores, strongest, mosaic=report.mosaic, title=title)
        made["candidate-map"] = plots.token_circuit(report.circuits["strongest candidate"])
    if report.positions is not None:
        made["position-map"] = plots.position_circuit(report.positions)
    return made | {
        "composition": plots.composition_explorer(report.scores),
        "eigenvalues": plots.eigenvalues(ov),
        "singular-values": plots.singular_values(qk),
        "ov-map": plots.token_circuit(ov[0]),
        "qk-map": plots.token_circuit(qk[0]),
    }


def pictures(report: CompositionReport, drawn: dict[str, go.Figure]) -> dict[str, go.Figure]:
    """The figures as they are drawn without a menu to choose in."""
    _, wire = ROUTES[report.mosaic.either.site]["token_to_right"]
    return drawn | {"composition": plots.composition(report.scores, *wire, score="z")}


def tables(report: CompositionReport) -> dict[str, pd.DataFrame]:
    """The report's tables by name."""
    return {
        "edges": report.top.to_frame(),
        "induction_candidates": report.candidates.to_frame(),
        "head_summary": report.summary,
    }


_WORDS = {
    "wiring": (
        "Wiring",
        "The strongest edges of all by their z-score under a random rotation. The encoder's heads reach the keys and "
        "values of cross heads through its final norm.",
    ),
    "candidates": (
        "Induction candidates",
        "Encoder heads that look one token back and feed the keys of a head that attends to the token after, or look "
        "one ahead and feed the values of one that attends to the token itself.",
    ),
    "candidate-map": (
        "What the strongest candidate's wire carries",
        "The two heads composed, from values to values, each row less its mean. Where the wire carries the value "
        "itself there is a diagonal; a positive eigenvalue score without one says that it does on average.",
    ),
    "composition": (
        "Composition scores",
        "Z-scores of all pairs of kinds of heads that share a stream: choose one in the menu. Blank where the reader "
        "runs before the writer. Heads of low rank score high by chance; the z-score allows for it, so that its order "
        "and that of the raw scores differ.",
    ),
    "eigenvalues": ("OV eigenvalues", "The mosaic's strongest heads in token space: to the right, they copy."),
    "singular-values": ("QK spectra", "The same heads: how many directions their queries and keys use."),
    "ov-map": ("OV map", "The strongest head, along the direct path from the embedding to the logits."),
    "qk-map": (
        "QK map",
        "The strongest head, along the direct path: what the encoder's heads add to its keys is not in it.",
    ),
    "edges": ("Edges", "Raw composition score, its excess over chance, and its exact z-score."),
    "induction_candidates": (
        "Candidates",
        "Both routes, strongest first; empty where the model has no such heads.",
    ),
    "head_summary": (
        "Heads",
        "Copying and matching are eigenvalue scores in token space over the values within +-1.01: 1 where all "
        "eigenvalues are positive. What encoder heads write is compared with the embeddings, not with logits.",
    ),
}
"""Headings and words by name of the figure or table."""

_ALONE = {
    "wiring": ("Wiring", "The strongest edges of all by their z-score under a random rotation."),
    "candidates": (
        "Induction candidates",
        "Heads that look one token back and feed the keys of a head of a later layer that attends to the token after.",
    ),
    "candidate-map": (
        "What the strongest candidate's wire carries",
        "The two heads composed, from tokens to tokens, each row less its mean. Where the wire carries the token "
        "itself there is a diagonal; a positive eigenvalue score without one says that it does on average.",
    ),
    "position-map": (
        "Attention by position",
        "The strongest previous-token head, by the embedded positions alone: what tokens and the layers below add to "
        "its scores is not in it.",
    ),
    "composition": (
        "Composition scores",
        "Z-scores of all pairs of heads by queries, keys and values: choose one in the menu. Blank where the reader "
        "runs before the writer. Heads of low rank score high by chance; the z-score allows for it, so that its order "
        "and that of the raw scores differ.",
    ),
    "qk-map": (
        "QK map",
        "The strongest head, along the direct path: positions, and what heads below add to its keys, are not in it.",
    ),
    "induction_candidates": ("Candidates", "Strongest first; empty where the model has no such heads."),
    "head_summary": (
        "Heads",
        "Copying and matching are eigenvalue scores in token space: 1 where all eigenvalues are positive.",
    ),
}
"""What is otherwise in a decoder alone."""


def words(report: CompositionReport) -> dict[str, tuple[str, str]]:
    """Headings and words of the report's figures and tables, by their names."""
    found = _WORDS if report.mosaic.either.site == "decoder.cross" else _WORDS | _ALONE
    if not len(report.largest):
        return found
    beyond = report.scores.discoveries(report.largest)
    chance = (
        f" A z over 3 alone is no discovery among {report.scores.n_pairs} pairs: with the same heads wired at random "
        f"{len(report.largest)} times the largest z was {report.largest.max():.1f}, and {len(beyond)} edges of the "
        "model lie over it."
    )
    return found | {name: (found[name][0], found[name][1] + chance) for name in ("wiring", "edges")}


def write_report(out: str | Path, report: CompositionReport, drawn: dict[str, go.Figure]) -> list[Path]:
    """The page, the tables as CSV and all scores as safetensors.

    Args:
        out: a directory; it is made if it is not there.
        report: what `run_report` gave.
        drawn: its `figures`.

    Returns:
        The files written.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    made = tables(report)
    headed = words(report)
    parts: list[tuple[str, str, go.Figure | pd.DataFrame]] = []
    for name, content in [*drawn.items(), *made.items()]:
        parts.append((*headed[name], content))
    written = [write_page(folder / "composition.html", f"Weights and wiring of {report.mosaic.name}", parts)]
    written += [write_text(folder / f"{name}.csv", table.to_csv(index=False)) for name, table in made.items()]
    return [*written, report.scores.save(folder / "composition.safetensors")]
