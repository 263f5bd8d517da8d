"""The mosaic of patches: attention at three queries, on the stimulus and its controls."""

from pathlib import Path

import numpy as np
import pytest

import interp
import probes
from interp.errors import InvalidInput
from interp.results.quantile_losses import pinball_loss
from probes.induction.patch_mosaic import PatchMosaic
from probes.stimuli.repeated_patches import CONTROLS, RepeatedPatches
from tests.conftest import bolt_with_permuted_heads, tiny_bolt, values_with_gaps
from tests.tolerance import close


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.wrap(tiny_bolt(), name="tiny-bolt")


@pytest.fixture(scope="module")
def batch(model: interp.Model) -> RepeatedPatches:
    return probes.repeated_random_patches(model, batch_size=6, patches=4)


@pytest.fixture(scope="module")
def mosaic(model: interp.Model, batch: RepeatedPatches) -> PatchMosaic:
    return probes.induction_mosaic(model, batch)


def test_scores_are_attention_at_the_positions_of_the_formula(
    model: interp.Model, batch: RepeatedPatches, mosaic: PatchMosaic
) -> None:
    assert (batch.occurrences, batch.last, batch.reg) == ((1, 5), 9, 10)
    for name, stimulus in {"repeated": batch, **batch.controls()}.items():
        cache = interp.capture(model, stimulus, ["*.*.*.pattern", "decoder.quantiles"])
        for query, kind, place in (
            ("decoder", "decoder.cross", 0), ("reg", "encoder.self", 10), ("last_patch", "encoder.self", 9),
        ):  # fmt: skip
            own = mosaic.mosaics[name][query]
            assert own.site == kind
            assert own.n_tokens == 11
            for at in model.layers(kind):
                paid = cache[f"{at}.pattern"][:, :, place].double().mean(0).numpy()
                assert own.eos is not None
                assert own.occurrence_sum is not None
                assert own.right_by_occurrence is not None
                close(own.current_token.values[at.layer], paid[:, 5], of=1.0)
                close(own.token_to_right.values[at.layer], paid[:, 6], of=1.0)
                close(own.eos.values[at.layer], paid[:, 10], of=1.0)
                close(own.occurrence_sum.values[at.layer], paid[:, 1] + paid[:, 5], of=1.0)
                close(own.right_by_occurrence[at.layer], paid[:, [6, 2]], of=1.0)
        quantiles, truth = cache["decoder.quantiles"], stimulus.continuation
        scale = stimulus.deviation
        close(mosaic.losses[name], pinball_loss(quantiles, model.levels, truth) / scale, terms=60)
        close(mosaic.distances[name], (quantiles[:, 2, : truth.shape[1]] - truth).abs().mean(1) / scale, terms=60)


def test_tables(mosaic: PatchMosaic) -> None:
    frame, summary = mosaic.to_frame(), mosaic.summary(0.2)
    assert len(frame) == 6 + 9 + 9
    assert set(frame["query"]) == {"decoder", "reg", "last_patch"}
    assert set(CONTROLS) <= set(frame.columns)
    fixed = frame[frame["fixed_query"]]["head"].tolist()
    assert fixed == [f"decoder.cross.0.{head}" for head in range(3)]
    assert len(summary) == 5 * 3
    assert summary["stimulus"].unique().tolist() == ["repeated", *CONTROLS]
    np.testing.assert_array_equal(summary["lift"], summary["score"] * 11)
    strongest = frame.loc[frame["either"].idxmax()]
    heads = mosaic.heads(0.0)
    assert str(heads[0].address) == strongest["head"]
    assert len(heads) == 15  # each once, whichever query
    assert [head.score for head in heads] == sorted((head.score for head in heads), reverse=True)
    assert mosaic.heads(0.999) == ()


def test_a_file(mosaic: PatchMosaic, tmp_path: Path) -> None:
    for name in ("mosaic.json", "mosaic.safetensors"):
        again = interp.read(mosaic.save(tmp_path / name))
        assert isinstance(again, PatchMosaic)
        assert again.to_frame().equals(mosaic.to_frame())
        assert again.summary().equals(mosaic.summary())


def test_the_parameters_of_the_stimulus(model: interp.Model, batch: RepeatedPatches, mosaic: PatchMosaic) -> None:
    same = probes.induction_mosaic(model, batch_size=6, patches=4)
    assert isinstance(same, PatchMosaic)
    assert same.to_frame().equals(mosaic.to_frame())
    assert same.provenance["stimulus"]["name"] == "repeated_random_patches"
    with pytest.raises(InvalidInput, match="not both"):
        probes.induction_mosaic(model, batch, patches=4)  # type: ignore[call-overload]
    with pytest.raises(InvalidInput, match="does not know where its patches repeat"):
        probes.induction_mosaic(model, interp.Batch.from_series(model, values_with_gaps()))


def test_a_model_without_reg() -> None:
    model = interp.wrap(tiny_bolt(use_reg_token=False))
    mosaic = probes.induction_mosaic(model, probes.repeated_random_patches(model, batch_size=3, patches=4))
    assert sorted(mosaic.mosaics["repeated"]) == ["decoder", "last_patch"]
    assert mosaic["decoder"].eos is None
    assert mosaic["decoder"].n_tokens == 10


def test_permuting_heads_permutes_the_scores(model: interp.Model, batch: RepeatedPatches, mosaic: PatchMosaic) -> None:
    order = [2, 0, 1]
    other = probes.induction_mosaic(interp.wrap(bolt_with_permuted_heads(order)), batch)
    for query in ("decoder", "reg", "last_patch"):
        close(other[query].either.values, mosaic[query].either.values[:, order], of=1.0, terms=500)


def test_a_head_that_looks_everywhere_alike_has_a_lift_of_one(model: interp.Model, batch: RepeatedPatches) -> None:
    queries = [f"decoder.cross.{layer}.q" for layer in range(2)]
    with interp.edited(model, [interp.Zero(site) for site in queries]):
        mosaic = probes.induction_mosaic(model, batch)
    close(mosaic["decoder"].lift.values, np.ones((2, 3)), terms=20)
