"""load_model: the embedded model, a local folder or a model on the Hugging Face hub. Code that comes with a model is
not run, and weights are read from safetensors only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimtab.steering.errors import SteeringError, UnknownName
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.checkpoint import check_folder, check_loaded, check_unused, own_attention
from trimtab.steering.model.embedded import EMBEDDED, embedded_folder, quiet_transformers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ModelSource:
    """Which model to load, and how.

    name: `smollm2` (comes with trimtab), a local folder or a hub id. revision: a commit or tag on the hub. dtype: of
    weights and activations, one of DTYPES. device: a torch device such as `cpu`, `cuda` or `cuda:1`.
    """

    name: str = EMBEDDED
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"


def load_model(
    name: str = EMBEDDED, dtype: str = "float32", device: str = "cpu", revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in eval mode whose sites are proved (`Anatomy.of`), and its tokenizer with left padding and a pad token.

    name, dtype, device, revision: as in ModelSource. Raises SteeringError when the model cannot be found or its files
    do not fit its configuration, UnknownName for a dtype, UnsupportedModel when its family is not known or the proof
    fails.
    """
    return load(ModelSource(name, revision, dtype, device))


def load(source: ModelSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load_model` from a ModelSource. Raises the same errors."""
    if source.dtype not in DTYPES:
        raise UnknownName("dtype", source.dtype, DTYPES)
    device = _device(source.device)
    where = str(embedded_folder()) if source.name == EMBEDDED else source.name
    quiet_transformers()
    try:
        model, tokenizer = _from_pretrained(where, source)
    except MemoryError:
        raise
    except Exception as error:  # whatever a library says about files that it cannot use: a folder is untrusted input
        raise SteeringError(_cannot_load(source, error)) from error
    model.to(device).eval()  # type: ignore[arg-type]
    Anatomy.of(model)
    return model, _prepared(tokenizer)


def _from_pretrained(where: str, source: ModelSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Raises SteeringError for a checkpoint that is not what its configuration says, anything else for broken files."""
    revision, local = source.revision or "main", Path(where).exists()
    if local:
        check_folder(Path(where))
    config: PretrainedConfig = AutoConfig.from_pretrained(
        where, revision=revision, trust_remote_code=False, local_files_only=local
    )
    own_attention(config)
    loaded: Any = AutoModelForCausalLM.from_pretrained(  # the stubs know no `output_loading_info`
        where,
        config=config,
        revision=revision,
        dtype=DTYPES[source.dtype],
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=local,
        ignore_mismatched_sizes=True,  # so that `check_loaded` can say which
        output_loading_info=True,
    )
    model, loading = loaded
    check_loaded(config, loading)
    check_unused(model, loading)
    return model, AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)


def _prepared(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SteeringError(f"device '{name}' is not one torch knows; use cpu, cuda or cuda:0") from None
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SteeringError("device 'mps' was asked for, but torch has no Metal here; use `device: cpu`")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SteeringError(f"device '{name}' was asked for, but torch sees no CUDA device here; use `device: cpu`")
    return device


def _cannot_load(source: ModelSource, error: Exception) -> str:
    said = str(error).strip().splitlines() or [type(error).__name__]
    cure = "Give `smollm2`, a folder with config.json and safetensors, or a hub id that this machine can reach"
    return (
        f"model '{source.name}' (revision {source.revision or 'main'}) could not be loaded: {said[0][:300]} "
        f"{'' if isinstance(error, SteeringError) else cure}"
    ).rstrip()
