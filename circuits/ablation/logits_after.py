"""From values of one site to the logits: what follows is run again, for many variants at once.

1. A value becomes what its sublayer adds to the residual stream, or is the stream itself: queries,
   keys, values and patterns go through that one attention, z through W_O.
2. From there the variants go through the layers above, as `interp.editing.variants` runs them; those of the
   encoder then go through the decoder, each as a row of its own.
"""

from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp import Batch, Model
from interp.cache import Cache
from interp.editing.variants import Context, decode, resume, resume_encoder
from interp.models.hooks import hooked_attention
from interp.models.weights.layers import causal, distance_bias, padding
from interp.names import AttentionLayer, Site


def _before(model: Model, site: Site) -> Site | None:
    """The stream to which the sublayer of a site adds; none where the site is the stream itself."""
    if site.kind is not None:
        return Site(site.stack, None, site.layer, "resid_mid" if site.kind == "cross" else "resid_pre")
    if site.name == "mlp_out":
        crossed = (site.stack, "cross") in model.family.kinds
        return Site(site.stack, None, site.layer, "resid_mid_cross" if crossed else "resid_mid")
    return None


def needs(model: Model, site: Site) -> list[Site]:
    """What of the clean run the rest of a site's sublayer is computed from."""
    before = _before(model, site)
    read = {"pattern": ("v",), **dict.fromkeys(("q", "k", "v"), ("q", "k", "v"))}.get(site.name, ())
    return [*([] if before is None else [before]), *(Site(site.stack, site.kind, site.layer, name) for name in read)]


def logits_after(
    model: Model, batch: Batch, clean: Cache, context: Context, site: Site, value: Tensor
) -> Float[Tensor, "row variant pos token"]:
    """The logits that follow from variants of one site's value, all else below being as on the batch.

    Args:
        model: the model, with no edit in force.
        batch: what is run.
        clean: of its run, what `needs` names.
        context: of its run, as `clean_run` gives both.
        site: any site but scores and `head_out`.
        value: the site's value as `capture` lays it out, with an axis of variants after the rows.

    Returns:
        Logits.
    """
    if site.name == "logits":
        return value
    out = value if site.name == "ln_final" else _through_stack(model, batch, clean, context, site, value)
    if site.stack == "encoder":
        # Variants of the encoder share nothing: each is a row of its own.
        ids = batch.decoder_input_ids.repeat_interleave(out.shape[1], 0)[:, None]
        mask = batch.attention_mask.repeat_interleave(out.shape[1], 0)
        out = decode(model, Context.of(out.flatten(0, 1), mask), ids).reshape(*out.shape[:2], *ids.shape[2:], -1)
    return model.unembed(out)


def _through_stack(model: Model, batch: Batch, clean: Cache, context: Context, site: Site, value: Tensor) -> Tensor:
    """The last norm of the site's own stack, of variants `[row, variant, pos, d_model]`."""
    assert site.layer is not None
    before = _before(model, site)
    x = value if before is None else clean[before][:, None] + _added(model, batch, clean, site, value)
    ended = {"resid_mid": "self", "resid_mid_cross": "cross"}
    layer, after = site.layer, site.kind or ended.get(site.name)
    if site.name in ("mlp_out", "resid_post"):
        layer += 1
    if site.stack == "decoder":
        return resume(model, context, x, layer, after)
    return resume_encoder(model, x, batch.attention_mask, layer, after)


def _added(model: Model, batch: Batch, clean: Cache, site: Site, value: Tensor) -> Tensor:
    """What the site's sublayer adds to the stream, `[row, variant, pos, d_model]`."""
    if site.name in ("attn_out", "mlp_out"):
        return value
    W_O = model.module.get_submodule(model.family.point(Site(site.stack, site.kind, site.layer, "z")).path)
    return W_O(_z(model, batch, clean, site, value).flatten(-2))


def _z(model: Model, batch: Batch, clean: Cache, site: Site, value: Tensor) -> Tensor:
    """The heads' outputs, `[row, variant, pos, head, d_head]`."""
    if site.name == "z":
        return value
    assert site.kind is not None
    assert site.layer is not None
    at = AttentionLayer(site.stack, site.kind, site.layer)
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
