"""The mosaic explorer in a real browser: what it shows is what Python counts."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import interp
from interp.output import style
from probes import plots
from probes.plots import explorer
from tests.swept import made_up, random_frame, real_frame

KINDS = ("current_token", "token_to_right")


@pytest.fixture(scope="module")
def sweep(pico: interp.Model) -> pd.DataFrame:
    """Real mosaics of two models, several seeds, one combination of which is not there; and a large model made up."""
    real = real_frame([pico, interp.load("pico-t5-induction")], (2, 3), (4, 10), (0, 1))
    real = real.query("not (model == 'pico-t5' and repetitions == 3 and sequence_length == 4)")
    large = [random_frame("amazon/large", (24, 16), draw=s, repetitions=2, sequence_length=10, seed=s) for s in (0, 1)]
    return pd.concat([real, *large], ignore_index=True)


@pytest.fixture(scope="module")
def page_path(sweep: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plots.mosaic_explorer(sweep).write_html(tmp_path_factory.mktemp("explorer") / "explorer.html")


def choose(page: Any, **values: str) -> None:
    for name, value in values.items():
        page.get_by_label(name.replace("_", " "), exact=True).select_option(label=value)
    settle(page)


def slide(page: Any, threshold: float) -> None:
    page.get_by_label("threshold", exact=True).fill(str(round(100 * threshold)))
    settle(page)


def settle(page: Any) -> None:
    """What is to be drawn is drawn in the next frame; after two it is there."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def shown(page: Any) -> dict[str, Any]:
    """The numbers on the page: the tiles, the rings, the table."""
    texts = {kind: page.locator(f"#count-{kind} dd").first.inner_text() for kind in (*KINDS, "either", "accuracy")}
    plot = page.evaluate("(({data, layout}) => ({data, layout}))(document.getElementById('mosaic'))")
    return {
        **{kind: int(texts[kind].split()[0]) for kind in (*KINDS, "either")},
        "all": int(texts["either"].split()[2]),
        "share": float(texts["either"].split()[4]),
        "accuracy": float(texts["accuracy"].split()[0]),
        "rings": tuple(len(plot["data"][i]["x"]) for i in (1, 3)),
        "scores": [np.array(plot["data"][i]["z"], dtype=float) for i in (0, 2)],
        "title": plot["layout"]["title"],
        "heads": page.locator("#heads tbody td:first-child").all_inner_texts(),
    }


