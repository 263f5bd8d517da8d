"""Effects of single heads: every head is ablated by itself, at a low cost.

1. One run of the unedited model captures the heads' outputs z, the residual stream after each
   attention, and the keys and values that cross-attention reads, if there is any.
2. Ablating head h of layer l changes the residual stream after that attention by (z' - z) W_O[h];
   everything below stays as it was, and so does an encoder if the head is the decoder's.
3. From there heads go on together, as variants of one run which those of later layers join, and only the query is
   carried through the last layer.

Source: total effects, as Heimersheim & Nanda 2024; Benjamini & Hochberg 1995.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits.measurement import Stimulus, at_query, described, output_size, stimulus_for, stimulus_source
from circuits.metrics import Metric, continuation_metrics
from interp import Batch, Model
from interp.arguments import checked
from interp.editing.context import check_unhooked
from interp.editing.edits import Reference
from interp.editing.methods import Method, ablated_z, method_source
from interp.editing.running import Run
from interp.editing.variants import Context, check_dtype, clean_run, decode_each, resume, resume_encoder
from interp.errors import InvalidInput
from interp.models.weights.head_weights import head_outputs
from interp.names import AttentionLayer, Kind, Site, Stack
from interp.output.progress import late_bar
from interp.results.by_head import HeadScores, ScoredHead, provenance
from interp.results.result import Floats, frozen
from interp.results.statistics import (
    Test,
    interval,
    p_values,
    q_values,
)

MEMORY = 2**28
"""Memory limit in bytes for the variants of one run, by default."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadEffects(HeadScores):
    """The change of a metric when each head alone is ablated, with every row of the stimulus.

    `values` `[layer, head]` are means over `rows` `[layer, head, row]`, by default of the continuation's
    log-probability in nats: negative where the head helps. `control_rows` are the changes in the log-probability of
    the row's other tokens.
    """

    rows: Floats = None  # type: ignore[assignment]
    control_rows: Floats = None  # type: ignore[assignment]

    KIND = "head-effects"
    VERSION = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rows", "control_rows"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
            if getattr(self, name).shape[:2] != self.values.shape or getattr(self, name).ndim != 3:
                raise InvalidInput(f"{name} must be [layer, head, row] for {list(self.values.shape)} heads.")

    @classmethod
    def of(cls, site: str, rows: Floats, control_rows: Floats, source: dict[str, Any]) -> Self:
        """Make the result from rows `[layer, head, row]`."""
        n = rows.shape[-1]
        metric, unit = str(source.get("metric", "log_prob")), str(source.get("unit", "nats"))
        name = "log-probability" if metric == "log_prob" else metric
        stderr = rows.std(-1, ddof=1) / n**0.5 if n > 1 else None
        return cls(
            name="effect",
            site=site,
            values=rows.mean(-1),
            stderr=stderr,
            unit=f"change in {name} ({unit})" if unit else f"change in {name}",
            provenance=source,
            rows=rows,
            control_rows=control_rows,
        )

    @property
    def control(self) -> HeadScores:
        """The change in the log-probability of the row's other tokens, or loss of other patches: damage at large."""
        unit = "change in log-probability (nats)" if self._of_tokens else "change in pinball loss (deviations)"
        return HeadScores("control", self.site, self.control_rows.mean(-1), None, unit, self.provenance)

    @property
    def _of_tokens(self) -> bool:
        name = self.provenance.get("stimulus", {}).get("name")
        return name not in ("values", "repeated_random_patches")

    @property
    def helpful(self) -> HeadScores:
        """Return how much each head helps: the loss from its ablation, so that the strongest comes first."""
        return HeadScores("help", self.site, self.sign * self.values, self.stderr, self.unit, self.provenance)

    @property
    def sign(self) -> int:
        """The sign of an effect of a head that helps: -1, or 1 where a low metric is better."""
        return 1 if self.provenance.get("higher_is_better") is False else -1

    def interval(self) -> tuple[Floats, Floats]:
        """Return Student's 95 % interval of each effect over rows: low, high `[layer, head]`; NaN under three rows."""
        return interval(self.rows)

    @property
    def q_values(self) -> Floats:
        """Benjamini-Hochberg adjusted p-values of no effect, by the t-test, over all heads, `[layer, head]`."""
        return q_values(p_values(self.rows))

    def discoveries(self, q: float = 0.05, test: Test = "t") -> tuple[ScoredHead, ...]:
        """Return the heads with an effect at a false discovery rate of q, the most helpful first.

        Args:
            test: `t`, or `sign flips`, which does not assume near-normal rows (`interp.results.statistics.p_values`).

        Raises:
            InvalidInput: another test.
        """
        help = np.where(q_values(p_values(self.rows, test)) <= q, self.sign * self.values, np.nan)
        strongest = HeadScores(self.name, self.site, help).heads()
        return tuple(ScoredHead(head.address, self.name, self.sign * head.score) for head in strongest)

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """Return one row per head, with `low, high` (Student's 95 % interval over rows), `control` and `q`.

        Args:
            test: the test of no effect whose p-values `q` adjusts: `t`, or `sign flips`.

        Raises:
            InvalidInput: another test.
        """
        low, high = self.interval()
        q = q_values(p_values(self.rows, test)).ravel()
        return super().to_frame().assign(low=low.ravel(), high=high.ravel(), control=self.control.values.ravel(), q=q)

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("score", ascending=self.sign < 0)

    @classmethod
    def _of_old(cls, content: dict[str, Any]) -> dict[str, Any]:
        rows = {name: frozen(content[name]) for name in ("rows", "control_rows")}
        return super()._of_old(content) | rows


