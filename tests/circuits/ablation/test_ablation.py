"""Ablation experiments: heads, controls, layers, self-repair, what is rewired."""

from math import comb
from typing import Any

import numpy as np
import pytest
import torch

import circuits
import interp
import probes
from circuits.ablation.head_sets import set_outcomes
from circuits.controls import strongest
from interp import Mean, Resample, Zero, zoo
from interp.editing.methods import ablations
from interp.errors import InvalidInput
from interp.names import Head, parse_address
from interp.results.by_head import HeadScores
from interp.results.result import Floats
from interp.zoo.planted_gpt2 import INDUCTION, PREVIOUS_TOKEN
from tests.circuits.ablation.test_head_effects import log_probs, stimulus
from tests.conftest import tiny_gpt2
from tests.tolerance import FORWARD, LAYER, close

RNG = np.random.default_rng(0)


def scored(model: interp.Model, site: str = "decoder.cross", seed: int = 0) -> HeadScores:
    layers = model.n_layers["encoder" if site.startswith("encoder") else "decoder"]
    values = np.random.default_rng(seed).random((layers, model.n_heads))
    return HeadScores("random", site, values, provenance={"digest": model.digest})


def test_sets_equal_ordinary_edited_forwards(either: interp.Model) -> None:
    model, tokens, other = either, stimulus(model=either), stimulus(9, either)
    stack, kind = model.family.context
    sets: list[list[Any]] = [
        [],
        [Head(stack, kind, 1, 0), Head("decoder", "self", 0, 2)],
        [interp.AttentionLayer(stack, kind, 0)],
        [Head(*model.family.kinds[0], 1, 1), Head(stack, kind, 1, 2)],
        [interp.Site("decoder", None, 0, "mlp_out"), Head(stack, kind, 1, 2)],
        [interp.Site("decoder", None, 0, "mlp_out")],
    ]
    for options in ({}, {"method": "mean", "reference": other}, {"method": "resample", "reference": other}):
        for memory in (1, 2**28):
            found = set_outcomes(model, tokens, sets, memory=memory, progress=False, **options)  # type: ignore[arg-type]
            for index, members in enumerate(sets):
                with interp.edited(model, ablations(members, **(options if members else {}))):  # type: ignore[arg-type]
                    wanted = log_probs(model, tokens)
                close(found["effect"][index], wanted, terms=LAYER)


def test_the_strongest_heads(model: interp.Model) -> None:
    scores = scored(model)
    order = [str(found.address) for found in scores.heads()]
    assert [str(h) for h in strongest(scores, [2])[2]] == order[:2]
    assert [str(h) for h in strongest(scores, [2], ascending=True)[2]] == order[::-1][:2]
    assert list(strongest(scores, ["1%", "50%"])) == [1, 3]
    for bad in ([], [0], [7], [1, 1], ["1%", "2%"], ["x%"], ["50"], ["0%"], [1.5]):
        with pytest.raises(InvalidInput):
            strongest(scores, bad)
    unknown = HeadScores("some", "decoder.cross", np.array([[0.1, np.nan, 0.3], [np.nan, 0.2, np.nan]]))
    assert list(strongest(unknown, ["100%"])) == [3]


def test_controls_are_of_the_same_layers(pico: interp.Model) -> None:
    heads = ["decoder.cross.1.0", "decoder.cross.1.1", "decoder.cross.2.3"]
    exclude = [pico.head("decoder.cross.1.2")]
    found = circuits.random_controls(pico, heads, exclude=exclude, draws=30, seed=4)
    assert len(found.sets) == len(set(found.sets)) == 30
    for members in found.sets:
        assert sorted(h.layer for h in members) == [1, 1, 2]
        assert not {str(h) for h in members} & {*heads, "decoder.cross.1.2"}
    assert found == circuits.random_controls(pico, heads, exclude=exclude, draws=30, seed=4)
    assert found != circuits.random_controls(pico, heads, exclude=exclude, draws=30, seed=5)
    every = circuits.random_controls(pico, heads, exclude=exclude, draws=1000)
    assert len(every.sets) == comb(5, 2) * 7
    assert "only 70 distinct" in every.reason
    as_scored = probes.induction_mosaic(pico, seed=0).heads()
    drawn = circuits.random_controls(pico, heads[2:], exclude=as_scored, draws=50).sets
    assert not {head for (head,) in drawn} & {found.address for found in as_scored}
    none = circuits.random_controls(pico, [f"decoder.cross.1.{i}" for i in range(5)])
    assert (none.sets, "has 3 other heads and 5 are needed" in none.reason) == ((), True)
    with pytest.raises(InvalidInput):
        circuits.random_controls(pico, [*heads, heads[0]])


