"""Pairs: the same tokens where that is claimed, other ones where that is, and each right in its own way."""

import inspect
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import interp
import probes
from circuits.measurement import check_pair
from circuits.metrics import logit_difference
from interp.zoo.recipe import chronos_config
from probes.stimuli.pairs import Pair
from probes.stimuli.repeated_tokens import RepeatedTokens
from tests.conftest import tiny_bolt, tiny_causal_pipeline, tiny_gpt2, tiny_pipeline
from tests.tolerance import FORWARD, close

MAKERS = (probes.shuffled_occurrences, probes.swapped_continuation)


@st.composite
def stimuli(draw: st.DrawFn) -> RepeatedTokens:
    """Repeated random tokens in which two tokens at least follow the query's in a repetition."""
    length, sequences = draw(st.integers(3, 7)), draw(st.integers(1, 3))
    extension = draw(st.integers(0, sequences - 1))
    last = length - (3 if extension == sequences - 1 else 1)
    return probes.repeated_random_tokens(
        batch_size=draw(st.integers(1, 4)),
        sequence_length=length,
        repetitions=draw(st.integers(1, 4)),
        num_unique_sequences=sequences,
        extension=extension,
        sub_extension=draw(st.integers(0, last)),
        prefix=draw(st.integers(0, 3)),
        unique=True,
        encoder=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


def row(batch: interp.Batch) -> torch.Tensor:
    """The tokens in which the sequences are."""
    return batch.input_ids if batch.has_encoder else batch.decoder_input_ids


def motif(batch: RepeatedTokens, repetition: int) -> torch.Tensor:
    """One repetition `[row, pos]`, cut out by the stimulus' formula."""
    known = batch.parameters
    length = known["sequence_length"] * known["num_unique_sequences"]
    start = known["prefix"] + repetition * length
    return row(batch)[:, start : start + length]


@pytest.mark.parametrize("make", MAKERS)
@given(batch=stimuli(), seed=st.integers(0, 50))
def test_the_corrupt_one_is_repeated_random_tokens_too(make: Any, batch: RepeatedTokens, seed: int) -> None:
    pair = make(batch, seed=seed)
    corrupt = pair.corrupt
    assert pair.clean is batch
    assert isinstance(corrupt, RepeatedTokens)
    assert (corrupt.query, corrupt.occurrences) == (batch.query, batch.occurrences)
    for repetition in range(batch.parameters["repetitions"]):
        assert torch.equal(motif(corrupt, repetition), motif(corrupt, 0))
        assert torch.equal(motif(corrupt, repetition).sort(1)[0], motif(batch, repetition).sort(1)[0])
    # The query's token is where it was, and what follows it is another one, the same after each occurrence.
    query = batch.decoder_input_ids[:, -1]
    assert torch.equal(corrupt.decoder_input_ids[:, -1], query)
    assert torch.equal(pair.target, batch.continuation)
    assert torch.equal(pair.against, corrupt.continuation)
    assert not bool((pair.target == pair.against).any())
    for at in batch.occurrences:
        assert torch.equal(row(corrupt)[:, at], query)
        assert torch.equal(row(corrupt)[:, at + 1], pair.against)
    # Nothing else differs: the prefix, all up to the query's token in a repetition, and the part after them.
    known = batch.parameters
    length = known["sequence_length"] * known["num_unique_sequences"]
    inside = {
        at + 1 + i for at in batch.occurrences for i in range(length - 1 - batch.occurrences[0] + known["prefix"])
    }
    changed = pair.changed
    assert set(changed.pop("encoder" if batch.has_encoder else "decoder")) <= inside
    assert changed == ({"decoder": ()} if batch.has_encoder else {})


def shifted(batch: RepeatedTokens, seed: int) -> Pair:
    return probes.shifted_values(batch, 7 + seed)


@pytest.mark.parametrize("make", [*MAKERS, probes.another_sequence, shifted])
@given(batch=stimuli(), seed=st.integers(0, 50))
def test_a_decoder_alone_gets_the_same_tokens_in_one_row(make: Any, batch: RepeatedTokens, seed: int) -> None:
    """Without EOS and start token, with the same sequences, places and answers."""
    known = {name: value for name, value in batch.parameters.items() if name != "encoder"}
    both, alone = (make(probes.repeated_random_tokens(**known, encoder=e), seed=seed) for e in (True, False))
    for one, other in zip(both, alone, strict=True):
        whole = torch.cat([one.input_ids[:, :-1], one.decoder_input_ids[:, 1:]], 1)
        assert torch.equal(other.decoder_input_ids, whole)
        assert other.input_ids.shape == (len(one), 0)
        assert other.query == whole.shape[1] - 1
        assert other.occurrences == one.occurrences
        assert torch.equal(other.continuation, one.continuation)
    assert torch.equal(both.target, alone.target)
    assert torch.equal(both.against, alone.against)
    assert list(alone.changed) == ["decoder"]


@given(batch=stimuli(), seed=st.integers(0, 50))
def test_a_swap_is_two_positions_a_repetition(batch: RepeatedTokens, seed: int) -> None:
    pair = probes.swapped_continuation(batch, seed=seed)
    differ = (row(pair.clean) != row(pair.corrupt)).sum(1)
    assert bool((differ == 2 * batch.parameters["repetitions"]).all())
    assert bool((motif(batch, 0) == pair.against[:, None]).any(1).all()), "a token of the row's own"  # type: ignore[index]
    found = motif(batch, 0).clone()
    column = batch.occurrences[0] + 1 - batch.parameters["prefix"]
    other = (found == pair.against[:, None]).nonzero()[:, 1]  # type: ignore[index]
    rows = torch.arange(len(batch))
    found[rows, other], found[:, column] = found[:, column].clone(), found[rows, other]
    assert torch.equal(found, motif(cast(RepeatedTokens, pair.corrupt), 0))


def test_what_follows_is_drawn_uniformly() -> None:
    """Each of the seven later tokens is as often the one that follows, and the rest keeps no order."""
    batch = probes.repeated_random_tokens(batch_size=7000, unique=True)
    for make in MAKERS:
        pair = make(batch)
        place = (motif(batch, 0)[:, 3:] == pair.against[:, None]).nonzero()[:, 1]  # type: ignore[index]
        assert np.bincount(place.numpy(), minlength=7) == pytest.approx(1000, rel=0.15)
    kept = (motif(cast(RepeatedTokens, probes.shuffled_occurrences(batch).corrupt), 0) == motif(batch, 0)).float()
    assert kept.mean(0)[:3].tolist() == [1, 1, 0]
    assert kept.mean(0)[3:].numpy() == pytest.approx(np.full(7, 6 / 49), abs=0.02)


@given(batch=stimuli(), by=st.integers(-1900, 1900).filter(bool))
def test_a_shift_moves_every_value_and_keeps_the_structure(batch: RepeatedTokens, by: int) -> None:
    pair = probes.shifted_values(batch, by)
    for name in ("input_ids", "decoder_input_ids"):
        clean, corrupt = getattr(pair.clean, name), getattr(pair.corrupt, name)
        special = clean < 2
        assert torch.equal(corrupt[special], clean[special])
        assert torch.equal(corrupt[~special], clean[~special] + by)
    assert torch.equal(pair.target, batch.continuation)
    assert torch.equal(pair.against, batch.continuation + by)  # type: ignore[arg-type]
    assert torch.equal(pair.against, cast(RepeatedTokens, pair.corrupt).continuation)
    every = {"encoder": tuple(range(batch.input_ids.shape[1] - 1)), "decoder": (1,)}
    assert pair.changed == (every if batch.has_encoder else {"decoder": tuple(range(row(batch).shape[1]))})
    back = probes.shifted_values(cast(RepeatedTokens, pair.corrupt), -by).corrupt
    assert torch.equal(row(back), row(batch))


def test_a_shift_ends_where_the_tokens_end() -> None:
    batch = probes.repeated_random_tokens(vocab_range=(100, 102), sub_extension=1, batch_size=50)
    assert int(probes.shifted_values(batch, 3993).corrupt.input_ids.max()) == 4095
    assert int(probes.shifted_values(batch, -98).corrupt.input_ids[:, :-1].min()) == 2
    for by in (3994, -99, 0):
        with pytest.raises(interp.errors.InvalidInput, match="Choose -98 to 3993, and not 0"):
            probes.shifted_values(batch, by)
    with pytest.raises(interp.errors.InvalidInput, match="whole number"):
        probes.shifted_values(batch, 1.5)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[tiny_pipeline, tiny_causal_pipeline], ids=["t5", "gpt2"])
