"""From what a caller holds to the causal language model of transformers inside it, or one clear refusal."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from transformers import PreTrainedModel

from trimtab.steering.errors import UnsupportedModel


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The model itself, or the one that torch.compile or a PEFT adapter wraps. Raises UnsupportedModel for anything
    else: wrappers that run copies of the model, models without a head for the next token, modules of another library.
    """
    inner = model
    while not isinstance(inner, PreTrainedModel):
        inner = _unwrapped(inner)
    if inner.can_generate() and inner.get_output_embeddings() is not None:
        return inner
    raise UnsupportedModel(
        f"{type(inner).__name__} does not predict the next token, so nothing can be steered or priced in it: load the "
        f"checkpoint with `load_model` or transformers' AutoModelForCausalLM"
    )


def _unwrapped(model: nn.Module) -> nn.Module:
    """One layer of wrapping off."""
    name = type(model).__name__
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile(model)
        return model._orig_mod  # type: ignore[return-value]
    if hasattr(model, "peft_config") and callable(getattr(model, "get_base_model", None)):
        _check_adapter(model)
        return model.get_base_model()  # type: ignore[operator]
    if isinstance(model, DataParallel | DistributedDataParallel):
        raise UnsupportedModel(
            f"{name} runs copies of the model, in which hooks of this one do not act; steer `model.module`, and call it"
        )
    raise UnsupportedModel(
        f"{name} is not a model of transformers, so nothing says where its blocks and heads are: give what "
        f"`load_model` or transformers' AutoModelForCausalLM loads, or a PEFT model around it"
    )


def _check_adapter(model: nn.Module) -> None:
    config = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise UnsupportedModel(
            f"the PEFT adapter '{config.peft_type.value}' puts virtual tokens before each text, which a span would "  # type: ignore[union-attr]
            f"count as the prompt; adapters that change weights (LoRA and its kin) can be steered"
        )
