"""The Fisher closed form: how far a plan may go for a KL budget, before any verification.

Let z(g) be the logits at strength g, p = softmax(z(0)), s = dz/dg at 0. KL(p || p_g) is the Bregman divergence of
log-sum-exp, so near 0

    KL(g) = g^2 / 2 * Var_p(s) + O(g^3)        (both directions agree to second order)

which inverts to `g = sqrt(2 budget / Var_p(s))`. The bound of ASC (Azizi et al., arXiv 2507.04742, appendix A.1)
replaces Var_p(s) by its largest possible value, |s|^2 / 2 with the Euclidean norm over the whole vocabulary: safe, and
on spiky distributions more than fifty times smaller, so it is no first guess.
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


def fisher_strength(variances: Float[np.ndarray, "n"], budget: float, quantile: float | None = None) -> float:
    """g = sqrt(2 budget / V), V the mean of Var_p(s) over tokens, or its `quantile` over tokens.

    variances: `[n]` Var_p(s) per token, nats^2 per unit strength. The mean answers a budget on the mean KL; a quantile
    of 0.95 keeps 95 of 100 tokens within the budget. Assumes that KL is still a parabola at the budget: on the
    embedded model within 10% at 0.001 nats, up to 1.9 times off at 0.1 and 9 times at 0.5 (docs/benchmarks), so verify;
    inf when the plan does not move the logits.
    """
    spread = float(np.mean(variances) if quantile is None else np.quantile(variances, quantile))
    return math.inf if spread <= 0 else math.sqrt(2 * budget / spread)


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
) -> tuple[Float[np.ndarray, "n"], int]:
    """Var_p(s) at every answer-writing position of the texts, pooled `[n]`, and the passes over texts it took.

    Two passes at +-step. The step is chosen on the first text that the plan moves (a gate may be closed to others) so
    that the logits change by about LOGIT_CHANGE (standard deviation under p): too small drowns in float32 noise, too
    large is no derivative.
    """
    step, passes = _step(scorer, plan, texts, first_step)
    return _variances(scorer, plan, texts, step), passes + 2


def _step(scorer: Scorer, plan: SteeringPlan, texts: Sequence[Tokens], step: float) -> tuple[float, int]:
    """The step, and the passes over texts that it took. It is settled on the first text if the logits there change by
    more than noise, else on the text where they change most (the step may be too small for all of them, or the plan
    may do nothing)."""
    text, variances, passes = texts[0], _variances(scorer, plan, texts[:1], step), 0
    if len(texts) > 1 and step * math.sqrt(float(np.mean(variances))) <= _NOISE:
        per_text, passes = _per_text(scorer, plan, texts, step), 2
        most = max(range(len(texts)), key=lambda k: float(np.sum(per_text[k])) / max(len(per_text[k]), 1))
        text, variances = texts[most], per_text[most]
    settled, further = _settled(scorer, plan, text, step, variances)
    return settled, passes + further


def _settled(
    scorer: Scorer, plan: SteeringPlan, text: Tokens, step: float, variances: Float[np.ndarray, "n"]
) -> tuple[float, int]:
    """The step for one text, and the passes it took. variances: the text's at the first step."""
    for attempt in range(1, _TRIES + 1):
        change = step * math.sqrt(float(np.mean(variances)))
        if ACCEPTED[0] <= change <= ACCEPTED[1]:
            return step, 2 * attempt
        if not math.isfinite(change):
            step /= 1000
        else:
            step *= min(1000.0, LOGIT_CHANGE / change if change > 0 else 1000.0)
        variances = _variances(scorer, plan, [text], step)
    return step, 2 * (_TRIES + 1)


def _variances(scorer: Scorer, plan: SteeringPlan, texts: Sequence[Tokens], step: float) -> Float[np.ndarray, "n"]:
    """Pooled over the texts. Raises SteeringError when no text has a completion."""
    per_text = _per_text(scorer, plan, texts, step)
    pooled = np.concatenate(per_text) if per_text else np.zeros(0)
    if len(pooled) == 0:
        raise SteeringError("no text has a completion, so there is no next token to differentiate at; give completions")
    return pooled


def _per_text(
    scorer: Scorer, plan: SteeringPlan, texts: Sequence[Tokens], step: float
) -> list[Float[np.ndarray, "n_i"]]:
    passes = scorer.both(texts, plan.scaled(step), plan.scaled(-step))
    return [logit_variance(plus.logits, minus.logits, step).cpu().numpy() for plus, minus in passes]
