"""Pooled activations under a plan, with the graph that leads to the plan's tensors."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import GENERATED, Span
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.padded_texts import PaddedTexts

PASS_TEXTS = 16  # of one forward pass


def pooled(
    anatomy: Anatomy,
    plan: SteeringPlan | None,
    texts: Sequence[Tokens],
    sites: Sequence[Site],
    span: Span = GENERATED,
) -> list[Float[Tensor, "n d"]]:
    """Per site, the mean over each text's tokens of `span` of what the plan leaves there, float32."""
    parts = [
        _of_pass(anatomy, plan, texts[start : start + PASS_TEXTS], sites, span)
        for start in range(0, len(texts), PASS_TEXTS)
    ]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _of_pass(
    anatomy: Anatomy, plan: SteeringPlan | None, texts: Sequence[Tokens], sites: Sequence[Site], span: Span
) -> list[Tensor]:
    padded, rows = PaddedTexts.of(texts, anatomy.device), dict[Site, Tensor]()
    mask = span.mask(padded.positions).to(anatomy.device)
    with ExitStack() as stack:
        stack.enter_context(frozen(anatomy.model))
        if plan is not None:
            stack.enter_context(plan.on(anatomy.model, prompt_lengths=padded.prompt_lengths))
        stack.enter_context(hooked(anatomy, reads=[(site, _mean_into(rows, site, mask)) for site in sites]))
        anatomy.model(input_ids=padded.ids, use_cache=False, logits_to_keep=1)
    return [rows[site] for site in sites]


def _mean_into(rows: dict[Site, Tensor], site: Site, mask: Tensor) -> Callable[[Tensor], None]:
    weights = (mask / mask.sum(1, keepdim=True)).float()

    def read(h: Tensor) -> None:
        rows[site] = torch.einsum("bs,bsd->bd", weights.to(h.device), h.float())

    return read
