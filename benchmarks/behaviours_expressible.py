"""Can the model express a recipe's behaviour when it is asked to, or shown how? As one table.

    python benchmarks/behaviours_expressible.py recipes/formal.yaml recipes/cheerful.yaml [--show 2]

Held-out prompts of the recipe (its report split) are answered greedily, and the answers scored by the recipe's own
metric: plain, after the recipe's system prompt (asked), and after four positive answers of the fit split as earlier
turns of the chat (shown). The margin (mean log-probability per token of the positive completion minus that of the
negative one, nats) is taken on held-out pairs in the same three ways. Differences are from plain, with intervals
paired over prompts. Nothing is fitted or steered; a recipe takes about a minute of one core. `--show N`: print N
prompts of each recipe with their three answers, too.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trimtab.steering.judge.effect import margins
from trimtab.steering.model.tokens import tokenize
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding, generate
from trimtab.steering.statistics import BOOTSTRAP, mean_interval
from trimtab.tasks.data.examples import Example, examples_of
from trimtab.tasks.data.prompts import form_of, tokens_of
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.validate import behaviour_of
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.kinds import load_recipe

PROMPTS, PAIRS, TOKENS, TURNS = 12, 20, 48, 4
HEAD = ("behaviour", "metric", "plain", "asked", "shown", "margin: plain", "asked", "shown")
Pair = tuple[Example, Example]


@dataclass(frozen=True)
class Answers:
    """What the model writes and prefers. scores: `[PROMPTS]`. margins: `[PAIRS]`, nats per token."""

    texts: Sequence[str]
    scores: np.ndarray
    margins: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--show", type=int, default=0)
    args = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |\n|---|---|" + "---:|" * (len(HEAD) - 2), flush=True)
    for path in args.recipes:
        recipe = load_recipe(path)
        pairs = pairs_of(recipe, "report")[:PAIRS]
        turns = pairs_of(recipe, "fit")[:TURNS]
        plain = answers(recipe, pairs, None)
        asked = answers(recipe, pairs, recipe.judge.system_prompt)
        shown = answers(recipe, [tuple(continued(turns, pair)) for pair in pairs], None)
        print(row(recipe, plain, asked, shown), flush=True)
        for (example, _), *texts in list(zip(pairs, plain.texts, asked.texts, shown.texts, strict=False))[: args.show]:
            print(f"    > {example.prompt}", *("    - " + " ".join(text.split()) for text in texts), sep="\n")


def pairs_of(recipe: BehaviourRecipe, split: str) -> list[Pair]:
    """The pairs of a split, in the order of the file."""
    examples = [example for example in examples_of(recipe.data) if example.split == split]
    return list(zip(examples[::2], examples[1::2], strict=True))


def continued(turns: Sequence[Pair], pair: Pair) -> Iterator[Example]:
    """The pair's examples behind a chat in which the prompts of `turns` got their positive answers."""
    chat = [
        message
        for positive, _ in turns
        for message in (
            {"role": "user", "content": positive.prompt},
            {"role": "assistant", "content": positive.completion},
        )
    ]
    for example in pair:
        yield replace(example, prompt=(*chat, {"role": "user", "content": example.prompt}))


def answers(recipe: BehaviourRecipe, pairs: Sequence[Pair], request: str | None) -> Answers:
    """Greedy answers, their scores, and the margins, after the system prompt `request` (None: the model's default)."""
    model, tokenizer = model_of(recipe.model)
    form, score = form_of(recipe.data, request), behaviour_of(recipe)
    prompts = [tokenize(tokenizer, positive.prompt, form=form) for positive, _ in pairs[:PROMPTS]]
    written = generate(model, prompts, decoding=Decoding(TOKENS, temperature=0.0))
    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in written]
    given = [AnswerPair(*(tokens_of(tokenizer, example, form) for example in pair)) for pair in pairs]
    scores = [score(text, len(ids)) for text, ids in zip(texts, written, strict=True)]
    return Answers(texts, np.array(scores), margins(Scorer(model), given))


def row(recipe: BehaviourRecipe, plain: Answers, *others: Answers) -> str:
    cells = [recipe.name, recipe.judge.behaviour.metric]
    for values in ([one.scores for one in (plain, *others)], [one.margins for one in (plain, *others)]):
        cells.append(f"{values[0].mean():.2f}")
        for other in values[1:]:
            gain = mean_interval(other - values[0], BOOTSTRAP)
            cells.append(f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
