"""The documentation is true: its code runs, its links lead somewhere, its names, commands and files exist.

Each page with Python blocks runs as one script, in order, in a folder of its own. Two comments change that:

* `<!-- not run: why -->` in the line before a block: the block needs what a test does not have, such as the hub.
* a first line such as `# probes/new.py` in a block: the block is that file. A new file is imported under its name, and
  its tests are run; the lines of an `__init__.py` are run in that package.
"""

import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import runpy
import shlex
import sys
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import plotly.graph_objects as go
import pytest
import typer
from click import Command

ROOT = Path(__file__).parent.parent
PACKAGES = ("interp", "probes", "circuits")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CARDS = sorted((ROOT / "interp" / "zoo" / "models").glob("*/README.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OLD_NAME = ".*the old name goes in"

NAME = re.compile(r"(?<![\w./-])(?:interp|probes|circuits)(?:\.[A-Za-z_]\w*)+")
OF_A_CLASS = re.compile(r"(?<![\w./])([A-Z]\w+)\.([a-z_]\w*)")
FILE = re.compile(r"(?:interp|probes|circuits|tests|docs|notebooks|examples)/[\w./*-]*")
COMMAND = re.compile(r"(?:\.venv/bin/)?python -m (interp|probes|circuits)\b(.*)")


def title(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A Python block of a page: the line where its code begins, the code, and why it is not run, if it is not."""

    line: int
    code: str
    not_run: str | None

    @property
    def file(self) -> str | None:
        """The file that the block is, if its first line names one."""
        found = re.match(r"# ([\w/]+\.py)\n", self.code)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    """Return the Python blocks of a page."""
    text = page.read_text()
    found = re.finditer(r"(?:<!-- not run: (.+?) -->\n)?^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(text.count("\n", 0, match.start(2)) + 1, match[2], match[1]) for match in found]


def inline(page: Path) -> list[str]:
    """Return the inline code of a page; of a notebook that of its words, and each line of its code."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        words = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        return spans(words) + [line for c in cells if c["cell_type"] == "code" for line in c["source"]]
    return spans(unfenced(page))


def unfenced(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def spans(words: str) -> list[str]:
    """Return what stands between backticks, on one line each."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", words)]


def in_blocks(page: Path) -> list[str]:
    """Return the lines of blocks that are not Python, with continued lines joined."""
    fenced = re.findall(r"^```(?!python)\w*\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^ {4,}\S.*$", unfenced(page), re.MULTILINE)
    return re.sub(r"\\\n\s*", "", "\n".join([*fenced, *indented])).splitlines()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=title)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One script whose lines are those of the page, so that a traceback points to it.
    lines = [""] * page.read_text().count("\n")
    tests: list[Any] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", OLD_NAME, DeprecationWarning)
        for block in blocks(page):
            if block.file:
                tests += placed(block, tmp_path / "repository", monkeypatch)
            elif block.not_run is None:
                code = block.code.splitlines()
                lines[block.line - 1 : block.line - 1 + len(code)] = code
        script = tmp_path / "page.py"
        script.write_text("\n".join(lines))
        folder = tmp_path / "folder"
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(go.Figure, "show", go.Figure.to_dict)
        runpy.run_path(str(script))
        for test in tests:
            test()


def placed(block: Block, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Import a block that is a file, for the length of a test, and return the tests in it."""
    name = str(block.file)
    if name.endswith("__init__.py"):
        package = importlib.import_module(name.removesuffix("/__init__.py").replace("/", "."))
        added: dict[str, Any] = {}
        exec(block.code, added)
        for key in added.keys() - {"__builtins__"}:
            monkeypatch.setattr(package, key, added[key], raising=False)
        return []
    assert not (ROOT / name).exists(), f"{name} is there already"
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(block.code)
    dotted = name.removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(dotted, root / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, dotted, module)
    spec.loader.exec_module(module)
    return [value for key, value in vars(module).items() if key.startswith("test_")]


@pytest.mark.parametrize("page", [*PAGES, *CARDS, ROOT / "CHANGELOG.md"], ids=title)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{title(page)}: nothing is at {link}"
        assert target.is_relative_to(ROOT), f"{title(page)}: {link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), f"{title(page)}: {link} has no such heading"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", unfenced(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *CARDS, *NOTEBOOKS], ids=title)
def test_names_exist(page: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", OLD_NAME, DeprecationWarning)
        for code in inline(page):
            for name in NAME.findall(code):
                resolve(name)
            for owner, name in OF_A_CLASS.findall(code):
                for known in classes().get(owner, []):
                    assert has(known, name), f"{title(page)}: {owner} has no {name}"


def resolve(name: str) -> Any:
    """Return what a dotted name of the packages stands for."""
    first, *others = name.split(".")
    thing: Any = importlib.import_module(first)
    for part in others:
        if isinstance(thing, type) and has(thing, part):
            return None
        if isinstance(thing, ModuleType) and not hasattr(thing, part):
            thing = importlib.import_module(f"{thing.__name__}.{part}")
        else:
            thing = getattr(thing, part)
    return thing


def has(owner: type, name: str) -> bool:
    """Say whether a class has an attribute or a field."""
    return hasattr(owner, name) or any(name in inspect.get_annotations(base) for base in owner.__mro__)


@cache
def classes() -> dict[str, list[type]]:
    """Return the classes of the packages by name."""
    found: dict[str, list[type]] = {}
    for package in map(importlib.import_module, PACKAGES):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not info.name.endswith("__main__"):
                for key, value in vars(importlib.import_module(info.name)).items():
                    if inspect.isclass(value) and value.__module__ == info.name:
                        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=title)
def test_files_exist(page: Path) -> None:
    shown = {block.file for block in blocks(page)}
    for code in inline(page):
        if FILE.fullmatch(code):
            assert code in shown or list(ROOT.glob(code.rstrip("/"))), f"{title(page)}: there is no {code}"


@pytest.mark.parametrize("page", [*PAGES, *CARDS, *NOTEBOOKS], ids=title)
def test_commands_parse(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+(?: [\w-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = {name for names in targets for name in names.split()}
    for line in [*inline(page), *(in_blocks(page) if page.suffix == ".md" else [])]:
        command = COMMAND.match(line.strip())
        if command:
            parse(command[1], command[2])
        made = re.match(r"make ([a-z][\w-]*)", line.strip())
        assert made is None or made[1] in targets, f"{title(page)}: the Makefile has no {made[1] if made else ''}"


def parse(package: str, rest: str) -> None:
    """Parse a command line as the package would; of one without any option only the name is looked up.

    Several commands with bars between them, `ablate | patch --out DIR`, are parsed one by one.
    """
    alternatives = re.match(r"((?: \w+ \|)+)( \w+)(.*)", rest)
    if alternatives:
        for name in [*re.findall(r"\w+", alternatives[1]), alternatives[2].strip()]:
            parse(package, f" {name}{alternatives[3]}")
        return
    name, *arguments = shlex.split(rest, comments=True) or [""]
    if name:
        command = commands(package)[name]
        if arguments:
            command.make_context(name, arguments)


def commands(package: str) -> dict[str, Command]:
    """Return the commands of a package."""
    group: Any = typer.main.get_command(importlib.import_module(f"{package}.__main__").app)
    return group.commands


def public_names() -> Iterator[str]:
    """Yield the public names of the packages."""
    for package in (*PACKAGES, "probes.plots", "circuits.plots"):
        for name in importlib.import_module(package).__all__:
            if not inspect.ismodule(getattr(importlib.import_module(package), name)):
                yield f"{package}.{name}"


def test_every_public_name_is_explained_somewhere() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert not [name for name in public_names() if not re.search(rf"\b{re.escape(name)}\b", text)]


def test_every_command_is_shown_somewhere() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for package in PACKAGES:
        assert not [name for name in commands(package) if f"python -m {package} {name}" not in text]


def test_the_indices_list_every_page() -> None:
    docs = ROOT / "docs"
    listed: set[str] = set()
    for index in docs.rglob("index.md"):
        links = re.findall(r"\]\(([\w./]+\.md)", index.read_text())
        listed |= {str((index.parent / link).resolve().relative_to(docs)) for link in links}
    assert listed == {str(page.relative_to(docs)) for page in docs.rglob("*.md")} - {"index.md"}


def test_the_site_lists_every_page() -> None:
    """`make docs` builds it, and checks what this test cannot: links and references as they are on the site."""
    listed = set(re.findall(r"- ([\w/-]+\.md|gallery/\w+\.ipynb)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    docs = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} - {"index.md"}
    cards = {f"models/{card.parent.name}.md" for card in CARDS}
    notebooks = {f"gallery/{notebook.name}" for notebook in NOTEBOOKS}
    assert listed == docs | cards | notebooks | {"pages.md", "changelog.md", "contributing.md"}


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8000


def test_the_front_page_names_what_it_needs() -> None:
    """Continuous integration runs the front page's own test command."""
    assert "make test" in (ROOT / "README.md").read_text()
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["readme"] == "README.md"
    assert f"Python {project['requires-python'].removeprefix('>=')}" in (ROOT / "README.md").read_text()
