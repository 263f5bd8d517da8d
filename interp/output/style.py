"""What all figures share: colours, fonts, and writing pictures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import plotly.graph_objects as go
import plotly.io as pio

from interp.errors import InvalidInput, MissingBrowser

COLORS = {"current_token": "#1f6f8b", "token_to_right": "#d1603d", "either": "#5b5b5b", "eos": "#8a7fa8"}
LABELS = {
    "current_token": "current token",
    "token_to_right": "token to right",
    "either": "either",
    "lift": "lift",
    "eos": "EOS",
}
SCALE = "Viridis"


def label(name: str) -> str:
    """Return a name as it is written on a figure."""
    return LABELS.get(name, name.replace("_", " "))


def styled(figure: go.Figure, title: str, subtitle: str = "", **layout: Any) -> go.Figure:
    """Give a figure its title, font and template, leaving plotly's defaults alone."""
    return figure.update_layout(
        template="plotly_white",
        title={"text": title, "subtitle": {"text": subtitle, "font": {"size": 13, "color": "#666"}}, "x": 0.02},
        font={"family": "Helvetica, Arial, DejaVu Sans, sans-serif", "size": 13},
        margin={"l": 70, "r": 40, "t": 118, "b": 60},
        **layout,
    )


def heads_of(sites: Iterable[str]) -> str:
    """Say which heads are shown: `decoder cross-attention heads`; without the kind where models differ."""
    kinds = dict.fromkeys(site.replace(".", " ") + "-" for site in sites)
    return f"{next(iter(kinds)) if len(kinds) == 1 else 'decoder '}attention heads"


def short(model: str) -> str:
    """Return a model's name without its owner or folder."""
    return model.rstrip("/").split("/")[-1].strip(".") or "model"


def unique(models: Sequence[str]) -> list[str]:
    """Return short names where they tell models apart, full ones where not, numbered where they repeat."""
    names = [name if [short(m) for m in models].count(short(name)) > 1 else short(name) for name in models]
    return [f"{n} ({names[:i].count(n) + 1})" if names[:i].count(n) else n for i, n in enumerate(names)]


def write_images(figures: Mapping[Path, go.Figure], *, scale: float = 2.0) -> list[Path]:
    """Write figures as PNG, SVG or PDF by their paths' suffixes, in one browser.

    Args:
        figures: by path.
        scale: pixels a point.

    Returns:
        The paths.

    Raises:
        InvalidInput: something else than figures by path.
        MissingBrowser: no Chrome or Chromium is installed, which kaleido draws with.
    """
    items = figures.items() if isinstance(cast(object, figures), Mapping) else [("", figures)]
    if not all(isinstance(path, Path) and isinstance(cast(object, figure), go.Figure) for path, figure in items):
        raise InvalidInput(f"figures={type(figures).__name__}: give a dictionary of figures by Path.")
    from choreographer.errors import BrowserClosedError, BrowserFailedError
    from kaleido.errors import ChromeNotFoundError

    targets, layouts = list(figures), [cast(Any, figure.layout) for figure in figures.values()]
    partials = [target.with_name(f".partial.{target.name}") for target in targets]
    try:
        # Many at once are written in plotly's default size unless theirs is passed on.
        pio.write_images(
            list(figures.values()),
            list[str | Path](partials),
            scale=scale,
            width=[layout.width for layout in layouts],
            height=[layout.height for layout in layouts],
        )
        for partial, target in zip(partials, targets, strict=True):
            partial.replace(target)
    except (ChromeNotFoundError, BrowserFailedError, BrowserClosedError) as error:
        raise MissingBrowser(
            f"{', '.join(t.name for t in targets)}: not written, pictures need Chrome or Chromium "
            f"({type(error).__name__}: {error}). Install one (Debian: apt install chromium), set BROWSER_PATH to "
            "it, or use figure.write_html."
        ) from None
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    return targets
