"""`trimtab doctor --families` lists every family, and what it refuses is refused with that reason."""

from dataclasses import replace

import pytest
import torch
from tiny_models import EXPERTS, GROUPED, NO_TOKENS, SLIDING, WIDE, randomise
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from tests.end_to_end.conftest import inside
from trimtab.steering.errors import UnsupportedModel
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.families import FAMILIES, REFUSED, UNTRIED, Family, family_of
from trimtab.steering.model.proof import prove


def test_the_table_has_every_family_once(tmp_path):
    assert not FAMILIES.keys() & REFUSED.keys()
    done = inside("doctor", "--families", home=tmp_path / "home")
    assert done.code == 0, done.stderr
    shown = [line.split()[0] for line in done.stdout.splitlines() if line.split()[1:2] in (["supported"], ["refused"])]
    assert sorted(shown) == sorted([*FAMILIES, *REFUSED])


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_is_refused_says_why(name):
    config = PretrainedConfig()
    config.model_type = name
    with pytest.raises(UnsupportedModel, match="doctor --families") as refused:
        family_of(config)
    assert REFUSED[name] in str(refused.value)


LINEAR = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
SPACES = {
    "mamba_n_heads": 4, "mamba_d_head": 20, "mamba_d_state": 8, "mamba_d_conv": 2, "mamba_n_groups": 1,
}  # fmt: skip
NEAR = FAMILIES["llama"]
# Family -> the nearest row, a tiny configuration, and what the proof says of them.
TRIED: dict[str, tuple[Family, dict, str]] = {
    "granitemoehybrid": (
        NEAR, {**GROUPED, **EXPERTS, **SPACES, "layer_types": ["attention", "mamba", "attention"],
               "shared_intermediate_size": 24}, "names 'mlp'"),
    "gemma3n_text": (
        FAMILIES["gemma2"],
        {**WIDE, **SLIDING, "hidden_size_per_layer_input": 8, "laurel_rank": 4, "vocab_size_per_layer_input": 61,
         "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
         "activation_sparsity_pattern": [0.0] * 3}, "is 160 wide"),
    "qwen3_next": (NEAR, {**WIDE, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 24}, "names 'self_attn'"),
    "qwen3_5_text": (NEAR, {**WIDE, **LINEAR}, "names 'self_attn'"),
    "olmo_hybrid": (FAMILIES["olmo2"], {**WIDE, **LINEAR}, "names 'self_attn'"),
    "lfm2": (
        NEAR, {**GROUPED, "layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 56}, "names 'self_attn'"),
    "jamba": (
        NEAR, {**GROUPED, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8,
               "mamba_dt_rank": 4}, "names 'self_attn'"),
    "bamba": (NEAR, {**GROUPED, **SPACES, "attn_layer_indices": [1]}, "names 'self_attn'"),
    "falcon_h1": (
        replace(NEAR, mlp_added="feed_forward", down_proj="feed_forward.down_proj", mid_input="pre_ff_layernorm"),
        {**GROUPED, **SPACES, "mamba_d_ssm": 80}, "resid_pre . attn_out . mlp_out"),
    "mamba": (
        replace(NEAR, blocks="backbone.layers", embed="backbone.embeddings"),
        {"vocab_size": 61, "hidden_size": 40, "state_size": 8, "num_hidden_layers": 3, "intermediate_size": 80,
         "time_step_rank": 4}, "names 'self_attn'"),
}  # fmt: skip


def test_every_refused_family_was_tried_or_is_said_not_to_be():
    assert sorted([*TRIED, *UNTRIED]) == sorted(REFUSED)


@pytest.mark.parametrize("name", TRIED)
def test_the_nearest_row_is_refuted(name):
    row, sizes, said = TRIED[name]
    config = AutoConfig.for_model(name, **{**NO_TOKENS, **sizes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        randomise(model)
    with pytest.raises(UnsupportedModel, match=said):
        layout = Anatomy(model, row)
        layout.parts()
        prove(layout)
