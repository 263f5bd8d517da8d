"""Commands are reports with shared options: all ten take them in the same way, and say the same of each."""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner, Result

import circuits.__main__ as circuits_command
import interp
import probes.__main__ as probes_command
from interp.output.command import SETTINGS, Models, report_command, whole_numbers
from interp.output.report import Report, Section, as_text
from tests.probes.plots.test_mosaics import needs_browser

runner = CliRunner()
SHARED = {"model": list[str], "out": Path, "device": str, "images": bool}
COMMANDS = {
    f"{package} {command.name}": command.callback
    for package, module in (("probes", probes_command), ("circuits", circuits_command))
    for command in module.app.registered_commands
}
SMALL = {
    "circuits attribute": ["--batch-size", "3"],
    "circuits patch": ["--batch-size", "3"],
    "circuits composition": ["--top", "3"],
}


def test_there_are_ten() -> None:
    assert len(COMMANDS) == 10


@pytest.mark.parametrize("name", COMMANDS)
def test_all_take_the_shared_options_in_the_same_way(name: str) -> None:
    callback: Any = COMMANDS[name]
    parameters = inspect.signature(callback).parameters
    assert list(parameters)[:2] == ["model", "out"]
    assert list(parameters)[-3:] == ["dtype", "device", "images"]
    assert "seed" in parameters or "seeds" in parameters
    assert "progress" not in parameters
    for option, kind in SHARED.items():
        assert parameters[option].annotation.__args__[0] == kind
    for option, parameter in parameters.items():
        text = parameter.annotation.__metadata__[0].help
        assert text, f"{name}: --{option} has no words"
        assert text[0].isupper(), f"{name}: --{option}"
        assert text.endswith("."), f"{name}: --{option}"


@pytest.mark.parametrize("name", SMALL)
def test_several_models_are_on_one_page(name: str, tmp_path: Path) -> None:
    package, command = name.split()
    app = {"probes": probes_command, "circuits": circuits_command}[package].app
    page = tmp_path / "page.html"
    models = ["--model", "pico-t5", "--model", "pico-t5-induction"]
    result = runner.invoke(app, [command, *models, "--out", str(page), *SMALL[name]])
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    headings = [part.split("</h2>")[0] for part in page.read_text().split("<h2>")[1:]]
    assert {heading.split(":")[0] for heading in headings} == {"pico-t5", "pico-t5-induction"}


def small(
    models: Models,
    *,
    numbers: Annotated[Sequence[int], whole_numbers] = (1, 2),
    scale: float = 2.0,
    progress: bool = True,
) -> Report:
    """Count the heads of some models.

    Not a line of the help.

    Args:
        models: the models.
        numbers: Numbers to add up,
            as 2,4.
        scale: A `scale`.
    """
    rows = [{"model": m.name, "dtype": str(m.dtype), "total": scale * sum(numbers)} for m in models]
    table = pd.DataFrame(rows)
    return Report("small", "Small", [Section("rows", "Rows", table=table, brief=as_text(table))])


def invoke(*arguments: str) -> Result:
    app = typer.Typer(**SETTINGS)
    app.command("small")(report_command(small))
    return runner.invoke(app, list(arguments))


def test_the_docstring_is_the_help() -> None:
    words = " ".join(invoke("--help").output.replace("│", " ").split())
    assert "Count the heads of some models." in words
    assert "Not a line" not in words
    assert "Numbers to add up, as 2,4. [default: 1,2]" in " ".join(
        part for part in words.split() if part not in ("<str>",)
    )
    assert "A scale." in words


def test_options_are_parsed_before_models_are_opened(tmp_path: Path) -> None:
    result = invoke("--model", "no-such-model", "--numbers", "2,x", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert result.output == "error: --numbers 2,x: give whole numbers, as 2,4,6 or 0-4.\n"
    result = invoke("--model", "pico-t5", "--numbers", "1-3,10", "--dtype", "bfloat16", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "rows.csv")
    assert table.values.tolist() == [["pico-t5", "torch.bfloat16", 32.0]]
    assert f"written: {tmp_path / 'small.html'} and 1 file beside it" in result.output


def test_models_are_opened_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def load(name: str, **_: Any) -> None:
        opened.append(name)

    monkeypatch.setattr("interp.output.command.load", load)
    models: Iterator[interp.Model] = iter(Models(["a", "b"]))
    next(models)
    assert opened == ["a"]
    assert len(Models(["a", "b"])) == 2


@needs_browser
def test_pictures_and_a_missing_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = probes_command.app
    arguments = ["mosaic", "--model", "pico-t5", "--batch-size", "5", "--out"]
    assert runner.invoke(app, [*arguments, str(tmp_path / "drawn")]).exit_code == 0
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 4

    def missing(*_: Any, **__: Any) -> None:
        raise interp.errors.MissingBrowser("no browser here.")

    monkeypatch.setattr("interp.output.report.write_images", missing)
    result = runner.invoke(app, [*arguments, str(tmp_path / "bare")])
    assert result.exit_code == 0
    assert "note: no browser here." in result.output
    assert not list((tmp_path / "bare").glob("*.png"))
