"""Figures of the open questions hold the numbers of their results."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import interp
import probes
from probes import plots
from probes.questions.agreement import MEASURES, Agreement
from probes.questions.comb_origin import HYPOTHESES, CombOrigin
from probes.questions.length_effect import CONDITIONS, LengthEffect
from probes.questions.repetition_effect import RepetitionEffect
from tests.tolerance import close

PAGE = 1120
"""Width of a report's page: of a wider figure the end is hidden."""


@pytest.fixture
def repetitions() -> RepetitionEffect:
    """Two models, one without induction heads; two lengths; attention of 1 / (repetitions + occurrence + length)."""
    occurrences: list[dict[str, Any]] = []
    sums: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    for model, groups in (("a/one", ("induction", "other")), ("b/two", ("other",))):
        for length in (5, 10):
            about = {"model": model, "sequence_length": length}
            for group in groups:
                for count in (2, 4):
                    paid = 1 / (count + np.arange(1, count + 1) + length)
                    occurrences += [
                        {**about, "group": group, "repetitions": count, "occurrence": k + 1, "attention": p,
                         "low": p - 0.01, "high": p + 0.02} for k, p in enumerate(paid)
                    ]  # fmt: skip
                    values = {"last": paid[0], "sum": paid.sum(), "evenness": 1.2}
                    ends = {f"{k}_{end}": v + s for k, v in values.items() for end, s in (("low", -0.1), ("high", 0.1))}
                    sums.append({**about, "group": group, "repetitions": count, **values, **ends, "heads": 3})
            said = "spread over occurrences" if "induction" in groups else "no induction heads"
            verdicts.append({**about, "heads": len(groups) - 1, "verdict": said})
    return RepetitionEffect(*(pd.DataFrame(rows) for rows in (occurrences, sums, verdicts)), threshold=0.3)


def on(figure: go.Figure, axis: str) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data if trace.xaxis == axis}


def test_repetitions_by_occurrence_beside_equal_shares(repetitions: RepetitionEffect) -> None:
    figure = plots.repetition_effect(repetitions)
    found = on(figure, "x")
    assert set(found) == {"2", "4", "1/R"}
    close(found["4"].y, [1 / 15, 1 / 16, 1 / 17, 1 / 18])
    close(found["4"].error_y.array, 0.02)
    close(found["4"].error_y.arrayminus, 0.01)
    assert [list(t.y) for t in figure.data if t.name == "1/R"] == [[0.5, 0.5], [0.25, 0.25]]
    below = on(figure, "x3")
    close(below["last"].y, [1 / 13, 1 / 15])
    close(below["sum"].error_y.array, 0.1)
    assert list(below["evenness"].x) == [2, 4]
    assert figure.layout.yaxis3.range[1] > 1.2
    # The other model has heads of neither panel, and says so.
    assert not on(figure, "x2")
    assert not on(figure, "x4")
    texts = [note.text for note in figure.layout.annotations if note.text]
    assert texts == ["<b>one</b>: spread over occurrences", "<b>two</b>: no induction heads"]
    assert Counter(t.name for t in figure.data if t.showlegend) == dict.fromkeys(
        ("2", "4", "1/R", "last", "sum", "evenness"), 1
    )


def test_repetitions_at_one_length(repetitions: RepetitionEffect) -> None:
    shorter = plots.repetition_effect(repetitions, sequence_length=5)
    close(on(shorter, "x")["2"].y, [1 / 8, 1 / 9])
    with pytest.raises(interp.errors.InvalidInput, match=r"sequence_length=7: the result has 5, 10"):
        plots.repetition_effect(repetitions, sequence_length=7)


def test_many_models_are_drawn_in_rows(repetitions: RepetitionEffect) -> None:
    frames = {
        name: pd.concat(
            [frame.assign(model=f"m{i}") for i in range(5) for frame in [getattr(repetitions, name)[:12]]],
            ignore_index=True,
        ).drop_duplicates(["model", "sequence_length", *keys])
        for name, keys in (
            ("occurrences", ["group", "repetitions", "occurrence"]),
            ("sums", ["group", "repetitions"]),
            ("verdicts", []),
        )
    }
    figure = plots.repetition_effect(replace(repetitions, **frames), sequence_length=5)
    titles = [note.text for note in figure.layout.annotations if note.text]
    assert [title.split("<b>")[1][:2] for title in titles] == [f"m{i}" for i in range(5)]
    # Five models in blocks of three: attention in rows 1 and 3, sums under it.
    assert set(on(figure, "x7")) == {"2", "4", "1/R"}
    assert set(on(figure, "x4")) == set(on(figure, "x11")) == {"last", "sum", "evenness"}


@pytest.fixture
def lengths() -> LengthEffect:
    """Two models; the second has no chosen heads, so only their number."""
    scores: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    for model, outcomes in (("a/one", ("heads", "last", "sum")), ("b/two", ("heads",))):
        for o, outcome in enumerate(outcomes):
            for c, condition in enumerate(CONDITIONS):
                for length in (2, 8):
                    value = 0.1 * o + 0.01 * c + length / 100
                    where = {"sequence_length": length, "n_tokens": 4 * length, "outcome": outcome}
                    ends = {"value": value, "low": value - 0.1, "high": value + 0.2}
                    scores.append({"model": model, "condition": condition, **where, **ends})
            slope = {"slope": 0.5, "low": 0.25, "high": 0.75, "verdict": "collisions"}
            verdicts.append({"model": model, "outcome": outcome, **slope})
    return LengthEffect(pd.DataFrame(scores), pd.DataFrame(), pd.DataFrame(verdicts), repetitions=4)


