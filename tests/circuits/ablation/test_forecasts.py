"""Forecasts under ablation: common random numbers, likelihoods, errors, baselines, all by hand."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import circuits
import interp
from circuits.ablation.baselines import naive, parrot, seasonal_naive
from circuits.ablation.forecast_effects import ForecastEffects
from circuits.ablation.forecast_scores import QUANTILES, bin_crps, forecast_errors, quantiles, seasonal_scale
from circuits.ablation.sampling import Ablated, Sampler, reading, sampling, split, uniforms
from interp import Batch, zoo
from interp.errors import InvalidInput
from interp.names import Head
from interp.zoo.planted_gpt2 import INDUCTION, PREVIOUS_TOKEN
from tests.conftest import tiny_causal_pipeline, tiny_gpt2, tiny_pipeline
from tests.tolerance import FORWARD, LAYER, close, not_close, tolerance

RNG = np.random.default_rng(0)
SERIES = np.sin(np.arange(30) * 0.7)[None] * np.array([[1.0], [3.0], [0.2]]) + RNG.normal(0, 0.1, (3, 30))
UNEVEN = SERIES.copy()
UNEVEN[0, :7] = np.nan
UNEVEN[1, [2, 9, 10]] = np.nan
MAKE = {"t5": tiny_pipeline, "gpt2": tiny_causal_pipeline}


@pytest.fixture(params=list(MAKE))
def double(request: pytest.FixtureRequest) -> interp.Model:
    return interp.wrap(MAKE[request.param](dtype=torch.float64))


def sets_of(model: interp.Model) -> list[list[Any]]:
    """Nothing, a head that reads the past, and heads of the first kind of attention and of the decoder's own."""
    past = [Head(*model.family.context, 1, 0)]
    return [[], past, [Head(*model.family.kinds[0], 0, 1), Head("decoder", "self", 0, 2)]]


def by_transformers(logits: torch.Tensor, uniform: float, temperature: float, top_k: int, top_p: float) -> int:
    """One token by the library's own warpers and a plain inverse of the cumulative distribution."""
    scores = logits[None].clone()
    scores[:, :2] = -torch.inf
    for warper in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)):
        scores = warper(torch.zeros(1, 1, dtype=torch.long), scores)  # type: ignore[arg-type]
    shares = scores[0].double().softmax(-1).numpy().cumsum()
    return int(np.searchsorted(shares, uniform * shares[-1]))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 50, 1.0), (0.7, 5, 0.6), (2.0, 4096, 0.9), (1.0, 50, 0.0)]
)
def test_tokens_are_drawn_as_transformers_warps(temperature: float, top_k: int, top_p: float, ties: bool) -> None:
    """Ties at the k-th logit are frequent in bfloat16: all of them stay, as in transformers."""
    logits = torch.randn(200, 4096, dtype=torch.float64) * 3
    if ties:
        logits = logits.round()
        top_p = 1.0
    uniform = torch.rand(200, dtype=torch.float64)
    sampler = Sampler(temperature, top_k if top_k < 4096 else 0, top_p, 4096)
    wanted = [by_transformers(*pair, temperature, top_k, top_p) for pair in zip(logits, uniform.tolist(), strict=True)]
    assert sampler(logits, uniform).tolist() == wanted


def test_the_extremes_of_a_uniform_number() -> None:
    logits = torch.zeros(3, 4096)
    found = Sampler(1.0, 0, 1.0, 4096)(logits, torch.tensor([0.0, 0.5, 1.0]))
    assert found.tolist() == [2, 2048, 4095]
    assert Sampler(1.0, 50, 1.0, 4096)(logits, torch.tensor([1.0, 1.0, 1.0])).max() <= 4095


def test_uniforms_of_a_series_do_not_depend_on_the_others() -> None:
    assert torch.equal(uniforms(1, 3, 4, 5)[:2], uniforms(1, 2, 4, 5))
    assert not torch.equal(uniforms(1, 2, 4, 5), uniforms(2, 2, 4, 5))


