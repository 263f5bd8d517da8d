"""The loss by position: how well each next token is predicted, before and after a sequence begins to repeat.

`loss[t]` is the cross-entropy of token t + 1 as predicted at position t. On `S S` of n tokens each it is at chance up
to t = n - 1: nothing has followed the last token of the first S yet, so the first repeated token cannot be predicted.
From t = n on the current token has come before, and what followed it then is the next token. A `bos` or start token in
front moves all by one.

An encoder-decoder has read the whole sequence in the encoder before its decoder begins, so no drop is expected at its
half-way point.

Source: nnsight's tutorial on induction heads in GPT-2; Olsson et al. 2022.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp import Batch, Model, capture
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.models.model import as_model
from interp.results.by_head import provenance
from interp.results.frame import Frame
from interp.results.result import Floats, Result, frozen
from interp.results.statistics import interval
from interp.validate import whole
from probes.stimuli.repeated_sequences import RepeatedSequences, sequences_for


@dataclass(frozen=True, eq=False, repr=False)
class PositionLoss(Result):
    """Cross-entropy of each next token by position, in nats.

    Attributes:
        rows: `[row, pos]`, where `pos` t is the prediction of the token after t; NaN at padding.
        split: the first position of the second half: the first at which a repeated sequence can be continued, or the
            middle of tokens that do not repeat.
        provenance: the model, its weights' digest, the stimulus, versions.
    """

    rows: Floats
    split: int
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    KIND = "position-loss"
    VERSION = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", frozen(self.rows))
        if self.rows.ndim != 2 or not self.rows.size:
            raise InvalidInput(f"rows must be [row, pos] and not empty; found {list(self.rows.shape)}.")
        if whole("split", self.split, 1) > self.rows.shape[1]:
            raise InvalidInput(f"split={self.split} of {self.rows.shape[1]} positions.")

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.provenance.get("model", "model"))

    @property
    def mean(self) -> Floats:
        """The mean over rows, `[pos]`; NaN where every row is padding."""
        return self._by_position[0]

    @property
    def bounds(self) -> tuple[Floats, Floats]:
        """Student's 95 % interval of the mean, low and high `[pos]`; NaN where fewer than three rows have a loss."""
        return self._by_position[1], self._by_position[2]

    @cached_property
    def _by_position(self) -> tuple[Floats, Floats, Floats]:
        low, high = interval(self.rows.T)
        return frozen([_mean(column) for column in self.rows.T]), frozen(low), frozen(high)

    @cached_property
    def halves(self) -> tuple[Floats, Floats]:
        """The mean over the positions of each half by row, `[row]`; NaN where a row has none there."""
        first, second = self.rows[:, : self.split], self.rows[:, self.split :]
        return frozen([_mean(row) for row in first]), frozen([_mean(row) for row in second])

    @property
    def drop(self) -> float:
        """The first half's mean less the second's, mean over rows, in nats."""
        return _mean(self.halves[0] - self.halves[1])

    def summary(self) -> pd.DataFrame:
        """Tabulate the mean of each half and the drop.

        Returns:
            Rows `first half`, `second half`, `drop` (the first less the second, row by row) and `drop at once` (the
            position before the half-way point less the one at it): `part, loss, low, high, n`, a mean with Student's
            95 % interval over n rows.
        """
        first, second = self.halves
        sides = self.rows[:, self.split - 1 : self.split + 1]
        at_once = sides[:, 0] - sides[:, 1] if sides.shape[1] == 2 else np.full(len(self.rows), np.nan)
        parts = {"first half": first, "second half": second, "drop": first - second, "drop at once": at_once}
        return Frame(
            [(name, *_over_rows(values)) for name, values in parts.items()],
            columns=["part", "loss", "low", "high", "n"],
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row per position: `model, position, half` (1 or 2), `loss, low, high, n`, over n rows."""
        positions = np.arange(self.rows.shape[1])
        return Frame(
            {
                "model": self.name,
                "position": positions,
                "half": np.where(positions < self.split, 1, 2),
                "loss": self.mean,
                "low": self.bounds[0],
                "high": self.bounds[1],
                "n": (~np.isnan(self.rows)).sum(0),
            }
        )

    @classmethod
    def _of_old(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {"rows": frozen(content["rows"]), "split": content["split"], "provenance": dict(content["provenance"])}

    def _shown(self) -> pd.DataFrame:
        return self.summary()


@checked
def position_loss(model: Model, batch: Batch | None = None, **stimulus: Any) -> PositionLoss:
    """Measure the cross-entropy of each next token by position, in nats.

    Args:
        model: of an encoder-decoder the decoder's tokens are read, teacher-forced.
        batch: any tokens. The halves of a batch from `repeated_sequences` are before and after repeats can be
            predicted; others part in the middle of the columns, padding counted; or
        stimulus: parameters of `repeated_sequences`, such as `sequence_length=50, seed=0`; `repetitions=1` is the
            control, in which no loss should drop.

    Returns:
        The losses `[row, pos]` of the token that comes next in the row, across padding. Padding and a row's last token
        have none.

    Raises:
        InvalidInput: one decoder token a row, which leaves nothing to predict, or both a batch and parameters.

    Source: nnsight's tutorial on induction heads in GPT-2.
    """
    as_model(model).require("tokens")
    tokens = sequences_for(model, batch, stimulus, 1) if batch is None or stimulus else batch
    ids, shown = tokens.decoder_input_ids.cpu(), tokens.decoder_attention_mask.cpu().bool()
    if ids.shape[1] < 2:
        raise InvalidInput("one decoder token a row leaves no next one to predict: give two or more.")
    logits = capture(model, tokens, "decoder.logits")["decoder.logits"]
    following, known = _next(ids, shown)
    # Row by row: a vocabulary of words times all positions is large in float32.
    wide = torch.promote_types(logits.dtype, torch.float32)
    rows = [
        torch.nn.functional.cross_entropy(row[:-1].to(wide), target.to(row.device), reduction="none").cpu().double()
        for row, target in zip(logits, following, strict=True)
    ]
    losses = torch.stack(rows).masked_fill(~known, torch.nan)
    source = (
        provenance(model, name="repeated_sequences", **tokens.parameters)
        if isinstance(tokens, RepeatedSequences)
        else provenance(model, name="batch", rows=len(tokens), tokens=ids.shape[1])
    )
    return PositionLoss(losses.numpy(), _split(tokens), source)


def _next(ids: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Return each token's next one in its row, across padding, and where there is one: `[row, pos - 1]`."""
    size = ids.shape[1]
    places = torch.where(shown, torch.arange(size), size)
    # The smallest place from each position on, of those that come after it.
    after = places.flip(1).cummin(1).values.flip(1)[:, 1:]
    return ids.gather(1, after.clamp(max=size - 1)), shown[:, :-1] & (after < size)


def _split(tokens: Batch) -> int:
    """Return the first position of the second half: where the first repeated token has been read, or the middle."""
    if not isinstance(tokens, RepeatedSequences):
        return tokens.decoder_input_ids.shape[1] // 2
    length = tokens.sequence_length
    return tokens.first + (length if tokens.repetitions > 1 else length // 2)


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _over_rows(values: Floats) -> tuple[float, float, float, int]:
    """Return the mean of the rows that are known, its 95 % interval, and their number."""
    low, high = interval(values)
    return _mean(values), float(low), float(high), int((~np.isnan(values)).sum())
