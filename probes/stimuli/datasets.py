"""Real series that ship with the package, small and in the public domain.

Source: Box & Jenkins 1976, Series G (air passengers); National Geophysical Data Center (sunspots);
NOAA, ERSST.V3B, Nino 1+2 (El Nino); Keeling & Whorf 2004, flask samples (CO2).
"""

from importlib.resources import files

import pandas as pd

from interp.zoo.benchmark import air_passengers as _air_passengers
from probes.stimuli.time_series import TimeSeries


def _read(file: str, column: str, spacing: float, name: str) -> TimeSeries:
    with (files("probes") / "data" / file).open() as content:
        frame = pd.read_csv(content)
    dates = pd.to_datetime(frame.iloc[:, 0].astype(str), format="%Y" if spacing == 1 else "%Y-%m")
    return TimeSeries(
        frame[column].to_numpy(dtype=float), spacing, "year", name, index=pd.DatetimeIndex(dates, name=None)
    )


def air_passengers() -> TimeSeries:
    """Return monthly airline passengers in thousands, 1949-1960: 144 steps, a season of 12, growth."""
    values = _air_passengers()
    months = pd.date_range("1949-01", periods=len(values), freq="MS")
    return TimeSeries(values, 1 / 12, "year", "air passengers", index=months)


def sunspots() -> TimeSeries:
    """Return yearly sunspot numbers, 1700-2008: 309 steps, a cycle of about 11 years."""
    return _read("sunspots.csv", "sunspots", 1.0, "sunspots")


def el_nino() -> TimeSeries:
    """Return monthly sea surface temperature off Peru in degrees Celsius, 1950-2010: 732 steps, a season of 12.

    Longer than the context of most models: `el_nino().last(512)`.
    """
    return _read("el_nino.csv", "temperature", 1 / 12, "El Nino")


def mauna_loa_co2() -> TimeSeries:
    """Return monthly mean CO2 at Mauna Loa in parts per million, 1964-2001: 452 steps, growth and a small season."""
    return _read("mauna_loa_co2.csv", "co2", 1 / 12, "Mauna Loa CO2")


__all__ = ["air_passengers", "el_nino", "mauna_loa_co2", "sunspots"]