@checked
@torch.no_grad()
def head_effects(
    model: Model,
    batch: Batch,
    kind: str | None = None,
    *,
    metric: Metric | None = None,
    method: Method = "zero",
    reference: Reference | None = None,
    by_position: bool = False,
    memory: int = MEMORY,
    progress: bool = True,
) -> HeadEffects:
    """Measure the total effect of each head: the change of a metric when it alone is ablated.

    Args:
        model: a model without edits in force. In bfloat16 effects are off by about 2e-3.
        batch: repeated random tokens or patches; of a model of patches any batch, with a metric.
        kind: whose heads; by default the attention that reads the past: cross-attention, or a lone decoder's own.
        metric: the metric at the query; by default the continuation's log-probability, or pinball loss in patches.
        method: `zero`, `mean` or `resample`.
        reference: the batches from which means and resamples are taken.
        by_position: take means at each position by itself.

    Returns:
        The change of the metric at the query, the last decoder token, edited minus clean, mean over rows. By default
        it is in nats, and negative where the head helps. The control is the change in the log-probability of the row's
        other tokens at the same position. Of patches both are pinball losses, positive where the head helps; a batch
        that does not know its continuation has no control (NaN).

    Raises:
        InvalidInput: a batch that does not know its continuation, edits in force, a reference that
            is missing or does not fit, something that is no metric, or a dtype that the sweep cannot run in.
        UnknownSite: there is no such kind, or not in this model.

    Source: edited minus unedited, one head at a time; equal to as many edited forwards.
    """
    stack, of = model.family.context if kind is None else model.kind(kind)
    kind = f"{stack}.{of}"
    tokens = stimulus_for(model, batch, metric, "head_effects")
    check_unhooked(model, "head_effects")
    check_dtype(model)
    middle = "resid_mid_cross" if of == "cross" else "resid_mid"
    layers = model.layers(kind)
    cache, context = clean_run(model, tokens, [f"{kind}.*.z", f"{stack}.*.{middle}", "decoder.ln_final"])
    z = {at: cache[f"{at}.z"] for at in layers}
    replaced = ablated_z(model, z, Run.of(tokens), method, reference, by_position)
    metrics = continuation_metrics(model, tokens, metric)
    pair = [metrics[name] for name in ("effect", "control") if name in metrics]
    clean = at_query(model, cache["decoder.ln_final"][:, tokens.query], tokens, pair)

    size = max(1, memory // variant_bytes(model, tokens, stack))
    rows = [np.full((len(layers), model.n_heads, len(tokens)), np.nan) for _ in range(2)]
    bar = late_bar(total=len(layers) * model.n_heads, progress=progress, desc=f"ablate {kind}", unit="head")
    changes = ((at, head_outputs(model, at, replaced[at] - z[at]).transpose(1, 2)) for at in layers)
    for group in _groups(changes, size):
        streams = {at.layer: cache[str(Site(stack, None, at.layer, middle))][:, None] + part for at, _, part in group}
        ln_final = _resumed(model, context, tokens, streams, stack, of)
        after = at_query(model, ln_final[:, :, 0], tokens, pair)
        done = 0
        for at, heads, change in group:
            part = slice(done, done := done + heads.stop - heads.start)
            moved = change.flatten(2).any(-1).cpu().numpy()  # without a change the effect is exactly 0
            for effects, edited, plain in zip(rows, after, clean, strict=False):
                effects[at.layer, heads] = ((edited[:, part] - plain[:, None]) * moved).T
        bar.update(done)
    bar.close()
    source = provenance(model, **stimulus_source(tokens)) | described(metrics["effect"])
    source |= method_source(method, reference, by_position=by_position)
    return HeadEffects.of(kind, rows[0], rows[1], source)


def variant_bytes(model: Model, batch: Batch, stack: Stack) -> int:
    """Estimate the bytes of one variant: its widest tensors, twice, and what it puts out."""
    rows, queries = batch.mask(stack).shape
    keys = batch.length("encoder") or queries
    width = max(model.d_mlp, 4 * model.d_model, model.n_heads * model.d_head) + model.n_heads * keys
    return rows * (2 * queries * width + 2 * output_size(model)) * torch.finfo(model.dtype).bits // 8


def _groups(
    changes: Iterable[tuple[AttentionLayer, Tensor]], size: int
) -> Iterator[list[tuple[AttentionLayer, slice, Tensor]]]:
    """Group heads that are ablated in one run, as many as fit: by layer, which heads, and what each changes."""
    group: list[tuple[AttentionLayer, slice, Tensor]] = []
    for at, change in changes:
        for start in range(0, change.shape[1], size):
            part = change[:, start : start + size]
            if sum(other.shape[1] for _, _, other in group) + part.shape[1] > size:
                yield group
                group = []
            group.append((at, slice(start, start + part.shape[1]), part))
    yield group


def _resumed(
    model: Model, context: Context, batch: Stimulus, streams: Mapping[int, Tensor], stack: Stack, of: Kind
) -> Tensor:
    """Run variants of the residual stream, by layer, from after its attention to the last norm at the query."""
    if stack == "decoder":
        first, *later = streams
        joining = {layer: streams[layer] for layer in later}
        return resume(model, context, streams[first], first, of, only=batch.query, joining=joining)
    hidden = [resume_encoder(model, x, batch.attention_mask, layer) for layer, x in streams.items()]
    return decode_each(model, batch, torch.cat(hidden, 1), batch.query)
