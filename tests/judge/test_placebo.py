"""Placebos: same sites, spans and norms; covariances matched; labels really gone."""

from dataclasses import replace

import pytest
import torch

from trimtab.steering.errors import BadRows, SteeringError
from trimtab.steering.fitters.mean_difference import MeanDifference
from trimtab.steering.gates.first import First
from trimtab.steering.judge.candidates import RowRefit, by_site, shuffled
from trimtab.steering.judge.placebo import PlaceboCounts, covariance_plan, flipped, placebos, random_plan
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ANSWER
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.moves.gated import Gated
from trimtab.steering.running.contrast import Contrast, Pair

SITES = (Site("resid_post", 0), Site("resid_post", 2))


@pytest.fixture
def contrast():
    """Rows of 24 numbers that vary 30 times more along the first axis than along the last, and a shift along axis 5."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(3.0, 0.1, 24)
    shift = 4.0 * torch.nn.functional.one_hot(torch.tensor(5), 24)
    return Contrast(
        {
            site: Pair(
                torch.randn(200, 24, generator=generator) * spread + shift,
                torch.randn(200, 24, generator=generator) * spread,
            )
            for site in SITES
        }
    )


@pytest.fixture
def plan(contrast):
    return MeanDifference().fit(contrast).spanning(ANSWER).scaled(0.5)


def vectors(plan):
    return [step.move.vector for step in plan.interventions]


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def streams(n):
    return [torch.Generator().manual_seed(k) for k in range(n)]


@pytest.fixture
def candidates(plan):
    return by_site(plan)


@pytest.fixture
def refit(contrast, candidates):
    return RowRefit(MeanDifference(), contrast, candidates)


def test_every_placebo_is_a_whole_set_of_candidates(plan, candidates, contrast, refit):
    drawn = placebos(candidates, contrast, refit, PlaceboCounts(4, 3, 2, 1))
    assert [p.kind for p in drawn] == ["random"] * 4 + ["covariance"] * 3 + ["shuffled"] * 2
    assert len({p.name for p in drawn}) == 9
    for one in drawn:
        assert list(one.candidates) == list(candidates)
        for name, other in one.candidates.items():
            (step,) = other.interventions
            assert str(step.site) == name and step.span == ANSWER and step.strength == 0.5
    flip = flipped("resid_post.2", candidates["resid_post.2"]).candidates["resid_post.2"]
    assert torch.equal(vectors(flip)[0], vectors(plan)[1]) and flip.interventions[0].strength == -0.5


def test_norms_match(plan, contrast):
    for draw in (random_plan, lambda p, stream: covariance_plan(p, contrast, stream)):
        for stream in streams(5):
            for real, placebo in zip(vectors(plan), vectors(draw(plan, stream)), strict=True):
                assert placebo.norm().item() == pytest.approx(real.norm().item(), rel=1e-5)


def test_random_directions_know_nothing(plan, contrast):
    real = vectors(plan)[0]
    found = torch.stack([vectors(random_plan(plan, s))[0] for s in streams(400)])
    cosines = found @ real / (found.norm(dim=1) * real.norm())
    assert cosines.mean().abs() < 0.03
    assert cosines.std().item() == pytest.approx(24**-0.5, rel=0.15)


def test_covariance_directions_have_the_covariance_within_classes(plan, contrast):
    """Before they are scaled to one norm, draws have the rows' covariance; scaling keeps the shares per axis."""
    pair = contrast.sites[SITES[0]]
    rows = torch.cat([pair.positive - pair.positive.mean(0), pair.negative - pair.negative.mean(0)])
    want = rows.T @ rows
    found = torch.stack([vectors(covariance_plan(plan, contrast, s))[0] for s in streams(2000)])
    have = found.T @ found
    want, have = want / want.trace(), have / have.trace()
    assert (want - have).norm() < 0.15 * want.norm()
    real = vectors(plan)[0]
    assert abs(cosine(real, found.mean(0))) < 0.5 and (found @ real).abs().mean() < 0.3 * real.norm() ** 2


def test_shuffling_keeps_the_rows_and_loses_the_labels(contrast):
    mixed = shuffled(contrast, torch.Generator().manual_seed(1))
    for site, pair in contrast.sites.items():
        new = mixed.sites[site]
        kept = (new.positive == pair.positive).all(1)
        assert int(kept.sum()) == 100  # exactly half the pairs change sides
        assert torch.equal(new.positive[~kept], pair.negative[~kept])
        assert torch.equal(new.negative[~kept], pair.positive[~kept])
    first, second = ((mixed.sites[s].positive == contrast.sites[s].positive).all(1) for s in SITES)
    assert torch.equal(first, second)


