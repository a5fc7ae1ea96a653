"""Sampling: how a next token is drawn, in the words and by the arithmetic of `model.generate`."""

from dataclasses import dataclass
from math import isfinite

from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from trimtab.steering.errors import SteeringError


@dataclass(frozen=True)
class Sampling:
    """temperature divides the logits; 0 is greedy. top_k: only that many tokens, 0 for all. top_p: only the fewest
    tokens that have this probability together, 1 for all. Applied in this order.

    A KL "at" a sampling is one between distributions at its temperature (1 where greedy), before top-k and top-p: two
    distributions that are cut differently are infinitely far apart. The text it is taken on is drawn with the cuts.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (isfinite(self.temperature) and self.temperature >= 0):
            raise SteeringError(f"temperature is {self.temperature}; it must be 0 (greedy) or above, and finite")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise SteeringError(f"top_k {self.top_k} must be 0 (all) or more, and top_p {self.top_p} in (0, 1]")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def kl_temperature(self) -> float:
        """The temperature of the distributions that a KL at this sampling compares."""
        return 1.0 if self.greedy else self.temperature

    def tempered(self, logits: Tensor) -> Tensor:
        """Logits at the temperature of the KL; at 1 the same tensor."""
        return logits if self.kl_temperature == 1 else logits / self.kl_temperature

    def processors(self) -> LogitsProcessorList:
        """What `model.generate` would process logits with; nothing when greedy."""
        processors = LogitsProcessorList()
        if not self.greedy and self.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(self.temperature)))
        if not self.greedy and self.top_k:
            processors.append(TopKLogitsWarper(self.top_k))
        if not self.greedy and self.top_p < 1:
            processors.append(TopPLogitsWarper(self.top_p))
        return processors

    def __str__(self) -> str:
        if self.greedy:
            return "greedy"
        cuts = [f"top-k {self.top_k}"] * bool(self.top_k) + [f"top-p {self.top_p:g}"] * (self.top_p < 1)
        return ", ".join([f"temperature {self.temperature:g}", *cuts])
