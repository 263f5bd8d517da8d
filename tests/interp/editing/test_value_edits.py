"""Edits of a model of values: in forwards, `predict` and `predict_quantiles`, beyond its horizon too, and undone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp import Add, Batch, FreezePatterns, Knockout, Mean, Resample, Scale, Zero, capture, edited
from interp.errors import InertEdit, InvalidInput
from tests.conftest import bolt_without_heads, tiny_bolt, values_with_gaps
from tests.tolerance import FORWARD, close

pytestmark = [pytest.mark.versions, pytest.mark.filterwarnings("ignore:We recommend keeping prediction length")]

HORIZONS = (5, 12, 40)
"""Within the horizon of 12 steps, all of it, and three blocks beyond."""


@pytest.fixture
def model() -> interp.Model:
    return interp.wrap(tiny_bolt(), name="tiny-bolt")


@pytest.fixture
def batch(model: interp.Model) -> Batch:
    return Batch.from_series(model, values_with_gaps())


def quantiles(model: interp.Model, batch: Batch) -> Tensor:
    return capture(model, batch, "decoder.quantiles")["decoder.quantiles"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "heads", [["encoder.self.1.2"], ["decoder.self.0.1"], ["decoder.cross.1.0", "encoder.self.0.0"]], ids=str
)
def test_ablated_heads_are_weights_cut_by_hand(heads: list[str], dtype: torch.dtype) -> None:
    model, cut = interp.wrap(tiny_bolt(dtype=dtype)), bolt_without_heads(*heads)
    cut.model.to(dtype)  # type: ignore[arg-type]
    values = values_with_gaps()
    plain = tiny_bolt(dtype=dtype)
    with interp.ablate(model, heads):
        close(
            quantiles(model, Batch.from_series(model, values)), cut.model(values).quantile_preds, dtype=dtype, terms=64
        )
        for steps in HORIZONS:
            assert torch.equal(model.pipeline.predict(values, steps), cut.predict(values, steps))
            ours, theirs = (
                pipeline.predict_quantiles(values, steps, quantile_levels=[0.2, 0.5])
                for pipeline in (model.pipeline, cut)
            )
            assert torch.equal(ours[0], theirs[0])
            assert not torch.equal(ours[1], plain.predict(values, steps)[:, 2])
    for steps in HORIZONS:
        assert torch.equal(model.pipeline.predict(values, steps), plain.predict(values, steps))


def every_edit(model: interp.Model, batch: Batch) -> dict[str, Any]:
    other = Batch.from_series(model, values_with_gaps(seed=1))
    return {
        "zero": Zero("decoder.cross.0.1"),
        "zero a layer": Zero("encoder.self.2"),
        "scale": Scale("encoder.1.mlp_out", 0.5),
        "scale quantiles": Scale("decoder.quantiles", 2.0),
        "add": Add("decoder.1.resid_pre", torch.arange(20.0)),
        "add to quantiles": Add("decoder.quantiles", torch.arange(60.0).reshape(5, 12)),
        "mean": Mean("encoder.self.0.2", [other, batch]),
        "mean of the decoder by position": Mean("decoder.cross.1.0", other, by_position=True),
        "mean of quantiles": Mean("decoder.quantiles", other),
        "resample the decoder": Resample("decoder.cross.1", other),
        "resample quantiles": Resample("decoder.quantiles", other),
        "one patch": Zero("encoder.self.1", positions=2),
        "patches": Scale("encoder.0.resid_mid", 3.0, positions=slice(1, 4)),
        "[REG]": Add("encoder.1.resid_post", 5.0, positions=-1),
        "knock out a patch": Knockout("decoder.cross.1.1", key=3),
        "knock [REG] out": Knockout("decoder.cross.0.2", key=-1),
        "knock out what [REG] sees": Knockout("encoder.self.1.1", query=-1, key=[2, 4], renormalise=False),
        "an unchanged pattern": Knockout("decoder.self.1.1", query=0, key=0, renormalise=False),
    }


EDITS = [*every_edit(interp.wrap(tiny_bolt()), Batch.from_series(interp.wrap(tiny_bolt()), values_with_gaps()))]


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_acts_everywhere_and_is_undone(name: str, model: interp.Model, batch: Batch) -> None:
    edit, values = every_edit(model, batch)[name], values_with_gaps()
    plain = quantiles(model, batch)
    with edited(model, edit):
        inside = quantiles(model, batch)
        with torch.no_grad():
            forward = model.module(values).quantile_preds
        forecasts = {steps: model.pipeline.predict(values, steps) for steps in HORIZONS}
        levels, _ = model.pipeline.predict_quantiles(values, 12, quantile_levels=[0.1, 0.3, 0.5, 0.8, 0.9])
    assert not torch.equal(inside, plain)
    for other in (forward, forecasts[12], levels.swapaxes(1, 2), forecasts[40][..., :12]):
        assert torch.equal(inside, other)
    assert torch.equal(forecasts[5], inside[..., :5])
    unedited = tiny_bolt()
    assert not torch.equal(forecasts[40][..., 12:24], unedited.predict(values, 40)[..., 12:24])
    for steps in HORIZONS:
        assert torch.equal(model.pipeline.predict(values, steps), unedited.predict(values, steps))
    with pytest.raises(ZeroDivisionError), edited(model, edit):
        _ = quantiles(model, batch) * (1 / 0)
    assert torch.equal(quantiles(model, batch), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())


def by_hand(values: Tensor, steps: int, forward: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Chronos' own way beyond the horizon, with the number of paths an input has given to each forward."""
    levels = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.9])
    parts = [forward(values, 1)]
    context = values[:, None].repeat(1, 5, 1)
    while sum(part.shape[-1] for part in parts) < steps:
        context = torch.cat([context, parts[-1]], -1)[..., -96:]
        paths = forward(context.flatten(0, 1), 5).reshape(len(values), 25, -1)
        parts.append(torch.quantile(paths, levels, dim=1).transpose(0, 1))
    return torch.cat(parts, -1)[..., :steps]


