"""Figures and the report of mosaics in patches hold the numbers of the result."""

from pathlib import Path

import numpy as np
import pytest

import interp
from interp.errors import InvalidInput
from probes import induction_mosaic, plots, repeated_random_patches
from probes.induction.patch_mosaic import PatchMosaic
from probes.plots.patch_mosaics import controls
from probes.reports.mosaics import mosaic
from tests.conftest import tiny_bolt
from tests.tolerance import close

LOW = 0.05
"""A threshold that random weights reach."""


@pytest.fixture(scope="module")
def bolt() -> interp.Model:
    return interp.wrap(tiny_bolt(), name="tiny-bolt")


@pytest.fixture(scope="module")
def result(bolt: interp.Model) -> PatchMosaic:
    return induction_mosaic(bolt, repeated_random_patches(bolt, patches=4, batch_size=5, coefficients=3))


def test_the_mosaic_has_a_row_a_query(result: PatchMosaic) -> None:
    figure = plots.mosaic(result, threshold=LOW)
    cells = [trace for trace in figure.data if trace.type == "heatmap"]
    expected = [
        panel.values
        for query in ("decoder", "reg", "last_patch")
        for panel in (
            result[query].current_token,
            result[query].token_to_right,
            result.mosaics["unrepeated"][query].either,
        )
    ]
    assert len(cells) == len(expected) == 9
    for cell, values in zip(cells, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(cell.z), values)
    titles = [annotation.text for annotation in figure.layout.annotations]
    right = result["reg"].counts(LOW).token_to_right
    assert titles[3].startswith("encoder.self from [REG], current patch: ")
    assert titles[4].startswith(f"patch to right: {right}")
    for title, values in zip(titles[:2], expected[:2], strict=True):
        assert ("the strongest is" in title) is bool(values.max() < LOW)
    strict = plots.mosaic(result, threshold=0.999)
    best = result["decoder"].token_to_right.heads()[0]
    note = strict.layout.annotations[1].text
    assert f"the strongest is {best.address}, {best.score:.2f}" in note
    assert figure.layout.coloraxis.cmin == 0
    assert figure.layout.coloraxis.cmax == 1
    assert "4 random patches of 3 coefficients, 2 repetitions and 2 more" in figure.layout.title.subtitle.text


def test_controls_stand_beside_the_strongest_heads(result: PatchMosaic) -> None:
    figure = controls(result, most=3)
    assert len(figure.data) == 3 * 5  # queries by stimuli
    repeated, unrepeated = figure.data[0], figure.data[1]
    strongest = result["decoder"].either.heads()[:3]
    assert list(repeated.y) == [str(head.address) for head in strongest]
    close(np.asarray(repeated.x), [head.score for head in strongest])
    # A head's control is of the kind in which it is stronger.
    for at, head in enumerate(strongest):
        layer, index = head.address.layer, head.address.head
        kinds = [getattr(result["decoder"], kind).values[layer, index] for kind in ("current_token", "token_to_right")]
        kind = "current_token" if kinds[0] >= kinds[1] else "token_to_right"
        assert unrepeated.x[at] == getattr(result.mosaics["unrepeated"]["decoder"], kind).values[layer, index]


def test_the_report_holds_models_of_both_kinds(bolt: interp.Model, model: interp.Model, tmp_path: Path) -> None:
    report = mosaic([bolt, model], batch_size=5, threshold=LOW, sequence_length=4, coefficients=3)
    assert {"patch_forecasts", "mosaic-tiny-bolt", "controls-tiny-bolt", "induction_heads"} <= {
        section.name for section in report.sections
    }
    saved = report.results["mosaic-tiny-bolt.json"]
    assert isinstance(saved, PatchMosaic)
    assert saved.provenance["stimulus"]["patches"] == 4
    forecasts = report.tables["patch_forecasts"]
    assert forecasts["stimulus"].tolist()[0] == "repeated"
    assert forecasts["pinball"].tolist() == [losses.mean() for losses in saved.losses.values()]
    heads = report.tables["controls-tiny-bolt"]
    assert (heads["score"] >= LOW).all()
    assert set(heads["query"]) <= {"decoder", "reg", "last_patch"}
    with pytest.raises(InvalidInput, match="--min-gap is of tokens, and tiny-bolt reads patches"):
        mosaic([bolt], min_gap=2)