def test_the_curve_holds_what_forwards_give(either: interp.Model) -> None:
    model, tokens = either, stimulus(model=either)
    scores = scored(model, ".".join(model.family.context))
    curve = circuits.ablation_curve(model, scores, tokens, counts=[1, 2], controls=3, progress=False)
    clean = log_probs(model, tokens)
    for point in curve.points:
        with interp.ablate(model, point.heads):
            close(point.effect, log_probs(model, tokens) - clean, of=8, terms=FORWARD)
        for members, row in zip(point.control_sets, point.control_effect, strict=True):
            with interp.ablate(model, members):
                close(row, log_probs(model, tokens) - clean, of=8, terms=FORWARD)
    assert [h.address for h in scores.heads()[:2]] == list(curve.points[1].heads)
    weakest = circuits.ablation_curve(model, scores, tokens, counts=[1], ascending=True, controls=1, progress=False)
    assert weakest.points[0].heads[0] == scores.heads()[-1].address


def test_a_count_without_controls_says_why(pico: interp.Model) -> None:
    mosaic, fresh = probes.induction_mosaic(pico, seed=0), probes.repeated_random_tokens(seed=1)
    curve = circuits.ablation_curve(pico, mosaic, fresh, counts=[2, 16], controls=4, progress=False)
    frame = curve.to_frame()
    assert frame[frame["count"] == 16]["control"].isna().all()
    assert "no control" in frame[frame["count"] == 16]["reason"].iloc[0]
    assert frame[frame["count"] == 2]["draws"].tolist() == [4, 4, 4]
    with pytest.raises(InvalidInput, match="cannot be drawn"):
        circuits.ablation_curve(pico, mosaic, fresh, counts=[16, 20], progress=False)
    assert np.isnan(
        circuits.ablation_curve(pico, mosaic, fresh, counts=[16], controls=0, progress=False).to_frame()["control"]
    ).all()


def test_induction_heads_matter_and_others_do_not(pico: interp.Model) -> None:
    """The control beside the effect: random heads of the same layers leave the continuation alone."""
    mosaic, fresh = probes.induction_mosaic(pico, seed=0), probes.repeated_random_tokens(seed=1)
    k = len(mosaic.heads())
    for options in ({}, {"method": "mean", "reference": probes.repeated_random_tokens(seed=2)}):
        frame = circuits.ablation_curve(
            pico, mosaic, fresh, counts=[k], controls=10, progress=False, **options  # type: ignore[arg-type]
        ).to_frame()  # fmt: skip
        effect, accuracy = frame.iloc[0], frame.iloc[1]
        assert effect["high"] < -2 < -0.5 < effect["control_low"]
        assert accuracy["value"] < 0.3 < 0.8 < accuracy["control_low"]


def test_heads_are_not_measured_where_they_were_chosen(pico: interp.Model, model: interp.Model) -> None:
    mosaic = probes.induction_mosaic(pico, seed=0)
    for size in (100, 99):
        with pytest.raises(InvalidInput, match="very tokens"):
            circuits.ablation_curve(pico, mosaic, probes.repeated_random_tokens(seed=0, batch_size=size))
    with pytest.raises(InvalidInput, match="make them with this model"):
        circuits.ablation_curve(model, mosaic, stimulus())
    with pytest.raises(InvalidInput, match=r"\[layer, head\]"):
        circuits.ablation_curve(model, HeadScores("x", "decoder.cross", np.ones((3, 3))), stimulus())
    with pytest.raises(InvalidInput, match="24 have a score"):
        circuits.ablation_curve(pico, mosaic, probes.repeated_random_tokens(seed=1), counts=[25])


def test_the_curve_of_encoder_heads(model: interp.Model) -> None:
    scores = scored(model, "encoder.self")
    curve = circuits.ablation_curve(model, scores, stimulus(), counts=[1], controls=2, progress=False)
    assert curve.points[0].heads[0].stack == "encoder"
    assert len(curve.points[0].control_sets) == 2


def test_layers(model: interp.Model) -> None:
    tokens = stimulus()
    found = circuits.layer_effects(model, tokens, progress=False)
    assert len(found.layers) == 3 + 2 + 2 + 3 + 2
    clean = log_probs(model, tokens)
    for name, row in zip(found.layers, found.rows, strict=True):
        with interp.ablate(model, name):
            close(row, log_probs(model, tokens) - clean, of=8, terms=FORWARD)
    assert {"effect", "low", "high", "control", "q"} <= set(found.to_frame())


