"""Weights are what the modules compute, whatever stands where a plain projection is expected, or they are refused."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from transformers.pytorch_utils import Conv1D

import circuits
import interp
from interp import Batch
from tests.conftest import tiny_causal_pipeline, tiny_pipeline
from tests.tolerance import not_close


class LowRank(nn.Module):
    """A projection with a low-rank addition that is not merged, and dropout in it, as adapters make them."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_layer = base
        rows, columns = base.weight.shape if isinstance(base, Conv1D) else base.weight.T.shape
        generator = torch.Generator().manual_seed(rows)
        self.down = nn.Parameter(0.3 * torch.randn(rows, 2, generator=generator))
        self.up = nn.Parameter(0.3 * torch.randn(2, columns, generator=generator))
        self.dropout = nn.Dropout(0.5)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 2 * (self.dropout(x) @ self.down @ self.up)


class Doubling(nn.Linear):
    """A Linear by its class, which computes something else with its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def adapted(module: Any) -> nn.Module:
    return LowRank(module)


def subclassed(module: Any) -> nn.Module:
    columns_first = isinstance(module, Conv1D)
    weight = module.weight.T if columns_first else module.weight
    made = Doubling(weight.shape[1], weight.shape[0], bias=module.bias is not None)
    made.weight.data.copy_(weight)
    if module.bias is not None:
        made.bias.data.copy_(module.bias)
    return made


def parametrised(module: Any) -> nn.Module:
    return parametrize.register_parametrization(module, "weight", Half())


def weight_normed(module: Any) -> nn.Module:
    made = parametrizations.weight_norm(module)
    made.parametrizations.weight.original0.data.mul_(1.5)
    return made


def old_weight_normed(module: Any) -> nn.Module:
    """Whose weight is made before each forward, and is an old one until then."""
    made = torch.nn.utils.weight_norm(module)
    made.weight_g.data.mul_(1.5)
    return made


def biased(module: Any) -> nn.Module:
    """A bias, also where the family has none."""
    module.bias = nn.Parameter(torch.linspace(-1, 1, (module.weight.shape[1 if isinstance(module, Conv1D) else 0])))
    return module


def wrapped(module: Any) -> nn.Module:
    return nn.Sequential(module, Half())


def hooked(module: Any) -> nn.Module:
    def double(_: object, __: object, output: Tensor) -> Tensor:
        return 2 * output

    module.register_forward_hook(double)
    return module


def pre_hooked(module: Any) -> nn.Module:
    def double(_: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (2 * args[0],)

    module.register_forward_pre_hook(double)
    return module


def patched(module: Any) -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        return 3 * type(module).forward(module, x)

    module.forward = forward
    return module


def observed(module: Any) -> nn.Module:
    """A hook that only looks."""
    module.seen = []
    module.register_forward_hook(lambda _module, _args, output: module.seen.append(output.shape))  # type: ignore[reportUnknownLambdaType]
    return module


LINEAR: dict[str, Callable[[Any], nn.Module]] = {
    made.__name__: made
    for made in (
        adapted, subclassed, parametrised, weight_normed, old_weight_normed, biased, wrapped, hooked, pre_hooked,
        patched, observed,
    )
}  # fmt: skip


def replace(model: interp.Model, path: str, make: Callable[[Any], nn.Module]) -> nn.Module:
    made = make(model.module.get_submodule(path))
    model.module.set_submodule(path, made)
    return made


def projections(model: interp.Model) -> list[str]:
    """Every projection of every attention layer."""
    sites = [f"{at}.{name}" for at in model.layers() for name in ("q", "k", "v", "z")]
    return list(dict.fromkeys(model.family.point(interp.Site.parse(site)).path for site in sites))


def close(actual: Tensor, expected: Tensor) -> bool:
    """To the rounding of float32 in sums of a few hundred products of this size."""
    return bool((actual - expected).abs().max() <= 1e3 * torch.finfo(torch.float32).eps * expected.abs().max())


def check_weights(model: interp.Model, batch: Batch) -> None:
    """Weights, head outputs and attribution agree with what the model computes."""
    for at in model.layers():
        names = [f"{at}.{name}" for name in ("q", "k", "v", "z", "head_out", "attn_out", "scores")]
        cache = interp.capture(model, batch, names)
        heads = [model.weights(head, fold_norm=False) for head in model.heads() if str(head).startswith(f"{at}.")]
        summed = cache[f"{at}.head_out"].sum(2) + heads[0].b_O
        assert close(summed, cache[f"{at}.attn_out"]), at
        z = cache[f"{at}.z"]
        assert close(sum(z[:, :, i] @ one.W_O for i, one in enumerate(heads)) + heads[0].b_O, cache[f"{at}.attn_out"])
        norm = model.family.query_norms[at.stack, at.kind].format(layer=at.layer)
        stream = "resid_mid" if at.kind == "cross" else "resid_pre"
        x = interp.capture(model, batch, f"{at.stack}.{at.layer}.{stream}")[f"{at.stack}.{at.layer}.{stream}"]
        with torch.no_grad():
            normed = model.module.get_submodule(norm)(x)
        for i, one in enumerate(heads):
            assert close(normed @ one.W_Q + one.b_Q, cache[f"{at}.q"][:, :, i]), at
            if at.kind == "self":
                assert close(normed @ one.W_V + one.b_V, cache[f"{at}.v"][:, :, i]), at
    found = circuits.direct_attribution(model, batch, target=500, against=600)
    logits = interp.capture(model, batch, "decoder.logits")["decoder.logits"].double()
    shown = batch.decoder_attention_mask.bool()
    wanted = (logits[..., 500] - logits[..., 600])[shown]
    assert close(torch.tensor(found.values.sum(0))[shown], wanted)


@pytest.mark.parametrize("kind", LINEAR)
def test_what_is_linear_is_read(either: interp.Model, kind: str) -> None:
    """In every projection at once, and replaced after the first use."""
    ids = torch.randint(2, 4096, (2, 8), generator=torch.Generator().manual_seed(2))
    batch = Batch(ids if either.has_encoder else None, None, ids[:, :5])
    head = either.heads()[0]
    before = either.weights(head).W_Q
    interp.capture(either, batch, "decoder.logits")
    for path in projections(either):
        replace(either, path, LINEAR[kind])
    check_weights(either, batch)
    if kind not in ("biased", "observed"):
        not_close(either.weights(head).W_Q, before)


def test_edits_of_an_adapted_head(either: interp.Model) -> None:
    """Hooks are on what stands in the projection's place: zero of a head is zero of all it writes."""
    ids = torch.randint(2, 4096, (2, 8), generator=torch.Generator().manual_seed(2))
    batch = Batch(ids if either.has_encoder else None, None, ids[:, :5])
    for path in projections(either):
        replace(either, path, adapted)
    at = either.layers()[-1]
    clean = interp.capture(either, batch, [f"{at}.head_out", f"{at}.attn_out"])
    with interp.ablate(either, f"{at}.1"):
        cut = interp.capture(either, batch, f"{at}.attn_out")[f"{at}.attn_out"]
        assert torch.equal(either.weights(f"{at}.1").W_O, either.weights(f"{at}.1").W_O)
    assert close(cut, clean[f"{at}.attn_out"] - clean[f"{at}.head_out"][:, :, 1])


