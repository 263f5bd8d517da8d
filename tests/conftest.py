"""Tiny models made in memory: at least two layers, three heads, pairwise different sizes."""

# beartype must be imported before nnsight, which gives every object an attribute.
import beartype  # noqa: F401  # pyright: ignore[reportUnusedImport]

# isort: split
import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from chronos import ChronosBoltPipeline, ChronosConfig, ChronosPipeline
from chronos.chronos import ChronosModel
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

import interp
from interp.zoo.recipe import chronos_config
from tests.leftovers import no_process_is_left  # noqa: F401  # pyright: ignore[reportUnusedImport]

LONGEST = ("notebooks", "sweep_faults", "zoo_t5", "graph", "docs", "sweeps", "explorer", "wheel", "discovery")
"""Files that take longest, which run first: two processes that take file after file then end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


SIZES = {
    "d_model": 20,
    "d_kv": 8,
    "d_ff": 28,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
}


def tiny_config(**changes: Any) -> T5Config:
    """A T5 with a chronos_config, small enough to make in milliseconds."""
    chronos = replace(chronos_config(), context_length=64, prediction_length=6, num_samples=3)
    values: dict[str, Any] = {
        "vocab_size": 4096,
        "dropout_rate": 0.1,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "chronos_config": vars(chronos),
        **SIZES,
        **changes,
    }
    return T5Config(**values)


def tiny_pipeline(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> ChronosPipeline:
    """A Chronos pipeline with random weights and eager attention, as plain Chronos would open it."""
    config = tiny_config(**changes)
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = T5ForConditionalGeneration(config).eval()
        module = cast(T5ForConditionalGeneration, cast(torch.nn.Module, module).to(dtype))
    chronos = ChronosConfig(**config.chronos_config)
    return ChronosPipeline(tokenizer=chronos.create_tokenizer(), model=ChronosModel(chronos, module))


GPT2_SIZES = {"n_embd": 24, "n_inner": 28, "n_layer": 3, "n_head": 3, "n_positions": 96}


def tiny_gpt2(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> GPT2LMHeadModel:
    """A GPT-2 with random weights, biases and norms, and eager attention, as plain Hugging Face would open it."""
    values: dict[str, Any] = {"vocab_size": 4096, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1}
    config = GPT2Config(**{**values, "pad_token_id": 0, **GPT2_SIZES, **changes})
    config._attn_implementation = "eager"
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        module = GPT2LMHeadModel(config).eval()
        for parameter in module.parameters():
            # Hugging Face begins biases at 0 and norms at 1, where forgetting them would not be seen.
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        return cast(GPT2LMHeadModel, cast(torch.nn.Module, module).to(dtype))


def tiny_causal_pipeline(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> ChronosPipeline:
    """A causal Chronos pipeline of a tiny GPT-2."""
    chronos = replace(chronos_config(), context_length=64, prediction_length=6, num_samples=3, model_type="causal")
    module = tiny_gpt2(seed, dtype, chronos_config=vars(chronos), **changes)
    return ChronosPipeline(tokenizer=chronos.create_tokenizer(), model=ChronosModel(chronos, module))


BOLT = {
    "context_length": 96,
    "prediction_length": 12,
    "input_patch_size": 8,
    "input_patch_stride": 8,
    "quantiles": [0.1, 0.3, 0.5, 0.8, 0.9],
    "use_reg_token": True,
}


def tiny_bolt(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> ChronosBoltPipeline:
    """A Chronos-Bolt pipeline with random weights, biases too, and eager attention; changes are of either config."""
    chronos = {**BOLT, **{name: value for name, value in changes.items() if name in BOLT}}
    values: dict[str, Any] = {"vocab_size": 2, "dropout_rate": 0.1, "decoder_start_token_id": 0, **SIZES}
    values |= {name: value for name, value in changes.items() if name not in BOLT}
    config = T5Config(**values, chronos_config=chronos, chronos_pipeline_class="ChronosBoltPipeline")
    config._attn_implementation = "eager"
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        module = ChronosBoltModelForForecasting(config).eval()
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        # As drawn, heads look at everything alike.
        for name, parameter in module.named_parameters():
            if name.endswith(".q.weight"):
                parameter.mul_(5)
    return ChronosBoltPipeline(cast(ChronosBoltModelForForecasting, cast(torch.nn.Module, module).to(dtype)))


def bolt_without_heads(*heads: str) -> ChronosBoltPipeline:
    """A plain Chronos-Bolt with the weights of `tiny_bolt` in which heads' columns of W_O are zero."""
    pipeline = tiny_bolt()
    for head in map(interp.Head.parse, heads):
        layer, name = (1, "EncDecAttention") if head.kind == "cross" else (0, "SelfAttention")
        projection: Any = pipeline.model.get_submodule(f"{head.stack}.block.{head.layer}.layer.{layer}.{name}.o")
        with torch.no_grad():
            projection.weight[:, head.head * 8 : head.head * 8 + 8] = 0
    return pipeline


