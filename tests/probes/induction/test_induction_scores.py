"""Induction scores on a sequence given twice: the tutorial's own formula, a pattern made by hand, a planted head."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import interp
from interp import Batch, Model, zoo
from interp.zoo.planted_gpt2 import INDUCTION, PREVIOUS_TOKEN
from probes import head_scores, induction_scores, plots, repeated_sequences
from probes.induction.induction_scores import REPEAT_SCORES, InductionScores
from tests.conftest import tiny_gpt2
from tests.tolerance import FORWARD, LAYER, close, not_close


def test_the_diagonal_is_the_tutorials() -> None:
    """Random tokens 1000..9999 in a GPT-2, `pattern.diagonal(-(seq_len - 1), dim1=-2, dim2=-1)`, mean over all."""
    module = tiny_gpt2(vocab_size=10_000, n_positions=100, initializer_range=1.0)
    batch = repeated_sequences(encoder=False, vocab_range=(1000, 9999))
    seq_len = 50
    with torch.no_grad():
        attentions = module(batch.decoder_input_ids, output_attentions=True).attentions
    expected = torch.stack([a.diagonal(-(seq_len - 1), dim1=-2, dim2=-1).mean((0, -1)) for a in attentions])
    found = induction_scores(interp.wrap(module, name="words"), batch)
    close(found.induction_diagonal.values, expected, terms=FORWARD)
    assert expected.std() > 1e-4  # heads differ
    own = torch.stack([a.diagonal(-(seq_len - 1), dim1=-2, dim2=-1)[..., 1:].mean((0, -1)) for a in attentions])
    close(found.induction.values, own, terms=FORWARD)
    not_close(found.induction.values, found.induction_diagonal.values)


@pytest.mark.parametrize("bos", [None, 9])
def test_scores_against_loops(either: Model, bos: int | None) -> None:
    encoder = either.has_encoder
    if encoder and bos is not None:
        pytest.skip("an encoder-decoder has a start token of its own")
    n, rows = 5, 3
    batch = repeated_sequences(encoder=encoder, sequence_length=n, batch_size=rows, repetitions=3, bos=bos)
    with torch.no_grad():
        out = either.module(**batch.inputs, output_attentions=True)
    sites: dict[str, Any] = (
        {"encoder.self": out.encoder_attentions, "decoder.self": out.decoder_attentions}
        if encoder
        else {"decoder.self": out.attentions}
    )
    for site, attentions in sites.items():
        s = 0 if site == "encoder.self" else batch.first
        a = torch.stack(attentions).double()[..., s:, s:]
        found = induction_scores(either, batch, site=site)
        assert found.site == site
        for name, queries, back in (
            ("induction", range(n, 3 * n), n - 1),
            ("induction_diagonal", range(n - 1, 3 * n), n - 1),
            ("previous_token", range(1, 3 * n), 1),
            ("duplicate_token", range(n, 3 * n), n),
        ):
            paid = torch.stack([a[..., q, q - back] for q in queries]).mean(0)  # [layer, row, head]
            panel = getattr(found, name)
            close(panel.values, paid.mean(1), f"{site} {name}", terms=LAYER)
            close(panel.stderr, paid.std(1) / rows**0.5, terms=LAYER)


def test_a_pattern_made_by_hand(causal: Model) -> None:
    """A head that looks n - 1 back wherever it can, one that does so from repeats only, and one that looks one back."""
    n, size = 6, 12
    made = torch.eye(size).repeat(3, 1, 1)
    for head, first, back in ((0, n - 1, n - 1), (1, n, n - 1), (2, 1, 1)):
        for query in range(first, size):
            made[head, query] = 0
            made[head, query, query - back] = 1

    def put(_: Any, __: Any, pattern: torch.Tensor) -> torch.Tensor:
        return made.expand_as(pattern).clone()

    handle = causal.module.get_submodule("transformer.h.1.attn.hook_pattern").register_forward_hook(put)
    try:
        found = induction_scores(causal, sequence_length=n, batch_size=3)
    finally:
        handle.remove()
    close(found.induction.values[1], [1, 1, 0])
    # The diagonal has n + 1 queries, the first of which is no repeat.
    close(found.induction_diagonal.values[1], [1, n / (n + 1), 0], terms=LAYER)
    close(found.previous_token.values[1], [0, 0, 1])
    close(found.duplicate_token.values[1], [0, 0, 0])
    assert str(found.heads()[0].address).startswith("decoder.self.1.")
    assert found.induction.values[0].max() < 0.5


def test_a_planted_head_is_found_and_its_control_is_not() -> None:
    n = 20
    found = induction_scores(zoo.planted_decoder().model, sequence_length=n, unique=True)
    assert found.heads(0.3)[0].address == INDUCTION
    assert len(found.heads(0.3)) == 1
    # At position 0 the copy is of the token itself, so that the first repeated token finds two matches.
    assert found.induction[INDUCTION] == pytest.approx((n - 0.5) / n, abs=5e-3)
    assert found.induction_diagonal[INDUCTION] < found.induction[INDUCTION]
    assert found.previous_token[PREVIOUS_TOKEN] == pytest.approx(1, abs=1e-3)
    assert found.duplicate_token.values.max() < 0.1
    cut = induction_scores(zoo.planted_decoder(wired=False).model, sequence_length=n, unique=True)
    assert not cut.heads(0.3)
    assert cut.previous_token[PREVIOUS_TOKEN] == pytest.approx(1, abs=1e-3)


def test_one_stimulus_for_both_kinds_of_scores(either: Model) -> None:
    values: dict[str, Any] = {"sequence_length": 5, "repetitions": 2, "batch_size": 3, "seed": 4}
    scores = head_scores(either, **values)
    found = induction_scores(either, **values)
    for name in ("induction", "previous_token", "duplicate_token"):
        np.testing.assert_array_equal(getattr(found, name).values, scores[f"decoder.self.{name}"].values)


def test_edits_are_seen_and_half_precision_is_close(either: Model) -> None:
    values: dict[str, Any] = {"sequence_length": 5, "batch_size": 3}
    clean = induction_scores(either, **values)
    with interp.edited(either, interp.Zero("decoder.self.1.pattern")):
        edited = induction_scores(either, **values)
    assert not edited.induction.values[1].any()
    np.testing.assert_array_equal(edited.induction.values[0], clean.induction.values[0])


def test_frame_save_and_load(causal: Model, tmp_path: Path) -> None:
    found = induction_scores(causal, sequence_length=6, batch_size=4, seed=3)
    frame = found.to_frame()
    assert list(frame["head"]) == [str(head) for head in causal.heads("decoder.self")]
    again = InductionScores.load(found.save(tmp_path / "s.json"))
    assert again.to_frame().equals(frame)
    assert again.provenance == found.provenance
    assert again.provenance["stimulus"]["seed"] == 3
    assert again.sequence_length == 6
    for name in REPEAT_SCORES:
        np.testing.assert_array_equal(frame[name], getattr(found, name).values.ravel())
        np.testing.assert_array_equal(frame[f"{name}_stderr"], getattr(again, name).stderr.ravel())
    text = (tmp_path / "s.json").read_text()
    (tmp_path / "s.json").write_text(text.replace('"site": "decoder.self"', '"site": "encoder.self"', 1))
    with pytest.raises(interp.errors.DamagedFile, match="one kind"):
        InductionScores.load(tmp_path / "s.json")
    assert induction_scores(causal, sequence_length=6, batch_size=1).induction.stderr is None
    assert induction_scores(causal, sequence_length=6, batch_size=1).to_frame()["induction_stderr"].isna().all()


def test_what_is_refused(causal: Model, model: Model) -> None:
    for values, message in (
        ({"site": "encoder.self"}, "no encoder"),
        ({"site": "decoder.cross"}, "no encoder"),
        ({"site": "x"}, "decoder.self"),
    ):
        with pytest.raises(interp.errors.UnknownSite, match=message):
            induction_scores(causal, **values)
    with pytest.raises(interp.errors.InvalidInput, match="induction_mosaic"):
        induction_scores(model, site="decoder.cross")
    with pytest.raises(interp.errors.InvalidInput, match="repeated_sequences"):
        induction_scores(causal, Batch(decoder_input_ids=[[5, 6, 5, 6]]))
    with pytest.raises(interp.errors.InvalidInput, match="at least 2"):
        induction_scores(causal, repetitions=1)
    with pytest.raises(interp.errors.InvalidInput, match="at least 2"):
        induction_scores(causal, repeated_sequences(encoder=False, repetitions=1))
    with pytest.raises(interp.errors.InvalidInput, match="open it"):
        induction_scores(cast(Any, "pico-t5"))


def test_the_figure_holds_the_numbers(causal: Model) -> None:
    found = induction_scores(causal, sequence_length=6, batch_size=4)
    figure = plots.induction_scores(found, threshold=0.1)
    maps = [trace for trace in figure.data if isinstance(trace, go.Heatmap)]
    for trace, name in zip(maps, REPEAT_SCORES, strict=True):
        np.testing.assert_array_equal(trace.z, getattr(found, name).values)
        assert trace.coloraxis == "coloraxis"
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    counts = [len(getattr(found, name).heads(0.1)) for name in REPEAT_SCORES]
    for n, note in zip(counts, figure.layout.annotations, strict=True):
        assert f"{n} of 9 heads" in note.text
    assert "5 back" in figure.layout.annotations[0].text
    with pytest.raises(interp.errors.InvalidInput, match="InductionScores"):
        plots.induction_scores(cast(Any, 3))
