"""The probes' command line: `python -m probes mosaic --model pico-t5 --out out`."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm.auto import tqdm

import interp
from interp.command import Dtype, guarded
from probes import induction_mosaic, plots, report
from probes.mosaic import THRESHOLD
from probes.stimuli import NARROW

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def main() -> None:
    """Stimulus in, scores out: which heads look back, and where to."""


@app.command()
@guarded
def mosaic(
    model: Annotated[list[str], typer.Option(help="Bundled name, directory or hub name; repeat for several.")],
    out: Annotated[Path, typer.Option(help="Directory, or an .html file for the page alone.")] = Path("out"),
    sequence_length: int = 10,
    repetitions: int = 2,
    num_unique_sequences: int = 1,
    extension: int = 0,
    sub_extension: int = 1,
    batch_size: int = 100,
    vocab_range: tuple[int, int] = NARROW,
    unique: bool = False,
    min_gap: int = 0,
    seed: int = 0,
    threshold: float = THRESHOLD,
    dtype: Annotated[Dtype, typer.Option(help="The published notebook ran in bfloat16.")] = Dtype.float32,
    device: str = "cpu",
    images: Annotated[bool, typer.Option(help="Draw the figures as PNG too, which needs a browser.")] = True,
) -> None:
    """The induction mosaic of some models: page, pictures, JSON and table."""
    report.check_out(out)
    mosaics = []
    for name in tqdm(model, desc="mosaic", disable=len(model) < 2):
        opened = interp.load(name, dtype=getattr(torch, dtype.value), device=device)
        mosaics.append(
            induction_mosaic(
                opened,
                batch_size=batch_size,
                sequence_length=sequence_length,
                repetitions=repetitions,
                num_unique_sequences=num_unique_sequences,
                extension=extension,
                sub_extension=sub_extension,
                vocab_range=vocab_range,
                unique=unique,
                min_gap=min_gap,
                seed=seed,
            )
        )
    if out.suffix.lower() == ".html":
        written = [report.write_report_page(out, mosaics, threshold)]
    else:
        written = report.write_report(out, mosaics, threshold)
        if images:
            drawn = {out / f"{report.file_name(name)}.png": f for name, f in report.figures(mosaics, threshold).items()}
            try:
                written += plots.write_images(drawn)
            except interp.MissingBrowser as error:
                typer.echo(f"note: {error}", err=True)
    for found in mosaics:
        table = report.induction_heads(found, threshold)
        typer.echo(table.to_string(index=False, float_format="%.3f") if len(table) else f"{found.name}: none")
        typer.echo("")
    typer.echo(report.summary(mosaics, threshold).to_string(index=False, float_format="%.3f"))
    typer.echo("\nwritten: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    app(prog_name="python -m probes")
