"""The instrument's command line: which models there are, what is in one, how to train one."""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from interp import Model, load, zoo
from interp.errors import MissingFile
from interp.models.checkpoints import PUBLISHED, TEXT
from interp.models.opening import check_device
from interp.output.command import Dtype, guarded
from interp.validate import whole

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
@guarded
def models() -> None:
    """List the models that can be opened by name: bundled ones, and Amazon's and plain GPT-2s on the hub."""
    for name in zoo.names():
        size = sum(f.stat().st_size for f in zoo.path(name).iterdir()) / 1e6
        typer.echo(f"{name:28} bundled, {size:.1f} MB, {zoo.path(name)}")
    for name in (*PUBLISHED, *TEXT):
        typer.echo(f"{name:28} on the Hugging Face hub")


@app.command()
@guarded
def info(
    model: Annotated[str, typer.Argument(help="Bundled name, directory or hub name.")],
    dtype: Annotated[Dtype, typer.Option(help="Type of the weights.")] = Dtype.float32,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cuda.")] = "cpu",
) -> None:
    """Print sizes, tokens, heads and sites of a model, after checking its hook points."""
    opened = load(model, dtype=getattr(torch, dtype.value), device=device)
    kinds = [".".join(kind) for kind in opened.family.kinds]
    rows = {
        "model": opened.name,
        "family": opened.family.name,
        "layers": ", ".join(f"{count} {stack}" for stack, count in opened.n_layers.items() if count),
        "heads": f"{opened.n_heads} a layer of {opened.d_head}: "
        + ", ".join(f"{len(opened.heads(kind))} {kind}" for kind in kinds),
        "d_model": opened.d_model,
        **_what_it_reads(opened),
        "parameters": f"{opened.n_parameters:,}",
        "weights": opened.digest,
        "hook points": "live, patterns sum to 1",
        "sites": f"{len(opened.sites())}: {', '.join(sorted({s.name for s in opened.sites()}))}",
    }
    for key, value in rows.items():
        typer.echo(f"{key:12} {value}")


def _what_it_reads(model: Model) -> dict[str, str]:
    if not model.reads_tokens:
        return {
            "reads": str(model.patching),
            "puts out": f"{model.horizon} steps in one pass, quantiles {' '.join(f'{at:g}' for at in model.levels)}",
        }
    if not model.tokens_are_values:
        return {"tokens": f"{model.d_vocab}, no tokenizer for series", "context": f"{model.max_positions} positions"}
    chronos = model.chronos_config
    limits = " ".join(f"{key} {value:g}" for key, value in sorted(chronos.tokenizer_kwargs.items(), reverse=True))
    return {
        "tokens": f"{model.d_vocab}, {chronos.tokenizer_class} {limits}",
        "context": f"{chronos.context_length}, prediction {chronos.prediction_length}",
    }


@app.command()
@guarded
def train(
    out: Annotated[Path, typer.Option(help="Directory to write; a run that was interrupted there goes on.")],
    recipe: Annotated[
        Path | None, typer.Option(help="JSON with recipe fields to change; a model's training.json will do.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and data; the recipe's by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of training; the recipe's by default.")] = None,
    device: Annotated[str, typer.Option(help="Where the model is trained, such as cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; bundled models were trained on one.")] = 1,
    evaluate: Annotated[bool, typer.Option(help="Record the forecast errors that a model's card reports.")] = True,
) -> None:
    """Train a bundled model by its recipe, from the start or from where it was interrupted."""
    from interp.zoo.recipe import Recipe
    from interp.zoo.training import train as run

    changes = {key: value for key, value in {"seed": seed, "steps": steps}.items() if value is not None}
    chosen = Recipe.parse(recipe.read_text() if recipe and recipe.is_file() else "{}", changes)
    if recipe and not recipe.is_file():
        raise MissingFile(f"{recipe}: no such file.")
    torch.set_num_threads(whole("threads", threads, 1))
    check_device(device)
    run(chosen, out, device=device)
    if evaluate:
        from interp.zoo.benchmark import record_forecasts

        typer.echo(json.dumps(record_forecasts(out), indent=2))
    typer.echo(f"written: {out}")


if __name__ == "__main__":
    app(prog_name="python -m interp")
