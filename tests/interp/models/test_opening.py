"""Opening: what a name can mean, and a typed error for everything that can be wrong with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chronos import BaseChronosPipeline, ChronosPipeline
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

import interp
from interp import Batch, zoo
from tests.conftest import context, fresh, masked_batch, tiny_causal_pipeline, tiny_config, tiny_gpt2, tiny_pipeline


@pytest.fixture
def directory(tmp_path: Path, pipeline: ChronosPipeline) -> Path:
    return saved(pipeline, tmp_path)


def saved(source: ChronosPipeline | PreTrainedModel, tmp_path: Path) -> Path:
    module = source.model.model if isinstance(source, ChronosPipeline) else source
    module.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


MAKERS: dict[str, Callable[[], Any]] = {"t5": tiny_pipeline, "causal": tiny_causal_pipeline, "text": tiny_gpt2}


@pytest.fixture(params=MAKERS)
def either_directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Of a Chronos model of each family, and of a plain GPT-2."""
    return saved(MAKERS[request.param](), tmp_path)


def test_a_directory_opens_with_its_weights(directory: Path, pipeline: ChronosPipeline) -> None:
    model = interp.load(str(directory))
    assert model.digest == interp.wrap(pipeline).digest
    assert model.n_layers == {"encoder": 3, "decoder": 2}
    assert (model.n_heads, model.d_head, model.d_model, model.d_vocab) == (3, 8, 20, 4096)
    assert model.max_positions is None
    assert "3+2 layers" in repr(model)


def test_a_decoder_alone_opens_with_its_weights(tmp_path: Path) -> None:
    """As a Chronos model through Chronos itself, and as plain GPT-2."""
    directory = saved(tiny_causal_pipeline(), tmp_path / "chronos")
    assert isinstance(BaseChronosPipeline.from_pretrained(str(directory)), ChronosPipeline)
    model, text = interp.load(str(directory)), interp.load(str(saved(tiny_gpt2(), tmp_path)))
    assert model.digest == text.digest == interp.wrap(tiny_gpt2()).digest
    assert isinstance(model.source, ChronosPipeline)
    assert model.pipeline.tokenizer is not None
    assert isinstance(text.source, GPT2LMHeadModel)
    for found in (model, text):
        assert found.n_layers == {"encoder": 0, "decoder": 3}
        assert (found.n_heads, found.d_head, found.d_model, found.d_mlp, found.d_vocab) == (3, 8, 24, 28, 4096)
        assert found.max_positions == 96
        assert "GPT-2, 3 layers" in repr(found)
        batch = masked_batch(False)
        assert torch.equal(
            interp.capture(found, batch, "decoder.logits")["decoder.logits"],
            interp.capture(interp.wrap(tiny_gpt2()), batch, "decoder.logits")["decoder.logits"],
        )
    with pytest.raises(interp.errors.UnsupportedModel, match="no chronos_config, so no tokenizer for series"):
        Batch.from_series(text, [1.0, 2.0])


def test_an_old_checkpoint_of_gpt2(tmp_path: Path) -> None:
    """The published GPT-2s are of the model without its head: names without a prefix, and masks that none reads."""
    directory = saved(tiny_gpt2(), tmp_path)

    def old(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors.pop("lm_head.weight", None)
        for layer in range(3):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 96, 96).tril()
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    rewrite(directory, old)
    assert interp.load(str(directory)).digest == interp.wrap(tiny_gpt2()).digest

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["h.7.attn.bias_of_another"] = torch.zeros(1)
        del tensors["h.1.mlp.c_fc.bias"]

    rewrite(directory, spoil)
    with pytest.raises(
        interp.errors.DamagedFile, match=r"lack transformer\.h\.1\.mlp\.c_fc\.bias and hold h\.7\.attn\.bias_of_another"
    ):
        interp.load(str(directory))


