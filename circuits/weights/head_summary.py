"""One tidy row a head: what its weights say, beside what it scores and what it causes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits.ablation.curve import check_digest
from circuits.edges import is_fixed
from circuits.weights.token_circuit import Tokens, items_of, token_factors
from interp import Head, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.models.model import as_model
from interp.models.weights.factored import FactoredMatrix
from interp.models.weights.head_weights import layer_weights
from interp.models.weights.position_bias import position_bias
from interp.names import AttentionLayer
from interp.results.by_head import HeadScores
from interp.results.frame import Frame
from interp.results.result import Floats
from probes.induction.mosaic import KINDS as MOSAIC_KINDS
from probes.induction.mosaic import Mosaic

CIRCUITS: dict[Literal["OV", "QK"], str] = {"OV": "copying", "QK": "matching"}


@checked
def head_summary(
    model: Model,
    *,
    tokens: Tokens | None = None,
    mosaic: Mosaic | None = None,
    scores: Mapping[str, HeadScores] | Sequence[HeadScores] = (),
) -> pd.DataFrame:
    """Summarize the weights of every head, norms folded: one row per head, in forward order.

    Args:
        tokens: which tokens the scores in token space are over; by default the values within +-1.01. Of a model of
            patches they are over random patches instead.
        mosaic: adds `current_token, token_to_right, either` (the larger), missing outside its kind of head.
        scores: further scores, such as `probes.head_scores(model)` or `[circuits.head_effects(model, batch)]`, each a
            column by its name (`previous_token`, `effect`); several of one name fill it for their own kinds of heads.

    Returns:
        `head, stack, kind, layer, index`; `copying` (eigenvalue score of the OV circuit in token space, from -1 to
        1), `matching` (the same of QK; missing where a query takes nothing of the input);
        `qk_stable_rank, ov_stable_rank`; `qk_norm, ov_norm` (Frobenius);
        `preferred_distance` (the key's position minus the query's, of the largest position bias; missing where there
        is none); and what was joined. All are of the linear part of the circuits: biases have no part in it.

    Raises:
        InvalidInput: tokens outside the vocabulary; scores of other weights, twice of the same heads, or under a name
            that is taken.
        UnsupportedModel: weights that cannot be read.

    Source: Elhage et al. 2021 (eigenvalue scores); Bao et al. 2026 (stable rank of W_QK).
    """
    return summary_of(model, as_model(model).layers(), tokens, mosaic, scores, "scores")


@torch.no_grad()
def summary_of(
    model: Model, layers: Sequence[AttentionLayer], tokens: Tokens | None, mosaic: Mosaic | None, scores: Any, name: str
) -> pd.DataFrame:
    """Return the rows of `head_summary` for some layers, with its arguments; `name` is that of the scores."""
    joined = _to_join(model, mosaic, scores, name)
    items = items_of(model, tokens)
    biases = {
        f"{stack}.{kind}": position_bias(model, f"{stack}.{kind}").preferred
        for stack, kind in dict.fromkeys((at.stack, at.kind) for at in layers)
        if (stack, kind) in model.family.position_biases
    }
    rows: list[dict[str, object]] = []
    for at in layers:
        of_layer = _of_layer(model, at, items)
        distances = biases.get(f"{at.stack}.{at.kind}")
        for index in range(model.n_heads):
            rows.append(
                {
                    "head": str(Head(at.stack, at.kind, at.layer, index)),
                    "stack": at.stack,
                    "kind": at.kind,
                    "layer": at.layer,
                    "index": index,
                    **{column: of_layer[column][index] for column in COLUMNS},
                    "preferred_distance": pd.NA if distances is None else int(distances[index]),
                }
            )
    columns = [*ADDRESS[:-1], *COLUMNS, ADDRESS[-1]]
    frame = Frame(rows, columns=columns).astype({"preferred_distance": "Int64"})
    for column, found_scores in joined:
        frame = _joined(frame, column, found_scores)
    return frame


COLUMNS = ("copying", "matching", "qk_stable_rank", "ov_stable_rank", "qk_norm", "ov_norm")
ADDRESS = ("head", "stack", "kind", "layer", "index", "preferred_distance")


def _of_layer(model: Model, at: AttentionLayer, items: Tensor) -> dict[str, Floats]:
    """Compute the columns that come from the weights, `[head]`, for all heads of a layer at once."""
    weights = layer_weights(model, at)
    columns: dict[str, Floats] = {}
    for name, score in CIRCUITS.items():
        circuit: FactoredMatrix = getattr(weights, name)
        between = token_factors(model, Head(at.stack, at.kind, at.layer, 0), name, circuit, items, True)
        columns[score] = between.less_row_means().eigenvalue_score()[0].cpu().numpy()
        if name == "QK" and is_fixed(model, at, "Q"):
            columns[score] = np.full(model.n_heads, np.nan)
        squares = circuit.singular_values()[0].square().cpu().numpy()
        with np.errstate(invalid="ignore"):
            columns[f"{name.lower()}_stable_rank"] = squares.sum(-1) / squares.max(-1)
        columns[f"{name.lower()}_norm"] = np.sqrt(squares.sum(-1))
    return columns


def _to_join(model: Model, mosaic: Mosaic | None, scores: Any, name: str) -> list[tuple[str, HeadScores]]:
    """Return the scores to join and their columns, checked against the model."""
    listed = list(cast(Mapping[str, HeadScores], scores).values()) if isinstance(scores, Mapping) else scores
    if not isinstance(listed, Sequence) or not all(isinstance(item, HeadScores) for item in listed):  # type: ignore[redundant-expr]
        raise InvalidInput(
            f"{name}= takes a list of HeadScores, or what probes.head_scores gave; a mosaic goes to mosaic=."
        )
    own = [] if mosaic is None else [(kind, getattr(mosaic, kind)) for kind in (*MOSAIC_KINDS, "either")]
    reserved = {*COLUMNS, *ADDRESS, *(column for column, _ in own)}
    for item in cast(Sequence[HeadScores], listed):
        if item.name in reserved:
            raise InvalidInput(f"scores called {item.name!r}: the table has a column of this name already.")
    joined = [*own, *((item.name, item) for item in cast(Sequence[HeadScores], listed))]
    for _, item in joined:
        check_digest(model, item)
    return joined


def _joined(frame: pd.DataFrame, name: str, scores: HeadScores) -> pd.DataFrame:
    by_head: dict[str, float] = dict(zip(scores.to_frame()["head"], scores.values.ravel(), strict=True))
    values = pd.Series([by_head.get(head, np.nan) for head in frame["head"]], dtype=np.float64)
    if name not in frame:
        return frame.assign(**{name: values})
    if bool(np.any(frame[name].notna() & values.notna())):
        raise InvalidInput(f"scores called {name!r} are given twice for {scores.site}.")
    return frame.assign(**{name: frame[name].fillna(values)})
