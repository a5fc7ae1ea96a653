"""Dictionaries of tensors in PyTorch's own files. Reading takes data only: anything that would run is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trimtab.steering.errors import BadFile
from trimtab.steering.whole import written_whole


def write_tensors(path: Path, fields: Mapping[str, Any]) -> None:
    """Plain dictionaries, numbers, texts and tensors."""
    with written_whole(path) as part:
        torch.save(dict(fields), part)


def read_tensors(path: Path) -> dict[str, Any]:
    """Raises BadFile when the file is none of PyTorch's, wants to run something, or holds no dictionary."""
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many kinds for files that are not its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadFile(f"{path} cannot be read as tensors and nothing else: {reason}") from error
    if not isinstance(fields, dict):
        raise BadFile(f"{path} holds a {type(fields).__name__}, not a dictionary of tensors")
    return fields
