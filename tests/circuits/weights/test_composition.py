"""Composition scores against dense formulas, sampled rotations, and models whose wiring is known."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import circuits
import interp
import probes
from circuits.edges import PAIRS, WIRES, Edges
from circuits.weights.composition_scores import CompositionScores
from interp.names import KINDS, Head
from interp.results.by_head import HeadScores
from tests.conftest import tiny_bolt, tiny_causal_pipeline, tiny_gpt2, tiny_pipeline
from tests.dense_decoder import dense_head
from tests.interp.models.test_head_weights import scaled
from tests.tolerance import FORWARD, LAYER, close, not_close, tolerance


def scores_of(model: interp.Model, **options: Any) -> CompositionScores:
    return circuits.composition_scores(model, progress=False, **options)


def dense_score(model: interp.Model, writer: str, reader: str, kind: str, fold: bool = True) -> float:
    """One pair by d_model x d_model matrices in float64."""
    first, second = (model.weights(head, fold_norm=fold) for head in (writer, reader))
    OV1, OV2, QK2 = first.OV.full().double(), second.OV.full().double(), second.QK.full().double()
    product = {"Q": OV1 @ QK2, "K": QK2 @ OV1.T, "V": OV1 @ OV2}[kind]
    return float(product.norm() / OV1.norm() / (OV2 if kind == "V" else QK2).norm())


MAKERS = [tiny_pipeline, partial(tiny_pipeline, d_kv=24), tiny_bolt]
FIXED = {"decoder.self.0.q", "decoder.self.0.k", "decoder.self.0.v", "decoder.self.1.q", "decoder.self.1.k",
         "decoder.cross.0.q"}  # fmt: skip
"""What the decoder of a tiny Chronos-Bolt, of one position, takes by its heads that is the same for every input."""


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("make", MAKERS, ids=["t5", "wide", "bolt"])
def test_every_pair_equals_the_dense_formula_and_no_other_exists(fold: bool, make: Any) -> None:
    """Pairwise different sizes, heads wider than the stream too; the layers' order is known from the forward."""
    model = scaled(interp.wrap(make(dtype=torch.float64)))
    scores = scores_of(model, fold_norm=fold)
    fixed = set[str]() if model.reads_tokens else FIXED
    assert set(scores.raw) == {
        wire for wire in WIRES if any(f"{at}.{wire[2].lower()}" not in fixed for at in model.layers(wire[1]))
    }
    place = {site: index for index, site in enumerate(["decoder.self", "decoder.cross"])}
    for (write, read, kind), table in scores.raw.items():
        for writer in model.heads(write):
            for reader in model.heads(read):
                value = table[writer.layer, writer.head, reader.layer, reader.head]
                if write == "encoder.self" and read == "decoder.cross":
                    runs_before = True
                else:
                    runs_before = (writer.layer, place.get(write, 0)) < (reader.layer, place.get(read, 0))
                runs_before &= f"{reader.attention}.{kind.lower()}" not in fixed
                assert np.isnan(value) != runs_before, (writer, reader)
                if runs_before:
                    wanted = dense_score(model, str(writer), str(reader), kind, fold)
                    close(value, wanted, terms=FORWARD, dtype=torch.float64)


def test_float32_is_as_good_as_it_can_be(pico: interp.Model) -> None:
    scores = scores_of(pico)
    for edge in scores.top(5):
        e = edge.edge
        first, second = (pico.weights(head) for head in (e.writer, e.reader))
        OV1 = first.W_V.double() @ first.W_O.double()
        second_map = {
            "Q": second.W_Q.double() @ second.W_K.double().T,
            "K": second.W_K.double() @ second.W_Q.double().T,
            "V": second.W_V.double() @ second.W_O.double(),
        }[e.kind]
        wanted = (OV1 @ second_map).norm() / OV1.norm() / second_map.norm()
        close(edge.raw, float(wanted), terms=LAYER)