def test_sampled_paths_are_those_of_ordinary_forwards(double: interp.Model) -> None:
    """Each sampled token is what the whole model, edited and without cache, gives for its own past."""
    batch = Batch.from_series(double, UNEVEN)
    uniform = uniforms(0, 3, 4, 5)
    sets = sets_of(double)
    found = Ablated(double, sets, "zero", None).run(batch, sampling(double, uniform))[0]
    assert found.shape == (3, 3, 4, 5)
    assert (found[0] != found[1]).any()
    assert (found[0] != found[2]).any()
    config = double.chronos_config
    for index, members in enumerate(sets):
        with interp.ablate(double, members):
            for path in range(4):
                tokens = found[index, :, path]
                with torch.no_grad():
                    logits = double.module(**double.inputs(longer(batch, tokens[:, :-1]))).logits[:, -5:]
                for row in range(3):
                    for step in range(5):
                        wanted = by_transformers(
                            logits[row, step], float(uniform[row, path, step]), config.temperature, config.top_k, 1.0
                        )
                        assert tokens[row, step] == wanted


def longer(batch: Batch, tokens: torch.Tensor) -> Batch:
    """With more tokens in the decoder, all of them seen."""
    ids = torch.cat([batch.decoder_input_ids, tokens], 1)
    shown = torch.cat([batch.decoder_attention_mask, torch.ones_like(tokens)], 1)
    return Batch(batch.input_ids, batch.attention_mask, ids, shown)


@pytest.mark.parametrize("ends", ["with a value", "with a gap"])
@pytest.mark.parametrize("members", [[], ["decoder.self.0.1", "decoder.self.1.2"]])
def test_a_decoder_alone_goes_on_as_generate_does(ends: str, members: list[str]) -> None:
    """Padding on the left, gaps, and even a gap at the end, after which `generate` counts positions anew."""
    model = interp.wrap(tiny_causal_pipeline(dtype=torch.float64))
    series = UNEVEN.copy()
    if ends == "with a gap":
        series[2, -2:] = np.nan
    batch = Batch.from_series(model, series)
    ids = {"input_ids": batch.decoder_input_ids, "attention_mask": batch.decoder_attention_mask}
    given: Any = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True, "pad_token_id": 0}
    with interp.ablate(model, members):
        made = model.module.generate(**ids, max_new_tokens=6, min_new_tokens=6, eos_token_id=1, **given)
    drawn, wanted = made.sequences[:, -6:], torch.stack(made.logits, 1)
    tokens = torch.cat([batch.decoder_input_ids[:, -1:], drawn[:, :-1]], 1)
    ablated = Ablated(model, [["decoder.self.2.0"], [model.head(head) for head in members]], "zero", None)
    found = ablated.run(batch, reading(model, tokens, lambda logits: logits))[0][1, :, 0]
    close(found.float(), wanted, terms=FORWARD)
    # The likeliest token of each step, which a k of 1 leaves alone, drawn step by step by several samples.
    model.pipeline.model.config.top_k = 1
    sampled = ablated.run(batch, sampling(model, uniforms(0, 3, 2, 6)))[0][1]
    close(sampled, drawn[:, None].expand(-1, 2, -1))
    with interp.ablate(model, members):
        own = model.pipeline.predict(torch.tensor(series), prediction_length=6, num_samples=2)
    scale = model.pipeline.tokenizer.context_input_transform(torch.tensor(series))[2]  # type: ignore[attr-defined]
    close(model.pipeline.tokenizer.output_transform(sampled, scale), own)


