"""The bundled Chronos-Bolt: what it promises and its card says, and what a recipe means for its architecture."""

import hashlib
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting

import interp
import probes
from interp import zoo
from interp.zoo.made_series import patch_motifs
from interp.zoo.monitor import patch_snapshot
from interp.zoo.recipe import FEW_COEFFICIENTS, PATCH, PATCH_HORIZON, Recipe, batch
from interp.zoo.training import train
from probes.induction.patch_mosaic import PatchMosaic
from tests.interp.zoo.test_zoo_t5 import TINY_BOLT
from tests.tolerance import BUNDLED, close


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.load("pico-bolt")


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads((zoo.path("pico-bolt") / "training.json").read_text())


@pytest.fixture(scope="module")
def card() -> str:
    return (zoo.path("pico-bolt") / "README.md").read_text()


@pytest.fixture(scope="module")
def mosaics(model: interp.Model) -> dict[int | None, PatchMosaic]:
    return {
        count: probes.induction_mosaic(model, probes.repeated_random_patches(model, coefficients=count))
        for count in (3, None)
    }


def test_it_is_small() -> None:
    assert (zoo.path("pico-bolt") / "model.safetensors").stat().st_size <= 4_000_000


def test_repeated_patches_are_continued(mosaics: dict[int | None, PatchMosaic], card: str) -> None:
    """The median's loss on the two patches that follow is at most a third of what it is where nothing repeats."""
    for count, mosaic in mosaics.items():
        repeated, unrepeated = (mosaic.distances[name].mean() / 2 for name in ("repeated", "unrepeated"))
        words = "16 independent values" if count is None else f"{count} coefficients"
        cells = [f"{mosaic.distances[name].mean() / 2:.3f}" for name in mosaic.distances]
        assert f"| {words} | {' | '.join(cells)} |" in card
        if count == FEW_COEFFICIENTS:
            assert repeated <= unrepeated / 3


def test_it_has_induction_heads_above_their_controls(mosaics: dict[int | None, PatchMosaic], card: str) -> None:
    mosaic = mosaics[FEW_COEFFICIENTS]
    frame = mosaic.to_frame()
    heads = frame[frame["either"] >= 0.3]
    assert len(heads) >= 3
    assert (heads[["unrepeated", "off_patch"]].max(axis=1) < heads["either"] / 2).mean() > 0.8
    for query in ("decoder", "reg", "last_patch"):
        counts = mosaic[query].counts(0.3)
        named = {"decoder": "decoder", "reg": "[REG]", "last_patch": "last patch"}[query]
        assert f"| {named} | {counts.current_token} | {counts.token_to_right} | {counts.n_heads} |" in card


def test_the_monitor_and_the_instrument_agree(model: interp.Model, record: dict[str, Any]) -> None:
    """Two ways to the same numbers: hook points, and Hugging Face's output_attentions while training."""
    shots = record["snapshots"]
    assert 18 <= len(shots) <= 26
    now = patch_snapshot(model.module)  # type: ignore[arg-type]
    for name, value in now.items():
        np.testing.assert_allclose(value, shots[-1][name], atol=1e-3, err_msg=name)
    # The monitor's own patches, read by the toolkit.
    values = patch_motifs(np.random.default_rng(0), np.full(100, 5), np.full(100, FEW_COEFFICIENTS), 14, PATCH)
    context = interp.Batch.from_series(model, values[:, : 12 * PATCH])
    cache = interp.capture(model, context, ["encoder.self.*.pattern", "decoder.cross.*.pattern", "decoder.quantiles"])
    for prefix, kind, query in (("reg_", "encoder.self", 12), ("", "decoder.cross", 0)):
        paid = torch.stack([cache[f"{layer}.pattern"][:, :, query].mean(0) for layer in model.layers(kind)])
        close(now[f"{prefix}token_to_right"], paid[..., [2, 7]].sum(-1), of=1, terms=BUNDLED)
        close(now[f"{prefix}current_token"], paid[..., [1, 6]].sum(-1), of=1, terms=BUNDLED)
    truth = torch.from_numpy(values[:, 12 * PATCH :])
    deviation = torch.from_numpy(values[:, : 12 * PATCH]).std(1, correction=0, keepdim=True)
    apart = (cache["decoder.quantiles"][:, 4, : 2 * PATCH] - truth).abs() / 2 / deviation
    close(now["pinball"], float(apart.mean()), of=1, terms=BUNDLED)


