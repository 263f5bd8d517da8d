"""Results of experiments to plotly figures: nothing here runs a model."""

from circuits.plots.ablation import ablation_curve, head_effects, layer_effects, score_against_effect, self_repair
from circuits.plots.attributions import attribution, attribution_by_position
from circuits.plots.circuit_graph import circuit
from circuits.plots.compositions import composition, composition_explorer
from circuits.plots.evaluations import circuit_report, estimate_against_patch
from circuits.plots.faithfulness import faithfulness_by_size
from circuits.plots.forecasts import forecast_effects, forecast_fan
from circuits.plots.head_circuits import eigenvalues, head_circuit, position_circuit, singular_values, token_circuit
from circuits.plots.lenses import logit_lens
from circuits.plots.patching import patched_heads, patched_positions
from circuits.plots.wires import wiring
from interp.renamed import renamed

__all__ = [
    "ablation_curve",
    "attribution",
    "attribution_by_position",
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
    "patched_heads",
    "patched_positions",
    "position_circuit",
    "score_against_effect",
    "self_repair",
    "singular_values",
    "token_circuit",
    "wiring",
]

RENAMED = {
    "past_attribution": "circuits.plots.attributions:attribution_by_position",
}
"""Old public names, and where they are now."""

__getattr__ = renamed(__name__, RENAMED)
