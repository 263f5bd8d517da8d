"""What heads do to patches: dense formulas in float64, heads that were built to match and to copy, and chance."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import circuits
import interp
import probes
from circuits.weights.patch_circuit import PatchCircuit, patch_circuit
from interp import Batch
from interp.errors import InvalidInput, MissingCapability, UnknownHead
from tests.conftest import tiny_bolt, tiny_pipeline, values_with_gaps
from tests.interp.models.test_head_weights import rms, scaled
from tests.tolerance import FORWARD, LAYER, close


@pytest.fixture(scope="module")
def model() -> interp.Model:
    """In float64, norms away from one."""
    return scaled(interp.wrap(tiny_bolt(dtype=torch.float64), name="tiny-bolt"))


def embedded(module: Any, values: Tensor) -> Tensor:
    """Patches through the residual MLP, by plain formulas: `[row, patch, d_model]` of whole patches."""
    size = module.chronos_config.input_patch_size
    mean = values.nanmean(1, keepdim=True)
    deviation = (values - mean).square().nanmean(1, keepdim=True).sqrt()
    patches = ((values - mean) / deviation).double().unflatten(1, (-1, size))
    x = torch.cat([patches.nan_to_num(), (~patches.isnan()).double()], -1)
    mlp = module.input_patch_embedding
    hidden = (x @ mlp.hidden_layer.weight.T + mlp.hidden_layer.bias).relu()
    straight = x @ mlp.residual_layer.weight.T + mlp.residual_layer.bias
    return hidden @ mlp.output_layer.weight.T + mlp.output_layer.bias + straight


def random_patches(module: Any, count: int, seed: int) -> Tensor:
    """As documented: independent values, eight patches in a series."""
    values = np.random.default_rng(seed).standard_normal((-(-count // 8), 64))
    return embedded(module, torch.from_numpy(values).float()).flatten(0, 1)[:count]


def dense(model: interp.Model, address: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scores `[query, key]`, and cosines `[attended, patch]`, from Hugging Face's own tensors."""
    head, module = interp.Head.parse(address), model.module
    block = getattr(module, head.stack).block[head.layer]
    layer = block.layer[1 if head.kind == "cross" else 0]
    attention = layer.EncDecAttention if head.kind == "cross" else layer.SelfAttention
    query_norm = layer.layer_norm.weight
    key_norm = module.encoder.final_layer_norm.weight if head.kind == "cross" else query_norm
    own = slice(8 * head.head, 8 * head.head + 8)
    q = (rms(x) * query_norm) @ attention.q.weight[own].T
    k = (rms(x) * key_norm) @ attention.k.weight[own].T
    written = (rms(x) * key_norm) @ attention.v.weight[own].T @ attention.o.weight[:, own].T
    a, b = written - written.mean(0), x - x.mean(0)
    return q @ k.T, a @ b.T / a.norm(dim=1)[:, None] / b.norm(dim=1)


@torch.no_grad()
@pytest.mark.parametrize("address", ["encoder.self.0.1", "encoder.self.2.0", "decoder.cross.1.2", "decoder.cross.0.0"])
def test_maps_equal_the_dense_formula(model: interp.Model, address: str) -> None:
    found = patch_circuit(model, address, patches=20, seed=3)
    x = random_patches(model.module, 20, 3)
    scores, cosines = dense(model, address, x)
    close(found.cosines, cosines, terms=FORWARD)  # the series are standardised in float32
    if address.startswith("decoder.cross.0"):
        assert found.scores is None
        assert "its query takes nothing of the input" in repr(found)
        assert list(found.summary()["circuit"]) == ["copying"]
        return
    assert found.scores is not None
    close(found.scores, scores, terms=FORWARD)
    own = found.to_frame()
    for name, cells in (("matching", scores.numpy()), ("copying", cosines.numpy())):
        for patch in range(20):
            others = np.delete(cells[patch], patch)
            assert own[f"{name}_rank"][patch] == 1 + (others > cells[patch, patch]).sum()
            z = (cells[patch, patch] - others.mean()) / others.std()
            close(own[f"{name}_z"][patch], z, of=max(1, abs(z)) * 10, terms=FORWARD)
        row = found.summary().set_index("circuit").loc[name]
        assert row["first"] == (cells.argmax(1) == np.arange(20)).mean()
        assert row["chance"] == 1 / 20
        assert row["chance_rank"] == 10.5
        close(row["rank"], own[f"{name}_rank"].mean())


