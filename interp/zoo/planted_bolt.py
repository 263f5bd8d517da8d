"""A Chronos-Bolt planted by hand: a previous-patch head and an induction head in the encoder, known on paper.

The residual stream holds orthogonal subspaces in a random basis: the values of the patch, what the previous-patch head
copies, what the induction head moves, a spare one, and one axis that marks [REG].

* `encoder.self.0.1` attends one position back, by the position bias, and copies that patch into the second subspace. So
  every patch holds its predecessor, and [REG] holds the last patch.
* `encoder.self.1.2` compares these at [REG], finds the patches that came *after* earlier occurrences of the last one,
  and moves their values into [REG]. That [REG] does not find itself, its mark sees to.
* `decoder.cross.0.3` looks at [REG] alone, whatever comes, and hands on what was moved there. The readout is linear.

The median is the patch that followed; the other levels lie evenly around it. All other heads are random, live and
faint. Norms have random scales, which the planted weights undo. On patches of signs, half of them up and half down, all
norms are known, and what is on paper is exact: with R earlier occurrences the induction head pays 1/R to each.

The query of the first cross-attention is the same for every input, so a match by content must be the encoder's, as it
is in a small Chronos-Bolt that was trained.

Source: Olsson et al. 2022, "In-context Learning and Induction Heads".
"""

import torch
from chronos import ChronosBoltPipeline
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention

from interp.models.opening import wrap
from interp.names import Head
from interp.validate import whole
from interp.zoo.fresh_bolt import LEVELS, build
from interp.zoo.planted_t5 import FAINT, SHARP, Planted, norm_before, write_head
from interp.zoo.recipe import PATCH, Recipe

HEADS, D_HEAD, D_MODEL, LAYERS, CONTEXT = 4, 20, 96, 2, 512

PREVIOUS_PATCH = Head("encoder", "self", 0, 1)
INDUCTION = Head("encoder", "self", 1, 2)
READER = Head("decoder", "cross", 0, 3)

SPREAD = 0.2
"""How far the quantiles lie apart from level to level, in deviations of the context."""

CIRCUIT = (
    f"encoder.0.resid_pre -> {PREVIOUS_PATCH}:v",
    f"{PREVIOUS_PATCH} -> {INDUCTION}:q",
    f"{PREVIOUS_PATCH} -> {INDUCTION}:k",
    f"encoder.0.resid_pre -> {INDUCTION}:v",
    f"{INDUCTION} -> {READER}:v",
    f"{READER} -> decoder.quantiles",
)
"""What was built. That [REG] is marked is the same for every input, so it is no edge here."""


def planted_patches(*, wired: bool = True, seed: int = 0) -> Planted:
    """Make a Chronos-Bolt with an induction circuit of three heads written by hand.

    Args:
        wired: whether the induction head reads the subspace that the previous-patch head writes to; if not, that head
            writes to a spare one, everything else being the same.
        seed: of basis, norms and the other heads.

    Returns:
        The model, opened, with patches of 16 steps and as many steps of forecast; its edges between heads; and its
        circuit.

    Raises:
        InvalidInput: a seed that is no whole number of 0 or more.
    """
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    recipe = Recipe(layers=LAYERS, heads=HEADS, d_model=D_MODEL, d_kv=D_HEAD, d_ff=8, longest_context=CONTEXT)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = build(recipe, horizon=PATCH).eval()
        _plant(module, wired, generator)
    model = wrap(ChronosBoltPipeline(module), name="planted-patches")
    return Planted(model, (*CIRCUIT[1:3], CIRCUIT[4]), CIRCUIT) if wired else Planted(model, (), ())


def _plant(module: nn.Module, wired: bool, generator: torch.Generator) -> None:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    for name, weight in module.named_parameters():
        if "norm" in name:
            weight.copy_(draw(D_MODEL).mul(0.3).exp())
        elif name.endswith(".o.weight"):
            weight.copy_(draw(*weight.shape) * FAINT / 10)
        elif name.endswith((".q.weight", ".k.weight", ".v.weight")):
            weight.copy_(draw(*weight.shape) * D_MODEL**-0.5)
        else:
            weight.zero_()
    basis = torch.linalg.qr(draw(D_MODEL, 4 * PATCH + 1)).Q
    patch, previous, moved, spare, mark = basis.split([PATCH] * 4 + [1], dim=1)
    # Of every part of the stream the squares sum to PATCH, as those of a patch of signs do.
    loud = PATCH**0.5
    _linear(module, "input_patch_embedding").weight[:, :PATCH] = patch
    start, reg = (module.get_parameter("shared.weight")[index] for index in (0, 1))
    start.copy_(loud * patch[:, 0])
    reg.copy_(loud * mark[:, 0])

    attention = module.get_submodule("encoder.block.0.layer.0.SelfAttention")
    bias = attention.get_submodule("relative_attention_bias").get_parameter("weight")
    bias[T5Attention._relative_position_bucket(torch.tensor([-1])), PREVIOUS_PATCH.head] = SHARP
    none = torch.zeros(D_MODEL, 1)
    values = patch / _share(1) / norm_before(module, PREVIOUS_PATCH)
    write_head(module, PREVIOUS_PATCH, none, none, values, (previous if wired else spare).T)

    # A match scores SHARP, and [REG] at itself three times as far below 0.
    at_reg = (SHARP / PATCH) ** 0.5 / _share(2) / norm_before(module, INDUCTION)
    queries = torch.cat([previous, 2 * mark], dim=1) * at_reg
    keys = torch.cat([previous, -2 * mark], dim=1) * at_reg
    write_head(module, INDUCTION, queries, keys, patch / _share(2) / norm_before(module, INDUCTION), moved.T)

    # The encoder's last norm has [REG] hold three parts. The start token asks for the mark, and for nothing else.
    final = module.get_parameter("encoder.final_layer_norm.weight")[:, None] * _share(3)
    asks = SHARP / PATCH * patch[:, :1] / _share(1) / norm_before(module, READER)
    write_head(module, READER, asks, mark / final, moved / final, previous.T)
    decoder = module.get_parameter("decoder.final_layer_norm.weight")[:, None] * _share(2)
    readout = _linear(module, "output_patch_embedding")
    readout.weight.copy_((previous / decoder).T.repeat(len(LEVELS), 1))
    middle = (len(LEVELS) - 1) / 2
    readout.bias.copy_(torch.arange(len(LEVELS)).sub(middle).mul(SPREAD).repeat_interleave(PATCH))


def _share(parts: int) -> float:
    """Return by what a norm multiplies a stream of so many parts whose squares sum to PATCH each."""
    return (D_MODEL / (parts * PATCH)) ** 0.5


def _linear(module: nn.Module, embedding: str) -> nn.Linear:
    """Return the linear way around a patch embedding's hidden layer."""
    linear = module.get_submodule(f"{embedding}.residual_layer")
    assert isinstance(linear, nn.Linear)
    return linear
