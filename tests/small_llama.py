"""Fixtures of the price and of the judge: a random Llama, texts for it and a plan."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from trimtab.steering.model.embedded import embedded_folder
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

VOCAB, WIDTH, BLOCKS = 61, 32, 3
SPEAKING = 48  # width of the model that speaks


def speaking_llama(positions: int = 2048) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """A random Llama of 4 blocks that speaks the embedded model's tokens, and their tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=SPEAKING, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        max_position_embeddings=positions,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.normal_(0, 1.5 * parameter.shape[-1] ** -0.5)
    return model, tokenizer


@pytest.fixture(scope="session")
def tiny():
    """A random Llama whose logits are as spread as a trained model's (the head is scaled up)."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=BLOCKS,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def text(seed: int, prompt: int, completion: int) -> Tokens:
    n = prompt + completion
    ids = np.random.default_rng(seed).integers(0, VOCAB, n)
    return Tokens(ids, prompt, np.zeros(n, np.uint8), np.zeros(n, bool))


@pytest.fixture
def make_text():
    return text


@pytest.fixture
def texts():
    """Six prompts of different lengths with completions of different lengths."""
    return [text(k, 4 + k, 5 + (3 * k) % 4) for k in range(6)]


@pytest.fixture
def make_plan():
    def make(seed: int = 0, block: int = 1, span: str = "answer", size: float = 1.0) -> SteeringPlan:
        vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
        step = Intervention(Site("resid_post", block), Add(size * vector / vector.norm()), Span.parse(span))
        return SteeringPlan((step,))

    return make
