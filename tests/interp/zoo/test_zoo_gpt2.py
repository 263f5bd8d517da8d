"""The bundled decoder-only model through plain Hugging Face, and what a recipe means for its architecture."""

import json
import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from chronos import BaseChronosPipeline, ChronosPipeline
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

import interp
from interp import zoo
from interp.zoo.made_series import NARROW
from interp.zoo.monitor import causal_snapshot
from interp.zoo.recipe import HORIZON, Recipe, batch
from interp.zoo.training import train
from tests.interp.zoo.test_zoo_t5 import GPT2S, TINY_GPT2
from tests.tolerance import BUNDLED, close

NATS = math.log(NARROW[1] - NARROW[0] + 1)
"""What a random token of the narrow range costs at best: ln 277."""


@pytest.fixture(scope="module", params=GPT2S)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def record(name: str) -> dict[str, Any]:
    return json.loads((zoo.path(name) / "training.json").read_text())


@pytest.fixture(scope="module")
def card(name: str) -> str:
    return (zoo.path(name) / "README.md").read_text()


def table(card: str, head: str) -> dict[str, list[float]]:
    """The card's table whose first column is headed so: numbers by the first cell of the row."""
    lines = card.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |"))
    found: dict[str, list[float]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        found[first.split()[0].strip("`")] = [float(cell.replace(",", "")) for cell in others]
    return found


@pytest.fixture(scope="module")
def module(name: str) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(zoo.path(name), attn_implementation="eager").eval()


def halves(seed: int, rows: int, length: int, *, again: bool = True) -> Tensor:
    """Random narrow tokens given twice, or, as the control, followed by as many others."""
    rng = np.random.default_rng(seed)
    first, other = rng.integers(NARROW[0], NARROW[1] + 1, (2, rows, length))
    return torch.from_numpy(np.concatenate([first, first if again else other], axis=1))


@torch.no_grad()
def lost(module: GPT2LMHeadModel, ids: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Cross-entropy in nats of the token at each position but the first, mean over rows, in float64."""
    paid: list[Tensor] = []
    for some in ids.split(20):
        logits = module(some).logits[:, :-1].double()
        paid.append(logits.logsumexp(-1) - logits.gather(-1, some[:, 1:, None])[..., 0])
    return torch.cat(paid).mean(0).numpy()


@dataclass(frozen=True)
class Scores:
    """Mean attention `[layer, head]` one back, and one place right of the earlier occurrence."""

    previous: np.ndarray[Any, np.dtype[np.float64]]
    induction: np.ndarray[Any, np.dtype[np.float64]]


@torch.no_grad()
def scores(module: GPT2LMHeadModel, ids: Tensor, length: int) -> Scores:
    """By loops over the queries, from Hugging Face's own attention."""
    paid = torch.stack(module(ids, output_attentions=True).attentions).double().mean(1).numpy()
    return Scores(
        np.mean([paid[:, :, i, i - 1] for i in range(1, 2 * length)], axis=0),
        np.mean([paid[:, :, i, i - (length - 1)] for i in range(length, 2 * length)], axis=0),
    )


@contextmanager
def silenced(module: GPT2LMHeadModel, heads: list[tuple[int, int]]) -> Generator[None]:
    """Heads `(layer, head)` that write nothing while this is open: their columns of z are zero."""
    size = module.config.n_embd // module.config.n_head

    def hook(layer: int) -> Any:
        def zero(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0].clone()
            for h in (h for at, h in heads if at == layer):
                z[..., h * size : (h + 1) * size] = 0
            return (z,)

        return zero

    handles = [
        block.get_submodule("attn.c_proj").register_forward_pre_hook(hook(layer))
        for layer, block in enumerate(module.transformer.h)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_its_configuration_says_what_it_is(name: str, module: GPT2LMHeadModel) -> None:
    config = module.config
    chronos = config.chronos_config
    assert (chronos["model_type"], chronos["use_eos_token"]) == ("causal", False)
    assert (config.pad_token_id, config.eos_token_id, config.vocab_size) == (0, 1, 4096)
    assert config.n_positions == chronos["context_length"] + chronos["prediction_length"]
    assert module.lm_head.weight.data_ptr() == module.transformer.wte.weight.data_ptr()
    generation = json.loads((zoo.path(name) / "generation_config.json").read_text())
    assert (generation["pad_token_id"], generation["eos_token_id"]) == (0, 1)


@pytest.mark.parametrize("length", [10, 24, 50])
def test_what_was_random_is_known_the_second_time(module: GPT2LMHeadModel, length: int) -> None:
    """Near ln 277 in the first half, at most a quarter of it in the second; nothing falls where nothing repeats."""
    by_position = lost(module, halves(3, 100, length))
    first, second = by_position[: length - 1].mean(), by_position[length:].mean()
    assert abs(first - NATS) < 0.5
    assert second < NATS / 4
    assert by_position[length - 1] > NATS - 0.5  # that the sequence begins anew cannot be known
    assert by_position[length + 3 :].max() < NATS / 2  # nor, after one token, that it does
    control = lost(module, halves(3, 100, length, again=False))
    assert control[length:].mean() > NATS - 0.5


def test_it_has_an_induction_head_after_a_previous_token_head(module: GPT2LMHeadModel) -> None:
    for length in (10, 24, 50):
        found = scores(module, halves(3, 100, length), length)
        layer = int(found.induction.max(1).argmax())
        assert found.induction[layer].max() >= 0.5
        assert found.previous[:layer].max() >= 0.5
        assert (found.induction >= 0.3).mean() <= 0.5
        control = scores(module, halves(3, 100, length, again=False), length)
        assert control.induction.max() < 0.07  # as the card says


def test_the_training_record_is_of_these_weights(module: GPT2LMHeadModel, record: dict[str, Any]) -> None:
    """The monitor's last figures, found again by loops in float64."""
    shots = record["snapshots"]
    assert 18 <= len(shots) <= 26
    assert shots[0]["accuracy"] < 0.05
    last, length = shots[-1], 24
    assert last["step"] == record["step"] == record["recipe"]["steps"]
    tokens = np.random.default_rng(0).integers(NARROW[0], NARROW[1] + 1, (100, length))
    ids = torch.from_numpy(np.concatenate([tokens, tokens], axis=1))
    by_position, found = lost(module, ids), scores(module, ids, length)
    now = causal_snapshot(module)
    close(now["first_half"], by_position[: length - 1].mean(), of=NATS, terms=BUNDLED)
    close(now["second_half"], by_position[length:].mean(), of=NATS, terms=BUNDLED)
    close(now["induction"], found.induction, of=1, terms=BUNDLED)
    close(now["previous_token"], found.previous, of=1, terms=BUNDLED)
    assert last["first_half"] == pytest.approx(by_position[: length - 1].mean(), abs=1e-3)
    assert last["second_half"] == pytest.approx(by_position[length:].mean(), abs=1e-3)
    np.testing.assert_allclose(last["induction"], found.induction, atol=1e-3)
    np.testing.assert_allclose(last["previous_token"], found.previous, atol=1e-3)
    with torch.no_grad():
        guess = module(ids).logits[:, length:-1].argmax(-1)
    close(now["accuracy"], float((guess == ids[:, length + 1 :]).double().mean()))


def test_the_first_layer_looks_one_two_and_three_back(module: GPT2LMHeadModel, card: str) -> None:
    """One head each, at every position; in the second layer all heads are induction heads, in the last none."""
    ids, written = halves(3, 100, 24), table(card, "head")
    with torch.no_grad():
        paid = torch.stack(module(ids, output_attentions=True).attentions).double().mean(1)
    found = scores(module, ids, 24).induction
    assert (found[1] >= 0.5).all()
    assert max(found[0].max(), found[2].max()) < 0.1
    for lag, head in ((1, 2), (2, 0), (3, 1)):
        back = paid[0].diagonal(-lag, dim1=-2, dim2=-1)
        assert int(back.mean(-1).argmax()) == head
        assert float(back[head].min()) >= 0.5
        assert float(back[head].mean()) >= 0.8
        found[0, head] = back[head].mean()
    for layer, head in np.ndindex(*found.shape):
        assert written[f"decoder.self.{layer}.{head}"][0] == pytest.approx(found[layer, head], abs=0.011)


def test_what_its_heads_cause(module: GPT2LMHeadModel, card: str) -> None:
    """Zero ablation: without the head that looks one back, or without layer 1, nothing is found again."""
    ids, written = halves(1, 100, 24), table(card, "head")

    def costs(heads: list[tuple[int, int]]) -> tuple[float, float]:
        with silenced(module, heads):
            by_position = lost(module, ids)
        return by_position[:23].mean(), by_position[24:].mean()

    before, whole = costs([])
    assert written["none"][-1] == pytest.approx(whole, abs=0.011)
    for layer, head in np.ndindex(3, 4):
        cost = costs([(layer, head)])[1]
        assert written[f"decoder.self.{layer}.{head}"][-1] == pytest.approx(cost, abs=0.011)
        if layer == 2:
            assert cost < whole + 0.5
        if (layer, head) == (0, 2):
            assert cost > NATS - 0.5
    _, second = costs([(1, head) for head in range(4)])
    first, last = costs([(2, head) for head in range(4)])
    assert second > NATS - 0.5
    assert (
        f"Without all four of layer 1 it costs {second:.2f}, without all four of layer 2 it costs {last:.2f} "
        f"(and the first half {first:.2f} instead of {before:.2f})." in card
    )


def matched(module: GPT2LMHeadModel, count: int) -> tuple[float, float]:
    """Accuracy and nats of a token whose `count` predecessors are given again, after ten random others."""
    rng = np.random.default_rng(5)
    before, between = rng.integers(NARROW[0], NARROW[1] + 1, (2, 200, 40))
    index = rng.integers(8, 40, 200)[:, None] + np.arange(-count, 1)
    again = np.take_along_axis(before, index, 1)
    ids = torch.from_numpy(np.concatenate([before, between[:, :10], again], 1))
    with torch.no_grad():
        logits = module(ids).logits[:, -2].double()
    wanted = ids[:, -1]
    paid = torch.nn.functional.cross_entropy(logits, wanted)
    return float((logits.argmax(-1) == wanted).double().mean()), float(paid)


def test_how_many_tokens_its_heads_match_on(module: GPT2LMHeadModel, card: str) -> None:
    written = table(card, "tokens given again")
    found = [matched(module, count) for count in range(6)]
    for count, both in enumerate(found):
        assert written[str(count)] == pytest.approx(both, abs=0.011)
    assert found[0][0] < 0.05
    assert found[1][0] < found[2][0] < found[3][0]
    assert found[3][0] > 0.5


def test_the_card_says_what_is_measured(module: GPT2LMHeadModel, card: str, record: dict[str, Any]) -> None:
    assert f"{sum(p.numel() for p in module.parameters()):,} parameters" in card
    for length, cells in table(card, "length").items():
        ids = halves(3, 100, int(length))
        by_position, found = lost(module, ids), scores(module, ids, int(length))
        control = lost(module, halves(3, 100, int(length), again=False))
        n = int(length)
        wanted = [by_position[: n - 1].mean(), by_position[n - 1], *by_position[n : n + 3], by_position[n:].mean()]
        wanted += [control[n:].mean(), found.induction.max(), found.previous.max()]
        assert cells == pytest.approx(wanted, abs=0.011), length
    shots = {f"{shot['step']:,}": shot for shot in record["snapshots"]}
    for step, cells in table(card, "step").items():
        shot = shots[step]
        wanted = [shot["loss"], shot["first_half"], shot["second_half"], shot["accuracy"]]
        wanted += [np.max(shot["induction"]), np.max(shot["previous_token"])]
        assert cells == pytest.approx(wanted, abs=0.0051), step


def test_the_forecast_of_a_short_series_does_not_depend_on_its_neighbours(name: str) -> None:
    """Left padding is masked and its positions are not counted: the first logits are those of the series alone."""
    pipeline = BaseChronosPipeline.from_pretrained(str(zoo.path(name)))
    assert isinstance(pipeline, ChronosPipeline)
    short, long = torch.sin(torch.arange(30.0)), torch.cos(torch.arange(90.0))
    both = pipeline._prepare_and_validate_context([short, long])
    first: list[Tensor] = []
    for context in (both, short[None]):
        ids, mask, _ = pipeline.tokenizer.context_input_transform(context)
        out = cast(Any, pipeline.model.model).generate(
            ids,
            attention_mask=mask,
            max_new_tokens=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        first.append(out.logits[0][0])
    torch.testing.assert_close(first[0], first[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("step", [0, 3, 4, 8])
def test_rows_go_on_with_nothing_between(step: int) -> None:
    """A GPT-2's row is the context and the labels of a T5 that drew the same, in one."""
    ids, labels = batch(TINY_GPT2, step)
    assert torch.equal(ids, labels)
    assert bool((ids > 1).all())
    assert torch.equal(ids, batch(TINY_GPT2, step)[0])
    if step < TINY_GPT2.motif_steps:
        encoder, after = batch(replace(TINY_GPT2, architecture="t5"), step)
        assert torch.equal(ids, torch.cat([encoder[:, :-1], after], 1))


def test_every_position_is_learned() -> None:
    """Rows reach the last position and no further; motifs have periods up to the recipe's longest."""
    recipe = replace(TINY_GPT2, rows=1, motif_rows=1, steps=3000, mix={"walks": 1.0})
    lengths = {batch(recipe, step)[0].shape[1] for step in range(2000)}
    assert max(lengths) == recipe.longest_context + HORIZON
    assert min(lengths) >= 24
    rows = batch(replace(recipe, motif_rows=400, motif_context=56), 0)[0]
    periods = {next(p for p in range(3, 21) if bool((row[p:] == row[:-p]).all())) for row in rows}
    assert periods == set(range(3, 21))


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "bert"},
        {"next_token_heads": 1},
        {"previous_token_heads": 1},
        {"anywhere": 0.5},
        {"d_kv": 5},
        {"motif_context": 57},
        {"motif_context": 15},
        {"longest_period": 2},
    ],
)
def test_recipes_that_make_no_sense_for_it(changes: dict[str, Any]) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=next(iter(changes))):
        replace(TINY_GPT2, **changes)


def test_late_heads_are_closed_while_motifs_are_learned(tmp_path: Path) -> None:
    for steps, written in ((4, False), (9, True)):
        out = train(replace(TINY_GPT2, steps=steps), tmp_path / str(steps), workers=0, progress=False)
        for block in GPT2LMHeadModel.from_pretrained(out).transformer.h:
            weight = block.get_submodule("attn.c_proj").weight
            assert isinstance(weight, Tensor)
            assert bool(weight[: TINY_GPT2.d_kv].all())
            assert bool(weight[TINY_GPT2.d_kv :].any()) is written


def test_what_was_trained_opens_as_a_causal_chronos_model(tmp_path: Path) -> None:
    out = train(TINY_GPT2, tmp_path / "m", workers=0, progress=False)
    assert Recipe.parse((out / "training.json").read_text(), {}) == TINY_GPT2
    pipeline = BaseChronosPipeline.from_pretrained(str(out))
    assert isinstance(pipeline, ChronosPipeline)
    assert pipeline.predict(torch.arange(60.0), prediction_length=30, num_samples=3).shape == (1, 3, 30)
