"""How heads do it: what their weights compute, how they are wired, and which ones cause what."""

from circuits import plots
from circuits.ablation.curve import AblationCurve, ablation_curve
from circuits.ablation.forecast_effects import forecast_effects
from circuits.ablation.forecast_runs import ForecastEffects
from circuits.ablation.head_effects import HeadEffects, head_effects
from circuits.ablation.layer_effects import LayerEffects, layer_effects
from circuits.ablation.mosaic_effects import MosaicEffects, mosaic_effects
from circuits.ablation.self_repair import SelfRepair, self_repair
from circuits.attribution.by_position import PastAttribution, past_attribution, past_value_attribution
from circuits.attribution.direct import DirectAttribution, direct_attribution, direct_value_attribution
from circuits.attribution.gradients import Gradients, gradients
from circuits.attribution.logit_lens import LogitLens, logit_lens
from circuits.controls import Controls, random_controls
from circuits.edges import Edge, Edges, ScoredEdge
from circuits.graph.attribution_patching import attribution_patching
from circuits.graph.circuit import Circuit
from circuits.graph.circuit_summary import circuit_summary
from circuits.graph.discovery import discover, prune
from circuits.graph.edge_scores import EdgeScores
from circuits.graph.evaluation import CircuitReport, evaluate
from circuits.graph.faithfulness_by_size import SizeCurve, faithfulness_by_size
from circuits.graph.path_patching import EdgeEffects, patch_edges
from circuits.graph.recovery import recovery
from circuits.metrics import expected_value, log_prob, logit_difference
from circuits.patched import PatchedHeads, PatchedPositions
from circuits.patching import patch_heads, patch_positions, patch_sites
from circuits.weights.composition import composition_scores, cursive_composition, largest_by_chance
from circuits.weights.composition_scores import CompositionScores
from circuits.weights.copying import copying_scores
from circuits.weights.head_circuit import HeadCircuit, ov_circuit, qk_circuit
from circuits.weights.head_summary import head_summary
from circuits.weights.induction_candidates import InductionCandidate, InductionCandidates, induction_candidates
from circuits.weights.position_circuit import PositionCircuit, position_circuit
from circuits.weights.token_circuit import (
    TokenCircuit,
    TokenMeans,
    encoder_output_by_token,
    token_circuit,
    token_composition,
)
from interp.results.statistics import rank_correlation

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
