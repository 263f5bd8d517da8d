"""Ablation on patches: the folded runs are edited forwards, and measure what they say."""

from typing import Any

import numpy as np
import pytest
import torch

import circuits
import interp
import probes
from circuits.measurement import measured
from circuits.metrics import distance_to, median, pinball
from interp import Batch, capture
from interp.errors import InvalidInput
from probes.stimuli.repeated_patches import RepeatedPatches
from tests.conftest import bolt_with_permuted_heads, tiny_bolt, values_with_gaps
from tests.tolerance import FORWARD, close


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.wrap(tiny_bolt(), name="tiny-bolt")


@pytest.fixture(scope="module")
def patches(model: interp.Model) -> RepeatedPatches:
    return probes.repeated_random_patches(model, batch_size=5, patches=4)


def quantiles(model: interp.Model, batch: Batch) -> torch.Tensor:
    return capture(model, batch, "decoder.quantiles")["decoder.quantiles"]


HOW: list[dict[str, Any]] = [{}, {"method": "mean"}, {"method": "resample"}, {"method": "mean", "by_position": True}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("kind", ["encoder.self", "decoder.self", "decoder.cross"])
def test_effects_are_those_of_edited_forwards(
    model: interp.Model, patches: RepeatedPatches, kind: str, how: dict[str, Any]
) -> None:
    other = probes.repeated_random_patches(model, batch_size=5, patches=4, seed=1)
    reference = {"reference": other} if how else {}
    effects = circuits.head_effects(model, patches, kind, progress=False, **how, **reference)
    metric = pinball(patches.continuation)
    clean = measured(model, metric, quantiles(model, patches), patches)
    for head in model.heads(kind):
        with interp.ablate(model, str(head), **how, **reference):
            after = measured(model, metric, quantiles(model, patches), patches)
        own = effects.rows[head.layer, head.head]
        close(own, (after - clean).double().numpy(), of=float(clean.max()), terms=4 * FORWARD)
    assert effects.provenance["metric"] == "pinball"
    assert effects.provenance["stimulus"]["name"] == "repeated_random_patches"
    assert effects.sign == 1  # a loss: a head that helps raises it when it is gone
    if kind == "decoder.self" and how:
        assert float(np.abs(effects.values[0]).max()) == 0.0  # the same for every input


@pytest.mark.parametrize("kind", ["encoder.self", "decoder.cross"])
def test_effects_in_bfloat16_are_those_of_edited_forwards(patches: RepeatedPatches, kind: str) -> None:
    model = interp.wrap(tiny_bolt(dtype=torch.bfloat16))
    effects = circuits.head_effects(model, patches, kind, progress=False)
    metric = pinball(patches.continuation)
    clean = measured(model, metric, quantiles(model, patches), patches)
    for head in model.heads(kind):
        with interp.ablate(model, head):
            after = measured(model, metric, quantiles(model, patches), patches)
        own = effects.rows[head.layer, head.head]
        close(own, (after - clean).double().numpy(), of=float(clean.max()), terms=64, dtype=torch.bfloat16)


def test_permuting_heads_permutes_their_effects(model: interp.Model, patches: RepeatedPatches) -> None:
    """Weights permuted by hand: what is read, what each head does, and what forecasts are without it."""
    order = [2, 0, 1]
    other = interp.wrap(bolt_with_permuted_heads(order))
    assert other.digest != model.digest
    close(quantiles(other, patches), quantiles(model, patches), terms=FORWARD)
    sites = [str(site) for site in model.sites("*.*.*.pattern", "*.*.*.z", "*.*.*.q")]
    mine, theirs = (capture(m, patches, sites) for m in (model, other))
    for site in sites:
        own = mine[site][:, order] if site.endswith("pattern") else mine[site][:, :, order]
        close(theirs[site], own, site, of=float(own.abs().max()) + 1, terms=FORWARD)
    for kind in ("encoder.self", "decoder.self", "decoder.cross"):
        one, permuted = (circuits.head_effects(m, patches, kind, progress=False) for m in (model, other))
        close(permuted.rows, one.rows[:, order], of=20.0, terms=4 * FORWARD)
    series = values_with_gaps()[[0, 3]].numpy()
    series[:, -5:] = 1.0
    for head in ("encoder.self.1.{}", "decoder.cross.0.{}"):
        options: dict[str, Any] = {"prediction_length": 5, "controls": 0, "progress": False}
        names = {str(place): head.format(number) for place, number in enumerate(order)}
        one = circuits.forecast_effects(model, series, names, **options)
        permuted = circuits.forecast_effects(other, series, {name: head.format(name) for name in names}, **options)
        close(permuted.fans, one.fans, terms=FORWARD)


def test_values_at_missing_steps_change_nothing(model: interp.Model) -> None:
    """Whatever stands under the mask of an array, as in every experiment."""
    values = values_with_gaps().double().numpy()
    results: list[Any] = []
    for fill in (0.0, 1e6):
        masked = np.ma.masked_array(np.nan_to_num(values, nan=fill), np.isnan(values))
        batch = Batch.from_series(model, masked)
        heads = circuits.head_effects(model, batch, "encoder.self", metric=median(), progress=False)
        layers = circuits.layer_effects(model, batch, metric=median(), progress=False)
        rows = [
            np.ma.masked_array([*row.filled(fill), 1.0, 2.0, 4.0], [*row.mask, False, False, False]) for row in masked
        ]
        forecasts = circuits.forecast_effects(
            model, rows, {"a": "encoder.self.1.0"}, prediction_length=3, controls=1, progress=False
        )
        results.append([heads.rows, layers.rows, forecasts.fans, *forecasts.outcomes.values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_controls_of_patches(model: interp.Model, patches: RepeatedPatches) -> None:
    """The loss against the row's other patches, and whether the median is nearest to the one that follows."""
    effects = circuits.head_effects(model, patches, progress=False)
    others = patches.alternatives[:, 1:]

    def control() -> np.ndarray[Any, Any]:
        read = quantiles(model, patches)
        each = [measured(model, pinball(others[:, i]), read, patches).double().numpy() for i in range(others.shape[1])]
        return np.mean(each, axis=0)

    clean = control()
    with interp.ablate(model, "decoder.cross.1.2"):
        after = control()
    close(effects.control_rows[1, 2], after - clean, of=float(clean.max()), terms=4 * FORWARD)
    assert effects.control.unit == "change in pinball loss (deviations)"
    assert len(effects.to_frame()) == 6
    assert len(effects.discoveries(q=1.1)) == 6


def spread(quantiles: torch.Tensor) -> torch.Tensor:
    """A metric of one's own, in the series' units."""
    return quantiles[:, 4, 0] - quantiles[:, 0, 0]


def test_any_series_with_a_metric(model: interp.Model) -> None:
    batch = Batch.from_series(model, values_with_gaps())
    clean = quantiles(model, batch)
    for metric in (median(slice(0, 4)), distance_to(clean[:, 2]), spread):
        effects = circuits.head_effects(model, batch, "encoder.self", metric=metric, progress=False)
        before = measured(model, metric, clean, batch)
        with interp.ablate(model, "encoder.self.1.0"):
            after = measured(model, metric, quantiles(model, batch), batch)
        size = float(clean.abs().max())
        close(effects.rows[1, 0], (after - before).double().numpy(), of=size, terms=4 * FORWARD)
        assert np.isnan(effects.control_rows).all()
        assert len(effects.to_frame()) == 9
    for function in (circuits.head_effects, circuits.layer_effects):
        with pytest.raises(InvalidInput, match=r"needs a metric, such as circuits\.metrics\.pinball"):
            function(model, batch, progress=False)


def test_layers_and_self_repair(model: interp.Model, patches: RepeatedPatches) -> None:
    layers = circuits.layer_effects(model, patches, progress=False)
    metric = pinball(patches.continuation)
    clean = measured(model, metric, quantiles(model, patches), patches)
    for place in ("encoder.self.1", "decoder.cross.0", "encoder.2.mlp_out"):
        with interp.ablate(model, place):
            after = measured(model, metric, quantiles(model, patches), patches)
        own = layers.rows[layers.layers.index(place)]
        close(own, (after - clean).double().numpy(), of=float(clean.max()), terms=4 * FORWARD)
    repair = circuits.self_repair(
        model, patches, ["decoder.cross.1.0", "decoder.cross.0.1"], controls=1, progress=False
    )
    close(repair.total[0], circuits.head_effects(model, patches, progress=False).rows[1, 0], of=20.0, terms=4 * FORWARD)
    assert repair.provenance["metric"] == "pinball"


def test_a_curve(model: interp.Model, patches: RepeatedPatches) -> None:
    mosaic = probes.induction_mosaic(model, patches)
    fresh = probes.repeated_random_patches(model, batch_size=6, patches=4, seed=1)
    curve = circuits.ablation_curve(
        model, mosaic["reg"], fresh, counts=(1, 2), controls=2, threshold=2.0, progress=False
    )
    assert curve.provenance["metric"] == "pinball"
    with interp.ablate(model, [str(head.address) for head in mosaic["reg"].either.heads()[:2]]):
        read = quantiles(model, fresh)
    after = measured(model, pinball(fresh.continuation), read, fresh)
    before = measured(model, pinball(fresh.continuation), quantiles(model, fresh), fresh)
    close(curve.points[1].effect, (after - before).double().numpy(), of=20.0, terms=4 * FORWARD)
    nearest = (read[:, 2, None, :8] - fresh.alternatives).abs().mean(-1).argmin(1) == 0
    assert curve.points[1].hit.tolist() == nearest.double().tolist()
    with pytest.raises(InvalidInput, match="chosen on these very patches"):
        circuits.ablation_curve(model, mosaic["reg"], patches, counts=(1,), progress=False)


@pytest.mark.parametrize("reg", [True, False])
def test_what_is_rewired(reg: bool) -> None:
    """Each query has its own heads; what does not come after the ablated head is NaN."""
    model = interp.wrap(tiny_bolt(use_reg_token=reg), name="tiny-bolt")
    patches = probes.repeated_random_patches(model, batch_size=5, patches=4)
    heads = ["encoder.self.0.1", "encoder.self.2.0", "decoder.cross.0.2", "decoder.self.1.0"]
    first = {"encoder.self": (1, 3, 3, 3), "decoder.cross": (0, 0, 1, 1)}
    clean = probes.induction_mosaic(model, patches)
    queries = ("decoder", "reg", "last_patch") if reg else ("decoder", "last_patch")
    for query in queries:
        effects = circuits.mosaic_effects(model, patches, heads, query=query, controls=2, progress=False)
        assert effects.site == clean[query].site
        assert effects.provenance["query"] == query
        assert effects.provenance["stimulus"]["name"] == "repeated_random_patches"
        for index, (head, later) in enumerate(zip(heads, first[effects.site], strict=True)):
            with interp.ablate(model, head):
                ablated = probes.induction_mosaic(model, patches)[query]
            for kind in ("current_token", "token_to_right"):
                change = getattr(ablated, kind).values - getattr(clean[query], kind).values
                assert not change[:later].any()
                rows = getattr(effects, kind)[index]
                assert np.isnan(rows[:later]).all()
                close(rows[later:].mean(-1), change[later:], of=1, terms=FORWARD)
        assert len(effects.to_frame()) == 2 * 3 * ((2 + 0) if query != "decoder" else (2 + 2 + 1 + 1))
    default = circuits.mosaic_effects(model, patches, heads[0], controls=0, progress=False)
    assert default.provenance["query"] == ("reg" if reg else "last_patch")
    if not reg:
        with pytest.raises(InvalidInput, match=r"query='reg': tiny-bolt has decoder, last_patch"):
            circuits.mosaic_effects(model, patches, heads, query="reg", progress=False)


def test_what_cannot_be_rewired(model: interp.Model, patches: RepeatedPatches, pipeline: Any) -> None:
    with pytest.raises(InvalidInput, match=r"knows where its patches repeat.*repeated_random_patches"):
        circuits.mosaic_effects(model, Batch.from_series(model, values_with_gaps()), "encoder.self.0.0")
    with pytest.raises(InvalidInput, match="tiny-bolt has decoder, last_patch, reg"):
        circuits.mosaic_effects(model, patches, "encoder.self.0.0", query="eos")  # type: ignore[arg-type]
    t5, tokens = interp.wrap(pipeline), probes.repeated_random_tokens(batch_size=2)
    with pytest.raises(InvalidInput, match="is of patches"):
        circuits.mosaic_effects(t5, tokens, "encoder.self.0.0", query="decoder")


def test_values_for_a_model_of_tokens(pipeline: Any, patches: RepeatedPatches) -> None:
    with pytest.raises(InvalidInput, match="reads tokens, and the batch is of values"):
        circuits.head_effects(interp.wrap(pipeline), patches, progress=False)


def test_figures_and_tables_put_first_what_helps(model: interp.Model, patches: RepeatedPatches) -> None:
    """Where low is better a positive effect helps: it is red, labelled and first, as a negative one is on tokens."""
    effects = circuits.head_effects(model, patches, "encoder.self", progress=False)
    figure = circuits.plots.head_effects(effects)
    low, *_, high = (color for _, color in figure.layout.coloraxis.colorscale)
    assert high == "rgb(103,0,31)", "the dark red end of RdBu is at the top"
    assert low == "rgb(5,48,97)"
    mosaic = probes.induction_mosaic(model, patches)["reg"]
    drawn = circuits.plots.score_against_effect(mosaic, effects)
    labels = {annotation.text for annotation in drawn.layout.annotations if annotation.text}
    frame = effects.to_frame()
    either = mosaic.either.values.ravel()
    sides = [frame[either < 0.3], frame[either >= 0.3]]
    expected = {part.sort_values("score")["head"].iloc[-1] for part in sides if len(part)}
    assert labels == expected
    layers = circuits.plots.layer_effects(circuits.layer_effects(model, patches, progress=False))
    assert layers.data[1].name == "the row's other patches (control)"
