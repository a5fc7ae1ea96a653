"""Direct logit attribution: what each head and MLP writes towards the answer by itself, past all later blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.steering.causal.gradients import products
from trimtab.steering.causal.patching import whole_sites
from trimtab.steering.causal.question import PASS_BUDGET, Batch, Question
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.causal.relevance import relevance_rules
from trimtab.steering.localisers.base import Localiser, heads, mlps
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.hooks import Edit, hooked
from trimtab.steering.model.site import Site


@dataclass(frozen=True)
class DirectLogit(Localiser):
    """`z_h W_O[h] . scale . w . (W_U[right] - W_U[wrong])` at the position that answers, the final norm's scale frozen
    at its own value (and that of a norm behind the projection, where the family has one).

    Source: Elhage et al. 2021; Yu, Merullo and Pavlick 2023 (arXiv 2310.15910) for heads of factual recall. Without a
    wrong answer the comparison is the mean logit over the vocabulary, as a softmax ignores a constant. Sees only the
    last step: heads that work through later heads score 0. Contributions of all heads, MLPs and the embedding (plus
    biases and position vectors) add up to the metric, taken before the soft cap where the family ends in one (gemma2):
    a cap is no sum, and keeps the order of logits.

    budget: tokens of a forward pass. Costs one forward, and a backward through the output projections alone.
    """

    source: ClassVar[str] = "Elhage et al. 2021; Yu et al. 2023, arXiv 2310.15910"
    meaning: ClassVar[str] = (
        "direct contribution to the right answer's logit over the wrong one's (without one: over the mean logit), "
        "before any final soft cap, nats, above 0: towards the answer"
    )

    budget: int = PASS_BUDGET

    def rank(self, anatomy: Anatomy, questions: Sequence[Question]) -> Ranking:
        self.check(questions)
        units = (*heads(anatomy), *mlps(anatomy))
        effects = partial(contributions, anatomy, units=units)
        return self.ranked(anatomy, questions, units, effects, self.budget)


def contributions(anatomy: Anatomy, batch: Batch, units: Sequence[Site]) -> Float[Tensor, "units b"]:
    """Direct contributions of heads, `mlp_out` and `embed`, nats. Every write is a leaf of the graph, so no gradient
    finds a way through a later block: what is left is the skip path, the frozen norms and the unembedding."""
    sites, leaves = whole_sites(units), {}

    def cut(site: Site) -> Edit:
        def edit(h: Tensor) -> Tensor:
            leaves[site] = h.detach().clone().requires_grad_()
            return leaves[site]

        return edit

    everywhere = dict.fromkeys((*anatomy.sites(["z", "mlp_out"]), *sites))
    with frozen(anatomy.model), relevance_rules(anatomy, ("norm",)), anatomy.uncapped():
        with hooked(anatomy, edits=[(site, cut(site)) for site in everywhere]):
            metric = centred(batch, batch.logits(anatomy.model))
        slopes = torch.autograd.grad(metric.sum(), [leaves[site] for site in sites])
    values = {site: leaves[site].detach() for site in sites}
    return products(anatomy, units, values, dict(zip(sites, slopes, strict=True)))


def centred(batch: Batch, logits: Float[Tensor, "n v"]) -> Float[Tensor, "b"]:
    """The metric, linear in the logits: the logit difference, or the answer's mean logit over the vocabulary's mean."""
    if batch.wrong is not None:
        return batch.metric(logits)
    over = logits.gather(-1, batch.target[:, None])[:, 0] - logits.mean(-1)
    counts = torch.bincount(batch.row, minlength=batch.rows)
    return over.new_zeros(batch.rows).index_add(0, batch.row, over) / counts
