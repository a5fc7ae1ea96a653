"""Tiny random models of every family (no network), and the real model. A plugin of `tests/conftest.py`.

Sizes are odd on purpose: query heads differ from key heads, `n_heads * d_head` from `d_model` where a family allows
it, and `d_mlp` from both, so a transposed or mistaken matrix cannot fit. Biases and norms are random: a forgotten one
shows. The sliding window is shorter than the texts.
"""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from trimtab.steering.model.families import FAMILIES
from trimtab.steering.model.load import load_model

torch.set_num_threads(1)  # where the environment asked for more before

SIZES = {
    "vocab_size": 61,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 12}  # 4 heads x 12 = 48, not 40
SLIDING = {"sliding_window": 5}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GPT2 = {"vocab_size": 61, "n_embd": 40, "n_layer": 3, "n_head": 4, "n_inner": 56, "n_positions": 64}
GEMMA3 = {**WIDE, **SLIDING, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip

# Family (or family/variant, where a configuration changes the anatomy) -> arguments of its configuration.
TINY: dict[str, dict] = {
    "llama": {**WIDE, "attention_bias": True, "mlp_bias": True},
    "llama/plain": GROUPED,
    "mistral": {**WIDE, **SLIDING},
    "ministral": {**WIDE, **SLIDING},
    "qwen2": WIDE,
    "qwen3": WIDE,
    "gemma": WIDE,
    "phi3": {**GROUPED, "pad_token_id": 0},
    "smollm3": {**GROUPED, "pad_token_id": 0},
    "olmo": WIDE,
    "seed_oss": {**WIDE, "attention_out_bias": True},
    "gemma2": {**WIDE, **SLIDING},
    "gemma3_text": GEMMA3,
    "gemma3": {
        "text_config": GEMMA3, "vision_config": VISION, "mm_tokens_per_image": 4,
        "boi_token_index": 58, "eoi_token_index": 59, "image_token_index": 60,
    },
    "olmo2": WIDE,
    "olmo3": {**WIDE, **SLIDING},
    "gpt2": GPT2,
    "gpt_neo": {
        "vocab_size": 61, "hidden_size": 40, "num_layers": 4, "num_heads": 4, "intermediate_size": 56,
        "attention_types": [[["global", "local"], 2]], "window_size": 5, "max_position_embeddings": 64,
    },
    "gptj": {**GPT2, "rotary_dim": 4},
    "gpt_neox": {**SIZES, "use_parallel_residual": True},
    "gpt_neox/sequential": {**SIZES, "use_parallel_residual": False},
    "opt": {**SIZES, "ffn_dim": 56, "word_embed_proj_dim": 40, "max_position_embeddings": 64},
    "phi": {**GROUPED, "partial_rotary_factor": 0.4},
    "stablelm": GROUPED,
    "stablelm/parallel": {**GROUPED, "use_parallel_residual": True, "use_qkv_bias": True},
    "starcoder2": WIDE,
    "cohere": {**GROUPED, "logit_scale": 1.0},
    "qwen2_moe": {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**WIDE, **EXPERTS},
    "mixtral": {**WIDE, **EXPERTS},
    "olmoe": {**GROUPED, **EXPERTS},
    "granite": {
        **WIDE, "residual_multiplier": 0.22, "embedding_multiplier": 3.0, "attention_multiplier": 0.3,
        "logits_scaling": 2.0, "attention_bias": True, "mlp_bias": True,
    },
}  # fmt: skip
# Families with a row of a family above: tests/laws/test_like_families.py holds for them, the other laws for the above.
ROUTED = {**EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 10}
LIKE: dict[str, dict] = {
    "arcee": WIDE,
    "apertus": WIDE,
    "bloom": {"vocab_size": 61, "hidden_size": 40, "n_layer": 3, "n_head": 4},
    "mpt": {"vocab_size": 61, "d_model": 40, "n_layers": 3, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 64},
    "falcon": {**SIZES, "new_decoder_architecture": True, "num_kv_heads": 2},
    "diffllama": GROUPED,
    "internlm3": WIDE,
    "nanochat": GROUPED,
    "granitemoe": {**GROUPED, **EXPERTS, "residual_multiplier": 0.22},
    "cwm": {**WIDE, **SLIDING},
    "ernie4_5": WIDE,
    "glm": WIDE,
    "hunyuan_v1_dense": WIDE,
    "ministral3": WIDE,
    "nemotron": WIDE,
    "deepseek_v3": {**SIZES, **ROUTED, **LATENT, "num_key_value_heads": 4, "first_k_dense_replace": 1},
    "glm4_moe": {**WIDE, **ROUTED, "first_k_dense_replace": 1},
    "gpt_oss": {**WIDE, **EXPERTS, **SLIDING},
    "bitnet": GROUPED,
    "jais2": WIDE,
    "vaultgemma": {**WIDE, **SLIDING},
    "deepseek_v2": {**SIZES, **ROUTED, **LATENT, "num_key_value_heads": 4, "first_k_dense_replace": 1},
    "dots1": {**WIDE, **ROUTED, "first_k_dense_replace": 1},
    "ernie4_5_moe": {**WIDE, **ROUTED, "moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1},
    "exaone_moe": {**WIDE, **ROUTED},
    "hunyuan_v1_moe": {**WIDE, **EXPERTS, "moe_topk": 2},
    "mellum": {**WIDE, **EXPERTS},
    "mimo_v2_flash": {**WIDE, **ROUTED},
    "minimax_m2": {**WIDE, **EXPERTS},
    "phimoe": {**WIDE, **EXPERTS},
    "solar_open": {**WIDE, **ROUTED},
    "llama4_text": {**WIDE, **EXPERTS, "intermediate_size_mlp": 56},
    "flex_olmo": {**GROUPED, **EXPERTS},
    "gpt_bigcode": GPT2,
    "cohere2": {**WIDE, **SLIDING, "logit_scale": 1.0},
    "exaone4": {**WIDE, **SLIDING},
    "glm4": WIDE,
}
NO_TOKENS = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}

FAMILY_NAMES = sorted(TINY.keys() | (FAMILIES.keys() - LIKE.keys()))


@cache
def build(name: str) -> PreTrainedModel:
    """The tiny model of a family, float32, in eval mode, made once per session. Do not change its weights."""
    sizes = {**TINY, **LIKE}
    if name not in sizes:
        pytest.fail(f"family '{name}' has a row in FAMILIES but no tiny configuration in tests/tiny_models.py: add one")
    arguments = {**NO_TOKENS, **sizes[name]}
    config = AutoConfig.for_model(name.partition("/")[0], **arguments)
    config.get_text_config().eos_token_id = None  # generations in tests have a given length
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        randomise(model)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def randomise(model: PreTrainedModel) -> None:
    """Matrices of unit gain; vectors (biases, norms) away from where they start."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))


@pytest.fixture(scope="session")
def build_tiny() -> Callable[[str], PreTrainedModel]:
    """`build_tiny("llama")`: a tiny model by the name of its family; see FAMILY_NAMES."""
    return build


@pytest.fixture(scope="session", params=FAMILY_NAMES)
def family_name(request) -> str:
    """Every family, one after another."""
    return request.param


@pytest.fixture(scope="session", params=sorted(LIKE))
def like_name(request) -> str:
    """Every family that shares the row of one of those."""
    return request.param


@pytest.fixture(scope="session")
def like(like_name: str) -> PreTrainedModel:
    """A tiny model of each."""
    return build(like_name)


@pytest.fixture(scope="session")
def tiny(family_name: str) -> PreTrainedModel:
    """A tiny model of every family, one after another."""
    return build(family_name)


@pytest.fixture(scope="session")
def tiny_llama() -> PreTrainedModel:
    """One tiny model, where the family does not matter."""
    return build("llama")


@pytest.fixture(scope="session")
def real_model():
    """(model, tokenizer) of the embedded SmolLM2-135M-Instruct."""
    return load_model("smollm2")
