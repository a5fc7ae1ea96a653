"""Model families as data: one row says where everything is. A row is a claim; `anatomy.prove` tests it on load.

To add a family, add its row here and nothing else. Paths are relative to the causal-LM model (`blocks`, `embed`)
or to a block (the rest). `attn_added`/`mlp_added` name the module whose output is *exactly what is added to the
residual*: behind the extra norm in gemma2, gemma3 and olmo2, the module itself elsewhere. `mid_input` names the
module whose input is resid_mid.
"""

from dataclasses import dataclass, replace

from transformers import PretrainedConfig

from trimtab.steering.errors import UnsupportedModel


@dataclass(frozen=True)
class Family:
    """Where things are in one model family.

    blocks, embed: dotted paths from the causal-LM model. attn, out_proj, attn_added, mlp_added, down_proj,
    mid_input: dotted paths from a block. parallel: attention and MLP read the same input, so resid_mid does not
    exist. post_norm: a norm stands between a projection and the residual, so only `z` and `mlp_post` fold.
    entry: dotted path of the module whose forward gets the tokens, where that is not the base model (OPT's head calls
    the decoder inside it directly). multiplier: the name in the configuration of the number that each sublayer's output
    is multiplied by when it is added to the residual (granite). in_place: a block adds to a sublayer's output in the
    same memory (falcon), so that hooks hand on copies.
    """

    blocks: str = "model.layers"
    embed: str = "model.embed_tokens"
    attn: str = "self_attn"
    out_proj: str = "self_attn.o_proj"
    attn_added: str = "self_attn"
    mlp_added: str = "mlp"
    down_proj: str | None = "mlp.down_proj"
    mid_input: str | None = "post_attention_layernorm"
    parallel: bool = False
    post_norm: bool = False
    entry: str | None = None
    multiplier: str | None = None
    in_place: bool = False


_LLAMA = Family()
_EXPERTS = replace(_LLAMA, down_proj=None)  # a mixture of experts: no one projection writes the MLP's output
_GEMMA2 = Family(
    attn_added="post_attention_layernorm",
    mlp_added="post_feedforward_layernorm",
    mid_input="pre_feedforward_layernorm",
    post_norm=True,
)
_GRANITE = replace(_LLAMA, multiplier="residual_multiplier")
_OLMO2 = replace(_GEMMA2, mid_input="mlp")
_NEOX = Family(
    blocks="gpt_neox.layers",
    embed="gpt_neox.embed_in",
    attn="attention",
    out_proj="attention.dense",
    attn_added="attention",
    down_proj="mlp.dense_4h_to_h",
)
_GPT2 = Family(
    blocks="transformer.h",
    embed="transformer.wte",
    attn="attn",
    out_proj="attn.c_proj",
    attn_added="attn",
    down_proj="mlp.c_proj",
    mid_input="ln_2",
)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "ministral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "phi3": _LLAMA,
    "smollm3": _LLAMA,
    "olmo": _LLAMA,
    "seed_oss": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": replace(_GEMMA2, blocks="model.language_model.layers", embed="model.language_model.embed_tokens"),
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "gpt2": _GPT2,
    "gpt_neo": replace(_GPT2, out_proj="attn.attention.out_proj"),
    "gptj": replace(_GPT2, out_proj="attn.out_proj", down_proj="mlp.fc_out", mid_input=None, parallel=True),
    "gpt_neox": _NEOX,
    "opt": Family(
        blocks="model.decoder.layers",
        embed="model.decoder.embed_tokens",
        out_proj="self_attn.out_proj",
        mlp_added="fc2",
        down_proj="fc2",
        mid_input="final_layer_norm",
        entry="model.decoder",
    ),
    "phi": Family(out_proj="self_attn.dense", down_proj="mlp.fc2", mid_input=None, parallel=True),
    "stablelm": _LLAMA,
    "starcoder2": replace(_LLAMA, down_proj="mlp.c_proj"),
    "cohere": replace(_LLAMA, mid_input=None, parallel=True),
    "qwen2_moe": replace(_LLAMA, down_proj=None),
    "qwen3_moe": replace(_LLAMA, down_proj=None),
    "mixtral": replace(_LLAMA, down_proj=None),
    "olmoe": replace(_LLAMA, down_proj=None),
    "granite": _GRANITE,
    # The rows above, in other families.
    "apertus": replace(_LLAMA, mid_input="feedforward_layernorm"),
    "bloom": Family(  # attention and MLP add the residual themselves, so what they add is their last projection's
        blocks="transformer.h",
        embed="transformer.word_embeddings",
        attn="self_attention",
        out_proj="self_attention.dense",
        attn_added="self_attention.dense",
        mlp_added="mlp.dense_4h_to_h",
        down_proj="mlp.dense_4h_to_h",
    ),
    "mpt": Family(  # the MLP adds the residual itself
        blocks="transformer.blocks",
        embed="transformer.wte",
        attn="attn",
        out_proj="attn.out_proj",
        attn_added="attn",
        mlp_added="ffn.down_proj",
        down_proj="ffn.down_proj",
        mid_input="norm_2",
    ),
    "falcon": Family(
        blocks="transformer.h",
        embed="transformer.word_embeddings",
        attn="self_attention",
        out_proj="self_attention.dense",
        attn_added="self_attention",
        down_proj="mlp.dense_4h_to_h",
        in_place=True,
    ),
    "diffllama": _LLAMA,
    "internlm3": _LLAMA,
    "nanochat": replace(_LLAMA, down_proj="mlp.fc2"),
    "granitemoe": replace(_GRANITE, mlp_added="block_sparse_moe", down_proj=None),
    "arcee": _LLAMA,
    "cwm": _LLAMA,
    "ernie4_5": _LLAMA,
    "glm": _LLAMA,
    "hunyuan_v1_dense": _LLAMA,
    "ministral3": _LLAMA,
    "nemotron": _LLAMA,
    "deepseek_v3": replace(_LLAMA, down_proj=None),
    "glm4_moe": replace(_LLAMA, down_proj=None),
    "gpt_oss": replace(_LLAMA, down_proj=None),
    "bitnet": _LLAMA,
    "jais2": _LLAMA,
    "vaultgemma": replace(_LLAMA, mid_input="pre_feedforward_layernorm"),
    "deepseek_v2": _EXPERTS,
    "dots1": _EXPERTS,
    "ernie4_5_moe": _EXPERTS,
    "exaone_moe": _EXPERTS,
    "hunyuan_v1_moe": _EXPERTS,
    "mellum": _EXPERTS,
    "mimo_v2_flash": _EXPERTS,
    "minimax_m2": _EXPERTS,
    "phimoe": _EXPERTS,
    "solar_open": _EXPERTS,
    "llama4_text": replace(_EXPERTS, mlp_added="feed_forward", entry="model"),
    "flex_olmo": replace(_OLMO2, down_proj=None),
    "gpt_bigcode": _GPT2,
    "cohere2": replace(_LLAMA, mid_input=None, parallel=True),
    "exaone4": _OLMO2,
    "glm4": replace(
        _GEMMA2,
        attn_added="post_self_attn_layernorm",
        mlp_added="post_mlp_layernorm",
        mid_input="post_attention_layernorm",
    ),
}

