"""Forecasts of a model of quantiles: each variant is what plain Chronos forecasts with that edit alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from utilsforecast import losses
from utilsforecast.losses import calibration, coverage, mase, scaled_crps

import circuits
import interp
import probes
from circuits.ablation.baselines import parrot
from circuits.ablation.forecast_effects import ForecastEffects
from circuits.ablation.forecast_scores import seasonal_scale
from interp import Batch
from interp.editing.edit import Edit
from interp.errors import InertEdit, InvalidInput, MissingCapability, UnknownHead
from tests.conftest import bolt_without_heads, tiny_bolt
from tests.tolerance import FORWARD, close, not_close

pytestmark = pytest.mark.filterwarnings("ignore:We recommend keeping prediction length")

HORIZONS = (5, 12, 30)
"""Within the horizon of 12 steps, all of it, and two blocks beyond."""

RNG = np.random.default_rng(0)
SERIES = np.sin(np.arange(160) * 0.7)[None] * np.array([[1.0], [3.0], [0.2]]) + RNG.normal(0, 0.1, (3, 160)) + 2
UNEVEN = SERIES[:, -75:].copy()
UNEVEN[0, :14] = np.nan
UNEVEN[1, [2, 9, 10]] = np.nan

SETS: dict[str, list[str]] = {
    "cross": ["decoder.cross.1.0", "decoder.self.0.1"],
    "encoder": ["encoder.self.1.2"],
    "first layer": ["encoder.self.0.1", "encoder.self.2.0", "decoder.cross.0.2"],
}


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return interp.wrap(tiny_bolt(), name="tiny-bolt")


def effects(model: interp.Model, ablations: Any = SETS, series: Any = UNEVEN, **options: Any) -> ForecastEffects:
    settings: dict[str, Any] = {"prediction_length": 12, "controls": 1, "season": 3}
    return circuits.forecast_effects(model, series, ablations, progress=False, **(settings | options))


def alone(pipeline: Any, series: Any, steps: int) -> Any:
    """The quantiles of one run of plain Chronos, `[series, quantile, step]`."""
    context = torch.tensor(series[:, :-steps], dtype=torch.float32)
    levels = pipeline.model.chronos_config.quantiles
    quantiles, _ = pipeline.predict_quantiles(context, prediction_length=steps, quantile_levels=levels)
    return quantiles.swapaxes(1, 2).double().numpy()


# Each variant is a run of its own


@pytest.mark.parametrize("series", [SERIES, UNEVEN], ids=["full", "uneven"])
@pytest.mark.parametrize("steps", HORIZONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ablated_forecasts_are_those_of_weights_cut_by_hand(dtype: torch.dtype, steps: int, series: Any) -> None:
    """The controls too."""
    model = interp.wrap(tiny_bolt(dtype=dtype), name="tiny-bolt")
    result = effects(model, series=series, prediction_length=steps)
    assert result.names[1:4] == tuple(SETS)
    assert len(result.names) == 7
    for name, fan in zip(result.names, result.fans, strict=True):
        cut = bolt_without_heads(*result.sets[name])
        cut.model.to(dtype)  # type: ignore[arg-type]
        close(fan, alone(cut, series, steps), name, terms=FORWARD, dtype=dtype)
        with interp.ablate(model, list(result.sets[name])):
            close(fan, alone(model.pipeline, series, steps), name, terms=FORWARD, dtype=dtype)
    not_close(result.fans[1:], np.stack([result.fans[0]] * 6))


def every_kind(model: interp.Model, steps: int) -> dict[str, Any]:
    """Edits of all kinds, and heads beside them; each with the edits that say the same."""
    other = Batch.from_series(model, RNG.normal(size=(3, 75 - steps)))
    return {
        "heads": "encoder.self.1.0",
        "layer": "decoder.cross.1",
        "site": "encoder.1.mlp_out",
        "stream": "decoder.1.resid_pre",
        "steer": [interp.Add("encoder.0.resid_mid", 0.3, positions=-1), "decoder.cross.1.2"],
        "cut": interp.Knockout("decoder.cross.0.2", key=-1),
        "scale quantiles": interp.Scale("decoder.quantiles", 2.0),
        "resample": [interp.Resample("decoder.cross.1.0", other), "encoder.self.2"],
    }


@pytest.mark.parametrize("steps", HORIZONS)
def test_mixed_edits_are_those_of_the_pipeline_alone(model: interp.Model, steps: int) -> None:
    kinds = every_kind(model, steps)
    result = effects(model, kinds, prediction_length=steps)
    for name, members in kinds.items():
        items = list(members) if isinstance(members, list) else [members]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        edits: list[Any] = [item if isinstance(item, Edit) else interp.Zero(item) for item in items]
        with interp.edited(model, edits):
            own = alone(model.pipeline, UNEVEN, steps)
        place = result.names.index(name)
        if name in ("heads", "layer"):
            close(result.fans[place], own, name, terms=FORWARD)
        else:
            assert np.array_equal(result.fans[place], own), name
        assert not np.array_equal(own, result.fans[0]), name
    assert result.controls["heads"] == ("heads, control 1",)
    assert (
        result.reasons["steer"]
        == result.reasons["layer"]
        == "no control: they are drawn for sets of ablated heads only"
    )
    assert np.array_equal(alone(model.pipeline, UNEVEN, steps), alone(tiny_bolt(), UNEVEN, steps))


def test_frozen_patterns_within_one_pass(model: interp.Model) -> None:
    batch = Batch.from_series(model, UNEVEN[:, :-12])
    edits = {"frozen": [interp.FreezePatterns(batch), interp.Scale("encoder.0.mlp_out", 3.0)]}
    result = effects(model, edits)
    with interp.edited(model, edits["frozen"]):
        assert np.array_equal(result.fans[1], alone(model.pipeline, UNEVEN, 12))
    with pytest.raises(InvalidInput, match="other values came"):
        effects(model, edits, series=np.pad(UNEVEN, ((0, 0), (0, 18))), prediction_length=30)


@pytest.mark.parametrize("steps", HORIZONS)
def test_means_are_those_of_the_unedited_model(model: interp.Model, steps: int) -> None:
    reference = Batch.from_series(model, SERIES[:, :60])
    result = effects(model, prediction_length=steps, method="mean", reference=reference)
    for name in SETS:
        with interp.ablate(model, SETS[name], method="mean", reference=reference):
            own = alone(model.pipeline, UNEVEN, steps)
        close(result.fans[result.names.index(name)], own, name, terms=FORWARD)


@pytest.mark.parametrize("steps", HORIZONS)
def test_memory_changes_nothing_else(model: interp.Model, steps: int) -> None:
    sets: dict[str, Any] = SETS | {"edit": [interp.Scale("encoder.0.mlp_out", 3.0)]}
    whole = effects(model, sets, prediction_length=steps)
    for memory in (1, 2**18, 2**20):
        close(effects(model, sets, prediction_length=steps, memory=memory).fans, whole.fans, terms=FORWARD)
    one = effects(model, sets, UNEVEN[1:2], prediction_length=steps)
    close(one.fans[:, 0], whole.fans[:, 1], terms=FORWARD)


def rows_seen(model: interp.Model, path: str, run: Any) -> list[int]:
    """How many rows each call of a module had."""
    seen: list[int] = []

    def look(_module: Any, _args: Any, output: Any) -> None:
        seen.append(len(output[0]))

    module = model.module.get_submodule(path)

    def watched() -> None:
        handle = module.register_forward_hook(look)
        try:
            run()
        finally:
            handle.remove()

    with pytest.MonkeyPatch.context() as patch:  # a hook of one's own is in the way of the experiment
        patch.setattr("circuits.ablation.forecast_effects.check_unhooked", lambda *_: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        watched()
    return seen


def test_what_variants_share(model: interp.Model) -> None:
    """One encoder for all decoder heads; a set of encoder heads runs from its first layer on."""
    sets = {str(head): head for head in model.heads("decoder.cross")} | {"late": "encoder.self.2.0"}
    attention = "encoder.block.{}.layer.0.SelfAttention"

    def run() -> None:
        effects(model, sets, controls=0)

    assert [rows_seen(model, attention.format(layer), run) for layer in range(3)] == [[3], [3], [3, 3]]
    # Beyond one pass all six variants go through both blocks side by side, the second from five paths each.
    assert rows_seen(model, attention.format(0), lambda: effects(model, controls=1, prediction_length=20)) == [21, 105]


def test_nothing_is_left(model: interp.Model) -> None:
    state = torch.get_rng_state()
    for steps in HORIZONS:
        first, again = (effects(model, prediction_length=steps, seed=seed, controls=0) for seed in (0, 1))
        assert np.array_equal(first.fans, again.fans)  # nothing is drawn
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


# Scores


def by_utilsforecast(result: ForecastEffects, variant: int) -> dict[str | float, Any]:
    """The scores of a variant by the library, each series a group."""
    series, steps = result.truth.shape
    start = result.contexts.shape[1]
    table = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(series), steps),
            "ds": np.tile(np.arange(start, start + steps), series),
            "y": result.truth.ravel(),
            **{f"q{i}": result.fans[variant, :, i].ravel() for i in range(len(result.levels))},
        }
    )
    past = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(series), start),
            "ds": np.tile(np.arange(start), series),
            "y": result.contexts.ravel(),
        }
    )
    names = [f"q{i}" for i in range(len(result.levels))]
    several: Any = {"models": {"m": names}, "quantiles": np.array(result.levels)}
    scaled: Any = {"seasonality": 3, "train_df": past}
    middle = names[result.levels.index(0.5)]
    table["q-lo-80"], table["q-hi-80"] = table[names[0]], table[names[-1]]
    return {
        "wql": scaled_crps(table, **several)["m"],
        "pinball": losses.scaled_mqloss(table, **several, **scaled)["m"],
        "mase": mase(table, models=[middle], **scaled)[middle],
        "coverage": coverage(table, models=["q"], level=80)["q"],
    } | {level: calibration(table, models={"m": name})["m"] for level, name in zip(result.levels, names, strict=True)}


@pytest.mark.parametrize("steps", [12, 30])
def test_scores_are_utilsforecasts(model: interp.Model, steps: int) -> None:
    result = effects(model, prediction_length=steps, series=UNEVEN + 5)
    frame = result.calibration()
    for variant, name in enumerate(result.names):
        for outcome, expected in by_utilsforecast(result, variant).items():
            if isinstance(outcome, str):
                close(result.outcomes[outcome][variant], expected.to_numpy(), outcome, terms=9)
            else:
                own = frame[(frame["variant"] == name) & (frame["level"] == outcome)]
                close(own["coverage"].to_numpy(), expected.to_numpy(), f"level {outcome}", terms=9)


def test_distances_and_crossings_by_hand(model: interp.Model) -> None:
    result = effects(model)
    close(result.contexts, UNEVEN[:, :-12])
    medians = result.fans[:, :, 2]
    assert np.array_equal(result.medians, medians)
    scale = seasonal_scale(result.contexts, 3)
    copied = np.stack([parrot(context, 12) for context in result.contexts])
    close(result.outcomes["distance"], np.abs(medians - medians[:1]).mean(-1) / scale)
    close(result.outcomes["to_parroting"], np.abs(medians - copied).mean(-1) / scale)
    for variant, row in np.ndindex(len(result.names), 3):
        fan = result.fans[variant, row]
        crossed = sum(bool(fan[i, step] > fan[i + 1, step]) for i in range(4) for step in range(12))
        close(result.outcomes["crossing"][variant, row], crossed / 48)
        close(result.outcomes["parroting"][variant, row], np.corrcoef(fan[2], copied[row])[0, 1], of=1.0)
    assert result.outcomes["crossing"].max() > 0
    assert list(result.outcomes) == [
        "pinball", "coverage", "crossing", "mase", "wql", "distance", "to_parroting", "parroting",
    ]  # fmt: skip


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("levels", [[0.1, 0.4, 0.6], [0.5]])
def test_other_levels(levels: list[float], steps: int) -> None:
    """The median is interpolated where no level is .5; one level has no neighbours that could cross."""
    pipeline = tiny_bolt(quantiles=levels)
    model = interp.wrap(pipeline)
    result = effects(model, prediction_length=steps)
    context = torch.tensor(UNEVEN[:, :-steps], dtype=torch.float32)
    own = tiny_bolt(quantiles=levels).predict(context, steps).double().numpy()
    close(result.fans[0], own, terms=FORWARD)
    assert result.levels == tuple(levels)
    middle = own[:, 0] if len(levels) == 1 else (own[:, 1] + own[:, 2]) / 2
    close(result.medians[0], middle, terms=FORWARD)
    assert np.isnan(result.outcomes["crossing"]).all() == (len(levels) == 1)
    assert np.isfinite(result.outcomes["mase"]).all()
    assert len(result.summary()) == 3 * 8


# What can be done with the result


def test_it_is_a_result(model: interp.Model, tmp_path: Path) -> None:
    index = pd.date_range("2020-01-01", periods=75, freq="MS")
    series = [pd.Series(UNEVEN[1], index=index, name="sales"), pd.Series(UNEVEN[2, 5:], index=index[5:], name="stock")]
    result = effects(model, series=series)
    for path in (tmp_path / "a.json", tmp_path / "a.safetensors"):
        again = interp.read(result.save(path))
        assert isinstance(again, ForecastEffects)
        assert again.levels == result.levels == (0.1, 0.3, 0.5, 0.8, 0.9)
        assert np.array_equal(again.fans, result.fans)
        assert again.indexes[1] is not None
        assert again.provenance == result.provenance
    assert {"prediction_length": 12, "horizon": 12}.items() <= result.provenance.items()
    frame = result.to_frame()
    assert len(frame) == 7 * 2 * 8 + 3 * 2 * 2
    assert set(frame["name"]) == {"sales", "stock"}
    table = result.forecasts()
    assert list(table.columns) == ["variant", "series", "name", "time", "truth", "0.1", "0.3", "0.5", "0.8", "0.9"]
    assert len(result.calibration()) == 7 * 2 * 5
    summary = result.summary().set_index(["ablation", "outcome"])
    change = result.outcomes["coverage"][1] - result.outcomes["coverage"][0]
    close(summary.loc[("cross", "coverage"), "change"], change.mean())


def test_figures(model: interp.Model) -> None:
    for steps, said in ((12, "the model's own quantiles; bands: 10-90 %"), (30, "for 12 steps, then Chronos")):
        result = effects(model, prediction_length=steps)
        fan = circuits.plots.forecast_fan(result)
        assert said in fan.layout.title.subtitle.text
        assert "samples" not in fan.layout.title.subtitle.text
    bars = circuits.plots.forecast_effects(result)
    assert len(bars.data) == 3 * 8
    assert {note.text for note in bars.layout.annotations} >= {"share of steps inside the band", "MASE"}


def test_a_curve_with_forecasts(model: interp.Model) -> None:
    mosaic = probes.induction_mosaic(model, probes.repeated_random_patches(model, batch_size=3, patches=4))
    fresh = probes.repeated_random_patches(model, batch_size=4, patches=4, seed=1)
    options: dict[str, Any] = {"counts": (1, 2), "controls": 2, "threshold": 2.0, "series": UNEVEN, "progress": False}
    curve = circuits.ablation_curve(model, mosaic["reg"], fresh, prediction_length=12, season=3, **options)
    assert curve.forecasts is not None
    assert curve.forecasts.names[:3] == ("unedited", "top 1", "top 2")
    assert curve.forecasts.sets["top 2"] == tuple(str(head.address) for head in mosaic["reg"].either.heads()[:2])
    with interp.ablate(model, list(curve.forecasts.sets["top 2"])):
        close(curve.forecasts.fans[2], alone(model.pipeline, UNEVEN, 12), terms=FORWARD)
    assert circuits.plots.ablation_curve(curve).layout.annotations[2].text == "forecasts"
    with pytest.raises(MissingCapability, match="draws no samples"):
        circuits.ablation_curve(model, mosaic["reg"], fresh, num_samples=20, **options)


# Series that are odd


def test_series_that_are_shorter_than_a_patch(model: interp.Model) -> None:
    series = [SERIES[0, :17], SERIES[1, :15]]  # contexts of 5 and 3 steps; a patch has 8
    result = effects(model, series=series, season=1)
    own = tiny_bolt().predict([torch.tensor(s[:-12], dtype=torch.float32) for s in series], 12)
    close(result.fans[0], own.double().numpy(), terms=FORWARD)
    assert np.isfinite(result.outcomes["mase"]).all()


@pytest.mark.parametrize("steps", HORIZONS)
def test_a_padded_series_is_forecast_as_it_is_alone(model: interp.Model, steps: int) -> None:
    series = [SERIES[0, :75], SERIES[1, :58]]
    together = effects(model, series=series, prediction_length=steps)
    alone = effects(model, series=[series[1]], prediction_length=steps)
    close(together.fans[:, 1], alone.fans[:, 0], terms=FORWARD)
    for outcome in ("mase", "pinball", "to_parroting"):
        close(together.outcomes[outcome][:, 1], alone.outcomes[outcome][:, 0], terms=FORWARD)


def test_missing_steps_and_long_contexts(model: interp.Model) -> None:
    """What lies before the model's context changes nothing but the scale of errors."""
    longer = np.concatenate([RNG.normal(size=(3, 50)), SERIES], axis=1)
    close(effects(model, series=longer).fans, effects(model, series=SERIES).fans)
    gaps = SERIES.copy()
    gaps[:, 80:96] = np.nan
    assert np.isfinite(effects(model, series=gaps).fans).all()


