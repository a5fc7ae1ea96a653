"""What a plan costs, as named numbers with units. Direction, tokens and prompts are fields, not folklore."""

from dataclasses import dataclass

from trimtab.steering.running.sampling import Sampling
from trimtab.steering.statistics import Interval


@dataclass(frozen=True)
class KL:
    """A divergence between next-token distributions, nats per token, float32 or better.

    direction: "steered||base" or "base||steered". tokens: what text: "rollouts", "forced", "neutral", or
    "neutral, second halves" (the first halves stood as prompts).
    mean: over tokens, interval over prompts. p95, max: over tokens. per_token: up to 2,000 values.
    prompts_digest: sha256 of the prompts' token ids. sampling: how its text was drawn, and at which temperature both
    distributions were taken (records from before it was written down: temperature 1, which it was).
    """

    direction: str
    tokens: str
    mean: Interval
    p95: float
    max: float
    n_tokens: int
    prompts_digest: str
    per_token: tuple[float, ...] = ()
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Price:
    """budget: KL(steered || base) on text the steered model wrote for held-out prompts: the number the budget binds.
    damage: KL(base || steered) teacher-forced on neutral text. perplexity_*: on the same neutral text.
    capability_*: share of A/B items right (None when not asked)."""

    budget: KL
    damage: KL
    perplexity_base: float
    perplexity_steered: float
    capability_base: float | None = None
    capability_steered: float | None = None


@dataclass(frozen=True)
class Dose:
    """The strength found for a budget. asked, achieved: nats per token (achieved on the calibration prompts).
    reachable: False when no strength tried came within tolerance (KL saturates: the final norm forgets scale).
    first_guess: strength tried first, the Fisher closed form's unless another was known. forwards: forward passes over
    the calibration prompts (one generated token is one).
    history: (strength, KL) of every verification in order. sampling: as in KL."""

    asked: float
    achieved: float
    strength: float
    reachable: bool
    first_guess: float
    forwards: int
    history: tuple[tuple[float, float], ...]
    sampling: Sampling = Sampling()
