"""The example scripts run as they stand, print what they promise and write what they name."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def test_there_is_one_for_each_use() -> None:
    assert [path.stem for path in EXAMPLES] == ["ablate_your_series", "circuit_by_hand", "probe_of_your_own"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    written = [line.removeprefix("written: ") for line in said.splitlines() if line.startswith("written: ")]
    assert written
    assert all((tmp_path / name).stat().st_size > 1000 for name in written)
    assert max(map(len, said.splitlines())) <= 80
