"""The mosaic explorer: a sweep as one HTML page to choose, compare and save in, with no kernel behind it.

The page holds every configuration's scores; what is drawn of them is the business of `data/explorer.js`.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs

from interp.errors import InvalidInput
from interp.output.style import COLORS, SCALE
from interp.results.files import write_text
from interp.results.result import listed
from probes.induction.mosaic import KINDS, THRESHOLD
from probes.induction.sweep_frame import Framed, axis_labels, axis_names, axis_values, swept
from probes.plots.induction_sweeps import ordered_colors

SEED = "seed"
FIRST_SHOWN = {"repetitions": 2, "sequence_length": 10}
"""What is shown first where the sweep has it: the published parameters."""

UNIT = 10_000
"""Scores are embedded as whole numbers of this part of 1, rounded down, so that none passes a threshold it is under."""


@dataclass(frozen=True)
class Explorer:
    """A self-contained page of mosaics; `write_html` it, or leave it as the last value of a notebook's cell.

    Attributes:
        data: what the page shows, as JSON.
        height: of its frame in a notebook, in pixels.
    """

    data: str = field(repr=False)
    height: int = field(repr=False, default=1000)

    def to_html(self) -> str:
        """Return the whole page: it opens from a file and asks nothing of a network."""
        parts = {
            "data": self.data,
            "plotly": get_plotlyjs(),
            **{end: _file(f"explorer.{end}") for end in ("css", "js")},
        }
        page = _file("explorer.html")
        # Cut first, fill in then: nothing that is filled in is searched for marks.
        pieces = [piece.partition("}}") for piece in page.split("{{")]
        return pieces[0][0] + "".join(parts[name] + tail for name, _, tail in pieces[1:])

    def write_html(self, path: str | Path) -> Path:
        """Write the page, whole or not at all.

        Args:
            path: where to.

        Returns:
            The path.

        Raises:
            InvalidInput: the directory does not exist, or the path cannot be written.
        """
        return write_text(path, self.to_html())

    def show(self) -> None:
        """Show the page in a notebook.

        Raises:
            InvalidInput: this is not a notebook.
        """
        # Whoever is in a notebook has IPython imported; nobody else needs to have it.
        python: Any = sys.modules.get("IPython")
        if python is None or python.get_ipython() is None:
            raise InvalidInput("there is no notebook here to show this in: use write_html(path) and open the file.")
        python.display.display(self)

    def _repr_html_(self) -> str:
        # A frame has a document of its own, in which no identifier meets those of another cell's. The
        # sandbox keeps its script out of the notebook.
        style = f"width: 100%; height: {self.height}px; border: 1px solid #ddd"
        return (
            f'<iframe title="Mosaic explorer" srcdoc="{escape(self.to_html())}" '
            f'sandbox="allow-scripts allow-downloads" style="{style}"></iframe>'
        )


def mosaic_explorer(sweep: Framed | pd.DataFrame, *, threshold: float = THRESHOLD) -> Explorer:
    """Make one page of every mosaic of a sweep: choose the configuration, move the threshold, read and save.

    Args:
        sweep: of induction mosaics, or its frame; there is a drop-down for each of its axes. Where it
            has several seeds, their mean can be chosen too, and is shown first.
        threshold: where the slider begins, from 0 to 1 in hundredths.

    Returns:
        The page; about 5 MB, most of it plotly. It saves what is shown as a picture (PNG), and its scores and counts
        as JSON, to four decimals, rounded down.

    Raises:
        InvalidInput: columns that are missing, rows that are there twice, scores that are not between 0
            and 1, or a threshold that the slider cannot reach.
    """
    if not 0 <= threshold <= 1 or not isclose(threshold * 100, round(threshold * 100), abs_tol=1e-9):
        raise InvalidInput(f"threshold={threshold!r}: the slider goes from 0 to 1 in hundredths, such as 0.3.")
    frame = swept(sweep)
    for kind in KINDS:
        outside = frame[(frame[kind] < 0) | (frame[kind] > 1)]
        if len(outside):
            first = outside.iloc[0]
            raise InvalidInput(f"{first['head']} has {kind}={first[kind]}: the page shows attention, from 0 to 1.")
    names = axis_names(frame)
    values = {name: axis_values(frame, name) for name in names}
    labels = {name: axis_labels(name, values[name]) for name in names}
    runs = [_run(part, [places[name] for name in names]) for places, part in _grouped(frame, names, values)]
    averaged = SEED in names and len(values[SEED]) > 1
    if averaged:
        at = names.index(SEED)
        labels[SEED] = ["mean over seeds", *labels[SEED]]
        for run in runs:
            run["at"][at] += 1
        runs += _means(frame, names, values)
    lines = {"x": "repetitions", "by": "sequence_length"}
    lines = {key: names.index(name) if name in names else None for key, name in lines.items()}
    content = {
        "unit": UNIT,
        "threshold": round(threshold * 100),
        "axes": [{"name": n.replace("_", " "), "labels": labels[n]} for n in names],
        "model": names.index("model"),
        "mean": names.index(SEED) if averaged else None,
        "first": _first(names, values, runs, averaged),
        "lines": {
            **lines,
            "values": [_number(value) for value in values.get("repetitions", [])],
            "colors": ordered_colors(len(values.get("sequence_length", [None]))),
        },
        "colors": {kind: COLORS[kind] for kind in (*KINDS, "either")},
        "scale": SCALE,
        "runs": runs,
    }
    layers = int(frame["layer"].to_numpy().max()) + 1
    mosaic = max(343, 173 + (22 if layers > 12 else 30) * layers)
    return Explorer(_script_safe(content), height=mosaic + 760)


def _run(part: Any, at: list[int]) -> dict[str, Any]:
    """Return a configuration as the page reads it: its place on the axes, its scores `[layer, head]`, its accuracy."""
    shape = (int(part["layer"].max()) + 1, int(part["index"].max()) + 1)
    if len(part) != shape[0] * shape[1]:
        raise InvalidInput(
            f"a configuration has {len(part)} rows and {shape[0]} layers of {shape[1]} heads: give all heads of "
            "each, the counts are shares of them."
        )
    run: dict[str, Any] = {"at": at, "site": str(part["head"].iloc[0]).rsplit(".", 2)[0]}
    for kind in KINDS:
        scores = np.full(shape, np.nan)
        scores[part["layer"], part["index"]] = part[kind]
        run[kind] = [[None if np.isnan(v) else int(v) for v in row] for row in _floored(scores)]
    accuracy = float(part["accuracy"].iloc[0]) if "accuracy" in part else float("nan")
    run["accuracy"] = listed(np.array(accuracy).round(4).reshape(1))[0]
    run["tokens"] = int(part["n_tokens"].iloc[0]) if "n_tokens" in part else None
    return run


def _means(frame: pd.DataFrame, names: list[str], values: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Average the mosaics of each configuration over its seeds, and place the mean before the first seed."""
    others = [name for name in names if name != SEED]
    rows_of_seed = [name for name in ("accuracy", "n_tokens") if name in frame]
    runs: list[dict[str, Any]] = []
    for places, part in _grouped(frame, others, values):
        mean = part.groupby(["head", "layer", "index"], sort=False, as_index=False)[[*KINDS, *rows_of_seed]].mean()
        runs.append(_run(mean, [places.get(name, 0) for name in names]))
    return runs


