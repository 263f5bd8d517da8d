"""Figures of patching hold the numbers they are made from, say what is known of a cell, and can be drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import circuits
import probes
from circuits import plots
from circuits.patching import PatchedHeads, PatchedPositions
from interp.errors import InvalidInput
from tests.probes.plots.test_mosaics import needs_browser, traces
from tests.tolerance import close

RNG = np.random.default_rng(0)
CLEAN, CORRUPT = RNG.normal(3, 0.2, 5), RNG.normal(-1, 0.2, 5)
FROM = {"model": "folder/tiny"}


def heads(*sites: str, count: int = 4) -> PatchedHeads:
    values = CLEAN + RNG.normal(-1, 1, (len(sites), count, 5))
    return PatchedHeads("log_prob", sites, values, CLEAN, CORRUPT, FROM)


@pytest.fixture
def positions() -> PatchedPositions:
    """Six encoder positions, of which 2 and 5 differ, 5 only in some rows; two of the decoder."""
    values = CLEAN + RNG.normal(0, 0.1, (3, 6, 5))
    values[2, 2:] = np.nan
    encoder = np.tile([2000, 2001, 2002, 2003, 2004, 1.0], (2, 5, 1))
    encoder[1, :, 2] = 3000
    encoder[:, :, 4] = np.arange(5) + 2010
    encoder[1, :2, 4] = 2100
    tokens = {"encoder": encoder, "decoder": np.tile([0.0, 2001], (2, 5, 1))}
    sites = ("encoder.0.resid_post", "encoder.1.resid_post", "decoder.0.resid_post")
    return PatchedPositions("log_prob", sites, values, CLEAN, CORRUPT, FROM, (6, 6, 2), tokens)


def test_a_panel_a_kind_and_site() -> None:
    found = heads("encoder.self.0.z", "encoder.self.1.z", "decoder.cross.1.z", "decoder.cross.1.k")
    figure = plots.patched_heads(found)
    assert [note.text for note in figure.layout.annotations] == [
        "z of encoder.self", "z of decoder.cross", "k of decoder.cross",
    ]  # fmt: skip
    first, second, third = traces(figure, go.Heatmap)
    close(first.z, found.share[:2])
    for trace, row in ((second, 2), (third, 3)):
        close(trace.z, [[np.nan] * 4, found.share[row]])
    frame = found.to_frame()
    told = frame[(frame["head"] == "decoder.cross.1.3") & (frame["site"] == "decoder.cross.1.k")].iloc[0]
    hover = third.customdata[1][3]
    for text in (
        "decoder.cross.1.3, k", f"share {told['share']:.3f} ± {told['stderr']:.3f}", f"effect {told['effect']:.4g}",
        f"({told['low']:.4g} to {told['high']:.4g})", f"q {told['q']:.2g}",
    ):  # fmt: skip
        assert text in hover
    assert second.text[1][2] in (f"{found.share[2, 2]:.2f}", "")
    assert figure.layout.yaxis.range == (1.5, -0.5), "layer 0 on top"


def test_red_is_towards_corrupt_and_white_is_nothing() -> None:
    found = heads("decoder.cross.0.z")
    turned = replace(found, clean=CORRUPT, corrupt=CLEAN)
    for result, show, red_end in (
        (found, "share", 1), (found, "effect", 0), (turned, "share", 1), (turned, "effect", 1),
    ):  # fmt: skip
        axis = plots.patched_heads(result, show=show).layout.coloraxis  # type: ignore[arg-type]
        assert axis.cmin == -axis.cmax < 0
        assert axis.colorscale[-red_end][1] == "rgb(103,0,31)"
        shown = result.share if show == "share" else result.effects.mean(-1)
        close(axis.cmax, np.abs(shown).max())
    still = replace(found, values=np.tile(CLEAN, (1, 4, 1)))
    close(plots.patched_heads(still).layout.coloraxis.cmax, 0.1)
    figure = plots.patched_heads(still)
    assert set(np.ravel(traces(figure, go.Heatmap)[0].text)) == {""}


def test_large_models_are_not_annotated() -> None:
    found = heads(*(f"decoder.cross.{layer}.z" for layer in range(12)), count=16)
    (trace,) = traces(plots.patched_heads(found), go.Heatmap)
    assert trace.text is None
    assert "decoder.cross.11.15" in trace.customdata[11][15]


def test_positions_by_stack(positions: PatchedPositions) -> None:
    figure = plots.patched_positions(positions)
    encoder, decoder = traces(figure, go.Heatmap)
    close(encoder.z, positions.share[:2])
    close(decoder.z, positions.share[2:, :2])
    assert list(encoder.y) == ["encoder.0.resid_post", "encoder.1.resid_post"]
    assert list(figure.layout.xaxis.ticktext) == [
        "0<br>2000", "1<br>2001", "<b>2<br>2002</b>", "3<br>2003", "<b>4</b>", "5<br>EOS",
    ]  # fmt: skip
    assert list(figure.layout.xaxis2.ticktext) == ["0<br>start", "1<br>2001"]
    assert "encoder.1.resid_post, position 2<br>token 2002 in clean, 3000 in corrupt" in encoder.customdata[1][2]
    assert "tokens differ in 40% of rows" in encoder.customdata[1][4]
    assert "token 1 in both" in encoder.customdata[0][5]
    assert f"share {positions.share[2, 1]:.3f}" in decoder.customdata[0][1]
    (alone,) = traces(plots.patched_positions(positions, show="effect"), go.Heatmap)[1:]
    close(alone.z, positions.effects.mean(-1)[2:, :2])


def test_words_have_no_special_tokens(positions: PatchedPositions) -> None:
    """Without an encoder beside it tokens 0 and 1 are whatever they are."""
    sites, ids = positions.sites[2:], np.tile([0.0, 1], (2, 5, 1))
    alone = replace(positions, sites=sites, values=positions.values[2:, :2], lengths=(2,), tokens={"decoder": ids})
    figure = plots.patched_positions(alone)
    assert list(figure.layout.xaxis.ticktext) == ["0<br>0", "1<br>1"]
    assert [note.text for note in figure.layout.annotations] == ["decoder positions"]


def test_what_cannot_be_drawn(positions: PatchedPositions) -> None:
    for draw, other in ((plots.patched_heads, positions), (plots.patched_positions, heads("decoder.cross.0.z"))):
        with pytest.raises(InvalidInput, match="patch_"):
            draw(other)  # type: ignore[operator]
    with pytest.raises(InvalidInput, match="share, effect"):
        plots.patched_heads(heads("decoder.cross.0.z"), show="values")  # type: ignore[arg-type]


@needs_browser
def test_every_figure_can_be_drawn(positions: PatchedPositions, tmp_path: Path) -> None:
    one: dict[str, Any] = {"clean": CLEAN[:1], "corrupt": CORRUPT[:1]}
    single = replace(heads("decoder.cross.0.z"), values=RNG.random((1, 4, 1)), **one)
    assert "±" not in str(traces(plots.patched_heads(single), go.Heatmap)[0].customdata)
    figures = {
        "heads": plots.patched_heads(heads("encoder.self.0.z", "decoder.self.0.z", "decoder.cross.0.z")),
        "one": plots.patched_heads(single),
        "positions": plots.patched_positions(positions),
    }
    files = probes.plots.write_images({tmp_path / f"{name}.png": figure for name, figure in figures.items()}, scale=1)
    assert all(path.stat().st_size > 5000 for path in files)
    assert circuits.plots is plots
