"""The parts of a model that an edge joins: heads, MLPs, the two embeddings, and the logits.

decoder.cross.1.2        a head
decoder.1.mlp_out        an MLP, by the site it writes
encoder.0.resid_pre      a stack's embeddings, by the site they are
decoder.logits           the output, which only reads
"""

from interp import Head, InvalidInput, Site
from interp.names import STACKS, Stack, as_head, parse_address

Node = Head | Site

EMBEDDINGS: dict[Stack, Site] = {stack: Site(stack, None, 0, "resid_pre") for stack in STACKS}
LOGITS = Site("decoder", None, None, "logits")

_RANK = {"self": 0, "cross": 1, "mlp_out": 2}


def as_node(node: object) -> Node:
    """The part that is meant: by value, by address, or anything with an `address`, such as a scored head.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: an address of something that neither writes to a residual stream nor is the output.
    """
    found = node if isinstance(node, Head | Site) else getattr(node, "address", None)
    found = parse_address(str(node).strip()) if found is None else found
    if isinstance(found, Head):
        return as_head(found)
    if isinstance(found, Site) and (found in (*EMBEDDINGS.values(), LOGITS) or found.name == "mlp_out"):
        return found
    raise InvalidInput(
        f"{found} is no part that an edge can join: give a head ('decoder.cross.1.2'), an MLP ('decoder.1.mlp_out'), "
        "the embeddings ('encoder.0.resid_pre', 'decoder.0.resid_pre') or the output ('decoder.logits')."
    )


def depth(node: Node) -> tuple[int, int, int]:
    """When a part runs: stack, layer and sublayer. Embeddings come before all layers, the logits after."""
    stack = STACKS.index(node.stack)
    if node == LOGITS:
        return stack, 1_000_000, 0
    if node in EMBEDDINGS.values():
        return stack, -1, 0
    assert node.layer is not None
    return stack, node.layer, _RANK[node.kind if isinstance(node, Head) else node.name]


def forward_order(node: Node) -> tuple[int, ...]:
    """A key that sorts parts as the forward pass reaches them, heads of a layer by their number."""
    return (*depth(node), node.head if isinstance(node, Head) else 0)


def title(node: Node) -> str:
    """A part in words, for figures."""
    if isinstance(node, Head):
        return str(node)
    if node == LOGITS:
        return "logits"
    if node in EMBEDDINGS.values():
        return f"{node.stack} embedding"
    return f"{node.stack} MLP {node.layer}"
