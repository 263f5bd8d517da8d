"""Ablate heads on series of your own: do the induction heads make the forecast?

Run it as `python examples/ablate_your_series.py`, or with a CSV file behind it: dates in the first column, the series
in the second. Without one it takes the monthly air passengers.

The heads are chosen on repeated random tokens, so not on the series. Beside the ablation stand two edits that a user
might write: the heads are ablated from the second step on, and what they write is halved. All forecasts share their
random numbers. The control is another random set of as many heads of the same layers.
"""

import sys

import pandas as pd

import circuits
import interp
import probes


def main(csv: str = "", season: str = "12", figure: str = "ablate_your_series.html") -> None:
    """Forecast the last 24 steps with and without the induction heads, print what changes, and draw it."""
    series = probes.datasets.air_passengers().to_series()
    if csv:
        series = pd.read_csv(csv, index_col=0, parse_dates=True).iloc[:, 0]
    model = interp.load("pico-t5")
    heads = [head.address for head in probes.induction_mosaic(model).heads()]
    effects = circuits.forecast_effects(
        model,
        series,
        {
            "no induction heads": heads,
            "from step 2 on": [interp.Zero(head, positions=slice(1, None)) for head in heads],
            "halved": [interp.Scale(head, 0.5) for head in heads],
        },
        season=int(season),
        controls=1,
        num_samples=10,
        progress=False,
    )
    table = effects.summary().query("outcome == 'mase'")
    print(table[["ablation", "unedited", "ablated", "change", "control"]].round(2).to_string(index=False))
    circuits.plots.forecast_fan(effects).write_html(figure)
    print("written:", figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
