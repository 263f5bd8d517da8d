"""What state a program may be in: experiments give the numbers they always give, or a typed error that says why."""

import copy
import io
import pickle
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils.checkpoint import checkpoint

import circuits
import interp
from interp import InterpError, Knockout, Mean, Resample
from interp.editing.context import check_unhooked
from interp.errors import BrokenHook, InertEdit, InvalidInput, UnsupportedModel
from interp.models.checks import states
from tests.conftest import context, fresh, masked_batch, tiny_causal_pipeline, tiny_gpt2, tiny_pipeline
from tests.experiments import experiments, numbers, same
from tests.tolerance import not_close

ROOT = Path(__file__).parents[3]


@torch.no_grad()
def logits(model: interp.Model, module: Any = None) -> Tensor:
    inputs = model.inputs(masked_batch(model.has_encoder))
    return (model.module if module is None else module)(**inputs).logits


@contextmanager
def training(model: interp.Model) -> Generator[None]:
    model.module.train()
    yield
    assert all(module.training for module in model.module.modules())


@contextmanager
def checkpointing(model: interp.Model) -> Generator[None]:
    model.module.gradient_checkpointing_enable()
    model.module.train()
    yield
    assert model.module.is_gradient_checkpointing


@contextmanager
def default_dtype(_: interp.Model) -> Generator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic(_: interp.Model) -> Generator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def compiled(model: interp.Model) -> Generator[None]:
    model.module.compile(backend="eager")
    logits(model)
    yield


@contextmanager
def frozen(model: interp.Model) -> Generator[None]:
    model.module.requires_grad_(False)
    yield


SUPPORTED: dict[str, Callable[[interp.Model], Any]] = {
    "training": training,
    "checkpointing": checkpointing,
    "inference_mode": lambda _: torch.inference_mode(),
    "no_grad": lambda _: torch.no_grad(),
    "enable_grad": lambda _: torch.enable_grad(),
    "default dtype": default_dtype,
    "deterministic": deterministic,
    "compiled": compiled,
    "frozen": frozen,
    "anomaly": lambda _: torch.autograd.detect_anomaly(check_nan=False),
}


@pytest.fixture(scope="module", params=[tiny_pipeline, tiny_causal_pipeline], ids=["t5", "gpt2"])
def maker(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return request.param


@pytest.fixture(scope="module")
def usual(maker: Callable[[], Any]) -> dict[str, list[Any]]:
    """What each experiment gives in a program that did nothing else."""
    return {name: numbers(run()) for name, run in experiments(interp.wrap(maker())).items()}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("state", SUPPORTED)
def test_experiments_do_not_depend_on(state: str, maker: Callable[[], Any], usual: dict[str, list[Any]]) -> None:
    model = interp.wrap(maker())
    runs = experiments(model)
    with SUPPORTED[state](model):
        for name, run in runs.items():
            found = numbers(run())
            assert len(found) == len(usual[name])
            for one, other in zip(found, usual[name], strict=True):
                if one.dtype.kind == "f":
                    # Products of a layout in memory that differs may be rounded otherwise; dropout would be far off.
                    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, err_msg=name)
                else:
                    assert np.array_equal(one, other), name


@pytest.mark.parametrize("state", ["autocast", "sdpa", "meta"])
def test_experiments_refuse(state: str, maker: Callable[[], Any], usual: dict[str, list[Any]]) -> None:
    model = interp.wrap(maker())
    runs = experiments(model)
    kinds: dict[str, type[InterpError]] = {"autocast": InvalidInput, "sdpa": BrokenHook, "meta": UnsupportedModel}
    only_weights = ("composition_scores", "ablation_curve")
    if state == "sdpa":
        model.module.set_attn_implementation("sdpa")
    elif state == "meta":
        model.module.to("meta")
    with torch.autocast("cpu", torch.bfloat16, enabled=state == "autocast"):
        for name, run in runs.items():
            if name in only_weights:
                continue
            with pytest.raises(kinds[state]):
                run()
    if state == "sdpa":
        model.module.set_attn_implementation("chronos_interp")
        assert same(numbers(runs["capture"]()), usual["capture"])


def test_opening_leaves_the_mode_alone(maker: Callable[[], Any]) -> None:
    source = maker()
    module = source.model.model
    module.train()
    last = list(module.modules())[-1]
    last.training = False
    modes = [part.training for part in module.modules()]
    model = interp.wrap(source)
    assert [p.training for n, p in module.named_modules() if "hook_" not in n] == modes
    with pytest.raises(ValueError, match="mine"):
        circuits.patch_sites(model, *[masked_batch(model.has_encoder)] * 2, _failing)
    assert [p.training for n, p in module.named_modules() if "hook_" not in n] == modes
    assert not states._held