def part_of(frame: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """One row a head of a configuration: its seed's, or the mean over the seeds."""
    for name, value in where.items():
        frame = frame.loc[frame[name] == value]
    grouped: Any = frame.groupby(["head", "layer", "index"], as_index=False)[[*KINDS, "accuracy"]]
    return grouped.mean()


def check(page: Any, part: pd.DataFrame, threshold: float) -> None:
    """The page shows what the rows of one configuration give."""
    found = shown(page)
    over = {kind: int((part[kind] >= threshold).sum()) for kind in KINDS}
    either = part[list(KINDS)].max(axis=1)
    strongest = part.assign(either=either)[either >= threshold].sort_values("either", ascending=False)
    assert {kind: found[kind] for kind in KINDS} == over
    assert found["rings"] == tuple(over.values())
    assert (found["either"], found["all"]) == (len(strongest), len(part))
    assert found["share"] == pytest.approx(100 * len(strongest) / len(part), abs=0.051)
    assert found["accuracy"] == pytest.approx(100 * part["accuracy"].iloc[0], abs=0.051)
    assert sorted(found["heads"]) == sorted(strongest["head"])
    # Scores are rounded down to 4 decimals: heads closer than that may change places.
    order = strongest.set_index("head")["either"].reindex(found["heads"]).to_numpy()
    assert (np.diff(order) < 2e-4).all()
    for kind, scores in zip(KINDS, found["scores"], strict=True):
        expected = part.set_index(["layer", "index"])[kind].unstack().to_numpy()
        np.testing.assert_allclose(scores, expected, atol=1.01e-4, rtol=0)


def test_menus_and_slider_show_python_s_numbers(browser_page: Any, page_path: Path, sweep: pd.DataFrame) -> None:
    browser_page.goto(page_path.as_uri())
    mean = part_of(sweep, model="pico-t5", repetitions=2, sequence_length=10)
    check(browser_page, mean, 0.3)
    assert shown(browser_page)["title"]["text"] == "Induction mosaic of pico-t5"
    assert "mean over 2 seeds; ringed: at least 0.30" in shown(browser_page)["title"]["subtitle"]["text"]
    counts = set[int]()
    for threshold in (0.05, 0.85, 0.89, 0, 1):
        slide(browser_page, threshold)
        assert browser_page.locator("#threshold-value").inner_text() == f"{threshold:.2f}"
        check(browser_page, mean, threshold)
        counts.add(shown(browser_page)["either"])
    assert len(counts) >= 4
    slide(browser_page, 0.3)
    choose(browser_page, model="pico-t5-induction", repetitions="3", sequence_length="4", seed="1")
    check(browser_page, part_of(sweep, model="pico-t5-induction", repetitions=3, sequence_length=4, seed=1), 0.3)
    title = shown(browser_page)["title"]
    assert title["text"] == "Induction mosaic of pico-t5-induction"
    assert title["subtitle"]["text"] == "repetitions 3, sequence length 4, seed 1; ringed: at least 0.30"


def test_a_large_model_fits_windows_of_any_width(browser_page: Any, page_path: Path, sweep: pd.DataFrame) -> None:
    browser_page.goto(page_path.as_uri())
    choose(browser_page, model="large", seed="0")
    check(browser_page, part_of(sweep, model="amazon/large", seed=0), 0.3)
    for width in (1000, 1500):
        browser_page.set_viewport_size({"width": width, "height": 900})
        # A page follows its window in a moment, of which Playwright's own waiting is kept out by the page's policy.
        for _ in range(50):
            settle(browser_page)
            off = browser_page.evaluate("(e => e._fullLayout.width - e.clientWidth)(document.getElementById('mosaic'))")
            if abs(off) < 2:
                break
            browser_page.wait_for_timeout(50)
        assert abs(off) < 2
        assert browser_page.evaluate("document.documentElement.scrollWidth") <= width
        figure = browser_page.locator("#mosaic").bounding_box()
        assert 0.9 * width < figure["width"] < width
        assert figure["height"] < 900
        for part in (".xy", ".x2y2", ".colorbar", ".gtitle"):
            box = browser_page.locator(f"#mosaic {part}").first.bounding_box()
            assert figure["x"] <= box["x"]
            assert box["x"] + box["width"] <= figure["x"] + figure["width"]


def test_lines_follow_the_menus_and_the_slider(browser_page: Any, page_path: Path, sweep: pd.DataFrame) -> None:
    browser_page.goto(page_path.as_uri())
    for threshold, kind in ((0.3, "either"), (0.1, "current token")):
        slide(browser_page, threshold)
        choose(browser_page, model="pico-t5-induction", heads_counted=kind)
        figure = plots.sweep_lines(
            sweep[sweep["model"] == "pico-t5-induction"], threshold=threshold, kind=kind.replace(" ", "_")
        )  # type: ignore[arg-type]
        drawn = browser_page.evaluate("document.getElementById('lines').data.filter(t => t.name)")
        assert [line["name"] for line in drawn] == [line.name for line in figure.data] == ["4", "10"]
        for line, expected in zip(drawn, figure.data, strict=True):
            assert line["x"] == list(expected.x)
            assert line["y"] == list(expected.y)
            assert line["error_y"]["array"] == list(expected.error_y.array)
            assert line["error_y"]["arrayminus"] == list(expected.error_y.arrayminus)
    assert any(any(line["error_y"]["array"]) for line in drawn)


def test_a_combination_that_was_not_run_is_said_in_words(browser_page: Any, page_path: Path) -> None:
    browser_page.goto(page_path.as_uri())
    missing = browser_page.locator("#missing")
    assert not missing.is_visible()
    choose(browser_page, repetitions="3", sequence_length="4")
    words = missing.inner_text()
    assert "no run with model pico-t5, repetitions 3, sequence length 4" in words
    assert "model pico-t5-induction; repetitions 2; sequence length 10" in words
    assert not browser_page.locator("#mosaic").is_visible()
    assert not browser_page.locator("#heads").is_visible()
    assert browser_page.get_by_role("button", name="Save PNG").is_disabled()
    choose(browser_page, sequence_length="10")
    assert not missing.is_visible()
    assert browser_page.locator("#mosaic").is_visible()


def test_save_downloads_the_mosaic_as_a_png(browser_page: Any, page_path: Path, tmp_path: Path) -> None:
    browser_page.goto(page_path.as_uri())
    slide(browser_page, 0.45)
    with browser_page.expect_download() as started:
        browser_page.get_by_role("button", name="Save PNG").click()
    saved = started.value
    assert saved.suggested_filename == (
        "mosaic-pico-t5-repetitions-2-sequence-length-10-mean-over-2-seeds-threshold-0.45.png"
    )
    saved.save_as(tmp_path / "saved.png")
    content = (tmp_path / "saved.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5000
    box = browser_page.locator("#mosaic").bounding_box()
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == pytest.approx((2 * box["width"], 2 * box["height"]), abs=4)


def test_save_downloads_the_numbers_as_json(browser_page: Any, page_path: Path, sweep: pd.DataFrame) -> None:
    browser_page.goto(page_path.as_uri())
    choose(browser_page, model="pico-t5-induction", repetitions="3", sequence_length="4", seed="1")
    with browser_page.expect_download() as started:
        browser_page.get_by_role("button", name="Save JSON").click()
    saved = started.value
    name = "mosaic-pico-t5-induction-repetitions-3-sequence-length-4-seed-1-threshold-0.30"
    assert saved.suggested_filename == f"{name}.json"
    contents = json.loads(Path(saved.path()).read_text())
    part = part_of(sweep, model="pico-t5-induction", repetitions=3, sequence_length=4, seed=1)
    place = {name: contents[name] for name in ("model", "repetitions", "sequence_length", "seed", "threshold")}
    assert place == {
        "model": "pico-t5-induction", "repetitions": 3, "sequence_length": 4, "seed": 1, "threshold": 0.3,
    }  # fmt: skip
    for kind in KINDS:
        scores = part.set_index(["layer", "index"])[kind].unstack().to_numpy()
        np.testing.assert_allclose(np.array(contents[kind]), scores, atol=1.01e-4, rtol=0)
        assert contents["counts"][kind] == int((part[kind] >= 0.3).sum())
    assert contents["heads"] == list(part[part[list(KINDS)].max(axis=1) >= 0.3]["head"])
    choose(browser_page, model="pico-t5")
    assert browser_page.get_by_role("button", name="Save JSON").is_disabled()


def test_the_keyboard_is_enough(browser_page: Any, page_path: Path) -> None:
    browser_page.goto(page_path.as_uri())
    browser_page.keyboard.press("Tab")
    browser_page.keyboard.press("ArrowDown")
    settle(browser_page)
    assert shown(browser_page)["title"]["text"] == "Induction mosaic of pico-t5-induction"
    for _ in range(4):
        browser_page.keyboard.press("Tab")
    for _ in range(3):
        browser_page.keyboard.press("ArrowRight")
    settle(browser_page)
    assert browser_page.locator("#threshold-value").inner_text() == "0.33"


def test_two_in_one_notebook_do_not_meet(browser_page: Any, sweep: pd.DataFrame, tmp_path: Path) -> None:
    one = plots.mosaic_explorer(sweep)
    two = plots.mosaic_explorer(sweep[sweep["model"] == "pico-t5-induction"])
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><body>{one._repr_html_()}<hr>{two._repr_html_()}</body>")
    browser_page.goto(notebook.as_uri())
    first, second = (browser_page.frame_locator("iframe").nth(i) for i in (0, 1))
    for frame, threshold, repetitions in ((first, "20", "2"), (second, "60", "3")):
        frame.get_by_label("threshold", exact=True).fill(threshold)
        frame.get_by_label("repetitions").select_option(label=repetitions)
    frames = browser_page.frames[1:]
    for frame in frames:
        settle(frame)
    titles = [frame.evaluate("document.getElementById('mosaic').layout.title") for frame in frames]
    assert [t["text"] for t in titles] == ["Induction mosaic of pico-t5", "Induction mosaic of pico-t5-induction"]
    assert "repetitions 2" in titles[0]["subtitle"]["text"]
    assert titles[0]["subtitle"]["text"].endswith("0.20")
    assert "repetitions 3" in titles[1]["subtitle"]["text"]
    assert titles[1]["subtitle"]["text"].endswith("0.60")
    # Saving works from inside the frame's sandbox, too.
    with browser_page.expect_download() as started:
        second.get_by_role("button", name="Save PNG").click()
    assert Path(started.value.path()).read_bytes().startswith(b"\x89PNG")


def test_hostile_names_do_no_harm(browser_page: Any, tmp_path: Path) -> None:
    end = "</script><script>hurt = 1;'<b>b<!--<script>"
    names = [
        f"x{end}",
        f"y{end}",  # of the same short name, so that both are shown whole
        "<img src=x onerror='hurt = 1'>&amp;\"'`${hurt}",
        "{{js}} 模型\u2028 é",
    ]
    frame = pd.concat(
        [random_frame(name, (3, 4), draw=i, repetitions=2, sequence_length=10) for i, name in enumerate(names)]
    )
    made = plots.mosaic_explorer(frame)
    browser_page.goto(made.write_html(tmp_path / "page.html").as_uri())
    options = browser_page.locator("#axis-0 option").evaluate_all("all => all.map(o => o.textContent)")
    assert options == style.unique(names)
    assert options[0] == names[0]
    for i, option in enumerate(options):
        browser_page.locator("#axis-0").select_option(index=i)
        settle(browser_page)
        check(browser_page, part_of(frame, model=names[i]), 0.3)
        # The title is drawn letter by letter as it is, with no mark of it taken for one.
        title = browser_page.locator("#mosaic .gtitle").first.evaluate("e => e.textContent")
        assert re.sub(r"\s+", " ", title) == re.sub(r"\s+", " ", f"Induction mosaic of {option}")
    assert browser_page.evaluate("typeof hurt") == "undefined"
    assert browser_page.locator("b, img").count() == 0


@pytest.mark.versions
def test_any_axis_gets_a_menu(browser_page: Any, tmp_path: Path) -> None:
    """No repetitions: no plot over them; another axis, of pairs and of nothing: a menu."""
    runs = [random_frame("m", (2, 3), draw=i, vocab_range=pair) for i, pair in enumerate([(2, 4095), (1911, 2187)])]
    frame = pd.concat(runs)
    browser_page.goto(plots.mosaic_explorer(frame).write_html(tmp_path / "page.html").as_uri())
    choose(browser_page, vocab_range="1911, 2187")
    check(browser_page, part_of(frame, vocab_range=(1911, 2187)), 0.3)
    assert not browser_page.locator("#lines").is_visible()


def test_heads_without_a_score_reach_no_threshold(browser_page: Any, tmp_path: Path) -> None:
    frame = made_up("m", [[0.0, np.nan], [0.5, np.nan]], [[0.0, np.nan], [0.1, 0.4]], accuracy=float("nan"))
    browser_page.goto(plots.mosaic_explorer(frame, threshold=0).write_html(tmp_path / "page.html").as_uri())
    tiles = browser_page.locator("#counts dd strong").all_inner_texts()
    assert tiles == ["2", "3", "3", "not known"]


def test_no_score_is_rounded_over_a_threshold_it_is_under() -> None:
    just_under = np.nextafter(np.arange(1, 101) / 100, 0)
    exact = np.arange(0, 101) / 100
    assert (explorer._floored(exact) == np.arange(0, 101) * 100).all()
    assert (explorer._floored(just_under) == np.arange(1, 101) * 100 - 1).all()


def test_it_is_shown_in_a_notebook_only(sweep: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython
    import IPython.display

    made = plots.mosaic_explorer(sweep)
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    with pytest.raises(interp.errors.InvalidInput, match="write_html"):
        made.show()
    displayed: list[Any] = []
    monkeypatch.setattr(IPython, "get_ipython", object)
    monkeypatch.setattr(IPython.display, "display", displayed.append)
    made.show()
    assert displayed == [made]
    assert len(repr(made)) < 100


def test_what_the_page_cannot_show_is_an_error(sweep: pd.DataFrame, tmp_path: Path) -> None:
    for threshold in (0.305, -0.1, 1.2, float("nan")):
        with pytest.raises(interp.errors.InvalidInput, match="hundredths"):
            plots.mosaic_explorer(sweep, threshold=threshold)
    with pytest.raises(interp.errors.InvalidInput, match=r"decoder\.cross\.0\.1 has token_to_right=1\.5"):
        plots.mosaic_explorer(made_up("m", [[0.1, 0.2]], [[0.1, 1.5]]))
    with pytest.raises(interp.errors.InvalidInput, match="give all heads"):
        plots.mosaic_explorer(made_up("m", np.zeros((2, 2)), np.zeros((2, 2))).iloc[1:])
    with pytest.raises(interp.errors.InvalidInput, match="no directory"):
        plots.mosaic_explorer(sweep).write_html(tmp_path / "none" / "page.html")
