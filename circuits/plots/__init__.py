"""Results of experiments to plotly figures: nothing here runs a model."""

from circuits.plots.ablation import ablation_curve, head_effects, layer_effects, score_against_effect, self_repair
from circuits.plots.agreement import edge_scores
from circuits.plots.attribution import attribution, past_attribution
from circuits.plots.composition import composition, composition_explorer
from circuits.plots.forecasts import forecast_effects, forecast_fan
from circuits.plots.lens import logit_lens
from circuits.plots.matrices import circuit, eigenvalues, singular_values, token_circuit
from circuits.plots.patching import patched_heads, patched_positions
from circuits.plots.wiring import wiring

__all__ = [
    "ablation_curve",
    "attribution",
    "circuit",
    "composition",
    "composition_explorer",
    "edge_scores",
    "eigenvalues",
    "forecast_effects",
    "forecast_fan",
    "head_effects",
    "layer_effects",
    "logit_lens",
    "past_attribution",
    "patched_heads",
    "patched_positions",
    "score_against_effect",
    "self_repair",
    "singular_values",
    "token_circuit",
    "wiring",
]