def test_a_small_memory_budget_is_kept_and_changes_nothing(
    model: interp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks made: with a byte one head's at a time, with room all heads of a layer at once."""
    sizes: list[int] = []
    real = torch.mm

    def counted(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        sizes.append(out.numel())
        return real(left, right, out=out)

    monkeypatch.setattr(torch, "mm", counted)
    small, most = scores_of(model, memory=1), max(sizes)
    sizes.clear()
    large = scores_of(model)
    assert most == 8 * (2 * 3) * 8, "one head against the two layers of three readers that there are at most"
    assert max(sizes) == 3 * most
    for wire in WIRES:
        close(small.raw[wire], large.raw[wire], terms=FORWARD)


def test_scores_know_no_scale(model: interp.Model) -> None:
    """Heads that decayed to almost nothing, or blew up, are wired as before."""
    before = scores_of(model)
    attention = model.module.get_submodule("encoder.block.0.layer.0.SelfAttention")
    with torch.no_grad():
        for head, scale in ((0, 2.0**-40), (1, 2.0**40)):
            attention.v.weight[8 * head : 8 * head + 8] *= scale  # type: ignore[index, union-attr, operator]
            attention.o.weight[:, 8 * head : 8 * head + 8] *= scale  # type: ignore[index, union-attr, operator]
    after = scores_of(model)
    for wire in WIRES:
        close(after.raw[wire], before.raw[wire], terms=FORWARD)
        np.testing.assert_allclose(after.z[wire], before.z[wire], rtol=1e-3, atol=1e-3)


def test_a_circuit_alike_in_all_directions_has_no_z() -> None:
    """Orthogonal weights as wide as the stream: every rotation gives the score of chance, so there is no spread."""
    model = interp.wrap(tiny_pipeline(d_model=16, d_kv=16, num_heads=2))
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if name.endswith((".v.weight", ".o.weight")) and "Attention" in name:
                sides = weight.view(2, 16, 16) if ".v." in name else weight.view(16, 2, 16).permute(1, 0, 2)
                torch.nn.init.orthogonal_(sides[0])
                torch.nn.init.orthogonal_(sides[1])
    scores = scores_of(model)
    for kind in ("Q", "K", "V"):
        table = scores.between("encoder.self", "encoder.self", kind)
        close(table[~np.isnan(table)], scores.baseline, terms=FORWARD)
        assert np.isnan(scores.between("encoder.self", "encoder.self", kind, "z")).all()
    assert not scores.top(1).edges
    assert scores.top(1, by="excess")[0].excess < tolerance(terms=LAYER)


@pytest.mark.parametrize("seed", range(8))
def test_heads_wider_than_the_stream(seed: int) -> None:
    model = interp.wrap(tiny_pipeline(seed=seed, d_kv=21))
    found = scores_of(model).edge("encoder.self.0.1", "decoder.cross.1.2", "K")
    close(found.raw, dense_score(model, "encoder.self.0.1", "decoder.cross.1.2", "K"), terms=FORWARD)


def test_columns_that_are_almost_the_same_lose_no_digits() -> None:
    model = interp.wrap(tiny_pipeline(dtype=torch.float64))
    attention = model.module.get_submodule("encoder.block.0.layer.0.SelfAttention")
    with torch.no_grad():
        weight = attention.v.weight  # type: ignore[union-attr]
        weight[1] = weight[0] + 2.0**-27 * weight[1]  # type: ignore[index, operator]
        attention.o.weight[:, 0] = -attention.o.weight[:, 1]  # type: ignore[index, union-attr, operator]
    found = scores_of(model).edge("encoder.self.0.0", "decoder.cross.1.2", "K")
    close(
        found.raw, dense_score(model, "encoder.self.0.0", "decoder.cross.1.2", "K"), terms=FORWARD, dtype=torch.float64
    )


def test_cross_heads_read_the_encoder_through_its_final_norm(model: interp.Model) -> None:
    """Scaling it axis by axis changes every score with a cross head on either side, and no other."""
    before = scores_of(model)
    with torch.no_grad():
        model.module.encoder.final_layer_norm.weight.mul_(torch.linspace(0.1, 3, 20))
    after = scores_of(model)
    for wire in WIRES:
        check = not_close if "decoder.cross" in wire else close
        check(after.raw[wire], before.raw[wire], str(wire), terms=LAYER)


def test_baseline_and_z_are_those_of_sampled_rotations() -> None:
    """A root mean square of d^-0.5, not a mean, and the closed variance, held to 4000 random rotations."""
    model = scaled(interp.wrap(tiny_pipeline(d_model=12, d_kv=3, num_heads=2)))
    writer, reader = model.weights("encoder.self.0.1"), model.weights("decoder.cross.1.0")
    A = (writer.W_V @ writer.W_O).double().detach()
    B = (reader.W_K @ reader.W_Q.T).double().detach()
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4000, 12, 12, generator=generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(draws)
    rotations = Q * R.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    sampled = ((A @ rotations @ B).norm(dim=(1, 2)) / A.norm() / B.norm()).square()
    scores = scores_of(model)
    edge = scores.edge("encoder.self.0.1", "decoder.cross.1.0", "K")
    assert scores.baseline == 12**-0.5
    assert float(sampled.mean()) == pytest.approx(scores.baseline**2, rel=0.02)
    assert float(sampled.sqrt().mean()) < scores.baseline * 0.98, "the mean of the scores is less: it is no baseline"
    deviation = (edge.raw**2 - scores.baseline**2) / edge.z
    assert deviation == pytest.approx(float(sampled.std()), rel=0.04)


def test_idle_heads_have_no_score(model: interp.Model) -> None:
    with torch.no_grad():
        model.module.get_submodule("encoder.block.0.layer.0.SelfAttention.o").weight[:, 8:16] = 0  # type: ignore[index, operator]
    table = scores_of(model).between("encoder.self", "decoder.cross", "K")
    assert np.isnan(table[0, 1]).all()
    assert not np.isnan(np.delete(table[0], 1, 0)).any()


def test_the_cursive_notebooks_score_is_the_plain_q_one(model: interp.Model) -> None:
    """`|W_V1 W_O1 W_Q2 W_K2^T| / (|W_V1 W_O1| |W_Q2 W_K2^T|)`, no norm folded."""
    pair = ("decoder.self.0.1", "decoder.cross.1.2")
    close(
        scores_of(model, fold_norm=False).edge(*pair, "Q").raw, dense_score(model, *pair, "Q", fold=False), terms=LAYER
    )


@pytest.mark.parametrize(("route", "kind"), [("token_to_right", "K"), ("current_token", "V")])
def test_a_planted_wire_ranks_first_until_it_is_cut(route: Any, kind: str) -> None:
    """On paper: 64 of 192 directions meet, so raw is 64^-0.5, and z follows; cut, the two are orthogonal."""
    plant = interp.zoo.planted(route)
    scores = scores_of(plant.model)
    first, second = scores.top(2)
    assert (str(first.edge),) == plant.edges
    assert first.edge.kind == kind
    close(first.raw, 64**-0.5, terms=FORWARD)
    close(first.excess, 64**-0.5 - 192**-0.5, terms=FORWARD)
    assert first.z == pytest.approx((1 / 64 - 1 / 192) / np.sqrt(2 * 4 / (192**2 * 191 * 194)), rel=1e-4)
    assert first.excess > 10 * second.excess
    assert first.z > 10 * max(edge.z for edge in list(scores.top(50))[1:])
    assert str(scores.top(1, by="excess")[0].edge) in plant.edges
    unfolded = scores_of(plant.model, fold_norm=False).edge(first.edge.writer, first.edge.reader, kind)
    assert unfolded.raw < first.raw - 1e-3, "the norms' scales stand between the two"
    cut = interp.zoo.planted(route, wired=False)
    assert cut.edges == ()
    after = scores_of(cut.model).edge(first.edge.writer, first.edge.reader, kind)
    close(after.raw, 0, of=1, terms=LAYER)
    assert after.z < -60


@pytest.mark.parametrize(("route", "other"), [("token_to_right", "current_token"), ("current_token", "token_to_right")])
def test_planted_models_do_what_was_planted(route: Any, other: str) -> None:
    """Content alone is matched, so each of R occurrences is paid 1/R, and what came next is predicted."""
    model = interp.zoo.planted(route).model
    for repetitions in (1, 2, 4):
        mosaic = probes.induction_mosaic(model, repetitions=repetitions, unique=True)
        own, rest = getattr(mosaic, route), getattr(mosaic, other)
        assert own["decoder.cross.1.2"] == pytest.approx(1 / repetitions, abs=0.01)
        assert rest["decoder.cross.1.2"] < 0.02
        assert mosaic.accuracy() > 0.95
        assert sorted(own.values.ravel())[-2] < 0.2
    score = "previous_token" if route == "token_to_right" else "next_token"
    assert probes.head_scores(model)[f"encoder.self.{score}"]["encoder.self.0.1"] > 0.95
    cut = probes.induction_mosaic(interp.zoo.planted(route, wired=False).model)
    assert cut.accuracy() < 0.05


def test_candidates_are_what_was_planted() -> None:
    for route in ("token_to_right", "current_token"):
        plant = interp.zoo.planted(route)
        mosaic = probes.induction_mosaic(plant.model)
        found = circuits.induction_candidates(plant.model, mosaic, progress=False)
        assert tuple(str(candidate.edge.edge) for candidate in found) == plant.edges
        (candidate,) = found
        assert candidate.route == route
        close(candidate.token_score, 1, "the wire carries the token itself", terms=LAYER)
        assert found.heads() == (Head.parse("encoder.self.0.1"), Head.parse("decoder.cross.1.2"))
        own = candidate.edge.excess * candidate.writer_score * candidate.mosaic_score
        close(found.to_frame()["strength"].item(), own)
        cut = interp.zoo.planted(route, wired=False).model
        assert len(circuits.induction_candidates(cut, probes.induction_mosaic(cut), threshold=0, progress=False)) < 6
        assert not circuits.induction_candidates(cut, probes.induction_mosaic(cut), progress=False).candidates


def test_candidates_of_the_bundled_models(pico: interp.Model) -> None:
    """The one has previous-token heads, which feed the keys of its right heads; the other has none."""
    assert not circuits.induction_candidates(pico, probes.induction_mosaic(pico), progress=False).candidates
    model = interp.load("pico-t5-induction")
    mosaic = probes.induction_mosaic(model)
    found = circuits.induction_candidates(model, mosaic, progress=False)
    right = {str(head.address) for head in mosaic.token_to_right.heads(0.3)}
    assert {candidate.route for candidate in found} == {"token_to_right"}
    assert {str(candidate.edge.edge.reader) for candidate in found} == right
    assert {candidate.edge.edge.writer.head for candidate in found} == {7}
    assert [str(head) for head in found.heads()[:1]] == ["encoder.self.2.7"]
    assert list(found.to_frame()["strength"]) == sorted(found.to_frame()["strength"], reverse=True)


@pytest.mark.parametrize("name", ["pico-t5", "pico-t5-induction"])
def test_the_cards_say_what_the_weights_say(name: str) -> None:
    card = " ".join((interp.zoo.path(name) / "README.md").read_text().split())
    model = interp.load(name)
    scores, mosaic = scores_of(model), probes.induction_mosaic(model)
    first = scores.top(1)[0]
    assert f"strongest wire of all is `{first.edge}` (score {first.raw:.3f}, chance {scores.baseline:.3f}" in card
    assert f"z {first.z:.1f})" in card
    z = scores.between("encoder.self", "decoder.cross", "K", "z")
    feeds = np.mean([z[:, :, h.address.layer, h.address.head] for h in mosaic.heads()], axis=0)
    first, second = np.sort(feeds.ravel())[::-1][:2]
    assert f"mean z of {first:.1f}, {second:.1f}" in card
    found = circuits.induction_candidates(model, mosaic, composition=scores).to_frame()
    if len(found):
        low, high = found["z"].min(), found["z"].max()
        assert f"All {len(found)} such pairs are over chance (z {low:.1f} to {high:.1f})" in card
        matching = (found["token_score"] > 0).sum()
        assert f"matches in {matching} of {len(found)} pairs (up to {found['token_score'].max():.2f})" in card
    else:
        assert "so `circuits.induction_candidates` finds none" in card
    frame = circuits.head_summary(model, mosaic=mosaic)
    cross = frame[frame["kind"] == "cross"]
    induction = cross["either"] >= 0.3
    own, other = cross[induction]["copying"], cross[~induction]["copying"].max()
    assert (
        f"(eigenvalue scores {own.min():.2f} to {own.max():.2f}) and in no other cross head (at most {other:.2f})"
        in card
    )


def test_candidates_of_other_weights(model: interp.Model, pico: interp.Model) -> None:
    mosaic = probes.induction_mosaic(pico, batch_size=3)
    with pytest.raises(interp.errors.InvalidInput, match="make them with this model"):
        circuits.induction_candidates(model, mosaic)
    with pytest.raises(interp.errors.InvalidInput, match="other weights"):
        circuits.induction_candidates(pico, mosaic, composition=scores_of(model))
    with pytest.raises(interp.errors.InvalidInput, match="without the norms"):
        circuits.induction_candidates(pico, mosaic, composition=scores_of(pico, fold_norm=False))
    for wrong in (float("nan"), "a", None):
        with pytest.raises(interp.errors.InvalidInput, match="must be a number"):
            circuits.induction_candidates(pico, mosaic, composition=scores_of(pico), threshold=wrong)  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match=r"encoder\.self\.previous_token"):
        circuits.induction_candidates(pico, mosaic, composition=scores_of(pico), scores={})


def test_between_and_top(model: interp.Model) -> None:
    scores = scores_of(model)
    table = scores.between("encoder.self", "decoder.cross", "K")
    assert table.shape == (3, 3, 2, 3)
    close(scores.between("encoder.self", "decoder.cross", "K", "excess"), table - 20**-0.5)
    assert not table.flags.writeable
    frame = scores.to_frame()
    assert len(frame) == sum(int((~np.isnan(table)).sum()) for table in scores.raw.values())
    ranked = frame.sort_values("z", ascending=False, ignore_index=True)
    pd.testing.assert_frame_equal(scores.top(7).to_frame(), ranked.head(7), check_exact=True)
    with pytest.raises(interp.errors.InvalidInput, match="give a list"):
        scores.top(pairs=("encoder.self", "decoder.cross", "K"))  # type: ignore[arg-type]
    ranked = scores.top(10**6, by="excess", pairs=[("decoder.self", "decoder.cross", "Q")]).to_frame()
    assert ranked["excess"].is_monotonic_decreasing
    assert set(ranked["kind"]) == {"Q"}
    best = scores.top(1)[0]
    assert scores.edge(best.edge.writer, str(best.edge.reader), best.edge.kind) == best


heads = st.sampled_from(
    [Head(stack, kind, layer, head) for stack, kind in KINDS for layer in range(4) for head in (0, 3)]
)


@settings(max_examples=200)
@given(writer=heads, reader=heads, kind=st.sampled_from("QKV"))
def test_an_edge_is_its_text_or_cannot_exist(writer: Head, reader: Head, kind: Any) -> None:
    pair = (f"{writer.stack}.{writer.kind}", f"{reader.stack}.{reader.kind}")
    behind = reader.layer - writer.layer
    kinds, order = PAIRS.get(pair, ((), "any"))
    exists = kind in kinds and {"later": behind > 0, "same or later": behind >= 0, "any": True}[order]
    if exists:
        edge = circuits.Edge(writer, reader, kind)
        assert circuits.Edge.parse(str(edge)) == edge
    else:
        with pytest.raises(interp.errors.InvalidInput):
            circuits.Edge(writer, reader, kind)


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        (("decoder.cross", "encoder.self", "K"), "the encoder runs before the decoder"),
        (("encoder.self", "decoder.self", "Q"), "share no stream"),
        (("encoder.self", "decoder.cross", "Q"), "takes its queries from the decoder's stream"),
        (("decoder.self", "decoder.cross", "K"), "takes its keys and values from the encoder's output"),
        (("decoder.cross", "decoder.cross", "V"), "takes its keys and values from the encoder's output"),
        (("encoder.self", "encoder.self", "X"), "'Q', keys 'K' or values 'V'"),
    ],
)
def test_pairs_that_cannot_be(model: interp.Model, pair: tuple[str, str, str], text: str) -> None:
    scores = scores_of(model)
    with pytest.raises(interp.errors.InvalidInput, match=text):
        scores.between(*pair)
    with pytest.raises(interp.errors.InvalidInput, match=text):
        scores.top(pairs=[pair])  # type: ignore[list-item]


