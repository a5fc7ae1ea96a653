"""The sections of a verdict's page that show answers: base and steered side by side, and tokens against accuracy. Each
says so when it has nothing."""

import re
from collections.abc import Sequence

from trimtab.steering.judge.verdict import Generation, Verdict
from trimtab.tasks.reporting.charts import answering
from trimtab.tasks.reporting.document import Section, legend
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Child, Html, details, el, note, table
from trimtab.tasks.reporting.drawing.numbers import NATS, estimate, number, plural
from trimtab.tasks.reporting.drawing.svg import figure

SHOWN_GENERATIONS = 6


def generated(verdict: Verdict, lexicon: Sequence[str]) -> Section:
    """Base and steered answers, side by side. lexicon: words to highlight in both."""
    cards = [_card(one, lexicon) for one in verdict.generations]
    more = cards[SHOWN_GENERATIONS:]
    rest = details(f"{len(more)} more", el("div.cards", {}, more)) if more else None
    legend_words = f" Highlighted: {plural(len(lexicon), 'word')} of the behaviour." if lexicon else ""
    lead = note(f"Held-out prompts, answered by the untouched model and by the steered one.{legend_words}")
    body = [lead, el("div.cards", {}, cards[:SHOWN_GENERATIONS]), rest]
    nothing = note("No text was kept in this run.")
    return Section("generations", "Text", "Base and steered, side by side", body if cards else nothing)


def _card(one: Generation, lexicon: Sequence[str]) -> Html:
    spent = el("span.chip", {"title": "mean KL per token of this answer"}, f"KL {number(one.kl)} {NATS}")
    return el(
        "article",
        NO_ATTRIBUTES,
        el("div.prompt", {}, el("b", {}, "prompt "), one.prompt),
        el("div.answer", {}, el("b", {}, "base"), el("div.words", {}, marked(one.base, lexicon))),
        el(
            "div.answer.steered",
            {},
            el("b", {}, "steered ", spent),
            el("div.words", {}, marked(one.steered, lexicon)),
        ),
    )


def answered(verdict: Verdict) -> Section:
    """Tokens against accuracy."""
    title, result = "What brevity costs: tokens against accuracy", verdict.answering
    if result is None or not result.points:
        reason = "No questions with known answers were asked." if result is None else "Too few questions were answered."
        return Section("answers", "Answers", title, note(reason))
    lead = note(
        f"The unsteered model answers {result.able} of {result.asked} questions rightly (greedy, at most "
        f"{result.limit} tokens); only these can be lost. A plan earns its tokens when its diamonds stand above the "
        f"base model's own answers cut off at the same length, and above what asking in words keeps."
    )
    kinds = (("k-plan", "this plan"), ("k-system_prompt", "system prompt"), ("k-random", "base answers cut off"))
    present = {f"k-{one.kind}" for one in result.points} | {"k-random"}
    key = legend((style, words) for style, words in kinds if style in present)
    head = ("answered by", "tokens", "tokens saved", "still right", "base answers cut to as many tokens")
    rows = [
        (one.name, estimate(one.tokens), estimate(one.saved, True), estimate(one.kept), estimate(one.cut))
        for one in result.points
    ]
    chart = figure(lambda width: answering.draw(result, width), key)
    return Section("answers", "Answers", title, [lead, chart, table("Tokens against accuracy", head, rows)])


def marked(text: str, lexicon: Sequence[str]) -> Child:
    """The text with every whole word of the lexicon in a mark, in any case. An empty text says so."""
    if not text.strip():
        return el("i", NO_ATTRIBUTES, "(empty)")
    words = sorted(filter(None, lexicon), key=len, reverse=True)
    if not words:
        return text
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    # split with one group alternates: outside, inside, outside, …
    parts = pattern.split(text)
    return [el("mark", NO_ATTRIBUTES, part) if n % 2 else part for n, part in enumerate(parts)]