def test_weights_in_several_files(tmp_path: Path) -> None:
    module = tiny_gpt2()
    module.save_pretrained(tmp_path, max_shard_size="150KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert interp.load(str(tmp_path)).digest == interp.wrap(module).digest
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"]["transformer.h.2.ln_1.bias"]
    index.write_text(json.dumps(content))
    with pytest.raises(interp.errors.DamagedFile, match=r"lack transformer\.h\.2\.ln_1\.bias"):
        interp.load(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_a_parameter(either_directory: Path, dtype: torch.dtype) -> None:
    model = interp.load(str(either_directory), dtype=dtype)
    assert model.dtype == dtype
    batch, site = masked_batch(model.has_encoder), f"{context(model, 0)}.pattern"
    assert interp.capture(model, batch, site)[site].dtype == dtype


def test_the_digest_tells_weights_apart(either: interp.Model) -> None:
    assert interp.wrap(fresh(either, seed=1)).digest != either.digest
    assert interp.wrap(fresh(either, seed=0)).digest == either.digest


def test_unknown_names() -> None:
    with pytest.raises(interp.errors.UnknownModel, match=r"Did you mean 'pico-t5'"):
        interp.load("pico-t6")
    with pytest.raises(FileNotFoundError):
        interp.load("./no/such/place")
    with pytest.raises(interp.errors.UnknownModel, match="pico-t5"):
        zoo.path("nano")
    for name, meant in (("gpt2", "gpt2"), ("GPT2", "gpt2"), ("gpt2-xl", "gpt2-xl"), ("gpt-2", "gpt2")):
        with pytest.raises(interp.errors.UnknownModel, match=f"Did you mean 'openai-community/{meant}'"):
            interp.load(name)
    with pytest.raises(interp.errors.UnknownModel, match=r"Did you mean 'amazon/chronos-t5-small'"):
        interp.load("chronos-t5-small")


def test_no_network_and_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(interp.errors.UnknownModel, match=r"not in the cache.*pico-t5"):
        interp.load("amazon/chronos-t5-not-there")
    with pytest.raises(interp.errors.UnknownModel, match=r"Did you mean 'openai-community/gpt2'"):
        interp.load("openai/gpt2")
    for name in ("amazon/chronos-t5-tiny", "openai-community/gpt2"):
        with pytest.raises(
            interp.errors.UnknownModel, match=r"not in the cache.*the network.*bundled, with no network"
        ) as caught:
            interp.load(name)
        assert "Did you mean" not in str(caught.value)


def test_a_directory_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(interp.errors.UnsupportedModel, match=r"no config\.json"):
        interp.load(str(tmp_path))


def test_a_file_instead_of_a_directory(either_directory: Path) -> None:
    with pytest.raises(interp.errors.UnsupportedModel, match="is a file"):
        interp.load(str(either_directory / "config.json"))


def test_a_config_that_is_not_json(either_directory: Path) -> None:
    (either_directory / "config.json").write_text('{"d_model": ')
    with pytest.raises(interp.errors.DamagedFile, match="not JSON"):
        interp.load(str(either_directory))


@pytest.mark.parametrize("kept", [0, 5, 1000, 20_000])
def test_truncated_weights(directory: Path, kept: int) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(interp.errors.DamagedFile):
        interp.load(str(directory))


def test_garbled_weights(either_directory: Path) -> None:
    (either_directory / "model.safetensors").write_bytes(b"not a safetensors file at all")
    with pytest.raises(interp.errors.DamagedFile):
        interp.load(str(either_directory))


def test_weights_of_another_shape(directory: Path, tmp_path: Path) -> None:
    tiny_pipeline(d_model=24).model.model.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", directory)
    with pytest.raises(interp.errors.DamagedFile, match="do not fit"):
        interp.load(str(directory))


def test_pickled_weights_only(either_directory: Path) -> None:
    (either_directory / "model.safetensors").rename(either_directory / "pytorch_model.bin")
    with pytest.raises(interp.errors.UnsupportedModel, match="pickled"):
        interp.load(str(either_directory))


def test_no_weights(either_directory: Path) -> None:
    (either_directory / "model.safetensors").unlink()
    with pytest.raises(interp.errors.UnsupportedModel, match=r"no model\.safetensors"):
        interp.load(str(either_directory))


def rewrite(directory: Path, change: Any) -> None:
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    weights.unlink()
    save_file(tensors, weights, metadata={"format": "pt"})


LOST = {
    "t5": ["decoder.block.1.", "shared.weight", "encoder.final_layer_norm.weight"],
    "text": ["transformer.h.1.", "transformer.wte.weight", "transformer.ln_f.bias", "transformer.wpe.weight"],
}


@pytest.mark.parametrize(("made", "lost"), [(made, lost) for made, names in LOST.items() for lost in names])
def test_weights_with_a_hole_are_not_drawn_at_random(made: str, lost: str, tmp_path: Path) -> None:
    directory = saved(MAKERS[made](), tmp_path)

    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if n.startswith(lost)]:
            del tensors[name]

    rewrite(directory, drop)
    with pytest.raises(interp.errors.DamagedFile, match=f"lack .*{lost}"):
        interp.load(str(directory))


def test_weights_of_a_deeper_gpt2(tmp_path: Path) -> None:
    directory = saved(tiny_gpt2(), tmp_path)
    changed(directory, n_layer=2)
    with pytest.raises(interp.errors.DamagedFile, match=r"hold transformer\.h\.2\."):
        interp.load(str(directory))
    changed(directory, n_layer=3, n_embd=27)
    with pytest.raises(interp.errors.DamagedFile, match="do not fit"):
        interp.load(str(directory))
    changed(directory, n_embd=25)
    with pytest.raises(interp.errors.DamagedFile):
        interp.load(str(directory))


def changed(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_weights_of_a_deeper_model(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_layers": 2}))
    with pytest.raises(interp.errors.DamagedFile, match=r"hold encoder\.block\.2\."):
        interp.load(str(directory))


def test_weights_that_are_not_numbers(directory: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["shared.weight"].fill_(torch.nan)

    rewrite(directory, spoil)
    with pytest.raises(interp.errors.DamagedFile, match="NaN"):
        interp.load(str(directory))


@pytest.mark.parametrize(
    "chronos",
    [None, [], "x", {}, {"extra": 1}, {"tokenizer_class": "NoSuch"}, {"tokenizer_kwargs": {}}, {"n_tokens": 9999}],
)
@pytest.mark.parametrize("maker", [tiny_pipeline, tiny_causal_pipeline])
def test_a_chronos_config_that_cannot_be_used(maker: Any, chronos: Any, tmp_path: Path) -> None:
    directory = saved(maker(), tmp_path)
    config = json.loads((directory / "config.json").read_text())
    changed = {**config["chronos_config"], **chronos} if isinstance(chronos, dict) and chronos else chronos
    (directory / "config.json").write_text(json.dumps(config | {"chronos_config": changed}))
    with pytest.raises((interp.errors.DamagedFile, interp.errors.UnsupportedModel)):
        interp.load(str(directory))


@pytest.mark.parametrize("text", ["null", "[]", '{"model_type": "t5", "d_model": "x"}'])
def test_a_config_of_another_form(directory: Path, text: str) -> None:
    (directory / "config.json").write_text(text)
    with pytest.raises((interp.errors.DamagedFile, interp.errors.UnsupportedModel)):
        interp.load(str(directory))


@pytest.mark.parametrize("name", ["", "a/b c", "a/..", "x" * 120 + "/y", "~/m"])
def test_names_that_no_hub_has(name: str) -> None:
    with pytest.raises(interp.errors.UnknownModel):
        interp.load(name)


def test_dtypes_and_devices_that_cannot_be() -> None:
    with pytest.raises(interp.errors.InvalidInput, match="floating-point"):
        interp.load("pico-t5", dtype=torch.int8)
    with pytest.raises(interp.errors.InvalidInput, match="banana"):
        interp.load("pico-t5", device="banana")
    if not torch.cuda.is_available():
        with pytest.raises(interp.errors.InvalidInput, match="cuda"):
            interp.load("pico-t5", device="cuda")


def test_a_digest_follows_weights_edited_in_place(either: interp.Model) -> None:
    before = either.digest
    with torch.no_grad():
        either.module.get_input_embeddings().weight[5] += 1
    assert either.digest != before


@pytest.mark.parametrize("name", ["ChronosBoltPipeline", "Chronos2Pipeline"])
def test_other_chronos_models(directory: Path, name: str) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"chronos_pipeline_class": name}))
    with pytest.raises(interp.errors.UnsupportedModel, match=name.removesuffix("Pipeline")):
        interp.load(str(directory))


def test_a_plain_t5(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    del config["chronos_config"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(interp.errors.UnsupportedModel, match="without a chronos_config"):
        interp.load(str(directory))


@pytest.mark.parametrize(("maker", "said"), [(tiny_pipeline, "causal"), (tiny_causal_pipeline, "seq2seq")])
def test_a_chronos_config_of_the_other_architecture(maker: Any, said: str, tmp_path: Path) -> None:
    """Chronos would cut the forecast out of the wrong end of what is generated."""
    pipeline = maker()
    directory = saved(pipeline, tmp_path)
    config = json.loads((directory / "config.json").read_text())["chronos_config"]
    changed(directory, chronos_config=config | {"model_type": said})
    with pytest.raises(interp.errors.UnsupportedModel, match=f"its chronos_config says {said}, and a"):
        interp.load(str(directory))
    pipeline.model.config.model_type = said
    with pytest.raises(interp.errors.UnsupportedModel, match=f"its chronos_config says {said}, and a"):
        interp.wrap(pipeline)
    changed(directory, chronos_config={key: value for key, value in config.items() if key != "model_type"})
    with pytest.raises(interp.errors.UnsupportedModel, match="its chronos_config says None"):
        interp.load(str(directory))


OTHERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                                  num_attention_heads=2, vocab_size=32)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                                         num_attention_heads=2, vocab_size=32)),
    "bert": lambda: BertModel(BertConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                         num_attention_heads=2, vocab_size=32)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures(name: str, tmp_path: Path) -> None:
    """In a directory, by themselves and in a Chronos pipeline: each time it is said what it is, and what could be."""
    module = OTHERS[name]()
    with pytest.raises(interp.errors.UnsupportedModel, match=rf"is a {name} model\. Supported are .*T5.*GPT-2"):
        interp.load(str(saved(module, tmp_path)))
    with pytest.raises(
        interp.errors.UnsupportedModel, match=rf"{type(module).__name__} cannot be wrapped\. Supported are"
    ):
        interp.wrap(module)
    causal = tiny_causal_pipeline()
    causal.model.model = module
    with pytest.raises(
        interp.errors.UnsupportedModel, match=f"a pipeline of {type(module).__name__} cannot be wrapped"
    ):
        interp.wrap(causal)


