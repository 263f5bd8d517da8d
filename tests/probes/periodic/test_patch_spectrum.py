"""Attention over a series that a model reads in patches: against plain Chronos, and its axes in time and frequency."""

from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp.errors import InvalidInput, MissingCapability
from probes import attention_spectrum, context_attention, multisine, plots
from probes.periodic.spectrum import AttentionSpectrum
from probes.stimuli.time_series import TimeSeries
from tests.conftest import tiny_bolt
from tests.tolerance import LAYER, close

SIZE = 8
LENGTH = 96 - SIZE + 3
"""Of a context of 96 steps: whole patches but for the first one, which has three steps."""

SLOW = multisine([0.5], steps=LENGTH, duration=LENGTH / 10)
"""Ten steps a second, so that a patch of eight shows 0.625 Hz at most."""

QUERIES = ("decoder", "reg", "last_patch")


@pytest.fixture(scope="module")
def bolt() -> interp.Model:
    return interp.wrap(tiny_bolt(), name="tiny-bolt")


def plainly(series: TimeSeries, query: str) -> torch.Tensor:
    """Attention `[layer, head, key]` of plain Chronos, by Hugging Face's own `output_attentions`."""
    module = tiny_bolt().model
    values = torch.tensor(series.values[None]).float()
    with torch.no_grad():
        hidden, _, embedded, mask = module.encode(values)
        if query == "decoder":
            start = torch.full((1, 1), module.config.decoder_start_token_id)
            out = module.decoder(
                input_ids=start, encoder_hidden_states=hidden, encoder_attention_mask=mask, output_attentions=True
            )
            return torch.stack(out.cross_attentions)[:, 0, :, 0]
        out = module.encoder(attention_mask=mask, inputs_embeds=embedded, output_attentions=True)
    return torch.stack(out.attentions)[:, 0, :, -1 if query == "reg" else -2]


@pytest.mark.parametrize("query", QUERIES)
def test_it_is_plain_chronos_attention(bolt: interp.Model, query: str) -> None:
    found = attention_spectrum(bolt, SLOW, query=query, shuffles=0)  # type: ignore[arg-type]
    expected = plainly(SLOW, query).numpy()
    assert found.eos is not None
    close(found.attention, expected[..., :-1], terms=LAYER)
    close(found.eos, expected[..., -1], terms=LAYER)
    close(found.spectrum, np.abs(np.fft.rfft(expected[..., :-1])), terms=LAYER)
    assert (found.site, found.query) == ("decoder.cross" if query == "decoder" else "encoder.self", query)
    close(found.prediction, float(tiny_bolt().predict(torch.tensor(SLOW.values).float())[0, 2, 0]), terms=LAYER)
    rows = context_attention(bolt, np.stack([SLOW.values, -SLOW.values]), num_decoder=0, query=query)  # type: ignore[arg-type]
    close(rows[0], found.attention, terms=LAYER)
    assert np.abs(rows[1] - rows[0]).max() > 1e-3


