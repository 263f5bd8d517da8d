"""The Chronos-Bolt planted by hand: what it does on patches of signs is worked out on paper."""

import numpy as np
import pytest
import torch

import interp
import probes
from interp import zoo
from interp.inputs.batch import ValueBatch
from interp.zoo.planted_bolt import INDUCTION, LEVELS, PREVIOUS_PATCH, READER, SHARP, SPREAD

PATCHES, AFTER = 6, (2, 8, 14)
"""Six patches come three times, and two of them once more: the third follows, after three earlier occurrences."""


@pytest.fixture(scope="module")
def plant() -> zoo.Planted:
    return zoo.planted_patches()


@pytest.fixture(scope="module")
def cut() -> zoo.Planted:
    return zoo.planted_patches(wired=False)


def signs() -> tuple[np.ndarray, np.ndarray]:
    """Patches of eight values up and eight down, repeated, and those that follow: mean 0, deviation 1."""
    rng = np.random.default_rng(0)
    cycle = rng.permuted(np.tile(np.repeat([1.0, -1.0], 8), (12, PATCHES, 1)), axis=-1)
    return np.concatenate([cycle, cycle, cycle, cycle[:, :2]], axis=1).reshape(12, -1), cycle[:, 2]


def read(model: interp.Model, *sites: str) -> list[torch.Tensor]:
    batch = interp.Batch.from_series(model, signs()[0])
    cache = interp.capture(model, batch, list(sites))
    return [cache[site] for site in sites]


def test_scores_and_attention_are_those_on_paper(plant: zoo.Planted) -> None:
    first, scores, pattern, reading = read(
        plant.model,
        "encoder.self.0.pattern",
        "encoder.self.1.scores",
        "encoder.self.1.pattern",
        "decoder.cross.0.pattern",
    )
    reg = first.shape[-1] - 1
    assert first[:, PREVIOUS_PATCH.head].diagonal(-1, 1, 2).min() > 0.999
    at_reg = scores[:, INDUCTION.head, reg]
    assert at_reg[:, list(AFTER)].sub(SHARP).abs().max() < 0.3
    assert at_reg[:, reg].sub(-3 * SHARP).abs().max() < 0.3
    # Another patch of signs agrees in at most 14 of 16 values: its score is at most 12/16 of a match's.
    others = [place for place in range(1, reg) if place not in AFTER]
    assert at_reg[:, others].max() < SHARP * 12 / 16 + 0.3
    assert pattern[:, INDUCTION.head, reg, list(AFTER)].sub(1 / 3).abs().max() < 1e-3
    assert reading[:, READER.head, 0, reg].min() > 0.999


def test_the_median_is_the_patch_that_follows(plant: zoo.Planted, cut: zoo.Planted) -> None:
    (quantiles,) = read(plant.model, "decoder.quantiles")
    follows = torch.from_numpy(signs()[1]).float()
    assert (quantiles[:, 4] - follows).abs().max() < 0.02
    apart = torch.arange(len(LEVELS)).sub(4).mul(SPREAD)
    assert (quantiles - quantiles[:, 4:5] - apart[:, None]).abs().max() < 1e-4
    (quantiles,) = read(cut.model, "decoder.quantiles")
    assert (quantiles[:, 4] - follows).abs().mean() > 0.5
    assert cut.edges == cut.circuit == ()


@pytest.mark.parametrize("head", [str(PREVIOUS_PATCH), str(INDUCTION), str(READER)])
def test_each_head_is_needed(plant: zoo.Planted, head: str) -> None:
    follows = torch.from_numpy(signs()[1]).float()
    with interp.ablate(plant.model, head):
        (quantiles,) = read(plant.model, "decoder.quantiles")
    assert (quantiles[:, 4] - follows).abs().mean() > 0.5
    with interp.ablate(plant.model, "encoder.self.1.0"):
        (quantiles,) = read(plant.model, "decoder.quantiles")
    assert (quantiles[:, 4] - follows).abs().max() < 0.02


def test_its_mosaic_and_controls(plant: zoo.Planted, cut: zoo.Planted) -> None:
    """Values of any size are matched too; what decides is the repetition, and the mosaic finds one head, at [REG]."""
    found = {}
    for name, model in (("wired", plant.model), ("cut", cut.model)):
        batch = probes.repeated_random_patches(model, patches=PATCHES, repetitions=3, extension=2, batch_size=12)
        found[name] = probes.induction_mosaic(model, batch)
    wired = found["wired"]
    layer, head = INDUCTION.layer, INDUCTION.head
    assert wired["reg"].token_to_right.values[layer, head] == pytest.approx(1 / 3, abs=0.01)
    assert wired["reg"].right_by_occurrence is not None
    assert wired["reg"].right_by_occurrence[layer, head].sum() == pytest.approx(1, abs=0.02)
    assert [str(one.address) for one in wired["reg"].heads(0.3)] == [str(INDUCTION)]
    assert not wired["decoder"].heads(0.3)
    for control in ("unrepeated", "off_patch", "shuffled"):
        assert wired.mosaics[control]["reg"].token_to_right.values[layer, head] < 0.2, control
    assert wired.losses["repeated"].mean() < wired.losses["unrepeated"].mean() / 3
    assert found["cut"].losses["repeated"].mean() > found["cut"].losses["unrepeated"].mean() / 2
    assert not found["cut"]["reg"].heads(0.3)


def test_plain_chronos_runs_it(plant: zoo.Planted) -> None:
    values, follows = signs()
    forecast = plant.model.pipeline.predict(torch.from_numpy(values).float(), prediction_length=16)
    assert (forecast[:, 4] - torch.from_numpy(follows).float()).abs().max() < 0.02
    assert isinstance(interp.Batch.from_series(plant.model, values), ValueBatch)
    with pytest.raises(interp.errors.InvalidInput, match="seed"):
        zoo.planted_patches(seed=-1)
