"""Controls of circuits, connected or not; and what F is worth where the model does nothing that nothing does not."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import circuits
import interp
from circuits import Circuit
from circuits.graph.edge_matrix import Graph
from circuits.graph.evaluation import CONTROLS, GAP, CircuitReport
from circuits.graph.random_circuits import random_connected, random_edges
from interp import Batch
from interp.errors import UnclearGap
from tests.conftest import tiny_pipeline
from tests.tolerance import FORWARD, close

GRAPHS = [Graph(3, 2, 8), Graph(1, 1, 2), Graph(0, 2, 4)]


def pair(rows: int) -> tuple[Batch, Batch]:
    draw = torch.Generator().manual_seed(rows)
    ids = [torch.randint(10, 90, (rows, 6), generator=draw) for _ in range(2)]
    return Batch(ids[0], decoder_input_ids=ids[0][:, :3]), Batch(ids[1], decoder_input_ids=ids[1][:, :3])


METRIC = circuits.logit_difference(17, 23)


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_connected_circuits_are_connected_and_of_the_size(graph: Graph) -> None:
    rng = np.random.default_rng(0)
    whole = Circuit(graph.edges(graph.exists)).connected()
    for count in (1, 2, 3, 7, 20, len(whole) - 1, len(whole)):
        drawn = [random_connected(graph, count, rng) for _ in range(6)]
        for mask in drawn:
            assert mask.sum() == count
            assert not (mask & ~graph.exists).any()
            found = Circuit(graph.edges(mask))
            assert found.connected() == found
        if 3 <= count <= 20:
            assert len({mask.tobytes() for mask in drawn}) > 1
    assert random_connected(graph, 10**6, rng).sum() == len(whole)


def test_random_edges_are_hardly_ever_connected() -> None:
    """Why both kinds are needed: of 20 edges among a thousand next to nothing is on a path."""
    graph, rng = GRAPHS[0], np.random.default_rng(1)
    on_paths = [len(Circuit(graph.edges(random_edges(graph, 20, rng))).connected()) for _ in range(20)]
    assert np.mean(on_paths) < 8


@pytest.fixture(scope="module")
def report() -> CircuitReport:
    model = interp.wrap(tiny_pipeline())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnclearGap)
        return circuits.evaluate(
            model, Circuit(list(Circuit.full(model))[::30]), *pair(8), METRIC, controls=5, parts=0, progress=False
        )


def test_a_report_says_what_its_bounds_are(report: CircuitReport) -> None:
    assert report.connected.shape == report.random.shape == (5, 8)
    table = report.summary().set_index("what")
    for name, values in zip(CONTROLS, (report.same_shape, report.random, report.connected), strict=True):
        found = report.normalised(values)
        close(
            table.loc[name, ["value", "low", "high"]].tolist(), [found.mean(), found.min(), found.max()], terms=FORWARD
        )
        assert table.loc[name, "bounds"] == f"range of {len(found)} circuits"
    close(table.loc[GAP, "value"], (report.model - report.empty).mean(), terms=FORWARD)
    assert table.loc[GAP, "bounds"] == "95 % over 8 rows"


def made_up(report: CircuitReport, gap: float) -> CircuitReport:
    rng = np.random.default_rng(0)
    empty = rng.normal(size=8)
    noise = rng.normal(0, 1, 8)
    whole = empty + gap + noise - noise.mean()
    parts = {"empty": empty, "model": whole, "circuit": empty + 0.6 * (whole - empty) + rng.normal(0, 0.1, 8)}
    return CircuitReport(**(vars(report) | parts))


def test_where_the_model_may_do_nothing_no_f_has_an_interval(report: CircuitReport) -> None:
    clear, unclear = made_up(report, 5.0), made_up(report, 0.1)
    low, high = clear.interval(clear.circuit)
    assert clear.decided
    assert low < clear.faithfulness < high
    assert clear.summary()["bounds"][1] == "95 % over 8 rows"
    assert not unclear.decided
    assert np.isnan(unclear.interval(unclear.circuit)).all()
    table = unclear.summary().set_index("what")
    assert np.isnan(table.loc[["model", "circuit", "model without it"], ["low", "high"]].to_numpy(dtype=float)).all()
    assert table.loc[GAP, "low"] < 0 < table.loc[GAP, "high"]
    assert table.loc["circuit", "bounds"] == "none: model minus nothing is not told from 0"
    assert "not told from 0" in repr(unclear)
    assert "not told from 0" not in repr(clear)
    drawn = circuits.plots.circuit(Circuit.parse("; ".join(unclear.edges)), unclear).layout.title.subtitle.text
    assert "not told from 0" in drawn


def test_it_warns_where_shares_mean_nothing(model: interp.Model) -> None:
    """A metric by row of either sign: the corruption moves every row, and on average nothing."""
    clean, corrupt = pair(6)
    base = METRIC(torch.zeros(6, 1, 100))
    assert not base.any()
    plain = circuits.patch_sites(model, clean, corrupt, METRIC)
    other = circuits.patch_sites(model, corrupt, clean, METRIC)
    signs = (
        torch.tensor([1.0, -1, 1, -1, 1, -0.8])
        / torch.from_numpy(np.abs(other - plain) * np.sign(other - plain)).float()
    )

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return METRIC(logits) * signs

    edges = Circuit(list(Circuit.full(model))[::60])
    calls = {
        "heads": lambda: circuits.patch_heads(model, clean, corrupt, metric, progress=False),
        "positions": lambda: circuits.patch_positions(model, clean, corrupt, metric, progress=False),
        "edges": lambda: circuits.patch_edges(model, clean, corrupt, metric, edges, progress=False),
    }
    for call in calls.values():
        with pytest.warns(UnclearGap, match="may be 0, and shares of it mean nothing") as told:
            call()
        assert told[0].filename == __file__, "it points at the user's line"
    signs[:] = signs * torch.tensor([1.0, -1.1, 1.2, -0.9, 0.8, -1])  # now every row moves the same way
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnclearGap)
        for call in calls.values():
            call()


def test_files_of_before_there_were_connected_controls_open(report: CircuitReport, tmp_path: Path) -> None:
    path = report.save(tmp_path / "report.json")
    content = json.loads(path.read_text())
    del content["fields"]["items"]["connected"]
    path.write_text(json.dumps(content))
    old = CircuitReport.load(path)
    assert old.faithfulness == report.faithfulness
    assert len(old.connected) == 0
    assert np.isnan(old.summary().set_index("what").loc[CONTROLS[2], "value"])
    assert not np.isnan(old.summary().set_index("what").loc[CONTROLS[1], "value"])
