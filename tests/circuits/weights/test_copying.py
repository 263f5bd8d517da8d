"""Copying scores against the formula written out over Hugging Face's own modules, and where the answer is known."""

import numpy as np
import pytest
import torch

import circuits
import interp
import probes
from tests.conftest import tiny_causal_pipeline, tiny_pipeline
from tests.dense_decoder import dense_head, dense_unembedding, divided
from tests.interp.models.test_head_weights import scaled
from tests.tolerance import FORWARD, close


@pytest.mark.parametrize(("kind", "head"), [("cross", 1), ("self", 2)])
def test_equal_to_the_formula_written_out(kind: str, head: int) -> None:
    """Values by a hook on `v`, one head's rows and columns, all logits of the vocabulary, token by token."""
    model = scaled(interp.wrap(tiny_pipeline(dtype=torch.float64)))
    found = circuits.copying_scores(model, sequence_length=6, batch_size=3, seed=4)
    tokens = torch.from_numpy(probes.random_tokens(np.random.default_rng(4), 3, 6, min_gap=1))
    ids = torch.cat([tokens, torch.ones(3, 1, dtype=torch.long)], 1)
    decoder = torch.cat([torch.zeros(3, 1, dtype=torch.long), tokens], 1)
    name = "layer.1.EncDecAttention" if kind == "cross" else "layer.0.SelfAttention"
    attention: torch.nn.Module = model.module.get_submodule(f"decoder.block.1.{name}")
    kept: list[torch.Tensor] = []
    handle = attention.get_submodule("v").register_forward_hook(lambda _m, _i, out: kept.append(out))
    with torch.no_grad():
        model.module(input_ids=ids, decoder_input_ids=decoder, use_cache=False)
    handle.remove()
    rows = slice(8 * head, 8 * head + 8)
    ratios: list[float] = []
    for row in range(3):
        own = total = 0.0
        for place, token in enumerate(tokens[row]):
            value = kept[0][row, place + (kind == "self"), rows]
            written = attention.o.weight[:, rows].double() @ value  # type: ignore[union-attr, index]
            logits = model.module.lm_head.weight.double() @ (model.module.decoder.final_layer_norm.weight * written)
            raised = (logits - logits.mean()).clamp(min=0)[tokens[row]]
            own, total = own + float(raised[tokens[row] == token].detach()), total + float(raised.sum().detach())
        ratios.append(own / total)
    published = found[f"decoder.{kind}.copying_published"].values[1, head]
    close(published, 2 * np.mean(ratios) - 1, terms=FORWARD, dtype=torch.float64)
    over = found[f"decoder.{kind}.copying_over_chance"]
    close(over.values[1, head], (np.mean(ratios) - 1 / 6) / (1 - 1 / 6), terms=FORWARD, dtype=torch.float64)
    stderr = np.std(ratios, ddof=1) / 3**0.5 / (1 - 1 / 6)
    assert over.stderr is not None
    close(over.stderr[1, head], stderr, terms=FORWARD, dtype=torch.float64)


def test_a_head_planted_to_copy_does_and_random_ones_do_not() -> None:
    scores = circuits.copying_scores(interp.zoo.planted().model)
    cross = scores["decoder.cross.copying_over_chance"]
    assert cross["decoder.cross.1.2"] > 0.4
    others = np.concatenate(
        [np.delete(cross.values.ravel(), 5), scores["decoder.self.copying_over_chance"].values.ravel()]
    )
    assert np.abs(others).max() < 0.05
    assert abs(scores["decoder.cross.copying_published"].values[0, 0] - (2 / 25 - 1)) < 0.05, "chance is 2 / n - 1"


@pytest.mark.parametrize("name", ["pico-t5", "pico-t5-induction"])
def test_induction_heads_copy_and_no_others(name: str) -> None:
    """Three ways to the same heads: attention, eigenvalues of the weights, and what they write when run."""
    model = interp.load(name)
    mosaic = probes.induction_mosaic(model)
    copied = circuits.copying_scores(model)["decoder.cross.copying_over_chance"]
    induction = mosaic.either.values >= 0.3
    assert copied.values[induction].min() > 0.06
    assert copied.values[~induction].max() < 0.04


def test_what_is_refused(model: interp.Model) -> None:
    for options, text in (
        ({"sequence_length": 1}, "sequence_length=1"),
        ({"vocab_range": (1911, 1915)}, "do not fit"),
        ({"seed": -1}, "seed=-1"),
        ({"vocab_range": (2, 5000), "sequence_length": 3000}, "tokens 0-4095"),
    ):
        with pytest.raises(interp.errors.InvalidInput, match=text):
            circuits.copying_scores(model, **options)  # type: ignore[arg-type]


def test_equal_to_the_formula_written_out_for_a_decoder() -> None:
    """One row of tokens and no others; values with b_V, by Hugging Face's stream and tensors alone."""
    model = interp.wrap(tiny_causal_pipeline(dtype=torch.float64))
    found = circuits.copying_scores(model, sequence_length=6, batch_size=3, seed=4)
    assert set(found) == {"decoder.self.copying_published", "decoder.self.copying_over_chance"}
    tokens = torch.from_numpy(probes.random_tokens(np.random.default_rng(4), 3, 6, min_gap=1))
    with torch.no_grad():
        streams = model.module(input_ids=tokens, output_hidden_states=True).hidden_states
    W_U = dense_unembedding(model.module, True)[0]
    for head in (interp.Head.parse("decoder.self.0.2"), interp.Head.parse("decoder.self.2.1")):
        h = dense_head(model.module, head, True)
        logits = (divided(streams[head.layer]) @ h.V + h.v) @ h.O @ W_U
        raised = (logits - logits.mean(-1, keepdim=True)).clamp(min=0)
        among = torch.stack([row[:, own] for row, own in zip(raised, tokens, strict=True)])
        ratios = (among.diagonal(dim1=1, dim2=2).sum(1) / among.sum((1, 2))).numpy()
        over = found["decoder.self.copying_over_chance"]
        close(over[head], (ratios.mean() - 1 / 6) / (1 - 1 / 6), terms=FORWARD, dtype=torch.float64)
        close(found["decoder.self.copying_published"][head], 2 * ratios.mean() - 1, terms=FORWARD, dtype=torch.float64)
        assert over.stderr is not None
        stderr = np.std(ratios, ddof=1) / 3**0.5 / (1 - 1 / 6)
        close(over.stderr[head.layer, head.head], stderr, terms=FORWARD, dtype=torch.float64)


def test_a_head_planted_to_copy_in_a_decoder_does_and_random_ones_do_not() -> None:
    over = circuits.copying_scores(interp.zoo.planted_decoder().model)["decoder.self.copying_over_chance"].values
    assert over[1, 2] > 0.4
    assert np.abs(np.delete(over.ravel(), 7)).max() < 0.05
