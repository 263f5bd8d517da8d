"""A frozen handle on the original module inside the original pipeline: sizes, names, views."""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from chronos import ChronosConfig, ChronosPipeline
from jaxtyping import Float
from nnsight import NNsight
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import InvalidInput, UnsupportedModel
from interp.inputs.batch import Batch
from interp.inputs.fitting import check_fit
from interp.inputs.vocabulary import Vocabulary, vocabulary_of
from interp.models import lookup
from interp.models.digest import digest
from interp.models.families.family import Family
from interp.models.hooking import follow
from interp.models.module_tree import Known, Tree
from interp.models.tracing import Wrappers
from interp.models.views import HeadViews
from interp.models.weights.head_weights import HeadWeights, StackedWeights, head_weights, stacked_weights
from interp.names import STACKS, AttentionLayer, Head, Kind, Site, Stack


@dataclass(frozen=True, eq=False)
class Model:
    """A model opened for reading: a handle, which no experiment leaves anything on.

    `source` is what was opened, a Chronos pipeline or a Hugging Face model, and works as it did before; `load` and
    `wrap` make one.
    """

    name: str
    source: ChronosPipeline | PreTrainedModel
    family: Family
    _known: Known = field(default_factory=Known, repr=False)
    # Handles that each thread has of its own.
    _wrappers: Wrappers = field(default_factory=Wrappers, repr=False)

    @property
    def module(self) -> Any:
        """The Hugging Face model itself, of the family's architecture."""
        return self.source.model.model if isinstance(self.source, ChronosPipeline) else self.source

    @property
    def pipeline(self) -> ChronosPipeline:
        """The Chronos pipeline.

        Raises:
            UnsupportedModel: the model is not one of Chronos', so it has no tokenizer for series.
        """
        if not isinstance(self.source, ChronosPipeline):
            raise UnsupportedModel(
                f"{self.name} has no chronos_config, so no tokenizer for series and no forecasts: it reads token ids "
                "only. For series open a Chronos model."
            )
        return self.source

    @property
    def config(self) -> Any:
        """The Hugging Face configuration."""
        return self.module.config

    @property
    def chronos_config(self) -> ChronosConfig:
        """The Chronos configuration: tokens, context and prediction length, sampling."""
        return self.pipeline.model.config

    @property
    def tokens_are_values(self) -> bool:
        """Whether tokens stand for values, as in all models of Chronos, and not for words."""
        return isinstance(self.source, ChronosPipeline)

    @property
    def vocabulary(self) -> Vocabulary:
        """What tokens are: special ones, values, and of what. See `interp.inputs.vocabulary.vocabulary_of`."""
        return vocabulary_of(self)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are in."""
        return self.module.dtype

    @property
    def n_layers(self) -> dict[Stack, int]:
        """The number of layers by stack; 0 in a stack that the model does not have."""
        blocks = self.family.blocks
        return {s: len(self.module.get_submodule(blocks[s])) if s in blocks else 0 for s in STACKS}

    @property
    def n_heads(self) -> int:
        """Heads in one attention layer."""
        return self.config.num_attention_heads

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return self.config.hidden_size

    @property
    def d_head(self) -> int:
        """The width of one head; in T5 `n_heads * d_head` need not be `d_model`."""
        return getattr(self.config, "d_kv", self.d_model // self.n_heads)

    @property
    def d_mlp(self) -> int:
        """The width of the MLPs."""
        return getattr(self.config, self.family.mlp_width) or 4 * self.d_model

    @property
    def max_positions(self) -> int | None:
        """The longest sequence, where positions are embedded; None where there is no longest."""
        embedding = self.family.position_embedding
        return None if embedding is None else len(self.module.get_submodule(embedding).weight)

    @property
    def d_vocab(self) -> int:
        """The number of embeddings: special tokens, values, and any beyond them that stand for nothing."""
        return self.config.vocab_size

    @property
    def n_parameters(self) -> int:
        """The number of weights, shared ones counted once."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def digest(self) -> str:
        """A SHA-256 of all weights by name, so that results know which weights they are of.

        All weights are read at each use, at the speed of memory, and the digest is of what they are now.
        """
        return digest(self)

    def follow(self) -> Tree:
        """The modules as they are now, with hook points on those that came since: see `hooking.follow`."""
        return follow(self)

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return self.follow().modules

    @property
    def known_sites(self) -> dict[str, Site]:
        """All sites by address, in forward order."""
        tree = self.follow()
        if not tree.sites:
            tree.sites = {str(site): site for site in self.family.sites(self.n_layers)}
        return tree.sites

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

    def kind(self, kind: str) -> tuple[Stack, Kind]:
        """The stack and kind of attention that `decoder.cross` names, as `lookup.kind_of`."""
        return lookup.kind_of(self, kind)

    def heads(self, kind: str | None = None) -> list[Head]:
        """All heads in forward order, or those of a kind such as `decoder.cross`.

        Raises:
            UnknownSite: there is no such kind, or not in this model.
        """
        return [Head(at.stack, at.kind, at.layer, head) for at in self.layers(kind) for head in range(self.n_heads)]

    def layers(self, kind: str | None = None) -> list[AttentionLayer]:
        """All attention layers, kind by kind, or those of a kind such as `decoder.cross`.

        Raises:
            UnknownSite: there is no such kind, or not in this model.
        """
        kinds = self.family.kinds if kind is None else (self.kind(kind),)
        return [AttentionLayer(s, k, layer) for s, k in kinds for layer in range(self.n_layers[s])]

    def head(self, head: Head | str) -> Head:
        """A head of this model by its address, or as scored: see `lookup.head_of`."""
        return lookup.head_of(self, head)

    def layer(self, layer: AttentionLayer | str) -> AttentionLayer:
        """An attention layer of this model by its address, such as `decoder.cross.3`: see `lookup.layer_of`."""
        return lookup.layer_of(self, layer)

    def sites(self, *patterns: str | Site) -> list[Site]:
        """The sites that addresses or patterns name, in forward order: see `lookup.sites_of`."""
        return lookup.sites_of(self, patterns)

    def check(self, batch: Batch) -> None:
        """Hold a batch against this model: its stacks, its vocabulary and its longest sequence.

        Raises:
            InvalidInput: no batch, encoder tokens for a decoder-only model or none for an encoder, a token id that is
                not in the vocabulary or means something else here, or more tokens than there are positions.
        """
        check_fit(self, batch)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The keyword arguments for `module` or `nnsight.trace`, checked, on this model's device."""
        self.follow()
        self.check(batch)
        named = {name: ids.to(self.device) for name, ids in batch.inputs.items()}
        if self.family.position_embedding is not None and not bool(batch.decoder_attention_mask.all()):
            named["position_ids"] = positions_of(named["attention_mask"])
        return named | {"use_cache": cast(Any, False)}

    def views(self, layer: AttentionLayer | str) -> HeadViews:
        """An attention layer's tensors by head, for use inside `with model.nnsight.trace(...)`.

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
        """nnsight's view of the module at a dotted path, such as `decoder.block.0` or `transformer.h.0`.

        In GPT-2 `resid_mid` is the input of `ln_2`, which the layer goes on with: in a trace edit it in place
        (`model.envoy("transformer.h.0.ln_2").input[:] = x`), for what is assigned there reaches the norm alone.
        """
        return envoy_at(self.nnsight, path)

    def unembed(self, ln_final: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos token"]:
        """Logits of what the decoder's final norm put out.

        Args:
            ln_final: `decoder.ln_final`, `[..., d_model]`.

        Returns:
            Logits `[..., token]`, scaled as the config says before the unembedding.
        """
        return self.module.lm_head(ln_final * self.unembedding_scale)

    @property
    def unembedding_scale(self) -> float:
        """What T5 multiplies the decoder's output with before the unembedding, as its config says; 1 elsewhere."""
        if not self.family.scales_unembedding:
            return 1.0
        scales = getattr(self.config, "scale_decoder_outputs", self.config.tie_word_embeddings)
        return self.d_model**-0.5 if scales else 1.0

    def weights(self, head: Head | str, *, fold_norm: bool = True) -> HeadWeights:
        """W_Q, W_K, W_V `[d_model, d_head]` and W_O `[d_head, d_model]` of a head, see `weights.head_weights`."""
        return head_weights(self, head, fold_norm=fold_norm)

    def stacked_weights(self, kind: str, *, fold_norm: bool = True) -> StackedWeights:
        """The weights of all heads of a kind such as `decoder.cross`."""
        return stacked_weights(self, kind, fold_norm=fold_norm)


def envoy_at(root: NNsight, path: str) -> Any:
    """What nnsight's wrapper of a model has at a dotted path."""
    found: Any = root
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    return found


def positions_of(mask: Tensor) -> Tensor:
    """The position of each token `[row, pos]` where padding does not count, as `generate` takes it."""
    return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)


def as_model(model: object) -> Model:
    """See that a model was given, before anything is asked of it.

    Raises:
        InvalidInput: something else, such as a model's name.
    """
    if isinstance(model, Model):
        return model
    how = (
        f"open it: interp.load({model!r})" if isinstance(model, str) else "give what interp.load or interp.wrap returns"
    )
    raise InvalidInput(f"a model is needed and {type(model).__name__} was given: {how}.")
