"""What the command lines of all packages share."""

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import ParamSpec

import typer

from interp.errors import InterpError

P = ParamSpec("P")


class Dtype(StrEnum):
    """What weights can be opened in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A command that shows the toolkit's own errors as one line and ends with status 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except InterpError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None

    return run
