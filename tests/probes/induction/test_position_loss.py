"""The loss by position against Hugging Face's own, where it must drop and where it must not."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from scipy import stats

import interp
from interp import Batch, Model, zoo
from probes import plots, position_loss, repeated_sequences
from probes.induction.position_loss import PositionLoss
from tests.conftest import tiny_causal_pipeline, tiny_gpt2, tiny_pipeline
from tests.tolerance import FORWARD, close


@pytest.fixture(scope="module")
def plant() -> Model:
    return zoo.planted_decoder().model


def reference(model: Model, batch: Batch) -> Any:
    """The cross-entropy of each next decoder token by the model's own logits, in float64."""
    with torch.no_grad():
        logits = model.module(**model.inputs(batch)).logits.double()
    ids = batch.decoder_input_ids
    return -logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].numpy()


def test_losses_are_those_of_the_model_itself(either: Model) -> None:
    batch = repeated_sequences(encoder=either.has_encoder, sequence_length=7, batch_size=3)
    found = position_loss(either, batch)
    np.testing.assert_allclose(found.rows, reference(either, batch), atol=1e-4)
    np.testing.assert_array_equal(found.rows, position_loss(either, sequence_length=7, batch_size=3).rows)
    with torch.no_grad():
        own = either.module(**either.inputs(batch), labels=batch.decoder_input_ids)
    if not either.has_encoder:  # Hugging Face shifts the labels of a decoder alone by itself
        close(found.rows.mean(), float(own.loss), terms=FORWARD)


def test_padding_is_left_out(either: Model, either_batch: Batch) -> None:
    found = position_loss(either, either_batch)
    expected = reference(either, either_batch)
    shown = either_batch.decoder_attention_mask.bool().numpy()
    there = shown[:, :-1].copy()
    assert there.all() == either.has_encoder
    if not either.has_encoder:  # one token is missing between two others: the next one is that after it
        with torch.no_grad():
            logits = either.module(**either.inputs(either_batch)).logits.double()
        expected[3, 3] = -logits[3, 3].log_softmax(-1)[either_batch.decoder_input_ids[3, 5]]
    np.testing.assert_array_equal(np.isnan(found.rows), ~there)
    np.testing.assert_allclose(found.rows[there], expected[there], atol=1e-4)
    frame = found.to_frame()
    means = [column[known].mean() for column, known in zip(expected.T, there.T, strict=True)]
    close(frame["loss"], means, terms=FORWARD)
    np.testing.assert_array_equal(frame["n"], there.sum(0))
    # A row by itself is as it was among the others.
    alone = position_loss(either, either_batch.rows(torch.tensor([1])))
    np.testing.assert_allclose(alone.rows[0], found.rows[1], atol=1e-4)


@pytest.mark.parametrize("bos", [None, 3])
def test_the_half_way_point_is_the_first_token_that_comes_again(plant: Model, bos: int | None) -> None:
    """The last token of the first S has been followed by nothing; from the next position on the planted head knows."""
    n, first = 20, int(bos is not None)
    found = position_loss(plant, sequence_length=n, unique=True, bos=bos)
    assert found.split == n + first
    assert found.rows.shape[1] == 2 * n - 1 + first
    batch = repeated_sequences(encoder=False, sequence_length=n, unique=True, bos=bos)
    ids = batch.decoder_input_ids
    assert torch.equal(ids[:, found.split], ids[:, first])  # what stands there has been seen
    assert not (ids[:, found.split - 1, None] == ids[:, : found.split - 1]).any()  # what stands before has not
    # The copy at position 0 is of itself, so without a bos the head finds two matches for the first token.
    assert found.mean[found.split + 1 - first :].max() < 0.1
    assert found.mean[: found.split].min() > 10
    assert found.drop > 10


