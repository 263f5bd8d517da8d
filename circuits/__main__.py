"""The circuits' command line: `python -m circuits ablate --model pico-t5 --top 3 --out out`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer

import interp
from circuits import report
from interp.command import Dtype, guarded
from probes.plots import write_images
from probes.report import check_out

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class AblationMethod(StrEnum):
    """What stands for an ablated head."""

    zero = "zero"
    mean = "mean"


@app.callback()
def main() -> None:
    """How heads do it: ablation, with controls."""


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
    check_out(out)
    if out.suffix.lower() == ".html":
        raise interp.InvalidInput(f"--out {out}: give a directory, for the page and its tables.")
    opened = interp.load(model, dtype=getattr(torch, dtype.value), device=device)
    found = report.run_report(opened, top=top, method=method.value, controls=controls, seed=seed)
    written = report.write_report(out, found)
    if images:
        try:
            written += write_images({out / f"{name}.png": figure for name, figure in report.figures(found).items()})
        except interp.MissingBrowser as error:
            typer.echo(f"note: {error}", err=True)
    curve = found.curve.to_frame()[["count", "outcome", "clean", "value", "low", "high", "control", "draws", "heads"]]
    typer.echo(curve.to_string(index=False, float_format="%.3f"))
    for name, effects in found.forecasts.items():
        table = effects.summary()[["ablation", "outcome", "unedited", "ablated", "change", "low", "high", "control"]]
        typer.echo(f"\n{name}, {len(effects.truth)} series\n{table.to_string(index=False, float_format='%.3f')}")
    typer.echo("\nwritten: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    app(prog_name="python -m circuits")
