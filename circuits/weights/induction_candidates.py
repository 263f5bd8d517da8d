"""From composition to circuits: pairs of heads that could be induction, in one stack or across two.

In a decoder alone there is one route, the published one, *right*: a head that looks one token back feeds the keys of a
head of a later layer, which so finds the token after the earlier occurrence of its query's token. Two routes lead to
induction in an encoder-decoder, both through the encoder's output:

* *right*: an encoder head that looks one token back feeds the keys of a cross head, which so finds the token
  after the earlier occurrence of its query's token;
* *current*: an encoder head that looks one token ahead (possible in a bidirectional encoder only) feeds the values
  of a cross head that attends to the earlier occurrence itself.

In a model that reads patches a token is a patch, and the induction head may be one of the encoder's too, which looks
back from [REG] or from the last patch: both routes then stay in the encoder.

Source: Elhage et al. 2021, Olsson et al. 2022 (previous-token head and K-composition); the routes across the stacks
are this project's reading of "Hunting for Induction Heads in Amazon's Chronos", part 2.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Self, cast

import pandas as pd

from circuits.ablation.curve import check_digest
from circuits.edges import Edge, Edges, Pair, ScoredEdge
from circuits.weights.composition import composition_scores
from circuits.weights.composition_scores import CompositionScores
from circuits.weights.token_circuit import composed, items_of
from interp import Head, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.models.model import as_model
from interp.renamed import renamed_field
from interp.results.by_head import HeadScores, provenance
from interp.results.result import Result
from probes import head_scores
from probes.induction.mosaic import THRESHOLD, Mosaic
from probes.induction.patch_mosaic import REPEATED, PatchMosaic

Route = Literal["token_to_right", "current_token"]

ROUTES: dict[str, dict[Route, tuple[str, Pair]]] = {
    "decoder.cross": {
        "token_to_right": ("previous_token", ("encoder.self", "decoder.cross", "K")),
        "current_token": ("next_token", ("encoder.self", "decoder.cross", "V")),
    },
    "decoder.self": {"token_to_right": ("previous_token", ("decoder.self", "decoder.self", "K"))},
    "encoder.self": {
        "token_to_right": ("previous_token", ("encoder.self", "encoder.self", "K")),
        "current_token": ("next_token", ("encoder.self", "encoder.self", "V")),
    },
}
"""By the mosaic's heads and kind: the first head's score, and what it feeds."""


@dataclass(frozen=True)
class InductionCandidate:
    """A head that feeds an induction head, and what speaks for it.

    `writer_score` is the first head's attention one token back (or ahead), of the encoder where there is one;
    `mosaic_score` the induction head's, `token_score` the eigenvalue score of the two composed in token space, or
    between random patches (1: the wire carries the token itself), `strength` the product of the excess over chance and
    the two attentions.
    """

    route: Route
    edge: ScoredEdge
    writer_score: float
    mosaic_score: float
    token_score: float

    encoder_score = renamed_field("encoder_score", "writer_score")

    @property
    def strength(self) -> float:
        """Excess over the random baseline, times the first head's score, times the mosaic's."""
        return self.edge.excess * self.writer_score * self.mosaic_score

    def __str__(self) -> str:
        first, second = ("encoder", "cross") if self.edge.edge.heads[1].kind == "cross" else ("first", "second")
        heads = f"{first} head {self.writer_score:.2f}, {second} head {self.mosaic_score:.2f}"
        return f"{self.edge}, {self.route.replace('_', ' ')}: {heads}"


@dataclass(frozen=True, repr=False)
class InductionCandidates(Result):
    """Candidates of all routes, strongest first, and from which scores on heads were taken in."""

    KIND = "induction-candidates"

    candidates: tuple[InductionCandidate, ...]
    threshold: float
    provenance: dict[str, Any]

    def _title(self) -> str:
        number = {0: "no candidates", 1: "1 candidate"}.get(len(self), f"{len(self)} candidates")
        return f"{number} at a threshold of {self.threshold:g} in {self.provenance.get('model', 'a model')}"

    def _shown(self) -> pd.DataFrame:
        names = ["edge", "route", "strength", "writer_score", "mosaic_score", "token_score", "excess", "z"]
        return self.to_frame().loc[:, names]

    def _contents(self) -> dict[str, Any]:
        scores = tuple((c.route, c.writer_score, c.mosaic_score, c.token_score) for c in self.candidates)
        return super()._contents() | {"candidates": scores, "edges": self.edges}

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        pairs = zip(values["candidates"], values["edges"], strict=True)
        candidates = tuple(InductionCandidate(route, edge, *scores) for (route, *scores), edge in pairs)
        return cls(candidates, values["threshold"], values["provenance"])

    def __iter__(self) -> Iterator[InductionCandidate]:
        return iter(self.candidates)

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index: int) -> InductionCandidate:
        return self.candidates[index]

    @property
    def edges(self) -> Edges:
        """The candidates' edges, as the figures take them."""
        return Edges(tuple(candidate.edge for candidate in self.candidates), self.provenance["digest"])

    def heads(self) -> tuple[Head, ...]:
        """Return all heads of all candidates, each once, the writers first."""
        edges = [candidate.edge.edge for candidate in self.candidates]
        return tuple(dict.fromkeys([*(edge.heads[0] for edge in edges), *(edge.heads[1] for edge in edges)]))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per candidate: `route, edge, writer, reader, kind, raw, excess, z`, its scores, `strength`."""
        frame = self.edges.to_frame()
        frame.insert(0, "route", [candidate.route for candidate in self.candidates])
        names = ("writer_score", "mosaic_score", "token_score", "strength")
        return frame.assign(**{name: [getattr(c, name) for c in self.candidates] for name in names})


def fitting_scores(model: Model, seed: int = 0) -> dict[str, HeadScores]:
    """Run `probes.head_scores` as by default, with shorter sequences where the model has too few positions."""
    length, repetitions = (25 if model.reads_tokens else None), 4
    if length is not None and model.max_positions is not None:
        length = min(length, model.max_positions // repetitions)
    return head_scores(model, sequence_length=length, repetitions=repetitions, seed=seed)


@checked
def induction_candidates(
    model: Model,
    mosaic: Mosaic | PatchMosaic,
    *,
    composition: CompositionScores | None = None,
    scores: Mapping[str, HeadScores] | None = None,
    threshold: float = THRESHOLD,
    least_z: float = 3.0,
    progress: bool = True,
) -> InductionCandidates:
    """Find pairs of a head and an induction head that could be its circuit, by the architecture's routes.

    Args:
        mosaic: the induction mosaic of this model; of a model of patches all its queries, or one of them, such as
            `mosaic["reg"]`.
        composition: what `composition_scores(model)` gave; computed when not given.
        scores: what `probes.head_scores(model)` gave; run when not given, on what fits into the model.
        threshold: from which attention on a head counts as a previous-token or next-token head, and as an induction
            head; lower it to see what was left out.
        least_z: from which z-score on a wire counts. It holds off what a random rotation gives; in a trained model
            many wires are over it, so that the order says more than the list.

    Returns:
        All pairs with both heads at the threshold and a wire between them, strongest first. None, where the model has
        no such heads or no such wire.

    Raises:
        InvalidInput: a mosaic, composition or scores of other weights.
    """
    if not isinstance(cast(object, mosaic), Mosaic | PatchMosaic):
        raise InvalidInput(f"mosaic= takes what probes.induction_mosaic gave; found {type(mosaic).__name__}.")
    mosaics = [mosaic] if isinstance(mosaic, Mosaic) else list(mosaic.mosaics[REPEATED].values())
    for each in mosaics:
        check_digest(as_model(model), each)
    wires = composition_scores(model, progress=progress) if composition is None else composition
    behaviour = fitting_scores(model) if scores is None else scores
    if not isinstance(cast(object, behaviour), Mapping):
        raise InvalidInput("scores= takes what probes.head_scores(model) gave.")
    if not wires.provenance["stimulus"]["fold_norm"]:
        raise InvalidInput("the composition scores are without the norms: give composition_scores(model).")
    for name, value in (("threshold", threshold), ("least_z", least_z)):
        if not isinstance(cast(object, value), int | float) or value != value:
            raise InvalidInput(f"{name}={value!r} must be a number.")
    if wires.provenance["digest"] != model.digest:
        raise InvalidInput(f"the composition scores are of other weights than {model.name}: make them with this model.")
    items = items_of(model, None)
    strongest: dict[tuple[Route, Edge], InductionCandidate] = {}
    for each in mosaics:
        for route, (name, pair) in ROUTES[each.site].items():
            writers = behaviour.get(f"{pair[0]}.{name}")
            if writers is None:
                raise InvalidInput(f"scores have no '{pair[0]}.{name}': give what probes.head_scores(model) gave.")
            check_digest(model, writers)
            readers: HeadScores = getattr(each, route)
            for writer, reader in product(writers.heads(threshold), readers.heads(threshold)):
                first, second = writer.address, reader.address
                # NaN where the reader runs before the writer has written.
                if not wires.z[pair][first.layer, first.head, second.layer, second.head] >= least_z:
                    continue
                edge = wires.edge(first, second, pair[2])
                between, _ = composed(model, edge.edge, items)
                tokens = float(between.less_row_means().eigenvalue_score())
                candidate = InductionCandidate(route, edge, writer.score, reader.score, tokens)
                # A head that looks back from two places counts with the stronger score.
                best = strongest.setdefault((route, edge.edge), candidate)
                if best.mosaic_score < candidate.mosaic_score:
                    strongest[route, edge.edge] = candidate
    candidates = sorted(strongest.values(), key=lambda candidate: -candidate.strength)
    settings = {"threshold": threshold, "least_z": least_z, "mosaic": mosaic.provenance.get("stimulus")}
    source = provenance(model, name="induction_candidates", **settings)
    return InductionCandidates(tuple(candidates), threshold, source)
