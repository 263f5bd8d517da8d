"""The logit lens: what the decoder would predict if it ended early, after each of its sublayers.

The final norm and the unembedding are applied to the residual stream where it stands. At the last point that is the
model's own output.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from circuits.attribution.readout import check_run, last_stream, positions_tokens, stimulus_parameters
from circuits.metrics import Tokens, expected_value
from interp import Batch, Model, capture
from interp.arguments import checked
from interp.inputs.masks import at_position
from interp.models.weights.layers import last_norm
from interp.names import Site
from interp.results.by_head import provenance, row_mean
from interp.results.frame import Frame
from interp.results.result import Floats, Result
from interp.results.statistics import interval, proportion_interval

AFTER = {"resid_pre": "embedding", "resid_mid": "self", "resid_mid_cross": "cross", "resid_post": "mlp"}
"""What the stream has passed last, by the site's name."""


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens(Result):
    """The prediction at each point of the decoder's residual stream, all `[point, row, pos]`, NaN at padding.

    `points` are the sites' addresses. `entropy` and `kl`, from the point's distribution to the model's own, are in
    nats; `expected_value` is in units of the series' scale, over value tokens, None where a model's tokens are no
    values; `likeliest` is a token id; `log_prob` is the target's, None where none was given.
    """

    KIND = "logit-lens"

    points: tuple[str, ...]
    entropy: Floats
    expected_value: Floats | None
    likeliest: Floats
    kl: Floats
    log_prob: Floats | None
    target: Floats | None
    provenance: dict[str, Any]

    @property
    def effective_tokens(self) -> Floats:
        """The exponential of the entropy: how many equally likely tokens are as uncertain, `[point, row, pos]`."""
        return np.exp(self.entropy)

    @property
    def agrees(self) -> Floats:
        """Whether the likeliest token is already the model's own, 0 or 1, `[point, row, pos]`."""
        return np.where(np.isnan(self.likeliest), np.nan, self.likeliest == self.likeliest[-1])

    def to_frame(self, position: int = -1) -> pd.DataFrame:
        """Return one row per measure and point, at one decoder position.

        Args:
            position: of the decoder; from the end over a row's own tokens: the last that is no padding by default.

        Returns:
            `point, layer, after, measure, mean, low, high`: means over rows with Student's 95 % intervals (Wilson's of
            `agrees`), of the measures that there are. `after` is what the stream has passed last: `embedding`,
            `self`, `cross` or `mlp`.

        Raises:
            InvalidInput: no such position, or a row with fewer tokens.
        """
        shown = ~np.isnan(self.entropy[0])
        names = ("entropy", "effective_tokens", "expected_value", "kl", "agrees", "log_prob")
        measures = {name: values for name in names if (values := getattr(self, name)) is not None}
        sites = [Site.parse(point) for point in self.points]
        places = {"point": self.points, "layer": [s.layer for s in sites], "after": [AFTER[s.name] for s in sites]}
        frames: list[pd.DataFrame] = []
        for name, values in measures.items():
            rows = at_position(values, shown, position)
            low, high = (proportion_interval if name == "agrees" else interval)(rows)
            frames.append(Frame({**places, "measure": name, "mean": row_mean(rows), "low": low, "high": high}))
        return pd.concat(frames, ignore_index=True)


@checked
@torch.no_grad()
def logit_lens(model: Model, batch: Batch, *, target: Tokens | None = None) -> LogitLens:
    """Read the decoder's prediction after each sublayer: certainty, value, and distance to the final prediction.

    Args:
        model: the model; edits in force are seen.
        target: a token of each row whose log-probability is followed, such as `batch.continuation`; one for all; or
            one a row and decoder position, `[row, pos]`.

    Returns:
        The measures at the embedding and after every self-attention, cross-attention and MLP of the decoder; the
        last point is the model's own output.

    Raises:
        InvalidInput: targets of another shape or outside the vocabulary, no batch, or a model in float16.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    model.require("tokens", "A lens reads logits at each point: of quantiles see circuits.direct_attribution.")
    check_run(model, batch)
    ids = None if target is None else positions_tokens("target", target, model, batch)
    there = {site.name for site in model.known_sites.values() if site.stack == "decoder"}
    sublayers = [f"decoder.*.{name}" for name in AFTER if name != "resid_pre" and name in there]
    cache = capture(model, batch, ["decoder.0.resid_pre", *sublayers, "decoder.logits"])
    points = [name for name in cache if name != "decoder.logits"]
    assert points[-1] == last_stream(model)
    final = _distribution(cache["decoder.logits"])
    rows, size = batch.decoder_input_ids.shape
    value = expected_value(model) if model.tokens_are_values else None
    lists: dict[str, list[Tensor]] = {name: [] for name in ("entropy", "expected_value", "likeliest", "kl", "log_prob")}
    for point in points:
        logits = model.unembed(last_norm(model, "decoder", cache[point]))
        log_probs = _distribution(logits)
        lists["entropy"].append(-(log_probs.exp() * log_probs).sum(-1))
        # A metric reads one position: every position is a row of its own here.
        if value is not None:
            lists["expected_value"].append(value(log_probs.reshape(rows * size, 1, -1)).reshape(rows, size))
        lists["likeliest"].append(log_probs.argmax(-1))
        lists["kl"].append((log_probs.exp() * (log_probs - final)).sum(-1))
        if ids is not None:
            lists["log_prob"].append(log_probs.gather(-1, ids.to(log_probs.device)[..., None])[..., 0])
    hidden = batch.decoder_attention_mask.cpu() == 0
    measures = {
        name: torch.stack(values).double().cpu().masked_fill(hidden, torch.nan).numpy() if values else None
        for name, values in lists.items()
    }
    return LogitLens(
        points=tuple(points),
        **measures,  # type: ignore[arg-type]
        target=None if ids is None else ids.numpy(),
        provenance=provenance(model, **stimulus_parameters(batch)),
    )


def _distribution(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
