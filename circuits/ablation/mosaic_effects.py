"""How ablating earlier heads changes where later heads look: the causal counterpart of K-composition.

Source: Olsson et al. 2022, "In-context Learning and Induction Heads" (previous-token heads feed
induction heads); the mosaic's scores are those of "Hunting for Induction Heads in Amazon's Chronos".
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from circuits.controls import random_controls
from circuits.measurement import stimulus_source
from interp import Batch, Model, capture
from interp.arguments import checked
from interp.editing.context import check_unhooked, edited
from interp.editing.edits import Reference
from interp.editing.methods import Method, ablations, method_source
from interp.errors import InvalidInput
from interp.names import Head, parse_kind
from interp.output.progress import late_bar
from interp.results.by_head import Heads, as_heads, provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result, strongest_first
from interp.results.statistics import Test, interval, p_values, q_values
from interp.validate import whole
from probes.stimuli.repeated_patches import RepeatedPatches
from probes.stimuli.repeated_tokens import RepeatedTokens, stimulus_of

Query = Literal["decoder", "reg", "last_patch"]
"""Where heads are scored on repeated random patches."""


@dataclass(frozen=True, eq=False, repr=False)
class MosaicEffects(Result):
    """The change of the mosaic's scores when earlier heads are ablated, `[ablated, layer, head, row]`.

    The controls are mean changes over other heads of the ablated head's layer. On repeated patches a token is a patch,
    and the provenance names the `query`.
    """

    KIND = "mosaic-effects"

    heads: tuple[Head, ...]
    current_token: Floats
    token_to_right: Floats
    control_current_token: Floats
    control_token_to_right: Floats
    provenance: dict[str, Any]

    @property
    def site(self) -> str:
        """The kind of the heads that are scored, such as `decoder.cross`."""
        return str(self.provenance.get("site", "decoder.cross"))  # files of before there were others do not say

    def _shown(self) -> pd.DataFrame:
        return strongest_first(self.to_frame(), "change")

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """Return one row per ablated head, later head and kind of score: change, interval, control, q.

        Intervals are Student's 95 % over rows; the control's is that of the mean change over control heads. `q` is
        the p-value of no change, adjusted over the table (Benjamini & Hochberg).

        Args:
            test: the test of no change: `t`, or `sign flips`.

        Raises:
            InvalidInput: another test.
        """
        stack, of = parse_kind(self.site)
        rows = []
        for kind in ("current_token", "token_to_right"):
            values, control = getattr(self, kind), getattr(self, f"control_{kind}")
            (low, high), (under, over) = interval(values), interval(control)
            for index, ablated in enumerate(self.heads):
                for layer, head in zip(*np.nonzero(~np.isnan(values[index].mean(-1))), strict=True):
                    at = (index, layer, head)
                    rows.append(
                        {
                            "ablated": str(ablated),
                            "head": str(Head(stack, of, int(layer), int(head))),
                            "kind": kind,
                            "change": values[at].mean(),
                            "low": low[at],
                            "high": high[at],
                            "control": control[at].mean(),
                            "control_low": under[at],
                            "control_high": over[at],
                            "p": float(p_values(values[at], test)),
                        }
                    )
        frame = Frame(rows, columns=_COLUMNS)
        return frame.assign(q=q_values(frame["p"].to_numpy(dtype=float))).drop(columns="p")


_COLUMNS = ["ablated", "head", "kind", "change", "low", "high", "control", "control_low", "control_high", "p"]


@checked
@torch.no_grad()
def mosaic_effects(
    model: Model,
    batch: Batch,
    heads: Heads,
    *,
    query: Query | None = None,
    method: Method = "zero",
    reference: Reference | None = None,
    controls: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> MosaicEffects:
    """Measure how the mosaic's scores change when each earlier head is ablated.

    The scores are of the heads that read the past: cross heads, or without an encoder the decoder's own. Of patches
    they are of the heads at one query.

    Args:
        batch: repeated random tokens or patches.
        heads: the heads to ablate, one at a time, of any stack and kind.
        query: of patches, where heads are scored: `decoder` (cross heads), `reg` or `last_patch` (encoder heads); by
            default [REG], or the last patch in a model without it.
        method: `zero`, `mean` or `resample`.
        reference: the batches from which means and resamples are taken.
        controls: number of other heads of the same layer, drawn for each head, whose mean change is the control.

    Returns:
        Edited minus clean scores, with every row. NaN for heads that do not come later.

    Raises:
        UnknownHead: a head that this model does not have.
        InvalidInput: no heads, one twice; a query that there is not; and as `head_effects`.
    """
    tokens, site, place, position = _scored(model, batch, query)
    check_unhooked(model, "mosaic_effects")
    chosen = as_heads(model, heads)
    whole("controls", controls, 0)
    if not chosen:
        raise InvalidInput("no heads to ablate: name at least one.")
    drawn = [random_controls(model, [head], exclude=chosen, draws=controls, seed=seed).sets for head in chosen]
    needed = list(dict.fromkeys([*chosen, *(head for sets in drawn for members in sets for head in members)]))
    clean = _scores(model, tokens, site, position)
    changes: dict[Head, Floats] = {}
    for head in late_bar(needed, progress=progress, desc="ablate, read the mosaic", unit="head"):
        with edited(model, ablations(head, method, reference)):
            change = _scores(model, tokens, site, position) - clean
        change[:, : _first_later(head, site)] = np.nan
        changes[head] = change
    effects = np.stack([changes[head] for head in chosen])
    controls_effects = np.stack(
        [
            np.mean([changes[head] for (head,) in sets], axis=0) if sets else np.full_like(effects[0], np.nan)
            for sets in drawn
        ]
    )
    source = provenance(model, **stimulus_source(tokens))
    source |= method_source(method, reference, seed=seed, site=site) | place
    return MosaicEffects(
        tuple(chosen), effects[:, 0], effects[:, 1], controls_effects[:, 0], controls_effects[:, 1], source
    )


def _scored(
    model: Model, batch: Batch, query: Query | None
) -> tuple[RepeatedTokens | RepeatedPatches, str, dict[str, str], int]:
    """Return the stimulus, the kind of heads that are scored on it, and where: in words for results, and a position."""
    if model.reads_tokens:
        tokens = stimulus_of(batch, "mosaic_effects")
        tokens.check_occurrences()
        if query is not None:
            raise InvalidInput(f"query={query!r} is of patches: {model.name} reads tokens, and has one query.")
        return tokens, ".".join(model.family.context), {}, tokens.query
    model.check(batch)
    if not isinstance(batch, RepeatedPatches):
        raise InvalidInput(
            "mosaic_effects needs a batch that knows where its patches repeat: make it with "
            "probes.repeated_random_patches(model, ...)."
        )
    places = {"decoder": 0, "last_patch": batch.last} | ({} if batch.reg is None else {"reg": batch.reg})
    chosen = query or ("reg" if "reg" in places else "last_patch")
    if chosen not in places:
        raise InvalidInput(f"query={query!r}: {model.name} has {', '.join(places)}.")
    return batch, "decoder.cross" if chosen == "decoder" else "encoder.self", {"query": chosen}, places[chosen]


def _first_later(head: Head, site: str) -> int | None:
    """Return the first layer of a kind that comes after a head; None where none does."""
    stack, kind = parse_kind(site)
    if head.stack != stack:
        return 0 if head.stack == "encoder" else None
    # A head of the very same attention layer reads the stream before this one writes to it.
    return head.layer + (head.kind == kind)


def _scores(model: Model, tokens: RepeatedTokens | RepeatedPatches, site: str, position: int) -> Floats:
    """Return current-token and token-to-right scores by row, `[kind, layer, head, row]`."""
    # The last norm is read so that the run goes on to the end, through every head that is ablated.
    cache = capture(model, tokens, [f"{site}.*.pattern", "decoder.ln_final"])
    paid = torch.stack([cache[f"{at}.pattern"][:, :, position] for at in model.layers(site)]).double().cpu().numpy()
    last = tokens.occurrences[-1]
    return np.stack([paid[..., last], paid[..., last + 1]]).swapaxes(-1, -2)
