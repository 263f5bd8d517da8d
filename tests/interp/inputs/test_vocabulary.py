"""Tokens are what each model's tokenizer and configs make them, held against Chronos' own tokenizer and pipeline."""

import ast
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

import circuits
import interp
import probes
from circuits.ablation.sampling import Sampler
from circuits.metrics import bin_centers, expected_value
from interp.errors import InvalidInput, UnsupportedModel
from interp.inputs.vocabulary import PUBLISHED
from probes.stimuli import pairs
from tests.conftest import tiny_gpt2
from tests.odd_tokens import CASES, ODD, new_pipeline, odd, odd_pipeline
from tests.tolerance import FORWARD, LAYER, close

cases = pytest.mark.parametrize(("name", "encoder"), CASES, ids=[f"{n}, {'T5' if e else 'GPT-2'}" for n, e in CASES])
SERIES = 20 * np.sin(np.arange(17)) + np.arange(17) * 3.0


def values_by_chronos(pipeline: Any) -> tuple[Tensor, Tensor]:
    """The ids that are values, and what Chronos' own tokenizer reads each of them as."""
    config = pipeline.model.config
    ids = torch.arange(config.n_special_tokens, config.n_tokens)
    return ids, pipeline.tokenizer.output_transform(ids[None, None], torch.ones(1))[0, 0]


def logits_by_chronos(pipeline: Any, ids: Tensor, mask: Tensor, after: Tensor) -> Tensor:
    """Logits of the plain model that has read a context and some tokens after it, begun as `generate` begins."""
    module = pipeline.model.model
    if pipeline.model.config.model_type == "causal":
        whole = torch.cat([ids, after], 1)
        shown = torch.cat([mask.long(), torch.ones_like(after)], 1)
        return module(input_ids=whole, attention_mask=shown).logits[:, -after.shape[1] - 1 :]
    start = torch.full((len(ids), 1), module.generation_config.decoder_start_token_id)
    return module(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=torch.cat([start, after], 1)).logits


@cases
def test_values_and_tokens_are_the_tokenizers(name: str, encoder: bool) -> None:
    model, plain = odd(name, encoder), odd_pipeline(name, encoder)
    ids, values = values_by_chronos(plain)
    vocabulary = model.vocabulary
    assert vocabulary.value_range == (int(ids[0]), int(ids[-1]))
    torch.testing.assert_close(bin_centers(model), values.double(), rtol=0, atol=0)
    everything = torch.full((model.d_vocab,), torch.nan)
    everything[ids] = values
    found = probes.token_values(model, torch.arange(model.d_vocab))
    torch.testing.assert_close(found, everything, rtol=0, atol=0, equal_nan=True)
    context = torch.randn(1, 30, generator=torch.Generator().manual_seed(0)) * 4
    written, _, scale = plain.tokenizer.context_input_transform(context)
    assert torch.equal(vocabulary.tokens_of(context[0] / scale), written[0, :30])
    # The bin whose centre is nearest; the first value token is written for no value.
    nearest = [int((values[1:] - value).abs().argmin()) + 1 + int(ids[0]) for value in (-1.01, 1.01)]
    assert list(vocabulary.narrow) == nearest


@torch.no_grad()
@cases
def test_series_are_read_as_generate_reads_them(name: str, encoder: bool) -> None:
    """The last position's logits are those of the first step of `generate`, bit for bit of one processor's sums."""
    model, plain = odd(name, encoder), odd_pipeline(name, encoder)
    ids, mask, _ = plain.tokenizer.context_input_transform(torch.tensor(SERIES)[None])
    module: Any = plain.model.model
    out = module.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=1, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    batch = interp.Batch.from_series(model, SERIES)
    found = model.module(**model.inputs(batch)).logits[:, -1]
    close(found, out.logits[0], terms=FORWARD)
    assert batch.input_ids.shape[1] == (17 + (plain.model.config.use_eos_token) if encoder else 0)


