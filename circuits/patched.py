"""What activation patching gives: the metric by site, head or position and row, with shares, intervals and tests."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp.editing.actions import in_encoder_positions
from interp.errors import InvalidInput, UnknownSite
from interp.names import Site, parse_kind
from interp.results.by_head import HeadScores, row_mean
from interp.results.result import Floats, Result
from interp.results.statistics import Test, interval, p_values, q_values


@dataclass(frozen=True, eq=False, repr=False)
class Patched(Result):
    """What results of patching share: cells `[site, cell, row]` between a clean and a corrupt run.

    Attributes:
        metric: the name of what is measured.
        sites: that were patched, in forward order.
        values: the metric of the patched runs, `[site, cell, row]`.
        clean: the metric of the clean run, `[row]`.
        corrupt: the metric of the corrupt run, `[row]`.
        provenance: the model, its weights' digest, the two inputs, versions.
    """

    KIND = "patched"

    metric: str
    sites: tuple[str, ...]
    values: Floats
    clean: Floats
    corrupt: Floats
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.clean.shape
        fits = self.values.ndim == 3 and (len(self.values), *self.values.shape[2:]) == (len(self.sites), *rows)
        if not fits or self.corrupt.shape != rows or len(rows) != 1:
            raise InvalidInput(
                f"values are {list(self.values.shape)} for {len(self.sites)} sites and "
                f"{list(rows)} clean and {list(self.corrupt.shape)} corrupt rows: they must be [site, cell, row]."
            )

    @property
    def effects(self) -> Floats:
        """What patching changes: the metric patched minus clean, `[site, cell, row]`."""
        return self.values - self.clean

    @property
    def gap(self) -> float:
        """What there is to change: the mean of the metric on corrupt minus that on clean."""
        return float(self.corrupt.mean() - self.clean.mean())

    @property
    def _gaps(self) -> Floats:
        """The gap over the rows that each cell has, `[site, cell]`: all of them where none is padding."""
        known = ~np.isnan(self.values)
        if known.all():
            return np.full(self.values.shape[:2], self.gap)
        corrupt, clean = (np.where(known, rows, np.nan) for rows in (self.corrupt, self.clean))
        return row_mean(corrupt) - row_mean(clean)

    @property
    def share(self) -> Floats:
        """The mean effect over the gap, `[site, cell]`: 1 where this patch alone does what the corruption does."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return row_mean(self.effects) / self._gaps

    @property
    def stderr(self) -> Floats:
        """The standard error of the share, by the delta method of a ratio, `[site, cell]`; NaN for one row."""
        n = len(self.clean)
        if n < 2:
            return np.full(self.values.shape[:2], np.nan)
        left = self.effects - self.share[..., None] * (self.corrupt - self.clean)
        known = ~np.isnan(self.values)
        if known.all():
            return left.std(-1, ddof=1) / n**0.5 / abs(self.gap)
        count, away = known.sum(-1), np.where(known, left - row_mean(left)[..., None], 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.sqrt((away**2).sum(-1) / (count - 1) / count) / np.abs(self._gaps)
        return np.where(count < 2, np.nan, error)

    def columns(self, test: Test = "t") -> dict[str, Floats]:
        """By cell: the effect with Student's 95 % interval over rows, share, test, false discovery."""
        low, high = interval(self.effects)
        p = p_values(self.effects, test)
        return {
            "effect": row_mean(self.effects),
            "low": low,
            "high": high,
            "share": self.share,
            "stderr": self.stderr,
            "p": p,
            "q": q_values(p),
        }


@dataclass(frozen=True, eq=False, repr=False)
class PatchedHeads(Patched):
    """One head patched at a time: `values` are `[site, head, row]`."""

    KIND = "patched-heads"

    def scores(self, kind: str, of: str = "z") -> HeadScores:
        """The share of each head of a kind, when patched at one of its sites.

        Args:
            kind: such as `decoder.cross`.
            of: `z`, `q`, `k`, `v` or `pattern`.

        Returns:
            Shares `[layer, head]`, with standard errors; NaN in layers that were not patched.

        Raises:
            UnknownSite: there is no such kind, or none of its sites was patched there.
        """
        stack, name = parse_kind(kind)
        found = {Site.parse(site): index for index, site in enumerate(self.sites)}
        rows = {
            site.layer: index
            for site, index in found.items()
            if (site.stack, site.kind, site.name) == (stack, name, of) and site.layer is not None
        }
        if not rows:
            there = dict.fromkeys(f"{site.stack}.{site.kind}.*.{site.name}" for site in found)
            raise UnknownSite(f"no {kind}.*.{of} was patched. Patched: {', '.join(there)}.")
        shares, errors = np.full((2, max(rows) + 1, self.values.shape[1]), np.nan)
        for layer, index in rows.items():
            shares[layer], errors[layer] = self.share[index], self.stderr[index]
        return HeadScores(
            f"share of {of}",
            kind,
            shares,
            errors if len(self.clean) > 1 else None,
            "share of the corruption's effect",
            self.provenance,
        )

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """One tidy row a site and head: `site, head, layer, index, effect, low, high, share, stderr, p, q`.

        `effect` is the mean over rows in the metric's unit, `low, high` Student's 95 % interval of it, `stderr` that
        of the share, `p` of no effect, `q` adjusted over all rows (Benjamini & Hochberg). Under three rows there is
        no interval and no p.

        Args:
            test: of no effect: `t`, or `sign flips`.

        Raises:
            InvalidInput: another test.
        """
        sites, n = [Site.parse(name) for name in self.sites], self.values.shape[1]
        cells: list[tuple[Site, int]] = [(site, head) for site in sites for head in range(n)]
        named = {
            "site": [str(site) for site, _ in cells],
            "head": [f"{site.stack}.{site.kind}.{site.layer}.{head}" for site, head in cells],
            "layer": [site.layer for site, _ in cells],
            "index": [head for _, head in cells],
        }
        return pd.DataFrame(named | {name: values.ravel() for name, values in self.columns(test).items()})


@dataclass(frozen=True, eq=False, repr=False)
class PatchedPositions(Patched):
    """Whole sites patched at one position at a time: `values` are `[site, pos, row]`.

    Sites have the positions of one stack, the encoder's or the decoder's; past a site's own
    positions its values are NaN, as they are at padding, and rows that are padded do not count there.

    Attributes:
        lengths: how many positions each site has.
        tokens: what stood there, by stack that there is: `[input, row, pos]`, the inputs being clean and corrupt; NaN
            at padding.
    """

    KIND = "patched-positions"

    lengths: tuple[int, ...]
    tokens: dict[str, Floats]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lengths != tuple(self.tokens[stack_of(site)].shape[-1] for site in self.sites):
            raise InvalidInput("each site needs as many positions as its stack has tokens.")

    def differs(self, stack: str) -> Floats:
        """The share of rows whose token is another in corrupt than in clean, `[pos]` of a stack; NaN at padding."""
        clean, corrupt = self.tokens[stack]
        return row_mean(np.where(np.isnan(clean), np.nan, clean != corrupt).T)

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """One tidy row a site and position: `site, position, stack, differs, effect, low, high, share, stderr, p, q`.

        `stack` is whose positions they are, `differs` the share of rows whose token there is
        another in corrupt; the rest, `test` and errors as in `PatchedHeads.to_frame`.
        """
        parts: list[pd.DataFrame] = []
        columns = self.columns(test)
        for index, (site, length) in enumerate(zip(self.sites, self.lengths, strict=True)):
            stack = stack_of(site)
            named = {"site": site, "position": range(length), "stack": stack, "differs": self.differs(stack)}
            numbers = {name: values[index, :length] for name, values in columns.items()}
            parts.append(pd.DataFrame(named | numbers))
        return pd.concat(parts, ignore_index=True)


def stack_of(site: Site | str) -> str:
    """The stack whose tokens a site's positions are; cross-attention reads keys and values from the encoder."""
    return "encoder" if in_encoder_positions(Site.parse(str(site))) else "decoder"
