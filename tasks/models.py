"""Models, loaded once per process."""

from functools import lru_cache

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.load import ModelSource, load
from trimtab.steering.model.tokens import template_digest, tokenizer_digest
from trimtab.tasks.recipe import ModelSpec


@lru_cache(maxsize=1)
def _loaded(source: ModelSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load(source)


def source_of(spec: ModelSpec) -> ModelSource:
    """What the recipe's model section asks for."""
    return ModelSource(spec.id, spec.revision, spec.dtype, spec.device)


def model_of(spec: ModelSpec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer of a recipe; the same objects on a second call."""
    return _loaded(source_of(spec))


def fingerprints(spec: ModelSpec) -> dict[str, object]:
    """What tells two captures apart, as JSON: the weights, the dtype of the forward, the tokenizer and its template."""
    model, tokenizer = model_of(spec)
    return {
        "model": Anatomy.of(model).fingerprint.to_json(),
        "name": spec.id,
        "revision": spec.revision,
        "forward_dtype": spec.dtype,
        "tokenizer": tokenizer_digest(tokenizer),
        "template": template_digest(tokenizer),
        "torch": torch.__version__.split("+")[0],
    }