@torch.no_grad()
def test_the_first_layers_map_is_its_scores_beside_the_position_bias(model: interp.Model) -> None:
    batch = probes.repeated_random_patches(model, batch_size=2, patches=5, repetitions=1, extension=1)
    cache = interp.capture(model, batch, "encoder.self.0.scores")["encoder.self.0.scores"]
    found = patch_circuit(model, "encoder.self.0.2", patches=batch.rows(torch.tensor([1])))
    bias = interp.position_bias(model, "encoder.self", range(-5, 6)).values[2]
    for query in range(6):
        for key in range(6):
            own = found.scores[query, key] + bias[key - query + 5]  # type: ignore[index]
            close(own, cache[1, 2, query, key], of=float(cache.abs().max()), terms=LAYER)


@torch.no_grad()
def test_patches_of_a_batch_are_its_own(model: interp.Model) -> None:
    """Those with a value: a patch that is missing, and [REG], are none."""
    values = values_with_gaps()
    found = patch_circuit(model, "encoder.self.1.1", patches=Batch.from_series(model, values))
    padded = torch.nn.functional.pad(values, (3, 0), value=torch.nan)
    there = ~padded.unflatten(1, (-1, 8)).isnan().all(-1)
    assert len(found.cosines) == int(there.sum()) < 24
    scores, cosines = dense(model, "encoder.self.1.1", embedded(model.module, padded)[there])
    close(found.cosines, cosines, terms=FORWARD)
    close(found.scores, scores, terms=FORWARD)


@torch.no_grad()
def test_heads_that_were_built_to_match_and_to_copy() -> None:
    """W_Q = W_K finds the same patch by its length in some directions; W_V W_O = 1 writes the patch itself."""
    model = interp.wrap(tiny_bolt(d_model=24, d_kv=24, num_heads=2))
    attention: Any = model.module.encoder.block[1].layer[0].SelfAttention
    attention.q.weight[:24] = torch.eye(24)
    attention.k.weight[:24] = torch.eye(24)
    attention.v.weight[:24] = torch.eye(24)
    attention.o.weight[:, :24] = torch.eye(24)
    for at, right in (("encoder.self.1.0", True), ("encoder.self.1.1", False)):
        summary = patch_circuit(model, at, patches=60).summary().set_index("circuit")
        assert (summary["first"] > 0.9).all() == right
        assert (summary["p"] == 1 / 1000).all() == right
        assert (summary["z"] > 2).all() == right
    attention.o.weight[:, :24] *= -1
    summary = patch_circuit(model, "encoder.self.1.0", patches=60).summary().set_index("circuit")
    assert summary.loc["copying", "first"] == 0
    assert summary.loc["copying", "rank"] > 55


@torch.no_grad()
def test_chance_is_chance() -> None:
    """Random heads are right in one of N, and inside the band of random pairings in 95 of 100, or nearly."""
    model = interp.wrap(tiny_bolt(num_heads=16, d_kv=5))
    rows = [patch_circuit(model, head, patches=50).summary() for head in model.heads("encoder.self")]
    matching = np.array([row["first"][0] for row in rows])
    inside = np.array([row["control_low"][0] <= row["first"][0] <= row["control_high"][0] for row in rows])
    assert abs(matching.mean() - 1 / 50) < 0.02
    assert inside.mean() > 0.7
    assert all(row["control_low"][0] <= 1 / 50 <= row["control_high"][0] for row in rows)


@torch.no_grad()
def test_idle_heads_are_not_right() -> None:
    """All scores alike are no match, and nothing written is no copy."""
    model = interp.wrap(tiny_bolt())
    attention: Any = model.module.encoder.block[0].layer[0].SelfAttention
    attention.q.weight[:8] = 0
    attention.o.weight[:, :8] = 0
    found = patch_circuit(model, "encoder.self.0.0", patches=9)
    summary = found.summary().set_index("circuit")
    assert summary.loc["matching", "first"] == 0
    assert summary.loc["matching", "rank"] == 5
    assert summary.loc["matching", "p"] == 1
    assert np.isnan(summary.loc["copying", ["first", "rank", "z"]].astype(float)).all()


@pytest.mark.parametrize("name", ["x.json", "x.safetensors"])
def test_files(model: interp.Model, tmp_path: Path, name: str) -> None:
    for head in ("encoder.self.0.1", "decoder.cross.0.1"):
        found = patch_circuit(model, head, patches=6)
        again = interp.results.result.read(found.save(tmp_path / name))
        assert isinstance(again, PatchCircuit)
        assert again.summary().equals(found.summary())
        assert repr(again) == repr(found)


