"""Notebooks run from start to end, define nothing, and are kept without outputs.

Each runs twice over: as it stands (marked `long`), and with smaller settings, where every cell still runs and shows
the same things of fewer rows, draws and controls. The smaller settings run in one kernel, whose names are cleared
between notebooks: to start one and import everything takes longer than most of them.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.util import run_sync

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

SMALLER: dict[str, dict[str, str]] = {
    "02_head_ablation": {
        "counts=sorted({1, 2, count // 2 + 1, count}), controls=20": "counts=[1, count], controls=3",
        "counts=[count], controls=20": "counts=[count], controls=3",
        "controls=4": "controls=2",
        "values[period == 12]": "values[period == 12][:2]",
        "controls=5": "controls=1",
        "range(72, len(passengers) - 24 + 1, 12)": "range(72, len(passengers) - 24 + 1, 36)",
    },
    "04_multisine": {"draws=10": "draws=3"},
    "05_sweeps_and_questions": {
        "lengths = [2, 4, 10]": "lengths = [2, 10]",
        "repetitions=[2, 4, 8]": "repetitions=[2, 8]",
        "seeds=range(4), batch_size=40": "seeds=range(3), batch_size=10",
        "draws=20": "draws=5",
    },
    "06_circuit_discovery": {
        "batch_size=30": "batch_size=6",
        "integrated=5, sample=32": "integrated=2, sample=12",
        "edges=80": "edges=40",
        "controls=10": "controls=2",
        "batch_size=8, progress": "batch_size=4, progress",
    },
    "07_decoder_only": {"batch_size=50": "batch_size=20", "batch_size=15": "batch_size=5", "edges=30": "edges=15"},
    "08_chronos_bolt": {
        "coefficients=3, seed=1)": "coefficients=3, seed=1, batch_size=20)",
        "batch_size=30": "batch_size=8",
        "edges=40": "edges=15",
    },
}
"""By notebook: what is written there, and what is run instead."""


def read(path: Path, smaller: dict[str, str]) -> Any:
    """Return a notebook with other settings; each must be there to be replaced."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for setting, other in smaller.items():
        assert any(setting in cell.source for cell in code), f"{path.stem} has no {setting!r} any more"
        for cell in code:
            cell.source = cell.source.replace(setting, other)
    return notebook


def check(notebook: Any) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.execution_count for cell in code)


@pytest.fixture(scope="module")
def kernel() -> Iterator[AsyncKernelManager]:
    """One kernel for all: its first notebook starts it."""
    manager = AsyncKernelManager(kernel_name="python3")
    yield manager
    if manager.has_kernel:
        run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_smaller_settings(path: Path, tmp_path: Path, kernel: AsyncKernelManager) -> None:
    notebook = read(path, SMALLER.get(path.stem, {}))
    beginning = f"%reset -f\n%cd -q {tmp_path}\nassert 'interp' not in globals()"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(beginning))
    client = NotebookClient(notebook, timeout=300, km=kernel)
    client.execute()
    assert client.kc is not None
    client.kc.stop_channels()
    check(notebook)


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = read(path, {})
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    check(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_calls_the_packages_only(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs, "outputs are to be stripped: nbstripout"
            defined = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
            assert not defined


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
    assert {path.stem for path in NOTEBOOKS} > SMALLER.keys()
