"""Tiny Chronos models whose tokens are not the published ones."""

from dataclasses import replace
from functools import cache
from typing import Any

from chronos import ChronosConfig, ChronosPipeline
from chronos.chronos import ChronosModel

import interp
from interp.zoo.recipe import chronos_config
from tests.conftest import tiny_gpt2, tiny_pipeline

ODD: dict[str, dict[str, Any]] = {
    "no EOS": {"use_eos_token": False},
    "four special": {"n_special_tokens": 4, "pad_token_id": 3, "eos_token_id": 2, "start": 3},
    "limits": {"tokenizer_kwargs": {"low_limit": -5.0, "high_limit": 5.0}},
    "few values": {
        "n_tokens": 104, "n_special_tokens": 4, "eos_token_id": 2, "start": 1, "vocab_size": 512,
        "tokenizer_kwargs": {"low_limit": -4.0, "high_limit": 6.0},
    },
    "few values, no EOS": {"n_tokens": 50, "n_special_tokens": 3, "use_eos_token": False, "start": 2},
    "starts with a value": {"start": 7},
    "starts beyond": {"n_tokens": 300, "vocab_size": 301, "start": 300},
}  # fmt: skip
"""What differs from the published tokens, by name; `start` is of the decoder beside an encoder."""

CASES = [(name, encoder) for name in ODD for encoder in (True, False) if encoder or name in list(ODD)[:5]]


def new_pipeline(name: str, encoder: bool) -> ChronosPipeline:
    """A pipeline as plain Chronos would open it."""
    changes = dict(ODD[name])
    start, vocab_size = changes.pop("start", 0), changes.pop("vocab_size", changes.get("n_tokens", 4096))
    chronos: ChronosConfig = replace(
        chronos_config(),
        **{"context_length": 40, "prediction_length": 5, "num_samples": 3, **changes},
        model_type="seq2seq" if encoder else "causal",
    )
    if encoder:
        return tiny_pipeline(
            chronos_config=vars(chronos), vocab_size=vocab_size, decoder_start_token_id=start,
            pad_token_id=chronos.pad_token_id, eos_token_id=chronos.eos_token_id, initializer_factor=3.0,
        )  # fmt: skip
    module = tiny_gpt2(chronos_config=vars(chronos), vocab_size=vocab_size)
    return ChronosPipeline(tokenizer=chronos.create_tokenizer(), model=ChronosModel(chronos, module))


@cache
def odd_pipeline(name: str, encoder: bool) -> ChronosPipeline:
    """The same one each time, to be left as it is."""
    return new_pipeline(name, encoder)


@cache
def odd(name: str, encoder: bool) -> interp.Model:
    """The same model, opened, to be left as it is."""
    return interp.wrap(new_pipeline(name, encoder), name=f"{name}-{'t5' if encoder else 'gpt2'}")
