"""Models whose weights are written by hand, so that their scores are known on paper."""

import torch

import interp
from tests.conftest import tiny_pipeline


def content_matcher(sharpness: float = 40.0) -> interp.Model:
    """A model whose head `decoder.cross.1.2` matches the query's token and nothing else.

    Every attention and MLP writes nothing, so each residual stream is the token's embedding to the
    end; W_Q and W_K of that head are the same projection. All other heads attend uniformly.
    """
    pipeline = tiny_pipeline(d_model=64, d_kv=64, num_heads=3, num_layers=2, num_decoder_layers=2)
    module = pipeline.model.model
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith((".o.weight", ".wo.weight", ".q.weight", ".relative_attention_bias.weight")):
                weight.zero_()
        cross = module.get_submodule("decoder.block.1.layer.1.EncDecAttention")
        rows = slice(2 * 64, 3 * 64)
        cross.q.weight[rows] = torch.eye(64) * sharpness / 64  # type: ignore[index]
        cross.k.weight[rows] = torch.eye(64)  # type: ignore[index]
    return interp.wrap(pipeline, name="content-matcher")
