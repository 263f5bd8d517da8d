"""The house itself: imports go down only, no pickle, small files, true versions."""

import ast
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RANK = {"interp": 0, "probes": 1, "circuits": 2}
FILES = [path for package in RANK for path in (ROOT / package).rglob("*.py")]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_keeps_the_rules(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    names = imported(path)
    upward = [name for name in names if RANK.get(name, -1) > RANK[package]]
    assert not upward, f"imports upward: {upward}"
    assert not names & {"pickle", "dill", "cloudpickle"}
    assert "torch.load" not in path.read_text()
    assert path.read_text().count("\n") <= 320
    assert ast.get_docstring(ast.parse(path.read_text())) is not None


def test_public_names_have_docstrings() -> None:
    import circuits
    import interp
    import probes

    for module in (interp, interp.zoo, probes, probes.plots, circuits, circuits.plots):
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                assert thing.__doc__, f"{module.__name__}.{name}"


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^A-Za-z0-9_-]", text)[0].replace("-", "_") for text in project["dependencies"]}
    declared |= {"chronos", *RANK, *sys.stdlib_module_names}
    # kaleido brings its browser driver, whose errors it lets through.
    assert not {name for path in FILES for name in imported(path)} - declared - {"choreographer"}


def test_the_oldest_constraints_are_the_declared_lower_bounds() -> None:
    """Each lower bound is a promise: `make test-oldest` runs the suite with exactly these versions."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints-oldest.txt").read_text().splitlines() if "==" in line)
    declared = [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]]
    lowest = {r.name: next(s.version for s in r.specifier if s.operator in (">=", "==")) for r in declared}
    assert pins.keys() == lowest.keys()
    assert {name: Version(pin) for name, pin in pins.items()} == {n: Version(v) for n, v in lowest.items()}


def test_constraints_satisfy_the_declared_ranges() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    wanted = [Requirement(text) for text in project["dependencies"]]
    for requirement in wanted:
        assert requirement.name in pins, requirement
        assert requirement.specifier.contains(pins[requirement.name]), requirement
    assert version("chronos-interp") == project["version"]
    assert project["version"] in (ROOT / "CHANGELOG.md").read_text()
