"""A probe of your own: which heads look at the largest value of a series?

Run it as `python examples/probe_of_your_own.py`, or with another model's name or directory behind it.

The score is the attention of the decoder's last token to the largest value of the context. The control is the same
series with their values in random order. A head that looks for large values scores alike on both. A head that scores
on the series alone looks at a place, or at what stands around the largest value.
"""

import sys

import numpy as np
from torch import Tensor

import interp
import probes


def to_largest(pattern: Tensor, batch: interp.Batch) -> Tensor:
    """Return the attention of the last query to the largest value of each row, `[batch, head]`."""
    largest = batch.input_ids == batch.input_ids.amax(1, keepdim=True)  # ids rise with the value; EOS is lowest
    return (pattern[:, :, -1] * largest[:, None]).sum(-1)


def main(name: str = "pico-t5", figure: str = "probe_of_your_own.html") -> None:
    """Score all cross-attention heads, print the strongest beside the control, and draw them."""
    model = interp.load(name)
    rng = np.random.default_rng(0)
    series = rng.normal(size=(50, 64)).cumsum(1)
    scores = interp.score_heads(model, interp.Batch.from_series(model, series), to_largest)
    shuffled = interp.Batch.from_series(model, rng.permuted(series, axis=1))
    control = interp.score_heads(model, shuffled, to_largest)

    table = scores.to_frame()[["head", "score", "stderr"]]
    table["control"] = control.to_frame()["score"]
    print(table.sort_values("score", ascending=False).head(5).round(3).to_string(index=False))
    probes.plots.head_scores(scores).write_html(figure)
    print("written:", figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
