"""The sections of a verdict's page that say what the plan costs: token by token, how its strength was found, and the
bill. Each says so when it has nothing."""

from collections.abc import Sequence

from trimtab.steering.judge.verdict import Verdict
from trimtab.steering.price.result import KL
from trimtab.tasks.reporting.charts import dose, tokens
from trimtab.tasks.reporting.document import Section
from trimtab.tasks.reporting.drawing.html import Child, code, el, note, p, table
from trimtab.tasks.reporting.drawing.numbers import MISSING, NATS, estimate, finite, number, percent, plural, shorten
from trimtab.tasks.reporting.drawing.svg import half_figure


def spread(verdict: Verdict) -> Section:
    """KL per token, of the budget and of the damage."""
    both = [
        ("On text the steered model wrote", tokens.TokenCosts(verdict.price.budget, verdict.dose.asked)),
        ("On neutral text", tokens.TokenCosts(verdict.price.damage, None)),
    ]
    lead = note(
        "The budget binds a mean, and a mean hides its tail: most tokens cost almost nothing, a few cost a "
        "lot. Both axes are logarithmic."
    )
    halves = [half_figure(name, tokens.draw(one), _measured(one.kl)) for name, one in both if one.values]
    nothing = note("Per-token values were not kept; means and tails are in the bill below.")
    title = "Where the nats go, token by token"
    return Section("tokens", "Tokens", title, [lead, el("div.halves", {}, halves)] if halves else nothing)


def _measured(kl: KL) -> str:
    drawn = len(finite(kl.per_token))
    return f"KL({kl.direction.replace('||', ' ‖ ')}), {drawn:,} of {plural(kl.n_tokens, 'token')} drawn"


def dosed(verdict: Verdict) -> Section:
    """The history of the dose."""
    spent = verdict.dose
    passes = "1 forward pass" if spent.forwards == 1 else f"{spent.forwards:,} forward passes"
    facts = p(
        f"Asked for {number(spent.asked)} {NATS}, the calibration prompts got {number(spent.achieved)} "
        f"at strength {number(spent.strength)}. The Fisher closed form guessed {number(spent.first_guess)}; "
        f"the whole dose took {passes}."
    )
    rows = [(str(n + 1), number(s), number(kl)) for n, (s, kl) in enumerate(spent.history)]
    if not finite(kl for _, kl in spent.history):
        return Section("dose", "Dose", "How the strength was found", [facts, note("No verification was recorded.")])
    listing = table("Verifications, in order", ("number", "strength", f"KL, {NATS}"), rows)
    chart = half_figure("KL of every strength tried", dose.draw(spent))
    body = [
        facts,
        el("div.halves", {}, chart, el("figure.half", {}, el("h3", {}, "The same in numbers"), listing)),
    ]
    return Section("dose", "Dose", "How the strength was found", body)


def billed(verdict: Verdict) -> Section:
    """Both directions of KL, perplexity and capability."""
    price = verdict.price
    head = ("KL", "on", "taken at", f"mean, {NATS}", f"p95, {NATS}", f"max, {NATS}", "tokens", "texts (digest)")
    kls = table("Divergence from the base model", head, [_bill(price.budget), _bill(price.damage)])
    rows = [
        (
            "perplexity on neutral text",
            *_pair(price.perplexity_base, price.perplexity_steered),
            "lower is better",
        ),
        (
            "capability, A/B items right",
            *_shares(price.capability_base, price.capability_steered),
            "higher is better",
        ),
    ]
    other = table("Other costs", ("quantity", "base", "steered", "change", ""), rows)
    lead = note(
        "The budget binds the first line: KL(steered ‖ base) on text the steered model wrote, which adds up "
        "along a sequence. It is taken at the recipe's temperature, before top-k and top-p: at another one the same "
        "plan costs another amount. The second line is the damage: the reverse divergence on text that has nothing "
        "to do with the behaviour."
    )
    return Section("price", "Bill", "The bill", [lead, kls, other])


def _bill(kl: KL) -> Sequence[Child]:
    direction = f"KL({kl.direction.replace('||', ' ‖ ')})"
    numbers = (estimate(kl.mean), number(kl.p95), number(kl.max), f"{kl.n_tokens:,}")
    return (direction, kl.tokens, str(kl.sampling), *numbers, code(shorten(kl.prompts_digest, 20)))


def _pair(base: float, steered: float) -> tuple[str, str, str]:
    comparable = len(finite([base, steered])) == 2 and base != 0
    change = f"{steered / base - 1:+.1%}".replace("-", "−") if comparable else MISSING
    return number(base), number(steered), change


def _shares(base: float | None, steered: float | None) -> tuple[str, str, str]:
    if base is None or steered is None:
        return percent(base), percent(steered), MISSING
    return f"{base:.1%}", f"{steered:.1%}", f"{(steered - base) * 100:+.1f} points".replace("-", "−")