def test_what_does_not_repeat_or_has_no_circuit_does_not_drop(plant: Model) -> None:
    own = position_loss(plant, sequence_length=20, unique=True)
    control = position_loss(plant, sequence_length=40, repetitions=1, unique=True)
    cut = position_loss(zoo.planted_decoder(wired=False).model, sequence_length=20, unique=True)
    assert control.split == own.split
    assert control.rows.shape == own.rows.shape
    assert own.drop > 5 * max(control.drop, cut.drop)
    assert control.mean[control.split :].min() > 10
    assert cut.mean[cut.split :].min() > 10


def test_a_trained_decoder_drops_where_it_must() -> None:
    model = interp.load("pico-gpt2")
    own, control = position_loss(model), position_loss(model, sequence_length=100, repetitions=1)
    summary = own.summary().set_index("part")
    assert summary.loc["drop", "low"] > 5
    assert summary.loc["drop at once", "low"] > 0.5
    assert abs(control.drop) < 0.3
    assert own.halves[0].mean() == pytest.approx(np.log(277), abs=0.4)  # a guess among the range's tokens


def test_a_decoder_beside_an_encoder_knows_from_the_start(pico: Model) -> None:
    """Its encoder has read all tokens before the first is predicted: the whole is under the control, with no drop."""
    own = position_loss(pico, sequence_length=25, unique=True)
    control = position_loss(pico, sequence_length=50, repetitions=1, unique=True)
    assert own.split == 26  # the start token comes first
    assert abs(own.drop) < 0.5
    assert own.halves[0].mean() + 1 < control.halves[0].mean()


def test_halves_summary_and_intervals() -> None:
    rows = np.array([[4.0, 3.0, 1.0, 0.0], [5.0, np.nan, 2.0, 1.0], [np.nan, np.nan, 0.5, 0.5]])
    found = PositionLoss(rows, 2)
    close(found.halves, [[3.5, 5.0, np.nan], [0.5, 1.5, 0.5]])
    close(found.drop, 3.25)
    summary = found.summary().set_index("part")
    assert list(summary["n"]) == [2, 3, 2, 1]
    assert summary.loc["drop at once", "loss"] == 2
    close(list(summary["loss"])[:3], [4.25, 2.5 / 3, 3.25])
    assert summary.loc["second half", "low"] < 2.5 / 3 < summary.loc["second half", "high"]
    close(found.mean, [4.5, 3, 3.5 / 3, 0.5])
    low, high = found.bounds
    assert np.isnan(low[[0, 1]]).all()  # two rows and one have no interval
    close(high[2:] - found.mean[2:], stats.t.ppf(0.975, 2) * stats.sem(rows[:, 2:]))
    close(found.mean[2:] - low[2:], high[2:] - found.mean[2:])
    assert list(found.to_frame()["half"]) == [1, 1, 2, 2]


