"""Results of experiments to plotly figures: nothing here runs a model."""

from circuits.plots.ablation import ablation_curve, head_effects, layer_effects, score_against_effect, self_repair
from circuits.plots.forecasts import forecast_effects, forecast_fan

__all__ = [
    "ablation_curve",
    "forecast_effects",
    "forecast_fan",
    "head_effects",
    "layer_effects",
    "score_against_effect",
    "self_repair",
]
