"""Whole layers ablated one at a time: what each does to the log-probability of the continuation."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from circuits.ablation.head_sets import set_outcomes
from circuits.ablation.outcomes import method_of, stimulus_of
from interp import Batch, Model
from interp.editing.edits import Method, Reference
from interp.results.by_head import provenance
from interp.results.result import Floats, Result
from interp.results.statistics import (
    Test,
    interval,
    p_values,
    q_values,
)


@dataclass(frozen=True, eq=False, repr=False)
class LayerEffects(Result):
    """Whole layers ablated one at a time: changes in log-probability `[layer, row]`, and the control's."""

    KIND = "layer-effects"

    layers: tuple[str, ...]
    rows: Floats
    control_rows: Floats
    provenance: dict[str, Any]

    def to_frame(self, test: Test = "t") -> pd.DataFrame:
        """One tidy row a layer: `layer, effect, low, high, control, control_low, control_high, q`.

        All intervals are Student's over rows, the control's too: it is the same rows' other tokens.

        Args:
            test: of no effect, of which `q` is adjusted: `t`, or `sign flips`.

        Raises:
            InvalidInput: another test.
        """
        (low, high), (under, over) = interval(self.rows), interval(self.control_rows)
        return pd.DataFrame(
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


def layer_effects(
    model: Model,
    batch: Batch,
    *,
    method: Method = "zero",
    reference: Reference | None = None,
    progress: bool = True,
) -> LayerEffects:
    """Ablate whole attention layers and MLPs, one at a time.

    Args:
        model: the model, with no edit in force.
        batch: what `probes.repeated_random_tokens` made.
        method: `zero`, `mean` or `resample`.
        reference: what means and resamples are taken from.
        progress: whether to show a progress bar.

    Returns:
        The change in log-probability (nats) of the continuation, and of the row's other tokens as
        the control, for each layer.

    Raises:
        InvalidInput: as `head_effects`.
    """
    tokens = stimulus_of(batch, "layer_effects")
    places = [*model.layers(), *model.sites("*.*.mlp_out")]
    measured = set_outcomes(
        model, tokens, [[], *([place] for place in places)], method=method, reference=reference, progress=progress
    )
    return LayerEffects(
        tuple(str(place) for place in places),
        measured.log_prob[1:] - measured.log_prob[0],
        measured.control[1:] - measured.control[0],
        provenance(model, name="repeated_random_tokens", **tokens.parameters) | method_of(method, reference),
    )