def test_its_heads_carry_the_copying(model: interp.Model, card: str) -> None:
    """Without the induction heads, chosen on other patches, the loss is many times as high; controls cost less."""
    chosen = probes.induction_mosaic(model, probes.repeated_random_patches(model, coefficients=3)).heads(0.3)
    stimulus = probes.repeated_random_patches(model, coefficients=3, seed=1)
    heads = [head.address for head in chosen]

    def distance(ablated: list[Any]) -> float:
        with interp.ablate(model, ablated) if ablated else nullcontext():
            return float(probes.induction_mosaic(model, stimulus).distances["repeated"].mean()) / 2

    whole, without = distance([]), distance(heads)
    assert f"Without the {len(heads)} heads" in card
    assert f"from {whole:.3f} to {without:.3f}" in card
    assert without > 10 * whole
    for head in ("encoder.self.0.7", "encoder.self.0.5"):
        assert re.search(rf"\| `{head}`, one patch \w+ \| {distance([head]):.3f} \|", card)
    others = [head for kind in ("encoder.self", "decoder.cross") for head in model.heads(kind) if head not in heads]
    others.remove(model.head("encoder.self.0.7"))  # which alone costs half of it
    rng = np.random.default_rng(0)
    costs = [distance([others[i] for i in rng.choice(len(others), len(heads), replace=False)]) for _ in range(5)]
    assert f"| {min(costs):.3f} to {max(costs):.3f} |" in card
    assert max(costs) < without


def test_the_card_names_the_phase_change(record: dict[str, Any], card: str) -> None:
    shots = {f"{shot['step']:,}": shot for shot in record["snapshots"]}
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", card, re.M)
    assert len(rows) >= 8
    for step, *cells in rows:
        shot = shots[step]
        wanted = [shot["pinball"], shot["pinball_unrepeated"]]
        wanted += [np.max(shot["token_to_right"]), np.max(shot["reg_token_to_right"])]
        assert [float(cell) for cell in cells] == pytest.approx(wanted, abs=0.0051), step


def test_the_first_batch_is_the_one_that_was_trained_on(record: dict[str, Any]) -> None:
    recipe = Recipe.parse(json.dumps(record), {})
    context, target = batch(recipe, 0)
    rounded = b"".join(part.mul(1000).round().numpy().astype("<i8").tobytes() for part in (context, target))
    assert hashlib.sha256(rounded).hexdigest()[:16] == "268a071970c71ead"


@pytest.mark.parametrize("step", [0, 3, 4, 8])
def test_a_batch_is_values_and_what_follows(step: int) -> None:
    context, target = batch(TINY_BOLT, step)
    again = batch(TINY_BOLT, step)
    assert torch.equal(context.nan_to_num(), again[0].nan_to_num())
    assert torch.equal(target, again[1])
    assert target.shape == (len(context), PATCH_HORIZON)
    assert bool(target.isfinite().all())
    assert context.shape[1] <= TINY_BOLT.longest_context
    # Shorter rows are filled up on the left only.
    missing = context.isnan()
    assert bool((missing[:, 1:] <= missing[:, :-1]).all())
    if step < TINY_BOLT.motif_steps:
        assert context.shape[1] % PATCH == 0
        row = torch.cat([context, target], 1)
        periods = [next(n for n in range(3, 5) if bool((one[n * PATCH :] == one[: -n * PATCH]).all())) for one in row]
        assert set(periods) <= {3, 4}
        patches = row.unflatten(1, (-1, PATCH)).double()
        t = torch.linspace(-1, 1, PATCH, dtype=torch.float64)
        design = torch.stack([t**k for k in range(FEW_COEFFICIENTS)], 1)
        left = patches - (patches @ torch.linalg.pinv(design).T) @ design.T
        size = float(patches.abs().max())
        close(left, 0.0, "a patch of the motifs is a polynomial of three coefficients", of=size, terms=PATCH)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "chronos2"},
        {"next_token_heads": 1},
        {"anywhere": 0.5},
        {"motif_context": 17},
        {"motif_context": 15},
        {"longest_period": 2},
    ],
)
def test_recipes_that_make_no_sense_for_it(changes: dict[str, Any]) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=next(iter(changes))):
        replace(TINY_BOLT, **changes)


def test_late_heads_are_closed_while_motifs_are_learned(tmp_path: Any) -> None:
    for steps, written in ((4, False), (9, True)):
        out = train(replace(TINY_BOLT, steps=steps), tmp_path / str(steps), workers=0, progress=False)
        module = ChronosBoltModelForForecasting.from_pretrained(out)
        weight = module.get_parameter("encoder.block.1.layer.0.SelfAttention.o.weight")
        assert bool(weight[:, TINY_BOLT.d_kv :].any()) is written
        assert bool(weight[:, : TINY_BOLT.d_kv].all())
