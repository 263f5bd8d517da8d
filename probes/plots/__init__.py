"""Results to plotly figures: nothing here runs a model, shows a figure or sets a template."""

from interp.output.style import write_images
from probes.plots.attention_patterns import attention, attention_by_lag, attention_by_value
from probes.plots.explorer import Explorer, mosaic_explorer
from probes.plots.head_combs import combs, second_spectrum
from probes.plots.induction_sweeps import sweep_heatmap, sweep_lines
from probes.plots.mosaics import counts, layers, mosaic, occurrences, scores
from probes.plots.multisines import agreement, comb_origin
from probes.plots.open_questions import length_effect, repetition_effect
from probes.plots.position_losses import induction_scores, position_loss
from probes.plots.spectra import attention_over_series, attention_spectrum
from probes.plots.training_curves import training

__all__ = [
    "Explorer",
    "agreement",
    "attention",
    "attention_by_lag",
    "attention_by_value",
    "attention_over_series",
    "attention_spectrum",
    "comb_origin",
    "combs",
    "counts",
    "induction_scores",
    "layers",
    "length_effect",
    "mosaic",
    "mosaic_explorer",
    "occurrences",
    "position_loss",
    "repetition_effect",
    "scores",
    "second_spectrum",
    "sweep_heatmap",
    "sweep_lines",
    "training",
    "write_images",
]
