"""Weights, circuits and composition of self-attention against TransformerLens' own numbers, where it is installed.

Of GPT-2 also what TransformerLens makes of weights: LayerNorm folded as in its HookedTransformer, which from version 4
is the bridge's compatibility mode.

It is no dependency. In an environment of its own: pip install --constraint constraints.txt torch -e '.[test]'
'transformer-lens>=4.3,<5', then pytest tests/test_transformer_lens.py.
"""

import copy
from typing import Any

import numpy as np
import pytest
import torch

import circuits
import interp
from interp.models.weights.head_weights import layer_weights, unembedding, unembedding_bias
from interp.names import AttentionLayer
from tests.conftest import masked_batch, tiny_gpt2, tiny_pipeline
from tests.tolerance import FORWARD, ROUTINE, close

HOW = "optional: pip install 'transformer-lens>=4.3,<5' (in an environment of its own)"
pytest.importorskip("transformer_lens", reason=HOW)


def bridge_to(module: Any, folder: Any) -> Any:
    """TransformerLens' bridge to a copy of a module; it reads the config from a directory, the weights from it."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge  # type: ignore[import-not-found]
    from transformers import PreTrainedTokenizerFast

    module = copy.deepcopy(module)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "</s>": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
    module.config.save_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), hf_model=module, tokenizer=tokenizer, device="cpu")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[interp.Model, Any]:
    """A random T5 of pairwise different sizes, and TransformerLens' bridge to a copy of it."""
    model = interp.wrap(tiny_pipeline())
    return model, bridge_to(tiny_pipeline().model.model, tmp_path_factory.mktemp("config"))


def their_layers(bridge: Any, stack: str) -> list[Any]:
    blocks = bridge.encoder_blocks if stack == "encoder" else bridge.decoder_blocks
    return [block.attn if stack == "encoder" else block.self_attn for block in blocks]


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_weights_and_circuits_are_theirs(pair: tuple[interp.Model, Any], stack: Any) -> None:
    from transformer_lens import FactoredMatrix  # type: ignore[import-not-found]

    model, bridge = pair
    theirs = their_layers(bridge, stack)
    assert len(theirs) == model.n_layers[stack]
    for layer, attention in enumerate(theirs):
        ours = layer_weights(model, AttentionLayer(stack, "self", layer), fold_norm=False)
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            assert torch.equal(getattr(ours, name)[0], getattr(attention, name).detach())
        for made, factors in ((ours.OV, (attention.W_V, attention.W_O)), (ours.QK, (attention.W_Q, attention.W_K.mT))):
            wanted = FactoredMatrix(*factors)
            close(made.norm()[0].float(), wanted.norm().detach(), terms=FORWARD)
            theirs_sorted = wanted.eigenvalues.detach().abs().sort(descending=True).values
            close(made.eigenvalues()[0].abs().float(), theirs_sorted, terms=ROUTINE)
            assert torch.equal(made.full()[0], wanted.AB.detach())


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_composition_is_theirs_where_they_have_it(pair: tuple[interp.Model, Any], stack: str) -> None:
    from transformer_lens import FactoredMatrix  # type: ignore[import-not-found]
    from transformer_lens.utilities.matrix import composition_scores  # type: ignore[import-not-found]

    model, bridge = pair
    layers = their_layers(bridge, stack)
    W_Q, W_K, W_V, W_O = (torch.stack([getattr(at, f"W_{n}").detach() for at in layers]) for n in "QKVO")
    OV, QK = FactoredMatrix(W_V, W_O), FactoredMatrix(W_Q, W_K.mT)
    ours = circuits.composition_scores(model, fold_norm=False, progress=False)
    for kind, right in (("Q", QK), ("K", QK.T), ("V", OV)):
        wanted = composition_scores(OV, right, broadcast_dims=True).numpy()
        found = ours.between(f"{stack}.self", f"{stack}.self", kind)
        assert (~np.isnan(found)).sum() == 9 * len(layers) * (len(layers) - 1) / 2
        np.testing.assert_allclose(found[~np.isnan(found)], wanted[~np.isnan(found)], rtol=1e-4)


