"""An attention layer's tensors by head inside an nnsight trace, to be read and assigned.

A plain Chronos T5 keeps q, k, v and z flat, `[batch, pos, n_heads * d_head]`. These views show
them by head; what is assigned or edited in place goes back into the forward pass.

Source: nnsight 0.8's `eproperty`.
"""

from typing import Any

from nnsight.intervention.eproperty import eproperty
from torch import Tensor


class HeadViews:
    """The views of one attention layer, made by `Model.views`.

    `q`, `k`, `v`, `z` are `[batch, pos, head, d_head]`, `scores` and `pattern`
    `[batch, head, query, key]`. Touch them in that order: q, k, v, scores, pattern, z.
    """

    def __init__(self, envoy: Any, n_heads: int) -> None:
        self.path: str = envoy.path
        self.interleaver: Any = envoy.interleaver
        self.n_heads = n_heads

    def _by_head(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (self.n_heads, -1))

    @eproperty(key="q.output")
    def q(self, value: Tensor) -> Tensor:
        """Queries `[batch, pos, head, d_head]`."""
        return self._by_head(value)

    @q.transform
    def q(self, view: Tensor, raw: Tensor) -> Tensor:
        return view.flatten(-2)

    @q.postprocess
    def q(self, value: Tensor) -> Tensor:
        return value.flatten(-2)

    @eproperty(key="k.output")
    def k(self, value: Tensor) -> Tensor:
        """Keys `[batch, pos, head, d_head]`."""
        return self._by_head(value)

    @k.transform
    def k(self, view: Tensor, raw: Tensor) -> Tensor:
        return view.flatten(-2)

    @k.postprocess
    def k(self, value: Tensor) -> Tensor:
        return value.flatten(-2)

    @eproperty(key="v.output")
    def v(self, value: Tensor) -> Tensor:
        """Values `[batch, pos, head, d_head]`."""
        return self._by_head(value)

    @v.transform
    def v(self, view: Tensor, raw: Tensor) -> Tensor:
        return view.flatten(-2)

    @v.postprocess
    def v(self, value: Tensor) -> Tensor:
        return value.flatten(-2)

    @eproperty(key="hook_scores.output")
    def scores(self, value: Tensor) -> Tensor:
        """Scores before the softmax, with bias and mask, `[batch, head, query, key]`."""
        return value

    @eproperty(key="hook_pattern.output")
    def pattern(self, value: Tensor) -> Tensor:
        """The attention pattern `[batch, head, query, key]`."""
        return value

    @eproperty(key="o.input")
    def z(self, value: Any) -> Tensor:
        """The heads' outputs before W_O, `[batch, pos, head, d_head]`."""
        (flat,), _ = value
        return self._by_head(flat)

    @z.transform
    def z(self, view: Tensor, raw: Any) -> Any:
        return ((view.flatten(-2),), {})

    @z.postprocess
    def z(self, value: Tensor) -> Any:
        return ((value.flatten(-2),), {})
