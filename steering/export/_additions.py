"""What most formats can say: vectors that are added to the output of blocks."""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.errors import BadFile, CannotExport
from trimtab.steering.model.fingerprint import Fingerprint
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ALL, Span
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

Additions = dict[tuple[int, str], Float[Tensor, "d"]]
EVERY_TOKEN = ("all",)


def additions(plan: SteeringPlan, tool: str, spans: Collection[str] = EVERY_TOKEN) -> Additions:
    """(block, span) -> the sum of what the plan adds to that block's output, strengths included.

    spans: those that the tool's file can say. Raises CannotExport with the first part of the plan that it cannot.
    """
    total: Additions = {}
    for step in plan.interventions:
        block, vector = _addition(step, tool, spans)
        place = (block, str(step.span))
        total[place] = total[place] + vector if place in total else vector
    if not total:
        raise CannotExport("the plan has no interventions: there is nothing to export")
    return total


def additions_everywhere(plan: SteeringPlan, tool: str) -> dict[int, Float[Tensor, "d"]]:
    """block -> vector, for tools that add to every token."""
    return {block: vector for (block, _), vector in additions(plan, tool).items()}


def plan_of(vectors: Mapping[tuple[int, str], Float[Tensor, "d"]]) -> SteeringPlan:
    """The inverse: one addition per block and span, in order of blocks. Raises BadFile when there is none or their
    widths differ."""
    widths = {vector.numel() for vector in vectors.values()}
    if len(widths) != 1:
        raise BadFile(f"a plan needs vectors of one width; the file has {sorted(widths) or 'no vectors'}")
    steps = (
        Intervention(Site("resid_post", block), Add(vector), Span.parse(span))
        for (block, span), vector in sorted(vectors.items(), key=lambda item: item[0])
    )
    return SteeringPlan(tuple(steps))


def plan_everywhere(vectors: Mapping[int, Float[Tensor, "d"]]) -> SteeringPlan:
    """`plan_of` for files whose vectors act on every token."""
    return plan_of({(block, str(ALL)): vector for block, vector in vectors.items()})


def vector_of(values: object, where: str) -> Float[Tensor, "d"]:
    """One float32 vector from an array, a tensor or nested lists. Raises BadFile naming `where`."""
    try:
        array = torch.as_tensor(np.asarray(values, dtype=np.float32).copy())
    except (TypeError, ValueError) as error:
        raise BadFile(f"{where} is not a vector of numbers: {error}") from error
    if array.ndim != 1 or not array.numel() or not bool(torch.isfinite(array).all()):
        raise BadFile(f"{where} must be one vector of finite numbers, it is {list(array.shape)}")
    return array


def fingerprint_of(plan: SteeringPlan, tool: str) -> Fingerprint:
    """The model that the plan was made on. Raises CannotExport when the plan does not say."""
    if plan.model is None:
        raise CannotExport(
            f"{tool} wants to know the kind of model, and this plan does not say on which it was made; "
            f"give it the model's fingerprint: replace(plan, model=Anatomy.of(model).fingerprint)"
        )
    return plan.model


def _addition(step: Intervention, tool: str, spans: Collection[str]) -> tuple[int, Float[Tensor, "d"]]:
    move, site = step.move, step.site
    if not isinstance(move, Add):
        cure = "Use" if isinstance(move, Gated) else "Fold the plan into weights, or use"
        raise CannotExport(
            f"{tool} only adds vectors, and the move at {site} is {type(move).__name__}. {cure} the safetensors "
            f"format, which keeps every move"
        )
    if site.point != "resid_post" or site.block is None:
        raise CannotExport(f"{tool} only adds to the output of blocks (resid_post); this plan acts at {site}")
    if str(step.span) not in spans:
        raise CannotExport(
            f"{tool} knows only the span{'s' if len(spans) > 1 else ''} {', '.join(spans)}; {site} is steered on "
            f"'{step.span}'. Steer every token (`--every-token`, plan.spanning('all')): its price then no longer holds"
        )
    return site.block, move.vector * step.strength
