"""Many sets of heads ablated, each in a run of its own, on one stimulus.

Sets of decoder heads are variants of one folded run, which shares an encoder and its keys and
values; other sets cost an edited forward each.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from circuits.ablation.head_effects import MEMORY, variant_bytes
from circuits.measurement import at_query, stimulus_for
from circuits.metrics import Metric, continuation_metrics
from interp import Batch, Model, capture
from interp.editing.context import check_unhooked, edited
from interp.editing.edit import Address
from interp.editing.edits import Reference
from interp.editing.methods import Method, ablated_z, ablations
from interp.editing.running import Run
from interp.editing.variants import clean_run, decode, variant_heads
from interp.models.weights.layers import decoder_ids
from interp.names import AttentionLayer, Head, Stack
from interp.output.progress import late_bar
from interp.results.result import Floats

Set = Sequence[Address]


@torch.no_grad()
def set_outcomes(
    model: Model,
    batch: Batch,
    sets: Sequence[Set],
    *,
    metric: Metric | None = None,
    method: Method = "zero",
    reference: Reference | None = None,
    memory: int = MEMORY,
    progress: bool = True,
) -> dict[str, Floats]:
    """Measure the prediction at the query with each set ablated; an empty set is the unedited model.

    Args:
        batch: what `probes.repeated_random_tokens` or `probes.repeated_random_patches` made; of a model of patches any
            batch, with a metric.
        sets: heads, attention layers or sites.

    Returns:
        By name `[set, row]`: `effect`, the metric (by default the continuation's log-probability); `control`, the
        log-probability of the row's other tokens; and `accuracy`, 1 where the continuation is the likeliest token. Of
        patches see `continuation_metrics`; what a batch does not know is NaN.

    Raises:
        InvalidInput: as `head_effects`.
    """
    tokens = stimulus_for(model, batch, metric, "this experiment")
    check_unhooked(model, "this experiment")
    metrics = continuation_metrics(model, tokens, metric)
    values = {name: np.full((len(sets), len(tokens)), np.nan) for name in ("effect", "control", "accuracy")}

    def measure(part: list[int], ln_final: Tensor) -> None:
        """Fill in the values of some sets from the last norm at the query, `[row, set, d_model]`."""
        measured = at_query(model, ln_final, tokens, list(metrics.values()))
        for name, numbers in zip(metrics, measured, strict=True):
            values[name][part] = numbers.T

    folded = [i for i, members in enumerate(sets) if all(in_decoder_attention(m) for m in members)]
    others = [i for i in range(len(sets)) if i not in folded]
    bar = late_bar(total=len(sets), progress=progress, desc="ablate sets", unit="set")
    if folded:
        touched = layers_of([sets[i] for i in folded])
        cache, context = clean_run(model, tokens, [*(f"{at}.z" for at in touched), "decoder.ln_final"])
        z = {at: cache[f"{at}.z"] for at in touched}
        replaced = ablated_z(model, z, Run.of(tokens), method, reference)
        fill = {} if method == "zero" else {at: value[:, None] for at, value in replaced.items()}
        size = max(1, memory // variant_bytes(model, tokens, "decoder"))
        for start in range(0, len(folded), size):
            part = folded[start : start + size]
            keep = kept_heads(model, [sets[i] for i in part], touched)
            ids = decoder_ids(model, tokens)[:, None].expand(-1, len(part), -1)
            with variant_heads(model, keep, fill):
                ln_final = decode(model, context, ids)
            measure(part, ln_final[:, :, tokens.query])
            bar.update(len(part))
    for i in others:
        with edited(model, ablations(list(sets[i]), method, reference)):
            cache = capture(model, tokens, "decoder.ln_final")
        measure([i], cache["decoder.ln_final"][:, tokens.query, None])
        bar.update()
    bar.close()
    return values


def in_decoder_attention(address: Address) -> bool:
    """Tell whether an address is a head or attention layer of the decoder, which a folded run can ablate."""
    return isinstance(address, Head | AttentionLayer) and address.stack == "decoder"


def layers_of(sets: Sequence[Set], stack: Stack = "decoder") -> list[AttentionLayer]:
    """Return the attention layers of a stack that contain these heads, in forward order."""
    layers = {
        member if isinstance(member, AttentionLayer) else member.attention
        for members in sets
        for member in members
        if isinstance(member, Head | AttentionLayer) and member.stack == stack
    }
    return sorted(layers, key=lambda at: (at.layer, at.kind != "self"))


def kept_heads(model: Model, sets: Sequence[Set], touched: Sequence[AttentionLayer]) -> dict[AttentionLayer, Tensor]:
    """Return, by attention layer, the heads that each set leaves unablated: `[set, head]` of 0 and 1."""
    keep = {at: torch.ones(len(sets), model.n_heads) for at in touched}
    for row, members in enumerate(sets):
        for member in members:
            if isinstance(member, AttentionLayer) and member in keep:
                keep[member][row] = 0
            elif isinstance(member, Head) and member.attention in keep:
                keep[member.attention][row, model.head(member).head] = 0
    return keep


def ablated_values(
    model: Model, touched: Sequence[AttentionLayer], method: Method, reference: Reference | None
) -> dict[AttentionLayer, Tensor]:
    """Return the value that replaces ablated heads in any run, `[1, 1, 1, head, d_head]`; empty where it is zero."""
    if method == "zero" or not touched:
        return {}
    blank = torch.zeros(1, 1, model.n_heads, model.d_head, device=model.device)
    z = dict.fromkeys(touched, blank.to(model.dtype))
    return {at: value[:, None] for at, value in ablated_z(model, z, Run(), method, reference).items()}
