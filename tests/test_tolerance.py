"""What rounding explains is close, anything more is not, and no test has a bare tolerance of its own."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.tolerance import LAYER, close, not_close, tolerance

COMPARE = ("approx", "allclose", "isclose", "assert_close", "assert_allclose", "assert_almost_equal")
FRAMES = ("assert_frame_equal", "assert_series_equal", "assert_index_equal")
FILES = [path for path in Path(__file__).parent.rglob("*.py") if path.name != "tolerance.py"]


def bare(source: str) -> list[str]:
    """Return the lines of a test that compare by a tolerance which neither `close` nor the test's subject gives.

    These are: a comparison by a library's default, and any number between 0 and 1e-4 in the source. Where such a
    number is not a tolerance, its line says so: `# no tolerance: ` and what it is.
    """
    lines, found = source.splitlines(), set[int]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            said = {keyword.arg for keyword in node.keywords}
            if (name in COMPARE and not said & {"atol", "rtol", "abs", "rel", None}) or (
                name in FRAMES and "check_exact" not in said
            ):
                found.add(node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < node.value < 1e-4:
            found.add(node.lineno)
    return [f"{line}: {lines[line - 1].strip()}" for line in sorted(found) if "# no tolerance: " not in lines[line - 1]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_tolerance_is_bare(path: Path) -> None:
    """Write `close(actual, expected, of=..., terms=...)` of tests/tolerance.py instead."""
    assert not bare(path.read_text())


@pytest.mark.parametrize(
    "line",
    [
        "assert x == pytest.approx(y)",
        "np.testing.assert_allclose(x, y)",
        "torch.testing.assert_close(x, y, atol=1e-6, rtol=0)",
        "assert abs(x - y) < 1e-5",
        "assert torch.allclose(x, y)",
        "within = {torch.float32: 2e-5}",
        "pd.testing.assert_frame_equal(x, y)",
    ],
)
def test_bare_tolerances_are_found(line: str) -> None:
    assert bare(line)
    assert not bare("close(x, y, of=3, terms=20)\nassert x == pytest.approx(y, abs=0.01)\nassert not x.any() < 0.0")
    assert not bare("epsilon = 1e-5  # no tolerance: the norm's own")


def test_the_formula() -> None:
    assert tolerance(dtype=torch.float64) == 4 * 2.0**-52
    assert tolerance(of=3, terms=25) == 4 * 2.0**-23 * 5 * 3
    np.testing.assert_array_equal(tolerance(of=[1, 2]), [2.0**-21, 2.0**-20])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_in_another_order_are_close(dtype: torch.dtype) -> None:
    """Forwards, backwards and by halves; the same sums less their largest term are not."""
    terms = torch.randn(300, 1000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    forwards, backwards = terms.cumsum(-1)[:, -1], terms.flip(-1).cumsum(-1)[:, -1]
    size = terms.abs().sum(-1).max()
    close(forwards, backwards, of=size, terms=1000, dtype=dtype)
    close(forwards.numpy(), terms.sum(-1).numpy(), of=size, terms=1000, dtype=dtype)
    not_close(forwards - terms.abs().max(-1).values / 10, backwards, of=size, terms=1, dtype=dtype)


@pytest.mark.parametrize("make", [torch.tensor, np.array, pd.Series, list], ids=["torch", "NumPy", "pandas", "list"])
def test_it_takes_numbers_however_they_are_held(make: object) -> None:
    assert callable(make)
    close(make([1.0, 2.0]), [1.0, 2.0 + 2.0**-21])
    with pytest.raises(AssertionError, match=r"1 of 2 numbers differ.*At \[1\]"):
        close(make([1.0, 2.0]), [1.0, 2.0 + 2.0**-17])
    close(make([1.0, 2.0]), [1.0, 2.0 + 2.0**-17], terms=LAYER)
    close({"a": 1.0, "b": make([1.0])[0]}, {"b": 1, "a": 1})


def test_what_was_computed_in_decides() -> None:
    """NumPy's doubles hold what a float32 model gave; half precision shows; double precision is asked for."""
    off = 1 + 2.0**-22
    close(np.array([off]), np.array([1.0]))
    with pytest.raises(AssertionError, match=r"torch\.float64"):
        close(np.array([off]), np.array([1.0]), dtype=torch.float64)
    close(torch.tensor([1.0078125], dtype=torch.bfloat16), torch.tensor([1.0]))


def test_each_element_its_own_magnitude() -> None:
    small, large = np.array([2.0**-10, 1.0]), np.array([2.0**-10 + 2.0**-25, 1.0])
    close(small, large)
    with pytest.raises(AssertionError, match=r"At \[0\]"):
        close(small, large, of=small)


def test_what_is_not_a_number_is_in_the_same_place() -> None:
    close([np.nan, -np.inf, 1.0], [np.nan, -np.inf, 1.0])
    for other in ([1.0, -np.inf, 1.0], [np.nan, np.inf, 1.0], [np.nan, -np.inf, np.nan]):
        with pytest.raises(AssertionError):
            close([np.nan, -np.inf, 1.0], other)
    masked = float(torch.finfo(torch.float32).min)
    with pytest.raises(AssertionError):
        close([masked, 1.0], [masked, 1.1])


@pytest.mark.parametrize(
    ("one", "other"), [([1.0, 2.0], [1.0]), ({"a": 1.0}, {"b": 1.0}), ([1 + 1j], [1 - 1j]), ([], [1.0, 2.0])]
)
def test_other_shapes_and_keys_are_not_close(one: object, other: object) -> None:
    if isinstance(one, list) and one and isinstance(one[0], complex):
        one, other = torch.tensor(one), torch.tensor(other)
    with pytest.raises(AssertionError):
        close(one, other)


def test_rounding_is_no_difference() -> None:
    with pytest.raises(AssertionError, match="rounding could make it"):
        not_close([1.0], [1 + 2.0**-18])
    not_close([1.0], [1.001])
