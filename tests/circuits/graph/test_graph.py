"""Runs by edges, gradients, attribution, discovery, evaluation: against plain formulas and circuits that were built."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import circuits
import interp
import probes
from circuits import Circuit
from circuits.graph.edge_matrix import Graph
from circuits.graph.evaluation import CircuitReport
from circuits.graph.mixed_run import chunks, run
from circuits.graph.node_outputs import outputs
from circuits.graph.recovery import roc_area
from interp import zoo
from interp.errors import InvalidInput, UnknownSite
from probes.stimuli.pairs import Pair
from tests.conftest import tiny_bolt, tiny_causal_pipeline, tiny_gpt2, tiny_pipeline, values_with_gaps
from tests.dense_graph import forward
from tests.tolerance import FORWARD, LAYER, close, tolerance

METRIC = circuits.logit_difference([5, 6, 7, 8], [9, 10, 11, 12])


def contrast(quantiles: Tensor) -> Tensor:
    """A metric of quantiles that is linear in them, in the series' units."""
    return quantiles[:, 4, :5].mean(1) - quantiles[:, 1, 3:].mean(1)


def metric_of(model: interp.Model) -> Any:
    return METRIC if model.reads_tokens else contrast


def outputs_of(model: interp.Model, batch: interp.Batch) -> Tensor:
    """What the plain module puts out."""
    return getattr(model.module(**model.inputs(batch)), model.family.returns)


def corrupt_outputs(model: interp.Model, clean: interp.Batch, corrupt: interp.Batch) -> Tensor:
    """What the plain module puts out on corrupt; quantiles with the clean rows' means and deviations."""
    if model.reads_tokens:
        return outputs_of(model, corrupt)
    module: Any = model.module
    hidden, _, embedded, mask = module.encode(corrupt.inputs["context"])
    _, scale = module.instance_norm(clean.inputs["context"])
    read = module.output_patch_embedding(module.decode(embedded, mask, hidden)).flatten(1)
    return module.instance_norm.inverse(read, scale).unflatten(1, (5, 12))


def series_for(model: interp.Model) -> tuple[interp.Batch, interp.Batch]:
    """Two series a row with the same steps missing, and with other means and deviations."""
    clean = values_with_gaps()
    other = torch.where(clean.isnan(), torch.nan, 3 * values_with_gaps(seed=1).nan_to_num() - 4)
    return interp.Batch.from_series(model, clean), interp.Batch.from_series(model, other)


def drawn(seed: int, masked: bool = True, model: interp.Model | None = None) -> interp.Batch:
    """Nine encoder and five decoder tokens, or the same in the one row of a decoder alone."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, :2] = 0
    mask = mask if masked else torch.ones_like(mask)
    encoder, decoder = (torch.randint(2, 4096, (4, n), generator=generator) for n in (9, 5))
    if model is None or model.has_encoder:
        return interp.Batch(encoder, mask, decoder)
    shown = torch.cat([mask, torch.ones_like(decoder)], 1)
    return interp.Batch(decoder_input_ids=torch.cat([encoder, decoder], 1), decoder_attention_mask=shown)


def pair_for(model: interp.Model) -> tuple[interp.Batch, interp.Batch]:
    if not model.reads_tokens:
        return series_for(model)
    return drawn(1, model=model), drawn(2, model=model)


DOUBLES: list[Callable[[], Any]] = [
    lambda: tiny_pipeline(dtype=torch.float64),
    lambda: tiny_pipeline(dtype=torch.float64, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    lambda: tiny_causal_pipeline(dtype=torch.float64),
    lambda: tiny_bolt(dtype=torch.float64),
]


@pytest.fixture(scope="module", params=DOUBLES, ids=["t5", "gated", "gpt2", "bolt"])
def double(request: pytest.FixtureRequest) -> interp.Model:
    """In float64, where differences are not lost; T5's norms still compute in float32."""
    return interp.wrap(request.param(), name="double")


def computed_in(model: interp.Model) -> torch.dtype:
    """What a float64 model computes in: T5's norms are in float32 all the same."""
    return torch.float32 if model.has_encoder else torch.float64


@pytest.fixture(scope="module")
def single() -> interp.Model:
    return interp.wrap(tiny_pipeline(), name="single")


@pytest.fixture(scope="module", params=[tiny_pipeline, tiny_causal_pipeline, tiny_bolt], ids=["t5", "gpt2", "bolt"])
def each(request: pytest.FixtureRequest) -> interp.Model:
    """In float32, of each family."""
    return interp.wrap(request.param(), name="each")


def effects(model: interp.Model, kept: list[Circuit], other: dict[str, Tensor], batch: interp.Batch) -> Tensor:
    return torch.stack([metric_of(model)(forward(model, batch, circuit, other)[0]) for circuit in kept])


