"""Activation patching: equal to one forward a cell by plain hooks, exact at its ends, known where it was planted."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import circuits
import interp
import probes
from circuits.metrics import Metric, expected_value, log_prob, logit_difference
from circuits.patched_runs import needs, outputs_after
from circuits.patching import PatchedHeads
from interp import Batch
from interp.editing.variants import clean_run
from interp.errors import InvalidInput, UnknownSite
from interp.names import Site
from interp.results.result import Floats
from interp.results.statistics import interval, p_values, q_values
from interp.zoo.planted_t5 import CROSS_HEADS, ENCODER_HEADS
from probes.stimuli.repeated_tokens import RepeatedTokens
from tests.conftest import tiny_bolt, tiny_causal_pipeline, tiny_pipeline, values_with_gaps
from tests.tolerance import BUNDLED, FORWARD, close, tolerance

CROSS, ENCODER = str(CROSS_HEADS[0]), str(ENCODER_HEADS[0])

ROWS = 3
METRIC = logit_difference(torch.tensor([7, 2000, 90]), 5)


def pair(masked: bool = True, alone: bool = False) -> tuple[Batch, Batch]:
    """Two inputs of 6 encoder tokens, one row padded on the left, and 4 decoder tokens; or all in a decoder's row."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(ROWS, 6, dtype=torch.long)
    if masked:
        mask[1, :2] = 0

    def made() -> Batch:
        ids = torch.randint(2, 4096, (2 * ROWS, 6), generator=generator)
        if alone:
            shown = torch.cat([mask, mask.new_ones(ROWS, 4)], 1)
            return Batch(decoder_input_ids=torch.cat([ids[:ROWS], ids[ROWS:, :4]], 1), decoder_attention_mask=shown)
        return Batch(input_ids=ids[:ROWS], attention_mask=mask, decoder_input_ids=ids[ROWS:, :4])

    return made(), made()


def contrast(quantiles: Tensor) -> Tensor:
    """A metric of quantiles, in the series' units."""
    return quantiles[:, 4, :5].mean(1) - quantiles[:, 1, 3:].mean(1)


def metric_of(model: interp.Model) -> Any:
    return METRIC if model.reads_tokens else contrast


def pair_for(model: interp.Model) -> tuple[Batch, Batch]:
    """As `pair`; of values, series with the same patches missing, and other means and deviations."""
    if model.reads_tokens:
        return pair(alone=not model.has_encoder)
    clean = values_with_gaps(ROWS)
    other = torch.where(clean.isnan(), torch.nan, 3 * values_with_gaps(ROWS, seed=1).nan_to_num() - 4)
    return Batch.from_series(model, clean), Batch.from_series(model, other)


@pytest.fixture
def double() -> interp.Model:
    return interp.wrap(tiny_pipeline(dtype=torch.float64))


@pytest.fixture(params=["t5", "bolt"])
def stacked(request: pytest.FixtureRequest) -> interp.Model:
    """Models with an encoder, in float64."""
    return interp.wrap((tiny_pipeline if request.param == "t5" else tiny_bolt)(dtype=torch.float64), name="stacked")


@pytest.fixture
def alone() -> interp.Model:
    """A decoder alone, in float64."""
    return interp.wrap(tiny_causal_pipeline(dtype=torch.float64))


@torch.no_grad()
def logits(model: interp.Model, batch: Batch, units: Batch | None = None) -> Tensor:
    """What the plain module puts out; quantiles with another batch's means and deviations, where one is given."""
    if units is None or model.reads_tokens:
        return getattr(model.module(**model.inputs(batch)), model.family.returns)
    module: Any = model.module
    hidden, _, embedded, mask = module.encode(batch.inputs["context"])
    _, scale = module.instance_norm(units.inputs["context"])
    read = module.output_patch_embedding(module.decode(embedded, mask, hidden)).flatten(1)
    return module.instance_norm.inverse(read, scale).unflatten(1, (5, 12))


@contextmanager
def written_in(module: nn.Module, port: str, tuple_of: bool, write: Callable[[Tensor], Tensor]) -> Generator[None]:
    """A plain PyTorch hook on a module's input or output."""

    def on_input(_: nn.Module, args: Any) -> Any:
        return (write(args[0]), *args[1:])

    def on_output(_: nn.Module, __: Any, output: Any) -> Any:
        return (write(output[0]), *output[1:]) if tuple_of else write(output)

    handle = module.register_forward_pre_hook(on_input) if port == "input" else module.register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


PLACES = {
    "z": ("o", "input", False),
    "q": ("q", "output", False),
    "k": ("k", "output", False),
    "v": ("v", "output", False),
    "pattern": ("hook_pattern", "output", False),
    "attn_out": ("", "output", True),
}
BLOCKS = {
    "resid_pre": ("", "input", False),
    "resid_post": ("", "output", True),
    "resid_mid": (".layer.0", "output", True),
    "resid_mid_cross": (".layer.1", "output", True),
}