LATER = {
    "t5": {
        "decoder.cross.0.1": ["decoder.0.mlp_out", "decoder.self.1", "decoder.cross.1", "decoder.1.mlp_out"],
        "decoder.self.1.2": ["decoder.cross.1", "decoder.1.mlp_out"],
    },
    "gpt2": {
        "decoder.self.1.1": ["decoder.1.mlp_out", "decoder.self.2.z", "decoder.2.mlp_out"],
        "decoder.self.2.2": ["decoder.2.mlp_out"],
    },
}


@pytest.mark.parametrize(("either", "later"), LATER.items(), indirect=["either"])
@pytest.mark.parametrize("method", ["zero", "mean"])
def test_the_direct_part_is_what_an_intervention_measures(
    either: interp.Model, later: dict[str, list[str]], method: str
) -> None:
    """All later layers held at their unedited values: what is left of the head's effect is direct."""
    model, tokens = either, stimulus(model=either)
    reference = None if method == "zero" else stimulus(8, model)
    found = circuits.self_repair(
        model, tokens, list(later), method=method, reference=reference, controls=2,  # type: ignore[arg-type]
        progress=False,
    )  # fmt: skip
    clean = log_probs(model, tokens)
    for index, (head, sites) in enumerate(later.items()):
        edit = Zero(head) if reference is None else Mean(head, reference)
        with interp.edited(model, [edit, *(Resample(site, tokens) for site in sites)]):
            close(found.direct[index], log_probs(model, tokens) - clean, of=8, terms=FORWARD)
        with interp.edited(model, edit):
            close(found.total[index], log_probs(model, tokens) - clean, of=8, terms=FORWARD)
    with interp.ablate(model, list(later), method=method, reference=reference):  # type: ignore[arg-type]
        both = log_probs(model, tokens)
    with interp.ablate(model, list(later)[1], method=method, reference=reference):  # type: ignore[arg-type]
        close(found.restored[0], log_probs(model, tokens) - both, of=8, terms=FORWARD)
    close(found.all_ablated, both - clean, of=8, terms=FORWARD)
    # A control is taken away in addition: what keeping it brings when all chosen ones are gone.
    with interp.ablate(model, [*later, str(found.controls[0])], method=method, reference=reference):  # type: ignore[arg-type]
        close(found.restored[2], both - log_probs(model, tokens), of=8, terms=FORWARD)
    frame = found.to_frame()
    assert frame["role"].tolist() == ["chosen"] * 2 + ["control"] * 2
    close(frame["repaired"], frame["total"] - frame["direct"])