def test_results_print_as_one_would_read_them(model: interp.Model) -> None:
    scores = scores_of(model)
    assert repr(scores).splitlines()[0] == "CompositionScores(tiny: 279 pairs, chance 0.224, norms folded)"
    title, columns, *edges = repr(scores.top(3)).splitlines()
    assert title == "3 edges, strongest first"
    assert columns.split() == ["edge", "writer", "reader", "kind", "raw", "excess", "z"]
    assert [edge.split()[2] for edge in edges] == [str(edge.edge).split()[-1] for edge in scores.top(3)]
    assert "no edges" in repr(Edges(()))
    assert len(repr(interp.position_bias(model, "encoder.self"))) < 90


def test_inputs_are_named_in_either_case(model: interp.Model) -> None:
    scores = scores_of(model)
    edge = scores.edge("encoder.self.0.0", "decoder.cross.1.0", "k")
    assert edge == scores.edge("encoder.self.0.0", "decoder.cross.1.0", "K")
    assert circuits.Edge.parse("encoder.self.0.0 -> decoder.cross.1.0:K") == edge.edge


def test_things_in_the_wrong_place_are_named(model: interp.Model, pico: interp.Model) -> None:
    mosaic = probes.induction_mosaic(pico, batch_size=2)
    calls = {
        "composition_scores": lambda: circuits.composition_scores("pico-t5"),  # type: ignore[arg-type]
        "ov_circuit": lambda: circuits.ov_circuit("decoder.cross.1.2", pico),  # type: ignore[arg-type]
        "head_summary": lambda: circuits.head_summary(pico.module),  # type: ignore[arg-type]
        "copying_scores": lambda: circuits.copying_scores(None),  # type: ignore[arg-type]
        "token_composition": lambda: circuits.token_composition("a", pico),  # type: ignore[arg-type]
    }
    for name, call in calls.items():
        with pytest.raises(interp.errors.InvalidInput, match="a model is needed"):
            call()
        assert name
    with pytest.raises(interp.errors.InvalidInput, match=r"interp\.load\('pico-t5'\)"):
        calls["composition_scores"]()
    with pytest.raises(interp.errors.InvalidInput, match="is no HeadCircuit"):
        circuits.token_circuit(pico)  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match="a model is needed"):
        circuits.induction_candidates(mosaic, pico)  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match="scores: Model is no CompositionScores"):
        circuits.plots.composition(pico, "encoder.self", "decoder.cross", "K")  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match="different weights"):
        circuits.plots.wiring(scores_of(model), scores_of(pico).top(2))


