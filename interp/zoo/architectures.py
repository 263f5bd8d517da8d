"""The architectures that a recipe can choose, and what training asks of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from interp.zoo import fresh_gpt2 as gpt2
from interp.zoo import fresh_t5 as t5
from interp.zoo.monitor import causal_snapshot, induction_snapshot
from interp.zoo.recipe import Recipe


@dataclass(frozen=True)
class Architecture:
    """What differs between families when a model is trained.

    Attributes:
        build: a model of a recipe, its weights drawn from torch's global generator.
        late_heads: the weights by which heads write, and where those lie that join after the motifs.
        snapshot: what is watched at a step, through Hugging Face's own `output_attentions`.
    """

    build: Callable[[Recipe], PreTrainedModel]
    late_heads: Callable[[nn.Module, Recipe], Iterator[tuple[nn.Parameter, tuple[slice, slice]]]]
    snapshot: Callable[[Any], dict[str, Any]]


ARCHITECTURES = {
    "t5": Architecture(t5.build, t5.late_heads, induction_snapshot),
    "gpt2": Architecture(gpt2.build, gpt2.late_heads, causal_snapshot),
}
"""By the name that a recipe's `architecture` uses."""
