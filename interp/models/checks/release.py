"""The check on opening that the installed releases of transformers and chronos are as the toolkit reads them.

1. Every module at which a site lives goes by the name that the family's tables give it.
2. Chronos' tokenizer gives the token whose value it decodes to, leaves missing values out, and takes a scale of
   another series, which `Batch.from_series` hands to a method that Chronos does not promise.
3. A model of values cuts a series into the patches that a batch says it does.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from interp.errors import BrokenHook, UnsupportedModel, release

if TYPE_CHECKING:
    from interp.models.model import Model


def check_names(model: "Model") -> None:
    """Check that every module at which a site or an attention layer lives is there.

    Raises:
        BrokenHook: a module goes by another name.
    """
    family, module = model.family, model.module
    _find(model, module, list(family.blocks.values()))
    paths = [family.point(site).path for site in family.sites(model.n_layers)]
    paths += [*family.stacks.values(), *family.embeddings.values(), *family.position_biases.values()]
    paths += [family.position_embedding] if family.position_embedding else []
    paths += [family.patches.values] if family.patches else []
    for layer in model.layers():
        paths += [family.attention_path(layer)]
        paths += [
            norms[layer.stack, layer.kind].format(layer=layer.layer) for norms in (family.query_norms, family.key_norms)
        ]
        paths += [family.mlp_norms[layer.stack].format(layer=layer.layer)]
    # Hook points are attached once the rest is known to be there.
    _find(model, module, [path for path in dict.fromkeys(paths) if "hook_" not in path])


def _find(model: "Model", module: PreTrainedModel, paths: list[str]) -> None:
    for path in paths:
        try:
            module.get_submodule(path)
        except AttributeError:
            raise BrokenHook(
                f"{model.name}: {type(module).__name__} has no module {path}: {release('transformers')} is not "
                "supported. Install another release of it."
            ) from None


def check_tokenizer(model: "Model") -> None:
    """Check that Chronos' own tokenizer encodes what it decodes, with a given scale and with its own.

    Raises:
        BrokenHook: it does not, or lacks what is called.
        UnsupportedModel: it cannot by its config, whatever the release.
    """
    if not model.tokens_are_values:
        return
    try:
        _ = model.vocabulary
        right = _encodes_what_it_decodes(model.pipeline.tokenizer)
    except UnsupportedModel:
        raise
    except (AttributeError, TypeError, ValueError, RuntimeError):
        right = False
    if not right:
        raise BrokenHook(
            f"{model.name}: the tokenizer does not encode a series as the toolkit reads it: "
            f"{release('chronos-forecasting')} is not supported. Install another release of it."
        )


def _encodes_what_it_decodes(tokenizer: Any) -> bool:
    centers = tokenizer.centers
    values = centers[[len(centers) // 4, len(centers) // 2, 3 * len(centers) // 4]]
    series, scale = torch.cat([values, values.new_tensor([torch.nan])])[None] * 2, values.new_tensor([2.0])
    ids, mask, same = tokenizer._input_transform(context=series, scale=scale)
    decoded = tokenizer.output_transform(ids[:, None, :3], scale)[0, 0]
    own, shown, own_scale = tokenizer.context_input_transform(series)
    again = tokenizer._input_transform(context=series, scale=own_scale)[0]
    length = min(4, tokenizer.config.context_length)
    return (
        torch.equal(decoded, values * 2)
        and torch.equal(same, scale)
        and mask.tolist() == [[True, True, True, False]]
        and int(ids[0, 3]) == tokenizer.config.pad_token_id
        and torch.equal(own[:, :length], again[:, -length:])
        and torch.equal(shown[:, :length], mask[:, -length:])
    )


def check_patches(model: "Model") -> None:
    """Check that a model of values cuts a series into patches as a batch says, and that its quantile levels ascend.

    Raises:
        BrokenHook: it cuts it otherwise.
        UnsupportedModel: patches that overlap or leave steps out, or levels that do not ascend from 0 to 1.
    """
    if model.reads_tokens:
        return
    levels, patching = model.levels, model.patching
    if not levels or not all(low < high for low, high in pairwise((0.0, *levels, 1.0))):
        raise UnsupportedModel(f"{model.name}: its quantile levels are {levels}: they must ascend between 0 and 1.")
    steps = 2 * patching.size + 1
    series = torch.arange(steps, dtype=torch.float32)[None]
    try:
        right = torch.equal(model.module.patch(series).nan_to_num(-1), patching.cut(series).nan_to_num(-1))
    except (AttributeError, TypeError, ValueError, RuntimeError):
        right = False
    if not right:
        raise BrokenHook(
            f"{model.name}: it does not cut series into {patching} as the toolkit reads it: "
            f"{release('chronos-forecasting')} is not supported. Install another release of it."
        )
