"""Self-attention scores against plain loops over positions."""

import numpy as np
import pytest
import torch

import interp
import probes
from interp import Batch, Model
from probes import head_scores, prefix_matching
from probes.stimuli.repeated_tokens import random_tokens
from tests.conftest import tiny_gpt2
from tests.tolerance import LAYER, close

N, R, ROWS, SEED = 4, 3, 3, 2


@pytest.fixture
def patterns(either: Model) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """Whole patterns on the documented stimulus, `[layer, batch, head, query, key]`, special tokens included."""
    tokens = np.tile(random_tokens(np.random.default_rng(SEED), ROWS, N), (1, R))
    if not either.has_encoder:
        with torch.no_grad():
            out = either.module(torch.from_numpy(tokens), output_attentions=True)
        return {"decoder.self": torch.stack(out.attentions).double().numpy()}
    end, start = np.full((ROWS, 1), 1), np.full((ROWS, 1), 0)
    batch = Batch(
        input_ids=torch.from_numpy(np.hstack([tokens, end])),
        decoder_input_ids=torch.from_numpy(np.hstack([start, tokens])),
    )
    with torch.no_grad():
        out = either.module(**batch.inputs, output_attentions=True)
    return {
        "encoder.self": torch.stack(out.encoder_attentions).double().numpy(),
        "decoder.self": torch.stack(out.decoder_attentions).double().numpy(),
    }


def mean(values: list[np.ndarray]) -> np.ndarray:  # type: ignore[type-arg]
    return np.mean(values, axis=0).mean(axis=1)


def test_scores_against_loops(either: Model, patterns: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    found = head_scores(either, sequence_length=N, repetitions=R, batch_size=ROWS, seed=SEED)
    total = N * R
    for site, a in patterns.items():
        s = 1 if (site, either.has_encoder) == ("decoder.self", True) else 0  # START comes first in the decoder
        expected = {
            "previous_token": mean([a[..., i + s, i - 1 + s] for i in range(1, total)]),
            "duplicate_token": mean([a[..., i + s, i - N + s] for i in range(N, total)]),
            "induction": mean([a[..., i + s, i - N + 1 + s] for i in range(N, total)]),
        }
        for offset, name in ((1, "prefix_matching"), (0, "prefix_matching_0"), (-1, "prefix_matching_-1")):
            rows: list[np.ndarray] = []  # type: ignore[type-arg]
            for i in range(N, total):
                earlier = [j + offset for j in range(i - N, -1, -N) if j + offset >= 0]
                if earlier:
                    rows.append(sum((a[..., i + s, j + s] for j in earlier), np.zeros(a.shape[:3])))
            expected[name] = mean(rows)
        if site == "encoder.self":
            expected["next_token"] = mean([a[..., i, i + 1] for i in range(total - 1)])
            expected["later_occurrence"] = mean([a[..., i, i + N] for i in range(total - N)])
        for name, values in expected.items():
            close(found[f"{site}.{name}"].values, values, f"{site}.{name}", terms=LAYER)
            assert found[f"{site}.{name}"].stderr is not None
    assert {score.site for score in found.values()} == set(patterns)
    assert not any(k.startswith(("decoder.self.next", "decoder.self.later")) for k in found)


def test_prefix_matching_forms(either: Model) -> None:
    values = {"sequence_length": N, "repetitions": R, "batch_size": ROWS, "seed": SEED}
    scores = head_scores(either, **values)
    for offset, name in ((1, ""), (0, "_0"), (-1, "_-1")):
        for site, found in prefix_matching(either, offset=offset, **values).items():
            close(found.values, scores[f"{site}.prefix_matching{name}"].values)
    total = prefix_matching(either, **values)["decoder.self"].values
    average = prefix_matching(either, average=True, **values)["decoder.self"].values
    assert (average < total).all()
    one = prefix_matching(either, repetitions=2, sequence_length=N, batch_size=ROWS, seed=SEED)
    same = prefix_matching(either, repetitions=2, sequence_length=N, batch_size=ROWS, seed=SEED, average=True)
    close(one["decoder.self"].values, same["decoder.self"].values)


def test_a_previous_token_head_known_on_paper() -> None:
    """A position bias that allows only one step back: previous-token score 1, all others 0."""
    from tests.conftest import tiny_pipeline

    pipeline = tiny_pipeline()
    with torch.no_grad():
        for stack in ("encoder", "decoder"):
            attention = pipeline.model.model.get_submodule(f"{stack}.block.0.layer.0.SelfAttention")
            attention.q.weight.zero_()  # type: ignore[operator]
            attention.relative_attention_bias.weight[:, 1] = -100  # type: ignore[index]
            attention.relative_attention_bias.weight[1, 1] = 100  # type: ignore[index]
    found = head_scores(interp.wrap(pipeline), batch_size=2)
    for stack in ("encoder", "decoder"):
        close(found[f"{stack}.self.previous_token"].values[0, 1], 1, terms=LAYER)
        close(found[f"{stack}.self.duplicate_token"].values[0, 1], 0, of=1)
        assert found[f"{stack}.self.previous_token"].values[0, 0] < 0.3


def test_a_text_model_reads_tokens_of_its_own_range() -> None:
    """Ids that a small vocabulary does not have are refused, and those that it has are scored."""
    model = interp.wrap(tiny_gpt2(vocab_size=100), name="words")
    with pytest.raises(interp.errors.InvalidInput, match="tokens 0-99"):
        head_scores(model, sequence_length=N)
    found = head_scores(model, vocab_range=(10, 90), sequence_length=N, repetitions=2, batch_size=ROWS)
    assert found["decoder.self.induction"].provenance["stimulus"]["vocab_range"] == [10, 90]
    once = prefix_matching(model, vocab_range=(10, 90), sequence_length=N, repetitions=2, batch_size=ROWS)
    close(once["decoder.self"].values, found["decoder.self.prefix_matching"].values)


def test_what_is_refused(model: Model) -> None:
    for values in ({"repetitions": 1}, {"sequence_length": 1}):
        with pytest.raises(interp.errors.InvalidInput, match="at least 2"):
            head_scores(model, **values)
        with pytest.raises(interp.errors.InvalidInput, match="at least 2"):
            prefix_matching(model, **values)
    with pytest.raises(interp.errors.InvalidInput, match="choose -1, 0 or 1"):
        prefix_matching(model, offset=2)


def test_names_are_addresses(model: Model) -> None:
    found = head_scores(model, batch_size=2, sequence_length=3, repetitions=2)
    assert found["encoder.self.next_token"].site == "encoder.self"
    assert isinstance(found["decoder.self.induction"], interp.results.by_head.HeadScores)
    assert probes.head_scores is head_scores