def test_what_they_refuse_is_defined_here(pair: tuple[interp.Model, Any]) -> None:
    model, bridge = pair
    with pytest.raises(NotImplementedError, match="two residual streams"):
        bridge.all_composition_scores("K")
    wires = circuits.composition_scores(model, progress=False)
    assert not np.isnan(wires.between("encoder.self", "decoder.cross", "K")).any()


NO_OTHERS = {"center_writing_weights": False, "center_unembed": False, "fold_value_biases": False}
"""LayerNorm is folded, as here, and nothing else is done."""


def decoder_pair(folder: Any, writes_no_mean: bool = False, **folds: bool) -> tuple[interp.Model, Any]:
    """A random GPT-2, biases and norms too, and the bridge to a copy; in compatibility mode with any options."""
    module = tiny_gpt2(architectures=["GPT2LMHeadModel"])
    bridge = bridge_to(module, folder)
    if folds:
        bridge.enable_compatibility_mode(disable_warnings=True, **folds)
    if writes_no_mean:
        with torch.no_grad():
            for block in module.transformer.h:
                weight: Any = block.attn.c_proj.weight
                weight.sub_(weight.mean(1, keepdim=True))
    return interp.wrap(module), bridge


@pytest.mark.parametrize("fold", [True, False])
def test_a_decoders_weights_are_theirs(tmp_path: Any, fold: bool) -> None:
    """Folded as in their `fold_ln`, where they leave 1/sqrt(d_head) to the forward pass."""
    from transformer_lens import FactoredMatrix  # type: ignore[import-not-found]

    model, bridge = decoder_pair(tmp_path, **({"fold_ln": True, **NO_OTHERS} if fold else {}))
    ours = model.stacked_weights("decoder.self", fold_norm=fold)
    factor = model.d_head**0.5 if fold else 1
    for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"):
        found = getattr(ours, name) * (factor if name in ("W_Q", "b_Q") else 1)
        close(found, getattr(bridge, name).detach(), terms=FORWARD)
    for made, theirs, scale in ((ours.QK, bridge.QK, factor), (ours.OV, bridge.OV, 1)):
        assert isinstance(theirs, FactoredMatrix)
        close(made.full() * scale, theirs.AB.detach(), terms=FORWARD)
        close(made.norm().float() * scale, theirs.norm().detach(), terms=FORWARD)
    close(unembedding(model, fold_norm=fold), bridge.W_U.detach(), terms=FORWARD)
    if fold:
        close(unembedding_bias(model), bridge.b_U.detach(), terms=FORWARD)
        assert float(bridge.b_U.detach().abs().max()) > 0.1


@pytest.mark.parametrize("fold", [True, False])
def test_a_decoders_logits_and_patterns_are_theirs(tmp_path: Any, fold: bool) -> None:
    model, bridge = decoder_pair(tmp_path, **({"fold_ln": True, **NO_OTHERS} if fold else {}))
    ids = masked_batch(encoder=False).decoder_input_ids
    cache = interp.capture(model, interp.Batch(decoder_input_ids=ids), ["decoder.self.*.pattern", "decoder.logits"])
    with torch.no_grad():
        logits, theirs = bridge.run_with_cache(ids)
    close(cache["decoder.logits"], logits, terms=FORWARD)
    for layer in range(3):
        pattern = theirs[f"blocks.{layer}.attn.hook_pattern"]
        close(cache[f"decoder.self.{layer}.pattern"], pattern, terms=FORWARD)


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
@pytest.mark.parametrize("centred", [None, False, True])
def test_all_composition_scores_are_theirs(tmp_path: Any, kind: Any, centred: bool | None) -> None:
    """Plain, with LayerNorm folded, and with what they centre centred: W_O, whose mean no reader reads.

    That leaves every product as it is, and changes the norm of W_OV that it is divided by.
    """
    folds = {} if centred is None else {"fold_ln": True, **NO_OTHERS, "center_writing_weights": centred}
    model, bridge = decoder_pair(tmp_path, writes_no_mean=bool(centred), **folds)
    ours = circuits.composition_scores(model, fold_norm=centred is not None, progress=False)
    found = ours.between("decoder.self", "decoder.self", kind)
    wanted = bridge.all_composition_scores(kind).scores.detach().numpy()
    there = ~np.isnan(found)
    assert there.sum() == 9 * 3
    close(found[there], wanted[there], terms=FORWARD)
    assert not wanted[~there].any()