@torch.no_grad()
@pytest.mark.parametrize("outside", ["resample", "mean", "zero"])
def test_any_edges_cut_equal_plain_formulas(double: interp.Model, outside: Any) -> None:
    clean, corrupt = pair_for(double)
    hf = outputs_of(double, clean)
    close(forward(double, clean)[0], hf, terms=FORWARD, dtype=computed_in(double))
    written = forward(double, corrupt)[1]
    if outside == "zero":
        other = {name: torch.zeros_like(value) for name, value in written.items()}
    elif outside == "mean":

        def mean(name: str, value: Tensor) -> Tensor:
            w = (corrupt.attention_mask if name.startswith("encoder") else corrupt.decoder_attention_mask)[..., None]
            return ((value * w).sum(0) / w.sum(0)).expand_as(value)

        other = {name: mean(name, value) for name, value in written.items()}
    else:
        other = written
    graph, rng = Graph.of(double), np.random.default_rng(0)
    kept = [graph.exists & (rng.random(graph.exists.shape) < share) for share in (1, 0.95, 0.5, 0.1, 0)]
    off = torch.from_numpy(np.stack([graph.exists & ~mask for mask in kept]))
    found = run(double, clean, outputs(double, corrupt).standing_in(corrupt, outside), off)
    for mask, logits in zip(kept, found, strict=True):
        expected, _ = forward(double, clean, Circuit(graph.edges(mask)), other)
        close(logits, expected, terms=FORWARD, dtype=computed_in(double))
    assert torch.equal(found[0], hf)
    assert not torch.allclose(found[1], hf, atol=1e-2)
    assert not torch.allclose(found[2], found[4], atol=1e-3)


@torch.no_grad()
def test_all_and_nothing_are_exact(each: interp.Model) -> None:
    clean, corrupt = pair_for(each)
    exists = torch.from_numpy(Graph.of(each).exists.copy())
    there = outputs(each, corrupt)
    (nothing,) = run(each, clean, there, exists[None])
    (everything,) = run(each, clean, there, torch.zeros_like(exists)[None])
    assert torch.equal(nothing, corrupt_outputs(each, clean, corrupt))
    assert torch.equal(everything, outputs_of(each, clean))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in each.module.modules())


@torch.no_grad()
@pytest.mark.parametrize("outside", ["mean", "zero"])
def test_biases_that_no_part_writes_stay(double: interp.Model, outside: Any) -> None:
    """A stream is its writers and the biases of attention before it, whatever stands for the writers."""
    batch, _ = pair_for(double)
    graph, stood = Graph.of(double), outputs(double, batch).standing_in(batch, outside)
    for port in graph.ports:
        stack = port.stream.stack
        first = 0 if stack == "encoder" else graph.encoder_columns.stop
        sums = stood.written[stack][port.columns.start - first : port.columns.stop - first].sum(0)
        done = (port.stream.layer or 0) + (port.stream.name != "resid_pre")
        biases: Any = 0.0
        if not double.has_encoder:
            blocks: Any = double.module.transformer.h
            biases = sum((block.attn.c_proj.bias for block in blocks[:done]), torch.zeros(24, dtype=torch.float64))
        close(stood.streams[port.stream], sums + biases, terms=LAYER)


def test_path_patching_is_one_edge_and_nothing_else(double: interp.Model) -> None:
    clean, corrupt = pair_for(double)
    edges = list(Circuit.full(double))[::23]
    found = circuits.patch_edges(double, clean, corrupt, metric_of(double), edges, progress=False)
    full, there = Circuit.full(double), forward(double, corrupt)[1]
    with torch.no_grad():
        expected = effects(double, [full - Circuit([edge]) for edge in edges], there, clean).numpy()
        plain = metric_of(double)(forward(double, clean)[0]).numpy()
    close(found.values, expected, terms=FORWARD, dtype=computed_in(double))
    close(found.clean, plain, terms=FORWARD, dtype=computed_in(double))
    assert np.ptp(found.effects.mean(1)) > 1e-2
    # In small runs, or all at once: the same.
    again = circuits.patch_edges(double, clean, corrupt, metric_of(double), map(str, edges), memory=1, progress=False)
    close(again.values, found.values, terms=FORWARD)
    assert again.edges == found.edges
    frame = found.to_frame()
    by_edge = found.by_edge()
    assert frame["edge"][0] == str(max(by_edge, key=lambda edge: abs(by_edge[edge])))
    close(frame["share"] * (found.corrupt.mean() - found.clean.mean()), frame["effect"], terms=FORWARD)


