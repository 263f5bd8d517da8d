"""Put the repository's pages on the site as they stand, so that one link works in both places.

1. Pages and notebooks that lie outside `docs/` join the site. README.md is its start page.
2. A relative link is read as the repository reads it. It leads to the page of the site if there is one, else to the
   file on the project's page. A link to nothing is a warning, and `make docs` turns warnings into errors.
3. A public name in backticks leads to its entry in the reference. The page of results lists all of them by itself.
4. Notebooks run from a copy in a temporary folder, since they write files. Their figures share one copy of plotly.js.
"""

import importlib
import inspect
import logging
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import plotly.offline
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

from interp.results.result import Result

ROOT = Path(__file__).parent.parent.parent
PLOTLY = "assets/plotly.min.js"
FOLDER = tempfile.TemporaryDirectory(prefix="notebooks-")
FACES = (
    *("interp", "interp.errors", "interp.sweeps", "interp.zoo"),
    *("probes", "probes.plots", "circuits", "circuits.plots"),
)
FROM_ELSEWHERE = re.compile(
    r'<script[^>]*src="https://cdn\.plot\.ly[^"]*"[^>]*>\s*</script>'
    r'|<script type="module">\s*import "https://cdn\.plot\.ly[^"]*"\s*</script>'
)

log = logging.getLogger("mkdocs.hooks.site")


def site_paths() -> dict[str, str]:
    """Return where files of the repository are on the site, by their path in the repository."""
    docs = {str(path.relative_to(ROOT)): str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    shown = [path for path in ROOT.glob("notebooks/*") if path.suffix in (".ipynb", ".png")]
    cards = ROOT.glob("interp/zoo/models/*/README.md")
    return {
        **docs,
        **{f"notebooks/{path.name}": f"gallery/{path.name}" for path in shown},
        **{str(path.relative_to(ROOT)): f"models/{path.parent.name}.md" for path in cards},
        "README.md": "index.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
        "docs": "pages.md",
        "docs/index.md": "pages.md",
        "notebooks": "gallery.md",
    }


PATHS = site_paths()
ORIGINS = {site: origin for origin, site in PATHS.items() if (ROOT / origin).is_file()}


def on_config(config: Any) -> None:
    """Set what the notebooks' kernels inherit: figures as HTML that shares plotly.js, and no progress bars."""
    os.environ |= {"PLOTLY_RENDERER": "notebook_connected", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}


@event_priority(100)  # before mkdocs-jupyter, which takes up the notebooks
def on_files(files: Files, config: Any) -> Files:
    """Add the files that lie outside `docs/`, and plotly.js."""
    files.remove(files.src_uris["index.md"])
    for site, origin in ORIGINS.items():
        if site in files.src_uris:
            continue
        if site.endswith(".ipynb"):
            copy = Path(FOLDER.name) / site
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / origin, copy)
            files.append(File(site, FOLDER.name, config.site_dir, config.use_directory_urls))
        else:
            files.append(File.generated(config, site, abs_src_path=str(ROOT / origin)))
    files.append(File.generated(config, PLOTLY, content=plotly.offline.get_plotlyjs()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links and public names to where they are on the site; blocks of code stay as they are."""
    origin = ORIGINS.get(page.file.src_uri)
    if origin is None:
        return markdown
    if origin == "README.md" or origin.endswith(".ipynb"):
        page.meta["hide"] = ["navigation"]  # figures and code are wide
    if origin.endswith(".ipynb"):
        return markdown
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    for index in range(0, len(parts), 2):
        text = re.sub(r"\]\(([^)\s]+)\)", lambda match: f"]({moved(match[1], origin, page, config)})", parts[index])
        parts[index] = re.sub(r"(?<![\[`])`([\w.]+)(\([^`]*\))?`(?![`\]])", referred, text)
    if origin == "docs/reference/results.md":
        parts += [f"\n\n::: {name}\n" for name in results()]
    return "".join(parts)


def results() -> list[str]:
    """Return the dotted names of all classes of results."""
    importlib.import_module("circuits")  # and all below it
    classes, bases = set[type](), [Result]
    while bases:
        below = bases.pop().__subclasses__()
        classes |= set(below)
        bases += below
    return sorted(f"{kind.__module__}.{kind.__name__}" for kind in classes)


def moved(link: str, origin: str, page: Any, config: Any) -> str:
    """Return where a link of a file of the repository leads on the site."""
    path, mark, anchor = link.partition("#")
    if re.match(r"[a-z]+:", link) or not path:
        return link
    target = os.path.normpath(Path(origin).parent / path)
    if target in PATHS:
        return os.path.relpath(PATHS[target], Path(page.file.src_uri).parent) + mark + anchor
    if not (ROOT / target).exists():
        log.warning("%s: nothing is at %s", origin, link)
    return f"{config.repo_url}/blob/main/{target}{mark}{anchor}"


def referred(match: re.Match[str]) -> str:
    """Return inline code as a link to the reference, if it is a public name."""
    return f"[{match[0]}][{match[1]}]" if match[1] in public_names() else match[0]


@cache
def public_names() -> set[str]:
    """Return the public names of the packages that the reference describes."""
    modules = {face: importlib.import_module(face) for face in FACES}
    return {
        f"{face}.{name}"
        for face, module in modules.items()
        for name in getattr(module, "__all__", [])
        if not inspect.ismodule(getattr(module, name))
    }


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Load plotly.js once, from the site itself."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    html = FROM_ELSEWHERE.sub("", html)
    return f'<script src="{get_relative_url(PLOTLY, page.url)}"></script>\n{html}'


def on_post_build(config: Any) -> None:
    """Remove the notebooks' temporary folder."""
    FOLDER.cleanup()
