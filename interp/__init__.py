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
    UnknownHead,
    UnknownModel,
    UnknownSite,
    UnsupportedModel,
    WrongVersion,
)
from interp.model import Model, load, wrap
from interp.names import AttentionLayer, Head, Site

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
