"""How heads do it: what their weights compute, how they are wired, and which ones cause what."""

from circuits import plots
from circuits.ablation import ablation_curve, layer_effects
from circuits.attribution import DirectAttribution, direct_attribution, direct_value_attribution
from circuits.candidates import InductionCandidate, InductionCandidates, induction_candidates
from circuits.composition import composition_scores, cursive_composition, largest_by_chance
from circuits.composition_scores import CompositionScores
from circuits.controls import Controls, random_controls
from circuits.copying import copying_scores
from circuits.edges import Edge, Edges, ScoredEdge
from circuits.effects import head_effects
from circuits.forecasts import forecast_effects
from circuits.gradients import Gradients, gradients
from circuits.graph.attribution import attribution_patching
from circuits.graph.circuit import Circuit
from circuits.graph.discovery import discover, prune
from circuits.graph.evaluation import CircuitReport, evaluate
from circuits.graph.patching import EdgeEffects, patch_edges
from circuits.graph.recovery import recovery
from circuits.graph.scores import EdgeScores
from circuits.graph.sizes import SizeCurve, faithfulness_by_size
from circuits.graph.summary import circuit_summary
from circuits.lens import LogitLens, logit_lens
from circuits.matrices import HeadCircuit, ov_circuit, qk_circuit
from circuits.metrics import expected_value, log_prob, logit_difference
from circuits.past import PastAttribution, past_attribution, past_value_attribution
from circuits.patched import PatchedHeads, PatchedPositions
from circuits.patching import patch_heads, patch_positions, patch_sites
from circuits.positions import PositionCircuit, position_circuit
from circuits.repair import SelfRepair, self_repair
from circuits.results import AblationCurve, ForecastEffects, HeadEffects, LayerEffects
from circuits.rewiring import MosaicEffects, mosaic_effects
from circuits.summary import head_summary
from circuits.tokens import TokenCircuit, TokenMeans, encoder_output_by_token, token_circuit, token_composition
from interp.statistics import rank_correlation

__all__ = [
    "AblationCurve",
    "Circuit",
    "CircuitReport",
    "CompositionScores",
    "Controls",
    "DirectAttribution",
    "Edge",
    "EdgeEffects",
    "EdgeScores",
    "Edges",
    "ForecastEffects",
    "Gradients",
    "HeadCircuit",
    "HeadEffects",
    "InductionCandidate",
    "InductionCandidates",
    "LayerEffects",
    "LogitLens",
    "MosaicEffects",
    "PastAttribution",
    "PatchedHeads",
    "PatchedPositions",
    "PositionCircuit",
    "ScoredEdge",
    "SelfRepair",
    "SizeCurve",
    "TokenCircuit",
    "TokenMeans",
    "ablation_curve",
    "attribution_patching",
    "circuit_summary",
    "composition_scores",
    "copying_scores",
    "cursive_composition",
    "direct_attribution",
    "direct_value_attribution",
    "discover",
    "encoder_output_by_token",
    "evaluate",
    "expected_value",
    "faithfulness_by_size",
    "forecast_effects",
    "gradients",
    "head_effects",
    "head_summary",
    "induction_candidates",
    "largest_by_chance",
    "layer_effects",
    "log_prob",
    "logit_difference",
    "logit_lens",
    "mosaic_effects",
    "ov_circuit",
    "past_attribution",
    "past_value_attribution",
    "patch_edges",
    "patch_heads",
    "patch_positions",
    "patch_sites",
    "plots",
    "position_circuit",
    "prune",
    "qk_circuit",
    "random_controls",
    "rank_correlation",
    "recovery",
    "self_repair",
    "token_circuit",
    "token_composition",
]
