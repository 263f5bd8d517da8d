"""Edits by position in generation: the same numbers whatever the cache, or a typed error."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import StaticCache
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

import interp
from interp import Batch, Knockout, Mean, Resample
from interp.errors import InvalidInput
from tests.tolerance import FORWARD, close

NEW = 4


def inputs_of(model: interp.Model) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids, decoder = (torch.randint(2, 4096, (2, n), generator=generator) for n in (9, 4))
    if model.has_encoder:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": decoder}
    return {"input_ids": decoder, "attention_mask": torch.ones_like(decoder)}


def generated(model: interp.Model, edits: Any, **how: Any) -> tuple[Tensor, Tensor]:
    """Tokens, and the logits of each step."""
    fixed: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    with interp.edited(model, edits):
        out = model.module.generate(
            **inputs_of(model), **fixed, return_dict_in_generate=True, output_logits=True, **how
        )
    return out.sequences, torch.stack(out.logits, 1)


@torch.no_grad()
def read_at_once(model: interp.Model, edits: Any, sequences: Tensor) -> Tensor:
    """The logits of the same steps, teacher-forced."""
    inputs = inputs_of(model)
    if model.has_encoder:
        inputs["decoder_input_ids"] = sequences[:, :-1]
    else:
        inputs = {"input_ids": sequences[:, :-1], "attention_mask": torch.ones_like(sequences[:, :-1])}
    with interp.edited(model, edits):
        return model.module(**inputs).logits[:, -NEW:]


def by_position(model: interp.Model) -> dict[str, Any]:
    """Edits by position, whose reference has as many positions as are run: a static cache has room for more."""
    generator = torch.Generator().manual_seed(5)
    decoder = torch.randint(2, 4096, (2, 4 + NEW), generator=generator)
    ids = torch.randint(2, 4096, (2, 9), generator=generator)
    source = Batch(ids, decoder_input_ids=decoder) if model.has_encoder else Batch(decoder_input_ids=decoder)
    at = "decoder.self.1"
    return {
        "z": Resample(f"{at}.0", source),
        "mean z": Mean(f"{at}.0", source, by_position=True),
        "pattern": Resample(f"{at}.pattern", source),
        "mean pattern": Mean(f"{at}.pattern", source, by_position=True),
        "scores": Resample(f"{at}.scores", source),
        "keys": Resample(f"{at}.k", source),
        "knockout": Knockout(f"{at}.0", query=5, key=[1, 3]),
        "lost": Knockout(f"{at}.0", key=5, renormalise=False),
    }


@pytest.mark.parametrize("how", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_positions_are_those_of_the_sequence_with_any_cache(either: interp.Model, how: dict[str, Any]) -> None:
    plain = generated(either, [])[1]
    for name, edit in by_position(either).items():
        sequences, logits = generated(either, edit, **how)
        assert not torch.allclose(logits, plain, atol=1e-3), name
        close(logits, read_at_once(either, edit, sequences), name, terms=FORWARD)


def roomy(model: interp.Model) -> Any:
    """A static cache of the user's own, with room for 30 tokens."""
    own = StaticCache(config=model.config, max_cache_len=30)
    return EncoderDecoderCache(own, DynamicCache()) if model.has_encoder else own


def test_negative_keys_count_from_the_last_token(either: interp.Model) -> None:
    """Not from the last slot of a static cache, which is empty, so that nothing would be cut."""
    for key in (-1, -2):
        edit = Knockout("decoder.self.1.0", key=key, renormalise=False)
        wanted, plain = generated(either, edit), generated(either, [])
        assert not torch.equal(wanted[1], plain[1])
        for how in ({"cache_implementation": "static"}, {"past_key_values": roomy(either)}):
            found = generated(either, edit, **how)
            assert torch.equal(found[0], wanted[0])
            close(found[1], wanted[1], terms=FORWARD)


def test_a_reference_need_not_fill_a_static_cache(either: interp.Model) -> None:
    edits = by_position(either)
    for name in ("pattern", "mean pattern", "scores"):
        sequences, logits = generated(either, edits[name], past_key_values=roomy(either))
        close(logits, read_at_once(either, edits[name], sequences), name, terms=FORWARD)


def test_a_cache_that_drops_the_oldest_is_refused(either: interp.Model) -> None:
    config = type(either.config)(**either.config.to_dict() | {"sliding_window": 5})
    own = DynamicCache(config=config)
    cache = EncoderDecoderCache(own, DynamicCache()) if either.has_encoder else own
    if not any(getattr(layer, "is_sliding", False) for layer in own.layers):
        pytest.skip("this release makes no sliding cache of such a config")
    with pytest.raises(InvalidInput, match="drops the oldest"):
        generated(either, Knockout("decoder.self.1.0", key=-1), past_key_values=cache)


def test_beams_and_several_sequences(either: interp.Model) -> None:
    """Rows of beams are those of their input; each beam's logits are those of its own tokens."""
    edits = by_position(either)
    for name in ("z", "pattern", "knockout"):
        for how in ({"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}):
            cached = generated(either, edits[name], **how)
            static = generated(either, edits[name], cache_implementation="static", **how)
            assert torch.equal(static[0], cached[0]), name
            close(static[1], cached[1], terms=FORWARD)
            if name != "knockout" and not either.has_encoder:
                # Beams that were run from the start again have parted: whose rows they are cannot be known.
                with pytest.raises(InvalidInput, match="2 rows and the run"):
                    generated(either, edits[name], use_cache=False, **how)
                continue
            plain = generated(either, edits[name], use_cache=False, **how)
            assert torch.equal(plain[0], cached[0]), name
            close(plain[1], cached[1], terms=FORWARD)


def test_a_cache_that_the_user_hands_on(either: interp.Model) -> None:
    """Scoring what follows a prompt that was read before."""
    from interp.inputs.forward_arguments import cache_name

    edit, inputs = by_position(either)["z"], inputs_of(either)
    name = cache_name(either.module.get_submodule(either.family.stacks["decoder"]))
    ids = "decoder_input_ids" if either.has_encoder else "input_ids"
    tokens = inputs[ids]
    with torch.no_grad(), interp.edited(either, edit):
        whole = either.module(**inputs).logits
        first: Any = dict(inputs) | {ids: tokens[:, :2], "use_cache": True}
        if not either.has_encoder:
            first["attention_mask"] = first["attention_mask"][:, :2]
        out = either.module(**first)
        rest: Any = dict(inputs) | {ids: tokens[:, 2:], name: getattr(out, name, None) or out.past_key_values}
        if either.has_encoder:
            del rest["input_ids"]
            rest["encoder_outputs"] = (out.encoder_last_hidden_state,)
        then = either.module(**rest).logits
    close(torch.cat([out.logits, then], 1), whole, terms=FORWARD)


def test_candidates_that_are_checked_together(either: interp.Model) -> None:
    """Assisted generation runs several new tokens at once and takes some back: steps still know where they are."""
    edit = Knockout("decoder.self.1.0", query=[5, 6], key=[1, 2])
    inputs = {name: value[:1] for name, value in inputs_of(either).items()}
    fixed: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    with interp.edited(either, edit):
        plain = either.module.generate(**inputs, **fixed)
    with interp.edited(either, edit):
        assisted = either.module.generate(**inputs, **fixed, prompt_lookup_num_tokens=2)
    assert torch.equal(plain, assisted)
