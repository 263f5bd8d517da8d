"""Composition scores as a value: by pair of kinds, the strongest edges, tables, files."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from circuits.edges import INPUT, WIRES, Edge, Edges, Pair, ScoredEdge, check_pair
from interp import Head
from interp.errors import InvalidInput
from interp.names import as_head, parse_kind
from interp.results.frame import Frame
from interp.results.result import Floats, Result, frozen
from interp.validate import number, whole

Score = Literal["raw", "excess", "z"]


def wires_of(kinds: Collection[str]) -> list[Pair]:
    """Return the pairs of kinds, with the reader's input, that exist among these kinds of heads."""
    return [pair for pair in WIRES if pair[0] in kinds and pair[1] in kinds]


@dataclass(frozen=True, eq=False, repr=False)
class CompositionScores(Result):
    """The composition scores of all pairs of heads that share a stream.

    `raw`, `excess` (over `baseline`) and `z` hold `[layer, head, layer, head]`, writer first, by
    `(writer, reader, kind)`; NaN where the reader's layer comes before the writer has written, for heads that
    write or read nothing, and where what they read is the same for every input.
    """

    KIND = "composition-scores"
    VERSION = 2
    LARGE = True

    raw: dict[Pair, Floats]
    z: dict[Pair, Floats]
    baseline: float
    provenance: dict[str, Any]

    @property
    def n_pairs(self) -> int:
        """How many pairs of heads have a score."""
        return sum(int((~np.isnan(table)).sum()) for table in self.raw.values())

    @property
    def excess(self) -> dict[Pair, Floats]:
        """The raw scores less the baseline, d_model^-0.5: what a random rotation would give."""
        return {pair: frozen(table - self.baseline) for pair, table in self.raw.items()}

    def between(self, writer: str, reader: str, kind: str, score: Score = "raw") -> Floats:
        """Return the scores between two kinds of heads.

        Args:
            writer: the kind of the heads that write, such as `encoder.self`.
            reader: the kind of those that read.
            kind: `Q`, `K` or `V`.
            score: `raw`, `excess` or `z`.

        Returns:
            `[layer, head, layer, head]`, writer first; NaN where no such pair exists.

        Raises:
            UnknownSite: no such kind of head.
            InvalidInput: the two share no stream, the reader takes this input from another one, or the model has no
                such heads.
        """
        if score not in ("raw", "excess", "z"):
            raise InvalidInput(f"{score!r}: the scores there are 'raw', 'excess' and 'z'.")
        pair = self._pair(writer, reader, kind)
        return frozen(self.raw[pair] - self.baseline) if score == "excess" else getattr(self, score)[pair]

    def _pair(self, writer: str, reader: str, kind: str) -> Pair:
        """Return the pair of kinds, if there is such a wire and these scores have it."""
        pair = check_pair(writer, reader, kind)
        if pair not in self.raw:
            there = ", ".join(dict.fromkeys(f"{first} -> {second}" for first, second, _ in self.raw))
            if kinds := [known for *ends, known in self.raw if ends == [*pair[:2]]]:
                raise InvalidInput(
                    f"{writer} -> {reader}, {pair[2]}: the {INPUT[pair[2]]} of {reader} take nothing of the input in "
                    f"{self.provenance['model']}. There is {', '.join(kinds)}."
                )
            raise InvalidInput(f"{writer} -> {reader}: {self.provenance['model']} has no such heads, only {there}.")
        return pair

    def edge(self, writer: Head | str, reader: Head | str, kind: str) -> ScoredEdge:
        """Return one pair of heads with its scores.

        Raises:
            UnknownHead: an address that is malformed.
            InvalidInput: a pair that cannot exist, or heads that these scores do not hold.
        """
        first, second = as_head(writer), as_head(reader)
        pair = self._pair(f"{first.stack}.{first.kind}", f"{second.stack}.{second.kind}", kind)
        at = (first.layer, first.head, second.layer, second.head)
        if any(index >= size for index, size in zip(at, self.raw[pair].shape, strict=True)):
            layers, heads, later, readers = self.raw[pair].shape
            kinds = f"{pair[0]}, layers 0-{layers - 1}, and {pair[1]}, layers 0-{later - 1}"
            raise InvalidInput(f"{first} -> {second}: these scores are of {kinds}, heads 0-{max(heads, readers) - 1}.")
        return self._scored(pair, at)

    def top(self, n: int = 20, *, by: Score = "z", pairs: Sequence[Pair] | None = None) -> Edges:
        """Return the strongest edges.

        Args:
            n: how many, at most.
            by: `z`, which allows for each pair's own spread under chance; `excess` and `raw`, which have one order,
                favour heads of low rank, whose spread is wide. A z of 3 or 5 is no discovery by itself: see
                `discoveries`.
            pairs: such as `[("encoder.self", "decoder.cross", "K")]`; all by default.

        Returns:
            The edges, strongest first.

        Raises:
            InvalidInput: a number under 1, or pairs that do not exist.
        """
        whole("n", n, 1)
        cells: list[tuple[float, Pair, tuple[int, ...]]] = []
        for pair in self.raw if pairs is None else self._pairs(pairs):
            table = self.between(*pair, score=by)
            ranked = np.argsort(np.where(np.isnan(table), np.inf, -table), axis=None, kind="stable")
            for flat in ranked[: min(n, int((~np.isnan(table)).sum()))]:
                at = tuple(int(index) for index in np.unravel_index(flat, table.shape))
                cells.append((float(table[at]), pair, at))
        cells.sort(key=lambda item: -item[0])
        return Edges(tuple(self._scored(pair, at) for _, pair, at in cells[:n]), self.provenance["digest"])

    def discoveries(self, largest: Floats, level: float = 0.05) -> Edges:
        """Return the edges whose z is beyond that of random wiring, all pairs of the model taken together.

        Args:
            largest: what `circuits.largest_by_chance` gave for this model, with norms folded as here.
            level: how often any edge of a model with random wiring would be among them, at most. It cannot be under
                1 / (1 + draws).

        Returns:
            The edges, strongest first, whose p is the level at most: (1 + the number of draws with as large a z) /
            (1 + draws).

        Raises:
            InvalidInput: too few draws for the level.
        """
        draws = np.sort(np.asarray(largest, dtype=np.float64).ravel())
        beaten = int(number("level", level) * (1 + len(draws)) + 1e-9) - 1
        if beaten < 0:
            need = int(np.ceil(1 / level)) - 1 if level > 0 else 0
            how = f"give {need} draws or more" if need else "give a level over 0"
            raise InvalidInput(f"level={level:g} of {len(draws)} draws: p cannot be under 1 / (1 + draws): {how}.")
        strongest = self.top(max(self.n_pairs, 1))
        threshold = draws[::-1][beaten] if beaten < len(draws) else -np.inf
        return Edges(tuple(edge for edge in strongest if edge.z > threshold), strongest.digest)

    def _pairs(self, pairs: Any) -> list[Pair]:
        try:
            return [self._pair(*pair) for pair in pairs]
        except TypeError:
            how = f"give a list of (writer, reader, kind), such as [{next(iter(self.raw))}]."
            raise InvalidInput(f"pairs={pairs!r}: {how}") from None

    def _scored(self, pair: Pair, at: tuple[int, ...]) -> ScoredEdge:
        (stack, kind), (other, what) = parse_kind(pair[0]), parse_kind(pair[1])
        edge = Edge(Head(stack, kind, at[0], at[1]), Head(other, what, at[2], at[3]), pair[2])
        raw = float(self.raw[pair][at])
        return ScoredEdge(edge, raw, raw - self.baseline, float(self.z[pair][at]))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per pair of heads: `edge, writer, reader, kind, raw, excess, z`, in forward order."""
        parts: list[pd.DataFrame] = []
        for (write, read, kind), table in self.raw.items():
            at = np.argwhere(~np.isnan(table))
            cells = tuple(at.T)
            sides = [[f"{site}.{i}.{j}" for i, j in at[:, here : here + 2]] for site, here in ((write, 0), (read, 2))]
            names = [f"{writer} -> {reader}:{kind.lower()}" for writer, reader in zip(*sides, strict=True)]
            columns = {"edge": names, "writer": sides[0], "reader": sides[1], "kind": kind, "raw": table[cells]}
            values = columns | {"excess": table[cells] - self.baseline, "z": self.z[write, read, kind][cells]}
            parts.append(Frame(values))
        return pd.concat(parts, ignore_index=True)

    @classmethod
    def _of_old(cls, content: dict[str, Any]) -> dict[str, Any]:
        arrays: dict[str, Floats] = content["arrays"]
        pairs = wires_of({kind for name in arrays for kind in name.split()[1:3]})
        if not pairs:
            raise ValueError("no scores")
        tables = {name: {pair: arrays[f"{name} {' '.join(pair)}"] for pair in pairs} for name in ("raw", "z")}
        return tables | {"baseline": float(content["baseline"]), "provenance": json.loads(content["provenance"])}

    def _title(self) -> str:
        folded = "norms folded" if self.provenance["stimulus"]["fold_norm"] else "norms not folded"
        about = f"{self.n_pairs} pairs, chance {self.baseline:.3f}, {folded}"
        return f"CompositionScores({self.provenance['model']}: {about})"

    def _shown(self) -> pd.DataFrame:
        return self.top(8).to_frame()
