"""A circuit is a set of edges: its algebra, its text, what cannot be in it."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import circuits
import interp
import probes
from circuits import Circuit, Edge
from circuits.edges import LOGITS, ScoredEdge, as_node, depth, forward_order
from circuits.graph.edge_matrix import Graph
from interp import Head
from interp.names import KINDS
from tests.conftest import tiny_bolt

GRAPH = Graph(3, 2, 3)
EDGES = GRAPH.edges(GRAPH.exists)
FULL = Circuit(EDGES)

sets = st.builds(Circuit, st.lists(st.sampled_from(EDGES), max_size=12))


@settings(max_examples=200, deadline=None)
@given(a=sets, b=sets, c=sets)
def test_the_laws_of_sets(a: Circuit, b: Circuit, c: Circuit) -> None:
    nothing = Circuit()
    laws = {
        "commutative": (a | b == b | a, a & b == b & a, a ^ b == (a | b) - (a & b)),
        "associative": ((a | b) | c == a | (b | c), (a & b) & c == a & (b & c)),
        "distributive": (a & (b | c) == (a & b) | (a & c), a | (b & c) == (a | b) & (a | c)),
        "neutral": (a | nothing == a, a & FULL == a, a - a == nothing, a ^ a == nothing),
        "De Morgan": (FULL - (a | b) == (FULL - a) & (FULL - b), FULL - (a & b) == (FULL - a) | (FULL - b)),
        "split": ((a - b) | (a & b) == a, not (a - b) & b),
    }
    assert {name for name, held in laws.items() if not all(held)} == set()
    assert (a <= b) == (a | b == b)
    assert a & b <= a <= a | b
    assert (a < b) == (a <= b and a != b)
    assert len(a | b) + len(a & b) == len(a) + len(b)
    assert hash(a | b) == hash(b | a)
    assert {a: 1}[Circuit(list(a))] == 1


@settings(max_examples=100, deadline=None)
@given(a=sets)
def test_text_parts_and_what_is_in_it(a: Circuit) -> None:
    assert Circuit.parse(str(a)) == a == Circuit.parse("; ".join(map(str, a))) == Circuit(map(str, a))
    assert list(a) == sorted(a.edges)
    assert bool(len(a)) == bool(a.edges)
    ends = {node for edge in a for node in (edge.writer, edge.reader)}
    assert set(a.nodes) == ends
    assert list(a.nodes) == sorted(ends, key=forward_order)
    assert set(a.heads) | set(a.mlps) == {n for n in ends if isinstance(n, Head) or n.name == "mlp_out"}
    assert all(edge in a and str(edge) in a and edge.writer in a and str(edge.reader) in a for edge in a)
    assert all((edge in a) == (edge in a.edges) for edge in EDGES[::7])


@settings(max_examples=100, deadline=None)
@given(a=sets)
def test_connected_edges_are_those_on_a_path(a: Circuit) -> None:
    def paths(node: Any, forwards: bool) -> bool:
        """Whether a walk along edges reaches an embedding backwards, or the logits forwards."""
        if node == LOGITS or (not isinstance(node, Head) and node.name == "resid_pre"):
            return forwards == (node == LOGITS)
        edges = [e for e in a if (e.writer if forwards else e.reader) == node]
        return any(paths(e.reader if forwards else e.writer, forwards) for e in edges)

    assert a.connected() == Circuit(e for e in a if paths(e.writer, False) and paths(e.reader, True))
    assert a.connected().connected() == a.connected() <= a


def test_the_edges_of_a_model_are_all_that_can_be(model: interp.Model) -> None:
    full = Circuit.full(model)
    assert full == FULL
    assert full.digest == model.digest
    assert repr(full) == "Circuit(477 edges, 21 heads, 5 MLPs)"
    nodes = sorted({*full.nodes}, key=forward_order)
    every = 0
    for writer in nodes:
        for reader in nodes:
            for kind in ("Q", "K", "V", None):
                try:
                    edge = Edge(writer, reader, kind)  # type: ignore[arg-type]
                except interp.errors.InvalidInput:
                    continue
                every += 1
                assert edge in full
                assert GRAPH.edge(*GRAPH.cell(edge)) == edge
    assert every == len(full) == GRAPH.exists.sum()
    # By hand: a cross head reads queries from what the decoder wrote by then, keys and values from the whole encoder.
    into = [e for e in full if e.reader == Head.parse("decoder.cross.1.2")]
    assert len([e for e in into if e.kind == "Q"]) == 1 + (3 + 3 + 1) + 3
    assert len([e for e in into if e.kind == "K"]) == len([e for e in into if e.kind == "V"]) == 1 + 3 * (3 + 1)
    assert full.connected() == full


def test_the_edges_of_a_decoder_alone(causal: interp.Model) -> None:
    graph, full = Graph.of(causal), Circuit.full(causal)
    # By hand: a head of layer l reads three inputs from the embedding and what 3 heads and an MLP a layer wrote.
    assert len(full) == 3 * 3 * (1 + 5 + 9) + (4 + 8 + 12) + 13 == graph.exists.sum()
    assert repr(full) == "Circuit(172 edges, 9 heads, 3 MLPs)"
    assert {node.stack for node in full.nodes} == {"decoder"}
    assert {head.kind for head in full.heads} == {"self"}
    possible = 0
    for writer in full.nodes:
        for reader in full.nodes:
            for kind in ("Q", "K", "V", None):
                try:
                    edge = Edge(writer, reader, kind)  # type: ignore[arg-type]
                except interp.errors.InvalidInput:
                    continue
                possible += 1
                assert graph.edge(*graph.cell(edge)) == edge
    assert possible == len(full)
    assert full.connected() == full
    assert graph == Graph(0, 3, 3)
    assert list(map(str, Circuit.among(causal, ["decoder.self.1.2"]))) == [
        "decoder.0.resid_pre -> decoder.self.1.2:q",
        "decoder.0.resid_pre -> decoder.self.1.2:k",
        "decoder.0.resid_pre -> decoder.self.1.2:v",
        "decoder.0.resid_pre -> decoder.logits",
        "decoder.self.1.2 -> decoder.logits",
    ]


def test_the_edges_of_a_decoder_of_one_position(model: interp.Model) -> None:
    """Those of a T5 but for these: into what is the same for every input, or makes no difference."""
    bolt = interp.wrap(tiny_bolt(), name="tiny-bolt")
    full = Circuit.full(bolt)
    quantiles = Circuit.parse(str(Circuit.full(model)).replace("decoder.logits", "decoder.quantiles"))
    before = ["decoder.0.resid_pre"]
    first = [f"decoder.{kind}.0.{head}" for kind in ("self", "cross") for head in range(3)]
    missing = [f"{before[0]} -> decoder.self.0.{head}:{kind}" for head in range(3) for kind in "qkv"]
    missing += [
        f"{writer} -> decoder.self.1.{head}:{kind}"
        for writer in (*before, *first, "decoder.0.mlp_out")
        for head in range(3)
        for kind in "qk"
    ]
    missing += [f"{writer} -> decoder.cross.0.{head}:q" for writer in (*before, *first[:3]) for head in range(3)]
    assert quantiles - full == Circuit(missing)
    assert full - quantiles == Circuit()
    assert len(missing) == 69
    assert full.problems(bolt) == ()
    # What the decoder's first attention writes is the same for every input: it is on no path from one.
    dead = [str(edge) for edge in full - full.connected()]
    assert dead
    assert all(edge.startswith("decoder.self.0.") for edge in dead)
    for edge in (missing[0], missing[-1], missing[20]):
        with pytest.raises(interp.errors.InvalidInput, match="take nothing of the input in this model"):
            Circuit([edge]).problems(bolt)
    with pytest.raises(interp.errors.UnknownSite, match=r"decoder\.logits: the model puts out decoder\.quantiles"):
        FULL.to(bolt)
    with pytest.raises(interp.errors.UnknownSite, match=r"decoder\.quantiles: the model puts out decoder\.logits"):
        full.to(model)
    lone = Circuit.parse("encoder.0.resid_pre -> decoder.cross.0.1:k")
    said = " ".join(lone.problems(bolt))
    assert said.startswith("no edge leads to the quantiles")
    assert "decoder.cross.0.1 reads no values in the circuit" in said, "and no word of its queries"


def test_a_circuit_by_its_heads(model: interp.Model) -> None:
    found = Circuit.among(model, ["encoder.self.0.1", "decoder.cross.1.2"])
    assert str(found).splitlines() == [
        "encoder.0.resid_pre -> encoder.self.0.1:q",
        "encoder.0.resid_pre -> encoder.self.0.1:k",
        "encoder.0.resid_pre -> encoder.self.0.1:v",
        "encoder.0.resid_pre -> decoder.cross.1.2:k",
        "encoder.0.resid_pre -> decoder.cross.1.2:v",
        "encoder.self.0.1 -> decoder.cross.1.2:k",
        "encoder.self.0.1 -> decoder.cross.1.2:v",
        "decoder.0.resid_pre -> decoder.cross.1.2:q",
        "decoder.0.resid_pre -> decoder.logits",
        "decoder.cross.1.2 -> decoder.logits",
    ]
    assert [str(head) for head in found.heads] == ["encoder.self.0.1", "decoder.cross.1.2"]
    assert Circuit.among(model, model.heads() + list(Circuit.full(model).mlps)) == Circuit.full(model)
    with pytest.raises(interp.errors.UnknownHead, match=r"layers 0-1"):
        Circuit.among(model, ["decoder.cross.2.0"])
    for one in ("decoder.cross.1.0", Head.parse("decoder.cross.1.0")):
        with pytest.raises(interp.errors.InvalidInput, match="several parts"):
            Circuit.among(model, one)  # type: ignore[arg-type]


def test_files(model: interp.Model, tmp_path: Path) -> None:
    some = Circuit(EDGES[::50], "abc")
    path = some.save(tmp_path / "circuit.json")
    again = Circuit.load(path)
    assert again == some
    assert again.digest == "abc"
    for damaged in ("{", path.read_text().replace("->", "~"), path.read_text().replace('"abc"', "3")):
        path.write_text(damaged)
        with pytest.raises(interp.errors.DamagedFile):
            Circuit.load(path)
    with pytest.raises(interp.errors.MissingFile):
        Circuit.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("decoder.logits -> decoder.cross.1.2:q", "write to no stream"),
        ("decoder.cross.1.2 -> decoder.0.resid_pre", "embeddings read none"),
        ("decoder.cross.1.2 -> decoder.logits:k", "one input"),
        ("decoder.0.mlp_out -> decoder.cross.1.2", "':q' at its end"),
        ("encoder.0.mlp_out -> decoder.cross.1.2:q", "keys and values of cross-attention only"),
        ("encoder.0.mlp_out -> decoder.self.1.2:v", "keys and values of cross-attention only"),
        ("encoder.0.mlp_out -> decoder.logits", "keys and values of cross-attention only"),
        ("decoder.0.mlp_out -> decoder.cross.1.2:k", "which read nothing else"),
        ("decoder.0.mlp_out -> encoder.self.1.2:k", "runs before"),
        ("decoder.1.mlp_out -> decoder.cross.1.2:q", "runs before"),
        ("encoder.0.mlp_out -> encoder.0.mlp_out", "runs before"),
        ("decoder.cross.1.2 -> decoder.cross.1.1:q", "its layer must be later"),
        ("decoder.1.attn_out -> decoder.logits", "not a site"),
        ("decoder.1.resid_post -> decoder.logits", "no part that an edge can join"),
        ("decoder.cross.1.2", "not an edge"),
        ("decoder.cross.1.2 -> decoder.cross.2.1:z", "q, k or v"),
    ],
)
def test_edges_that_cannot_exist(text: str, why: str) -> None:
    with pytest.raises(interp.InterpError, match=why):
        Circuit.parse(text)


def test_circuits_of_other_weights_do_not_mix() -> None:
    one, other = Circuit(EDGES[:2], "one"), Circuit(EDGES[1:3], "other")
    with pytest.raises(interp.errors.InvalidInput, match="of different weights"):
        _ = one | other
    assert (one | Circuit.parse(str(other))).digest == "one"
    assert one != other
    assert Circuit(EDGES[:2]) == one
    for wrong in ("decoder.cross.1.2 -> decoder.logits", EDGES[0], 3):
        with pytest.raises(interp.errors.InvalidInput, match="give several"):
            Circuit(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _ = one <= {EDGES[0]}  # type: ignore[operator]
    with pytest.raises(TypeError):
        _ = one | {EDGES[0]}  # type: ignore[operator]


def test_parts_are_given_in_any_form() -> None:
    head = Head.parse("decoder.cross.1.2")
    scored = interp.results.by_head.ScoredHead(head, "either", 0.5)
    edge = ScoredEdge(Edge.parse("encoder.self.0.0 -> decoder.cross.1.2:k"), 0.1, 0.1, 2.0)
    assert as_node(scored) == as_node(str(head)) == head
    assert Circuit([edge]) == Circuit([edge.edge]) == Circuit([str(edge.edge)])
    assert {(s, k) for s, k in KINDS}
    assert depth(LOGITS) > depth(as_node("decoder.1.mlp_out")) > depth(head)


BY_HAND = """
encoder.embed -> encoder.self.0.1:q; encoder.embed -> encoder.self.0.1:k; encoder.embed -> encoder.self.0.1:v
decoder.embed -> decoder.cross.1.2:q; encoder.self.0.1 -> decoder.cross.1.2:k; encoder.embed -> decoder.cross.1.2:v
decoder.cross.1.2 -> decoder.logits
"""


def hand(text: str = BY_HAND, without: str = "") -> Circuit:
    """The circuit by hand, without some edges."""
    embeddings = {"encoder.embed": "encoder.0.resid_pre", "decoder.embed": "decoder.0.resid_pre"}
    for short, address in embeddings.items():
        text, without = text.replace(short, address), without.replace(short, address)
    return Circuit.parse(text) - Circuit.parse(without)


@pytest.mark.parametrize(
    ("without", "says"),
    [
        ("", []),
        ("decoder.embed -> decoder.cross.1.2:q", [r"decoder\.cross\.1\.2 reads no queries"]),
        (
            "encoder.embed -> encoder.self.0.1:q; encoder.embed -> encoder.self.0.1:v",
            [r"encoder\.self\.0\.1 reads no queries or values"],
        ),
        (
            "encoder.self.0.1 -> decoder.cross.1.2:k",
            [r"self\.0\.1 has no path to the logits", r"cross\.1\.2 reads no keys"],
        ),
        (
            "decoder.cross.1.2 -> decoder.logits",
            ["no edge leads to the logits", *[r"has no path to the logits"] * 4],
        ),
        (
            "; ".join(f"encoder.embed -> encoder.self.0.1:{kind}" for kind in "qkv"),
            [r"encoder\.self\.0\.1 has no path from an embedding"],
        ),
        (BY_HAND, ["no edges"]),
    ],
)
def test_a_circuit_says_what_it_cannot_carry(model: interp.Model, without: str, says: list[str]) -> None:
    problems = hand(without=without).problems(model)
    assert len(problems) == len(says)
    assert all(re.search(pattern, problem) for pattern, problem in zip(says, problems, strict=True))


def test_a_whole_model_has_no_problems(model: interp.Model, causal: interp.Model) -> None:
    for one in (model, causal):
        assert Circuit.full(one).problems(one) == ()


def test_a_circuit_moves_to_other_weights(model: interp.Model, causal: interp.Model) -> None:
    there = Circuit(hand(), "of other weights")
    with pytest.raises(interp.errors.InvalidInput, match=r"\.to\(model\)"):
        there.problems(model)
    moved = there.to(model)
    assert moved == there
    assert moved.digest == model.digest
    with pytest.raises(interp.errors.InterpError, match="decoder alone"):
        there.to(causal)
    with pytest.raises(interp.errors.UnknownHead, match="layers 0-1"):
        Circuit.parse("decoder.cross.7.2 -> decoder.logits").to(model)


def test_an_edge_into_a_head_names_the_input() -> None:
    with pytest.raises(interp.errors.InvalidInput, match="feeds: ':k' or ':v' at"):
        Circuit.parse("encoder.self.0.1 -> decoder.cross.1.2")
    with pytest.raises(interp.errors.InvalidInput, match="feeds: ':q', ':k' or ':v' at"):
        Circuit.parse("encoder.self.0.1 -> encoder.self.1.2")
    with pytest.raises(interp.errors.InvalidInput, match="by nothing after it"):
        Circuit.parse("decoder.cross.1.2 -> decoder.logits:v")


def test_what_has_no_path_changes_nothing(model: interp.Model) -> None:
    """The parts that `problems` names are those without which a circuit measures the same."""
    dead = Circuit.parse(
        "encoder.self.0.0 -> encoder.self.1.1:k; decoder.self.0.0 -> decoder.self.1.0:q; "
        "encoder.self.1.1 -> encoder.self.2.0:v"
    )
    pair = probes.another_sequence(probes.repeated_random_tokens(model=model, seed=1, batch_size=3, sequence_length=4))
    whole, alone = hand() | dead, hand()
    assert {p.split()[0] for p in whole.problems(model) if "no path" in p} == set(map(str, dead.nodes))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1].logsumexp(-1)

    quiet: dict[str, Any] = {"controls": 0, "parts": 0, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = [circuits.evaluate(model, circuit, *pair, metric, **quiet) for circuit in (whole, alone)]
        fewer = circuits.evaluate(
            model, alone - Circuit.parse("encoder.self.0.1 -> decoder.cross.1.2:k"), *pair, metric, **quiet
        )
    np.testing.assert_array_equal(values[0].circuit, values[1].circuit)
    assert (values[1].circuit != fewer.circuit).all()