def tiny(request: pytest.FixtureRequest) -> interp.Model:
    return interp.wrap(request.param(), name="tiny")


@settings(max_examples=30, deadline=None)
@given(
    periods=st.lists(st.integers(2, 12), min_size=2, max_size=2, unique=True),
    steps=st.integers(24, 64),
    rows=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_two_periods_agree_at_the_end(tiny: interp.Model, periods: list[int], steps: int, rows: int, seed: int) -> None:
    """In values, read back from the tokens: each is periodic, and the last ones are the same."""
    period, other = periods
    pair = probes.changed_period(tiny, period=period, other=other, steps=steps, batch_size=rows, seed=seed)
    assert len(pair) == rows
    alone = not tiny.has_encoder
    values = [
        batch.decoder_input_ids if alone else torch.cat([batch.input_ids[:, :-1], batch.decoder_input_ids[:, 1:]], 1)
        for batch in pair
    ]
    assert pair.against is not None
    for tokens, length, following in zip(values, periods, (pair.target, pair.against), strict=True):
        assert tokens.shape == (rows, steps + 1)
        assert bool((tokens[:, length:] == tokens[:, :-length]).all())
        assert torch.equal(tokens[:, -length], following), "what came after one period ago comes next"
    assert torch.equal(values[0][:, -min(periods) :], values[1][:, -min(periods) :])
    assert not bool((pair.target == pair.against).any())
    assert alone or pair.changed["decoder"] == ()
    # The scale is 1 in both: the mean absolute value of the context, to half a bin.
    for tokens in values:
        scaled = probes.token_values(tiny, tokens[:, :-1])
        assert scaled.abs().mean(1).tolist() == pytest.approx([1.0] * rows, abs=30 / 4092)


def test_the_other_way_round_is_the_same_pair(tiny: interp.Model) -> None:
    one = probes.changed_period(tiny, period=8, other=12, steps=48, batch_size=5, seed=2)
    two = probes.changed_period(tiny, period=12, other=8, steps=48, batch_size=5, seed=2)
    for a, b in zip(one, reversed(list(two)), strict=True):
        assert torch.equal(row(a), row(b))
    assert torch.equal(one.target, two.against)  # type: ignore[arg-type]
    again = probes.changed_period(tiny, period=8, other=12, steps=48, batch_size=5, seed=3)
    assert not torch.equal(row(one.clean), row(again.clean))


def test_bins_too_wide_to_tell_two_values_apart() -> None:
    chronos = replace(chronos_config(), context_length=64, tokenizer_kwargs={"low_limit": -1e5, "high_limit": 1e5})
    coarse = interp.wrap(tiny_pipeline(chronos_config=vars(chronos)), name="coarse")
    with pytest.raises(
        interp.errors.InvalidInput, match=r"only \d+ of 36 random motifs have one scale and two different"
    ):
        probes.changed_period(coarse, period=8, other=12, steps=48, batch_size=10)


def test_periods_are_of_series() -> None:
    with pytest.raises(interp.errors.UnsupportedModel, match="no tokenizer for series"):
        probes.changed_period(interp.wrap(tiny_gpt2(), name="text"), period=8, other=12)


def test_a_planted_decoder_is_right_on_both() -> None:
    """Its metric turns from one input to the other, as that of a model with an encoder."""
    model = interp.zoo.planted_decoder().model
    batch = probes.repeated_random_tokens(batch_size=8, unique=True, encoder=False)
    for pair in [probes.another_sequence(batch), probes.shifted_values(batch, 100), *(make(batch) for make in MAKERS)]:
        check_pair(model, *pair)
        assert pair.against is not None
        metric = logit_difference(pair.target, pair.against)
        clean, corrupt = (metric(interp.capture(model, one, ["decoder.logits"])["decoder.logits"]) for one in pair)
        assert float(clean.min()) > 5, pair
        assert float(corrupt.max()) < -5, pair


def test_a_model_that_does_induction_is_right_on_both(pico: interp.Model) -> None:
    """The metric's sign turns: each input makes its own token likelier, by far."""
    batch = probes.repeated_random_tokens(batch_size=20, unique=True)
    pairs = [make(batch) for make in MAKERS]
    pairs += [probes.shifted_values(batch, 100), probes.changed_period(pico, period=8, other=12, batch_size=20)]
    for pair in pairs:
        check_pair(pico, *pair)
        assert pair.against is not None
        metric = logit_difference(pair.target, pair.against)
        clean, corrupt = (metric(interp.capture(pico, one, ["decoder.logits"])["decoder.logits"]) for one in pair)
        assert float(clean.mean()) > 5, pair
        assert float(corrupt.mean()) < -5, pair


def test_where_it_came_from() -> None:
    batch = probes.repeated_random_tokens(batch_size=3, unique=True, seed=4)
    pair = probes.swapped_continuation(batch, seed=9)
    assert pair.parameters == {"name": "swapped_continuation", "seed": 9, "clean": batch.parameters}
    corrupt = cast(RepeatedTokens, pair.corrupt)
    assert corrupt.parameters == {**batch.parameters, "corrupted": [{"name": "swapped_continuation", "seed": 9}]}
    twice = cast(RepeatedTokens, probes.shifted_values(corrupt, 5).corrupt)
    assert [step["name"] for step in twice.parameters["corrupted"]] == ["swapped_continuation", "shifted_values"]
    assert "corrupted" not in batch.parameters
    assert torch.equal(pair.corrupt.input_ids, probes.swapped_continuation(batch, seed=9).corrupt.input_ids)
    others = [make(batch, seed=10).corrupt.input_ids for make in MAKERS]
    assert not torch.equal(others[0], others[1])
    assert inspect.signature(probes.changed_period).parameters["seed"].default == 0
    state = np.random.get_state()[1].copy()  # type: ignore[index]
    probes.shuffled_occurrences(batch)
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[index]


def test_a_pair_by_hand(batch: interp.Batch) -> None:
    other = replace(batch, input_ids=batch.input_ids.flip(1))
    pair = Pair(batch, other, torch.tensor([5, 6, 7, 8]))
    clean, corrupt = pair
    assert (clean, corrupt) == (batch, other)
    assert pair.against is None
    assert len(pair) == 4
    assert pair.changed["decoder"] == ()
    assert 4 not in pair.changed["encoder"], "the middle of nine positions"
    assert repr(pair) == f"Pair(pair: 4 rows, {len(pair.changed['encoder'])} encoder and 0 decoder positions differ)"
    assert repr(probes.swapped_continuation(probes.repeated_random_tokens(unique=True, batch_size=1))) == (
        "Pair(swapped_continuation: 1 rows, 4 encoder and 0 decoder positions differ)"
    )


def test_pairs_that_are_not_aligned(batch: interp.Batch) -> None:
    target = torch.tensor([5, 6, 7, 8])
    mask = batch.attention_mask.clone()
    mask[0, 0] = 0
    alone = interp.Batch(decoder_input_ids=batch.input_ids)
    refused: list[tuple[Any, Any, Any, Any, str]] = [
        (batch, interp.Batch(input_ids=batch.input_ids[:, 1:]), target, None, "aligned"),
        (batch, replace(batch, decoder_input_ids=batch.decoder_input_ids[:, 1:]), target, None, "aligned"),
        (batch, replace(batch, attention_mask=mask), target, None, "mask different"),
        (batch, "corrupt", target, None, "corrupt must be a Batch"),
        (batch, alone, target, None, r"input_ids is \[4, 9\] in clean and \[4, 0\] in corrupt"),
        (alone, replace(alone, decoder_attention_mask=mask), target, None, "mask different"),
        (None, batch, target, None, "clean must be a Batch"),
        (batch, batch, target[:3], None, "target has 3 tokens and the batches 4 rows"),
        (batch, batch, target[:1], None, "one a row"),
        (batch, batch, None, None, "target must be token ids"),
        (batch, batch, target.float(), None, "target must be token ids"),
        (batch, batch, target - 6, None, "holds -1"),
        (batch, batch, target, target[1:], "against has 3"),
    ]
    for clean, corrupt, right, wrong, message in refused:
        with pytest.raises(interp.errors.InvalidInput, match=message):
            Pair(clean, corrupt, right, wrong)


def test_what_is_refused(model: interp.Model, batch: interp.Batch) -> None:
    make = probes.repeated_random_tokens
    for maker in MAKERS:
        name = maker.__name__
        refused: list[tuple[Any, str]] = [
            (batch, f"{name} needs a batch that knows its continuation"),
            (make(), rf"{name}: in \d+ of 100 rows a token is in the sequences twice.*unique=True"),
            (make(unique=True, sub_extension=8), f"{name}: 1 tokens come after.*smaller sub_extension"),
            (make(unique=True, sub_extension=9), f"{name}: 0 tokens come after"),
            (replace(make(unique=True), parameters={}), "no num_unique_sequences, prefix, sequence_length"),
        ]
        for given_batch, message in refused:
            with pytest.raises(interp.errors.InvalidInput, match=message):
                maker(given_batch)
        with pytest.raises(interp.errors.InvalidInput, match="seed=-1"):
            maker(make(unique=True), seed=-1)
    with pytest.raises(interp.errors.InvalidInput, match="shifted_values needs a batch"):
        probes.shifted_values(batch, 3)  # type: ignore[arg-type]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"period": 8, "other": 8}, "both 8"),
        ({"period": 1, "other": 8}, "at least 2"),
        ({"period": 8, "other": 2.5}, "whole number"),
        ({"period": 8, "other": 12, "steps": 23}, "choose 24 to 64"),
        ({"period": 8, "other": 12, "steps": 65}, "tiny's context, so choose 24 to 64"),
        ({"period": 8, "other": 12, "steps": 48, "batch_size": 0}, "at least 1"),
        ({"period": 8, "other": 12, "steps": 48, "seed": -1}, "seed=-1"),
    ]
    for values, message in wrong:
        with pytest.raises(interp.errors.InvalidInput, match=message):
            probes.changed_period(model, **values)


