"""What several forecasts are made with: nothing, the ablations and edits of each name, and their controls."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from circuits.ablation.edited_forecasts import check_edits
from circuits.controls import Controls, random_controls
from interp import Model
from interp.editing.edit import Address, Edit, Target, addresses_of, locate
from interp.editing.edits import Reference
from interp.editing.methods import Method, ablations
from interp.errors import InvalidInput
from interp.names import Head
from interp.results.by_head import Heads, as_heads

Change = Target | Edit
"""What an ablation's name stands for: a head, layer or site that is ablated, or an edit."""

Members = Sequence[Address] | Sequence[Edit]
"""What one variant ablates, or the edits that it is under."""

UNEDITED = "unedited"
BASELINES = ("naive", "seasonal_naive", "parroting")


def are_edits(members: Members) -> bool:
    """Tell whether a variant is of edits."""
    return bool(members) and isinstance(members[0], Edit)


def targets_of(
    model: Model, named: Mapping[str, Change | Sequence[Change]], method: Method, reference: Reference | None
) -> dict[str, list[Address] | list[Edit]]:
    """Return by name the addresses that are ablated, or the edits if there is an edit among them."""
    if not isinstance(cast(Any, named), Mapping) or not named:
        raise InvalidInput("no ablations: give a dictionary, as {'induction': mosaic.heads()}.")
    targets: dict[str, list[Address] | list[Edit]] = {}
    for name, changes in named.items():
        several = isinstance(cast(Any, changes), Sequence) and not isinstance(changes, str)
        items = list(cast(Sequence[Change], changes)) if several else [cast(Change, changes)]
        if not isinstance(cast(Any, name), str) or not items:
            raise InvalidInput(f"the ablation {name!r} has no heads, or no name: give both, as text.")
        edits = [item for item in items if isinstance(item, Edit)]
        others = addresses_of(model, [item for item in items if not isinstance(item, Edit)])
        ablated = ablations(others)
        if edits:
            if model.reads_tokens:
                check_edits(name, edits)
            targets[name] = [*(ablations(others, method, reference) if others else ablated), *edits]
            continue
        targets[name] = list(others)
        if model.reads_tokens:
            _check_passed(model, others)
    return targets


def _check_passed(model: Model, addresses: Sequence[Address]) -> None:
    """Check that the folded decoder passes these sites."""
    for address in addresses:
        [(site, _)] = locate(model, address)
        if site.stack == "decoder" and site.name in ("resid_pre", "resid_post"):
            raise InvalidInput(
                f"{address}: forecasts of several ablations run the decoder's layers one by one, past this site. "
                f"Give it as an edit: [interp.Zero({str(address)!r})]."
            )


def drawn_controls(
    model: Model, targets: Mapping[str, Members], *, exclude: Heads, draws: int, seed: int
) -> dict[str, Controls]:
    """Draw random heads for each set of ablated heads, and say why there are none for other variants.

    Args:
        exclude: heads that are never drawn. Ablated heads never are.
    """
    ablated_heads = {m for members in targets.values() for m in members if isinstance(m, Head)}
    never = sorted(ablated_heads | set(as_heads(model, exclude)))
    drawn: dict[str, Controls] = {}
    for name, members in targets.items():
        heads = [m for m in members if isinstance(m, Head)]
        if len(heads) < len(members):
            drawn[name] = Controls((), "no control: they are drawn for sets of ablated heads only")
        else:
            drawn[name] = random_controls(model, heads, exclude=never, draws=draws, seed=seed)
    return drawn


def variants_of(
    targets: Mapping[str, Members], drawn: Mapping[str, Controls], controls: Mapping[str, Sequence[str]]
) -> dict[str, Members]:
    """Return what each variant ablates or edits: nothing, then what was asked for, then its controls.

    Args:
        controls: by name of the ablation, the names of its controls.

    Raises:
        InvalidInput: an ablation has the name of a baseline, a control or the unedited forecast.
    """
    if reserved := sorted({UNEDITED, *BASELINES} & set(targets)):
        raise InvalidInput(f"an ablation cannot be called {', '.join(reserved)}: another forecast has that name.")
    variants: dict[str, Members] = {UNEDITED: [], **targets}
    for name, titles in controls.items():
        if reserved := sorted(set(titles) & set(variants)):
            raise InvalidInput(
                f"an ablation cannot be called {', '.join(reserved)}: {name!r} has controls of that name."
            )
        variants |= dict(zip(titles, drawn[name].sets, strict=True))
    return variants