@torch.no_grad()
def test_one_edge_by_hooks_on_plain_chronos() -> None:
    """The reader gets the stream with the writer's own write exchanged, through Chronos' norm and projection."""
    model, plain = interp.wrap(tiny_bolt(), name="bolt"), tiny_bolt().model
    clean, corrupt = series_for(model)
    written = [
        interp.capture(model, batch, ["encoder.self.1.head_out", "encoder.1.mlp_out"]) for batch in (clean, corrupt)
    ]
    head = written[1]["encoder.self.1.head_out"][:, :, 2] - written[0]["encoder.self.1.head_out"][:, :, 2]
    mlp = written[1]["encoder.1.mlp_out"] - written[0]["encoder.1.mlp_out"]
    later, cross = plain.encoder.block[2].layer[0], plain.decoder.block[1].layer[1].EncDecAttention
    last = interp.capture(model, clean, "encoder.2.resid_post")["encoder.2.resid_post"]
    (stream,) = interp.capture(model, clean, "encoder.2.resid_pre").values()
    keys = later.SelfAttention.k(later.layer_norm(stream + head))
    values = cross.v(plain.encoder.final_layer_norm(last + mlp))
    cases: dict[str, tuple[Any, Tensor]] = {
        "encoder.self.1.2 -> encoder.self.2.0:k": (later.SelfAttention.k, keys),
        "encoder.1.mlp_out -> decoder.cross.1.0:v": (cross.v, values),
    }
    found = circuits.patch_edges(model, clean, corrupt, contrast, list(cases), progress=False)
    for own, (module, read) in zip(found.values, cases.values(), strict=True):

        def of_head_0(_: Any, __: Any, output: Tensor, read: Tensor = read) -> Tensor:
            return torch.cat([read[..., :8], output[..., 8:]], -1)

        handle = module.register_forward_hook(of_head_0)
        expected = contrast(plain(clean.inputs["context"]).quantile_preds)
        handle.remove()
        close(own, expected, of=float(expected.abs().max()), terms=FORWARD)
        assert float((expected - contrast(plain(clean.inputs["context"]).quantile_preds)).abs().max()) > 1e-3


# Smooth ones: a step across the kink of a ReLU has another slope. T5's norms compute in float32: a step must be large
# beside that, and its square small.
SMOOTH: dict[str, tuple[Callable[[], Any], float, list[str]]] = {
    "t5": (DOUBLES[1], 3e-3, ["encoder.self.1.z", "decoder.cross.0.k", "decoder.0.mlp_out", "encoder.2.resid_pre"]),
    "gpt2": (
        DOUBLES[2],
        2.0**-17,
        ["decoder.self.1.z", *(f"decoder.self.1.{name}" for name in "qkv"), "decoder.0.mlp_out", "decoder.1.resid_pre"],
    ),
}


@pytest.mark.parametrize("family", SMOOTH)
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_finite_differences(frozen: bool, family: str) -> None:
    make, length, sites = SMOOTH[family]
    double = interp.wrap(make(), name="smooth")
    batch = drawn(1, model=double)
    double.module.requires_grad_(not frozen)
    with torch.no_grad():
        found = circuits.gradients(double, batch, METRIC, sites)
    with torch.no_grad():
        assert torch.equal(found.metric, METRIC(double.module(**double.inputs(batch)).logits))
        cache = interp.capture(double, batch, sites)
    generator = torch.Generator().manual_seed(0)
    for site in sites:
        assert torch.equal(found.values[site], cache[site])
        step = torch.randn(cache[site].shape, generator=generator, dtype=torch.float64) * length
        sides: list[Tensor] = []
        for sign in (1, -1):
            value = (cache[site] + sign * step).flatten(2)
            with put(double, site, value), torch.no_grad():
                sides.append(METRIC(double.module(**double.inputs(batch)).logits))
        numeric = (sides[0] - sides[1]) / 2
        predicted = (found.gradients[site] * step).flatten(1).sum(1)
        assert torch.allclose(predicted, numeric, rtol=5e-3, atol=3e-3 * length)
        assert float(predicted.abs().max()) > 0.03 * length


