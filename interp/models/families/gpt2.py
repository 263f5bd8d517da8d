"""GPT-2 as `GPT2LMHeadModel`, a decoder alone: the architecture of Chronos' causal models, and of GPT-2 itself."""

from chronos import ChronosPipeline
from transformers import GPT2LMHeadModel

from interp.models.families.family import Family

GPT2 = Family(
    name="GPT-2",
    model_type="gpt2",
    architecture=GPT2LMHeadModel,
    architectures=("GPT2LMHeadModel", "GPT2Model"),
    pipeline=ChronosPipeline,
    inside="model.model",
    settings="model.config",
    chronos_type="causal",
    needs_pipeline=False,
    reads="tokens",
    puts_out="logits",
    returns="logits",
    arguments={"use_cache": False},
    context=("decoder", "self"),
    stacks={"decoder": "transformer"},
    blocks={"decoder": "transformer.h"},
    attention_paths={("decoder", "self"): "transformer.h.{layer}.attn"},
    attention_points={
        "q": ("c_attn", "output", "heads", None),
        "k": ("c_attn", "output", "heads", None),
        "v": ("c_attn", "output", "heads", None),
        "scores": ("hook_scores", "output", "square", None),
        "pattern": ("hook_pattern", "output", "square", None),
        "z": ("c_proj", "input", "heads", None),
        "attn_out": ("", "output", "stream", 0),
    },
    parts={"q": (0, 3), "k": (1, 3), "v": (2, 3)},
    layer_points={
        ("decoder", "resid_pre"): ("transformer.h.{layer}", "input", None),
        # The block adds the attention's output itself: the sum is seen where the next norm takes it in, and the
        # block goes on with the very same tensor.
        ("decoder", "resid_mid"): ("transformer.h.{layer}.ln_2", "input", None),
        ("decoder", "mlp_out"): ("transformer.h.{layer}.mlp", "output", None),
        ("decoder", "resid_post"): ("transformer.h.{layer}", "output", None),
    },
    shared=frozenset({"resid_mid"}),
    stack_points={
        ("decoder", "ln_final"): ("transformer.ln_f", "stream", None),
        ("decoder", "logits"): ("lm_head", "tokens", None),
    },
    query_norms={("decoder", "self"): "transformer.h.{layer}.ln_1"},
    key_norms={("decoder", "self"): "transformer.h.{layer}.ln_1"},
    mlp_norms={"decoder": "transformer.h.{layer}.ln_2"},
    position_biases={},
    embeddings={"decoder": "transformer.wte"},
    position_embedding="transformer.wpe",
    columns_first=True,
    mask_argument="attention_mask",
    mlp_width="n_inner",
    ignored=(r"(^|\.)h\.\d+\.attn\.(masked_)?bias$",),
)
