"""One address for everything inside a model: heads, attention layers and sites.

decoder.cross.3.5         a head: stack . kind . layer . head
decoder.cross.3.pattern   a site of an attention layer
decoder.3.resid_pre       a site of a layer of a stack
decoder.ln_final          a site of a stack
decoder.cross.*.pattern   a pattern: any layer
decoder.cross.3.*         a pattern: all heads of a layer
"""

import re
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

from interp.errors import UnknownHead, UnknownSite, nearest

Stack = Literal["encoder", "decoder"]
Kind = Literal["self", "cross"]

STACKS: tuple[Stack, ...] = get_args(Stack)
KINDS: tuple[tuple[Stack, Kind], ...] = (("encoder", "self"), ("decoder", "self"), ("decoder", "cross"))
"""The three kinds of attention there are, in forward order."""

ATTENTION_SITES = ("q", "k", "v", "scores", "pattern", "z", "head_out", "attn_out")
LAYER_SITES = ("resid_pre", "resid_mid", "resid_mid_cross", "mlp_out", "resid_post")
STACK_SITES = ("ln_final", "logits", "quantiles")
SITE_NAMES = (*ATTENTION_SITES, *LAYER_SITES, *STACK_SITES)

_FORMS = "'decoder.cross.3.pattern' (attention), 'decoder.3.resid_pre' (a layer) or 'decoder.ln_final' (a stack)"


def _is_index(text: str) -> bool:
    return re.fullmatch(r"0|[1-9][0-9]{0,5}", text) is not None


@dataclass(frozen=True, order=True)
class Head:
    """The address of one attention head."""

    stack: Stack
    kind: Kind
    layer: int
    head: int

    def __post_init__(self) -> None:
        fits = type(self.layer) is type(self.head) is int and min(self.layer, self.head) >= 0
        if (self.stack, self.kind) not in KINDS or not fits:
            raise UnknownHead(
                f"{self}: no such kind of head. There are encoder.self, decoder.self and "
                "decoder.cross, layers and heads counted from 0, as in 'decoder.cross.3.5'."
            )

    def __str__(self) -> str:
        return f"{self.stack}.{self.kind}.{self.layer}.{self.head}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the address of a head: the inverse of `str`.

        Args:
            text: such as `decoder.cross.3.5`.

        Returns:
            The head.

        Raises:
            UnknownHead: the text is not an address of a head.
        """
        parts = text.split(".")
        if len(parts) != 4 or (parts[0], parts[1]) not in KINDS or not _is_index(parts[2]) or not _is_index(parts[3]):
            start = nearest(".".join(parts[:2]), [f"{s}.{k}" for s, k in KINDS])
            raise UnknownHead(
                f"{text!r} is not a head's address: stack.kind.layer.head, as in 'decoder.cross.3.5'.{start}"
            )
        return cls(cast(Stack, parts[0]), cast(Kind, parts[1]), int(parts[2]), int(parts[3]))

    @property
    def title(self) -> str:
        """`L3.H5`: for titles where stack and kind are given."""
        return f"L{self.layer}.H{self.head}"

    @property
    def attention(self) -> "AttentionLayer":
        """The attention layer of this head."""
        return AttentionLayer(self.stack, self.kind, self.layer)

    def site(self, name: str) -> "Site":
        """Return the site of this head's layer, such as `pattern`, in which the head is one row."""
        return Site(self.stack, self.kind, self.layer, name)


