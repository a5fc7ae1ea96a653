"""Directional ablation: what is left of what asking gains."""

import pytest
import torch

from trimtab.steering.errors import SteeringError
from trimtab.steering.judge.direction_ablation import (
    AblationSettings,
    RequestPairs,
    ablate,
    ablation_plan,
    residual_direction,
)
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.contrast import Contrast, Pair
from trimtab.steering.running.scorer import Scorer


def test_nothing_of_the_direction_is_left_anywhere(tiny, make_text):
    anatomy, direction = Anatomy.of(tiny), torch.randn(32)
    seen = {}
    sites = [Site("resid_post", k) for k in range(3)]
    reads = [(site, lambda h, site=site: seen.__setitem__(site, h.detach().clone())) for site in sites]
    plan = ablation_plan(anatomy, direction)
    assert len(plan.interventions) == 4
    with plan.on(tiny), hooked(anatomy, reads=reads), torch.no_grad():
        tiny(torch.from_numpy(make_text(0, 9, 0).ids)[None])
    for site in sites:
        assert (seen[site] @ direction).abs().max() < 1e-4 * seen[site].norm() * direction.norm()


def test_given_sites_only(tiny):
    plan = ablation_plan(Anatomy.of(tiny), torch.randn(32), (Site("resid_post", 1),))
    assert [step.site for step in plan.interventions] == [Site("resid_post", 1)]


@pytest.mark.parametrize("direction", [torch.zeros(32), torch.full((32,), torch.nan)])
def test_no_direction(tiny, direction):
    with pytest.raises(SteeringError, match="cannot be ablated"):
        ablation_plan(Anatomy.of(tiny), direction)


def test_asking_that_gains_nothing_leaves_nothing_to_remove(tiny, make_text):
    pairs = [AnswerPair(make_text(k, 6, 3), make_text(k, 6, 0).followed_by([k, 2 * k])) for k in range(5)]
    found = ablate(Scorer(tiny), torch.randn(32), RequestPairs(pairs, pairs), AblationSettings(random=2))
    assert found.asked_gain.mean == 0.0 and found.removed is None and found.random_removed == ()
    assert found.kl > 0
    with pytest.raises(SteeringError, match="partner"):
        RequestPairs(pairs, pairs[:3])


@pytest.mark.parametrize("site", ["z.1", "z.1.2", "mlp_post.1"])
def test_directions_inside_a_block_are_carried_to_the_residual(tiny, make_text, site):
    """What adding at the site adds to resid_post: measured, against residual_direction."""
    anatomy, where = Anatomy.of(tiny), Site.parse(site)
    vector = torch.randn(anatomy.width(where))
    plan = SteeringPlan((Intervention(where, Add(vector), strength=0.5),))
    rows = Contrast({where: Pair(torch.randn(3, len(vector)), torch.randn(3, len(vector)))})
    target = Site("resid_post", 1) if where.point == "mlp_post" else Site("resid_mid", 1)
    seen, ids = [], torch.from_numpy(make_text(0, 7, 0).ids)[None]
    for strength in (0.0, 1.0):
        with plan.on(tiny, strength), hooked(anatomy, reads=[(target, lambda h: seen.append(h.clone()))]):
            tiny(ids)
    moved = (seen[1] - seen[0])[0, -1]
    torch.testing.assert_close(residual_direction(anatomy, plan, rows), moved.detach(), rtol=1e-3, atol=1e-4)


def test_directions_in_the_residual_stream_add_up(tiny):
    anatomy, rows = Anatomy.of(tiny), Pair(torch.randn(3, 32), torch.randn(3, 32))
    a, b = torch.randn(32), torch.randn(32)
    sites = Site("resid_post", 0), Site("attn_out", 1)
    plan = SteeringPlan((Intervention(sites[0], Add(a), strength=2.0), Intervention(sites[1], Add(b))))
    found = residual_direction(anatomy, plan, Contrast(dict.fromkeys(sites, rows)))
    torch.testing.assert_close(found, 2 * a + b)