def test_samples_are_distributed_as_the_pipelines_own(double: interp.Model) -> None:
    """The first step's shares over many samples; the second's, given the likeliest first token, too."""
    series = UNEVEN[:1]
    model, n = double, 2000
    model.pipeline.model.config.top_k = 3
    members = sets_of(model)[1]
    batch = Batch.from_series(model, series)
    found = Ablated(model, [members], "zero", None).run(batch, sampling(model, uniforms(0, 1, n, 2)))[0][0, 0]
    ids, mask, _ = model.pipeline.tokenizer.context_input_transform(torch.tensor(series))
    with interp.ablate(model, members), torch.random.fork_rng():
        torch.manual_seed(0)
        own = model.pipeline.model(ids, mask, prediction_length=2, num_samples=n)[0]
    first = own[:, 0].mode().values
    second = [drawn[drawn[:, 0] == first][:, 1] for drawn in (found, own)]
    for a, b in ((found[:, 0], own[:, 0]), second):
        assert set(a.tolist()) == set(b.tolist())
        for token in b.unique():
            share = [float((x == token).double().mean()) for x in (a, b)]
            spread = (share[1] * (1 - share[1]) * (1 / len(a) + 1 / len(b))) ** 0.5
            assert abs(share[0] - share[1]) < 4 * spread + tolerance()


def following(ablated: Ablated, batch: Batch, steps: int = 7) -> torch.Tensor:
    """Logits of the given tokens, of which all but the last so many are read before: a start token, or a series."""
    prompt, given, _ = split(batch, steps - 1)
    given = torch.cat([given, batch.decoder_input_ids[:, -1:]], 1)
    return ablated.run(prompt, reading(ablated.model, given, lambda logits: logits))[0][:, :, 0]


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_teacher_forced_logits_are_huggingfaces(double: interp.Model, method: Any) -> None:
    batch = Batch.from_series(double, UNEVEN, num_decoder=6)
    reference = Batch.from_series(double, UNEVEN * 2) if method == "mean" else None
    # An early head and a later one that reads what it changes: the mean must be the unedited model's.
    stack, kind = double.family.context
    mixed = [Head(*double.family.kinds[0], 0, 1), Head(stack, kind, 1, 1)]
    sets = [
        *sets_of(double),
        mixed,
        [interp.Site("decoder", None, 1, "mlp_out"), Head(stack, kind, 0, 1)],
        [interp.AttentionLayer(stack, kind, 0)],
    ]
    found = following(Ablated(double, sets, method, reference), batch)
    for index, members in enumerate(sets):
        options: dict[str, Any] = {"method": method, "reference": reference} if members else {}
        with interp.ablate(double, members, **options), torch.no_grad():
            wanted = double.module(**double.inputs(batch)).logits[:, -7:]
        close(found[index], wanted, terms=FORWARD, dtype=torch.float64)


def test_the_prompt_is_read_once_a_set(causal: interp.Model) -> None:
    """Not once a sample: what the layers run on is what is needed and no more."""
    seen: list[tuple[int, int]] = []
    attention = causal.module.transformer.h[0].attn

    def look(_module: Any, _args: Any, output: Any) -> None:
        seen.append(tuple(output[0].shape[:2]))

    handle = attention.register_forward_hook(look)
    try:
        batch = Batch.from_series(causal, SERIES, num_decoder=6)
        prompt, given, _ = split(batch, 6)
        jobs = reading(causal, given, lambda logits: logits), sampling(causal, uniforms(0, 3, 5, 6))
        Ablated(causal, sets_of(causal), "zero", None).run(prompt, *jobs)
    finally:
        handle.remove()
    assert seen == [(9, 23), (9, 6), *[(45, 1)] * 6]


def test_few_sets_at_once_give_the_same(double: interp.Model) -> None:
    batch = Batch.from_series(double, UNEVEN, num_decoder=6)
    reference = Batch.from_series(double, UNEVEN * 2)
    prompt, given, _ = split(batch, 6)
    jobs = reading(double, given, lambda logits: logits), sampling(double, uniforms(0, 3, 4, 6))
    ablated = Ablated(double, sets_of(double), "mean", reference)
    whole, one = (ablated.run(prompt, *jobs, at_once=at_once) for at_once in (None, 1))
    close(whole[0], one[0], terms=FORWARD, dtype=torch.float64)
    assert torch.equal(whole[1], one[1])


