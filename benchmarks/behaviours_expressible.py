"""Can the model express a recipe's behaviour when it is asked to? The recipe's system prompt beside none, as one table.

    python benchmarks/behaviours_expressible.py recipes/formal.yaml recipes/cheerful.yaml [--show 2]

Held-out prompts of the recipe (its report split) are answered greedily, and the answers scored by the recipe's own
metric, without a system prompt (plain) and with the recipe's (asked). The margin (mean log-probability per token of
the positive completion minus that of the negative one, nats) is taken on held-out pairs in the same two ways.
Differences have intervals over prompts. Nothing is fitted or steered; a recipe takes half a minute of one core.
`--show N`: print N prompts of each recipe with both answers, too.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

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

PROMPTS, PAIRS, TOKENS = 12, 20, 48
HEAD = ("behaviour", "metric", "plain", "asked", "difference", "margin: plain", "asked", "difference")
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
        plain, asked = (answers(recipe, pairs, request) for request in (None, recipe.judge.system_prompt))
        print(row(recipe, plain, asked), flush=True)
        for (example, _), *texts in list(zip(pairs, plain.texts, asked.texts, strict=False))[: args.show]:
            print(f"    > {example.prompt}", *("    - " + " ".join(text.split()) for text in texts), sep="\n")


def pairs_of(recipe: BehaviourRecipe, split: str) -> list[Pair]:
    """The pairs of a split, in the order of the file."""
    examples = [example for example in examples_of(recipe.data) if example.split == split]
    return list(zip(examples[::2], examples[1::2], strict=True))


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


def row(recipe: BehaviourRecipe, plain: Answers, asked: Answers) -> str:
    cells = [recipe.name, recipe.judge.behaviour.metric]
    for before, after in ((plain.scores, asked.scores), (plain.margins, asked.margins)):
        gain = mean_interval(after - before, BOOTSTRAP)
        cells += [f"{before.mean():.2f}", f"{after.mean():.2f}"]
        cells.append(f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
