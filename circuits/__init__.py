"""How heads do it: what their weights compute, how they are wired, and which ones cause what."""

from circuits import plots
from circuits.ablation import ablation_curve, layer_effects
from circuits.candidates import InductionCandidate, InductionCandidates, induction_candidates
from circuits.composition import composition_scores, cursive_composition
from circuits.composition_scores import CompositionScores
from circuits.controls import Controls, random_controls
from circuits.copying import copying_scores
from circuits.edges import Edge, Edges, ScoredEdge
from circuits.effects import head_effects
from circuits.forecasts import forecast_effects
from circuits.matrices import HeadCircuit, ov_circuit, qk_circuit
from circuits.patched import PatchedHeads, PatchedPositions
from circuits.patching import patch_heads, patch_positions, patch_sites
from circuits.repair import SelfRepair, self_repair
from circuits.results import AblationCurve, ForecastEffects, HeadEffects, LayerEffects
from circuits.rewiring import MosaicEffects, mosaic_effects
from circuits.summary import head_summary
from circuits.tokens import TokenCircuit, TokenMeans, encoder_output_by_token, token_circuit, token_composition
from interp.statistics import rank_correlation

__all__ = [
    "AblationCurve",
    "CompositionScores",
    "Controls",
    "Edge",
    "Edges",
    "ForecastEffects",
    "HeadCircuit",
    "HeadEffects",
    "InductionCandidate",
    "InductionCandidates",
    "LayerEffects",
    "MosaicEffects",
    "PatchedHeads",
    "PatchedPositions",
    "ScoredEdge",
    "SelfRepair",
    "TokenCircuit",
    "TokenMeans",
    "ablation_curve",
    "composition_scores",
    "copying_scores",
    "cursive_composition",
    "encoder_output_by_token",
    "forecast_effects",
    "head_effects",
    "head_summary",
    "induction_candidates",
    "layer_effects",
    "mosaic_effects",
    "ov_circuit",
    "patch_heads",
    "patch_positions",
    "patch_sites",
    "plots",
    "qk_circuit",
    "random_controls",
    "rank_correlation",
    "self_repair",
    "token_circuit",
    "token_composition",
]
