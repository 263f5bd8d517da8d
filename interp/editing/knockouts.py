"""Knockouts at work: which queries and keys of a step are asked for, row by row, and what is left when they are cut."""

from typing import cast

import torch
from torch import Tensor, nn

from interp.editing.edits import Knockout
from interp.editing.running import Run
from interp.errors import InvalidInput
from interp.names import Site, Stack


def keys_seen(site: Site, part: Tensor, run: Run) -> tuple[int, Tensor | None]:
    """Count the keys of a square that are of tokens, and mark those that are not padding, as `Run.tokens` says."""
    there = part.shape[-1]
    count = run.keys(there) if (site.stack, site.kind) == ("decoder", "self") else there
    return count, run.tokens(keys_of(site), len(part), 0, count)


def keys_of(site: Site) -> Stack:
    """Return the stack of an attention site's keys."""
    return "encoder" if site.kind == "cross" or site.stack == "encoder" else "decoder"


class Cut:
    """A knockout at work: it knows which of its positions have been met."""

    def __init__(self, edit: Knockout, site: Site, run: Run) -> None:
        self.edit, self.site, self.run = edit, site, run
        self.left = {"query": set(edit.query or ()), "key": set(edit.key or ())}  # type: ignore[arg-type]
        self.ran = False

    def missing(self) -> str:
        """Return the positions that no step had."""
        if not self.ran:
            return "nothing ran inside that has it"
        return ", ".join(f"no step had {name} {sorted(left)}" for name, left in self.left.items() if left)

    def __call__(self, part: Tensor) -> Tensor | None:
        self.ran = True
        stack, rows = self.site.stack, len(part)
        offset = self.run.offset if stack == "decoder" else 0
        grows = (stack, self.site.kind) == ("decoder", "self")
        looking = self.run.tokens(stack, rows, offset, part.shape[-2])
        count, seen = keys_seen(self.site, part, self.run)
        queries = self._here("query", part.shape[-2], offset, stack == "decoder", looking).to(part.device)
        keys = self._here("key", count, 0, grows, seen).to(part.device)
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

    def _here(self, name: str, length: int, offset: int, grows: bool, shown: Tensor | None) -> Tensor:
        """Mark which of the step's own positions are chosen, `[row, pos]`, or `[1, pos]` where all rows are alike."""
        chosen = cast(tuple[int, ...] | None, getattr(self.edit, name))
        shown = torch.ones(1, length, dtype=torch.bool) if shown is None else shown.cpu()
        if chosen is None:
            return torch.ones(1, length, dtype=torch.bool)
        marked, outside, counted = torch.zeros_like(shown), set[int](), shown.long().cumsum(1)
        for position in chosen:
            # From the end it is a row's own tokens that count.
            wanted = counted[:, -1:] + 1 + position
            at = torch.arange(length)[None] == position - offset if position >= 0 else (counted == wanted) & shown
            if position < 0 and bool((wanted < 1).any()) and bool((wanted >= 1).any()):
                raise InvalidInput(
                    f"{self.edit}: some rows hold fewer tokens than {name}={position} counts, the rest is padding: "
                    "choose a position that all rows have."
                )
            marked |= at
            if bool((at & shown).any()):
                self.left[name].discard(position)
            elif not bool(at.any()):
                outside.add(position)
        if not grows and outside:
            raise InvalidInput(
                f"{self.edit}: {self.site.stack} has {length} positions there, so {name} {sorted(outside)} is outside "
                "the sequence."
            )
        return marked