def test_the_heads_of_a_planted_decoder_make_its_forecasts() -> None:
    """A motif that comes again is copied by the two heads that were written by hand; controls leave it alone."""
    rng = np.random.default_rng(0)
    series = np.stack([np.tile(rng.permutation(np.linspace(-2, 2, 12)) * (1 + i), 4) for i in range(4)])
    own = {"induction": INDUCTION, "previous token": PREVIOUS_TOKEN}
    options: dict[str, Any] = {"ablations": own, "season": 5, "exclude": list(own.values()), "controls": 3}
    nll, cut = (
        effects(zoo.planted_decoder(wired=wired).model, series, **options).summary().query("outcome == 'nll'")
        for wired in (True, False)
    )
    assert (nll["unedited"] < 0.1).all()
    assert (nll["low"] > 5).all()
    assert (nll["control"].abs() < 0.1).all()
    assert (cut["unedited"] > 5).all()


def test_teacher_forced_logits_in_single_precision(pico: interp.Model) -> None:
    batch = Batch.from_series(pico, SERIES, num_decoder=6)
    found = following(Ablated(pico, [[]] * 3, "zero", None), batch)
    with torch.no_grad():
        wanted = pico.module(**pico.inputs(batch)).logits
    close(found[2], wanted, terms=FORWARD)


def test_crps_of_bins_by_its_definition() -> None:
    centers = torch.sort(torch.randn(40, dtype=torch.float64)).values
    log_probs = torch.randn(3, 40, dtype=torch.float64) * 2
    truth = torch.randn(3, dtype=torch.float64)
    shares = log_probs.softmax(-1)
    apart = (centers[:, None] - centers[None]).abs()
    wanted = [(p * (centers - y).abs()).sum() - 0.5 * (p @ apart @ p) for p, y in zip(shares, truth, strict=True)]
    close(bin_crps(log_probs, centers, truth), torch.stack(wanted))
    certain = torch.full((1, 40), -1e9, dtype=torch.float64)
    certain[0, 7] = 0
    close(bin_crps(certain, centers, truth[:1]), (centers[7] - truth[:1]).abs())


def test_errors_by_hand() -> None:
    contexts, truth = SERIES[:, :24], SERIES[:, 24:]
    contexts = contexts.copy()
    contexts[0, :3] = np.nan
    fans = {"a": np.sort(RNG.normal(0, 1, (3, 9, 6)), axis=1), "b": np.zeros((3, 9, 6))}
    found = forecast_errors(contexts, truth, fans, season=4)
    for row in range(3):
        known = contexts[row][~np.isnan(contexts[row])]
        scale = np.abs(known[4:] - known[:-4]).mean()
        close(seasonal_scale(contexts, 4)[row], scale)
        for name, fan in fans.items():
            close(found["mase"][name][row], np.abs(truth[row] - fan[row, 4]).mean() / scale)
            losses = [
                np.maximum(q * (truth[row] - f), (q - 1) * (truth[row] - f)).sum()
                for q, f in zip(QUANTILES, fan[row], strict=True)
            ]
            wanted = 2 * np.mean(losses) / np.abs(truth[row]).sum()
            close(found["wql"][name][row], wanted)
    samples = RNG.normal(0, 1, (2, 20, 6))
    close(quantiles(samples)[:, 4], np.median(samples, axis=1))


def test_baselines() -> None:
    context = np.array([1.0, 2, 3, 4, 5, 6, np.nan])
    np.testing.assert_array_equal(naive(context, 2), [6, 6])
    np.testing.assert_array_equal(seasonal_naive(context, 5, 3), [5, 6, 4, 5, 6])
    motif = np.array([3.0, 1, 4, 1, 5, 9, 2, 6])
    np.testing.assert_array_equal(parrot(np.tile(motif, 3)[:-2], 6, window=3), [2, 6, 3, 1, 4, 1])
    np.testing.assert_array_equal(parrot(np.tile(motif, 3) + [0.01] * 24, 2, window=3), [3.01, 1.01])
    # What followed ends before the horizon: it goes on with its own start.
    np.testing.assert_array_equal(parrot(np.array([9.0, 1, 2, 3, 1, 2]), 5, window=2), [3, 1, 2, 3, 1])
    assert np.isnan(parrot(np.array([1.0, 2, np.nan]), 2, window=2)).all()
    assert np.isnan(parrot(np.arange(4.0), 2, window=4)).all()
    with pytest.raises(InvalidInput, match="window"):
        parrot(np.arange(4.0), 2, window=0)
    with pytest.raises(InvalidInput, match="shorter than its season"):
        seasonal_naive(np.arange(3.0), 2, 4)
    np.testing.assert_array_equal(seasonal_naive(np.array([np.nan, 1, np.nan, 2]), 3, 2), [np.nan, 2, np.nan])


