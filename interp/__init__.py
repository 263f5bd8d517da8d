"""Open a Chronos model or a GPT-2, name its heads, read it, edit it, and keep what comes out.

These arguments mean the same in all three packages, and docstrings explain them only where they differ:

    model      what `interp.load` or `interp.wrap` gives
    batch      a `Batch`: what the model is fed; rows are examples
    heads      a `Head`, its address ("decoder.cross.3.5"), an attention layer ("decoder.cross.3": all its heads),
               a pattern ("decoder.cross.*"), a list of these, or what `.heads()` of a result gives
    kind       a kind of attention: "encoder.self", "decoder.self" or "decoder.cross"
    seed       a whole number that fixes all random choices; global random state is never touched
    memory     the limit, in bytes, for tensors that run side by side; smaller is slower and changes nothing else
    progress   show a progress bar
    path       a file's name or path; files are written whole or not at all
"""

from interp import errors, sweeps, zoo
from interp.cache import capture
from interp.editing.context import ablate, edited
from interp.editing.edits import Add, FreezePatterns, Mean, Resample, Scale, Zero
from interp.editing.knockouts import Knockout
from interp.errors import InterpError
from interp.inputs.batch import Batch
from interp.models.model import Model
from interp.models.opening import load, wrap
from interp.models.weights.position_bias import position_bias
from interp.names import AttentionLayer, Head, Site
from interp.renamed import renamed
from interp.results.result import read
from interp.scoring import score_heads

__all__ = [
    "Add",
    "AttentionLayer",
    "Batch",
    "FreezePatterns",
    "Head",
    "InterpError",
    "Knockout",
    "Mean",
    "Model",
    "Resample",
    "Scale",
    "Site",
    "Zero",
    "ablate",
    "capture",
    "edited",
    "errors",
    "load",
    "position_bias",
    "read",
    "score_heads",
    "sweeps",
    "wrap",
    "zoo",
]

RENAMED = {
    "BrokenHook": "interp.errors:BrokenHook",
    "Cache": "interp.cache:Cache",
    "CannotWrite": "interp.errors:CannotWrite",
    "ChangedModel": "interp.errors:ChangedModel",
    "DamagedFile": "interp.errors:DamagedFile",
    "FactoredMatrix": "interp.models.weights.factored:FactoredMatrix",
    "HeadWeights": "interp.models.weights.head_weights:HeadWeights",
    "InertEdit": "interp.errors:InertEdit",
    "InvalidInput": "interp.errors:InvalidInput",
    "LostWorker": "interp.errors:LostWorker",
    "MissingBrowser": "interp.errors:MissingBrowser",
    "MissingFile": "interp.errors:MissingFile",
    "PositionBias": "interp.models.weights.position_bias:PositionBias",
    "StackedWeights": "interp.models.weights.head_weights:StackedWeights",
    "UnclearGap": "interp.errors:UnclearGap",
    "UnknownHead": "interp.errors:UnknownHead",
    "UnknownModel": "interp.errors:UnknownModel",
    "UnknownSite": "interp.errors:UnknownSite",
    "UnsupportedModel": "interp.errors:UnsupportedModel",
    "WrongStore": "interp.errors:WrongStore",
    "WrongVersion": "interp.errors:WrongVersion",
}
"""Old public names, and where they are now."""

__getattr__ = renamed(__name__, RENAMED)
