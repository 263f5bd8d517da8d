"""The instrument: open a Chronos T5 model, name its heads, read it."""

from interp import zoo
from interp.batch import Batch
from interp.capture import Cache, capture
from interp.errors import (
    BrokenHook,
    DamagedFile,
    InterpError,
    InvalidInput,
    MissingBrowser,
    MissingFile,
    UnknownHead,
    UnknownModel,
    UnknownSite,
    UnsupportedModel,
    WrongVersion,
)
from interp.model import Model
from interp.names import AttentionLayer, Head, Site
from interp.opening import load, wrap

__all__ = [
    "AttentionLayer",
    "Batch",
    "BrokenHook",
    "Cache",
    "DamagedFile",
    "Head",
    "InterpError",
    "InvalidInput",
    "MissingBrowser",
    "MissingFile",
    "Model",
    "Site",
    "UnknownHead",
    "UnknownModel",
    "UnknownSite",
    "UnsupportedModel",
    "WrongVersion",
    "capture",
    "load",
    "wrap",
    "zoo",
]
