"""Edits at chosen positions: equal to indexing by hand, in forwards, in padded rows and step by step."""

# pyright: reportUnknownLambdaType=false

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import interp
from interp import Add, Batch, Knockout, Mean, Model, Resample, Scale, Site, Zero
from interp.editing.positions import Chosen, as_positions
from interp.errors import InertEdit, InvalidInput
from tests.conftest import context, masked_batch, other_tokens
from tests.tolerance import FORWARD, close, not_close

NUMBERS: list[Any] = [2, -1, [0, 2], (1, -2), range(1, 4), np.array([1, 2]), torch.tensor([3])]
FORMS = [*NUMBERS, slice(1, None), slice(None, -1), slice(-2, None), slice(0, 4, 2), slice(-3, -1), slice(2, 99)]
SITES = ["decoder.cross.1.q", "decoder.cross.1.v", "encoder.self.1.z", "encoder.1.resid_post", "decoder.self.0.pattern"]


def by_hand(value: Tensor, edited: Tensor, positions: Any, axis: int) -> Tensor:
    """Python's own indexing, for rows without padding."""
    index: Any = list(positions) if isinstance(positions, range | tuple) else positions
    result = value.movedim(axis, 0).clone()
    result[index] = edited.movedim(axis, 0)[index]
    return result.movedim(0, axis)


def unpadded(batch: Batch) -> Batch:
    return Batch(batch.input_ids, decoder_input_ids=batch.decoder_input_ids)


@pytest.mark.parametrize("positions", FORMS, ids=str)
@pytest.mark.parametrize("site", SITES)
def test_an_edit_at_positions_against_indexing(model: Model, batch: Batch, site: str, positions: Any) -> None:
    plain = unpadded(batch)
    clean = interp.capture(model, plain, site)[site]
    axis = 2 if site.endswith("pattern") else 1
    if isinstance(positions, int | slice) or max(abs(int(p)) for p in positions) < clean.shape[axis]:
        with interp.edited(model, Scale(site, 3.0, positions=positions)):
            scaled = interp.capture(model, plain, site)[site]
        assert torch.equal(scaled, by_hand(clean, clean * 3, positions, axis))


def test_every_edit_of_a_value_takes_them(model: Model, batch: Batch) -> None:
    """One head of a layer, at every position but the first; the others keep theirs."""
    plain, other = unpadded(batch), unpadded(other_tokens(batch))
    at = "decoder.cross.1.2"
    site = "decoder.cross.1.z"
    clean = interp.capture(model, plain, site)[site]
    for make in (
        lambda **options: Zero(at, **options),
        lambda **options: Scale(at, -2.0, **options),
        lambda **options: Add(at, 1.5, **options),
        lambda **options: Mean(at, other, **options),
        lambda **options: Mean(at, other, by_position=True, **options),
        lambda **options: Resample(at, other, **options),
    ):
        values = []
        for edit in (make(), make(positions=slice(1, None))):
            with interp.edited(model, edit):
                values.append(interp.capture(model, plain, site)[site])
        assert not torch.equal(values[0][:, 0], clean[:, 0])
        assert torch.equal(values[1][:, 0], clean[:, 0])
        assert torch.equal(values[1][:, 1:], values[0][:, 1:])


def test_ablate_takes_them(model: Model, batch: Batch) -> None:
    logits = "decoder.logits"
    with interp.ablate(model, ["decoder.cross.1.2", "encoder.self.0"], positions=[0, -1]):
        one = interp.capture(model, batch, logits)[logits]
    with interp.edited(
        model, [Zero("decoder.cross.1.2", positions=[0, -1]), Zero("encoder.self.0", positions=[0, -1])]
    ):
        other = interp.capture(model, batch, logits)[logits]
    assert torch.equal(one, other)