@cases
def test_steps_are_those_of_the_series(name: str, encoder: bool) -> None:
    model = odd(name, encoder)
    batch = probes.series_batch(model, SERIES, num_decoder=4)
    tokenizer: Any = model.pipeline.tokenizer
    low, high = (float(end) * batch.scale for end in tokenizer.centers[[0, -1]])
    half = model.vocabulary.bin_width * batch.scale * 0.5001
    met: list[int] = []
    for stack, steps in (("encoder", batch.encoder_steps), ("decoder", batch.decoder_steps)):
        ids = batch.ids(cast(Any, stack))[0]
        assert len(ids) == len(steps)
        for token, step in zip(ids, steps.tolist(), strict=True):
            if step < 0:
                assert int(token) == (model.vocabulary.eos if stack == "encoder" else model.vocabulary.start)
                continue
            met.append(step)
            read = float(tokenizer.output_transform(token[None, None, None], torch.tensor([batch.scale])))
            assert abs(read - np.clip(SERIES[step], low, high)) <= half
    assert met == list(range(17))
    spectrum = probes.attention_spectrum(model, SERIES, num_decoder=1, shuffles=0)
    assert spectrum.attention.shape[-1] == 16
    assert (spectrum.eos is None) == (model.vocabulary.eos is None)
    rest = 1 - spectrum.attention.sum(-1) - (0 if spectrum.eos is None else spectrum.eos)
    if encoder:
        close(rest, 0, of=1, terms=LAYER)


@torch.no_grad()
@cases
def test_the_expected_value_is_over_values_alone(name: str, encoder: bool) -> None:
    model, plain = odd(name, encoder), odd_pipeline(name, encoder)
    ids, values = values_by_chronos(plain)
    context, mask, scale = plain.tokenizer.context_input_transform(torch.tensor(SERIES)[None, :-2])
    after = plain.tokenizer._input_transform(torch.tensor(SERIES)[None, -2:], scale)[0]
    logits = logits_by_chronos(plain, context, mask, after).double()
    wanted = float(logits[0, -1, ids].softmax(-1) @ values.double())
    batch = interp.Batch.from_series(model, SERIES, num_decoder=2)
    near = {"abs": 1e-4 * float(values.abs().max())}
    found = expected_value(model)(model.module(**model.inputs(batch)).logits)
    assert float(found) == pytest.approx(wanted, **near)
    lens = circuits.logit_lens(model, batch)
    assert lens.expected_value is not None
    assert float(lens.expected_value[-1, 0, -1]) == pytest.approx(wanted, **near)
    direct = circuits.direct_attribution(model, batch)
    total = wanted - float(values.double().mean())
    assert float(direct.total[0, -1]) == pytest.approx(total, **near)
    assert float(direct.values.sum(0)[0, -1]) == pytest.approx(total, **near)


@cases
def test_forecasts_are_judged_over_values_alone(name: str, encoder: bool) -> None:
    model, plain = odd(name, encoder), odd_pipeline(name, encoder)
    ids, values = values_by_chronos(plain)
    found = circuits.forecast_effects(
        model, SERIES, {"one": [model.heads()[-1]]}, prediction_length=3, num_samples=1, controls=0, progress=False
    )
    context, mask, scale = plain.tokenizer.context_input_transform(torch.tensor(SERIES)[None, :-3])
    labels = plain.tokenizer._input_transform(torch.tensor(SERIES)[None, -3:], scale)[0]
    with torch.no_grad():
        logits = logits_by_chronos(plain, context, mask, labels[:, :-1])[:, -3:].double()
    log_probs = logits[0, :, ids].log_softmax(-1)
    nll = -log_probs.gather(-1, (labels[0] - ids[0])[:, None]).mean()
    assert float(found.outcomes["nll"][0, 0]) == pytest.approx(float(nll), rel=1e-4)
    shares, centres = log_probs.exp().numpy(), values.double().numpy()
    truth = SERIES[-3:] / float(scale)
    crps = np.mean([_crps(p, centres, y) for p, y in zip(shares, truth, strict=True)])
    seasonal = np.abs(np.diff(SERIES[:-3])).mean()
    assert float(found.outcomes["crps"][0, 0]) == pytest.approx(crps * float(scale) / seasonal, rel=1e-3)
    # One sample is its own median, and one of the values that Chronos reads tokens as.
    sample = found.fans[0, 0, 4]
    assert np.abs(sample[:, None] - (values * scale).numpy()).min(1).max() <= 1e-4 * np.abs(sample).max()


def _crps(shares: np.ndarray, centres: np.ndarray, truth: float) -> float:
    """The integral of the squared distance between the two distribution functions, piece by piece."""
    ends = np.sort(np.append(centres, truth))
    below = np.array([shares[centres <= end].sum() for end in ends[:-1]])
    return float((((below - (ends[:-1] >= truth)) ** 2) * np.diff(ends)).sum())


@cases
def test_only_values_are_drawn(name: str, encoder: bool) -> None:
    model = odd(name, encoder)
    first, last = model.vocabulary.value_range
    logits = torch.full((2, model.d_vocab), 100.0)
    logits[:, first : last + 1] = 0
    drawn = Sampler.of(model)(logits, torch.tensor([0.0, 1.0]))
    assert bool(((drawn >= first) & (drawn <= last)).all())


