"""Frozen results: values with axes and standard errors, and where they came from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.errors import InvalidInput
from interp.models.model import Model
from interp.names import AttentionLayer, Head, Pattern, as_head, parse_kind
from interp.results.frame import Frame
from interp.results.result import Floats, Result, frozen


def provenance(model: Model, **stimulus: Any) -> dict[str, Any]:
    """Return where a result comes from: the model and its weights, the stimulus, the versions.

    Args:
        model: that was run.
        stimulus: parameters of what it was fed, its seed among them.

    Returns:
        A dictionary that JSON can hold.
    """
    return {
        "model": model.name,
        "digest": model.digest,
        "n_parameters": model.n_parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "stimulus": stimulus,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    packages = ("torch", "transformers", "chronos-forecasting", "nnsight", "chronos-interp")
    return {name: _version(name) for name in packages}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"


@dataclass(frozen=True)
class ScoredHead:
    """A head with a score and what the score is of."""

    address: Head
    kind: str
    score: float

    def __str__(self) -> str:
        return f"{self.address} ({self.kind} {self.score:.3f})"


HeadLike = Head | AttentionLayer | Pattern | ScoredHead | str
Heads = HeadLike | Sequence[HeadLike]
"""What functions that take heads accept: heads, layers or kinds (all their heads), patterns, scored heads."""


def as_heads(model: Model, heads: Heads) -> list[Head]:
    """Return the heads that addresses, layers, patterns or results stand for, each once, checked against the model.

    Args:
        model: whose heads they are.
        heads: a `Head`, its address, an attention layer such as `decoder.cross.1` or a kind such as `decoder.cross`
            (all their heads), a pattern such as `decoder.cross.*.0`, a `ScoredHead`, or a sequence of these.

    Returns:
        The heads in the order given.

    Raises:
        UnknownHead, UnknownSite: an address that is malformed or out of range.
        InvalidInput: a head that is named twice.
    """
    return _each_once(head for item in _listed(heads) for head in _heads(model, item))


def _heads(model: Model, item: Any) -> list[Head]:
    if isinstance(item, Head | AttentionLayer) or {".", "*"} & set(str(item)):
        return model.heads(item)
    return [model.head(item)]


def heads_among(known: Sequence[Head], heads: Heads) -> list[Head]:
    """Return the heads that addresses, layers, patterns or results stand for, each once, out of those of a result.

    Raises:
        UnknownHead: a malformed address.
        InvalidInput: no heads, one that is none of the result's, or one that is named twice.
    """
    chosen: list[Head] = []
    for item in _listed(heads):
        text = str(item)
        forms = (Pattern(text), Pattern(f"{text}.*"), Pattern(f"{text}.*.*"))
        matches = [head for head in known if any(form.matches(head) for form in forms)]
        if not matches:
            if "*" not in text and text.count(".") not in (1, 2):
                as_head(item)
            raise InvalidInput(f"{text!r}: the result has heads {known[0]} to {known[-1]} and none of this address.")
        chosen += matches
    if not chosen:
        raise InvalidInput("no heads: give one or several.")
    return _each_once(chosen)


def _listed(heads: Heads) -> list[Any]:
    items: Iterable[Any] = [heads] if isinstance(heads, HeadLike) else heads
    if not isinstance(cast(Any, items), Iterable):
        how = "the heads in it, by .heads()" if hasattr(items, "heads") else "a head, its address, or several of them"
        raise InvalidInput(f"heads={type(heads).__name__}: give {how}.")
    return [item.address if isinstance(item, ScoredHead) else item for item in items]


def _each_once(heads: Iterable[Head]) -> list[Head]:
    chosen = list(heads)
    if twice := sorted({str(head) for head in chosen if chosen.count(head) > 1}):
        raise InvalidInput(f"named more than once: {', '.join(twice)}. Give each head once.")
    return chosen


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Result):
    """One number for each head of a stack and kind.

    `values` and `stderr` are `[layer, head]`; `stderr` is None where none is known. Heads for
    which the score does not exist are NaN. `site` is such as `decoder.cross`.
    """

    name: str
    site: str
    values: Floats
    stderr: Floats | None = None
    unit: str = "attention"
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    KIND = "head-scores"
    VERSION = 2

    def __post_init__(self) -> None:
        parse_kind(self.site)
        object.__setattr__(self, "values", frozen(self.values))
        super().__post_init__()
        if np.isinf(self.values).any():
            raise InvalidInput(f"{self.name}: scores must be finite, or NaN where a head has none.")
        if self.values.ndim != 2:
            raise InvalidInput(f"{self.name}: values must be [layer, head]; found {list(self.values.shape)}.")
        if self.stderr is not None:
            object.__setattr__(self, "stderr", frozen(self.stderr))
            if self.stderr.shape != self.values.shape:
                raise InvalidInput(
                    f"{self.name}: stderr is {list(self.stderr.shape)} and values {list(self.values.shape)}."
                )

    def head(self, layer: int, head: int) -> Head:
        """Return the address of a cell of `values`."""
        stack, kind = parse_kind(self.site)
        return Head(stack, kind, layer, head)

    def __getitem__(self, head: Head | str) -> float:
        """Return the score of one head, by address."""
        at = Head.parse(head) if isinstance(head, str) else head
        layers, heads = self.values.shape
        if (at.stack, at.kind) != parse_kind(self.site) or at.layer >= layers or at.head >= heads:
            raise InvalidInput(f"{at}: these are scores of {self.site}, {layers} layers of {heads} heads.")
        return float(self.values[at.layer, at.head])

    def heads(self, threshold: float = -np.inf) -> tuple[ScoredHead, ...]:
        """Return the heads whose score reaches a threshold, strongest first; by default all that have a score."""
        cells = [(int(i), int(j)) for i, j in np.argwhere(self.values >= threshold)]
        order = sorted(cells, key=lambda cell: (-self.values[cell], cell))
        return tuple(ScoredHead(self.head(*cell), self.name, float(self.values[cell])) for cell in order)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head: `head, score, stderr, layer, index, name, site`."""
        rows = [
            {
                "head": str(self.head(i, j)),
                "score": self.values[i, j],
                "stderr": np.nan if self.stderr is None else self.stderr[i, j],
                "layer": i,
                "index": j,
                "name": self.name,
                "site": self.site,
            }
            for i, j in np.ndindex(*self.values.shape)
        ]
        return Frame(rows)

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("score", ascending=False)

    @classmethod
    def _of_old(cls, content: dict[str, Any]) -> dict[str, Any]:
        names = ("name", "site", "unit", "values", "stderr", "provenance")
        values = {name: content[name] for name in names}
        if not isinstance(values["name"], str) or not isinstance(values["provenance"], dict):
            raise TypeError("name or provenance")
        return values | {name: None if values[name] is None else frozen(values[name]) for name in ("values", "stderr")}


