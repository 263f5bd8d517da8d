"""What is watched while a bundled model trains: does it continue a repeated random sequence?

This reads Hugging Face's own `output_attentions`, not the toolkit's hook points, so that the
figures a model ships with are an independent check on the instrument.

Source: the published procedure, "Hunting for Induction Heads in Amazon's Chronos", part 2.
"""

from typing import Any

import numpy as np
import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

from interp.inputs.vocabulary import PUBLISHED_START, published_config
from interp.zoo.made_series import NARROW, patch_motifs
from interp.zoo.recipe import FEW_COEFFICIENTS, PATCH

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


@torch.no_grad()
def patch_snapshot(module: ChronosBoltModelForForecasting) -> dict[str, Any]:
    """Measure forecasts and attention on `P1..P5 P1..P5 P1 P2`, which P3 and P4 follow: 100 rows, always the same.

    Args:
        module: a Chronos-Bolt opened with eager attention, on any device.

    Returns:
        `pinball`, the median's mean pinball loss on P3 and P4, in deviations of the context, and
        `pinball_unrepeated`, the same where every patch is another; and on the repeated patches, as nested lists
        `[layer][head]`, the mean attention to the two patches after the last one's earlier occurrences
        (`token_to_right`) or to these (`current_token`): of encoder heads from [REG] (`reg_token_to_right`), of cross
        heads from the decoder.
    """
    period, context, following = 5, 12, 2
    stimuli = [
        patch_motifs(
            np.random.default_rng(0), np.full(ROWS, after), np.full(ROWS, FEW_COEFFICIENTS), context + following, PATCH
        )
        for after in (period, context + following)
    ]
    scores: dict[str, Any] = {}
    for name, values in zip(("pinball", "pinball_unrepeated"), stimuli, strict=True):
        known, truth = torch.from_numpy(values).float().to(module.device).split(context * PATCH, dim=1)
        middle = module(context=known).quantile_preds[:, module.num_quantiles // 2, : following * PATCH]
        deviation = known.std(1, correction=0, keepdim=True)
        scores[name] = float(((middle - truth).abs() / 2 / deviation).mean())
    hidden, _, embedded, mask = module.encode(
        torch.from_numpy(stimuli[0][:, : context * PATCH]).float().to(module.device)
    )
    encoder = module.encoder(attention_mask=mask, inputs_embeds=embedded, output_attentions=True)
    start = torch.full((ROWS, 1), module.config.decoder_start_token_id, device=module.device)
    decoder = module.decoder(
        input_ids=start, encoder_hidden_states=hidden, encoder_attention_mask=mask, output_attentions=True
    )
    earlier = list(range((context - 1) % period, context - 1, period))
    for prefix, layers in (("reg_", encoder.attentions), ("", decoder.cross_attentions)):
        paid = torch.stack([layer[:, :, -1].float().mean(0) for layer in layers]).cpu()
        scores[f"{prefix}current_token"] = paid[..., earlier].sum(-1).tolist()
        scores[f"{prefix}token_to_right"] = paid[..., [place + 1 for place in earlier]].sum(-1).tolist()
    return scores
