"""What each past step adds to a logit or to the forecast's value, through the cross heads that attend to it.

1. A cross head's output is a sum over the encoder's positions: attention times value, through W_O.
2. Each term's product with the direction of the number that is asked for (`circuits.directions`) is what that position
   adds through that head; over positions they sum to the head's share in `direct_attribution`.

The encoder mixes positions, so a position is where the head reads, and not all that it says comes from that step.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (heads as sums over keys);
Kobayashi et al. 2020, "Attention is Not Only a Weight" (attention times value); Sundararajan et al. 2017.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import einsum
from torch import Tensor

from circuits.attribution import head_directions
from circuits.directions import VALUE, Asked, asked_of, check_run, direction, last_stream, stimulus_parameters
from circuits.metrics import Tokens, check_position
from circuits.saved import Saved
from interp import Batch, Cache, InvalidInput, Model, capture
from interp.names import AttentionLayer, Head, as_head
from interp.results import Floats, Heads, HeadScores, ScoredHead, over_rows, provenance
from interp.statistics import interval
from probes.patterns import token_values

SITE = "decoder.cross"
MEMORY = 2**29
"""How many bytes of values and patterns are held at once; at least one layer's are."""


@dataclass(frozen=True, eq=False)
class PastAttribution(Saved):
    """What each encoder position adds to a number through each cross head, `values` `[layer, head, row, key]`.

    `total` `[row]` is the number as the model's own logits give it at the decoder position `position`, of `name` and
    `unit` as in `DirectAttribution`. `tokens` `[row, key]` are the encoder's, and `token_values` the scaled values
    they stand for, NaN at special ones and where the mask hides them.
    """

    KIND = "past-attribution"

    name: str
    unit: str
    values: Floats
    total: Floats
    position: int
    tokens: Floats
    token_values: Floats
    target: Floats | None
    against: Floats | None
    provenance: dict[str, Any]

    def of(self, heads: Heads | None = None) -> Floats:
        """What positions add through some heads together, `[row, key]`; through all cross heads by default.

        Raises:
            UnknownHead: a malformed address.
            InvalidInput: none, one twice, or one that is no cross head of this model.
        """
        if heads is None:
            return self.values.sum((0, 1))
        chosen = [as_head(h) for h in ([heads] if isinstance(heads, Head | ScoredHead | str) else heads)]
        layers, count = self.values.shape[:2]
        known = [h for h in chosen if f"{h.stack}.{h.kind}" == SITE and h.layer < layers and h.head < count]
        if not chosen or len(known) < len(chosen) or len(set(chosen)) < len(chosen):
            raise InvalidInput(f"heads={heads!r}: give cross heads of {layers} layers of {count}, each once.")
        return np.sum([self.values[h.layer, h.head] for h in chosen], axis=0)

    def by_position(self, heads: Heads | None = None) -> pd.DataFrame:
        """One tidy row an encoder position: what it adds through some cross heads, by default all.

        Args:
            heads: which.

        Returns:
            `key, token, value, mean, low, high`: means over rows with 95 % intervals; token and scaled value where
            all rows have the same, else missing.

        Raises:
            UnknownHead: a malformed address.
            InvalidInput: none, one twice, or one that is no cross head of this model.
        """
        rows = self.of(heads).T
        low, high = interval(rows)
        same = (self.tokens == self.tokens[0]).all(0)
        frame = pd.DataFrame({"key": np.arange(len(rows)), "token": np.where(same, self.tokens[0], np.nan)})
        values = np.where(same, self.token_values[0], np.nan)
        return frame.astype({"token": "Int64"}).assign(value=values, mean=rows.mean(-1), low=low, high=high)

    def heads(self) -> HeadScores:
        """Each cross head's share, positions summed: means over rows with standard errors."""
        rows = torch.tensor(self.values.sum(-1)).transpose(1, 2)
        return replace(over_rows(f"direct {self.name}", SITE, rows, self.provenance), unit=self.unit)

    def to_frame(self) -> pd.DataFrame:
        """One tidy row a head and encoder position: `head, key, mean, low, high`, over rows."""
        rows = np.moveaxis(self.values, 2, -1)
        low, high = interval(rows)
        layers, heads, keys = rows.shape[:3]
        names = [str(Head("decoder", "cross", i, j)) for i, j in np.ndindex(layers, heads)]
        frame = pd.DataFrame({"head": np.repeat(names, keys), "key": np.tile(np.arange(keys), len(names))})
        return frame.assign(mean=rows.mean(-1).ravel(), low=low.ravel(), high=high.ravel())