def effects(model: interp.Model, series: Any = SERIES, **options: Any) -> ForecastEffects:
    chosen: dict[str, Any] = {"one": Head(*model.family.context, 1, 0)}
    settings: dict[str, Any] = {"ablations": chosen, "prediction_length": 6, "num_samples": 5, "controls": 2}
    return circuits.forecast_effects(model, series, progress=False, **(settings | options))


def test_what_forecast_effects_hold(double: interp.Model) -> None:
    found = effects(double, season=3)
    assert found.names == ("unedited", "one", "one, control 1", "one, control 2")
    assert all(values.shape == (4, 3) for values in found.outcomes.values())
    assert not found.outcomes["distance"][0].any()
    batch = Batch.from_series(double, SERIES, num_decoder=6)
    with interp.ablate(double, Head(*double.family.context, 1, 0)), torch.no_grad():
        logits = double.module(**double.inputs(batch)).logits[:, -7:-1, 2:]
    labels = batch.decoder_input_ids[:, -6:, None] - 2
    nll = -logits.log_softmax(-1).gather(-1, labels)[..., 0].mean(-1)
    close(found.outcomes["nll"][1], nll.numpy(), terms=LAYER)
    tokenizer: Any = double.pipeline.tokenizer
    _, _, scale = tokenizer.context_input_transform(torch.tensor(SERIES[:, :-6]))
    centers = torch.cat([tokenizer.centers[:1], tokenizer.centers])
    crps = bin_crps(logits, centers, torch.tensor(SERIES[:, -6:]) / scale[:, None]).mean(-1).numpy() * scale.numpy()
    close(found.outcomes["crps"][1], crps / seasonal_scale(SERIES[:, :-6], 3), terms=LAYER)
    samples = tokenizer.output_transform(
        Ablated(double, [found_heads(found, "one")], "zero", None).run(
            Batch.from_series(double, SERIES[:, :-6]), sampling(double, uniforms(0, 3, 5, 6)))[0][0], scale,
    )  # fmt: skip
    close(found.fans[1], quantiles(samples.double().numpy()), terms=LAYER)
    moved = np.abs(found.fans[1, :, 4] - found.fans[0, :, 4]).mean(-1) / seasonal_scale(SERIES[:, :-6], 3)
    close(found.outcomes["distance"][1], moved)
    missed = np.abs(parrot(SERIES[0, :-6], 6) - SERIES[0, -6:]).mean() / seasonal_scale(SERIES[:, :-6], 3)[0]
    close(found.baselines["parroting"]["mase"][0], missed, terms=FORWARD)


def found_heads(found: ForecastEffects, name: str) -> list[Head]:
    return [Head.parse(head) for head in found.sets[name]]


def test_runs_differ_by_the_edit_alone(either: interp.Model) -> None:
    model, one = either, Head(*either.family.context, 1, 0)
    state = torch.get_rng_state()
    first = effects(model)
    again = effects(model, ablations={"other": "decoder.self.1.1", "one": one}, controls=0)
    assert torch.equal(state, torch.get_rng_state())
    close(first.fans[0], again.fans[0], terms=FORWARD)
    close(first.fans[1], again.fans[2], terms=FORWARD)
    alone = effects(model, SERIES[:1])
    close(first.fans[1, :1], alone.fans[1], terms=FORWARD)
    chunked = effects(model, memory=1)
    close(first.outcomes["nll"], chunked.outcomes["nll"], terms=LAYER)
    close(first.outcomes["mase"], chunked.outcomes["mase"], terms=FORWARD)
    several = effects(model, memory=2**24)
    close(first.outcomes["nll"], several.outcomes["nll"], terms=LAYER)
    not_close(first.fans[0], effects(model, seed=1).fans[0])


