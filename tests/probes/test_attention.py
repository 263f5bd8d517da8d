"""Attention patterns of chosen heads, and attention against value difference and lag."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp import Batch, Model
from probes import attention_by_lag, attention_by_value, attention_patterns, plots, repeated_random_tokens, token_values
from tests.conftest import tiny_bolt
from tests.planted import content_matcher
from tests.tolerance import FORWARD, LAYER, close


def test_patterns_are_those_of_the_heads_asked_for(model: Model, batch: Batch) -> None:
    heads = ["decoder.cross.1.2", "decoder.cross.0.1"]
    cache = interp.capture(model, batch, "decoder.cross.*.pattern")
    mean, row = attention_patterns(model, batch, heads), attention_patterns(model, batch, heads, row=2)
    paid = cache["decoder.cross.1.pattern"][:, 2].masked_fill(batch.attention_mask[:, None] == 0, torch.nan)
    close(mean.values[0], paid.nanmean(0), terms=LAYER)
    np.testing.assert_array_equal(row.values[1], cache["decoder.cross.0.pattern"][2, 1])
    assert mean.key_tokens is None
    assert row.key_tokens == tuple(batch.input_ids[2].tolist())
    assert row.query_tokens == tuple(batch.decoder_input_ids[2].tolist())


def test_patches_are_named_by_their_first_step(tmp_path: Path) -> None:
    model = interp.wrap(tiny_bolt())
    size, series = model.patching.size, torch.randn(2, 43, generator=torch.Generator().manual_seed(0))
    batch = Batch.from_series(model, series)
    first = 43 % size  # of the shorter patch in front
    names = (*(str(max(0, first + size * (patch - 1))) for patch in range(batch.n_patches)), "[REG]")
    own = attention_patterns(model, batch, model.heads("encoder.self"))
    assert own.key_patches == own.query_patches == names
    shown = list(plots.attention(own).data[0].customdata[1][:, 0])  # pyright: ignore[reportAttributeAccessIssue]
    assert shown == list(names)
    cross = attention_patterns(model, batch, "decoder.cross.0.0", row=1)
    assert (cross.key_patches, cross.query_patches) == (names, ("start",))
    cross.save(tmp_path / "cross.json")
    assert interp.read(tmp_path / "cross.json").key_patches == names  # pyright: ignore[reportAttributeAccessIssue]
    # As many patches, of which the first has more steps: no name is that of all rows.
    longer = Batch.from_series(model, torch.cat([series, series[:, :1]], 1))
    assert longer.length("encoder") == batch.length("encoder")
    assert attention_patterns(model, [batch, longer], "decoder.cross.0.0", progress=False).key_patches is None


def test_tokens_stand_for_values(model: Model) -> None:
    series = torch.tensor([1.0, -2.0, 0.5, 3.0])
    batch = Batch.from_series(model, series)
    values = token_values(model, batch.input_ids)[0]
    torch.testing.assert_close(values[:4], series / series.abs().mean(), atol=0.005, rtol=0)
    assert bool(values[4].isnan())


def test_a_content_matcher_peaks_at_equal_values() -> None:
    model = content_matcher()
    batch = repeated_random_tokens(batch_size=40, unique=True)
    curves = attention_by_value(model, batch, ["decoder.cross.1.2", "decoder.cross.1.0"], bins=41)
    peak = int(np.nanargmax(curves.values[0]))
    assert abs(curves.x[peak]) < 0.05
    assert curves.values[0][peak] > 0.3
    assert np.nanmax(curves.values[1]) < 0.06


def test_lag_in_self_attention_against_loops(model: Model, batch: Batch) -> None:
    pattern = interp.capture(model, batch, "decoder.self.0.pattern")["decoder.self.0.pattern"][:, 1]
    curves = attention_by_lag(model, batch, "decoder.self.0.1")
    assert list(curves.x) == [0, 1, 2, 3, 4]
    for lag in range(5):
        expected = np.mean([pattern[:, i, i - lag].numpy() for i in range(lag, 5)])
        close(curves.values[0, lag], expected, terms=FORWARD)


def test_lag_in_cross_attention_counts_from_the_end(model: Model) -> None:
    batch = Batch.from_series(model, np.sin(np.arange(12.0)), num_decoder=1)
    pattern = interp.capture(model, batch, "decoder.cross.1.pattern")["decoder.cross.1.pattern"]
    curves = attention_by_lag(model, batch, "decoder.cross.1.0")
    assert list(curves.x) == list(range(1, 12))
    close(curves.values[0], pattern[0, 0, :, :11].mean(0).numpy()[::-1], terms=FORWARD)


def test_pairs_on_the_edges_are_counted(model: Model) -> None:
    """Two values only: all differences fall on an edge or in the middle, and none is lost."""
    batch = Batch.from_series(model, [1.0, -1.0] * 8)
    curves = attention_by_value(model, batch, "encoder.self.0.0", bins=5)
    assert not np.isnan(curves.values[0, [0, 2, 4]]).any()
    pattern = interp.capture(model, batch, "encoder.self.0.pattern")["encoder.self.0.pattern"][0, 0]
    close(curves.values[0, 0], float(pattern[0:16:2, 1:16:2].mean()), terms=FORWARD)
    with pytest.raises(interp.errors.InvalidInput, match="constant series"):
        attention_by_value(model, Batch.from_series(model, [2.0] * 8), "encoder.self.0.0")


def test_what_is_refused(model: Model, batch: Batch) -> None:
    with pytest.raises(interp.errors.InvalidInput, match="one stack and kind"):
        attention_patterns(model, batch, ["decoder.cross.0.0", "encoder.self.0.0"])
    with pytest.raises(interp.errors.InvalidInput, match="rows 0-3"):
        attention_patterns(model, batch, "decoder.cross.0.0", row=4)
    with pytest.raises(interp.errors.InvalidInput, match="no query is a value"):
        attention_by_value(model, Batch.from_series(model, [1.0, 2.0]), "decoder.cross.0.0")


def test_a_data_set_is_averaged_as_one_batch_of_all_its_rows(model: Model, batch: Batch) -> None:
    """Batches are run one at a time, whether they stand in a list or are made while they are read."""
    heads = model.heads("decoder.cross")
    parts = [_rows(batch, slice(0, 1)), _rows(batch, slice(1, 4))]
    whole, several = attention_patterns(model, batch, heads), attention_patterns(model, parts, heads)
    close(several.values, whole.values, terms=FORWARD)
    assert several.provenance["stimulus"] == {"name": "attention_patterns", "rows": 4, "batches": 2}
    streamed = attention_patterns(model, (part for part in parts), heads, progress=False)
    np.testing.assert_array_equal(streamed.values, several.values)
    assert (several.key_tokens, several.query_tokens) == (None, None)
    same = attention_patterns(model, [parts[0]] * 3, heads)
    row = attention_patterns(model, batch, heads, row=0)
    close(same.values, row.values, terms=3)
    assert (same.key_tokens, same.query_tokens) == (row.key_tokens, row.query_tokens)
    np.testing.assert_array_equal(same.key_values, row.key_values)


def test_no_more_than_one_batch_of_a_data_set_is_held(model: Model, batch: Batch) -> None:
    alive: list[weakref.ref[Batch]] = []

    def batches() -> Iterator[Batch]:
        for at in range(4):
            gc.collect()  # nnsight leaves circles behind
            assert sum(reference() is not None for reference in alive) <= 1
            one = _rows(batch, slice(at, at + 1))
            alive.append(weakref.ref(one))
            yield one
            del one

    attention_patterns(model, batches(), "encoder.self.0.0", progress=False)
    assert len(alive) == 4


def test_batches_that_cannot_be_averaged(model: Model, batch: Batch) -> None:
    longer = Batch.from_series(model, np.sin(np.arange(12.0)), num_decoder=1)
    with pytest.raises(interp.errors.InvalidInput, match=r"batches of 5 queries on .* one length"):
        attention_patterns(model, [batch, longer], "decoder.cross.0.0")
    with pytest.raises(interp.errors.InvalidInput, match="row=0 of several batches"):
        attention_patterns(model, [batch], "decoder.cross.0.0", row=0)
    with pytest.raises(interp.errors.InvalidInput, match="no batch"):
        attention_patterns(model, [], "decoder.cross.0.0")
    with pytest.raises(interp.errors.InvalidInput, match="str"):
        attention_patterns(model, iter(["a"]), "decoder.cross.0.0")  # pyright: ignore[reportArgumentType]


def _rows(batch: Batch, rows: slice) -> Batch:
    return Batch(
        input_ids=batch.input_ids[rows],
        attention_mask=batch.attention_mask[rows],
        decoder_input_ids=batch.decoder_input_ids[rows],
    )
