"""Every experiment there is, on small inputs, and its numbers: what should not depend on the state of the program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import circuits
import interp
import probes
from circuits.graph.attribution_patching import edge_attributions
from circuits.graph.subject import Subject
from interp.editing.edits import FreezePatterns
from tests.conftest import context, first_stack, masked_batch, other_tokens


def numbers(result: Any) -> list[Any]:
    """All arrays and numbers of a result, whatever it is."""
    if isinstance(result, Tensor):
        return [result.detach().cpu().double().numpy()]
    if isinstance(result, np.ndarray):
        return [result]
    if isinstance(result, bool | int | float):
        return [np.asarray(result)]
    if isinstance(result, pd.DataFrame):
        return [result.select_dtypes("number").to_numpy(dtype=float)]
    if isinstance(result, Mapping):
        # A capture too.
        return [array for value in result.values() for array in numbers(value)]
    if isinstance(result, Sequence) and not isinstance(result, str):
        return [array for value in result for array in numbers(value)]
    if is_dataclass(result):
        return [x for f in fields(result) if f.name != "provenance" for x in numbers(getattr(result, f.name))]
    return []


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether two results' numbers are the same, bit for bit."""
    return len(one) == len(other) and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, other, strict=True)
    )


def _series() -> Tensor:
    t = torch.arange(40, dtype=torch.float64)
    return torch.stack([torch.sin(2 * torch.pi * t / 8), torch.cos(2 * torch.pi * t / 5) + 2])


def _edited(model: interp.Model, batch: interp.Batch) -> Any:
    at, other = context(model), batch.rows(torch.tensor([1, 2, 3, 0]))  # its rows, in another order
    edits: list[list[Any]] = [
        [interp.Mean(f"{at}.0", other), interp.Scale("decoder.1.mlp_out", 2.0)],
        [interp.Resample(f"{at}.1", other_tokens(batch))],
        [FreezePatterns(batch), interp.Zero("decoder.0.resid_mid")],
        [interp.Knockout(f"{at}.2", key=-1)],
    ]
    found: list[Tensor] = []
    for items in edits:
        with interp.edited(model, items):
            found.append(interp.capture(model, batch, "decoder.logits")["decoder.logits"])
    return found


def experiments(model: interp.Model) -> dict[str, Callable[[], Any]]:
    """Each experiment by name, ready to run; all of them have one answer."""
    encoder = model.has_encoder
    batch, kind, at = masked_batch(encoder), ".".join(model.family.context), context(model)
    corrupt = other_tokens(batch)
    tokens = probes.repeated_random_tokens(seed=0, batch_size=3, sequence_length=5, repetitions=2, encoder=encoder)
    fresh = probes.repeated_random_tokens(seed=1, batch_size=3, sequence_length=5, repetitions=2, encoder=encoder)
    metric, heads = circuits.log_prob(5), model.heads(kind)[:2]
    mosaic = probes.induction_mosaic(model, tokens)

    def effects(of: str, **how: Any) -> Callable[[], Any]:
        return lambda: circuits.head_effects(model, tokens, of, progress=False, **how).values

    found: dict[str, Callable[[], Any]] = {
        "capture": lambda: interp.capture(model, batch, [str(site) for site in model.sites()]),
        "edited captures": lambda: _edited(model, batch),
        "head_effects": effects(kind),
        "head_effects, mean": effects(f"{first_stack(model)}.self", method="mean", reference=tokens),
        "layer_effects": lambda: circuits.layer_effects(model, tokens, progress=False),
        "self_repair": lambda: circuits.self_repair(model, tokens, heads, controls=1, progress=False),
        "mosaic_effects": lambda: circuits.mosaic_effects(model, tokens, heads[:1], controls=0, progress=False),
        "ablation_curve": lambda: circuits.ablation_curve(
            model, mosaic, fresh, counts=[1], controls=1, threshold=2.0, progress=False
        ),
        "induction_mosaic": lambda: probes.induction_mosaic(model, tokens),
        "attention_patterns": lambda: probes.attention_patterns(model, batch, heads),
        "position_loss": lambda: probes.position_loss(model, sequence_length=4, repetitions=2, batch_size=2),
        "patch_sites": lambda: circuits.patch_sites(model, batch, corrupt, metric, f"{at}.z"),
        "patch_heads": lambda: circuits.patch_heads(model, batch, corrupt, metric, progress=False),
        "gradients": lambda: [
            cache
            for g in [circuits.gradients(model, batch, metric, f"{kind}.*.z")]
            for cache in (g.values, g.gradients)
        ],
        "edge attributions": lambda: edge_attributions(Subject.of(model, batch, corrupt, metric, "resample")),
        "patch_edges": lambda: (
            circuits.patch_edges(model, batch, corrupt, metric, f"{at}.0 -> decoder.logits", progress=False).values
        ),
        "direct_attribution": lambda: circuits.direct_attribution(model, batch, target=5),
        "attribution_by_position": lambda: circuits.attribution_by_position(model, batch, target=5),
        "logit_lens": lambda: circuits.logit_lens(model, batch, target=5),
        "forecast_effects": lambda: circuits.forecast_effects(
            model, _series(), {"head": heads[0]}, prediction_length=4, num_samples=2, controls=1, progress=False
        ),
        "copying_scores": lambda: [
            score.values for score in circuits.copying_scores(model, sequence_length=4, batch_size=2).values()
        ],
        "composition_scores": lambda: circuits.composition_scores(model, progress=False).between(
            "decoder.self", kind, "Q"
        ),
    }
    return found
