"""Claims: the numbers of a verdict that versions are compared by, with their intervals."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.steering.statistics import Interval, separate_difference
from trimtab.store import Artifact
from trimtab.tasks.home import Home

BETTER = {"effect": 1, "kl": -1, "damage": -1}  # the sign of a change for the better


@dataclass(frozen=True)
class Claims:
    """effect: on the margin of held-out pairs. kl: KL(steered || base) on held-out prompts. damage: KL(base || steered)
    on neutral text. All in nats per token, with intervals. beats_random: as in the verdict."""

    effect: Interval
    kl: Interval
    damage: Interval
    beats_random: bool

    @classmethod
    def of(cls, verdict: Mapping[str, Any]) -> "Claims":
        """From the JSON of a verdict."""
        plan = next(one for one in verdict["contenders"] if one["kind"] == "plan")
        price = verdict["price"]
        ranges = (plan["effect"]["margin"], price["budget"]["mean"], price["damage"]["mean"])
        effect, kl, damage = (Interval(**one) for one in ranges)
        return cls(effect, kl, damage, bool(verdict["beats_random"]))

    def changes(self, before: "Claims") -> dict[str, Interval]:
        """How each number differs from another verdict's, as if they had been taken on different texts."""
        return {name: separate_difference(getattr(self, name), getattr(before, name)) for name in BETTER}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def claims_of(home: Home, artifact: Artifact) -> Claims | None:
    """What the verdict that a plan was published with says; None for a version without one."""
    for parent in artifact.parents:
        judged = home.catalog.get(parent.ref)
        if judged.kind == "verdict":
            return Claims.of(judged.header["verdict"])
    return None


def is_worse(name: str, change: Interval) -> bool:
    """Whether a change of effect, kl or damage is for the worse beyond its noise."""
    return change.high < 0 if BETTER[name] > 0 else change.low > 0


def told(interval: Interval) -> str:
    """`0.3 [0.25, 0.35]`."""
    return f"{interval.mean:.3g} [{interval.low:.3g}, {interval.high:.3g}]"
