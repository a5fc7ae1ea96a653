"""The verdict in plain words. Every clause follows from an interval; what the intervals do not show is not said."""

from collections.abc import Sequence

from trimtab.steering.judge.verdict import NULLS, AnsweringPoint, Contender, Verdict
from trimtab.steering.statistics import Interval, rank_p_value

FEW_PROMPTS = 8  # below, intervals of skewed values hold the truth clearly less often than they say
FEWEST = 19  # placebos that can reach a rank p-value of 0.05
AT_DOSE = (1.0, None)  # of the answers: the plan as it was dosed, and the prompt


def nulls(contenders: Sequence[Contender]) -> tuple[list[Contender], list[Contender]]:
    """Random and covariance-matched placebos: all that were drawn, and those that could be dosed to the price."""
    drawn = [one for one in contenders if one.kind in NULLS]
    return drawn, [one for one in drawn if one.reachable]


def enough(contenders: Sequence[Contender]) -> bool:
    """True when FEWEST placebos could be dosed, or all of those drawn where fewer were."""
    drawn, dosed = nulls(contenders)
    return bool(dosed) and len(dosed) >= min(FEWEST, len(drawn))


def beats_random(contenders: Sequence[Contender]) -> bool:
    """True when enough random and covariance-matched placebos were dosed to the price, and the plan's advantage over
    every one of them has an interval above 0. One that could not be dosed says nothing: it is not beaten."""
    return enough(contenders) and all(_beaten(one) for one in nulls(contenders)[1])


def rank_p(contenders: Sequence[Contender]) -> float | None:
    """Rank of the plan among the placebos that could be dosed, on the pairs that all were measured on; None when too
    few could. Plan and placebos are each the best of as many candidates by the same search, so it is uniform when the
    plan knows nothing."""
    if not enough(contenders):
        return None
    dosed = nulls(contenders)[1]
    return rank_p_value(_comparable(contenders[0], dosed), [one.effect.margin.mean for one in dosed])


def sentence(verdict: Verdict) -> str:
    """What was found, in the order: price, effect, random placebos, other placebos, prompt, ablation, damage."""
    plan = verdict.contenders[0]
    clauses = (_price(verdict), _effect(verdict, plan), _nulls(verdict), _others(verdict), _prompt(verdict))
    beware = [f"Beware: {warning}." for warning in verdict.warnings]
    return " ".join(
        clause for clause in (*clauses, _ablation(verdict), _damage(verdict), _answering(verdict), *beware) if clause
    )


def _price(verdict: Verdict) -> str:
    dose, name = verdict.dose, f"{verdict.plan} ({verdict.fitter} at {verdict.site})"
    spends = f"spends {_nats(verdict.price.budget.mean)} nats per generated token on held-out prompts"
    if dose.reachable:
        return f"{name} was dosed to {dose.asked:.3g} nats and {spends}."
    return (
        f"{name} could not be dosed to {dose.asked:.3g} nats: the nearest strength below costs {dose.achieved:.3g}; "
        f"it {spends}."
    )


def _effect(verdict: Verdict, plan: Contender) -> str:
    margin = plan.effect.margin
    pairs = f"on {pairs_of(margin, verdict.paired)}"
    if margin.low > 0:
        return f"It raises the margin of wanted over unwanted answers by {_nats(margin)} nats per token {pairs}."
    if margin.high < 0:
        return f"It LOWERS the margin of wanted over unwanted answers by {_nats(margin)} nats per token {pairs}."
    return f"It has no effect on the margin that can be told from 0: {_nats(margin)} nats per token {pairs}."


def pairs_of(margin: Interval, paired: bool) -> str:
    """What an interval of a margin is over: how many pairs, of how many prompts, and whether these are few."""
    pairs = f"{margin.n} held-out pairs" if paired else f"{margin.n} couples of unrelated held-out texts"
    prompts = margin.clusters or margin.n
    of = f" of {prompts} prompts" if paired and prompts < margin.n else ""
    few = f" ({prompts} prompts are too few to say much about others)" if prompts < FEW_PROMPTS else ""
    return f"{pairs}{of}{few}"


def _nulls(verdict: Verdict) -> str:
    drawn, dosed = nulls(verdict.contenders)
    p = rank_p(verdict.contenders)
    if not drawn:
        return "No random placebo was tried, so nothing says that the direction matters."
    if p is None:
        return (
            f"Only {len(dosed)} of {len(drawn)} random placebos could be dosed to this price, too few for a claim: "
            f"nothing says that the direction matters."
        )
    left = f" ({len(drawn) - len(dosed)} more could not be dosed, and are left out)" if len(dosed) < len(drawn) else ""
    rank = f"(rank p = {p:.2g}{_searched(verdict, dosed)})"
    if verdict.beats_random:
        return (
            f"That is more than each of {len(dosed)} random and covariance-matched placebos at this price{left}, "
            f"every interval of the difference above 0 {rank}."
        )
    ties = sum(not _beaten(one) for one in dosed)
    return (
        f"It does NOT beat random placebos at this price: {ties} of {len(dosed)} cannot be told from it or do "
        f"better{left} {rank}."
    )


