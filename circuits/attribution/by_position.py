"""What each past step adds to a logit or to the forecast's value, through the heads that attend to it.

These are the cross heads, which read the encoder's positions; in a decoder alone the self-attention heads, which read
its own up to the query.

1. A head's output is a sum over the positions that it reads: attention times value, through W_O.
2. Each term's product with the direction of the number that is asked for (`circuits.attribution.readout`) is what that
   position adds through that head; over positions they sum to the head's share in `direct_attribution`.

Layers below mix positions, so a position is where the head reads, and not all that it says comes from that step.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (heads as sums over keys);
Kobayashi et al. 2020, "Attention is Not Only a Weight" (attention times value); Sundararajan et al. 2017.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from einops import einsum
from torch import Tensor

from circuits.attribution.direct import head_directions
from circuits.attribution.readout import asked_of, check_run, direction, last_stream, stimulus_parameters
from circuits.measurement import end_site
from circuits.metrics import Metric, Tokens
from interp import Batch, Model, capture
from interp.arguments import checked
from interp.cache import Cache
from interp.errors import InvalidInput
from interp.names import AttentionLayer, Head, parse_kind
from interp.results.by_head import Heads, HeadScores, heads_among, over_rows, provenance, row_mean
from interp.results.frame import Frame
from interp.results.result import Floats, Result, strongest_first
from interp.results.statistics import interval
from probes.attention import batch_values
from probes.stimuli.pairs import stacks_of

CROSS = "decoder.cross"
MEMORY = 2**29
"""How many bytes of values and patterns are held at once; at least one layer's are."""


@dataclass(frozen=True, eq=False, repr=False)
class AttributionByPosition(Result):
    """What each past position adds to a number through each head that reads it, `values` `[layer, head, row, key]`.

    `site` is the heads' kind: `decoder.cross`, whose keys are the encoder's positions, or `decoder.self` without an
    encoder, whose keys are the decoder's own, the query's the last. `total` `[row]` is the number as the model's own
    output gives it at the decoder position `position`, of `name` and `unit` as in `DirectAttribution`; a negative
    position, kept where padding puts it into other columns in other rows, counts over a row's own tokens. `tokens`
    `[row, key]` are those at the keys (of patches their numbers, [REG] the last), and `token_values` the scaled values
    they stand for, NaN at special ones; None where a model's tokens are no values. Keys that are padding or come after
    the row's query add 0, have no token (NaN) and do not count in means over rows. Rows that are padded at `position`
    are NaN. `times` are the dates or times of the keys where the batch knows them, missing at special tokens.
    """

    KIND = "past-attribution"

    name: str
    unit: str
    values: Floats
    total: Floats
    position: int
    tokens: Floats
    token_values: Floats | None
    target: Floats | None
    against: Floats | None
    provenance: dict[str, Any]
    site: str = CROSS
    times: pd.Index | None = None

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        # Files of before decoders alone were read say nothing of it, nor earlier ones of times.
        return super()._of_contents({"site": CROSS, "times": None, **values})

    @property
    def kind(self) -> str:
        """What its heads are called: `cross` or `self`."""
        return parse_kind(self.site)[1]

    def of(self, heads: Heads | None = None) -> Floats:
        """Return what positions add through some heads together, `[row, key]`; through all of `site` by default.

        Raises:
            UnknownHead: a malformed address.
            InvalidInput: none, one twice, or one that is no head of `site` in this model.
        """
        if heads is None:
            return self.values.sum((0, 1))
        return np.sum([self.values[h.layer, h.head] for h in self.named(heads)], axis=0)

    def named(self, heads: Heads) -> list[Head]:
        """Return the heads of `site` that addresses, layers, patterns or scored heads name, each once.

        Raises:
            UnknownHead: a malformed address.
            InvalidInput: none, one twice, or one that is no head of `site` in this model.
        """
        layers, count = self.values.shape[:2]
        return heads_among([Head(*parse_kind(self.site), i, j) for i in range(layers) for j in range(count)], heads)

    def by_position(self, heads: Heads | None = None) -> pd.DataFrame:
        """Return one row per past position: what it adds through some heads, by default all of `site`.

        Args:
            heads: which.

        Returns:
            `key, token, value, mean, low, high`: means over rows with Student's 95 % intervals; token and scaled
            value where all rows have the same, else missing. After the key its `time`, where it is known.

        Raises:
            UnknownHead: a malformed address.
            InvalidInput: none, one twice, or one that is no head of `site` in this model.
        """
        rows = np.where(np.isnan(self.tokens), np.nan, self.of(heads)).T
        low, high = interval(rows)
        # Of the rows that have a token there.
        known, keys = ~np.isnan(self.tokens), np.arange(len(rows))
        first = known.argmax(0), keys
        same = ((self.tokens == self.tokens[first]) | ~known).all(0)
        frame = Frame({"key": keys, "token": np.where(same, self.tokens[first], np.nan)})
        values = np.nan if self.token_values is None else np.where(same, self.token_values[first], np.nan)
        frame = frame.astype({"token": "Int64"}).assign(value=values, mean=row_mean(rows), low=low, high=high)
        return self._timed(frame)

    def heads(self) -> HeadScores:
        """Return each head's share, positions summed: means over rows with standard errors."""
        rows = torch.tensor(self.values.sum(-1)).transpose(1, 2)
        return replace(over_rows(f"direct {self.name}", self.site, rows, self.provenance), unit=self.unit)

    def _shown(self) -> pd.DataFrame:
        return strongest_first(self.to_frame(), "mean")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head and past position: `head, key, mean, low, high`, over rows; with `time`, if known."""
        rows = np.moveaxis(np.where(np.isnan(self.tokens), np.nan, self.values), 2, -1)
        low, high = interval(rows)
        layers, heads, keys = rows.shape[:3]
        names = [f"{self.site}.{i}.{j}" for i, j in np.ndindex(layers, heads)]
        frame = Frame({"head": np.repeat(names, keys), "key": np.tile(np.arange(keys), len(names))})
        return self._timed(frame.assign(mean=row_mean(rows).ravel(), low=low.ravel(), high=high.ravel()))

    def _timed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Put the times of the keys beside them, where they are known."""
        if self.times is not None:
            frame.insert(list(frame.columns).index("key") + 1, "time", self.times.take(frame["key"].to_numpy()))
        return frame


