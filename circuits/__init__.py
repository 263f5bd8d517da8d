"""How heads do it: which ones cause what, on repeated random tokens and on forecasts."""

from circuits import plots
from circuits.ablation import ablation_curve, layer_effects
from circuits.controls import Controls, random_controls
from circuits.effects import head_effects
from circuits.forecasts import forecast_effects
from circuits.repair import SelfRepair, self_repair
from circuits.results import AblationCurve, ForecastEffects, HeadEffects, LayerEffects
from circuits.rewiring import MosaicEffects, mosaic_effects
from circuits.statistics import rank_correlation

__all__ = [
    "AblationCurve",
    "Controls",
    "ForecastEffects",
    "HeadEffects",
    "LayerEffects",
    "MosaicEffects",
    "SelfRepair",
    "ablation_curve",
    "forecast_effects",
    "head_effects",
    "layer_effects",
    "mosaic_effects",
    "plots",
    "random_controls",
    "rank_correlation",
    "self_repair",
]
