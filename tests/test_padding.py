"""Padding is not data: what stands where a row is masked changes no result, and a padded row gives what it gives alone.

Every public function that takes a batch is listed here, by its signature, so that a new one without a case fails. In
T5 positions are columns, so a row with a gap is held against itself alone, gap and all; in GPT-2 positions are those of
the tokens, so it is held against its tokens without the gap.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import circuits
import interp
import probes
from circuits.attribution.by_position import AttributionByPosition
from circuits.attribution.direct import DirectAttribution
from interp import Batch, Model
from interp.cache import Cache
from interp.errors import InvalidInput
from probes.stimuli.repeated_sequences import RepeatedSequences
from probes.stimuli.repeated_tokens import RepeatedTokens
from tests.conftest import tiny_causal_pipeline, tiny_pipeline
from tests.tolerance import FORWARD, tolerance

LENGTHS = (7, 4, 6)
COLUMNS = 9
SIDES = ("left", "right", "middle")
CLOSE = {"rtol": 2e-4, "atol": float(tolerance(of=2, terms=FORWARD))}

TAKE_BATCHES = {"batch", "batches", "clean", "corrupt", "reference", "source", "series", "values"}
NOT_BATCHES = {
    "interp.wrap": "its source is a model",
    "probes.value_matching": "numbers without gaps, and no model",
    "probes.context_attention": "series without gaps, which it asks for",
    "probes.attention_spectrum": "one series without gaps, which it asks for",
    "probes.series_batch": "one series without gaps, which it asks for",
}


@dataclass(frozen=True)
class Rows:
    """The same rows padded in some way: what they hold, and what stands at padding."""

    model: Model
    side: str
    fill: int

    @property
    def encoder(self) -> bool:
        return self.model.has_encoder

    def places(self, row: int) -> list[int]:
        """Where a row's tokens are."""
        free = COLUMNS - LENGTHS[row]
        if self.side == "left":
            return list(range(free, COLUMNS))
        if self.side == "right":
            return list(range(LENGTHS[row]))
        return [0, 1, *range(2 + free, COLUMNS)]

    def batch(self, seed: int = 0) -> Batch:
        ids = torch.full((len(LENGTHS), COLUMNS), self.fill)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(contents(seed)):
            ids[row, self.places(row)], mask[row, self.places(row)] = tokens, 1
        return self.made(ids, mask)

    def made(self, ids: Tensor, mask: Tensor) -> Batch:
        if not self.encoder:
            return Batch(decoder_input_ids=ids, decoder_attention_mask=mask)
        return Batch(ids, mask, torch.tensor([[0, 900, 2000, 31]] * len(ids)))

    def alone(self, row: int, seed: int = 0) -> Batch:
        """One row by itself: its tokens, with their gap where columns are positions."""
        places = self.places(row)
        span = range(places[0], places[-1] + 1) if self.encoder else places
        ids, mask = torch.full((1, len(span)), self.fill), torch.zeros(1, len(span), dtype=torch.long)
        at = [list(span).index(place) for place in places]
        ids[0, at], mask[0, at] = contents(seed)[row], 1
        return self.made(ids, mask)


def contents(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1900, 2200, (length,), generator=generator) for length in LENGTHS]


def repeats(rows: Rows) -> RepeatedTokens:
    """Repeated random tokens of one length, with five columns of padding and the positions moved along."""
    tokens = probes.repeated_random_tokens(batch_size=3, sequence_length=4, encoder=rows.encoder, seed=0)
    stack = "encoder" if rows.encoder else "decoder"
    ids = tokens.ids(cast(Any, stack))
    cut = {"left": 0, "right": ids.shape[1], "middle": 3}[rows.side]

    def moved(place: int) -> int:
        return place + 5 * (place >= cut)

    parts = ids[:, :cut], torch.full((3, 5), rows.fill), ids[:, cut:]
    shown = [torch.ones_like(part) * (i != 1) for i, part in enumerate(parts)]
    named = ("input_ids", "attention_mask") if rows.encoder else ("decoder_input_ids", "decoder_attention_mask")
    return replace(
        tokens,
        **dict(zip(named, (torch.cat(parts, 1), torch.cat(shown, 1)), strict=True)),  # type: ignore[arg-type]
        occurrences=tuple(moved(place) for place in tokens.occurrences),
        query=tokens.query if rows.encoder else moved(tokens.query),
    )


