"""Commands made from reports: the options that all share, and one line for what is wrong.

A report is a function `(model, *, ...) -> Report`, or `(models, *, ...) -> Report` where it sets models side by side.
`report_command` turns it into a command in four steps:

1. the shared options `--model`, `--out`, `--dtype`, `--device` and `--images` stand beside the function's own, and
   `--column` beside an option that reads a file of columns;
2. the function's docstring gives the help: its first line, and for each option its line under `Args:`;
3. options are parsed and the place is checked before any model is opened;
4. the report is written, its figures are drawn, and its brief lines are printed.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, get_args, get_origin

import torch
import typer

from interp.errors import InterpError, InvalidInput, MissingBrowser
from interp.models.model import Model
from interp.models.opening import load
from interp.output.progress import late_bar
from interp.output.report import Report, check_out, is_page, joined
from interp.output.style import unique

P = ParamSpec("P")
SETTINGS: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "pretty_exceptions_enable": False}
"""Settings of every package's command line."""


class Dtype(StrEnum):
    """The types that weights can be opened in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


@dataclass(frozen=True)
class Models:
    """Models by name, each opened when its turn comes, so that one after the other fits the memory."""

    names: Sequence[str]
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __iter__(self) -> Iterator[Model]:
        for name in late_bar(self.names, desc="models", progress=len(self.names) > 1):
            yield load(name, dtype=self.dtype, device=self.device)

    def __len__(self) -> int:
        return len(self.names)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Return a command that shows the toolkit's own errors as one line and ends with status 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InterpError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None

    return run


def report_command(make: Callable[..., Report]) -> Callable[..., None]:
    """Turn a function that makes a report into a command.

    Args:
        make: takes a `model`, or `models` to set side by side, and keyword options with defaults. An option that is
            written as text has the type `Annotated[..., parser]`, and `parser(option, text)` returns its value; a
            parser of files takes a `column` too.

    Returns:
        The command, for `Typer.command()`. With several models a function of one model runs for each of them, on one
        page. `progress` is no option.
    """
    subject, *parameters = inspect.signature(make, eval_str=True).parameters.values()
    own = [parameter for parameter in parameters if parameter.name != "progress"]
    parsers = {p.name: get_args(p.annotation)[1] for p in own if get_origin(p.annotation) is Annotated}
    of_columns = {name for name, parser in parsers.items() if "column" in inspect.signature(parser).parameters}

    def parsed(name: str, value: Any, column: str) -> Any:
        if name not in parsers:
            return value
        return parsers[name](name, value, column) if name in of_columns else parsers[name](name, value)

    def command(model: list[str], out: Path, dtype: Dtype, device: str, images: bool, **options: Any) -> None:
        check_out(out)
        column = options.pop("column", "")
        values = {name: parsed(name, value, column) for name, value in options.items()}
        models = Models(model, getattr(torch, dtype.value), device)
        if subject.name == "models":
            report = make(models, **values)
        else:
            names = unique(model)
            report = joined({name: make(one, **values) for name, one in zip(names, models, strict=True)})
        _finish(report, out, images)

    help_of = _help(make)
    options = [_option(parameter, help_of, text=parameter.name in parsers) for parameter in own]
    for place in [i for i, parameter in enumerate(own, start=1) if parameter.name in of_columns]:
        options.insert(place, inspect.signature(_of_file).parameters["column"])
    shared = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(_shared).parameters.values()]
    signature = inspect.Signature([*shared[:2], *options, *shared[2:]])
    run: Any = guarded(command)
    run.__name__, run.__doc__ = make.__name__, inspect.getdoc(make).split("\n\n")[0]  # type: ignore[union-attr]
    run.__signature__ = signature
    run.__annotations__ = {name: p.annotation for name, p in signature.parameters.items()}
    return run


def _shared(
    model: Annotated[list[str], typer.Option(help="Bundled name, directory or hub name; repeat it for several.")],
    out: Annotated[Path, typer.Option(help="Folder for page, tables, results and pictures; or an .html file.")] = Path(
        "out"
    ),
    dtype: Annotated[Dtype, typer.Option(help="Type of the weights; the published notebook used bfloat16.")] = (
        Dtype.float32
    ),
    device: Annotated[str, typer.Option(help="Where the model runs, such as cuda.")] = "cpu",
    images: Annotated[bool, typer.Option(help="Draw the figures as PNG into the folder; this needs a browser.")] = True,
) -> None:
    """Hold the options that all commands share, in their order."""


def _of_file(
    *, column: Annotated[str, typer.Option(help="Column of the file, where it has several of numbers.")] = ""
) -> None:
    """Hold the option beside one that reads a file."""


def _finish(report: Report, out: Path, images: bool) -> None:
    """Write a report, draw its figures, and print its brief lines and the files."""
    written = report.write(out)
    if images and not is_page(out):
        try:
            written += report.draw(out)
        except MissingBrowser as error:
            typer.echo(f"note: {error}", err=True)
    beside = len(written) - 1
    others = f" and {beside} file{'s' if beside > 1 else ''} beside it" if beside else ""
    typer.echo(f"{report.brief}\n\nwritten: {written[0]}{others}")


def _option(parameter: inspect.Parameter, help_of: Mapping[str, str], *, text: bool) -> inspect.Parameter:
    option = typer.Option(help=help_of.get(parameter.name, ""))
    kind, default = (str, text_of(parameter.default)) if text else (parameter.annotation, parameter.default)
    return inspect.Parameter(
        parameter.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _help(make: Callable[..., Any]) -> dict[str, str]:
    """Return the lines under `Args:` of a docstring by argument."""
    section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(make) or "", re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*?)(?=\n    \w|\Z)", section[1] if section else "", re.DOTALL | re.MULTILINE)
    return {name: re.sub(r"\s+", " ", words).replace("`", "") for name, words in entries}


def text_of(value: Any) -> str:
    """Return an option's default as it is typed: numbers with commas between them, and nothing for None."""
    return value if isinstance(value, str) else ",".join(f"{number:g}" for number in value or ())


def whole_numbers(option: str, text: str) -> list[int]:
    """Read whole numbers such as `2,4,6` or `0-4`, both ends included.

    Raises:
        InvalidInput: something else.
    """
    try:
        ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    except ValueError:
        ends = []
    numbers = [list(range(first, last + 1)) for first, *rest in ends for last in [rest[0] if rest else first]]
    if not numbers or not all(numbers) or any(len(part) > 2 for part in ends):
        raise InvalidInput(f"--{option.replace('_', '-')} {text}: give whole numbers, as 2,4,6 or 0-4.")
    return [number for part in numbers for number in part]


def decimals(option: str, text: str) -> list[float]:
    """Read numbers such as `5,10,20`.

    Raises:
        InvalidInput: something else.
    """
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise InvalidInput(f"--{option.replace('_', '-')} {text}: give numbers, as 5,10,20,40.") from None


def addresses(option: str, text: str) -> list[str]:
    """Read addresses such as `decoder.cross.1.2,decoder.cross.2.*`.

    Raises:
        InvalidInput: an empty one.
    """
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(parts):
        raise InvalidInput(
            f"--{option.replace('_', '-')} {text}: give addresses, as decoder.cross.1.2,decoder.cross.2."
        )
    return parts
