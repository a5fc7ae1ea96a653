"""Directional ablation: is the direction needed when the model is *asked* for the behaviour in words?

Steering shows that a direction suffices. Here the prompt asks for the behaviour, the direction is projected out of the
residual stream after every block, and what is left of the gain is measured; random directions beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import SteeringError
from trimtab.steering.judge.effect import margins, prompt_groups
from trimtab.steering.judge.placebo import displacement
from trimtab.steering.judge.verdict import AblationResult
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.projection import out_weight
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import base_from_steered, divergences
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.contrast import Contrast
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.statistics import BOOTSTRAP, Bootstrap, mean_interval

OPERATOR = "directional: h - (h.r) r at every block's resid_post and resid_pre.0, all tokens"


@dataclass(frozen=True, eq=False)
class RequestPairs:
    """The same completions after a prompt that requests the behaviour, and after one that does not, pair by pair.
    request: its words."""

    requesting: Sequence[AnswerPair]
    plain: Sequence[AnswerPair]
    request: str = "a system prompt that asks for the behaviour"

    def __post_init__(self) -> None:
        if len(self.requesting) != len(self.plain):
            raise SteeringError(
                f"{len(self.requesting)} pairs request the behaviour and {len(self.plain)} do not; each needs its "
                f"partner"
            )


@dataclass(frozen=True)
class AblationSettings:
    """random: how many random directions beside the plan's. seed: of those. sites: where to ablate (None: everywhere in
    the residual stream)."""

    random: int = 5
    seed: int = 0
    sites: tuple[Site, ...] | None = None
    bootstrap: Bootstrap = BOOTSTRAP


def ablate(
    scorer: Scorer, direction: Float[Tensor, "d"], texts: RequestPairs, settings: AblationSettings = AblationSettings()
) -> AblationResult:
    """How much of the margin that asking gains is gone without `direction` (any length, `[d_model]`).

    removed: 1 - gain after / gain before; None when asking gains nothing that an interval would confirm. kl:
    KL(base || ablated) on the plain pairs' completions, nats per token.
    """
    anatomy, groups = Anatomy.of(scorer.model), prompt_groups(texts.plain)
    plan = ablation_plan(anatomy, direction, settings.sites)
    before, after = (_gain(scorer, texts, one) for one in (None, plan))
    gain, gain_after = (mean_interval(values, settings.bootstrap, groups) for values in (before, after))
    generator = torch.Generator().manual_seed(settings.seed)
    others = [torch.randn(direction.shape, generator=generator) for _ in range(settings.random)]
    left = [_gain(scorer, texts, ablation_plan(anatomy, other, settings.sites)) for other in others]
    kl = divergences(scorer, [pair.positive for pair in texts.plain], base_from_steered(plan))
    gains = gain.low > 0
    return AblationResult(
        operator=OPERATOR if settings.sites is None else f"directional at {', '.join(map(str, settings.sites))}",
        reference=texts.request,
        asked_gain=gain,
        gain_after=gain_after,
        removed=_removed(before, after) if gains else None,
        random_removed=tuple(_removed(before, one) for one in left) if gains else (),
        kl=float(np.concatenate(kl).mean()),
    )


def ablation_plan(
    anatomy: Anatomy, direction: Float[Tensor, "d"], sites: tuple[Site, ...] | None = None
) -> SteeringPlan:
    """Project `direction` out at the sites. Raises SteeringError for a direction of length 0."""
    size = direction.float().norm()
    if not (torch.isfinite(size) and size > 0):
        raise SteeringError(f"a direction of length {float(size)} cannot be ablated")
    everywhere = (Site("resid_pre", 0), *anatomy.sites(["resid_post"]))
    move = Ablate((direction.float() / size)[None])
    return SteeringPlan(tuple(Intervention(site, move, ALL) for site in (everywhere if sites is None else sites)))


def residual_direction(anatomy: Anatomy, plan: SteeringPlan, contrast: Contrast) -> Float[Tensor, "d"]:
    """What the plan adds to the residual stream: the sum over its interventions of strength x mean displacement, those
    at `z` and `mlp_post` carried through the output projection. `[d_model]`."""
    total = torch.zeros(anatomy.d_model)
    for step in plan.interventions:
        total += step.strength * _to_residual(anatomy, step.site, displacement(step, contrast).cpu())
    return total


def _to_residual(anatomy: Anatomy, site: Site, vector: Tensor) -> Tensor:
    if site.point not in ("z", "mlp_post"):
        return vector
    weight = anatomy.multiplier * out_weight(anatomy.place(site).module).detach().float().cpu()
    if site.head is not None:
        weight = weight[site.head * anatomy.d_head : (site.head + 1) * anatomy.d_head]
    return vector @ weight


def _gain(scorer: Scorer, texts: RequestPairs, plan: SteeringPlan | None) -> Float[np.ndarray, "n"]:
    gains: Float[np.ndarray, n] = margins(scorer, texts.requesting, plan) - margins(scorer, texts.plain, plan)
    return gains


def _removed(before: Float[np.ndarray, "n"], after: Float[np.ndarray, "n"]) -> float:
    return float(1 - after.mean() / before.mean())
