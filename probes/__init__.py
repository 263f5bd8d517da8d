"""Feed the model a stimulus and score its heads: which heads look back, and where to.

Arguments that several functions share are explained in the docstring of `interp`.
"""

from interp.renamed import renamed
from probes import plots
from probes.attention import attention_by_lag, attention_by_value, attention_patterns
from probes.induction.head_scores import head_scores, prefix_matching
from probes.induction.induction_mosaic import induction_mosaic
from probes.induction.induction_scores import induction_scores
from probes.induction.induction_sweep import induction_sweep
from probes.induction.position_loss import position_loss
from probes.induction.published import published, published_table
from probes.periodic.context_attention import attention_spectrum, context_attention
from probes.questions.agreement import agreement, multisine_scores
from probes.questions.claims import check_claims
from probes.questions.comb_origin import comb_origin, value_matching
from probes.questions.length_effect import length_effect
from probes.questions.repetition_effect import repetition_effect
from probes.reports.mosaics import induction_heads, mosaic_summary
from probes.stimuli import datasets
from probes.stimuli.pairs import another_sequence, shifted_values, shuffled_occurrences, swapped_continuation
from probes.stimuli.period_pairs import changed_period
from probes.stimuli.periodic_series import motif, multisine
from probes.stimuli.repeated_patches import repeated_random_patches
from probes.stimuli.repeated_sequences import repeated_sequences
from probes.stimuli.repeated_tokens import DEFAULT_TOKENS, VALUE_TOKENS, random_tokens, repeated_random_tokens
from probes.stimuli.time_series import TimeSeries, series_batch

__all__ = [
    "DEFAULT_TOKENS",
    "VALUE_TOKENS",
    "TimeSeries",
    "agreement",
    "another_sequence",
    "attention_by_lag",
    "attention_by_value",
    "attention_patterns",
    "attention_spectrum",
    "changed_period",
    "check_claims",
    "comb_origin",
    "context_attention",
    "datasets",
    "head_scores",
    "induction_heads",
    "induction_mosaic",
    "induction_scores",
    "induction_sweep",
    "length_effect",
    "mosaic_summary",
    "motif",
    "multisine",
    "multisine_scores",
    "plots",
    "position_loss",
    "prefix_matching",
    "published",
    "published_table",
    "random_tokens",
    "repeated_random_patches",
    "repeated_random_tokens",
    "repeated_sequences",
    "repetition_effect",
    "series_batch",
    "shifted_values",
    "shuffled_occurrences",
    "swapped_continuation",
    "value_matching",
]

RENAMED = {
    "Pair": "probes.stimuli.pairs:Pair",
    "ALL_VALUES": "probes.stimuli.repeated_tokens:VALUE_TOKENS",
    "Agreement": "probes.questions.agreement:Agreement",
    "AttentionCurves": "probes.attention:AttentionCurves",
    "AttentionPatterns": "probes.attention:AttentionPatterns",
    "AttentionSpectrum": "probes.periodic.spectrum:AttentionSpectrum",
    "CombOrigin": "probes.questions.comb_origin:CombOrigin",
    "Comparison": "probes.induction.mosaic:Comparison",
    "Counts": "probes.induction.mosaic:Counts",
    "HeadCombs": "probes.periodic.head_combs:HeadCombs",
    "InductionScores": "probes.induction.induction_scores:InductionScores",
    "LengthEffect": "probes.questions.length_effect:LengthEffect",
    "Mosaic": "probes.induction.mosaic:Mosaic",
    "MultisineScores": "probes.questions.agreement:MultisineScores",
    "NARROW": "probes.stimuli.repeated_tokens:DEFAULT_TOKENS",
    "PositionLoss": "probes.induction.position_loss:PositionLoss",
    "RepeatedSequences": "probes.stimuli.repeated_sequences:RepeatedSequences",
    "RepeatedTokens": "probes.stimuli.repeated_tokens:RepeatedTokens",
    "TEXT_TOKENS": "probes.stimuli.repeated_sequences:TEXT_TOKENS",
    "RepetitionEffect": "probes.questions.repetition_effect:RepetitionEffect",
    "SeriesBatch": "probes.stimuli.time_series:SeriesBatch",
    "claims": "probes.questions.claims:check_claims",
    "token_values": "probes.attention:token_values",
    "summary": "probes.reports.mosaics:mosaic_summary",
}
"""Old public names, and where they are now."""

__getattr__ = renamed(__name__, RENAMED)
