"""The probes: stimulus in, scores out. Which heads look back, and where to."""

from probes import datasets, plots
from probes.headcombs import HeadCombs
from probes.heads import head_scores, prefix_matching
from probes.induction import induction_mosaic
from probes.mosaic import Comparison, Counts, Mosaic
from probes.pairs import Pair, another_sequence, shifted_values, shuffled_occurrences, swapped_continuation
from probes.patterns import (
    AttentionCurves,
    AttentionPatterns,
    attention_by_lag,
    attention_by_value,
    attention_patterns,
    token_values,
)
from probes.periodic import attention_spectrum, context_attention
from probes.periods import changed_period
from probes.positions import PositionLoss, position_loss
from probes.published import published, published_table
from probes.questions.agreement import Agreement, MultisineScores, agreement, multisine_scores
from probes.questions.claims import claims
from probes.questions.lengths import LengthEffect, length_effect
from probes.questions.origin import CombOrigin, comb_origin, value_matching
from probes.questions.repetitions import RepetitionEffect, repetition_effect
from probes.repeats import InductionScores, induction_scores
from probes.reports.mosaic import induction_heads, summary
from probes.sequences import TEXT_TOKENS, RepeatedSequences, repeated_sequences
from probes.series import SeriesBatch, TimeSeries, motif, multisine, series_batch
from probes.spectrum import AttentionSpectrum
from probes.stimuli import ALL_VALUES, NARROW, RepeatedTokens, random_tokens, repeated_random_tokens
from probes.sweeping import induction_sweep

__all__ = [
    "ALL_VALUES",
    "NARROW",
    "TEXT_TOKENS",
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
    "claims",
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
