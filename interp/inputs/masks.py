"""Positions of rows that are padded: the last one is the last that holds a token."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import InvalidInput
from interp.validate import whole


def row_positions(name: str, position: Any, shown: Bool[Tensor, "row pos"]) -> Int[Tensor, " row"]:
    """Return the column of a position in each row.

    Args:
        name: what the user calls the position.
        position: from 0 on a column of the batch, padded or not; a negative one counts back over the row's own
            tokens, so that -1 is the last that is not masked.
        shown: which columns hold a token.

    Returns:
        The columns, counted from 0.

    Raises:
        InvalidInput: not a whole number, no such column, or a row with fewer tokens.
    """
    size = shown.shape[1]
    at = whole(name, position, -size)
    if at >= size:
        raise InvalidInput(f"{name}={position}: there are positions 0-{size - 1}.")
    if at >= 0:
        return torch.full((len(shown),), at, device=shown.device)
    counted = shown.long().cumsum(1)
    wanted = counted[:, -1:] + 1 + at
    if bool((short := wanted[:, 0] < 1).any()):
        rows = short.nonzero()[:, 0].tolist()
        raise InvalidInput(
            f"{name}={position}: row {rows[0]} holds {int(counted[rows[0], -1])} tokens, the rest is padding. Negative "
            "positions count over a row's own tokens: choose one that all rows have."
        )
    return ((counted == wanted) & shown).long().argmax(1)


def at_position(values: NDArray[Any], shown: NDArray[np.bool_], position: Any) -> NDArray[Any]:
    """Return the values of `[..., row, pos]` at one position of each row: NaN in rows that are masked there.

    Args:
        values: NaN where rows are masked.
        shown: which columns hold a token, `[row, pos]`.
        position: as in `row_positions`.

    Returns:
        `[..., row]`.

    Raises:
        InvalidInput: as `row_positions`.
    """
    columns = row_positions("position", position, torch.from_numpy(shown)).numpy()
    return values[..., np.arange(len(columns)), columns]


def position_words(shown: NDArray[np.bool_], position: int) -> str:
    """Describe a position: its column, or how it counts where rows have it in different columns.

    Args:
        shown: which columns hold a token, `[row, pos]`.
        position: as in `row_positions`.
    """
    columns = set(row_positions("position", position, torch.from_numpy(shown)).tolist())
    return str(columns.pop()) if len(columns) == 1 else f"{position} of each row's tokens"


def check_tokens(mask: Int[Tensor, "row pos"], stack: str, positions: Iterable[int], what: str) -> None:
    """Check that all rows have a token at the positions that a stimulus names.

    Args:
        mask: 1 where there is a token.
        stack: whose mask it is.
        positions: that all rows need.
        what: stands there.

    Raises:
        InvalidInput: a row is padded there.
    """
    padded = [place for place in positions if place < mask.shape[1] and not bool(mask[:, place].all())]
    if padded:
        raise InvalidInput(
            f"{what} is at {stack} position {padded[0]}, which is padding in a row: the stimulus' positions hold for "
            "all rows. Pad elsewhere, and move the positions with the tokens."
        )


def positions_of(mask: Tensor) -> Tensor:
    """Return the position of each token `[row, pos]`, padding not counted, as `generate` numbers them."""
    return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)