def place(model: interp.Model, name: str) -> tuple[nn.Module, str, bool]:
    """Where a site is in Hugging Face's model, by this file's own table."""
    site = Site.parse(name)
    if site.layer is None:
        path = "lm_head" if site.name == "logits" else f"{site.stack}.final_layer_norm"
        return model.module.get_submodule(path), "output", False
    block = f"{site.stack}.block.{site.layer}"
    if site.kind is not None:
        inner, port, tuple_of = PLACES[site.name]
        attention = "layer.1.EncDecAttention" if site.kind == "cross" else "layer.0.SelfAttention"
        return model.module.get_submodule(f"{block}.{attention}.{inner}".rstrip(".")), port, tuple_of
    if site.name == "mlp_out":
        path = f"{block}.layer.{1 if site.stack == 'encoder' else 2}.DenseReluDense"
        return model.module.get_submodule(path), "output", False
    inner, port, tuple_of = BLOCKS[site.name]
    return model.module.get_submodule(block + inner), port, tuple_of


def part_of(model: interp.Model, name: str) -> tuple[str, str, slice]:
    """Where a site is in GPT-2: its module, its port, and its columns there, by this file's own table."""
    site, width = Site.parse(name), 24
    block, all_of = f"transformer.h.{site.layer}", slice(None)
    known: dict[str, tuple[str, str, slice]] = {
        **{n: (f"{block}.attn.c_attn", "output", slice(i * width, (i + 1) * width)) for i, n in enumerate("qkv")},
        "z": (f"{block}.attn.c_proj", "input", all_of),
        "pattern": (f"{block}.attn.hook_pattern", "output", all_of),
        "attn_out": (f"{block}.attn.c_proj", "output", all_of),
        "mlp_out": (f"{block}.mlp", "output", all_of),
        "resid_pre": (block, "input", all_of),
        "resid_post": (block, "output", all_of),
        "ln_final": ("transformer.ln_f", "output", all_of),
        "logits": ("lm_head", "output", all_of),
    }
    return known[site.name]


def slow_alone(
    model: interp.Model, inputs: tuple[Batch, Batch], name: str, index: int, by_head: bool, metric: Metric
) -> Floats:
    """As `slow`, in GPT-2. What the block adds to and carries on is changed where it is made: before the MLP's norm."""
    seen: list[Tensor] = []
    if name.endswith("resid_mid"):
        # The block's input and the attention's output, both as they are on the other input, sum to it.
        parts = [name.replace("resid_mid", "resid_pre"), name.replace("resid_mid", "mlp_out")]
        return _mid(model, inputs, Site.parse(parts[0]).layer or 0, index, metric)
    path, port, columns = part_of(model, name)
    module = model.module.get_submodule(path)

    def keep(value: Tensor) -> Tensor:
        seen.append(value.clone())
        return value

    def write(value: Tensor) -> Tensor:
        value = value.clone()
        if name.endswith("pattern"):
            value[:, index] = seen[0][:, index]
        elif by_head:
            first = (columns.start or 0) + 8 * index
            value[..., first : first + 8] = seen[0][..., first : first + 8]
        else:
            value[:, index, columns] = seen[0][:, index, columns]
        return value

    with written_in(module, port, False, keep):
        logits(model, inputs[1])
    with written_in(module, port, False, write):
        return metric(logits(model, inputs[0])).double().numpy()


def _mid(model: interp.Model, inputs: tuple[Batch, Batch], layer: int, index: int, metric: Metric) -> Floats:
    """The stream between attention and MLP at one position: attention's output there makes up the difference."""
    block: Any = model.module.transformer.h[layer]
    mids: list[Tensor] = []
    for batch in inputs[::-1]:
        with written_in(block.ln_2, "input", False, lambda value: mids.append(value.clone()) or value):
            logits(model, batch)

    def write(value: Tensor) -> Tensor:
        value = value.clone()
        value[:, index] += mids[0][:, index] - mids[1][:, index]
        return value

    with written_in(block.attn, "output", True, write):
        return metric(logits(model, inputs[0])).double().numpy()


def slow(
    model: interp.Model,
    inputs: tuple[Batch, Batch],
    name: str,
    index: int,
    by_head: bool,
    metric: Metric | None = None,
) -> Floats:
    """One cell by one forward of each input, with plain hooks."""
    wanted: Metric = metric_of(model) if metric is None else metric
    if not model.has_encoder:
        return slow_alone(model, inputs, name, index, by_head, wanted)
    module, port, tuple_of = place(model, name)
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value.clone())
        return value

    def write(value: Tensor) -> Tensor:
        value = value.clone()
        if name.endswith("pattern"):
            value[:, index] = seen[0][:, index]
        elif by_head:
            value[..., 8 * index : 8 * index + 8] = seen[0][..., 8 * index : 8 * index + 8]
        else:
            value[:, index] = seen[0][:, index]
        return value

    with written_in(module, port, tuple_of, keep):
        logits(model, inputs[1])
    with written_in(module, port, tuple_of, write):
        return wanted(logits(model, inputs[0])).double().numpy()


