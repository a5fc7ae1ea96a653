"""Families in vLLM's own blocks: the proof at start holds, and answers are those of transformers.

Each engine and its expected answers come in a process of their own: several engines in one process share state.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm.engine")

# Sizes with heads of 64, which vLLM's attention has kernels for.
SIZES = {
    "vocab_size": 300, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 512,
}  # fmt: skip
SQUARE = {**SIZES, "hidden_size": 128, "num_key_value_heads": 2}
FAMILIES = {
    "llama": SIZES,
    "mistral": {**SIZES, "sliding_window": None},
    "qwen2": {**SIZES, "hidden_size": 128},
    "qwen3": SIZES,
    "gemma": {**SIZES, "hidden_size": 128},
    "gemma2": {**SIZES, "hidden_size": 128},
    "gemma3_text": {**SIZES, "hidden_size": 128},
    "phi": {**SQUARE, "pad_token_id": 0},
    "phi3": {**SQUARE, "pad_token_id": 0},
    "olmo2": SQUARE,
    "gpt2": {"vocab_size": 300, "n_embd": 128, "n_layer": 3, "n_head": 2, "n_inner": 160, "n_positions": 512},
    "gpt_neox": SQUARE,
    "opt": {
        "vocab_size": 300, "hidden_size": 128, "ffn_dim": 160, "num_hidden_layers": 3, "num_attention_heads": 2,
        "max_position_embeddings": 512, "word_embed_proj_dim": 128,
    },
    "starcoder2": SQUARE,
    "qwen3_moe": {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, tmp_path):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    environment = {**os.environ, "TRIMTAB_HOME": str(tmp_path / "home"), "PYTHONPATH": path}
    command = [sys.executable, str(here / "one_family.py"), name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "equal", done.stdout[-3000:]
