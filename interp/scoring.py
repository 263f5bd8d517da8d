"""Score heads by a function of your own: one number for each row and head, all layers in one forward pass.

1. The site is captured in all layers of a kind of attention; of several batches, one batch at a time.
2. The function gets one layer's tensor, `[batch, head, query, key]` of patterns, and gives `[batch, head]`.
3. The rows of all batches are averaged, with the standard error of the mean over rows.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from interp.arguments import checked
from interp.cache import capture
from interp.errors import InvalidInput
from interp.inputs.batch import Batch
from interp.models.model import Model, as_model
from interp.names import ATTENTION_SITES, AttentionLayer
from interp.output.progress import late_bar
from interp.results.by_head import HeadScores, over_rows, provenance
from interp.validate import as_tensor

SITES = tuple(site for site in ATTENTION_SITES if site != "attn_out")
"""The sites that have an axis of heads."""

Score = Callable[..., Any]
"""A layer's tensor, and the batch if it has a second parameter, to one number for each row and head."""


@checked
def score_heads(
    model: Model,
    batch: Batch | Iterable[Batch],
    function: Score,
    *,
    kind: str = "decoder.cross",
    site: str = "pattern",
    name: str | None = None,
    progress: bool = True,
) -> HeadScores:
    """Score all heads of a kind by a function of what they do, in one forward pass for all layers.

    Args:
        batch: one batch, or several (a data set), which are run one at a time and may differ in shape.
        function: called as `function(pattern)` with one layer's `[batch, head, query, key]`, or as
            `function(pattern, batch)` if it has two parameters without a default. It returns one number for each
            row and head, `[batch, head]`; rows that are NaN do not count.
        site: what the function gets: `pattern` or `scores` as above, `q`, `k`, `v` or `z`
            `[batch, pos, head, d_head]`, or `head_out` `[batch, pos, head, d_model]`.
        name: of the score; the function's name by default.
        progress: shown for several batches.

    Returns:
        The mean over all rows, `[layer, head]`, with its standard error.

    Raises:
        UnknownSite: a kind of attention that the model does not have.
        InvalidInput: no batch, a site without heads, or a function that returns something else.
    """
    if not callable(function):
        raise InvalidInput(f"function={function!r}: give a function of one layer's {site}.")
    called = str(name or getattr(function, "__name__", "score").replace("<lambda>", "score"))
    rows, count, runs = score_rows(model, batch, {called: function}, kind, site, progress)
    about: dict[str, Any] = dict(batch.description) if isinstance(batch, Batch) else {}
    about |= {"name": called, "site": f"{kind}.{site}", "rows": count, "batches": runs}
    scores = over_rows(called, kind, rows[called], provenance(model, **about))
    return scores if site == "pattern" else replace(scores, unit="score")


def score_rows(
    model: Model,
    batch: Batch | Iterable[Batch],
    functions: Mapping[str, Score],
    kind: str,
    site: str = "pattern",
    progress: bool = False,
) -> tuple[dict[str, Tensor], int, int]:
    """Run a batch, or several, once and score them by several functions.

    Returns:
        Of each function `[layer, row, head]` in float64, the rows of all batches in their order; the number of rows,
        and of batches.

    Raises:
        UnknownSite, InvalidInput: as `score_heads`.
    """
    as_model(model).kind(kind)
    if site not in SITES:
        raise InvalidInput(f"site={site!r} has no axis of heads: there are {', '.join(SITES)}.")
    layers = model.layers(kind)
    wanted = {name: _takes_batch(name, function) for name, function in functions.items()}
    parts: dict[str, list[Tensor]] = {name: [] for name in functions}
    count = runs = 0
    for one in each_batch(batch, progress, "score heads"):
        cache = capture(model, one, f"{kind}.*.{site}")
        for name, function in functions.items():
            scored = [
                _scored(name, function, cache[f"{layer}.{site}"], one if wanted[name] else None, layer, model.n_heads)
                for layer in layers
            ]
            parts[name].append(torch.stack(scored))
        count, runs = count + len(one), runs + 1
    return {name: torch.cat(scored, dim=1) for name, scored in parts.items()}, count, runs


def each_batch(batch: Batch | Iterable[Batch], progress: bool, what: str) -> Iterator[Batch]:
    """Yield one batch, or several (a data set) one at a time, so that no more than one is held.

    Args:
        progress: shown for several batches, under the name `what`.

    Raises:
        InvalidInput: no batch, or something that is none.
    """
    if not isinstance(cast(Any, batch), Iterable) and not isinstance(batch, Batch):
        raise InvalidInput(f"batch={batch!r}: give a Batch, or several.")
    batches: Iterable[Batch] = [batch] if isinstance(batch, Batch) else batch
    bar = late_bar(batches, progress=progress and not isinstance(batch, Batch), desc=what, unit="batch")
    empty = True
    for one in bar:
        if not isinstance(cast(Any, one), Batch):
            raise InvalidInput(f"batch: {type(one).__name__} {one!r:.60} is no Batch.")
        empty = False
        yield one
    if empty:
        raise InvalidInput("there is no batch: give one or more.")


def _takes_batch(name: str, function: Score) -> bool:
    """Tell whether a function wants the batch beside the tensor."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    if sum(parameter.kind in by_place for parameter in needed) > 2:
        raise InvalidInput(f"{name}{inspect.signature(function)}: it is called with a tensor, or a tensor and a batch.")
    return sum(parameter.kind in by_place for parameter in needed) == 2


def _scored(
    name: str, function: Score, value: Tensor, batch: Batch | None, layer: AttentionLayer, n_heads: int
) -> Tensor:
    try:
        result = function(value) if batch is None else function(value, batch)
    except Exception as error:
        error.add_note(f"in {name} of {layer}, called with {list(value.shape)}")
        raise
    try:
        scores = as_tensor(result).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(
            f"{name} of {layer} returned {type(result).__name__}: return a tensor [batch, head]."
        ) from None
    if tuple(scores.shape) != (len(value), n_heads):
        raise InvalidInput(
            f"{name} of {layer} returned {list(scores.shape)}: return one number for each row and head, "
            f"[{len(value)}, {n_heads}]."
        )
    if bool(scores.isinf().any()):
        raise InvalidInput(f"{name} of {layer} is infinite in row {int(scores.isinf().any(1).int().argmax())}.")
    return scores
