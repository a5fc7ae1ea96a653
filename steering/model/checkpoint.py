"""Checks that a checkpoint agrees with its configuration: no file outside its folder, no code or kernel of its own
choice, every tensor present and of the right shape. transformers fills a missing tensor with random numbers and only
warns; a capture of such a model would be noise under the checkpoint's name."""

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from trimtab.steering.errors import SteeringError

SHOWN = 3  # names in a message
BLOCK = re.compile(r"\.(?:layers|h|blocks?)\.(\d+)\.")


def check_folder(folder: Path) -> None:
    """Before anything is loaded: every file that an index names lies in the folder. Raises SteeringError."""
    for index in sorted(folder.glob("*.index.json")):
        for name in sorted(set(_weight_map(index).values())):
            if name in ("", ".", "..") or "/" in name or "\\" in name:
                raise SteeringError(
                    f"{index}: names the weights file '{name}', which is not in this folder; weights from elsewhere "
                    f"are refused: put the file into the folder and its name into the index"
                )


def own_attention(config: PretrainedConfig) -> None:
    """Let transformers choose the attention code; what the checkpoint's configuration wishes is dropped, and a kernel
    of the hub, which would be downloaded and run, is refused. Raises SteeringError."""
    for part in _parts(config):
        wish = getattr(part, "_attn_implementation", None)
        if isinstance(wish, str) and "/" in wish:
            raise SteeringError(
                f"its configuration asks for the attention kernel '{wish}', which is code from the model hub: refused. "
                f"Remove `_attn_implementation` from config.json"
            )
    config._attn_implementation = None


def check_loaded(config: PretrainedConfig, loading: Mapping[str, Any]) -> None:
    """After loading: every tensor came from the checkpoint, in its own shape, and no block of it was left out.

    loading: `output_loading_info` of transformers, in which tied tensors (a shared lm_head) are not missing. Raises
    SteeringError naming the first tensors.
    """
    wrong = sorted(loading["mismatched_keys"])
    if wrong:
        name, stored, expected = wrong[0]
        raise SteeringError(
            f"{len(wrong)} of its tensors have another shape than config.json says ({name}: {list(stored)} stored, "
            f"{list(expected)} expected); they would be filled at random: give the configuration of these weights."
        )
    missing = sorted(loading["missing_keys"])
    if missing:
        raise SteeringError(
            f"its weights lack {len(missing)} tensors that config.json asks for ({_some(missing)}); they would be "
            f"filled at random: give the whole checkpoint, with the configuration it was saved with."
        )
    n_layers = int(getattr(config.get_text_config(), "num_hidden_layers", 1))
    if n_layers < 1:
        raise SteeringError("config.json has no blocks (num_hidden_layers 0), so there is nothing to read or steer.")
    beyond = sorted(name for name in loading["unexpected_keys"] if _block(name) >= n_layers)
    if beyond:
        raise SteeringError(
            f"config.json has num_hidden_layers {n_layers}, and its weights hold further blocks ({_some(beyond)}), "
            f"which would be left out: give the configuration of these weights."
        )


def check_unused(model: nn.Module, loading: Mapping[str, Any]) -> None:
    """After loading: no layer of the model lost a weight of its own, such as a bias that the configuration switches
    off and that holds folded steering. Raises SteeringError; warns of tensors of layers that the model does not have
    (heads for other tasks)."""
    unused = sorted(loading["unexpected_keys"])
    layers = {name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))}
    lost = [name for name in unused if name.rpartition(".")[0] in layers]
    if lost:
        raise SteeringError(
            f"its weights hold {len(lost)} tensors of layers that the model has, for which config.json makes no place "
            f"({_some(lost)}); left out, the model would compute something else: give the configuration of these "
            f"weights, or a model that is folded and saved by `fold`."
        )
    if unused:
        warnings.warn(
            f"{len(unused)} tensors of the checkpoint belong to no layer of the model, and are not used: "
            f"{_some(unused)}",
            stacklevel=2,
        )


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    yield config
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PretrainedConfig):
            yield from _parts(part)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        names = json.loads(index.read_text("utf-8"))["weight_map"]
        return {str(tensor): str(file) for tensor, file in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SteeringError(f"{index}: is not an index of weights; save the checkpoint again") from None


def _block(name: str) -> int:
    match = BLOCK.search(f".{name}")
    return int(match[1]) if match else -1


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