@checked
@torch.no_grad()
def attribution_by_position(
    model: Model,
    batch: Batch,
    *,
    target: Tokens | None = None,
    against: Tokens | None = None,
    metric: Metric | None = None,
    position: int = -1,
) -> AttributionByPosition:
    """Split what each head that reads the past adds to the output into what each past position adds through it.

    The heads are those of cross-attention, or of a lone decoder's own attention: `model.family.context`.

    Args:
        model: the model; edits in force are seen, unless they change what such a head puts out otherwise than by
            its pattern and values.
        target: the token, as in `direct_attribution`; without one the expected value of the forecast is split.
        against: another token, whose logit is taken off.
        metric: of quantiles, as in `direct_attribution`.
        position: of the decoder; from the end over a row's own tokens: the last that is no padding by default.

    Returns:
        The contributions, in the units of `direct_attribution`; over positions they sum to its heads.

    Raises:
        InvalidInput: tokens of another shape or outside the vocabulary, `against` without a target, no such position,
            no batch, a model in float16, or edits of such a head's z.
        UnsupportedModel: weights that cannot be read, or no target for a model whose tokens are not values.

    Source: pattern[q, k] * v_k W_O . direction; Elhage et al. 2021. For the expected value: Sundararajan et al. 2017,
    through the heads' sums over positions.
    """
    check_run(model, batch)
    explained = asked_of(model, batch, target, against, metric)
    columns, rows = batch.position(position).to(model.device), torch.arange(len(batch), device=model.device)
    one, last = explained.at(columns), last_stream(model)
    looking = batch.decoder_attention_mask.to(model.device).bool()[rows, columns]
    site, past = ".".join(model.family.context), stacks_of(batch)[0]
    width = batch.length(past) if past == "encoder" else int(columns.max()) + 1
    there = batch.mask(past)[:, :width].to(model.device).bool() & looking[:, None]
    if past == "decoder":
        # What comes after the query cannot be read, and is not past.
        there &= torch.arange(width, device=model.device) <= columns[:, None]
    layers, terms = model.layers(site), list[Tensor]()
    size = max(1, MEMORY // _layer_bytes(model, batch))
    ends, vectors, total = [last, str(end_site(model))], None, None
    for start in range(0, len(layers), size):
        group = layers[start : start + size]
        cache = capture(model, batch, [f"{layer}.{name}" for layer in group for name in ("v", "pattern", "z")] + ends)
        if vectors is None:
            stream, end = (cache[name][rows, columns][:, None] for name in ends)
            vectors, _, total = direction(model, batch, one, stream, end, looking[:, None])
            ends = []
        terms += [_terms(model, layer, cache, columns, vectors)[..., :width] for layer in group]
    assert total is not None
    hidden = ~there.cpu()
    ids = batch.ids(past)[:, :width].cpu() if batch.has_tokens else torch.arange(width).expand(len(batch), -1)
    shown = None
    if model.tokens_are_values:
        shown = batch_values(model, batch, past)[:, :width].double().masked_fill(hidden, torch.nan).numpy()
    one_column = bool((columns == columns[0]).all())
    return AttributionByPosition(
        name=one.name,
        unit=one.unit,
        values=torch.stack(terms).masked_fill(hidden, 0.0).masked_fill(~looking.cpu()[:, None], torch.nan).numpy(),
        total=total[:, 0],
        position=int(columns[0]) if one_column else position,
        tokens=ids.double().masked_fill(hidden, torch.nan).numpy(),
        token_values=shown,
        target=None if one.target is None else one.target[:, 0].numpy(),
        against=None if one.against is None else one.against[:, 0].numpy(),
        provenance=provenance(model, **stimulus_parameters(batch)),
        site=site,
        times=None if (times := batch.times(past)) is None else times[:width],
    )


def _terms(model: Model, layer: AttentionLayer, cache: Cache, columns: Tensor, vectors: Tensor) -> Tensor:
    """Compute what each position adds through each head of a layer, `[head, row, key]`."""
    value = cache[f"{layer}.v"].to(vectors)
    rows = torch.arange(len(columns), device=columns.device)
    pattern, z = cache[f"{layer}.pattern"][rows, :, columns].to(vectors), cache[f"{layer}.z"][rows, columns].to(vectors)
    recomputed = einsum(pattern, value, "row head key, row key head d_head -> row head d_head")
    scale = recomputed.abs().amax((0, 2)) + z.abs().amax((0, 2))
    off = (recomputed - z).abs().amax((0, 2)) > torch.finfo(model.dtype).eps ** 0.5 * scale  # far beyond rounding
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
    """Estimate the bytes of the values and the pattern of one layer."""
    rows, keys = batch.mask(stacks_of(batch)[0]).shape
    width = model.n_heads * (model.d_head + batch.length("decoder"))
    return rows * keys * width * torch.finfo(model.dtype).bits // 8
