"""The probes: stimulus in, scores out. Which heads look back, and where to."""

from probes import plots
from probes.attention import (
    AttentionCurves,
    AttentionPatterns,
    attention_by_lag,
    attention_by_value,
    attention_patterns,
    token_values,
)
from probes.induction.head_scores import head_scores, prefix_matching
from probes.induction.induction_scores import InductionScores, induction_scores
from probes.induction.induction_sweep import induction_sweep
from probes.induction.mosaic import Comparison, Counts, Mosaic, induction_mosaic
from probes.induction.position_loss import PositionLoss, position_loss
from probes.induction.published import published, published_table
from probes.periodic.context_attention import attention_spectrum, context_attention
from probes.periodic.head_combs import HeadCombs
from probes.periodic.spectrum import AttentionSpectrum
from probes.questions.agreement import Agreement, MultisineScores, agreement, multisine_scores
from probes.questions.claims import check_claims
from probes.questions.comb_origin import CombOrigin, comb_origin, value_matching
from probes.questions.length_effect import LengthEffect, length_effect
from probes.questions.repetition_effect import RepetitionEffect, repetition_effect
from probes.reports.mosaics import induction_heads, summary
from probes.stimuli import datasets
from probes.stimuli.pairs import Pair, another_sequence, shifted_values, shuffled_occurrences, swapped_continuation
from probes.stimuli.period_pairs import changed_period
from probes.stimuli.periodic_series import motif, multisine
from probes.stimuli.repeated_sequences import TEXT_TOKENS, RepeatedSequences, repeated_sequences
from probes.stimuli.repeated_tokens import (
    DEFAULT_TOKENS,
    VALUE_TOKENS,
    RepeatedTokens,
    random_tokens,
    repeated_random_tokens,
)
from probes.stimuli.time_series import SeriesBatch, TimeSeries, series_batch

__all__ = [
    "DEFAULT_TOKENS",
    "TEXT_TOKENS",
    "VALUE_TOKENS",
    "Agreement",
    "AttentionCurves",
    "AttentionPatterns",
    "AttentionSpectrum",
    "CombOrigin",
    "Comparison",
    "Counts",
    "HeadCombs",
    "InductionScores",
    "LengthEffect",
    "Mosaic",
    "MultisineScores",
    "Pair",
    "PositionLoss",
    "RepeatedSequences",
    "RepeatedTokens",
    "RepetitionEffect",
    "SeriesBatch",
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
    "motif",
    "multisine",
    "multisine_scores",
    "plots",
    "position_loss",
    "prefix_matching",
    "published",
    "published_table",
    "random_tokens",
    "repeated_random_tokens",
    "repeated_sequences",
    "repetition_effect",
    "series_batch",
    "shifted_values",
    "shuffled_occurrences",
    "summary",
    "swapped_continuation",
    "token_values",
    "value_matching",
]