def _failing(_: Tensor) -> Tensor:
    raise ValueError("mine")


def test_a_training_step_under_an_ablation(either: interp.Model) -> None:
    """The user's own forward stays in the user's mode, with dropout, and references are read without it."""
    batch, at = masked_batch(either.has_encoder), context(either)
    with interp.ablate(either, at, method="mean", reference=batch):
        wanted = interp.capture(either, batch, f"{at}.z")[f"{at}.z"][0, 0]
    either.module.train()
    with interp.ablate(either, at, method="mean", reference=batch):
        noisy = [logits(either) for _ in range(2)]
        assert torch.equal(interp.capture(either, batch, f"{at}.z")[f"{at}.z"][0, 0], wanted)
        assert either.module.training
    not_close(noisy[0], noisy[1])


def test_edits_refuse_gradient_checkpoints(either: interp.Model) -> None:
    inputs = either.inputs(masked_batch(either.has_encoder))

    def run(x: Tensor) -> Tensor:
        return either.module(**inputs).logits + x

    def own(reentrant: bool) -> None:
        x = torch.zeros(1, requires_grad=True)
        checkpoint(run, x, use_reentrant=reentrant)

    for reentrant in (True, False):
        with pytest.raises(InvalidInput, match="checkpoint"), interp.ablate(either, context(either)):
            own(reentrant)
        own(reentrant)
    either.module.gradient_checkpointing_enable()
    either.module.train()
    with pytest.raises(InvalidInput, match="gradient_checkpointing_disable"), interp.ablate(either, context(either)):
        either.module(**inputs)
    either.module(**inputs)


