"""The circuits' command line: `python -m circuits ablate | composition | attribute | patch | discover`."""

import typer

from circuits.reports.ablation import ablate
from circuits.reports.attributions import attribute
from circuits.reports.compositions import composition
from circuits.reports.discovery import discover
from circuits.reports.patching import patch
from interp.output.command import SETTINGS, report_command

app = typer.Typer(**SETTINGS, help=__doc__)
for report in (ablate, composition, attribute, patch, discover):
    app.command(report.__name__)(report_command(report))

if __name__ == "__main__":
    app(prog_name="python -m circuits")
