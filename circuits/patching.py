"""Activation patching: one head, or one position, at a time takes its value from another input.

1. One run of each input captures the values to exchange, and the clean residual stream.
2. All heads or positions of a site are patched together, as variants of one run that starts at the site
   (`circuits.patched_runs`).
3. The metric is measured on every variant.

Noising puts values of a corrupt input into a clean run: a part that breaks the behaviour is necessary for
it, given the rest. Denoising puts clean values into a corrupt run: a part that restores it is sufficient.
The two differ where parts back each other up, or are needed together.

Source: Heimersheim & Nanda 2024, "How to use and interpret activation patching"; Vig et al. 2020,
"Investigating Gender Bias in Language Models Using Causal Mediation Analysis".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from circuits.ablation.head_effects import MEMORY
from circuits.measurement import (
    check_pair,
    end_site,
    measured,
    metric_name,
    outputs_in,
    to_numpy,
    warn_of_gap,
)
from circuits.metrics import Metric
from circuits.patched_runs import patched_cells
from interp import Batch, Model
from interp.arguments import checked
from interp.cache import capture
from interp.editing.context import check_unhooked, edited
from interp.editing.edit import Target, addresses_of
from interp.editing.edits import Resample
from interp.errors import InvalidInput, UnknownSite
from interp.inputs.batch import ValueBatch
from interp.models.model import as_model
from interp.names import LAYER_SITES, Site, Stack, parse_kind
from interp.results.by_head import HeadScores, provenance, row_mean
from interp.results.frame import Frame
from interp.results.result import Floats, Result, frozen, strongest_first
from interp.results.statistics import Test, interval, p_values, q_values
from probes.stimuli.pairs import stacks_of

BY_HEAD = ("q", "k", "v", "pattern", "z")
BY_POSITION = (*LAYER_SITES, "q", "k", "v", "z", "attn_out", "ln_final", "logits")

Sites = str | Site | Sequence[str | Site]
"""One site or several, by value, address or pattern."""


@dataclass(frozen=True, eq=False, repr=False)
class Patched(Result):
    """The metric of patched runs: cells `[site, cell, row]` between a clean and a corrupt run.

    Attributes:
        metric: the metric's name.
        sites: the patched sites, in forward order.
        values: the metric of the patched runs, `[site, cell, row]`.
        clean: the metric of the clean run, `[row]`.
        corrupt: the metric of the corrupt run, `[row]`.
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
        """The effect of patching: the metric patched minus clean, `[site, cell, row]`."""
        return self.values - self.clean

    @property
    def gap(self) -> float:
        """The effect of the whole corruption: the mean of the metric on corrupt minus that on clean."""
        return float(self.corrupt.mean() - self.clean.mean())

    @property
    def _gaps(self) -> Floats:
        """The gap over the rows in which a cell is not padding, `[site, cell]`."""
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
        """Return columns of a frame, `[site, cell]` each: effect, its 95 % interval, share, its error, p and q."""
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
        """Return the share of each head of one kind, patched at one of its sites.

        Args:
            of: the site: `z`, `q`, `k`, `v` or `pattern`.

        Returns:
            Shares `[layer, head]`, with standard errors; NaN in layers that were not patched.

        Raises:
            UnknownSite: an unknown kind, or one whose site was not patched.
        """
        stack, name = parse_kind(kind)
        sites = [Site.parse(site) for site in self.sites]
        rows = {
            site.layer: index
            for index, site in enumerate(sites)
            if (site.stack, site.kind, site.name) == (stack, name, of) and site.layer is not None
        }
        if not rows:
            there = dict.fromkeys(f"{site.stack}.{site.kind}.*.{site.name}" for site in sites)
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

    def _shown(self) -> pd.DataFrame:
        return strongest_first(self.to_frame(), "share")

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """Return one row per site and head: `site, head, layer, index, effect, low, high, share, stderr, p, q`.

        `effect` is the mean over rows, in the metric's unit; `low, high` is its Student's 95 % interval; `stderr`
        belongs to the share; `p` tests that there is no effect; `q` is p adjusted over the table (Benjamini &
        Hochberg). Interval and p need three rows.

        Args:
            test: `t`, or `sign flips`.

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
        return Frame(named | {name: values.ravel() for name, values in self.columns(test).items()})


@dataclass(frozen=True, eq=False, repr=False)
class PatchedPositions(Patched):
    """Whole sites patched at one position at a time: `values` are `[site, pos, row]`.

    The positions of a site are those of one stack. Values are NaN at padding, and past the site's own positions.

    Attributes:
        lengths: the number of positions of each site.
        tokens: token ids by stack, `[input, row, pos]`: inputs are clean and corrupt; NaN at padding. Of patches
            numbers, the same where the values are, -1 at [REG] and at the decoder's start token.
    """

    KIND = "patched-positions"

    lengths: tuple[int, ...]
    tokens: dict[str, Floats]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lengths != tuple(self.tokens[stack_of(site)].shape[-1] for site in self.sites):
            raise InvalidInput("each site needs as many positions as its stack has tokens.")

    def differs(self, stack: str) -> Floats:
        """Return the share of rows whose token differs between the inputs, `[pos]` of a stack; NaN at padding."""
        clean, corrupt = self.tokens[stack]
        return row_mean(np.where(np.isnan(clean), np.nan, clean != corrupt).T)

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """Return one row per site and position: `site, position, stack, differs, effect, low, ..., q`.

        `stack` is the stack whose positions they are, `differs` the share of rows whose token there differs between
        the inputs. The other columns, `test` and errors are those of `PatchedHeads.to_frame`.
        """
        parts: list[pd.DataFrame] = []
        columns = self.columns(test)
        for index, (site, length) in enumerate(zip(self.sites, self.lengths, strict=True)):
            stack = stack_of(site)
            named = {"site": site, "position": range(length), "stack": stack, "differs": self.differs(stack)}
            numbers = {name: values[index, :length] for name, values in columns.items()}
            parts.append(Frame(named | numbers))
        return pd.concat(parts, ignore_index=True)


def stack_of(site: Site | str) -> Stack:
    """Return the stack whose positions a site has: the encoder for keys and values of cross-attention."""
    return Site.parse(str(site)).position_stack


@checked
def patch_heads(
    model: Model,
    clean: Batch,
    corrupt: Batch,
    metric: Metric,
    sites: Sites | None = None,
    *,
    memory: int = MEMORY,
    progress: bool = True,
) -> PatchedHeads:
    """Run `clean` with one head at a time as it is on `corrupt`, and measure each run.

    A head takes the other value at all positions, and all that follows is computed from it. To find heads that
    are necessary, give the input with the behaviour as `clean` (noising). To find heads that are sufficient, swap
    the two (denoising).

    Args:
        sites: q, k, v, pattern or z of attention layers; by default z of the heads that read the past:
            `decoder.cross.*.z`, or `decoder.self.*.z` without an encoder.

    Returns:
        The metric of every patched run, `[site, head, row]`, with effects, shares and intervals.

    Warns:
        UnclearGap: the gap between corrupt and clean, which shares are relative to, may be 0.

    Raises:
        UnknownSite: a name or pattern that matches no site of this model.
        InvalidInput: no sites, or sites without heads; inputs of different shapes or masks; a
            metric that is not one number per row or does not move; edits in force; a model in float16.

    Source: Heimersheim & Nanda 2024; equal to as many forwards, each with one head resampled.
    """
    why = "has no single head to patch. Sites by head are"
    sites = f"{'.'.join(as_model(model).family.context)}.*.z" if sites is None else sites
    chosen = _chosen(model, sites, BY_HEAD, "patch_heads", why)
    axes = {site: 1 if site.name == "pattern" else 2 for site in chosen}
    cells, before, after = patched_cells(model, clean, corrupt, metric, axes, memory, "heads" if progress else "")
    warn_of_gap(after - before, "the corrupt and the clean input")
    return PatchedHeads(
        metric_name(metric),
        tuple(map(str, chosen)),
        np.stack(cells),
        before,
        after,
        provenance(model, clean=clean.description, corrupt=corrupt.description),
    )


@checked
def patch_positions(
    model: Model,
    clean: Batch,
    corrupt: Batch,
    metric: Metric,
    sites: Sites = "decoder.*.resid_post",
    *,
    memory: int = MEMORY,
    progress: bool = True,
) -> PatchedPositions:
    """Run `clean` with one position of a site at a time as it is on `corrupt`, and measure each run.

    All heads and features of the site are exchanged at that position. Otherwise this is `patch_heads`.

    Args:
        sites: the residual stream, what a sublayer adds to it, or q, k, v, z, of either stack.

    Returns:
        The metric of every patched run, `[site, pos, row]`; NaN at padding and past a site's own positions.

    Warns:
        UnclearGap: as `patch_heads`.

    Raises:
        UnknownSite: a name or pattern that matches no site of this model.
        InvalidInput: no sites; patterns or scores, which belong to two positions; and as `patch_heads`.

    Source: Heimersheim & Nanda 2024; equal to as many forwards, each with one position exchanged.
    """
    why = "has no single position to patch. Sites by position are"
    chosen = _chosen(model, sites, BY_POSITION, "patch_positions", why)
    cells, before, after = patched_cells(
        model, clean, corrupt, metric, dict.fromkeys(chosen, 1), memory, "positions" if progress else ""
    )
    values = np.full((len(cells), max(map(len, cells)), len(clean)), np.nan)
    for padded, by_position, site in zip(values, cells, chosen, strict=True):
        hidden = clean.mask(site.position_stack).T.cpu().numpy() == 0
        padded[: len(by_position)] = np.where(hidden, np.nan, by_position)
    tokens = {stack: _content(clean, corrupt, stack) for stack in stacks_of(clean)}
    warn_of_gap(after - before, "the corrupt and the clean input")
    source = provenance(model, clean=clean.description, corrupt=corrupt.description)
    source |= {"special": _special(model, stacks_of(clean)), "positions": "tokens" if clean.has_tokens else "patches"}
    return PatchedPositions(
        metric_name(metric),
        tuple(map(str, chosen)),
        values,
        before,
        after,
        source,
        lengths=tuple(map(len, cells)),
        tokens=tokens,
    )


def _content(clean: Batch, corrupt: Batch, stack: Stack) -> Floats:
    """Return what stands at each position of both inputs, `[input, row, pos]`: see `PatchedPositions.tokens`."""
    both = torch.stack([batch.content(stack) for batch in (clean, corrupt)])
    if isinstance(clean, ValueBatch):
        _, numbers = both.flatten(0, 2).unique(dim=0, return_inverse=True)
        both = numbers.reshape(both.shape[:3])
        if stack == "decoder" or clean.reg is not None:
            both[..., -1] = -1
    hidden = torch.stack([batch.mask(stack) == 0 for batch in (clean, corrupt)])
    return frozen(both.double().masked_fill(hidden, torch.nan).cpu().numpy())


def _special(model: Model, stacks: Sequence[Stack]) -> dict[str, dict[str, str]]:
    """Return the names of special tokens by stack and id; tokens that are words have no other names."""
    if not model.reads_tokens:
        return {"encoder": {"-1": "[REG]"}, "decoder": {"-1": "start"}}
    names = {stack: model.vocabulary.names(stack) if model.tokens_are_values else {} for stack in stacks}
    return {stack: {str(token): name for token, name in by_token.items()} for stack, by_token in names.items()}


@checked
@torch.no_grad()
def patch_sites(
    model: Model, clean: Batch, corrupt: Batch, metric: Metric, sites: Target | Sequence[Target] = ()
) -> Floats:
    """Run `clean` once with several parts as they are on `corrupt`, at all positions, and measure it.

    Without sites this is the clean run. With all embeddings (`decoder.0.resid_pre`, and `encoder.0.resid_pre` if
    there is an encoder) it is the corrupt run. Quantiles are in the units of the clean row's context.

    Args:
        sites: heads, attention layers and sites, by address or pattern.

    Returns:
        The metric of the patched run, `[row]`.

    Raises:
        UnknownSite, UnknownHead: an address that this model does not have.
        InvalidInput: one value named twice, as `z` and `attn_out` of a layer; inputs of different
            shapes or masks; a metric that is not one number per row; edits in force; or quantiles, which are in the
            units of their own input.
    """
    check_pair(model, clean, corrupt)
    check_unhooked(model, "patch_sites")
    addresses, end = dict.fromkeys(addresses_of(model, sites)), end_site(model)
    if end != model.output and model.output in addresses:
        raise InvalidInput(
            f"patch_sites: {model.output} is in the units of its own input. Patch {end}, which makes it."
        )
    with edited(model, [Resample(address, corrupt) for address in addresses]):
        outputs = outputs_in(model, capture(model, clean, end)[end], clean)
        return frozen(to_numpy(measured(model, metric, outputs, clean)))


def _listed(sites: Any) -> list[Any]:
    return list(cast(Sequence[Any], sites)) if isinstance(sites, Sequence) and not isinstance(sites, str) else [sites]


def _chosen(model: Model, sites: Sites, names: Sequence[str], what: str, why: str) -> list[Site]:
    """Return the sites of these addresses and patterns, all of which have one of the names."""
    addresses = _listed(sites)
    if not addresses:
        raise InvalidInput(f"{what}: no sites to patch: name at least one, as 'decoder.self.*.z'.")
    chosen = as_model(model).sites(*addresses)
    for site in chosen:
        if site.name not in names:
            raise InvalidInput(f"{what}: {site} {why} {', '.join(names)}.")
    return chosen
