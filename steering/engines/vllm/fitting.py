"""Which plans can act in vLLM, and in which engines: asked before a request is queued."""

from typing import Any

from trimtab.steering.engines.packing import check_packable
from trimtab.steering.errors import BadPlan, CannotPack
from trimtab.steering.model.fused import POINTS
from trimtab.steering.model.outline import Outline
from trimtab.steering.plans.plan import SteeringPlan


def check_plan(plan: SteeringPlan, outline: Outline) -> None:
    """Raises CannotPack for what vLLM's passes cannot hold, BadPlan or BadSite for a plan of another model.

    Weights are not compared: vLLM fuses them, so their digest cannot be taken.
    """
    check_packable(plan)
    for site in plan.sites:
        if site.point not in POINTS:
            raise CannotPack(
                f"the plan acts at {site}, which vLLM's fused blocks do not hand out; {', '.join(POINTS)} can be "
                f"steered there. Serve it with `trimtab serve`"
            )
    for step in plan.interventions:
        step.check(outline)
    if plan.model is not None and plan.model.shape != outline.shape:
        raise BadPlan(f"the plan was made on {plan.model.shape} but this engine runs {outline.shape}")


def why_not(config: Any) -> str | None:
    """What keeps an engine with this VllmConfig from steering, with the cure; None when nothing does.

    Hooks on modules act only where modules are called: not in compiled code, not in replayed graphs.
    """
    parallel = config.parallel_config
    ranks = parallel.tensor_parallel_size * parallel.pipeline_parallel_size
    reasons = {
        "its model is compiled, and compiled code runs no hooks: start it with --enforce-eager": (
            not config.model_config.enforce_eager
        ),
        "it uses vLLM's V2 model runner: start it with VLLM_USE_V2_MODEL_RUNNER=0": config.use_v2_model_runner,
        f"its model is spread over {ranks} processes; steering was tried in one": ranks > 1,
        "it decodes speculatively, which was not tried": config.speculative_config is not None,
        "it splits passes into micro-batches, in which tokens cannot be told apart": parallel.use_ubatching,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
