"""The strength at which a KL meets a target: a root search on a curve whose every point costs rollouts.

Secant steps on log KL against log strength (a line of slope 2 near 0) inside a bracket, and bisection when the secant
stalls. KL need not be monotone in the strength, and it saturates because the final norm forgets scale: so every
measurement is kept, and "unreachable" is a result.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

_GROWTH = 8.0  # largest step of the strength without a bracket, up or down
_SLOPES = (0.5, 4.0)  # trusted range of d log KL / d log strength
_FLAT = 0.02  # a step of the strength that changes log KL by less than this share of the step is saturation
_CLOSED = 1.003  # a bracket narrower than this has a jump inside (sampled text changes by whole tokens)


@dataclass(frozen=True)
class Solution:
    """strength >= 0 and the KL there; history: (strength, KL) of every measurement; reachable: within tolerance."""

    strength: float
    achieved: float
    reachable: bool
    history: tuple[tuple[float, float], ...]


def find_strength(
    measure: Callable[[float], float],
    target: float,
    guess: float,
    tolerance: float = 0.1,
    cap: int = 10,
    limit: float = math.inf,
) -> Solution:
    """Root of `measure(strength) = target` for strengths above 0 and up to `limit`, by at most `cap` measurements.

    measure: KL at a strength, 0 at 0; inf means not finite, which counts as above the target. tolerance: accepted
    relative error of the KL.
    """
    search = StrengthSearch(target, tolerance, limit)
    strength = min(guess, limit)
    for _ in range(cap):
        search.add(strength, measure(strength))
        if search.hit or search.stuck():
            break
        strength = search.following()
    return search.result()


class StrengthSearch:
    """The points measured so far, and where to measure next. hit: the last one was within tolerance."""

    def __init__(self, target: float, tolerance: float, limit: float):
        self.target, self.tolerance, self.limit = target, tolerance, limit
        self.history: list[tuple[float, float]] = []
        self.hit = False

    def add(self, strength: float, kl: float) -> None:
        """A measurement; nan counts as inf."""
        kl = math.inf if math.isnan(kl) else max(kl, 0.0)
        self.history.append((strength, kl))
        self.hit = abs(kl / self.target - 1) <= self.tolerance

    @property
    def low(self) -> tuple[float, float] | None:
        """The greatest strength below every strength that was too dear."""
        below = [point for point in self.history if point[1] <= self.target]
        if self.high is not None:
            below = [point for point in below if point[0] < self.high[0]]
        return max(below, default=None)

    @property
    def high(self) -> tuple[float, float] | None:
        """The least strength that was too dear."""
        return min((point for point in self.history if point[1] > self.target), default=None)

    def stuck(self) -> bool:
        """No use in going on: KL no longer grows with the strength, or jumps over the target, or the move is done."""
        low, high = self.low, self.high
        if low and high:
            return high[0] / low[0] < _CLOSED
        if low and low[0] >= self.limit:
            return True
        if high is None and len(self.history) >= 2:
            (a, x), (b, y) = sorted(self.history)[-2:]
            return y > 0 and x > 0 and b / a > 2 and abs(math.log(y / x)) < _FLAT * math.log(b / a)
        return len(self.history) > 1 and max(kl for _, kl in self.history) == 0

    def following(self) -> float:
        """Where to measure next: inside the bracket, or a step further out while there is none."""
        low, high = self.low, self.high
        if low and high:
            return self._inside(low, high)
        point = low or high or self.history[-1]
        step = _GROWTH
        if 0 < point[1] < math.inf:
            step = min(_GROWTH, math.exp(abs(math.log(self.target / point[1])) / self._slope()))
        # Aim a little beyond: a point on the other side makes a bracket, one just short of it does not.
        step = min(_GROWTH, step ** (1 + 0.1 * (len(self.history) - 1)))
        return float(min(point[0] * step, self.limit) if low else point[0] / step)

    def _slope(self) -> float:
        """d log KL / d log strength through the last two points; 2, that of the parabola, until there are two."""
        usable = [point for point in self.history if 0 < point[1] < math.inf][-2:]
        if len(usable) < 2 or usable[0][0] == usable[1][0]:
            return 2.0
        (a, x), (b, y) = usable
        return min(max(math.log(y / x) / math.log(b / a), _SLOPES[0]), _SLOPES[1])

    def _inside(self, low: tuple[float, float], high: tuple[float, float]) -> float:
        """Secant in log-log, kept off the ends of the bracket; the geometric middle when it cannot be trusted."""
        one_sided = len(self.history) >= 3 and len({kl > self.target for _, kl in self.history[-3:]}) == 1
        if low[1] == 0 or high[1] == math.inf or one_sided:
            return math.sqrt(low[0] * high[0])
        share = math.log(self.target / low[1]) / math.log(high[1] / low[1])
        return float(low[0] * (high[0] / low[0]) ** min(max(share, 0.05), 0.95))

    def result(self) -> Solution:
        """The nearest point within tolerance, or else the dearest one below the target (strength 0 at worst)."""
        near = [p for p in self.history if abs(p[1] / self.target - 1) <= self.tolerance]
        if near:
            strength, kl = min(near, key=lambda p: abs(p[1] - self.target))
        else:
            strength, kl = max(
                [(0.0, 0.0), *(p for p in self.history if p[1] <= self.target)], key=lambda p: (p[1], -p[0])
            )
        return Solution(strength, kl, bool(near), tuple(self.history))
