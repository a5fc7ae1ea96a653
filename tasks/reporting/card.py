"""The model card of a published plan, in Markdown: how to use it, what it costs, what its placebos do, what it does not
do, and where it came from. What was not measured is said to be so."""

from collections.abc import Iterator, Sequence

from trimtab.steering.judge.verdict import Contender, Verdict
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.store import Artifact
from trimtab.tasks.reporting.drawing.numbers import NATS, bracket, estimate, number, percent
from trimtab.tasks.reporting.drawing.verdict import KINDS, PLACEBOS
from trimtab.tasks.reporting.summary import sentences

REPOSITORY = "OWNER/NAME"  # where a card that was not pushed will stand


def card_of(
    artifact: Artifact, plan: SteeringPlan, verdict: Verdict | None, changes: Sequence[str], repo_id: str | None
) -> str:
    """Everything below the card's description. plan: as it leaves. verdict: the parent that it was published from.
    changes: how it differs from what was measured; with any, the numbers do not hold. repo_id: where it goes."""
    parts = [_use(repo_id or REPOSITORY), *_void(changes), *_measured(artifact, verdict), _limits(artifact, plan)]
    return "\n\n".join([*parts, _origin(artifact)]) + "\n"


def _use(repo_id: str) -> str:
    return "\n".join(
        [
            "## Use",
            "",
            "```python",
            "from trimtab.steering import SteeringPlan, load_model",
            "",
            f'plan = SteeringPlan.from_pretrained("{repo_id}")',
            "with plan.on(model):  # the base model, loaded by transformers or by `load_model`",
            "    model.generate(**inputs)",
            "```",
        ]
    )


def _void(changes: Sequence[str]) -> list[str]:
    """Why the numbers below do not hold of what was exported, if they do not."""
    return [f"**The numbers do not hold of this file: it steers {' and '.join(changes)}.**"] if changes else []


def _measured(artifact: Artifact, verdict: Verdict | None) -> list[str]:
    if verdict is not None:
        return [_said(verdict), _price(verdict), _placebos(verdict)]
    metrics = artifact.metrics if isinstance(artifact.metrics, dict) else {}
    rows = [(name, _number(value)) for name, value in metrics.items() if name != "sentence"]
    if rows:
        return ["## Measured", _table(("what", "value"), rows)]
    return ["## Measured", "Nothing was measured of this plan: no price, no placebos."]


def _said(verdict: Verdict) -> str:
    return "\n".join(["## The verdict", "", *(f"* {_plain(one)}" for one in sentences(verdict.sentence))])


def _price(verdict: Verdict) -> str:
    price = verdict.price
    rows = [
        ("KL(steered \\|\\| base), on text it wrote for held-out prompts", f"{estimate(price.budget.mean)} {NATS}"),
        ("the same, 95th percentile and largest", f"{number(price.budget.p95)}, {number(price.budget.max)} nats"),
        ("budget that it was dosed to", f"{number(verdict.dose.asked)} {NATS}"),
        ("damage: KL(base \\|\\| steered), on neutral text", f"{estimate(price.damage.mean)} {NATS}"),
        ("perplexity of neutral text", f"{number(price.perplexity_base)} → {number(price.perplexity_steered)}"),
    ]
    if price.capability_base is not None and price.capability_steered is not None:
        capability = f"{percent(price.capability_base)} → {percent(price.capability_steered)}"
        rows.append(("simple questions answered rightly", capability))
    return "## Price\n\n" + _table(("what", "value"), rows)


def _placebos(verdict: Verdict) -> str:
    """One row for the plan, one for each kind of competitor: how many, and the best of them."""
    by_kind = {kind: [one for one in verdict.contenders if one.kind == kind] for kind in KINDS}
    rows = [_competitors(kind, of_kind) for kind, of_kind in by_kind.items() if of_kind]
    none = any(kind in PLACEBOS and of_kind for kind, of_kind in by_kind.items())
    text = (
        "Competitors at the same price, each kind's best effect on the margin of wanted over unwanted answers, and how "
        "many of them the plan beats (the interval of its lead is above 0)"
    )
    head = ("competitor", "dosed", f"best effect ({NATS})", "the plan's lead over it", "beaten")
    missing = "" if none else "\n\nNo placebo was run, so nothing says that the direction matters."
    return f"## Placebos\n\n{text}.\n\n{_table(head, rows)}{missing}"


def _competitors(kind: str, contenders: Sequence[Contender]) -> tuple[str, ...]:
    dosed = [one for one in contenders if one.reachable or one.kl_asked is None]
    best = max(dosed, key=lambda one: one.effect.margin.mean, default=None)
    count = f"{len(dosed)} of {len(contenders)}"
    if best is None:
        return _plain(KINDS[kind]), count, "could not be dosed", "", ""
    margin = best.effect.margin
    leads = [one.difference for one in dosed if one.difference is not None]
    lead = "" if best.difference is None else estimate(best.difference, True)
    beaten = f"{sum(lead.low > 0 for lead in leads)} of {len(leads)}" if leads else ""
    return _plain(KINDS[kind]), count, f"{number(margin.mean, True)} {bracket(margin, True)}", lead, beaten


def _limits(artifact: Artifact, plan: SteeringPlan) -> str:
    return "\n".join(["## What it does not do", "", *(f"* {line}" for line in _limitations(artifact, plan))])


def _limitations(artifact: Artifact, plan: SteeringPlan) -> Iterator[str]:
    made_on = plan.model
    model = "" if made_on is None else f", a {made_on.model_type} of {made_on.n_layers} blocks"
    yield f"It is for the model it was made on{model}: of other weights it warns, other shapes it refuses."
    spans = sorted({str(step.span) for step in plan.interventions})
    yield f"It steers the tokens of the span {', '.join(f'`{span}`' for span in spans)}, at {_sites(plan)}."
    yield "The numbers are for the prompts and the language of its data; nothing is claimed for others."
    if plan.gated:
        yield "A gate reads each prompt before it acts: no other tool, and no folded checkpoint, can hold it."
    yield "It is no safeguard: a vector shifts what is likely, and forbids nothing."


def _sites(plan: SteeringPlan, most: int = 4) -> str:
    names = [f"`{site}`" for site in plan.sites]
    more = f" and {len(names) - most} more sites" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _origin(artifact: Artifact) -> str:
    parents = ", ".join(f"`{parent}`" for parent in artifact.parents) or "nothing published"
    libraries = ", ".join(f"{name} {version}" for name, version in artifact.libraries.items())
    lines = [
        f"Exported from `{artifact.ref}`, digest `{artifact.digest}`, published {artifact.created}.",
        f"Made from {parents}, with {libraries}." if libraries else f"Made from {parents}.",
    ]
    return "\n".join(["## Where it came from", "", *lines])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: object) -> str:
    if isinstance(value, dict) and {"mean", "low", "high"} <= value.keys():
        return f"{value['mean']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return _plain(f"{value:.4g}" if isinstance(value, float) else str(value))


def _plain(text: str) -> str:
    """Text as text in Markdown: on one line, no table cell ended, no tag or link begun."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
