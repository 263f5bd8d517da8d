"""The attention function whose scores and pattern pass through real modules.

1. `attach` puts two parameter-free `nn.Identity` modules on each attention module.
2. `hooked_attention` computes what Hugging Face's eager attention of T5 and of GPT-2 computes, in the
   same order, and sends the scores and the pattern through them.
3. `transformers` calls it by name, as registered below.

So scores (with position bias and mask) and pattern can be read and edited by forward hooks and by
nnsight alike, in a plain forward and in `generate`, and what is edited is what is used.

Source: `transformers.AttentionInterface`; the reference is `eager_attention_forward` of
`transformers.models.t5.modeling_t5` and `transformers.models.gpt2.modeling_gpt2`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "chronos_interp"
"""The name under which `transformers` knows the attention function."""


HOOKS = ("hook_scores", "hook_pattern")


def attach(attention: nn.Module) -> bool:
    """Give an attention module its hook points; False if it has them already."""
    if all(hasattr(attention, name) for name in HOOKS):
        return False
    for name in HOOKS:
        attention.add_module(name, nn.Identity())
    return True


def detach(attention: nn.Module) -> None:
    """Take the hook points off again."""
    for name in HOOKS:
        delattr(attention, name)


def hooked_attention(
    module: Any,
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch head key d_head"],
    value: Float[Tensor, "batch head key d_head"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "batch query head d_head"], Float[Tensor, "batch head query key"]]:
    """Compute eager attention, with scores and pattern sent through the module's hook points.

    Args:
        module: the attention module, with its hook points.
        query: `[batch, head, query, d_head]`.
        key: `[batch, head, key, d_head]`.
        value: `[batch, head, key, d_head]`.
        attention_mask: what is added to the scores, or None.
        scaling: factor of the scores; T5 gives 1, GPT-2 1/sqrt(d_head) unless its config says otherwise.
        dropout: probability, on the pattern, while training.
        position_bias: what is added to the scores before the mask, or None.

    Returns:
        The heads' outputs `[batch, query, head, d_head]` and the pattern
        `[batch, head, query, key]`.
    """
    factor = query.size(-1) ** -0.5 if scaling is None else scaling
    # The order of the operations is the reference's: float sums depend on it.
    scores = torch.matmul(query, key.transpose(2, 3)) * factor
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask
    scores = module.hook_scores(scores)
    pattern = module.hook_pattern(nn.functional.softmax(scores, dim=-1))
    used = nn.functional.dropout(pattern, p=dropout, training=module.training)
    return torch.matmul(used, value).transpose(1, 2).contiguous(), pattern


AttentionInterface.register(NAME, hooked_attention)
AttentionMaskInterface.register(NAME, eager_mask)
