"""Every command and every option of the three command lines says what it is."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import circuits.__main__ as circuits_command
import interp.__main__ as interp_command
import probes.__main__ as probes_command

APPS = {"interp": interp_command.app, "probes": probes_command.app, "circuits": circuits_command.app}
GROUPS: dict[str, Any] = {name: typer.main.get_command(app) for name, app in APPS.items()}
COMMANDS = [(package, name) for package, group in GROUPS.items() for name in group.commands]


def test_all_commands_are_walked() -> None:
    assert len(COMMANDS) >= 13
    assert {"train", "questions", "discover"} <= {name for _, name in COMMANDS}


@pytest.mark.parametrize(("package", "name"), COMMANDS)
def test_every_option_has_a_help_text(package: str, name: str) -> None:
    command = GROUPS[package].commands[name]
    assert command.help
    for parameter in command.params:
        text = parameter.help or ""
        assert len(text) > 10, f"python -m {package} {name}: {parameter.opts} says {text!r}"
        assert text[0].isupper(), f"{parameter.opts}: {text}"
        assert text.endswith("."), f"{parameter.opts}: {text}"
        assert "`" not in text, f"{parameter.opts}: {text}"


@pytest.mark.parametrize(("package", "name"), COMMANDS)
def test_help_fits_a_terminal(package: str, name: str) -> None:
    result = CliRunner().invoke(APPS[package], [name, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    for parameter in GROUPS[package].commands[name].params:
        assert max(parameter.opts, key=len).lstrip("-")[:10] in result.output.lower()
