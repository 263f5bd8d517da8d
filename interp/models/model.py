"""The model that users hold: a handle with its inputs, its weights by head, and its tensors in nnsight traces."""

from dataclasses import dataclass, field
from typing import Any

from nnsight import NNsight
from torch import Tensor

from interp.errors import InvalidInput
from interp.inputs.batch import Batch
from interp.inputs.fitting import check_fit, inputs_of
from interp.inputs.vocabulary import Vocabulary, vocabulary_of
from interp.models.digest import digest
from interp.models.handle import Handle
from interp.models.hooking import follow
from interp.models.module_tree import Tree
from interp.models.tracing import Wrappers
from interp.models.views import HeadViews
from interp.models.weights.head_weights import HeadWeights, StackedWeights, head_weights, stacked_weights
from interp.names import AttentionLayer, Head, Site


@dataclass(frozen=True, eq=False)
class Model(Handle):
    """A model opened for reading: a handle, which no experiment leaves anything on.

    `source` is what was opened, a Chronos pipeline or a Hugging Face model, and works as it did before; `load` and
    `wrap` make one.
    """

    # Handles that each thread has of its own.
    _wrappers: Wrappers = field(default_factory=Wrappers, repr=False)

    @property
    def vocabulary(self) -> Vocabulary:
        """What tokens are: special ones, values, and of what. See `interp.inputs.vocabulary.vocabulary_of`.

        Raises:
            MissingCapability: the model reads values, or its tokens are words.
        """
        return vocabulary_of(self)

    @property
    def digest(self) -> str:
        """A SHA-256 of all weights by name, so that results know which weights they are of.

        All weights are read at each use, at the speed of memory, and the digest is of what they are now.
        """
        return digest(self)

    def follow(self) -> Tree:
        """Return the modules as they are now, with hook points on new ones: see `hooking.follow`."""
        return follow(self)

    @property
    def nnsight(self) -> NNsight:
        """The nnsight wrapper of `module`, for traces of your own; each thread has its own.

        It is another one after modules were replaced.
        """
        return self._wrappers.of(self.module, self.follow())

    def __getstate__(self) -> dict[str, Any]:
        # What was read or wrapped of a module is not that of its copy.
        return {"name": self.name, "source": self.source, "family": self.family}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __repr__(self) -> str:
        layers = self.n_layers
        return (
            f"Model({self.name!r}: {self.family.name}, {'+'.join(str(n) for n in layers.values() if n)} layers, "
            f"{self.n_heads} heads, d_model {self.d_model}, {self.dtype}, {self.device})"
        )

    def check(self, batch: Batch) -> None:
        """Hold a batch against this model: its stacks, its vocabulary and its longest sequence.

        Raises:
            InvalidInput: no batch, encoder tokens for a decoder-only model or none for an encoder, a token id that is
                not in the vocabulary or means something else here, or more tokens than there are positions.
        """
        check_fit(self, batch)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return the keyword arguments for `module` or `nnsight.trace`, checked, on this model's device."""
        return inputs_of(self, batch)

    def views(self, layer: AttentionLayer | str) -> HeadViews:
        """Return an attention layer's tensors by head, for use inside `with model.nnsight.trace(...)`.

        Args:
            layer: such as `decoder.cross.3`.

        Returns:
            `q`, `k`, `v`, `z` as `[batch, pos, head, d_head]` and `scores`, `pattern` as
            `[batch, head, query, key]`, to be read and assigned in the order in which the forward
            pass makes them.

        Raises:
            UnknownSite: there is no such layer.
        """
        at = self.layer(layer)
        names = ("q", "k", "v", "scores", "pattern", "z")
        points = {name: self.family.point(Site(at.stack, at.kind, at.layer, name)) for name in names}
        return HeadViews(self.envoy, points, self.n_heads)

    def envoy(self, path: str) -> Any:
        """Return nnsight's view of the module at a dotted path, such as `decoder.block.0` or `transformer.h.0`.

        In GPT-2 `resid_mid` is the input of `ln_2`, which the layer goes on with: in a trace edit it in place
        (`model.envoy("transformer.h.0.ln_2").input[:] = x`), for what is assigned there reaches the norm alone.
        """
        return envoy_at(self.nnsight, path)

    def weights(self, head: Head | str, *, fold_norm: bool = True) -> HeadWeights:
        """Return W_Q, W_K, W_V `[d_model, d_head]` and W_O `[d_head, d_model]` of a head (`weights.head_weights`)."""
        return head_weights(self, head, fold_norm=fold_norm)

    def stacked_weights(self, kind: str, *, fold_norm: bool = True) -> StackedWeights:
        """Return the weights of all heads of a kind such as `decoder.cross`."""
        return stacked_weights(self, kind, fold_norm=fold_norm)


def envoy_at(root: NNsight, path: str) -> Any:
    """Return nnsight's wrapper at a dotted path; the root's is empty."""
    node: Any = root
    for part in filter(None, path.split(".")):
        node = node[int(part)] if part.isdigit() else getattr(node, part)
    return node


def as_model(model: object) -> Model:
    """Check that a value is a model, and return it.

    Raises:
        InvalidInput: something else, such as a model's name.
    """
    if isinstance(model, Model):
        return model
    how = (
        f"open it: interp.load({model!r})" if isinstance(model, str) else "give what interp.load or interp.wrap returns"
    )
    raise InvalidInput(f"a model is needed and {type(model).__name__} was given: {how}.")