def test_gpt2_in_another_form(tmp_path: Path) -> None:
    for module in (tiny_gpt2().transformer, GPT2DoubleHeadsModel(tiny_gpt2().config)):
        with pytest.raises(interp.errors.UnsupportedModel, match=f"{type(module).__name__} cannot be wrapped"):
            interp.wrap(module)
    GPT2ForSequenceClassification(tiny_gpt2().config).save_pretrained(tmp_path / "classes")
    with pytest.raises(
        interp.errors.UnsupportedModel, match="its config says that it is a GPT2ForSequenceClassification"
    ):
        interp.load(str(tmp_path / "classes"))


@pytest.mark.parametrize("option", ["add_cross_attention", "reorder_and_upcast_attn"])
def test_variants_that_are_refused(option: str, tmp_path: Path) -> None:
    directory = saved(tiny_gpt2(), tmp_path)
    changed(directory, **{option: True})
    with pytest.raises(interp.errors.UnsupportedModel, match=f"a gpt2 with {option}"):
        interp.load(str(directory))


def test_quantised_weights(either_directory: Path, either: interp.Model) -> None:
    changed(either_directory, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(interp.errors.UnsupportedModel, match="quantised: open it in a float dtype"):
        interp.load(str(either_directory))
    module = fresh(either).model.model
    module.lm_head.weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    source = fresh(either)
    source.model.model = module
    with pytest.raises(interp.errors.UnsupportedModel, match="quantised"):
        interp.wrap(source)


@pytest.mark.hub
def test_the_published_gpt2() -> None:
    """Its sizes, and Hugging Face's own numbers on a sentence."""
    model = interp.load("openai-community/gpt2")
    assert (model.n_layers["decoder"], model.n_heads, model.d_model, model.d_mlp) == (12, 12, 768, 3072)
    assert model.n_parameters == 124_439_808
    batch = Batch(decoder_input_ids=torch.tensor([[464, 3139, 286, 4881, 318]]))
    plain = GPT2LMHeadModel.from_pretrained("openai-community/gpt2", attn_implementation="eager").eval()
    with torch.no_grad():
        wanted = plain(**model.inputs(batch), output_attentions=True)
    cache = interp.capture(model, batch, ["decoder.self.11.pattern", "decoder.logits"])
    assert torch.equal(cache["decoder.logits"], wanted.logits)
    assert torch.equal(cache["decoder.self.11.pattern"], wanted.attentions[11])


def test_a_model_type_nobody_knows(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "sphinx"}))
    with pytest.raises(interp.errors.UnsupportedModel, match="does not know"):
        interp.load(str(directory))


