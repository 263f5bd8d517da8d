"""The command lines for series, sweeps and questions: what they print and write, and one line for what is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import interp
import probes
import probes.__main__ as command
from interp.sweeps import read
from probes.periodic.spectrum import AttentionSpectrum
from probes.questions.claims import CLAIMS
from probes.reports.open_questions import claims_in_words
from probes.reports.spectra import spectra_report
from tests.tolerance import BUNDLED, close

runner = CliRunner()
SMALL = ["--batch-size", "10", "--no-images"]


def run(*arguments: Any) -> Result:
    return runner.invoke(command.app, [str(a) for a in arguments])


@pytest.mark.versions
def test_multisine_writes_page_spectra_and_combs(tmp_path: Path, pico: interp.Model) -> None:
    options = ["--frequencies", "9,15,24", "--num-decoder", 1, "--shuffles", 5, "--no-images"]
    result = run("multisine", "--model", "pico-t5", *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["combs.csv", "multisine.html", "spectrum-pico-t5.json"]
    stored = AttentionSpectrum.load(tmp_path / "spectrum-pico-t5.json")
    expected = probes.attention_spectrum(pico, probes.multisine([9, 15, 24]), num_decoder=1, shuffles=0)
    close(stored.attention, expected.attention, of=1, terms=BUNDLED)
    table = pd.read_csv(tmp_path / "combs.csv")
    assert len(table) == 24
    assert table["head"].iloc[0] in result.output
    page = (tmp_path / "multisine.html").read_text()
    assert 'src="http' not in page


def test_multisine_takes_the_published_amplitudes_and_real_series(tmp_path: Path) -> None:
    def stored(*options: Any) -> AttentionSpectrum:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        result = run("multisine", "--model", "pico-t5", "--shuffles", 0, "--no-images", "--out", out, *options)
        assert result.exit_code == 0, result.output
        return AttentionSpectrum.load(out / "spectrum-pico-t5.json")

    assert stored().series.parameters["amplitudes"] == [1, 0.75, 0.5, 0.5]
    assert stored("--frequencies", "5,10").series.parameters["amplitudes"] == [1, 1]
    assert stored("--series", "air_passengers").series.name == "air passengers"


def test_multisine_reads_a_file_with_its_dates(tmp_path: Path) -> None:
    hours = pd.date_range("2024-03-01", periods=600, freq="h")
    values = 20 + 5 * np.sin(np.arange(600) * 2 * np.pi / 24)
    pd.DataFrame({"time": hours, "load": values, "cost": 1.0}).to_csv(tmp_path / "own.csv", index=False)
    options = ["--series", tmp_path / "own.csv", "--column", "load", "--shuffles", 0, "--no-images"]
    result = run("multisine", "--model", "pico-t5", *options, "--num-decoder", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    spectrum = AttentionSpectrum.load(tmp_path / "out" / "spectrum-pico-t5.json")
    assert spectrum.series.index is not None
    assert spectrum.series.index.tolist() == hours[-513:].tolist(), "as many as the context holds, and the decoder's"
    assert (spectrum.series.name, spectrum.series.unit) == ("load", "day")
    page = (tmp_path / "out" / "multisine.html").read_text()
    told = " ".join(result.output.split())
    assert "600 steps of 1/24 day, 2024-03-01 to 2024-03-25 23:00:00" in told
    assert "The models read the last 513 steps" in told
    assert "The models read the last 513 steps" in page
    assert "2024-03-25T22:00" in page
    missing = run("multisine", "--model", "pico-t5", "--series", tmp_path / "own.csv", "--out", tmp_path / "none")
    assert missing.exit_code == 2
    assert "several columns of numbers, 'load', 'cost'" in " ".join(missing.output.split())


def test_sweep_writes_the_explorer_and_goes_on_from_its_store(tmp_path: Path) -> None:
    grid = ["--model", "pico-t5", "--sequence-lengths", "4-5", "--seeds", "0,3", "--store", tmp_path / "store"]
    first = run("sweep", *grid, "--repetitions", "2", *SMALL, "--out", tmp_path / "out")
    assert first.exit_code == 0, first.output
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store" / "shards").iterdir()}
    assert len(before) == 4
    assert run("sweep", *grid, "--repetitions", "2,4", *SMALL, "--out", tmp_path / "out").exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["counts.csv", "mosaics.html", "sweep.parquet"]
    frame = pd.read_parquet(tmp_path / "out" / "sweep.parquet")
    pd.testing.assert_frame_equal(frame, read(tmp_path / "store").to_frame(), check_exact=True, check_frame_type=False)
    assert set(frame["sequence_length"]) == {4, 5}
    assert set(frame["seed"]) == {0, 3}
    counts = pd.read_csv(tmp_path / "out" / "counts.csv")
    by_hand = (frame["either"] >= 0.3).groupby([frame["repetitions"], frame["sequence_length"], frame["seed"]]).sum()
    close(counts["either"].tolist(), by_hand.groupby(level=[0, 1]).mean().tolist())


def test_questions_answers_all_on_one_page(tmp_path: Path) -> None:
    options = ["--seeds", "0-2", "--repetitions", "2,4", "--sequence-lengths", "4,6", "--draws", 3]
    result = run("questions", "--model", "pico-t5", *options, *SMALL, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    tables = ["repetitions", "lengths", "agreement-pico-t5", "comb-pico-t5", "claims"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*(f"{name}.csv" for name in tables), "questions.html"])
    page = (tmp_path / "questions.html").read_text()
    assert page.count("Plotly.newPlot") == 4 + page.split("<body>")[0].count("Plotly.newPlot")
    for claim in CLAIMS:
        assert result.output.count(claim) == 1
    assert max(map(len, result.stdout.split("written:")[0].splitlines())) < 80


def test_each_claim_is_said_once_by_the_statistic_that_decides_it() -> None:
    columns = ["claim", "on", "statistic", "value", "low", "high", "none", "verdict"]
    rows = [
        ("more is more", "a", "share", 0.5, 0.4, 0.6, 0.0, "supported"),
        ("more is more", "a", "share beyond chance", 0.1, -0.1, 0.3, 0.0, "undecided"),
        ("more is more", "b", "share", 0.7, 0.6, 0.8, 0.0, "supported"),
        ("less is more", "a", "gap", 1.0, np.nan, np.nan, 0.5, "undecided"),
        ("all is more", None, None, np.nan, np.nan, np.nan, np.nan, "needs three models or more"),
    ]
    assert claims_in_words(pd.DataFrame(rows, columns=columns)).splitlines() == [
        "more is more",
        "  undecided on a: share beyond chance: 0.1 (-0.1 to 0.3; no effect is 0)",
        "  supported on b: share: 0.7 (0.6 to 0.8; no effect is 0)",
        "less is more",
        "  undecided on a: gap: 1 (no interval; no effect is 0.5)",
        "all is more",
        "  needs three models or more",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["multisine", "--frequencies", "5,60"], r"\[60.0\] are not under the Nyquist limit.*50.1667 Hz"),
        (["multisine", "--frequencies", "5,x"], "--frequencies 5,x: give numbers"),
        (["multisine", "--amplitudes", "1,2"], "amplitudes are 2 and frequencies 4"),
        (["multisine", "--series", "sunspots", "--steps", "5"], "leave out the options"),
        (["multisine", "--series", "sunspot"], "Did you mean 'sunspots'"),
        (["multisine", "--series", "nowhere.csv"], "nowhere.csv: no such file. Give a CSV file"),
        (["multisine", "--column", "sales"], "name it by --series FILE.csv"),
        (["multisine", "--series", "sunspots", "--column", "sunspots"], "is a column of a CSV file"),
        (["sweep", "--repetitions", "2,x"], "--repetitions 2,x: give whole numbers"),
        (["sweep", "--repetitions", "4-2"], "--repetitions 4-2: give whole numbers"),
        (["sweep", "--store", "/dev/null"], "is a file"),
        (["sweep", "--jobs", "0"], "n_jobs=0"),
        (["questions", "--seeds", "0-1"], "three or more are needed"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run(*arguments, "--model", "pico-t5", "--out", tmp_path / "out", "--no-images")
    assert result.exit_code == 2
    assert result.output.count("error:") == 1
    assert pd.Series([" ".join(result.output.split())]).str.contains(message).all(), result.output
    assert not list((tmp_path / "out").glob("*"))


def test_questions_in_bfloat16(tmp_path: Path) -> None:
    options = [
        "--seeds",
        "0-2",
        "--repetitions",
        "2,4",
        "--sequence-lengths",
        "4,6",
        "--draws",
        2,
        "--dtype",
        "bfloat16",
    ]
    result = run("questions", "--model", "pico-t5", *options, *SMALL, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_page_of_models_of_different_sizes(tmp_path: Path, pico: interp.Model, model: interp.Model) -> None:
    series = probes.multisine([2, 6], steps=48)
    spectra = [probes.attention_spectrum(m, series, num_decoder=1, shuffles=0) for m in (pico, model)]
    combs = [spectrum.comb(permutations=99) for spectrum in spectra]
    assert any(head.address.head > 2 for head in combs[0].heads())
    spectra_report(spectra, combs).write(tmp_path)
    page = (tmp_path / "multisine.html").read_text()
    assert "pico-t5" in page
    assert "tiny" in page
