"""Direct attribution: what every part of the decoder adds to a logit, a difference of logits, or the forecast's value.

1. The decoder's last residual stream is a sum: the embedding, every head of self- and cross-attention, every MLP.
2. The number that is asked for is that stream times a direction of it (`circuits.attribution.readout`), the final norm
   held at its actual scale. So each part's own product with the direction is its share, and they sum to the number.
3. Where a model has biases that no part writes, GPT-2's beside its heads and in its final norm, what they add is one
   more share, `biases`: it is the same whatever a row holds, but for the norm's scale.
4. Quantiles are read from the norm by an MLP. What parts add to a metric of them is exact up to the norm, and to first
   order from there on. What the metric is beside that is one more share, `readout`.

A share is not what taking the part away would change. Later layers react to it, which `head_effects` and patching
measure; and the norm does: without the part's write w the stream x gets shorter, and the logit becomes (logit - share)
times rms(x) / rms(x - w). In pico-t5 that gives back about half of the strongest cross heads' shares.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Wang et al. 2023, "Interpretability in
the Wild" (direct logit attribution); Sundararajan et al. 2017 for the expected value.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from einops import einsum
from torch import Tensor

from circuits.attribution.constants import constants
from circuits.attribution.readout import asked_of, check_run, direction, last_stream, stimulus_parameters
from circuits.measurement import end_site
from circuits.metrics import Metric, Tokens
from interp import Batch, Model, capture
from interp.arguments import checked
from interp.errors import InvalidInput, UnknownSite
from interp.inputs.masks import at_position
from interp.models.weights.head_weights import projection
from interp.names import AttentionLayer, Head, Kind, Site, parse_address, parse_kind
from interp.results.by_head import HeadScores, over_rows, provenance, row_mean
from interp.results.frame import Frame
from interp.results.result import Floats, Result, strongest_first
from interp.results.statistics import interval

EMBEDDING, BIASES, READOUT = "decoder.0.resid_pre", "biases", "readout"
ATTENTION: tuple[Kind, ...] = ("self", "cross")
KIND_NAMES = [f"decoder.{kind}" for kind in ATTENTION]


@dataclass(frozen=True, eq=False, repr=False)
class DirectAttribution(Result):
    """What each part of the decoder adds to a number, `values` `[part, row, pos]`, by the parts' addresses.

    The last part is `biases` where the model has any that no part writes: what they add together; or `readout` where
    the number is a metric of quantiles: what it is beside the sum of all others, its first order. All is NaN where a
    row is padded.
    `total` `[row, pos]` is the number as the model itself gives it, of `name` and `unit`: a logit, a logit
    difference, the expected value minus the mean of all bins, or a metric of quantiles. `target` and `against` are the
    tokens asked for, `[row, pos]`, where there are.
    """

    KIND = "direct-attribution"

    name: str
    unit: str
    parts: tuple[str, ...]
    values: Floats
    total: Floats
    target: Floats | None
    against: Floats | None
    provenance: dict[str, Any]

    @property
    def remainder(self) -> Floats:
        """Total minus all parts, `[row, pos]`: rounding, and what edits in force put into the stream itself."""
        return self.total - self.values.sum(0)

    def at(self, position: int = -1) -> tuple[Floats, Floats]:
        """Return what the parts add, and the number itself, at one position of each row: `[part, row]` and `[row]`.

        Args:
            position: of the decoder; from the end over a row's own tokens, so that -1 is the last that is not padding.

        Returns:
            Both; NaN for rows that are padded there.

        Raises:
            InvalidInput: no such position, or a row with fewer tokens.
        """
        shown = ~np.isnan(self.total)
        return at_position(self.values, shown, position), at_position(self.total, shown, position)

    def to_frame(self, position: int = -1) -> pd.DataFrame:
        """Return one row per part in forward order, at one decoder position.

        Args:
            position: of the decoder, as in `at`; the last token of each row by default.

        Returns:
            `part, kind, layer, head, mean, low, high`: kinds are `embedding`, `self`, `cross`, `mlp` and `biases`;
            layer and head are missing where a part has none; means over rows with Student's 95 % intervals.

        Raises:
            InvalidInput: no such position.
        """
        return _frame([(part, *_place(part)) for part in self.parts], self.at(position)[0])

    def _shown(self) -> pd.DataFrame:
        return strongest_first(self.to_frame(), "mean")

    def by_layer(self, position: int = -1) -> pd.DataFrame:
        """Return one row per sublayer, the heads of an attention layer summed: as `to_frame`, without heads.

        Raises:
            InvalidInput: no such position.
        """
        values, _ = self.at(position)
        names = [part.rsplit(".", 1)[0] if _place(part)[0] in ATTENTION else part for part in self.parts]
        sublayers = list(dict.fromkeys(names))
        rows = [values[[i for i, n in enumerate(names) if n == name]].sum(0) for name in sublayers]
        first = [self.parts[names.index(name)] for name in sublayers]
        labels = [(name, *_place(part)[:2], None) for name, part in zip(sublayers, first, strict=True)]
        return _frame(labels, np.stack(rows)).drop(columns="head")

    def heads(self, kind: str | None = None, position: int = -1) -> HeadScores:
        """Return the heads of a kind as scores, means over rows with standard errors.

        Args:
            kind: `decoder.cross`, the default where there is an encoder, or `decoder.self`.
            position: of the decoder, as in `at`; the last token of each row by default.

        Returns:
            The scores, `[layer, head]`.

        Raises:
            UnknownSite: there is no such kind, or not in this model.
            InvalidInput: encoder heads, which write to no stream that is unembedded; or no such position.
        """
        there = [each for each in KIND_NAMES if any(part.startswith(f"{each}.") for part in self.parts)]
        kind = there[-1] if kind is None else kind
        stack, _ = parse_kind(kind)
        if stack != "decoder":
            raise InvalidInput(f"{kind}: encoder heads have no direct path to the logits. There are "
                               f"{' and '.join(there)}.")  # fmt: skip
        if kind not in there:
            raise UnknownSite(f"{kind!r}: the model is a decoder alone, without cross-attention: {', '.join(there)}.")
        values, _ = self.at(position)
        chosen = [i for i, part in enumerate(self.parts) if part.startswith(f"{kind}.")]
        layers = len({_place(self.parts[i])[1] for i in chosen})
        rows = torch.tensor(values[chosen]).unflatten(0, (layers, -1)).transpose(1, 2)
        scores = over_rows(f"direct {self.name}", kind, rows, self.provenance)
        return replace(scores, unit=self.unit)


@checked
@torch.no_grad()
def direct_attribution(
    model: Model,
    batch: Batch,
    *,
    target: Tokens | None = None,
    against: Tokens | None = None,
    metric: Metric | None = None,
) -> DirectAttribution:
    """Split a number that the decoder puts out into what each of its parts adds to it.

    The number is the logit of a token, the difference of two tokens' logits or, where no token is given, the expected
    value of the forecast. Of quantiles it is a metric.

    Args:
        model: the model; edits in force are seen. In bfloat16 the parts sum up to its rounding.
        target: the token of each row, such as `batch.continuation`; one for all; or one for each row and decoder
            position, `[row, pos]`.
        against: another token, likewise, whose logit is taken off.
        metric: of quantiles, such as `circuits.metrics.towards(pair.target, pair.against)`; by default the median's
            mean over all steps.

    Returns:
        The parts at every decoder position, in units of logits, or of the series' scale for the expected value. The
        parts of the expected value sum to it minus the mean of all bins, which is what no logits at all would give.
        Of a metric of quantiles a part is its first-order share, and `readout` what is left of the metric.

    Raises:
        InvalidInput: tokens of another shape or outside the vocabulary, `against` without a target, no batch, or a
            model in float16.
        UnsupportedModel: weights that cannot be read, or no target for a model whose tokens are not values.
        MissingCapability: tokens for a model that puts out quantiles.

    Source: logit_t = sum over parts c of c . W_U[:, t] / deviation(stream) + b_U[t], with folded W_U; Elhage et al.
    2021. For the expected value: Aumann-Shapley along the straight path of the logits (integrated gradients),
    Sundararajan et al. 2017.
    """
    check_run(model, batch)
    explained, end = asked_of(model, batch, target, against, metric), str(end_site(model))
    last = last_stream(model)
    kinds: list[Kind] = [kind for stack, kind in model.family.kinds if stack == "decoder"]
    attention = [f"decoder.{kind}.*.z" for kind in kinds]
    cache = capture(model, batch, [EMBEDDING, *attention, "decoder.*.mlp_out", last, end])
    shown = batch.decoder_attention_mask.to(model.device).bool()
    vectors, shift, total = direction(model, batch, explained, cache[last], cache[end], shown)
    terms = {EMBEDDING: along(cache[EMBEDDING], vectors)}
    for layer in range(model.n_layers["decoder"]):
        for kind in kinds:
            at = AttentionLayer("decoder", kind, layer)
            by_head = along(cache[f"{at}.z"], head_directions(model, at, vectors))
            terms |= {f"{at}.{head}": by_head[..., head] for head in range(model.n_heads)}
        mlp = f"decoder.{layer}.mlp_out"
        terms[mlp] = along(cache[mlp], vectors)
    fixed = constants(model, [Site.parse(last)])
    if fixed or bool(shift.any()):
        terms[BIASES] = shift + sum(along(value, vectors) for value in fixed.values())
    if explained.metric is not None:
        terms[READOUT] = torch.from_numpy(total).to(shift) - torch.stack(list(terms.values())).sum(0)
    return DirectAttribution(
        name=explained.name,
        unit=explained.unit,
        parts=tuple(terms),
        values=torch.stack(list(terms.values())).double().masked_fill(~shown, torch.nan).cpu().numpy(),
        total=total,
        target=None if explained.target is None else explained.target.numpy(),
        against=None if explained.against is None else explained.against.numpy(),
        provenance=provenance(model, **stimulus_parameters(batch)),
    )


def head_directions(model: Model, at: AttentionLayer, vectors: Tensor) -> Tensor:
    """Map a direction in the stream to each head's z, through W_O: `[row, pos, head, d_head]`."""
    W_O = projection(model, at, "O").to(vectors)
    return einsum(W_O, vectors, "head d_head d_model, row pos d_model -> row pos head d_head")


def along(values: Tensor, vectors: Tensor) -> Tensor:
    """Return products over the last axis, in the vectors' precision."""
    return (values.to(vectors) * vectors).sum(-1)


def _place(part: str) -> tuple[str, int | None, int | None]:
    """Return kind, layer and head of a part."""
    if part in (BIASES, READOUT):
        return part, None, None
    address = parse_address(part)
    if isinstance(address, Head):
        return address.kind, address.layer, address.head
    return ("embedding", None, None) if part == EMBEDDING else ("mlp", address.layer, None)


def _frame(labels: list[tuple[Any, ...]], rows: Floats) -> pd.DataFrame:
    low, high = interval(rows)
    frame = Frame(labels, columns=cast(Any, ["part", "kind", "layer", "head"]))
    frame = frame.astype({"layer": "Int64", "head": "Int64"})
    return frame.assign(mean=row_mean(rows), low=low, high=high)