NOTHING = tolerance(of=10, terms=FORWARD, dtype=torch.float64)
LIVE = tolerance(of=0.1, terms=FORWARD)
"""What rounding makes of logits of a float64 model, and what a patch must do that reaches them."""


def plain(model: interp.Model, batch: Batch, units: Batch | None = None) -> Floats:
    return metric_of(model)(logits(model, batch, units)).double().numpy()


def tokens_at(batch: Batch, site: str) -> Any:
    """Which positions of a site hold tokens, `[pos, row]`: padding has no number."""
    return batch.mask("encoder" if circuits.patching.stack_of(site) == "encoder" else "decoder").T.bool().numpy()


@pytest.mark.parametrize("of", ["z", "q", "k", "v", "pattern"])
def test_heads_of_a_decoder_alone_equal_one_hooked_forward_each(alone: interp.Model, of: str) -> None:
    clean, corrupt = pair(alone=True)
    found = circuits.patch_heads(alone, clean, corrupt, METRIC, f"decoder.self.*.{of}", progress=False)
    wanted = np.array([
        [slow(alone, (clean, corrupt), site, head, True) for head in range(3)] for site in found.sites
    ])  # fmt: skip
    close(found.values, wanted, terms=FORWARD, dtype=torch.float64)
    assert (np.abs(found.effects).max((1, 2)) > LIVE).all(), "every site is live"
    one_by_one = circuits.patch_heads(alone, clean, corrupt, METRIC, f"decoder.self.*.{of}", memory=1, progress=False)
    close(one_by_one.values, found.values, terms=FORWARD, dtype=torch.float64)


@pytest.mark.parametrize("of", ["z", "q", "k", "v", "pattern"])
def test_heads_equal_one_hooked_forward_each(model: interp.Model, stacked: interp.Model, of: str) -> None:
    sites = [f"{kind}.*.{of}" for kind in ("encoder.self", "decoder.self", "decoder.cross")]
    # Chronos-Bolt's quantiles are in float32 whatever its weights are in.
    exact, double = torch.float64 if stacked.reads_tokens else torch.float32, stacked
    for each, dtype in ((model, torch.float32), (double, exact)):
        clean, corrupt = pair_for(each)
        found = circuits.patch_heads(each, clean, corrupt, metric_of(each), sites, progress=False)
        wanted = np.array([
            [slow(each, (clean, corrupt), site, head, True) for head in range(3)] for site in found.sites
        ])  # fmt: skip
        close(found.values, wanted, terms=FORWARD, dtype=dtype)
        close(found.clean, plain(each, clean), terms=FORWARD, dtype=dtype)
        close(found.corrupt, plain(each, corrupt, clean), terms=FORWARD, dtype=dtype)
        live = [site not in FIXED or each.reads_tokens for site in found.sites]
        assert ((np.abs(found.effects).max((1, 2)) > LIVE) == live).all(), "every other site is live"
    one_by_one = circuits.patch_heads(double, *pair_for(double), metric_of(double), sites, memory=1, progress=False)
    close(one_by_one.values, found.values, terms=FORWARD, dtype=exact)


FIXED = {
    *(f"decoder.self.{layer}.{name}" for layer in (0, 1) for name in ("q", "k", "pattern")),
    *(f"decoder.self.0.{name}" for name in ("v", "z", "attn_out")),
    *("decoder.cross.0.q", "decoder.0.resid_pre", "decoder.0.resid_mid"),
}
"""What is the same for every input in a Chronos-Bolt, or makes no difference."""

POSITIONED = [
    *("encoder.*.resid_pre", "encoder.*.resid_mid", "encoder.*.mlp_out", "encoder.*.resid_post", "encoder.ln_final"),
    *("decoder.*.resid_pre", "decoder.*.resid_mid", "decoder.*.resid_mid_cross", "decoder.*.mlp_out"),
    *("decoder.*.resid_post", "decoder.ln_final", "decoder.logits"),
    *(f"{kind}.*.{name}" for kind in ("encoder.self", "decoder.*") for name in ("q", "k", "v", "z", "attn_out")),
]


