"""Results to plotly figures: nothing here runs a model, shows a figure or sets a template."""

from interp.output.style import write_images
from interp.renamed import renamed
from probes.plots.attention_patterns import attention, attention_by_lag, attention_by_value
from probes.plots.explorer import mosaic_explorer
from probes.plots.head_combs import combs, second_spectrum
from probes.plots.induction_sweeps import sweep_heatmap, sweep_lines
from probes.plots.mosaics import attention_by_occurrence, head_counts, head_layers, head_scores, mosaic
from probes.plots.multisines import agreement, comb_origin
from probes.plots.open_questions import length_effect, repetition_effect
from probes.plots.position_losses import induction_scores, position_loss
from probes.plots.spectra import attention_over_series, attention_spectrum
from probes.plots.training_curves import training

__all__ = [
    "agreement",
    "attention",
    "attention_by_lag",
    "attention_by_occurrence",
    "attention_by_value",
    "attention_over_series",
    "attention_spectrum",
    "comb_origin",
    "combs",
    "head_counts",
    "head_layers",
    "head_scores",
    "induction_scores",
    "length_effect",
    "mosaic",
    "mosaic_explorer",
    "position_loss",
    "repetition_effect",
    "second_spectrum",
    "sweep_heatmap",
    "sweep_lines",
    "training",
    "write_images",
]

RENAMED = {
    "Explorer": "probes.plots.explorer:Explorer",
    "counts": "probes.plots.mosaics:head_counts",
    "layers": "probes.plots.mosaics:head_layers",
    "occurrences": "probes.plots.mosaics:attention_by_occurrence",
    "scores": "probes.plots.mosaics:head_scores",
}
"""Old public names, and where they are now."""

__getattr__ = renamed(__name__, RENAMED)