def test_lengths_by_condition_and_outcome(lengths: LengthEffect) -> None:
    figure = plots.length_effect(lengths)
    for axis, o in (("x", 1), ("x2", 2), ("x3", 0), ("x6", 0)):
        found = on(figure, axis)
        assert tuple(found) == CONDITIONS
        for c, line in enumerate(found.values()):
            close(line.y, [0.1 * o + 0.01 * c + n / 100 for n in (2, 8)])
            assert [row[0] for row in line.customdata] == [2, 8]
            np.testing.assert_allclose(line.x, [2, 8], rtol=0.035)
            close(line.error_y.array, 0.2)
            close(line.error_y.arrayminus, 0.1)
    assert not on(figure, "x4")
    texts = [note.text for note in figure.layout.annotations]
    assert texts[0] == "<b>one</b>, last<br>+0.500 (+0.250 to +0.750): collisions"
    assert texts[3] == "<b>two</b>, last<br>no heads were chosen"
    assert [t.name for t in figure.data if t.showlegend] == list(CONDITIONS)
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.width <= PAGE


def test_a_slope_without_an_interval_says_so(lengths: LengthEffect) -> None:
    figure = plots.length_effect(replace(lengths, verdicts=lengths.verdicts.assign(low=np.nan, high=np.nan)))
    assert figure.layout.annotations[0].text == "<b>one</b>, last<br>+0.500 (no interval): collisions"


@pytest.fixture(scope="module")
def agreed(pico: interp.Model) -> Agreement:
    return probes.agreement(probes.induction_mosaic(pico), probes.multisine_scores(pico, draws=2))


def test_agreement_has_a_point_a_head_and_the_correlations(agreed: Agreement) -> None:
    figure = plots.agreement(agreed)
    table: Any = agreed.to_frame().set_index("measure")
    either, names = agreed.mosaic.either.values, agreed.mosaic.to_frame()["head"]
    for axis, measure, note in zip(("x", "x2", "x3", "x4"), MEASURES, figure.layout.annotations, strict=False):
        found = on(figure, axis)
        points = [p for t in found.values() for p in zip(t.text, t.x, t.y, strict=True)]
        assert sorted(p[0] for p in points) == sorted(names)
        score = getattr(agreed.multisine, measure)
        for head, x, y in points:
            assert (x, y) == (score[head], agreed.mosaic.either[head])
        assert set(found["induction heads"].text) == {str(h.address) for h in agreed.mosaic.either.heads(0.3)}
        assert f"rho {table.loc[measure, 'rho']:.2f}" in note.text
        assert f"{table.loc[measure, 'within_layers']:.2f} within layers" in note.text
    assert f"{(either >= 0.3).sum()} of 24" in figure.layout.title.subtitle.text


@pytest.fixture
def origin() -> CombOrigin:
    """One case, 20 draws, 3 heads: the first is of the gcd, the second of the minimum, the third of none."""
    scores = np.zeros((3, 1, 20, 1, 3))
    scores[0, ..., 0] = scores[2, ..., 1] = scores[1, ..., 2] = 1
    scores[1, 0, :5, 0, 0] = 2
    p = np.full((1, 20, 1, 3), 0.01)
    p[..., 2] = 0.9
    control = np.zeros((3, 1, 20))
    control[1] = 1
    strength = np.broadcast_to([0.3, 0.6, 0.1], (1, 20, 1, 3))
    rest = {"control_strength": np.full((1, 20), 0.2), "control_p": np.full((1, 20), 0.01), "width": 0.1}
    rest |= {"shuffled_p": np.full_like(p, 0.9), "control_shuffled_p": np.full((1, 20), 0.9)}
    rest |= {"control_scores": control, "provenance": {"model": "a/one"}}
    return CombOrigin(((9, 15, 24),), ((3, 6, 9),), scores, strength, p, **rest)


def test_origin_of_combs_strongest_first_and_the_control_apart(origin: CombOrigin) -> None:
    figure = plots.comb_origin(origin)
    assert [trace.name for trace in figure.data[:3]] == list(HYPOTHESES)
    gcd, difference, least = (list(trace.x) for trace in figure.data[:3])
    # The control, then the heads by strength: 1, 0, 2.
    assert [row[0] for row in figure.data[0].customdata] == [
        "matching by value", "decoder.cross.0.1", "decoder.cross.0.0", "decoder.cross.0.2",
    ]  # fmt: skip
    assert (gcd, difference, least) == ([0, 0, 0.75, 0], [1, 0, 0.25, 0], [0, 1, 0, 0])
    places = list(figure.data[0].y)
    close(np.diff(places), [1.7, 1, 1])
    dots = figure.data[3]
    assert list(dots.x) == [1, 1, 1, 0]
    assert [text.split(maxsplit=1)[1] for text in dots.text] == [
        "smallest difference", "smallest frequency", "gcd", "none",
    ]  # fmt: skip
    opacity = list(figure.data[0].marker.opacity)
    assert opacity[:3] == [1, 1, 1]
    assert opacity[3] < 1
    assert "all 3 heads" in figure.layout.title.text
    assert "of 9, 15, 24 Hz 3, 6, 9" in figure.layout.title.subtitle.text


def test_origin_of_many_heads_is_capped_and_says_so(origin: CombOrigin) -> None:
    figure = plots.comb_origin(origin, most=1)
    assert [row[0] for row in figure.data[0].customdata] == ["matching by value", "decoder.cross.0.1"]
    assert "the 1 strongest of 3 heads" in figure.layout.title.text
    with pytest.raises(interp.errors.InvalidInput, match="most=0"):
        plots.comb_origin(origin, most=0)


@pytest.mark.parametrize("name", ["repetition_effect", "length_effect", "agreement", "comb_origin"])
def test_another_result_is_named(name: str) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=rf"DataFrame is no \w+: give what probes\.{name} returns"):
        getattr(plots, name)(pd.DataFrame())
