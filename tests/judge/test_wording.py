"""The verdict's words follow the intervals, whatever the point estimates look like."""

from dataclasses import replace

import pytest

from trimtab.steering.judge.verdict import (
    AblationResult,
    Answering,
    AnsweringPoint,
    Contender,
    Effect,
    SitePoint,
    Verdict,
)
from trimtab.steering.judge.wording import beats_random, pairs_of, rank_p, sentence
from trimtab.steering.price.result import KL, Dose, Price
from trimtab.steering.statistics import Interval


def around(mean: float, half: float = 0.05) -> Interval:
    return Interval(mean, mean - half, mean + half, 20)


def contender(kind: str, margin: float, difference: Interval | None = None, **changes) -> Contender:
    effect = Effect(around(margin), 0.0, margin)
    return replace(Contender(kind, kind, 1.0, 0.3, 0.3, True, effect, difference), **changes)


def verdict(*others: Contender, margin: float = 1.0, **changes) -> Verdict:
    kl = KL("steered||base", "rollouts", around(0.3), 1.0, 2.0, 100, "digest")
    contenders = (contender("plan", margin), *others)
    made = Verdict(
        plan="cheerful",
        site="resid_post.7",
        fitter="mean_difference",
        beats_random=beats_random(contenders),
        sentence="",
        dose=Dose(0.3, 0.3, 1.0, True, 0.9, 50, ((1.0, 0.3),)),
        price=Price(kl, replace(kl, direction="base||steered"), 10.0, 11.0, 0.9, 0.85),
        contenders=contenders,
        search=(),
        curve=(),
        ablation=None,
        generations=(),
        splits={},
    )
    return replace(made, **changes)


def test_every_placebo_must_be_beaten_with_an_interval():
    clear, touching = contender("random", 0.1, around(0.9)), contender("covariance", 0.9, around(0.04))
    yes, no = verdict(*[clear] * 19), verdict(*[clear] * 19, touching)
    assert yes.beats_random and not no.beats_random
    assert "more than each of 19 random and covariance-matched" in sentence(yes) and "rank p = 0.05" in sentence(yes)
    assert "does NOT beat random placebos at this price: 1 of 20" in sentence(no)


def test_only_random_and_covariance_count_as_random():
    flip = contender("flip", 2.0, around(-1.0))
    assert verdict(contender("random", 0.0, around(1.0)), flip).beats_random
    assert not verdict(contender("shuffled", 0.0, around(1.0))).beats_random
    assert "nothing says that the direction matters" in sentence(verdict(flip))
    assert "It does not beat its own flipped sign." in sentence(verdict(flip))


@pytest.mark.parametrize(
    "margin,words", [(1.0, "It raises"), (-1.0, "It LOWERS"), (0.02, "no effect on the margin that can be told from 0")]
)
def test_the_effect(margin, words):
    assert words in sentence(verdict(margin=margin))


def test_placebos_that_could_not_be_dosed_are_not_beaten():
    """At strength 0 a placebo has no effect: nineteen such were once all "beaten"."""
    clear = contender("random", 0.1, around(0.9))
    never = contender("random", 0.0, around(1.0), reachable=False, strength=0.0, kl=0.0)
    none = verdict(*[never] * 19)
    assert not none.beats_random and rank_p(none.contenders) is None
    assert "Only 0 of 19 random placebos could be dosed to this price, too few for a claim" in sentence(none)
    few = verdict(*[clear] * 15, *[never] * 5)
    assert not few.beats_random and "Only 15 of 20" in sentence(few) and "rank p" not in sentence(few)
    left = verdict(*[clear] * 19, *[never] * 5)
    assert left.beats_random and rank_p(left.contenders) == pytest.approx(0.05)
    assert "more than each of 19 random" in sentence(left) and "(5 more could not be dosed, and are left" in sentence(
        left
    )
    strong = contender("random", 2.0, around(-1.0), reachable=False)
    assert verdict(*[clear] * 19, strong).beats_random, "nor is it better"


def test_what_was_searched_is_said():
    point = SitePoint("resid_post.7", 1.0, 0.3, 1.0, 6)
    there = contender("random", 0.1, around(0.9), site="resid_post.2")
    assert "each searched like the plan, the best of 3 candidates" in sentence(
        verdict(*[there] * 19, search=(point,) * 3)
    )
    assert "searched" not in sentence(verdict(*[there] * 19, search=(point,)))
    before = replace(there, site="")  # a verdict of an earlier version
    assert "placebos stood at the plan's site" in sentence(verdict(*[before] * 19, search=(point,) * 3))


