"""Which weights a result is of: whatever changes their bytes changes the digest, and nothing else does."""

import copy
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.models import digest
from interp.sweeps import sweep
from tests.conftest import fresh


def published(module: nn.Module) -> str:
    """The digest as results of earlier releases carry it."""
    hasher = sha256()
    for name, value in sorted(module.state_dict().items()):
        hasher.update(f"{name}{value.dtype}{list(value.shape)}".encode())
        hasher.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()[:16]


def middle(model: interp.Model) -> nn.Module:
    """A projection in the middle of the model."""
    return model.module.get_submodule(model.family.point(interp.Site.parse("decoder.self.1.z")).path)


def step(optimizer: type[torch.optim.Optimizer], **options: Any) -> Callable[[interp.Model], None]:
    def train(model: interp.Model) -> None:
        weight = middle(model).weight
        weight.grad = torch.ones_like(weight)
        optimizer([weight], lr=1e-3, **options).step()

    return train


def through_numpy(model: interp.Model) -> None:
    middle(model).weight.detach().numpy()[0, 0] += 1


def through_data(model: interp.Model) -> None:
    middle(model).weight.data[0, 0] = 7


def another_storage(model: interp.Model) -> None:
    with torch.no_grad():
        middle(model).weight.set_(torch.randn_like(middle(model).weight))


def assigned(model: interp.Model) -> None:
    state = {name: value.clone() for name, value in model.module.state_dict().items()}
    path = next(name for name, value in model.module.named_parameters() if value is middle(model).weight)
    state[path][0, 0] += 1
    model.module.load_state_dict(state, assign=True)


def another_parameter(model: interp.Model) -> None:
    middle(model).weight = nn.Parameter(middle(model).weight.detach() + 1)


def one_bit(model: interp.Model) -> None:
    middle(model).weight.data.view(torch.int32)[-1, -1] ^= 1


def scaled(model: interp.Model) -> None:
    middle(model).weight.data.mul_(1.01)


def negative_zeros(model: interp.Model) -> None:
    middle(model).weight.data[0].mul_(0).neg_()


def stored_buffer(model: interp.Model) -> None:
    middle(model).register_buffer("extra", torch.zeros(3))


def hidden_buffer(model: interp.Model) -> None:
    middle(model).register_buffer("extra", torch.zeros(3), persistent=False)


def quantised(model: interp.Model) -> None:
    middle(model).weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)


def permuted(model: interp.Model) -> None:
    """The same numbers, elsewhere: a sum would not tell."""
    middle(model).weight.data = middle(model).weight.data.flip(0)