@torch.no_grad()
@cases
def test_the_stimulus_is_the_models(name: str, encoder: bool) -> None:
    """Values within +-1.01, EOS where the model has one, its start token; scores by the published procedure."""
    model, plain = odd(name, encoder), odd_pipeline(name, encoder)
    config, module = plain.model.config, cast(Any, plain.model.model)
    batch = probes.repeated_random_tokens(model=model, batch_size=4, seed=3)
    _, values = values_by_chronos(plain)
    tokens = batch.decoder_input_ids
    if encoder:
        assert (batch.decoder_input_ids[:, 0] == module.generation_config.decoder_start_token_id).all()
        assert batch.input_ids.shape[1] == 21 + config.use_eos_token
        assert not config.use_eos_token or (batch.input_ids[:, -1] == config.eos_token_id).all()
        tokens = torch.cat([batch.input_ids[:, :21], batch.decoder_input_ids[:, 1:]], 1)
    read = values[tokens - config.n_special_tokens]
    assert float(read.abs().max()) <= 1.01 + model.vocabulary.bin_width / 2
    mosaic = probes.induction_mosaic(model, batch_size=4, seed=3)
    out = module(**batch.inputs, output_attentions=True, use_cache=False)
    patterns = torch.stack(out.cross_attentions if encoder else out.attentions)[:, :, :, -1].mean(1)
    for scores, place in ((mosaic.current_token, 11), (mosaic.token_to_right, 12)):
        close(scores.values, patterns[:, :, place], of=1, terms=LAYER)
    assert (mosaic.eos is None) == (model.vocabulary.eos is None)
    if mosaic.eos is not None:
        close(mosaic.eos.values, patterns[:, :, 21], of=1, terms=LAYER)
    assert mosaic.n_tokens == (21 + config.use_eos_token if encoder else 22)
    assert mosaic.provenance["stimulus"]["vocab_range"] == list(model.vocabulary.narrow)
    if model.vocabulary != probes.stimuli.repeated_tokens.published(encoder):
        assert mosaic.provenance["stimulus"]["tokens"] == model.vocabulary.to_dict()


@cases
def test_all_that_makes_a_stimulus_follows_the_model(name: str, encoder: bool) -> None:
    model = odd(name, encoder)
    narrow = list(model.vocabulary.narrow)
    length: dict[str, Any] = {"sequence_length": 4, "batch_size": 2}
    for scores in (probes.head_scores(model, **length), circuits.copying_scores(model, **length)):
        for one in scores.values():
            assert one.provenance["stimulus"]["vocab_range"] == narrow
    sequences = probes.repeated_sequences(model=model, batch_size=2, sequence_length=5)
    model.check(sequences)
    places = sequences.decoder_input_ids[:, sequences.places("decoder")]
    assert bool(model.vocabulary.are_values(places).all())
    assert probes.position_loss(model, sequences).provenance["stimulus"]["vocab_range"] == narrow
    swept = probes.induction_sweep(model, sequence_lengths=(4,), batch_size=2, progress=False).to_frame()
    assert swept["eos"].isna().all() == (model.vocabulary.eos is None)
    clean = probes.repeated_random_tokens(model=model, unique=True, **length)
    for pair in (pairs.swapped_continuation(clean), pairs.shifted_values(clean, 1)):
        model.check(pair.corrupt)
        assert pair.corrupt.vocabulary == model.vocabulary
    circuit = circuits.ov_circuit(model, model.heads()[-1])
    assert circuits.token_circuit(circuit).tokens.tolist()[:: narrow[1] - narrow[0]] == narrow


@cases
def test_another_sequence_ends_as_the_clean_one(name: str, encoder: bool) -> None:
    model = odd(name, encoder)
    wide = model.vocabulary.value_range
    clean = probes.repeated_random_tokens(model=model, unique=True, sequence_length=6, batch_size=3, vocab_range=wide)
    corrupt = pairs.another_sequence(clean).corrupt
    model.check(corrupt)
    past = pairs.stacks_of(clean)[0]
    motif = corrupt.ids(past)[:, :6]
    assert torch.equal(corrupt.ids(past)[:, 6:12], motif)
    ends = corrupt.ids(past)[:, 12:]
    query = corrupt.decoder_input_ids[:, -1:]
    after = torch.cat([ends[:, :1], query], 1)
    assert torch.equal(ends[:, :1], motif[:, :1])
    assert torch.equal(after[:, 1], motif[:, corrupt.occurrences[0]])
    assert encoder is False or ends.shape[1] == 1 + (model.vocabulary.eos is not None)