def test_its_axes_are_those_of_patches(bolt: interp.Model) -> None:
    found = attention_spectrum(bolt, SLOW, shuffles=0)
    count = -(-LENGTH // SIZE)
    assert found.attention.shape[-1] == count
    batch = interp.Batch.from_series(bolt, SLOW.values)
    assert isinstance(batch, interp.inputs.batch.ValueBatch)
    middles = [batch.steps(patch)[len(batch.steps(patch)) - SIZE // 2] for patch in range(count) if patch]
    assert list(found.steps)[1:] == middles
    assert found.steps[0] == 3 - SIZE // 2  # the first patch has three steps: its middle lies before the series
    close(found.frequencies, np.fft.rfftfreq(count, 0.1 * SIZE), terms=LAYER)
    close(found.series_frequencies, np.fft.rfftfreq(LENGTH, 0.1), terms=LAYER)
    close(found.nyquist, 0.625)
    assert len(found.context) == found.next_step == LENGTH
    means = [np.nanmean(part) for part in np.split(np.pad(SLOW.values, (SIZE - 3, 0), constant_values=np.nan), count)]
    close(found._series_as_seen(), np.array(means), terms=LAYER)


def test_attention_that_follows_the_series_is_coherent_with_it(bolt: interp.Model) -> None:
    """Attention that is the series' own means of patches is wholly coherent at its frequency; noise is not."""
    found = attention_spectrum(bolt, SLOW, shuffles=0)
    count = found.attention.shape[-1]
    rng = np.random.default_rng(0)
    planted = np.stack([found._series_as_seen() + 2, rng.random(count)])[None]
    own = AttentionSpectrum(SLOW, planted, None, 0, -1, 0.0, np.empty((0, 1, 2)), {}, "decoder.cross", "decoder", SIZE)
    coherence = own.coherence(segments=2, permutations=19).set_index("head")["coherence"]
    assert coherence["decoder.cross.0.0"] > 0.999 > coherence["decoder.cross.0.1"]
    fast = multisine([4], steps=LENGTH, duration=LENGTH / 10)
    with pytest.raises(InvalidInput, match=r"frequencies of .* are 4 and more.*shows 0\.625 at most"):
        attention_spectrum(bolt, fast, shuffles=0).coherence(segments=2)


def test_a_planted_comb_has_its_spacing_in_time() -> None:
    """Attention to every fourth patch: teeth 4 patches apart, which are 4 x 8 x 0.1 s."""
    count = 48
    series = multisine([0.5], steps=count * SIZE, duration=count * SIZE / 10)
    teeth = (np.arange(count) % 4 == 0).astype(float)[None, None]
    found = AttentionSpectrum(series, teeth, None, 0, -1, 0.0, np.empty((0, 1, 1)), {}, patch=SIZE)
    close(found.comb(permutations=19).spacing[0, 0], 1 / 3.2)


def test_it_is_saved_and_drawn(bolt: interp.Model, tmp_path: Path) -> None:
    found = attention_spectrum(bolt, SLOW, query="reg", shuffles=0)
    again = interp.read(found.save(tmp_path / "spectrum.json"))
    assert isinstance(again, AttentionSpectrum)
    assert (again.query, again.patch, list(again.steps)) == ("reg", SIZE, list(found.steps))
    figure = plots.attention_spectrum(found)
    assert "from [REG]" in figure.layout.title.subtitle.text
    assert "shows at most 0.625 Hz" in figure.layout.title.subtitle.text
    lines = [trace for trace in figure.data if trace.line.shape == "hvh"]
    assert len(lines) == found.attention[..., 0].size
    close(np.asarray(lines[0].x), np.array(found.steps) * 0.1, terms=LAYER)
    over = plots.attention_over_series(found)
    assert f"{found.attention.shape[-1]} patches of {SIZE} steps" in over.layout.title.subtitle.text
    plots.second_spectrum(found)


def test_what_cannot_be_asked(bolt: interp.Model, model: interp.Model) -> None:
    with pytest.raises(InvalidInput, match="'reg' is of models that read patches"):
        attention_spectrum(model, multisine([2], steps=40), query="reg")
    with pytest.raises(InvalidInput, match="has decoder, last_patch, reg"):
        attention_spectrum(bolt, SLOW, query="eos")  # type: ignore[arg-type]
    with pytest.raises(MissingCapability, match="no tokens"):
        attention_spectrum(bolt, SLOW, num_decoder=1)
    with pytest.raises(InvalidInput, match="longer than tiny-bolt's"):
        attention_spectrum(bolt, multisine([0.5], steps=LENGTH + 2 * SIZE, duration=10))
    with pytest.raises(InvalidInput, match="less than two patches of 8 steps"):
        attention_spectrum(bolt, np.arange(15.0))
    with pytest.raises(InvalidInput, match="a constant series has no spectrum"):
        attention_spectrum(bolt, np.ones(40))
    with pytest.raises(InvalidInput, match="missing values at steps 3"):
        attention_spectrum(bolt, np.where(np.arange(40) == 3, np.nan, np.arange(40.0)))
