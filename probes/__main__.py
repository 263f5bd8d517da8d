"""The probes' command line: `python -m probes mosaic | losses | multisine | sweep | questions --model pico-t5`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import torch
import typer
from tqdm.auto import tqdm

import interp
from interp.errors import nearest
from interp.output.command import Dtype, guarded
from interp.output.page import check_out, file_name
from probes import attention_spectrum, induction_mosaic, induction_sweep, multisine, plots
from probes.induction.mosaic import THRESHOLD
from probes.questions.agreement import PUBLISHED
from probes.reports import induction_sweeps as sweep_report
from probes.reports import mosaics as mosaic_report
from probes.reports import open_questions as question_report
from probes.reports import position_losses as losses_report
from probes.reports import spectra as spectra_report
from probes.stimuli import datasets
from probes.stimuli.time_series import TimeSeries

Models = Annotated[list[str], typer.Option("--model", help="Bundled name, directory or hub name; repeat for several.")]
Out = Annotated[Path, typer.Option(help="Directory, or an .html file for the page alone.")]
Images = Annotated[bool, typer.Option(help="Draw the figures as PNG too, which needs a browser.")]
Range = Annotated[
    tuple[int, int] | None,
    typer.Option(
        help="First and last id; by default those of values within +-1.01. The tutorial on GPT-2 has 1000 9999."
    ),
]
Weights = Annotated[Dtype, typer.Option(help="The published notebook ran in bfloat16.")]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def main() -> None:
    """Stimulus in, scores out: which heads look back, and where to."""


def _numbers(name: str, given: str) -> list[int]:
    """Whole numbers as `2,4,6` or `0-4`, both ends included."""
    try:
        parts = [part.split("-") for part in given.split(",")]
        if max(map(len, parts)) > 2:
            raise ValueError
        found = [list(range(int(part[0]), int(part[-1]) + 1)) for part in parts]
    except ValueError:
        found = []
    if not found or not all(found):
        raise interp.errors.InvalidInput(f"--{name} {given}: give whole numbers, as 2,4,6 or 0-4.")
    return [n for part in found for n in part]


def _floats(name: str, given: str) -> list[float]:
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        raise interp.errors.InvalidInput(f"--{name} {given}: give numbers, as 5,10,20,40.") from None


def _text(numbers: Sequence[float]) -> str:
    return ",".join(f"{n:g}" for n in numbers)


def _draw(out: Path, figures: dict[str, go.Figure]) -> list[Path]:
    try:
        return plots.write_images({out / f"{file_name(name)}.png": figure for name, figure in figures.items()})
    except interp.errors.MissingBrowser as error:
        typer.echo(f"note: {error}", err=True)
        return []


def _say(table: pd.DataFrame, written: list[Path]) -> None:
    typer.echo(table.to_string(index=False, float_format="%.3f"))
    typer.echo("\nwritten: " + ", ".join(str(path) for path in written))


@app.command()
@guarded
def mosaic(
    model: Models,
    out: Out = Path("out"),
    sequence_length: int = 10,
    repetitions: int = 2,
    num_unique_sequences: int = 1,
    extension: int = 0,
    sub_extension: int = 1,
    batch_size: int = 100,
    vocab_range: Range = None,
    unique: bool = False,
    min_gap: int = 0,
    prefix: int = 0,
    seed: int = 0,
    threshold: float = THRESHOLD,
    dtype: Weights = Dtype.float32,
    device: str = "cpu",
    images: Images = True,
) -> None:
    """The induction mosaic of some models: page, pictures, JSON and table."""
    check_out(out)
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
                prefix=prefix,
                seed=seed,
            )
        )
    if out.suffix.lower() == ".html":
        written = [mosaic_report.write_report_page(out, mosaics, threshold)]
    else:
        written = mosaic_report.write_report(out, mosaics, threshold)
        written += _draw(out, mosaic_report.figures(mosaics, threshold)) if images else []
    for found in mosaics:
        table = mosaic_report.induction_heads(found, threshold)
        typer.echo(table.to_string(index=False, float_format="%.3f") if len(table) else f"{found.name}: none")
        typer.echo("")
    _say(mosaic_report.mosaic_summary(mosaics, threshold), written)


@app.command()
@guarded
def losses(
    model: Models,
    out: Out = Path("out"),
    sequence_length: int = 50,
    repetitions: int = 2,
    batch_size: int = 10,
    vocab_range: Range = None,
    unique: bool = False,
    bos: Annotated[int | None, typer.Option(help="A token in front, for a decoder-only model.")] = None,
    site: Annotated[str, typer.Option(help="Of which self-attention heads.")] = "decoder.self",
    seed: int = 0,
    threshold: float = THRESHOLD,
    dtype: Weights = Dtype.float32,
    device: str = "cpu",
    images: Images = True,
) -> None:
    """The loss by position and the heads that look back on a random sequence given twice: page, pictures, tables."""
    check_out(out)
    found = [
        losses_report.repeats(
            interp.load(name, dtype=getattr(torch, dtype.value), device=device),
            sequence_length=sequence_length,
            repetitions=repetitions,
            site=site,
            batch_size=batch_size,
            vocab_range=vocab_range,
            unique=unique,
            bos=bos,
            seed=seed,
        )
        for name in tqdm(model, desc="losses", disable=len(model) < 2)
    ]
    written = losses_report.write_report(out, found, threshold)
    if images and out.suffix.lower() != ".html":
        written += _draw(out, losses_report.figures(found, threshold))
    heads: Any = losses_report.head_table(found)[["model", "head", "induction", "previous_token", "duplicate_token"]]
    typer.echo(heads.groupby("model", sort=False).head(8).to_string(index=False, float_format="%.3f") + "\n")
    _say(losses_report.loss_table(found), written)


@app.command("multisine")
@guarded
def multisine_command(
    model: Models,
    out: Out = Path("out"),
    frequencies: Annotated[str, typer.Option(help="Of the components, in Hz, as 9,15,24.")] = _text(PUBLISHED[0]),
    amplitudes: Annotated[str, typer.Option(help="One for all, or one a component; the published ones or 1.")] = "",
    phases: Annotated[str, typer.Option(help="In radians; likewise.")] = "0",
    duration: Annotated[float, typer.Option(help="In seconds.")] = 3.0,
    steps: int = 301,
    series: Annotated[str, typer.Option(help=f"A real series instead: {', '.join(datasets.__all__)}.")] = "",
    num_decoder: Annotated[int, typer.Option(help="How many of the last values the decoder gets.")] = 0,
    shuffles: Annotated[int, typer.Option(help="Runs with the context shuffled, for the null of combs.")] = 99,
    seed: int = 0,
    dtype: Weights = Dtype.float32,
    device: str = "cpu",
    images: Images = True,
) -> None:
    """Attention over a multisine or a real series, its spectrum, and combs in it: page, pictures, JSON, table."""
    heights = amplitudes or (_text(PUBLISHED[1]) if frequencies == _text(PUBLISHED[0]) else "1")
    made = (frequencies, amplitudes, phases, duration, steps)
    if series and made != (_text(PUBLISHED[0]), "", "0", 3.0, 301):
        raise interp.errors.InvalidInput(f"--series {series} is as it is: leave out the options that make a multisine.")
    named = {"frequencies": frequencies, "amplitudes": heights, "phases": phases}
    parts = [_floats(name, text) for name, text in named.items()]
    given = _series(series) if series else multisine(*parts, duration=duration, steps=steps)
    check_out(out)
    spectra = [
        attention_spectrum(
            interp.load(name, dtype=getattr(torch, dtype.value), device=device),
            given,
            num_decoder=num_decoder,
            shuffles=shuffles,
            seed=seed,
        )
        for name in tqdm(model, desc="multisine", disable=len(model) < 2)
    ]
    combs = [spectrum.comb(seed=seed) for spectrum in spectra]
    written = spectra_report.write_report(out, spectra, combs)
    if images and out.suffix.lower() != ".html":
        written += _draw(out, spectra_report.figures(spectra, combs))
    table: Any = spectra_report.comb_table(spectra, combs)
    _say(table.groupby("model", sort=False).head(8), written)


def _series(name: str) -> TimeSeries:
    if name not in datasets.__all__:
        raise interp.errors.InvalidInput(
            f"--series {name}: there are {', '.join(datasets.__all__)}.{nearest(name, datasets.__all__)}"
        )
    return getattr(datasets, name)()


@app.command()
@guarded
def sweep(
    model: Models,
    out: Out = Path("out"),
    repetitions: Annotated[str, typer.Option(help="As 2,4,6 or 1-4.")] = "2,4,6,8,10",
    sequence_lengths: Annotated[str, typer.Option(help="Likewise.")] = "2,4,6,8,10",
    seeds: Annotated[str, typer.Option(help="Likewise.")] = "0-2",
    batch_size: int = 100,
    vocab_range: Range = None,
    store: Annotated[
        Path | None, typer.Option(help="Where results are kept: an interrupted run goes on there.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes; -1 for one a core.")] = 1,
    threshold: float = THRESHOLD,
    dtype: Weights = Dtype.float32,
    device: str = "cpu",
    images: Images = True,
) -> None:
    """The induction mosaic over repetitions, lengths and seeds: explorer page, pictures, Parquet and table."""
    check_out(out)
    found = induction_sweep(
        model,
        repetitions=_numbers("repetitions", repetitions),
        sequence_lengths=_numbers("sequence-lengths", sequence_lengths),
        seeds=_numbers("seeds", seeds),
        store=store,
        n_jobs=jobs,
        dtype=getattr(torch, dtype.value),
        device=device,
        batch_size=batch_size,
        vocab_range=vocab_range,
    )
    written = sweep_report.write_report(out, found, threshold)
    if images and out.suffix.lower() != ".html":
        written += _draw(out, sweep_report.figures(found, threshold))
    typer.echo(f"heads with a score of at least {threshold:g}, mean over {len(found.axes['seed'])} seeds")
    _say(sweep_report.count_table(found, threshold), written)


@app.command()
@guarded
def questions(
    model: Models,
    out: Out = Path("out"),
    repetitions: Annotated[str, typer.Option(help="As 2,4,6 or 1-4.")] = "2,4,6,8,10",
    sequence_lengths: Annotated[str, typer.Option(help="Likewise.")] = "2,4,6,8,10",
    seeds: Annotated[str, typer.Option(help="Three or more, as 0-4.")] = "0-4",
    batch_size: int = 100,
    draws: Annotated[int, typer.Option(help="Of multisines.")] = 40,
    store: Annotated[Path | None, typer.Option(help="Where the sweeps are kept.")] = None,
    dtype: Weights = Dtype.float32,
    device: str = "cpu",
    images: Images = True,
) -> None:
    """The four open questions and the sources' claims, on some models: page, pictures and tables."""
    check_out(out)
    answers = question_report.answer(
        [interp.load(name, dtype=getattr(torch, dtype.value), device=device) for name in model],
        repetitions=_numbers("repetitions", repetitions),
        sequence_lengths=_numbers("sequence-lengths", sequence_lengths),
        seeds=_numbers("seeds", seeds),
        batch_size=batch_size,
        draws=draws,
        store=store,
    )
    written = question_report.write_report(out, answers)
    if images and out.suffix.lower() != ".html":
        written += _draw(out, question_report.figures(answers))
    claims: Any = answers.claims
    _say(claims[["claim", "on", "value", "low", "high", "verdict"]], written)


if __name__ == "__main__":
    app(prog_name="python -m probes")