def sequences(rows: Rows) -> RepeatedSequences:
    """A repeated sequence, padded after it, or before it in a decoder alone."""
    tokens = probes.repeated_sequences(batch_size=3, sequence_length=4, encoder=rows.encoder, seed=0)
    stack = "encoder" if rows.encoder else "decoder"
    ids, padding = tokens.ids(cast(Any, stack)), torch.full((3, 5), rows.fill)
    named = ("input_ids", "attention_mask") if rows.encoder else ("decoder_input_ids", "decoder_attention_mask")
    left = rows.side == "left"
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(padding)][:: -1 if left else 1], 1)
    ids = torch.cat([ids, padding][:: -1 if left else 1], 1)
    first = 5 if left and not rows.encoder else tokens.first
    return replace(tokens, **dict(zip(named, (ids, mask), strict=True)), first=first)  # type: ignore[arg-type]


METRIC = circuits.logit_difference(500, 600)


def heads(model: Model) -> list[interp.Head]:
    return model.heads(".".join(model.family.context))


def first_stack(model: Model) -> str:
    return model.family.kinds[0][0]


def at_tokens(batch: Batch, cache: Any) -> Any:
    """What was captured, without what stands at padding."""
    found = {}
    for name, value in cache.items():
        stack = "encoder" if name.startswith("encoder") else "decoder"
        hidden = batch.mask(cast(Any, stack)) == 0
        found[name] = value.masked_fill(hidden.reshape(*hidden.shape, *[1] * (value.ndim - 2)), torch.nan)
    return found


def captured(model: Model, batch: Batch) -> Any:
    sites = [*(["encoder.1.resid_post"] if batch.has_encoder else []), "decoder.1.mlp_out", "decoder.logits"]
    return at_tokens(batch, interp.capture(model, batch, sites))


def within(edits: Callable[[Model, Batch, Batch], Any]) -> Callable[[Model, Batch, Batch], Any]:
    """What the model puts out under edits, made of the batch and of another one that is padded alike."""

    def case(model: Model, batch: Batch, other: Batch) -> Any:
        with interp.edited(model, edits(model, batch, other)):
            return captured(model, batch)

    return case


def slopes(model: Model, batch: Batch, other: Batch) -> Any:
    found = circuits.gradients(
        model, batch, METRIC, [f"{first_stack(model)}.*.resid_pre", "decoder.*.*.pattern", "decoder.*.*.v"]
    )
    return found.metric, found.gradients


def graph(call: Callable[..., Any]) -> Callable[[Model, Batch, Batch], Any]:
    return lambda model, batch, other: call(model, batch, other, METRIC, progress=False)


def some_edges(model: Model) -> list[str]:
    return [str(edge) for edge in circuits.Circuit.full(model)][::60]


def to_itself(pattern: Tensor, batch: Batch) -> Tensor:
    """The attention that a row's last token pays to itself."""
    at = batch.position(-1, "encoder" if batch.has_encoder else "decoder").to(pattern.device)
    return pattern[torch.arange(len(batch)), :, at, at]


