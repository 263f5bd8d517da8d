"""Low-rank products against the dense formulas in float64."""

import math

import numpy as np
import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped

import interp
from interp.models.weights.factored import FactoredMatrix
from tests.tolerance import FORWARD, LAYER, ROUTINE, close, tolerance

sizes = st.integers(1, 9)


def factors(m: int, r: int, n: int, seed: int = 0, batch: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(*batch, *shape, generator=generator, dtype=torch.float64) for shape in ((m, r), (r, n))]
    return draw[0], draw[1]


def magnitude(*factors: torch.Tensor) -> float:
    """Return what no sum of a product of factors exceeds."""
    return math.prod(float(factor.norm()) for factor in factors)


@settings(max_examples=60, deadline=None)
@given(m=sizes, r=sizes, n=sizes, seed=st.integers(0, 1000))
def test_norm_spectrum_and_svd_equal_the_dense_ones(m: int, r: int, n: int, seed: int) -> None:
    A, B = factors(m, r, n, seed)
    low, dense, size = FactoredMatrix(A, B), A @ B, magnitude(A, B)
    assert low.shape == dense.shape
    close(low.full(), dense, of=size, terms=FORWARD, dtype=torch.float64)
    close(low.norm(), dense.norm(), of=size, terms=FORWARD, dtype=torch.float64)
    singular = torch.linalg.svdvals(dense)
    kept = min(len(singular), len(low.singular_values()))
    close(low.singular_values()[:kept], singular[:kept], of=size, terms=FORWARD, dtype=torch.float64)
    close(singular[kept:], 0, of=size, terms=FORWARD, dtype=torch.float64)
    U, S, V = low.svd()
    close(U @ torch.diag(S) @ V.mT, dense, of=size, terms=FORWARD, dtype=torch.float64)
    close(U.mT @ U, torch.eye(len(S), dtype=U.dtype), terms=FORWARD, dtype=torch.float64)
    rank = dense.norm() ** 2 / torch.linalg.matrix_norm(dense, 2) ** 2
    close(low.stable_rank(), rank, terms=FORWARD, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(m=sizes, r=sizes, seed=st.integers(0, 1000))
def test_eigenvalues_and_trace_equal_the_dense_ones(m: int, r: int, seed: int) -> None:
    A, B = factors(m, r, m, seed)
    low, dense = FactoredMatrix(A, B), torch.linalg.eigvals(A @ B)
    found = low.eigenvalues()
    assert len(found) == min(m, r)
    # As sets: sums of powers agree, whatever the order of equal absolute values.
    for power in (1, 2, 3):
        close(
            (found**power).sum(),
            (dense**power).sum(),
            of=magnitude(A, B) ** power,
            terms=ROUTINE,
            dtype=torch.float64,
        )
    assert bool((found.abs().diff() <= tolerance(of=magnitude(A, B), terms=ROUTINE, dtype=torch.float64)).all())
    close(low.trace(), (A @ B).trace(), of=magnitude(A, B), terms=FORWARD, dtype=torch.float64)
    score = dense.real.sum() / dense.abs().sum()
    close(low.eigenvalue_score(), score, of=1, terms=LAYER)  # in float32: eigenvalues can be ill-conditioned


@settings(max_examples=40, deadline=None)
@given(m=sizes, r=sizes, n=sizes, s=sizes, p=sizes)
def test_products_and_transposes(m: int, r: int, n: int, s: int, p: int) -> None:
    (A, B), (C, D) = factors(m, r, n), factors(n, s, p, 1)
    first, second = FactoredMatrix(A, B), FactoredMatrix(C, D)
    product = first @ second
    assert product.A.shape[-1] == min(r, s)
    close(product.full(), A @ B @ C @ D, of=magnitude(A, B, C, D), terms=FORWARD, dtype=torch.float64)
    close(first.T.full(), (A @ B).mT, of=magnitude(A, B), terms=FORWARD, dtype=torch.float64)
    close((first @ (C @ D)).full(), A @ B @ C @ D, of=magnitude(A, B, C, D), terms=FORWARD, dtype=torch.float64)
    close(
        ((A @ B).mT @ first).full(), (A @ B).mT @ (A @ B), of=magnitude(A, B, A, B), terms=FORWARD, dtype=torch.float64
    )


def test_a_stack_of_products_is_worked_out_one_by_one() -> None:
    A, B = factors(7, 3, 7, batch=(2, 4))
    stacked = FactoredMatrix(A, B)
    assert stacked.shape == (2, 4, 7, 7)
    for at in ((0, 0), (1, 3)):
        one = FactoredMatrix(A[at], B[at])
        for name in ("norm", "trace", "stable_rank", "eigenvalue_score", "singular_values"):
            close(getattr(stacked, name)()[at], getattr(one, name)(), terms=FORWARD, dtype=torch.float64)


def test_float32_factors_are_worked_out_in_float64() -> None:
    A, B = (factor.float() for factor in factors(40, 5, 40))
    exact = FactoredMatrix(A.double(), B.double())
    assert FactoredMatrix(A, B).full().dtype == torch.float32
    assert float((FactoredMatrix(A, B).norm() - exact.norm()).abs()) == 0


def test_scores_by_hand() -> None:
    """Eigenvalues 3 and -1: (3 - 1) / 4; squares 9 and 1: stable rank 10 / 9. A rotation's cancel."""
    diagonal = FactoredMatrix(torch.diag(torch.tensor([3.0, -1.0])), torch.eye(2))
    close(float(diagonal.eigenvalue_score()), 0.5)
    close(float(diagonal.stable_rank()), 10 / 9)
    rotation = FactoredMatrix(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), torch.eye(2))
    close(float(rotation.eigenvalue_score()), 0, of=1, terms=FORWARD, dtype=torch.float64)
    zero = FactoredMatrix(torch.zeros(4, 2), torch.zeros(2, 4))
    assert torch.isnan(zero.stable_rank())
    assert torch.isnan(zero.eigenvalue_score())