FULL_CONTEXT = [(site, 130) for site in ("encoder.self.0.z", "encoder.1.resid_mid", "encoder.0.resid_pre")]
"""In a full context the encoder has as many positions in every block."""

IN_DECODER = [
    (site, length)
    for site in ("decoder.cross.1.z", "decoder.1.resid_mid", "decoder.quantiles")
    for length in (45, 96, 130)
]


@pytest.mark.parametrize(("site", "length"), [*IN_DECODER, *FULL_CONTEXT])
def test_a_reference_stands_for_all_paths_of_its_row(site: str, length: int) -> None:
    """Row by row: the paths of an input are rows side by side."""
    model, plain = interp.wrap(tiny_bolt()), tiny_bolt()
    values, source = (values_with_gaps(3, length, seed) for seed in (0, 1))
    batch = Batch.from_series(model, source)
    point = model.family.point(interp.Site.parse(site))
    with torch.no_grad():
        reference = capture(model, batch, site)[site]

    def forward(values: Tensor, paths: int) -> Tensor:
        rows = reference.repeat_interleave(paths, 0)
        if site == "decoder.quantiles":
            return rows
        module = plain.model.get_submodule(point.path)
        if point.port == "input":
            handle = module.register_forward_pre_hook(lambda _, args: (rows.flatten(2), *args[1:]))
        else:
            handle = module.register_forward_hook(lambda _, __, output: (rows, *output[1:]))
        with torch.no_grad():
            result = plain.model(values).quantile_preds
        handle.remove()
        return result

    with edited(model, Resample(site, batch)):
        assert torch.equal(model.pipeline.predict(values, 40), by_hand(values[:, -96:], 40, forward))
    assert torch.equal(model.pipeline.predict(values, 40), tiny_bolt().predict(values, 40))


def test_edits_of_a_growing_context_are_plain_hooks() -> None:
    """A patch, [REG], a mean over a reference's positions: in each block as the plain module with hooks of its own."""
    model, plain = interp.wrap(tiny_bolt()), tiny_bolt()
    values, batch = values_with_gaps(), Batch.from_series(model, values_with_gaps(seed=1))
    z = capture(model, batch, "encoder.self.0.z")["encoder.self.0.z"]
    mean = z[batch.mask("encoder").bool()].double().mean(0).float().flatten()

    def zero(value: Tensor) -> Tensor:
        value[:, 2] = 0
        return value

    def add(value: Tensor) -> Tensor:
        value[:, -1] += 5
        return value

    cases: list[tuple[Any, str, Callable[[Tensor], Tensor]]] = [
        (Zero("encoder.self.1", positions=2), "encoder.block.1.layer.0.SelfAttention.o", zero),
        (Add("encoder.1.resid_post", 5.0, positions=-1), "encoder.block.2", add),
        (Mean("encoder.self.0", batch), "encoder.block.0.layer.0.SelfAttention.o", lambda v: mean.expand_as(v)),
    ]
    for edit, path, change in cases:

        def forward(values: Tensor, _: int, path: str = path, change: Any = change) -> Tensor:
            module = plain.model.get_submodule(path)
            handle = module.register_forward_pre_hook(lambda _, args: (change(args[0].clone()), *args[1:]))
            with torch.no_grad():
                result = plain.model(values).quantile_preds
            handle.remove()
            return result

        with edited(model, edit):
            forecast = model.pipeline.predict(values, 40)
        close(forecast, by_hand(values, 40, forward), terms=4 * FORWARD)
        assert torch.equal(model.pipeline.predict(values, 40), tiny_bolt().predict(values, 40))


def test_a_full_context_keeps_its_positions_while_patches_shift() -> None:
    """The encoder's sequence is as long in every block, so a reference fits in all of them."""
    model = interp.wrap(tiny_bolt())
    values, source = (values_with_gaps(2, 130, seed) for seed in (0, 1))
    with edited(model, Resample("encoder.self.0", Batch.from_series(model, source))):
        forecast = model.pipeline.predict(values, 30)
    assert not torch.equal(forecast, tiny_bolt().predict(values, 30))