@contextmanager
def put(model: interp.Model, site: str, value: Tensor) -> Generator[None]:
    """A site of the module held at a value, by a plain hook."""
    point = model.family.point(interp.Site.parse(site))
    module = model.module.get_submodule(point.path)

    def before(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (value, *args[1:])

    index, count = point.part

    def after(_: Any, __: Any, output: Any) -> Any:
        if count > 1:
            return torch.cat([value if i == index else part for i, part in enumerate(output.chunk(count, -1))], -1)
        if point.element is None:
            return value
        assert isinstance(point.element, int)
        return (*output[: point.element], value, *output[point.element + 1 :])

    handle = module.register_forward_pre_hook(before) if point.port == "input" else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("integrated", [0, 3])
def test_attribution_is_the_derivative_of_patching(double: interp.Model, integrated: int) -> None:
    """Against plain formulas: an edge that carries a little of the corrupt run, at the points of the path."""
    clean, corrupt = pair_for(double)
    scores = circuits.attribution_patching(
        double, clean, corrupt, metric_of(double), integrated=integrated, progress=False
    )
    # Where norms compute in float64 a step can be as small as its square should be.
    full, little = Circuit.full(double), 1e-4 if double.has_encoder else 2.0**-23
    ends = [forward(double, batch)[1] for batch in (clean, corrupt)]
    points = [(k + 0.5) / integrated for k in range(integrated)] or [0.0]
    edges = list(full)[::29]
    slopes = np.zeros(len(edges))
    with torch.no_grad():
        for point in points:
            stream = {s: torch.lerp(ends[0][s], ends[1][s], point) for s in ends[0] if s.endswith("0.resid_pre")}
            here, now = forward(double, clean, embedded=stream)
            part = {name: now[name] + little * (ends[1][name] - ends[0][name]) for name in now}
            for i, edge in enumerate(edges):
                logits, _ = forward(double, clean, full - Circuit([edge]), part, embedded=stream)
                slopes[i] += float((metric_of(double)(logits) - metric_of(double)(here)).mean()) / little / len(points)
    assert np.abs(slopes).max() > 0.05
    assert np.allclose([scores[edge] for edge in edges], slopes, atol=1e-3 * np.abs(slopes).max())
    # What leaves a head, edge by edge, is what patching its output does to first order.
    kinds = [f"{stack}.{kind}" for stack, kind in double.family.kinds]
    z = [f"{kind}.*.z" for kind in kinds]
    if not integrated:
        at = circuits.gradients(double, clean, metric_of(double), z)
        there = interp.capture(double, corrupt, z)
        for kind in kinds:
            total = scores.heads(kind)
            for site in double.sites(f"{kind}.*.z"):
                change = (there[site] - at.values[site]) * at.gradients[site]
                close(total.values[site.layer], change.sum((1, 3)).mean(0).numpy(), terms=FORWARD)


def test_scores_know_their_sample_and_go_to_files(single: interp.Model, tmp_path: Path) -> None:
    clean, corrupt = drawn(1), drawn(2)
    scores = circuits.attribution_patching(single, clean, corrupt, METRIC, sample=12, progress=False)
    found = circuits.patch_edges(single, clean, corrupt, METRIC, scores.sampled, progress=False)
    assert len(set(scores.sampled)) == 12
    close(found.effects.mean(1), scores.measured, terms=FORWARD)
    strongest = [str(edge) for edge in scores.top(6)]
    assert set(strongest) == set(scores.sampled[:6])
    agreement = scores.agreement
    close(agreement["pearson"], np.corrcoef(scores.estimated, scores.measured)[0, 1])
    again = circuits.EdgeScores.load(scores.save(tmp_path / "scores.json"))
    assert np.array_equal(again.values, scores.values, equal_nan=True)
    assert again.agreement == agreement
    frame = scores.to_frame()
    assert len(frame) == 477 == len(scores.by_edge())
    assert frame["patched"].notna().sum() == 12
    assert scores[frame["edge"][0]] == frame["score"][0] == scores.by_edge()[circuits.Edge.parse(frame["edge"][0])]
    with pytest.raises(interp.errors.InvalidInput, match="there are 477 edges"):
        scores.top(478)
    rows = [interp.Batch(b.input_ids[:1], b.attention_mask[:1], b.decoder_input_ids[:1]) for b in (clean, corrupt)]
    alone = circuits.attribution_patching(single, *rows, circuits.log_prob(7), progress=False)
    assert alone.stderr is None
    assert np.isfinite(alone.values[alone.graph.exists]).all()


def planted_pair(rows: int = 16, seed: int = 0, encoder: bool = True, patches: Any = None) -> tuple[Pair, Any]:
    """Repeated tokens against others, or repeated patches of a model."""
    if patches is not None:
        pair = probes.another_sequence(probes.repeated_random_patches(patches, batch_size=rows, seed=seed), seed=seed)
        return pair, circuits.metrics.towards(pair.target, pair.against)
    clean = probes.repeated_random_tokens(batch_size=rows, unique=True, seed=seed, encoder=encoder)
    pair = probes.another_sequence(clean, seed=seed)
    assert pair.against is not None
    return pair, circuits.logit_difference(pair.target, pair.against)


@pytest.mark.parametrize("name", [*zoo.PLANTED, "decoder", "patches"])
def test_what_was_built_is_found_and_holds(name: str) -> None:
    others = {"decoder": zoo.planted_decoder, "patches": zoo.planted_patches}
    plant = others[name]() if name in others else zoo.planted(**zoo.PLANTED[name])
    of: Any = {"encoder": plant.model.has_encoder, "patches": plant.model if name == "patches" else None}
    pair, metric = planted_pair(**of)
    truth = Circuit(plant.circuit)
    found = circuits.discover(plant.model, pair.clean, pair.corrupt, metric, edges=len(truth), progress=False)
    assert found == truth
    assert found.digest == plant.model.digest
    fresh, metric = planted_pair(seed=1, **of)
    report = circuits.evaluate(
        plant.model, found, fresh.clean, fresh.corrupt, metric, controls=4, parts=3, progress=False
    )
    assert report.faithfulness == pytest.approx(1, abs=0.02)
    assert report.completeness == pytest.approx(1, abs=0.02)
    assert report.incompleteness < 0.02
    assert np.abs(report.normalised(report.random)).max() < 0.05
    # A copy is not needed for the whole, which is what redundant means; without it everything is.
    assert report.minimality.min() > (0.02 if "copy" in name else 0.2)
    wide = circuits.evaluate(
        plant.model, truth, fresh.clean, fresh.corrupt, metric, controls=0, parts=0, progress=False
    )
    assert wide.faithfulness == report.faithfulness
    assert np.isnan(wide.summary()["value"][3])


def test_without_an_edge_that_was_built_nothing_is_found() -> None:
    """The control: the same model, its induction head's keys reading a subspace that nothing writes to."""
    cut = zoo.planted_decoder(wired=False).model
    pair, metric = planted_pair(8, encoder=False)
    whole = circuits.patch_edges(zoo.planted_decoder().model, *pair, metric, WIRE, progress=False)
    none = circuits.patch_edges(cut, *pair, metric, WIRE, progress=False)
    assert np.abs(whole.effects.mean()) > 50 * np.abs(none.effects.mean())


WIRE = "decoder.self.0.1 -> decoder.self.1.2:k"


def test_zero_takes_positions_with_the_tokens() -> None:
    """Positions are embedded: what reads nothing else is on no edge that inputs move, and is needed all the same."""
    plant = zoo.planted_decoder()
    pair, metric = planted_pair(8, encoder=False)
    truth = Circuit(plant.circuit)
    reads = Circuit.parse("decoder.0.resid_pre -> decoder.self.0.1:q; decoder.0.resid_pre -> decoder.self.0.1:k")

    def faithful(circuit: Circuit, outside: Any) -> float:
        settings: dict[str, Any] = {"outside": outside, "controls": 0, "parts": 0, "progress": False}
        return circuits.evaluate(plant.model, circuit, *pair, metric, **settings).faithfulness

    assert faithful(truth, "resample") == pytest.approx(faithful(truth | reads, "resample"), abs=1e-3)
    assert faithful(truth, "zero") < 0.5
    assert faithful(truth | reads, "zero") == pytest.approx(1, abs=0.1)


def test_faithful_to_one_and_to_nothing(each: interp.Model) -> None:
    single = each
    clean, corrupt = pair_for(each)
    full = Circuit.full(single)
    evaluate: Callable[..., CircuitReport] = circuits.evaluate
    for outside in ("resample", "mean", "zero"):
        few: dict[str, Any] = {"outside": outside, "controls": 2, "parts": 2, "progress": False}
        half = Circuit(list(full)[::2])
        report = evaluate(single, half, clean, corrupt, metric_of(each), **few)
        assert report.normalised(report.model) == 1
        assert report.normalised(report.empty) == 0
        complement = evaluate(single, full - half, clean, corrupt, metric_of(each), **few)
        close(complement.faithfulness, 1 - report.completeness, terms=LAYER)
        assert evaluate(single, Circuit(), clean, corrupt, metric_of(each), **few).faithfulness == 0
    there = metric_of(each)(corrupt_outputs(each, clean, corrupt)).detach().numpy()
    # With everything cut the corrupt run is left, to the bit but for the number of variants in a run.
    report = evaluate(
        single, Circuit(list(full)[:3]), clean, corrupt, metric_of(each), controls=0, parts=0, progress=False
    )
    close(report.empty, there, terms=FORWARD)
    loss = report.circuit - report.without
    close(report.minimality, loss.mean(1) / (report.model.mean() - report.empty.mean()), terms=FORWARD)


def test_all_edges_are_faithful_to_the_letter(each: interp.Model) -> None:
    clean, corrupt = pair_for(each)
    from circuits.graph.subject import Subject

    subject = Subject.of(each, clean, corrupt, metric_of(each), "resample")
    exists = subject.graph.exists
    off = np.stack([exists & ~exists, exists])
    full, empty = subject.measure(off, memory=2**28, progress=False, what="")
    close(full, subject.clean_values, terms=FORWARD)
    close(empty, subject.corrupt_values, terms=FORWARD)


def test_controls_have_the_shape_and_other_heads() -> None:
    from circuits.graph.evaluation import _exchanged, random_edges

    graph = Graph(3, 2, 8)
    circuit = Circuit.parse(
        "encoder.0.resid_pre -> encoder.self.0.1:v; encoder.self.0.1 -> decoder.cross.1.2:k; "
        "decoder.cross.1.2 -> decoder.1.mlp_out; decoder.1.mlp_out -> decoder.logits"
    )
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = Circuit(graph.edges(_exchanged(graph, graph.mask(circuit.edges), rng)))
        assert len(other) == len(circuit)
        assert not set(other.heads) & set(circuit.heads)
        assert [(h.stack, h.kind, h.layer) for h in other.heads] == [(h.stack, h.kind, h.layer) for h in circuit.heads]
        assert other.connected() == other
        assert random_edges(graph, 7, rng).sum() == 7


def test_the_circuit_again_is_no_control(each: interp.Model) -> None:
    clean, corrupt = pair_for(each)
    output = each.output
    headless = Circuit.parse(f"decoder.0.resid_pre -> {output}; decoder.0.resid_pre -> decoder.1.mlp_out")
    for circuit in (headless, Circuit.full(each)):
        report = circuits.evaluate(each, circuit, clean, corrupt, metric_of(each), controls=3, parts=0, progress=False)
        assert report.same_shape.shape == (0, 4)
        assert np.isnan(report.summary()["value"][3])


def test_pruning_keeps_what_is_asked_for(each: interp.Model) -> None:
    clean, corrupt = pair_for(each)
    full = Circuit.full(each)
    part = Circuit([edge for place, edge in enumerate(full) if place % 4])
    small = circuits.prune(each, part, clean, corrupt, metric_of(each), edges=20, progress=False)
    assert 0 < len(small) <= 20
    assert small <= full
    assert small.connected() == small
    found = circuits.discover(each, clean, corrupt, metric_of(each), edges=30, progress=False)
    assert 0 < len(found) <= 30
    assert found.connected() == found


def test_pruned_edges_do_more_than_as_many_by_attribution() -> None:
    model = interp.load("pico-t5-induction")
    (pair, metric), (fresh, other) = planted_pair(12, seed=1), planted_pair(12, seed=2)
    found = circuits.discover(model, pair.clean, pair.corrupt, metric, edges=40, progress=False)
    scores = circuits.attribution_patching(model, pair.clean, pair.corrupt, metric, integrated=5, progress=False)
    reports = [
        circuits.evaluate(model, each, fresh.clean, fresh.corrupt, other, controls=3, parts=0, progress=False)
        for each in (found, scores.top(40))
    ]
    assert 30 < len(found) <= 40
    assert reports[0].faithfulness > reports[1].faithfulness + 0.05
    assert reports[0].faithfulness > 0.1 > np.abs(reports[0].normalised(reports[0].same_shape)).max()


def test_reports_go_to_files_and_frames(single: interp.Model, tmp_path: Path) -> None:
    clean, corrupt = drawn(1), drawn(2)
    circuit = Circuit(list(Circuit.full(single))[::40])
    # What each input makes the likeliest: the metric then differs between the two in every row.
    likeliest = [single.module(**single.inputs(batch)).logits[:, -1].argmax(-1) for batch in (clean, corrupt)]
    metric = circuits.logit_difference(*likeliest)
    report = circuits.evaluate(single, circuit, clean, corrupt, metric, controls=3, parts=2, progress=False)
    assert report.decided
    again = CircuitReport.load(report.save(tmp_path / "report.json"))
    assert again.faithfulness == report.faithfulness
    assert np.array_equal(again.without, report.without)
    frame = report.to_frame()
    assert set(frame["edge"]) == set(map(str, circuit))
    # Edges without which nothing changes in any row have no interval.
    known = frame[frame["low"].notna()]
    assert len(known) > 5
    assert (known["low"] <= known["adds"] + tolerance()).all()
    assert (known["adds"] <= known["high"] + tolerance()).all()
    assert report.weights().keys() == circuit.edges
    assert list(report.summary()["what"])[:3] == ["model", "circuit", "model without it"]
    assert "faithfulness" in repr(report)
    assert report.provenance["stimulus"]["metric"] == "logit_difference"


def test_runs_are_cut_to_memory(each: interp.Model) -> None:
    batch = drawn(1, model=each)
    parts = list(chunks(each, batch, 10, 1))
    assert [part.stop - part.start for part in parts] == [1] * 10
    assert [part.stop - part.start for part in chunks(each, batch, 10, 2**40)] == [10]


def test_areas_by_hand() -> None:
    assert roc_area({"a": 3, "b": -2, "c": 1, "d": 0}, {"a", "b"}) == 1
    assert roc_area({"a": 3, "b": 0, "c": 1, "d": 2}, {"a", "b"}) == 0.5
    assert roc_area({"a": 1, "b": 1, "c": 1}, {"a"}) == 0.5
    assert roc_area({"a": np.nan, "b": 0, "c": 1}, {"a"}) == 0
    for truth in (set[str](), {"a", "b"}):
        with pytest.raises(interp.errors.InvalidInput, match="some that should"):
            roc_area({"a": 1.0, "b": 2.0}, truth)


def test_what_each_method_recovers() -> None:
    name = "token to right"
    table = circuits.recovery_benchmark({name: zoo.planted(**zoo.PLANTED[name])}, batch_size=8, progress=False)
    areas = dict(zip(table["method"], table[name], strict=True))
    patched = ("discover", "edge patching", "edge patching, clean into corrupt", "attribution patching, integrated")
    assert all(areas[method] == 1 for method in (*patched, "composition", "head patching", "direct attribution"))
    # Its attention is saturated, and has no gradient: the plain estimate misses what finds the place.
    assert 0.5 < areas["attribution patching"] < 0.9
    table = circuits.recovery_benchmark({"patches": zoo.planted_patches()}, batch_size=8, progress=False)
    areas = dict(zip(table["method"], table["patches"], strict=True))
    exact = ("discover", "edge patching", "edge patching, clean into corrupt", "head patching", "direct attribution")
    assert all(areas[method] == 1 for method in (*exact, "head ablation"))
    assert min(areas[method] for method in ("composition", "attribution patching, integrated")) > 0.98
    assert table["over"][0] == "encoder and cross heads"
    with pytest.raises(interp.errors.InvalidInput, match="nothing was built"):
        circuits.recovery_benchmark({"cut": zoo.planted(wired=False)})


def refused(model: interp.Model) -> list[tuple[Callable[[], object], str]]:
    clean, corrupt = drawn(1), drawn(2)
    longer = interp.Batch(torch.cat([corrupt.input_ids, corrupt.input_ids], 1))
    full = Circuit.full(model)
    edge = "encoder.self.0.0 -> decoder.cross.1.0:k"
    patch, discover, evaluate = circuits.patch_edges, circuits.discover, circuits.evaluate
    scores = circuits.attribution_patching
    constant: Callable[[Tensor], Tensor] = lambda logits: logits.sum((1, 2)) * 0  # noqa: E731
    other = Circuit(full, "0" * 16)
    deeper = Circuit.parse("decoder.cross.5.0 -> decoder.logits")
    return [
        (lambda: patch(model, clean, longer, METRIC, [edge]), "aligned"),
        (lambda: patch(model, clean, drawn(2, masked=False), METRIC, [edge]), "mask different positions"),
        (lambda: patch(model, clean, "corrupt", METRIC, [edge]), "is no Batch"),  # type: ignore[arg-type]
        (lambda: patch(model, clean, corrupt, lambda logits: logits.mean(), [edge]), "one number per row"),
        (lambda: patch(model, clean, corrupt, lambda logits: logits[:, -1], [edge]), "one number per row"),
        (lambda: patch(model, clean, corrupt, "logit", [edge]), "give a function"),  # type: ignore[arg-type]
        (lambda: patch(model, clean, clean, METRIC, [edge]), "does not move"),
        (lambda: patch(model, clean, corrupt, constant, [edge]), "does not move"),
        (lambda: patch(model, clean, corrupt, METRIC, []), "0 edges"),
        (lambda: patch(model, clean, corrupt, METRIC, [edge, edge]), "each once"),
        (lambda: patch(model, clean, corrupt, METRIC, other), "of other weights"),
        (lambda: patch(model, clean, corrupt, METRIC, "decoder.cross.5.0 -> decoder.logits"), "decoder layers 0-1"),
        (lambda: patch(model, clean, corrupt, METRIC, "decoder.cross.0.0 -> encoder.self.0.0:k"), "share no stream"),
        (lambda: patch(model, clean, corrupt, METRIC, [edge], outside="means"), "Did you mean 'mean'"),  # type: ignore[arg-type]
        (lambda: patch(model, clean, corrupt, METRIC, [edge], memory=0), "memory=0"),
        (lambda: scores(model, clean, corrupt, lambda logits: logits.detach()[:, -1, 5]), "not differentiable"),
        (lambda: scores(model, clean, corrupt, lambda logits: logits[:, -1].argmax(-1).float()), "not differentiable"),
        (lambda: scores(model, clean, corrupt, METRIC, sample=1), "sample=1"),
        (lambda: scores(model, clean, corrupt, METRIC, integrated=-1), "integrated=-1"),
        (lambda: discover(model, clean, corrupt, METRIC, edges=0), "edges=0"),
        (lambda: discover(model, clean, corrupt, METRIC, edges=478), "has 477"),
        (lambda: circuits.prune(model, deeper, clean, corrupt, METRIC, edges=1), "decoder layers 0-1"),
        (lambda: evaluate(model, other, clean, corrupt, METRIC), "of other weights"),
        (lambda: evaluate(model, "circuit", clean, corrupt, METRIC), "is no Circuit"),  # type: ignore[arg-type]
        (lambda: evaluate(model, deeper, clean, corrupt, METRIC), "decoder layers 0-1"),
        (lambda: evaluate(model, full, clean, corrupt, METRIC, controls=-1), "controls=-1"),
        (lambda: circuits.gradients(model, clean, METRIC, []), "at least one"),
        (lambda: circuits.gradients(model, clean, METRIC, "decoder.cross.*.head_out"), "made from z"),
        (lambda: circuits.gradients(model, clean, generates(model), "decoder.cross.*.z"), "generate and predict"),
    ]


def generates(model: interp.Model) -> Callable[[Tensor], Tensor]:
    ids = drawn(1).input_ids
    return lambda _: model.module.generate(input_ids=ids, max_new_tokens=2)[:, -1].float()  # type: ignore[operator]


@pytest.mark.parametrize("case", range(29))
def test_what_is_refused(single: interp.Model, case: int) -> None:
    cases = refused(single)
    assert len(cases) == 29
    ask, why = cases[case]
    with pytest.raises(interp.InterpError, match=why):
        ask()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in single.module.modules())


