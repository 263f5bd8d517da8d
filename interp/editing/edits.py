"""Interventions as values: what is set, scaled, added or cut, and where.

`Zero`, `Mean` and `Resample` set a value, as `FreezePatterns` does with all patterns; `Scale`,
`Add` and `Knockout` change what is there. Where both kinds meet, values are set first. An edit
says nothing about when: `interp.edited` applies it to whatever runs inside.

A head's value is its output z before W_O; a whole attention layer's is the z of all its heads, which for
these edits is the same as its output where W_O is linear without a shift. Where it has one, as in GPT-2,
zero heads leave it: b_O is of no head. For an output without it too, edit `attn_out`.

Source: Heimersheim & Nanda 2024, "How to use and interpret activation patching"; Geva et al. 2023,
"Dissecting Recall of Factual Associations" (attention knockout).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor

from interp.errors import InvalidInput, UnknownSite
from interp.inputs.batch import Batch
from interp.names import AttentionLayer, Head, Site, parse_address
from interp.results.by_head import ScoredHead
from interp.validate import as_tensor, positions

Address = Head | AttentionLayer | Site
Target = Address | ScoredHead | str
"""Where an edit acts: a head, an attention layer or a site, by value, address or as scored."""

Reference = Batch | Sequence[Batch]
"""One batch, or a data set as several."""


def as_address(target: Target) -> Address:
    """Return the address that a target stands for.

    Raises:
        UnknownHead, UnknownSite: an address that is malformed, or of a site that is not a tensor of its own.
    """
    if isinstance(target, ScoredHead):
        return target.address
    address = target if isinstance(target, Head | AttentionLayer | Site) else parse_address(str(target))
    if isinstance(address, Site) and address.name == "head_out":
        layer = f"{address.stack}.{address.kind}.{address.layer}"
        raise UnknownSite(f"{address} cannot be edited: it is made from z and W_O. Edit {layer}.z or {layer}.attn_out.")
    return address


@dataclass(frozen=True)
class _Edit:
    at: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", as_address(self.at))

    def _no_scores(self, why: str) -> None:
        if isinstance(self.at, Site) and self.at.name == "scores":
            raise InvalidInput(f"{type(self).__name__} of {self.at}: {why} Edit the pattern, or use Knockout.")

    def __str__(self) -> str:
        return f"{type(self).__name__}({str(self.at)!r})"


@dataclass(frozen=True)
class Zero(_Edit):
    """The value is zero.

    Args:
        at: head, attention layer or site.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: scores, which hold the mask.
    """

    at: Target

    def __post_init__(self) -> None:
        super().__post_init__()
        self._no_scores("the mask is part of the scores, and masked positions would be attended to.")


@dataclass(frozen=True)
class Scale(_Edit):
    """The value times a factor.

    Args:
        at: head, attention layer or site.
        factor: 1 changes nothing, 0 is `Zero`.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: a factor that is not a finite number, or scores, which hold the mask.
    """

    at: Target
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._no_scores("the mask is part of the scores, and would be scaled too.")
        object.__setattr__(self, "factor", float(_finite(self, "factor", self.factor, 0)))


@dataclass(frozen=True, eq=False)
class Add(_Edit):
    """Something is added to the value at every position: steering.

    Args:
        at: head, attention layer (its output `attn_out`) or site.
        value: a number, or what fits one position: `[d_head]` at a head, `[d_model]` in the
            residual stream and at what is added to it, `[head, d_head]` at q, k, v, z,
            `[head]` at scores and pattern, `[token]` at logits. No attention is added to keys that are padding.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: NaN or infinite values, or more axes than any site has.
    """

    at: Target
    value: Tensor | float

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.at, AttentionLayer):
            object.__setattr__(self, "at", Site(self.at.stack, self.at.kind, self.at.layer, "attn_out"))
        object.__setattr__(self, "value", _finite(self, "value", self.value, 2))


@dataclass(frozen=True, eq=False)
class Mean(_Edit):
    """The value is its mean over a reference, as the unedited model computes it.

    Args:
        at: head, attention layer or site.
        reference: a batch, or several as a data set. Masked positions do not count.
        by_position: a mean of its own at each position, over rows; over rows and positions
            otherwise. By position the reference must have the encoder length of what runs, and at
            least its decoder length; positions are those of the tensor, padding counted, and one that is padding in
            all rows of the reference must be so in the run. A mean pattern may pay nothing to the run's padding.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: no reference, batches of different shapes by position, or scores or patterns
            over positions, which have no mean.
    """

    at: Target
    reference: Reference
    by_position: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        batches: Any = self.reference
        batches = (batches,) if isinstance(batches, Batch) else tuple(batches) if isinstance(batches, Sequence) else ()
        if not batches or not all(isinstance(batch, Batch) for batch in batches):
            raise InvalidInput(f"{self}: a mean needs a reference to be taken over: give a Batch, or a list of them.")
        shapes = sorted({(b.input_ids.shape[1], b.decoder_input_ids.shape[1]) for b in batches})
        if self.by_position and len(shapes) > 1:
            raise InvalidInput(f"{self}: a mean by position needs batches of one shape; found lengths {shapes}.")
        self._no_scores("the mean would mix the mask in.")
        if isinstance(self.at, Site) and self.at.name == "pattern" and not self.by_position:
            raise InvalidInput(f"{self}: a pattern has a mean by position only: give by_position=True.")
        object.__setattr__(self, "reference", batches)


@dataclass(frozen=True, eq=False)
class Resample(_Edit):
    """The value is what the unedited model has on another input, row by row and position by position.

    Args:
        at: head, attention layer or site.
        source: the other input, with as many rows as what runs (or one, for all), the same
            encoder length and at least the same decoder length; padded where that is.

    Raises:
        UnknownHead, UnknownSite: a malformed address.
        InvalidInput: the source is not a batch.
    """

    at: Target
    source: Batch

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(cast(Any, self.source), Batch):
            raise InvalidInput(f"{self}: the source must be a Batch; found {type(self.source).__name__}.")


@dataclass(frozen=True)
class Knockout:
    """Chosen query-key pairs of a head's pattern get no attention.

    Args:
        head: the head.
        query: positions that look, or None for all. Positions from 0 are those of the whole
            sequence, padding counted, whichever step of a generation reaches them. Negative ones count from the end
            of the step's own queries, over a row's tokens without padding: -1 is a row's last token in a plain
            forward, and in
            generation with a cache, where a step has one query, every step's. (Without a cache each
            step runs all positions again, and -1 is the newest one alone: the earlier ones, cut at
            their own step, are not cut when they are run again.)
        key: positions looked at, likewise; negative ones count from the end of the keys there are
            (in cross-attention -1 is EOS; in decoder self-attention the query itself).
        renormalise: whether the rest of the row is scaled to sum to 1, as a mask would do;
            otherwise the attention is lost.

    Raises:
        UnknownHead: a malformed address.
        InvalidInput: no positions, or ones that are not whole numbers or repeated.

    Source: Geva et al. 2023, "Dissecting Recall of Factual Associations".
    """

    head: Head | ScoredHead | str
    query: int | Sequence[int] | None = None
    key: int | Sequence[int] | None = None
    renormalise: bool = True

    def __post_init__(self) -> None:
        address = as_address(self.head)
        if not isinstance(address, Head):
            raise InvalidInput(f"a knockout is of one head, as 'decoder.cross.3.5'; found {str(address)!r}.")
        object.__setattr__(self, "head", address)
        for name in ("query", "key"):
            object.__setattr__(self, name, positions(name, getattr(self, name)))
        if self.query is None and self.key is None:
            raise InvalidInput(f"{self}: give the positions that look, the positions looked at, or both.")

    @property
    def at(self) -> Site:
        """Where it acts: on the scores, so that the softmax renormalises, or on the pattern."""
        assert isinstance(self.head, Head)
        return self.head.site("scores" if self.renormalise else "pattern")

    def __str__(self) -> str:
        return f"Knockout({str(self.head)!r}, query={self.query}, key={self.key})"


@dataclass(frozen=True, eq=False)
class FreezePatterns:
    """All attention patterns stay what the unedited model has on a batch, whatever else is edited.

    Together with an ablation this gives its pattern-preserving form. It holds for teacher-forced
    runs of that very batch; where other tokens come, as in sampled generation, it is an error.

    Args:
        batch: what will run.
    """

    batch: Batch

    def __str__(self) -> str:
        return "FreezePatterns"


Edit = Zero | Scale | Add | Mean | Resample | Knockout | FreezePatterns

Method = Literal["zero", "mean", "resample"]
METHODS: tuple[Method, ...] = ("zero", "mean", "resample")


def ablations(
    targets: Target | Sequence[Target],
    method: Method = "zero",
    reference: Reference | None = None,
    by_position: bool = False,
) -> list[Edit]:
    """Return the edits that ablate some targets by one method.

    Args:
        targets: heads, attention layers or sites.
        method: `zero`; `mean` over the reference; `resample` from the reference, row by row.
        reference: a batch, or for means several.
        by_position: whether means are taken at each position by itself.

    Returns:
        One edit a target.

    Raises:
        InvalidInput: an unknown method, a reference that is missing or not used, or a target that
            is named twice.
        UnknownHead, UnknownSite: a malformed address.
    """
    if method not in METHODS:
        raise InvalidInput(f"method={method!r}: there are {', '.join(METHODS)}.")
    items = [targets] if isinstance(targets, Target) else targets
    if not isinstance(cast(Any, items), Sequence):
        raise InvalidInput(f"targets={targets!r}: give an address, or several of them.")
    places = [as_address(target) for target in items]
    if twice := sorted({str(place) for place in places if places.count(place) > 1}):
        raise InvalidInput(f"named more than once: {', '.join(twice)}. Give each once.")
    if by_position and method != "mean":
        raise InvalidInput(f"by_position is of means; the method is {method!r}.")
    if method == "zero":
        if reference is not None:
            raise InvalidInput("a reference was given, which method='zero' does not use: did you mean method='mean'?")
        return [Zero(place) for place in places]
    if reference is None:
        raise InvalidInput(f"method={method!r} needs a reference: give a Batch of the inputs to take values from.")
    if method == "mean":
        return [Mean(place, reference, by_position) for place in places]
    if not isinstance(reference, Batch):
        raise InvalidInput("method='resample' takes one Batch, whose rows stand for the rows of what runs.")
    return [Resample(place, reference) for place in places]


def _finite(edit: Any, name: str, value: Any, axes: int) -> Any:
    try:
        tensor = as_tensor(value).detach().clone()
        good = bool(tensor.isfinite().all()) and tensor.ndim <= axes and not tensor.is_complex() and tensor.numel() > 0
    except (TypeError, ValueError, RuntimeError):
        good, tensor = False, None
    if not good:
        what = "a finite number" if axes == 0 else f"finite numbers of at most {axes} axes"
        raise InvalidInput(f"{edit}: {name} must be {what}; found {value!r:.80}.")
    return tensor


def method_source(method: Method, reference: Reference | None, **settings: Any) -> dict[str, Any]:
    """Return what results keep of how an ablation was done."""
    batches = () if reference is None else (reference,) if isinstance(reference, Batch) else tuple(reference)
    return {"method": method, "reference": [batch.description for batch in batches], **settings}
