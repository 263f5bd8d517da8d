"""Random heads as controls: as many, of the same layers, that are not the heads in question.

Source: Crosbie & Shutova 2024, "Induction Heads as an Essential Mechanism for Pattern Matching".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb, prod
from typing import Any

import numpy as np

from interp import Model
from interp.errors import InvalidInput
from interp.names import AttentionLayer, Head
from interp.results.by_head import HeadScores, ScoredHead, as_heads
from interp.results.result import Floats
from interp.results.statistics import band, band_words, rank_p
from interp.validate import whole


@dataclass(frozen=True)
class Controls:
    """Distinct random sets of heads; `reason` says why there are none, or fewer than asked."""

    sets: tuple[tuple[Head, ...], ...]
    reason: str = ""


def layer_of(head: Head) -> AttentionLayer:
    """The attention layer a head is in."""
    return AttentionLayer(head.stack, head.kind, head.layer)


def random_controls(
    model: Model,
    heads: Sequence[Head | ScoredHead | str],
    *,
    exclude: Sequence[Head | ScoredHead | str] = (),
    draws: int = 20,
    seed: int = 0,
) -> Controls:
    """Random sets of as many heads from the same attention layers.

    Args:
        model: whose heads they are.
        heads: the heads to control for; they are never drawn.
        exclude: heads that are not drawn either, such as all induction heads.
        draws: how many sets; all there are where there are no more.
        seed: of the draws.

    Returns:
        Distinct sets, and a reason where there are fewer than asked.

    Raises:
        UnknownHead: a head that this model does not have.
        InvalidInput: a head named twice, or a number of draws that is negative.
    """
    chosen = as_heads(model, heads)
    whole("draws", draws, 0)
    whole("seed", seed, 0)
    taken = {*chosen, *as_heads(model, exclude)}
    wanted = Counter(layer_of(head) for head in chosen)
    free = {
        at: [h for h in (Head(at.stack, at.kind, at.layer, i) for i in range(model.n_heads)) if h not in taken]
        for at in wanted
    }
    short = [
        f"{at} has {len(free[at])} other heads and {k} are needed" for at, k in wanted.items() if len(free[at]) < k
    ]
    if short:
        return Controls((), f"no control: {'; '.join(short)}")
    there = prod(comb(len(free[at]), k) for at, k in wanted.items())
    if there <= draws:
        every = product(*(combinations(free[at], k) for at, k in wanted.items()))
        sets = tuple(tuple(head for part in parts for head in part) for parts in every)
        return Controls(sets, f"only {there} distinct controls" if there < draws else "")
    rng = np.random.default_rng(seed)
    found: dict[tuple[Head, ...], None] = {}
    while len(found) < draws:
        picked = [sorted(rng.choice(len(free[at]), k, replace=False)) for at, k in wanted.items()]
        found[tuple(free[at][i] for at, places in zip(wanted, picked, strict=True) for i in places)] = None
    return Controls(tuple(found))


def strongest(scores: HeadScores, counts: Sequence[int | str], *, ascending: bool = False) -> dict[int, list[Head]]:
    """The strongest k heads for several k.

    Args:
        scores: of the heads.
        counts: whole numbers, or shares of all heads that have a score, as `"3%"` (at least one head).
        ascending: whether to take the weakest instead.

    Returns:
        By k, the heads, in order.

    Raises:
        InvalidInput: no counts, one twice, or more heads than there are.
    """
    order = [found.address for found in scores.heads()]
    order = order[::-1] if ascending else order
    if isinstance(counts, int | str):
        raise InvalidInput(f"counts={counts!r}: give several, as [1, 2, 4] or ['3%'].")
    ks = [_count(count, len(order)) for count in counts]
    if not ks or len(set(ks)) < len(ks):
        raise InvalidInput(f"counts={list(counts)!r} give {ks} heads of {len(order)}: give different numbers.")
    return {k: order[:k] for k in ks}


def _count(count: int | str, n: int) -> int:
    if isinstance(count, str):
        try:
            share = float(count.removesuffix("%"))
        except ValueError:
            share = -1.0
        if not count.endswith("%") or not 0 < share <= 100:
            raise InvalidInput(f"counts hold {count!r}: give whole numbers, or shares as '3%'.")
        return max(1, round(n * share / 100))
    if whole("counts", count, 1) > n:
        raise InvalidInput(f"counts ask for {count} heads, and {n} have a score.")
    return int(count)


def columns_of_controls(value: float, means: Floats) -> dict[str, Any]:
    """What stands beside a value in a table: its controls' mean, band and number, and its rank among them.

    Args:
        value: of the chosen heads.
        means: the same of each random set, `[draw]`.

    Returns:
        `control`, `control_low`, `control_high`, `p`, `draws` and `band`, which says what low and high are.
    """
    low, high = band(means)
    return {
        "control": float(means.mean()) if len(means) else float("nan"),
        "control_low": float(low),
        "control_high": float(high),
        "p": rank_p(value, means),
        "draws": len(means),
        "band": band_words([len(means)]),
    }