CASES: dict[str, Callable[[Model, Batch, Batch], Any]] = {
    "interp.capture": lambda model, batch, other: captured(model, batch),
    "interp.ablate": within(lambda model, batch, other: interp.Zero(heads(model)[1])),
    "interp.edited": within(
        lambda model, batch, other: [
            interp.Knockout(heads(model)[1], query=-1, key=-2),
            interp.Knockout(heads(model)[4], key=-1),
            interp.Add(heads(model)[2].site("pattern"), 0.1),
        ]
    ),
    "interp.edited, positions": within(
        lambda model, batch, other: [
            interp.Zero(heads(model)[1], positions=-1),
            interp.Scale(f"{first_stack(model)}.0.mlp_out", -2.0, positions=[-1, -3]),
            interp.Add(heads(model)[2].site("pattern"), 0.1, positions=slice(-2, None)),
        ]
    ),
    "interp.score_heads": lambda model, batch, other: interp.score_heads(
        model, batch, to_itself, kind=f"{first_stack(model)}.self"
    ),
    "interp.Resample": within(
        lambda model, batch, other: [
            interp.Resample(f"{first_stack(model)}.0.mlp_out", other),
            interp.Resample(heads(model)[1].site("pattern"), other),
        ]
    ),
    "interp.Mean": within(
        lambda model, batch, other: [
            interp.Mean(f"{first_stack(model)}.0.mlp_out", other),
            interp.Mean(heads(model)[1], [other, batch]),
        ]
    ),
    "interp.FreezePatterns": within(
        lambda model, batch, other: [interp.FreezePatterns(batch), interp.Zero(f"{first_stack(model)}.0.mlp_out")]
    ),
    "probes.attention_patterns": lambda model, batch, other: [
        probes.attention_patterns(model, batch, model.heads(f"{stack}.{kind}"), row=row)
        for stack, kind in model.family.kinds
        for row in (None, len(batch) - 1)
    ],
    "probes.attention_by_value": lambda model, batch, other: [
        probes.attention_by_value(model, batch, model.heads(f"{stack}.{kind}"), bins=5)
        for stack, kind in model.family.kinds
    ],
    "probes.attention_by_lag": lambda model, batch, other: [
        probes.attention_by_lag(model, batch, model.heads(f"{stack}.{kind}")) for stack, kind in model.family.kinds
    ],
    "probes.position_loss": lambda model, batch, other: probes.position_loss(model, batch),
    "circuits.direct_attribution": lambda model, batch, other: by_row(
        circuits.direct_attribution(model, batch, target=500, against=600)
    ),
    "circuits.direct_attribution, value": lambda model, batch, other: by_row(circuits.direct_attribution(model, batch)),
    "circuits.logit_lens": lambda model, batch, other: lens(model, batch),
    "circuits.attribution_by_position": lambda model, batch, other: past(
        circuits.attribution_by_position(model, batch, target=500, against=600),
        circuits.attribution_by_position(model, batch, target=500, position=-2),
    ),
    "circuits.attribution_by_position, value": lambda model, batch, other: past(
        circuits.attribution_by_position(model, batch)
    ),
    "circuits.gradients": slopes,
    "circuits.patch_heads": lambda model, batch, other: circuits.patch_heads(
        model, batch, other, METRIC, ["*.*.*.z", "*.*.1.pattern"], progress=False
    ),
    "circuits.patch_positions": lambda model, batch, other: circuits.patch_positions(
        model, batch, other, METRIC, ["*.0.resid_post", "decoder.*.1.k"], progress=False
    ),
    "circuits.patch_sites": lambda model, batch, other: circuits.patch_sites(
        model, batch, other, METRIC, ["decoder.0.mlp_out", heads(model)[1]]
    ),
    "circuits.patch_edges": lambda model, batch, other: [
        circuits.patch_edges(model, batch, other, METRIC, some_edges(model), outside=outside, progress=False).values
        for outside in ("resample", "zero")
    ],
    "circuits.encoder_output_by_token": lambda model, batch, other: circuits.encoder_output_by_token(
        model, [batch, other]
    ),
}
"""What is called on any batch, and on another that is padded alike: the first row's numbers stand for all rows'."""