def _searched(verdict: Verdict, dosed: Sequence[Contender]) -> str:
    """How placebos got their sites. Verdicts made before they were searched do not say."""
    sites = len(verdict.search)
    if not all(one.site for one in dosed):
        return "; placebos stood at the plan's site"
    return f"; each searched like the plan, the best of {sites} candidates" if sites > 1 else ""


def _comparable(plan: Contender, nulls: Sequence[Contender]) -> float:
    """The plan's effect on the pairs that the placebos were measured on."""
    first = next(one for one in nulls)
    return plan.effect.margin.mean if first.difference is None else first.difference.mean + first.effect.margin.mean


def _others(verdict: Verdict) -> str:
    refits, flips, methods, biases = (
        [one for one in verdict.contenders if one.kind == kind] for kind in ("shuffled", "flip", "method", "token_bias")
    )
    said = [_refits(refits)] if refits else []
    said += [_flip(one) for one in flips]
    said += [f"{one.name} {_versus(one)}." for one in methods]
    said += [f"A bias on tokens, fitted to the same answers, {_versus(one)}." for one in biases]
    return " ".join(said)


def _refits(refits: Sequence[Contender]) -> str:
    dosed = [one for one in refits if one.reachable]
    if not dosed:
        return f"None of {len(refits)} refits on shuffled labels could be dosed to this price."
    beaten = sum(_beaten(one) for one in dosed)
    share = f"all {len(dosed)}" if beaten == len(dosed) else f"{beaten} of {len(dosed)}"
    left = f" ({len(refits) - len(dosed)} more could not be dosed)" if len(dosed) < len(refits) else ""
    return f"It beats {share} refits on shuffled labels{left}."


def _flip(flip: Contender) -> str:
    if not flip.reachable:
        return "Its own flipped sign could not be dosed to this price."
    return f"It {'beats' if _beaten(flip) else 'does not beat'} its own flipped sign."


def _beaten(one: Contender) -> bool:
    return one.difference is not None and one.difference.low > 0


def _versus(one: Contender) -> str:
    difference = one.difference
    if difference is None or difference.low <= 0 <= difference.high:
        return "cannot be told apart from it at this price"
    return f"has {'less' if difference.low > 0 else 'more'} effect at this price (difference {_nats(difference)})"


def _prompt(verdict: Verdict) -> str:
    prompt = next((one for one in verdict.contenders if one.kind == "system_prompt"), None)
    if prompt is None or prompt.difference is None:
        return ""
    cost = f"a system prompt, at {prompt.kl:.3g} nats,"
    if prompt.difference.low > 0:
        return f"It does more than {cost.rstrip(',')} (difference {_nats(prompt.difference)})."
    if prompt.difference.high < 0:
        return f"{cost[0].upper()}{cost[1:]} does more (difference {_nats(prompt.difference)})."
    return f"{cost[0].upper()}{cost[1:]} does as much as can be told."


def _ablation(verdict: Verdict) -> str:
    ablation = verdict.ablation
    if ablation is None:
        return ""
    if ablation.removed is None:
        return "Asking in words gains nothing here, so ablation has nothing to remove."
    beside = ", ".join(f"{share:.0%}" for share in ablation.random_removed)
    note = f"; without random directions: {beside}" if beside else ""
    return (
        f"Asking in words gains {_nats(ablation.asked_gain)}; without the direction {_nats(ablation.gain_after)}, so "
        f"{ablation.removed:.0%} is gone{note}."
    )


def _damage(verdict: Verdict) -> str:
    price = verdict.price
    halves = ", read after half of it," if price.damage.tokens != "neutral" else ""
    text = (
        f"On neutral text{halves} it costs {_nats(price.damage.mean)} nats per token; perplexity goes from "
        f"{_digits(price.perplexity_base)} to {_digits(price.perplexity_steered)}"
    )
    if price.capability_base is None or price.capability_steered is None:
        return f"{text}."
    return f"{text}, simple questions right from {price.capability_base:.0%} to {price.capability_steered:.0%}."


def _answering(verdict: Verdict) -> str:
    answering = verdict.answering
    if answering is None:
        return ""
    questions = f"{answering.able} of {answering.asked} questions that the model answers rightly by itself"
    if not answering.points:
        return f"Tokens against accuracy could not be measured: there are only {questions}."
    return f"Of {questions}, " + "; ".join(_answered(one) for one in answering.points if one.factor in AT_DOSE) + "."


def _answered(one: AnsweringPoint) -> str:
    who = "the plan" if one.kind == "plan" else "the system prompt"
    saved = f"{one.saved.mean:.1f} [{one.saved.low:.1f}, {one.saved.high:.1f}] tokens an answer"
    return f"{who} keeps {one.kept.mean:.0%} right and saves {saved} (cut off at that length, {one.cut.mean:.0%})"


def _nats(value: Interval) -> str:
    return f"{_digits(value.mean)} [{_digits(value.low)}, {_digits(value.high)}]"


def _digits(value: float) -> str:
    """0.4123 -> 0.412; 5119.3 -> 5,119. From 999.5 on, `.3g` would round to a power of ten such as 1e+03."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