def past_attribution(
    model: Model, batch: Batch, *, target: Tokens, against: Tokens | None = None, position: int = -1
) -> PastAttribution:
    """What each encoder position adds, through each cross head, to a token's logit or a difference of two.

    Args:
        model: the model; edits in force are seen, unless they change what a cross head puts out otherwise than by
            its pattern and values.
        batch: what it is fed.
        target: the token, as in `direct_attribution`.
        against: another token, whose logit is taken off.
        position: of the decoder; the last by default.

    Returns:
        The contributions; over positions they sum to those of `direct_attribution`.

    Raises:
        InvalidInput: tokens of another shape or outside the vocabulary, no such position, no batch, a model in
            float16, or edits of a cross head's z.
        UnsupportedModel: weights that cannot be read.

    Source: pattern[q, k] * v_k W_O . direction; Elhage et al. 2021.
    """
    check_run(model, batch)
    return _split(model, batch, asked_of(model, batch, target, against), position)


def past_value_attribution(model: Model, batch: Batch, *, position: int = -1) -> PastAttribution:
    """What each encoder position adds, through each cross head, to the forecast's expected value.

    Args:
        model: the model; edits as in `past_attribution`.
        batch: what it is fed.
        position: of the decoder; the last by default.

    Returns:
        The contributions, in units of the series' scale, as in `direct_value_attribution`.

    Raises:
        InvalidInput: no such position, no batch, a model in float16, or edits of a cross head's z.
        UnsupportedModel: weights that cannot be read.

    Source: Sundararajan et al. 2017, through the heads' sums over positions.
    """
    check_run(model, batch)
    return _split(model, batch, VALUE, position)


@torch.no_grad()
def _split(model: Model, batch: Batch, asked: Asked, position: int) -> PastAttribution:
    at = check_position("position", position, batch.decoder_input_ids.shape[1])
    one, last = asked.at(at), last_stream(model)
    layers, found = model.layers(SITE), list[Tensor]()
    size = max(1, MEMORY // _layer_bytes(model, batch))
    ends, vectors, total = [last, "decoder.logits"], None, None
    for start in range(0, len(layers), size):
        group = layers[start : start + size]
        cache = capture(model, batch, [f"{layer}.{name}" for layer in group for name in ("v", "pattern", "z")] + ends)
        if vectors is None:
            vectors, total = direction(model, one, cache[last][:, [at]], cache["decoder.logits"][:, [at]])
            ends = []
        found += [_terms(model, layer, cache, at, vectors) for layer in group]
    assert total is not None
    ids = batch.input_ids.cpu()
    shown = token_values(model, ids).double().masked_fill(batch.attention_mask.cpu() == 0, torch.nan)
    return PastAttribution(
        name=one.name,
        unit=one.unit,
        values=torch.stack(found).numpy(),
        total=total[:, 0],
        position=at,
        tokens=ids.numpy(),
        token_values=shown.numpy(),
        target=None if one.target is None else one.target[:, 0].numpy(),
        against=None if one.against is None else one.against[:, 0].numpy(),
        provenance=provenance(model, **stimulus_parameters(batch)),
    )


def _terms(model: Model, layer: AttentionLayer, cache: Cache, at: int, vectors: Tensor) -> Tensor:
    """What each position adds through each head of a layer, `[head, row, key]`."""
    value = cache[f"{layer}.v"].to(vectors)
    pattern, z = cache[f"{layer}.pattern"][:, :, at].to(vectors), cache[f"{layer}.z"][:, at].to(vectors)
    made = einsum(pattern, value, "row head key, row key head d_head -> row head d_head")
    scale = made.abs().amax((0, 2)) + z.abs().amax((0, 2))
    off = (made - z).abs().amax((0, 2)) > torch.finfo(model.dtype).eps ** 0.5 * scale  # far beyond rounding
    if bool(off.any()):
        head = f"{layer}.{int(off.nonzero()[0])}"
        raise InvalidInput(
            f"{head}: an edit in force changes its z, which is then no sum over the past. Edit its pattern or v, or "
            "leave the edit."
        )
    reads = head_directions(model, layer, vectors)[:, 0]
    terms = einsum(value, reads, "row key head d_head, row head d_head -> row head key") * pattern
    return terms.transpose(0, 1).double().cpu()


def _layer_bytes(model: Model, batch: Batch) -> int:
    """What the values and the pattern of one layer take."""
    rows, keys = batch.input_ids.shape
    width = model.n_heads * (model.d_head + batch.decoder_input_ids.shape[1])
    return rows * keys * width * torch.finfo(model.dtype).bits // 8