def _grouped(
    frame: pd.DataFrame, names: list[str], values: dict[str, list[Any]]
) -> Iterator[tuple[dict[str, int], Any]]:
    """Group the rows by configuration, with its place among the values of each axis."""
    groups: Any = frame.groupby(names, sort=False, dropna=False)
    for keys, part in groups:
        yield {name: _place(values[name], key) for name, key in zip(names, keys, strict=True)}, part


def _floored(scores: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the largest whole number of units that is not over each score, exactly."""
    units = np.floor(scores * UNIT)
    units += (units + 1) / UNIT <= scores
    units -= units / UNIT > scores
    return units


def _first(names: list[str], values: dict[str, list[Any]], runs: list[dict[str, Any]], averaged: bool) -> list[int]:
    """Return the place of the run to show first: the one closest to the published parameters."""
    wanted = {n: values[n].index(v) for n, v in FIRST_SHOWN.items() if v in values.get(n, [])}
    wanted |= {SEED: 0} if averaged else {}
    return max(runs, key=lambda run: sum(run["at"][names.index(n)] == place for n, place in wanted.items()))["at"]


def _place(values: list[Any], key: Any) -> int:
    # NaN is a value too: it equals nothing, itself included.
    return next(i for i, value in enumerate(values) if value == key or (value != value and key != key))


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int | float | np.number) else str(value)


def _script_safe(content: dict[str, Any]) -> str:
    """Escape JSON so that nothing in it ends the script element that it stands in."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _file(name: str) -> str:
    return (files("probes") / "data" / name).read_text(encoding="utf-8")
