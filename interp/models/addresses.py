"""What the addresses of a model name, or why they name nothing: the errors say what there is instead."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from interp.errors import UnknownHead, UnknownSite, nearest
from interp.models.families.family import Family
from interp.names import AttentionLayer, Head, Kind, Pattern, Site, Stack, as_head, parse_kind


@dataclass(frozen=True, eq=False)
class Addresses:
    """The heads, attention layers and sites of one model.

    Attributes:
        model: the name of the model, for messages.
        family: the architecture.
        n_layers: the number of layers by stack; 0 in a stack that the model does not have.
        n_heads: the number of heads in one attention layer.
    """

    model: str
    family: Family
    n_layers: Mapping[Stack, int]
    n_heads: int

    def kind(self, kind: str) -> tuple[Stack, Kind]:
        """Return the stack and the kind of attention that a text such as `decoder.cross` names.

        Raises:
            UnknownSite: there is no such kind, or this model does not have it.
        """
        try:
            stack, name = parse_kind(kind)
        except UnknownSite:
            if self.family.has_encoder:
                raise
            raise UnknownSite(f"{kind!r}: {self._decoder_only()}") from None
        self._check_kind(kind, stack, name, UnknownSite)
        return stack, name

    def layers(self, kind: str | None = None) -> list[AttentionLayer]:
        """Return all attention layers, kind by kind, or those of one kind.

        Raises:
            UnknownSite: there is no such kind, or this model does not have it.
        """
        kinds = self.family.kinds if kind is None else (self.kind(kind),)
        return [AttentionLayer(s, k, layer) for s, k in kinds for layer in range(self.n_layers[s])]

    def heads(self, of: str | Head | AttentionLayer | None = None) -> list[Head]:
        """Return all heads in forward order, or those that an address or a pattern names.

        Args:
            of: a kind such as `decoder.cross`, an attention layer such as `decoder.cross.1`, a head, or a pattern such
                as `decoder.cross.*.0`; None for all.

        Raises:
            UnknownHead, UnknownSite: it names nothing that this model has, or something else than heads.
        """
        if of is None:
            return self._heads_in(self.layers())
        text = str(of)
        depth = text.count(".")
        if isinstance(of, Head) or (depth > 2 and "*" not in text):
            return [self.head(cast(Head | str, of))]
        if "*" in text:
            pattern = Pattern(text)
            heads = [head for head in self.heads() if pattern.matches(head)]
            if heads := heads or self._heads_in(self._layers_of(pattern)):
                return heads
            raise UnknownHead(
                f"{text!r} matches no head of {self.model}. A pattern has as many parts as the address: "
                "'decoder.cross.1.*' is one layer, 'decoder.cross.*.0' a head of each."
            )
        return self._heads_in([self.layer(text)] if depth == 2 else self.layers(text))

    def _heads_in(self, layers: Sequence[AttentionLayer]) -> list[Head]:
        return [Head(at.stack, at.kind, at.layer, head) for at in layers for head in range(self.n_heads)]

    def matching(self, pattern: Pattern, known: Mapping[str, Site]) -> Sequence[Head | AttentionLayer | Site]:
        """Return what a pattern names: heads; if it names none, attention layers; if none of these either, sites.

        Args:
            pattern: such as `decoder.cross.1.*` (heads), `decoder.cross.*` and `decoder.*` (layers), or
                `decoder.*.mlp_out` (sites).
            known: all sites of the model by address.

        Raises:
            UnknownSite: nothing of the model matches.
        """
        if heads := [head for head in self.heads() if pattern.matches(head)]:
            return heads
        if layers := self._layers_of(pattern):
            return layers
        if sites := [site for site in known.values() if pattern.matches(site)]:
            return sites
        raise self._no_site(str(pattern), known)

    def _layers_of(self, pattern: Pattern) -> list[AttentionLayer]:
        """Return the attention layers that a pattern names, by themselves or by their kind."""
        return [at for at in self.layers() if pattern.matches(at) or pattern.matches(f"{at.stack}.{at.kind}")]

    def head(self, head: Head | str) -> Head:
        """Return a head by its value, or by its address.

        Raises:
            UnknownHead: the address is malformed, this model does not have its kind of attention, or the layer or the
                head is out of range.
        """
        try:
            address = as_head(head)
        except UnknownHead as error:
            plain = str(error).split(" Did you mean")[0]
            raise UnknownHead(f"{plain}{nearest(str(head), map(str, self.heads()))}") from None
        self._check_kind(str(address), address.stack, address.kind, UnknownHead)
        layers = self.n_layers[address.stack]
        if address.layer >= layers or address.head >= self.n_heads:
            layer, index = min(address.layer, layers - 1), min(address.head, self.n_heads - 1)
            raise UnknownHead(
                f"{str(address)!r}: {self.model} has {address.stack} layers 0-{layers - 1} and heads "
                f"0-{self.n_heads - 1}. Did you mean {str(Head(address.stack, address.kind, layer, index))!r}?"
            )
        return address

    def layer(self, layer: AttentionLayer | str) -> AttentionLayer:
        """Return an attention layer by its value, or by its address such as `decoder.cross.3`.

        Raises:
            UnknownSite: there is no such layer.
        """
        at = layer if isinstance(layer, AttentionLayer) else AttentionLayer.parse(str(layer))
        self._check_kind(str(at), at.stack, at.kind, UnknownSite)
        last = self.n_layers[at.stack] - 1
        if at.layer > last:
            close = AttentionLayer(at.stack, at.kind, last)
            raise UnknownSite(f"{str(at)!r}: {self.model} has {at.stack} layers 0-{last}. Did you mean {str(close)!r}?")
        return at

    def sites(self, patterns: Sequence[str | Site], known: Mapping[str, Site]) -> list[Site]:
        """Return the sites that addresses or patterns name, in forward order, each once.

        Args:
            patterns: such as `decoder.cross.*.pattern`, where `*` stands for one part of the address; none gives all
                sites.
            known: all sites of the model by address.

        Raises:
            UnknownSite: a name or pattern matches no site of the model.
        """
        if not patterns:
            return list(known.values())
        named: set[str] = set()
        for pattern in patterns:
            matches = [name for name in known if Pattern(str(pattern)).matches(name)]
            if not matches:
                raise self._no_site(str(pattern), known)
            named.update(matches)
        return [site for name, site in known.items() if name in named]

    def _check_kind(self, address: str, stack: Stack, kind: Kind, error: type[UnknownSite] | type[UnknownHead]) -> None:
        if (stack, kind) not in self.family.kinds:
            raise error(f"{address!r}: {self._decoder_only()}")

    def _decoder_only(self) -> str:
        there = ", ".join(".".join(pair) for pair in self.family.kinds)
        return (
            f"{self.model} is a decoder-only {self.family.name}, which has no encoder and no cross-attention. Its "
            f"attention is {there}."
        )

    def _no_site(self, name: str, known: Iterable[str]) -> UnknownSite:
        hint, parts = nearest(name, known), name.split(".")
        if not self.family.has_encoder and (parts[0] == "encoder" or {"cross", "resid_mid_cross"} & set(parts)):
            return UnknownSite(f"{name!r}: {self._decoder_only()}{hint}")
        if "*" in name:
            return UnknownSite(
                f"{name!r} matches no site of {self.model}.{hint} "
                "A pattern has as many parts as the address: 'decoder.cross.*.pattern', 'encoder.*.resid_post'."
            )
        try:
            site = Site.parse(name)
        except UnknownSite as error:
            return UnknownSite(f"{str(error).split(' Did you mean')[0]}{hint}")
        stack = site.stack
        if site.layer is None:
            out = f"decoder.{self.family.puts_out}"
            return UnknownSite(f"{name!r}: {self.model} puts out {self.family.puts_out}, at the site {out!r}.")
        return UnknownSite(f"{name!r}: {self.model} has {stack} layers 0-{self.n_layers[stack] - 1}.{hint}")