def test_an_unreachable_dose_is_said():
    dose = Dose(5.0, 2.9, 40.0, False, 1.0, 50, ())
    text = sentence(verdict(dose=dose))
    assert "could not be dosed to 5 nats: the nearest strength below costs 2.9" in text and "was dosed" not in text


@pytest.mark.parametrize(
    "difference,words",
    [
        (0.5, "It does more than a system prompt"),
        (-0.5, "A system prompt, at 0.3 nats, does more"),
        (0.01, "as much as can be told"),
    ],
)
def test_the_prompt_baseline(difference, words):
    assert words in sentence(verdict(contender("system_prompt", 0.5, around(difference))))


@pytest.mark.parametrize(
    "difference,words",
    [(0.5, "has less effect"), (-0.5, "has more effect"), (0.01, "cannot be told apart from it at this price")],
)
def test_other_methods(difference, words):
    rival = contender("method", 0.5, around(difference), name="pca")
    assert f"pca {words}" in sentence(verdict(rival))


def test_refits():
    won, lost = contender("shuffled", 0.0, around(1.0)), contender("shuffled", 1.0, around(0.0))
    lame = contender("shuffled", 0.0, around(1.0), reachable=False)
    assert "None of 1 refits" in sentence(verdict(lame)) and "all 1 refits" in sentence(verdict(won, lame))
    assert "could not be dosed to this price" in sentence(verdict(contender("flip", 0.0, around(1.0), reachable=False)))
    assert "It beats all 2 refits" in sentence(verdict(won, won)) and "1 of 2 refits" in sentence(verdict(won, lost))


def test_ablation():
    found = AblationResult("directional", "be warm", around(1.0), around(0.2), 0.8, (0.01, -0.02), 0.1)
    assert "so 80% is gone; without random directions: 1%, -2%" in sentence(verdict(ablation=found))
    nothing = replace(found, asked_gain=around(0.0), removed=None, random_removed=())
    assert "Asking in words gains nothing" in sentence(verdict(ablation=nothing))


def test_damage():
    text = sentence(verdict())
    assert "perplexity goes from 10 to 11" in text and "right from 90% to 85%" in text
    price = replace(verdict().price, perplexity_base=999.7, perplexity_steered=5119.3)
    assert "perplexity goes from 1,000 to 5,119" in sentence(verdict(price=price))


def test_tokens_against_accuracy_are_said_at_the_dose():
    def point(name: str, kind: str, kept: float, factor: float | None) -> AnsweringPoint:
        return AnsweringPoint(name, kind, around(20.0), around(9.0), around(kept), around(0.4), factor)

    weak, dosed = (
        point("plan, 0.5 × its strength", "plan", 0.99, 0.5),
        point("plan, 1 × its strength", "plan", 0.9, 1.0),
    )
    prompt = point("system prompt", "system_prompt", 0.8, None)
    said = sentence(verdict(answering=Answering(60, 40, 64, 29.0, (weak, dosed, prompt))))
    assert "Of 40 of 60 questions" in said and "the plan keeps 90% right and saves 9.0" in said
    assert "the system prompt keeps 80%" in said and "99%" not in said
    assert "could not be measured" in sentence(verdict(answering=Answering(60, 1, 64, 29.0, ())))


def test_it_is_said_of_how_many_prompts_the_pairs_are():
    said = lambda n, clusters, paired=True: pairs_of(Interval(1.0, 0.9, 1.1, n, 0.95, clusters), paired)  # noqa: E731
    assert said(40, 40) == said(40, None) == "40 held-out pairs"
    assert said(40, 10) == "40 held-out pairs of 10 prompts"
    assert said(40, 5) == "40 held-out pairs of 5 prompts (5 prompts are too few to say much about others)"
    assert said(40, 40, paired=False) == "40 couples of unrelated held-out texts"


def test_a_warning_of_the_fit_is_in_the_verdict():
    assert sentence(verdict(warnings=("coordinate 7 leads",))).endswith("Beware: coordinate 7 leads.")
    assert "Beware" not in sentence(verdict())
