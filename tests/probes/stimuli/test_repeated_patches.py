"""Repeated random patches: what repeats, what follows, and what each control takes away."""

from typing import Any

import numpy as np
import pytest
import torch

import interp
import probes
from interp.errors import InvalidInput, MissingCapability
from probes.stimuli.repeated_patches import CONTROLS, RepeatedPatches
from tests.conftest import tiny_bolt, tiny_pipeline
from tests.tolerance import close


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.wrap(tiny_bolt(context_length=160), name="tiny-bolt")


def cut(batch: RepeatedPatches) -> torch.Tensor:
    return batch.values.unflatten(1, (-1, 8))


SETTINGS: list[dict[str, Any]] = [
    {},
    {"extension": 0},
    {"repetitions": 1, "extension": 3},
    {"patches": 3, "repetitions": 4, "extension": 1, "coefficients": 3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_last_patch_came_before_and_what_followed_it_follows(model: interp.Model, settings: dict[str, Any]) -> None:
    batch = probes.repeated_random_patches(model, batch_size=5, **settings)
    patches, n = cut(batch), settings.get("patches", 5)
    repetitions, extension = settings.get("repetitions", 2), settings.get("extension", 2)
    assert batch.n_patches == n * repetitions + extension == batch.last + 1
    assert batch.length("encoder") == batch.n_patches + 1
    assert len(batch.occurrences) == (repetitions if extension else repetitions - 1)
    for place in batch.occurrences:
        assert torch.equal(patches[:, place], patches[:, batch.last])
        assert torch.equal(patches[:, place + 1], batch.continuation[:, :8])
    assert batch.continuation.shape == (5, 12)  # two patches, as far as one pass forecasts
    others = [place for place in range(batch.last) if place not in batch.occurrences]
    assert not any(bool((patches[:, place] == patches[:, batch.last]).all(1).any()) for place in others)


def test_seeds(model: interp.Model) -> None:
    one, again, other = (probes.repeated_random_patches(model, batch_size=4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.values, again.values)
    assert not torch.equal(one.values, other.values)
    assert one.parameters["seed"] == 3
    assert one.description["name"] == "repeated_random_patches"
    assert repr(one).startswith("RepeatedPatches(4 series of 96 steps")


def test_patches_of_few_coefficients(model: interp.Model) -> None:
    for count in (1, 2, 3, 8):
        batch = probes.repeated_random_patches(model, batch_size=300, coefficients=count)
        patches = cut(batch)[:, :5].reshape(-1, 8).double().numpy()
        assert np.linalg.matrix_rank(patches, tol=1e-3) == count
        assert abs(float(patches.var()) - 1) < 0.15
    levels = cut(probes.repeated_random_patches(model, batch_size=3, coefficients=1))
    close(levels, levels[..., :1].expand_as(levels), "one coefficient is a level")


def test_repetitions_at_other_levels(model: interp.Model) -> None:
    plain = cut(probes.repeated_random_patches(model, batch_size=3))
    shifted = probes.repeated_random_patches(model, batch_size=3, shift=2.5)
    steps = torch.arange(12) // 5 * 2.5
    close(cut(shifted), plain + steps[:, None], of=10.0)
    close(shifted.continuation[:, :8], plain[:, 2] + 5.0, of=10.0)


def test_controls(model: interp.Model) -> None:
    batch = probes.repeated_random_patches(model, batch_size=6)
    controls, own = batch.controls(), cut(batch)
    assert tuple(controls) == CONTROLS
    for name, control in controls.items():
        assert control.values.shape == batch.values.shape
        assert (control.occurrences, control.last) == (batch.occurrences, batch.last)
        assert control.parameters["control"] == name
        assert control.continuation.shape == batch.continuation.shape
        patches = cut(control)
        for place in control.occurrences:
            assert not bool((patches[:, place] == patches[:, control.last]).all(1).any()), name
    everything = cut(controls["unrepeated"]).reshape(6, -1)
    assert all(len(set(row.tolist())) == everything.shape[1] for row in everything)
    off = controls["off_patch"].values
    assert torch.equal(off[:, :53], off[:, 43:])  # a period of five patches and three eighths
    shifted = cut(controls["shifted"])
    close(shifted, own + (torch.arange(12) // 5)[:, None], of=10.0)
    shuffled = cut(controls["shuffled"])
    assert torch.equal(shuffled.sort(-1).values, own.sort(-1).values)
    assert torch.equal(shuffled[:, 10:], own[:, 10:])
    assert torch.equal(controls["shuffled"].continuation, batch.continuation)


def test_a_period_of_no_whole_patch_has_none_after_several_periods_either(model: interp.Model) -> None:
    """With half a patch more, every second period would be a whole number of patches."""
    batch = probes.repeated_random_patches(model, patches=3, repetitions=5, extension=2, batch_size=4)
    patches = cut(batch.controls()["off_patch"])
    pairs = [(i, j) for i in range(patches.shape[1]) for j in range(i)]
    assert not any(bool((patches[:, i] == patches[:, j]).all(1).any()) for i, j in pairs)


def test_alternatives(model: interp.Model) -> None:
    batch = probes.repeated_random_patches(model, batch_size=3)
    patches = cut(batch)
    assert torch.equal(batch.alternatives, torch.stack([patches[:, i] for i in (2, 3, 4, 0, 1)], 1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patches": 1}, "at least 2"),
        ({"extension": 5}, "leaves none to go on with"),
        ({"repetitions": 1, "extension": 0}, "repeats nothing"),
        ({"coefficients": 9}, "a patch has 8 values"),
        ({"coefficients": 0}, "at least 1"),
        ({"patches": 12}, "26 patches are 208 steps, and the model sees 160"),
        ({"shift": float("nan")}, "must be a number"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_what_is_refused(model: interp.Model, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        probes.repeated_random_patches(model, **settings)


def test_a_model_of_tokens() -> None:
    with pytest.raises(MissingCapability, match="no patches and no quantiles"):
        probes.repeated_random_patches(interp.wrap(tiny_pipeline()))
