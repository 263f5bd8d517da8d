"""What every edit is: a value that says where it acts, and what it does to the tensor there.

A new edit derives from `Edit`, or from `PlacedEdit` if it acts at one head, attention layer or site, and says in
`act` what becomes of the tensor. Nothing else in the toolkit has to know it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from torch import Tensor

from interp.editing.positions import Positions, Selected, as_positions, words
from interp.editing.running import Run
from interp.errors import InvalidInput, UnknownSite
from interp.inputs.batch import Batch
from interp.models.model import Model
from interp.names import AttentionLayer, Head, Pattern, Site, parse_address
from interp.results.by_head import ScoredHead

Address = Head | AttentionLayer | Site | Pattern
Target = Address | ScoredHead | str
"""Where an edit acts: a head, an attention layer or a site, by value, address, pattern or as scored."""

Act = Callable[[Tensor], Tensor | None]
"""What becomes of a tensor, or of one head's part of it; None leaves it as it is."""


def as_address(target: Target) -> Address:
    """Return the address that a target stands for.

    Raises:
        UnknownHead, UnknownSite: an address that is malformed, or of a site that is not a tensor of its own.
    """
    if isinstance(target, ScoredHead):
        return target.address
    address = target if isinstance(target, Address) else _read(str(target))
    if str(address).endswith(".head_out"):
        layer = str(address).removesuffix(".head_out")
        raise UnknownSite(f"{address} cannot be edited: it is made from z and W_O. Edit {layer}.z or {layer}.attn_out.")
    return address


def _read(text: str) -> Address:
    return Pattern(text) if "*" in text else parse_address(text)


def addresses_of(model: Model, targets: Target | Sequence[Target]) -> list[Head | AttentionLayer | Site]:
    """Return the addresses that targets stand for, patterns as what they match in this model.

    Raises:
        UnknownHead, UnknownSite: a malformed address, or one that this model does not have.
        InvalidInput: something that is neither a target nor several.
    """
    items: Any = [targets] if isinstance(targets, Target) else targets
    if not isinstance(items, Sequence):
        raise InvalidInput(f"targets={targets!r}: give an address, or several of them.")
    places = [as_address(target) for target in cast(Sequence[Target], items)]
    return [each for at in places for each in (model.matching(at) if isinstance(at, Pattern) else [at])]


def locate(model: Model, address: Address) -> list[tuple[Site, int | None]]:
    """Return the site at which an address is edited, and the head if it names one; of a pattern, all that it matches.

    Raises:
        UnknownHead, UnknownSite: this model does not have it.
    """
    if isinstance(address, Pattern):
        return [place for each in model.matching(address) for place in locate(model, each)]
    if isinstance(address, Head):
        return [(model.head(address).site("z"), address.head)]
    if isinstance(address, AttentionLayer):
        at = model.layer(address)
        return [(Site(at.stack, at.kind, at.layer, "z"), None)]
    return [(model.sites(str(address))[0], None)]


class Edit:
    """An edit. Kinds of edits override what differs."""

    sets: ClassVar[bool] = False
    """Whether it sets a value, whatever was there; values are set before others change them."""

    cuts: ClassVar[bool] = False
    """Whether it cuts scores, which is lost where the pattern is set."""

    @property
    def frozen(self) -> Batch | None:
        """The only batch that may run while the edit is in force; None if any may."""
        return None

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches from which values are read, with no edit in force."""
        return ()

    def places(self, model: Model) -> list[tuple[Site, int | None]]:
        """Return the sites where it acts, each with the head if it acts on one head alone."""
        raise NotImplementedError

    def reads_run(self, site: Site) -> bool:
        """Tell whether it must know what is running: rows, positions and padding."""
        return True

    def act(self, model: Model, site: Site, head: int | None, run: Run, values: Sequence[Tensor]) -> Act:
        """Return what becomes of the tensor at a site.

        Args:
            head: the head, if only its part is edited.
            run: what is running, as it will be when the tensor comes.
            values: of each of `batches` the value at the site, as `capture` gives it.

        Raises:
            InvalidInput: something that does not fit the site.
        """
        raise NotImplementedError

    def agrees(self, other: "Edit") -> bool:
        """Tell whether two edits that set the same value set it alike."""
        return self is other

    def missing(self, act: Act, acted: bool) -> str:
        """Say which part of the edit was never reached; empty if all was."""
        return "" if acted else "nothing ran inside that has it"


@dataclass(frozen=True)
class PlacedEdit(Edit):
    """An edit of one head, attention layer or site.

    Attributes:
        positions: where along the sequence it acts: a number, several, a range or a slice, everywhere by default.
            Positions from 0 count the whole sequence, padding included, whichever step of a generation reaches them.
            Negative ones count back over a row's own tokens, from the last in the sequence as it is when the step runs.
            Of scores and patterns they are the queries.
    """

    at: Any
    positions: Positions | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", as_address(self.at))
        object.__setattr__(self, "positions", as_positions("positions", self.positions))

    def places(self, model: Model) -> list[tuple[Site, int | None]]:
        """Return the site of the address, and the head if it names one."""
        return locate(model, cast(Address, self.at))

    def _no_scores(self, why: str) -> None:
        if str(self.at).endswith(".scores"):
            raise InvalidInput(f"{type(self).__name__} of {self.at}: {why} Edit the pattern, or use Knockout.")

    def missing(self, act: Act, acted: bool) -> str:
        """Return the positions that no step had, or that nothing ran."""
        return act.missing() if isinstance(act, Selected) else super().missing(act, acted)

    def __str__(self) -> str:
        where = "" if self.positions is None else f", positions={words(cast(Any, self.positions))}"
        return f"{type(self).__name__}({str(self.at)!r}{where})"