MEANS: dict[str, Callable[[Model, Batch, Batch], Any]] = {
    "circuits.attribution_patching": graph(lambda *a, **k: circuits.attribution_patching(*a, integrated=2, **k)),
    "circuits.discover": graph(lambda *a, **k: str(circuits.discover(*a, edges=12, **k))),
    "circuits.prune": lambda model, batch, other: str(
        circuits.prune(model, circuits.Circuit(some_edges(model)), batch, other, METRIC, edges=3, progress=False)
    ),
    "circuits.evaluate": lambda model, batch, other: circuits.evaluate(
        model, circuits.Circuit(some_edges(model)[:6]), batch, other, METRIC, outside="mean", controls=2, parts=2,
        progress=False,
    ),
    "circuits.faithfulness_by_size": lambda model, batch, other: circuits.faithfulness_by_size(
        model,
        circuits.attribution_patching(model, batch, other, METRIC, sample=4, progress=False),
        batch, other, METRIC, draws=1, progress=False,
    ),
}  # fmt: skip
"""Likewise, where numbers are of all rows together, so that a row alone is another experiment."""

REPEATS: dict[str, Callable[[Model, RepeatedTokens], Any]] = {
    "probes.induction_mosaic": lambda model, tokens: probes.induction_mosaic(model, tokens),
    "circuits.head_effects": lambda model, tokens: [
        *(
            circuits.head_effects(model, tokens, kind, method="resample", reference=tokens, progress=False).rows
            for kind in (".".join(each) for each in model.family.kinds)
        ),
        circuits.head_effects(model, tokens, method="mean", reference=tokens, by_position=True, progress=False),
        circuits.head_effects(model, tokens, progress=False),
    ],
    "circuits.layer_effects": lambda model, tokens: circuits.layer_effects(model, tokens, progress=False),
    "circuits.self_repair": lambda model, tokens: circuits.self_repair(
        model, tokens, heads(model)[:2], controls=1, progress=False
    ),
    "circuits.mosaic_effects": lambda model, tokens: circuits.mosaic_effects(
        model, tokens, heads(model)[:1], controls=1, method="mean", reference=tokens, progress=False
    ),
    "circuits.ablation_curve": lambda model, tokens: circuits.ablation_curve(
        model, scores(model), tokens, counts=(1, 2), controls=1, progress=False
    ),
    "probes.shifted_values": lambda model, tokens: probes.shifted_values(tokens, 3).changed,
}  # fmt: skip
"""What is called on repeated random tokens, whose positions move with the tokens."""

REFUSED: dict[str, Callable[[RepeatedTokens], Any]] = {
    "probes.another_sequence": probes.another_sequence,
    "probes.shuffled_occurrences": probes.shuffled_occurrences,
    "probes.swapped_continuation": probes.swapped_continuation,
}
"""What follows from the formula of a stimulus, and says to make the pair first and pad it then."""

ELSEWHERE = {
    "probes.induction_scores": "test_repeated_sequences",
    "circuits.forecast_effects": "test_forecasts_of_padded_series",
}


def scores(model: Model) -> interp.results.by_head.HeadScores:
    context = ".".join(model.family.context)
    values = np.arange(len(model.layers(context)) * model.n_heads, dtype=float).reshape(-1, model.n_heads)
    return interp.results.by_head.HeadScores("any", context, values)


def by_row(found: DirectAttribution) -> Any:
    shown = ~np.isnan(found.total)
    assert (np.isnan(found.values) == ~shown).all(), "parts are NaN where the total is"
    return found.at(), found.at(-2), found.to_frame(), found.by_layer(), found.heads(), found.total


def lens(model: Model, batch: Batch) -> Any:
    found = circuits.logit_lens(model, batch, target=500)
    return found, found.agrees, found.effective_tokens, found.to_frame(), found.to_frame(-2)


def past(*found: AttributionByPosition) -> Any:
    return [(one.total, one.values.sum(-1), one.of(), one.by_position(), one.heads(), one.to_frame()) for one in found]