def test_encoder_heads_layers_and_sites(model: interp.Model) -> None:
    heads = ["encoder.self.0.1", "decoder.cross.0.0"]
    found = effects(model, ablations={"heads": heads, "layer": "decoder.cross.1", "mlp": "encoder.1.mlp_out"})
    assert found.reasons["layer"] == found.reasons["mlp"] == "no control: they are drawn for sets of ablated heads only"
    assert len(found.controls["heads"]) == 2
    summary = found.summary()
    assert summary[summary["ablation"] == "mlp"]["control"].isna().all()
    assert (found.outcomes["distance"][1:4] > 0).any(1).all()


def test_the_summary_and_the_frame(model: interp.Model) -> None:
    found = effects(model)
    row = found.summary().set_index(["ablation", "outcome"]).loc[("one", "mase")]
    change = found.outcomes["mase"][1] - found.outcomes["mase"][0]
    close(row["change"], change.mean())
    assert row["low"] <= row["change"] <= row["high"]
    close(row["control"], (found.outcomes["mase"][2:] - found.outcomes["mase"][0]).mean())
    frame = found.to_frame()
    assert len(frame) == 7 * 4 * 3 + 3 * 2 * 3
    assert np.isnan(effects(model, SERIES[:1]).summary()["low"]).all()


def test_missing_values_in_the_context(either: interp.Model) -> None:
    model = either
    series = SERIES.copy()
    series[1, [2, 5, 6]] = np.nan
    found = effects(model, series, season=2)
    assert all(np.isfinite(values).all() for name, values in found.outcomes.items() if "parroting" not in name)
    close(found.fans[:, 0], effects(model, season=2).fans[:, 0], terms=FORWARD)
    uneven = [SERIES[0], SERIES[1, 8:]]
    assert np.isfinite(effects(model, uneven).outcomes["mase"]).all()


def test_what_a_decoder_alone_cannot_forecast(causal: interp.Model) -> None:
    for address in ("decoder.cross.1.0", "encoder.self.0", "encoder.0.mlp_out"):
        with pytest.raises(
            (interp.errors.UnknownHead, interp.errors.UnknownSite), match="no encoder and no cross-attention"
        ):
            effects(causal, ablations={"one": address})
    of_t5 = Batch(torch.ones(2, 9, dtype=torch.long))
    with pytest.raises(InvalidInput, match="decoder-only GPT-2"):
        effects(causal, method="mean", reference=of_t5)
    short = interp.wrap(tiny_causal_pipeline(n_positions=64))  # its context_length is 64, too
    with pytest.raises(InvalidInput, match=r"a sequence of 69 tokens: .* 64 positions"):
        effects(short, np.sin(np.arange(80) * 0.7))
    assert np.isfinite(effects(short, np.sin(np.arange(80) * 0.7)[-65:]).outcomes["mase"]).all()
    text = interp.wrap(tiny_gpt2(), name="text")
    with pytest.raises(interp.errors.UnsupportedModel, match="text has no chronos_config"):
        effects(text)


