"""The page on attribution: its numbers are the model's own, its controls are beside them, its files are whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import interp
from circuits.__main__ import app
from circuits.attribution.by_position import AttributionByPosition
from circuits.attribution.direct import DirectAttribution
from circuits.attribution.logit_lens import LogitLens
from circuits.reports.attribution_tables import SHOWN
from circuits.reports.attributions import attribute
from interp import zoo
from interp.errors import MissingCapability
from interp.output.report import Report
from probes import repeated_random_tokens
from probes.stimuli import datasets
from probes.stimuli.repeated_tokens import RepeatedTokens
from tests.conftest import tiny_bolt, tiny_pipeline
from tests.tolerance import FORWARD, close

ROWS = 12


@pytest.fixture(scope="module")
def report(pico: interp.Model) -> Report:
    return attribute(pico, batch_size=ROWS, seed=3)


@pytest.fixture(scope="module")
def results(report: Report) -> dict[str, Any]:
    return {Path(name).stem: result for name, result in report.results.items()}


@pytest.fixture(scope="module")
def batch(pico: interp.Model) -> RepeatedTokens:
    """The tokens that the report is of."""
    return repeated_random_tokens(model=pico, batch_size=ROWS, unique=True, seed=3)


@pytest.fixture(scope="module")
def tables(report: Report) -> dict[str, Any]:
    return report.tables


def test_parts_sum_to_hugging_faces_logit(
    pico: interp.Model, batch: RepeatedTokens, results: dict[str, Any], tables: dict[str, Any]
) -> None:
    with torch.no_grad():
        logits = pico.module(**batch.inputs).logits[:, -1]
    rows = torch.arange(ROWS)
    # The second token of a sequence is the query's, the third follows it.
    right, table = logits[rows, batch.input_ids[:, 2]].mean(), tables["attribution"]
    assert table["mean"].sum() == pytest.approx(float(right), abs=1e-3)
    assert list(table["mean"].abs()) == sorted(table["mean"].abs(), reverse=True)
    other = results["attribution_other_token"]
    assert other.target is not None
    others = torch.tensor(other.target[:, -1]).long()
    assert not bool((others == batch.continuation).any())
    assert bool((others[:, None] == batch.input_ids[:, 3:10]).any(1).all()), "another token of the row's own"
    assert table["other_token"].sum() == pytest.approx(float(logits[rows, others].mean()), abs=1e-3)
    assert table["mean"].sum() > table["other_token"].sum() + 5


def test_the_past_is_named_by_what_stands_there(batch: RepeatedTokens, tables: dict[str, Any]) -> None:
    table = tables["attribution_by_position"]
    held = table.set_index("key")["holds"].sort_index()
    ids, query = batch.input_ids, batch.decoder_input_ids[:, 1]
    for at, name in enumerate(held):
        same = {"query's token": ids[:, at] == query, "continuation": ids[:, at] == batch.continuation}
        same["EOS"] = ids[:, at] == 1
        assert [key for key, value in same.items() if bool(value.all())] == [name] * (name != "another token")
    cross = tables["attribution"].set_index("kind")["mean"].loc["cross"].sum()
    assert table["mean"].sum() == pytest.approx(cross, abs=1e-3)
    assert set(table["holds"][:2]) == {"continuation"}


def test_steps_are_counted_back_from_the_one_that_is_forecast(
    results: dict[str, Any], tables: dict[str, Any], model: interp.Model
) -> None:
    table = tables["value_attribution_by_position"]
    values = datasets.air_passengers().values
    steps = table[table["steps_back"].notna()]
    assert (steps["key"] + steps["steps_back"] == 144).all()
    assert table.loc[table["steps_back"].isna(), "key"].tolist() == [143]
    # Scaled by the mean of what the encoder sees.
    shown = values[steps["key"]] / values[:143].mean()
    np.testing.assert_allclose(steps["value"], shown, atol=0.005)
    # A season, two and three back; and not where the season is shuffled away.
    assert sorted(table.nlargest(3, "mean")["steps_back"]) == [12, 24, 36]
    assert table.nlargest(3, "mean")["shuffled"].max() < table.nlargest(3, "mean")["mean"].min() / 2
    past, shuffled = results["value_attribution_by_position"], results["past_value_attribution_shuffled"]
    assert sorted(shuffled.token_values[0, :-1]) == sorted(past.token_values[0, :-1])
    assert shuffled.provenance["stimulus"] != past.provenance["stimulus"]
    short: Any = attribute(model, batch_size=2).tables["value_attribution_by_position"]
    assert len(short) == model.pipeline.model_context_length + 1 == 65
    assert short["steps_back"].max() == 65, "the last of the series, where the context is shorter"


def test_the_head_that_was_planted_and_where_it_reads() -> None:
    built = zoo.planted()
    tables: dict[str, Any] = attribute(built.model, batch_size=6).tables
    first = tables["attribution"].iloc[0]
    assert first["part"] == "decoder.cross.1.2"
    assert first["low"] > 20 * abs(tables["attribution"]["mean"][1:]).max()
    assert set(tables["attribution_by_position"]["holds"][:2]) == {"continuation"}
    assert tables["attribution_by_position"]["mean"][1] > 100 * abs(tables["attribution_by_position"]["mean"][2:]).max()
    current: Any = attribute(zoo.planted("current_token").model, batch_size=6).tables["attribution_by_position"]
    assert set(current["holds"][:2]) == {"query's token"}


def test_a_decoder_alone(tmp_path: Path) -> None:
    """The head that was planted, what it reads, and steps counted back to the last one, which is the query."""
    model = zoo.planted_decoder().model
    report, count = attribute(model, batch_size=5), model.pipeline.model_context_length + 1
    tables: dict[str, Any] = report.tables
    assert tables["attribution"]["part"][0] == "decoder.self.1.2"
    held = tables["attribution_by_position"]
    assert set(held["holds"][:2]) == {"continuation"}
    assert held.set_index("key")["holds"].sort_index().tolist()[-2:] == ["another token", "the query"]
    assert (held["holds"] == "query's token").sum() == 2
    steps = tables["value_attribution_by_position"]
    assert sorted(steps["steps_back"]) == list(range(1, count + 1)), "the context and the last step, none of them EOS"
    assert (steps["key"] + steps["steps_back"] == count).all()
    written = report.write(tmp_path)
    page = written[0].read_text()
    assert "Self-attention&#x27;s part" in page or "Self-attention's part" in page
    assert "encoder" not in page.split("<h1>")[1].split("plotly-graph-div")[0].replace("decoder", "")
    assert AttributionByPosition.load(tmp_path / "attribution_by_position.json").site == "decoder.self"


def test_lenses_are_in_forward_order_and_end_at_the_output(results: dict[str, Any], tables: dict[str, Any]) -> None:
    for name in ("logit_lens", "value_lens"):
        table, lens = tables[name], results[name]
        assert list(table["point"]) == list(lens.points)
        close(table["kl"].iloc[-1], 0, of=8, terms=4096)
        assert table["agrees"].iloc[-1] == 1
    assert "log_prob" in tables["logit_lens"]
    assert "log_prob" not in tables["value_lens"]


def test_the_folder(report: Report, tables: dict[str, Any], tmp_path: Path) -> None:
    written = report.write(tmp_path / "new" / "folder")
    assert {path.name for path in written} == {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    kinds = {kind.KIND: kind for kind in (DirectAttribution, AttributionByPosition, LogitLens)}
    for path in written:
        if path.suffix == ".json":
            kind = next(k for name, k in kinds.items() if f'"kind": "{name}"' in path.read_text()[:60])
            assert kind.load(path).provenance["model"] == "pico-t5"
        if path.suffix == ".csv":
            assert len(pd.read_csv(path)) == len(tables[path.stem])
    page = written[0].read_text()
    assert page.count('class="plotly-graph-div"') == len(report.figures) == 6
    assert page.count("<table") == len(tables)
    assert page.count("<tr") < 6 * (SHOWN + 5)
    cells = "".join(part.split("</table>")[0] for part in page.split("<table")[1:])
    assert "<td></td>" in cells, "EOS is no step back and has no value"
    assert "NaN" not in cells
    assert "NA&gt;" not in cells


def test_the_command(tmp_path: Path) -> None:
    arguments = ["attribute", "--model", "pico-t5", "--batch-size", "4", "--out", str(tmp_path), "--no-images"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "logit of the continuation, 4 rows" in done.output
    assert "air passengers" in done.output
    assert "NA" not in done.output.split("written:")[0].replace("NaN", "NA")
    assert str(tmp_path / "attribution.html") in done.output
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "pico-t6"], "Did you mean"),
        (["--model", "pico-t5", "--batch-size", "0"], "at least 1"),
        (["--model", "pico-t5", "--seed", "-1"], "at least 0"),
        (["--model", "pico-t5", "--dtype", "float16"], "float16"),
    ],
)
def test_mistakes(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["attribute", *arguments, "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert says in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["attribute", "patch", "discover"])
def test_a_folder_that_is_a_file_is_found_before_the_work(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, [command, "--model", "no-such-model", "--out", str(tmp_path / "file")])
    assert done.exit_code == 2
    assert "cannot write" in done.output


def test_the_report_on_a_model_that_reads_patches() -> None:
    """Shares sum to the metric, with what is left of it as a part; each patch stands with what it holds."""
    bolt = interp.wrap(tiny_bolt(), name="tiny-bolt")
    report = attribute(bolt, batch_size=5, coefficients=3)
    direct: Any = report.results["attribution.json"]
    assert "readout" in direct.parts
    close(direct.values.sum(0), direct.total, terms=FORWARD)
    table = report.tables["attribution_by_position"].set_index("key")
    assert table.loc[11, "holds"] == "last patch"
    assert table.loc[12, "holds"] == "[REG]"
    assert table.loc[[1, 6], "holds"].eq("the same patch").all()
    assert table.loc[[2, 7], "holds"].eq("what followed").all()
    past = report.tables["value_attribution_by_position"].set_index("key")["holds"]
    assert past.sort_index().iloc[-1] == "[REG]"
    assert past.sort_index().iloc[-2] == "1960-05 to 1960-12"
    with pytest.raises(MissingCapability, match="no patches"):
        attribute(interp.wrap(tiny_pipeline(), name="tiny"), batch_size=5, coefficients=3)