@pytest.mark.parametrize("sites", POSITIONED)
def test_positions_equal_one_hooked_forward_each(stacked: interp.Model, sites: str) -> None:
    double, dtype = stacked, torch.float64 if stacked.reads_tokens else torch.float32
    if sites == "decoder.logits" and not double.reads_tokens:
        return
    clean, corrupt = pair_for(double)
    found = circuits.patch_positions(double, clean, corrupt, metric_of(double), sites, progress=False)
    assert found.sites == tuple(map(str, double.sites(sites)))
    for index, (site, length) in enumerate(zip(found.sites, found.lengths, strict=True)):
        in_encoder = site.startswith("encoder") or (".cross." in site and site[-1] in "kv")
        assert length == clean.length("encoder" if in_encoder else "decoder")
        wanted = np.array([slow(double, (clean, corrupt), site, at, False) for at in range(length)])
        there = tokens_at(clean, site)
        close(found.values[index, :length][there], wanted[there], terms=FORWARD, dtype=dtype)
        assert np.isnan(found.values[index, :length][~there]).all()
        assert np.isnan(found.values[index, length:]).all()
        fixed = site in FIXED and not double.reads_tokens
        assert (np.abs(wanted - plain(double, clean)).max() > LIVE) != fixed
    one_by_one = circuits.patch_positions(double, clean, corrupt, metric_of(double), sites, memory=1, progress=False)
    close(one_by_one.values, found.values, terms=FORWARD, dtype=dtype)


@pytest.mark.parametrize("name", ["resid_pre", "resid_mid", "mlp_out", "resid_post", "self.q", "self.k", "self.v",
                                  "self.z", "self.attn_out", "ln_final", "logits"])  # fmt: skip
def test_positions_of_a_decoder_alone_equal_one_hooked_forward_each(alone: interp.Model, name: str) -> None:
    clean, corrupt = pair(alone=True)
    before, _, after = name.rpartition(".")
    sites = f"decoder.{name}" if name in ("ln_final", "logits") else f"decoder.{f'{before}.*.{after}'.lstrip('.')}"
    found = circuits.patch_positions(alone, clean, corrupt, METRIC, sites, progress=False)
    assert set(found.tokens) == {"decoder"}
    for index, (site, length) in enumerate(zip(found.sites, found.lengths, strict=True)):
        assert length == 10
        wanted = np.array([slow(alone, (clean, corrupt), site, at, False) for at in range(length)])
        there = tokens_at(clean, site)
        close(found.values[index][there], wanted[there], terms=FORWARD, dtype=torch.float64)
        assert np.isnan(found.values[index][~there]).all()
        assert np.abs(wanted - plain(alone, clean)).max() > LIVE


def test_positions_in_single_precision(model: interp.Model) -> None:
    clean, corrupt = pair()
    sites = ["encoder.1.resid_post", "decoder.0.resid_post", "decoder.cross.1.k"]
    found = circuits.patch_positions(model, clean, corrupt, METRIC, sites, progress=False)
    assert (found.sites, found.lengths) == (("encoder.1.resid_post", "decoder.0.resid_post", sites[2]), (6, 4, 6))
    for index, (site, length) in enumerate(zip(found.sites, found.lengths, strict=True)):
        wanted = np.array([slow(model, (clean, corrupt), site, at, False) for at in range(length)])
        there = tokens_at(clean, site)
        close(found.values[index, :length][there], wanted[there], terms=FORWARD)


def test_masked_positions_and_later_ones_carry_nothing(double: interp.Model) -> None:
    clean, corrupt = pair()
    first = logit_difference(torch.tensor([7, 2000, 90]), 5, position=1)
    found = circuits.patch_positions(
        double, clean, corrupt, first, ["encoder.0.resid_post", "decoder.0.resid_pre"], progress=False
    )
    effects = np.abs(found.effects)
    assert np.isnan(effects[0, :2, 1]).all(), "row 1 has two masked positions"
    assert effects[0, 2:, 1].min() > LIVE
    assert effects[0, :2, 0].min() > LIVE
    assert effects[1, 2:4].max() < NOTHING < LIVE < effects[1, :2].min(), "the metric reads position 1"