def test_any_batch_parts_in_the_middle(causal: Model) -> None:
    tokens = torch.randint(2, 4096, (3, 12), generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([tokens, tokens], 1)
    found = position_loss(causal, Batch(decoder_input_ids=tokens))
    assert found.split == 12  # as it would be if the batch knew that it repeats
    assert found.provenance["stimulus"] == {"name": "batch", "rows": 3, "tokens": 24}


def test_half_precision_and_edits(causal: Model) -> None:
    low = interp.wrap(tiny_causal_pipeline(dtype=torch.bfloat16))
    values: dict[str, Any] = {"sequence_length": 6, "batch_size": 4}
    clean = position_loss(causal, **values)
    np.testing.assert_allclose(position_loss(low, **values).rows, clean.rows, atol=0.6)
    assert position_loss(low, **values).rows.dtype == np.float64
    with interp.ablate(causal, causal.heads()):
        batch = repeated_sequences(encoder=False, **values)
        edited = position_loss(causal, **values)
        np.testing.assert_allclose(edited.rows, reference(causal, batch), atol=1e-4)
    assert np.abs(edited.rows - clean.rows).max() > 0.1


def test_save_and_load(causal: Model, tmp_path: Path) -> None:
    ids = torch.randint(2, 4096, (3, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    found = position_loss(causal, Batch(decoder_input_ids=ids, decoder_attention_mask=mask))
    again = PositionLoss.load(found.save(tmp_path / "loss.json"))
    np.testing.assert_array_equal(again.rows, found.rows)
    assert (again.split, again.provenance) == (found.split, found.provenance)
    assert again.provenance["digest"] == causal.digest
    assert not again.rows.flags.writeable
    (tmp_path / "loss.json").write_text((tmp_path / "loss.json").read_text().replace('"split": 4', '"split": 40'))
    with pytest.raises(interp.errors.DamagedFile):
        PositionLoss.load(tmp_path / "loss.json")


def test_what_is_refused(causal: Model) -> None:
    with pytest.raises(interp.errors.InvalidInput, match="leaves no next one"):
        position_loss(causal, Batch(decoder_input_ids=[[5], [6]]))
    with pytest.raises(interp.errors.InvalidInput, match="leaves no next one"):
        position_loss(interp.wrap(tiny_pipeline()), Batch([[5, 6]]))
    with pytest.raises(interp.errors.InvalidInput, match="not both"):
        position_loss(causal, repeated_sequences(encoder=False), seed=3)
    with pytest.raises(interp.errors.InvalidInput, match="encoder=False"):
        position_loss(causal, repeated_sequences(sequence_length=5))
    with pytest.raises(interp.errors.InvalidInput, match="96 positions"):
        position_loss(causal, sequence_length=60)


def test_the_stimulus() -> None:
    batch = repeated_sequences(encoder=False, vocab_range=(1000, 9999))
    assert batch.decoder_input_ids.shape == (10, 100)
    assert not batch.has_encoder
    assert torch.equal(batch.decoder_input_ids[:, :50], batch.decoder_input_ids[:, 50:])
    assert 1000 <= int(batch.decoder_input_ids.min()) < int(batch.decoder_input_ids.max()) <= 9999
    two = repeated_sequences(sequence_length=4, batch_size=2)
    assert torch.equal(two.input_ids[:, :-1], two.decoder_input_ids[:, 1:])
    assert set(two.input_ids[:, -1].tolist()) == {1}
    assert set(two.decoder_input_ids[:, 0].tolist()) == {0}
    begun = repeated_sequences(encoder=False, bos=7, sequence_length=4)
    assert set(begun.decoder_input_ids[:, 0].tolist()) == {7}
    assert begun.places("decoder") == slice(1, 9)
    for batch in (two, begun):
        inside = batch.decoder_input_ids[:, batch.places("decoder")]
        assert torch.equal(inside[:, :4], inside[:, 4:])
    for values, message in (
        ({"bos": 3}, "Leave bos out"),
        ({"sequence_length": 1}, "at least 2"),
        ({"vocab_range": 5}, "both included"),
        ({"sequence_length": 300, "unique": True}, "do not fit"),
    ):
        with pytest.raises(interp.errors.InvalidInput, match=message):
            repeated_sequences(**cast(Any, values))


def test_the_figure_holds_the_numbers() -> None:
    model = interp.wrap(tiny_gpt2(), name="words")
    own = position_loss(model, sequence_length=8, batch_size=4)
    control = position_loss(model, sequence_length=16, repetitions=1, batch_size=4)
    figure = plots.position_loss([own, control])
    lines = [trace for trace in figure.data if isinstance(trace, go.Scatter) and trace.name]
    assert [line.name for line in lines] == ["words", "words, nothing repeats"]
    np.testing.assert_array_equal(lines[0].y, own.mean)
    bands = [trace for trace in figure.data if isinstance(trace, go.Scatter) and not trace.name]
    np.testing.assert_array_equal(bands[1].y, own.bounds[1])
    across, dotted = figure.layout.shapes
    assert (across.x0, across.x1) == (7.5, 7.5)
    close(dotted.y0, np.log(277))
    twice = [trace.name for trace in plots.position_loss([own, own]).data if trace.name]
    assert twice == ["words", "words (2)"]
    for wrong in ([], [3], 3):
        with pytest.raises(interp.errors.InvalidInput):
            plots.position_loss(cast(Any, wrong))
