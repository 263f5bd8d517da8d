"""What an address names in a model, or why it names nothing: the errors say what is there instead."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from interp.errors import UnknownHead, UnknownSite, nearest
from interp.names import AttentionLayer, Head, Kind, Site, Stack, as_head, parse_kind

if TYPE_CHECKING:
    from interp.models.model import Model


def kind_of(model: "Model", kind: str) -> tuple[Stack, Kind]:
    """The stack and kind of attention that a text names, if the model has it.

    Args:
        model: the model.
        kind: such as `decoder.cross`.

    Returns:
        The two.

    Raises:
        UnknownSite: there is no such kind, or not in this model.
    """
    try:
        found = parse_kind(kind)
    except UnknownSite:
        if model.family.has_encoder:
            raise
        raise UnknownSite(f"{kind!r}: {_decoder_only(model)}") from None
    _check_there(model, kind, *found, UnknownSite)
    return found


def _check_there(
    model: "Model", asked: str, stack: Stack, kind: Kind, error: type[UnknownSite] | type[UnknownHead]
) -> None:
    if (stack, kind) not in model.family.kinds:
        raise error(f"{asked!r}: {_decoder_only(model)}")


def _decoder_only(model: "Model") -> str:
    there = ", ".join(".".join(pair) for pair in model.family.kinds)
    return (
        f"{model.name} is a decoder-only {model.family.name}, which has no encoder and no cross-attention. Its "
        f"attention is {there}."
    )


def head_of(model: "Model", head: Head | str) -> Head:
    """A head of a model.

    Args:
        model: the model.
        head: by value, by its address, or as scored.

    Returns:
        The head.

    Raises:
        UnknownHead: the address is malformed, of a kind that the model does not have, or a layer or head is out of
            range.
    """
    try:
        found = as_head(head)
    except UnknownHead as error:
        plain = str(error).split(" Did you mean")[0]
        raise UnknownHead(f"{plain}{nearest(str(head), map(str, model.heads()))}") from None
    _check_there(model, str(found), found.stack, found.kind, UnknownHead)
    layers = model.n_layers[found.stack]
    if found.layer >= layers or found.head >= model.n_heads:
        close = Head(found.stack, found.kind, min(found.layer, layers - 1), min(found.head, model.n_heads - 1))
        raise UnknownHead(
            f"{str(found)!r}: {model.name} has {found.stack} layers 0-{layers - 1} and heads "
            f"0-{model.n_heads - 1}. Did you mean {str(close)!r}?"
        )
    return found


def layer_of(model: "Model", layer: AttentionLayer | str) -> AttentionLayer:
    """An attention layer of a model.

    Args:
        model: the model.
        layer: by value or by its address, such as `decoder.cross.3`.

    Returns:
        The attention layer.

    Raises:
        UnknownSite: there is no such layer.
    """
    at = layer if isinstance(layer, AttentionLayer) else AttentionLayer.parse(str(layer))
    _check_there(model, str(at), at.stack, at.kind, UnknownSite)
    if at.layer >= model.n_layers[at.stack]:
        last = model.n_layers[at.stack] - 1
        close = AttentionLayer(at.stack, at.kind, last)
        raise UnknownSite(f"{str(at)!r}: {model.name} has {at.stack} layers 0-{last}. Did you mean {str(close)!r}?")
    return at


def sites_of(model: "Model", patterns: Sequence[str | Site]) -> list[Site]:
    """The sites that addresses or patterns name, in forward order, each once.

    Args:
        model: the model.
        patterns: such as `decoder.cross.*.pattern`, where `*` stands for one part of the address; none gives all
            sites.

    Returns:
        The sites.

    Raises:
        UnknownSite: a name or pattern matches no site of the model.
    """
    known = model.known_sites
    if not patterns:
        return list(known.values())
    wanted: set[str] = set()
    for pattern in patterns:
        found = [name for name in known if _matches(name, str(pattern))]
        if not found:
            raise _no_site(model, str(pattern), known)
        wanted.update(found)
    return [site for name, site in known.items() if name in wanted]


def _no_site(model: "Model", name: str, known: Iterable[str]) -> UnknownSite:
    hint, parts = nearest(name, known), name.split(".")
    if not model.family.has_encoder and (parts[0] == "encoder" or {"cross", "resid_mid_cross"} & set(parts)):
        return UnknownSite(f"{name!r}: {_decoder_only(model)}{hint}")
    if "*" in name:
        return UnknownSite(
            f"{name!r} matches no site of {model.name}.{hint} "
            "A pattern has as many parts as the address: 'decoder.cross.*.pattern', 'encoder.*.resid_post'."
        )
    try:
        stack = Site.parse(name).stack
    except UnknownSite as error:
        return UnknownSite(f"{str(error).split(' Did you mean')[0]}{hint}")
    return UnknownSite(f"{name!r}: {model.name} has {stack} layers 0-{model.n_layers[stack] - 1}.{hint}")


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(w in ("*", p) for p, w in zip(parts, wanted, strict=True))
