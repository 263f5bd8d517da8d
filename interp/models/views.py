"""An attention layer's tensors by head inside an nnsight trace, to be read and assigned.

A plain Hugging Face model keeps q, k, v and z flat, `[batch, pos, n_heads * d_head]`, some side by side in one
tensor. These views show them by head; what is assigned, or edited in place, goes back into the forward pass.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from interp.models.families.family import Point, part_of


class HeadViews:
    """The views of one attention layer, made by `Model.views`.

    `q`, `k`, `v`, `z` are `[batch, pos, head, d_head]`, `scores` and `pattern`
    `[batch, head, query, key]`. Touch them in that order: q, k, v, scores, pattern, z.
    """

    def __init__(self, envoy: Callable[[str], Any], points: dict[str, Point], n_heads: int) -> None:
        self._envoy, self._points, self._n_heads = envoy, points, n_heads

    def _read(self, name: str) -> Tensor:
        point = self._points[name]
        raw: Tensor = getattr(self._envoy(point.path), point.port)
        if point.layout != "heads":
            return raw
        return part_of(point, raw).unflatten(-1, (self._n_heads, -1))

    def _write(self, name: str, value: Tensor) -> None:
        point = self._points[name]
        whole, envoy = value, self._envoy(point.path)
        if point.layout == "heads":
            whole = value.flatten(-2)
            if point.part[1] > 1:
                raw: Tensor = getattr(envoy, point.port)
                flat, whole = whole, raw.clone()
                part_of(point, whole).copy_(flat)
        setattr(envoy, point.port, whole)

    @property
    def q(self) -> Tensor:
        """Queries `[batch, pos, head, d_head]`."""
        return self._read("q")

    @q.setter
    def q(self, value: Tensor) -> None:
        self._write("q", value)

    @property
    def k(self) -> Tensor:
        """Keys `[batch, pos, head, d_head]`."""
        return self._read("k")

    @k.setter
    def k(self, value: Tensor) -> None:
        self._write("k", value)

    @property
    def v(self) -> Tensor:
        """Values `[batch, pos, head, d_head]`."""
        return self._read("v")

    @v.setter
    def v(self, value: Tensor) -> None:
        self._write("v", value)

    @property
    def scores(self) -> Tensor:
        """Scores before the softmax, with bias and mask, `[batch, head, query, key]`."""
        return self._read("scores")

    @scores.setter
    def scores(self, value: Tensor) -> None:
        self._write("scores", value)

    @property
    def pattern(self) -> Tensor:
        """The attention pattern `[batch, head, query, key]`."""
        return self._read("pattern")

    @pattern.setter
    def pattern(self, value: Tensor) -> None:
        self._write("pattern", value)

    @property
    def z(self) -> Tensor:
        """The heads' outputs before W_O, `[batch, pos, head, d_head]`."""
        return self._read("z")

    @z.setter
    def z(self, value: Tensor) -> None:
        self._write("z", value)
