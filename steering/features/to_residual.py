"""From mlp_post to mlp_out: the same intervention in the residual's own basis.

The down projection is linear, so adding f to its input adds W_out^T f to its output: `mlp_out = mlp_post W_out + b`.
"""

from dataclasses import replace

from trimtab.steering.errors import BadPlan
from trimtab.steering.features.vocabulary import residual_directions
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan


def through_out(plan: SteeringPlan, anatomy: Anatomy) -> SteeringPlan:
    """Each vector at `mlp_post` as the same edit at `mlp_out`; other interventions as they are.

    Raises BadPlan for moves other than Add at mlp_post, and for families with a norm behind the MLP, where no constant
    at mlp_out does the same.
    """
    return SteeringPlan(tuple(_through(step, anatomy) for step in plan.interventions), plan.model)


def _through(step: Intervention, anatomy: Anatomy) -> Intervention:
    if step.site.point != "mlp_post":
        return step
    if anatomy.family.post_norm:
        raise BadPlan(
            f"{anatomy.text_config.model_type} has a norm behind the MLP, so {step.site} has no equal at mlp_out; "
            f"steer at {step.site}"
        )
    if not isinstance(step.move, Add):
        raise BadPlan(f"{type(step.move).__name__} at {step.site} depends on the neurons; only Add goes through W_out")
    vector = residual_directions(anatomy, step.site, step.move.vector[:, None].cpu())[0]
    return replace(step, site=Site("mlp_out", step.site.block), move=Add(vector.clone()))