def over_rows(name: str, site: str, rows: Tensor, source: dict[str, Any]) -> HeadScores:
    """Average rows into head scores, with the standard error of the mean.

    Args:
        name: of the score.
        site: such as `decoder.cross`.
        rows: one number a row and head, `[layer, batch, head]`; rows that are NaN, such as padding, do not count.
        source: where they came from.

    Returns:
        The scores; `stderr` is None for a single row.
    """
    values = rows.detach().cpu().double()
    n = values.shape[1]
    if bool(values.isnan().any()):
        known = (~values.isnan()).sum(1)
        mean = values.nanmean(1)
        spread = ((values - mean[:, None]) ** 2).nansum(1) / (known - 1)
        error = (spread / known).sqrt().masked_fill(known < 2, torch.nan).numpy() if n > 1 else None
        return HeadScores(name, site, mean.numpy(), error, provenance=source)
    stderr = (values.std(1) / n**0.5).numpy() if n > 1 else None
    return HeadScores(name, site, values.mean(1).numpy(), stderr, provenance=source)


def row_mean(rows: Floats) -> Floats:
    """Average the last axis over the rows that are not NaN; NaN where none is left."""
    known = ~np.isnan(rows)
    if known.all():
        return rows.mean(-1)
    count = known.sum(-1)
    total = np.where(known, rows, 0).sum(-1)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
