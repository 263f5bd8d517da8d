"""Composition scores: which heads are wired into which, within and across the two stacks.

Head 1 writes W_OV1, head 2 reads it through its queries (Q: |W_OV1 W_QK2|), keys (K: |W_QK2 W_OV1^T|) or values
(V: |W_OV1 W_OV2|), each divided by the product of the two Frobenius norms. In an encoder-decoder this is defined
for every pair that shares a stream (`circuits.edges.PAIRS`); the encoder's writers reach the keys and values of
cross heads through the encoder's final norm. A decoder alone has one kind of head, and one such pair of kinds.

1. With W_V = Q R_V, head 1 is A = R_V W_O, `[d_head, d_model]`; with W_K = Q R_K, head 2 by its queries is
   B = W_Q R_K^T, `[d_model, d_head]`; keys and values likewise. Norms do not see the orthogonal Q.
2. |W_OV1 W_QK2| = |A B|: one d_head x d_head block a pair, many pairs in one product within a memory budget.
3. Under a uniformly random rotation R between the two, X = |A R B|^2 has the mean |A|^2 |B|^2 / d, so chance is
   d^-0.5 (a root mean square), and the variance 2 |A|^4 |B|^4 (d a - 1) (d b - 1) / (d^2 (d - 1) (d + 2)), where
   a = sum of sigma^4 / (sum of sigma^2)^2 over A's singular values and b over B's: an exact z-score a pair.
4. Its moments are exact and its tail is skewed: z > 3 comes in .3 to 1.7 % of random pairs at small widths, and a model
   has thousands of pairs. So |z| > 3 alone is no discovery. `largest_by_chance` turns all writers of the model at
   random, keeps their singular values, and gives the largest z of all pairs.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuits.edges import PAIRS, Composition, Pair, is_fixed
from circuits.weights.composition_scores import CompositionScores, wires_of
from interp import Model
from interp.arguments import checked
from interp.models.model import as_model
from interp.models.weights.head_weights import Projection, projection
from interp.output.progress import late_bar
from interp.results.by_head import provenance
from interp.results.result import Floats
from interp.validate import whole

MEMORY = 256 * 2**20
"""How many bytes the block of one product may take."""


@dataclass(frozen=True)
class _Factor:
    """One side of the pairs: `rows` `[layer, head, rank, d_model]` of norm 1 a head, and d a - 1 `[layer, head]`."""

    rows: Tensor
    spread: Tensor


def _triangle(matrix: Tensor) -> Tensor:
    """Return R of the QR decomposition up to signs: by Cholesky, which is faster, where the columns are well apart."""
    matrix = matrix.double()
    if matrix.shape[-1] <= matrix.shape[-2]:
        R, failed = torch.linalg.cholesky_ex(matrix.mT @ matrix, upper=True)
        pivots = R.diagonal(dim1=-2, dim2=-1)
        # Squaring loses the digits of what is less than 1e-8 of the largest.
        if not bool(failed.any()) and bool((pivots.amin(-1) > 1e-6 * pivots.amax(-1)).all()):
            return R
    return torch.linalg.qr(matrix, mode="r").R


_ABSORBED: dict[Composition | None, tuple[Projection, Projection]] = {
    None: ("V", "O"),
    "Q": ("K", "Q"),
    "K": ("Q", "K"),
    "V": ("O", "V"),
}


def _factor(model: Model, site: str, kind: Composition | None, fold_norm: bool) -> _Factor:
    """Factor all heads of a kind, as writers (no kind) or as readers by their queries, keys or values."""
    # The first is absorbed as its triangle into the second.
    absorbed, multiplied = _ABSORBED[kind]
    rows: list[Tensor] = []
    spreads: list[Tensor] = []
    for layer in model.layers(site):
        inner, outer = (projection(model, layer, name, fold_norm=fold_norm) for name in (absorbed, multiplied))
        inner, outer = (inner.mT if absorbed == "O" else inner), (outer if multiplied == "O" else outer.mT)
        factor = _triangle(inner) @ outer.double()
        # Scores know no scale: with norm 1 no square overflows, whatever the weights' size. Idle heads become NaN.
        factor = factor / torch.linalg.matrix_norm(factor, keepdim=True)
        rows.append(factor.to(torch.promote_types(model.dtype, torch.float32)))
        spreads.append(model.d_model * (factor @ factor.mT).square().sum((-2, -1)) - 1)
    return _Factor(torch.stack(rows), torch.stack(spreads))


@checked
@torch.no_grad()
def composition_scores(
    model: Model, *, fold_norm: bool = True, memory: int = MEMORY, progress: bool = True
) -> CompositionScores:
    """Measure how strongly every head is wired into every later one, for all pairs that share a stream.

    Head 1 writes W_OV1; head 2 takes it into its queries (Q: |W_OV1 W_QK2|), keys (K: |W_QK2 W_OV1^T|) or values (V:
    |W_OV1 W_OV2|), each over the product of the two Frobenius norms. Chance, d_model^-0.5, is the root mean square when
    a random rotation stands between the two, and z the squared score's distance from its mean there in its exact
    standard deviations. Of thousands of pairs some have a z over 3, or 5, by chance: hold the largest against
    `largest_by_chance`.

    Args:
        fold_norm: whether the norms between writer and reader are multiplied in: their scales, and with LayerNorm
            that the reader does not see the stream's mean. What the writer writes is as it is, its mean included.
        memory: bytes that the block of one product may take, beside two stacks of factors; one head's at least.

    Returns:
        Raw scores, z-scores and the baseline, for the kinds of heads that the model has. Readers that take nothing of
        the input that way, as a query that is the same for every input, have none (NaN). With `fold_norm=False` the Q
        scores are those of the cursive-transformer notebook, on correctly cut heads; of GPT-2 the raw scores are
        TransformerLens' with `fold_ln=True, center_writing_weights=False`.

    Raises:
        UnsupportedModel, InvalidInput: weights that cannot be read.

    Source: Elhage et al. 2021.
    """
    wires = wires_in(as_model(model))
    whole("memory", memory, 1)
    d_model = model.d_model
    raw: dict[Pair, Floats] = {}
    z: dict[Pair, Floats] = {}
    with late_bar(total=len(wires), progress=progress, desc="composition", unit="pair of kinds") as bar:
        for writer in dict.fromkeys(pair[0] for pair in wires):
            A = _factor(model, writer, None, fold_norm)
            for pair in [pair for pair in wires if pair[0] == writer]:
                bar.set_postfix_str(f"{writer} -> {pair[1]}, {pair[2]}", refresh=False)
                B = _factor(model, pair[1], pair[2], fold_norm)
                raw[pair] = _table_of(model, pair, A, B, memory)
                z[pair] = _standardised(raw[pair], A, B, d_model)
                bar.update()
    source = provenance(model, name="composition_scores", fold_norm=fold_norm)
    return CompositionScores(raw, z, d_model**-0.5, source)


@checked
@torch.no_grad()
def largest_by_chance(
    model: Model,
    *,
    draws: int = 19,
    seed: int = 0,
    fold_norm: bool = True,
    memory: int = MEMORY,
    progress: bool = True,
) -> Floats:
    """Return the largest z of all pairs in the same model with its writers rotated at random.

    Each head that writes is turned by a rotation of its own, which keeps its singular values: all of a model that
    composition scores see but its wiring.

    Args:
        draws: such models; each costs what `composition_scores` does. With 19, an edge over the largest of them has
            p = 0.05 over all pairs together (`CompositionScores.discoveries`).
        seed: of the rotations.
        fold_norm: as the scores are that they are held against.
        memory: as in `composition_scores`.

    Returns:
        The largest z of each draw, `[draw]`.

    Raises:
        UnsupportedModel, InvalidInput: as `composition_scores`.
    """
    wires = wires_in(as_model(model))
    whole("draws", draws, 1)
    whole("memory", memory, 1)
    random = torch.Generator().manual_seed(whole("seed", seed, 0))
    writers = {writer: _factor(model, writer, None, fold_norm) for writer in dict.fromkeys(pair[0] for pair in wires)}
    readers = {pair[1:]: _factor(model, pair[1], pair[2], fold_norm) for pair in wires}
    largest = np.full(draws, -np.inf)
    for draw in late_bar(range(draws), progress=progress, desc="random wiring", unit="model"):
        turned = {writer: _turned(factor, random) for writer, factor in writers.items()}
        for writer, reader, kind in wires:
            A, B = turned[writer], readers[reader, kind]
            raw = _table_of(model, (writer, reader, kind), A, B, memory)
            largest[draw] = np.fmax(largest[draw], np.nanmax(_standardised(raw, A, B, model.d_model), initial=-np.inf))
    return largest


def _turned(factor: _Factor, random: torch.Generator) -> _Factor:
    """Rotate the same heads at random: each keeps its triangle, in front of a random frame of as many rows."""
    triangle = torch.linalg.qr(factor.rows.mT.double(), mode="r").R.mT
    frame = torch.linalg.qr(torch.randn(factor.rows.mT.shape, generator=random, dtype=torch.float64)).Q
    return _Factor((triangle @ frame.mT.to(triangle.device)).to(factor.rows.dtype), factor.spread)


def wires_in(model: Model) -> list[Pair]:
    """Return the pairs of kinds, with the reader's input, of a model's heads that take something of the input so."""
    wires = wires_of([f"{stack}.{kind}" for stack, kind in model.family.kinds])
    return [wire for wire in wires if not all(is_fixed(model, at, wire[2]) for at in model.layers(wire[1]))]


def _table_of(model: Model, pair: Pair, A: _Factor, B: _Factor, memory: int) -> Floats:
    """Return the raw scores of a pair of kinds, NaN where the reader takes nothing of the input."""
    table = _table(A, B, PAIRS[pair[:2]][1], memory)
    table[:, :, [is_fixed(model, at, pair[2]) for at in model.layers(pair[1])]] = np.nan
    return table


def _table(A: _Factor, B: _Factor, order: str, memory: int) -> Floats:
    (layers, heads, rank, _), (later, readers, width, d_model) = A.rows.shape, B.rows.shape
    table = torch.full((layers, heads, later, readers), torch.nan, dtype=torch.float64)
    for layer in range(layers):
        first = {"later": layer + 1, "same or later": layer, "any": 0}[order]
        if first >= later:
            continue
        reading = B.rows[first:].reshape(-1, d_model).T
        chunk = min(heads, max(1, memory // (reading.shape[1] * rank * reading.element_size())))
        # One buffer for all blocks: fresh memory costs a third of the product.
        buffer = torch.empty(chunk * rank, reading.shape[1], dtype=reading.dtype, device=reading.device)
        for start in range(0, heads, chunk):
            writing = A.rows[layer, start : start + chunk].reshape(-1, d_model)
            block = torch.mm(writing, reading, out=buffer[: len(writing)])
            squares = block.square_().view(len(writing), -1, width).sum(2).view(-1, rank, later - first, readers).sum(1)
            table[layer, start : start + chunk, first:] = squares.double().sqrt().cpu()
    return table.numpy()


def _standardised(raw: Floats, A: _Factor, B: _Factor, d_model: int) -> Floats:
    # Relative to the squared norms: mean 1 / d, variance 2 (d a - 1) (d b - 1) / (d^2 (d - 1) (d + 2)).
    # A circuit that does alike to all directions has no spread: what is left of it is rounding.
    spreads = [torch.where(side.spread > 1e-6, side.spread, torch.nan) for side in (A, B)]
    spread = (spreads[0][:, :, None, None] * spreads[1]).cpu().numpy()
    return (raw**2 - 1 / d_model) / np.sqrt(2 * spread / (d_model**2 * (d_model - 1) * (d_model + 2)))
