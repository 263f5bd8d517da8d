"""One measurement: every experiment takes any metric, and each metric means the same in all of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import circuits
import interp
import probes
from circuits.metrics import Metric, mean_log_prob
from interp.errors import InvalidInput
from interp.results.by_head import HeadScores
from probes.stimuli.repeated_tokens import RepeatedTokens
from tests.circuits.ablation.test_head_effects import stimulus
from tests.tolerance import FORWARD, close

TOKEN, OTHER = 2000, 2100


def written_by_hand(name: str, tokens: RepeatedTokens) -> Metric:
    """Metrics as a user would write them, on logits `[row, pos, token]`."""
    rows = torch.arange(len(tokens))

    def at(logits: Tensor) -> Tensor:
        return logits[:, -1].float()

    by_name: dict[str, Callable[[Tensor], Tensor]] = {
        "log_prob": lambda logits: at(logits).log_softmax(-1)[rows, tokens.continuation],
        "accuracy": lambda logits: at(logits).argmax(-1) == tokens.continuation,
        "logit_difference": lambda logits: at(logits)[:, TOKEN] - at(logits)[:, OTHER],
        "mean_log_prob": lambda logits: at(logits).log_softmax(-1)[:, [TOKEN, OTHER]].mean(-1),
    }
    return by_name[name]


def named(name: str, tokens: RepeatedTokens) -> Metric:
    both = torch.tensor([[TOKEN, OTHER]]).expand(len(tokens), -1)
    return {
        "log_prob": circuits.log_prob(tokens.continuation),
        "accuracy": circuits.metrics.accuracy(tokens.continuation),
        "logit_difference": circuits.logit_difference(TOKEN, OTHER),
        "mean_log_prob": mean_log_prob(both),
    }[name]


NAMES = ("log_prob", "accuracy", "logit_difference", "mean_log_prob")


def random_scores(model: interp.Model) -> HeadScores:
    site = ".".join(model.family.context)
    shape = (len(model.layers(site)), model.n_heads)
    return HeadScores("random", site, np.random.default_rng(0).random(shape), provenance={"digest": model.digest})


def of_heads(model: interp.Model, tokens: RepeatedTokens, metric: Metric | None) -> Any:
    return circuits.head_effects(model, tokens, metric=metric, progress=False).rows


def of_a_curve(model: interp.Model, tokens: RepeatedTokens, metric: Metric | None) -> Any:
    scores, few = random_scores(model), {"counts": [1, 2], "controls": 0, "progress": False}
    return [point.effect for point in circuits.ablation_curve(model, scores, tokens, metric=metric, **few).points]  # type: ignore[arg-type]


def of_layers(model: interp.Model, tokens: RepeatedTokens, metric: Metric | None) -> Any:
    return circuits.layer_effects(model, tokens, metric=metric, progress=False).rows


def directly(model: interp.Model, tokens: RepeatedTokens, metric: Metric | None) -> Any:
    heads = ["decoder.self.0.0"]
    return circuits.self_repair(model, tokens, heads, metric=metric, controls=1, progress=False).direct


def of_patches(model: interp.Model, tokens: RepeatedTokens, metric: Metric | None) -> Any:
    assert metric is not None
    return circuits.patch_sites(model, tokens, stimulus(5, model), metric, ["decoder.self.0.z"])


ABLATIONS = (of_heads, of_a_curve, of_layers, directly)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("experiment", [*ABLATIONS, of_patches])
def test_a_metric_of_ones_own_is_the_named_one(either: interp.Model, experiment: Callable[..., Any], name: str) -> None:
    tokens = stimulus(model=either)
    own, by_name = (experiment(either, tokens, make(name, tokens)) for make in (written_by_hand, named))
    close(np.array(own), np.array(by_name), of=8, terms=FORWARD)


@pytest.mark.parametrize("experiment", ABLATIONS)
def test_the_default_is_the_log_probability_of_the_continuation(
    either: interp.Model, experiment: Callable[..., Any]
) -> None:
    tokens = stimulus(model=either)
    default, named = (experiment(either, tokens, metric) for metric in (None, circuits.log_prob(tokens.continuation)))
    close(np.array(default), np.array(named), of=8, terms=FORWARD)


@pytest.mark.parametrize("name", NAMES)
def test_effects_are_those_of_one_edited_forward_each(either: interp.Model, name: str) -> None:
    tokens = stimulus(model=either)
    metric = written_by_hand(name, tokens)

    @torch.no_grad()
    def value() -> np.ndarray[Any, Any]:
        return metric(either.module(**either.inputs(tokens)).logits).double().numpy()

    clean, effects = value(), circuits.head_effects(either, tokens, metric=metric, progress=False)
    for head in either.heads(effects.site)[:3]:
        with interp.ablate(either, head):
            close(effects.rows[head.layer, head.head], value() - clean, of=8, terms=FORWARD)
    assert effects.provenance["metric"] == "<lambda>"


def test_results_say_what_they_measure_and_which_way_is_better(either: interp.Model) -> None:
    tokens = stimulus(model=either)
    effects = circuits.head_effects(either, tokens, progress=False)
    assert effects.unit == "change in log-probability (nats)"
    assert effects.provenance["metric"] == "log_prob"
    assert effects.provenance["higher_is_better"] is True

    def loss(logits: Tensor) -> Tensor:
        """The same number with its sign turned: low is good."""
        return -logits[:, -1].log_softmax(-1).gather(1, tokens.continuation[:, None])[:, 0]

    loss.unit, loss.higher_is_better = "nats", False  # type: ignore[attr-defined]
    turned = circuits.head_effects(either, tokens, metric=loss, progress=False)
    assert turned.unit == "change in loss (nats)"
    close(turned.values, -effects.values, of=8, terms=FORWARD)
    assert [h.address for h in turned.helpful.heads()][:2] == [h.address for h in effects.helpful.heads()][:2]
    close(turned.control.values, effects.control.values, of=8, terms=FORWARD)
    assert circuits.layer_effects(either, tokens, metric=loss, progress=False).provenance["metric"] == "loss"


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (3, "circuits.log_prob"),
        (lambda logits: logits[:, 0, 5], "at the query alone"),  # pyright: ignore[reportUnknownLambdaType]
        (lambda logits: logits[:, -1, :2], r"gave \[5, 2\] for 5 rows"),  # pyright: ignore[reportUnknownLambdaType]
        (lambda logits: 0.5, "one number per row"),  # pyright: ignore[reportUnknownLambdaType]
        (circuits.log_prob(5, position=0), "Leave position out"),
        (circuits.log_prob([5, 6]), "2 target tokens and the batch 5 rows"),
    ],
)
def test_what_is_no_metric(either: interp.Model, metric: Any, says: str) -> None:
    tokens = stimulus(model=either)
    for experiment in ABLATIONS:
        with pytest.raises(InvalidInput, match=says):
            experiment(either, tokens, metric)


def test_a_metric_that_is_better_neither_high_nor_low() -> None:
    model = interp.load("pico-t5")
    tokens = probes.repeated_random_tokens(batch_size=3, seed=1)
    metric = circuits.expected_value(model)
    effects = circuits.head_effects(model, tokens, metric=metric, progress=False)
    assert effects.provenance["higher_is_better"] is None
    with torch.no_grad():
        clean = metric(model.module(**model.inputs(tokens)).logits)
        with interp.ablate(model, "decoder.cross.1.0"):
            ablated = metric(model.module(**model.inputs(tokens)).logits)
    close(effects.rows[1, 0], (ablated - clean).double().numpy(), of=15, terms=FORWARD)