EVERYTHING = [
    ["encoder.0.resid_pre", "decoder.0.resid_pre"],
    ["decoder.logits"],
    ["decoder.ln_final"],
    ["encoder.ln_final", "decoder.0.resid_pre"],
    ["encoder.*.*.z", "decoder.*.*.z", "encoder.*.mlp_out", "decoder.*.mlp_out", "encoder.0.resid_pre",
     "decoder.0.resid_pre"],
]  # fmt: skip


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_bolt], ids=["t5", "bolt"])
@pytest.mark.parametrize("everything", EVERYTHING)
def test_patching_everything_is_corrupt_and_nothing_clean_bit_for_bit(make: Any, everything: list[str]) -> None:
    """Quantiles are in the clean rows' units, to the bit."""
    model = interp.wrap(make(), name="stacked")
    if everything == ["decoder.logits"] and not model.reads_tokens:
        with pytest.raises(InvalidInput, match=r"in the units of its own input\. Patch decoder\.ln_final"):
            circuits.patch_sites(model, *pair_for(model), contrast, "decoder.quantiles")
        return
    clean, corrupt = pair_for(model)
    seen: list[Tensor] = []

    def remembered(values: Tensor) -> Tensor:
        seen.append(values.clone())
        return metric_of(model)(values)

    for sites, wanted in ((everything, corrupt), ([], clean)):
        found = circuits.patch_sites(model, clean, corrupt, remembered, sites)
        assert torch.equal(seen[-1], logits(model, wanted, clean))
        np.testing.assert_array_equal(found, plain(model, wanted, clean))
    some = circuits.patch_sites(model, clean, corrupt, metric_of(model), "encoder.*.*.z")
    for wanted in (clean, corrupt):
        assert np.abs(some - plain(model, wanted, clean)).min() > LIVE


@pytest.mark.parametrize("everything", [["decoder.0.resid_pre"], ["decoder.logits"], ["decoder.ln_final"],
                                        ["decoder.*.*.z", "decoder.*.mlp_out", "decoder.0.resid_pre"]])  # fmt: skip
def test_patching_everything_of_a_decoder_alone(alone: interp.Model, everything: list[str]) -> None:
    clean, corrupt = pair(alone=True)
    for sites, wanted in ((everything, corrupt), ([], clean)):
        found = circuits.patch_sites(alone, clean, corrupt, METRIC, sites)
        np.testing.assert_array_equal(found, plain(alone, wanted))
    some = circuits.patch_sites(alone, clean, corrupt, METRIC, ["decoder.self.0.1", "decoder.self.2"])
    for wanted in (clean, corrupt):
        assert np.abs(some - plain(alone, wanted)).min() > LIVE


def test_a_planted_decoder_is_taken_apart() -> None:
    """On wholly other tokens the induction head is all; its keys go by the previous-token head, which does half."""
    clean = probes.repeated_random_tokens(batch_size=8, unique=True, encoder=False)
    given = probes.another_sequence(clean)
    assert given.against is not None
    metric, model = logit_difference(given.target, given.against), interp.zoo.planted_decoder().model
    frame = circuits.patch_heads(model, *given, metric, progress=False).to_frame().set_index("head")["share"]
    assert frame["decoder.self.1.2"] == pytest.approx(1, abs=0.02)
    assert frame["decoder.self.0.1"] > 0.2
    assert frame.drop(["decoder.self.1.2", "decoder.self.0.1"]).abs().max() < 0.005
    keys = circuits.patch_heads(model, *given, metric, "decoder.self.1.k", progress=False)
    assert keys.share[0, 2] == pytest.approx(frame["decoder.self.0.1"], abs=0.01)
    where = circuits.patch_positions(model, *given, metric, "decoder.1.resid_post", progress=False)
    assert where.share[0, -1] == pytest.approx(1, abs=1e-4)
    close(where.share[0, :-1], 0, of=1, terms=BUNDLED)


def test_what_a_decoder_alone_cannot_have_patched(alone: interp.Model) -> None:
    clean, corrupt = pair(alone=True)
    for sites in ("decoder.cross.*.z", "encoder.*.resid_post", "decoder.0.resid_mid_cross"):
        for call in (circuits.patch_heads, circuits.patch_positions, circuits.patch_sites):
            with pytest.raises(UnknownSite, match="decoder-only GPT-2, which has no encoder and no cross-attention"):
                call(alone, clean, corrupt, METRIC, sites)
    with pytest.raises(InvalidInput, match="no encoder to read input_ids"):
        circuits.patch_heads(alone, *pair(), METRIC)


def test_one_head_by_all_three_ways(double: interp.Model) -> None:
    clean, corrupt = pair()
    found = circuits.patch_heads(double, clean, corrupt, METRIC, progress=False)
    alone = circuits.patch_sites(double, clean, corrupt, METRIC, "decoder.cross.1.2")
    close(found.values[1, 2], alone, terms=FORWARD, dtype=torch.float64)
    layer = circuits.patch_sites(double, clean, corrupt, METRIC, [f"decoder.cross.1.{head}" for head in range(3)])
    close(layer, circuits.patch_sites(double, clean, corrupt, METRIC, "decoder.cross.1.z"))
    # A single decoder position: there a whole site is that position.
    short = [replace(batch, decoder_input_ids=batch.decoder_input_ids[:, :1]) for batch in (clean, corrupt)]
    where = circuits.patch_positions(double, *short, METRIC, "decoder.0.resid_post", progress=False)
    whole = circuits.patch_sites(double, *short, METRIC, "decoder.0.resid_post")
    close(where.values[0, 0], whole, terms=FORWARD, dtype=torch.float64)