# Patches


@pytest.fixture(scope="module")
def bolt() -> interp.Model:
    return interp.wrap(tiny_bolt(context_length=160), name="tiny-bolt")


PATCHES: list[dict[str, Any]] = [
    {},
    {"extension": 1},
    {"repetitions": 1, "extension": 1},
    {"patches": 4, "repetitions": 3, "extension": 1, "coefficients": 3},
    {"shift": 0.5},
]


def cut(batch: Any) -> torch.Tensor:
    """Its patches `[row, patch, step]`."""
    return batch.values.unflatten(1, (-1, 8))


def same_scale(pair: Pair) -> None:
    """Both inputs have the row's mean and deviation, to rounding."""
    clean, corrupt = cast(Any, pair.clean), cast(Any, pair.corrupt)
    close(corrupt.values.mean(1), clean.values.mean(1), of=4.0, terms=200)
    close(corrupt.deviation, clean.deviation, of=4.0, terms=200)


@pytest.mark.parametrize("settings", PATCHES, ids=str)
@pytest.mark.parametrize("make", MAKERS)
def test_patches_that_change_places(bolt: interp.Model, make: Any, settings: dict[str, Any]) -> None:
    """The same patches in each repetition, in another order after the last patch's occurrence; the rest stays."""
    clean = probes.repeated_random_patches(bolt, batch_size=6, **settings)
    pair, count, shift = make(clean, seed=3), clean.sequence_length, settings.get("shift", 0)
    corrupt = pair.corrupt
    assert (pair.clean, corrupt.occurrences, corrupt.last) == (clean, clean.occurrences, clean.last)
    same_scale(pair)
    levels = shift * (torch.arange(clean.n_patches) // count)[:, None]
    # A repetition of a row is brought to one level before they are compared.
    one, other = (cut(batch) - levels for batch in pair)
    for place in range(clean.n_patches):
        column = place % count
        fixed = column <= clean.occurrences[0] or place >= count * settings.get("repetitions", 2)
        if fixed:
            close(other[:, place], one[:, place], of=4.0)
        close(other[:, place], other[:, column], of=4.0)
    first = one[:, clean.occurrences[0] + 1]
    assert bool(((other[:, clean.occurrences[0] + 1] - first).abs().amax(1) > 1e-2).all()), "another patch follows"
    close(*(each[:, :count, 0].sort(1).values for each in (one, other)), of=4.0, why="the same patches")
    for batch, right in ((clean, pair.target), (corrupt, pair.against)):
        assert torch.equal(batch.continuation, right)
        for place in batch.occurrences:
            rise = shift * (batch.last // count - place // count)
            close(cut(batch)[:, place], cut(batch)[:, batch.last] - rise, of=4.0)
            close(cut(batch)[:, place + 1], right[:, :8] - rise, of=4.0)
    if not shift:
        inside = {at + 1 + i for at in clean.occurrences for i in range(count - 1 - clean.occurrences[0])}
        assert pair.changed["decoder"] == ()
        assert set(pair.changed["encoder"]) <= inside
    assert corrupt.parameters["corrupted"] == [{"name": make.__name__, "seed": 3}]


@pytest.mark.parametrize("settings", PATCHES, ids=str)
def test_other_patches_at_another_place(bolt: interp.Model, settings: dict[str, Any]) -> None:
    """Also for the seed that the batch was made with: nothing of the clean row is in the corrupt one."""
    clean = probes.repeated_random_patches(bolt, batch_size=6, seed=2, **settings)
    pair, count = probes.another_sequence(clean, seed=2), clean.sequence_length
    corrupt: Any = pair.corrupt
    moved = (count - clean.occurrences[0]) // 2
    assert corrupt.occurrences == tuple(place + moved for place in clean.occurrences)
    same_scale(pair)
    one, other = cut(clean), cut(corrupt)
    for row in range(6):
        alike = np.corrcoef(one[row].numpy(), other[row].numpy())[: len(one[0]), len(one[0]) :]
        assert alike.max() < 0.9999, "no patch of the row again, at whatever level"
    for place in corrupt.occurrences:
        gap = other[:, corrupt.last] - other[:, place]
        close(gap, gap[:, :1].expand_as(gap), of=4.0, terms=4)
        after = corrupt.continuation[:, :8] - other[:, place + 1]
        close(after, gap, of=4.0, terms=4)
        if not settings.get("shift"):
            close(gap, 0.0, of=4.0, terms=4)
    assert torch.equal(corrupt.alternatives[:, 0], corrupt.continuation[:, :8])
    assert corrupt.alternatives.shape == clean.alternatives.shape
    again = probes.another_sequence(clean, seed=2)
    assert torch.equal(again.corrupt.values, corrupt.values)
    assert not torch.equal(probes.another_sequence(clean, seed=3).corrupt.values, corrupt.values)


@pytest.mark.parametrize("occurrence", [None, 0, 1, -2])
def test_one_repetition_that_lies_higher(bolt: interp.Model, occurrence: int | None) -> None:
    """Shifted by deviations, then brought to the row's mean and deviation again: by hand in float64."""
    clean = probes.repeated_random_patches(bolt, batch_size=6)
    pair = probes.shifted_values(clean, 1.5, occurrence=occurrence)
    corrupt: Any = pair.corrupt
    values = clean.values.double().numpy().copy()
    mean, deviation = values.mean(1, keepdims=True), values.std(1, keepdims=True)
    start = 40 * (1 if occurrence in (None, 1) else 0)
    values[:, start : start + 40] += 1.5 * deviation
    scale = deviation / values.std(1, keepdims=True)
    close(corrupt.values, (values - values.mean(1, keepdims=True)) * scale + mean, of=4.0)
    follows = clean.continuation.double().numpy() + 1.5 * deviation
    close(pair.against, (follows - values.mean(1, keepdims=True)) * scale + mean, of=4.0)
    same_scale(pair)
    assert corrupt.occurrences == clean.occurrences


def test_what_is_refused_of_patches(bolt: interp.Model) -> None:
    clean = probes.repeated_random_patches(bolt, batch_size=3)
    for make in (*MAKERS, probes.another_sequence):
        with pytest.raises(interp.errors.InvalidInput, match="0 patches come after the last one's"):
            make(probes.repeated_random_patches(bolt, batch_size=3, extension=0))
        with pytest.raises(interp.errors.InvalidInput, match="the batch is the control 'shuffled'"):
            make(clean.controls()["shuffled"])
        with pytest.raises(interp.errors.MissingCapability, match="a batch of values has no tokens"):
            make(clean.rows(torch.arange(2)))
    wrong = ((0, None, "moves nothing"), (1.0, 2, "0 to 1"), (1.0, -3, "occurrence"), ("x", None, "by"))
    for by, occurrence, said in wrong:
        with pytest.raises(interp.errors.InvalidInput, match=said):
            probes.shifted_values(clean, by, occurrence=occurrence)  # type: ignore[arg-type]
    tokens = probes.repeated_random_tokens(batch_size=2)
    with pytest.raises(interp.errors.InvalidInput, match="is of patches"):
        probes.shifted_values(tokens, 3, occurrence=1)
    with pytest.raises(interp.errors.InvalidInput, match="one of clean and corrupt is of tokens"):
        check_pair(bolt, clean, tokens)
    with pytest.raises(interp.errors.InvalidInput, match=r"the series in patches is \[3, 13\] in clean and \[3, 12\]"):
        check_pair(bolt, clean, probes.repeated_random_patches(bolt, batch_size=3, extension=1))
    with pytest.raises(interp.errors.InvalidInput, match="2 series and the batches 3 rows"):
        Pair(clean, clean, clean.continuation[:2])


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 7.0), (3.0, 0.0), (0.1, -2.0)])
def test_a_shift_of_the_whole_context_is_invisible(bolt: interp.Model, factor: float, shift: float) -> None:
    """The model's own quantiles are the same, in units of the context."""
    clean = probes.repeated_random_patches(bolt, batch_size=3)
    corrupt = interp.Batch.from_series(bolt, factor * clean.values + shift)
    ends = [interp.capture(bolt, batch, "decoder.ln_final")["decoder.ln_final"] for batch in (clean, corrupt)]
    close(*ends, of=10.0, terms=4 * FORWARD)
    with pytest.raises(interp.errors.InvalidInput, match=r"shifted or scaled as a whole.*cannot tell"):
        check_pair(bolt, clean, corrupt)
    check_pair(bolt, clean, clean)