CHANGES: dict[str, Callable[[interp.Model], Any]] = {
    "fused": step(torch.optim.AdamW, fused=True),
    "foreach": step(torch.optim.AdamW, foreach=True),
    "sgd": step(torch.optim.SGD),
    "mul": scaled,
    "data": through_data,
    "numpy": through_numpy,
    "set": another_storage,
    "assign": assigned,
    "parameter": another_parameter,
    "bit": one_bit,
    "negative zero": negative_zeros,
    "permuted": permuted,
    "quantised": quantised,
    "half": lambda model: model.module.to(torch.bfloat16),
    "stored buffer": stored_buffer,
    "hidden buffer": hidden_buffer,
    "first": lambda model: next(model.module.parameters()).data.add_(1),
    "last": lambda model: list(model.module.parameters())[-1].data.add_(1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_weights_changes_the_digest(either: interp.Model, change: str) -> None:
    before, state = either.digest, copy.deepcopy(either.module.state_dict())
    assert either.digest == before == published(either.module)
    CHANGES[change](either)
    assert either.digest != before
    if change != "hidden buffer":
        assert either.digest == published(either.module)
    if state.keys() == either.module.state_dict().keys() and change not in ("half", "quantised", "hidden buffer"):
        either.module.load_state_dict(state)
        assert either.digest == before


def test_a_buffer_that_is_edited(either: interp.Model) -> None:
    """Also one that no checkpoint holds, and whose change no parameter shows."""
    hidden_buffer(either)
    before = either.digest
    middle(either).extra.numpy()[0] = 1
    assert either.digest != before


def test_what_leaves_the_weights_leaves_the_digest(either: interp.Model, either_batch: interp.Batch) -> None:
    before = either.digest
    interp.capture(either, either_batch, "decoder.logits")
    with interp.ablate(either, either.heads()[0]):
        interp.capture(either, either_batch, "decoder.logits")
        assert either.digest == before
    either.module.requires_grad_(False)
    either.module.load_state_dict({name: value.clone() for name, value in either.module.state_dict().items()})
    middle(either).weight.data = middle(either).weight.data.T.contiguous().T  # the same numbers, laid out otherwise
    assert not middle(either).weight.is_contiguous()
    assert either.digest == before == interp.wrap(fresh(either)).digest


def test_tied_weights_that_are_parted(either: interp.Model) -> None:
    before = either.digest
    either.module.lm_head.weight = nn.Parameter(either.module.lm_head.weight.detach().clone())
    assert either.digest == before
    either.module.lm_head.weight.data[0, 0] += 1
    assert either.digest != before


def test_weights_without_bytes(either: interp.Model) -> None:
    middle(either).to("meta")
    with pytest.raises(interp.errors.UnsupportedModel, match="cannot be read byte by byte"):
        _ = either.digest


def test_threads_give_what_one_gives(monkeypatch: pytest.MonkeyPatch, either: interp.Model) -> None:
    named = either.follow().named
    alone = digest.fingerprint(named)
    monkeypatch.setattr(digest, "_WORTH_THREADS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert digest.fingerprint(named) == alone


class Adapter(nn.Module):
    """A low-rank addition beside a projection, as adapters make it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.enabled, self.scaling, self.calls = base, True, {"default": 2.0}, 0
        generator = torch.Generator().manual_seed(3)
        rows, columns = base.weight.shape
        self.down = nn.Parameter(torch.randn(rows if hasattr(base, "nf") else columns, 2, generator=generator))
        self.up = nn.Parameter(torch.randn(2, columns if hasattr(base, "nf") else rows, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.base_layer(x) + self.enabled * self.scaling["default"] * (x @ self.down @ self.up)


def test_the_settings_of_an_adapter(either: interp.Model, either_batch: interp.Batch) -> None:
    """One that is switched off or scaled is another model with the same tensors; one that was only called is not."""
    plain = either.digest
    path = either.family.point(interp.Site.parse("decoder.self.1.z")).path
    either.module.set_submodule(path, Adapter(middle(either)))
    adapter: Any = middle(either)
    before = either.digest
    assert before != plain
    interp.capture(either, either_batch, "decoder.logits")
    assert adapter.calls
    assert either.digest == before
    adapter.enabled = False
    off = either.digest
    adapter.enabled, adapter.scaling["default"] = True, 1.0
    assert len({plain, before, off, either.digest}) == 4


def measured(model: interp.Model, a: int) -> dict[str, Any]:
    return {"x": float(middle(model).weight.detach().double().sum())}


def training(model: interp.Model, a: int) -> dict[str, Any]:
    step(torch.optim.AdamW, fused=True)(model)
    return measured(model, a)


@pytest.mark.parametrize("change", ["fused", "mul", "data", "numpy"])
def test_a_store_of_other_weights(either: interp.Model, change: str, tmp_path: Path) -> None:
    def go() -> Any:
        return sweep(measured, {"model": [either], "a": [1]}, store=tmp_path / "store", progress=False)

    first = go()
    assert go().to_frame().equals(first.to_frame())
    CHANGES[change](either)
    with pytest.raises(interp.errors.WrongStore, match="weights of"):
        go()


def test_a_function_that_trains(either: interp.Model, tmp_path: Path) -> None:
    """Its numbers are not of the weights that the store is said to be of: not even those of its first run."""
    with pytest.raises(interp.errors.WrongStore, match="leave them as they are"):
        sweep(training, {"model": [either], "a": [1]}, store=tmp_path / "store", progress=False)
    assert len(interp.sweeps.read(tmp_path / "store")) == 0
