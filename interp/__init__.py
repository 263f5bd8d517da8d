"""The instrument: open a Chronos model or a GPT-2, name its heads, read it, edit it."""

from interp import sweeps, zoo
from interp.batch import Batch
from interp.capture import Cache, capture
from interp.editing import ablate, edited
from interp.edits import Add, FreezePatterns, Knockout, Mean, Resample, Scale, Zero
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
from interp.factored import FactoredMatrix
from interp.model import Model
from interp.names import AttentionLayer, Head, Site
from interp.opening import load, wrap
from interp.position_bias import PositionBias, position_bias
from interp.weights import HeadWeights, StackedWeights

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
    "sweeps",
    "wrap",
    "zoo",
]
