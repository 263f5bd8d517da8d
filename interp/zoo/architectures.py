"""The architectures that a recipe can choose, and what training asks of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.zoo import fresh_bolt as bolt
from interp.zoo import fresh_gpt2 as gpt2
from interp.zoo import fresh_t5 as t5
from interp.zoo.monitor import causal_snapshot, induction_snapshot, patch_snapshot
from interp.zoo.recipe import Recipe


@dataclass(frozen=True)
class Architecture:
    """What differs between families when a model is trained.

    Attributes:
        build: a model of a recipe, its weights drawn from torch's global generator.
        late_heads: the weights by which heads write, and where those lie that join after the motifs.
        loss: of a batch of the recipe, what goes in and what follows it.
        snapshot: what is watched at a step, through Hugging Face's own `output_attentions`.
    """

    build: Callable[[Recipe], PreTrainedModel]
    late_heads: Callable[[nn.Module, Recipe], Iterator[tuple[nn.Parameter, tuple[slice, slice]]]]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    snapshot: Callable[[Any], dict[str, Any]]


def token_loss(model: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of a model of tokens."""
    return model(input_ids=ids, labels=labels, use_cache=False).loss


ARCHITECTURES = {
    "t5": Architecture(t5.build, t5.late_heads, token_loss, induction_snapshot),
    "gpt2": Architecture(gpt2.build, gpt2.late_heads, token_loss, causal_snapshot),
    "bolt": Architecture(bolt.build, bolt.late_heads, bolt.loss, patch_snapshot),
}
"""By the name that a recipe's `architecture` uses."""
