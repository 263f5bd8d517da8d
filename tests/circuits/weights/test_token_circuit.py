"""Circuits in token space: exact in the first layers, equal to dense formulas, known where planted."""

import math

import numpy as np
import pytest
import torch

import circuits
import interp
import probes
from circuits.edges import ScoredEdge
from circuits.weights.token_circuit import as_tokens, normed
from tests.conftest import tiny_causal_pipeline, tiny_gpt2, tiny_pipeline
from tests.dense_decoder import dense_head, dense_unembedding, divided
from tests.interp.models.test_head_weights import scaled
from tests.tolerance import FORWARD, LAYER, ROUTINE, close, not_close

SAMPLE = [5, 900, 17, 2050, 1911]


def first_scores(model: interp.Model, address: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A head's captured scores on a row of distinct tokens, and what its circuit and bias give."""
    head = interp.Head.parse(address)
    ids = torch.arange(20, 34)[None]
    batch = interp.Batch(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=ids)
    site = f"{head.stack}.self.0.scores"
    seen = interp.capture(model, batch, [site])[site][0, head.head]
    circuit = circuits.qk_circuit(model, head)
    bias = circuit.position_bias
    assert bias is not None
    assert bias.values.shape[0] == 1
    made = circuits.token_circuit(circuit, (20, 33)).full().clone()
    at = {int(distance): float(value) for distance, value in zip(bias.distances, bias.values[0], strict=True)}
    for q in range(14):
        for k in range(14):
            made[q, k] += at.get(k - q, -math.inf)
    return seen, made


@pytest.mark.parametrize("address", ["encoder.self.0.0", "encoder.self.0.2", "decoder.self.0.1"])
def test_the_first_layers_maps_are_exact(model: interp.Model, address: str) -> None:
    """The map, the position bias and the mask give the very scores, and so the patterns."""
    seen, made = first_scores(scaled(model), address)
    live = seen > -1e4
    assert int(live.sum()) == (14 * 14 if address.startswith("encoder") else 14 * 15 / 2)
    close(made[live], seen[live], terms=LAYER)
    close(made.softmax(-1), seen.softmax(-1), terms=LAYER)


def test_on_the_bundled_model_too(pico: interp.Model) -> None:
    for address in ("encoder.self.0.4", "decoder.self.0.1"):
        seen, made = first_scores(pico, address)
        close(made.softmax(-1), seen.softmax(-1), terms=LAYER)


def dense(model: interp.Model, head: interp.Head, name: str, fold: bool) -> torch.Tensor:
    """The map from the module's own weights, in float64, with nothing of the toolkit."""
    m = model.module
    block = getattr(m, head.stack).block[head.layer]
    layer = block.layer[1 if head.kind == "cross" else 0]
    attention = layer.EncDecAttention if head.kind == "cross" else layer.SelfAttention
    rows = slice(head.head * 8, head.head * 8 + 8)
    q, k, v = (getattr(attention, x).weight[rows].double() for x in "qkv")
    o = attention.o.weight[:, rows].double()
    E = m.shared.weight[SAMPLE].double()
    one = torch.ones(20, dtype=torch.float64)
    gamma_q = layer.layer_norm.weight.double() if fold else one
    gamma_k = gamma_q if head.kind == "self" or not fold else m.encoder.final_layer_norm.weight.double()
    read = E / (E.square().mean(-1, keepdim=True) + 1e-6).sqrt() if fold else E  # no tolerance: the norm's own
    if name == "QK":
        return (read * gamma_q) @ q.T @ k @ (read * gamma_k).T
    written = (read * gamma_k) @ v.T @ o.T
    if head.stack == "encoder":
        return written @ E.T
    gamma_f = m.decoder.final_layer_norm.weight.double() if fold else one
    return (written * gamma_f) @ (m.lm_head.weight[SAMPLE].double().T * 20**-0.5)


@pytest.mark.parametrize("fold", [True, False])
def test_every_map_equals_the_dense_formula(fold: bool) -> None:
    model = scaled(interp.wrap(tiny_pipeline(dtype=torch.float64)))
    with torch.no_grad():
        for head in model.heads():
            for name, make in (("QK", circuits.qk_circuit), ("OV", circuits.ov_circuit)):
                circuit = make(model, head, fold_norm=fold)
                assert circuit.shape == (20, 20)
                made = circuits.token_circuit(circuit, SAMPLE)
                close(made.full(), dense(model, head, name, fold), terms=FORWARD, dtype=torch.float64)
                assert torch.equal(made.tokens, torch.tensor(SAMPLE))


def test_plain_circuits_are_the_cursive_notebooks(model: interp.Model) -> None:
    """W_Q @ W_K.T and W_V @ W_O, the heads cut by rows of q, k, v: cutting input features gives another."""
    w = scaled(model).weights("decoder.self.1.2", fold_norm=False)
    qk = circuits.qk_circuit(model, "decoder.self.1.2", fold_norm=False)
    close(qk.full(), w.W_Q @ w.W_K.T)
    close(circuits.ov_circuit(model, w.head, fold_norm=False).full(), w.W_V @ w.W_O)
    not_close(circuits.qk_circuit(model, "decoder.self.1.2").full(), qk.full())
    assert circuits.ov_circuit(model, "decoder.self.1.2").position_bias is None
    assert circuits.qk_circuit(model, "decoder.cross.1.2").position_bias is None
    assert "OV of decoder.self.1.2" in repr(circuits.ov_circuit(model, "decoder.self.1.2"))


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_composed_maps_equal_the_dense_formula(kind: str) -> None:
    model = scaled(interp.wrap(tiny_pipeline(dtype=torch.float64)))
    edges = {"Q": "decoder.cross.0.1 -> decoder.self.1.2:q", "K": "encoder.self.2.0 -> decoder.cross.1.2:k"}
    text = edges.get(kind, "encoder.self.1.1 -> decoder.cross.0.2:v")
    edge = circuits.Edge.parse(text)
    first, second = model.weights(edge.writer), model.weights(edge.reader)
    E = normed(model, model.module.shared.weight.detach()[SAMPLE])
    U = model.module.decoder.final_layer_norm.weight[:, None] * model.module.lm_head.weight[SAMPLE].T * 20**-0.5
    if kind == "Q":
        wanted = E @ first.W_V @ first.W_O @ second.W_Q @ second.W_K.T @ E.T
    elif kind == "K":
        wanted = E @ second.W_Q @ second.W_K.T @ first.W_O.T @ first.W_V.T @ E.T
    else:
        wanted = E @ first.W_V @ first.W_O @ second.W_V @ second.W_O @ U
    scored = ScoredEdge(edge, 0.5, 0.3, 2.0)
    assert torch.equal(
        circuits.token_composition(model, scored, SAMPLE).A, circuits.token_composition(model, edge, SAMPLE).A
    )
    found = circuits.token_composition(model, text, SAMPLE)
    axes = {"Q": ("writer's key", "key"), "K": ("query", "writer's key"), "V": ("writer's key", "output")}
    assert (found.rows, found.columns) == axes[kind]
    close(found.full(), wanted.detach(), terms=FORWARD, dtype=torch.float64)
    assert found.of == edge


def test_centring_leaves_softmax_and_takes_the_mean(model: interp.Model) -> None:
    made = circuits.token_circuit(circuits.qk_circuit(model, "decoder.cross.1.0"), (100, 140))
    close(made.centred.full().mean(-1), 0, of=made.full().abs().max(), terms=LAYER)
    close(made.centred.full().softmax(-1), made.full().softmax(-1), terms=LAYER)


def test_values_are_on_the_tokens(pico: interp.Model) -> None:
    made = circuits.token_circuit(circuits.qk_circuit(pico, "decoder.cross.1.0"), [0, 1, 1911, 2187])
    assert np.isnan(made.scaled_values[:2]).all()
    np.testing.assert_allclose(made.scaled_values[2:], [-1.01, 1.01], atol=0.01)
    assert (made.rows, made.columns) == ("query", "key")


def test_mean_encoder_output_by_token(model: interp.Model) -> None:
    """Means over the occurrences, padding left out, from Hugging Face's own encoder."""
    ids = torch.tensor([[7, 9, 7, 1], [0, 9, 7, 1]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    batch = interp.Batch(input_ids=ids, attention_mask=mask, decoder_input_ids=torch.tensor([[0], [0]]))
    means = circuits.encoder_output_by_token(scaled(model), [batch, batch])
    with torch.no_grad():
        out = model.module.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    out = out / model.module.encoder.final_layer_norm.weight
    assert means.tokens.tolist() == [1, 7, 9]
    assert means.counts.tolist() == [4, 6, 4]
    wanted = torch.stack([out[:, 3].mean(0), torch.stack([out[0, 0], out[0, 2], out[1, 2]]).mean(0), out[:, 1].mean(0)])
    close(means.means.float(), wanted.detach(), terms=LAYER)
    made = circuits.token_circuit(circuits.qk_circuit(model, "decoder.cross.0.1"), [7, 9], keys=means)
    w = model.weights("decoder.cross.0.1")
    E = normed(model, model.module.shared.weight.detach()[[7, 9]])
    close(made.full(), E @ w.W_Q @ w.W_K.T @ means.means[1:].float().T, terms=FORWARD)


def test_induction_heads_copy_and_others_do_not(pico: interp.Model) -> None:
    """By their weights alone the mosaic's induction heads write the token they attend to."""
    induction = {str(head.address) for head in probes.induction_mosaic(pico).heads()}
    copying = {
        str(head): float(circuits.token_circuit(circuits.ov_circuit(pico, head)).centred.eigenvalue_score())
        for head in pico.heads("decoder.cross")
    }
    assert min(copying[head] for head in induction) > 0.95
    assert max(score for head, score in copying.items() if head not in induction) < 0.7


def test_ranges_and_samples(model: interp.Model) -> None:
    assert as_tokens(model, (3, 6)).tolist() == [3, 4, 5, 6]
    assert as_tokens(model, [3, 6]).tolist() == [3, 6]
    assert as_tokens(model, torch.tensor([9])).tolist() == [9]
    assert as_tokens(model, (5, 5)).tolist() == [5]
    assert as_tokens(model, np.array([4, 2])).tolist() == [4, 2]
    assert as_tokens(model, range(2, 9, 3)).tolist() == [2, 5, 8]
    for tokens in (
        (4000, 4096),
        (6, 3),
        [-1],
        (),
        [4096],
        (0, 10**12),
        None,
        "ab",
        [1.5],
        torch.tensor([True, False]),
        4096,
    ):
        with pytest.raises(interp.errors.InvalidInput):
            as_tokens(model, tokens)
    with pytest.raises(interp.errors.InvalidInput, match="0-4095"):
        circuits.token_circuit(circuits.qk_circuit(model, "decoder.cross.0.0"), (1911, 9999))


def test_keys_that_do_not_fit(model: interp.Model, batch: interp.Batch) -> None:
    means = circuits.encoder_output_by_token(model, batch)
    with pytest.raises(interp.errors.InvalidInput, match="cross heads"):
        circuits.token_circuit(circuits.qk_circuit(model, "encoder.self.0.0"), keys=means)
    with pytest.raises(interp.errors.InvalidInput, match="no mean encoder output"):
        circuits.token_circuit(circuits.qk_circuit(model, "decoder.cross.0.0"), (2, 4095), keys=means)
    other = circuits.encoder_output_by_token(interp.wrap(tiny_pipeline(seed=1)), batch)
    with pytest.raises(interp.errors.InvalidInput, match="other weights"):
        circuits.token_circuit(circuits.qk_circuit(model, "decoder.cross.0.0"), [int(other.tokens[0])], keys=other)
    with pytest.raises(interp.errors.InvalidInput, match="no batches"):
        circuits.encoder_output_by_token(model, [])
    with pytest.raises(interp.errors.InvalidInput, match="share no stream"):
        circuits.token_composition(model, "decoder.cross.0.0 -> encoder.self.1.0:k")
    with pytest.raises(interp.errors.UnknownHead):
        circuits.token_composition(model, "decoder.cross.0.9 -> decoder.self.1.0:k")


def test_a_summary_has_one_row_a_head(pico: interp.Model) -> None:
    mosaic, scores = probes.induction_mosaic(pico), probes.head_scores(pico)
    previous = [scores[f"{site}.previous_token"] for site in ("encoder.self", "decoder.self")]
    frame = circuits.head_summary(pico, mosaic=mosaic, scores=previous).set_index("head")
    assert list(frame.index) == [str(head) for head in pico.heads()]
    assert frame["either"].notna().sum() == 24
    assert frame["previous_token"].notna().sum() == 48
    assert frame.loc["decoder.cross.1.2", "token_to_right"] == mosaic.token_to_right["decoder.cross.1.2"]
    assert frame.loc["decoder.self.1.3", "previous_token"] == previous[1]["decoder.self.1.3"]
    assert frame["preferred_distance"].isna().sum() == 24
    for head in ("encoder.self.1.4", "decoder.self.2.0"):
        circuit = circuits.qk_circuit(pico, head)
        assert circuit.position_bias is not None
        assert frame.loc[head, "preferred_distance"] == circuit.position_bias.preferred[0]
        close(frame.loc[head, "qk_norm"], float(circuit.norm()))
        close(frame.loc[head, "ov_stable_rank"], float(circuits.ov_circuit(pico, head).stable_rank()))
        score = circuits.token_circuit(circuit).centred.eigenvalue_score()
        close(frame.loc[head, "matching"], float(score))


def test_a_summary_of_other_weights_or_twice(pico: interp.Model, model: interp.Model) -> None:
    mosaic = probes.induction_mosaic(pico, batch_size=3)
    with pytest.raises(interp.errors.InvalidInput, match="make them with this model"):
        circuits.head_summary(model, mosaic=mosaic)
    with pytest.raises(interp.errors.InvalidInput, match="column of this name already"):
        circuits.head_summary(pico, mosaic=mosaic, scores=[mosaic.current_token])
    with pytest.raises(interp.errors.InvalidInput, match="given twice"):
        circuits.head_summary(pico, scores=[mosaic.current_token, mosaic.current_token])
    for scores in (mosaic, [mosaic], mosaic.current_token):
        with pytest.raises(interp.errors.InvalidInput, match="takes a list of HeadScores"):
            circuits.head_summary(pico, scores=scores)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["encoder.self.2.1", "decoder.self.1.6", "decoder.cross.2.0"])
def test_every_column_of_the_summary_is_its_own(pico: interp.Model, head: str) -> None:
    row = circuits.head_summary(pico, tokens=(1900, 1960), scores=probes.head_scores(pico)).set_index("head").loc[head]
    for name, score, make in (("ov", "copying", circuits.ov_circuit), ("qk", "matching", circuits.qk_circuit)):
        circuit = make(pico, head)
        dense = circuit.full().double()
        close(row[f"{name}_norm"], float(dense.norm()), terms=LAYER)
        rank = dense.norm() ** 2 / torch.linalg.matrix_norm(dense, 2) ** 2
        close(row[f"{name}_stable_rank"], float(rank), terms=FORWARD)
        own = circuits.token_circuit(circuit, (1900, 1960)).centred.eigenvalue_score()
        close(row[score], float(own), terms=LAYER)
    assert (row["stack"], row["kind"], row["layer"], row["index"]) == (
        *head.split(".")[:2],
        *map(int, head.split(".")[2:]),
    )
    assert np.isnan(row["induction"]) == (row["kind"] == "cross"), "the self-attention score of this name"


def test_a_summary_of_idle_heads_has_gaps(model: interp.Model) -> None:
    with torch.no_grad():
        model.module.get_submodule("encoder.block.0.layer.0.SelfAttention.o").weight[:, 8:16] = 0  # type: ignore[index, operator]
    row = circuits.head_summary(model).set_index("head").loc["encoder.self.0.1"]
    assert row["ov_norm"] == 0
    assert np.isnan(row["ov_stable_rank"])
    assert np.isnan(row["copying"])
    assert row["qk_norm"] > 0


@pytest.fixture
def decoder() -> interp.Model:
    """A causal model in float64."""
    return interp.wrap(tiny_causal_pipeline(dtype=torch.float64), name="decoder")


@pytest.mark.parametrize("fold", [True, False])
def test_a_decoders_maps_equal_the_dense_formula(decoder: interp.Model, fold: bool) -> None:
    """Biases and the norm's mean and shift included: (e Q + q) (e K + k)^T, and (e V + v) O W_U."""
    module = decoder.module
    E = module.transformer.wte.weight.detach()[SAMPLE]
    e, W_U = divided(E) if fold else E, dense_unembedding(module, fold)[0][:, SAMPLE]
    for head in decoder.heads():
        h = dense_head(module, head, fold)
        qk, ov = (make(decoder, head, fold_norm=fold) for make in (circuits.qk_circuit, circuits.ov_circuit))
        close(qk.full(), h.QK, terms=FORWARD, dtype=torch.float64)
        close(ov.full(), h.OV, terms=FORWARD, dtype=torch.float64)
        assert qk.position_bias is None
        scores, logits = circuits.token_circuit(qk, SAMPLE), circuits.token_circuit(ov, SAMPLE)
        assert scores.position_bias is None
        assert scores.A.shape[-1] == logits.A.shape[-1] == 8, "the biases cost no rank"
        close(scores.full(), (e @ h.Q + h.q) @ (e @ h.K + h.k).T, terms=FORWARD, dtype=torch.float64)
        close(logits.full(), (e @ h.V + h.v) @ h.O @ W_U, terms=FORWARD, dtype=torch.float64)
        assert float((scores.full() - e @ h.QK @ e.T).abs().max()) > 0.01, "the biases are not nothing here"


@pytest.mark.parametrize("fold", [True, False])
def test_centred_maps_have_the_eigenvalues_of_the_linear_part(decoder: interp.Model, fold: bool) -> None:
    """Whatever the biases, by dense products: each adds one row to all rows, or a number to each row."""
    tokens = list(range(50, 90))
    e = decoder.module.transformer.wte.weight.detach()[tokens]
    e = divided(e) if fold else e
    W_U = dense_unembedding(decoder.module, fold)[0][:, tokens]
    for head in ("decoder.self.0.1", "decoder.self.2.0"):
        h = dense_head(decoder.module, interp.Head.parse(head), fold)
        for make, linear in ((circuits.qk_circuit, e @ h.QK @ e.T), (circuits.ov_circuit, e @ h.OV @ W_U)):
            found = circuits.token_circuit(make(decoder, head, fold_norm=fold), tokens)
            dense = torch.linalg.eigvals(linear - linear.mean(1, keepdim=True))
            wanted = dense[dense.abs().argsort(descending=True)][:8]
            eigenvalues = found.centred.eigenvalues()
            for power in (1, 2, 3):
                close(
                    (eigenvalues**power).sum(),
                    (wanted**power).sum(),
                    of=float((wanted.abs() ** power).sum()),
                    terms=ROUTINE,
                    dtype=torch.float64,
                )
            close(float(found.centred.eigenvalue_score()), float(dense.real.sum() / dense.abs().sum()), terms=LAYER)
            whole = found.full() - found.full().mean(1, keepdim=True)
            assert float((whole - linear + linear.mean(1, keepdim=True)).abs().max()) > 0.01, "cells have the biases"


def test_a_decoders_first_layer_is_exact_without_positions(decoder: interp.Model) -> None:
    ids = torch.arange(20, 34)
    with torch.no_grad():
        decoder.module.transformer.wpe.weight.zero_()
    seen = interp.capture(decoder, interp.Batch(decoder_input_ids=ids[None]), ["decoder.self.0.scores"])
    for head in range(3):
        made = circuits.token_circuit(circuits.qk_circuit(decoder, f"decoder.self.0.{head}"), ids).full()
        wanted = seen["decoder.self.0.scores"][0, head]
        close(made[wanted > -1e30], wanted[wanted > -1e30], terms=FORWARD, dtype=torch.float64)


def test_the_map_of_positions_is_exact_without_tokens(decoder: interp.Model) -> None:
    """And equal to the dense formula; its pattern is that of the forward pass, the keys ahead masked."""
    with torch.no_grad():
        decoder.module.transformer.wte.weight.zero_()
    ids = torch.arange(20, 34)[None]
    seen = interp.capture(decoder, interp.Batch(decoder_input_ids=ids), ["decoder.self.0.pattern"])
    for fold in (True, False):
        rows = decoder.module.transformer.wpe.weight.detach()[:14]
        rows = divided(rows) if fold else rows
        for head in range(3):
            h = dense_head(decoder.module, interp.Head("decoder", "self", 0, head), fold)
            circuit = circuits.qk_circuit(decoder, f"decoder.self.0.{head}", fold_norm=fold)
            found = circuits.position_circuit(circuit, range(14))
            close(found.full(), (rows @ h.Q + h.q) @ (rows @ h.K + h.k).T, terms=FORWARD, dtype=torch.float64)
            if fold:
                pattern = seen["decoder.self.0.pattern"][0, head]
                close(found.pattern(), pattern, terms=FORWARD, dtype=torch.float64)
                close(found.previous_token, float(pattern.diagonal(-1).mean()), terms=FORWARD, dtype=torch.float64)
    every = circuits.position_circuit(circuit)  # type: ignore[possibly-undefined]
    assert every.shape == (96, 96)
    backwards = circuits.position_circuit(circuit, [9, 4, 3])  # type: ignore[possibly-undefined]
    assert float(backwards.pattern()[2, :2].sum()) == 0, "position 3 sees none of 4 and 9"
    close(backwards.previous_token, float(backwards.pattern()[1, 2]))
    assert np.isnan(circuits.position_circuit(circuit, [9, 3]).previous_token)  # type: ignore[possibly-undefined]
    assert "14 positions" in repr(found)  # type: ignore[possibly-undefined]


def test_a_planted_previous_token_head_shows_in_its_positions() -> None:
    model = interp.zoo.planted_decoder().model
    by_head = {
        str(head): circuits.position_circuit(circuits.qk_circuit(model, head)).previous_token for head in model.heads()
    }
    assert by_head.pop("decoder.self.0.1") > 0.95
    assert max(by_head.values()) < 0.1


def test_positions_that_are_not_there(decoder: interp.Model, model: interp.Model) -> None:
    circuit = circuits.qk_circuit(decoder, "decoder.self.0.0")
    for positions in ([96], [-1], [], [3, 3], 1.5):
        with pytest.raises(interp.errors.InvalidInput, match="positions="):
            circuits.position_circuit(circuit, positions)  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match="a QK circuit is needed and HeadCircuit\\(OV"):
        circuits.position_circuit(circuits.ov_circuit(decoder, "decoder.self.0.0"))
    with pytest.raises(interp.errors.UnknownSite, match=r"see interp\.position_bias"):
        circuits.position_circuit(circuits.qk_circuit(model, "decoder.self.0.0"))


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_a_decoders_composed_maps_equal_the_dense_formula(decoder: interp.Model, kind: str) -> None:
    """The writer's b_V, and the reader's b_Q or b_K on its other side: what the writer's output adds to a score."""
    edge = f"decoder.self.0.1 -> decoder.self.2.2:{kind.lower()}"
    one, two = (dense_head(decoder.module, interp.Head.parse(f"decoder.self.{at}"), True) for at in ("0.1", "2.2"))
    e = divided(decoder.module.transformer.wte.weight.detach()[SAMPLE])
    written = (e @ one.V + one.v) @ one.O
    if kind == "Q":
        wanted = (written @ two.Q) @ (e @ two.K + two.k).T
    elif kind == "K":
        wanted = (e @ two.Q + two.q) @ (written @ two.K).T
    else:
        wanted = written @ two.V @ two.O @ dense_unembedding(decoder.module, True)[0][:, SAMPLE]
    found = circuits.token_composition(decoder, edge, SAMPLE)
    close(found.full(), wanted, terms=FORWARD, dtype=torch.float64)
    with pytest.raises(interp.errors.UnknownHead, match="has no encoder and no cross-attention"):
        circuits.token_composition(decoder, "encoder.self.0.0 -> decoder.cross.1.0:k")


def test_tokens_of_a_text_model_stand_for_no_values() -> None:
    model = interp.wrap(tiny_gpt2(), name="text")
    for made in (
        circuits.token_circuit(circuits.ov_circuit(model, "decoder.self.1.2"), SAMPLE),
        circuits.token_composition(model, "decoder.self.0.0 -> decoder.self.1.2:k", SAMPLE),
    ):
        assert made.scaled_values.isnan().all()
        assert made.tokens.tolist() == SAMPLE
    figure = circuits.plots.token_circuit(made)  # type: ignore[possibly-undefined]
    assert "token against token" in figure.layout.title.text
    assert list(figure.data[0].x) == [f"token {token}" for token in sorted(SAMPLE)]
    with pytest.raises(interp.errors.UnknownSite, match="has no encoder and no cross-attention"):
        circuits.encoder_output_by_token(model, interp.Batch(decoder_input_ids=torch.tensor([[3, 4]])))


def test_a_decoders_summary_is_of_the_linear_part(decoder: interp.Model) -> None:
    frame = circuits.head_summary(decoder, tokens=(1900, 1960)).set_index("head")
    assert list(frame.index) == [str(head) for head in decoder.heads()]
    assert frame["preferred_distance"].isna().all()
    for head in decoder.heads():
        h, row = dense_head(decoder.module, head, True), frame.loc[str(head)]
        for name, score, dense, make in (
            ("qk", "matching", h.QK, circuits.qk_circuit),
            ("ov", "copying", h.OV, circuits.ov_circuit),
        ):
            close(row[f"{name}_norm"], float(dense.norm()), terms=FORWARD, dtype=torch.float64)
            rank = dense.norm() ** 2 / torch.linalg.matrix_norm(dense, 2) ** 2
            close(row[f"{name}_stable_rank"], float(rank), terms=FORWARD, dtype=torch.float64)
            own = circuits.token_circuit(make(decoder, head), (1900, 1960)).centred.eigenvalue_score()
            close(row[score], float(own), terms=LAYER)


def test_a_planted_induction_head_copies_by_its_weights() -> None:
    frame = circuits.head_summary(interp.zoo.planted_decoder().model).set_index("head")
    copying = frame.pop("copying")
    assert copying["decoder.self.1.2"] > 0.99
    assert copying["decoder.self.0.1"] < 0.5, "it writes to a subspace that is not unembedded"
