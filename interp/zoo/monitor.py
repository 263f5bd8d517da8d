"""What is watched while a bundled model trains: does it continue a repeated random sequence?

This reads Hugging Face's own `output_attentions`, not the toolkit's hook points, so that the
figures a model ships with are an independent check on the instrument.

Source: the published procedure, "Hunting for Induction Heads in Amazon's Chronos", part 2.
"""

from typing import Any

import numpy as np
import torch
from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

from interp.inputs.vocabulary import PUBLISHED_START, published_config
from interp.zoo.made_series import NARROW

ROWS = 100


@torch.no_grad()
def induction_snapshot(module: T5ForConditionalGeneration) -> dict[str, Any]:
    """Measure accuracy and cross-attention on `ABC...J ABC...J A <EOS> | <START> B`: 100 rows, always the same.

    Args:
        module: a T5 opened with eager attention, on any device.

    Returns:
        `accuracy` of the token after B, and the mean attention by cross head from B to its last
        earlier occurrence (`current_token`) and to the one after (`token_to_right`), as nested
        lists `[layer][head]`.
    """
    length = 10
    tokens = np.random.default_rng(0).integers(NARROW[0], NARROW[1] + 1, (ROWS, length))
    end, start = (np.full((ROWS, 1), special) for special in (published_config().eos_token_id, PUBLISHED_START))
    encoder = torch.from_numpy(np.concatenate([tokens, tokens, tokens[:, :1], end], axis=1))
    decoder = torch.from_numpy(np.concatenate([start, tokens[:, 1:2]], axis=1))
    out = module(
        input_ids=encoder.to(module.device),
        decoder_input_ids=decoder.to(module.device),
        output_attentions=True,
        use_cache=False,
    )
    guess = out.logits[:, -1].argmax(-1).cpu().numpy()
    paid = torch.stack([layer[:, :, -1].float().mean(0) for layer in out.cross_attentions]).cpu()
    return {
        "accuracy": float((guess == tokens[:, 2]).mean()),
        "current_token": paid[:, :, length + 1].tolist(),
        "token_to_right": paid[:, :, length + 2].tolist(),
    }


@torch.no_grad()
def causal_snapshot(module: GPT2LMHeadModel) -> dict[str, Any]:
    """Measure a decoder-only model's losses, accuracy and attention on `ABC...X ABC...X`: 100 rows, always the same.

    Args:
        module: a GPT-2 opened with eager attention, on any device.

    Returns:
        `first_half` and `second_half`, the mean cross-entropy in nats of the tokens of each half (but
        the first of all, which nothing predicts, and the first of the second half, which nothing could);
        `accuracy` on the same tokens of the second half; and by head, as nested lists `[layer][head]`,
        `induction`, the mean attention `length - 1` places back over the queries of the second half,
        and `previous_token`, one place back over all queries but the first.
    """
    length = 24
    tokens = np.random.default_rng(0).integers(NARROW[0], NARROW[1] + 1, (ROWS, length))
    ids = torch.from_numpy(np.concatenate([tokens, tokens], axis=1)).to(module.device)
    out = module(input_ids=ids, output_attentions=True, use_cache=False)
    logits, wanted = out.logits[:, :-1].float(), ids[:, 1:]
    lost = torch.nn.functional.cross_entropy(logits.mT, wanted, reduction="none")
    right = logits.argmax(-1) == wanted
    paid = torch.stack([layer.float().mean(0) for layer in out.attentions]).cpu()
    back = paid.diagonal(1 - length, dim1=-2, dim2=-1)
    return {
        "first_half": float(lost[:, : length - 1].mean()),
        "second_half": float(lost[:, length:].mean()),
        "accuracy": float(right[:, length:].double().mean()),
        "induction": back[..., 1:].mean(-1).tolist(),
        "previous_token": paid.diagonal(-1, dim1=-2, dim2=-1).mean(-1).tolist(),
    }