def test_unpaired_rows_are_dealt_anew(contrast):
    pair = contrast.sites[SITES[0]]
    uneven = Contrast({SITES[0]: Pair(pair.positive[:150], pair.negative)}, paired=False)
    mixed = shuffled(uneven, torch.Generator().manual_seed(1)).sites[SITES[0]]
    assert (len(mixed.positive), len(mixed.negative)) == (150, 200)
    before, after = (torch.cat([p.positive, p.negative]).sort(0).values for p in (uneven.sites[SITES[0]], mixed))
    assert torch.equal(before, after)


def test_shuffled_refits_lose_the_direction(plan, refit):
    real = vectors(plan)[0]
    for stream in streams(5):
        (vector,) = vectors(refit(stream)["resid_post.0"])
        assert abs(cosine(real, vector)) < 0.5
        assert vector.norm() < 0.4 * real.norm()


def test_candidates_by_site_are_the_plan_apart(plan, candidates):
    """Named by their sites, in the plan's order, with the very interventions of the plan."""
    assert list(candidates) == [str(step.site) for step in plan.interventions]
    for step, one in zip(plan.interventions, candidates.values(), strict=True):
        assert one.interventions == (step,) and one.interventions[0].move is step.move and one.model == plan.model


def test_a_refit_is_the_same_fitter_on_shuffled_rows(plan, candidates, contrast, refit):
    """To the bit, whether the candidates are single sites or one plan of all of them."""
    fitted = MeanDifference().fit(shuffled(contrast, streams(1)[0]))
    apart, together = refit(streams(1)[0]), RowRefit(MeanDifference(), contrast, {"everywhere": plan})(streams(1)[0])
    for k, vector in enumerate(vectors(fitted)):
        assert torch.equal(vectors(apart[str(SITES[k])])[0], vector)
        assert torch.equal(vectors(together["everywhere"])[k], vector)
    assert [step.strength for step in together["everywhere"].interventions] == [0.5, 0.5]


def test_a_site_where_shuffled_labels_give_no_direction_is_no_candidate(candidates, contrast):
    flat = Pair(torch.ones(200, 24), torch.ones(200, 24))
    one = Contrast({SITES[0]: contrast.sites[SITES[0]], SITES[1]: flat})
    assert list(RowRefit(MeanDifference(), one, candidates)(streams(1)[0])) == ["resid_post.0"]
    with pytest.raises(BadRows, match="ask for no refits"):
        RowRefit(MeanDifference(), Contrast({site: flat for site in SITES}), candidates)(streams(1)[0])


def test_seeded(candidates, contrast, refit):
    counts = PlaceboCounts(2, 2, 1, 0)
    one, again, other = (placebos(candidates, contrast, refit, counts, seed) for seed in (0, 0, 1))
    flat = lambda drawn: torch.cat([v for p in drawn for c in p.candidates.values() for v in vectors(c)])  # noqa: E731
    assert torch.equal(flat(one), flat(again)) and not torch.equal(flat(one), flat(other))


def test_a_move_that_is_no_addition_has_placebos_of_its_own_kind(plan, contrast):
    """Centred rows displace an ablation by nothing on average; as an addition its placebo had length 1e-8."""
    basis = torch.eye(24)[5:7]
    steps = tuple(replace(s, move=Gated(Ablate(basis), First(3))) for s in plan.interventions)
    for drawn in (random_plan(replace(plan, interventions=steps), streams(1)[0]),
                  covariance_plan(replace(plan, interventions=steps), contrast, streams(1)[0])):  # fmt: skip
        for step in drawn.interventions:
            assert isinstance(step.move, Gated) and isinstance(step.move.move, Ablate)
            assert step.move.move.basis.shape == (2, 24) and (step.move.move.basis @ basis.T).abs().max() < 0.95


def test_rows_are_needed_where_the_plan_acts(plan, contrast):
    elsewhere = Contrast({SITES[0]: contrast.sites[SITES[0]]})
    with pytest.raises(SteeringError, match="no rows at resid_post.2"):
        covariance_plan(plan, elsewhere, streams(1)[0])