def test_every_position_of_the_logits_reaches_the_metric(double: interp.Model) -> None:
    clean, corrupt = pair()

    def all_of_them(values: Tensor) -> Tensor:
        weights = torch.linspace(-1, 1, values[0].numel(), dtype=values.dtype)
        return (values * weights.reshape(values[0].shape)).sum((1, 2))

    for site in ("encoder.self.2.z", "decoder.self.0.q", "decoder.cross.1.v"):
        found = circuits.patch_heads(double, clean, corrupt, all_of_them, site, progress=False)
        wanted = np.array([slow(double, (clean, corrupt), site, head, True, all_of_them) for head in range(3)])
        close(found.values[0], wanted, terms=FORWARD, dtype=torch.float64)
        assert found.metric == "all_of_them"


def test_the_formulas_of_the_result(double: interp.Model, tmp_path: Path) -> None:
    clean, corrupt = pair()
    found = circuits.patch_heads(double, clean, corrupt, METRIC, "decoder.*.*.z", progress=False)
    assert found.sites == ("decoder.self.0.z", "decoder.cross.0.z", "decoder.self.1.z", "decoder.cross.1.z")
    effects = found.values - found.clean
    close(found.effects, effects)
    gap = found.corrupt.mean() - found.clean.mean()
    close(found.share, effects.mean(-1) / gap)
    scores = found.scores("decoder.cross")
    close(scores.values, found.share[[1, 3]])
    frame = found.to_frame()
    assert len(frame) == 12
    assert list(frame["head"][3:6]) == ["decoder.cross.0.0", "decoder.cross.0.1", "decoder.cross.0.2"]
    close(frame["share"][4], scores["decoder.cross.0.1"])
    low, high = interval(effects)
    close(frame["low"], low.ravel())
    close(frame["high"], high.ravel())
    close(frame["p"], p_values(effects).ravel())
    close(frame["q"], q_values(p_values(effects)).ravel())
    assert found.metric == "logit_difference"
    assert found.provenance["stimulus"]["corrupt"] == {"shape": [3, 6]}
    part = circuits.patch_heads(double, clean, corrupt, METRIC, "decoder.self.1.k", progress=False)
    assert np.isnan(part.scores("decoder.self", of="k").values[0]).all()
    assert not np.isnan(part.scores("decoder.self", of="k").values[1]).any()
    with pytest.raises(UnknownSite, match=r"decoder\.self\.\*\.k"):
        part.scores("decoder.self")
    with pytest.raises(UnknownSite):
        part.scores("decoder.mlp")

    where = circuits.patch_positions(
        double, clean, corrupt, METRIC, ["encoder.0.resid_post", "decoder.0.resid_post"], progress=False
    )
    table = where.to_frame()
    assert list(table["site"]) == ["encoder.0.resid_post"] * 6 + ["decoder.0.resid_post"] * 4
    # Two rows are left where the third is padded, which give no interval.
    assert not table[table["position"] >= 2].isna().to_numpy().any()
    close(table["effect"][6:], where.effects.mean(-1)[1, :4])
    # What is not there takes no part in the false discovery rate.
    close(table["q"], q_values(table["p"].to_numpy()))
    np.testing.assert_array_equal(where.differs("encoder"), (clean.input_ids != corrupt.input_ids).numpy().mean(0))
    for result in (found, where):
        loaded = type(result).load(result.save(tmp_path / "patched.json"))
        np.testing.assert_array_equal(loaded.values, result.values)
        assert loaded.to_frame().equals(result.to_frame())
        assert loaded.sites == result.sites
        assert not loaded.values.flags.writeable
        text = (tmp_path / "patched.json").read_text()
        (tmp_path / "patched.json").write_text(text.replace('"shape": [3]', '"shape": [1, 3]'))
        with pytest.raises(interp.errors.DamagedFile):
            type(result).load(tmp_path / "patched.json")


def test_the_share_s_standard_error_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    clean, corrupt = rng.normal(3, 1, 200), rng.normal(-2, 1.5, 200)
    values = clean + 0.4 * (corrupt - clean) + rng.normal(0, 0.8, (1, 1, 200))
    found = PatchedHeads("m", ("decoder.cross.0.z",), values, clean, corrupt, {})
    draws = rng.integers(0, 200, (4000, 200))
    shares = (values[0, 0] - clean)[draws].mean(1) / (corrupt - clean)[draws].mean(1)
    assert found.stderr[0, 0] == pytest.approx(shares.std(), rel=0.1)
    whole = replace(found, values=corrupt[None, None])
    close(whole.share, 1)
    close(whole.stderr, 0, of=1, dtype=torch.float64)
    for bad in ({"values": values[0]}, {"corrupt": corrupt[:5]}, {"sites": ("a", "b")}):
        with pytest.raises(InvalidInput, match="site, cell, row"):
            replace(found, **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["encoder.self", "decoder.self", "decoder.cross"])
