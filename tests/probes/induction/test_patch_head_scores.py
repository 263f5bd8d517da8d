"""Scores of encoder heads by offset in patches: against loops over plain Chronos' attention."""

import numpy as np
import pytest
import torch

import interp
from interp.errors import InvalidInput, MissingCapability
from probes import head_scores, prefix_matching, repeated_random_patches
from tests.conftest import tiny_bolt
from tests.tolerance import LAYER, close

PATCHES, REPETITIONS = 4, 3
STIMULUS = {"sequence_length": PATCHES, "repetitions": REPETITIONS, "batch_size": 3, "seed": 5}


@pytest.fixture(scope="module")
def bolt() -> interp.Model:
    return interp.wrap(tiny_bolt(), name="tiny-bolt")


@pytest.fixture(scope="module")
def patterns(bolt: interp.Model) -> np.ndarray:
    """Plain Chronos' attention of the encoder on the same patches, `[layer, row, head, query, key]`."""
    batch = repeated_random_patches(
        bolt, patches=PATCHES, repetitions=REPETITIONS, extension=0, coefficients=2, batch_size=3, seed=5
    )
    module = tiny_bolt().model
    with torch.no_grad():
        _, _, embedded, mask = module.encode(batch.values)
        out = module.encoder(attention_mask=mask, inputs_embeds=embedded, output_attentions=True)
    return torch.stack(out.attentions).double().numpy()


OFFSETS = {
    "previous_token": [(q, q - 1) for q in range(1, 12)],
    "next_token": [(q, q + 1) for q in range(11)],
    "induction": [(q, q - PATCHES + 1) for q in range(PATCHES, 12)],
    "duplicate_token": [(q, q - PATCHES) for q in range(PATCHES, 12)],
    "later_occurrence": [(q, q + PATCHES) for q in range(12 - PATCHES)],
}


def test_scores_are_attention_at_offsets_in_patches(bolt: interp.Model, patterns: np.ndarray) -> None:
    scores = head_scores(bolt, coefficients=2, **STIMULUS)  # type: ignore[arg-type]
    assert {name.rpartition(".")[0] for name in scores} == {"encoder.self"}  # its decoder has one position
    for name, pairs in OFFSETS.items():
        by_hand = np.mean([patterns[..., query, key] for query, key in pairs], axis=0).mean(1)
        close(scores[f"encoder.self.{name}"].values, by_hand, name, terms=LAYER)
    assert scores["encoder.self.induction"].provenance["stimulus"]["coefficients"] == 2


@pytest.mark.parametrize("offset", [1, 0, -1])
def test_prefix_matching_adds_the_earlier_occurrences(bolt: interp.Model, patterns: np.ndarray, offset: int) -> None:
    found = prefix_matching(bolt, offset=offset, coefficients=2, **STIMULUS)  # type: ignore[arg-type]
    total = np.zeros(patterns.shape[:3])
    for query in range(PATCHES, 12):
        for earlier in range(query - PATCHES, -1, -PATCHES):
            if earlier + offset >= 0:
                total += patterns[..., query, earlier + offset]
    queries = 12 - PATCHES - (1 if offset == -1 else 0)  # the first one's only occurrence has nothing before it
    close(found["encoder.self"].values, total.mean(1) / queries, terms=LAYER)


def test_by_default_as_many_patches_come_as_fit(bolt: interp.Model) -> None:
    found = prefix_matching(bolt, batch_size=2)["encoder.self"].provenance["stimulus"]
    size, length = bolt.patching.size, bolt.patching.context_length
    assert (found["patches"], found["repetitions"]) == (length // size // 4, 4)


def test_what_is_of_tokens_or_of_patches_alone(bolt: interp.Model, model: interp.Model) -> None:
    with pytest.raises(MissingCapability, match="no tokens"):
        head_scores(bolt, vocab_range=(10, 20))
    with pytest.raises(MissingCapability, match="no patches"):
        head_scores(model, coefficients=3)
    with pytest.raises(InvalidInput, match="repetitions"):
        head_scores(bolt, repetitions=1)
    with pytest.raises(InvalidInput, match="take fewer patches or repetitions"):
        head_scores(bolt, sequence_length=100)
