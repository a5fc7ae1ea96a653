"""Direct logit attribution: contributions that add up to the metric."""

import copy

import torch
from small_questions import CPU, PAIR, QUESTIONS

from trimtab.steering.causal.patching import activations
from trimtab.steering.causal.question import Batch, Question
from trimtab.steering.localisers.base import heads, mlps
from trimtab.steering.localisers.direct_logit import centred, contributions
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.projection import out_weight
from trimtab.steering.model.site import Site


def summed(model) -> Anatomy:
    """A copy in which heads, MLPs and the embedding are all there is to sum: no biases, no position vectors. Its logits
    are large enough for a soft cap to bend them."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "wpe" in name or "embed_positions" in name:
                parameter.zero_()
        model.get_output_embeddings().weight.mul_(20)
    return Anatomy.of(model)


def unembedded(batch: Batch, model) -> torch.Tensor:
    """Where answers are decided, what the unembedding itself gives, divided as granite divides it."""
    scaling = getattr(model.config.get_text_config(), "logits_scaling", 1.0)
    seen: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        batch.logits(model)
    handle.remove()
    return seen[0][batch.row, torch.unique(batch.column, return_inverse=True)[1]] / scaling


def test_direct_contributions_add_up_to_the_metric(tiny):
    """With and without a wrong answer, before any soft cap; what a cap leaves is another number."""
    anatomy = summed(tiny)
    capped = anatomy.text_config.to_dict().get("final_logit_softcapping")
    units = (*heads(anatomy), *mlps(anatomy), Site("embed"))
    for questions in (QUESTIONS, [Question(q.clean, (*q.target, 9)) for q in QUESTIONS]):
        batch = Batch.of(questions, PAIR, CPU)
        want = centred(batch, unembedded(batch, anatomy.model))
        torch.testing.assert_close(contributions(anatomy, batch, units).sum(0), want, rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            after = centred(batch, batch.logits(anatomy.model))
        assert bool(capped) != torch.allclose(after, want, rtol=0.01)


def test_a_direct_contribution_is_the_projection_through_the_frozen_norm(build_tiny):
    llama = Anatomy.of(build_tiny("llama/plain"))
    batch, last = Batch.of(QUESTIONS, PAIR, CPU), Site("resid_post", 2)
    seen, _ = activations(llama, batch, [Site("z", 1), last])
    rows = torch.arange(2)
    z, stream = seen[Site("z", 1)][rows, batch.last], seen[last][rows, batch.last]
    weight = out_weight(llama.place(Site("z", 1)).module)[llama.d_head : 2 * llama.d_head]
    final, head = llama.model.model.norm, llama.model.lm_head.weight
    scale = torch.rsqrt(stream.pow(2).mean(-1, keepdim=True) + final.variance_epsilon)
    wrote = (z[:, llama.d_head : 2 * llama.d_head] @ weight) * scale * final.weight
    want = (wrote * (head[batch.target[:2]] - head[batch.wrong])).sum(-1)
    torch.testing.assert_close(contributions(llama, batch, [Site("z", 1, 1)])[0], want.detach(), rtol=1e-4, atol=1e-5)
