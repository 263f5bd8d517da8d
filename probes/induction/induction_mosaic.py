"""Induction mosaics, made by one forward pass on repeated random tokens, or on repeated random patches."""

from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from interp import Batch, Model, capture
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.models.model import as_model
from interp.names import Stack
from interp.results.by_head import over_rows, provenance
from interp.results.result import Floats
from probes.induction.mosaic import Mosaic
from probes.induction.patch_mosaic import PatchMosaic, patch_mosaic
from probes.stimuli.repeated_patches import RepeatedPatches, repeated_random_patches
from probes.stimuli.repeated_tokens import RepeatedTokens, context_site, repeated_random_tokens, stimulus_of


@overload
def induction_mosaic(model: Model, batch: RepeatedPatches) -> PatchMosaic: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def induction_mosaic(model: Model, batch: Batch | None = None, **stimulus: Any) -> Mosaic: ...


@checked
def induction_mosaic(model: Model, batch: Batch | None = None, **stimulus: Any) -> Mosaic | PatchMosaic:
    """Score all heads that read the past on repeated random tokens or patches.

    Args:
        model: the model. Its family says which heads: `decoder.cross`, or `decoder.self` without an encoder. Of a model
            of patches they are `decoder.cross`, and `encoder.self` at two queries.
        batch: what `repeated_random_tokens` made, or `repeated_random_patches` for a model of patches; or
        stimulus: its parameters, such as `sequence_length=10, repetitions=2, seed=0`; `encoder` is the model's.

    Returns:
        The mosaic, with standard errors over the rows of the batch. Of a model of patches a `PatchMosaic`: mosaics by
        query, beside those of four controls.

    Raises:
        InvalidInput: a batch that does not know its query and occurrences, rows of different numbers of tokens, or
            both a batch and parameters.

    Source: the published procedure; scores are read at the positions of the stimulus' formula.
    """
    if batch is not None and stimulus:
        raise InvalidInput(f"give a batch or its parameters ({', '.join(stimulus)}), not both.")
    if not as_model(model).reads_tokens:
        return patch_mosaic(model, _patches(model, batch, stimulus))
    has_encoder = model.has_encoder
    tokens = repeated_random_tokens(model=model, **stimulus) if batch is None else batch
    if not isinstance(tokens, RepeatedTokens):
        model.check(tokens)
        raise InvalidInput(
            "this batch does not know where its tokens repeat: make it with probes.repeated_random_tokens(...)."
        )
    stimulus_of(tokens, "induction_mosaic").check_occurrences()
    site = context_site(model)
    cache = capture(model, tokens, [f"{site}.*.pattern", "decoder.ln_final"])
    patterns = [cache[f"{layer}.pattern"] for layer in model.layers(site)]
    # Sums over occurrences are not to be rounded to bfloat16.
    paid = torch.stack([pattern[:, :, tokens.query] for pattern in patterns]).float()
    source = provenance(model, name="repeated_random_tokens", **tokens.parameters)

    stack: Stack = "encoder" if has_encoder else "decoder"
    shown = tokens.mask(stack)[:, : None if has_encoder else tokens.query + 1]
    counts = sorted(set(shown.sum(1).tolist()))
    if len(counts) > 1:
        raise InvalidInput(
            f"the rows hold {counts[0]} to {counts[-1]} tokens to look at, the rest is padding: chance is then another "
            "one in each. Pad all rows alike."
        )
    end = _ends(model, tokens)
    last = tokens.occurrences[-1]
    earlier = list(reversed(tokens.occurrences))
    return Mosaic(
        current_token=over_rows("current_token", site, paid[..., last], source),
        token_to_right=over_rows("token_to_right", site, paid[..., last + 1], source),
        n_tokens=int(counts[0]),
        eos=None if end is None else over_rows("eos", site, paid[:, range(len(tokens)), :, end].movedim(0, 1), source),
        occurrence_sum=over_rows("occurrence_sum", site, paid[..., earlier].sum(-1), source),
        current_by_occurrence=_mean(paid[..., earlier]),
        right_by_occurrence=_mean(paid[..., [position + 1 for position in earlier]]),
        bin_errors=_bin_errors(model, cache["decoder.ln_final"][:, tokens.query], tokens.continuation),
        provenance=source,
    )


def _patches(model: Model, batch: Batch | None, stimulus: dict[str, Any]) -> RepeatedPatches:
    """Return repeated patches: the batch if it is of them, or made with the parameters."""
    if batch is None:
        return repeated_random_patches(model, **stimulus)
    model.check(batch)
    if not isinstance(batch, RepeatedPatches):
        raise InvalidInput(
            "this batch does not know where its patches repeat: make it with "
            "probes.repeated_random_patches(model, ...)."
        )
    return batch


def _mean(paid: Tensor) -> Floats:
    """Return the mean over the batch, which is axis 1 of `[layer, batch, head, ...]`."""
    return paid.cpu().double().mean(1).numpy()


@torch.no_grad()
def _bin_errors(model: Model, ln_final: Tensor, continuation: Tensor) -> Floats:
    # NumPy's argmax is several times faster than torch's over a vocabulary on a CPU.
    guess = model.unembed(ln_final).float().cpu().numpy().argmax(-1)
    errors = np.abs(guess - continuation.numpy()).astype(np.float64)
    # A special token is no number of bins away, however near its id.
    if model.tokens_are_values:
        errors[~model.vocabulary.are_values(torch.from_numpy(guess)).numpy()] = np.nan
    return errors


def _ends(model: Model, tokens: RepeatedTokens) -> Tensor | None:
    """Return where each row of the encoder's tokens ends with EOS, `[row]`; None where one does not."""
    eos = model.vocabulary.eos if tokens.has_encoder else None
    if eos is None:
        return None
    end = tokens.position(-1, "encoder")
    return end if bool((tokens.input_ids[range(len(tokens)), end] == eos).all()) else None
