"""The series that a command is about: a bundled one, or one of the user's own from a CSV file."""

from pathlib import Path

from interp.errors import InvalidInput, MissingFile, nearest
from interp.inputs.csv_series import read_csv
from probes.stimuli import datasets
from probes.stimuli.time_series import TimeSeries, as_time_series


def own_series(option: str, text: str, column: str) -> TimeSeries | None:
    """Read the series that an option names; None where it names none.

    Args:
        text: a CSV file, or the name of a bundled series.
        column: the file's column, or nothing for its only one of numbers.

    Raises:
        MissingFile: no such file.
        InvalidInput: no such series; a column without a file; and as `interp.inputs.csv_series.read_csv`.
    """
    if text in ("", *datasets.__all__):
        if column:
            raise InvalidInput(f"--column {column} is a column of a CSV file: name it by --{option} FILE.csv.")
        return getattr(datasets, text)() if text else None
    if not Path(text).exists() and "." not in text:
        near = nearest(text, datasets.__all__)
        raise MissingFile(f"--{option} {text}: no such file, and bundled are {', '.join(datasets.__all__)}.{near}")
    return as_time_series(read_csv(text, column))
