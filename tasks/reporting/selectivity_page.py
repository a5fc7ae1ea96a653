"""The report of a condition: what it does where it is wanted, and where it is not, beside the plan without it."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.steering.statistics import Interval
from trimtab.tasks.reporting.charts import selectivity as charts
from trimtab.tasks.reporting.document import Section, contents, document, legend
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Html, details, el, note, p, table
from trimtab.tasks.reporting.drawing.numbers import NATS, estimate, percent
from trimtab.tasks.reporting.provenance import reproduce


def selective_page(header: Mapping[str, Any], ref: str, command: str | None = None) -> str:
    """The whole document, from the header of a `<name>.selectivity` artifact. command: to reproduce it."""
    parts = [compared(header), read(header), answered(header), asked(header, command)]
    top = el("header", NO_ATTRIBUTES, el("h1", NO_ATTRIBUTES, ref), p(sentence(header)))
    return document(f"{ref}: selectivity", [top, contents(parts)], header)


def sentence(header: Mapping[str, Any]) -> str:
    """What was found; each clause follows from an interval."""
    contenders = {one["name"]: one for one in header["contenders"]}
    name, main = next(reversed(contenders.items()))
    fixed, rates = contenders["fixed"], header["about"]["rates"]
    effect, spared = Interval(**main["wanted"]["effect"]), Interval(**main["unwanted"]["kl"])
    acts = "changes the behaviour" if effect.low > 0 else "has NO effect that can be told from 0"
    side = Interval(**main["unwanted"]["effect"])
    leak = "" if side.low <= 0 <= side.high else f" It changes unwanted prompts too ({estimate(side, True)})."
    return (
        f"The {name} plan {acts} where it is wanted ({estimate(effect, True)}; the fixed plan "
        f"{estimate(Interval(**fixed['wanted']['effect']), True)}). Where it is not wanted it spends "
        f"{estimate(spared)} {NATS} instead of {estimate(Interval(**fixed['unwanted']['kl']))}, and touches "
        f"{percent(main['unwanted']['touched'])} of the prompts (asked for at most "
        f"{percent(header['condition']['condition']['false_positive_rate'])}; its rate on all held-out prompts "
        f"{estimate(Interval(**rates['false_positive']))}).{leak}"
    )


def compared(header: Mapping[str, Any]) -> Section:
    """Effect and price on both sides."""
    contenders: Sequence[Mapping[str, Any]] = header["contenders"]
    sides = legend((("k-plan", "wanted"), ("s1", "not wanted")))
    effect = charts.dots(contenders, "effect", "change of the behavioural score")
    price = charts.dots(contenders, "kl", f"KL(steered || base), {NATS}")
    halves = el("div.halves", NO_ATTRIBUTES, *(el("div.half", NO_ATTRIBUTES, chart) for chart in (effect, price)))
    head = ("plan", "effect, wanted", "effect, not wanted", "KL, wanted", "KL, not wanted", "touched", "mean KL")
    rows = [_cells(one) for one in contenders]
    lead = note("Every plan answered the same held-out prompts. Intervals resample prompts." + _unmatched(header))
    return Section("compare", "Selectivity", "What it does where it is wanted, and where it is not",
                   [lead, sides, halves, table("Contenders", head, rows)])  # fmt: skip


def _unmatched(header: Mapping[str, Any]) -> str:
    """What to know of the second fixed plan when no strength has the condition's mean price."""
    matched = header.get("matched", {"reachable": True})
    if matched["reachable"]:
        return ""
    return (
        f" No strength of the fixed plan costs {matched['asked']:.3g} {NATS} on average: 'fixed, same mean KL' is the "
        f"nearest below, at {matched['achieved']:.3g}."
    )


def read(header: Mapping[str, Any]) -> Section:
    """Where the prompt is read, and how well it tells."""
    about = header["about"]
    gate, rates = about["gate"], about["rates"]
    rows = [
        ("opens for wanted prompts", estimate(Interval(**rates["true_positive"]))),
        ("opens for unwanted prompts", estimate(Interval(**rates["false_positive"]))),
        ("AUROC, held out", f"{rates['auroc']:.3f}"),
        ("AUROC of the prompt's length alone", f"{about['length_auroc']:.3f}"),
    ]
    charted = charts.by_block(gate["by_site"], gate["site"])
    facts = table("On the held-out prompts", ("what", "value"), rows)
    sides = [el("div.half", NO_ATTRIBUTES, part) for part in (charted, facts)]
    body = [el("div.halves", NO_ATTRIBUTES, *sides), *_learned(about)]
    return Section("read", "Gate", f"What it reads: {gate['site']}", body)


def answered(header: Mapping[str, Any]) -> Section:
    """The same prompts answered by the base model, the fixed plan and the conditional one."""
    lead = note("Greedy answers to held-out prompts: by the untouched model, the fixed plan, and the conditional one.")
    cards = el("div.cards", NO_ATTRIBUTES, [_card(one) for one in header["answers"]])
    return Section("answers", "Text", "Answers where it is wanted, and where it is not", [lead, cards])


def asked(header: Mapping[str, Any], command: str | None) -> Section:
    """The recipe, and how to run it again."""
    rows = [(key, str(value)) for key, value in header["condition"].items()]
    return Section("asked", "Recipe", "What was asked", [reproduce(command), table("Recipe", ("key", "value"), rows)])


def _card(one: Mapping[str, Any]) -> Html:
    label = "wanted " if one["wanted"] else "not wanted "
    answers = [
        el("div.answer.steered" if name == "conditional" else "div.answer", {}, el("b", {}, name),
           el("div.words", {}, one[name]))
        for name in ("base", "fixed", "conditional")
    ]  # fmt: skip
    return el("article.three", NO_ATTRIBUTES, el("div.prompt", {}, el("b", {}, label), one["prompt"]), *answers)


def _learned(about: Mapping[str, Any]) -> list[Html]:
    """A controller's block weights and the course of its training."""
    if "weights" not in about:
        return []
    weights = [(site, f"{value:.3f}") for site, value in about["weights"].items()]
    steps = [
        (str(n), *(f"{step[key]:.3f}" for key in ("loss", "target_nll", "kl_wanted", "kl_unwanted")))
        for n, step in enumerate(about["history"])
    ]
    head = ("step", "loss", "-log p of the target", "KL, wanted", "KL, not wanted")
    return [
        table("Mean weight on wanted held-out prompts", ("site", "weight"), weights),
        details(f"All {len(steps)} training steps", table("Training, nats per token", head, steps)),
    ]


def _cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    effects = (estimate(Interval(**one[side]["effect"]), True) for side in ("wanted", "unwanted"))
    prices = (estimate(Interval(**one[side]["kl"])) for side in ("wanted", "unwanted"))
    return (one["name"], *effects, *prices, percent(one["unwanted"]["touched"]), f"{one['mean_kl']:.3f}")
