"""What every part of the toolkit may ask of an opened model: what it is, its sizes, its addresses, its modules.

`interp.models.model.Model`, which users hold, adds what is built on these: inputs, weights, traces.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

import torch
from chronos import BaseChronosPipeline
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import MissingCapability, no_tokens
from interp.inputs.patches import Patching
from interp.models.addresses import Addresses
from interp.models.families.family import Family, Layout, PatchReader
from interp.models.module_tree import Known, Tree
from interp.names import STACKS, AttentionLayer, Head, Kind, Pattern, Site, Stack

Capability = Literal["encoder", "series", "positions", "tokens", "patches"]
"""What a call can need that not every model has."""

_NO_SERIES = (
    "has no chronos_config, so no tokenizer for series and no forecasts: it reads token ids only. For series open a "
    "Chronos model"
)


@dataclass(frozen=True, eq=False)
class Handle(ABC):
    """A model that was opened: the original module in the original pipeline, and what family it is of.

    Attributes:
        name: the name or path it was opened by.
        source: what was opened, a Chronos pipeline or a Hugging Face model, which works as it did before.
        family: the architecture.
    """

    name: str
    source: BaseChronosPipeline | PreTrainedModel
    family: Family
    _known: Known = field(default_factory=Known, repr=False)

    @abstractmethod
    def follow(self) -> Tree:
        """Return the modules as they are now, with hook points on those that came since the last use."""

    @property
    def module(self) -> Any:
        """The Hugging Face model itself, of the family's architecture."""
        return self.family.module_in(self.source) if isinstance(self.source, BaseChronosPipeline) else self.source

    @property
    def pipeline(self) -> Any:
        """The Chronos pipeline.

        Raises:
            MissingCapability: the model is not one of Chronos', so it has no tokenizer for series.
        """
        self.require("series")
        return self.source

    @property
    def config(self) -> Any:
        """The Hugging Face configuration."""
        return self.module.config

    @property
    def chronos_config(self) -> Any:
        """The Chronos configuration: context and prediction length, tokens and sampling or patches and quantiles."""
        return attrgetter(self.family.settings)(self.pipeline)

    @property
    def has_encoder(self) -> bool:
        """Whether there is an encoder, and so cross-attention."""
        return self.family.has_encoder

    @property
    def reads_series(self) -> bool:
        """Whether this is a Chronos model, which takes series and gives forecasts."""
        return isinstance(self.source, BaseChronosPipeline)

    @property
    def reads_tokens(self) -> bool:
        """Whether the input is tokens, one after the other, as in T5 and GPT-2, and not patches of values."""
        return self.family.reads == "tokens"

    @property
    def gives_quantiles(self) -> bool:
        """Whether the output is quantiles of steps, at the site `decoder.quantiles`, and not logits of tokens."""
        return self.family.puts_out == "quantiles"

    @property
    def output(self) -> Site:
        """The site that the model puts out: `decoder.logits`, or `decoder.quantiles`."""
        return Site("decoder", None, None, self.family.puts_out)

    @property
    def tokens_are_values(self) -> bool:
        """Whether tokens stand for values, as in the Chronos T5 models, and not for words."""
        return self.reads_series and self.reads_tokens

    @property
    def embeds_positions(self) -> bool:
        """Whether positions are embedded, as in GPT-2; in T5 they are a bias of the scores."""
        return self.family.position_embedding is not None

    @property
    def patching(self) -> Patching:
        """How the model cuts series into patches.

        Raises:
            MissingCapability: it reads tokens.
        """
        return self._patches.patching(self.module)

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of the quantiles that the model puts out, in ascending order.

        Raises:
            MissingCapability: it puts out logits.
        """
        return self._patches.levels(self.module)

    @property
    def horizon(self) -> int:
        """How many steps one forward pass forecasts.

        Raises:
            MissingCapability: it forecasts token by token.
        """
        return self._patches.horizon(self.module)

    @property
    def _patches(self) -> PatchReader:
        self.require("patches")
        assert self.family.patches is not None
        return self.family.patches

    def require(self, capability: Capability, instead: str = "") -> None:
        """Raise the shared error if the model lacks a capability.

        Args:
            capability: what is needed.
            instead: of tokens, a sentence on why they are, and what there is without them.

        Raises:
            MissingCapability: it does; the message says what to do instead.
        """
        if capability == "tokens" and not self.reads_tokens:
            raise no_tokens(self.name, instead)
        has, lacks = {
            "encoder": (self.has_encoder, "is a decoder alone: it has no encoder and no cross-attention"),
            "series": (self.reads_series, _NO_SERIES),
            "positions": (self.embeds_positions, "embeds no positions; see interp.position_bias"),
            "tokens": (self.reads_tokens, ""),
            "patches": (
                self.family.patches is not None,
                "reads tokens and puts out logits: it has no patches and no quantiles. See model.vocabulary",
            ),
        }[capability]
        if not has:
            raise MissingCapability(f"{self.name} {lacks}.")

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
        """The number of embeddings: special tokens, values, and any beyond them that stand for nothing.

        Raises:
            MissingCapability: the model reads values.
        """
        self.require("tokens")
        return self.config.vocab_size

    def shape_at(self, layout: Layout) -> tuple[int, ...]:
        """Return the shape of one position of a site by its layout; of quantiles, which have no positions, of a row."""
        if layout == "quantiles":
            return len(self.levels), self.horizon
        if layout == "tokens":
            return (self.d_vocab,)
        return {"stream": (self.d_model,), "heads": (self.n_heads, self.d_head), "square": (self.n_heads,)}[layout]

    @property
    def n_parameters(self) -> int:
        """The number of weights, shared ones counted once."""
        return sum(p.numel() for p in self.module.parameters())

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
    def addresses(self) -> Addresses:
        """The addresses of the heads, attention layers and sites."""
        return Addresses(self.name, self.family, self.n_layers, self.n_heads)

    def kind(self, kind: str) -> tuple[Stack, Kind]:
        """Return the stack and the kind of attention that a text names: see `Addresses.kind`."""
        return self.addresses.kind(kind)

    def heads(self, of: str | Head | AttentionLayer | None = None) -> list[Head]:
        """Return all heads in forward order, or those of a kind, a layer or a pattern: see `Addresses.heads`."""
        return self.addresses.heads(of)

    def layers(self, kind: str | None = None) -> list[AttentionLayer]:
        """Return all attention layers, or those of a kind such as `decoder.cross`: see `Addresses.layers`."""
        return self.addresses.layers(kind)

    def head(self, head: Head | str) -> Head:
        """Return a head of this model by its address: see `Addresses.head`."""
        return self.addresses.head(head)

    def layer(self, layer: AttentionLayer | str) -> AttentionLayer:
        """Return an attention layer of this model by its address: see `Addresses.layer`."""
        return self.addresses.layer(layer)

    def matching(self, pattern: Pattern) -> Sequence[Head | AttentionLayer | Site]:
        """Return what a pattern names, heads before layers before sites: see `Addresses.matching`."""
        return self.addresses.matching(pattern, self.known_sites)

    def sites(self, *patterns: str | Site) -> list[Site]:
        """Return the sites that addresses or patterns name, in forward order: see `Addresses.sites`."""
        known = self.known_sites  # follows modules that were replaced, whose sizes the addresses are of
        return self.addresses.sites(patterns, known)

    def is_constant(self, site: Site | str) -> bool:
        """Tell whether a site is the same for every input.

        A decoder of one position looks at itself alone. In Chronos-Bolt its own patterns are 1, and what its first
        layer makes up to the query of the first cross-attention depends on no input.
        """
        return any(Pattern(constant).matches(site) for constant in self.family.constants)

    def unembed(self, ln_final: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos token"]:
        """Compute the logits of what the decoder's final norm put out.

        Args:
            ln_final: `decoder.ln_final`, `[..., d_model]`.

        Returns:
            Logits `[..., token]`, scaled as the config says before the unembedding.

        Raises:
            MissingCapability: the model puts out no logits.
        """
        self.require("tokens")
        return self.module.lm_head(ln_final * self.unembedding_scale)

    def quantiles(
        self, ln_final: Float[Tensor, "row pos d_model"], context: Float[Tensor, "row step"]
    ) -> Float[Tensor, "row quantile horizon"]:
        """Compute the quantiles of what the decoder's final norm put out, in the series' units.

        Args:
            ln_final: `decoder.ln_final`, `[row, pos, d_model]`.
            context: the values of a batch, whose mean and deviation the forecast is in units of.

        Raises:
            MissingCapability: the model puts out logits.
        """
        return self._patches.quantiles(self.module, ln_final, context.to(self.device))

    @property
    def unembedding_scale(self) -> float:
        """What T5 multiplies the decoder's output with before the unembedding, as its config says; 1 elsewhere."""
        if not self.family.scales_unembedding:
            return 1.0
        scales = getattr(self.config, "scale_decoder_outputs", self.config.tie_word_embeddings)
        return self.d_model**-0.5 if scales else 1.0