@pytest.mark.parametrize("encoder", [True, False], ids=["t5", "gpt2"])
def test_rows_of_the_unembedding_that_no_token_has_count_for_nothing(encoder: bool) -> None:
    """A padded vocabulary: copying is held against the mean over the tokens, not over what fills up the matrix."""
    pipeline = new_pipeline("few values", encoder)
    model = interp.wrap(pipeline)
    before = circuits.copying_scores(model, sequence_length=6, batch_size=3)
    with torch.no_grad():
        model.module.get_output_embeddings().weight[model.vocabulary.n_tokens :] = 50
    after = circuits.copying_scores(model, sequence_length=6, batch_size=3)
    assert before
    assert before.keys() == after.keys()
    for name in before:
        assert np.array_equal(before[name].values, after[name].values), name


@pytest.mark.parametrize("name", ODD)
def test_a_batch_of_other_tokens_is_refused(name: str, pico: interp.Model) -> None:
    model = odd(name, True)
    for batch in (
        probes.repeated_random_tokens(batch_size=2),
        probes.repeated_sequences(batch_size=2, sequence_length=5),
        interp.Batch.from_series(pico, SERIES),
        interp.Batch.from_series(pico, SERIES).rows(torch.tensor([0])),
    ):
        with pytest.raises(InvalidInput, match=r"of other tokens|has tokens 0-"):
            model.check(batch)
    for other in (probes.repeated_random_tokens(model=model, batch_size=2), interp.Batch.from_series(model, SERIES)):
        model.check(other)
        with pytest.raises(InvalidInput, match="of other tokens"):
            pico.check(other)


def test_ids_given_by_hand_must_stand_for_something(pico: interp.Model) -> None:
    plain, few, four = odd("no EOS", True), odd("few values", True), odd("four special", True)
    values = [[50, 60, 70]]
    for model, batch in (
        (plain, interp.Batch([[50, 60, 1]])),  # EOS for a model that has none
        (few, interp.Batch([[50, 104]], decoder_input_ids=[[1]])),  # beyond the tokenizer's
        (few, interp.Batch(values, decoder_input_ids=[[1, 200]])),
        (few, interp.Batch([[50, 3]], decoder_input_ids=[[1]])),  # a special token without a meaning
        (few, interp.Batch(values)),  # the published start token
        (four, interp.Batch(values)),
        (odd("no EOS", False), interp.Batch(decoder_input_ids=[[5, 4096]])),
    ):
        with pytest.raises(InvalidInput, match=r"stands for nothing|begins with the special|has tokens 0-"):
            model.check(batch)
    masked = torch.tensor([[0, 1, 1]])
    for model, batch in (
        (plain, interp.Batch(values)),
        (few, interp.Batch([[400, 60, 2]], masked, decoder_input_ids=[[1, 8]])),
        (odd("starts beyond", True), interp.Batch([[50, 60, 1]], decoder_input_ids=[[300, 8]])),
        (pico, interp.Batch([[50, 60, 1]])),
    ):
        model.check(batch)


def test_a_start_token_is_no_value() -> None:
    """Even where its id is one elsewhere: the decoder's first token is not read as a value."""
    model = odd("starts with a value", True)
    batch = interp.Batch.from_series(model, [SERIES, -SERIES], num_decoder=2)
    found = probes.attention_patterns(model, batch, "decoder.self.0.0", row=0)
    assert found.query_values is not None
    assert np.isnan(found.query_values).tolist() == [True, False, False]
    assert found.query_names[7] == "start"
    assert "start" in str(probes.plots.attention(found).layout.yaxis.ticktext)


def test_a_special_token_is_no_number_of_bins_away(monkeypatch: pytest.MonkeyPatch) -> None:
    model = odd("four special", True)
    batch = probes.repeated_random_tokens(model=model, batch_size=3, vocab_range=(4, 5))

    def unembed(self: interp.Model, ln_final: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor([3, 4, 5]), self.d_vocab).float()

    monkeypatch.setattr(interp.Model, "unembed", unembed)
    errors = probes.induction_mosaic(model, batch).bin_errors
    assert errors is not None
    assert np.isnan(errors).tolist() == [True, False, False]
    close(probes.induction_mosaic(model, batch).accuracy(within=1), 2 / 3)