def listed(found: Any) -> list[Any]:
    """All numbers of a result, in order; what names it and what it was made of left out."""
    if is_dataclass(found) and not isinstance(found, type):
        skipped = {"provenance", "digest", "parameters", "tokens"}
        named = [getattr(found, f.name) for f in fields(found) if f.name not in skipped | WHERE]
        return [item for value in named for item in listed(value)]
    if isinstance(found, pd.DataFrame):
        return [item for name in found if name not in WHERE for item in listed(found[name].to_numpy())]
    if isinstance(found, Tensor):
        return listed(found.detach().cpu().double().numpy())
    if isinstance(found, np.ndarray):
        return [found.astype(float)] if found.dtype.kind in "fiub" else [[str(x) for x in found.ravel()]]
    if isinstance(found, dict | Cache):
        return [item for key in found for item in listed(found[key])]
    if isinstance(found, list | tuple):
        return [item for value in found for item in listed(value)]
    return [found]


def same(one: Any, other: Any) -> None:
    first, second = listed(one), listed(other)
    assert len(first) == len(second) > 0
    for x, y in zip(first, second, strict=True):
        if isinstance(x, np.ndarray):
            np.testing.assert_allclose(x, y, **CLOSE)  # type: ignore[arg-type]
        elif isinstance(x, float):
            assert x == pytest.approx(y, rel=1e-3, abs=CLOSE["atol"], nan_ok=True)
        else:
            assert x == y


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def model(request: pytest.FixtureRequest) -> Model:
    made = tiny_pipeline() if request.param == "t5" else tiny_causal_pipeline()
    return interp.wrap(made, name=f"tiny-{request.param}")


def public() -> dict[str, inspect.Signature]:
    found = {}
    for package in (interp, probes, circuits):
        for name in package.__all__:
            value = getattr(package, name)
            if callable(value) and (
                not isinstance(value, type) or (is_dataclass(value) and value.__module__ == "interp.editing.edits")
            ):
                found[f"{package.__name__}.{name}"] = inspect.signature(value)
    return found


def test_every_public_function_that_takes_a_batch_has_a_case() -> None:
    taking = {name for name, signature in public().items() if TAKE_BATCHES & set(signature.parameters)}
    cases = {name.split(",")[0] for name in (*CASES, *MEANS, *REPEATS, *REFUSED, *ELSEWHERE)}
    # What `edited` takes are edits, which hold the batches.
    assert taking - set(NOT_BATCHES) == cases - {"interp.edited"}
    assert set(NOT_BATCHES) <= taking


def has(model: Model, name: str) -> bool:
    return model.has_encoder or name != "circuits.encoder_output_by_token"


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", [*CASES, *MEANS])
def test_what_stands_at_padding_changes_nothing(model: Model, name: str, side: str) -> None:
    if not has(model, name):
        return
    case = (CASES | MEANS)[name]
    one, other = (
        case(model, rows.batch(), Rows(model, side, 7 + rows.fill).batch(1))
        for rows in (Rows(model, side, 0), Rows(model, side, 2100))
    )
    same(one, other)


def known(found: Any) -> list[Any]:
    """The numbers of a result that are there, without those of padding: not NaN, and not 0, which nothing real is."""
    kept: list[Any] = []
    for x in listed(found):
        if isinstance(x, np.ndarray):
            x = x[~np.isnan(x) & (np.abs(x) > 2.0**-30)]
        if x is not None:
            kept.append(x)
    return kept


