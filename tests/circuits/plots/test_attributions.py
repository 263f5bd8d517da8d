"""Figures of direct attribution hold the numbers they are made from."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import circuits
import interp
import probes
from circuits import plots
from circuits.attribution.direct import DirectAttribution
from interp.errors import InvalidInput
from probes.stimuli.repeated_tokens import RepeatedTokens
from tests.conftest import tiny_gpt2
from tests.probes.plots.test_mosaics import needs_browser, traces
from tests.tolerance import BUNDLED, LAYER, close


@pytest.fixture
def tokens() -> RepeatedTokens:
    return probes.repeated_random_tokens(batch_size=5, sequence_length=4, seed=1)


@pytest.fixture
def found(model: interp.Model, tokens: RepeatedTokens) -> DirectAttribution:
    return circuits.direct_attribution(model, tokens, target=tokens.continuation)


def steps(figure: go.Figure) -> dict[str, float]:
    bars = traces(figure, go.Waterfall)[0]
    return dict(zip(bars.x, map(float, bars.y), strict=True))


def test_the_waterfall_adds_up(found: DirectAttribution) -> None:
    figure = plots.attribution(found, named=4)
    bars, frame = steps(figure), found.to_frame()
    assert next(iter(bars)) == "embedding"
    assert list(bars)[-1] == "logit"
    named = [name for name in bars if name.startswith("decoder")]
    others = next(name for name in bars if name.endswith("others"))
    assert others == f"{len(frame) - 1 - len(named)} others"
    means = frame.set_index("part")["mean"]
    for name in named:
        close(bars[name], means[name])
    assert set(named) <= set(means.abs().sort_values().index[-4:])
    left_out = means.drop(["decoder.0.resid_pre", *named])
    close(bars[others], left_out.sum())
    close(sum(bars.values()), found.total[:, -1].mean(), terms=BUNDLED)
    numbers: Any = traces(figure, go.Scatter)[1]
    assert float(numbers.text[-1]) == pytest.approx(found.total[:, -1].mean(), rel=5e-3)
    assert list(numbers.textposition)[:-1] == [
        "bottom center" if step < 0 else "top center" for step in list(bars.values())[:-1]
    ]
    whiskers: Any = traces(figure, go.Scatter)[0]
    at = list(bars).index(named[0])
    row = frame[frame["part"] == named[0]].iloc[0]
    close(whiskers.error_y.array[at], row["high"] - row["mean"])


def test_everything_named_leaves_no_others(found: DirectAttribution) -> None:
    bars = steps(plots.attribution(found, named=100, position=0))
    assert len(bars) == len(found.parts) + 1
    close(list(bars.values())[:-1], found.values[..., 0].mean(-1))


def test_one_row_of_it(found: DirectAttribution) -> None:
    figure = plots.attribution(found, row=3, named=2)
    close(sum(steps(figure).values()), found.total[3, -1], of=1, terms=LAYER)
    assert "row 3" in figure.layout.title.subtitle.text
    assert "whiskers" not in figure.layout.title.subtitle.text


def test_what_edits_put_in_is_drawn(model: interp.Model, tokens: RepeatedTokens) -> None:
    with interp.edited(model, interp.Add("decoder.1.resid_mid", torch.ones(20))):
        steered = circuits.direct_attribution(model, tokens, target=tokens.continuation, against=7)
    bars = steps(plots.attribution(steered))
    close(bars["edits, rounding"], steered.remainder[:, -1].mean())
    close(sum(bars.values()), steered.total[:, -1].mean(), of=1, terms=LAYER)


def test_past_steps_under_the_values(model: interp.Model, tokens: RepeatedTokens) -> None:
    past = circuits.attribution_by_position(model, tokens, target=tokens.continuation)
    figure = plots.attribution_by_position(past, heads=["decoder.cross.1.2", "decoder.cross.0.0"])
    bars = {bar.name: np.array(bar.y, dtype=float) for bar in traces(figure, go.Bar)}
    assert list(bars) == ["decoder.cross.1.2", "decoder.cross.0.0", "all other cross heads"]
    close(bars["decoder.cross.1.2"], past.values[1, 2].mean(0))
    close(sum(bars.values()), past.by_position()["mean"])
    values, sums = traces(figure, go.Scatter)
    np.testing.assert_array_equal(np.array(values.y, dtype=float), past.token_values[0])
    close(np.array(sums.y, dtype=float), past.of().mean(0))
    assert figure.layout.yaxis.title.text == "scaled value, row 0"
    one = plots.attribution_by_position(past, row=2)
    close(np.array(traces(one, go.Scatter)[1].y, dtype=float), past.of()[2])
    assert len(traces(one, go.Bar)) == 6
    every = plots.attribution_by_position(past, heads=model.heads("decoder.cross"))
    assert "all other cross heads" not in {bar.name for bar in traces(every, go.Bar)}


def test_biases_have_a_bar_of_their_own(causal: interp.Model) -> None:
    tokens = probes.repeated_random_tokens(batch_size=4, sequence_length=4, encoder=False)
    found = circuits.direct_attribution(causal, tokens, target=tokens.continuation)
    bars = steps(plots.attribution(found, named=1))
    close(bars["biases"], found.values[-1, :, -1].mean())
    assert sum(bars.values()) == pytest.approx(found.total[:, -1].mean(), abs=1e-4)


def test_the_past_of_a_decoder_alone(causal: interp.Model) -> None:
    tokens = probes.repeated_random_tokens(batch_size=4, sequence_length=4, encoder=False)
    past = circuits.attribution_by_position(causal, tokens, target=tokens.continuation)
    figure = plots.attribution_by_position(past, heads="decoder.self.1.2")
    bars = {bar.name: np.array(bar.y, dtype=float) for bar in traces(figure, go.Bar)}
    assert list(bars) == ["decoder.self.1.2", "all other self heads"]
    close(sum(bars.values()), past.by_position()["mean"])
    assert figure.layout.xaxis2.title.text == "position"
    assert "through self-attention" in figure.layout.title.text
    assert all(bar.name.startswith("decoder.self") for bar in traces(plots.attribution_by_position(past), go.Bar)[:-1])


def test_words_have_no_values_to_draw() -> None:
    model = interp.wrap(tiny_gpt2(), name="text")
    tokens = probes.repeated_random_tokens(batch_size=4, sequence_length=4, encoder=False)
    past = circuits.attribution_by_position(model, tokens, target=tokens.continuation)
    figure = plots.attribution_by_position(past)
    (sums,) = traces(figure, go.Scatter)
    close(np.array(sums.y, dtype=float), past.of().mean(0))
    assert figure.layout.xaxis.title.text == "position"
    lens = plots.logit_lens(circuits.logit_lens(model, tokens))
    assert [note.text for note in lens.layout.annotations] == [
        "effective tokens: exp(entropy)",
        "KL to the output, nats",
    ]
    points = ["embedding", *(f"{layer} {part}" for layer in range(3) for part in ("self", "mlp"))]
    assert list(traces(lens, go.Scatter)[-1].x) == points


def test_a_flat_lens_is_drawn_flat(model: interp.Model, tokens: RepeatedTokens) -> None:
    lens = circuits.logit_lens(model, tokens)
    flat = plots.logit_lens(dataclasses.replace(lens, entropy=lens.entropy * 2.0**-40)).layout.yaxis
    assert flat.range[0] < -0.01 < 0.01 < flat.range[1]
    assert flat.dtick == "D2"
    wide = np.linspace(0.1, 3, len(lens.points))[:, None, None] + 0 * lens.entropy
    axis = plots.logit_lens(dataclasses.replace(lens, entropy=wide)).layout.yaxis
    assert (axis.type, axis.dtick, axis.range) == ("log", 1, None)


def test_the_lens_by_point(model: interp.Model, tokens: RepeatedTokens) -> None:
    lens = circuits.logit_lens(model, tokens, target=tokens.continuation)
    figure = plots.logit_lens(lens)
    lines = [t for t in traces(figure, go.Scatter) if t.mode == "lines+markers"]
    for line, measure in zip(lines, ("effective_tokens", "kl", "log_prob"), strict=True):
        close(np.array(line.y, dtype=float), getattr(lens, measure)[..., -1].mean(-1))
        assert list(line.x) == ["embedding", "0 self", "0 cross", "0 mlp", "1 self", "1 cross", "1 mlp"]
    assert len(traces(figure, go.Scatter)) == 6
    plain = plots.logit_lens(circuits.logit_lens(model, tokens), position=0)
    titles = [annotation.text for annotation in plain.layout.annotations]
    assert titles[-1] == "expected value (scaled value)"


def test_bad_input(model: interp.Model, found: DirectAttribution, tokens: RepeatedTokens) -> None:
    past = circuits.attribution_by_position(model, tokens, target=3)
    for match, call in {
        r"circuits\.direct_attribution": lambda: plots.attribution(past),  # type: ignore[arg-type]
        r"circuits\.attribution_by_position": lambda: plots.attribution_by_position(found),  # type: ignore[arg-type]
        r"circuits\.logit_lens": lambda: plots.logit_lens(found),  # type: ignore[arg-type]
        r"rows 0-4": lambda: plots.attribution(found, row=5),
        r"position=2": lambda: plots.attribution(found, position=2),
        r"named=0": lambda: plots.attribution(found, named=0),
        r"has heads decoder\.cross": lambda: plots.attribution_by_position(past, heads="decoder.self.0.0"),
    }.items():
        with pytest.raises(InvalidInput, match=match):
            call()


@needs_browser
def test_they_can_be_drawn(found: DirectAttribution, tmp_path: Path) -> None:
    path = probes.plots.write_images({tmp_path / "waterfall.png": plots.attribution(found)}, scale=1)[0]
    assert path.stat().st_size > 10_000