def test_claims_find_the_ranges_of_other_tokens() -> None:
    model = odd("few values", True)
    narrow = probes.induction_mosaic(model, batch_size=4)
    wide = probes.induction_mosaic(model, batch_size=4, vocab_range=model.vocabulary.value_range)
    table = probes.check_claims([narrow, wide]).set_index("claim")
    assert "needs" not in str(
        table.loc["the narrow range of tokens gives more induction heads than all tokens", "verdict"]
    )


def test_words_are_no_values() -> None:
    model = interp.wrap(tiny_gpt2(vocab_size=3000), name="words")
    assert not model.tokens_are_values
    with pytest.raises(UnsupportedModel, match="no tokenizer for series"):
        _ = model.vocabulary
    batch = probes.repeated_random_tokens(model=model, batch_size=2, sequence_length=4)
    assert batch.vocabulary is None
    assert torch.equal(
        batch.decoder_input_ids,
        probes.repeated_random_tokens(encoder=False, batch_size=2, sequence_length=4).decoder_input_ids,
    )
    low = probes.repeated_random_tokens(model=model, vocab_range=(0, 1), batch_size=9).decoder_input_ids
    assert set(low.unique().tolist()) == {0, 1}


def test_the_published_stimulus_is_as_it_was(pico: interp.Model) -> None:
    plain, made = probes.repeated_random_tokens(), probes.repeated_random_tokens(model=pico)
    assert (probes.DEFAULT_TOKENS, probes.VALUE_TOKENS) == ((1911, 2187), (2, 4095))
    assert plain.parameters == made.parameters
    assert torch.equal(plain.input_ids, made.input_ids)
    assert (int(plain.input_ids[0, -1]), int(plain.decoder_input_ids[0, 0])) == (1, 0)
    assert pico.vocabulary == PUBLISHED
    with pytest.raises(InvalidInput, match="Leave encoder out"):
        probes.repeated_random_tokens(model=pico, encoder=False)


def test_tokenizers_that_cannot_be_read() -> None:
    pipeline = new_pipeline("limits", True)
    pipeline.tokenizer.centers = pipeline.tokenizer.centers.flip(0)  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedModel, match="ascend"):
        interp.wrap(pipeline)
    wide = new_pipeline("few values", True)
    wide.model.config.n_tokens = 600
    wide.tokenizer = wide.model.config.create_tokenizer()
    with pytest.raises(UnsupportedModel, match="600 tokens, the model 512"):
        interp.wrap(wide)
    none = new_pipeline("no EOS", True)
    cast(Any, none.model.model).generation_config.decoder_start_token_id = None
    with pytest.raises(UnsupportedModel, match="decoder_start_token_id"):
        interp.wrap(none)


def test_bins_too_wide_for_the_default_stimulus() -> None:
    pipeline = new_pipeline("few values", True)
    narrow = new_pipeline("few values", True).model.config
    narrow.tokenizer_kwargs = {"low_limit": -500.0, "high_limit": 500.0}
    pipeline.tokenizer = narrow.create_tokenizer()
    model = interp.wrap(pipeline)
    with pytest.raises(InvalidInput, match="one token"):
        probes.repeated_random_tokens(model=model)
    assert probes.induction_mosaic(model, batch_size=2, vocab_range=(10, 90)).eos is not None


ROOT = Path(__file__).parents[3]
FILES = [path for package in ("interp", "probes", "circuits") for path in (ROOT / package).rglob("*.py")]
NUMBERS = {(int, 1911), (int, 2187), (int, 4094), (int, 4095), (int, 4096), (float, 15.0)}
NAMES = {"EOS", "PAD", "START", "N_SPECIAL", "EOS_ID", "PAD_ID"}


def test_tokens_are_written_down_in_one_file() -> None:
    """No id, limit or number of tokens of the published models stands anywhere else."""
    offences: list[str] = []
    for path in FILES:
        if path.name in ("vocabulary.py", "statistics.py"):  # the latter counts sign flips
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            number = isinstance(node, ast.Constant) and (type(node.value), node.value) in NUMBERS
            named = isinstance(node, ast.Name) and node.id in NAMES
            if (number and not _of_a_drawing(path)) or named:
                offences.append(f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
        for call in ("n_special_tokens", "eos_token_id ==", "use_eos_token", "pad_token_id =="):
            assert call not in path.read_text() or "zoo" in path.parts, f"{path}: {call}"
    assert not offences


def _of_a_drawing(path: Path) -> bool:
    """Sizes in pixels and numbers of rows shown are no tokens."""
    return "plots" in path.parts or "reports" in path.parts
