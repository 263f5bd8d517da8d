"""The probes: stimulus in, scores out. Which heads look back, and where to."""

from probes import plots
from probes.heads import head_scores, prefix_matching
from probes.induction import induction_mosaic
from probes.mosaic import Comparison, Counts, Mosaic
from probes.patterns import (
    AttentionCurves,
    AttentionPatterns,
    attention_by_lag,
    attention_by_value,
    attention_patterns,
    token_values,
)
from probes.published import published, published_table
from probes.report import induction_heads, summary
from probes.stimuli import ALL_VALUES, NARROW, RepeatedTokens, random_tokens, repeated_random_tokens
from probes.sweeping import induction_sweep

__all__ = [
    "ALL_VALUES",
    "NARROW",
    "AttentionCurves",
    "AttentionPatterns",
    "Comparison",
    "Counts",
    "Mosaic",
    "RepeatedTokens",
    "attention_by_lag",
    "attention_by_value",
    "attention_patterns",
    "head_scores",
    "induction_heads",
    "induction_mosaic",
    "induction_sweep",
    "plots",
    "prefix_matching",
    "published",
    "published_table",
    "random_tokens",
    "repeated_random_tokens",
    "summary",
    "token_values",
]