def test_what_else_is_refused(model: interp.Model) -> None:
    scores = scores_of(model)
    with pytest.raises(interp.errors.UnknownSite, match="there are encoder"):
        scores.between("encoder.cross", "decoder.cross", "K")
    with pytest.raises(interp.errors.InvalidInput, match="'raw', 'excess' and 'z'"):
        scores.between("encoder.self", "decoder.cross", "K", "p")  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match="n=0"):
        scores.top(0)
    with pytest.raises(interp.errors.InvalidInput, match="these scores are of"):
        scores.edge("encoder.self.0.0", "decoder.cross.2.0", "K")
    with pytest.raises(interp.errors.InvalidInput, match="its layer must be later"):
        scores.edge("encoder.self.1.0", "encoder.self.1.1", "K")
    for text in ("encoder.self.0.0", "encoder.self.0.0 -> decoder.cross.0.0", "a -> b:k", "encoder.self.0.0 -> x:z"):
        with pytest.raises(interp.InterpError):
            circuits.Edge.parse(text)
    with pytest.raises(interp.errors.InvalidInput, match="memory=0"):
        scores_of(model, memory=0)
    with pytest.raises(interp.errors.InvalidInput, match="Did you mean 'current_token'"):
        interp.zoo.planted("curent_token")  # type: ignore[arg-type]