def test_edits_of_scores_refuse_another_attention(either: interp.Model) -> None:
    """Other edits do not need the hook points, and act in one's own runs."""
    with interp.ablate(either, context(either)):
        wanted = logits(either)
    either.module.set_attn_implementation("sdpa")
    with pytest.raises(BrokenHook, match="set_attn"), interp.edited(either, Knockout(f"{context(either)}.0", key=0)):
        pass
    with interp.ablate(either, context(either)):
        # Padding that sees nothing is another thing in each implementation.
        torch.testing.assert_close(logits(either)[:, -1], wanted[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("what", ["model", "module", "source"])
def test_copies_carry_no_edit_and_work(either: interp.Model, what: str, how: str) -> None:
    batch, at = masked_batch(either.has_encoder), context(either)
    ways: dict[str, Callable[[Any], Any]] = {
        "copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    }  # fmt: skip
    thing = either if what == "model" else getattr(either, what)
    clean = interp.capture(either, batch, "decoder.logits")["decoder.logits"]
    with interp.ablate(either, at):
        wanted = logits(either)
    edits = [Mean(f"{at}.0", batch), Knockout(f"{at}.1", key=-1), Resample("decoder.1.mlp_out", batch)]
    with interp.edited(either, edits):
        logits(either)
        copied = ways[how](thing)
    module = copied if what == "module" else copied.module if what == "model" else copied.model.model
    assert torch.equal(logits(either, module), clean)
    if what == "module":
        source = fresh(either)
        source.model.model = module
        copied = source
    model = copied if what == "model" else interp.wrap(copied)
    check_unhooked(model, "this")
    assert torch.equal(interp.capture(model, batch, "decoder.logits")["decoder.logits"], clean)
    with interp.ablate(model, at):
        assert torch.equal(logits(model), wanted)
        assert how == "copy" or torch.equal(logits(either), clean)
    assert model.digest == either.digest


def test_a_module_saved_under_an_edit(either: interp.Model) -> None:
    clean, file = logits(either), io.BytesIO()
    with interp.ablate(either, context(either)):
        logits(either)
        torch.save(either.module, file)
    file.seek(0)
    assert torch.equal(logits(either, torch.load(file, weights_only=False)), clean)


@pytest.mark.parametrize("own", [True, False])
def test_an_experiment_inside_a_trace_is_refused(either: interp.Model, own: bool) -> None:
    from nnsight import NNsight

    batch = masked_batch(either.has_encoder)
    clean, inputs = logits(either), either.inputs(batch)
    wrapper: Any = either.nnsight if own else NNsight(either.module)
    with pytest.raises(InvalidInput, match="being traced"), wrapper.trace(**inputs):
        interp.capture(either, batch, "decoder.logits")
    with pytest.raises(InertEdit), wrapper.trace(**inputs):
        _edit_nothing(either)
    assert torch.equal(logits(either), clean)
    assert torch.equal(interp.capture(either, batch, "decoder.logits")["decoder.logits"], clean)


def _edit_nothing(model: interp.Model) -> None:
    with interp.ablate(model, context(model)):
        pass


@pytest.mark.parametrize("how", ["before", "inside", "in place"])
def test_compiled_code_sees_edits_and_forgets_them(either: interp.Model, how: str) -> None:
    """Code that was compiled before or inside a context runs as written while it lasts, and as compiled afterwards."""
    clean, at = logits(either), context(either)
    with interp.ablate(either, at):
        wanted = logits(either)
    module: Any = torch.compile(either.module, backend="eager")
    if how == "in place":
        either.module.compile(backend="eager")
        module = either.module
    if how != "inside":
        assert torch.equal(logits(either, module), clean)
    for _ in range(2):
        with interp.ablate(either, at):
            assert torch.equal(logits(either, module), wanted)
        assert torch.equal(logits(either, module), clean)
    assert not states._stances


def test_autocast_around_ones_own_forward(either: interp.Model) -> None:
    with interp.ablate(either, context(either)):
        wanted = logits(either)
        with torch.autocast("cpu", torch.bfloat16):
            found = logits(either)
    assert 0 < float((found.float() - wanted).abs().max()) < 0.5


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("early", [True, False])
def test_hooks_of_ones_own(either: interp.Model, everywhere: bool, early: bool) -> None:
    """What runs the whole model sees them; what runs its layers one by one refuses them."""
    batch, at = masked_batch(either.has_encoder), context(either)
    mlp = either.module.get_submodule(either.family.point(interp.Site("decoder", None, 1, "mlp_out")).path)

    def act(module: nn.Module, _: Any, output: Any) -> Any:
        return output * 1.5 if module is mlp else None

    def hook() -> Any:
        return module_hooks.register_module_forward_hook(act) if everywhere else mlp.register_forward_hook(act)

    edit = interp.Scale("decoder.1.mlp_out", 2.0)
    names = ["decoder.1.mlp_out", "decoder.1.resid_post", "decoder.logits"]
    plain = interp.capture(either, batch, names)
    handle = hook() if early else None
    try:
        with interp.edited(either, edit):
            handle = hook() if handle is None else handle
            found = interp.capture(either, batch, names)
            assert torch.equal(found["decoder.logits"], logits(either))
            assert torch.equal(found["decoder.1.mlp_out"], plain["decoder.1.mlp_out"] * 3)
        with pytest.raises(InvalidInput, match="hooks"):
            circuits.patch_sites(either, batch, batch, circuits.log_prob(5), f"{at}.z")
    finally:
        assert handle is not None
        handle.remove()
    assert torch.equal(logits(either), plain["decoder.logits"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_and_double_precision(either: interp.Model, dtype: torch.dtype) -> None:
    model = interp.wrap(fresh(either, dtype=dtype))
    batch = masked_batch(model.has_encoder)
    with interp.ablate(model, context(model)):
        assert torch.equal(interp.capture(model, batch, "decoder.logits")["decoder.logits"], logits(model))
    assert logits(model).dtype == dtype


def test_wrappers_that_are_refused() -> None:
    module = tiny_gpt2()
    for wrapper in (nn.DataParallel(module), torch.compile(module, backend="eager")):
        with pytest.raises(UnsupportedModel, match="cannot be wrapped"):
            interp.wrap(wrapper)  # type: ignore[arg-type]


def test_interrupts(either: interp.Model) -> None:
    """An interrupt in the middle of a run leaves nothing behind."""
    batch, clean = masked_batch(either.has_encoder), logits(either)
    either.module.train()

    def stop(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), interp.ablate(either, context(either), method="mean", reference=batch):
        circuits.gradients(either, batch, stop, "decoder.1.mlp_out")
    assert either.module.training
    assert not states._held
    assert not states._stances
    either.module.eval()
    check_unhooked(either, "this")
    assert torch.equal(logits(either), clean)
    assert torch.equal(interp.capture(either, batch, "decoder.logits")["decoder.logits"], clean)


def test_the_table_of_states_names_tests_that_exist() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "supported_states.md").read_text().splitlines()
        if re.match(r"\| (?!state)", line)
    ]
    named = [re.findall(r"`(test_\w+)\.py::(test_\w+)`", row) for row in rows]
    assert len(named) > 20
    for row, tests in zip(rows, named, strict=True):
        assert tests, f"no test: {row}"
        for file, test in tests:
            texts = [path.read_text() for path in (ROOT / "tests").rglob(f"{file}.py")]
            assert any(f"def {test}(" in text for text in texts), f"{file}::{test}"