@pytest.mark.parametrize(
    ("series", "options", "says"),
    [
        (SERIES[:, :8], {"season": 4}, "longer than its season"),
        ([SERIES[0], SERIES[1, -9:]], {"season": 4}, r"series \[1\] have a context no longer"),
        (np.ones(30), {}, "constant"),
        (np.tile([1.0, 2.0], 15), {"season": 2}, "do not vary"),
        (np.where(np.arange(30) == 28, np.nan, SERIES[0]), {}, "missing values in the last 6"),
        (SERIES, {"prediction_length": 7}, "forecasts 6 steps at once"),
        (SERIES, {"num_samples": 0}, "num_samples"),
        (SERIES, {"ablations": {}}, "no ablations"),
        (SERIES, {"ablations": ["decoder.cross.1.0"]}, "dictionary"),
        (SERIES, {"ablations": {"unedited": "decoder.cross.1.0"}}, "unedited"),
        (SERIES, {"ablations": {"none": []}}, "has no heads"),
        (SERIES, {"ablations": {"two": ["decoder.cross.1.0"] * 2}}, "more than once"),
        (SERIES, {"method": "resample"}, "part ways"),
        (SERIES, {"method": "mean"}, "needs a reference"),
        (SERIES, {"season": 0}, "season"),
        (SERIES, {"seed": -1}, "seed"),
        (SERIES, {"seed": 1.5}, "seed"),
        (SERIES, {"controls": -1}, "controls"),
        (SERIES, {"ablations": {"naive": "decoder.cross.1.0"}}, "another forecast"),
        (SERIES, {"ablations": {1: "decoder.cross.1.0"}}, "no name"),
        (
            SERIES,
            {"ablations": {"a": "decoder.cross.1.0", "a, control 1": "decoder.self.0.0"}},
            "has controls",
        ),
        (SERIES, {"ablations": {"stream": "decoder.1.resid_pre"}}, "one by one"),
    ],
)
def test_bad_input(model: interp.Model, series: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        effects(model, series, **options)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


def test_unknown_heads_and_edits_in_force(model: interp.Model) -> None:
    with pytest.raises(interp.errors.UnknownHead):
        effects(model, ablations={"far": "decoder.cross.9.0"})
    with interp.edited(model, interp.Scale("decoder.cross.0", 1.0)):
        with pytest.raises(InvalidInput, match="Leave edits first"):
            effects(model)
        model.pipeline.predict(torch.arange(9.0), prediction_length=1)


def test_heads_that_are_never_controls(model: interp.Model) -> None:
    found = effects(model, controls=5, exclude=["decoder.cross.1.1"])
    assert [found.sets[name] for name in found.controls["one"]] == [("decoder.cross.1.2",)]
    assert "only 1 distinct" in found.reasons["one"]


def test_outcomes_that_do_not_exist(model: interp.Model) -> None:
    """A truth of zeros has no weighted loss; a context that ends in a gap has nothing to parrot."""
    series = SERIES.copy()
    series[1, -6:] = 0
    found = effects(model, series)
    assert np.isnan(found.outcomes["wql"][:, 1]).all()
    assert np.isfinite(found.outcomes["wql"][:, 0]).all()
    row = found.summary().set_index("outcome").loc["wql"]
    assert (row["series"], np.isfinite(row["change"])) == (2, True)
    gap = SERIES.copy()
    gap[:, 20] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        empty = effects(model, gap).summary().set_index("outcome").loc["parroting"]
    assert (empty["series"], np.isnan(empty["change"])) == (0, True)


def test_a_curve_with_forecasts(pico: interp.Model) -> None:
    import probes
    from interp.zoo.benchmark import held_out

    values, period = held_out()
    mosaic, fresh = probes.induction_mosaic(pico, seed=0), probes.repeated_random_tokens(seed=1)
    k = len(mosaic.heads())
    curve = circuits.ablation_curve(
        pico, mosaic, fresh, counts=[k], controls=2, series=values[period == 12][:4], season=12, num_samples=10,
        progress=False,
    )  # fmt: skip
    assert curve.forecasts is not None
    assert list(curve.forecasts.controls) == [f"top {k}"]
    assert [tuple(map(str, s)) for s in curve.points[0].control_sets] == [
        curve.forecasts.sets[f"top {k}, control {i}"] for i in (1, 2)
    ]
    found = curve.forecasts.summary().set_index("outcome")
    for outcome in ("nll", "crps", "mase", "wql"):
        assert found.loc[outcome, "low"] > 0
        assert found.loc[outcome, "change"] > 10 * abs(found.loc[outcome, "control"])
    with pytest.raises(InvalidInput, match="leave series out"):
        circuits.ablation_curve(pico, mosaic, fresh, method="resample", reference=fresh, series=values)
