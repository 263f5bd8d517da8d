"""The published induction mosaics of Amazon's models, shipped as data.

Source: "Hunting for Induction Heads in Amazon's Chronos", repository hasithv/chronos_induction.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from interp.arguments import checked
from interp.errors import UnknownModel, nearest
from interp.results.by_head import HeadScores
from interp.results.frame import Frame
from probes.induction.mosaic import Mosaic
from probes.stimuli.repeated_tokens import DEFAULT_TOKENS


@cache
def _data() -> dict[str, Any]:
    return json.loads((files("probes") / "data" / "published_mosaics.json").read_text())


@checked
def published(model_name: str) -> tuple[Mosaic, ...]:
    """Return the published mosaics of a model, one a run; the published table is of the first run.

    Args:
        model_name: such as `amazon/chronos-t5-small`, or `chronos-t5-small`.

    Returns:
        Mosaics with scores only: no standard errors, attention to EOS or accuracy.

    Raises:
        UnknownModel: nothing was published for this name.
    """
    known = sorted({run["model"] for run in _data()["runs"]})
    full = str(model_name) if "/" in str(model_name) else f"amazon/{model_name}"
    if full not in known:
        raise UnknownModel(
            f"no mosaic was published for {model_name!r}; there are {', '.join(known)}.{nearest(full, known)}"
        )
    return tuple(_mosaic(run) for run in _data()["runs"] if run["model"] == full)


def published_table() -> pd.DataFrame:
    """Return the published counts at 0.3: `model, parameters, current_token, token_to_right`."""
    return Frame(_data()["published_table"])


def _mosaic(run: dict[str, Any]) -> Mosaic:
    source = {
        "model": run["model"],
        "digest": None,
        "n_parameters": None,
        "dtype": run["dtype"],
        "origin": f"{_data()['origin']}: {run['source']}",
        "stimulus": {
            "name": "repeated_random_tokens",
            "batch_size": run["batch_size"],
            "sequence_length": run["sequence_length"],
            "repetitions": run["repetitions"],
            "vocab_range": list(DEFAULT_TOKENS),
            "sub_extension": 1,
        },
    }
    current, right = (
        HeadScores(kind, "decoder.cross", np.array(run[kind]), provenance=source)
        for kind in ("current_token", "token_to_right")
    )
    return Mosaic(
        current_token=current,
        token_to_right=right,
        n_tokens=run["sequence_length"] * run["repetitions"] + 2,
        provenance=source,
    )
