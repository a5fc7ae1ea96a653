"""Tokens saved against accuracy kept, of published conciseness plans, as tables.

    trimtab run recipes/concise.yaml
    python benchmarks/concise.py table HOME concise

The same fitted on public reasoning (`../shared/data/cot_pairs`: GSM8K solutions as equations against sub-questions and
sentences), asked the same questions:

    python benchmarks/concise.py write DIR && trimtab run DIR/concise-gsm8k.yaml

`table` reads the catalog and computes nothing.
"""

import argparse
import json
from pathlib import Path

from trimtab.tasks.home import Home
from trimtab.tasks.reporting.drawing.numbers import estimate
from trimtab.tasks.reporting.drawing.verdict import read_verdict

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT.parent / "shared" / "data" / "cot_pairs" / "gsm8k_verbose_concise.jsonl"
MOST = 160  # as many pairs as recipes/concise.jsonl has
SHORT = 400  # characters of the longer solution: long ones cost time and teach nothing more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table")
    table.add_argument("home")
    table.add_argument("names", nargs="+")
    commands.add_parser("write").add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "write":
        return write(args.folder)
    for name in args.names:
        show(args.home, name)


def show(home: str, name: str) -> None:
    """One plan's table."""
    artifact = Home.at(home).catalog.get(f"{name}.verdict")
    verdict = read_verdict(artifact.header["verdict"])
    found = verdict.answering
    if found is None:
        raise SystemExit(f"{artifact.ref}: its recipe names no judge.questions, so nothing was asked")
    print(
        f"**{name}**: `{verdict.site}`, {estimate(verdict.price.budget.mean)} nats per token on held-out prompts; "
        f"{found.able} of {found.asked} questions answered rightly unsteered, in {found.tokens:.1f} tokens (greedy, "
        f"at most {found.limit})\n"
    )
    print("| answered by | tokens | tokens saved | still right | base answers cut to as many tokens |")
    print("|---|---|---|---|---|")
    for one in found.points:
        cells = (estimate(one.tokens), estimate(one.saved, True), estimate(one.kept), estimate(one.cut))
        print(f"| {one.name} | {' | '.join(cells)} |")
    print()


def write(folder: Path) -> None:
    """A recipe like `concise.yaml` over public pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in SOURCE.read_text("utf-8").splitlines()]
    short = [row for row in rows if len(row["verbose"]) <= SHORT][:MOST]
    pairs = [
        {
            "prompt": row["question"],
            "positive": row["concise"].replace("Answer:", "The answer is"),
            "negative": row["verbose"],
        }
        for row in short
    ]
    lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    (folder / "gsm8k.jsonl").write_text(lines, "utf-8")
    recipe = (ROOT / "recipes" / "concise.yaml").read_text("utf-8")
    recipe = recipe.replace("name: concise", "name: concise-gsm8k").replace(
        "pairs: concise.jsonl", "pairs: gsm8k.jsonl"
    )
    recipe = recipe.replace("concise_questions.jsonl", str(ROOT / "recipes" / "concise_questions.jsonl"))
    (folder / "concise-gsm8k.yaml").write_text(recipe, "utf-8")
    print(folder / "concise-gsm8k.yaml")


if __name__ == "__main__":
    main()
