"""The check on opening: are the hook points live?

1. A plain forward: every hook point is reached, with the right shape, and patterns sum to 1.
2. A poisoned forward: each attention's scores are replaced by NaN, which must reach its pattern;
   the pattern is then replaced by zeros, which must reach z. So what is edited is what is used,
   in every attention layer by itself, also where a head or layer is idle. What is edited in place, because
   others hold the very tensor too, becomes ones, and the MLP behind it zeros: ones must leave the layer.

Source: nnterp's checks on loading, which this follows in spirit.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from interp.editing.scopes import Bound, Scope, entered
from interp.errors import BrokenHook
from interp.inputs.batch import Batch, ValueBatch
from interp.inputs.fitting import inputs_of
from interp.inputs.vocabulary import vocabulary_of
from interp.models.checks.states import evaluated
from interp.models.handle import Handle
from interp.names import Site


@contextmanager
def _hooks(handles: list[torch.utils.hooks.RemovableHandle]) -> Generator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sample(model: Handle) -> Batch:
    """Return a small input of two rows: four tokens or three patches and more, and three tokens of a decoder."""
    if not model.reads_tokens:
        steps = torch.arange(3 * model.patching.size, dtype=torch.float32) % (model.patching.size + 1)
        return ValueBatch(torch.stack([steps, steps.flip(0)]), model.patching)
    first, last = vocabulary_of(model).value_range if model.tokens_are_values else (0, model.d_vocab - 1)
    ids = first + torch.tensor([[3, 4, 5, 0], [7, 3, 7, 0]]) % (last - first + 1)
    encoder: dict[str, Any] = {"input_ids": ids} if model.has_encoder else {}
    return Batch(**encoder, decoder_input_ids=ids[:, :3])


def _forward(model: Handle) -> Tensor:
    with torch.no_grad(), evaluated(model):
        return getattr(model.module(**inputs_of(model, _sample(model))), model.family.returns)


def check_hooks(model: Handle) -> None:
    """Run two small forwards and see that every hook point of every attention layer is live.

    Args:
        model: the handle, its hook points attached. It is left as it was.

    Raises:
        BrokenHook: a hook point that is not reached, has another shape, whose pattern's rows do
            not sum to 1, or whose edits are not used.
    """
    # Another thread may be running the very module, which must not be poisoned.
    with entered(model.module) as scope:
        _check_hooks(model, scope)


def check_readout(model: Handle) -> None:
    """Run a small forward and see that what it puts out is made of the decoder's last norm as the toolkit says.

    Logits are its unembedding, scaled as the config says; quantiles are in the series' units.

    Raises:
        BrokenHook: they are something else, or not one a token, or one a level and step.
    """
    final: list[Tensor] = []
    module = model.module.get_submodule(model.family.stack_points["decoder", "ln_final"][0])
    with entered(model.module) as scope, ExitStack() as hooks, torch.no_grad(), evaluated(model):
        scope.on_output(module, lambda _module, _args, output: final.append(output), hooks)  # type: ignore[reportUnknownLambdaType]
        logits = _forward(model)
        wanted = _read_out(model, final[-1]) if final else None
    tolerance = 64 * torch.finfo(model.dtype).eps * float(logits.abs().max())
    if wanted is None or wanted.shape != logits.shape or float((wanted - logits).abs().max()) > tolerance:
        if model.gives_quantiles:
            raise BrokenHook(
                f"{model.name}: its quantiles are not what its output_patch_embedding makes of the decoder's last "
                "norm, in units of the series: open a model whose forward is the architecture's own."
            )
        raise BrokenHook(
            f"{model.name}: its logits are not what the unembedding makes of the decoder's last norm, scaled by "
            f"{model.unembedding_scale:.3g} as its config says. See scale_decoder_outputs in the config, and open a "
            "model whose forward is the architecture's own."
        )
    if not model.gives_quantiles and logits.shape[-1] != model.d_vocab:
        raise BrokenHook(
            f"{model.name}: it gives {logits.shape[-1]} logits, and its config says vocab_size={model.d_vocab}: set "
            "that in the config, or use resize_token_embeddings."
        )


def _read_out(model: Handle, ln_final: Tensor) -> Tensor:
    if model.gives_quantiles:
        return model.quantiles(ln_final, cast(ValueBatch, _sample(model)).values)
    return model.unembed(ln_final)


def _check_hooks(model: Handle, scope: Scope) -> None:
    layers, sample = model.layers(), _sample(model)
    modules = {str(at): model.module.get_submodule(model.family.attention_path(at)) for at in layers}
    outputs = {str(at): model.family.point(Site(at.stack, at.kind, at.layer, "z")).path for at in layers}
    queries = {str(at): sample.length(at.stack) for at in layers}
    keys = {str(at): sample.length("encoder" if at.kind == "cross" else at.stack) for at in layers}
    tolerance = 1e-4 if model.dtype == torch.float32 else 2e-2

    seen: set[str] = set()

    def look(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, pattern: Tensor) -> None:
            size = (2, model.n_heads, queries[name], keys[name])
            rows = pattern.float().sum(-1)
            if tuple(pattern.shape) == size and bool((rows - 1).abs().max() < tolerance):
                seen.add(f"{name}.pattern")

        return hook

    with _hooks(
        [m.get_submodule("hook_pattern").register_forward_hook(Bound(scope, look(n))) for n, m in modules.items()]
    ):
        _forward(model)
    _complain(model, [f"{name}.pattern" for name in modules], seen, "is not reached, or its rows do not sum to 1")

    seen = set()

    def poison(_: nn.Module, __: object, scores: Tensor) -> Tensor:
        return torch.full_like(scores, torch.nan)

    def through(name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(_: nn.Module, __: object, pattern: Tensor) -> Tensor:
            if bool(pattern.isnan().all()):
                seen.add(f"{name}.scores")
            return torch.zeros_like(pattern)

        return hook

    def arrive(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            if not bool(args[0].any()):
                seen.add(f"{name}.pattern")
            return (torch.zeros_like(args[0]),)

        return hook

    shared = [site for site in model.sites() if site.name in model.family.shared]
    handles = [handle for site in shared for handle in _through_block(model, site, seen, scope)]
    handles += [
        handle
        for name, module in modules.items()
        for handle in (
            module.get_submodule("hook_scores").register_forward_hook(Bound(scope, poison)),
            module.get_submodule("hook_pattern").register_forward_hook(Bound(scope, through(name))),
            model.module.get_submodule(outputs[name]).register_forward_pre_hook(Bound(scope, arrive(name))),
        )
    ]
    with _hooks(handles):
        _forward(model)
    wanted = [f"{name}.{port}" for name in modules for port in ("scores", "pattern")] + [str(site) for site in shared]
    _complain(model, wanted, seen, "can be edited without effect")


def _through_block(
    model: Handle, site: Site, seen: set[str], scope: Scope
) -> Generator[torch.utils.hooks.RemovableHandle]:
    """Place hooks which check that the layer continues with what is edited in place."""

    def fill(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        args[0].fill_(1.0)

    def silence(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    def leave(_: nn.Module, __: object, output: Tensor) -> None:
        if bool((output == 1).all()):
            seen.add(str(site))

    names = (site.name, "mlp_out", "resid_post")
    held, mlp, layer = (
        model.module.get_submodule(model.family.point(Site(site.stack, None, site.layer, name)).path) for name in names
    )
    yield held.register_forward_pre_hook(Bound(scope, fill), prepend=True)
    yield mlp.register_forward_hook(Bound(scope, silence))
    yield layer.register_forward_hook(Bound(scope, leave))


def _complain(model: Handle, wanted: list[str], seen: set[str], what: str) -> None:
    for name in wanted:
        if name not in seen:
            raise BrokenHook(
                f"{model.name}: the hook point {name} {what}. The model was opened by another attention "
                "implementation, or this release of transformers is not supported."
            )
