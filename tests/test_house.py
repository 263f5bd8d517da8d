"""The house itself: imports go down only, no pickle, small files, true versions."""

import ast
import importlib
import inspect
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RANK = {"interp": 0, "probes": 1, "circuits": 2}
FILES = [path for package in RANK for path in (ROOT / package).rglob("*.py")]
VERBS = (
    "Ablate Add Answer Apply Attach Average Build Capture Check Choose Collect Compare Compose Compute Copy Count "
    "Cut Decorate Describe Divide Draw Enter Escape Estimate Exchange Factor Fill Find Flatten Forecast Format "
    "Gather Give Group Hash Hold Iterate Join Lay Leave Let List Make Map Mark Measure Merge Move Multiply Name "
    "Note Open Parse Patch Place Print Project Prune Put Raise Read Remove Repeat Replace Return Rotate Run Say "
    "Score Show Shuffle Silence Sort Split Start Sum Summarize Tabulate Take Tell Test Tokenize Train Turn Warn Write "
    "Yield Zero"
)
"""With these docstrings of functions begin; a new verb is added here."""


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
    assert path.read_text().count("\n") <= 450
    assert ast.get_docstring(ast.parse(path.read_text())) is not None


def modules_imported(path: Path) -> set[str]:
    """The modules of the house that a file imports, anywhere in it and for type checkers too, by dotted name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return (names & {dotted(p) for p in FILES}) - {dotted(path)}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_files_import_each_other_in_a_circle() -> None:
    imports = {dotted(path): modules_imported(path) for path in FILES if path.name != "__init__.py"}
    left = {name: found & imports.keys() for name, found in imports.items()}
    while free := {name for name, found in left.items() if not found & left.keys()}:
        left = {name: found for name, found in left.items() if name not in free}
    assert not left, f"in circles, or above one: {sorted(left)}"


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    folders = {path.parent for path in FILES}
    for folder in folders:
        files = [path for path in folder.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
        entries = [*files, *(path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__")]
        assert len(entries) <= 15, f"{folder.relative_to(ROOT)}: {len(entries)} entries"


def test_no_two_files_share_a_name() -> None:
    """Figures and pages are named after what they are of."""
    named = [p for p in FILES if not {"plots", "reports"} & set(p.parts) and not p.name.startswith("__")]
    names = [path.name for path in named]
    assert not {name for name in names if names.count(name) > 1}


def test_no_face_exports_a_function_under_the_name_of_its_own_module() -> None:
    for face in (path for path in FILES if path.name == "__init__.py"):
        package = importlib.import_module(dotted(face))
        for name in getattr(package, "__all__", []):
            beside = (face.parent / f"{name}.py").exists() or (face.parent / name).is_dir()
            assert not beside or inspect.ismodule(getattr(package, name)), f"{dotted(face)}.{name}"


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_function_is_described_by_a_verb(path: Path) -> None:
    """A property is a noun; what is called does something."""
    for function in functions(path):
        nouns = [decorator for decorator in function.decorator_list if "property" in ast.unparse(decorator)]
        text = None if nouns else ast.get_docstring(function)
        assert text is None or text.split()[0].strip(",") in VERBS.split(), f"{path.name}, {function.name}: {text}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_name_says_what_it_holds(path: Path) -> None:
    nothing = {"found", "made", "given", "asked", "kept", "told", "taken"}
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Name) or node.id not in nothing, f"{path.name}:{node.lineno}: {node.id}"
        assert not isinstance(node, ast.arg) or node.arg not in nothing, f"{path.name}:{node.lineno}: {node.arg}"


def test_functions_are_short() -> None:
    """Rarely over 60 lines without the docstring, and then a report or a figure, one step after the other."""
    long = []
    for path in FILES:
        for function in functions(path):
            text = function.body[0] if ast.get_docstring(function) else None
            described = 0 if text is None else (text.end_lineno or 0) - text.lineno + 1
            lines = (function.end_lineno or 0) - function.lineno + 1 - described
            assert lines <= 115, f"{path.relative_to(ROOT)}, {function.name}: {lines} lines"
            long += [function.name] * (lines > 60)
    assert len(long) <= 15, long


def test_there_is_one_save_and_one_load() -> None:
    """`Report.save` writes a folder, and `interp.load` opens a model; all results share one of each."""
    places = {name: {dotted(p) for p in FILES for f in functions(p) if f.name == name} for name in ("save", "load")}
    assert places == {
        "save": {"interp.results.result", "interp.output.report"},
        "load": {"interp.results.result", "interp.models.opening"},
    }


def test_figures_are_drawn_by_reports_and_users_only() -> None:
    for path in FILES:
        if {"plots", "reports"} & set(path.parts) or path.name == "__init__.py":
            continue
        drawn = {name for name in modules_imported(path) if "plots" in name.split(".")}
        assert not drawn, f"{path.relative_to(ROOT)} imports {drawn}"


def test_public_names_have_docstrings() -> None:
    import circuits
    import interp
    import probes

    for module in (interp, interp.zoo, probes, probes.plots, circuits, circuits.plots):
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                assert thing.__doc__, f"{module.__name__}.{name}"


def test_the_faces_are_small() -> None:
    """A stranger reads them whole: errors and result classes are reached by other ways."""
    faces = [
        importlib.import_module(name) for name in ("interp", "probes", "circuits", "probes.plots", "circuits.plots")
    ]
    assert sum(len(face.__all__) for face in faces) <= 150


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
