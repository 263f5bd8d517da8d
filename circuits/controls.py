"""Random heads as controls: sets of the same size, from the same layers.

Source: Crosbie & Shutova 2024, "Induction Heads as an Essential Mechanism for Pattern Matching".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb, prod
from typing import Any

import numpy as np
import pandas as pd

from interp import Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.names import Head
from interp.results.by_head import HeadScores, ScoredHead, as_heads
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import band, band_words, rank_p
from interp.validate import whole


@dataclass(frozen=True, repr=False)
class Controls(Result):
    """Distinct random sets of heads; `reason` says why there are fewer than asked."""

    KIND = "controls"

    sets: tuple[tuple[Head, ...], ...]
    reason: str = ""

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head of a set: `set, head`."""
        rows = [(index, str(head)) for index, members in enumerate(self.sets) for head in members]
        return Frame(rows, columns=["set", "head"])

    def _title(self) -> str:
        return f"{len(self.sets)} random sets of heads" + (f" ({self.reason})" if self.reason else "")


@checked
def random_controls(
    model: Model,
    heads: Sequence[Head | ScoredHead | str],
    *,
    exclude: Sequence[Head | ScoredHead | str] = (),
    draws: int = 20,
    seed: int = 0,
) -> Controls:
    """Draw distinct random sets of as many heads from the same attention layers.

    Args:
        heads: the heads to control for; they are never drawn.
        exclude: other heads that are never drawn, such as all induction heads.
        draws: number of sets; if there are fewer distinct ones, all of them.

    Returns:
        Distinct sets, and the reason if there are fewer than asked.

    Raises:
        UnknownHead: a head that this model does not have.
        InvalidInput: a head named twice, or a number of draws that is negative.
    """
    chosen = as_heads(model, heads)
    whole("draws", draws, 0)
    whole("seed", seed, 0)
    never = {*chosen, *as_heads(model, exclude)}
    needed = Counter(head.attention for head in chosen)
    free = {
        at: [h for h in (Head(at.stack, at.kind, at.layer, i) for i in range(model.n_heads)) if h not in never]
        for at in needed
    }
    short = [
        f"{at} has {len(free[at])} other heads and {k} are needed" for at, k in needed.items() if len(free[at]) < k
    ]
    if short:
        return Controls((), f"no control: {'; '.join(short)}")
    total = prod(comb(len(free[at]), k) for at, k in needed.items())
    if total <= draws:
        every = product(*(combinations(free[at], k) for at, k in needed.items()))
        sets = tuple(tuple(head for part in parts for head in part) for parts in every)
        return Controls(sets, f"only {total} distinct controls" if total < draws else "")
    rng = np.random.default_rng(seed)
    distinct: dict[tuple[Head, ...], None] = {}
    while len(distinct) < draws:
        picked = [sorted(rng.choice(len(free[at]), k, replace=False)) for at, k in needed.items()]
        distinct[tuple(free[at][i] for at, places in zip(needed, picked, strict=True) for i in places)] = None
    return Controls(tuple(distinct))


def strongest(scores: HeadScores, counts: Sequence[int | str], *, ascending: bool = False) -> dict[int, list[Head]]:
    """Return the strongest k heads for several k.

    Args:
        counts: whole numbers, or shares of all heads that have a score, as `"3%"` (at least one head).
        ascending: take the weakest instead.

    Returns:
        By k, the heads, in order.

    Raises:
        InvalidInput: no counts, one twice, or more heads than there are.
    """
    order = [head.address for head in scores.heads()]
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
    """Return the columns of a table that compare a value with its controls.

    Args:
        value: the value of the chosen heads.
        means: the value of each random set, `[draw]`.

    Returns:
        `control` (their mean), `control_low`, `control_high`, `p` (the value's rank among them), `draws` and `band`,
        which says what low and high are.
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
