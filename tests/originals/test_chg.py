"""Causal head gating (arXiv 2505.13737): loss, gradient and one update written anew as the released code does them, on
a tiny model; and what its packaged rewrite makes of the taxonomy."""

import numpy as np
import pytest
import torch

from trimtab.steering.causal.head_scales import scaled_heads
from trimtab.steering.causal.question import Batch, Question
from trimtab.steering.localisers._gate_fit import Stage, fit_gates, start
from trimtab.steering.localisers.causal_head_gating import ROLES, roles
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.tokens import Role, Tokens

LAMBDA, CLIP = 0.1, 4.0


def text(*ids: int) -> Tokens:
    array = np.array(ids)
    return Tokens(array, len(ids), np.full(len(ids), Role.TEXT, np.uint8), np.zeros(len(ids), bool))


QUESTIONS = (Question(text(7, 3, 52, 11), (4, 9)), Question(text(8, 22, 1), (5, 6)))


def published_loss(model, theta: torch.Tensor, nudge: float) -> torch.Tensor:
    """nll over target tokens, mean over tokens and then over the batch; minus lambda times the mean clamped logit.
    Gates by a hook of our own on the output projection's input, one prompt at a time."""
    gates, nll = torch.sigmoid(theta), []
    handles = []
    for block, layer in enumerate(model.model.layers):

        def gate(module, args, block=block):
            z = args[0].unflatten(-1, (gates.shape[1], -1))
            return ((z * gates[block][:, None]).flatten(-2),)

        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(gate))
    try:
        for q in QUESTIONS:
            ids = torch.tensor([[*q.clean.ids, *q.target]])
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            answers = logprobs[len(q.clean) - 1 :]
            nll.append(-answers[range(len(q.target)), list(q.target)].mean())
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(nll).mean() - nudge * theta.clamp(-CLIP, CLIP).mean()


def our_loss(model):
    anatomy, batch = Anatomy.of(model), Batch.of(QUESTIONS, range(2), torch.device("cpu"))

    def loss(gates, _):
        with scaled_heads(anatomy, gates.repeat_interleave(2, 0)):
            return -batch.logprob(batch.logits(model)).reshape(len(gates), 2).mean(1)

    return loss


@pytest.mark.parametrize("nudge", [0.0, LAMBDA, -LAMBDA])
def test_loss_and_gradient_are_the_published_ones(tiny_llama, nudge):
    theta = 5 * torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(3))  # some outside the clip
    assert (theta.abs() > CLIP).any() and (theta.abs() < CLIP).any()
    ours, theirs = theta.clone().requires_grad_(), theta[0].clone().requires_grad_()
    with frozen(tiny_llama):
        mine = our_loss(tiny_llama)(torch.sigmoid(ours), 0) + Stage(1, (1, 1), nudge, dead_zone=True).penalty(ours)
        want = published_loss(tiny_llama, theirs, nudge)
        mine.sum().backward()
        want.backward()
    torch.testing.assert_close(mine[0].detach(), want.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad[0], theirs.grad, rtol=1e-4, atol=1e-6)


def test_a_stage_is_the_published_stage(tiny_llama):
    """Adam at a constant rate of 1, gradients clipped to a norm of 1: the released code's defaults, five updates."""
    theta = start((1, 3, 4), 0)
    with frozen(tiny_llama):
        mine, _ = fit_gates(theta, our_loss(tiny_llama), Stage(5, (1.0, 1.0), LAMBDA, dead_zone=True))
        theirs = theta[0].clone().requires_grad_()
        adam = torch.optim.Adam([theirs], lr=1.0)
        for _ in range(5):
            adam.zero_grad()
            published_loss(tiny_llama, theirs, LAMBDA).backward()
            torch.nn.utils.clip_grad_norm_([theirs], 1.0)
            adam.step()
    torch.testing.assert_close(mine[0], theirs.detach(), rtol=1e-3, atol=1e-3)


def packaged_taxonomy(g_positive: float, g_negative: float) -> str:
    """The packaged rewrite's `head_taxonomy`: it takes its stage "positive", which pushes gates to 1, for the one that
    pushes to 0, and therefore reads G+ as "necessary" and G- as "sufficient"."""
    necessary, sufficient = g_positive >= 0.5, g_negative >= 0.5
    if necessary and sufficient:
        return "facilitating"
    if sufficient:
        return "interfering"
    return "irrelevant"


@pytest.mark.parametrize(
    ("plus", "minus", "ours", "theirs"),
    [
        (1.0, 1.0, "facilitating", "facilitating"),
        (0.0, 0.0, "interfering", "irrelevant"),
        (1.0, 0.0, "irrelevant", "irrelevant"),
        (0.0, 1.0, "inconsistent", "interfering"),
    ],
)
def test_the_package_calls_interfering_heads_irrelevant(plus, minus, ours, theirs):
    """The paper's table 1 is ours: interference is 1 - G+, and a head that is kept off by both fits interferes."""
    assert ROLES[int(roles(np.array(plus), np.array(minus)))] == ours
    assert packaged_taxonomy(plus, minus) == theirs
