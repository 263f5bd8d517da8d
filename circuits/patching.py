"""Activation patching: one head, or one position, at a time takes its value from another input.

1. One run of each input keeps what will be exchanged, and the clean residual stream.
2. A patched value is what its sublayer adds to the stream, or the stream itself: patched queries,
   keys, values and patterns go through that one attention, z through W_O.
3. From there all heads or positions of a site go on together, as variants of one run. What lies
   below is not run again, nor is the encoder where the site is the decoder's.

Noising takes values of a corrupt input into a clean run: what breaks the behaviour is necessary for
it, given the rest. Denoising takes clean values into a corrupt run: what restores it is sufficient.
They differ where parts back each other up, or are needed together.

Source: Heimersheim & Nanda 2024, "How to use and interpret activation patching"; Vig et al. 2020,
"Investigating Gender Bias in Language Models Using Causal Mediation Analysis".
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from circuits.ablation.head_effects import MEMORY, variant_bytes
from circuits.ablation.logits_after import logits_after, needs
from circuits.measurement import check_moves, check_pair, measured, metric_name, warn_of_gap
from circuits.metrics import Metric
from circuits.patched import PatchedHeads, PatchedPositions, stack_of
from interp import Batch, Model
from interp.cache import capture
from interp.editing.context import check_unhooked, edited
from interp.editing.edits import Resample, Target, as_address
from interp.editing.variants import clean_run
from interp.errors import InvalidInput
from interp.models.model import as_model
from interp.names import LAYER_SITES, STACK_SITES, Site, Stack
from interp.results.by_head import provenance
from interp.results.result import Floats, frozen
from probes.stimuli.pairs import stacks_of

BY_HEAD = ("q", "k", "v", "pattern", "z")
BY_POSITION = (*LAYER_SITES, "q", "k", "v", "z", "attn_out", *STACK_SITES)

Sites = str | Site | Sequence[str | Site]
"""One site or several, by value, address or pattern."""


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
    """What each head alone carries of the difference between two inputs.

    The model runs on `clean`; one head at a time has its activation at the site as it is on
    `corrupt`, at all positions, and all that follows is computed from that. To find what is
    necessary give the input with the behaviour as `clean` (noising); to find what is sufficient
    swap the two (denoising).

    Args:
        model: the model, with no edit in force.
        clean: what is run.
        corrupt: where the patched values come from: aligned with `clean` position by position.
        metric: from logits `[row, pos, token]` to a number per row, as in `circuits.metrics`.
        sites: of attention, laid out by head: q, k, v, pattern or z. By default z of the heads that read the past:
            `decoder.cross.*.z`, or `decoder.self.*.z` without an encoder.
        memory: bytes that the variants of one run may take, beside one run of each input; at least one head runs.
        progress: whether to show a progress bar.

    Returns:
        The metric of every patched run, `[site, head, row]`, with effects, shares, intervals.

    Warns:
        UnclearGap: the metric on corrupt minus that on clean, which shares are parts of, may be 0.

    Raises:
        UnknownSite: a name or pattern that matches no site of this model.
        InvalidInput: no sites, or sites that are not by head; inputs of different shapes or masks; a
            metric that is not one number per row or does not move; edits in force; a model in float16.

    Source: Heimersheim & Nanda 2024; equal to as many forwards, each with one head resampled.
    """
    why = "has no single head to patch. Sites by head are"
    sites = f"{'.'.join(as_model(model).family.context)}.*.z" if sites is None else sites
    chosen = _chosen(model, sites, BY_HEAD, "patch_heads", why)
    axes = {site: 1 if site.name == "pattern" else 2 for site in chosen}
    cells, before, after = _cells(model, clean, corrupt, metric, axes, memory, "heads" if progress else "")
    warn_of_gap(after - before, "the corrupt and the clean input")
    return PatchedHeads(
        metric_name(metric),
        tuple(map(str, chosen)),
        np.stack(cells),
        before,
        after,
        provenance(model, clean=clean.description, corrupt=corrupt.description),
    )


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
    """Where the difference between two inputs is carried: whole sites, one position at a time.

    As `patch_heads`, with all heads and features of a site at one position exchanged.

    Args:
        model: the model, with no edit in force.
        clean: what is run; swap the two inputs to denoise.
        corrupt: where the patched values come from: aligned with `clean` position by position.
        metric: from logits `[row, pos, token]` to a number per row, as in `circuits.metrics`.
        sites: of the residual stream, of what is added to it, or q, k, v, z, of either stack.
        memory: bytes that the variants of one run may take, beside one run of each input; at least one position runs.
        progress: whether to show a progress bar.

    Returns:
        The metric of every patched run, `[site, pos, row]`; NaN at padding and past a site's own positions, which
        are the encoder's in the encoder and for keys and values of cross-attention.

    Raises:
        UnknownSite: a name or pattern that matches no site of this model.
        InvalidInput: no sites, or patterns and scores, which belong to two positions; and as `patch_heads`.

    Source: Heimersheim & Nanda 2024; equal to as many forwards, each with one position exchanged.
    """
    why = "has no single position to patch. Sites by position are"
    chosen = _chosen(model, sites, BY_POSITION, "patch_positions", why)
    cells, before, after = _cells(
        model, clean, corrupt, metric, dict.fromkeys(chosen, 1), memory, "positions" if progress else ""
    )
    values = np.full((len(cells), max(map(len, cells)), len(clean)), np.nan)
    for padded, found, site in zip(values, cells, chosen, strict=True):
        hidden = clean.mask(cast(Stack, stack_of(site))).T.cpu().numpy() == 0
        padded[: len(found)] = np.where(hidden, np.nan, found)
    tokens = {
        stack: [batch.ids(stack).double().masked_fill(batch.mask(stack) == 0, torch.nan) for batch in (clean, corrupt)]
        for stack in stacks_of(clean)
    }
    warn_of_gap(after - before, "the corrupt and the clean input")
    source = provenance(model, clean=clean.description, corrupt=corrupt.description)
    source |= {"special": _special(model, stacks_of(clean))}
    return PatchedPositions(
        metric_name(metric),
        tuple(map(str, chosen)),
        values,
        before,
        after,
        source,
        lengths=tuple(map(len, cells)),
        tokens={stack: frozen(torch.stack(ids).cpu().numpy()) for stack, ids in tokens.items()},
    )


def _special(model: Model, stacks: Sequence[Stack]) -> dict[str, dict[str, str]]:
    """What special tokens are called, by stack and id; words have no other names."""
    names = {stack: model.vocabulary.names(stack) if model.tokens_are_values else {} for stack in stacks}
    return {stack: {str(token): name for token, name in found.items()} for stack, found in names.items()}


@torch.no_grad()
def patch_sites(
    model: Model, clean: Batch, corrupt: Batch, metric: Metric, sites: Target | Sequence[Target] = ()
) -> Floats:
    """Several parts patched together, at all positions: one run.

    Args:
        model: the model, with no edit in force.
        clean: what is run.
        corrupt: where the patched values come from.
        metric: from logits `[row, pos, token]` to a number per row, as in `circuits.metrics`.
        sites: heads, attention layers and sites, by address or pattern: of all embeddings,
            `encoder.0.resid_pre`, if there is an encoder, and `decoder.0.resid_pre`, the run is the corrupt one; of
            none it is the clean one.

    Returns:
        The metric of the patched run, `[row]`.

    Raises:
        UnknownSite, UnknownHead: an address that this model does not have.
        InvalidInput: the same value named twice, as `z` and `attn_out` of a layer are; inputs of different
            shapes or masks; a metric that is not one number per row; edits in force.
    """
    check_pair(model, clean, corrupt)
    check_unhooked(model, "patch_sites")
    found: list[Any] = []
    for target in _listed(sites):
        found += model.sites(str(target)) if "*" in str(target) else [as_address(target)]
    with edited(model, [Resample(target, corrupt) for target in dict.fromkeys(found)]):
        return frozen(_numpy(measured(metric, capture(model, clean, "decoder.logits")["decoder.logits"], clean)))


def _listed(given: Any) -> list[Any]:
    return list(cast(Sequence[Any], given)) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _chosen(model: Model, sites: Sites, names: Sequence[str], what: str, why: str) -> list[Site]:
    """The sites that are asked for, if all are of names that can be patched so."""
    asked = _listed(sites)
    if not asked:
        raise InvalidInput(f"{what}: no sites to patch: name at least one, as 'decoder.self.*.z'.")
    chosen = as_model(model).sites(*asked)
    for site in chosen:
        if site.name not in names:
            raise InvalidInput(f"{what}: {site} {why} {', '.join(names)}.")
    return chosen


def _numpy(values: Tensor) -> Floats:
    return values.detach().double().cpu().numpy()


@torch.no_grad()
def _cells(
    model: Model, clean: Batch, corrupt: Batch, metric: Metric, axes: dict[Site, int], memory: int, shown: str
) -> tuple[list[Floats], Floats, Floats]:
    """The metric by site, `[cell, row]`, cells being slices along the site's axis; then of clean, and of corrupt."""
    check_pair(model, clean, corrupt)
    check_unhooked(model, "patching")
    kept = {str(site) for at in axes for site in (at, *needs(model, at))}
    other = capture(model, corrupt, [*map(str, axes), "decoder.logits"])
    cache, context = clean_run(model, clean, [*kept, "decoder.logits"])
    before, after = (measured(metric, found["decoder.logits"], clean).detach() for found in (cache, other))
    check_moves(metric, before, after)

    cells: list[Floats] = []
    total = sum(cache[site].shape[axis] for site, axis in axes.items())
    with tqdm(total=total, disable=not shown, desc=f"patch {shown}", unit=shown[:-1], leave=False) as bar:
        for site, axis in axes.items():
            count, size = cache[site].shape[axis], max(1, memory // _bytes(model, clean, site))
            found: list[Floats] = []
            for start in range(0, count, size):
                value = _exchanged(cache[site], other[site], axis, range(start, min(start + size, count)))
                logits = logits_after(model, clean, cache, context, site, value)
                found += [_numpy(measured(metric, logits[:, variant], clean)) for variant in range(logits.shape[1])]
                bar.update(logits.shape[1])
            cells.append(np.stack(found))
    return cells, _numpy(before), _numpy(after)


def _exchanged(clean: Tensor, corrupt: Tensor, axis: int, cells: range) -> Tensor:
    """Clean's value `[row, variant, ...]`, in each variant with another slice along the axis as in corrupt."""
    picked = torch.eye(clean.shape[axis], dtype=torch.bool, device=clean.device)[list(cells)]
    picked = picked.reshape(len(cells), *[1] * (axis - 1), -1, *[1] * (clean.ndim - axis - 1))
    return torch.where(picked, corrupt[:, None], clean[:, None])


def _bytes(model: Model, batch: Batch, site: Site) -> int:
    """About what one variant takes: logits at all positions, and keys and values where variants have their own."""
    (rows, queries), keys = batch.decoder_input_ids.shape, batch.ids(stacks_of(batch)[0]).shape[1]
    layers = model.n_layers["decoder"] if site.stack == "encoder" else int(site.name in ("q", "k", "v"))
    own = 2 * queries * model.d_vocab + 2 * layers * keys * model.n_heads * model.d_head
    return variant_bytes(model, batch, site.stack) + rows * own * torch.finfo(model.dtype).bits // 8