def test_negative_positions_count_a_rows_own_tokens(either: Model) -> None:
    """Padding is on the left in one row and on the right in another: -1 is each row's last token."""
    batch = masked_batch(either.has_encoder)
    stack = "encoder" if either.has_encoder else "decoder"
    mask = batch.mask(stack).bool()
    site = f"{stack}.1.resid_post"
    clean = interp.capture(either, batch, site)[site]
    with interp.edited(either, Zero(site, positions=-1)):
        value = interp.capture(either, batch, site)[site]
    for row in range(len(batch)):
        last = int(mask[row].nonzero()[-1])
        changed = (value[row] != clean[row]).any(-1).nonzero()[:, 0].tolist()
        assert changed == [last]
    with interp.edited(either, Zero(site, positions=slice(-2, None))):
        value = interp.capture(either, batch, site)[site]
    for row in range(len(batch)):
        last_two = mask[row].nonzero()[-2:, 0].tolist()
        changed = (value[row] != clean[row]).any(-1).nonzero()[:, 0].tolist()
        assert [place for place in changed if bool(mask[row, place])] == last_two


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("positions", [0, 2, [1, 3], slice(1, None), slice(None, 3), slice(2, 4)], ids=str)
def test_positions_are_the_same_whichever_step_reaches_them(either: Model, positions: Any, use_cache: bool) -> None:
    """Greedy generation step by step against one teacher-forced run of the tokens that it chose."""
    at = context(either) + ".1"
    edit = Scale(at, -4.0, positions=positions)
    ids = torch.arange(1950, 1956)[None].repeat(2, 1) + torch.tensor([[0], [40]])
    settings: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "use_cache": use_cache}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    module: Any = either.module
    with torch.no_grad(), interp.edited(either, edit):
        out = module.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    steps = torch.stack(out.logits, 1)
    batch = (
        Batch(ids, decoder_input_ids=out.sequences[:, :-1])
        if either.has_encoder
        else Batch(decoder_input_ids=out.sequences[:, :-1])
    )
    with torch.no_grad(), interp.edited(either, edit):
        forced = module(**either.inputs(batch)).logits[:, -5:]
    close(steps, forced, terms=FORWARD)
    with torch.no_grad():
        not_close(steps, module(**either.inputs(batch)).logits[:, -5:])


def test_the_last_position_is_that_of_the_step(model: Model) -> None:
    """-1 moves with a generation: with a cache every step's own token, so it is as if all were edited."""
    ids = torch.arange(1950, 1956)[None]
    settings: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    module: Any = model.module
    logits: list[Tensor] = []
    for positions in (-1, None, slice(-1, None)):
        with torch.no_grad(), interp.edited(model, Zero("decoder.cross.1.1", positions=positions)):
            logits.append(torch.stack(module.generate(ids, **settings).logits))
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[2], logits[1])


def test_rows_of_a_pattern_are_its_queries(model: Model, batch: Batch) -> None:
    """Zeroed rows of a pattern are what a knockout of these queries leaves, without renormalising."""
    plain, logits = unpadded(batch), "decoder.logits"
    results: list[Tensor] = []
    head = interp.Head.parse("decoder.cross.1.2")
    for edit in (
        Zero(Site("decoder", "cross", 1, "pattern"), positions=[0, 2]),
        *[[Knockout(f"decoder.cross.1.{i}", query=[0, 2], renormalise=False) for i in range(model.n_heads)]],
        *[[Zero(f"decoder.cross.1.{i}", positions=[0, 2]) for i in range(model.n_heads)]],
    ):
        with interp.edited(model, edit):
            results.append(interp.capture(model, plain, logits)[logits])
    assert head.head == 2
    close(results[0], results[1], terms=FORWARD)
    close(results[0], results[2], terms=FORWARD)


def test_a_knockout_takes_slices(model: Model, batch: Batch) -> None:
    plain, site = unpadded(batch), "decoder.cross.1.pattern"
    with interp.edited(model, Knockout("decoder.cross.1.2", query=slice(1, None), key=slice(None, -2))):
        value = interp.capture(model, plain, site)[site][:, 2]
    clean = interp.capture(model, plain, site)[site][:, 2]
    assert torch.equal(value[:, 0], clean[:, 0])
    assert bool((value[:, 1:, :-2] == 0).all())
    assert bool((value[:, 1:, -2:] > 0).all())