@dataclass(frozen=True)
class Site:
    """The address of one tensor in the forward pass."""

    stack: Stack
    kind: Kind | None
    layer: int | None
    name: str

    def __post_init__(self) -> None:
        if self.kind is not None:
            fits = (self.stack, self.kind) in KINDS and self.layer is not None
            fits = fits and self.name in ATTENTION_SITES
        elif self.layer is not None:
            fits = self.name in LAYER_SITES
            fits = fits and (self.stack == "decoder" or self.name != "resid_mid_cross")
        else:
            fits = self.name == "ln_final" or (self.stack == "decoder" and self.name in ("logits", "quantiles"))
        if not fits or self.stack not in STACKS or (self.layer or 0) < 0:
            raise UnknownSite(f"{self} is not a site: {_FORMS}.{nearest(self.name, SITE_NAMES)}")

    def __str__(self) -> str:
        layer = None if self.layer is None else str(self.layer)
        return ".".join(part for part in (self.stack, self.kind, layer, self.name) if part is not None)

    @property
    def attention(self) -> "AttentionLayer":
        """The attention layer of an attention site; other sites have none."""
        assert self.kind is not None
        assert self.layer is not None
        return AttentionLayer(self.stack, self.kind, self.layer)

    def beside(self, name: str) -> "Site":
        """Return another site of the same attention layer, as the pattern beside the scores."""
        return Site(self.stack, self.kind, self.layer, name)

    @property
    def is_square(self) -> bool:
        """Whether the tensor is `[..., query, key]`: scores or a pattern."""
        return self.name in ("scores", "pattern")

    @property
    def has_positions(self) -> bool:
        """Whether the tensor has an axis of positions: quantiles are `[batch, quantile, step]`."""
        return self.name != "quantiles"

    @property
    def position_stack(self) -> Stack:
        """The stack whose tokens the positions are, or the queries of a square."""
        across = self.kind == "cross" and self.name in ("k", "v")
        return "encoder" if self.stack == "encoder" or across else "decoder"

    @property
    def key_stack(self) -> Stack:
        """The stack whose tokens the keys of an attention site are."""
        return "encoder" if self.kind == "cross" or self.stack == "encoder" else "decoder"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the address of a site: the inverse of `str`.

        Args:
            text: such as `decoder.cross.3.pattern`, `encoder.0.resid_mid` or `decoder.logits`.

        Returns:
            The site.

        Raises:
            UnknownSite: the text is not an address of a site.
        """
        parts = text.split(".")
        stack = parts[0]
        if stack not in STACKS:
            raise UnknownSite(f"{text!r} is not a site: {_FORMS}.{nearest(stack, STACKS)}")
        if len(parts) == 4 and _is_index(parts[2]) and (stack, parts[1]) in KINDS:
            return cls(stack, cast(Kind, parts[1]), int(parts[2]), parts[3])
        if len(parts) == 3 and _is_index(parts[1]):
            return cls(stack, None, int(parts[1]), parts[2])
        if len(parts) == 2:
            return cls(stack, None, None, parts[1])
        raise UnknownSite(f"{text!r} is not a site: {_FORMS}.{nearest(parts[-1], SITE_NAMES)}")


@dataclass(frozen=True)
class AttentionLayer:
    """The address of one attention layer: `decoder.cross.3`."""

    stack: Stack
    kind: Kind
    layer: int

    def __post_init__(self) -> None:
        if (self.stack, self.kind) not in KINDS or type(self.layer) is not int or self.layer < 0:
            raise UnknownSite(f"{self} is not an attention layer: stack.kind.layer, as in 'decoder.cross.3'.")

    def __str__(self) -> str:
        return f"{self.stack}.{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the address of an attention layer: the inverse of `str`.

        Raises:
            UnknownSite: the text is not an address of an attention layer.
        """
        parts = text.split(".")
        if len(parts) != 3 or (parts[0], parts[1]) not in KINDS or not _is_index(parts[2]):
            raise UnknownSite(f"{text!r} is not an attention layer: stack.kind.layer, as in 'decoder.cross.3'.")
        return cls(cast(Stack, parts[0]), cast(Kind, parts[1]), int(parts[2]))


@dataclass(frozen=True)
class Pattern:
    """Addresses of one form, in which `*` stands for one part: `decoder.cross.1.*`, `decoder.*.mlp_out`."""

    text: str

    def __str__(self) -> str:
        return self.text

    def matches(self, address: object) -> bool:
        """Tell whether an address has this form."""
        own, parts = str(address).split("."), self.text.split(".")
        return len(own) == len(parts) and all(part in ("*", other) for other, part in zip(own, parts, strict=True))

    @property
    def of_layers(self) -> bool:
        """Whether it is of whole attention layers, as `decoder.cross.*`."""
        parts = self.text.split(".")
        return len(parts) == 3 and not _is_index(parts[1]) and (parts[2] == "*" or _is_index(parts[2]))


def as_head(head: object) -> Head:
    """Return the head that a value, an address or anything with an `address` (such as a scored head) stands for.

    Raises:
        UnknownHead: none of these, or a malformed address.
    """
    address = getattr(head, "address", head)
    return address if isinstance(address, Head) else Head.parse(str(address))


def parse_kind(text: str) -> tuple[Stack, Kind]:
    """Return the stack and kind that `decoder.cross` names.

    Raises:
        UnknownSite: there is no such kind of attention.
    """
    known: dict[str, tuple[Stack, Kind]] = {f"{stack}.{kind}": (stack, kind) for stack, kind in KINDS}
    if not isinstance(cast(Any, text), str) or text not in known:
        raise UnknownSite(f"{text!r}: there are {', '.join(known)}.{nearest(str(text), known)}")
    return known[text]


def parse_address(text: str) -> Head | AttentionLayer | Site:
    """Return what an address names: a head, a whole attention layer or a site.

    Args:
        text: such as `decoder.cross.3.5`, `decoder.cross.3` or `decoder.3.mlp_out`.

    Returns:
        The head, layer or site.

    Raises:
        UnknownHead, UnknownSite: the text is none of them.
    """
    parts = text.split(".")
    if len(parts) == 4 and parts[3].isdigit():
        return Head.parse(text)
    if len(parts) == 3 and parts[1] in ("self", "cross") and parts[2].isdigit():
        return AttentionLayer.parse(text)
    return Site.parse(text)
