"""Low-rank products, worked with through their small side.

A head's circuits are `[d_model, d_model]` matrices of rank d_head: W_Q W_K^T and W_V W_O. As two factors
A `[m, r]` and B `[r, n]` their norm, spectrum and trace come from r x r matrices:

1. A = Q_a R_a and B^T = Q_b R_b, so A B = Q_a (R_a R_b^T) Q_b^T has the singular values of the small core.
2. The non-zero eigenvalues of A B are those of B A.

Source: Golub & Van Loan, "Matrix Computations"; the use for heads is Elhage et al. 2021, "A Mathematical
Framework for Transformer Circuits".
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from interp.errors import InvalidInput


@dataclass(frozen=True, eq=False, repr=False)
class FactoredMatrix:
    """The product A @ B of `[..., m, r]` and `[..., r, n]`, never formed unless asked.

    Norms, traces and spectra are computed in float64, products in float32 at least.
    """

    A: Float[Tensor, "*batch m r"]
    B: Float[Tensor, "*batch r n"]

    # NumPy's own @ would take the product apart element by element.
    __array_ufunc__ = None

    def __post_init__(self) -> None:
        for name in ("A", "B"):
            if not isinstance(cast(object, getattr(self, name)), Tensor):
                raise InvalidInput(f"{name} is a {type(getattr(self, name)).__name__}: factors must be tensors.")
        fits = min(self.A.ndim, self.B.ndim) >= 2 and self.A.shape[-1] == self.B.shape[-2] > 0
        fits = fits and all(
            m in (1, n) or n == 1 for m, n in zip(self.A.shape[-3::-1], self.B.shape[-3::-1], strict=False)
        )
        if not fits:
            raise InvalidInput(
                f"factors of {list(self.A.shape)} and {list(self.B.shape)}: the last axis of A must be the last but "
                "one of B, and the axes in front must be the same."
            )
        if self.A.dtype != self.B.dtype or not self.A.is_floating_point():
            raise InvalidInput(f"factors of {self.A.dtype} and {self.B.dtype}: give two of one floating-point dtype.")
        # The sums are many times faster; they can overflow where every number is finite.
        if not bool(self.A.sum().isfinite() and self.B.sum().isfinite()) and not bool(
            self.A.isfinite().all() and self.B.isfinite().all()
        ):
            raise InvalidInput("a factor holds NaN or infinite values: nothing can be computed from it.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, rank at most {self.A.shape[-1]}, {self.A.dtype})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the product."""
        return (*torch.broadcast_shapes(self.A.shape[:-2], self.B.shape[:-2]), self.A.shape[-2], self.B.shape[-1])

    @property
    def T(self) -> "FactoredMatrix":
        """The transposed product."""
        return FactoredMatrix(self.B.mT, self.A.mT)

    def __matmul__(self, other: "FactoredMatrix | Tensor") -> "FactoredMatrix":
        """Multiply with another matrix on the right; the narrower waist is kept."""
        right = self._beside(other, -2)
        A, B = self.A.to(right.dtype), self.B.to(right.dtype)
        if not isinstance(other, FactoredMatrix):
            return FactoredMatrix(A, B @ right)
        waist, after = B @ right, other.B.to(right.dtype)
        if waist.shape[-2] <= waist.shape[-1]:
            return FactoredMatrix(A, waist @ after)
        return FactoredMatrix(A @ waist, after)

    def __rmatmul__(self, other: Tensor) -> "FactoredMatrix":
        """Multiply with a matrix on the left."""
        left = self._beside(other, -1)
        return FactoredMatrix(left @ self.A.to(left.dtype), self.B.to(left.dtype))

    def _beside(self, other: "FactoredMatrix | Tensor", axis: int) -> Tensor:
        """Return the other side of a product in the dtype to take it in: half precision would lose digits."""
        if not isinstance(cast(object, other), FactoredMatrix | Tensor) or len(other.shape) < 2:
            raise InvalidInput(
                "a product needs a FactoredMatrix or a tensor of two axes or more; for a vector, x[:, None]."
            )
        if self.shape[-3 - axis] != other.shape[axis]:
            sides = (self.shape, other.shape) if axis == -2 else (other.shape, self.shape)
            raise InvalidInput(f"{list(sides[0])} @ {list(sides[1])}: the axes between them differ.")
        side = other.A if isinstance(other, FactoredMatrix) else other
        return side.to(torch.promote_types(torch.promote_types(side.dtype, self.A.dtype), torch.float32))

    def full(self) -> Float[Tensor, "*batch m n"]:
        """Return the product itself, in the factors' dtype."""
        return self.A @ self.B

    def _core(self) -> Tensor:
        left, right = (torch.linalg.qr(factor.double(), mode="r").R for factor in (self.A, self.B.mT))
        return left @ right.mT

    def norm(self) -> Float[Tensor, "*batch"]:
        """Return the Frobenius norm."""
        return torch.linalg.matrix_norm(self._core())

    def singular_values(self) -> Float[Tensor, "*batch rank"]:
        """Return the singular values, largest first: at most r, the others being zero."""
        return torch.linalg.svdvals(self._core())

    def svd(
        self,
    ) -> tuple[Float[Tensor, "*batch m rank"], Float[Tensor, "*batch rank"], Float[Tensor, "*batch n rank"]]:
        """Return the reduced singular value decomposition: U, S, V with `U @ diag(S) @ V.mT` the product.

        Returns:
            Left vectors as columns, singular values largest first, right vectors as columns; float64.
        """
        left, right = torch.linalg.qr(self.A.double()), torch.linalg.qr(self.B.mT.double())
        U, S, Vh = torch.linalg.svd(left.R @ right.R.mT, full_matrices=False)
        return left.Q @ U, S, right.Q @ Vh.mT

    def eigenvalues(self) -> Complex[Tensor, "*batch rank"]:
        """Return the eigenvalues that can be other than zero, the largest in absolute value first.

        Raises:
            InvalidInput: the product is not square.
        """
        self._square("eigenvalues")
        narrow = self.A.shape[-1] <= self.A.shape[-2]
        small = self.B.double() @ self.A.double() if narrow else self.A.double() @ self.B.double()
        values = torch.linalg.eigvals(small)
        return values.gather(-1, values.abs().argsort(-1, descending=True))

    def trace(self) -> Float[Tensor, "*batch"]:
        """Return the sum of the diagonal, which is that of the eigenvalues.

        Raises:
            InvalidInput: the product is not square.
        """
        self._square("trace")
        return (self.A.double() * self.B.mT.double()).sum((-2, -1))

    def eigenvalue_score(self) -> Float[Tensor, "*batch"]:
        """Return Re(sum of eigenvalues) / sum of absolute values: 1 where all are positive, -1 where negative.

        Returns:
            The score, NaN for a zero matrix: copying for an OV circuit, matching for a QK circuit.

        Raises:
            InvalidInput: the product is not square.

        Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
        """
        values = self.eigenvalues()
        return values.real.sum(-1) / values.abs().sum(-1)

    def less_row_means(self) -> "FactoredMatrix":
        """Return the product less the mean of each row: what a softmax over the row sees of it."""
        return FactoredMatrix(self.A, self.B - self.B.mean(-1, keepdim=True))

    def stable_rank(self) -> Float[Tensor, "*batch"]:
        """Return |M|_F^2 / |M|_2^2: how many directions it uses, from 1 to the rank; NaN for a zero matrix."""
        values = self.singular_values().square()
        return values.sum(-1) / values.amax(-1)

    def _square(self, what: str) -> None:
        if self.shape[-2] != self.shape[-1]:
            raise InvalidInput(f"a product of {list(self.shape)} has no {what}: it is not square.")
