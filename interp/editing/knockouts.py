"""Attention knockout: chosen queries of a head do not see chosen keys.

Source: Geva et al. 2023, "Dissecting Recall of Factual Associations".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from interp.editing.edit import Act, Edit, as_address
from interp.editing.positions import Chosen, Positions, as_positions, words
from interp.editing.running import Run
from interp.errors import InvalidInput
from interp.models.model import Model
from interp.names import AttentionLayer, Head, Pattern, Site
from interp.results.by_head import Heads, ScoredHead, as_heads


@dataclass(frozen=True)
class Knockout(Edit):
    """Chosen query-key pairs of a head's pattern get no attention.

    Args:
        head: the head, or several as an attention layer or a pattern.
        query: positions that look, as one number, several or a slice; None for all. Those from 0 are of the whole
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

    head: Head | AttentionLayer | Pattern | ScoredHead | str
    query: Positions | None = None
    key: Positions | None = None
    renormalise: bool = True
    cuts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        address = as_address(self.head)
        if not isinstance(address, Head | AttentionLayer | Pattern):
            raise InvalidInput(f"a knockout is of heads, as 'decoder.cross.3.5'; found {str(address)!r}.")
        object.__setattr__(self, "head", address)
        for name in ("query", "key"):
            object.__setattr__(self, name, as_positions(name, getattr(self, name)))
        if self.query is None and self.key is None:
            raise InvalidInput(f"{self}: give the positions that look, the positions looked at, or both.")

    def places(self, model: Model) -> list[tuple[Site, int | None]]:
        """Return the heads' scores, so that the softmax renormalises, or their patterns."""
        name = "scores" if self.renormalise else "pattern"
        return [(head.site(name), head.head) for head in as_heads(model, cast(Heads, self.head))]

    def act(self, model: Model, site: Site, head: int | None, run: Run, values: Sequence[Tensor]) -> Act:
        """Return the function that cuts."""
        return Cut(self, site, run)

    def missing(self, act: Act, acted: bool) -> str:
        """Return the positions that no step had."""
        assert isinstance(act, Cut)
        return act.missing()

    def __str__(self) -> str:
        return f"Knockout({str(self.head)!r}, query={words(cast(Any, self.query))}, key={words(cast(Any, self.key))})"


class Cut:
    """A knockout at work: it knows which of its positions have been met."""

    def __init__(self, edit: "Knockout", site: Site, run: Run) -> None:
        self.edit, self.site, self.run, self.ran = edit, site, run, False
        self.query, self.key = (Chosen(edit, name, getattr(edit, name)) for name in ("query", "key"))

    def missing(self) -> str:
        """Return the positions that no step had."""
        if not self.ran:
            return "nothing ran inside that has it"
        return ", ".join(reason for chosen in (self.query, self.key) if (reason := chosen.missing()))

    def __call__(self, part: Tensor) -> Tensor | None:
        self.ran = True
        stack, rows = self.site.stack, len(part)
        offset = self.run.offset if stack == "decoder" else 0
        grows = (stack, self.site.kind) == ("decoder", "self")
        looking = self.run.tokens(stack, rows, offset, part.shape[-2])
        count, seen = self.run.keys_seen(self.site, part)
        queries = self._marked(self.query, part.shape[-2], offset, stack == "decoder", looking).to(part.device)
        keys = self._marked(self.key, count, 0, grows, seen).to(part.device)
        cut = queries[:, :, None] & nn.functional.pad(keys, (0, part.shape[-1] - count))[:, None]
        if not bool(cut.any()):
            return None
        if not self.edit.renormalise:
            return part.masked_fill(cut, 0)
        # Padding of a decoder alone may see no key at all: there is nothing to cut.
        looks = self._seen(part)
        cut_scores = part.masked_fill(cut & looks, -torch.inf)
        blind = looks & ~self._seen(cut_scores)
        if bool((blind if looking is None else blind & looking.to(part.device)[:, :, None]).any()):
            raise InvalidInput(
                f"{self.edit}: a query is left without any key, so there is nothing to renormalise: give fewer keys, "
                "or renormalise=False."
            )
        # What padding looks at is read by nobody, but must be a number.
        return torch.where(blind, part, cut_scores)

    @staticmethod
    def _seen(scores: Tensor) -> Tensor:
        """Tell whether a query sees a key: masked keys have the lowest finite score, which shows in a softmax."""
        return scores.amax(-1, keepdim=True) > torch.finfo(scores.dtype).min / 2

    def _marked(self, chosen: Chosen, length: int, offset: int, grows: bool, shown: Tensor | None) -> Tensor:
        """Mark which of the step's own positions are chosen, `[row, pos]`, or `[1, pos]` where all rows are alike."""
        shown = torch.ones(1, length, dtype=torch.bool) if shown is None else shown.cpu()
        return chosen.here(shown, offset, length, self.site, grows)