def test_a_reference_of_another_length(model: interp.Model) -> None:
    values = values_with_gaps()
    batch = Batch.from_series(model, values_with_gaps(seed=1))
    for edit in (Resample("encoder.self.0", batch), Mean("encoder.self.0", batch, by_position=True)):
        with edited(model, edit), pytest.raises(InvalidInput, match="the reference has 7 positions"):
            model.pipeline.predict(values, 40)
        with edited(model, edit):
            assert model.pipeline.predict(values, 12).isfinite().all()


def test_a_reference_with_other_rows(model: interp.Model, batch: Batch) -> None:
    three = batch.rows(torch.tensor([0, 1, 2]))
    with edited(model, Resample("decoder.cross.0.1", three)):
        assert quantiles(model, three).isfinite().all()
    for rows in (4, 15):  # 15 rows are not five paths of three: their contexts are others
        run = Batch.from_series(model, values_with_gaps(rows, 57, seed=2))
        with (
            pytest.raises(InvalidInput, match=f"the reference has 3 rows and the run {rows}"),
            edited(model, Resample("decoder.cross.0.1", three)),
        ):
            _ = quantiles(model, three), quantiles(model, run)


def test_edits_of_the_encoder_alone(model: interp.Model, batch: Batch) -> None:
    """`encode` and `embed` run without the decoder."""
    values = values_with_gaps()
    with edited(model, Zero("encoder.self.2.1")):
        hidden = model.pipeline.embed(values)[0]
        assert torch.equal(hidden, capture(model, batch, "encoder.ln_final")["encoder.ln_final"])
    with edited(model, Resample("encoder.self.2.1", batch)):
        assert torch.equal(model.pipeline.embed(values)[0], tiny_bolt().embed(values)[0])


def test_frozen_patterns(model: interp.Model, batch: Batch) -> None:
    patterns = capture(model, batch, "*.*.*.pattern")
    with edited(model, [FreezePatterns(batch), Scale("encoder.0.resid_pre", 3.0)]):
        again = capture(model, batch, "*.*.*.pattern")
        assert all(torch.equal(patterns[name], again[name]) for name in patterns)
        other = values_with_gaps()
        other[0, 0] += 1
        for values, steps in ((other, 12), (values_with_gaps(), 40)):
            with pytest.raises(InvalidInput, match="other values came"):
                model.pipeline.predict(values, steps)
        with torch.no_grad(), pytest.raises(InvalidInput, match="embedded patches came"):
            model.module.encoder(inputs_embeds=torch.zeros(4, 7, 20))
    with edited(model, FreezePatterns(batch)):
        assert torch.equal(quantiles(model, batch), tiny_bolt().model(values_with_gaps()).quantile_preds)


def test_a_loss_is_of_the_edited_forecast(model: interp.Model, batch: Batch) -> None:
    """With a target the standardisation runs once more, on the target: that is no other run."""
    values, target = values_with_gaps(), torch.randn(4, 12)
    with edited(model, Resample("decoder.cross.1", batch)):
        output = model.module(values, target=target.clone())
    close(output.loss, tiny_bolt().model(values, target=target.clone()).loss, terms=FORWARD)


def test_positions_are_patches(model: interp.Model, batch: Batch) -> None:
    plain = capture(model, batch, "encoder.0.resid_pre")["encoder.0.resid_pre"]
    with edited(model, Add("encoder.0.resid_pre", 1.0, positions=[0, 3])):
        inside = capture(model, batch, "encoder.0.resid_pre")["encoder.0.resid_pre"]
    assert (inside != plain).any(-1).tolist() == [[True, False, False, True, False, False, False]] * 4
    with edited(model, Add("encoder.0.resid_pre", 1.0, positions=-2)):  # of a row's own: all end at the last patch
        inside = capture(model, batch, "encoder.0.resid_pre")["encoder.0.resid_pre"]
    assert (inside != plain).any(-1).nonzero()[:, 1].tolist() == [5] * 4
    with pytest.raises(InvalidInput, match="outside the sequence"), edited(model, Zero("encoder.self.1", positions=7)):
        quantiles(model, batch)
    with (
        pytest.raises(InertEdit, match=r"no step had position \[1\]"),
        edited(model, Zero("decoder.cross.1", positions=1)),
    ):
        quantiles(model, batch)


def test_edits_that_cannot_be(model: interp.Model, batch: Batch) -> None:
    with (
        pytest.raises(InvalidInput, match=r"has no positions\. Leave positions out"),
        edited(model, Zero("decoder.quantiles", positions=0)),
    ):
        pass
    with (
        pytest.raises(InvalidInput, match=r"its pattern is 1 whatever the scores are\. Edit the pattern, z or v"),
        edited(model, Add("decoder.self.1.scores", 1.0)),
    ):
        pass
    with (
        pytest.raises(InvalidInput, match=r"its pattern is 1 whatever"),
        edited(model, Knockout("decoder.self.1.0", key=0)),
    ):
        pass
    with (
        pytest.raises(InvalidInput, match=r"a number or \[5, 12\]"),
        edited(model, Add("decoder.quantiles", torch.ones(12))),
    ):
        pass
    with pytest.raises(InertEdit), edited(model, Zero("decoder.quantiles")):
        capture(model, batch, "encoder.ln_final")
