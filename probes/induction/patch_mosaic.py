"""The induction mosaic of a model that reads patches: three queries, on repeated patches and their controls.

1. The query is the decoder's one position (cross heads), [REG] or the last patch (encoder heads). At each a head is
   scored by its attention to the last patch's earlier occurrence (*current*) and to the patch after it (*right*).
2. The same is done on the four controls, in which a head that only looks at these positions scores as high.
3. The forecasts are held against what follows: pinball loss, and the distance of the median, in deviations.

Source: after "Hunting for Induction Heads in Amazon's Chronos", part 2; Olsson et al. 2022.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp import Model, capture
from interp.results.by_head import ScoredHead, over_rows, provenance
from interp.results.frame import Frame
from interp.results.quantile_losses import at_level, pinball_loss
from interp.results.result import Floats, Result
from probes.induction.mosaic import THRESHOLD, Mosaic
from probes.stimuli.repeated_patches import RepeatedPatches

REPEATED = "repeated"
QUERIES = ("decoder", "reg", "last_patch")
"""Where heads are read: cross heads at the decoder's position, encoder heads at [REG] and at the last patch."""


@dataclass(frozen=True, eq=False, repr=False)
class PatchMosaic(Result):
    """The scores of all cross heads and encoder heads on repeated random patches, and on the controls.

    Attributes:
        mosaics: by stimulus, `repeated` first, then its controls; then by query: `decoder`, `reg`, `last_patch`. A
            model without [REG] has no `reg`.
        losses: by stimulus, the pinball loss of the forecast, `[row]`, averaged over levels and the steps that follow,
            in deviations of the row's context.
        distances: by stimulus, the mean absolute distance of the median to what follows, likewise.
        fixed: heads whose query is the same for every input: what they look at comes from the keys.
        provenance: the model, its weights' digest, the stimulus, versions.
    """

    mosaics: dict[str, dict[str, Mosaic]]
    losses: dict[str, Floats]
    distances: dict[str, Floats]
    fixed: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    KIND = "patch-mosaic"

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.provenance.get("model", "model"))

    def __getitem__(self, query: str) -> Mosaic:
        """Return the mosaic of the repeated patches at a query."""
        return self.mosaics[REPEATED][query]

    def heads(self, threshold: float = THRESHOLD) -> tuple[ScoredHead, ...]:
        """Return the induction heads, each once with its stronger score and kind, strongest first.

        A head is one if a score reaches the threshold at any query. Whether it is above its controls says `to_frame`.
        """
        every = [head for mosaic in self.mosaics[REPEATED].values() for head in mosaic.heads(threshold)]
        strongest = {head.address: head for head in sorted(every, key=lambda head: head.score)}
        return tuple(sorted(strongest.values(), key=lambda head: -head.score))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head and query: the scores, and beside them the larger of the two on each control.

        `right_sum` and `occurrence_sum` are over all earlier occurrences, `reg` is the attention to [REG], and
        `fixed_query` says that the query is the same for every input.
        """
        parts: list[pd.DataFrame] = []
        for query, mosaic in self.mosaics[REPEATED].items():
            frame = mosaic.to_frame().rename(columns={"eos": "reg"})
            if mosaic.right_by_occurrence is not None:
                frame.insert(9, "right_sum", mosaic.right_by_occurrence.sum(-1).ravel())
            for name, queries in self.mosaics.items():
                if name != REPEATED:
                    frame[name] = queries[query].either.values.ravel()
            parts.append(frame.assign(query=query, fixed_query=frame["head"].isin(self.fixed)))
        frame = pd.concat(parts, ignore_index=True)
        return Frame(frame, columns=["head", "query", *frame.columns.drop(["head", "query"])])

    def summary(self, threshold: float = THRESHOLD) -> pd.DataFrame:
        """Return one row per stimulus and query: the strongest head, how many reach the threshold, and the forecasts.

        `pinball` and `distance` are means over rows, in deviations of the context; they are of the stimulus, whatever
        the query.
        """
        rows: list[dict[str, Any]] = []
        for name, queries in self.mosaics.items():
            for query, mosaic in queries.items():
                best, counts = mosaic.either.heads()[0], mosaic.counts(threshold)
                rows.append(
                    {
                        "stimulus": name,
                        "query": query,
                        "strongest": str(best.address),
                        "score": best.score,
                        "lift": best.score * mosaic.n_tokens,
                        "current_token": counts.current_token,
                        "token_to_right": counts.token_to_right,
                        "heads": counts.n_heads,
                        "pinball": self.losses[name].mean(),
                        "distance": self.distances[name].mean(),
                    }
                )
        return Frame(rows)

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("either", ascending=False)


def strongest_query(mosaic: PatchMosaic) -> Mosaic:
    """Return the mosaic, on repeated patches, of the query at which a head tells them best from unrepeated ones."""

    def gain(query: str) -> float:
        repeated, control = (mosaic.mosaics[name][query].either.values for name in (REPEATED, "unrepeated"))
        return float((repeated - control).max())

    return mosaic[max(mosaic.mosaics[REPEATED], key=gain)]


def patch_mosaic(model: Model, batch: RepeatedPatches) -> PatchMosaic:
    """Score all cross heads and encoder heads on repeated random patches and on their controls.

    Args:
        batch: what `repeated_random_patches` made.

    Returns:
        The mosaics, with standard errors over rows, and how good the forecasts are.
    """
    source = provenance(model, **batch.parameters)
    stimuli = {REPEATED: batch, **batch.controls()}
    mosaics: dict[str, dict[str, Mosaic]] = {}
    losses: dict[str, Floats] = {}
    distances: dict[str, Floats] = {}
    for name, stimulus in stimuli.items():
        kinds = ("encoder.self", "decoder.cross")
        cache = capture(model, stimulus, [*(f"{kind}.*.pattern" for kind in kinds), "decoder.quantiles"])
        patterns = {
            kind: torch.stack([cache[f"{at}.pattern"].float() for at in model.layers(kind)]).cpu() for kind in kinds
        }
        places = {"decoder": 0, "last_patch": stimulus.last} | ({} if batch.reg is None else {"reg": batch.reg})
        mosaics[name] = {}
        for query in QUERIES:
            if query in places:
                kind = "decoder.cross" if query == "decoder" else "encoder.self"
                paid = patterns[kind][:, :, :, places[query]]
                mosaics[name][query] = _mosaic(paid, kind, stimulus, source | {"query": query, "control": name})
        quantiles, truth = cache["decoder.quantiles"].cpu(), stimulus.continuation
        median = at_level(quantiles, model.levels, 0.5)[:, : truth.shape[1]]
        scale = stimulus.deviation
        losses[name] = (pinball_loss(quantiles, model.levels, truth) / scale).double().numpy()
        distances[name] = ((median - truth).abs().mean(-1) / scale).double().numpy()
    fixed = [head for head in model.heads("decoder.cross") if model.is_constant(head.site("q"))]
    return PatchMosaic(mosaics, losses, distances, tuple(map(str, fixed)), source)


def _mosaic(paid: torch.Tensor, kind: str, batch: RepeatedPatches, source: dict[str, Any]) -> Mosaic:
    """Make a mosaic of the attention that one query pays, `[layer, row, head, key]`."""
    earlier = list(reversed(batch.occurrences))
    after = [position + 1 for position in earlier]
    return Mosaic(
        current_token=over_rows("current_token", kind, paid[..., earlier[0]], source),
        token_to_right=over_rows("token_to_right", kind, paid[..., after[0]], source),
        n_tokens=batch.length("encoder"),
        eos=None if batch.reg is None else over_rows("eos", kind, paid[..., batch.reg], source),
        occurrence_sum=over_rows("occurrence_sum", kind, paid[..., earlier].sum(-1), source),
        current_by_occurrence=_mean(paid[..., earlier]),
        right_by_occurrence=_mean(paid[..., after]),
        provenance=source,
    )


def _mean(paid: torch.Tensor) -> Floats:
    """Return the mean over rows, which are axis 1."""
    return np.asarray(paid.double().mean(1).numpy())
