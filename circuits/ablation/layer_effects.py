"""Effects of whole layers: every attention layer and MLP is ablated by itself."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from circuits.ablation.head_sets import set_outcomes
from circuits.measurement import described, stimulus_for, stimulus_source
from circuits.metrics import Metric, continuation_metrics
from interp import Batch, Model
from interp.arguments import checked
from interp.editing.edits import Reference
from interp.editing.methods import Method, method_source
from interp.results.by_head import provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result, strongest_first
from interp.results.statistics import Test, interval, p_values, q_values


@dataclass(frozen=True, eq=False, repr=False)
class LayerEffects(Result):
    """The change of a metric when each layer is ablated, `[layer, row]`, and the control's change.

    The metric is the continuation's log-probability unless the provenance names another.
    """

    KIND = "layer-effects"

    layers: tuple[str, ...]
    rows: Floats
    control_rows: Floats
    provenance: dict[str, Any]

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """Return one row per layer: `layer, effect, low, high, control, control_low, control_high, q`.

        All intervals are Student's 95 % over rows. The control is the same rows' other tokens.

        Args:
            test: the test of no effect whose p-values `q` adjusts: `t`, or `sign flips`.

        Raises:
            InvalidInput: another test.
        """
        (low, high), (under, over) = interval(self.rows), interval(self.control_rows)
        return Frame(
            {
                "layer": self.layers,
                "effect": self.rows.mean(-1),
                "low": low,
                "high": high,
                "control": self.control_rows.mean(-1),
                "control_low": under,
                "control_high": over,
                "q": q_values(p_values(self.rows, test)),
            }
        )

    def _shown(self) -> pd.DataFrame:
        return strongest_first(self.to_frame(), "effect")


@checked
def layer_effects(
    model: Model,
    batch: Batch,
    *,
    metric: Metric | None = None,
    method: Method = "zero",
    reference: Reference | None = None,
    progress: bool = True,
) -> LayerEffects:
    """Ablate whole attention layers and MLPs, one at a time.

    Args:
        batch: repeated random tokens or patches; of a model of patches any batch, with a metric.
        metric: the metric at the query; by default the continuation's log-probability, or pinball loss in patches.
        method: `zero`, `mean` or `resample`.
        reference: the batches from which means and resamples are taken.

    Returns:
        The change of the metric (by default in nats) for each layer, and as the control the change in the
        log-probability of the row's other tokens.

    Raises:
        InvalidInput: as `head_effects`.
    """
    tokens = stimulus_for(model, batch, metric, "layer_effects")
    places = [*model.layers(), *model.sites("*.*.mlp_out")]
    sets = [[], *([place] for place in places)]
    values = set_outcomes(model, tokens, sets, metric=metric, method=method, reference=reference, progress=progress)
    rows, control_rows = (values[name][1:] - values[name][0] for name in ("effect", "control"))
    source = provenance(model, **stimulus_source(tokens))
    source |= described(continuation_metrics(model, tokens, metric)["effect"]) | method_source(method, reference)
    return LayerEffects(tuple(str(place) for place in places), rows, control_rows, source)
