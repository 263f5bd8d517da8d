"""Batches are checked when they are made, and series go through the pipeline's own tokenizer."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

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
    ],
)
def test_what_cannot_be_a_batch(values: dict[str, Any], message: str) -> None:
    with pytest.raises(interp.InvalidInput, match=message):
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


def test_one_series_in_its_usual_forms(model: Model) -> None:
    forms: list[Any] = [[1, 2, 3, 4], np.arange(1, 5), pd.Series([1.0, 2, 3, 4]), torch.arange(1, 5)]
    batches = [Batch.from_series(model, form).input_ids for form in forms]
    assert all(torch.equal(batches[0], other) for other in batches[1:])


def test_series_of_different_lengths_are_padded_on_the_left(model: Model) -> None:
    batch = Batch.from_series(model, [np.arange(1.0, 6.0), np.arange(1.0, 4.0)])
    assert batch.attention_mask.tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1]]
    assert batch.input_ids[1, :2].tolist() == [0, 0]


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
def test_what_cannot_be_a_series(model: Model, series: Any, message: str) -> None:
    with pytest.raises(interp.InvalidInput, match=message):
        Batch.from_series(model, series)


def test_nothing_but_missing_values_in_the_last_context(model: Model) -> None:
    """Chronos sees the last 64 steps only: values before them do not count."""
    with pytest.raises(interp.InvalidInput, match="last 64 steps"):
        Batch.from_series(model, np.r_[np.ones(100), np.full(64, np.nan)])


def test_a_batch_is_a_copy() -> None:
    ids = torch.tensor([[5, 6]])
    batch = Batch(input_ids=ids)
    ids[0, 0] = 9999
    assert batch.input_ids.tolist() == [[5, 6]]


def test_a_decoder_that_takes_everything(model: Model) -> None:
    with pytest.raises(interp.InvalidInput, match="leaves the context nothing"):
        Batch.from_series(model, [1.0, 2.0], num_decoder=2)
    with pytest.raises(interp.InvalidInput, match="no value at all"):
        Batch.from_series(model, [float("nan"), 2.0], num_decoder=1)
