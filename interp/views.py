"""An attention layer's tensors by head inside an nnsight trace, to be read and assigned.

A plain Chronos T5 keeps q, k, v and z flat, `[batch, pos, n_heads * d_head]`. These views show
them by head; what is assigned or edited in place goes back into the forward pass.

Source: nnsight 0.8's `eproperty`.
"""

from typing import Any

from nnsight.intervention.eproperty import eproperty
from torch import Tensor


def _by_head(key: str, doc: str) -> eproperty:
    """A view by head of a flat output `[batch, pos, n_heads * d_head]`."""

    def view(self: "HeadViews", value: Tensor) -> Tensor:
        return value.unflatten(-1, (self.n_heads, -1))

    def edited(_: "HeadViews", view: Tensor, raw: Tensor) -> Tensor:
        return view.flatten(-2)

    def assigned(_: "HeadViews", value: Tensor) -> Tensor:
        return value.flatten(-2)

    view.__doc__ = doc
    return eproperty(key=key)(view).transform(edited).postprocess(assigned)


class HeadViews:
    """The views of one attention layer, made by `Model.views`.

    `q`, `k`, `v`, `z` are `[batch, pos, head, d_head]`, `scores` and `pattern`
    `[batch, head, query, key]`. Touch them in that order: q, k, v, scores, pattern, z.
    """

    def __init__(self, envoy: Any, n_heads: int) -> None:
        self.path: str = envoy.path
        self.interleaver: Any = envoy.interleaver
        self.n_heads = n_heads

    q = _by_head("q.output", "Queries `[batch, pos, head, d_head]`.")
    k = _by_head("k.output", "Keys `[batch, pos, head, d_head]`.")
    v = _by_head("v.output", "Values `[batch, pos, head, d_head]`.")

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
        return flat.unflatten(-1, (self.n_heads, -1))

    @z.transform
    def z(self, view: Tensor, raw: Any) -> Any:
        return ((view.flatten(-2),), {})

    @z.postprocess
    def z(self, value: Tensor) -> Any:
        return ((value.flatten(-2),), {})