@pytest.mark.parametrize(
    ("positions", "says"),
    [(9, r"no step had position \[9\]"), (slice(7, 9), "no step had a position of 7:9"), ([0, 9], r"position \[9\]")],
)
def test_positions_that_never_come(model: Model, batch: Batch, positions: Any, says: str) -> None:
    with pytest.raises(InertEdit, match=says), interp.edited(model, Zero("decoder.cross.1.2", positions=positions)):
        interp.capture(model, batch, "decoder.logits")


def test_an_encoder_does_not_grow(model: Model, batch: Batch) -> None:
    with (
        pytest.raises(InvalidInput, match=r"position \[99\] is outside the sequence"),
        interp.edited(model, Zero("encoder.self.1.0", positions=99)),
    ):
        interp.capture(model, batch, "decoder.logits")


@pytest.mark.parametrize(
    "positions",
    [
        True,
        1.5,
        "1:",
        [],
        [1, 1],
        [0, None],
        slice(3, 3),
        slice(4, 2),
        slice(0, 0),
        slice(5, None, -1),
        {1: 2},
        slice("a", None),
    ],
    ids=str,
)
def test_what_are_no_positions(positions: Any) -> None:
    with pytest.raises(InvalidInput, match="position"):
        Zero("decoder.cross.1.2", positions=positions)


def test_two_edits_may_set_different_positions(model: Model, batch: Batch) -> None:
    at, site = "decoder.cross.1.2", "decoder.cross.1.z"
    plain = unpadded(batch)
    with interp.edited(model, [Zero(at, positions=0), Mean(at, plain, positions=[1, 2])]):
        value = interp.capture(model, plain, site)[site]
    assert bool((value[:, 0, 2] == 0).all())
    assert bool((value[:, 1, 2] == value[:, 2, 2]).all())
    for other in ([0, 1], slice(0, 2), -1, None):
        edits = [Zero(at, positions=0), Mean(at, plain, positions=other)]
        with pytest.raises(InvalidInput, match="set the same value"), interp.edited(model, edits):
            pass


def test_an_edit_says_where_it_acts() -> None:
    assert str(Zero("decoder.cross.1.2", positions=slice(1, None))) == "Zero('decoder.cross.1.2', positions=1:)"
    assert str(Zero("decoder.cross.1.2")) == "Zero('decoder.cross.1.2')"
    assert str(Scale("decoder.cross.1.2", 0.5)) == "Scale('decoder.cross.1.2', factor=0.5)"
    assert Zero("decoder.cross.1.2", positions=[1]) == Zero("decoder.cross.1.2", positions=(1,))
    assert len({Zero("decoder.cross.1.2", positions=slice(0, n)) for n in (1, 2, 2)}) == 2


@given(
    length=st.integers(1, 9),
    start=st.none() | st.integers(-12, 12),
    stop=st.none() | st.integers(-12, 12),
    step=st.none() | st.integers(1, 4),
)
def test_slices_are_pythons(length: int, start: int | None, stop: int | None, step: int | None) -> None:
    """On a sequence without padding, a slice marks what Python's does; cut into steps, each marks its own."""
    try:
        span = as_positions("positions", slice(start, stop, step))
    except InvalidInput:
        assert list(range(20))[slice(start, stop, step)] == []
        return
    chosen = Chosen("edit", "position", span)
    site = Site("decoder", "cross", 0, "z")
    shown = torch.ones(1, length, dtype=torch.bool)
    marked = chosen.here(shown, 0, length, site, True)[0]
    assert marked.nonzero()[:, 0].tolist() == list(range(length))[slice(start, stop, step)]
    if (start or 0) >= 0 and (stop is None or stop >= 0):
        steps = [chosen.here(shown[:, : end + 1], 0, 1, site, True)[0, 0] for end in range(length)]
        assert steps == marked.tolist()


def test_messages_stay_short(model: Model, batch: Batch) -> None:
    """However many positions an edit names."""
    for positions in (range(3000), range(0, 3000, 2)):
        edits = [
            Zero("decoder.cross.1.2", positions=positions),
            Knockout("decoder.cross.1.1", query=positions, renormalise=False),
        ]
        for edit in edits:
            with pytest.raises(InertEdit) as error, interp.edited(model, edit):
                interp.capture(model, batch, "decoder.logits")
            assert len(str(error.value)) < 400
