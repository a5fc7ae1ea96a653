"""Strengths from closed forms: how far a plan may go for a KL budget, before any verification.

Let z(g) be the logits at strength g, p = softmax(z(0)), s = dz/dg at 0. KL(p || p_g) is the Bregman divergence of
log-sum-exp, so near 0

    KL(g) = g^2 / 2 * Var_p(s) + O(g^3)        (both directions agree to second order)

which inverts to the Fisher form below. The bound of ASC (Azizi et al., arXiv 2507.04742, appendix A.1) replaces
Var_p(s) by its largest possible value and is therefore far more careful: on spiky distributions hundreds of times.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.scorer import Scorer

LOGIT_CHANGE = 0.05  # nats: large against float32 noise of logits (1e-5), small against where KL leaves its parabola
ACCEPTED = (0.005, 0.5)
_NOISE = 1e-4  # nats: a change of the logits that float32 makes by itself, with room
_TRIES = 8


def fisher_strength(variances: np.ndarray, budget: float, quantile: float | None = None) -> float:
    """g = sqrt(2 budget / V), V the mean of Var_p(s) over tokens, or its `quantile` over tokens.

    variances: `[n]` Var_p(s) per token, nats^2 per unit strength. The mean answers a budget on the mean KL; a quantile
    of 0.95 keeps 95 of 100 tokens within the budget. Assumes that KL is still a parabola at the budget: on the
    embedded model within 10% at 0.001 nats, up to 1.9 times off at 0.1 and 9 times at 0.5 (BENCHMARKS.md), so verify;
    inf when the plan does not move the logits.
    """
    spread = float(np.mean(variances) if quantile is None else np.quantile(variances, quantile))
    return math.inf if spread <= 0 else math.sqrt(2 * budget / spread)


def asc_bound(slope: float, curvature: float, budget: float) -> float:
    """The largest g with (g a + L g^2 / 2)^2 / 4 <= budget: g = 4 sqrt(eps) / (a + sqrt(a^2 + 4 L sqrt(eps))).

    slope: a = |dz/dg|, Euclidean norm over the vocabulary. curvature: L >= |d2z/dg2| all along the way. Then
    KL <= |z(g) - z(0)|^2 / 4 <= budget is guaranteed, because the Fisher matrix of a softmax has no eigenvalue above
    1/2. ASC solves a cubic after dropping a term; the full bound is a perfect square and needs none.
    """
    root = math.sqrt(budget)
    below = slope + math.sqrt(slope**2 + 4 * curvature * root)
    return math.inf if below == 0 else 4 * root / below


def asc_published(slope: float, curvature: float, budget: float) -> float:
    """ASC's own rule, for comparison only: x^3 + x^2 = 4 eps L^2 / a^4, g = max(0, (1 - x / 4)) x a / L.

    It is valid but not monotone: it falls for 4 eps L^2 / a^4 > 12 and is 0 from 80 on, where the bound is not.
    Assumes slope > 0 and curvature > 0. The root is taken by Newton from above, where the cubic is convex; real cube
    roots as printed in the paper give nan for the usual small budgets.
    """
    beta = 4 * budget * curvature**2 / slope**4
    x = max(1.0, beta ** (1 / 3))
    for _ in range(100):
        x -= (x**3 + x**2 - beta) / (3 * x**2 + 2 * x)
    return max(0.0, 1 - x / 4) * x * slope / curvature


def logit_variance(plus: Float[Tensor, "n v"], minus: Float[Tensor, "n v"], step: float) -> Float[Tensor, "n"]:
    """Var_p(s) per row, float64, from logits at +step and -step: s by central differences, p at their midpoint.

    The midpoint stands for the base logits to O(step^2), which saves the third pass.
    """
    middle = ((plus.double() + minus.double()) / 2).softmax(-1)
    slope = (plus.double() - minus.double()) / (2 * step)
    centred = slope - (middle * slope).sum(-1, keepdim=True)
    return (middle * centred**2).sum(-1)


def fisher_variances(
    scorer: Scorer, plan: SteeringPlan, texts: Sequence[Tokens], first_step: float = 1e-2
) -> tuple[np.ndarray, int]:
    """Var_p(s) at every answer-writing position of the texts, pooled `[n]`, and the passes over texts it took.

    Two passes at +-step. The step is chosen on the first text that the plan moves (a gate may be closed to others) so
    that the logits change by about LOGIT_CHANGE (standard deviation under p): too small drowns in float32 noise, too
    large is no derivative.
    """
    step, passes = _step(scorer, plan, texts, first_step)
    return _variances(scorer, plan, texts, step), passes + 2


def _step(scorer: Scorer, plan: SteeringPlan, texts: Sequence[Tokens], step: float) -> tuple[float, int]:
    """The step, and the passes over texts that it took: chosen on the first text if its logits change by more than
    noise, else where they change most (the step may be too small for all, or the plan may do nothing)."""
    chosen, known, looked = texts[0], _variances(scorer, plan, texts[:1], step), 0
    if len(texts) > 1 and step * math.sqrt(float(np.mean(known))) <= _NOISE:
        each, looked = _each(scorer, plan, texts, step), 2
        most = max(range(len(texts)), key=lambda k: float(np.sum(each[k])) / max(len(each[k]), 1))
        chosen, known = texts[most], each[most]
    settled, passes = _settled(scorer, plan, chosen, step, known)
    return settled, looked + passes


def _settled(scorer: Scorer, plan: SteeringPlan, text: Tokens, step: float, known: np.ndarray) -> tuple[float, int]:
    """The step for one text. known: its variances at the first step."""
    for tried in range(1, _TRIES + 1):
        change = step * math.sqrt(float(np.mean(known)))
        if ACCEPTED[0] <= change <= ACCEPTED[1]:
            return step, 2 * tried
        if not math.isfinite(change):
            step /= 1000
        else:
            step *= min(1000.0, LOGIT_CHANGE / change if change > 0 else 1000.0)
        known = _variances(scorer, plan, [text], step)
    return step, 2 * (_TRIES + 1)


def _variances(scorer: Scorer, plan: SteeringPlan, texts: Sequence[Tokens], step: float) -> np.ndarray:
    found = _each(scorer, plan, texts, step)
    pooled = np.concatenate(found) if found else np.zeros(0)
    if len(pooled) == 0:
        raise SteeringError("no text has a completion, so there is no next token to differentiate at; give completions")
    return pooled


def _each(scorer: Scorer, plan: SteeringPlan, texts: Sequence[Tokens], step: float) -> list[np.ndarray]:
    """Variances per text."""
    passes = scorer.both(texts, plan.scaled(step), plan.scaled(-step))
    return [logit_variance(plus.logits, minus.logits, step).cpu().numpy() for plus, minus in passes]