def test_reading_leaves_training_mode(either: interp.Model) -> None:
    """Dropout inside an adapter is off while its weight is read, and on again after."""
    path = projections(either)[0]
    replace(either, path, adapted)
    wanted = either.weights(either.heads()[0]).W_Q
    either.module.train()
    assert torch.equal(either.weights(either.heads()[0]).W_Q, wanted)
    assert all(module.training for module in either.module.modules())


class Bent(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.weight, self.bias = base, base.weight, base.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.base_layer(x))


class Clamped(Bent):
    """Linear on small rows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x).clamp(-8, 8)


class Rounded(Bent):
    """As where activations are quantised."""

    def forward(self, x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 127  # no tolerance: no division by 0
        return self.base_layer((x / step).round() * step)


class Fixed(Bent):
    """Which takes inputs of the model's own shape only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (3, 4, 5):
            raise RuntimeError("another length")
        return self.base_layer(x)


@pytest.mark.parametrize("kind", [Bent, Clamped, Rounded, Fixed])
@pytest.mark.parametrize("site", ["q", "z"])
def test_what_is_not_linear_is_refused(either: interp.Model, kind: type[Bent], site: str) -> None:
    path = either.family.point(interp.Site.parse(f"decoder.self.1.{site}")).path
    replace(either, path, kind)
    for read in (
        lambda: either.weights("decoder.self.1.0"),
        lambda: either.stacked_weights("decoder.self"),
    ):
        with pytest.raises(interp.errors.UnsupportedModel, match=r"(not linear|cannot be run on rows).*Merge adapters"):
            read()


def removed(_: Any) -> nn.Module:
    return nn.Identity()


class Shrunk(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, None
        self.eps = self.variance_epsilon = 1e-6  # no tolerance: the norm's own

    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(x, cast(Tensor, self.weight))


@pytest.mark.parametrize("make", [Shrunk, removed])
def test_norms_of_another_kind(either: interp.Model, make: Callable[[Any], nn.Module]) -> None:
    head = either.heads("decoder.self")[0]
    replace(either, either.family.query_norms["decoder", "self"].format(layer=0), make)
    with pytest.raises(interp.errors.UnsupportedModel, match="no norm of a known kind"):
        either.weights(head)
    assert either.weights(head, fold_norm=False).W_Q.shape == (either.d_model, either.d_head)


def test_the_norm_of_torch(either: interp.Model) -> None:
    """Another module with the same arithmetic is read."""
    path = either.family.query_norms["decoder", "self"].format(layer=0)
    old = either.module.get_submodule(path)
    wanted = either.weights("decoder.self.0.0").W_Q
    if either.has_encoder:
        made: Any = nn.RMSNorm(either.d_model, eps=old.variance_epsilon)
        made.weight = old.weight
        either.module.set_submodule(path, made)
    assert torch.equal(either.weights("decoder.self.0.0").W_Q, wanted)


@pytest.mark.parametrize("kind", ["adapted", "biased", "parametrised", "hooked"])
def test_an_unembedding_of_another_kind(either: interp.Model, kind: str) -> None:
    ids = torch.randint(2, 4096, (2, 8), generator=torch.Generator().manual_seed(2))
    batch = Batch(ids if either.has_encoder else None, None, ids[:, :5])
    either.module.lm_head.weight = nn.Parameter(either.module.lm_head.weight.detach().clone())
    replace(either, "lm_head", LINEAR[kind])
    check_weights(either, batch)


@pytest.mark.parametrize("maker", [tiny_pipeline, tiny_causal_pipeline])
def test_adapters_of_peft(maker: Callable[[], Any]) -> None:
    peft = pytest.importorskip("peft")
    model = interp.wrap(maker())
    names = ["q", "k", "v", "o"] if model.has_encoder else ["c_attn", "c_proj"]
    config = peft.LoraConfig(r=2, target_modules=names, lora_dropout=0.5, init_lora_weights=False)
    peft.inject_adapter_in_model(config, model.module)
    ids = torch.randint(2, 4096, (2, 8), generator=torch.Generator().manual_seed(2))
    check_weights(model, Batch(ids if model.has_encoder else None, None, ids[:, :5]))
