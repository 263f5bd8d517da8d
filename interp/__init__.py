"""The instrument: open a Chronos model or a GPT-2, name its heads, read it, edit it."""

from interp import sweeps, zoo
from interp.cache import Cache, capture
from interp.editing.context import ablate, edited
from interp.editing.edits import Add, FreezePatterns, Knockout, Mean, Resample, Scale, Zero
from interp.errors import (
    BrokenHook,
    CannotWrite,
    ChangedModel,
    DamagedFile,
    InertEdit,
    InterpError,
    InvalidInput,
    LostWorker,
    MissingBrowser,
    MissingFile,
    UnclearGap,
    UnknownHead,
    UnknownModel,
    UnknownSite,
    UnsupportedModel,
    WrongStore,
    WrongVersion,
)
from interp.inputs.batch import Batch
from interp.models.model import Model
from interp.models.opening import load, wrap
from interp.models.weights.factored import FactoredMatrix
from interp.models.weights.head_weights import HeadWeights, StackedWeights
from interp.models.weights.position_bias import PositionBias, position_bias
from interp.names import AttentionLayer, Head, Site
from interp.results.result import read

__all__ = [
    "Add",
    "AttentionLayer",
    "Batch",
    "BrokenHook",
    "Cache",
    "CannotWrite",
    "ChangedModel",
    "DamagedFile",
    "FactoredMatrix",
    "FreezePatterns",
    "Head",
    "HeadWeights",
    "InertEdit",
    "InterpError",
    "InvalidInput",
    "Knockout",
    "LostWorker",
    "Mean",
    "MissingBrowser",
    "MissingFile",
    "Model",
    "PositionBias",
    "Resample",
    "Scale",
    "Site",
    "StackedWeights",
    "UnclearGap",
    "UnknownHead",
    "UnknownModel",
    "UnknownSite",
    "UnsupportedModel",
    "WrongStore",
    "WrongVersion",
    "Zero",
    "ablate",
    "capture",
    "edited",
    "load",
    "position_bias",
    "read",
    "sweeps",
    "wrap",
    "zoo",
]