@pytest.mark.parametrize(
    ("series", "options", "said"),
    [
        (np.ones((1, 40)), {}, "do not vary from season to season"),
        (np.where(np.arange(40) < 28, np.nan, SERIES[:1, :40]), {}, r"series \[0\] have a context no longer than"),
        (np.where(np.arange(160) < 20, SERIES, np.nan)[:, :148].copy(), {"fill": True}, "no value in what the model"),
        (np.full(40, np.nan), {}, "hold only NaN"),
        (SERIES, {"prediction_length": 158}, "the context must be longer"),
        (SERIES, {"method": "resample"}, "give a resample as an edit"),
        (SERIES, {"method": "mean"}, "needs a reference"),
        (SERIES, {"ablations": {}}, "no ablations"),
        (SERIES, {"ablations": {"two": ["decoder.cross.1.0"] * 2}}, "more than once"),
        (SERIES, {"prediction_length": 0}, "prediction_length"),
        (SERIES, {"controls": -1}, "controls"),
    ],
)
def test_bad_input(model: interp.Model, series: Any, options: dict[str, Any], said: str) -> None:
    if options.pop("fill", False):  # the model sees 96 steps, none of which has a value
        series = np.concatenate([series, SERIES[:, :12]], axis=1)
    with pytest.raises(InvalidInput, match=said):
        effects(model, **({"series": series} | options))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


def test_other_errors(model: interp.Model) -> None:
    with pytest.raises(MissingCapability, match="tiny-bolt draws no samples: its forecasts are quantiles"):
        effects(model, num_samples=5)
    with pytest.raises(InvalidInput, match="num_samples"):
        effects(model, num_samples=0)
    with pytest.raises(UnknownHead):
        effects(model, {"far": "decoder.cross.9.0"})
    with pytest.raises(InertEdit, match="no step had position"):
        effects(model, {"late": [interp.Zero("decoder.cross.1", positions=1)]})
    with pytest.raises(InvalidInput, match="the reference has 2 rows and the run 3"):
        effects(model, {"rows": [interp.Resample("decoder.cross.1", Batch.from_series(model, SERIES[:2]))]})
    with pytest.raises(InvalidInput, match=r"quantiles from 0\.1 to 0\.2: there is no median"):
        effects(interp.wrap(tiny_bolt(quantiles=[0.1, 0.2]), name="low"))
    with interp.edited(model, interp.Scale("decoder.cross.0", 1.0)):
        with pytest.raises(InvalidInput, match="Leave edits first"):
            effects(model)
        model.pipeline.predict(torch.arange(9.0), 1)
