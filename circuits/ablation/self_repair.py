"""Self-repair: the direct effect of a head, and what later layers make up for when it is ablated.

Source: McGrath et al. 2023, "The Hydra Effect"; Rushing & Nanda 2024, "Explorations of Self-Repair".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from circuits.ablation.head_sets import set_outcomes
from circuits.measurement import Stimulus, at_query, described, stimulus_for, stimulus_source
from circuits.metrics import Metric, continuation_metrics
from interp import Batch, Model, capture
from interp.arguments import checked
from interp.editing.context import check_unhooked
from interp.editing.edits import Reference
from interp.editing.methods import Method, ablated_z, method_source
from interp.editing.running import Run
from interp.errors import InvalidInput
from interp.models.weights.head_weights import head_outputs
from interp.models.weights.layers import last_norm
from interp.names import Head
from interp.results.by_head import Heads, as_heads, provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import Test, interval, p_values, q_values
from interp.validate import whole


@dataclass(frozen=True, eq=False, repr=False)
class SelfRepair(Result):
    """Total, direct and restored effects `[head, row]` of chosen heads, then of controls.

    `all_ablated` `[row]` is the effect of ablating all chosen heads together.
    """

    KIND = "self-repair"

    heads: tuple[Head, ...]
    controls: tuple[Head, ...]
    total: Floats
    direct: Floats
    restored: Floats
    all_ablated: Floats
    provenance: dict[str, Any]

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """Return one row per head: each part with Student's 95 % interval over rows; `role` is `chosen` or `control`.

        `q` is the p-value of no total effect, adjusted over the table (Benjamini & Hochberg).

        Args:
            test: the test of no total effect: `t`, or `sign flips`.

        Raises:
            InvalidInput: another test.
        """
        frame = Frame(
            {
                "head": [str(head) for head in (*self.heads, *self.controls)],
                "role": ["chosen"] * len(self.heads) + ["control"] * len(self.controls),
            }
        )
        parts = {"total": self.total, "direct": self.direct, "repaired": self.total - self.direct}
        for name, rows in (parts | {"restored": self.restored}).items():
            low, high = interval(rows)
            frame = frame.assign(**{name: rows.mean(-1), f"{name}_low": low, f"{name}_high": high})
        return frame.assign(q=q_values(p_values(self.total, test)))


@checked
@torch.no_grad()
def self_repair(
    model: Model,
    batch: Batch,
    heads: Heads,
    *,
    metric: Metric | None = None,
    method: Method = "zero",
    reference: Reference | None = None,
    controls: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> SelfRepair:
    """Split the effect of each head into its direct part and what later layers repair, and measure restoring it.

    Args:
        batch: repeated random tokens or patches; of a model of patches any batch, with a metric.
        heads: decoder heads that may stand in for each other.
        metric: the metric at the query; by default the continuation's log-probability, or pinball loss in patches.
        method: `zero`, `mean` or `resample`.
        reference: the batches from which means and resamples are taken.
        controls: at most how many other heads of the same layers are measured beside them.

    Returns:
        For each head and each control, in nats with every row: `total`, the effect of ablating it;
        `direct`, the same through the last norm and the unembedding alone, all later layers as
        they were; `repaired`, total minus direct (positive where later layers make up for it); and
        `restored`, the effect of giving the head back when all chosen ones are ablated.

    Raises:
        UnknownHead: a head that this model does not have.
        InvalidInput: encoder heads, which have no direct path to the logits; no heads; and as
            `head_effects`.

    Source: McGrath et al. 2023; Rushing & Nanda 2024.
    """
    tokens = stimulus_for(model, batch, metric, "self_repair")
    chosen = as_heads(model, heads)
    whole("controls", controls, 0)
    whole("seed", seed, 0)
    check_unhooked(model, "self_repair")
    if not chosen or any(head.stack == "encoder" for head in chosen):
        raise InvalidInput("self_repair takes decoder heads: an encoder head has no direct path to the logits.")
    rest = [h for head in chosen for h in _neighbours(model, head) if h not in chosen]
    rest = list(dict.fromkeys(rest))
    picked = np.random.default_rng(seed).permutation(len(rest))[:controls]
    others = [rest[i] for i in sorted(picked)]
    measured_heads = [*chosen, *others]
    sets: list[list[Head]] = [[], chosen, *([h] for h in measured_heads)]
    # A chosen head is given back to all the others; a control is taken away in addition.
    sets += [[h for h in chosen if h != head] for head in chosen] + [[*chosen, head] for head in others]
    metric = continuation_metrics(model, tokens, metric)["effect"]
    outcomes = set_outcomes(model, tokens, sets, metric=metric, method=method, reference=reference, progress=progress)
    values = outcomes["effect"]
    n = len(measured_heads)
    total = values[2 : 2 + n] - values[0]
    restored = values[2 + n :] - values[1]
    restored[len(chosen) :] *= -1
    direct = _direct(model, tokens, measured_heads, metric, method, reference)
    source = provenance(model, **stimulus_source(tokens))
    source |= described(metric) | method_source(method, reference, seed=seed)
    return SelfRepair(tuple(chosen), tuple(others), total, direct, restored, values[1] - values[0], source)


def _neighbours(model: Model, head: Head) -> list[Head]:
    return [Head(head.stack, head.kind, head.layer, i) for i in range(model.n_heads) if i != head.head]


def _direct(
    model: Model,
    tokens: Stimulus,
    heads: Sequence[Head],
    metric: Metric,
    method: Method,
    reference: Reference | None,
) -> Floats:
    """Measure the effect of each head through the last norm alone, `[head, row]`."""
    layers = list(dict.fromkeys(head.attention for head in heads))
    last = model.n_layers["decoder"] - 1
    cache = capture(model, tokens, [*(f"{at}.z" for at in layers), f"decoder.{last}.resid_post", "decoder.ln_final"])
    z = {at: cache[f"{at}.z"] for at in layers}
    replaced = ablated_z(model, z, Run.of(tokens), method, reference)
    clean = at_query(model, cache["decoder.ln_final"][:, tokens.query], tokens, [metric])[0]
    stream = cache[f"decoder.{last}.resid_post"][:, tokens.query]
    effects: list[Floats] = []
    for head in heads:
        at = head.attention
        change = head_outputs(model, at, (replaced[at] - z[at])[:, tokens.query, None])[:, 0, head.head]
        ln_final = last_norm(model, "decoder", stream + change)
        effects.append(at_query(model, ln_final, tokens, [metric])[0] - clean)
    return np.stack(effects)