@pytest.mark.parametrize("bad", [{"seed": -1}, {"controls": -1}, {"controls": 1.5}, {"counts": 3}])
def test_numbers_that_cannot_be(model: interp.Model, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        circuits.ablation_curve(model, scored(model), stimulus(), **bad)
    if "counts" not in bad:
        with pytest.raises(InvalidInput):
            circuits.self_repair(model, stimulus(), "decoder.cross.0.0", **bad)


def test_self_repair_refuses(model: interp.Model) -> None:
    for heads in ([], ["encoder.self.0.0"], None):
        with pytest.raises(InvalidInput):
            circuits.self_repair(model, stimulus(), heads)  # type: ignore[arg-type]


def test_what_is_rewired(model: interp.Model) -> None:
    tokens = stimulus()
    heads = ["encoder.self.2.0", "decoder.self.1.1", "decoder.cross.0.2"]
    found = circuits.mosaic_effects(model, tokens, heads, controls=2, progress=False)
    clean = probes.induction_mosaic(model, tokens)
    for index, head in enumerate(heads):
        with interp.ablate(model, head):
            edited = probes.induction_mosaic(model, tokens)
        first = {"encoder.self.2.0": 0, "decoder.self.1.1": 1, "decoder.cross.0.2": 1}[head]
        for kind in ("current_token", "token_to_right"):
            change = getattr(edited, kind).values - getattr(clean, kind).values
            assert not change[:first].any()
            close(getattr(found, kind)[index].mean(-1)[first:], change[first:], of=1, terms=LAYER)
            assert np.isnan(getattr(found, kind)[index][:first]).all()
    frame = found.to_frame()
    assert len(frame) == 2 * (6 + 3 + 3)
    assert frame["control"].notna().all()
    assert {"low", "high", "control_low", "q"} <= set(frame)
    with pytest.raises(InvalidInput):
        circuits.mosaic_effects(model, tokens, [])


def test_what_is_rewired_in_a_decoder_alone(causal: interp.Model) -> None:
    """A head of the same layer reads the stream before another writes to it; all later ones after."""
    tokens = stimulus(model=causal)
    heads = ["decoder.self.0.2", "decoder.self.1.0"]
    found = circuits.mosaic_effects(causal, tokens, heads, controls=2, progress=False)
    assert found.site == "decoder.self"

    def paid() -> tuple[Floats, Floats]:
        cache = interp.capture(causal, tokens, ["decoder.self.*.pattern", "decoder.logits"])
        patterns = torch.stack([cache[f"{at}.pattern"][:, :, -1] for at in causal.layers()]).numpy()
        # `ABCD ABCD A B`: the query B came last at 5.
        return patterns[..., 5].swapaxes(1, 2), patterns[..., 6].swapaxes(1, 2)

    clean = paid()
    for index, (head, first) in enumerate(zip(heads, (1, 2), strict=True)):
        with interp.ablate(causal, head):
            edited = paid()
        for name, before, after in zip(("current_token", "token_to_right"), clean, edited, strict=True):
            change = getattr(found, name)[index]
            np.testing.assert_array_equal(after[:first], before[:first])
            assert np.isnan(change[:first]).all()
            close(change[first:], (after - before)[first:], terms=LAYER)
            assert np.abs(change[first:]).max() > 1e-3
    frame = found.to_frame()
    assert len(frame) == 2 * (6 + 3)
    assert frame["head"].str.startswith("decoder.self.").all()


def test_the_wire_of_a_planted_decoder() -> None:
    """Without the previous-token head the induction head finds nothing; other heads of its layer change nothing."""
    tokens = probes.repeated_random_tokens(batch_size=20, unique=True, encoder=False, seed=3)
    model = zoo.planted_decoder().model
    found = circuits.mosaic_effects(model, tokens, PREVIOUS_TOKEN, controls=3, progress=False)
    at = (0, INDUCTION.layer, INDUCTION.head)
    assert found.token_to_right[at].mean() < -0.4  # of a half, since it attends to both occurrences
    assert abs(found.control_token_to_right[at].mean()) < 0.05


def test_heads_with_nothing_after_them_rewire_nothing(either: interp.Model) -> None:
    heads = either.heads(".".join(either.family.context))
    found = circuits.mosaic_effects(either, stimulus(model=either), heads, controls=1, progress=False)
    assert np.isnan(found.current_token[-3:]).all()
    assert np.isfinite(found.current_token[:-3, -1]).all()
    last = circuits.mosaic_effects(either, stimulus(model=either), heads[-1], controls=1, progress=False)
    assert list(last.to_frame().columns) == list(found.to_frame().columns)
    assert last.to_frame().empty


def test_whole_layers(either: interp.Model) -> None:
    tokens = stimulus(model=either)
    found = circuits.layer_effects(either, tokens, progress=False)
    clean = log_probs(either, tokens)
    assert len(found.layers) == len(set(found.layers)) == len(either.layers()) + len(either.sites("*.*.mlp_out"))
    for place, row in zip(found.layers, found.rows, strict=True):
        with interp.ablate(either, place):
            close(row, log_probs(either, tokens) - clean, of=8, terms=FORWARD)


def test_heads_that_a_decoder_alone_does_not_have(causal: interp.Model, model: interp.Model) -> None:
    tokens = stimulus(model=causal)
    for address in ("decoder.cross.0.0", "encoder.self.0"):
        with pytest.raises(
            (interp.errors.UnknownHead, interp.errors.UnknownSite), match="no encoder and no cross-attention"
        ):
            set_outcomes(causal, tokens, [[parse_address(address)]], progress=False)
    for call in (circuits.self_repair, circuits.mosaic_effects):
        with pytest.raises(interp.errors.UnknownHead, match="no encoder and no cross-attention"):
            call(causal, tokens, ["decoder.cross.0.0"])
        with pytest.raises(InvalidInput, match="decoder-only"):
            call(causal, stimulus(), ["decoder.self.0.0"])
    of_t5 = HeadScores("random", "decoder.cross", RNG.random((2, 3)))
    with pytest.raises(interp.errors.UnknownSite, match="no encoder and no cross-attention"):
        circuits.ablation_curve(causal, of_t5, tokens)
    text = interp.wrap(tiny_gpt2(), name="text")
    with pytest.raises(interp.errors.UnsupportedModel, match="no chronos_config"):
        circuits.ablation_curve(text, scored(text, "decoder.self"), tokens, series=np.sin(np.arange(40.0)))


def test_nothing_is_left_behind(either: interp.Model) -> None:
    model = either
    state, tokens = torch.get_rng_state(), stimulus(model=model)
    clean = log_probs(model, tokens)
    heads = model.heads(".".join(model.family.context))
    circuits.layer_effects(model, tokens, progress=False)
    circuits.self_repair(model, tokens, heads[1], progress=False)
    scores = scored(model, ".".join(model.family.context))
    circuits.ablation_curve(model, scores, tokens, counts=[1], controls=2, progress=False)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
    np.testing.assert_array_equal(clean, log_probs(model, tokens))