def bolt_with_permuted_heads(order: list[int]) -> ChronosBoltPipeline:
    """A plain Chronos-Bolt with the weights of `tiny_bolt` whose heads stand in another order, in every layer."""
    pipeline = tiny_bolt()
    with torch.no_grad():
        for stack in (pipeline.model.encoder, pipeline.model.decoder):
            for attention in (module for module in stack.modules() if isinstance(module, T5Attention)):
                for name in ("q", "k", "v"):
                    weight = getattr(attention, name).weight
                    weight.copy_(weight.clone().unflatten(0, (3, 8))[order].flatten(0, 1))
                attention.o.weight.copy_(attention.o.weight.clone().unflatten(1, (3, 8))[:, order].flatten(1, 2))
                if attention.has_relative_attention_bias:
                    bias = attention.relative_attention_bias.weight
                    bias.copy_(bias.clone()[:, order])
    return pipeline


def values_with_gaps(rows: int = 4, steps: int = 45, seed: int = 0) -> torch.Tensor:
    """Series of 45 steps, which 8 do not divide; two are shorter, one lacks a patch inside and one single steps."""
    values = torch.randn(rows, steps, generator=torch.Generator().manual_seed(seed)).cumsum(1) + 5
    for row, missing in ((1, slice(14)), (2, slice(21, 29)), (3, slice(None, None, 5))):
        values[row : row + 1, missing] = torch.nan
    return values


def masked_batch(encoder: bool) -> interp.Batch:
    """Four rows with padding on the left and one token missing: 9 encoder and 5 decoder tokens, or 14 of a decoder."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 4096, (4, 14), generator=generator)
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, :3] = 0
    mask[3, 4] = 0
    if encoder:
        return interp.Batch(ids[:, :9], mask, ids[:, 9:])
    shown = torch.cat([mask, mask.new_ones(4, 5)], 1)
    return interp.Batch(decoder_input_ids=ids, decoder_attention_mask=shown)


def other_tokens(batch: interp.Batch) -> interp.Batch:
    """A batch that is padded alike, with the tokens of each row in reverse."""
    ids = batch.input_ids.flip(1) if batch.has_encoder else batch.input_ids
    return interp.Batch(ids, batch.attention_mask, batch.decoder_input_ids.flip(1), batch.decoder_attention_mask)


def fresh(model: interp.Model, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> ChronosPipeline:
    """A plain pipeline of a model's family; with seed 0, of the weights that `either` has."""
    return (tiny_pipeline if model.has_encoder else tiny_causal_pipeline)(seed, dtype, **changes)


def without_heads(model: interp.Model, *heads: str) -> ChronosPipeline:
    """A plain pipeline with the weights of `either` in which heads' rows of W_O are zero."""
    pipeline = fresh(model)
    for head in map(interp.Head.parse, heads):
        path = model.family.point(head.site("z")).path
        weight = pipeline.model.model.get_submodule(path).get_parameter("weight")
        with torch.no_grad():
            rows = weight if model.family.columns_first else weight.T
            rows[head.head * model.d_head : (head.head + 1) * model.d_head] = 0
    return pipeline


def context(model: interp.Model, layer: int = 1) -> str:
    """A layer of the attention that reads the past."""
    return str(model.layers(".".join(model.family.context))[layer])


def first_stack(model: interp.Model) -> str:
    """The stack that reads the input first."""
    return "encoder" if model.has_encoder else "decoder"


@pytest.fixture
def causal() -> interp.Model:
    """A tiny causal Chronos model."""
    return interp.wrap(tiny_causal_pipeline(), name="tiny-causal")


@pytest.fixture(params=["t5", "gpt2"])
def either(request: pytest.FixtureRequest) -> interp.Model:
    """A tiny model of each family."""
    return interp.wrap(
        tiny_pipeline() if request.param == "t5" else tiny_causal_pipeline(), name=f"tiny-{request.param}"
    )


@pytest.fixture
def either_batch(either: interp.Model) -> interp.Batch:
    """A batch with padding for it."""
    return masked_batch(either.has_encoder)


@pytest.fixture
def pipeline() -> ChronosPipeline:
    return tiny_pipeline()


@pytest.fixture
def plain(pipeline: ChronosPipeline) -> T5ForConditionalGeneration:
    """The module as it was before the toolkit touched it, with eager attention."""
    return cast(T5ForConditionalGeneration, copy.deepcopy(pipeline.model.model))


@pytest.fixture
def model(plain: T5ForConditionalGeneration, pipeline: ChronosPipeline) -> interp.Model:
    return interp.wrap(pipeline, name="tiny")


@pytest.fixture
def batch() -> interp.Batch:
    """Four rows of 9 encoder tokens, some masked on the left, and 5 decoder tokens."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, :2] = 0
    return interp.Batch(
        input_ids=torch.randint(2, 4096, (4, 9), generator=generator),
        attention_mask=mask,
        decoder_input_ids=torch.randint(2, 4096, (4, 5), generator=generator),
    )


@pytest.fixture(scope="session")
def pico() -> interp.Model:
    return interp.load("pico-t5")


CHROMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a window."""
    # For a module only: Playwright keeps an event loop running, in which kaleido and notebooks could not start theirs.
    path = next(filter(None, map(shutil.which, CHROMES)), None)
    if path is None:
        pytest.skip("no Chrome or Chromium was found: pages not tested")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def browser_page(browser: Any) -> Iterator[Any]:
    """A page that must neither complain nor ask anything of a network."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    complaints: list[str] = []

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"console: {message.text}")

    def failed(error: Any) -> None:
        complaints.append(f"error: {error}")

    def asked(request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:", "about:")):
            complaints.append(f"request: {request.url}")

    page.on("console", said)
    page.on("pageerror", failed)
    page.on("request", asked)
    yield page
    page.close()
    assert not complaints
