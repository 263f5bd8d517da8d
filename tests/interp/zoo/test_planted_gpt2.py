"""The decoder-only model planted by hand: what it does is worked out on paper."""

import pytest
import torch

import interp
import probes
from interp import zoo
from interp.zoo.planted_gpt2 import INDUCTION, PREVIOUS_TOKEN, SHARP
from probes.stimuli.repeated_tokens import RepeatedTokens


@pytest.fixture(scope="module")
def plant() -> zoo.Planted:
    return zoo.planted_decoder()


@pytest.fixture(scope="module")
def stimulus() -> RepeatedTokens:
    return probes.repeated_random_tokens(encoder=False, batch_size=12, sequence_length=8, unique=True)


def _read(model: interp.Model, batch: interp.Batch, *sites: str) -> list[torch.Tensor]:
    cache = interp.capture(model, batch, list(sites))
    return [cache[site] for site in sites]


def test_scores_are_those_on_paper(plant: zoo.Planted, stimulus: RepeatedTokens) -> None:
    """Of the stream's squares the position has one half in layer 0; in layer 1 tokens have 1 / 2.5, copies 1 / 5."""
    first, second = _read(plant.model, stimulus, "decoder.self.0.scores", "decoder.self.1.scores")
    back = first[:, PREVIOUS_TOKEN.head].diagonal(-1, 1, 2)
    assert back.sub(SHARP / 2).abs().max() < 1e-3
    found = second[:, INDUCTION.head, stimulus.query, [place + 1 for place in stimulus.occurrences]]
    assert found.sub(SHARP * (1 / 2.5 * 1 / 5) ** 0.5).abs().max() < 0.05


def test_the_circuit_and_its_control(plant: zoo.Planted, stimulus: RepeatedTokens) -> None:
    """Two occurrences share the attention, and the continuation is predicted; without the wire neither."""
    after = [place + 1 for place in stimulus.occurrences]
    previous, induction, logits = _read(
        plant.model, stimulus, "decoder.self.0.pattern", "decoder.self.1.pattern", "decoder.logits"
    )
    assert previous[:, PREVIOUS_TOKEN.head].diagonal(-1, 1, 2).min() > 0.999
    assert induction[:, INDUCTION.head, stimulus.query, after].sub(0.5).abs().max() < 0.02
    assert bool((logits[:, stimulus.query].argmax(-1) == stimulus.continuation).all())
    cut = zoo.planted_decoder(wired=False)
    previous, induction, logits = _read(
        cut.model, stimulus, "decoder.self.0.pattern", "decoder.self.1.pattern", "decoder.logits"
    )
    assert previous[:, PREVIOUS_TOKEN.head].diagonal(-1, 1, 2).min() > 0.999
    assert induction[:, INDUCTION.head, stimulus.query, after].max() < 0.1
    assert not bool((logits[:, stimulus.query].argmax(-1) == stimulus.continuation).any())
    assert cut.edges == cut.circuit == ()


@pytest.mark.parametrize("head", [str(PREVIOUS_TOKEN), str(INDUCTION)])
def test_either_head_is_needed(plant: zoo.Planted, stimulus: RepeatedTokens, head: str) -> None:
    with interp.ablate(plant.model, head):
        (logits,) = _read(plant.model, stimulus, "decoder.logits")
    assert not bool((logits[:, stimulus.query].argmax(-1) == stimulus.continuation).any())
    with interp.ablate(plant.model, "decoder.self.0.3"):
        (logits,) = _read(plant.model, stimulus, "decoder.logits")
    assert bool((logits[:, stimulus.query].argmax(-1) == stimulus.continuation).all())


def test_plain_chronos_runs_it(plant: zoo.Planted) -> None:
    forecast = plant.model.pipeline.predict(torch.sin(torch.arange(40.0)), prediction_length=3, num_samples=2)
    assert forecast.shape == (1, 2, 3)
    with pytest.raises(interp.errors.InvalidInput, match="seed"):
        zoo.planted_decoder(seed=-1)


def test_a_kind_that_is_none_says_what_there_is(plant: zoo.Planted) -> None:
    """Kinds that only an encoder-decoder has are not offered; a batch is asked for where a tensor is given."""
    with pytest.raises(interp.errors.UnknownSite, match=r"attention is decoder\.self") as caught:
        plant.model.heads("self")
    assert "encoder.self" not in str(caught.value)
    with pytest.raises(interp.errors.InvalidInput, match="decoder_input_ids=ids"):
        plant.model.check(torch.zeros(1, 3))  # type: ignore[arg-type]
