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
from probes.induction.mosaic import THRESHOLD, Mosaic
from probes.stimuli.repeated_tokens import DEFAULT_TOKENS


@cache
def _data() -> dict[str, Any]:
    return json.loads((files("probes") / "data" / "published_mosaics.json").read_text())


@checked
def published(model_name: str) -> tuple[Mosaic, ...]:
    """Return the mosaics whose scores were published for a model, one a run.

    The published table (`published_table`) counts 8 and 33 *right* heads for small and large. The first run's scores
    have 9 and 31 at 0.3, so the table is of runs whose scores are not among these. For mini and base it is of the first
    run, or of one with the same counts.

    Args:
        model_name: such as `amazon/chronos-t5-small`, or `chronos-t5-small`.

    Returns:
        Mosaics with scores only: no standard errors, attention to EOS or accuracy. Their provenance names the file of
        each run (`source`), the table's counts for the model (`table_counts`), and whether the scores have these
        counts (`agrees_with_table`).

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
    """Return the published counts at 0.3: `model, parameters, current_token, token_to_right`.

    For small and large they are of a run whose scores are not in `published`.
    """
    return Frame(_data()["published_table"])


def _mosaic(run: dict[str, Any]) -> Mosaic:
    kinds = ("current_token", "token_to_right")
    (row,) = (row for row in _data()["published_table"] if row["model"] == run["model"])
    table = {kind: row[kind] for kind in kinds}
    own = {kind: int((np.array(run[kind]) >= THRESHOLD).sum()) for kind in kinds}
    source = {
        "model": run["model"],
        "digest": None,
        "n_parameters": None,
        "dtype": run["dtype"],
        "origin": f"{_data()['origin']}: {run['source']}",
        "source": run["source"],
        "table_counts": table,
        "agrees_with_table": own == table,
        "stimulus": {
            "name": "repeated_random_tokens",
            "batch_size": run["batch_size"],
            "sequence_length": run["sequence_length"],
            "repetitions": run["repetitions"],
            "vocab_range": list(DEFAULT_TOKENS),
            "sub_extension": 1,
        },
    }
    current, right = (HeadScores(kind, "decoder.cross", np.array(run[kind]), provenance=source) for kind in kinds)
    return Mosaic(
        current_token=current,
        token_to_right=right,
        n_tokens=run["sequence_length"] * run["repetitions"] + 2,
        provenance=source,
    )