def test_permuting_heads_permutes_the_values(kind: str) -> None:
    clean, corrupt = pair()
    order, mixed = [2, 0, 1], tiny_pipeline(dtype=torch.float64)
    rows = torch.cat([torch.arange(8) + 8 * h for h in order])
    stack = cast(Any, mixed.model.model).get_submodule(kind.split(".")[0])
    with torch.no_grad():
        for block in stack.block:
            layer = block.layer[1].EncDecAttention if kind.endswith("cross") else block.layer[0].SelfAttention
            for name in "qkv":
                weight = getattr(layer, name).weight
                weight.copy_(weight[rows].clone())
            layer.o.weight.copy_(layer.o.weight[:, rows].clone())
            if hasattr(layer, "relative_attention_bias"):
                bias = layer.relative_attention_bias.weight
                bias.copy_(bias[:, order].clone())
    for of in ("z", "k", "pattern"):
        found, wanted = (
            circuits.patch_heads(interp.wrap(p), clean, corrupt, METRIC, f"{kind}.*.{of}", progress=False)
            for p in (mixed, tiny_pipeline(dtype=torch.float64))
        )
        close(found.values, wanted.values[:, order], terms=FORWARD, dtype=torch.float64)
        assert np.abs(found.effects - wanted.effects).max() > LIVE


def minimal_pair(route: str) -> tuple[RepeatedTokens, Batch]:
    """Repeated tokens, and the same with one token of each repetition exchanged for one that is met nowhere else.

    It is the token that the encoder's planted head copies, and that nothing else carries: the one
    before the continuation where keys read it, the continuation itself where values do.
    """
    clean = probes.repeated_random_tokens(batch_size=12, unique=True, seed=1)
    ids = clean.input_ids.clone()
    ids[:, [at + (route == "current_token") for at in clean.occurrences]] = 3000
    return clean, replace(clean, input_ids=ids)


@pytest.mark.parametrize("route", ["token_to_right", "current_token"])
@pytest.mark.parametrize("denoising", [False, True])
def test_a_planted_circuit_is_found(route: Any, denoising: bool) -> None:
    """Two heads one after the other carry it all: each alone breaks it, and each alone restores it."""
    clean, corrupt = minimal_pair(route)
    metric = log_prob(clean.continuation)
    inputs = (corrupt, clean) if denoising else (clean, corrupt)
    sites = ["encoder.self.*.z", "decoder.*.*.z"]
    found = circuits.patch_heads(interp.zoo.planted(route).model, *inputs, metric, sites, progress=False)
    assert (found.gap > 2) if denoising else (found.gap < -2)
    frame = found.to_frame().set_index("head")
    planted = frame.index.isin([CROSS, ENCODER])
    assert list(frame["share"][planted]) == pytest.approx([1, 1], abs=0.02)
    assert (frame["q"][planted] < 1e-3).all()
    assert frame["share"][~planted].abs().max() < 0.005
    best = found.scores("decoder.cross").heads(0.5)
    assert [str(head.address) for head in best] == [CROSS]
    # The wire goes by keys on the one route and by values on the other; queries are the same in both.
    read = {"token_to_right": "k", "current_token": "v"}[route]
    for of in "qkv":
        at = circuits.patch_heads(
            interp.zoo.planted(route).model, *inputs, metric, f"decoder.cross.1.{of}", progress=False
        )
        assert at.share[0, 2] == pytest.approx(float(of == read), abs=0.02)


def test_necessary_is_not_sufficient() -> None:
    """On wholly other tokens the encoder's head breaks the circuit alone, and cannot mend it: values are missing."""
    clean, other = (probes.repeated_random_tokens(batch_size=12, unique=True, seed=seed) for seed in (1, 2))
    inputs = (clean, replace(clean, input_ids=other.input_ids))
    model, metric = interp.zoo.planted("token_to_right").model, log_prob(clean.continuation)
    noising, denoising = (
        circuits.patch_heads(model, *pair, metric, "encoder.self.0.z", progress=False)
        for pair in (inputs, inputs[::-1])
    )
    assert noising.share[0, 1] == pytest.approx(1, abs=0.05)
    assert denoising.share[0, 1] < 0.2