def test_files_come_back_whole(model: interp.Model, tmp_path: Path) -> None:
    scores = scores_of(model)
    path = scores.save(tmp_path / "wires.safetensors")
    again = CompositionScores.load(path)
    for name in ("raw", "z", "excess"):
        for wire in WIRES:
            np.testing.assert_array_equal(getattr(again, name)[wire], getattr(scores, name)[wire])
    assert (again.baseline, again.provenance) == (scores.baseline, json.loads(json.dumps(scores.provenance)))
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_cannot_be_read(model: interp.Model, tmp_path: Path) -> None:
    path = scores_of(model).save(tmp_path / "wires.safetensors")
    whole = path.read_bytes()
    with pytest.raises(interp.errors.MissingFile):
        CompositionScores.load(tmp_path / "none")
    for content in (whole[:-9], whole[:40], b"", b"{}", whole.replace(b"composition-scores", b"composition-scorex")):
        path.write_bytes(content)
        with pytest.raises(interp.errors.DamagedFile):
            CompositionScores.load(path)
    path.write_bytes(whole.replace(b'"version":"2"', b'"version":"7"'))
    with pytest.raises(interp.errors.WrongVersion, match="version 7"):
        CompositionScores.load(path)


def test_planting_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, two = interp.zoo.planted(seed=2).model, interp.zoo.planted(seed=2).model
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.digest == two.digest != interp.zoo.planted(seed=3).model.digest


