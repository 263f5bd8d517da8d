"""T5 as `T5ForConditionalGeneration`, an encoder and a decoder: the architecture of the Chronos T5 models."""

from chronos import ChronosPipeline
from transformers import T5ForConditionalGeneration

from interp.models.families.family import Family

T5 = Family(
    name="T5",
    model_type="t5",
    architecture=T5ForConditionalGeneration,
    architectures=("T5ForConditionalGeneration",),
    pipeline=ChronosPipeline,
    inside="model.model",
    settings="model.config",
    chronos_type="seq2seq",
    needs_pipeline=True,
    reads="tokens",
    puts_out="logits",
    returns="logits",
    arguments={"use_cache": False},
    context=("decoder", "cross"),
    stacks={"encoder": "encoder", "decoder": "decoder"},
    blocks={"encoder": "encoder.block", "decoder": "decoder.block"},
    attention_paths={
        ("encoder", "self"): "encoder.block.{layer}.layer.0.SelfAttention",
        ("decoder", "self"): "decoder.block.{layer}.layer.0.SelfAttention",
        ("decoder", "cross"): "decoder.block.{layer}.layer.1.EncDecAttention",
    },
    attention_points={
        "q": ("q", "output", "heads", None),
        "k": ("k", "output", "heads", None),
        "v": ("v", "output", "heads", None),
        "scores": ("hook_scores", "output", "square", None),
        "pattern": ("hook_pattern", "output", "square", None),
        "z": ("o", "input", "heads", None),
        "attn_out": ("", "output", "stream", 0),
    },
    layer_points={
        ("encoder", "resid_pre"): ("encoder.block.{layer}", "input", None),
        ("encoder", "resid_mid"): ("encoder.block.{layer}.layer.0", "output", 0),
        ("encoder", "mlp_out"): ("encoder.block.{layer}.layer.1.DenseReluDense", "output", None),
        ("encoder", "resid_post"): ("encoder.block.{layer}", "output", 0),
        ("decoder", "resid_pre"): ("decoder.block.{layer}", "input", None),
        ("decoder", "resid_mid"): ("decoder.block.{layer}.layer.0", "output", 0),
        ("decoder", "resid_mid_cross"): ("decoder.block.{layer}.layer.1", "output", 0),
        ("decoder", "mlp_out"): ("decoder.block.{layer}.layer.2.DenseReluDense", "output", None),
        ("decoder", "resid_post"): ("decoder.block.{layer}", "output", 0),
    },
    stack_points={
        ("encoder", "ln_final"): ("encoder.final_layer_norm", "stream", None),
        ("decoder", "ln_final"): ("decoder.final_layer_norm", "stream", None),
        ("decoder", "logits"): ("lm_head", "tokens", None),
    },
    query_norms={
        ("encoder", "self"): "encoder.block.{layer}.layer.0.layer_norm",
        ("decoder", "self"): "decoder.block.{layer}.layer.0.layer_norm",
        ("decoder", "cross"): "decoder.block.{layer}.layer.1.layer_norm",
    },
    key_norms={
        ("encoder", "self"): "encoder.block.{layer}.layer.0.layer_norm",
        ("decoder", "self"): "decoder.block.{layer}.layer.0.layer_norm",
        ("decoder", "cross"): "encoder.final_layer_norm",
    },
    mlp_norms={
        "encoder": "encoder.block.{layer}.layer.1.layer_norm",
        "decoder": "decoder.block.{layer}.layer.2.layer_norm",
    },
    position_biases={
        ("encoder", "self"): "encoder.block.0.layer.0.SelfAttention",
        ("decoder", "self"): "decoder.block.0.layer.0.SelfAttention",
    },
    embeddings={"encoder": "encoder.embed_tokens", "decoder": "decoder.embed_tokens"},
    mask_argument="mask",
    mlp_width="d_ff",
    scales_unembedding=True,
    clamps_float16=True,
    ignored=(r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",),
)