def test_bad_input(model: interp.Model) -> None:
    clean, corrupt = pair()
    heads, positions, together = circuits.patch_heads, circuits.patch_positions, circuits.patch_sites
    shorter = replace(corrupt, input_ids=corrupt.input_ids[:, :5], attention_mask=corrupt.attention_mask[:, :5])
    fewer = Batch(corrupt.input_ids[:2], corrupt.attention_mask[:2], corrupt.decoder_input_ids[:2])
    later = replace(corrupt, decoder_input_ids=corrupt.decoder_input_ids[:, :2])
    for call in (heads, positions, together):
        given: dict[str, Any] = {"sites": "decoder.cross.*.z"} if call is together else {"progress": False}
        for other in (shorter, fewer, later):
            with pytest.raises(InvalidInput, match="aligned"):
                call(model, clean, other, METRIC, **given)
        with pytest.raises(InvalidInput, match="mask"):
            call(model, clean, pair(masked=False)[1], METRIC, **given)
        with pytest.raises(InvalidInput, match="Batch"):
            call(model, clean, corrupt.input_ids, METRIC, **given)  # type: ignore[arg-type]
        for bad in (lambda x: x.mean(), lambda x: x[:, -1], lambda x: 1.0, 5):  # type: ignore[misc]
            with pytest.raises(InvalidInput, match="one number per row"):
                call(model, clean, corrupt, bad, **given)  # type: ignore[arg-type]
        with pytest.raises(UnknownSite, match="decoder layers 0-1"):
            call(model, clean, corrupt, METRIC, **given | {"sites": "decoder.cross.7.z"})
        with interp.edited(model, interp.Zero("decoder.cross.0.1")):
            with pytest.raises(InvalidInput, match="Leave edits first"):
                call(model, clean, corrupt, METRIC, **given)
            logits(model, clean)
    for call in (heads, positions):
        for other, still in ((corrupt, lambda x: 0 * x[:, -1, 3]), (clean, METRIC)):  # type: ignore[misc]
            with pytest.raises(InvalidInput, match="does not move"):
                call(model, clean, other, still, progress=False)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="no sites"):
            call(model, clean, corrupt, METRIC, [], progress=False)
        with pytest.raises(InvalidInput, match="float16"):
            call(interp.wrap(tiny_pipeline(dtype=torch.float16)), clean, corrupt, METRIC, progress=False)
    for site in ("decoder.0.mlp_out", "decoder.cross.0.attn_out", "decoder.0.resid_pre", "decoder.logits"):
        with pytest.raises(InvalidInput, match=r"no single head.*q, k, v, pattern, z"):
            heads(model, clean, corrupt, METRIC, site)
    for call in (heads, positions):
        for site in ("decoder.cross.0.scores", "encoder.self.0.head_out"):
            with pytest.raises(InvalidInput, match="no single"):
                call(model, clean, corrupt, METRIC, site)
    for nothing in (model.head("decoder.cross.0.1"), "decoder.cross.0.1", ["decoder.*.zz"], 5):
        with pytest.raises(UnknownSite):
            heads(model, clean, corrupt, METRIC, nothing)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="no single position"):
        positions(model, clean, corrupt, METRIC, "decoder.cross.0.pattern")
    with pytest.raises(UnknownSite, match="cannot be edited"):
        together(model, clean, corrupt, METRIC, "decoder.cross.0.head_out")
    with pytest.raises(InvalidInput, match="in two ways"):
        together(model, clean, corrupt, METRIC, ["decoder.cross.0.z", "decoder.cross.0.attn_out"])
    with pytest.raises(interp.errors.UnknownHead):
        together(model, clean, corrupt, METRIC, "decoder.cross.0.9")


def test_one_row_and_bfloat16(pico: interp.Model) -> None:
    inputs = [probes.repeated_random_tokens(batch_size=8, seed=seed) for seed in (1, 2)]
    metric = expected_value(pico)
    exact = circuits.patch_heads(pico, *inputs, metric, "decoder.cross.1.z", progress=False)
    rough = circuits.patch_heads(
        interp.load("pico-t5", dtype=torch.bfloat16), *inputs, metric, "decoder.cross.1.z", progress=False
    )
    assert np.abs(exact.values - rough.values).max() < 0.1
    assert rough.provenance["dtype"] == "bfloat16"
    single = [Batch(b.input_ids[:1], None, b.decoder_input_ids[:1]) for b in inputs]
    one = circuits.patch_heads(pico, *single, metric, "decoder.cross.1.z", progress=False)
    close(one.values[..., 0], exact.values[..., 0], terms=FORWARD)
    assert one.scores("decoder.cross").stderr is None
    assert one.to_frame()[["low", "high", "stderr", "p", "q"]].isna().all(axis=None)


def test_what_onward_needs_is_what_it_reads(either: interp.Model) -> None:
    """Unchanged values give the clean logits, from every site that can be patched."""
    model = either
    clean, _ = pair(alone=not model.has_encoder)
    for name in model.sites():
        if name.name in ("scores", "head_out"):
            continue
        cache, context = clean_run(model, clean, list({str(site) for site in (name, *needs(model, name))}))
        found = outputs_after(model, clean, cache, context, name, cache[name][:, None])
        close(found[:, 0], logits(model, clean), terms=FORWARD)