ALONE = [("decoder.self", "decoder.self", kind) for kind in "QKV"]


@pytest.mark.parametrize("fold", [True, False])
def test_every_pair_of_a_decoder_equals_the_dense_formula(fold: bool) -> None:
    """One pair of kinds; by d_model x d_model products of Hugging Face's own tensors, the norm's mean included."""
    model = interp.wrap(tiny_causal_pipeline(dtype=torch.float64))
    scores = scores_of(model, fold_norm=fold)
    assert list(scores.raw) == list(scores.z) == list(scores.excess) == ALONE
    heads = {head: dense_head(model.module, head, fold) for head in model.heads()}
    for kind in "QKV":
        table = scores.between("decoder.self", "decoder.self", kind)
        for writer, one in heads.items():
            for reader, two in heads.items():
                value = table[writer.layer, writer.head, reader.layer, reader.head]
                assert np.isnan(value) == (writer.layer >= reader.layer)
                product = {"Q": one.OV @ two.QK, "K": two.QK @ one.OV.T, "V": one.OV @ two.OV}[kind]
                norms = one.OV.norm() * (two.OV if kind == "V" else two.QK).norm()
                if not np.isnan(value):
                    close(value, float(product.norm() / norms), terms=FORWARD, dtype=torch.float64)
    assert scores.n_pairs == len(scores.to_frame()) == 3 * 9 * 3


