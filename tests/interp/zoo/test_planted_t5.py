"""The planted models: what they score, what breaks them, and that every edge that was built matters."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
import probes
from interp import zoo
from interp.names import Head, parse_address
from interp.zoo.planted_t5 import CROSS_HEADS, DISTRACTOR, ENCODER_HEADS
from probes.stimuli.pairs import Pair

FIRST, SECOND = map(str, CROSS_HEADS)


@pytest.fixture(scope="module", params=list(zoo.PLANTED))
def plant(request: pytest.FixtureRequest) -> tuple[dict[str, Any], zoo.Planted]:
    settings = dict(zoo.PLANTED[request.param])
    return settings, zoo.planted(**settings)


def accuracy(model: interp.Model, *ablated: object) -> float:
    batch = probes.repeated_random_tokens(batch_size=24, unique=True, seed=3)
    if not ablated:
        return probes.induction_mosaic(model, batch).accuracy()
    with interp.ablate(model, [str(head) for head in ablated]):
        return probes.induction_mosaic(model, batch).accuracy()


def test_each_predicts_the_continuation_and_scores_where_it_was_built(
    plant: tuple[dict[str, Any], zoo.Planted],
) -> None:
    settings, built = plant
    copies = settings.get("copies", 1)
    own = [str(head) for head in CROSS_HEADS[:copies]] + [str(DISTRACTOR)] * settings.get("distractor", False)
    for repetitions in (1, 2, 4):
        mosaic = probes.induction_mosaic(built.model, batch_size=24, repetitions=repetitions, unique=True)
        assert mosaic.accuracy() >= 0.98
        scores = getattr(mosaic, settings["route"])
        assert {str(head.address) for head in scores.heads()[: len(own)]} == set(own)
        for head in own:
            assert scores[head] == pytest.approx(1 / repetitions, abs=0.01)
        assert len(scores.heads(0.2)) == len(own) or repetitions == 1


@pytest.mark.parametrize("route", ["token_to_right", "current_token"])
def test_either_of_two_copies_suffices(route: Any) -> None:
    model = zoo.planted(route, copies=2).model
    assert accuracy(model) >= 0.98
    for heads in (CROSS_HEADS, ENCODER_HEADS):
        assert accuracy(model, heads[0]) >= 0.98
        assert accuracy(model, heads[1]) >= 0.98
        assert accuracy(model, *heads) <= 0.1
    # One copy's encoder head feeds its own cross head only: half of each is nothing whole.
    assert accuracy(model, ENCODER_HEADS[0], CROSS_HEADS[1]) <= 0.1
    assert accuracy(model, ENCODER_HEADS[0], CROSS_HEADS[0]) >= 0.98
    single = zoo.planted(route).model
    assert accuracy(single, FIRST) <= 0.1
    assert accuracy(single, SECOND) >= 0.98


@pytest.mark.parametrize("route", ["token_to_right", "current_token"])
def test_a_distractor_attends_alike_and_does_nothing(route: Any) -> None:
    model = zoo.planted(route, distractor=True).model
    batch = probes.repeated_random_tokens(batch_size=20, unique=True)
    scores = getattr(probes.induction_mosaic(model, batch), route)
    assert scores[str(DISTRACTOR)] == pytest.approx(scores[FIRST], abs=2e-3)
    clean = interp.capture(model, batch, ["decoder.logits"])["decoder.logits"]
    for head, same in ((DISTRACTOR, True), (FIRST, False)):
        with interp.ablate(model, [str(head)]):
            after = interp.capture(model, batch, ["decoder.logits"])["decoder.logits"]
        assert torch.equal(clean, after) == same


def test_what_is_listed_is_what_was_built() -> None:
    assert zoo.planted().circuit == (
        "encoder.0.resid_pre -> encoder.self.0.1:v",
        "encoder.self.0.1 -> decoder.cross.1.2:k",
        "encoder.0.resid_pre -> decoder.cross.1.2:v",
        "decoder.0.resid_pre -> decoder.cross.1.2:q",
        "decoder.cross.1.2 -> decoder.logits",
    )
    other = zoo.planted("current_token", copies=2, distractor=True)
    assert other.circuit[5:] == (
        "encoder.0.resid_pre -> encoder.self.1.0:v",
        "encoder.self.1.0 -> decoder.cross.1.0:v",
        "encoder.0.resid_pre -> decoder.cross.1.0:k",
        "decoder.0.resid_pre -> decoder.cross.1.0:q",
        "decoder.cross.1.0 -> decoder.logits",
    )
    assert other.edges == ("encoder.self.0.1 -> decoder.cross.1.2:v", "encoder.self.1.0 -> decoder.cross.1.0:v")
    cut = zoo.planted("current_token", copies=2, distractor=True, wired=False)
    assert cut.edges == cut.circuit == ()
    assert accuracy(cut.model) < 0.1
    assert cut.model.digest != other.model.digest


class Edges:
    """Single edges patched with plain hooks: one input of one head is computed as if one writer were on corrupt."""

    def __init__(self, model: interp.Model, pair: Pair) -> None:
        self.model, self.pair = model, pair
        last = model.n_layers["decoder"] - 1
        sites = ["encoder.0.resid_pre", "encoder.1.resid_pre", "encoder.1.resid_post", "decoder.0.resid_pre"]
        sites += [f"{kind}.{layer}.head_out" for kind in ("encoder.self", "decoder.cross") for layer in (0, 1)]
        sites += ["decoder.0.resid_mid", "decoder.1.resid_pre", "decoder.1.resid_mid", f"decoder.{last}.resid_post"]
        self.clean, self.corrupt = (interp.capture(model, batch, sites) for batch in pair)
        with torch.no_grad():
            self.whole = [self.moved(model.module(**batch.inputs).logits) for batch in pair]

    def moved(self, logits: Tensor) -> float:
        last, rows = logits[:, -1].double(), torch.arange(len(self.pair))
        assert self.pair.against is not None
        return float((last[rows, self.pair.target] - last[rows, self.pair.against]).mean())

    def changes(self, writer: str) -> Tensor:
        if writer.endswith("resid_pre"):
            return self.corrupt[writer] - self.clean[writer]
        head = Head.parse(writer)
        site = f"{head.stack}.{head.kind}.{head.layer}.head_out"
        return (self.corrupt[site] - self.clean[site])[:, :, head.head]

    @torch.no_grad()
    def effect(self, writer: str, reader: str) -> float:
        """The share of the way from clean to corrupt that the metric goes."""
        module = self.model.module
        if reader == "decoder.logits":
            stream = self.clean["decoder.1.resid_post"] + self.changes(writer)
            logits = self.model.unembed(module.decoder.final_layer_norm(stream))
        else:
            address, _, name = reader.partition(":")
            head = Head.parse(address)
            own = f"{head.stack}.{head.layer}.{'resid_mid' if head.kind == 'cross' else 'resid_pre'}"
            sublayer = module.get_submodule(f"{head.stack}.block.{head.layer}.layer.{int(head.kind == 'cross')}")
            norm = sublayer.layer_norm
            if head.kind == "cross" and name in "kv":
                own, norm = "encoder.1.resid_post", module.encoder.final_layer_norm
            attention = sublayer.EncDecAttention if head.kind == "cross" else sublayer.SelfAttention
            linear = getattr(attention, name)
            read = torch.nn.functional.linear(norm(self.clean[own] + self.changes(writer)), linear.weight)
            rows = slice(head.head * self.model.d_head, (head.head + 1) * self.model.d_head)

            def hook(_: object, __: object, output: Tensor) -> Tensor:
                output = output.clone()
                output[..., rows] = read[..., rows]
                return output

            handle = linear.register_forward_hook(hook)
            try:
                logits = module(**self.pair.clean.inputs).logits
            finally:
                handle.remove()
        return (self.moved(logits) - self.whole[0]) / (self.whole[1] - self.whole[0])


def near(copies: int, distractor: bool) -> list[tuple[str, str]]:
    """The edges that could be there among embeddings, planted heads, the distractor and the output."""
    cross = [*CROSS_HEADS[:copies], *[DISTRACTOR] * distractor]
    encoders = ENCODER_HEADS[:copies]
    edges = list(product(["encoder.0.resid_pre"], [f"{head}:{name}" for head in encoders for name in "qkv"]))
    sources = ["encoder.0.resid_pre", *map(str, encoders)]
    edges += product(sources, [f"{head}:{name}" for head in cross for name in "kv"])
    edges += product(["decoder.0.resid_pre"], [f"{head}:q" for head in cross])
    edges += product(["decoder.0.resid_pre", *map(str, cross)], ["decoder.logits"])
    if copies > 1:
        edges += [(str(encoders[0]), f"{encoders[1]}:{name}") for name in "qkv"]
    return edges


def test_every_edge_that_was_built_matters_and_no_other(plant: tuple[dict[str, Any], zoo.Planted]) -> None:
    """Values moved in all tokens: each edge alone breaks what it carries, a copy's its own half."""
    settings, built = plant
    pair = probes.shifted_values(probes.repeated_random_tokens(batch_size=16, unique=True, seed=1), 300)
    edges = Edges(built.model, pair)
    copies = settings.get("copies", 1)
    effects = {
        f"{writer} -> {reader}": edges.effect(writer, reader)
        for writer, reader in near(copies, settings.get("distractor", False))
    }
    assert set(built.edges) < set(built.circuit) < set(effects)
    for edge, effect in effects.items():
        if edge in built.circuit:
            assert effect > 0.05, edge
        else:
            assert abs(effect) < 0.015, edge


def test_addresses_are_the_models_own(plant: tuple[dict[str, Any], zoo.Planted]) -> None:
    _, built = plant
    for edge in built.circuit:
        writer, reader = edge.split(" -> ")
        for text in (writer, reader.partition(":")[0]):
            address = parse_address(text)
            assert built.model.head(text) == address if isinstance(address, Head) else str(address) == text


def test_the_standard_ones_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        zoo.PLANTED["other"] = {}  # type: ignore[index]
    with pytest.raises(TypeError):
        zoo.PLANTED["distractor"]["copies"] = 2  # type: ignore[index]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"route": "copy"}, "route='copy'"),
        ({"copies": 0}, "copies=0 must be at least 1"),
        ({"copies": 3}, "copies=3: there are heads for 1 or 2"),
        ({"copies": 1.5}, "whole number"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=message):
        zoo.planted(**settings)