def test_what_is_refused(model: interp.Model) -> None:
    with pytest.raises(MissingCapability, match="no patches and no quantiles"):
        circuits.patch_circuit(interp.wrap(tiny_pipeline()), "encoder.self.0.0")
    with pytest.raises(UnknownHead):
        circuits.patch_circuit(model, "encoder.self.9.0")
    for patches in (1, 0, -3, "x", 2.5, Batch.from_series(model, torch.arange(8.0))):
        with pytest.raises(InvalidInput, match="patches"):
            circuits.patch_circuit(model, "encoder.self.0.0", patches=patches)  # type: ignore[arg-type]
    with pytest.raises(MissingCapability, match="has no tokens"):
        circuits.patch_circuit(model, "encoder.self.0.0", patches=probes.repeated_random_tokens(batch_size=2))


# Summaries and candidates, which hold heads against patches too


@torch.no_grad()
def test_a_summary_of_heads_is_between_random_patches(model: interp.Model) -> None:
    frame = circuits.head_summary(model).set_index("head")
    x = random_patches(model.module, 200, 0)
    for address in ("encoder.self.1.2", "decoder.cross.1.0"):
        scores, _ = dense(model, address, x)
        centred = scores - scores.mean(1, keepdim=True)
        values = torch.linalg.eigvals(centred)
        close(frame.loc[address, "matching"], float(values.real.sum() / values.abs().sum()), of=1, terms=10**6)
        w = model.weights(address)
        singular = torch.linalg.svdvals(w.W_Q.double() @ w.W_K.double().T)
        rank = float((singular**2).sum() / singular[0] ** 2)
        close(frame.loc[address, "qk_stable_rank"], rank, terms=FORWARD)
    fixed = frame[frame["stack"].eq("decoder") & ~frame.index.str.startswith("decoder.cross.1")]
    assert fixed["matching"].isna().all()
    assert not frame["copying"].isna().any()
    with pytest.raises(MissingCapability, match="has no tokens"):
        circuits.head_summary(model, tokens=(3, 9))


def test_candidates_of_all_queries(model: interp.Model) -> None:
    mosaic = probes.induction_mosaic(model, patches=4, batch_size=10)
    few: dict[str, Any] = {"threshold": 0.07, "least_z": -1.0, "progress": False}
    found = circuits.induction_candidates(model, mosaic, **few)
    parts = [circuits.induction_candidates(model, mosaic[query], **few) for query in ("decoder", "reg", "last_patch")]
    own = {(each.route, each.edge.edge) for part in parts for each in part}
    assert {(each.route, each.edge.edge) for each in found} == own
    assert len(found) > 5
    composition = circuits.composition_scores(model, progress=False)
    scores = probes.head_scores(model, sequence_length=3)
    for each in found:
        writer, reader = each.edge.edge.heads
        assert writer.stack == "encoder"
        assert each.edge.edge.kind == {"token_to_right": "K", "current_token": "V"}[each.route]
        looks = {"token_to_right": "previous_token", "current_token": "next_token"}[each.route]
        assert each.writer_score == scores[f"encoder.self.{looks}"][str(writer)]
        queries = ("decoder",) if reader.kind == "cross" else ("reg", "last_patch")
        assert each.mosaic_score == max(getattr(mosaic[query], each.route)[str(reader)] for query in queries)
        assert each.edge == composition.edge(writer, reader, str(each.edge.edge.kind))
        assert -1 <= each.token_score <= 1


def test_the_planted_wire_is_the_only_candidate() -> None:
    """The previous-patch head feeds the keys of the encoder's induction head, and both wires into it stand out."""
    for wired in (True, False):
        plant = interp.zoo.planted_patches(wired=wired)
        mosaic = probes.induction_mosaic(plant.model, batch_size=10)
        found = circuits.induction_candidates(plant.model, mosaic, progress=False)
        built = [edge for edge in plant.edges if edge.endswith(":k")]
        assert [str(each.edge.edge) for each in found] == built
        strongest = {str(each.edge) for each in circuits.composition_scores(plant.model, progress=False).top(3)}
        assert (strongest == set(plant.edges)) == wired


@torch.no_grad()
def test_a_wire_that_carries_patches() -> None:
    """An encoder head that copies patches, into the keys of one that matches them: positive eigenvalues alone."""
    model = interp.wrap(tiny_bolt(d_model=24, d_kv=24, num_heads=2, dtype=torch.float64))
    first, second = (model.module.encoder.block[layer].layer[0].SelfAttention for layer in (0, 1))
    for weight in (first.v.weight, first.o.weight.T, second.q.weight, second.k.weight):
        weight[:24] = torch.eye(24)
    mosaic = probes.induction_mosaic(model, patches=4, batch_size=4)
    found = circuits.induction_candidates(model, mosaic, threshold=0.0, least_z=-99.0, progress=False)
    wire = next(each for each in found if str(each.edge.edge) == "encoder.self.0.0 -> encoder.self.1.0:k")
    close(wire.token_score, 1, terms=FORWARD)
