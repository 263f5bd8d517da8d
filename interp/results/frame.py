"""Tables that print whole: all columns within the width of a terminal, numbers rounded alike."""

from typing import Any

import pandas as pd

WIDTH = 80
"""Characters of a printed line; columns that do not fit go on below."""


class Frame(pd.DataFrame):
    """A pandas frame that leaves out no column when it is printed; in everything else it is a frame.

    pandas leaves out the middle columns where a terminal is narrow, which are often those that answer the question.
    """

    @property
    def _constructor(self) -> type["Frame"]:
        return Frame

    def __repr__(self) -> str:
        with _whole():
            return super().__repr__()

    def _repr_html_(self) -> str | None:
        with _whole():
            html: Any = super()._repr_html_()  # type: ignore[operator]
        return html


def _whole() -> Any:
    return pd.option_context(
        *("display.max_columns", None),
        *("display.width", WIDTH),
        *("display.expand_frame_repr", True),
        *("display.float_format", "{:.3g}".format),
    )
