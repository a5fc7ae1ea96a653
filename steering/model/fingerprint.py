"""Fingerprint: which model a plan or a capture was made on."""

import hashlib
from dataclasses import asdict, dataclass

import torch
from torch import nn

SAMPLES = 16  # numbers of every parameter


@dataclass(frozen=True)
class Fingerprint:
    """What a plan or a capture was made on. weights: digest of a sample of every parameter, the same for float32
    and bfloat16 loads of one checkpoint."""

    model_type: str
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    weights: str

    @property
    def shape(self) -> tuple[str, int, int, int, int]:
        """All but the weights: what must agree for a plan to fit at all."""
        return (self.model_type, self.n_layers, self.d_model, self.n_heads, self.d_head)

    def to_json(self) -> dict[str, str | int]:
        return asdict(self)


def weights_digest(model: nn.Module) -> str:
    """Digest of 16 numbers of every parameter as they are now. Never cached: an adapter is merged through `.data`,
    which moves no version counter of torch, so only the numbers themselves tell (3 ms for 272 parameters)."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLES)
        sample = flat[::step][:SAMPLES].to(torch.bfloat16).float().cpu().numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:16]
