"""Is it true? The top heads of a ranking taken out, and left alone, beside 99 layer-matched random sets, on questions
that the ranking never saw; task A's heads on task B; and whether the embedded model does the tasks at all.

    python benchmarks/heads.py can
    python benchmarks/heads.py sets capitals ioi induction --random 99
    python benchmarks/heads.py others capitals ioi induction
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from ratio import setting, timed

from trimtab.steering.ablation.curves import specificity
from trimtab.steering.ablation.runs import Ablator
from trimtab.steering.ablation.verdict import SetEffect, SetVerdict, Standard, judge_set
from trimtab.steering.causal.question import Question, question_batches
from trimtab.steering.causal.units import Unit, head_units, unit_of
from trimtab.steering.localisers import LOCALISERS
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.load import load_model
from trimtab.tasks.data.questions import questions_of, read_questions

TASKS = Path(__file__).resolve().parents[1] / "recipes" / "tasks"


@dataclass(frozen=True, eq=False)
class Halves:
    """rank: chosen on these. test: measured on these, the shortest of the other half. name: of the task."""

    name: str
    rank: Sequence[Question]
    test: Sequence[Question]


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model()
    anatomy = Anatomy.of(model)
    print(setting(args.threads), end="\n\n", flush=True)
    names = args.tasks or sorted(path.stem for path in TASKS.glob("*.jsonl"))
    tasks = [halves(tokenizer, name, args) for name in names]
    {"can": can, "sets": sets, "others": others}[args.what](anatomy, tasks, args)


def halves(tokenizer, name: str, args: argparse.Namespace) -> Halves:
    """The shuffled file cut in two; of each half, as many of the shortest questions as asked for."""
    questions = questions_of(tokenizer, read_questions(TASKS / f"{name}.jsonl"))
    Random(0).shuffle(questions)
    half = len(questions) // 2
    parts = (questions[:half], questions[half:])
    first, second = (
        sorted(part, key=lambda q: q.length)[:n] for part, n in zip(parts, (args.rank, args.test), strict=True)
    )
    return Halves(name, first, second)


def can(anatomy: Anatomy, tasks: Sequence[Halves], args: argparse.Namespace) -> None:
    """Accuracy of the answer's first token, and the margin over the wrong answer, on both halves' questions."""
    print("| task | questions | right answer first | margin over the wrong one, nats | margin above 0 |")
    print("|---|---:|---:|---:|---:|")
    for task in tasks:
        asked, right, margin = [*task.rank, *task.test], [], []
        for batch in question_batches(asked, torch.device("cpu")):
            with torch.no_grad():
                logits = batch.logits(anatomy.model)
            right += (batch.first(logits).argmax(-1) == batch.target[: batch.rows]).tolist()
            margin += batch.metric(logits).tolist()
        share = sum(m > 0 for m in margin) / len(margin)
        print(
            f"| {task.name} | {len(asked)} | {np.mean(right):.0%} | {np.mean(margin):.2f} | {share:.0%} |", flush=True
        )


def sets(anatomy: Anatomy, tasks: Sequence[Halves], args: argparse.Namespace) -> None:
    """The top heads by attribution, judged with the operator."""
    print(f"Top {args.top} of {len(head_units(anatomy))} heads by `{args.method}` on {args.rank} questions, judged on "
          f"{args.test} others, operator `{args.operator}`, {args.random} random sets\n")  # fmt: skip
    print("| task | whole, nats | necessity | random sets | p | sufficiency | random sets | p | verdict | wall, s |")
    print("|---|---:|---|---|---:|---|---|---:|---|---:|")
    for task in tasks:
        found: list[SetVerdict] = []
        spent = timed(lambda task=task, found=found: found.append(judged(anatomy, task, args)))
        one = found[0]
        print(
            f"| {task.name} | {one.whole.mean:.2f} | {_side(one.necessity)} | {_side(one.sufficiency)} | {one.word} | "
            f"{spent.wall:.0f} |\n<!-- {task.name}: {', '.join(one.units)}. {one.sentence} -->",
            flush=True,
        )


def judged(anatomy: Anatomy, task: Halves, args: argparse.Namespace) -> SetVerdict:
    """One task's verdict."""
    universe = head_units(anatomy)
    ablator = Ablator.of(anatomy, args.operator, task.rank, universe)
    return judge_set(ablator, task.test, top(anatomy, task, args), universe, Standard(random=args.random))


def others(anatomy: Anatomy, tasks: Sequence[Halves], args: argparse.Namespace) -> None:
    """Task A's heads taken out of task B."""
    chosen = [top(anatomy, task, args) for task in tasks]
    universe = head_units(anatomy)
    ablators = [Ablator.of(anatomy, args.operator, task.rank, universe) for task in tasks]
    found = specificity(ablators, [task.test for task in tasks], chosen)
    print(f"Share of each task's metric lost without a task's top {args.top} heads (operator `{args.operator}`)\n")
    print("| heads of | " + " | ".join(f"on {task.name}" for task in tasks) + " |")
    print("|---|" + "---:|" * len(tasks))
    for task, row in zip(tasks, found, strict=True):
        print(f"| {task.name} | " + " | ".join(f"{share:.0%}" for share in row) + " |", flush=True)


def top(anatomy: Anatomy, task: Halves, args: argparse.Namespace) -> list[Unit]:
    """The method's top heads on the questions to rank on."""
    ranking = LOCALISERS[args.method]().rank(anatomy, task.rank)
    return [unit_of(anatomy, site) for site in ranking.top(args.top)]


def _side(side: SetEffect) -> str:
    low, high = np.quantile(side.random, [0.05, 0.95])
    share = f"{side.share.mean:.0%} [{side.share.low:.0%}, {side.share.high:.0%}]"
    return f"{share} | {low:.0%} to {high:.0%} | {side.p:.2g}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("can", "sets", "others"))
    parser.add_argument("tasks", nargs="*", help="names in recipes/tasks (default: all)")
    parser.add_argument("--operator", default="mean")
    parser.add_argument("--method", default="attribution_patching")
    for name, default in (("top", 10), ("random", 99), ("rank", 16), ("test", 10), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