def test_scores_know_neither_biases_nor_the_factor_of_scores() -> None:
    """Composition is of the linear part: other biases and shifts, or no 1/sqrt(d_head), leave it as it is."""
    before = scores_of(interp.wrap(tiny_gpt2(dtype=torch.float64)))
    module = tiny_gpt2(dtype=torch.float64, scale_attn_weights=False)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(-3)
    after = scores_of(interp.wrap(module))
    for pair in ALONE:
        close(after.raw[pair], before.raw[pair], terms=FORWARD, dtype=torch.float64)


def test_what_a_decoder_writes_along_the_ones_is_read_by_none() -> None:
    """The LayerNorm takes it off: a head that writes nothing else scores 0 by whatever its reader reads."""
    model = interp.wrap(tiny_gpt2(dtype=torch.float64))
    with torch.no_grad():
        W_O = model.module.transformer.h[0].attn.c_proj.weight
        W_O[8:16] = W_O[8:16].mean(1, keepdim=True)
    scores = scores_of(model)
    for kind in "QKV":
        table = scores.between("decoder.self", "decoder.self", kind)
        assert np.nanmax(table[0, 1]) < tolerance(terms=FORWARD, dtype=torch.float64)
        assert np.nanmin(np.delete(table[0, :, 1:], 1, 0)) > 0.01


def test_a_decoders_scores_say_which_pairs_they_have(tmp_path: Path) -> None:
    model = interp.wrap(tiny_causal_pipeline(), name="alone")
    scores = scores_of(model)
    assert repr(scores).splitlines()[0] == "CompositionScores(alone: 81 pairs, chance 0.204, norms folded)"
    for call in (
        lambda: scores.between("encoder.self", "decoder.cross", "K"),
        lambda: scores.edge("encoder.self.0.0", "decoder.cross.1.0", "K"),
        lambda: scores.top(pairs=[("encoder.self", "decoder.cross", "K")]),
        lambda: circuits.plots.composition(scores, "encoder.self", "decoder.cross", "K"),
    ):
        with pytest.raises(
            interp.errors.InvalidInput, match=r"alone has no such heads, only decoder\.self -> decoder\.self"
        ):
            call()
    with pytest.raises(interp.errors.InvalidInput, match=r"such as \[\('decoder\.self', 'decoder\.self', 'Q'\)\]"):
        scores.top(pairs=3)  # type: ignore[arg-type]
    assert {edge.edge.kind for edge in scores.top(5, pairs=[ALONE[1]])} == {"K"}
    path = scores.save(tmp_path / "alone.safetensors")
    again = CompositionScores.load(path)
    assert list(again.raw) == ALONE
    for pair in ALONE:
        np.testing.assert_array_equal(again.raw[pair], scores.raw[pair])
        np.testing.assert_array_equal(again.z[pair], scores.z[pair])
    assert again.provenance == json.loads(json.dumps(scores.provenance))


