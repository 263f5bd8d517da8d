"""Batches are checked when they are made, and series go through the pipeline's own tokenizer."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import interp
from interp import Batch, Model


def test_defaults_are_a_full_mask_and_the_start_token() -> None:
    batch = Batch(input_ids=torch.tensor([[5, 6, 1], [7, 8, 1]]))
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert batch.decoder_input_ids.tolist() == [[0], [0]]
    assert len(batch) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_ids": torch.tensor([[0.5, 1.0]])}, "must be integers"),
        ({"input_ids": torch.tensor([1, 2])}, r"must be \[batch, pos\]"),
        ({"input_ids": torch.zeros(0, 3, dtype=torch.long)}, "at least one"),
        ({"input_ids": torch.tensor([[3, -1]])}, "not negative"),
        ({"input_ids": [[1, 2], [3]]}, "rectangle"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "one mask value a token"),
        ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, "at least one 1"),
        ({"input_ids": [[1, 2]], "attention_mask": [[2, 1]]}, "0 or 1"),
        ({"input_ids": [[1, 2]], "decoder_input_ids": [[0], [0]]}, "as many"),
        ({}, "needs tokens"),
        ({"input_ids": torch.zeros(2, 0, dtype=torch.long)}, "input_ids holds no token"),
        ({"decoder_input_ids": [[1, 2]], "decoder_attention_mask": [[1]]}, "one mask value a token"),
        ({"decoder_input_ids": [[1, 2]], "decoder_attention_mask": [[0, 0]]}, "at least one 1"),
        ({"decoder_input_ids": [[1, 2]], "decoder_attention_mask": [[3, 1]]}, "0 or 1"),
        ({"decoder_input_ids": [[1, 2]], "decoder_attention_mask": [["a", "b"]]}, "rectangle"),
        ({"decoder_input_ids": [[1, 2], [3, 4]], "decoder_attention_mask": [[1, 1], [1]]}, "rectangle"),
        ({"decoder_input_ids": [[1, 2]], "decoder_attention_mask": [[0.5, 1.0]]}, "must be integers"),
        ({"decoder_input_ids": [[1, 2]], "attention_mask": [[1, 1]]}, "give decoder_attention_mask"),
        ({"decoder_input_ids": [1, 2]}, r"must be \[batch, pos\]"),
        ({"decoder_input_ids": [[1.5, 2]]}, "must be integers"),
        ({"decoder_input_ids": [[1, 2], [3]]}, "rectangle"),
        ({"input_ids": [[1, 2]], "decoder_input_ids": [[0, 3]], "decoder_attention_mask": [[0, 1]]}, "hides tokens"),
        ({"input_ids": [[1, 2]], "decoder_input_ids": [[0, 3]], "decoder_attention_mask": "ones"}, "rectangle"),
    ],
)
def test_what_cannot_be_a_batch(values: dict[str, Any], message: str) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=message):
        Batch(**values)


def test_series_go_through_the_pipelines_tokenizer(model: Model) -> None:
    series = torch.tensor([[1.0, 2.0, float("nan"), 4.0], [-3.0, 0.5, 2.0, 1.0]])
    ids, mask, _ = model.pipeline.tokenizer.context_input_transform(series.clone())
    batch = Batch.from_series(model, series)
    assert torch.equal(batch.input_ids, ids)
    assert torch.equal(batch.attention_mask.bool(), mask)
    assert batch.decoder_input_ids.tolist() == [[0], [0]]


def test_the_last_values_can_go_to_the_decoder(model: Model) -> None:
    series = torch.sin(torch.arange(20.0))
    batch = Batch.from_series(model, series, num_decoder=3)
    ids, _, scale = model.pipeline.tokenizer.context_input_transform(series[None, :17])
    assert torch.equal(batch.input_ids, ids)
    values = model.pipeline.tokenizer.output_transform(batch.decoder_input_ids[:, None, 1:], scale)
    torch.testing.assert_close(values[0, 0], series[17:], atol=0.02, rtol=0)


def ids_of(batch: Batch) -> torch.Tensor:
    """The tokens that the stack which reads the past is given."""
    return batch.input_ids if batch.has_encoder else batch.decoder_input_ids


def mask_of(batch: Batch) -> torch.Tensor:
    return batch.attention_mask if batch.has_encoder else batch.decoder_attention_mask


def test_one_series_in_its_usual_forms(either: Model) -> None:
    forms: list[Any] = [[1, 2, 3, 4], np.arange(1, 5), pd.Series([1.0, 2, 3, 4]), torch.arange(1, 5)]
    batches = [ids_of(Batch.from_series(either, form)) for form in forms]
    assert all(torch.equal(batches[0], other) for other in batches[1:])


def test_series_of_different_lengths_are_padded_on_the_left(either: Model) -> None:
    batch = Batch.from_series(either, [np.arange(1.0, 6.0), np.arange(1.0, 4.0)])
    eos = [1] * either.has_encoder
    assert mask_of(batch).tolist() == [[1] * 5 + eos, [0, 0, 1, 1, 1, *eos]]
    assert ids_of(batch)[1, :2].tolist() == [0, 0]


def test_series_of_a_decoder_alone(causal: Model) -> None:
    """What the pipeline itself would give `generate`; values that go to the decoder follow in the same row."""
    series = torch.tensor([[1.0, float("nan"), 2.0, 4.0, 3.0], [-3.0, 0.5, 2.0, 1.0, 7.0]])
    ids, mask, scale = causal.pipeline.tokenizer.context_input_transform(series.clone())
    batch = Batch.from_series(causal, series)
    assert not batch.has_encoder
    assert torch.equal(batch.decoder_input_ids, ids)
    assert torch.equal(batch.decoder_attention_mask.bool(), mask)
    seen: list[dict[str, Any]] = []
    real = causal.module.generate

    def generate(**given: Any) -> Any:
        seen.append(given)
        return real(**given)

    causal.module.generate = generate
    causal.pipeline.predict(series, prediction_length=1)
    del causal.module.generate
    assert torch.equal(seen[0]["input_ids"], batch.inputs["input_ids"])
    assert torch.equal(seen[0]["attention_mask"].long(), batch.inputs["attention_mask"])
    split = Batch.from_series(causal, series, num_decoder=2)
    shorter, _, scale = causal.pipeline.tokenizer.context_input_transform(series[:, :3])
    assert torch.equal(split.decoder_input_ids[:, :3], shorter)
    assert split.decoder_attention_mask.tolist() == [[1, 0, 1, 1, 1], [1] * 5]
    values = causal.pipeline.tokenizer.output_transform(split.decoder_input_ids[:, None, 3:], scale)
    torch.testing.assert_close(values[:, 0], series[:, 3:], atol=0.05, rtol=0)


def test_a_series_over_the_positions(causal: Model) -> None:
    batch = Batch.from_series(causal, np.arange(100.0), num_decoder=33)
    assert batch.decoder_input_ids.shape == (1, 64 + 33)
    with pytest.raises(interp.errors.InvalidInput, match="97 tokens: tiny-causal has 96 positions"):
        causal.inputs(batch)


tokens = st.integers(0, 4095)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    rows, enc, dec = draw(st.integers(1, 4)), draw(st.integers(0, 5)), draw(st.integers(1, 5))

    def rectangle(values: Any, width: int) -> list[list[int]]:
        return draw(st.lists(st.lists(values, min_size=width, max_size=width), min_size=rows, max_size=rows))

    def mask(width: int) -> list[list[int]]:
        found = rectangle(st.integers(0, 1), width)
        return [[*row[:-1], 1] for row in found]

    given: dict[str, Any] = {"decoder_input_ids": rectangle(tokens, dec)}
    if enc:
        return given | {"input_ids": rectangle(tokens, enc), "attention_mask": mask(enc)}
    return given | {"decoder_attention_mask": mask(dec)}


@given(values=batches(), data=st.data())
def test_rows_ids_masks_and_inputs_hold_what_was_given(values: dict[str, Any], data: st.DataObject) -> None:
    batch = Batch(**values)
    encoder = "input_ids" in values
    assert batch.has_encoder == encoder
    assert len(batch) == len(values["decoder_input_ids"])
    assert batch.ids("decoder").tolist() == values["decoder_input_ids"]
    ones = torch.ones_like(batch.decoder_input_ids).tolist()
    assert batch.mask("decoder").tolist() == values.get("decoder_attention_mask", ones)
    if encoder:
        assert batch.ids("encoder").tolist() == values["input_ids"]
        assert batch.mask("encoder").tolist() == values["attention_mask"]
        assert set(batch.inputs) == {"input_ids", "attention_mask", "decoder_input_ids"}
    else:
        assert batch.ids("encoder").shape == batch.mask("encoder").shape == (len(batch), 0)
        assert batch.inputs["input_ids"] is batch.decoder_input_ids
        assert batch.inputs["attention_mask"] is batch.decoder_attention_mask
        assert len(batch.inputs) == 2
    chosen = data.draw(st.lists(st.integers(0, len(batch) - 1), min_size=1, max_size=5))
    rows = batch.rows(torch.tensor(chosen))
    assert rows.has_encoder == encoder
    for stack in ("encoder", "decoder"):
        assert torch.equal(rows.ids(stack), batch.ids(stack)[chosen])
        assert torch.equal(rows.mask(stack), batch.mask(stack)[chosen])


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([], "not empty"),
        ([[1.0, 2.0], [3.0]], "ragged nested list"),
        ([[1.0, 2.0], 3.0], "ragged nested list"),
        ([float("nan")] * 4, "only NaN"),
        (np.array([[1.0, 2.0], [np.nan, np.nan]]), r"\[1\] hold only NaN"),
        ([1.0, float("inf")], "infinite"),
        (pd.DataFrame({"y": [1.0, 2.0]}), "data frame"),
        ([1 + 2j, 3], "real numbers"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "real numbers"),
        (["a", "b"], "must be real numbers"),
        (np.zeros((2, 3, 4)), r"\[series, step\]"),
        ([np.zeros(3), np.zeros(0)], "empty series"),
    ],
)
def test_what_cannot_be_a_series(either: Model, series: Any, message: str) -> None:
    with pytest.raises(interp.errors.InvalidInput, match=message):
        Batch.from_series(either, series)


def test_nothing_but_missing_values_in_the_last_context(either: Model) -> None:
    """Chronos sees the last 64 steps only: values before them do not count."""
    with pytest.raises(interp.errors.InvalidInput, match="last 64 steps"):
        Batch.from_series(either, np.r_[np.ones(100), np.full(64, np.nan)])


def test_a_batch_is_a_copy() -> None:
    ids = torch.tensor([[5, 6]])
    batch = Batch(input_ids=ids)
    ids[0, 0] = 9999
    assert batch.input_ids.tolist() == [[5, 6]]


def test_a_decoder_that_takes_everything(either: Model) -> None:
    with pytest.raises(interp.errors.InvalidInput, match="leaves the context nothing"):
        Batch.from_series(either, [1.0, 2.0], num_decoder=2)
    with pytest.raises(interp.errors.InvalidInput, match="no value at all"):
        Batch.from_series(either, [float("nan"), 2.0], num_decoder=1)
