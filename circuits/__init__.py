"""Find out how heads do it: what their weights compute, how they are wired, and which ones cause what.

Arguments that several functions share are explained in the docstring of `interp`; these belong to this package:

    metric       what is measured: a function of `circuits.metrics`, or your own, from logits `[row, pos, token]` to
                 one number per row
    clean,       two inputs of one shape that differ in what the model is asked; both are a `Batch`, and a `Pair` of
    corrupt      `probes` unpacks to them
    controls     how many random sets, of the same size and from the same layers, are treated like the one in question
"""

from circuits import plots
from circuits.ablation.curve import ablation_curve
from circuits.ablation.forecast_effects import forecast_effects
from circuits.ablation.head_effects import head_effects
from circuits.ablation.layer_effects import layer_effects
from circuits.ablation.mosaic_effects import mosaic_effects
from circuits.ablation.self_repair import self_repair
from circuits.attribution.by_position import attribution_by_position
from circuits.attribution.direct import direct_attribution
from circuits.attribution.gradients import gradients
from circuits.attribution.logit_lens import logit_lens
from circuits.controls import random_controls
from circuits.edges import Edge
from circuits.graph.attribution_patching import attribution_patching
from circuits.graph.circuit import Circuit
from circuits.graph.circuit_summary import circuit_summary
from circuits.graph.discovery import discover, prune
from circuits.graph.evaluation import evaluate
from circuits.graph.faithfulness_by_size import faithfulness_by_size
from circuits.graph.path_patching import patch_edges
from circuits.graph.recovery import recovery_benchmark
from circuits.metrics import expected_value, log_prob, logit_difference
from circuits.patching import patch_heads, patch_positions, patch_sites
from circuits.weights.composition import composition_scores, largest_by_chance
from circuits.weights.copying import copying_scores
from circuits.weights.head_circuit import ov_circuit, qk_circuit
from circuits.weights.head_summary import head_summary
from circuits.weights.induction_candidates import induction_candidates
from circuits.weights.patch_circuit import patch_circuit
from circuits.weights.position_circuit import position_circuit
from circuits.weights.token_circuit import encoder_output_by_token, token_circuit, token_composition
from interp.renamed import renamed

__all__ = [
    "Circuit",
    "Edge",
    "ablation_curve",
    "attribution_by_position",
    "attribution_patching",
    "circuit_summary",
    "composition_scores",
    "copying_scores",
    "direct_attribution",
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
    "patch_circuit",
    "patch_edges",
    "patch_heads",
    "patch_positions",
    "patch_sites",
    "plots",
    "position_circuit",
    "prune",
    "qk_circuit",
    "random_controls",
    "recovery_benchmark",
    "self_repair",
    "token_circuit",
    "token_composition",
]

RENAMED = {
    "AblationCurve": "circuits.ablation.curve:AblationCurve",
    "AttributionByPosition": "circuits.attribution.by_position:AttributionByPosition",
    "CircuitReport": "circuits.graph.evaluation:CircuitReport",
    "CompositionScores": "circuits.weights.composition_scores:CompositionScores",
    "Controls": "circuits.controls:Controls",
    "DirectAttribution": "circuits.attribution.direct:DirectAttribution",
    "EdgeEffects": "circuits.graph.path_patching:EdgeEffects",
    "EdgeScores": "circuits.graph.edge_scores:EdgeScores",
    "Edges": "circuits.edges:Edges",
    "ForecastEffects": "circuits.ablation.forecast_effects:ForecastEffects",
    "Gradients": "circuits.attribution.gradients:Gradients",
    "HeadCircuit": "circuits.weights.head_circuit:HeadCircuit",
    "HeadEffects": "circuits.ablation.head_effects:HeadEffects",
    "InductionCandidate": "circuits.weights.induction_candidates:InductionCandidate",
    "InductionCandidates": "circuits.weights.induction_candidates:InductionCandidates",
    "LayerEffects": "circuits.ablation.layer_effects:LayerEffects",
    "LogitLens": "circuits.attribution.logit_lens:LogitLens",
    "MosaicEffects": "circuits.ablation.mosaic_effects:MosaicEffects",
    "PastAttribution": "circuits.attribution.by_position:AttributionByPosition",
    "PatchedHeads": "circuits.patching:PatchedHeads",
    "PatchedPositions": "circuits.patching:PatchedPositions",
    "PositionCircuit": "circuits.weights.position_circuit:PositionCircuit",
    "ScoredEdge": "circuits.edges:ScoredEdge",
    "SelfRepair": "circuits.ablation.self_repair:SelfRepair",
    "SizeCurve": "circuits.graph.faithfulness_by_size:SizeCurve",
    "TokenCircuit": "circuits.weights.token_circuit:TokenCircuit",
    "TokenMeans": "circuits.weights.token_circuit:TokenMeans",
    "accuracy": "circuits.metrics:accuracy",
    "direct_value_attribution": "circuits.attribution.direct:direct_attribution",
    "past_attribution": "circuits.attribution.by_position:attribution_by_position",
    "past_value_attribution": "circuits.attribution.by_position:attribution_by_position",
    "rank_correlation": "interp.results.statistics:rank_correlation",
    "recovery": "circuits.graph.recovery:recovery_benchmark",
}
"""Old public names, and where they are now."""

__getattr__ = renamed(__name__, RENAMED)
