"""Chronos-Bolt opens as what it is, and what is captured is its own, bit for bit."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chronos import BaseChronosPipeline, ChronosBoltPipeline, ChronosConfig, ChronosPipeline
from chronos.chronos import ChronosModel
from safetensors.torch import load_file, save_file

import interp
from interp import Batch, capture
from interp.errors import BrokenHook, DamagedFile, MissingCapability, UnknownHead, UnknownSite, UnsupportedModel
from tests.conftest import tiny_bolt, tiny_pipeline, values_with_gaps
from tests.tolerance import FORWARD, close

pytestmark = pytest.mark.versions


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tiny_bolt().model.save_pretrained(tmp_path / "bolt")
    return tmp_path / "bolt"


def changed(directory: Path, **values: Any) -> str:
    path = directory / "config.json"
    config = {k: v for k, v in (json.loads(path.read_text()) | values).items() if v is not ...}
    path.write_text(json.dumps(config))
    return str(directory)


def test_a_directory_opens_with_its_weights(directory: Path) -> None:
    model, wrapped = interp.load(str(directory)), interp.wrap(tiny_bolt())
    assert model.digest == wrapped.digest != interp.wrap(tiny_bolt(seed=1)).digest
    assert isinstance(model.pipeline, ChronosBoltPipeline)
    assert model.module is model.pipeline.model
    assert model.n_layers == {"encoder": 3, "decoder": 2}
    assert (model.n_heads, model.d_head, model.d_model, model.d_mlp) == (3, 8, 20, 28)
    assert (model.levels, model.horizon) == ((0.1, 0.3, 0.5, 0.8, 0.9), 12)
    assert (model.patching.size, model.patching.context_length, model.patching.has_reg) == (8, 96, True)
    assert not model.reads_tokens
    assert not model.tokens_are_values
    assert model.gives_quantiles
    assert "Chronos-Bolt, 3+2 layers" in repr(model)
    assert model.chronos_config.input_patch_size == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_directory_opens_in_a_dtype(directory: Path, dtype: torch.dtype) -> None:
    model = interp.load(str(directory), dtype=dtype)
    batch = Batch.from_series(model, values_with_gaps())
    assert capture(model, batch, "encoder.self.0.pattern")["encoder.self.0.pattern"].dtype == dtype


def test_patches_and_horizon_may_be_those_of_the_published_models(tmp_path: Path) -> None:
    shape = {"input_patch_size": 16, "input_patch_stride": 16, "prediction_length": 64}
    tiny_bolt(**shape, quantiles=[n / 10 for n in range(1, 10)]).model.save_pretrained(tmp_path)
    pipeline = BaseChronosPipeline.from_pretrained(str(tmp_path))
    assert isinstance(pipeline, ChronosBoltPipeline)
    assert pipeline.predict(torch.ones(1, 20)).shape == (1, 9, 64)
    assert interp.load(str(tmp_path)).patching.size == 16


def test_names_on_the_hub_are_known() -> None:
    for size in ("tiny", "mini", "small", "base"):
        with pytest.raises(interp.errors.UnknownModel, match=f"Did you mean 'amazon/chronos-bolt-{size}'"):
            interp.load(f"chronos-bolt-{size}")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"chronos_pipeline_class": ...}, "is a Chronos model by its pipeline, and its config says that it is a Chr"),
        ({"chronos_pipeline_class": "ChronosPipeline"}, "which Chronos opens in a ChronosBoltPipeline"),
        ({"chronos_pipeline_class": "Chronos2Pipeline"}, "is a Chronos2 model"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "which Chronos opens in a ChronosPipeline"),
        ({"architectures": ["Chronos2Model"]}, "its config says that it is a Chronos2Model"),
    ],
)
def test_a_config_that_disagrees_with_itself(directory: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        interp.load(changed(directory, **values))


@pytest.mark.parametrize("architectures", [None, [], ...])
def test_a_config_without_an_architecture(directory: Path, architectures: Any) -> None:
    with pytest.raises(DamagedFile, match="names no architectures"):
        interp.load(changed(directory, architectures=architectures))


def test_weights_of_a_t5(directory: Path, tmp_path: Path) -> None:
    """Chronos itself would draw the patch embeddings at random, and say nothing."""
    tiny_pipeline().model.model.save_pretrained(tmp_path / "t5")
    save_file(load_file(tmp_path / "t5" / "model.safetensors"), directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedFile):
        interp.load(str(directory))
    tensors = load_file(tmp_path / "t5" / "model.safetensors")
    tensors["shared.weight"] = tensors["shared.weight"][:2].clone()
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedFile, match="lack input_patch_embedding"):
        interp.load(str(directory))


def test_weights_beside_the_head_that_chronos_ignores(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file(tensors | {"lm_head.weight": torch.ones(2, 20)}, directory / "model.safetensors", {"format": "pt"})
    assert interp.load(str(directory)).digest == interp.wrap(tiny_bolt()).digest
    del tensors["output_patch_embedding.residual_layer.bias"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedFile, match="lack output_patch_embedding"):
        interp.load(str(directory))


@pytest.mark.parametrize(
    "chronos", [None, [], {"context_length": "x"}, {"input_patch_size": 0}, {"more": 1}, {"prediction_length": 2.5}]
)
def test_a_chronos_config_that_cannot_be_used(directory: Path, chronos: Any) -> None:
    config = json.loads((directory / "config.json").read_text())["chronos_config"]
    with pytest.raises((DamagedFile, UnsupportedModel)):
        interp.load(changed(directory, chronos_config={**config, **chronos} if chronos else chronos))


def test_patches_that_overlap(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())["chronos_config"]
    with pytest.raises(UnsupportedModel, match="input_patch_stride=4 is not input_patch_size=8"):
        interp.load(changed(directory, chronos_config=config | {"input_patch_stride": 4}))
    with pytest.raises(UnsupportedModel, match="input_patch_stride"):
        interp.wrap(tiny_bolt(input_patch_stride=16))


@pytest.mark.parametrize("levels", [[], [0.5, 0.1], [0.1, 0.1], [0.0, 0.5], [0.5, 1.0]])
def test_levels_that_do_not_ascend(levels: list[float]) -> None:
    with pytest.raises(UnsupportedModel, match="must ascend between 0 and 1"):
        interp.wrap(tiny_bolt(quantiles=levels))


def test_pipelines_and_models_that_do_not_go_together() -> None:
    bolt: Any = tiny_bolt()
    t5 = tiny_pipeline()
    with pytest.raises(UnsupportedModel, match=r"by itself: give the chronos\.ChronosBoltPipeline"):
        interp.wrap(bolt.model)
    chronos = ChronosConfig(**t5.model.model.config.chronos_config)
    mixed = ChronosPipeline(t5.tokenizer, ChronosModel(chronos, bolt.model))
    with pytest.raises(UnsupportedModel, match="which Chronos opens in a ChronosBoltPipeline"):
        interp.wrap(mixed)
    other: Any = ChronosBoltPipeline(t5.model.model)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModel, match="which Chronos opens in a ChronosPipeline"):
        interp.wrap(other)


def test_a_pipeline_whose_config_names_no_class() -> None:
    pipeline = tiny_bolt()
    del pipeline.model.config.chronos_pipeline_class
    assert interp.wrap(pipeline).family.name == "Chronos-Bolt"


def test_quantiles_that_are_something_else() -> None:
    pipeline = tiny_bolt()
    inverse = pipeline.model.instance_norm.inverse
    pipeline.model.instance_norm.inverse = lambda x, scale: inverse(x, scale) + 1  # type: ignore[method-assign]
    assert interp.wrap(pipeline).horizon == 12  # what the toolkit calls is the model's own
    other: Any = tiny_bolt()
    plain = other.model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.quantile_preds = output.quantile_preds * 2
        return output

    other.model.forward = forward
    with pytest.raises(BrokenHook, match="its quantiles are not what its output_patch_embedding makes"):
        interp.wrap(other)


def test_patches_that_are_cut_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def right(self: Any, x: torch.Tensor) -> torch.Tensor:
        added = -x.shape[-1] % self.patch_size
        return torch.nn.functional.pad(x, (0, added), value=torch.nan).unflatten(-1, (-1, self.patch_size))

    monkeypatch.setattr("chronos.chronos_bolt.Patch.forward", right)
    with pytest.raises(BrokenHook, match="does not cut series into patches of 8"):
        interp.wrap(tiny_bolt())


# What it reads


def whole(module: Any, values: torch.Tensor) -> dict[str, Any]:
    """Everything that plain Chronos and Hugging Face compute."""
    options = {"output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        hidden, _, embedded, mask = module.encode(values)
        encoder = module.encoder(attention_mask=mask, inputs_embeds=embedded, **options)
        assert torch.equal(encoder[0], hidden)
        decoder = module.decoder(
            input_ids=torch.zeros(len(values), 1, dtype=torch.long),
            encoder_hidden_states=hidden,
            encoder_attention_mask=mask,
            **options,
        )
        return {"encoder": encoder, "decoder": decoder, "quantiles": module(values).quantile_preds}


@pytest.mark.parametrize("reg", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_to_plain_chronos_bit_for_bit(dtype: torch.dtype, reg: bool) -> None:
    plain, model = tiny_bolt(dtype=dtype, use_reg_token=reg), interp.wrap(tiny_bolt(dtype=dtype, use_reg_token=reg))
    assert plain.model.config._attn_implementation == "eager"
    values = values_with_gaps()
    batch = Batch.from_series(model, values)
    cache, own = capture(model, batch, model.sites()), whole(plain.model, values)
    for stack in ("encoder", "decoder"):
        for layer in range(model.n_layers[stack]):
            assert torch.equal(cache[f"{stack}.{layer}.resid_pre"], own[stack].hidden_states[layer])
            assert torch.equal(cache[f"{stack}.self.{layer}.pattern"], own[stack].attentions[layer])
        assert torch.equal(cache[f"{stack}.ln_final"], own[stack].hidden_states[-1])
    for layer, pattern in enumerate(own["decoder"].cross_attentions):
        assert torch.equal(cache[f"decoder.cross.{layer}.pattern"], pattern)
    assert torch.equal(cache["decoder.quantiles"], own["quantiles"])
    assert torch.equal(model.quantiles(cache["decoder.ln_final"], batch.inputs["context"]), own["quantiles"])
    for length in (5, 12, 40):
        assert torch.equal(model.pipeline.predict(values, length), plain.predict(values, length))


def test_the_pipeline_works_as_before() -> None:
    plain, model = tiny_bolt(), interp.wrap(tiny_bolt())
    series = [torch.arange(30.0).sin(), torch.arange(150.0).cos()]
    for one, other in zip(plain.embed(series), model.pipeline.embed(series), strict=True):
        assert torch.equal(one[0], other[0])
    levels = [0.1, 0.45, 0.9]
    ours = model.pipeline.predict_quantiles(series, prediction_length=20, quantile_levels=levels)
    theirs = plain.predict_quantiles(series, prediction_length=20, quantile_levels=levels)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_every_site_has_its_axes() -> None:
    model = interp.wrap(tiny_bolt())
    cache = capture(model, Batch.from_series(model, values_with_gaps()), model.sites())
    assert list(cache) == [str(site) for site in model.sites()]
    for site in model.sites():
        queries = 7 if site.stack == "encoder" else 1
        keys = 1 if (site.stack, site.kind) == ("decoder", "self") else 7
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("q", "z"), (4, queries, 3, 8))
        shapes |= dict.fromkeys(("k", "v"), (4, keys, 3, 8)) | dict.fromkeys(
            ("scores", "pattern"), (4, 3, queries, keys)
        )
        shapes |= {"head_out": (4, queries, 3, 20), "quantiles": (4, 5, 12)}
        assert tuple(cache[site].shape) == shapes.get(site.name, (4, queries, 20)), site


def test_the_parts_add_up() -> None:
    model = interp.wrap(tiny_bolt())
    c = capture(model, Batch.from_series(model, values_with_gaps()), model.sites())
    for stack, middles in (("encoder", ("resid_mid",)), ("decoder", ("resid_mid", "resid_mid_cross"))):
        for layer in range(model.n_layers[stack]):  # type: ignore[index]
            total = c[f"{stack}.{layer}.resid_pre"]
            for kind, middle in zip(("self", "cross"), middles, strict=False):
                total = total + c[f"{stack}.{kind}.{layer}.attn_out"]
                assert torch.equal(c[f"{stack}.{layer}.{middle}"], total)
            assert torch.equal(c[f"{stack}.{layer}.resid_post"], total + c[f"{stack}.{layer}.mlp_out"])
    for at in model.layers():
        close(c[f"{at}.head_out"].sum(2), c[f"{at}.attn_out"], terms=FORWARD)


def test_sites_that_are_the_same_for_every_input() -> None:
    """And no others are: the next to be made depends on the input."""
    model = interp.wrap(tiny_bolt())
    cache = capture(model, Batch.from_series(model, values_with_gaps()), model.sites())
    for name, value in cache.items():
        assert model.is_constant(name) == bool((value == value[:1]).all()), name
    assert bool((cache["decoder.self.1.pattern"] == 1).all())
    t5 = interp.wrap(tiny_pipeline())
    assert not [site for site in t5.sites() if t5.is_constant(site)]


def test_one_forward_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    model = interp.wrap(tiny_bolt())
    batch, calls = Batch.from_series(model, values_with_gaps()), []
    handle = model.module.encoder.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[reportUnknownLambdaType]
    capture(model, batch, model.sites())
    handle.remove()
    assert len(calls) == 1


def test_views_in_a_trace() -> None:
    model = interp.wrap(tiny_bolt())
    batch = Batch.from_series(model, values_with_gaps())
    cache = capture(model, batch, ["encoder.self.1.*", "decoder.quantiles"])
    read: dict[str, Any] = {}
    with torch.no_grad(), model.nnsight.trace(**model.inputs(batch)):
        views = model.views("encoder.self.1")
        for name in ("q", "k", "v", "scores", "pattern", "z"):
            read[name] = getattr(views, name).save()
        quantiles = model.nnsight.output.quantile_preds.save()
    for name, value in read.items():
        assert torch.equal(value, cache[f"encoder.self.1.{name}"]), name
    assert torch.equal(quantiles, cache["decoder.quantiles"])
    with torch.no_grad(), model.nnsight.trace(**model.inputs(batch)):
        z = model.views("decoder.cross.1").z
        z[:, :, 1] = 0
        edited = model.nnsight.output.quantile_preds.save()
    with interp.ablate(model, "decoder.cross.1.1"):
        assert torch.equal(edited, capture(model, batch, "decoder.quantiles")["decoder.quantiles"])


def test_addresses_that_are_not_there() -> None:
    model = interp.wrap(tiny_bolt())
    with pytest.raises(UnknownSite, match=r"puts out quantiles, at the site 'decoder\.quantiles'"):
        model.sites("decoder.logits")
    with pytest.raises(UnknownSite, match=r"puts out logits, at the site 'decoder\.logits'"):
        interp.wrap(tiny_pipeline()).sites("decoder.quantiles")
    with pytest.raises(UnknownHead, match=r"Did you mean 'decoder\.cross\.1\.2'"):
        model.head("decoder.cross.2.5")
    for text in ("encoder.quantiles", "decoder.0.quantiles"):
        with pytest.raises(UnknownSite):
            model.sites(text)


def test_what_only_the_other_kind_has() -> None:
    bolt, t5 = interp.wrap(tiny_bolt()), interp.wrap(tiny_pipeline())
    for name in ("vocabulary", "d_vocab"):
        with pytest.raises(MissingCapability, match="has no tokens"):
            getattr(bolt, name)
    for name in ("patching", "levels", "horizon"):
        with pytest.raises(MissingCapability, match=r"no patches and no quantiles\. See model\.vocabulary"):
            getattr(t5, name)
    with pytest.raises(MissingCapability, match="has no tokens"):
        bolt.unembed(torch.ones(1, 20))
    with pytest.raises(MissingCapability, match="no quantiles"):
        t5.quantiles(torch.ones(1, 1, 20), torch.ones(1, 8))


def test_a_copy_and_a_pickle_are_models() -> None:
    model = interp.wrap(tiny_bolt())
    batch = Batch.from_series(model, values_with_gaps())
    other = copy.deepcopy(model)
    site = "decoder.quantiles"
    assert torch.equal(capture(model, batch, site)[site], capture(other, batch, site)[site])


def test_info(directory: Path) -> None:
    from typer.testing import CliRunner

    from interp.__main__ import app

    result = CliRunner().invoke(app, ["info", str(directory)])
    assert result.exit_code == 0
    for line in (
        "Chronos-Bolt",
        "patches of 8 steps with [REG], at most 96 steps",
        "12 steps in one pass, quantiles 0.1",
    ):
        assert line in result.output
