"""The circuits' command line: `python -m circuits ablate` and `python -m circuits composition`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import plotly.graph_objects as go
import torch
import typer

import interp
from circuits import composition_report, report
from interp.command import Dtype, guarded
from probes.plots import write_images
from probes.reports.page import check_out

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class AblationMethod(StrEnum):
    """What stands for an ablated head."""

    zero = "zero"
    mean = "mean"


@app.callback()
def main() -> None:
    """How heads do it: ablation with controls, weights and wiring."""


@app.command()
@guarded
def ablate(
    model: Annotated[str, typer.Option(help="Bundled name, directory or hub name.")],
    out: Annotated[Path, typer.Option(help="Directory for the page, the pictures and the tables.")] = Path("out"),
    top: Annotated[int, typer.Option(help="How many of the mosaic's strongest heads.")] = 3,
    method: AblationMethod = AblationMethod.zero,
    controls: Annotated[int, typer.Option(help="Random sets of heads of the same layers.")] = 20,
    seed: Annotated[int, typer.Option(help="Heads are chosen on this seed and measured on the next.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="bfloat16 is off by about 2e-3 nats.")] = Dtype.float32,
    device: str = "cpu",
    images: Annotated[bool, typer.Option(help="Draw the figures as PNG too, which needs a browser.")] = True,
) -> None:
    """Ablate the mosaic's strongest heads: on repeated random tokens and in forecasts, against controls."""
    _check_folder(out)
    opened = interp.load(model, dtype=getattr(torch, dtype.value), device=device)
    found = report.run_report(opened, top=top, method=method.value, controls=controls, seed=seed)
    written = report.write_report(out, found)
    if images:
        written += _drawn(out, report.figures(found))
    curve = found.curve.to_frame()[["count", "outcome", "clean", "value", "low", "high", "control", "draws", "heads"]]
    typer.echo(curve.to_string(index=False, float_format="%.3f"))
    for name, effects in found.forecasts.items():
        table = effects.summary()[["ablation", "outcome", "unedited", "ablated", "change", "low", "high", "control"]]
        typer.echo(f"\n{name}, {len(effects.truth)} series\n{table.to_string(index=False, float_format='%.3f')}")
    typer.echo("\nwritten: " + ", ".join(str(path) for path in written))


@app.command()
@guarded
def composition(
    model: Annotated[str, typer.Option(help="Bundled name, directory or hub name.")],
    out: Annotated[Path, typer.Option(help="Directory for the page, the pictures and the tables.")] = Path("out"),
    top: Annotated[int, typer.Option(help="How many of the strongest edges to list and draw.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the tokens that the mosaic and the heads' scores are read on.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="Of the weights.")] = Dtype.float32,
    device: str = "cpu",
    images: Annotated[bool, typer.Option(help="Draw the figures as PNG too, which needs a browser.")] = True,
) -> None:
    """Which heads are wired into which, and which could be an induction circuit: from the weights, on one page."""
    _check_folder(out)
    opened = interp.load(model, dtype=getattr(torch, dtype.value), device=device)
    found = composition_report.run_report(opened, top=top, seed=seed)
    drawn = composition_report.figures(found)
    written = composition_report.write_report(out, found, drawn)
    if images:
        written += _drawn(out, composition_report.pictures(found, drawn))
    typer.echo(found.top.to_frame()[["edge", "raw", "excess", "z"]].to_string(index=False, float_format="%.3f"))
    table = found.candidates.to_frame().drop(columns=["writer", "reader", "kind", "raw"]).head(top)
    none = f"no induction candidates: no pair of heads at {found.candidates.threshold:g} with a wire between them"
    typer.echo(f"\n{none if table.empty else table.to_string(index=False, float_format='%.3f')}")
    if len(found.candidates) > top:
        typer.echo(f"... and {len(found.candidates) - top} more candidates, in the table")
    typer.echo("\nwritten: " + ", ".join(str(path) for path in written))


def _check_folder(out: Path) -> None:
    check_out(out)
    if out.suffix.lower() == ".html":
        raise interp.InvalidInput(f"--out {out}: give a directory, for the page and its tables.")


def _drawn(out: Path, figures: dict[str, go.Figure]) -> list[Path]:
    try:
        return write_images({out / f"{name}.png": figure for name, figure in figures.items()})
    except interp.MissingBrowser as error:
        typer.echo(f"note: {error}", err=True)
        return []


if __name__ == "__main__":
    app(prog_name="python -m circuits")
