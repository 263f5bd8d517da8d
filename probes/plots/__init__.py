"""Results to plotly figures: nothing here runs a model, shows a figure or sets a template."""

from probes.plots.attention import attention, attention_by_lag, attention_by_value
from probes.plots.explorer import Explorer, mosaic_explorer
from probes.plots.mosaics import counts, layers, mosaic, occurrences, scores
from probes.plots.style import write_images
from probes.plots.sweeps import sweep_heatmap, sweep_lines
from probes.plots.training import training

__all__ = [
    "Explorer",
    "attention",
    "attention_by_lag",
    "attention_by_value",
    "counts",
    "layers",
    "mosaic",
    "mosaic_explorer",
    "occurrences",
    "scores",
    "sweep_heatmap",
    "sweep_lines",
    "training",
    "write_images",
]
