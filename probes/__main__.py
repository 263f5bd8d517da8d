"""The probes' command line: `python -m probes mosaic | losses | multisine | sweep | questions --model pico-t5`."""

import typer

from interp.output.command import SETTINGS, report_command
from probes.reports.induction_sweeps import sweep
from probes.reports.mosaics import mosaic
from probes.reports.open_questions import questions
from probes.reports.position_losses import losses
from probes.reports.spectra import multisine

app = typer.Typer(**SETTINGS, help=__doc__)
for report in (mosaic, losses, multisine, sweep, questions):
    app.command(report.__name__)(report_command(report))

if __name__ == "__main__":
    app(prog_name="python -m probes")
