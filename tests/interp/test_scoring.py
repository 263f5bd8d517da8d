"""A score of one's own, against Hugging Face's own attentions and plain loops."""

# pyright: reportUnknownLambdaType=false

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
import probes
from interp import Batch, Model
from interp.errors import InvalidInput, UnknownSite
from interp.results.by_head import HeadScores
from tests.tolerance import LAYER, close


def some(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.input_ids[rows], batch.attention_mask[rows], batch.decoder_input_ids[rows])


def last_key(pattern: Tensor) -> Tensor:
    return pattern[:, :, -1, -1]


@pytest.mark.parametrize("kind", ["encoder.self", "decoder.self", "decoder.cross"])
def test_a_score_against_the_models_own_attentions(model: Model, batch: Batch, kind: str) -> None:
    scores = interp.score_heads(model, batch, last_key, kind=kind)
    with torch.no_grad():
        out = model.module(**model.inputs(batch), output_attentions=True)
    own = {"encoder.self": out.encoder_attentions, "decoder.self": out.decoder_attentions}
    rows = torch.stack(own.get(kind, out.cross_attentions))[..., -1, -1].double()
    assert (scores.name, scores.site, scores.unit) == ("last_key", kind, "attention")
    close(scores.values, rows.mean(1).numpy(), terms=LAYER)
    assert scores.stderr is not None
    close(scores.stderr, rows.std(1).numpy() / len(batch) ** 0.5, terms=LAYER)


def test_heads_of_a_decoder_alone_are_scored_too(either: Model, either_batch: Batch) -> None:
    kind = ".".join(either.family.context)
    values = interp.score_heads(either, either_batch, last_key, kind=kind).values
    assert values.shape == (len(either.layers(kind)), either.n_heads)
    cache = interp.capture(either, either_batch, f"{kind}.*.pattern")
    close(values[-1], list(cache.values())[-1][..., -1, -1].double().mean(0).numpy(), terms=LAYER)


def test_a_function_of_two_parameters_gets_the_batch(model: Model) -> None:
    """Each row's own position: what only the batch knows."""
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(1911, 2187, (5, 9)))
    batch = Batch(ids)

    def to_largest(pattern: Tensor, batch: Batch) -> Tensor:
        return pattern[torch.arange(len(batch)), :, -1, batch.input_ids.argmax(1)]

    scores = interp.score_heads(model, batch, to_largest)
    pattern = interp.capture(model, batch, "decoder.cross.1.pattern")["decoder.cross.1.pattern"]
    by_hand = [
        [float(pattern[row, head, -1, int(ids[row].argmax())]) for row in range(5)] for head in range(model.n_heads)
    ]
    close(scores.values[1], np.mean(by_hand, axis=1), terms=LAYER)


def test_several_batches_are_one_data_set(model: Model, batch: Batch) -> None:
    """Rows count alike, whichever batch they are in: the mean of means would weigh small batches more."""
    whole = interp.score_heads(model, batch, last_key)
    parts = (some(batch, rows) for rows in (slice(0, 1), slice(1, None)))
    streamed = interp.score_heads(model, parts, last_key, progress=False)
    close(streamed.values, whole.values, terms=LAYER)
    close(streamed.stderr, whole.stderr, terms=LAYER)
    assert streamed.provenance["stimulus"]["rows"] == len(batch)
    assert streamed.provenance["stimulus"]["batches"] == 2


def test_all_layers_take_one_forward(model: Model, batch: Batch) -> None:
    seen: list[int] = []
    hook = model.module.get_submodule("encoder").register_forward_hook(lambda *_: seen.append(1))
    interp.score_heads(model, batch, last_key)
    hook.remove()
    assert len(seen) == 1


@pytest.mark.parametrize("site", ["q", "k", "v", "z", "head_out", "pattern"])
def test_any_site_with_heads(model: Model, batch: Batch, site: str) -> None:
    axis = 1 if site == "pattern" else 2

    def size(value: Tensor) -> Tensor:
        return value.movedim(axis, 1).flatten(2).square().mean(-1)

    scores = interp.score_heads(model, batch, size, kind="encoder.self", site=site)
    value = interp.capture(model, batch, f"encoder.self.1.{site}")[f"encoder.self.1.{site}"]
    by_hand = [
        float(value.select(axis, head).double().square().flatten(1).mean(1).mean()) for head in range(model.n_heads)
    ]
    close(scores.values[1], np.array(by_hand), terms=LAYER)


def test_rows_without_a_score_do_not_count(model: Model, batch: Batch) -> None:
    def but_the_first(pattern: Tensor) -> Tensor:
        rows = last_key(pattern).clone()
        rows[0] = torch.nan
        return rows

    known = interp.score_heads(model, batch, but_the_first)
    rest = interp.score_heads(model, some(batch, slice(1, None)), last_key)
    close(known.values, rest.values, terms=LAYER)


def test_lambdas_and_numpy_serve(model: Model, batch: Batch) -> None:
    scores = interp.score_heads(model, batch, lambda pattern: pattern.numpy()[:, :, -1, 0])
    assert scores.name == "score"
    assert (
        interp.score_heads(model, batch, lambda pattern: pattern[:, :, -1, 0], name="to the start").name
        == "to the start"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"function": lambda pattern: pattern}, r"returned \[\d+, \d+, \d+, \d+\]: return one number for each row"),
        ({"function": lambda pattern: pattern[:, :, -1, 0].mean(0)}, "one number for each row and head"),
        ({"function": lambda pattern: {"a": 1}}, "returned dict"),
        ({"function": lambda pattern: pattern[:, :, -1, 0] / 0}, "infinite in row 0"),
        ({"function": lambda a, b, c: a}, "a tensor, or a tensor and a batch"),
        ({"function": "pattern"}, "give a function"),
        ({"site": "attn_out"}, "no axis of heads"),
        ({"batch": []}, "there is no batch"),
        ({"batch": 3}, "is no Batch"),
        ({"batch": ["decoder.cross.1.2"]}, "no Batch"),
        ({"model": "pico-t5"}, "interp.load"),
    ],
)
def test_what_does_not_fit(model: Model, batch: Batch, change: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"model": model, "batch": batch, "function": last_key} | change
    with pytest.raises(InvalidInput, match=says):
        interp.score_heads(**arguments)


def test_an_unknown_kind_is_named(model: Model, batch: Batch) -> None:
    for kind in ("decoder.crss", ["decoder.cross"], None):
        with pytest.raises(UnknownSite):
            interp.score_heads(model, batch, last_key, kind=kind)  # type: ignore[arg-type]


def test_what_the_function_raises_says_where(model: Model, batch: Batch) -> None:
    def broken(pattern: Tensor) -> Tensor:
        return pattern[:, :, 99, 0]

    with pytest.raises(IndexError) as error:
        interp.score_heads(model, batch, broken)
    assert any("broken of decoder.cross.0" in note for note in error.value.__notes__)


def probe(model: Model, seed: int) -> HeadScores:
    batch = probes.repeated_random_tokens(model=model, batch_size=3, seed=seed)
    return interp.score_heads(model, batch, last_key)


def test_a_probe_can_be_swept_and_drawn(model: Model) -> None:
    table = interp.sweeps.sweep(probe, {"model": [model], "seed": [0, 1]}, progress=False).to_frame()
    alone = probe(model, 1)
    assert list(table.loc[table["seed"] == 1, "score"]) == list(alone.to_frame()["score"])
    assert probes.plots.head_scores(alone).layout.title.text
