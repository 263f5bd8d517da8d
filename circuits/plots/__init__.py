"""Results of experiments to plotly figures: nothing here runs a model."""

from circuits.plots.ablation import ablation_curve, head_effects, layer_effects, score_against_effect, self_repair
from circuits.plots.attribution import attribution, past_attribution
from circuits.plots.composition import composition, composition_explorer
from circuits.plots.evaluation import circuit_report, estimate_against_patch
from circuits.plots.forecasts import forecast_effects, forecast_fan
from circuits.plots.graph import circuit
from circuits.plots.lens import logit_lens
from circuits.plots.matrices import eigenvalues, head_circuit, position_circuit, singular_values, token_circuit
from circuits.plots.patching import patched_heads, patched_positions
from circuits.plots.sizes import faithfulness_by_size
from circuits.plots.wiring import wiring

__all__ = [
    "ablation_curve",
    "attribution",
    "circuit",
    "circuit_report",
    "composition",
    "composition_explorer",
    "eigenvalues",
    "estimate_against_patch",
    "faithfulness_by_size",
    "forecast_effects",
    "forecast_fan",
    "head_circuit",
    "head_effects",
    "layer_effects",
    "logit_lens",
    "past_attribution",
    "patched_heads",
    "patched_positions",
    "position_circuit",
    "score_against_effect",
    "self_repair",
    "singular_values",
    "token_circuit",
    "wiring",
]