def test_what_cannot_be_wrapped(pipeline: ChronosPipeline) -> None:
    with pytest.raises(interp.errors.UnsupportedModel, match="cannot be wrapped"):
        interp.wrap(pipeline.model.model)  # type: ignore[arg-type]
    for source in (pipeline, tiny_causal_pipeline()):
        source.model.model.to("meta")
        with pytest.raises(interp.errors.UnsupportedModel, match="meta"):
            interp.wrap(source)
    with pytest.raises(interp.errors.UnsupportedModel, match="str cannot be wrapped"):
        interp.wrap("gpt2")  # type: ignore[arg-type]


def test_untied_embeddings(batch: Batch, tmp_path: Path) -> None:
    """A checkpoint with an unembedding of its own: read from the file, and without T5's scaling."""
    module = tiny_pipeline(tie_word_embeddings=False).model.model
    module.lm_head.weight = torch.nn.Parameter(torch.randn(4096, 20))
    module.config.tie_word_embeddings = False
    module.save_pretrained(tmp_path / "untied")
    model = interp.load(str(tmp_path / "untied"))
    assert torch.equal(model.module.lm_head.weight, module.lm_head.weight)
    assert not torch.equal(model.module.lm_head.weight, model.module.shared.weight)
    cache = interp.capture(model, batch, ["decoder.ln_final", "decoder.logits"])
    with torch.no_grad():
        assert torch.equal(model.unembed(cache["decoder.ln_final"]), cache["decoder.logits"])
    other = tiny_gpt2(tie_word_embeddings=False)
    assert not torch.equal(other.lm_head.weight, other.transformer.wte.weight)
    again = interp.load(str(saved(other, tmp_path)))
    assert again.digest == interp.wrap(other).digest
    assert again.n_parameters == interp.wrap(tiny_gpt2()).n_parameters + 4096 * 24
    assert tiny_config(tie_word_embeddings=False).scale_decoder_outputs is False