@pytest.mark.parametrize("lost", ["z/decoder.self decoder.self K", "raw/decoder.self decoder.self Q", ""])
def test_files_that_lack_a_table(tmp_path: Path, lost: str) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = scores_of(interp.wrap(tiny_gpt2())).save(tmp_path / "alone.safetensors")
    with safe_open(path, "numpy") as stored:
        about = stored.metadata()
        kept = {name: stored.get_tensor(name) for name in stored.keys() if lost and name != lost}  # noqa: SIM118
    save_file(kept, path, metadata=about)
    with pytest.raises(interp.errors.DamagedFile):
        CompositionScores.load(path)


def test_a_decoder_of_one_layer_has_no_pairs(tmp_path: Path) -> None:
    scores = scores_of(interp.wrap(tiny_gpt2(n_layer=1)))
    assert scores.n_pairs == len(scores.top(5)) == len(scores.to_frame()) == 0
    assert CompositionScores.load(scores.save(tmp_path / "one.safetensors")).n_pairs == 0
    assert circuits.plots.composition_explorer(scores).data
    assert circuits.plots.wiring(scores).data


def test_the_wire_planted_in_a_decoder_ranks_first_until_it_is_cut() -> None:
    """On paper: 128 of 640 directions meet, in orthogonal subspaces: raw is 128^-0.5."""
    plant = interp.zoo.planted_decoder()
    first, second = scores_of(plant.model).top(2)
    assert (str(first.edge),) == plant.edges
    close(first.raw, 128**-0.5, terms=FORWARD)
    assert first.excess == pytest.approx(128**-0.5 - 640**-0.5, rel=1e-4)
    assert first.z > 10 * second.z
    cut = scores_of(interp.zoo.planted_decoder(wired=False).model)
    close(cut.edge(first.edge.writer, first.edge.reader, "K").raw, 0, of=1, terms=LAYER)


@pytest.fixture(scope="module")
def behaviour() -> dict[str, HeadScores]:
    return probes.head_scores(interp.zoo.planted_decoder().model, sequence_length=10, repetitions=3)


def test_a_decoders_candidates_are_what_was_planted(behaviour: dict[str, HeadScores]) -> None:
    """The one route there is: a head that looks back feeds the keys of a head of a later layer."""
    plant = interp.zoo.planted_decoder()
    mosaic = probes.induction_mosaic(plant.model)
    found = circuits.induction_candidates(plant.model, mosaic, scores=behaviour, progress=False)
    assert tuple(str(candidate.edge.edge) for candidate in found) == plant.edges
    (candidate,) = found
    assert candidate.route == "token_to_right"
    close(candidate.token_score, 1, "the wire carries the token itself", terms=LAYER)
    assert candidate.writer_score == behaviour["decoder.self.previous_token"]["decoder.self.0.1"]
    assert candidate.mosaic_score == mosaic.token_to_right["decoder.self.1.2"]
    assert "first head 1.00, second head 0.49" in str(candidate)
    assert found.heads() == (Head.parse("decoder.self.0.1"), Head.parse("decoder.self.1.2"))
    every = circuits.induction_candidates(
        plant.model, mosaic, scores=behaviour, threshold=-1, least_z=-1e9, progress=False
    )
    assert len(every) == 25, "each head of the first layer with each of the second, and no others"
    assert {candidate.edge.edge.kind for candidate in every} == {"K"}
    cut = interp.zoo.planted_decoder(wired=False).model
    scores = probes.head_scores(cut, sequence_length=10, repetitions=3)
    none = circuits.induction_candidates(cut, probes.induction_mosaic(cut), scores=scores, progress=False)
    assert not none.candidates
    with pytest.raises(interp.errors.InvalidInput, match=r"scores have no 'decoder\.self\.previous_token'"):
        circuits.induction_candidates(plant.model, mosaic, scores={}, progress=False)
