"""Tables print whole at 80 columns: no column is left out, none is renamed, and they stay what pandas made of them."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from interp.results.frame import WIDTH, Frame

WIDE = Frame({f"column {i}": [1.23456789 * 10**i, float("nan")] for i in range(20)} | {"head": "decoder.cross.1.2"})
README = (Path(__file__).parents[3] / "README.md").read_text()


def test_no_column_is_left_out() -> None:
    with pd.option_context("display.max_columns", 4):
        text = repr(WIDE)
    assert all(column in text for column in WIDE.columns)
    assert "..." not in text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "1.23e+03" in text
    html = WIDE._repr_html_()
    assert html is not None
    assert all(column in html for column in WIDE.columns)


def test_parts_of_it_are_such_tables_too() -> None:
    for part in (WIDE.head(1), WIDE[["head"]], WIDE.sort_values("head"), WIDE.query("head == ''"), WIDE.copy()):
        assert isinstance(part, Frame)
    assert isinstance(pd.concat([WIDE, WIDE]), Frame)
    pd.testing.assert_frame_equal(pd.DataFrame(WIDE), pd.DataFrame(WIDE.to_dict()), check_exact=True)


def test_what_the_readme_prints_fits(tmp_path: Path) -> None:
    """Its first example, in a terminal of 80 columns."""
    code = README.split("```python\n")[1].split("```")[0].replace(".show()", ".to_json()")
    size = {"COLUMNS": "80", "LINES": "40", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ | size, check=True
    )
    lines = run.stdout.splitlines()
    assert any("kind" in line and "score" in line for line in lines)
    assert max(map(len, lines)) <= WIDTH
    assert "..." not in run.stdout
