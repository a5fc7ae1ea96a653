"""Controlled: a small network that reads the prompt and says how far each block is steered."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadGate
from trimtab.steering.gates.base import Gate, GateInput, Reading
from trimtab.steering.model.site import Site


@dataclass(frozen=True, eq=False)
class Network:
    """`x = (h - mean) / scale`, `a = relu(hidden x + hidden_bias)`, `y = out a + out_bias`

    mean, scale: `[m]`, of the readings it was trained on, m the width of all readings together. hidden: `[k m]`.
    out: `[1 + n k]`: the first output is the global scale, the others the weights of n interventions.
    """

    mean: Float[Tensor, "m"]
    scale: Float[Tensor, "m"]
    hidden: Float[Tensor, "k m"]
    hidden_bias: Float[Tensor, "k"]
    out: Float[Tensor, "o k"]
    out_bias: Float[Tensor, "o"]

    def __post_init__(self) -> None:
        (k, m), o = self.hidden.shape, self.out.shape[0]
        shapes = [tuple(x.shape) for x in (self.mean, self.scale, self.hidden_bias, self.out, self.out_bias)]
        if shapes != [(m,), (m,), (k,), (o, k), (o,)]:
            raise BadGate(f"the controller's tensors do not fit together: hidden {[k, m]}, the others {shapes}")

    @property
    def width(self) -> int:
        """m, the width of all readings together."""
        return self.hidden.shape[1]

    def scale_and_weights(self, h: Float[Tensor, "b m"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b n"]]:
        """Global scale and weight per intervention, each in (0, 1)."""
        mean, scale, hidden, hidden_bias, out, out_bias = (
            x.to(h.device) for x in (self.mean, self.scale, self.hidden, self.hidden_bias, self.out, self.out_bias)
        )
        y = torch.relu((h - mean) / scale @ hidden.T + hidden_bias) @ out.T + out_bias
        return y[:, 0].sigmoid(), y[:, 1:].sigmoid()


@dataclass(frozen=True, eq=False)
class Controlled(Gate):
    """`factor = s * w[output]`, s and w of the network on the clean prompt; 0 where `s <= closed`. Held for the answer.

    Source: the controller of Guiding Giants (arXiv 2505.20309), which in its released form reads the last blocks while
    they run and so can only ever patch the last one. Reading a clean prompt first lets every block be weighted; the
    scale is squashed in use as in training; a scale of at most `closed` (set for a false-positive rate) is 0, so
    prompts that should be left alone are left alone to the bit.

    sites: read at the prompt's last token (pool: or its mean), their vectors joined in this order.
    """

    network: Network
    sites: tuple[Site, ...]
    output: int
    closed: float = 0.0
    pool: str = "last"

    def __post_init__(self) -> None:
        outputs = self.network.out.shape[0] - 1
        if not self.sites or not 0 <= self.output < outputs:
            raise BadGate(
                f"a controller that reads {len(self.sites)} sites and has outputs 0 to {outputs - 1} has no output "
                f"{self.output}; give sites, and one output per intervention"
            )

    @property
    def reads(self) -> tuple[Reading, ...]:
        return tuple(Reading(site, self.pool) for site in self.sites)

    @property
    def follows(self) -> tuple[Site, ...]:
        return ()

    @property
    def widths(self) -> tuple[tuple[Site, int], ...]:
        return tuple((site, self.network.width // len(self.sites)) for site in self.sites)

    def factor(self, inputs: GateInput) -> Float[Tensor, "b s"]:
        if self.network not in inputs.memory:  # one run of the network serves all of its interventions and passes
            joined = torch.cat([inputs.prompt[reading] for reading in self.reads], dim=-1)
            scale, weights = self.network.scale_and_weights(joined)
            inputs.memory[self.network] = torch.cat([scale[:, None], weights], dim=1)
        outputs = inputs.memory[self.network]
        scale = torch.where(outputs[:, 0] > self.closed, outputs[:, 0], 0.0)
        return (scale * outputs[:, 1 + self.output])[:, None].expand(inputs.age.shape)
