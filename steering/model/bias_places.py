"""Which biases a checkpoint of a model can store. The model's class is asked: it is built from changed configurations,
as it would be on loading. A bias that the configuration has no place for would be dropped on loading, at most with a
warning."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from trimtab.steering.errors import CannotFold


@dataclass(frozen=True)
class BiasPlaces:
    """switches: names in the (text) configuration to turn on. shapes: every bias they add, by its dotted path. The
    ones that are not wanted are zero: sisters (q, k and v beside o in llama) come with the same switch."""

    switches: tuple[str, ...]
    shapes: Mapping[str, torch.Size]

    def give(self, model: PreTrainedModel) -> None:
        """Turn the switches on, and add a zero wherever the model has no such bias yet."""
        for switch in self.switches:
            setattr(model.config.get_text_config(), switch, True)
        for path, shape in self.shapes.items():
            module = model.get_submodule(path.rpartition(".")[0])
            if module.bias is None:
                weight: torch.Tensor = module.weight
                module.bias = nn.Parameter(weight.new_zeros(shape), requires_grad=weight.requires_grad)


def bias_places(model: PreTrainedModel, new: Iterable[str] = ()) -> BiasPlaces:
    """The switches by which a checkpoint of `model` holds all of its parameters, and the `new` biases (dotted paths).

    Raises CannotFold naming the first parameter that no switch gives a place.
    """
    stored = _shapes(model, model.config).keys()
    unplaced = {*(name for name, _ in model.named_parameters()), *new} - stored
    switches = tuple(name for name in _off(model.config) if unplaced & _shapes(model, _on(model.config, name)).keys())
    after = _shapes(model, _on(model.config, *switches)) if switches else {}
    gained = {name: shape for name, shape in after.items() if name not in stored}
    lost = sorted(unplaced - gained.keys())
    if lost or not all(name.endswith(".bias") for name in gained):
        raise CannotFold(
            f"a checkpoint of {model.config.model_type} has no place for {(lost or sorted(gained))[0]}, and no switch "
            f"of its configuration makes one: saved and loaded, the model would not be steered there"
        )
    if switches and not _allowed(_on(model.config, *switches)):
        raise CannotFold(
            f"a checkpoint of {model.config.model_type} has no place for {sorted(gained)[0]}: its configuration does "
            f"not allow {', '.join(switches)} alone"
        )
    return BiasPlaces(switches, gained)


def _allowed(config: PretrainedConfig) -> bool:
    """Whether transformers would load it: some families want two switches to be alike (internlm3)."""
    try:
        config.validate()
    except StrictDataclassError:
        return False
    return True


def _off(config: PretrainedConfig) -> list[str]:
    """Switches for biases that are off."""
    return [name for name, value in vars(config.get_text_config()).items() if "bias" in name and value is False]


def _on(config: PretrainedConfig, *switches: str) -> PretrainedConfig:
    changed = type(config).from_dict(config.to_dict())
    for switch in switches:
        setattr(changed.get_text_config(), switch, True)
    return changed


def _shapes(model: PreTrainedModel, config: PretrainedConfig) -> Mapping[str, torch.Size]:
    return _shapes_of(type(model), config.to_json_string(use_diff=False))  # type: ignore[arg-type]


@lru_cache(maxsize=16)
def _shapes_of(kind: type[PreTrainedModel], config: str) -> Mapping[str, torch.Size]:
    with torch.device("meta"):
        skeleton = kind(kind.config_class.from_dict(json.loads(config)))  # type: ignore[union-attr]
    return {name: parameter.shape for name, parameter in skeleton.named_parameters()}