def test_edits_in_force_are_refused(single: interp.Model) -> None:
    with interp.edited(single, interp.Zero("decoder.cross.0.1")):
        with pytest.raises(interp.errors.InvalidInput, match="Leave edits first"):
            circuits.discover(single, drawn(1), drawn(2), METRIC)
        # Gradients are of whatever runs, edits included.
        found = circuits.gradients(single, drawn(1), METRIC, "decoder.cross.0.z")
    assert float(found.gradients["decoder.cross.0.z"][:, :, 0].abs().max()) > 0
    assert not found.values["decoder.cross.0.z"][:, :, 1].any()


def refused_alone(model: interp.Model) -> list[tuple[Callable[[], object], type[Exception], str]]:
    clean, corrupt = pair_for(model)
    edge = "decoder.self.0.0 -> decoder.self.1.0:k"
    patch, scores = circuits.patch_edges, circuits.attribution_patching
    crossed = Circuit.parse("encoder.self.0.0 -> decoder.cross.1.0:k")
    hidden = interp.Batch(decoder_input_ids=corrupt.decoder_input_ids)
    alone = "a decoder alone, without encoder and cross-attention: decoder layers 0-2 and heads 0-2"
    return [
        (lambda: patch(model, clean, corrupt, METRIC, crossed), interp.errors.UnknownHead, alone),
        (lambda: patch(model, clean, corrupt, METRIC, "encoder.0.resid_pre -> encoder.0.mlp_out"),
         interp.errors.UnknownSite, alone),
        (lambda: circuits.evaluate(model, crossed, clean, corrupt, METRIC), interp.errors.UnknownHead, alone),
        (lambda: Circuit.among(model, ["decoder.cross.1.0"]), interp.errors.UnknownHead, alone),
        (lambda: Circuit.among(model, ["encoder.0.mlp_out"]), interp.errors.UnknownSite, alone),
        (lambda: patch(model, clean, corrupt, METRIC, "decoder.self.0.0 -> decoder.self.7.0:k"),
         interp.errors.UnknownHead, r"the model has decoder layers 0-2 and heads 0-2"),
        (lambda: patch(model, drawn(1), drawn(2), METRIC, edge), InvalidInput, "no encoder to read input_ids"),
        (lambda: patch(model, clean, drawn(2), METRIC, edge), InvalidInput, r"\[4, 0\] in clean and \[4, 9\]"),
        (lambda: patch(model, clean, hidden, METRIC, edge), InvalidInput, "mask different positions"),
        (lambda: scores(model, clean, corrupt, METRIC, progress=False).heads("decoder.cross"), UnknownSite,
         r"a decoder alone, with decoder\.self"),
        (lambda: circuits.gradients(model, clean, METRIC, "decoder.cross.*.z"), UnknownSite, "decoder-only"),
    ]  # fmt: skip


def test_what_a_decoder_alone_does_not_have() -> None:
    model = interp.wrap(tiny_causal_pipeline(), name="alone")
    for ask, error, why in refused_alone(model):
        with pytest.raises(error, match=why):
            ask()


def test_a_graph_knows_its_kinds_by_its_layers(each: interp.Model) -> None:
    graph = Graph.of(each)
    assert graph.kinds == each.family.kinds
    assert graph.stacks == (("encoder", "decoder") if each.has_encoder else ("decoder",))
    scores = circuits.attribution_patching(each, *pair_for(each), metric_of(each), sample=4, progress=False)
    assert scores.graph == graph
    assert scores.layers == each.n_layers


def test_text_models_have_circuits_too() -> None:
    """Tokens are all that is needed: no tokenizer for series."""
    model = interp.wrap(tiny_gpt2(), name="text")
    pair = pair_for(model)
    found = circuits.discover(model, *pair, METRIC, edges=8, progress=False)
    assert 0 < len(found) <= 8
    assert circuits.patch_heads(model, *pair, METRIC, progress=False).sites[0] == "decoder.self.0.z"
