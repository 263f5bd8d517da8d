"""Figures of sweeps hold the counts that the scores give, counted by hand."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import interp
from probes import plots
from tests.swept import made_up, random_frame, real_frame
from tests.tolerance import tolerance

LOW, HIGH = 0.1, 0.8


def frame_of(*runs: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(runs, ignore_index=True)


def heads(current: int, right: int, both: int, shape: tuple[int, int] = (2, 4)) -> tuple[Any, Any]:
    """Scores of which so many are high in current only, in right only, and in both."""
    scores = np.full((2, shape[0] * shape[1]), LOW)
    scores[0, :current] = scores[1, current : current + right] = HIGH
    scores[:, current + right : current + right + both] = HIGH
    return scores[0].reshape(shape), scores[1].reshape(shape)


@pytest.fixture
def counted() -> pd.DataFrame:
    """Two models; a: length 5 at two repetitions and two seeds, length 3 once; b: one run of a larger model."""
    return frame_of(
        made_up("a", *heads(1, 2, 1), repetitions=4, sequence_length=5, seed=0),
        made_up("a", *heads(2, 0, 0), repetitions=4, sequence_length=5, seed=1),
        made_up("a", *heads(0, 3, 0), repetitions=2, sequence_length=5, seed=0),
        made_up("a", *heads(0, 1, 0), repetitions=2, sequence_length=5, seed=1),
        made_up("a", *heads(0, 0, 2), repetitions=2, sequence_length=3, seed=0),
        made_up("b", *heads(7, 0, 0, (3, 4)), repetitions=2, sequence_length=3, seed=0),
    )


def lines(figure: go.Figure) -> dict[tuple[str, str], Any]:
    return {(trace.xaxis, trace.name): trace for trace in figure.data}


def test_lines_are_means_of_the_seeds_counts_with_their_range(counted: pd.DataFrame) -> None:
    found = lines(plots.sweep_lines(counted))
    assert set(found) == {("x", "3"), ("x", "5"), ("x2", "3")}
    five = found["x", "5"]
    # 3 and 1 heads at two repetitions; 4 and 2 at four.
    assert list(five.x) == [2, 4]
    assert list(five.y) == [2, 3]
    assert list(five.error_y.array) == list(five.error_y.arrayminus) == [1, 1]
    assert list(found["x", "3"].y) == [2]
    assert list(found["x2", "3"].y) == [7]
    # One entry a length in the legend, however many panels it is in.
    assert sorted(trace.name for trace in found.values() if trace.showlegend) == ["3", "5"]


@pytest.mark.parametrize(("kind", "expected"), [("current_token", [0, 2]), ("token_to_right", [2, 1.5])])
def test_lines_of_one_kind(counted: pd.DataFrame, kind: Any, expected: list[float]) -> None:
    assert list(lines(plots.sweep_lines(counted, kind=kind))["x", "5"].y) == expected


def test_the_threshold_is_reached_by_scores_equal_to_it(counted: pd.DataFrame) -> None:
    at = lines(plots.sweep_lines(counted, threshold=HIGH))
    over = lines(plots.sweep_lines(counted, threshold=HIGH + tolerance()))
    under = lines(plots.sweep_lines(counted, threshold=LOW))
    assert [list(found["x2", "3"].y) for found in (at, over, under)] == [[7], [0], [12]]


def test_panels_say_how_many_heads_there_are_and_bars_fit(counted: pd.DataFrame) -> None:
    figure = plots.sweep_lines(counted)
    assert [note.text for note in figure.layout.annotations] == ["a (8 heads)", "b (12 heads)"]
    low, high = figure.layout.yaxis.range
    assert low < 0 < 4 < high
    assert figure.layout.yaxis2.range[1] > 7


def test_one_seed_has_no_bars(counted: pd.DataFrame) -> None:
    figure = plots.sweep_lines(counted[counted["seed"] == 0].drop(columns="seed"))
    assert all(trace.error_y.array is None for trace in figure.data)
    assert "seed" not in figure.layout.title.subtitle.text
    assert list(lines(figure)["x", "5"].y) == [3, 4]


def test_heatmaps_are_of_each_kind_blank_where_nothing_was_run(counted: pd.DataFrame) -> None:
    figure = plots.sweep_heatmap(counted)
    current, right, either, *b = figure.data
    assert list(current.x) == [2, 4]
    assert list(current.y) == [3, 5]
    # Rows are lengths 3 and 5, columns 2 and 4 repetitions.
    np.testing.assert_array_equal(current.z, [[2, np.nan], [0, 2]])
    np.testing.assert_array_equal(right.z, [[2, np.nan], [2, 1.5]])
    np.testing.assert_array_equal(either.z, [[2, np.nan], [2, 3]])
    np.testing.assert_array_equal(b[2].z, [[7, np.nan], [np.nan, np.nan]])
    # Titles of the second row stand where labels of the first would.
    layout = figure.layout
    assert [layout[f"xaxis{at}"].title.text for at in ("", 2, 3, 4, 5, 6)] == [None] * 3 + ["repetitions"] * 3
    # Each model's colours end at the largest mean that is drawn of it.
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 3)
    assert (figure.layout.coloraxis2.cmin, figure.layout.coloraxis2.cmax) == (0, 7)


def test_uneven_values_get_cells_of_one_size() -> None:
    frame = frame_of(*(random_frame("m", (2, 3), repetitions=r, sequence_length=4) for r in (2, 3, 8)))
    figure = plots.sweep_heatmap(frame)
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("category", "linear")
    assert list(plots.sweep_lines(frame).layout.xaxis.tickvals) == [2, 3, 8]


def test_real_mosaics(pico: interp.Model) -> None:
    import probes

    frame = real_frame([pico], (2, 3), (4,), (0,))
    found = lines(plots.sweep_lines(frame))
    for (_, length), line in found.items():
        for r, y in zip(line.x, line.y, strict=True):
            mosaic = probes.induction_mosaic(pico, repetitions=int(r), sequence_length=int(length), batch_size=20)
            assert mosaic.counts().either == y


def test_what_gives_a_frame_is_as_good_as_the_frame(counted: pd.DataFrame) -> None:
    class Sweep:
        def to_frame(self) -> pd.DataFrame:
            return counted

    assert plots.sweep_lines(Sweep()) == plots.sweep_lines(counted)
    assert plots.mosaic_explorer(Sweep()) == plots.mosaic_explorer(counted)


def test_what_cannot_be_drawn_is_named(counted: pd.DataFrame) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=r"needed are the columns repetitions, token_to_right,"):
        plots.sweep_lines(counted.drop(columns=["repetitions", "token_to_right"]))
    with pytest.raises(interp.errors.InvalidInput, match=r"needed are the columns sequence_length, axes before"):
        plots.sweep_heatmap(counted[[*(c for c in counted if c != "sequence_length"), "sequence_length"]])
    with pytest.raises(interp.errors.InvalidInput, match="no runs"):
        plots.sweep_lines(counted.iloc[:0])
    with pytest.raises(interp.errors.InvalidInput, match=r"12 rows are there twice, .* model b, repetitions 2"):
        plots.sweep_lines(frame_of(counted, counted[counted["model"] == "b"]))
    with pytest.raises(interp.errors.InvalidInput, match=r"kind='left': there are current_token"):
        plots.sweep_lines(counted, kind="left")  # type: ignore[arg-type]


def test_another_axis_is_not_averaged_over(counted: pd.DataFrame) -> None:
    wide = counted.copy()
    wide.insert(0, "vocab_range", [(2, 4095)] * len(wide))
    narrow = counted.copy()
    narrow.insert(0, "vocab_range", [(1911, 2187)] * len(narrow))
    assert len(plots.sweep_lines(wide).data) == 3
    with pytest.raises(interp.errors.InvalidInput, match=r"varies vocab_range as well"):
        plots.sweep_lines(frame_of(wide, narrow))
