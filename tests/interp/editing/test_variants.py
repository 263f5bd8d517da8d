"""Folded runs give Hugging Face's numbers, for every variant, layer and step."""

import pytest
import torch
from torch import Tensor

import interp
from interp import Batch
from interp.editing.variants import clean_run, decode, encode, read, repeated, resume, resume_encoder, variant_heads
from interp.names import AttentionLayer
from tests.conftest import masked_batch, tiny_causal_pipeline, tiny_pipeline
from tests.tolerance import FORWARD, close

pytestmark = pytest.mark.versions

MAKE = {"t5": tiny_pipeline, "gpt2": tiny_causal_pipeline}
of_t5 = pytest.mark.parametrize("double", ["t5"], indirect=True)


@pytest.fixture(params=list(MAKE))
def double(request: pytest.FixtureRequest) -> interp.Model:
    return interp.wrap(MAKE[request.param](dtype=torch.float64))


@pytest.fixture
def batch(double: interp.Model) -> Batch:
    """Rows with padding on the left, and one with a token missing."""
    return masked_batch(double.has_encoder)


def with_ids(batch: Batch, ids: Tensor) -> Batch:
    """The batch with other tokens in the decoder."""
    return Batch(batch.input_ids, batch.attention_mask, ids, batch.decoder_attention_mask)


@torch.no_grad()
def logits(model: interp.Model, batch: Batch) -> Tensor:
    return model.module(**model.inputs(batch)).logits


def same(found: Tensor, wanted: Tensor) -> None:
    close(found, wanted, terms=FORWARD, dtype=torch.float64)


def test_the_decoder_on_several_variants(double: interp.Model, batch: Batch) -> None:
    """Rows with padding, and three continuations of each."""
    ids = torch.stack([batch.decoder_input_ids + shift for shift in range(3)], 1)
    with torch.no_grad():
        found = double.unembed(decode(double, encode(double, batch), ids))
    for variant in range(3):
        same(found[:, variant], logits(double, with_ids(batch, ids[:, variant])))


def test_step_by_step_with_the_cache(double: interp.Model, batch: Batch) -> None:
    ids = torch.stack([batch.decoder_input_ids, batch.decoder_input_ids.flip(1)], 1)
    context = encode(double, batch)
    cache = context.cache()
    with torch.no_grad():
        steps = [double.unembed(decode(double, context, ids[..., i : i + 1], cache)) for i in range(ids.shape[-1])]
        whole = double.unembed(decode(double, context, ids))
    # Padding itself, which sees nothing and which nothing sees, attends to all alike: as many as there are by then.
    shown = batch.decoder_attention_mask.bool()
    for variant in range(2):
        found = torch.cat(steps, 2)[:, variant][shown]
        same(found, whole[:, variant][shown])
        same(found, logits(double, with_ids(batch, ids[:, variant]))[shown])


def test_what_was_read_once_goes_on_in_several_copies(double: interp.Model, batch: Batch) -> None:
    """Rows, then variants, then copies; the tokens that are added are seen, whatever the mask says of those before."""
    total = batch.decoder_input_ids.shape[1]
    start = total - 3
    ids = torch.stack([batch.decoder_input_ids, batch.decoder_input_ids.flip(1)], 1)
    ids = ids.repeat_interleave(2, 1)
    ids[:, 1::2, start:] += 1
    cut = Batch(batch.input_ids, batch.attention_mask, ids[:, 0, :start], batch.decoder_attention_mask[:, :start])
    context = encode(double, cut)
    own = read(double, context, ids[:, ::2, :start])
    for _ in range(2):  # what was read is not written to
        cache = context.cache(repeated(own, 2))
        with torch.no_grad():
            found = [double.unembed(decode(double, context, ids[..., i : i + 1], cache)) for i in range(start, total)]
        for variant in range(4):
            same(torch.cat(found, 2)[:, variant], logits(double, with_ids(batch, ids[:, variant]))[:, start:])


@pytest.mark.parametrize(
    ("double", "after"), [("t5", "self"), ("t5", "cross"), ("gpt2", "self"), ("gpt2", None)], indirect=["double"]
)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("last", [False, True])
def test_resuming_the_decoder(double: interp.Model, batch: Batch, layer: int, after: str | None, last: bool) -> None:
    names = {None: "resid_pre", "self": "resid_mid", "cross": "resid_mid_cross"}
    site = f"decoder.{layer}.{names[after]}"
    cache, context = clean_run(double, batch, [site])
    stream = cache[site]
    other = stream + torch.linspace(-1, 1, double.d_model, dtype=torch.float64)
    only = batch.decoder_input_ids.shape[1] - 1 if last else None
    with torch.no_grad():
        found = double.unembed(resume(double, context, torch.stack([stream, other], 1), layer, after, only=only))
    kept = slice(-1, None) if last else slice(None)
    same(found[:, 0], logits(double, batch)[:, kept])
    with interp.edited(double, interp.Add(site, torch.linspace(-1, 1, double.d_model, dtype=torch.float64))):
        same(found[:, 1], logits(double, batch)[:, kept])


@of_t5
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_resuming_the_encoder(double: interp.Model, batch: Batch, layer: int) -> None:
    cache = interp.capture(double, batch, [f"encoder.{layer}.resid_mid", "encoder.ln_final"])
    stream = cache[f"encoder.{layer}.resid_mid"]
    found = resume_encoder(double, torch.stack([stream, stream + 0.5], 1), batch.attention_mask, layer)
    same(found[:, 0], cache["encoder.ln_final"])
    with interp.edited(double, interp.Add(f"encoder.{layer}.resid_mid", 0.5)):
        same(found[:, 1], interp.capture(double, batch, "encoder.ln_final")["encoder.ln_final"])
    start = interp.capture(double, batch, f"encoder.{layer}.resid_pre")[f"encoder.{layer}.resid_pre"]
    found = resume_encoder(double, start[:, None], batch.attention_mask, layer, None)
    same(found[:, 0], cache["encoder.ln_final"])


@pytest.mark.parametrize(("double", "kind"), [("t5", "self"), ("t5", "cross"), ("gpt2", "self")], indirect=["double"])
def test_heads_replaced_by_variant(double: interp.Model, batch: Batch, kind: str) -> None:
    at = AttentionLayer("decoder", kind, 1)  # type: ignore[arg-type]
    keep = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0]])
    value = torch.arange(24.0, dtype=torch.float64).reshape(1, 1, 1, 3, 8)
    ids = batch.decoder_input_ids[:, None].expand(-1, 3, -1)
    context = encode(double, batch)
    for fill in ({}, {at: value}):
        with variant_heads(double, {at: keep}, fill), torch.no_grad():
            found = double.unembed(decode(double, context, ids))
        for variant, row in enumerate(keep):
            edits: list[interp.Zero | interp.Add] = []
            for head in (~row.bool()).nonzero().flatten().tolist():
                edits.append(interp.Zero(f"{at}.{head}"))
                if fill:
                    edits.append(interp.Add(f"{at}.{head}", value[0, 0, 0, head]))
            with interp.edited(double, edits):
                same(found[:, variant], logits(double, batch))
    with torch.no_grad():
        same(double.unembed(decode(double, context, ids[:, :1]))[:, 0], logits(double, batch))
