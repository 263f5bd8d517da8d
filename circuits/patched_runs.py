"""Runs of one input in which one site takes other values, many variants of them side by side.

1. A patched value becomes what its sublayer adds to the residual stream, or is the stream itself: queries,
   keys, values and patterns go through that one attention, z through W_O.
2. From there the variants go through the layers above, as `interp.editing.variants` runs them; those of the
   encoder then go through the decoder, each as a row of its own. What lies below is not run again.
"""

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from circuits.ablation.head_effects import variant_bytes
from circuits.measurement import (
    check_moves,
    check_pair,
    end_site,
    measured,
    output_size,
    outputs_in,
    read_out,
    to_numpy,
)
from circuits.metrics import Metric
from interp import Batch, Model
from interp.cache import Cache, capture
from interp.editing.context import check_unhooked
from interp.editing.variants import Context, clean_run, decode_each, resume, resume_encoder
from interp.models.hooks import hooked_attention
from interp.models.weights.layers import causal, distance_bias, padding
from interp.names import Site
from interp.output.progress import late_bar
from interp.results.result import Floats
from probes.stimuli.pairs import stacks_of


@torch.no_grad()
def patched_cells(
    model: Model, clean: Batch, corrupt: Batch, metric: Metric, axes: dict[Site, int], memory: int, bar: str
) -> tuple[list[Floats], Floats, Floats]:
    """Measure the metric with one slice of one site at a time as it is on corrupt.

    Args:
        axes: for each site the axis along which it is sliced into cells.
        bar: what cells are, for the progress bar; no bar is shown if empty.

    Returns:
        The metric by site, `[cell, row]`; then that of clean, and that of corrupt, `[row]`.
    """
    check_pair(model, clean, corrupt)
    check_unhooked(model, "patching")
    sites = {str(site) for at in axes for site in (at, *needs(model, at))}
    end = end_site(model)
    other = capture(model, corrupt, [*map(str, axes), str(end)])
    cache, context = clean_run(model, clean, [*sites, str(end)])
    before, after = (
        measured(model, metric, outputs_in(model, run[end], clean), clean).detach() for run in (cache, other)
    )
    check_moves(metric, before, after)

    cells: list[Floats] = []
    total = sum(cache[site].shape[axis] for site, axis in axes.items())
    with late_bar(total=total, progress=bool(bar), desc=f"patch {bar}", unit=bar[:-1]) as shown:
        for site, axis in axes.items():
            count, size = cache[site].shape[axis], max(1, memory // _bytes(model, clean, site))
            values: list[Floats] = []
            for start in range(0, count, size):
                value = _exchanged(cache[site], other[site], axis, range(start, min(start + size, count)))
                outputs = outputs_after(model, clean, cache, context, site, value)
                values += [to_numpy(measured(model, metric, variant, clean)) for variant in outputs.unbind(1)]
                shown.update(outputs.shape[1])
            cells.append(np.stack(values))
    return cells, to_numpy(before), to_numpy(after)


def needs(model: Model, site: Site) -> list[Site]:
    """Return the sites of the clean run from which the rest of a site's sublayer is computed."""
    before = _stream_before(model, site)
    read = {"pattern": ("v",), **dict.fromkeys(("q", "k", "v"), ("q", "k", "v"))}.get(site.name, ())
    return [*([] if before is None else [before]), *(Site(site.stack, site.kind, site.layer, name) for name in read)]


def outputs_after(model: Model, batch: Batch, clean: Cache, context: Context, site: Site, value: Tensor) -> Tensor:
    """Compute what a model puts out from variants of one site's value, all else below being as on the batch.

    Args:
        clean: the sites that `needs` names, on the batch.
        context: that of the same run: `clean_run` gives both.
        site: any site but scores and `head_out`.
        value: the site's value as `capture` lays it out, with an axis of variants after the rows.

    Returns:
        Logits `[row, variant, pos, token]`, or quantiles `[row, variant, quantile, step]` in the batch's units.
    """
    if site.name == "logits":
        return value
    out = value if site.name == "ln_final" else _through_stack(model, batch, clean, context, site, value)
    if site.stack == "encoder":
        out = decode_each(model, batch, out)
    return read_out(model, out, batch)


def _stream_before(model: Model, site: Site) -> Site | None:
    """Return the stream to which the sublayer of a site adds; None where the site is the stream itself."""
    if site.kind is not None:
        return Site(site.stack, None, site.layer, "resid_mid" if site.kind == "cross" else "resid_pre")
    if site.name == "mlp_out":
        crossed = (site.stack, "cross") in model.family.kinds
        return Site(site.stack, None, site.layer, "resid_mid_cross" if crossed else "resid_mid")
    return None


def _through_stack(model: Model, batch: Batch, clean: Cache, context: Context, site: Site, value: Tensor) -> Tensor:
    """Compute the last norm of the site's own stack, `[row, variant, pos, d_model]`."""
    assert site.layer is not None
    before = _stream_before(model, site)
    x = value if before is None else clean[before][:, None] + _added(model, batch, clean, site, value)
    middles = {"resid_mid": "self", "resid_mid_cross": "cross"}
    layer, after = site.layer, site.kind or middles.get(site.name)
    if site.name in ("mlp_out", "resid_post"):
        layer += 1
    if site.stack == "decoder":
        return resume(model, context, x, layer, after)
    return resume_encoder(model, x, batch.attention_mask, layer, after)


def _added(model: Model, batch: Batch, clean: Cache, site: Site, value: Tensor) -> Tensor:
    """Compute what the site's sublayer adds to the stream, `[row, variant, pos, d_model]`."""
    if site.name in ("attn_out", "mlp_out"):
        return value
    W_O = model.module.get_submodule(model.family.point(Site(site.stack, site.kind, site.layer, "z")).path)
    return W_O(_z(model, batch, clean, site, value).flatten(-2))


def _z(model: Model, batch: Batch, clean: Cache, site: Site, value: Tensor) -> Tensor:
    """Compute the heads' outputs before W_O, `[row, variant, pos, head, d_head]`."""
    if site.name == "z":
        return value
    assert site.kind is not None
    assert site.layer is not None
    at = site.attention
    if site.name == "pattern":
        equation = "row variant head query key, row key head d_head -> row variant query head d_head"
        return einsum(value, clean[f"{at}.v"], equation)
    rows, variants = value.shape[:2]
    q, k, v = (
        (value if name == site.name else clean[f"{at}.{name}"][:, None].expand(-1, variants, -1, -1, -1))
        .flatten(0, 1)
        .transpose(1, 2)
        for name in ("q", "k", "v")
    )
    if (site.stack, site.kind) == ("decoder", "self"):
        shown = batch.decoder_attention_mask.repeat_interleave(variants, 0)
        mask = causal(q.shape[2], value, shown=None if bool(shown.all()) else shown)
    else:
        mask = padding(batch.attention_mask.repeat_interleave(variants, 0), value)
    bias = distance_bias(model, site.stack, site.kind, q.shape[2])
    attention = model.module.get_submodule(model.family.attention_path(at))
    z, _ = hooked_attention(attention, q, k, v, mask, attention.scaling, position_bias=bias)
    return z.unflatten(0, (rows, variants))


def _exchanged(clean: Tensor, corrupt: Tensor, axis: int, cells: range) -> Tensor:
    """Return clean's value `[row, variant, ...]`, each variant with another slice along the axis as in corrupt."""
    picked = torch.eye(clean.shape[axis], dtype=torch.bool, device=clean.device)[list(cells)]
    picked = picked.reshape(len(cells), *[1] * (axis - 1), -1, *[1] * (clean.ndim - axis - 1))
    return torch.where(picked, corrupt[:, None], clean[:, None])


def _bytes(model: Model, batch: Batch, site: Site) -> int:
    """Estimate the bytes of one variant: what it puts out, and its own keys and values if it has any."""
    rows, queries, keys = len(batch), batch.length("decoder"), batch.length(stacks_of(batch)[0])
    layers = model.n_layers["decoder"] if site.stack == "encoder" else int(site.name in ("q", "k", "v"))
    own = 2 * output_size(model, queries) + 2 * layers * keys * model.n_heads * model.d_head
    return variant_bytes(model, batch, site.stack) + rows * own * torch.finfo(model.dtype).bits // 8
