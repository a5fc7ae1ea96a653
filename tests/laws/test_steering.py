"""Laws of steering over every family, point and move: zero, effect, site, prefix."""

import pytest
import torch
from torch import nn

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.moves import MOVES
from trimtab.steering.plans.plan import SteeringPlan, steer_rows

PROMPT = 7  # of nine tokens
VISIBLE = 1e-3  # logits have standard deviation 1; every effect below is 20 times this, rounding a tenth


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def rows(bench) -> torch.Tensor:
    return bench.ids.expand(len(list(MOVES)), -1)


@pytest.fixture(scope="module")
def rows_base(tiny, bench):
    """Logits at once, by decoding, and readings at every site, of the model left alone, one row per move."""
    seen = bench.read(tiny, bench.sites(tiny), rows(bench))
    return seen["logits"], bench.decode(tiny, rows(bench), prompt=PROMPT), seen


@pytest.fixture(scope="module")
def base(tiny, bench):
    """Logits of the model left alone."""
    return bench.logits(tiny)


@pytest.mark.parametrize("move", MOVES)
def test_zero_is_bit_identical_and_nothing_stays(tiny, bench, base, move):
    before = hooks_on(tiny)
    plan = SteeringPlan(tuple(bench.step(tiny, site, move, strength=2.0) for site in bench.sites(tiny)))
    with plan.on(tiny, strength=0.0):
        assert torch.equal(bench.logits(tiny), base)
    with plan.on(tiny):
        assert hooks_on(tiny) > before, "this test would not see a hook that stays"
        assert not torch.equal(bench.logits(tiny), base)
    assert torch.equal(bench.logits(tiny), base), "something stayed behind"
    assert hooks_on(tiny) == before and "generate" not in vars(tiny)


def test_nothing_stays_after_an_error(tiny, bench, base):
    before = hooks_on(tiny)
    for site in bench.sites(tiny):
        with pytest.raises(ZeroDivisionError), bench.plan(tiny, site).on(tiny):
            raise ZeroDivisionError
    assert hooks_on(tiny) == before and "generate" not in vars(tiny)
    assert torch.equal(bench.logits(tiny), base)


def test_effect_in_every_cached_step_but_not_in_the_prompt(tiny, bench, rows_base):
    """One row of the batch per move."""
    for site in bench.sites(tiny):
        with steer_rows(tiny, [bench.plan(tiny, site, move, span="generated") for move in MOVES]) as session:
            steered = bench.decode(tiny, rows(bench), prompt=PROMPT)
        assert session.forwards == 3 and session.fired == [3] * len(list(MOVES))
        assert torch.equal(steered[:, :PROMPT], rows_base[1][:, :PROMPT]), f"{site}: the prompt was steered"
        change = (steered - rows_base[1])[:, PROMPT:].abs().amax(-1)
        for k, move in enumerate(MOVES):
            assert bool((change[k] > VISIBLE).all()) != bench.forgets(tiny, site, move), f"{move}, {site}: {change[k]}"


def test_site_holds_what_the_move_says_and_the_logits_change(tiny, bench, rows_base, assert_same):
    """One row of the batch per move."""
    d = Anatomy.of(tiny).d_head
    for site in bench.sites(tiny):
        whole, head = site.whole, slice(None) if site.head is None else slice(site.head * d, (site.head + 1) * d)
        with steer_rows(tiny, [bench.plan(tiny, site, move, strength=0.7) for move in MOVES]):
            after = bench.read(tiny, [whole], rows(bench))
        for k, move in enumerate(MOVES):
            want = rows_base[2][whole][k].clone()
            want[..., head] = bench.step(tiny, site, move).move.moved(want[..., head], 0.7)
            assert_same(after[whole][k], want)
            change = (after["logits"] - rows_base[0])[k].abs().amax(-1)
            assert bool((change > VISIBLE).all()) != bench.forgets(tiny, site, move), f"{move}, {site}: {change}"


def test_site_of_one_head_reads_that_head(tiny, rows_base):
    d = Anatomy.of(tiny).d_head
    assert torch.equal(rows_base[2][Site("z", 1, 2)], rows_base[2][Site("z", 1)][..., 2 * d : 3 * d])


def test_prefix_before_the_span_is_bit_identical(tiny, bench, base, assert_same):
    """With experts only within rounding: how many tokens share an expert's matrix product depends on later tokens."""
    experts = Anatomy.of(tiny).family.down_proj is None
    for site in bench.sites(tiny):
        with bench.plan(tiny, site, span="after:4").on(tiny):
            steered = bench.logits(tiny)
        assert experts or torch.equal(steered[:, :4], base[:, :4]), site
        assert_same(steered[:, :4], base[:, :4])
        assert (steered[:, 4] - base[:, 4]).abs().max() > VISIBLE, site
