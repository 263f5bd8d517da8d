"""The circuits' command line: `python -m circuits ablate | composition | attribute | patch | discover`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import torch
import typer
from interp.output.page import check_out

import interp
from circuits.reports import ablation as ablation_report
from circuits.reports import attributions as attribution_report
from circuits.reports import compositions as composition_report
from circuits.reports import discovery as discovery_report
from circuits.reports import patching as patching_report
from circuits.reports.pair_names import PAIRS, check_pair_name
from interp.output.command import Dtype, guarded
from probes.plots import write_images

Name = Annotated[str, typer.Option("--model", help="Bundled name, directory or hub name.")]
Out = Annotated[Path, typer.Option(help="Directory for the page, the pictures and the tables.")]
Of = Annotated[str, typer.Option("--pair", help=f"How the corrupt input differs: {', '.join(PAIRS)}.")]
Weights = Annotated[Dtype, typer.Option("--dtype", help="Of the weights.")]
Images = Annotated[bool, typer.Option(help="Draw the figures as PNG too, which needs a browser.")]

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
    """Ablate the mosaic's strongest heads: on repeated random tokens and in forecasts, against controls.

    A model without a tokenizer for series, as plain GPT-2, is read on tokens alone.
    """
    _check_folder(out)
    opened = interp.load(model, dtype=getattr(torch, dtype.value), device=device)
    found = ablation_report.run_report(opened, top=top, method=method.value, controls=controls, seed=seed)
    written = ablation_report.write_report(out, found)
    if images:
        written += _drawn(out, ablation_report.figures(found))
    curve = found.curve.to_frame()[["count", "outcome", "clean", "value", "low", "high", "control", "draws", "heads"]]
    typer.echo(curve.to_string(index=False, float_format="%.3f"))
    for name, effects in found.forecasts.items():
        table = effects.summary()[["ablation", "outcome", "unedited", "ablated", "change", "low", "high", "control"]]
        typer.echo(f"\n{name}, {len(effects.truth)} series\n{table.to_string(index=False, float_format='%.3f')}")
    if found.note:
        typer.echo(f"\n{found.note}")
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


@app.command()
@guarded
def attribute(
    model: Name,
    out: Out = Path("out"),
    batch_size: Annotated[int, typer.Option(help="Rows of repeated random tokens.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the tokens and of the controls.")] = 0,
    dtype: Weights = Dtype.float32,
    device: str = "cpu",
    images: Images = True,
) -> None:
    """What parts and past steps add to the prediction, and how it forms: on tokens and on a real series."""
    _check_folder(out)
    opened = interp.load(model, dtype=getattr(torch, dtype.value), device=device)
    found = attribution_report.run_report(opened, batch_size=batch_size, seed=seed)
    drawn = attribution_report.figures(found)
    written = attribution_report.write_report(out, found, drawn)
    if images:
        written += _drawn(out, drawn)
    made = attribution_report.tables(found)
    parts = made["attribution"].drop(columns=["kind", "layer", "head"])
    _say(f"logit of the continuation, {len(found.batch)} rows", parts.head(8))
    _say(f"by {'encoder ' * opened.has_encoder}position", made["attribution_by_position"].head(4))
    _say(f"forecast of {found.series.name}, by step", made["value_attribution_by_position"].head(6))
    _say_written(written)


@app.command()
@guarded
def patch(
    model: Name,
    out: Out = Path("out"),
    pair: Of = "another_sequence",
    batch_size: Annotated[int, typer.Option(help="Rows of repeated random tokens.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the tokens and of how they are corrupted.")] = 0,
    dtype: Weights = Dtype.float32,
    device: str = "cpu",
    images: Images = True,
) -> None:
    """Activation patching between a clean and a corrupt input: heads, what they read, and positions."""
    check_pair_name(pair)
    _check_folder(out)
    opened = interp.load(model, dtype=getattr(torch, dtype.value), device=device)
    found = patching_report.run_report(opened, pair=pair, batch_size=batch_size, seed=seed)
    drawn = patching_report.figures(found)
    written = patching_report.write_report(out, found, drawn)
    if images:
        written += _drawn(out, drawn)
    made: dict[str, Any] = patching_report.tables(found)
    clean, corrupt = found.outputs.clean.mean(), found.outputs.corrupt.mean()
    typer.echo(f"logit difference: {clean:.2f} on clean, {corrupt:.2f} on corrupt, {len(found.outputs.clean)} rows")
    _say("outputs of heads", made["outputs"][["head", "effect", "low", "high", "share", "q", "restores"]].head(8))
    _say(
        f"what {opened.family.context[1]} heads read",
        made["inputs"][["site", "head", "effect", "low", "high", "share", "q"]].head(8),
    )
    _say_written(written)


@app.command()
@guarded
def discover(
    model: Name,
    out: Out = Path("out"),
    pair: Of = "another_sequence",
    edges: Annotated[int, typer.Option(help="How many are wanted.")] = 40,
    controls: Annotated[int, typer.Option(help="Random circuits of each kind.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Rows it is found on, and as many others it is tested on.")] = 30,
    seed: Annotated[int, typer.Option(help="The circuit is found on this seed and tested on the next.")] = 0,
    dtype: Weights = Dtype.float32,
    device: str = "cpu",
    images: Images = True,
) -> None:
    """Find the edges that carry the behaviour, and hold them against the model and random circuits on other rows."""
    check_pair_name(pair)
    _check_folder(out)
    opened = interp.load(model, dtype=getattr(torch, dtype.value), device=device)
    found = discovery_report.run_report(
        opened, pair=pair, edges=edges, controls=controls, batch_size=batch_size, seed=seed
    )
    drawn = discovery_report.figures(found)
    written = discovery_report.write_report(out, found, drawn)
    if images:
        written += _drawn(out, drawn)
    typer.echo(f"{found.circuit}\n")
    typer.echo(f"{found.scores}\n")
    made: dict[str, Any] = discovery_report.tables(found)
    _say("its heads", made["circuit_heads"][discovery_report.HEADS])
    _say(f"in parts of the model, on {batch_size} other rows", made["evaluation"])
    _say("with only so many edges left", made["sizes"])
    _say_written(written)


def _say(heading: str, table: pd.DataFrame) -> None:
    known = table.dropna(axis=1, how="all")  # one row has no intervals
    text = known.astype(object).where(known.notna(), "").to_string(index=False, float_format="{:.3f}".format)
    typer.echo(f"{heading}\n{text}\n")


def _say_written(written: list[Path]) -> None:
    typer.echo("written: " + ", ".join(map(str, written)))


def _check_folder(out: Path) -> None:
    check_out(out)
    if out.suffix.lower() == ".html":
        raise interp.errors.InvalidInput(f"--out {out}: give a directory, for the page and its tables.")


def _drawn(out: Path, figures: dict[str, go.Figure]) -> list[Path]:
    try:
        return write_images({out / f"{name}.png": figure for name, figure in figures.items()})
    except interp.errors.MissingBrowser as error:
        typer.echo(f"note: {error}", err=True)
        return []


if __name__ == "__main__":
    app(prog_name="python -m circuits")
