"""Tiny models on which the localisers' own claims are tested."""

import pytest

from trimtab.steering.model.anatomy import Anatomy

FEW = ["llama", "gpt2", "gemma2", "qwen3", "mistral"]
WITHOUT_BIAS = ["llama/plain", "qwen3", "olmo2", "gemma3_text", "cohere", "phi3"]


@pytest.fixture(params=FEW)
def anatomy(request, build_tiny) -> Anatomy:
    return Anatomy.of(build_tiny(request.param))


@pytest.fixture(params=WITHOUT_BIAS)
def plain(request, build_tiny) -> Anatomy:
    """Families without biases, in which relevance adds up exactly."""
    return Anatomy.of(build_tiny(request.param))


@pytest.fixture(scope="module")
def llama(build_tiny) -> Anatomy:
    return Anatomy.of(build_tiny("llama"))