def test_shapes_hold() -> None:
    A, B = factors(6, 2, 5, batch=(3,))
    low = FactoredMatrix(A, B)
    for name in ("full", "norm", "singular_values", "svd", "stable_rank"):
        jaxtyped(getattr(FactoredMatrix, name), typechecker=beartype)(low)


@pytest.mark.parametrize(
    ("A", "B", "text"),
    [
        (torch.ones(3, 2), torch.ones(3, 2), "last axis of A"),
        (torch.ones(3), torch.ones(3, 2), "last axis of A"),
        (torch.ones(3, 2), torch.ones(2, 3).double(), "one floating-point dtype"),
        (torch.ones(3, 2).long(), torch.ones(2, 3).long(), "one floating-point dtype"),
        (torch.full((3, 2), torch.nan), torch.ones(2, 3), "NaN"),
        (torch.full((3, 2), torch.inf), torch.ones(2, 3), "infinite"),
        (torch.ones(3, 0), torch.ones(0, 3), "last axis of A"),
        (torch.ones(2, 3, 2), torch.ones(5, 2, 3), "axes in front"),
        (np.ones((3, 2)), torch.ones(2, 3), "must be tensors"),
    ],
)
def test_factors_that_do_not_fit(A: torch.Tensor, B: torch.Tensor, text: str) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=text):
        FactoredMatrix(A, B)


def test_half_precision_is_multiplied_in_single() -> None:
    A, B = (factor.bfloat16() for factor in factors(30, 4, 30))
    product = FactoredMatrix(A, B) @ FactoredMatrix(A, B)
    assert product.A.dtype == torch.float32
    exact = A.double() @ B.double() @ A.double() @ B.double()
    close(product.norm(), exact.norm(), terms=LAYER)
    mixed = FactoredMatrix(A.float(), B.float()) @ torch.ones(30, 2, dtype=torch.float64)
    assert mixed.B.dtype == torch.float64


def test_finite_factors_whose_sum_overflows() -> None:
    big = torch.full((300, 2), 60000.0, dtype=torch.float16)
    assert FactoredMatrix(big, big.T).shape == (300, 300)


def test_what_a_product_that_is_not_square_lacks() -> None:
    A, B = factors(3, 2, 4)
    for name in ("eigenvalues", "trace", "eigenvalue_score"):
        with pytest.raises(interp.errors.InvalidInput, match="not square"):
            getattr(FactoredMatrix(A, B), name)()
    with pytest.raises(interp.errors.InvalidInput, match="axes between them"):
        _ = FactoredMatrix(A, B) @ FactoredMatrix(A, B)
    with pytest.raises(interp.errors.InvalidInput, match="axes between them"):
        _ = torch.ones(2, 2, dtype=torch.float64) @ FactoredMatrix(A, B)
    for wrong in (torch.ones(4, dtype=torch.float64), np.ones((4, 2)), 3.0, None):
        with pytest.raises(interp.errors.InvalidInput, match="x\\[:, None\\]"):
            _ = FactoredMatrix(A, B) @ wrong  # type: ignore[operator]
    with pytest.raises(interp.errors.InvalidInput, match="needs a FactoredMatrix"):
        _ = np.ones((2, 3)) @ FactoredMatrix(A, B)  # type: ignore[operator]