WHERE = {"key", "x", "lengths", "split", "position", "target", "against"}
"""What speaks of columns, which are others where there are fewer, or of what was asked."""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", [name for name in CASES if name != "circuits.encoder_output_by_token"])
def test_a_padded_row_gives_what_the_row_alone_gives(model: Model, name: str, side: str) -> None:
    rows, case = Rows(model, side, 0), CASES[name]
    for row in (1, 2):
        padded = [rows.batch(seed).rows(torch.tensor([row])) for seed in (0, 1)]
        alone = [rows.alone(row, seed) for seed in (0, 1)]
        one, other = known(case(model, *padded)), known(case(model, *alone))
        assert len(one) == len(other) > 0
        for x, y in zip(one, other, strict=True):
            if isinstance(x, np.ndarray):
                np.testing.assert_allclose(x, y, **CLOSE)  # type: ignore[arg-type]
            elif isinstance(x, float):
                assert x == pytest.approx(y, rel=1e-3, abs=CLOSE["atol"], nan_ok=True)


@pytest.mark.parametrize(
    "name", ["circuits.patch_heads", "circuits.patch_sites", "circuits.patch_edges", "interp.capture"]
)
def test_rows_that_are_padded_differently_do_not_see_each_other(model: Model, name: str) -> None:
    """Metrics and shares by row, of a batch of rows of three lengths, are those of each row."""
    rows, case = Rows(model, "right", 0), CASES[name]
    together = listed(case(model, rows.batch(), rows.batch(1)))
    for row in range(3):
        one = torch.tensor([row])
        apart = listed(case(model, rows.batch().rows(one), rows.batch(1).rows(one)))
        for x, y in zip(together, apart, strict=True):
            if isinstance(x, np.ndarray) and x.ndim and x.shape != y.shape:
                axis = next(i for i in range(x.ndim) if x.shape[i] != y.shape[i])
                np.testing.assert_allclose(x.take([row], axis), y, **CLOSE)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", REPEATS)
def test_repeated_tokens(model: Model, name: str, side: str) -> None:
    case = REPEATS[name]
    one = case(model, repeats(Rows(model, side, 0)))
    same(one, case(model, repeats(Rows(model, side, 2100))))
    if side == "middle" and model.has_encoder:
        return  # columns are positions: a gap is another input
    plain = probes.repeated_random_tokens(batch_size=3, sequence_length=4, encoder=model.has_encoder, seed=0)
    if name != "probes.shifted_values":
        same(one, case(model, plain))


@pytest.mark.parametrize("side", ["left", "right"])
def test_repeated_sequences(model: Model, side: str) -> None:
    plain = probes.repeated_sequences(batch_size=3, sequence_length=4, encoder=model.has_encoder, seed=0)
    for site in [f"{stack}.{kind}" for stack, kind in model.family.kinds if kind == "self"]:
        one, other = (sequences(Rows(model, side, fill)) for fill in (0, 2100))
        if side == "left" and site == "encoder.self":
            with pytest.raises(InvalidInput, match="a repeated token is at encoder position 0, which is padding"):
                probes.induction_scores(model, one, site=site)
            continue
        found = probes.induction_scores(model, one, site=site)
        same(found, probes.induction_scores(model, other, site=site))
        same(found, probes.induction_scores(model, plain, site=site))


@pytest.mark.parametrize("name", REFUSED)
def test_pairs_are_made_before_they_are_padded(model: Model, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"the batch is padded.*pad both"):
        REFUSED[name](repeats(Rows(model, "left", 0)))


def test_forecasts_of_padded_series(model: Model) -> None:
    """A shorter series is padded on the left: what is read step by step is what it is by itself."""
    rng = np.random.default_rng(0)
    series = [rng.standard_normal(30), rng.standard_normal(22)]
    settings: Any = {"prediction_length": 4, "num_samples": 2, "controls": 0, "progress": False}
    ablations = {"one": heads(model)[1]}
    together = circuits.forecast_effects(model, series, ablations, **settings)
    alone = circuits.forecast_effects(model, series[1], ablations, **settings)
    for outcome in ("nll", "crps"):
        np.testing.assert_allclose(together.outcomes[outcome][:, 1], alone.outcomes[outcome][:, 0], rtol=1e-3)
