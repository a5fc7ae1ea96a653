"""A random model of four small blocks, a tokenizer of 512 words, and a recipe with any number of pairs: for measuring
what does not depend on the model (memory, kills, parallel runs). Nothing is downloaded."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = 512


def make(folder: Path, pairs: int, settings: Sequence[str] = ()) -> Path:
    """Model, tokenizer, `pairs.jsonl` and `recipe.yaml` in a folder; returns the recipe's path. settings: lines that
    are put into the recipe's `capture` section. Prompts have 4 to 40 words, completions 4 to 12."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "model")
    write_pairs(folder / "pairs.jsonl", pairs)
    recipe = folder / "recipe.yaml"
    capture = ", ".join(settings or ["points: [resid_post, z]", "span: all"])
    recipe.write_text(
        f"name: tiny\nmodel: {folder / 'model'}\ndata: {{pairs: pairs.jsonl, chat: false}}\ncapture: {{{capture}}}\n"
    )
    return recipe


def save_model(folder: Path) -> None:
    """The same weights every time."""
    words = {f"w{number}": number for number in range(WORDS)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", eos_token="w1", pad_token="w1")
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.data.normal_(0, parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def write_pairs(path: Path, pairs: int) -> None:
    """Random words; the first rows are the same however many follow."""
    random = Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(f"w{random.randrange(2, WORDS)}" for _ in range(random.randint(least, most)))

    with path.open("w") as file:
        for _ in range(pairs):
            row = {"prompt": words(4, 40), "positive": words(4, 12), "negative": words(4, 12)}
            file.write(json.dumps(row) + "\n")
