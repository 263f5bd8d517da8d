"""Repeated random tokens: the formula of the positions, the draws, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import interp
from probes import VALUE_TOKENS, random_tokens, repeated_random_tokens
from probes.stimuli.repeated_tokens import RepeatedTokens


def test_the_published_stimulus() -> None:
    """`ABC...J ABC...J A <EOS> | <START> B`, tokens of 1911..2187, batch 100."""
    batch = repeated_random_tokens()
    ids, decoder = batch.input_ids, batch.decoder_input_ids
    assert tuple(ids.shape) == (100, 22)
    assert bool((ids[:, :10] == ids[:, 10:20]).all())
    assert bool((ids[:, 20] == ids[:, 0]).all())
    assert bool((ids[:, 21] == 1).all())
    assert bool((decoder[:, 0] == 0).all())
    assert bool((decoder[:, 1] == ids[:, 1]).all())
    assert batch.occurrences == (1, 11)
    assert bool((batch.continuation == ids[:, 2]).all())
    assert int(ids[:, :21].min()) >= 1911
    assert int(ids[:, :21].max()) <= 2187
    assert len(np.unique(ids[:, :21])) > 250


def test_part_one_is_a_setting() -> None:
    """`ABCABC <EOS> | <START> A` over all value tokens."""
    batch = repeated_random_tokens(sequence_length=3, vocab_range=VALUE_TOKENS, sub_extension=0)
    assert tuple(batch.input_ids.shape) == (100, 7)
    assert bool((batch.decoder_input_ids[:, 1] == batch.input_ids[:, 3]).all())
    assert batch.occurrences == (0, 3)
    assert bool((batch.continuation == batch.input_ids[:, 1]).all())


sizes = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 4),
        "sequence_length": st.integers(2, 7),
        "repetitions": st.integers(1, 4),
        "num_unique_sequences": st.integers(1, 3),
        "seed": st.integers(0, 1000),
    }
)


@given(sizes, st.data())
def test_the_query_occurs_where_the_formula_says(values: dict[str, int], data: st.DataObject) -> None:
    extension = data.draw(st.integers(0, values["num_unique_sequences"] - 1))
    sub = data.draw(st.integers(0, values["sequence_length"] - 1))
    batch = repeated_random_tokens(**values, extension=extension, sub_extension=sub, unique=True)  # type: ignore[arg-type]
    for row, decoder in zip(batch.input_ids.numpy(), batch.decoder_input_ids.numpy(), strict=True):
        assert tuple(np.flatnonzero(row == decoder[1])) == batch.occurrences
    n, r, u = (values[k] for k in ("sequence_length", "repetitions", "num_unique_sequences"))
    assert batch.input_ids.shape[1] == n * (r * u + extension) + sub + 1
    assert batch.occurrences[-1] == n * ((r - 1) * u + extension) + sub
    following = batch.input_ids[:, batch.occurrences[-1] + 1]
    assert bool((batch.continuation == following).all())
    assert bool((following != 1).all())


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 9), st.integers(0, 99))
def test_min_gap_holds(rows: int, length: int, gap: int, seed: int) -> None:
    tokens = random_tokens(np.random.default_rng(seed), rows, length, (100, 220), gap)
    assert tokens.min() >= 100
    assert tokens.max() <= 220
    if length > 1 and gap:
        assert np.diff(np.sort(tokens, axis=1), axis=1).min() >= gap


def test_draws_with_a_gap_are_uniform_in_order_and_range() -> None:
    """Every position has the same distribution, and the ends of the range are reached."""
    tokens = random_tokens(np.random.default_rng(0), 20_000, 3, (10, 19), 2)
    assert tokens.min() == 10
    assert tokens.max() == 19
    means = tokens.mean(axis=0)
    assert np.ptp(means) < 0.1
    assert abs(means.mean() - 14.5) < 0.05


def test_the_same_seed_gives_the_same_tokens_and_global_state_is_left_alone() -> None:
    state = np.random.get_state()[1].copy()  # type: ignore[index]
    a, b = repeated_random_tokens(seed=4), repeated_random_tokens(seed=4)
    assert bool((a.input_ids == b.input_ids).all())
    assert not bool((a.input_ids == repeated_random_tokens(seed=5).input_ids).all())
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"repetitions": 0}, "repetitions=0 must be at least 1"),
        ({"sequence_length": 1, "sub_extension": 0}, "at least 2"),
        ({"sub_extension": 10}, "choose 0 to 9"),
        ({"sub_extension": -1}, "at least 0"),
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": 2.5}, "whole number"),
        ({"vocab_range": (5,)}, "first, last"),
        ({"vocab_range": (2.5, 9.5)}, "whole number"),
        ({"min_gap": -1}, "at least 0"),
        ({"extension": 1}, "choose 0 to 0"),
        ({"batch_size": 0}, "at least 1"),
        ({"vocab_range": (2187, 1911)}, "reversed"),
        ({"vocab_range": (1, 100)}, "special tokens"),
        ({"vocab_range": (5, 9), "unique": True}, "do not fit"),
        ({"min_gap": 50}, "do not fit"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=message):
        repeated_random_tokens(**values)


def test_tokens_past_the_models_vocabulary(model: interp.Model) -> None:
    import probes

    with pytest.raises(interp.errors.InvalidInput, match="tokens 0-4095"):
        probes.induction_mosaic(model, vocab_range=(4000, 5000))


def test_it_is_a_batch() -> None:
    assert isinstance(repeated_random_tokens(), interp.Batch)
    assert isinstance(repeated_random_tokens(), RepeatedTokens)
