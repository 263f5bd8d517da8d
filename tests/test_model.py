"""Opening: what a name can mean, and a typed error for everything that can be wrong with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from chronos import ChronosPipeline
from safetensors.torch import load_file, save_file

import interp
from interp import Batch, zoo
from tests.conftest import tiny_config, tiny_pipeline


@pytest.fixture
def directory(tmp_path: Path, pipeline: ChronosPipeline) -> Path:
    pipeline.model.model.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_directory_opens_with_its_weights(directory: Path, pipeline: ChronosPipeline) -> None:
    model = interp.load(str(directory))
    assert model.digest == interp.wrap(pipeline).digest
    assert model.n_layers == {"encoder": 3, "decoder": 2}
    assert (model.n_heads, model.d_head, model.d_model, model.d_vocab) == (3, 8, 20, 4096)
    assert "3+2 layers" in repr(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_a_parameter(directory: Path, dtype: torch.dtype, batch: Batch) -> None:
    model = interp.load(str(directory), dtype=dtype)
    assert model.dtype == dtype
    assert interp.capture(model, batch, "decoder.cross.0.pattern")["decoder.cross.0.pattern"].dtype == dtype


def test_the_digest_tells_weights_apart(model: interp.Model) -> None:
    assert interp.wrap(tiny_pipeline(seed=1)).digest != model.digest
    assert interp.wrap(tiny_pipeline(seed=0)).digest == model.digest


def test_unknown_names() -> None:
    with pytest.raises(interp.UnknownModel, match=r"Did you mean 'pico-t5'"):
        interp.load("pico-t6")
    with pytest.raises(FileNotFoundError):
        interp.load("./no/such/place")
    with pytest.raises(interp.UnknownModel, match="pico-t5"):
        zoo.path("nano")


def test_no_network_and_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(interp.UnknownModel, match=r"not in the cache.*pico-t5"):
        interp.load("amazon/chronos-t5-not-there")
    with pytest.raises(interp.UnknownModel) as caught:
        interp.load("amazon/chronos-t5-tiny")
    assert "Did you mean" not in str(caught.value)


def test_a_directory_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(interp.UnsupportedModel, match=r"no config\.json"):
        interp.load(str(tmp_path))


def test_a_file_instead_of_a_directory(directory: Path) -> None:
    with pytest.raises(interp.UnsupportedModel, match="is a file"):
        interp.load(str(directory / "config.json"))


def test_a_config_that_is_not_json(directory: Path) -> None:
    (directory / "config.json").write_text('{"d_model": ')
    with pytest.raises(interp.DamagedFile, match="not JSON"):
        interp.load(str(directory))


@pytest.mark.parametrize("kept", [0, 5, 1000, 20_000])
def test_truncated_weights(directory: Path, kept: int) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(interp.DamagedFile):
        interp.load(str(directory))


def test_garbled_weights(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"not a safetensors file at all")
    with pytest.raises(interp.DamagedFile):
        interp.load(str(directory))


def test_weights_of_another_shape(directory: Path, tmp_path: Path) -> None:
    tiny_pipeline(d_model=24).model.model.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", directory)
    with pytest.raises(interp.DamagedFile, match="do not fit"):
        interp.load(str(directory))


def test_pickled_weights_only(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(interp.UnsupportedModel, match="pickled"):
        interp.load(str(directory))


def test_no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(interp.UnsupportedModel, match=r"no model\.safetensors"):
        interp.load(str(directory))


def rewrite(directory: Path, change: Any) -> None:
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    weights.unlink()
    save_file(tensors, weights, metadata={"format": "pt"})


@pytest.mark.parametrize("lost", ["decoder.block.1.", "shared.weight", "encoder.final_layer_norm.weight"])
def test_weights_with_a_hole_are_not_drawn_at_random(directory: Path, lost: str) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if n.startswith(lost)]:
            del tensors[name]

    rewrite(directory, drop)
    with pytest.raises(interp.DamagedFile, match=f"lack .*{lost}"):
        interp.load(str(directory))


def test_weights_of_a_deeper_model(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_layers": 2}))
    with pytest.raises(interp.DamagedFile, match=r"hold encoder\.block\.2\."):
        interp.load(str(directory))


def test_weights_that_are_not_numbers(directory: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["shared.weight"].fill_(torch.nan)

    rewrite(directory, spoil)
    with pytest.raises(interp.DamagedFile, match="NaN"):
        interp.load(str(directory))


@pytest.mark.parametrize(
    "chronos",
    [None, [], "x", {}, {"extra": 1}, {"tokenizer_class": "NoSuch"}, {"tokenizer_kwargs": {}}, {"n_tokens": 9999}],
)
def test_a_chronos_config_that_cannot_be_used(directory: Path, chronos: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    changed = {**config["chronos_config"], **chronos} if isinstance(chronos, dict) and chronos else chronos
    (directory / "config.json").write_text(json.dumps(config | {"chronos_config": changed}))
    with pytest.raises((interp.DamagedFile, interp.UnsupportedModel)):
        interp.load(str(directory))


@pytest.mark.parametrize("text", ["null", "[]", '{"model_type": "t5", "d_model": "x"}'])
def test_a_config_of_another_form(directory: Path, text: str) -> None:
    (directory / "config.json").write_text(text)
    with pytest.raises((interp.DamagedFile, interp.UnsupportedModel)):
        interp.load(str(directory))


@pytest.mark.parametrize("name", ["", "a/b c", "a/..", "x" * 120 + "/y", "~/m"])
def test_names_that_no_hub_has(name: str) -> None:
    with pytest.raises(interp.UnknownModel):
        interp.load(name)


def test_dtypes_and_devices_that_cannot_be() -> None:
    with pytest.raises(interp.InvalidInput, match="floating-point"):
        interp.load("pico-t5", dtype=torch.int8)
    with pytest.raises(interp.InvalidInput, match="banana"):
        interp.load("pico-t5", device="banana")
    if not torch.cuda.is_available():
        with pytest.raises(interp.InvalidInput, match="cuda"):
            interp.load("pico-t5", device="cuda")


def test_a_digest_follows_weights_edited_in_place(model: interp.Model) -> None:
    before = model.digest
    with torch.no_grad():
        model.module.shared.weight[5] += 1
    assert model.digest != before


@pytest.mark.parametrize("name", ["ChronosBoltPipeline", "Chronos2Pipeline"])
def test_other_chronos_models(directory: Path, name: str) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"chronos_pipeline_class": name}))
    with pytest.raises(interp.UnsupportedModel, match=name.removesuffix("Pipeline")):
        interp.load(str(directory))


def test_a_plain_t5(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    del config["chronos_config"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(interp.UnsupportedModel, match="without a chronos_config"):
        interp.load(str(directory))


def test_a_model_type_nobody_knows(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "sphinx"}))
    with pytest.raises(interp.UnsupportedModel, match="does not know"):
        interp.load(str(directory))


def test_what_cannot_be_wrapped(pipeline: ChronosPipeline) -> None:
    with pytest.raises(interp.UnsupportedModel, match="cannot be wrapped"):
        interp.wrap(pipeline.model.model)  # type: ignore[arg-type]
    pipeline.model.model.to("meta")
    with pytest.raises(interp.UnsupportedModel, match="meta"):
        interp.wrap(pipeline)


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
    assert tiny_config(tie_word_embeddings=False).scale_decoder_outputs is False
