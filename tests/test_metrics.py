"""Metrics of logits: the numbers by hand."""

import torch

import interp
import probes
from circuits.metrics import bin_centers, expected_value
from probes.stimuli import N_SPECIAL


def test_a_certain_forecast_is_worth_its_token(model: interp.Model) -> None:
    """Each token's value is what the pipeline itself decodes it to; the two lowest decode to the same bin."""
    tokens = torch.tensor([2, 3, 1000, 2049, 4095])
    logits = torch.full((len(tokens), 1, model.d_vocab), -1e4)
    logits[torch.arange(len(tokens)), 0, tokens] = 0
    torch.testing.assert_close(expected_value(model)(logits), probes.token_values(model, tokens))
    everything = probes.token_values(model, torch.arange(N_SPECIAL, model.d_vocab)).double()
    torch.testing.assert_close(bin_centers(model), everything)
