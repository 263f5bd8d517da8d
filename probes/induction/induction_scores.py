"""Induction heads as nnsight's tutorial finds them: by attention to the token that followed the last occurrence.

On `S S` of n tokens each, the token after the earlier occurrence of query i stands at i - (n - 1). The tutorial takes
the mean of that diagonal of the pattern. Its first query is n - 1, the last token of the first S, for which nothing has
repeated yet: `induction` leaves it out, `induction_diagonal` is the tutorial's own score.

Source: nnsight's tutorial on induction heads in GPT-2; Olsson et al. 2022.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from interp import Batch, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.models.model import as_model
from interp.results.by_head import HeadScores, ScoredHead, provenance
from interp.results.frame import Frame
from interp.results.result import Result
from interp.validate import whole
from probes.induction.head_scores import SCORES, Keys, scores_by_keys
from probes.stimuli.repeated_sequences import sequences_for

REPEAT_SCORES = ("induction", "induction_diagonal", "previous_token", "duplicate_token")


def _diagonal(query: int, length: int) -> list[int]:
    return [query - length + 1]


_KEYS: dict[str, Keys] = SCORES | {"induction_diagonal": _diagonal}


@dataclass(frozen=True, eq=False, repr=False)
class InductionScores(Result):
    """Mean attention of the self-attention heads of one stack on a random sequence that repeats.

    Attributes:
        induction: to the token after the latest earlier occurrence, of the queries that have one.
        induction_diagonal: the tutorial's score: `induction` with the query before the first repeat.
        previous_token: to the token before.
        duplicate_token: to the latest earlier occurrence, of the queries that have one.
        sequence_length: tokens in the sequence; `induction` looks `sequence_length - 1` back.
        provenance: the model, its weights' digest, the stimulus, versions.
    """

    induction: HeadScores
    induction_diagonal: HeadScores
    previous_token: HeadScores
    duplicate_token: HeadScores
    sequence_length: int
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    KIND = "induction-scores"
    VERSION = 2

    def __post_init__(self) -> None:
        whole("sequence_length", self.sequence_length, 2)
        for name in REPEAT_SCORES:
            panel: HeadScores = getattr(self, name)
            if panel.site != self.site or panel.values.shape != self.induction.values.shape:
                raise InvalidInput(f"the scores must all be of one kind of attention and one shape: {name}.")

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.provenance.get("model", "model"))

    @property
    def site(self) -> str:
        """The kind of attention, such as `decoder.self`."""
        return self.induction.site

    def heads(self, threshold: float = -np.inf) -> tuple[ScoredHead, ...]:
        """Return the heads whose `induction` is at or over a threshold, strongest first; all by default."""
        return self.induction.heads(threshold)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head: `head`, each score and its `_stderr`, `layer, index, relative_layer, model`."""
        layers, heads = self.induction.values.shape
        frame = Frame({"head": [str(self.induction.head(i, j)) for i, j in np.ndindex(layers, heads)]})
        for name in REPEAT_SCORES:
            panel: HeadScores = getattr(self, name)
            frame[name] = panel.values.ravel()
            frame[f"{name}_stderr"] = np.nan if panel.stderr is None else panel.stderr.ravel()
        return frame.assign(
            layer=np.repeat(np.arange(layers), heads),
            index=np.tile(np.arange(heads), layers),
            relative_layer=np.repeat((np.arange(layers) + 1) / layers, heads),
            model=self.name,
        )

    @classmethod
    def _of_old(cls, content: dict[str, Any]) -> dict[str, Any]:
        panels = {name: HeadScores._of_contents(HeadScores._of_old(content[name])) for name in REPEAT_SCORES}
        return panels | {name: content[name] for name in ("sequence_length", "provenance")}

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("induction", ascending=False)


@checked
def induction_scores(
    model: Model, batch: Batch | None = None, *, site: str = "decoder.self", **stimulus: Any
) -> InductionScores:
    """Score attention `sequence_length - 1` places back, by self-attention head, on a random sequence that repeats.

    Args:
        batch: from `repeated_sequences`; or
        stimulus: its parameters, such as `sequence_length=50, seed=0`.
        site: the kind of attention: `decoder.self`, or `encoder.self` where there is an encoder, which sees both sides.

    Returns:
        Four scores by head, means over queries and rows with standard errors over rows.

    Raises:
        InvalidInput: cross-attention, a batch that does not know the sequence it repeats, one in which nothing
            repeats or which is padded among the repeated tokens, or both a batch and parameters.
        UnknownSite: a kind of attention that the model does not have.

    Source: nnsight's tutorial on induction heads in GPT-2, `pattern.diagonal(-(seq_len - 1)).mean()`.
    """
    as_model(model).require("tokens")
    if model.kind(site)[1] != "self":
        raise InvalidInput(f"site={site!r}: these are scores of self-attention; of {site}, probes.induction_mosaic.")
    tokens = sequences_for(model, batch, stimulus)
    source = provenance(model, name="repeated_sequences", **tokens.parameters)
    panels = scores_by_keys(model, tokens, {name: _KEYS[name] for name in REPEAT_SCORES}, site, source)
    return InductionScores(**panels, sequence_length=tokens.sequence_length, provenance=source)
