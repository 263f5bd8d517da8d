"""Series: the multisine's formula, their time axis, which token is which step, and the prefix of random tokens."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import interp
from probes import (
    TimeSeries,
    attention_spectrum,
    context_attention,
    motif,
    multisine,
    repeated_random_tokens,
    series_batch,
)
from probes.stimuli import datasets
from tests.tolerance import FORWARD, LAYER, close

PUBLISHED = ([5, 10, 20, 40], [1, 0.75, 0.5, 0.5])


def test_the_published_multisine_is_its_formula() -> None:
    series = multisine(*PUBLISHED)
    expected = [
        sum(a * np.sin(2 * np.pi * k * i * 3 / 301) for k, a in zip(*PUBLISHED, strict=True)) for i in range(301)
    ]
    assert series.values.dtype == np.float64
    close(series.values, expected, of=1000, dtype=torch.float64)
    assert (len(series), series.spacing, series.unit) == (301, 3 / 301, "s")
    close(series.duration, 3, dtype=torch.float64)
    assert series.frequencies == (5.0, 10.0, 20.0, 40.0)


@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.floats(-3, 3), st.floats(-7, 7)), min_size=1, max_size=4),
    st.floats(0.5, 4),
    st.integers(80, 120),
)
def test_every_component_has_its_own_amplitude_and_phase(
    parts: list[tuple[float, float, float]], duration: float, steps: int
) -> None:
    k, a, phi = zip(*parts, strict=True)
    series = multisine(k, a, phi, duration=duration, steps=steps)
    alone = [multisine(*part, duration=duration, steps=steps).values for part in parts]
    close(series.values, np.sum(alone, axis=0), terms=FORWARD, dtype=torch.float64)
    t = np.linspace(0, duration, steps, endpoint=False)
    close(alone[0], a[0] * np.imag(np.exp(1j * (2 * np.pi * k[0] * t + phi[0]))), terms=FORWARD, dtype=torch.float64)


def test_one_amplitude_and_one_phase_hold_for_all() -> None:
    one, each = multisine([3, 4], 0.5, 1.0), multisine([3, 4], [0.5, 0.5], [1.0, 1.0])
    np.testing.assert_array_equal(one.values, each.values)
    np.testing.assert_array_equal(multisine(3).values, multisine([3], 1.0, 0.0).values)
    assert one.parameters == each.parameters


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"amplitudes": [1, 2, 3]}, "amplitudes are 3 and frequencies 2"),
        ({"phases": [0.1, 0.2, 0.3]}, "phases are 3 and frequencies 2"),
        ({"duration": 0}, "duration=0 must be a positive"),
        ({"duration": -1.0}, "duration=-1.0"),
        ({"duration": float("nan")}, "duration=nan"),
        ({"duration": "3"}, "duration='3'"),
        ({"duration": True}, "duration=True"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": 300.0}, "steps=300.0 must be a whole"),
        ({"frequencies": []}, "frequencies"),
        ({"frequencies": [[1, 2], [3, 4]]}, "frequencies"),
        ({"frequencies": ["5", "10"]}, "frequencies"),
        ({"frequencies": [1, 0]}, "over 0 Hz"),
        ({"frequencies": [1, float("inf")]}, "finite"),
        ({"amplitudes": float("nan")}, "amplitudes=nan"),
        # The limit itself would be sampled at its zeros.
        ({"frequencies": [5, 50], "steps": 300}, r"\[50.0\] .* Nyquist limit of 300 steps in 3 s, 50 Hz"),
        ({"frequencies": [49, 60, 51], "steps": 300}, r"\[60.0, 51.0\] .* 50 Hz"),
    ],
)
def test_a_multisine_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=message):
        multisine(**{"frequencies": [5, 10], **values})


def test_just_under_the_limit_is_sampled() -> None:
    spectrum = np.abs(np.fft.rfft(multisine(49, phases=1.0, steps=300).values))
    assert int(spectrum.argmax()) == 49 * 3


def test_a_series_knows_its_axis() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    series = TimeSeries(values, 0.25, "year", "pi", (0.5,), {"a": 1})
    values[0] = 99
    np.testing.assert_array_equal(series.values, [3, 1, 4, 1, 5])
    np.testing.assert_array_equal(series.times, [0, 0.25, 0.5, 0.75, 1])
    assert (series.duration, series.nyquist, len(series)) == (1.25, 2.0, 5)
    np.testing.assert_array_equal(series.first(2).values, [3, 1])
    np.testing.assert_array_equal(series.last(2).values, [1, 5])
    assert series.last(2).spacing == series.first(2).spacing == 0.25
    np.testing.assert_array_equal(np.asarray(series), series.values)
    with pytest.raises(ValueError, match="read-only"):
        series.values[0] = 1
    for steps in (0, -1, 2.0):
        with pytest.raises(interp.errors.InvalidInput, match="steps="):
            series.first(steps)  # type: ignore[arg-type]
        with pytest.raises(interp.errors.InvalidInput, match="steps="):
            series.last(steps)  # type: ignore[arg-type]


def test_shuffling_keeps_the_values_and_loses_their_order() -> None:
    series = multisine(5)
    mixed, again, other = series.shuffled(3), series.shuffled(3), series.shuffled(4)
    np.testing.assert_array_equal(np.sort(mixed.values), np.sort(series.values))
    np.testing.assert_array_equal(mixed.values, again.values)
    assert abs(np.corrcoef(mixed.values, series.values)[0, 1]) < 0.2
    assert not np.array_equal(mixed.values, other.values)
    assert mixed.frequencies == ()
    assert mixed.spacing == series.spacing


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        (1.0, 2.0, 3.0),
        [[1, 2, 3]],
        pd.Series([1, 2, 3], index=[7, 8, 9]),
        torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
        torch.tensor([1, 2, 3], dtype=torch.bfloat16),
    ],
)
def test_anything_like_one_series_is_one(values: Any) -> None:
    np.testing.assert_array_equal(TimeSeries(values).values, [1, 2, 3])


@pytest.mark.parametrize(
    "change",
    [
        {"values": []},
        {"values": [np.nan, np.nan]},
        {"values": [1, np.inf]},
        {"values": [[1, 2], [3, 4]]},
        {"values": "abc"},
        {"values": 3.0},
        {"values": [1j, 2]},
        {"spacing": 0},
        {"spacing": "1"},
        {"spacing": np.nan},
        {"spacing": True},
        {"frequencies": (5.0, -1.0)},
        {"frequencies": ("a",)},
    ],
)
def test_what_is_no_series_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(interp.errors.InvalidInput):
        TimeSeries(**{"values": [1.0, 2.0], **change})


def test_a_motif_repeats_with_the_noise_that_was_asked_for() -> None:
    series = motif([1, 2, 4], 5)
    np.testing.assert_array_equal(series.values, [1, 2, 4] * 5)
    assert series.frequencies == (1 / 3,)
    drawn = motif(12, 3, seed=1).values.reshape(3, 12)
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert len(set(drawn[0])) == 12
    noisy = motif(np.int64(12), 400, noise=0.5, seed=1)
    left = noisy.values - np.tile(drawn[0], 400)
    assert left.std() == pytest.approx(0.5, rel=0.05)
    assert noisy.parameters == {"pattern": drawn[0].tolist(), "repetitions": 400, "noise": 0.5, "seed": 1}
    bad: list[dict[str, Any]] = [
        {"pattern": 1},
        {"pattern": [3.0]},
        {"pattern": "ab"},
        {"repetitions": 0},
        {"noise": -1.0},
        {"noise": np.nan},
        {"noise": "a"},
        {"noise": [1, 2]},
        {"seed": -1},
    ]
    for values in bad:
        with pytest.raises(interp.errors.InvalidInput, match=next(iter(values))):
            motif(**values)


@pytest.mark.parametrize(
    ("series", "steps", "first", "last", "span", "per_year", "around"),
    [
        (datasets.air_passengers(), 144, 112, 432, ("1949-01", "1960-12"), 12, 1.0),
        (datasets.sunspots(), 309, 5, 2.9, ("1700", "2008"), 1, 1 / 11),
        (datasets.el_nino(), 732, 23.11, 22.07, ("1950-01", "2010-12"), 12, 1.0),
        (datasets.mauna_loa_co2(), 452, 322.0, 371.02, ("1964-05", "2001-12"), 12, 1.0),
    ],
    ids=lambda value: value.name if isinstance(value, TimeSeries) else "",
)
def test_real_series_are_whole_and_show_their_season(
    series: TimeSeries, steps: int, first: float, last: float, span: tuple[str, str], per_year: int, around: float
) -> None:
    assert (len(series), series.unit) == (steps, "year")
    assert (series.values[0], series.values[-1]) == (first, last)
    assert series.index is not None
    assert tuple(series.index[[0, -1]].strftime("%Y" if len(span[0]) == 4 else "%Y-%m")) == span
    # As many steps as there are from the first to the last: none is missing.
    ends = [pd.Period(text, freq="M" if per_year == 12 else "Y") for text in span]
    assert (ends[1] - ends[0]).n == steps - 1
    assert series.spacing == 1 / per_year
    assert not np.isnan(series.values).any()
    t = np.arange(steps)
    spectrum = np.abs(np.fft.rfft(series.values - np.polyval(np.polyfit(t, series.values, 2), t)))
    peak = np.fft.rfftfreq(steps, series.spacing)[spectrum.argmax()]
    assert peak == pytest.approx(around, abs=2 / series.duration)


def nearest_bin(model: interp.Model, values: Any) -> Any:
    """The token of scaled values by the nearest centre: bins are numbered from 1, behind two special tokens."""
    centres = model.pipeline.tokenizer.centers.double().numpy()
    return np.abs(centres - np.asarray(values)[:, None]).argmin(1) + 1 + 2


@pytest.mark.parametrize("num_decoder", [0, 1, 5, np.int64(3)])
def test_each_token_is_the_bin_of_the_value_at_its_step(model: interp.Model, num_decoder: int) -> None:
    series = multisine([2, 5], phases=0.3, steps=40)
    batch = series_batch(model, series, num_decoder=num_decoder)
    n = 40 - num_decoder
    ids, _, scale = model.pipeline.tokenizer.context_input_transform(torch.tensor(series.values[None, :n]).float())
    assert batch.input_ids.tolist() == ids.tolist()
    close(batch.scale, float(scale))
    close(batch.scale, np.abs(series.values[:n]).mean(), terms=LAYER)
    assert batch.encoder_steps.tolist() == [*range(n), -1]
    assert batch.decoder_steps.tolist() == [-1, *range(n, 40)]
    # At the border of two bins float32 may take the other.
    expected = nearest_bin(model, series.values / batch.scale)
    tokens = torch.cat([batch.input_ids[0, :-1], batch.decoder_input_ids[0, 1:]]).numpy()
    assert np.abs(tokens - expected).max() <= 1
    assert (tokens == expected).mean() > 0.9
    assert (int(batch.input_ids[0, -1]), int(batch.decoder_input_ids[0, 0])) == (1, 0)
    assert batch.decoder_input_ids.shape == (1, num_decoder + 1)


def by_hand(model: interp.Model, values: Any, num_decoder: int) -> tuple[list[int], list[int], float]:
    """The published notebook's tokens: the whole series through Chronos' tokenizer, and then cut in two."""
    ids, _, scale = model.pipeline.tokenizer.context_input_transform(torch.tensor(values[None]).float())
    tokens, eos = ids[0, : len(values)].tolist(), ids[0, len(values) :].tolist()
    n = len(values) - num_decoder
    return [*tokens[:n], *eos], [0, *tokens[n:]], float(scale)


@pytest.mark.parametrize("num_decoder", [0, 1, 5])
def test_a_series_scaled_by_all_of_it_has_the_tokens_of_the_whole(model: interp.Model, num_decoder: int) -> None:
    rising = 0.2 + np.linspace(0, 3, 40) ** 2
    batch = series_batch(model, rising, num_decoder=num_decoder, scale_by="all")
    context, rest, scale = by_hand(model, rising, num_decoder)
    assert (batch.input_ids[0].tolist(), batch.decoder_input_ids[0].tolist()) == (context, rest)
    close(batch.scale, scale)
    default = series_batch(model, rising, num_decoder=num_decoder)
    if num_decoder:
        assert batch.scale > default.scale
        assert batch.input_ids.tolist() != default.input_ids.tolist()
    else:
        assert batch.input_ids.tolist() == default.input_ids.tolist()


def test_by_default_the_context_knows_nothing_of_what_follows(model: interp.Model) -> None:
    series = 2 + np.sin(np.arange(40.0))
    other = np.where(np.arange(40) < 35, series, 9.0)
    one, two = (series_batch(model, values, num_decoder=5) for values in (series, other))
    assert one.input_ids.tolist() == two.input_ids.tolist()
    one, two = (series_batch(model, values, num_decoder=5, scale_by="all") for values in (series, other))
    assert one.input_ids.tolist() != two.input_ids.tolist()


def test_scales_that_are_refused(model: interp.Model) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=r"scale_by='series': choose 'context' or 'all'"):
        series_batch(model, np.arange(20.0), scale_by="series")  # pyright: ignore[reportArgumentType]
    # Against the last value the others are alike.
    flat = np.append(np.sin(np.arange(30.0)), 1e6)
    series_batch(model, flat, num_decoder=1)
    with pytest.raises(interp.errors.InvalidInput, match="one token"):
        series_batch(model, flat, num_decoder=1, scale_by="all")


@pytest.mark.parametrize(
    ("values", "num_decoder", "message"),
    [
        ([2.0] * 30, 0, "constant"),
        ([0.1] * 41, 0, "constant"),  # the standard deviation is not 0 after rounding
        (1013 + 0.01 * np.sin(np.arange(30)), 0, "constant .* one token"),
        ([2.0] * 30 + [3.0], 1, "constant"),
        ([1.0, np.nan, 3.0, 4.0], 0, "missing values at steps 1:"),
        ([1.0, 2.0, 3.0, np.nan], 1, "missing values at steps 3:"),
        ([np.nan, 2.0] * 8, 0, r"steps 0, 2, 4, 6, 8, \.\.\."),
        (np.arange(65.0), 0, r"65 steps is longer than tiny's, 64: .* series.last\(64\)"),
        (np.arange(67.0), 2, r"65 steps is longer than tiny's, 64: .* series.last\(66\)"),
        (np.arange(9.0), 9, "num_decoder=9 .* choose 0 to 8"),
        (np.arange(9.0), 12, "choose 0 to 8"),
        (np.arange(9.0), -1, "num_decoder=-1"),
        (np.arange(9.0), 1.0, "num_decoder=1.0"),
        (np.arange(9.0), True, "num_decoder=True"),
    ],
)
def test_series_without_a_spectrum_are_refused(
    model: interp.Model, values: Any, num_decoder: Any, message: str
) -> None:
    for door in (series_batch, context_attention):
        with pytest.raises(interp.errors.InvalidInput, match=message):
            door(model, values, num_decoder=num_decoder)


def test_what_a_refusal_says_to_do_works(model: interp.Model) -> None:
    long = TimeSeries(np.arange(100.0))
    assert series_batch(model, long.last(64)).input_ids.shape == (1, 65)
    assert series_batch(model, long.last(66), num_decoder=2).input_ids.shape == (1, 65)


@pytest.mark.parametrize(
    "settings", [{}, {"num_unique_sequences": 3, "extension": 1, "repetitions": 3, "unique": True}]
)
@pytest.mark.parametrize("prefix", [1, 40])
def test_a_prefix_changes_nothing_else(prefix: int, settings: dict[str, Any]) -> None:
    plain = repeated_random_tokens(seed=5, **settings)
    longer = repeated_random_tokens(seed=5, prefix=prefix, **settings)
    assert torch.equal(longer.input_ids[:, prefix:], plain.input_ids)
    assert torch.equal(longer.decoder_input_ids, plain.decoder_input_ids)
    assert torch.equal(longer.continuation, plain.continuation)
    assert longer.occurrences == tuple(prefix + at for at in plain.occurrences)
    assert longer.query == plain.query
    assert longer.parameters == plain.parameters | {"prefix": prefix}
    for row in longer.input_ids:
        assert not set(row[:prefix].tolist()) & set(row[prefix:].tolist())
    assert int(longer.input_ids[:, :prefix].min()) >= 1911
    assert int(longer.input_ids[:, :prefix].max()) <= 2187


def test_the_prefix_is_uniform_over_what_is_free() -> None:
    batch = repeated_random_tokens(
        batch_size=50, sequence_length=4, vocab_range=(10, 19), unique=True, prefix=400, seed=1
    )
    ids = batch.input_ids.numpy()
    chances: list[float] = []
    for row in ids:
        counts = np.bincount(row[:400], minlength=20)[10:]
        free = np.setdiff1d(np.arange(10, 20), row[400:]) - 10
        assert counts[free].sum() == 400
        chances.append(float(stats.chisquare(counts[free]).pvalue))
    assert stats.kstest(chances, "uniform").pvalue > 0.001


def test_a_prefix_needs_a_token_that_the_sequences_leave() -> None:
    settings: dict[str, Any] = {"sequence_length": 5, "unique": True, "vocab_range": (10, 14)}
    with pytest.raises(interp.errors.InvalidInput, match="leaves no token for the prefix"):
        repeated_random_tokens(prefix=1, **settings)
    assert repeated_random_tokens(**settings).occurrences == (1, 6)
    one_left = repeated_random_tokens(prefix=7, **(settings | {"vocab_range": (10, 15)}))
    assert all(len(set(row[:7].tolist())) == 1 for row in one_left.input_ids)
    for value in (-1, 2.0, "a"):
        with pytest.raises(interp.errors.InvalidInput, match="prefix="):
            repeated_random_tokens(prefix=value)  # type: ignore[arg-type]


def test_a_pandas_series_keeps_its_name_and_must_have_even_dates(pico: interp.Model) -> None:
    dates = pd.date_range("2000-01-01", periods=40, freq="MS")
    sales = pd.Series(np.sin(np.arange(40.0)), index=dates, name="sales")
    assert attention_spectrum(pico, sales, shuffles=0).series.name == "sales"
    with pytest.raises(interp.errors.InvalidInput, match="evenly spaced"):
        attention_spectrum(pico, sales.drop(dates[5:9]), shuffles=0)