_RECURRENT = "has blocks without attention heads (linear attention, state spaces or convolutions), which no row can say"
_ALTUP = "has four residual streams side by side (AltUp), so no one tensor is the residual stream"
# Families without a row, with the reason: each was built, tiny and random, and tried with the nearest row
# (tests/test_families_table.py), but for those that UNTRIED names.
REFUSED: dict[str, str] = {
    "granitemoehybrid": _RECURRENT,
    "gemma3n": _ALTUP,
    "gemma3n_text": _ALTUP,
    "qwen3_next": _RECURRENT,
    "qwen3_5": _RECURRENT,
    "qwen3_5_text": _RECURRENT,
    "olmo_hybrid": _RECURRENT,
    "lfm2": _RECURRENT,
    "jamba": _RECURRENT,
    "bamba": _RECURRENT,
    "falcon_h1": "adds a state space's output to the attention's in each block, which no row can say",
    "mamba": _RECURRENT,
}
UNTRIED = ("gemma3n", "qwen3_5")  # with images; their text models were tried


def family_of(config: PretrainedConfig) -> Family:
    """The row for this configuration. Raises UnsupportedModel with how to add one.

    Some families are parallel only by configuration (gpt_neox, stablelm, falcon), and OPT-350m normalises after adding.
    """
    row = FAMILIES.get(config.model_type)
    if config.model_type in REFUSED:
        raise UnsupportedModel(
            f"model family '{config.model_type}' {REFUSED[config.model_type]}; `trimtab doctor --families` lists those "
            f"that are supported"
        )
    if row is None:
        raise UnsupportedModel(
            f"model family '{config.model_type}' has no row, so no site can be resolved in it. Known: "
            f"{', '.join(sorted(FAMILIES))}. Add its row to steering/model/families.py; it is proved on load."
        )
    beside = ("use_parallel_residual", "parallel_attn", "new_decoder_architecture")
    if any(getattr(config, name, False) for name in beside):
        return replace(row, parallel=True, mid_input=None)
    if config.model_type == "opt" and not config.do_layer_norm_before:
        raise UnsupportedModel("OPT models that normalise after adding (opt-350m) have no plain residual stream.")
    return row
