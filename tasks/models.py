"""Models, loaded once per process."""

from functools import lru_cache
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.load import ModelSource, load
from trimtab.steering.model.tokens import template_digest, tokenizer_digest
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.recipes.sections import ModelSpec


@lru_cache(maxsize=1)
def _loaded(source: ModelSource, checkpoint: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """checkpoint: digest of the weights, so that a folder that holds others now is loaded again."""
    return load(source)


def source_of(spec: ModelSpec) -> ModelSource:
    """What the recipe's model section asks for."""
    return ModelSource(spec.id, spec.revision, spec.dtype, spec.device)


def model_of(spec: ModelSpec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer of a recipe; the same objects on a second call.

    Raises RecipeError when the folder holds other weights than when the recipe was read, before or after loading.
    """
    _refuse_doubt(spec)
    spec.check_unchanged()
    pair = _loaded(source_of(spec), spec.checkpoint)
    spec.check_unchanged()
    return pair


def _refuse_doubt(spec: ModelSpec) -> None:
    """A folder is known by its content, a hub id by its name: one must not pass for the other."""
    if not spec.local and Path(spec.id).exists():
        raise RecipeError(
            f"model '{spec.id}' is a hub id, and a folder of this name lies here; for the folder write ./{spec.id}"
        )


def fingerprints(spec: ModelSpec) -> dict[str, object]:
    """What tells two captures apart, as JSON: the weights, the dtype of the forward, the tokenizer and its template."""
    model, tokenizer = model_of(spec)
    checkpoint = {} if spec.checkpoint is None else {"checkpoint": spec.checkpoint}
    return {
        **checkpoint,
        "model": Anatomy.of(model).fingerprint.to_json(),
        "name": spec.id,
        "revision": spec.revision,
        "forward_dtype": spec.dtype,
        "tokenizer": tokenizer_digest(tokenizer),
        "template": template_digest(tokenizer),
        "torch": torch.__version__.split("+")[0],
    }
