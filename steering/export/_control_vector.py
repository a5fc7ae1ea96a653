"""Control vectors as GGUF files: the layout that llama.cpp, repeng, EasySteer and saklas share.

`general.architecture` is "controlvector"; tensor `direction.K` (F32, one axis) is added to the output of block K,
counted from 0, which is `resid_post.K` here and `hidden_states[K + 1]` in transformers (measured against llama.cpp:
one block to either side halves the agreement of the logits).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadFile
from trimtab.steering.export._additions import vector_of
from trimtab.steering.whole import written_whole

ARCHITECTURE = "controlvector"
PREFIX = "direction."


def write_directions(path: Path, model_type: str, vectors: Mapping[int, Float[Tensor, "d"]]) -> None:
    """One F32 tensor per block, with the two keys that repeng and saklas look for."""
    with written_whole(path) as part:
        writer = GGUFWriter(part, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        for block, vector in sorted(vectors.items()):
            writer.add_tensor(f"{PREFIX}{block}", np.ascontiguousarray(vector.numpy(), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_directions(path: Path) -> dict[int, Float[Tensor, "d"]]:
    """block -> vector. Raises BadFile when it is no control vector or holds a block below 0."""
    reader = _reader(path)
    name = _text(reader, "general.architecture")
    if name != ARCHITECTURE:
        raise BadFile(f"{path} holds a '{name or 'nameless'}' model, not a control vector ('{ARCHITECTURE}')")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    return {_block(key, path): vector_of(tensor.data, f"{path}: {key}") for key, tensor in tensors.items()}


def read_model_hint(path: Path) -> str:
    """The `model_type` that the file was made for; empty when it does not say."""
    return _text(_reader(path), f"{ARCHITECTURE}.model_hint")


def _reader(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise BadFile(f"{path} is not a GGUF file: {error}") from error


def _text(reader: GGUFReader, key: str) -> str:
    field = reader.get_field(key)
    return "" if field is None else bytes(field.parts[-1]).decode("utf-8", "replace")


def _block(key: str, path: Path) -> int:
    number = key.removeprefix(PREFIX)
    if not key.startswith(PREFIX) or not number.isdecimal():
        raise BadFile(
            f"{path}: tensor '{key}' is not {PREFIX}N with a block counted from 0, so nobody can say where it acts"
        )
    return int(number)
